"""What a tracker is told of a training, and what a tracking library must offer."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from conki_cli.system.observer import Training
from conki_cli.system.workspace import Workspace

PROJECT = "conki"
"""What trainings are filed under in a tracker, unless the user's environment says otherwise."""


@dataclass(frozen=True)
class Subject:
    """One seed of one stage, as a tracker is told of it before its first epoch."""

    training: Training
    settings: Mapping[str, str]
    """Every resolved setting: section.key -> value."""
    workspace: Workspace

    @property
    def name(self) -> str:
        """What the training is called in a tracker."""
        return f"{self.training.run}/seed-{self.training.seed}"

    @property
    def facts(self) -> dict[str, str]:
        """Run, stage, seed and every setting."""
        about = {"run": self.training.run, "stage": str(self.training.stage), "seed": str(self.training.seed)}
        return about | dict(self.settings)


class Tracker(Protocol):
    """One training in one tracker. Methods are called in order, in a thread of the tracker; they may raise."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the values of an epoch."""

    def finish(self, results: Mapping[str, float], *, is_finished: bool) -> None:
        """Record the results of a finished seed and end; an interrupted one has no results."""


@dataclass(frozen=True)
class Library:
    """An imported tracking library."""

    start: Callable[[Subject], Tracker]
    """Begins to record a training."""
    where: Callable[[Workspace], str]
    """Says where the user finds what is recorded."""


def environment_or(variable: str, default: str) -> str:
    """Return an environment variable, or the default where it is unset or empty."""
    return os.environ.get(variable) or default
