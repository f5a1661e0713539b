"""Self-MM: Self-Supervised Multi-task learning (Yu et al., AAAI 2021).

Besides the common prediction, each modality predicts its own label. Training creates these labels itself: they start as
the given score and move by how much closer a modality's representation is to the positive clips than the common one.
The unimodal heads are used only in training.

Pinned by sources: layers, losses and the order of the updates by the authors' code (thuiar/Self-MM) and MMSA, which
agree; sizes and rates by MMSA. Our choice: a class without clips keeps its centre (MMSA stores nan, which spoils every
later label), and an undefined new label is the given score.
Departures: clips of score 0 belong to no centre, as in MMSA (the authors' code counts them as positive); plain
distances, as in the code (the paper prints squared ones); labels are bounded by the largest absolute score of the
training split instead of a number per data set - the same, 3 on MOSI and MOSEI and 1 on SIMS. The centres come from
running sums: a batch of B clips costs O(B S) instead of the O(N S) of averaging all N training clips again. The sums
are float64 and features are float32, so that they agree with the full averages to about 1e-12.

Axis letters: B batch, N training clips, L positions, D hidden size of the text encoder, H = 4 heads (f, t, v, a),
S sum of the heads' feature widths.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.baselines import SelfMmConfig
from conki_cli.config.sections import RunConfig
from conki_cli.model.baselines.subnets import LstmHead, relu_mlp, rows_with
from conki_cli.model.batches import Batch
from conki_cli.model.contract import Architecture, Output, ParameterGroup, SentimentModel
from conki_cli.model.losses import absolute_loss
from conki_cli.model.text_encoder import TextEncoder

FACTS = {
    "label": "Self-MM",
    "title": (
        "Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning for Multimodal "
        "Sentiment Analysis"
    ),
    "authors": "Yu, Xu, Yuan, Wu",
    "year": 2021,
    "venue": "AAAI",
    "idea": "each modality predicts its own label, which training derives from the common one",
    "pinned": "layers, labels and losses by the authors' code; sizes and rates by MMSA, theirs too",
    "ours": "an empty class keeps its centre; the last, short window of batches gets an optimiser step",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""

UNIMODAL = {"t": "text", "v": "vision", "a": "audio"}
HEADS = ("f", *UNIMODAL)
"""The common head and those of the modalities: the columns of labels and counts, the blocks of features."""
EPSILON = 1e-8


class PredictionHead(nn.Module):
    """A feature layer and a score from it."""

    def __init__(self, input_width: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.inner = relu_mlp([input_width, width], dropout=dropout)
        self.score = relu_mlp([width, width, 1])

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Turn [B, input_width] into the feature [B, width] and the prediction [B]."""
        feature = F.relu(self.inner(vectors))
        return feature, self.score(feature).squeeze(-1)


