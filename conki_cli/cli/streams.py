"""stdout and stderr: finished work counts, even if a stream is closed, full or no longer read."""

import contextlib
import io
import os
import sys
from typing import Any, TextIO

_NARROWEST, _WIDEST = 20, 10_000  # plausible numbers of columns of a terminal


class Outlet(io.RawIOBase):
    """A stream that remembers a failed write instead of raising.

    Attributes:
        failure: the first failure; None while there is none.
        written: what the command has written to the disk, as part of a message; empty if nothing yet.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream  # stays open as long as this one
        self.failure: OSError | None = None
        self.written = ""

    def write(self, data: Any, /) -> int:
        """Write, or drop what cannot be written."""
        size = memoryview(data).nbytes
        try:
            return os.write(self.fileno(), data)
        except OSError as error:
            self.failure = self.failure or error
            return size

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True


def secure_streams() -> None:
    """Make sure that a failing stdout or stderr does not end the work.

    A stream that was closed before the program started is replaced by /dev/null: otherwise the next opened file would
    get its descriptor, and the output. A character that a terminal lacks, such as plus-minus, becomes a question mark.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
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


def note_written(what: str) -> None:
    """Remember what the command has written to the disk: it counts even if the table cannot be shown."""
    if (outlet := _outlet()) is not None:
        outlet.written = what


def check_shown() -> str:
    """Make sure that all of a result was shown.

    Returns:
        A warning if it was not, but the command's result is on the disk; otherwise an empty string.

    Raises:
        OSError: it could not be shown, and nothing was written to the disk.
    """
    sys.stdout.flush()
    outlet = _outlet()
    if outlet is None or outlet.failure is None:
        return ""
    failure, outlet.failure = outlet.failure, None
    if not outlet.written:
        raise failure
    if isinstance(failure, BrokenPipeError):
        return ""
    return f"warning: the result could not be shown ({failure.strerror}), but it is kept: {outlet.written}"


def forget_odd_width() -> None:
    """Forget an implausible terminal width, which falls back to 80 columns: tables of 0 columns would be empty."""
    for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH"):
        value = os.environ.get(name)
        lowest = 1 if name == "LINES" else _NARROWEST
        is_number = value is not None and value.isascii() and value.isdigit() and len(value) <= len(str(_WIDEST))
        if value is not None and not (is_number and lowest <= int(value) <= _WIDEST):
            del os.environ[name]
