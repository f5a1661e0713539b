"""Let another process read the structure of an HDF5 file that has no seal, before this one does.

HDF5's library may crash, never come back or ask for all memory on a damaged or hostile file. What it does to a process
of its own does no harm: that process ends itself after `PATIENCE` seconds without a step forward, and may take
`MEMORY`. It reads what a reader here would have HDF5 interpret: members, types, layouts, attributes, indices of chunks,
and texts; not the numbers. Errors that HDF5 reports by itself are no concern of it: whoever reads the file meets them.

The file is its own program, so that nothing but h5py is imported for it: `python probing.py FILE`.
"""

import contextlib
import faulthandler
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = 5.0
"""Seconds that reading one member may take; members of megabytes take milliseconds."""
MEMORY = 2**30
"""Bytes that reading the structure may take."""
_OUT_OF_MEMORY = 3  # exit code; 1 is Python's own
_ROWS = 4096  # texts that are read at once
_REST = 1.0  # seconds between two signs of life, each of which starts a thread


def probe(path: Path) -> None:
    """Make sure that HDF5 comes back from reading the structure of a file.

    Raises:
        ValueError: it crashes, hangs, or takes too much memory.
    """
    # -P: nothing in the current folder is imported. A session of its own: Ctrl-C is for this process to handle.
    command = [sys.executable, "-P", __file__, str(path)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True)
    if ended.returncode == 0:
        return
    if "Timeout" in ended.stderr:
        raise ValueError(f"HDF5 does not come back from reading its structure within {PATIENCE:g} seconds")
    if ended.returncode == _OUT_OF_MEMORY:
        raise ValueError(f"HDF5 needs more than {MEMORY >> 20} MiB to read its structure")
    if ended.returncode < 0:
        raise ValueError(f"HDF5 crashes when it reads its structure (signal {-ended.returncode})")
    last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
    raise ValueError(f"a process that reads its structure failed: {last}")


class _Alarm:
    """Ends the process unless it hears of a step forward in time; a thread without Python keeps it, whatever hangs."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def step(self) -> None:
        """Say that there was a step forward."""
        if (now := time.monotonic()) - self._last > _REST:
            self._last = now
            faulthandler.dump_traceback_later(PATIENCE, exit=True)


def _look(path: str, alarm: _Alarm) -> None:
    import h5py

    alarm.step()
    with contextlib.suppress(OSError), h5py.File(path, "r", locking=False) as file:
        for item in _members(file, alarm):
            for attribute in _tried(lambda item=item: list(item.attrs), ()):
                _tried(lambda item=item, attribute=attribute: item.attrs[attribute], None)
            if isinstance(item, h5py.Dataset):
                _tried(lambda item=item: _look_into(item, alarm), None)


def _members(file: Any, alarm: _Alarm) -> Iterator[Any]:
    """Yield every group and data set that lies in the file itself, once."""
    import h5py

    seen, waiting = set(), [file]
    while waiting:
        item = waiting.pop()
        alarm.step()
        address = _tried(lambda item=item: h5py.h5o.get_info(item.id).addr, None)
        if address in seen:
            continue
        seen.add(address)
        yield item
        if isinstance(item, h5py.Group):
            for name in _tried(lambda item=item: list(item), ()):
                if isinstance(_tried(lambda item=item, name=name: item.get(name, getlink=True), None), h5py.HardLink):
                    waiting.append(_tried(lambda item=item, name=name: item[name], None))


def _look_into(dataset: Any, alarm: _Alarm) -> None:
    import h5py

    _ = dataset.shape, dataset.dtype, dataset.external, dataset.is_virtual, dataset.id.get_storage_size()
    if dataset.chunks:
        dataset.id.get_num_chunks()
    else:
        dataset.id.get_offset()
    if h5py.check_string_dtype(dataset.dtype) is not None and dataset.shape:
        for start in range(0, min(len(dataset), dataset.id.get_storage_size()), _ROWS):
            alarm.step()
            dataset[start : start + _ROWS]


def _tried(read: Any, otherwise: Any) -> Any:
    """Return what a function returns, something else where HDF5 says what is wrong."""
    try:
        return read()
    except MemoryError:
        raise
    except Exception:
        return otherwise


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # only Unix has it
        return
    with contextlib.suppress(OSError, ValueError):
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _main(path: str) -> None:
    import h5py  # noqa: F401 - before the limit, which is for the file

    _limit_memory()
    try:
        _look(path, _Alarm())
    except MemoryError:
        sys.exit(_OUT_OF_MEMORY)


if __name__ == "__main__":
    _main(sys.argv[1])
