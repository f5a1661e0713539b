"""Finished runs as they are compared: their metrics by seed and their stored predictions, on the same clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.config import MODEL_NAMES, RunConfig
from conki_cli.config.words import run_label
from conki_cli.errors import RunError
from conki_cli.metrics import summarize
from conki_cli.runs import Run, evaluate_run, read_predictions

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class System:
    """One finished run as it is compared."""

    label: str
    run: Run
    config: RunConfig
    result: Mapping[str, Any]
    """What `runs.evaluate_run` says, of the seeds that are compared."""
    ids: tuple[str, ...]
    scores: Scores
    predictions: Mapping[int, Scores]
    """Seed -> predicted scores, [N]."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that are compared."""
        return tuple(self.predictions)


def system_label(config: RunConfig) -> str:
    """Name a run among those of other models: 'ConKI', 'ConKI, w/o C4', 'MISA', 'MISA, with mosei'."""
    label = run_label(config)
    if not config.is_baseline:
        return label if not config.model.drop else f"{MODEL_NAMES['conki']}, {label}"
    return f"{label}, with {config.data.external}" if config.needs_pretraining else label


def read_systems(runs: Sequence[Run], split: str, protocol: str, seeds: Sequence[int] | None = None) -> list[System]:
    """Read what finished fine-tuning runs say of a split; `seeds` leaves out all others.

    Raises:
        RunError: fewer than two runs, one twice, a stage-1 run, no finished seed, or runs of other data than the first.
    """
    if len({run.path.resolve() for run in runs}) < max(2, len(runs)):
        raise RunError(f"a comparison needs two or more different runs, found {', '.join(run.name for run in runs)}")
    systems = [_read_system(run, split, protocol, seeds) for run in runs]
    for system in systems[1:]:
        _check_alike(systems[0], system, split)
    return systems


def _read_system(run: Run, split: str, protocol: str, seeds: Sequence[int] | None) -> System:
    if run.result["stage"] != "finetune":
        raise RunError(f"{run.name} is a stage-1 run, which predicts no target: name a fine-tuned run")
    result = evaluate_run(run, split, protocol)
    wanted = [seed for seed in result["seeds"] if seeds is None or seed in seeds]
    if not wanted:
        finished = ", ".join(map(str, result["seeds"]))
        raise RunError(f"run {run.name} must have finished one of the seeds asked for, but has {finished}")
    stored = {seed: read_predictions(run.predictions_path(seed, split)) for seed in wanted}
    first = stored[wanted[0]]
    for seed, found in stored.items():
        if found.ids != first.ids or not np.array_equal(found.scores, first.scores):
            raise RunError(
                f"{run.predictions_path(seed, split)} must hold the clips of seed {wanted[0]} but does not: "
                "delete both files and evaluate again"
            )
    predictions = {seed: found.predictions for seed, found in stored.items()}
    label = system_label(run.config)
    return System(label, run, run.config, _only(result, wanted), tuple(first.ids), first.scores, predictions)


def _only(result: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Leave some seeds in what `evaluate_run` says."""
    rows = [result["seeds"].index(seed) for seed in seeds]
    values = {name: [one["values"][row] for row in rows] for name, one in result["metrics"].items()}
    paths = [result["predictions"][row] for row in rows]
    return {**result, "seeds": list(seeds), "metrics": summarize(values), "predictions": paths}


def _check_alike(one: System, other: System, split: str) -> None:
    """Refuse systems that were not judged by the same clips of the same store."""
    datasets = [system.result["dataset"] for system in (one, other)]
    if datasets[0] != datasets[1]:
        raise RunError(
            f"run {one.run.name} is of {datasets[0]}, {other.run.name} of {datasets[1]}: compare runs of one data set"
        )
    contents = [system.run.result["data"].get(datasets[0]) for system in (one, other)]
    if contents[0] != contents[1]:
        raise RunError(
            f"runs {one.run.name} and {other.run.name} were trained on different versions of the store "
            f"{datasets[0]}: train one of them again"
        )
    if one.ids != other.ids or not np.array_equal(one.scores, other.scores):
        raise RunError(
            f"the {split} predictions of runs {one.run.name} and {other.run.name} must name the same clips with the "
            "same scores but do not: delete those of one and evaluate it again"
        )
