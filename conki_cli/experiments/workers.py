"""Processes that work for this one: what they report reaches its observer, and they end when it asks or is gone.

Each worker has a pipe of its own, so one that is killed takes no lock with it. Ctrl-C in a terminal and the signals of
batch systems reach every process; workers ignore them and obey this process alone: asked once, they finish and save the
training step in progress, asked twice, they end where they stand.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any, Self, TypeAlias

from conki_cli.system.errors import ConkiError
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.programs import without_current_folder
from conki_cli.system.signals import ANY_ENDING, ENDINGS, OF_PARENT, install

Carry: TypeAlias = Callable[[Any, Observer], None]
"""Carries out one task and reports to an observer."""
Open: TypeAlias = Callable[[], AbstractContextManager[Carry]]
"""Opens what a worker keeps open between its tasks. It and the tasks are pickled."""


@dataclass(frozen=True)
class Said:
    """A line for the user."""

    line: str


@dataclass(frozen=True)
class Advanced:
    """Some steps of long work are done."""

    label: str
    count: int
    total: int
    """0: unknown."""
    remark: str


@dataclass(frozen=True)
class Stepped:
    """A training step is over."""

    training: Training
    number: int
    terms: Mapping[str, float]


@dataclass(frozen=True)
class EpochEnded:
    """An epoch is over."""

    training: Training
    epoch: Epoch


@dataclass(frozen=True)
class Done:
    """The task is carried out."""


@dataclass(frozen=True)
class Failed:
    """The task ended with an error."""

    error: Exception


@dataclass(frozen=True)
class Gone:
    """The process ended, though nobody asked it to."""

    exit_code: int | None

    @property
    def words(self) -> str:
        """How it ended."""
        code = self.exit_code
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was ended by signal {-code} ({signal.Signals(-code).name})"
        except ValueError:
            return f"was ended by signal {-code}"


Message: TypeAlias = Said | Advanced | Stepped | EpochEnded | Done | Failed | Gone


class WorkerError(RuntimeError):
    """A bug that showed in a worker, with its traceback there."""


def relay(message: Message, observer: Observer) -> None:
    """Tell an observer of what a worker reported of its training."""
    match message:
        case Stepped(training, number, terms):
            observer.step(training, number, terms)
        case EpochEnded(training, epoch):
            observer.epoch(training, epoch)


# ---- in this process ----


class Worker:
    """One process and the task that it has."""

    def __init__(self, number: int, open_room: Open, threads: int) -> None:
        self.task: Any = None
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_work, args=(there, open_room, threads, number), name=f"conki job {number + 1}"
        )
        with without_current_folder():
            resource_tracker.ensure_running()  # or `start` would, and unblock the signals
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)  # until it can obey them
            try:
                self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()

    def give(self, task: Any) -> None:
        """Give it a task; None: there are no more."""
        self.task = task
        with contextlib.suppress(OSError):  # it is gone, which `hear` will tell
            self.pipe.send(task)

    def hear(self) -> Message:
        """Return its next message; waits for one."""
        try:
            message: Message = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            message = Gone(self.process.exitcode)
        if isinstance(message, Done | Failed | Gone):
            self.task = None
        return message

    def ask_to_end(self) -> None:
        """Ask it to save what it does and to end."""
        with contextlib.suppress(OSError):
            if self.process.pid is not None and self.process.is_alive():
                os.kill(self.process.pid, OF_PARENT)


class Workers:
    """Some processes; at the end of the block they have ended, those that still work after they saved."""

    def __init__(self, count: int, open_room: Open, *, threads: int) -> None:
        self._starting = (count, open_room, threads)
        self._all: list[Worker] = []

    def __enter__(self) -> Self:
        count, open_room, threads = self._starting
        try:
            for number in range(count):
                self._all.append(Worker(number, open_room, threads))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            for worker in self._all:
                worker.give(None)
        self._end(ask=error[0] is not None)

    @property
    def idle(self) -> list[Worker]:
        """Those without a task."""
        return [worker for worker in self._all if worker.task is None]

    def hear(self) -> Iterator[tuple[Worker, Message, Any]]:
        """Wait until workers have reported; yield each with one message and the task that it is about."""
        by_pipe: dict[Any, Worker] = {worker.pipe: worker for worker in self._all}
        for pipe in connection.wait([*by_pipe]):
            worker = by_pipe[pipe]
            task = worker.task
            yield worker, worker.hear(), task

    def _end(self, *, ask: bool = True) -> None:
        try:
            for _ in range(2):  # Ctrl-C, and Ctrl-C again
                try:
                    for worker in self._all if ask else ():
                        worker.ask_to_end()
                    self._wait()
                    return
                except ANY_ENDING:
                    ask = True
        finally:
            for worker in self._all:
                worker.process.kill()  # nothing, if it has ended
                worker.process.join()
                worker.pipe.close()

    def _wait(self) -> None:
        """Wait until all have ended; they may have much to say until then, and would wait for a listener."""
        left = list(self._all)
        while left:
            connection.wait([worker.pipe for worker in left])
            left = [worker for worker in left if not (worker.pipe.poll() and isinstance(worker.hear(), Gone))]


def threads_each(num_jobs: int) -> int:
    """Return how many threads each of some processes gets of those that this one would compute with."""
    import torch

    return max(1, torch.get_num_threads() // num_jobs)


# ---- in the worker ----


class _Relay(Observer):
    """Sends what it hears to the process that gave the task."""

    def __init__(self, pipe: "connection.Connection[Any, Any]") -> None:
        self._pipe = pipe

    def send(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: `_follow` ends this process
            self._pipe.send(message)

    def say(self, line: str) -> None:
        self.send(Said(line))

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        yield lambda count, remark: self.send(Advanced(label, count, total, remark))

    def step(self, training: Training, number: int, terms: Mapping[str, float]) -> None:
        self.send(Stepped(training, number, dict(terms)))

    def epoch(self, training: Training, epoch: Epoch) -> None:
        self.send(EpochEnded(training, epoch))


def _work(pipe: "connection.Connection[Any, Any]", open_room: Open, threads: int, number: int) -> None:
    """Carry out tasks until there are no more, this process is asked to end, or its parent is gone."""
    for outside in ENDINGS:
        signal.signal(outside, signal.SIG_DFL if outside == OF_PARENT else signal.SIG_IGN)
    install()
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_follow, args=(pipe, tasks), daemon=True).start()  # with all these signals blocked
    relay = _Relay(pipe)
    with contextlib.suppress(*ANY_ENDING):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
        compute_with(threads, number)
        with open_room() as carry:
            while (task := tasks.get()) is not None:
                try:
                    carry(task, relay)
                except Exception as error:
                    relay.send(Failed(_portable(error)))
                else:
                    relay.send(Done())


def _follow(pipe: "connection.Connection[Any, Any]", tasks: "queue.SimpleQueue[Any]") -> None:
    """Receive tasks; end this process when the one that gives them is gone, however it ended."""
    try:
        while (task := pipe.recv()) is not None:
            tasks.put(task)
    except (EOFError, OSError):
        os.kill(os.getpid(), OF_PARENT)
    tasks.put(None)


def compute_with(threads: int, number: int) -> None:
    """Use so many threads and, where there are several accelerators, the next of them."""
    import torch

    torch.set_num_threads(threads)
    if torch.accelerator.is_available() and (count := torch.accelerator.device_count()) > 1:
        torch.accelerator.set_device_index(number % count)


def _portable(error: Exception) -> Exception:
    """Return an error that arrives whole in another process: one to be fixed by the user, or a bug's traceback."""
    if isinstance(error, ConkiError | OSError | MemoryError):
        with contextlib.suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return WorkerError("".join(traceback.format_exception(error)))


def spread(steps: Sequence[str], longest: int = 100) -> str:
    """Join what several workers do into one remark that is not too long."""
    words = " | ".join(steps)
    return words if len(words) <= longest else f"{words[: longest - 3]}..."
