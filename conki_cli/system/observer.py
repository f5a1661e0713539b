"""Who hears what long work does: the screen, a log, a tracker, a sweep that prunes. Quick to import."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Training:
    """Which training it is that an observer hears of."""

    run: str
    """Name of the run."""
    stage: int
    """1 pretraining, 2 fine-tuning."""
    seed: int
    num_epochs: int


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training gave."""

    number: int
    losses: Mapping[str, float]
    """Mean over the batches of every weighted term, and of what the model reports beside them."""
    metrics: Mapping[str, float]
    """Metrics of the validation split."""
    seconds: float
    is_best: bool


class Observer:
    """Hears what long work does; this one is silent. An exception that it raises ends the work."""

    def say(self, line: str) -> None:
        """Hear one line for the user."""

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Follow `total` steps: the yielded function takes how many were done and a remark."""
        yield lambda count, remark: None

    def step(self, training: Training, number: int, terms: Mapping[str, float]) -> None:
        """Hear of a training step: its number, counted from 1 over all epochs, and the value of every loss term."""

    def epoch(self, training: Training, epoch: Epoch) -> None:
        """Hear of a finished epoch, before it is saved."""
