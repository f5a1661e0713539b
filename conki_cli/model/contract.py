"""The contract of every model, so that one loop trains them all: ConKI and the systems that it is compared with.

Axis letters: B batch, M modalities of the run (t, v, a), L positions, D hidden size of the text encoder, d features.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.sections import RunConfig
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.layers import freeze, trained_parameters
from conki_cli.model.losses import full_precision
from conki_cli.model.packing import Packing
from conki_cli.model.text_encoder import TextEncoder


@dataclass(frozen=True)
class Output:
    """The output of a model for a batch."""

    prediction: Tensor
    """Predicted scores, [B]."""
    pan: Tensor | None = None
    """Pan-knowledge representations O_m, [B, M, D]."""
    specific: Tensor | None = None
    """Knowledge-specific representations A_m, [B, M, D]."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """Further values that a baseline's loss needs, and its representations t, v, a and f, by name."""

    def full_precision(self) -> Self:
        """Return the output in float32 or better: losses are never computed with less precision."""
        parts = {name: full_precision(part) for name, part in self.parts.items()}
        pan, specific = (None if part is None else full_precision(part) for part in (self.pan, self.specific))
        return replace(self, prediction=full_precision(self.prediction), pan=pan, specific=specific, parts=parts)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay."""

    parameters: list[nn.Parameter]
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Architecture:
    """The sizes of a network that follow from the data and the text encoder; stored in every checkpoint."""

    modalities: tuple[str, ...]
    width: int
    """D: hidden size of the text encoder."""
    text_layers: int
    widths: Mapping[str, int] = field(default_factory=dict)
    """Feature width of vision and audio frames, those of the target data set."""
    positions: Mapping[str, int] = field(default_factory=dict)
    """Longest sequence in frames that the audio and vision encoders have positions for."""
    external_widths: Mapping[str, int] = field(default_factory=dict)
    """Stage 1 only: feature widths of the external data set that differ from the target's.

    The keys are modalities, or 'set/modality' with several external data sets."""


class SentimentModel(nn.Module):
    """The contract: one loop trains every model through these members."""

    phases: tuple[str, ...] = ("main",)
    """Names of the passes of an epoch; each has its own optimiser."""
    required_modalities: frozenset[str] = frozenset()
    """Modalities that the model needs in a run."""
    optional_modalities: frozenset[str] = frozenset(MODALITIES)
    """Modalities that `forward` can leave out of a clip (`Batch.absent`): they are masked, not replaced by zeros."""
    largest_score = math.inf
    """Largest score that the model can predict, and the negative of its smallest."""
    reads_signs = False
    """Whether its losses treat scores below 0 and others as two classes."""
    memory: tuple[str, ...] = ()
    """Names of buffers with one row per training clip; their size follows the data."""
    precision = "fp32"
    """Number format of the forward pass: fp32, tf32 or bf16."""

    def __init__(
        self, architecture: Architecture, text_encoder: TextEncoder | None, *, has_bridges: bool = True
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.frozen: list[nn.Module] = []
        self.text = text_encoder
        self.fresh_text: frozenset[str] = frozenset()
        """Weights of the text encoder that its pretrained checkpoint lacks."""
        if text_encoder is not None:
            self.fresh_text = frozenset(f"text.{name}" for name in text_encoder.fresh)
        if has_bridges:
            self.add_bridges()

    @classmethod
    def can_predict(cls, score_range: tuple[float, float]) -> bool:
        """Say whether the model reaches every score of a range."""
        return max(-score_range[0], score_range[1]) <= cls.largest_score

    def add_bridges(self) -> None:
        """Add a Linear for each set and modality whose width in the external data differs from the target's."""
        sizes = self.architecture
        self.bridges = nn.ModuleDict(
            {key: nn.Linear(d, sizes.widths[key.rpartition("/")[2]]) for key, d in sizes.external_widths.items()}
        )

    def bridged(self, frames: Tensor, name: str, batch: Batch) -> Tensor:
        """Bring the frames of a modality to the target's width, [..., d of the batch's set] -> [..., d]."""
        key = f"{batch.source}/{name}" if batch.source else name
        found: Tensor = self.bridges[key](frames) if key in self.bridges else frames
        return found

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the weighted terms whose sum is minimised, by name."""
        raise TypeError(f"{type(self).__name__} must define loss()")

    def parameter_groups(self, config: RunConfig, phase: str) -> list[ParameterGroup]:
        """Return the parameters of a phase's optimiser with their rates: by default the text encoder, and the rest."""
        rates = config.optimizer
        return self.groups_by_prefix({self.text_prefix: rates.lr_encoders, "": rates.lr_others}, rates.weight_decay)

    def groups_by_prefix(self, rates: Mapping[str, float], weight_decay: float) -> list[ParameterGroup]:
        """Return the trainable parameters, each with the rate of the first matching prefix of its name."""
        members: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in rates}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                members[next(prefix for prefix in rates if name.startswith(prefix))].append(parameter)
        return [ParameterGroup(group, rates[prefix], weight_decay) for prefix, group in members.items() if group]

    def groups_by_rate(self, rate_of: Mapping[int, float], others: float, weight_decay: float) -> list[ParameterGroup]:
        """Group the trainable parameters by rate and by whether weight decay applies to them.

        Args:
            rate_of: the rate of a parameter by its `id`.
            others: the rate of every other parameter.
            weight_decay: 0 for biases and normalisations, whatever is given.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter, decays in trained_parameters(self):
            rate = rate_of.get(id(parameter), others)
            groups.setdefault((rate, weight_decay if decays else 0.0), []).append(parameter)
        return [ParameterGroup(members, *key) for key, members in groups.items()]

    def passes(self, epoch: int) -> tuple[str, ...]:
        """Return the phases of an epoch, in their order."""
        return self.phases

    def share(self, phase: str) -> float:
        """Return the share of the shuffled batches in a pass."""
        return 1.0

    def batch_size(self, phase: str) -> int | None:
        """Return the clips per step of a pass; None: the run's."""
        return None

    def smallest_batch(self, phase: str) -> int:
        """Return the clips that a training batch of a pass must have; smaller ones are skipped."""
        return 1

    def counts_for_selection(self, epoch: int) -> bool:
        """Say whether the validation MAE after this epoch may become the best one and counts for patience."""
        return True

    def start(self, scores: Tensor) -> None:
        """Prepare for training; `scores` [N] are those of the training split."""

    def start_phase(self, epoch: int, phase: str) -> None:
        """Prepare for a pass over the training split, also for a resumed one; draw no random numbers."""

    def after_backward(self, output: Output, batch: Batch, *, epoch: int, phase: str) -> None:
        """Process a batch after its backward pass, before the optimiser steps."""

    def report(self, terms: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return further numbers for the log, by name; they are not minimised."""
        return {}

    def represent(self, batch: Batch) -> Output:
        """Run forward in the model's precision; the output is float32 again."""
        kind = batch.scores.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16"):
            output: Output = self(batch)
        return output.full_precision()

    # ---- what models share ----

    def freeze(self, *modules: nn.Module) -> None:
        """Freeze modules: they do not train and stay in evaluation mode."""
        self.frozen.extend(modules)
        freeze(modules)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def frames(self, batch: Batch, name: str) -> Padded:
        """Return the frames of a modality at the target's width, [B, L, d], zero after the mask."""
        part = batch.modality(name)
        return Padded(self.bridged(part.values, name, batch) * part.mask.unsqueeze(-1), part.mask, part.lengths)

    def text_states(self, batch: Batch) -> Tensor:
        """Return the last hidden states of the text, [B, L, D]; those of a frozen encoder may come with the batch."""
        if batch.states:
            return batch.states[f"layer_{self.architecture.text_layers}"]
        part = batch.modality("text")
        assert self.text is not None
        packing = Packing.of(part.mask, part.lengths)
        return packing.unpack(self.text(packing.pack(part.values), packing)[1][-1])

    @property
    def text_encoder(self) -> TextEncoder:
        """The encoder of a model that reads text."""
        assert self.text is not None
        return self.text

    @property
    def text_is_frozen(self) -> bool:
        """Whether the text encoder is the pretrained one and never trains."""
        return self.text is not None and any(module is self.text for module in self.frozen)

    @property
    def layers_read(self) -> tuple[int, ...] | None:
        """Which hidden states H_t of a frozen text encoder are read and can be cached; None if it trains."""
        return (self.architecture.text_layers,) if self.text_is_frozen else None

    def handed_over(self) -> list[str]:
        """Name the weights that training on the external data set hands over (Table 6): all but the bridge layers."""
        trained, kept = self.stored_names()
        return [name for name in (*trained, *kept) if not name.startswith("bridges.") and name not in self.memory]

    def stored_names(self) -> tuple[list[str], list[str]]:
        """Name the weights that this stage trains, and the frozen ones that must be stored as well.

        A frozen text encoder is the pretrained one: it is loaded again by name and never stored.
        """
        modules = {id(m) for part in self.frozen for m in part.modules()}
        frozen_prefixes = tuple(f"{name}." for name, module in self.named_modules() if id(module) in modules)
        trained, kept = [], []
        for name in self.state_dict():
            if not (frozen_prefixes and name.startswith(frozen_prefixes)):
                trained.append(name)
            elif not name.startswith(self.text_prefix) or name in self.fresh_text:
                kept.append(name)
        return trained, kept

    text_prefix = "text."
    """Prefixes of the names of the text encoder's weights."""

    def resize_memory(self, stored: Mapping[str, Tensor]) -> None:
        """Resize the memory of the training clips to the stored number of rows."""
        for name in self.memory:
            if name in stored:
                setattr(self, name, torch.empty_like(stored[name], device=getattr(self, name).device))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.resize_memory({name.removeprefix(prefix): value for name, value in state_dict.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)
