"""Read matrices of numbers in untrusted MATLAB 5 files (save -v6, -v7, scipy.io.savemat).

scipy's own reader unpacks a compressed variable before it checks it: 1.5 MB can allocate 1.5 GiB. Here a variable's
size and shape are compared with the existing bytes, and the unpacked size is limited by the stored size. Nothing in
such a file is executed. Cells, structures, texts, objects and sparse matrices are named but not read.

Axes: L frames of a clip, d features per frame.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.npz import open_file
from conki_cli.system.errors import SourceError, one_line
from conki_cli.system.readable import human_size

MOST_BYTES = 256 * 2**20
"""Limit of the size of a file, and of a variable in it."""
_MOST_SHRUNK = 1000  # limit of unpacked bytes per stored byte, as in .npz files
_FREE_BYTES = 2**20
_MOST_VARIABLES = 10_000
_HEADER_BYTES = 128
_HEAD_BYTES = 4096  # of a variable: its class, shape and name
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Storage types of numbers, which may be smaller than the numbers' own type."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_OTHER_CLASSES = {1: "a cell array", 2: "a structure", 3: "an object", 4: "text", 5: "a sparse matrix"}
_IS_COMPLEX = 0x0800


@dataclass(frozen=True, eq=False)
class Matrix:
    """A variable of a MATLAB file.

    Attributes:
        name: its name.
        shape: its declared shape, checked against the existing bytes; usually [rows, columns].
        other: its kind, if it is not a matrix of real numbers.
        dtype: numpy's code for the type of its values.
        stored: the storage type of the values.
        values: the bytes of its values; empty if only its head was read.
    """

    name: str
    shape: tuple[int, ...]
    other: str = ""
    dtype: str = "f8"
    stored: str = "f8"
    values: bytes = b""

    def array(self) -> npt.NDArray[Any]:
        """Return its values; MATLAB's first index runs fastest."""
        stored = np.frombuffer(self.values, dtype=self.stored)
        return stored.reshape(self.shape, order="F").astype(self.dtype, copy=False)


def look_into_mat(path: Path) -> dict[str, Matrix]:
    """Return the variables of a MATLAB file by name, without their values.

    Raises:
        SourceError: it cannot be read, is damaged, is of MATLAB 7.3, or declares more than it holds.
    """
    return {found.name: found for found in _matrices(path, None)}


def read_mat(path: Path, name: str) -> npt.NDArray[Any]:
    """Read a matrix of numbers.

    Raises:
        SourceError: see `look_into_mat`; or the matrix is not there any more.
    """
    for found in _matrices(path, name):
        if found.name == name and not found.other:
            return found.array()
    raise SourceError(f"{path} has changed: it must not change while it is read; run again")


def _matrices(path: Path, wanted: str | None) -> Iterator[Matrix]:
    """Yield the variables of a file; values only of the one that is wanted."""
    file = open_file(path)
    if file.size > MOST_BYTES:
        raise SourceError(
            f"{path} has {human_size(file.size)}, and the limit is {human_size(MOST_BYTES)}", advice="save fewer frames"
        )
    head = bytearray(min(file.size, _HEADER_BYTES))
    file.read(0, memoryview(head))
    order = _order_of(path, bytes(head))
    place, names = _HEADER_BYTES, set[str]()
    while place < file.size:
        tag = bytearray(min(8, file.size - place))
        file.read(place, memoryview(tag))
        kind, size = _Bytes(path, bytes(tag), order).words(0, 2)
        place += 8
        if size > file.size - place or len(names) >= _MOST_VARIABLES:
            raise SourceError(f"{path} ends too early", advice="get the complete file again")
        stored = bytearray(size)
        file.read(place, memoryview(stored))
        place += size
        if (found := _matrix(path, kind, bytes(stored), order, wanted)) is None:
            continue
        if found.name in names:
            raise SourceError(f"{path} holds {one_line(found.name)[:60]!r} twice", advice="save it again")
        names.add(found.name)
        yield found


def _order_of(path: Path, head: bytes) -> str:
    """Return the order of bytes in a file, `<` or `>`, from its header."""
    if head.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise SourceError(f"{path} is a MATLAB 7.3 file", advice="save it with save(..., '-v7'), or as .npy")
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None or len(head) < _HEADER_BYTES or b"MATLAB 5.0" not in head[:116]:
        raise SourceError(f"{path} is not a supported MATLAB file", advice="save it with save(..., '-v7'), or as .npy")
    return order


