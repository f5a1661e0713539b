"""An observer that tells trackers what it hears of trainings, and that nothing they do can stop or change."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from conki_cli.config.resolving import as_tables
from conki_cli.config.sections import RunConfig
from conki_cli.reporting.tracking.follower import Follower
from conki_cli.reporting.tracking.tracker import Library, Subject
from conki_cli.runs import Run, SeedResult
from conki_cli.runs.log import log_path, logged_epochs
from conki_cli.system.errors import reason_of
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.workspace import Workspace

PATIENCE = 30.0
"""Seconds that a tracker has, after the last training, to send what it holds."""


class Tracking(Observer):
    """Follows every training with some trackers; one that fails is warned of once and left out from then on."""

    def __init__(
        self, libraries: Mapping[str, Library], workspace: Workspace, observer: Observer, *, patience: float = PATIENCE
    ) -> None:
        self._workspace, self._observer, self._patience = workspace, observer, patience
        self._followers = [Follower(name, library.start) for name, library in libraries.items()]
        self._warned: set[str] = set()
        self._followed: list[Training] = []
        """Trainings in progress; several with `--jobs`."""
        self._complete: list[Training] = []
        """Those of them that had a result when the last one began."""

    def step(self, training: Training, number: int, terms: Mapping[str, float]) -> None:
        """Begin to follow a training at its first step."""
        if training not in self._followed:
            self._begin(training, math.inf)
        self._warn()

    def epoch(self, training: Training, epoch: Epoch) -> None:
        """Record the values of an epoch."""
        if training not in self._followed:
            self._begin(training, epoch.number)
        self._log(training, epoch)
        self._warn()

    def close(self) -> None:
        """End the trainings and wait for the trackers, but not for long."""
        self._finish(self._followed)
        for follower in self._followers:
            follower.close(0.0 if follower.failure else self._patience)
        self._warn()

    def _begin(self, training: Training, before: float) -> None:
        """Begin a training, with the epochs of earlier starts of it, so that every record is whole."""
        others = list(self._followed)
        self._followed.append(training)

        def begin() -> None:
            complete = [one for one in others if self._result(one) is not None]
            self._finish([one for one in complete if one in self._complete])  # a new one may not have told all yet
            self._complete = complete
            run = Run(self._workspace.runs / training.run)
            subject = Subject(training, flat_settings(run.config), self._workspace)
            for follower in self._followers:
                follower.begin(subject)
            for epoch in logged_epochs(log_path(run, training.seed)):
                if epoch.number < before:
                    self._log(training, epoch)

        self._attempt(begin)

    def _log(self, training: Training, epoch: Epoch) -> None:
        values = values_of(epoch)
        for follower in self._followers:
            follower.log(training, epoch.number, values)

    def _finish(self, trainings: Sequence[Training]) -> None:
        """End some trainings; the result of one is there if it came to its end."""
        self._followed = [one for one in self._followed if one not in trainings]

        def finish() -> None:
            for training in trainings:
                found = self._result(training)
                results = results_of(found) if found is not None else {}
                for follower in self._followers:
                    follower.finish(training, results, is_finished=found is not None)

        self._attempt(finish)

    def _result(self, training: Training) -> SeedResult | None:
        return Run(self._workspace.runs / training.run).seed_result(training.seed)

    def _attempt(self, read: Callable[[], None]) -> None:
        try:
            read()
        except Exception as error:  # what cannot be read is for the training to complain of
            for follower in self._followers:
                follower.failure = follower.failure or f"{type(error).__name__}: {reason_of(error)}"

    def _warn(self) -> None:
        for follower in self._followers:
            if follower.failure and follower.name not in self._warned:
                self._warned.add(follower.name)
                self._observer.say(
                    f"warning: {follower.name} failed and records nothing more ({follower.failure}); "
                    "the training is not affected"
                )


def flat_settings(config: RunConfig) -> dict[str, str]:
    """Return every setting of a configuration that is set, as section.key -> value."""
    tables = as_tables(config).items()
    return {f"{name}.{key}": _shown(value) for name, table in tables for key, value in table.items() if value != ""}


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def values_of(epoch: Epoch) -> dict[str, float]:
    """Return the loss terms, validation metrics and seconds of an epoch by name, where they are defined."""
    losses = {f"loss/{name}": value for name, value in epoch.losses.items()}
    metrics = {f"valid/{name}": value for name, value in epoch.metrics.items()}
    return _finite({**losses, **metrics, "seconds": epoch.seconds})


def results_of(seed: SeedResult) -> dict[str, float]:
    """Return the metrics of a finished seed's best epoch by name, its training time and its number of parameters."""
    metrics = {f"best/{split}/{name}": value for split, found in seed.metrics.items() for name, value in found.items()}
    sizes = {f"best/parameters/{name}": count for name, count in seed.parameters.items()}
    return _finite({**metrics, **sizes, "best/epoch": seed.best_epoch, "best/training_seconds": seed.seconds})


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Keep numbers: a metric may be undefined, and not every tracker takes that."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
