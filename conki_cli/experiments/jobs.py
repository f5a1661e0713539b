"""The steps of a plan side by side: several processes, each with its share of the threads, one display.

What a step learns does not depend on its neighbours. Its bits follow from its configuration, seed, stores and stage 1,
from the device, and from the number of threads, since sums are added up in another order with another number. So N jobs
give the bits of a run one after another in which torch computes with as many threads as each job has.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from conki_cli.config.words import run_label
from conki_cli.experiments.workers import (
    Advanced,
    Carry,
    Done,
    EpochEnded,
    Failed,
    Gone,
    Message,
    Said,
    Worker,
    Workers,
    relay,
    spread,
    threads_each,
)
from conki_cli.system.errors import ConkiError
from conki_cli.system.observer import Observer
from conki_cli.system.readable import status_of
from conki_cli.training.loop import schedule_of
from conki_cli.training.stages import train
from conki_cli.training.steps import Shelf, Step


def train_side_by_side(steps: Sequence[Step], observer: Observer, *, num_jobs: int) -> None:
    """Train steps in so many processes; the stage 1 that a step starts from comes before it.

    Args:
        steps: each once.
        observer: hears of all of them, in this process; lines say which step they are of.
        num_jobs: processes at the most.

    Raises:
        ConkiError: a step failed or its process was killed; the other steps were saved where they stood.
    """
    num_jobs = min(num_jobs, len(steps))
    if not num_jobs:
        return
    threads, order = threads_each(num_jobs), _Order(list(steps))
    observer.say(f"{len(steps)} steps in {num_jobs} jobs, each with {threads} thread{'s' if threads > 1 else ''}")
    total = sum(_num_epochs(step) for step in steps)
    with observer.steps("epochs", total) as advance, Workers(num_jobs, _opened, threads=threads) as workers:
        display = _Display(observer, advance)
        while order.is_unfinished:
            for worker in workers.idle:
                if (step := order.take()) is not None:
                    worker.give(step)
            for worker, message, task in workers.hear():
                _heed(order, display, worker, message, task)


def _heed(order: "_Order", display: "_Display", worker: Worker, message: Message, step: Step | None) -> None:
    """Take note of what a worker says of its step."""
    if isinstance(message, Gone):
        what = f"trained {words_of(step)}" if step is not None else "was to train a seed"
        raise ConkiError(
            f"the process that {what} {message.words}; its last checkpoint is kept and the other steps are saved",
            advice="give the same command again to continue, with fewer --jobs if the memory was used up",
        )
    if step is None:
        return
    if isinstance(message, Failed):
        raise message.error
    display.hear(worker, message, step)
    if isinstance(message, Done):
        order.finish(step)


@contextlib.contextmanager
def _opened() -> Iterator[Carry]:
    """Keep stores and tokenizers open between the steps of one process."""
    with Shelf() as shelf:

        def carry(step: Any, observer: Observer) -> None:
            train(step, observer, shelf=shelf)

        yield carry


def words_of(step: Step) -> str:
    """Say which step it is."""
    return f"{run_label(step.config)}, stage {1 if step.config.run.stage == 'pretrain' else 2}, seed {step.seed}"


def _num_epochs(step: Step) -> int:
    return schedule_of(step.config, step.seed).num_epochs


def _work(step: Step) -> int:
    """Return what grows with the duration of a step: epochs, the size of its stores, and passes through its encoders.

    A network with adapters computes twice: what its encoders give, and what the adapters add.
    """
    sizes = (status.st_size for path in step.stores.values() if (status := status_of(path)) is not None)
    return _num_epochs(step) * sum(sizes) * (2 if step.config.has_adapters else 1)


@dataclass
class _Order:
    """Which steps wait, which are in progress; a step is ready when its stage 1 is neither."""

    waiting: list[Step]
    running: list[Step] = field(default_factory=list)

    @property
    def is_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    def take(self) -> Step | None:
        """Return a step that is ready, from now on in progress: the one with the most work behind it, so none is last.

        A stage 1 counts with the stage 2 that waits for it; else it would begin late and end alone.
        """
        before = [(other.run, other.seed) for other in (*self.waiting, *self.running)]
        ready = [step for step in self.waiting if (step.first, step.seed) not in before]
        if not ready:
            return None
        step = max(ready, key=self._work_from)
        self.waiting.remove(step)
        self.running.append(step)
        return step

    def _work_from(self, step: Step) -> int:
        after = [other for other in self.waiting if (other.first, other.seed) == (step.run, step.seed)]
        return _work(step) + max(map(_work, after), default=0)

    def finish(self, step: Step) -> None:
        self.running.remove(step)


@dataclass
class _Display:
    """One progress display for all workers, counted in epochs."""

    observer: Observer
    advance: Callable[[int, str], None]
    doing: dict[int, str] = field(default_factory=dict)
    """Remark by worker."""
    epochs: dict[int, int] = field(default_factory=dict)
    """Epochs of its step that were counted, by worker."""

    def hear(self, worker: Worker, message: Message, step: Step) -> None:
        """Show what a worker says of its step."""
        key = id(worker)
        match message:
            case Said(line):
                self.observer.say(line if line.startswith("warning: ") else f"[{words_of(step)}] {line}")
            case Advanced(_, _, _, remark):
                self.doing[key] = f"{words_of(step)}: {remark}"
                self.advance(0, self._remark())
            case EpochEnded(_, epoch):
                relay(message, self.observer)
                self.advance(epoch.number - self.epochs.get(key, 0), self._remark())
                self.epochs[key] = epoch.number
            case Done():
                self.doing.pop(key, None)
                self.advance(_num_epochs(step) - self.epochs.pop(key, 0), self._remark())
            case _:
                relay(message, self.observer)

    def _remark(self) -> str:
        return spread([*self.doing.values()])
