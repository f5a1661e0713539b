"""Arrays whose bytes stay in their file until they are read, a few rows at a time.

A feature file of MOSEI holds 13 GB; nothing here ever holds more than the rows that were asked for. Bytes are read with
`pread`, not through a memory map, whose pages would count as memory of the process.

Axes: N rows of an array, L frames of a clip, d features per frame.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.errors import SourceError


class OpenFile:
    """A file that stays open, and so stays whole, as long as anything wants to read from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = -1
        self._handle = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._handle).st_size

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset` on.

        Raises:
            SourceError: the file has become shorter, or cannot be read.
        """
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._handle, [buffer[done:]], offset + done)
            except OSError as error:
                raise SourceError(f"cannot read {self.path}: {error.strerror or error}") from error
            if not count:
                raise SourceError(f"{self.path} ends too early: it must not change while it is read; run again")
            done += count

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)


@dataclass(frozen=True, eq=False)
class FileArray:
    """An array in C order, [N, ...], whose bytes lie in a file from `offset` on."""

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
        """Read neighbouring rows, [rows, ...]."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("neighbouring rows are read, no others")
        made = np.empty((max(0, stop - start), *self.shape[1:]), dtype=self.dtype)
        if made.size:
            self.file.read(self.offset + start * self.row_bytes, made.reshape(-1).view(np.uint8).data)
        return made

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def row(self, index: int, start: int, stop: int) -> "FileArray":
        """Return the part [start:stop] of one row, as an array that is still in the file: the frames of a clip."""
        inner = math.prod(self.shape[2:]) * self.dtype.itemsize
        shape = (max(0, stop - start), *self.shape[2:])
        return FileArray(self.file, self.offset + index * self.row_bytes + start * inner, self.dtype, shape)


Array = npt.NDArray[Any] | FileArray
"""An array in memory or in a file; both have `shape`, `ndim`, `size`, `dtype`, `len` and slices of rows."""


def part_of_row(array: Array, index: int, start: int, stop: int) -> Array:
    """Return frames [start:stop] of clip `index` of a padded array [N, P, d], without reading them."""
    return array.row(index, start, stop) if isinstance(array, FileArray) else array[index, start:stop]
