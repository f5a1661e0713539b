"""HyCon: Hybrid Contrastive learning (Mai et al., IEEE Transactions on Affective Computing 2022; arXiv 2021).

Three contrasts besides the task: within a modality, between modalities, and between the modalities of one clip. They
are ratios of similarities in [0, 1], without temperature or exponent, and may be negative.

Pinned by sources: the formulas of the contrasts, second-hand (another author's code that cites equations 6 to 14 of
arXiv 2109.01797v1); the shape of the encoders and the common width, from later code of the same authors.
Our choice: weights of the three contrasts, rates, batch size and the width on SIMS. The authors' code is not public.
Departures: the journal's choice of pairs and its margin between modalities are neither in the first version nor here;
the last real position is read ([SEP] for a text), while the later code reads padding of the shorter clips.

Axis letters: B batch, M modalities (t, v, a), L positions, d common width, N = B M vectors of a batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.baselines import HyconConfig
from conki_cli.config.sections import RunConfig
from conki_cli.model.baselines.subnets import relu_mlp
from conki_cli.model.baselines.transformer import Dropouts, SequenceTransformer, check_heads, last_position
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.contract import Architecture, Output, ParameterGroup, SentimentModel
from conki_cli.model.losses import absolute_loss, equal_pairs, full_precision, lacking_pairs, unit_vectors
from conki_cli.model.text_encoder import TextEncoder

FACTS = {
    "label": "HyCon",
    "title": "Hybrid Contrastive Learning of Tri-Modal Representation for Multimodal Sentiment Analysis",
    "authors": "Mai, Zeng, Zheng, Hu",
    "year": 2021,
    "venue": "arXiv 2109.01797",
    "idea": "contrasts within a modality, across modalities, and within a sample shape the representations",
    "pinned": "the three losses by a third party's code after the first version of the paper; encoders by later code",
    "ours": "task loss, loss weights, rates, batch sizes and SIMS settings: the authors' code is not public",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""

TARGETS = {"intra": 1.0, "inter": 0.8, "semi": 0.8}
"""The similarity that a contrast pulls its positive pairs to: 1 within a modality, less between two."""
KERNEL = 3


def contrasts(vectors: Tensor, scores: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
    """Return the three contrasts: intra-modal, inter-modal and semi-contrastive.

    An anchor is any of the N vectors. Within a modality it is compared with the vectors of other samples in the same
    modality, between modalities with those of other samples in other modalities; vectors of its class (score >= 0 or
    below) are positive. The semi-contrast pulls the modalities of one sample together and uses no scores.

    Args:
        vectors: [B, M, d]; of length 0 they are similar to nothing.
        scores: [B].
        present: which modalities a sample has, [B, M]; a vector of another is not an anchor and in no pair. None: all.
    """
    num_samples, num_modalities, width = vectors.shape
    modality = torch.arange(num_modalities, device=vectors.device).repeat(num_samples)  # [N]
    sample = torch.arange(num_samples, device=vectors.device).repeat_interleave(num_modalities)  # [N]
    same_modality, same_sample, same_class = map(equal_pairs, (modality, sample, (scores >= 0)[sample]))
    with torch.autocast(vectors.device.type, enabled=False):
        unit = unit_vectors(full_precision(vectors).reshape(-1, width))  # [N, d]
        similarities = unit @ unit.T  # [N, N]
    within, between = ~same_sample & same_modality, ~same_sample & ~same_modality
    if present is None:
        own = similarities[own_pairs(num_samples, num_modalities, vectors.device)]
    else:
        both = ~lacking_pairs(present.flatten())
        within, between = within & both, between & both
        own = similarities[same_sample & ~same_modality & both]
    return {
        "intra": ratio_loss(similarities, within, within & same_class, target=TARGETS["intra"]),
        "inter": ratio_loss(similarities, between, between & same_class, target=TARGETS["inter"]),
        "semi": semi_contrast(own),
    }


def own_pairs(num_samples: int, num_modalities: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the pairs of one sample's vectors, in order: on a GPU a mask would have to be read."""
    rows = torch.arange(num_samples * num_modalities, device=device).repeat_interleave(num_modalities - 1)
    number = torch.arange(num_modalities - 1, device=device).repeat(num_samples * num_modalities)
    own = rows % num_modalities
    return rows, rows - own + number + (number >= own)


