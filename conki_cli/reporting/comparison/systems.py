"""Finished runs to be compared: their metrics by seed and their stored predictions on the same clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from conki_cli.config.models import label_of
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import run_label
from conki_cli.runs import Evaluation, Run, common_threshold, evaluate_run, stored_predictions
from conki_cli.system.errors import RunError

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class System:
    """One finished run as it is compared."""

    label: str
    """Its name among the systems; it contains the run if two systems would have the same name."""
    run: Run
    config: RunConfig
    result: Evaluation
    """Metrics of the seeds that are compared."""
    ids: tuple[str, ...]
    scores: Scores
    predictions: Mapping[int, Scores]
    """Seed -> predicted scores, [N]."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that are compared."""
        return tuple(self.predictions)

    def mean_prediction(self, seeds: Sequence[int] | None = None) -> npt.NDArray[np.float64]:
        """Return each clip's mean prediction over some of the seeds, or all of them, [N]."""
        chosen = self.seeds if seeds is None else seeds
        means: npt.NDArray[np.float64] = np.mean([self.predictions[one] for one in chosen], axis=0, dtype=np.float64)
        return means


def system_label(config: RunConfig) -> str:
    """Name a run among runs of other models: 'ConKI', 'ConKI, w/o C4', 'MISA', 'MISA, with mosei'."""
    label = run_label(config)
    if not config.is_baseline:
        return label if not config.model.drop else f"{label_of('conki')}, {label}"
    return f"{label}, with {config.data.external}" if config.needs_pretraining else label


def read_systems(
    runs: Sequence[Run],
    split: str,
    protocol: str,
    seeds: Sequence[int] | None = None,
    *,
    threshold: float | None = None,
) -> list[System]:
    """Read the metrics and predictions of finished fine-tuning runs for a split, of all seeds or only `seeds`.

    All use one threshold between two classes: the given one, else that of the runs.

    Raises:
        RunError: there are fewer than two runs, a repeated run, a stage-1 run, no finished seed, or different data.
    """
    if len({run.path.resolve() for run in runs}) < max(2, len(runs)):
        raise RunError(f"a comparison needs two or more different runs, found {', '.join(run.name for run in runs)}")
    for run in runs:
        check_predicts(run)
    if threshold is None:
        threshold = common_threshold(runs)
    results = [evaluate_run(run, split, protocol, seeds=seeds, threshold=threshold) for run in runs]
    systems = [read_system(run, split, result) for run, result in zip(runs, results, strict=True)]
    for system in systems[1:]:
        _check_alike(systems[0], system, split)
    labels = [system.label for system in systems]
    return [
        replace(system, label=f"{system.label}, run {system.run.name}") if labels.count(system.label) > 1 else system
        for system in systems
    ]


def check_predicts(run: Run) -> None:
    """Refuse a stage-1 run for any split, because it does not learn the target's scores.

    Raises:
        RunError: it is one.
    """
    if run.record.stage != "finetune":
        raise RunError(
            f"{run.name} is a stage-1 run, which does not predict the target", advice="name a fine-tuned run"
        )


def read_system(run: Run, split: str, result: Evaluation) -> System:
    """Read one run's predictions for a split; `result` has its metrics."""
    stored = stored_predictions(run, split, result.seeds)
    first = next(iter(stored.values()))
    predictions = {seed: found.predictions for seed, found in stored.items()}
    config = run.config
    return System(system_label(config), run, config, result, tuple(first.ids), first.scores, predictions)


def differing_stores(systems: Sequence[System]) -> list[str]:
    """Say of which external data sets the systems saw different versions: their difference may be that of the data."""
    lines = []
    for name in dict.fromkeys(name for system in systems for name in system.run.record.data):
        users = [system for system in systems if name in system.run.record.data]
        known = users[0].run.record.data[name]
        if others := [system.label for system in users if system.run.record.data[name] != known]:
            lines.append(f"trained on another version of the store {name} than {users[0].label}: {', '.join(others)}")
    return lines


def _check_alike(one: System, other: System, split: str) -> None:
    """Refuse systems that were not evaluated on the same clips of the same store."""
    datasets = [system.result.dataset for system in (one, other)]
    if datasets[0] != datasets[1]:
        raise RunError(
            f"run {one.run.name} is for {datasets[0]}, {other.run.name} for {datasets[1]}",
            advice="compare runs of one data set",
        )
    contents = [system.run.record.data.get(datasets[0]) for system in (one, other)]
    if contents[0] != contents[1]:
        raise RunError(
            f"runs {one.run.name} and {other.run.name} were trained on different versions of the store {datasets[0]}",
            advice="train one of them again",
        )
    limits = [system.config.data.limit for system in (one, other)]
    if limits[0] != limits[1]:
        used = [f"--limit {limit}" if limit else "all clips" for limit in limits]
        raise RunError(
            f"run {one.run.name} used {used[0]} and run {other.run.name} {used[1]}",
            advice="train both with the same --limit, or without",
        )
    if one.ids != other.ids or not np.array_equal(one.scores, other.scores):
        raise RunError(
            f"the {split} predictions of runs {one.run.name} and {other.run.name} must name the same clips with the "
            "same scores but do not",
            advice="delete the predictions of one run and evaluate it again",
        )
