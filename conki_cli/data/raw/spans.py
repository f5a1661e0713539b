"""Bytes of a pickle that stay in the file, arrays over them, and a budget for reading the rest.

A pickle declares sizes, shapes and repetitions, which are not trusted. Arrays are made over existing bytes, and every
copy and every object is charged to a budget, so that a small file cannot allocate much memory.
"""

import codecs
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from conki_cli.data.store.arrays import Array, FileArray, OpenFile

LAZY_BYTES = 64 * 2**10
"""Strings and arrays from this size on stay in the file; smaller ones are read."""
TEXT_BYTES = 16 * 2**20
"""Limit of the length of a text or byte string outside an array."""
OBJECT_BYTES = 512 * 2**20
"""Memory limit for the objects of a pickle besides its own bytes. 23,000 clips of 20 words and three arrays cost 140
MiB; every instruction costs at least 16 bytes, so this also limits a pickle to 33 million instructions."""

_COPIES = 3  # how often the bytes of a file may be copied in total: widening bfloat16 to float32 needs this much
_SPARE_BYTES = 32 * 2**20  # extra allowance for small files
_BUFFER_BYTES = 16 * 2**10  # smaller than the strings that are skipped, so that skipping reads little


class Refused(Exception):  # noqa: N818 - becomes a SourceError when the file's name is known
    """A pickle requests something that is not allowed."""


class Budget:
    """The remaining budget for reading one pickle, in bytes."""

    __slots__ = ("copies", "objects")

    def __init__(self, size: int) -> None:
        self.objects = OBJECT_BYTES
        self.copies = _COPIES * size + _SPARE_BYTES

    def take_objects(self, count: int) -> None:
        """Charge the size of objects besides the bytes of the file.

        Raises:
            Refused: the budget is used up.
        """
        self.objects -= count
        if self.objects < 0:
            raise Refused(
                f"its lists, texts and instructions would take more than {OBJECT_BYTES // 2**20} MiB besides its "
                "arrays: save long lists as numpy arrays"
            )

    def take_copies(self, count: int) -> None:
        """Charge bytes of the file that are copied into memory in addition.

        Raises:
            Refused: the budget for copies is used up.
        """
        self.copies -= count
        if self.copies < 0:
            raise Refused("it would copy its arrays many times: save every array once, in C order")


class Source:
    """The bytes of a pickle, in a file or in memory."""

    def __init__(self, holder: OpenFile | bytes, budget: Budget | None = None) -> None:
        self.holder = holder
        self.size = len(holder) if isinstance(holder, bytes) else holder.size
        self.budget = budget or Budget(self.size)

    def fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset` on."""
        if isinstance(self.holder, OpenFile):
            self.holder.read(offset, buffer)
        else:
            buffer[:] = memoryview(self.holder)[offset : offset + len(buffer)]

    def read(self, offset: int, length: int) -> bytearray:
        """Return bytes that are known to exist; they are charged as a copy."""
        self.budget.take_copies(length)
        made = bytearray(length)
        self.fill(offset, memoryview(made))
        return made

    def array(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], *, is_fortran: bool = False) -> Array:
        """Return an array over bytes that are known to exist: in the file if it is large and in C order."""
        length = math.prod(shape) * dtype.itemsize
        if isinstance(self.holder, OpenFile) and length >= LAZY_BYTES and shape and not is_fortran:
            return FileArray(self.holder, offset, dtype, shape)
        return np.ndarray(shape, dtype=dtype, buffer=self.read(offset, length), order="F" if is_fortran else "C")

    def stream(self, start: int, stop: int) -> io.BufferedReader:
        """Open bytes [start:stop] for reading; its positions are those of the whole."""
        return io.BufferedReader(_Window(self, start, stop), _BUFFER_BYTES)


class _Window(io.RawIOBase):
    """A part of a source as a file."""

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self._source, self._place, self._stop = source, start, stop

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._place = offset + (self._place if whence == io.SEEK_CUR else 0)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        count = max(0, min(len(buffer), self._stop - self._place))
        self._source.fill(self._place, memoryview(buffer)[:count])
        self._place += count
        return count


def plain(raw: bytes | bytearray) -> bytes:
    """Return bytes as they are."""
    return bytes(raw)


def from_utf8(raw: bytes | bytearray) -> str:
    """Decode text of the binary protocols."""
    return str(raw, "utf-8", "surrogatepass")


def from_escaped_text(raw: bytes | bytearray) -> str:
    """Decode text of protocol 0."""
    return str(raw, "raw-unicode-escape")


def from_escaped_bytes(raw: bytes | bytearray) -> bytes:
    """Decode a byte string of python 2 in protocol 0."""
    return codecs.escape_decode(raw)[0]


Decoder = Callable[[bytes | bytearray], str | bytes]
_CODECS: dict[Decoder, str] = {from_utf8: "utf-8", from_escaped_text: "raw-unicode-escape"}


@dataclass(frozen=True, eq=False)
class Span:
    """A long string of a pickle that exists but has not been read."""

    source: Source
    offset: int
    length: int
    decode: Decoder

    def value(self) -> str | bytes:
        """Read it as a text or byte string.

        Raises:
            Refused: it is too long.
        """
        if self.length > TEXT_BYTES:
            raise Refused(
                f"a string outside an array has {self.length // 2**20} MiB, and the limit is "
                f"{TEXT_BYTES // 2**20} MiB: save data as numpy arrays"
            )
        value = self.decode(self.source.read(self.offset, self.length))
        self.source.budget.take_objects(value.__sizeof__())
        return value

    def latin1(self) -> bytes:
        """Read bytes that protocols 0 to 2 wrote as text, in pieces: one odd character must not widen them all."""
        decoder = codecs.getincrementaldecoder(_CODECS[self.decode])()
        self.source.budget.take_copies(self.length)
        made = bytearray()
        for start in range(self.offset, self.offset + self.length, 2**20):
            piece = bytearray(min(2**20, self.offset + self.length - start))
            self.source.fill(start, memoryview(piece))
            made += decoder.decode(bytes(piece), start + len(piece) == self.offset + self.length).encode("latin1")
        return bytes(made)
