"""What lies on the disk: whether it is there, whether it can be read, and what the system said where it cannot."""

import errno
import os
import re
import stat
from pathlib import Path

from conki_cli.system.errors import UnreadableError

NOT_OFFERED = frozenset({errno.EINVAL, errno.ENODEV, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, 524})
"""What a file system answers that does not offer something: locks, memory maps, a flush of a folder; 524 is the
ENOTSUPP of Linux's kernel, which has no name outside of it."""
_CLOSED = ("it is not permitted", "let your user read it (chmod u+r, folders u+rx)")
_READ_ERRORS = {errno.EACCES: _CLOSED, errno.EPERM: _CLOSED}
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What the system answers where there is nothing, or can be nothing."""
_MISLED = (0, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)
"""What it answers to HDF5 where a damaged file names impossible places."""


def unreadable(path: Path, error: OSError, what: str = "") -> str:
    """Say in one line why `path`, which holds `what`, could not be read."""
    fact, advice = _failure(path, error, what)
    return f"{fact}: {advice}" if advice else fact


def _failure(path: Path, error: OSError, what: str) -> tuple[str, str]:
    """Say what the system answered about a path, and what to do."""
    advice = "check the disk or the network that it lies on, and run the command again"
    if error.errno in (None, errno.EISDIR, *_MISSING):
        advice = ""
    said, advice = _READ_ERRORS.get(error.errno or 0, (error.strerror or str(error), advice))
    return f"cannot read {what and f'the {what} '}{path}: {said}", advice


def unread(path: Path, error: OSError, what: str = "") -> UnreadableError:
    """Return the error of a file or folder that is there and that the system could not read."""
    return UnreadableError(*_failure(path, error, what))


def status_of(path: Path) -> os.stat_result | None:
    """Return what the system knows of a file or folder; None where there is none.

    Raises:
        UnreadableError: the system cannot tell, as a network may fail for a moment.
    """
    try:
        return path.stat()
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise unread(path, error) from error


def check_readable(path: Path) -> None:
    """Refuse what is there but may not be read, before a library takes it for missing or damaged.

    Raises:
        UnreadableError: it may not be read, or the folder that it lies in may not, or the system fails to.
    """
    found = status_of(path)
    if found is not None and not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(found.st_mode) else 0)):
        closed = PermissionError(errno.EACCES, "")
        raise unread(path, closed) from closed


def system_error_in(error: Exception) -> OSError | None:
    """Return the system's error behind one that a library tells, be it in words alone; None where there is none.

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
    """Raise the system's failure behind an error about a file; what is left is the fault of its content.

    Raises:
        UnreadableError: the system could not read the file, so nothing is known of its content.
    """
    if isinstance(error, UnreadableError):
        raise error
    if (found := system_error_in(error)) is not None and found.errno not in _MISSING:
        raise unread(path, found) from error


def obstacle_at(path: Path) -> str:
    """Say what lies where a file should: a folder, or a pipe or device that would be waited for; mostly nothing."""
    found = status_of(path)
    if found is None or stat.S_ISREG(found.st_mode):
        return ""
    return "a folder" if stat.S_ISDIR(found.st_mode) else "no ordinary one"


def human_size(count: float) -> str:
    """Render a count of bytes for people: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
