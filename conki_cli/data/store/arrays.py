"""Arrays that stay in their file until they are read, a few rows at a time.

A feature file of MOSEI has 13 GB; only the requested rows are ever in memory. Bytes are read with `pread`, not through
a memory map, whose pages would count as memory of the process.

Axes: N rows of an array, L frames of a clip, d features per frame.
"""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.system.errors import ConkiError, SourceError, UnreadableError


class OpenFile:
    """A file that stays open, and so available, as long as anything may read from it.

    Args:
        path: the file.
        handle: an open handle on it, which this object takes over; None: open the file.
        failure: the kind of error when reading fails.
        advice: what to do if the file has become shorter.
    """

    def __init__(
        self,
        path: Path,
        *,
        handle: int | None = None,
        failure: type[ConkiError] = SourceError,
        advice: str = "run again",
    ) -> None:
        self.path = path
        self.failure = failure
        self.advice = advice
        self._handle = -1
        self._handle = os.open(path, os.O_RDONLY) if handle is None else handle
        self.stamp = self._stamp()
        self.size = self.stamp[0]

    def check_unchanged(self) -> None:
        """Refuse everything read so far if the file was changed after it was opened.

        A file that was replaced or deleted stays the same for a process that has it open.

        Raises:
            ConkiError: the file was changed; the error has the type `failure`.
        """
        if self._stamp() != self.stamp:
            raise self.failure(
                f"{self.path} was changed while it was in use, so the values read from it cannot be trusted: "
                "make sure that nothing writes to it, and run the same command again"
            )

    def _stamp(self) -> tuple[int, int]:
        """Return size and time of the last change, in bytes and nanoseconds."""
        try:
            found = os.fstat(self._handle)
        except OSError as error:
            raise self._unreadable(error) from error
        return found.st_size, found.st_mtime_ns

    def _unreadable(self, error: OSError) -> ConkiError:
        return UnreadableError(
            f"cannot read {self.path} ({error.strerror or error}): check that it still exists, and try again"
        )

    def fill(self, values: npt.NDArray[Any], offset: int) -> None:
        """Fill an array with the bytes from `offset` on.

        Raises:
            ConkiError: the file is closed, has become shorter, or cannot be read; the error has the type `failure`.
        """
        done = self._read(values, offset)
        while 0 < done < values.nbytes:  # reads of more than 2 GiB and network file systems may be partial
            count = self._read(values.reshape(-1).view(np.uint8)[done:], offset + done)
            done = done + count if count else 0
        if not done and values.nbytes:
            raise self.failure(f"{self.path} ends too early: it must not change while it is read; {self.advice}")

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer, as `fill` does."""
        self.fill(np.frombuffer(buffer, dtype=np.uint8), offset)

    def _read(self, values: npt.NDArray[Any], offset: int) -> int:
        if self._handle < 0:
            raise self.failure(f"{self.path} is closed: read it earlier")
        try:
            return os.preadv(self._handle, [values], offset)  # type: ignore[list-item] # arrays are buffers
        except OSError as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        """Close the file; nothing can be read from it afterwards."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True, eq=False)
class FileArray:
    """An array in C order, [N, ...], whose bytes are in a file from `offset` on."""

    file: OpenFile
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """Read contiguous rows, [rows, ...]."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("only contiguous rows can be read")
        made = np.empty((max(0, stop - start), *self.shape[1:]), dtype=self.dtype)
        if made.size:
            self.file.fill(made, self.offset + start * self.row_bytes)
        if not is_text_or_numbers(made):
            raise self.file.failure(f"{self.file.path} has characters that are not valid text: {self.file.advice}")
        return made

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def row(self, index: int, start: int, stop: int) -> "FileArray":
        """Return part [start:stop] of one row, such as the frames of a clip, as an array that stays in the file."""
        inner = math.prod(self.shape[2:]) * self.dtype.itemsize
        shape = (max(0, stop - start), *self.shape[2:])
        return FileArray(self.file, self.offset + index * self.row_bytes + start * inner, self.dtype, shape)


def is_text_or_numbers(array: npt.NDArray[Any]) -> bool:
    """Say whether an array of text has only valid characters: Python fails in odd ways on codes beyond U+10FFFF."""
    if array.dtype.kind != "U" or not array.size:
        return True
    codes = np.ravel(array).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
    return bool(codes.max() <= sys.maxunicode)


Array = npt.NDArray[Any] | FileArray
"""An array in memory or in a file; both have `shape`, `ndim`, `size`, `dtype`, `len` and slices of rows."""


def part_of_row(array: Array, index: int, start: int, stop: int) -> Array:
    """Return frames [start:stop] of clip `index` of a padded array [N, P, d], without reading them."""
    return array.row(index, start, stop) if isinstance(array, FileArray) else array[index, start:stop]
