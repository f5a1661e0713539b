"""MMIM: MultiModal InfoMax (Han et al., EMNLP 2021).

Two bounds of mutual information are maximised besides the task: between text and each other modality (the likelihood of
one given the other, and the entropy of the other over clips of one polarity), and from the fusion back to its parts
(contrastive prediction). An epoch has two passes: `lld` trains only the likelihood networks, `main` everything else.

Pinned by sources: layers, losses and passes by the authors' code (declare-lab/Multimodal-Infomax) and MMSA; sizes and
rates by MMSA, which reads audio and vision in both directions (the authors' default is one). The likelihood lacks the
-log(variance)/2 of a Gaussian in both, and here too; as a consequence, large variances alone raise it to 0.
Our choice: entropies of a pair count only if each polarity has more clips than dimensions, and the covariances
get 1e-6 on their diagonal; in the originals a batch without such clips ends in nan.
Departures: in `lld` only the likelihood networks get a gradient, because nothing else is updated there; so clipping by
norm uses only their gradients, and no backward pass runs through the text encoder. The authors' code keeps an epoch
only if its *test* loss improves as well; here the test split is not used.
The projection to the entropies' space is a fixed random map, as in both sources, where no step ever reaches it: it is
kept as buffers. Counts of parameters that include it (281,673 on MOSI with BERT-base) are 136 larger than what trains.

Axis letters: B batch, R clips of the previous batch, D hidden size of the text encoder, d width of audio or vision,
k width of the projections.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.baselines import MmimConfig
from conki_cli.config.sections import RunConfig
from conki_cli.model.baselines.subnets import LstmHead, relu_mlp, rows_with
from conki_cli.model.batches import Batch
from conki_cli.model.contract import Architecture, Output, ParameterGroup, SentimentModel
from conki_cli.model.losses import absolute_loss
from conki_cli.model.text_encoder import TextEncoder

FACTS = {
    "label": "MMIM",
    "title": (
        "Improving Multimodal Fusion with Hierarchical Mutual Information Maximization for Multimodal Sentiment "
        "Analysis"
    ),
    "authors": "Han, Chen, Poria",
    "year": 2021,
    "venue": "EMNLP",
    "idea": "maximises bounds of mutual information between the modalities, and from the fusion back to them",
    "pinned": "layers, losses and the two passes of an epoch by the authors' code; sizes and rates by MMSA",
    "ours": "entropies need five clips of each polarity; epochs are never chosen on the test split",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""

NAMES = {"t": "text", "v": "vision", "a": "audio"}
PAIRS = ("v", "a")
"""The modalities that are paired with text."""
FRAMES = ("vision", "audio")
"""The entropies are those of clips that have both."""
BATCHES_BEFORE_ENTROPY = 2
"""Batches of a `main` pass without entropies: both sources wait until their index exceeds the size 1 of the bank."""
RIDGE = 1e-6


class FixedProjection(nn.Module):
    """tanh of a Linear that never trains: buffers, so that it is stored and restored with the weights."""

    weight: Tensor
    bias: Tensor

    def __init__(self, input_width: int, width: int) -> None:
        super().__init__()
        linear = nn.Linear(input_width, width)
        nn.init.xavier_normal_(linear.weight)
        self.register_buffer("weight", linear.weight.detach())
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, vectors: Tensor) -> Tensor:
        """Project [B, d] to [B, k] within -1..1."""
        return torch.tanh(F.linear(vectors, self.weight, self.bias))


class Likelihood(nn.Module):
    """Mean and log-variance of a modality's representation given that of the text."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.mean = relu_mlp([text_width, width, width])
        self.log_variance = relu_mlp([text_width, width, width])

    def forward(self, text: Tensor, other: Tensor) -> Tensor:
        """Return the log-likelihood of [B, d] given text [B, D], as far as it depends on the distance."""
        return log_likelihood(self.mean(text), self.log_variance(text), other)


