"""ICCN: the Interaction Canonical Correlation Network (Sun et al., AAAI 2020).

Outer products of text and audio, and of text and vision, go through one network each. These first learn, without
scores, to correlate ("text-based audio" with "text-based vision"); then they freeze and a head learns the scores.

Pinned by sources: the outer products, the deep CCA loss between the two networks, and the head over text-based audio,
text and text-based vision (abstract, and the appendix of the ConKI paper).
Our choice: everything else (no code is public): all sizes, a Linear that narrows the text before the products, the
regression head, epochs and batch size of the correlation, L1.
Departures: none known. Public code of deep CCA takes the root of every entry of T'T for its trace, which is not the
sum of the singular values; here the singular values are summed.

Axis letters: B batch, L positions, D hidden size of the text encoder, w text width, s width of audio and vision,
o width of text-based audio and vision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.baselines import IccnConfig
from conki_cli.config.sections import RunConfig
from conki_cli.model.baselines.subnets import relu_mlp, rows_with, run_lstm
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.contract import Architecture, Output, ParameterGroup, SentimentModel
from conki_cli.model.layers import masked_mean
from conki_cli.model.losses import absolute_loss
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.errors import ConkiError, SettingsError

FACTS = {
    "label": "ICCN",
    "title": (
        "Learning Relationships between Text, Audio, and Video via Deep Canonical Correlation for Multimodal "
        "Language Analysis"
    ),
    "authors": "Sun, Sarma, Sethares, Liang",
    "year": 2020,
    "venue": "AAAI",
    "idea": "text-based audio and text-based vision learn to correlate, then the scores are learnt on top",
    "pinned": "outer products with the text, convolutions over them, the correlation between the two, concatenation",
    "ours": "every size, the two phases with their rates and the regression head: no implementation is public",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""

KERNEL = 3
MAPS = (8, 16)
"""Channels of the two convolutions over an outer product."""
GRID = 4
"""Side of the grid that a map is averaged to."""
LEAST_WIDTH = 4
"""Of the text: the networks over outer products halve it."""


def correlation_loss(first: Tensor, second: Tensor, *, ridge: float) -> Tensor:
    """Return minus the sum of the canonical correlations of two views, in float64: 0 down to -o.

    With covariances S11 = L1 L1' and S22 = L2 L2', the correlations are the singular values of L1^-1 S12 L2^-T. They
    equal those of S11^(-1/2) S12 S22^(-1/2) (Andrew et al., 2013), but no root of a matrix is differentiated.

    Args:
        first: [B, o]; B must be well above o, or everything correlates.
        second: [B, o].
        ridge: r, added to the diagonals of S11 and S22.

    Raises:
        ConkiError: a view does not vary in o directions, and the ridge does not compensate for it.
    """
    one, two = (view.double() - view.double().mean(dim=0) for view in (first, second))
    covariances = torch.stack([_covariance(view, view, ridge) for view in (one, two)])  # [2, o, o]
    (lower_one, lower_two), failures = torch.linalg.cholesky_ex(covariances)
    if failures.any():
        if not covariances.isfinite().all():
            return covariances.sum() * torch.nan  # the loop stops and names the term that is not finite
        raise ConkiError(
            "iccn needs invertible covariances, but one is singular",
            advice=f"raise iccn.ridge, which is {ridge:g}, or iccn.cca_batch_size",
        )
    half = torch.linalg.solve_triangular(lower_one, _covariance(one, two), upper=False)  # L1^-1 S12
    whitened = torch.linalg.solve_triangular(lower_two, half.T, upper=False)  # its transpose under L2^-1, [o, o]
    correlations: Tensor = torch.linalg.svdvals(whitened)  # [o]
    return -correlations.sum()


def _covariance(first: Tensor, second: Tensor, ridge: float = 0.0) -> Tensor:
    """Return the covariances of centred views [B, o] as [o, o]."""
    products = first.T @ second / max(1, len(first) - 1)
    return products + ridge * torch.eye(len(products), dtype=products.dtype, device=products.device)


class FrameNetwork(nn.Module):
    """A convolution over time and an LSTM: a sequence as one vector."""

    def __init__(self, input_width: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(input_width, width, KERNEL, padding=KERNEL // 2)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, frames: Padded) -> Tensor:
        """Turn frames [B, L, d], zero after the mask, into [B, s]."""
        sequence = F.relu(self.convolution(frames.values.transpose(1, 2))).transpose(1, 2)  # [B, L, s]
        return run_lstm(self.lstm, sequence, frames.mask, frames.lengths)[1]


class InteractionNetwork(nn.Module):
    """Convolutions over the outer product of a text and a frame vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, MAPS[0], KERNEL, padding=KERNEL // 2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(MAPS[0], MAPS[1], KERNEL, padding=KERNEL // 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(GRID),
            nn.Flatten(),
            nn.Linear(MAPS[1] * GRID * GRID, width),
        )

    def forward(self, text: Tensor, frames: Tensor) -> Tensor:
        """Turn text [B, w] and frame vectors [B, s] into [B, o]."""
        products = torch.einsum("bi,bj->bij", text, frames).unsqueeze(1)  # [B, 1, w, s]
        out: Tensor = self.layers(products)
        return out


