"""A seal in front of an HDF5 file: a checksum of everything that HDF5 itself would have to interpret.

HDF5's library trusts the structure of a file, and may crash or hang on a damaged one. So the first `BLOCK` bytes, which
HDF5 leaves to the user, hold the file's size, the places of the plain numbers (frames, cached states), and the CRC-32
of everything else. It is verified before HDF5 opens the file; the numbers have their own checksums. Other people's
files, and ours from before 0.3, start with HDF5's signature and have no seal: another process reads their structure
first (`probing`).
"""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from conki_cli.data.store.opening import open_hdf5

BLOCK = 4096
"""Bytes in front of the HDF5 file."""
SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""How HDF5 files begin."""
_NAME = "conki seal 1"
SEALED = b'{"name": "conki seal '
"""How sealed files begin."""
_STEP = 1 << 20
_SMALL = 1 << 18  # smaller data sets are sealed with the rest
_MOST = (
    1 << 30
)  # bytes beside the plain numbers; texts of 100,000 clips take 20 MB, but a sparse file may claim any size


class ForeignFileError(ValueError):
    """A file that neither conki nor HDF5 wrote."""


class NewerSealError(ValueError):
    """A file that a later version of conki sealed."""


def seal(path: Path) -> None:
    """Write the seal of a finished HDF5 file that has a user block of `BLOCK` bytes."""
    import h5py

    ranges: list[tuple[int, int]] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and item.nbytes >= _SMALL:
            start, size = item.id.get_offset(), item.id.get_storage_size()
            if start is not None and size == item.nbytes:
                ranges.append((int(start), int(size)))

    with open_hdf5(path) as file:
        file.visititems(note)
    ranges.sort()
    with path.open("r+b") as stream:
        size = os.fstat(stream.fileno()).st_size
        found = _checksum(stream, size, ranges)
        text = json.dumps({"name": _NAME, "size": size, "plain": ranges, "crc32": found})
        stream.seek(0)
        stream.write(text.encode().ljust(BLOCK, b"\n"))


def check_seal(path: Path) -> None:
    """Check that HDF5 can safely open a file: it matches its seal, or another process could read it.

    Raises:
        ForeignFileError: it starts neither with a seal nor as HDF5.
        ValueError: it was changed after it was sealed, or HDF5 cannot read it.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        block = stream.read(BLOCK)
        if block.startswith(SIGNATURE):
            from conki_cli.data.store.probing import probe

            probe(path)
            return
        if not block.startswith(SEALED):
            raise ForeignFileError("it is not a file of conki")
        try:
            said = json.loads(block)
            name, size, crc32 = said["name"], said["size"], said["crc32"]
            ranges = [(int(start), int(length)) for start, length in said["plain"]]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError("its seal cannot be read") from error
        if name != _NAME:
            raise NewerSealError("its seal has another version")
        if (found := os.fstat(stream.fileno()).st_size) != size:
            raise ValueError(f"it has {found} bytes and was written with {size}")
        if _in_order(ranges, found) and sum(end - start for start, end in _gaps(found, ranges)) > _MOST:
            raise ValueError(f"it declares more than {_MOST >> 20} MiB beside its numbers")
        if not _in_order(ranges, found) or _checksum(stream, found, ranges) != crc32:
            raise ValueError("its structure was changed after it was written")


def _in_order(ranges: list[tuple[int, int]], size: int) -> bool:
    """Say whether the ranges follow one another within the file."""
    ends = [BLOCK, *(start + length for start, length in ranges)]
    begins = [*(start for start, _ in ranges), size]
    return all(end <= begin for end, begin in zip(ends, begins, strict=True)) and all(n > 0 for _, n in ranges)


def _checksum(stream: BinaryIO, size: int, ranges: list[tuple[int, int]]) -> str:
    """Return the CRC-32 of the bytes after the seal and outside the ranges, and of the ranges and the size."""
    found = zlib.crc32(json.dumps([size, ranges]).encode())
    for start, end in _gaps(size, ranges):
        stream.seek(start)
        while start < end and (block := stream.read(min(_STEP, end - start))):
            found = zlib.crc32(block, found)
            start += len(block)
    return f"{found:08x}"


def _gaps(size: int, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    end = BLOCK
    for start, length in ranges:
        yield end, start
        end = start + length
    yield end, size
