"""Observers of long work, for example the screen, a log, a tracker or a pruning sweep. Fast to import."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Training:
    """Identifies a training for an observer."""

    run: str
    """Name of the run."""
    stage: int
    """1 pretraining, 2 fine-tuning."""
    seed: int
    num_epochs: int


@dataclass(frozen=True)
class Epoch:
    """The results of one epoch of training."""

    number: int
    losses: Mapping[str, float]
    """Mean over the batches of every weighted term and of every other number that the model reports."""
    metrics: Mapping[str, float]
    """Metrics of the validation split."""
    seconds: float
    is_best: bool


class Observer:
    """Is notified of the progress of long work; this base class is silent. An exception in it ends the work."""

    def say(self, line: str) -> None:
        """Receive one line for the user."""

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Follow `total` steps: the yielded function takes the number of finished steps and a short text."""
        yield lambda count, remark: None

    def step(self, training: Training, number: int, terms: Mapping[str, float]) -> None:
        """Receive a training step: its number, counted from 1 over all epochs, and the value of every loss term."""

    def epoch(self, training: Training, epoch: Epoch) -> None:
        """Receive a finished epoch, before it is saved."""
