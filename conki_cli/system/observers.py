"""Several observers as one."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from conki_cli.system.observer import Epoch, Observer, Training


class Observers(Observer):
    """Several observers that receive the same calls, in this order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def say(self, line: str) -> None:
        """Pass on one line for the user."""
        for observer in self.observers:
            observer.say(line)

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Follow `total` steps."""
        with contextlib.ExitStack() as stack:
            followers = [stack.enter_context(observer.steps(label, total)) for observer in self.observers]

            def advance(count: int, remark: str) -> None:
                for follower in followers:
                    follower(count, remark)

            yield advance

    def step(self, training: Training, number: int, terms: Mapping[str, float]) -> None:
        """Pass on a training step."""
        for observer in self.observers:
            observer.step(training, number, terms)

    def epoch(self, training: Training, epoch: Epoch) -> None:
        """Pass on a finished epoch."""
        for observer in self.observers:
            observer.epoch(training, epoch)