class Mmim(SentimentModel):
    """BERT, two LSTMs in both directions, a fusion, and the networks of the information bounds."""

    phases = ("lld", "main")
    reads_signs = True
    required_modalities = frozenset(MODALITIES)
    memory = ("bank", "bank_scores")
    bank: Tensor  # [R, 2 k], projections of the previous batch
    bank_scores: Tensor  # [R]
    num_batches: Tensor  # [], of this epoch's pass `main`

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, text_encoder)
        own = config.own
        assert isinstance(own, MmimConfig)
        self.own = own
        widths, text = architecture.widths, architecture.width
        sizes = {"v": own.vision_out, "a": own.audio_out}
        self.vision = LstmHead(widths["vision"], own.vision_hidden, own.vision_out, bidirectional=True)
        self.audio = LstmHead(widths["audio"], own.audio_hidden, own.audio_out, bidirectional=True)
        self.mi_likelihoods = nn.ModuleDict({name: Likelihood(text, sizes[name]) for name in PAIRS})
        self.dropout = nn.Dropout(own.dropout)
        self.fusion = nn.Sequential(
            nn.Linear(text + own.audio_out + own.vision_out, own.fusion_width),
            nn.Tanh(),
            nn.Linear(own.fusion_width, own.fusion_width),
            nn.Tanh(),
        )
        self.score = nn.Linear(own.fusion_width, 1)
        self.predictors = nn.ModuleDict(
            {name: nn.Linear(own.fusion_width, size) for name, size in {"t": text, **sizes}.items()}
        )
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.startswith(self.text_prefix):
                nn.init.xavier_normal_(parameter)
        self.fits_likelihoods = False
        self.num_seen: int | None = None  # num_batches as the host knows it, without waiting; None: it must ask
        self.projected = [max(1, sizes[name] // 4) for name in PAIRS]  # a quarter, 4 by default
        self.projections = nn.ModuleDict(
            {name: FixedProjection(sizes[name], k) for name, k in zip(PAIRS, self.projected, strict=True)}
        )
        self.register_buffer("bank", torch.zeros(0, sum(self.projected)))
        self.register_buffer("bank_scores", torch.zeros(0))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> Output:
        """Predict the scores of a batch from `t` [B, D], `v` and `a` [B, d] and their fusion `f`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.fits_likelihoods):
            text = self.text_states(batch)[:, 0]  # [B, D], the state of [CLS]
            vision, audio = (self.frames(batch, name) for name in ("vision", "audio"))
            v = self.vision(vision.values, vision.mask, vision.lengths)  # [B, d]
            a = self.audio(audio.values, audio.mask, audio.lengths)  # [B, d]
        text, v, a = (batch.masked(name, part) for name, part in zip(MODALITIES, (text, v, a), strict=True))
        fused = self.fusion(self.dropout(torch.cat([text, a, v], dim=1)))  # [B, fusion_width]
        return Output(self.score(fused).squeeze(-1), parts={"t": text, "v": v, "a": a, "f": fused})

    def share(self, phase: str) -> float:
        """Return the share of the batches in a pass: on MOSEI the likelihood pass uses half of them."""
        return self.own.lld_share if phase == "lld" else 1.0

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the negative likelihood in `lld`; in `main` the absolute error, the prediction and the bounds."""
        if phase == "lld":
            return {"lld": -self._likelihood({name: part.detach() for name, part in output.parts.items()}, batch)}
        parts = dict(output.parts)
        predicted = {name: (parts[name], net(parts["f"])) for name, net in self.predictors.items()}
        nce = torch.stack(
            [
                _over(contrastive_prediction, *rows_with(batch, (NAMES[name],), *both))
                for name, both in predicted.items()
            ]
        )
        terms = {
            "task": absolute_loss(output.prediction, batch.scores),
            "nce": self.own.nce_weight * nce.sum(),
            "mi": -self.own.mi_weight * self._likelihood(parts, batch),
        }
        if self.num_seen is None:
            self.num_seen = int(self.num_batches)
        if self.num_seen >= BATCHES_BEFORE_ENTROPY:
            complete = rows_with(batch, FRAMES, self._project(parts), batch.scores)
            terms["entropy"] = -self.own.mi_weight * self._entropy(*complete)
        return terms

    def _likelihood(self, parts: dict[str, Tensor], batch: Batch) -> Tensor:
        """Sum the likelihoods of both pairs, each over the clips that have the two modalities."""
        pairs = {name: rows_with(batch, ("text", NAMES[name]), parts["t"], parts[name]) for name in PAIRS}
        return torch.stack([_over(self.mi_likelihoods[name], *pairs[name]) for name in PAIRS]).sum()

    def _project(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the projections of vision and audio side by side, [B, 2 k]."""
        return torch.cat([net(parts[name]) for name, net in self.projections.items()], dim=1)

    def _entropy(self, projected: Tensor, scores: Tensor) -> Tensor:
        """Sum the entropies of both pairs over the bank and this batch: [B, 2 k] and [B]; gradients to this batch."""
        rows = torch.cat([self.bank, projected])  # [R+B, 2 k]
        signs = torch.cat([self.bank_scores, scores])  # [R+B]
        pieces = torch.split(rows, self.projected, dim=1)
        return torch.stack([polarity_entropy(piece, signs, ridge=RIDGE) for piece in pieces]).sum()

    def start_phase(self, epoch: int, phase: str) -> None:
        """Stop the gradients below the representations in `lld`; empty the bank before each pass `main`."""
        self.fits_likelihoods = phase == "lld"
        if phase == "main":
            self.bank, self.bank_scores = self.bank[:0].clone(), self.bank_scores[:0].clone()
            self.num_batches = torch.zeros_like(self.num_batches)
            self.num_seen = 0

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """Load weights and buffers, as torch does; among them the counter of batches."""
        self.num_seen = None
        return super().load_state_dict(*args, **options)

    @torch.no_grad()
    def after_backward(self, output: Output, batch: Batch, *, epoch: int, phase: str) -> None:
        """Keep the projections of this batch's complete clips for the next one of the pass `main`."""
        if phase == "main":
            found = rows_with(batch, FRAMES, self._project(dict(output.parts)), batch.scores.clone())
            self.bank, self.bank_scores = found
            self.num_batches = self.num_batches + 1
            self.num_seen = None if self.num_seen is None else self.num_seen + 1

    def parameter_groups(self, config: RunConfig, phase: str) -> list[ParameterGroup]:
        """Return the likelihood networks in `lld`; the text encoder and everything else in `main`."""
        rates = config.optimizer
        if phase == "lld":
            return [ParameterGroup(list(self.mi_likelihoods.parameters()), self.own.lr_mi, rates.weight_decay)]
        stepped_in_lld = {id(parameter) for parameter in self.mi_likelihoods.parameters()}
        text = [p for p in self.text.parameters() if p.requires_grad] if self.text is not None else []
        elsewhere = stepped_in_lld | {id(parameter) for parameter in text}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in elsewhere]
        groups = [
            ParameterGroup(text, rates.lr_encoders, rates.weight_decay),
            ParameterGroup(others, rates.lr_others, rates.weight_decay),
        ]
        return [group for group in groups if group.parameters]


def _over(term: Callable[[Tensor, Tensor], Tensor], one: Tensor, other: Tensor) -> Tensor:
    """Return a mean over clips, [B, d] and [B, d']; 0 with the gradient 0 if none is left."""
    if len(one):
        return term(one, other)
    return term(one.new_zeros(1, one.shape[1]), other.new_zeros(1, other.shape[1])) * 0


def log_likelihood(mean: Tensor, log_variance: Tensor, values: Tensor) -> Tensor:
    """Return mean_b sum_d -(mean - x)^2 / (2 variance), at most 0; all [B, d]. The term of the variance is left out."""
    return -((mean - values).square() / (2 * log_variance.exp())).sum(dim=1).mean()


def contrastive_prediction(values: Tensor, predicted: Tensor) -> Tensor:
    """Return -mean_i [S_ii - log sum_j exp S_ij], S_ij the cosine of values i and prediction j; both [B, d].

    0 for a batch of one; never more than 2 + log B, as there is no temperature.
    """
    cosines = F.normalize(values, dim=1) @ F.normalize(predicted, dim=1).T  # [B, B]
    return F.cross_entropy(cosines, torch.arange(len(values), device=values.device))


def polarity_entropy(rows: Tensor, scores: Tensor, *, ridge: float) -> Tensor:
    """Return (log det S+ + log det S-)/4 for the covariances of the rows with positive and negative scores.

    A score of 0 belongs to neither. If a side has no more rows than dimensions, its covariance is singular, and the
    result is 0 with gradient 0.

    Args:
        rows: [R, k].
        scores: [R].
        ridge: added to the diagonal of both covariances.
    """
    members = torch.stack([scores > 0, scores < 0])  # [2, R]
    counts = members.sum(dim=1)  # [2]
    weights = members.to(rows.dtype) / counts.clamp_min(1).unsqueeze(1)  # [2, R]
    centred = rows - (weights @ rows).unsqueeze(1)  # [2, R, k]
    covariances = centred.mT @ (weights.unsqueeze(-1) * centred)  # [2, k, k], divided by n
    ridges = ridge * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    enough = (counts > rows.shape[1]).all()
    # Before the determinant, not after it: the gradient of a singular one is not finite, and 0 times it is nan.
    safe = torch.where(enough, covariances + ridges, torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device))
    entropy: Tensor = 0.25 * torch.linalg.slogdet(safe).logabsdet.sum()
    return entropy
