"""The inputs of figures: stored predictions, logs, and the sentiment intervals of a range of scores.

Axes: S seeds, N clips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from conki_cli.reporting.comparison import System, read_systems
from conki_cli.reporting.comparison import read_system as system_of
from conki_cli.reporting.figures.kinds import Choices
from conki_cli.reporting.tables.grid import seeds_text
from conki_cli.runs import Run, evaluate_run, left_out_note
from conki_cli.runs.log import log_path, logged_epochs
from conki_cli.system.errors import RunError

Floats = npt.NDArray[np.float64]
_MOST_INTERVALS, _FEWEST_INTERVALS = 13, 3
_BINS = 7


@dataclass(frozen=True, eq=False)
class Intervals:
    """Adjacent intervals of scores: those of Section 3.4, or equal parts if these would be too few or too many."""

    names: tuple[str, ...]
    centres: Floats
    edges: Floats
    """Between neighbours, one less than there are intervals."""
    rounded: bool
    """Whether they are the scores rounded to integers, halves to the even one."""

    def index(self, values: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Return the number of each value's interval; values outside the range count to the first or last, [N]."""
        found = np.asarray(values, dtype=np.float32)
        if self.rounded:
            low = int(self.centres[0])
            return (np.clip(found.round(), low, self.centres[-1]) - low).astype(np.intp)
        return np.searchsorted(self.edges, found, side="left").astype(np.intp)


def intervals_of(score_range: Sequence[float]) -> Intervals:
    """Return the intervals of a range: -3..3 has seven, -1..1 three; 0..1 and 0..100 get seven equal parts."""
    low, high = (float(bound) for bound in score_range)
    integers = np.arange(np.round(low), np.round(high) + 1)
    if _FEWEST_INTERVALS <= len(integers) <= _MOST_INTERVALS:
        names = tuple(f"{value:.0f}".replace("-", "−") for value in integers)
        return Intervals(names, integers, integers[:-1] + 0.5, rounded=True)
    edges = np.linspace(low, high, _BINS + 1)
    names = tuple(f"{a:.3g}–{b:.3g}".replace("-", "−") for a, b in pairwise(edges))
    return Intervals(names, (edges[:-1] + edges[1:]) / 2, edges[1:-1], rounded=False)


def read_system(run: Run, choices: Choices, *, protocol: str = "all") -> System:
    """Read what the finished seeds of one run predicted for a split.

    Raises:
        RunError: the predictions are missing or damaged.
    """
    check_predicted(run, choices)
    return system_of(run, choices.split, evaluate_run(run, choices.split, protocol, threshold=choices.threshold))


def read_several(runs: Sequence[Run], choices: Choices) -> list[System]:
    """Read what one or more runs predicted for the same clips, measured at one threshold between two classes.

    Raises:
        RunError: they are of different data, or predictions are missing or damaged.
    """
    if len(runs) == 1:
        return [read_system(runs[0], choices, protocol=choices.protocol)]
    for run in runs:
        check_predicted(run, choices)
    return read_systems(runs, choices.split, choices.protocol, threshold=choices.threshold)


def check_predicted(run: Run, choices: Choices) -> None:
    """Refuse a split that was not predicted yet, and tell of seeds that are not finished.

    Raises:
        RunError: a finished seed has no predictions for it.
    """
    finished = run.finished_seeds()
    if note := left_out_note(run):
        choices.observer.say(note)
    if not all(run.predictions_path(seed, choices.split).is_file() for seed in finished):
        raise RunError(
            f"run {run.name} has no stored predictions for {choices.split}",
            advice=f"make them with `conki evaluate {run.name} --split {choices.split}`",
        )


def about(system: System, choices: Choices) -> str:
    """Say what a figure of one run is of: label, data set, split, seeds, clips."""
    return f"{system.label}, {of_clips(system, choices)}, {seeds_text(system.seeds)}"


def of_clips(system: System, choices: Choices) -> str:
    """Say which clips were evaluated."""
    result = system.result
    part = f" (MAE and Corr: {result.n_nonzero:,} of them, protocol nonzero)" if result.n_nonzero is not None else ""
    return f"{result.dataset}, {choices.split}, n = {len(system.scores):,}{part}"


# ---- logs ----


@dataclass(frozen=True)
class Log:
    """The log of a seed's training."""

    seed: int
    epochs: list[int]
    losses: dict[str, list[float]]
    """Loss term -> mean over an epoch's steps; nan where an epoch has no such term."""
    validation_mae: list[float]
    best_epoch: int


def read_log(run: Run, seed: int) -> Log:
    """Read the log of a finished seed; of an epoch that was repeated the last line counts.

    Raises:
        RunError: it lacks epochs that the seed was trained for.
    """
    path, result = log_path(run, seed), run.seed_result(seed)
    epochs = logged_epochs(path)
    numbers = [epoch.number for epoch in epochs]
    if result is None or numbers != list(range(1, result.epochs + 1)) or result.best_epoch not in numbers:
        raise RunError(
            f"{path} must hold one whole line per epoch, with losses and validation, but does not",
            "restore it, or delete that seed's folder and train it again",
        )
    terms = dict.fromkeys(name for epoch in epochs for name in epoch.losses)
    losses = {name: [epoch.losses.get(name, math.nan) for epoch in epochs] for name in terms}
    maes = [epoch.metrics.get("mae", math.nan) for epoch in epochs]
    return Log(seed, numbers, losses, maes, result.best_epoch)