class SelfMm(SentimentModel):
    """Four heads on three representations, and the memory of labels, features and centres for their training."""

    reads_signs = True
    required_modalities = frozenset(MODALITIES)
    memory = ("labels", "features")
    labels: Tensor  # [N, H], the column of f holds the given scores
    features: Tensor  # [N, S], as last seen
    sums: Tensor  # [2, S] float64, of the features of the clips with positive and with negative labels
    counts: Tensor  # [2, H], of these clips
    centres: Tensor  # [2, S], their means
    bound: Tensor  # [], no label is larger
    head_of_column: Tensor  # [S], the head that a column of features belongs to

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, text_encoder)
        own = config.own
        assert isinstance(own, SelfMmConfig)
        widths, text = architecture.widths, architecture.width
        self.audio = LstmHead(widths["audio"], own.audio_hidden, own.audio_out)
        self.vision = LstmHead(widths["vision"], own.vision_hidden, own.vision_out)
        fused = text + own.audio_out + own.vision_out
        self.heads = nn.ModuleDict(
            {
                "f": PredictionHead(fused, own.fusion_width, dropout=own.fusion_dropout),
                "t": PredictionHead(text, own.text_width, dropout=own.text_dropout),
                "v": PredictionHead(own.vision_out, own.vision_width, dropout=own.vision_dropout),
                "a": PredictionHead(own.audio_out, own.audio_width, dropout=own.audio_dropout),
            }
        )
        self.sizes = [own.fusion_width, own.text_width, own.vision_width, own.audio_width]
        columns = [head for head, size in enumerate(self.sizes) for _ in range(size)]
        self.register_buffer("head_of_column", torch.tensor(columns), persistent=False)
        self.register_buffer("labels", torch.zeros(0, len(HEADS)))
        self.register_buffer("features", torch.zeros(0, len(columns)))
        self.register_buffer("sums", torch.zeros(2, len(columns), dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(2, len(HEADS), dtype=torch.int64))
        self.register_buffer("centres", torch.zeros(2, len(columns)))
        self.register_buffer("bound", torch.zeros(()))

    def forward(self, batch: Batch) -> Output:
        """Predict the scores; parts: the feature of each head (`f` ...), the score of each modality (`score_t` ...)."""
        text = self.text_states(batch)[:, 0]  # [B, D], the state of [CLS]
        vision, audio = (self.frames(batch, name) for name in ("vision", "audio"))
        v = self.vision(vision.values, vision.mask, vision.lengths)  # [B, vision_out]
        a = self.audio(audio.values, audio.mask, audio.lengths)  # [B, audio_out]
        text, v, a = (batch.masked(name, part) for name, part in zip(MODALITIES, (text, v, a), strict=True))
        inputs = {"f": torch.cat([text, a, v], dim=1), "t": text, "v": v, "a": a}
        parts: dict[str, Tensor] = {}
        for name in HEADS:
            parts[name], parts[f"score_{name}"] = self.heads[name](inputs[name])
        return Output(parts.pop("score_f"), parts=parts)

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the mean absolute error, and that of each modality to its own labels, weighted by their distance.

        The error of a modality is over the clips that have it.
        """
        terms = {"task": absolute_loss(output.prediction, batch.scores)}
        labels = self.labels[batch.indices]  # [B, H]
        for column, (name, modality) in enumerate(UNIMODAL.items(), start=1):
            own = rows_with(batch, (modality,), output.parts[f"score_{name}"], labels[:, column], batch.scores)
            terms[modality] = weighted_error(*own) if len(own[0]) else own[0].sum()
        return terms

    def start(self, scores: Tensor) -> None:
        """Give each modality the training scores [N] as its first labels, and empty the rest of the memory."""
        place = self.centres.device
        self.labels = scores.to(place, torch.float32)[:, None].repeat(1, len(HEADS))
        self.features = torch.zeros(len(scores), self.centres.shape[1], device=place)
        self.sums, self.centres = torch.zeros_like(self.sums), torch.zeros_like(self.centres)
        self.counts = _polarities(self.labels).sum(dim=1)
        self.bound = self.labels.abs().amax()

    @torch.no_grad()
    def after_backward(self, output: Output, batch: Batch, *, epoch: int, phase: str) -> None:
        """Update the labels of these clips by the current centres, then their features, then the centres.

        No label moves in the first epoch: until its end the features of some clips are still zeros. Label and feature
        of a modality that a clip lacks stay.
        """
        rows = batch.indices
        old, forgotten = self.labels[rows], self.features[rows]  # [B, H], [B, S]
        seen = torch.cat([output.parts[name].detach() for name in HEADS], dim=1)  # [B, S]
        labels = self._moved_labels(old, seen, epoch) if epoch > 1 else old
        presence = batch.presence(MODALITIES)
        if presence is not None:
            known = F.pad(presence, (1, 0), value=True)  # [B, H]; the common head always knows
            labels = torch.where(known, labels, old)
            seen = torch.where(known[:, self.head_of_column], seen, forgotten)
        self.labels[rows], self.features[rows] = labels, seen
        self.sums += self._sums_by_polarity(labels, seen) - self._sums_by_polarity(old, forgotten)
        self.counts += _polarities(labels).sum(dim=1) - _polarities(old).sum(dim=1)
        counts = self.counts[:, self.head_of_column]  # [2, S]
        means = (self.sums / counts.clamp_min(1)).float()
        self.centres = torch.where(counts > 0, means, self.centres)

    def _moved_labels(self, labels: Tensor, features: Tensor, epoch: int) -> Tensor:
        """Return the next labels [B, H] for labels [B, H] and features [B, S]; the column of f stays."""
        pieces = zip(
            torch.split(features, self.sizes, dim=1), torch.split(self.centres, self.sizes, dim=1), strict=True
        )
        ratios = [polarity_ratio(own, *centres) for own, centres in pieces]  # H times [B]
        fusion, scores = ratios[0], labels[:, 0]
        columns = [scores]
        for column, ratio in enumerate(ratios[1:], start=1):
            new = shifted_label(ratio, fusion, scores, self.bound)
            columns.append((epoch - 1) / (epoch + 1) * labels[:, column] + 2 / (epoch + 1) * new)
        return torch.stack(columns, dim=1)

    def _sums_by_polarity(self, labels: Tensor, features: Tensor) -> Tensor:
        """Sum features [B, S] over the clips with positive and with negative labels [B, H]; [2, S], float64."""
        members = _polarities(labels)[:, :, self.head_of_column]  # [2, B, S]
        return torch.where(members, features.double(), 0.0).sum(dim=1)

    def parameter_groups(self, config: RunConfig, phase: str) -> list[ParameterGroup]:
        """Return text with and without decay (biases, LayerNorm), the audio LSTM, the vision LSTM, the heads."""
        own, rates = config.own, config.optimizer
        assert isinstance(own, SelfMmConfig)
        text = [p for p in self.text.parameters() if p.requires_grad] if self.text is not None else []
        groups = [
            ParameterGroup([p for p in text if p.dim() > 1], rates.lr_encoders, rates.weight_decay),
            ParameterGroup([p for p in text if p.dim() <= 1], rates.lr_encoders, 0.0),
            ParameterGroup(self._reading("audio"), own.lr_audio, own.decay_audio),
            ParameterGroup(self._reading("vision"), own.lr_vision, own.decay_vision),
            ParameterGroup(list(self.heads.parameters()), rates.lr_others, own.decay_others),
        ]
        return [group for group in groups if group.parameters]

    def _reading(self, name: str) -> list[nn.Parameter]:
        """Return the layers that turn a modality's frames into its representation, including the external bridges."""
        modules: Mapping[str, nn.Module] = {"audio": self.audio, "vision": self.vision}
        bridges = [bridge for key, bridge in self.bridges.items() if key.rpartition("/")[2] == name]
        return [parameter for module in (modules[name], *bridges) for parameter in module.parameters()]


def weighted_error(predictions: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """Return mean(tanh|l - m| |y - l|): labels count by how far they moved from the given score.

    Args:
        predictions: y of one modality, [B].
        labels: l, its own labels, [B].
        scores: m, the given scores, [B].
    """
    return (torch.tanh((labels - scores).abs()) * (predictions - labels).abs()).mean()


def polarity_ratio(features: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return R: how much closer features [B, d] are to the positive centre [d] than to the negative one, [B]."""
    to_positive = torch.linalg.vector_norm(features - positive, dim=1)  # [B]
    to_negative = torch.linalg.vector_norm(features - negative, dim=1)
    ratio: Tensor = (to_negative - to_positive) / (to_positive + EPSILON)
    return ratio


def shifted_label(own: Tensor, fusion: Tensor, scores: Tensor, bound: Tensor) -> Tensor:
    """Return the label that a modality's ratio and the fusion's ratio suggest; all [B] except the bound [].

    The mean of scaling the score by the quotient of the ratios and shifting it by their difference, within the bound.
    """
    scaled = own / (fusion + EPSILON) * scores
    new = 0.5 * scaled + 0.5 * (scores + own - fusion)
    return torch.where(new.isnan(), scores, new).clamp(-bound, bound)  # nan: a score of 0 times an infinite quotient


def _polarities(labels: Tensor) -> Tensor:
    """Return which labels are positive and which negative, [2, N, H]; 0 is neither."""
    return torch.stack([labels > 0, labels < 0])
