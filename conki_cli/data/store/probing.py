"""Read the structure of an HDF5 file without a seal in another process first.

On a damaged or hostile file, HDF5's library may crash, hang or allocate all memory. In a separate process this does no
harm: that process ends itself after `PATIENCE` seconds without progress, and its memory is limited to `MEMORY`. It
reads everything that HDF5 would have to interpret for a reader: members, types, layouts, attributes, indices of chunks,
and texts, but not the numbers. It ignores errors that HDF5 reports normally, because the reader will get them as well.

This file is also a program, so that the process imports only h5py. It reads paths from stdin, one JSON text per line,
and answers each with an empty line. The same process reads the next file too, unless none comes for `IDLE` seconds.
"""

import atexit
import contextlib
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PATIENCE = 5.0
"""Seconds that reading one member may take; a member of megabytes takes milliseconds."""
MEMORY = 2**30
"""Bytes of memory that reading the structure may take."""
IDLE = 2.0
"""Seconds that the process waits for another file before it ends."""
_OUT_OF_MEMORY = 3  # exit code; 1 is Python's own
_ROWS = 4096  # texts that are read at once
_REST = 1.0  # minimum seconds between two steps of the alarm, each of which starts a thread


def probe(path: Path) -> None:
    """Check that HDF5 can read the structure of a file.

    Raises:
        ValueError: it crashes, hangs, or takes too much memory.
    """
    _reader.read(path)


class _Reader:
    """The process that reads, started when it is needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._lock = threading.Lock()

    def read(self, path: Path) -> None:
        """Have a file read.

        Raises:
            ValueError: see `probe`.
        """
        with self._lock:
            was_running = self._process is not None
            ended = self._ask(path)
            if ended is not None and was_running:  # it may have been idle, or an earlier file may have harmed it
                ended = self._ask(path)
        if ended is None:
            return
        code, said = ended
        if "Timeout" in said:
            raise ValueError(f"HDF5 cannot read its structure within {PATIENCE:g} seconds")
        if code == _OUT_OF_MEMORY:
            raise ValueError(f"HDF5 needs more than {MEMORY >> 20} MiB to read its structure")
        if code < 0:
            raise ValueError(f"HDF5 crashes when it reads its structure (signal {-code})")
        last = (said.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"a process that reads its structure failed: {last}")

    def _ask(self, path: Path) -> tuple[int, str] | None:
        """Return None if the process has read the file; its exit code and last words if it ended instead."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(str(path.absolute())) + "\n")
                process.stdin.flush()
            if process.stdout.readline():
                return None
        except BaseException:  # its answer would be taken for that to the next question
            process.kill()
            self._end()
            raise
        return self._end()

    def _started(self) -> "subprocess.Popen[str]":
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by _end
        # -P: import nothing from the current folder. A new session: only this process handles Ctrl-C.
        command = [sys.executable, "-P", __file__]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, start_new_session=True, cwd=os.sep
        )

    def _end(self) -> tuple[int, str]:
        """Let the process end, and return its exit code and what it said."""
        process, errors = self._process, self._errors
        assert process is not None
        assert errors is not None
        self._process = self._errors = None
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        code = process.wait()
        with errors:
            errors.seek(0)
            return code, errors.read()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end()


_reader = _Reader()
atexit.register(_reader.close)


class _Alarm:
    """Ends the process if there is no progress in time; a native thread does this even if Python hangs."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def step(self) -> None:
        """Report progress."""
        if (now := time.monotonic()) - self._last > _REST:
            self._last = now
            faulthandler.dump_traceback_later(PATIENCE, exit=True)


def _look(path: str, alarm: _Alarm) -> None:
    import h5py

    alarm.step()
    with contextlib.suppress(OSError), h5py.File(path, "r", locking=False) as file:
        for item in _members(file, alarm):
            for attribute in _attempt(lambda item=item: list(item.attrs), ()):
                _attempt(lambda item=item, attribute=attribute: item.attrs[attribute], None)
            if isinstance(item, h5py.Dataset):
                _attempt(lambda item=item: _look_into(item, alarm), None)


def _members(file: Any, alarm: _Alarm) -> Iterator[Any]:
    """Yield every group and data set that is stored in the file itself, once."""
    import h5py

    seen, waiting = set(), [file]
    while waiting:
        item = waiting.pop()
        alarm.step()
        address = _attempt(lambda item=item: h5py.h5o.get_info(item.id).addr, None)
        if address in seen:
            continue
        seen.add(address)
        yield item
        if isinstance(item, h5py.Group):
            for name in _attempt(lambda item=item: list(item), ()):
                if isinstance(_attempt(lambda item=item, name=name: item.get(name, getlink=True), None), h5py.HardLink):
                    waiting.append(_attempt(lambda item=item, name=name: item[name], None))


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


def _attempt(read: Any, otherwise: Any) -> Any:
    """Return a function's result, or `otherwise` if HDF5 reports an error."""
    try:
        return read()
    except MemoryError:
        raise
    except Exception:
        return otherwise


def _limit_memory() -> None:
    """Allow `MEMORY` more than the process has now."""
    try:
        import resource
    except ImportError:  # exists only on Unix
        return
    with contextlib.suppress(OSError, ValueError):
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _main() -> None:
    import h5py  # noqa: F401 - before the limit, which applies only to reading a file

    def wait() -> threading.Timer:
        timer = threading.Timer(IDLE, os._exit, (0,))
        timer.daemon = True
        timer.start()
        return timer

    timer = wait()
    for line in sys.stdin:
        timer.cancel()
        _limit_memory()
        try:
            _look(json.loads(line), _Alarm())
        except MemoryError:
            os._exit(_OUT_OF_MEMORY)
        faulthandler.cancel_dump_traceback_later()
        os.write(1, b"\n")
        timer = wait()


if __name__ == "__main__":
    _main()