def semi_contrast(similarities: Tensor) -> Tensor:
    """Return the mean squared distance of similarities from their target; 0 if there are none."""
    distances = (similarities - TARGETS["semi"]).square()
    return distances.mean() if len(distances) else distances.sum()


def ratio_loss(similarities: Tensor, candidates: Tensor, positives: Tensor, *, target: float) -> Tensor:
    """Return minus the positive share of an anchor's similarities, plus the distance of positive ones to the target.

    The mean is over the anchors with a positive; without any, the loss and its gradient are 0.

    Args:
        similarities: [N, N], not negative.
        candidates: the vectors that an anchor is compared with, [N, N].
        positives: the candidates that it should resemble, [N, N].
        target: the similarity that positive pairs should have.
    """
    num_positives = positives.sum(dim=1)  # [N]
    share = similarities.where(positives, 0).sum(dim=1) / similarities.where(candidates, 0).sum(dim=1).clamp_min(1e-8)
    distance = (similarities - target).square().where(positives, 0).sum(dim=1) / num_positives.clamp_min(1)
    anchors = num_positives > 0
    return (distance - share).where(anchors, 0).sum() / anchors.sum().clamp_min(1)


class Hycon(SentimentModel):
    """A convolution per modality, Transformers over audio and vision, and the sum of the three vectors."""

    reads_signs = True
    required_modalities = frozenset(MODALITIES)

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, text_encoder)
        own = config.own
        assert isinstance(own, HyconConfig)
        check_heads("hycon", own.width, own.num_heads)
        self.weights = {"intra": own.intra_weight, "inter": own.inter_weight, "semi": own.semi_weight}
        widths = {"text": architecture.width, **architecture.widths}
        self.convolutions = nn.ModuleDict(
            {name: nn.Conv1d(widths[name], own.width, KERNEL, padding=KERNEL // 2, bias=False) for name in MODALITIES}
        )
        self.encoders = nn.ModuleDict({name: _encoder(own) for name in ("vision", "audio")})
        self.head = relu_mlp([own.width, own.width, 1])

    def forward(self, batch: Batch) -> Output:
        """Predict the scores of a batch; `t`, `v` and `a` are the contrasted vectors, `f` their sum, each [B, d]."""
        text = batch.modality("text")
        parts = {"text": Padded(self.text_states(batch) * text.mask.unsqueeze(-1), text.mask)}
        parts.update({name: self.frames(batch, name) for name in self.encoders})
        vectors = {name[0]: batch.masked(name, F.softplus(self._encode(name, part))) for name, part in parts.items()}
        fused = torch.stack(list(vectors.values())).sum(dim=0)  # [B, d]
        return Output(self.head(fused).squeeze(-1), parts={**vectors, "f": fused})

    def _encode(self, name: str, part: Padded) -> Tensor:
        """Return a modality, zero after its mask, at its last real position, [B, d]."""
        sequence: Tensor = self.convolutions[name](part.values.transpose(1, 2)).transpose(1, 2)  # [B, L, d]
        if name == "text":
            return last_position(sequence, part.mask)
        encoder = self.encoders[name]
        assert isinstance(encoder, SequenceTransformer)
        return encoder.last(sequence, part.mask)

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the mean absolute error and the three weighted contrasts."""
        vectors = torch.stack([output.parts[name[0]] for name in MODALITIES], dim=1)  # [B, M, d]
        found = contrasts(vectors, batch.scores, batch.presence(MODALITIES))
        terms = {name: self.weights[name] * term for name, term in found.items()}
        return {"task": absolute_loss(output.prediction, batch.scores), **terms}

    def parameter_groups(self, config: RunConfig, phase: str) -> list[ParameterGroup]:
        """Return the text encoder and the rest, each with and without weight decay."""
        rates, text = config.optimizer, self.text.parameters() if self.text is not None else ()
        return self.groups_by_rate({id(p): rates.lr_encoders for p in text}, rates.lr_others, rates.weight_decay)


def _encoder(own: HyconConfig) -> SequenceTransformer:
    shares = Dropouts(own.attention_dropout, own.dropout, own.dropout, own.dropout)
    return SequenceTransformer(
        own.width, num_layers=own.num_layers, num_heads=own.num_heads, dropouts=shares, ordered=False
    )
