"""The file that HDF5 writes to: a full disk must give an error message instead of crashing the process."""

import errno
import io
import os
from pathlib import Path
from typing import Any


class Sink(io.RawIOBase):
    """The file that HDF5 writes to.

    HDF5 crashes the process when it cannot write while closing a file, and when it reads back what was not written. So
    a failed write (a full disk) is remembered, that write and the few after it go into memory instead, HDF5 closes
    normally, and the failure is raised at the end.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR)
        self._position = 0
        self._size = 0
        self._kept: list[tuple[int, bytes]] = []
        self.failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write at the current position; after a failure, into memory."""
        view = memoryview(data).cast("B")
        if self.failure is None:
            try:
                self._write_through(view)
            except OSError as error:
                self.failure = error
        if self.failure is not None:
            self._kept.append((self._position, bytes(view)))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def _write_through(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.pwrite(self._file, view[done:], self._position + done)
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done += count

    def readinto(self, buffer: Any, /) -> int:
        """Read at the current position; what could not be written comes from memory."""
        view = memoryview(buffer).cast("B")
        first, count = self._position, max(0, min(len(view), self._size - self._position))
        found = bytearray(os.pread(self._file, count, first).ljust(count, b"\0"))
        for start, kept in self._kept:
            low, high = max(first, start), min(first + count, start + len(kept))
            if low < high:
                found[low - first : high - first] = kept[low - start : high - start]
        view[:count] = found
        self._position += count
        return count

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move the current position."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Return the current position."""
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size of the file."""
        self._size = self._position if size is None else size
        if self.failure is None:
            try:
                os.ftruncate(self._file, self._size)
            except OSError as error:
                self.failure = error
        return self._size

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)
        if self.failure is not None:
            raise self.failure
