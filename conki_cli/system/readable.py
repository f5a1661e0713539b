"""Files on the disk: whether they exist, whether they can be read, and the system's error if not."""

import errno
import os
import re
import stat
from pathlib import Path

from conki_cli.system.errors import UnreadableError

NOT_OFFERED = frozenset({errno.EINVAL, errno.ENODEV, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, 524})
"""Errors of a file system that does not support an operation: locks, memory maps, flushing a folder. 524 is ENOTSUPP
of the Linux kernel, which Python does not name."""
_CLOSED = ("permission denied", "give your user read permission (chmod u+r, folders u+rx)")
_READ_ERRORS = {errno.EACCES: _CLOSED, errno.EPERM: _CLOSED}
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of the system if a path does not exist, or cannot exist."""
_MISLED = (0, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)
"""Errors of the system for impossible offsets, which a damaged file makes HDF5 read."""


def unreadable(path: Path, error: OSError, what: str = "") -> str:
    """Say in one line why `path`, which holds `what`, could not be read."""
    fact, advice = _failure(path, error, what)
    return f"{fact}: {advice}" if advice else fact


def _failure(path: Path, error: OSError, what: str) -> tuple[str, str]:
    """Say why the system could not read a path, and what to do."""
    advice = "check its disk or network, and run the command again"
    if error.errno in (None, errno.EISDIR, *_MISSING):
        advice = ""
    said, advice = _READ_ERRORS.get(error.errno or 0, (error.strerror or str(error), advice))
    return f"cannot read {what and f'the {what} '}{path}: {said}", advice


def unread(path: Path, error: OSError, what: str = "") -> UnreadableError:
    """Return the error for a file or folder that exists but that the system could not read."""
    return UnreadableError(*_failure(path, error, what))


def status_of(path: Path) -> os.stat_result | None:
    """Return the status of a file or folder; None if it does not exist.

    Raises:
        UnreadableError: the system failed, for example because of a network problem.
    """
    try:
        return path.stat()
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise unread(path, error) from error


def check_readable(path: Path) -> None:
    """Refuse a file that exists but cannot be read, before a library takes it for missing or damaged.

    Raises:
        UnreadableError: reading it, or its folder, is not permitted, or the system failed.
    """
    found = status_of(path)
    if found is not None and not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(found.st_mode) else 0)):
        closed = PermissionError(errno.EACCES, "")
        raise unread(path, closed) from closed


def system_error_in(error: Exception) -> OSError | None:
    """Return the system's error behind a library's error, even if only its message has it; None if there is none.

    Libraries written in Rust say "(os error 5)", torch "unable to mmap ... (19)", HDF5 "errno = 5".
    """
    if isinstance(error, OSError) and error.errno is not None and "errno = " not in str(error):
        return error
    found = re.search(r"\(os error (\d+)\)|unable to (?:mmap|open) .*\((\d+)\)|\berrno = (\d+)", str(error))
    if found is None or (found[3] and int(found[3]) in _MISLED):
        return None
    number = int(next(filter(None, found.groups())))
    return OSError(number, os.strerror(number))


def check_read(path: Path, error: Exception) -> None:
    """Raise the system's error behind an error about a file; if this returns, the file's content is at fault.

    Raises:
        UnreadableError: the system could not read the file, so its content is unknown.
    """
    if isinstance(error, UnreadableError):
        raise error
    if (found := system_error_in(error)) is not None and found.errno not in _MISSING:
        raise unread(path, found) from error


def obstacle_at(path: Path) -> str:
    """Say what is in the place of a file: a folder, or a pipe or device that would block; usually nothing."""
    found = status_of(path)
    if found is None or stat.S_ISREG(found.st_mode):
        return ""
    return "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"


def human_size(count: float) -> str:
    """Render a count of bytes for people: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
