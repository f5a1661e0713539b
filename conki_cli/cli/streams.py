"""The program's two ways out: work that is done counts, whoever may have closed, filled or left them meanwhile."""

import contextlib
import io
import os
import sys
from typing import Any, TextIO

_NARROWEST, _WIDEST = 20, 10_000  # columns of a terminal that somebody can read


class Outlet(io.RawIOBase):
    """What is written to a stream; a failure is remembered and ends nothing.

    Attributes:
        failure: the first failure; None while there is none.
        kept: what the command has written to the disk, in the words of a message; empty while it has written nothing.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream  # stays open as long as this one
        self.failure: OSError | None = None
        self.kept = ""

    def write(self, data: Any, /) -> int:
        """Write, or drop what nobody can take."""
        size = memoryview(data).nbytes
        try:
            return os.write(self.fileno(), data)
        except OSError as error:
            self.failure = self.failure or error
            return size

    def fileno(self) -> int:
        """Return the number that the system knows the stream by."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True


def secure_streams() -> None:
    """Let nothing that becomes of stdout and stderr end the work.

    Where one was closed by whoever started the program, its words go nowhere: else the next file that is opened would
    take its number, and get them. A character that a terminal lacks, such as plus-minus, becomes a question mark.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    sys.stdout, sys.stderr = _secured(sys.stdout, 1), _secured(sys.stderr, 2)


def _secured(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:
        stream = os.fdopen(number, "w", encoding="utf-8", closefd=False)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    buffer = io.BufferedWriter(Outlet(stream))
    return io.TextIOWrapper(
        buffer, encoding=stream.encoding, errors="replace", line_buffering=stream.line_buffering or number == 2
    )


def _outlet() -> Outlet | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, Outlet) else None


def note_kept(what: str) -> None:
    """Remember what the command has written to the disk: it counts, also where its table cannot be shown."""
    if (outlet := _outlet()) is not None:
        outlet.kept = what


def check_shown() -> str:
    """Make sure that all of a result was shown.

    Returns:
        A warning where it was not, but what the command was for is on the disk; else nothing.

    Raises:
        OSError: it could not be shown, and there is nothing else that the command was for.
    """
    sys.stdout.flush()
    outlet = _outlet()
    if outlet is None or outlet.failure is None:
        return ""
    failure, outlet.failure = outlet.failure, None
    if not outlet.kept:
        raise failure
    if isinstance(failure, BrokenPipeError):
        return ""
    return f"warning: the result could not be shown ({failure.strerror}), but it is kept: {outlet.kept}"


def forget_odd_width() -> None:
    """Forget the width of a terminal where it cannot be one: tables of 0 columns would be empty; 80 are usual."""
    for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH"):
        value = os.environ.get(name)
        lowest = 1 if name == "LINES" else _NARROWEST
        is_number = value is not None and value.isascii() and value.isdigit() and len(value) <= len(str(_WIDEST))
        if value is not None and not (is_number and lowest <= int(value) <= _WIDEST):
            del os.environ[name]
