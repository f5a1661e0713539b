"""Read untrusted .npy and .npz files: nothing in them is executed, and declared sizes allocate no memory.

An .npz is a zip archive of .npy files. Large uncompressed members stay in the file, as `FileArray`; the others are
unpacked into memory, at most 1 GiB in total. Object arrays are pickles: they go through the restricted unpickler, and
may only hold texts or arrays of numbers.
"""

import io
import math
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from conki_cli.data.store.arrays import Array, FileArray, OpenFile, is_text_or_numbers
from conki_cli.system.errors import SourceError, one_line
from conki_cli.system.readable import human_size

MAX_IN_MEMORY = 2**30
"""Limit of the total memory of the members of one archive, in bytes."""
_MIN_IN_FILE = 64 * 2**10
"""Smaller members are read immediately: thousands of lazy arrays of a few bytes would cost more than they save."""
_MAX_RATIO = 1000
_MAX_DIRECTORY = 8 * 2**20  # room for about 80,000 members
_HEAD_BYTES = 16 * 2**10  # of a member: its .npy header, which numpy pads to 64 or 128 bytes
_MAX_HEADER = 10_000
_CHUNK_BYTES = 256 * 2**10
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field


@dataclass(frozen=True)
class Header:
    """The header of an .npy file.

    Attributes:
        dtype: type of the values: numbers, text, or objects.
        shape: shape of the array.
        is_fortran: whether the first axis runs fastest.
        offset: start of the values.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    offset: int


@dataclass(frozen=True)
class _Member:
    where: str
    key: str
    start: int  # of its local header
    offset: int  # of its bytes
    packed: int
    size: int
    is_deflated: bool
    checksum: int


def read_npz(path: Path, *, only: Collection[str] | None = None) -> dict[str, Array]:
    """Read the arrays of an .npz archive; the large ones stay in the file.

    Args:
        path: the archive.
        only: names of the arrays to read, if not all; missing ones are left out.

    Returns:
        Arrays of numbers or text by name.

    Raises:
        SourceError: the archive cannot be read, is damaged, encrypted, not an archive of arrays, or a compression bomb.
    """
    file = open_file(path)
    members = [member for member in _members(file) if only is None or member.key in only]
    headers = [_header_of(file, member) for member in members]
    arrays: dict[str, Array] = {}
    for member, header in zip(members, headers, strict=True):
        if _stays_in_file(member, header):
            arrays[member.key] = FileArray(file, member.offset + header.offset, header.dtype, header.shape)
    _check_sizes(path, [member for member in members if member.key not in arrays])
    for member, header in zip(members, headers, strict=True):
        if member.key not in arrays:
            arrays[member.key] = _unpacked_array(file, member, header)
    return {member.key: arrays[member.key] for member in members}


def look_into_npz(path: Path) -> dict[str, Header]:
    """Return the headers of the arrays in an archive, without reading their values.

    Raises:
        SourceError: see `read_npz`.
    """
    file = open_file(path)
    return {member.key: _header_of(file, member) for member in _members(file)}


def look_into_npy(path: Path) -> Header:
    """Return the header of an .npy file.

    Raises:
        SourceError: it cannot be read, or declares more than it holds.
    """
    file = open_file(path)
    head = _bytes_at(file, 0, min(file.size, _HEAD_BYTES), str(path))
    return header_of(str(path), head, file.size)


def read_npy(path: Path) -> npt.NDArray[Any]:
    """Read an .npy file of numbers.

    Raises:
        SourceError: it cannot be read, declares more than it holds, or does not hold numbers.
    """
    header = look_into_npy(path)
    if header.dtype.kind not in "biuf":
        raise SourceError(f"{path} must be an array of numbers, found {header.dtype}")
    file = open_file(path)
    order = -1 if header.is_fortran else 1
    array = FileArray(file, header.offset, header.dtype, header.shape[::order])
    return array[:].T if header.is_fortran else array[:]


def open_file(path: Path) -> OpenFile:
    """Open a regular file.

    Raises:
        SourceError: it is not a regular file, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could block forever
            raise SourceError(f"{path} must be a file")
        return OpenFile(path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def header_of(where: str, head: bytes | bytearray, size: int) -> Header:
    """Read the header of an .npy file from its first bytes.

    Args:
        where: the file's name in messages.
        head: its first bytes, including the complete header.
        size: bytes of the whole file.

    Raises:
        SourceError: there is no header, or its shape does not fit the size.
    """
    stream = io.BytesIO(head)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about every header of Python 2
            version = np.lib.format.read_magic(stream)
            reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, is_fortran, dtype = reads[version](stream, max_header_size=_MAX_HEADER)
    except KeyError:
        raise SourceError(
            f"{where} has a newer .npy version than 2", advice="save plain arrays of numbers or text"
        ) from None
    except Exception as error:  # the header is a Python literal; a damaged one can fail in any way
        raise SourceError(
            f"{where} must be a whole .npy array but is not (its header is damaged)", advice="get it again"
        ) from error
    header = Header(dtype, tuple(int(length) for length in shape), bool(is_fortran), stream.tell())
    _check_header(where, header, size - header.offset)
    return header


def _check_header(where: str, header: Header, size: int) -> None:
    if header.dtype.kind not in "biufSUO" or header.dtype.fields or not header.dtype.itemsize:
        raise SourceError(f"{where} must hold numbers or text, found {one_line(str(header.dtype))[:80]}")
    if any(length < 0 for length in header.shape) or len(header.shape) > 32:
        raise SourceError(f"{where} has the impossible shape {str(header.shape)[:80]}", advice="get it again")
    if header.dtype.kind == "O":  # a pickle, of any size
        return
    room = math.prod(max(1, length) for length in header.shape) * header.dtype.itemsize
    needed = room if 0 not in header.shape else 0
    if needed != size or room >= 2**62:
        raise SourceError(
            f"{where} declares {header.dtype} of shape {str(header.shape)[:80]} but holds {size} bytes",
            advice="get it again",
        )


# ---- archives ----


class _DirectoryStream:
    """The stream from which `zipfile` reads the directory of an archive, with a limit on the size of a read."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self._position, self._file.size)[whence]
        if position < 0:
            raise OSError("before the start of the file")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        available = max(0, self._file.size - self._position)
        count = available if count < 0 else min(count, available)
        if count > _MAX_DIRECTORY:
            raise ValueError(f"its directory has {human_size(count)}")
        buffer = bytearray(count)
        self._file.read(self._position, memoryview(buffer))
        self._position += count
        return bytes(buffer)


def _members(file: OpenFile) -> list[_Member]:
    """Return the members of an archive, in the order of the file."""
    path = file.path
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], _DirectoryStream(file)))
        entries, end = archive.infolist(), archive.start_dir
    except SourceError:
        raise
    except Exception as error:  # a damaged directory can fail in any way
        reason = str(error) if type(error) is ValueError else "its list of contents is missing or damaged"
        raise SourceError(
            f"{path} must be a whole .npz archive but is not ({reason})", advice="get it again"
        ) from error
    members = sorted((_member_of(file, entry) for entry in entries), key=lambda member: member.start)
    seen: set[str] = set()
    for member in members:
        if member.key in seen:
            raise SourceError(f"{path} holds {member.key!r} twice", advice="save it again")
        seen.add(member.key)
    ends = [*(member.start for member in members[1:]), end]
    for member, limit in zip(members, ends, strict=False):
        if member.offset + member.packed > limit:
            raise SourceError(f"{member.where} overlaps the next member: the archive is damaged or hostile")
    return members


def _member_of(file: OpenFile, entry: zipfile.ZipInfo) -> _Member:
    name = entry.orig_filename
    if not name.endswith(".npy") or not name[:-4] or len(name) > 255 or not name.isprintable():
        shown = one_line(name)[:60]
        raise SourceError(
            f"{file.path} must be an .npz archive of .npy arrays, found {shown!r}", advice="save it with numpy"
        )
    where = f"{file.path}, {name[:-4]!r}"
    if entry.flag_bits & 0x2041:  # encrypted in any of the three ways
        raise SourceError(f"{where} is encrypted", advice="save it without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceError(f"{where} is compressed by method {entry.compress_type}", advice="save it with numpy.savez")
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(
        _bytes_at(file, entry.header_offset, _LOCAL_HEADER.size, where)
    )
    is_deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    if signature != b"PK\x03\x04" or not (is_deflated or entry.compress_size == entry.file_size):
        raise SourceError(f"{where} is damaged", advice="get the archive again")
    offset = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    return _Member(
        where, name[:-4], entry.header_offset, offset, entry.compress_size, entry.file_size, is_deflated, entry.CRC
    )


def _stays_in_file(member: _Member, header: Header) -> bool:
    is_plain = header.dtype.kind in "biuf" and not header.is_fortran and not member.is_deflated
    return is_plain and member.size >= _MIN_IN_FILE


def _check_sizes(path: Path, members: list[_Member]) -> None:
    """Refuse archives that would not fit into memory, before anything is unpacked."""
    for member in members:
        if member.size > max(2**20, _MAX_RATIO * member.packed):
            raise SourceError(
                f"{member.where} declares {human_size(member.size)} in {human_size(member.packed)}, "
                f"more than {_MAX_RATIO} times as much: refused as a compression bomb"
            )
    size = sum(member.size for member in members)
    if size > MAX_IN_MEMORY:
        raise SourceError(
            f"{path} declares {human_size(size)} when unpacked, more than {human_size(MAX_IN_MEMORY)}",
            advice="save numbers in C order with numpy.savez, without compression; then they are read in slices",
        )


def _unpacked_array(file: OpenFile, member: _Member, header: Header) -> npt.NDArray[Any]:
    data = _unpacked(file, member, member.size + 1)
    if len(data) != member.size or zlib.crc32(data) != member.checksum:
        raise SourceError(f"{member.where} is damaged: its bytes do not match the archive's checksum; get it again")
    if header.dtype.kind == "O":
        return _objects(member.where, header, bytes(memoryview(data)[header.offset :]))
    order: Any = "F" if header.is_fortran else "C"
    array: npt.NDArray[Any] = np.ndarray(header.shape, header.dtype, data, header.offset, order=order)
    if not is_text_or_numbers(array):
        raise SourceError(f"{member.where} has characters that are not valid text", advice="get the archive again")
    return array


def _objects(where: str, header: Header, data: bytes) -> npt.NDArray[Any]:
    from conki_cli.data.raw.pickles import read_pickle_bytes

    try:
        array = read_pickle_bytes(data, where)
    except SourceError as error:
        raise SourceError(f"{error}; object arrays of an .npz may only hold texts or arrays of numbers") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "O" or array.shape != header.shape:
        raise SourceError(
            f"{where} declares objects of shape {header.shape} but holds something else", advice="get it again"
        )
    return array


def _header_of(file: OpenFile, member: _Member) -> Header:
    return header_of(member.where, _unpacked(file, member, _HEAD_BYTES), member.size)


def _unpacked(file: OpenFile, member: _Member, limit: int) -> bytearray:
    """Return the first `limit` bytes of a member, whatever size it declares."""
    if not member.is_deflated:
        return _bytes_at(file, member.offset, min(limit, member.size), member.where)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    made = bytearray()
    position, end = member.offset, member.offset + member.packed
    try:
        while len(made) < limit and not inflate.eof:
            chunk: bytes | bytearray = inflate.unconsumed_tail
            if not chunk:
                chunk = _bytes_at(file, position, min(_CHUNK_BYTES, end - position), member.where)
                position += len(chunk)
            if not chunk:
                break
            made += inflate.decompress(chunk, limit - len(made))
    except zlib.error as error:
        raise SourceError(
            f"{member.where} is damaged and cannot be unpacked", advice="get the archive again"
        ) from error
    return made


def _bytes_at(file: OpenFile, offset: int, count: int, where: str) -> bytearray:
    if offset < 0 or offset + count > file.size:
        raise SourceError(f"{where} ends too early", advice="get the complete file again")
    buffer = bytearray(count)
    file.read(offset, memoryview(buffer))
    return buffer
