"""Verify files of cached states, which `cached_states` writes, without torch."""

import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from conki_cli.data.store.opening import open_hdf5
from conki_cli.data.store.records import counted
from conki_cli.data.store.seal import check_seal
from conki_cli.runs import check_is_file
from conki_cli.system.errors import Kind, StoreError, quoted
from conki_cli.system.findings import OK, REMARK, Examination, Finding, attempt, fault
from conki_cli.system.locks import holder_of, lock_beside
from conki_cli.system.workspace import Workspace

_BLOCK = 4 * 2**20  # bytes that are read at once


def states_in(workspace: Workspace) -> list[Path]:
    """Return the files of cached states in a workspace, in order."""
    return sorted(workspace.states.glob("[!.]*.h5"))


def verify_states(path: Path, examination: Examination) -> Iterator[Finding]:
    """Verify a file with the states of a frozen text encoder: every byte against its checksum."""
    if holder := holder_of(lock_beside(path)):
        yield Finding(str(path), REMARK, f"{holder} is writing it", "wait for it")
    found, error = attempt(_read, path, examination.advance)
    if found is not None:
        yield Finding(str(path), OK, found)
    if error is not None:
        advice = f"delete it: rm {quoted(path)}; the next training that reads it computes it again"
        yield fault(path, error, path, advice)


def _read(path: Path, advance: Callable[[int, str], None]) -> str:
    """Compare the states of all texts with their checksums and describe them.

    Raises:
        StoreError: they differ.
        Exception: any kind, for a damaged file.
    """
    check_is_file(path)
    size, read = path.stat().st_size, 0
    check_seal(path)
    with open_hdf5(path) as file:
        offsets = file["offsets"][:]
        names = sorted(name for name in file if name != "offsets")
        for name in names:
            states, rows = file[name], len(offsets) - 1 if name == "first" else int(offsets[-1])
            start = states.id.get_offset()
            inside = start is not None and start + math.prod(states.shape) * states.dtype.itemsize <= size
            if len(states.shape) != 2 or states.shape[0] != rows or states.dtype.kind != "f" or not inside:
                raise StoreError(f"{path} is damaged ({name} does not match its texts)", kind=Kind.DAMAGED)
            step, checksum, is_finite = max(1, _BLOCK // max(1, states.shape[1] * states.dtype.itemsize)), 0, True
            for first in range(0, rows, step):
                block = states[first : first + step]
                checksum = zlib.crc32(np.ascontiguousarray(block).data, checksum)
                is_finite = is_finite and bool(np.isfinite(block).all())
                read += block.nbytes
                advance(block.nbytes, path.name)
            if checksum != int(states.attrs["crc32"]):
                raise StoreError(f"{path} is damaged ({name} was changed after it was written)", kind=Kind.DAMAGED)
            if not is_finite:
                raise StoreError(f"{path} is damaged ({name} has values that are not finite)", kind=Kind.DAMAGED)
        advance(max(0, size - read), path.name)
        return f"states of {counted(len(offsets) - 1, 'text')}: {', '.join(names)}; as written"