class Iccn(SentimentModel):
    """Phase `cca`: the frame and interaction networks correlate. Phase `main`: text and head learn the scores."""

    required_modalities = frozenset(MODALITIES)
    optional_modalities = frozenset({"vision", "audio"})
    phases: tuple[str, ...] = ("cca", "main")

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, text_encoder)
        own = config.own
        assert isinstance(own, IccnConfig)
        if not own.joint and own.cca_batch_size <= own.out_width:
            raise SettingsError(
                f"iccn.cca_batch_size must exceed iccn.out_width, found {own.cca_batch_size} and {own.out_width}",
                advice=f"raise it to {4 * own.out_width} or more",
            )
        if 0 < own.text_width < LEAST_WIDTH:
            raise SettingsError(
                f"iccn.text_width must be 0 or at least {LEAST_WIDTH}, found {own.text_width}",
                advice=("raise it, because the networks over outer products halve it"),
            )
        self.own = own
        self.phase = ""
        if own.joint:
            self.phases = ("main",)
        width = own.text_width or architecture.width
        self.narrow = nn.Linear(architecture.width, width) if own.text_width else None
        frames = {name: architecture.widths[name] for name in ("vision", "audio")}
        self.vectors = nn.ModuleDict({name: FrameNetwork(d, own.sequence_width) for name, d in frames.items()})
        self.interactions = nn.ModuleDict({name: InteractionNetwork(own.out_width) for name in frames})
        self.head = relu_mlp([width + 2 * own.out_width, width, 1])

    def passes(self, epoch: int) -> tuple[str, ...]:
        """Return the one pass of an epoch: the first epochs correlate."""
        return ("main",) if self.counts_for_selection(epoch) else ("cca",)

    def batch_size(self, phase: str) -> int | None:
        """Return the batch size of the correlation, which needs more rows for its estimate."""
        return self.own.cca_batch_size if phase == "cca" else None

    def smallest_batch(self, phase: str) -> int:
        """Return more clips than features for the correlation: fewer clips always correlate."""
        return self.own.out_width + 1 if phase == "cca" and self.own.cca_epochs else 1

    def counts_for_selection(self, epoch: int) -> bool:
        """Say whether the scores are learnt in this epoch."""
        return epoch > self.own.epochs_without_scores

    def start_phase(self, epoch: int, phase: str) -> None:
        """Freeze the text encoder while the rest correlates: no dropout, no gradient."""
        self.phase = phase
        if phase == "cca" and self.text is not None:
            self.text.eval()

    def forward(self, batch: Batch) -> Output:
        """Predict the scores of a batch; `a` and `v` are text-based, [B, o], `t` is the text [B, w], `f` all three.

        With two phases, gradients of the correlation stop at the text and those of the scores stop at the correlating
        networks, so that neither phase changes the other's weights.
        """
        learns = torch.is_grad_enabled()
        with torch.set_grad_enabled(learns and self.phase != "cca"):
            text = masked_mean(self.text_states(batch), batch.modality("text").mask)  # [B, D]
            text = torch.tanh(self.narrow(text)) if self.narrow is not None else text  # [B, w]
        with torch.set_grad_enabled(learns and (self.phase != "main" or self.own.joint)):
            known = text if self.own.joint else text.detach()
            based = {
                name: batch.masked(name, self.interactions[name](known, self.vectors[name](self.frames(batch, name))))
                for name in ("audio", "vision")
            }
        kept = based if self.own.joint else {name: part.detach() for name, part in based.items()}
        fused = torch.cat([kept["audio"], text, kept["vision"]], dim=-1)  # [B, w + 2o]
        prediction = self.head(fused).squeeze(-1)  # [B]
        return Output(prediction, parts={"t": text, "v": based["vision"], "a": based["audio"], "f": fused})

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return minus the correlations, which need no scores, or the mean absolute error; if joint, both."""
        terms = {} if phase == "cca" else {"task": absolute_loss(output.prediction, batch.scores)}
        if phase == "cca" or self._correlates_too(batch):
            weight = 1.0 if phase == "cca" else self.own.joint_weight
            terms["cca"] = weight * self._correlation(output, batch)
        return terms

    def _correlation(self, output: Output, batch: Batch) -> Tensor:
        """Return the loss of the clips that have both modalities; 0 if there are no more of them than features."""
        views = rows_with(batch, ("audio", "vision"), output.parts["a"], output.parts["v"])
        if len(views[0]) < len(batch) and len(views[0]) <= self.own.out_width:
            return torch.stack(views).sum() * 0
        return correlation_loss(*views, ridge=self.own.ridge)

    def _correlates_too(self, batch: Batch) -> bool:
        return self.own.joint and len(batch) > self.own.out_width

    def parameter_groups(self, config: RunConfig, phase: str) -> list[ParameterGroup]:
        """Return the correlating networks, or the text encoder, its narrowing and the head."""
        decay = config.optimizer.weight_decay
        if phase == "cca":
            parts = (self.bridges, self.vectors, self.interactions)
            correlating = [parameter for part in parts for parameter in part.parameters()]
            return [ParameterGroup(correlating, self.own.lr_cca, decay)]
        if self.own.joint:
            return super().parameter_groups(config, phase)
        others = [p for part in (self.narrow, self.head) if part is not None for p in part.parameters()]
        groups = [ParameterGroup(others, config.optimizer.lr_others, decay)]
        if self.text is not None:
            groups.append(ParameterGroup(list(self.text.parameters()), config.optimizer.lr_encoders, decay))
        return groups