@dataclass(frozen=True)
class _Bytes:
    """Bytes of a file, with checks that they exist."""

    path: Path
    data: bytes
    order: str

    def at(self, start: int, count: int) -> bytes:
        found = self.data[start : start + count]
        if start < 0 or len(found) != count:
            raise SourceError(f"{self.path} is damaged or ends too early", advice="get the complete file again")
        return found

    def words(self, start: int, count: int, kind: str = "u4") -> tuple[int, ...]:
        size = 4 * count
        return tuple(np.frombuffer(self.at(start, size), dtype=self.order + kind).tolist())

    def element(self, start: int) -> tuple[int, int, int, int]:
        """Return type, start and number of bytes of the element at `start`, and the start of the next one."""
        first, size = self.words(start, 2)
        if first >> 16:  # up to four bytes are in the tag itself
            return first & 0xFFFF, start + 4, first >> 16, start + 8
        return first, start + 8, size, start + 8 + -(-size // 8) * 8


def _matrix(path: Path, kind: int, stored: bytes, order: str, wanted: str | None) -> Matrix | None:
    """Return the variable in an element of a file; None if the element is not a variable."""
    if kind == _MATRIX:
        return _parsed(_Bytes(path, stored, order), len(stored), wanted)
    if kind != _COMPRESSED:
        return None
    start = _Bytes(path, _inflated(path, stored, _HEAD_BYTES), order)
    inner, size = start.words(0, 2)
    if inner != _MATRIX:
        return None
    if size > min(MOST_BYTES, _MOST_SHRUNK * len(stored) + _FREE_BYTES):
        raise SourceError(
            f"{path} declares {human_size(size)} in {human_size(len(stored))}: refused as a compression bomb; save it "
            "without compression ('-v6')"
        )
    found = _parsed(_Bytes(path, start.data[8:], order), size, None)
    if found.other or wanted != found.name:
        return found
    whole = _inflated(path, stored, size + 8)
    return _parsed(_Bytes(path, whole[8:], order), size, wanted)


def _inflated(path: Path, stored: bytes, limit: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(stored, limit)
    except zlib.error as error:
        raise SourceError(f"{path} is damaged and cannot be unpacked", advice="get the file again") from error


def _parsed(data: _Bytes, size: int, wanted: str | None) -> Matrix:
    """Return a variable from its bytes, of which the first suffice if its values are not wanted.

    Args:
        data: flags, shape, name and values.
        size: the number of bytes, in the file or when unpacked.
        wanted: name of the variable whose values are wanted.
    """
    _, place, length, following = data.element(0)
    flags = data.words(place, 2)[0]
    _, place, length, following = data.element(following)
    shape = data.words(place, _num_axes(data, length), "i4")
    _, place, length, following = data.element(following)
    name = data.at(place, min(length, 255)).decode("latin-1")
    code = flags & 0xFF
    other = "" if code in _CLASSES else _OTHER_CLASSES.get(code, "an unsupported kind")
    other = other or ("complex numbers" if flags & _IS_COMPLEX else "")
    if other:
        return Matrix(name, shape, other)
    kind, place, length, _ = data.element(following)
    if kind not in _STORED or min(shape, default=-1) < 0 or place + length > size:
        raise SourceError(f"{data.path} is damaged at {one_line(name)[:60]!r}", advice="get the complete file again")
    stored, dtype = data.order + _STORED[kind], data.order + _CLASSES[code]
    if math.prod(shape) * int(stored[-1]) != length or math.prod(shape) * int(dtype[-1]) > MOST_BYTES:
        raise SourceError(
            f"{data.path} declares {one_line(name)[:60]!r} of shape {str(shape)[:80]} but holds {length} bytes of it",
            advice="get the file again",
        )
    values = data.at(place, length) if wanted == name else b""
    return Matrix(name, shape, other, dtype, stored, values)


def _num_axes(data: _Bytes, length: int) -> int:
    """Return the number of axes of a shape of `length` bytes, 2 to 32."""
    count, rest = divmod(length, 4)
    if rest or not 2 <= count <= 32:
        raise SourceError(f"{data.path} is damaged: a matrix of it has {count} axes; get the file again")
    return count
