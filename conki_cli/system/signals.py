"""Signals that end the program: Ctrl-C, a request to end (SIGTERM), the warning before a time limit (SIGUSR1).

Each unwinds the program, so that nothing stays half-written. While a model trains, the first signal takes effect when
the current step is finished and saved; a second one takes effect immediately.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn


class Interrupted(BaseException):
    """Ctrl-C; not a KeyboardInterrupt, which Python may turn into another exit code during an import."""


class Terminated(BaseException):
    """The system asked the program to end (SIGTERM)."""


class TimeUp(BaseException):
    """A time limit is near (SIGUSR1, as batch systems send it on request)."""


ENDINGS: dict[int, type[BaseException]] = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}
"""The exception that each signal raises."""
if hasattr(signal, "SIGUSR1"):
    ENDINGS[signal.SIGUSR1] = TimeUp
OF_PARENT = getattr(signal, "SIGUSR2", signal.SIGTERM)
"""By which a process asks those that it started to end (`experiments/workers.py`)."""
ENDINGS.setdefault(OF_PARENT, Terminated)
ANY_ENDING: tuple[type[BaseException], ...] = (KeyboardInterrupt, *dict.fromkeys(ENDINGS.values()))


def exit_code(ending: BaseException) -> int:
    """Return the exit code of an ending: 128 plus the signal as in shells, and 0 before a time limit."""
    if isinstance(ending, KeyboardInterrupt):  # from before `install`
        return 128 + signal.SIGINT
    number = next(number for number, kind in ENDINGS.items() if isinstance(ending, kind))
    return 0 if isinstance(ending, TimeUp) else 128 + number


def leave_early() -> None:
    """Until `install`, let a signal end the program immediately: no work has started while modules are imported."""
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"interrupted: nothing was started\n")
    os._exit(exit_code(ENDINGS[number]()))


def install() -> None:
    """Let every signal of `ENDINGS` unwind the program, except those that the caller of the program ignores."""
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def ignore_all() -> None:
    """From now on let no signal unwind the program: it ends with an error already."""
    if threading.current_thread() is threading.main_thread():  # other threads cannot
        _ignored.set()


_ignored = threading.Event()


def _end(number: int, frame: FrameType | None) -> None:
    if not _ignored.is_set():
        raise ENDINGS[number]


@contextlib.contextmanager
def postponed() -> Iterator[Callable[[], BaseException | None]]:
    """Postpone the first signal that arrives during the block; a second one ends the block immediately.

    Yields a function that returns the postponed ending, or None. An ending that is still pending is raised at the end.
    """
    waiting: list[BaseException] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if waiting:
            waiting.clear()
            _end(number, frame)
        waiting.append(ENDINGS[number]())

    before = {}
    if threading.current_thread() is threading.main_thread():  # other threads cannot
        now = {number: signal.getsignal(number) for number in ENDINGS}
        before = {number: handler for number, handler in now.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, keep)
    try:
        yield lambda: waiting[0] if waiting else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        raise waiting[0]
