"""Which clips lack which modality: left out on request, empty in the store, or drawn in training (modality dropout).

Axes: N clips of a split, M modalities of the run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conki_cli import MODALITIES
from conki_cli.config.models import label_of
from conki_cli.config.sections import RunConfig
from conki_cli.system.errors import SettingsError

Flags = npt.NDArray[np.bool_]
"""One per clip, [N]; True: the clip lacks the modality."""

_STREAM = 1
"""Keeps the draws apart from those of the order of the clips, which start from the same seed and epoch."""


@dataclass(frozen=True)
class Absence:
    """What counts as absent, and what training leaves out."""

    without: frozenset[str] = frozenset()
    """Modalities that every clip lacks."""
    masks_empty: frozenset[str] = frozenset()
    """Modalities that a clip without frames or words lacks; of the others it counts as one zero frame, or no word."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of the clips that lose a modality in training, by modality."""

    def __bool__(self) -> bool:
        return bool(self.without or self.masks_empty or self.shares)

    def absent(self, empty: Mapping[str, Flags], seed: int | None, epoch: int) -> dict[str, Flags]:
        """Return which clips lack which modality; what is drawn is a function of seed, epoch and clip alone.

        Args:
            empty: which clips have no frames or words, by modality of the run.
            seed: of the training; None: nothing is drawn.
            epoch: number of the epoch.
        """
        names = [name for name in MODALITIES if name in empty]
        lacking = np.stack(
            [empty[name] & (name in self.masks_empty) | (name in self.without) for name in names], axis=1
        )
        shares = np.array([self.shares.get(name, 0.0) for name in names])
        if seed is not None and shares.any():
            lacking |= drawn(lacking, shares, np.random.default_rng([seed, epoch, _STREAM]))
        return {name: lacking[:, column] for column, name in enumerate(names) if lacking[:, column].any()}


def drawn(lacking: npt.NDArray[np.bool_], shares: npt.NDArray[np.float64], generator: np.random.Generator) -> Flags:
    """Draw which modalities clips lose, [N, M]; a clip that would lose its last one is drawn again.

    Args:
        lacking: which modalities the clips lack already, [N, M]; a clip with one or none loses nothing.
        shares: probability of losing each modality, [M], below 1.
        generator: of random numbers; equal shares and clips draw equal ones.
    """
    losing = generator.random(lacking.shape) < shares
    losing[(~lacking).sum(axis=1) < 2] = False
    while len(again := np.flatnonzero((lacking | losing).all(axis=1) & ~lacking.all(axis=1) & losing.any(axis=1))):
        losing[again] = generator.random((len(again), lacking.shape[1])) < shares
    return losing


def trains_absence(config: RunConfig) -> bool:
    """Say whether a run trains with modality dropout, and so treats a clip without frames or words as lacking them."""
    return bool(config.optimizer.modality_dropout)


def masked_when_empty(config: RunConfig, optional: frozenset[str]) -> frozenset[str]:
    """Return the modalities that a clip without frames or words lacks, of those that the model can leave out."""
    return optional if trains_absence(config) else frozenset()


def dropout_shares(config: RunConfig, modalities: Iterable[str], optional: frozenset[str]) -> dict[str, float]:
    """Return the share of modality dropout for each modality of a run that its model can leave out.

    One number holds for all of those; of three, the one of a modality that the model needs must be 0.

    Raises:
        SettingsError: it is not.
    """
    given = config.optimizer.modality_dropout
    if not given:
        return {}
    shares = dict(zip(MODALITIES, given if len(given) > 1 else given * len(MODALITIES), strict=True))
    for name in MODALITIES:
        if len(given) > 1 and shares[name] and name not in optional:
            raise SettingsError(
                f"{label_of(config.model.name)} needs {name} of every clip, found optimizer.modality_dropout "
                f"{shares[name]:g} for it",
                advice=f"give 0 for {name}, or one number, which holds for the modalities that the model can leave out",
            )
    return {name: shares[name] for name in modalities if name in optional and shares[name]}


def idle_dropout(config: RunConfig, modalities: Sequence[str], optional: frozenset[str]) -> str:
    """Return a warning if modality dropout is set but no clip of a run can lose a modality; empty if one can."""
    if not trains_absence(config):
        return ""
    if len(modalities) < 2:
        return f"warning: optimizer.modality_dropout has no effect: this run reads only {words_of(modalities)}"
    if not dropout_shares(config, modalities, optional):
        able = words_of([name for name in modalities if name in optional])
        return f"warning: optimizer.modality_dropout has no effect: its share for {able} is 0"
    return ""


def words_of(names: Sequence[str]) -> str:
    """Name modalities in the paper's order, joined as on the command line: 'text+audio'."""
    return "+".join(name for name in MODALITIES if name in names)
