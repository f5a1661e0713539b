"""Locks between processes: who has one is known by name, and the lock of a process that was killed is free."""

import contextlib
import errno
import json
import os
import shlex
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conki_cli.system.errors import ConkiError, one_line
from conki_cli.system.files import disk_error, read_json
from conki_cli.system.readable import NOT_OFFERED

if TYPE_CHECKING:
    from filelock import BaseFileLock

_BEAT = 20.0  # seconds between two signs of life of a process that holds a lock
_SILENT = 3  # so many beats without one, and it is taken for dead
_UNGUARDED = (
    "warning: this file system has no locks ({reason}): conki keeps its processes apart by files that name them, and "
    "opens stores without HDF5's locks. Not guarded any more: other programs that write into a store while it is read, "
    "and a conki on another machine that gives no sign of life for 60 seconds"
)
_LONGEST_NOTE, _LONGEST_FACT = 4096, 200  # bytes of a note, characters of one fact in it


PROC_LOCKS = Path("/proc/locks")
"""Where Linux lists the locks that processes hold."""


def lock_beside(path: Path) -> Path:
    """Return the lock file that whoever writes `path` holds."""
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def locked(
    path: Path, *, what: str, wait: bool = False, say: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Hold the lock file `path` during the block; with `wait`, as soon as no other process holds it.

    The kernel frees the lock when its process ends, however it ends. Beside it `<path>.owner` says who holds it; that
    note is for people, and for network file systems where one machine does not see the locks of another. Where the file
    system offers no locks the note alone is the lock: only one process can make it.

    Args:
        path: the lock file; it stays behind, as it does no harm.
        what: names the thing in messages.
        wait: wait for the other process instead of failing.
        say: told whom it waits for, and what is not guarded where there are no locks.

    Raises:
        ConkiError: another process holds it; who, on which machine, since when and with which command.
    """
    import filelock

    lock = filelock.FileLock(path)
    note = path.with_name(f"{path.name}.owner")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lacking = _lacking(path) or _acquired(lock, note, what, wait=wait, say=say)
    except OSError as error:
        raise disk_error(path, error) from error
    if lacking:
        say(_UNGUARDED.format(reason=lacking))
        with _exclusive(note, path, what, wait=wait, say=say):
            yield
        return
    try:
        if _is_elsewhere(note, path):
            _wait_for_silence(note, path, what, _is_elsewhere, wait=wait, say=say)
        with _signed(note):
            yield
    finally:
        lock.release()


def _lacking(path: Path) -> str:
    """Say why the file system of a lock file offers no locks; empty where it does, or where that shows later."""
    try:
        import fcntl
    except ImportError:  # only Unix has it
        return ""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_UN)  # changes nothing
    except OSError as error:
        return os.strerror(error.errno) if error.errno in NOT_OFFERED else ""
    finally:
        os.close(handle)
    return ""


def offers_record_locks(folder: Path) -> bool:
    """Say whether the file system of a folder offers the locks of `fcntl`, which SQLite needs."""
    try:
        import fcntl
    except ImportError:  # only Unix has it; other systems have others
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NOT_OFFERED
    return True


def _acquired(lock: "BaseFileLock", note: Path, what: str, *, wait: bool, say: Callable[[str], None]) -> str:
    """Acquire the kernel's lock; return why there is none where the file system offers none."""
    import filelock

    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            _wait_or_refuse(Path(lock.lock_file), what, _owner(note), wait=wait, say=say)
            lock.acquire(poll_interval=0.2)
    except NotImplementedError:
        return os.strerror(errno.ENOSYS)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        return os.strerror(error.errno)
    return ""


# ---- without the kernel's locks ----


@contextlib.contextmanager
def _exclusive(note: Path, path: Path, what: str, *, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock by its note alone, which only one process can make; that of a process that is gone is removed."""
    facts = {**_signature(), "lock": "file", "place": _place(), "born": _born(os.getpid())}
    try:
        is_told = False
        while not _is_written(note, facts):
            if not _is_held(note, path):
                _remove_stale(note, path)
            elif _is_here(_facts(note)):
                _wait_or_refuse(path, what, _owner(note), wait=wait, say=say if not is_told else lambda line: None)
                is_told = True
                time.sleep(0.2)
            else:
                _wait_for_silence(note, path, what, _is_held, wait=wait, say=say)
    except OSError as error:
        raise disk_error(path, error) from error
    with _beating(note):
        try:
            yield
        finally:
            if _facts(note) == facts:
                with contextlib.suppress(OSError):
                    note.unlink()


def _is_written(note: Path, facts: Mapping[str, Any]) -> bool:
    """Write a note unless there is one; say whether it was written."""
    try:
        handle = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(handle, json.dumps(facts).encode())
    except OSError:
        note.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True


def _remove_stale(note: Path, path: Path) -> None:
    """Remove the note of a process that is gone; a second file lets only one process at a time look and remove."""
    marker = note.with_name(f"{note.name}.stale")
    if not _is_written(marker, {}):
        if not _beats(marker, path):
            marker.unlink(missing_ok=True)
        time.sleep(0.05)
        return
    try:
        if not _is_held(note, path):
            note.unlink(missing_ok=True)
    finally:
        marker.unlink(missing_ok=True)


def is_held_by_file(path: Path) -> bool:
    """Say whether a process holds a lock by its note alone, as it does on a file system without locks."""
    note = path.with_name(f"{path.name}.owner")
    return _facts(note).get("lock") == "file" and _is_held(note, path)


def _is_held(note: Path, path: Path) -> bool:
    """Say whether the process of a note is still there: on this machine it is asked for, on others it must beat."""
    facts = _facts(note)
    if not _is_here(facts):
        return _beats(note, path)
    pid, born = facts.get("pid"), facts.get("born")
    if type(pid) is not int or pid < 1:
        return _beats(note, path)
    try:
        os.kill(pid, 0)  # only asks
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        pass
    return born is None or born == _born(pid)


def _is_here(facts: Mapping[str, Any]) -> bool:
    """Say whether a note is of this machine, since it was started, and of a process that this one would see."""
    return facts.get("host") == _host() and facts.get("place", _place()) == _place()


def _place() -> str:
    """Name this start of the machine, and the processes that this one sees: containers may share a machine's name."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> str | None:
    """Return when a process began, which tells it from a later one of its number; None where that is not known."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return None


# ---- notes ----


def forget_killed(path: Path) -> None:
    """Remove the note that a killed process left beside a lock file which nobody needs any more."""
    if path.with_name(f"{path.name}.owner").exists():
        with contextlib.suppress(ConkiError), locked(path, what=path.name):
            """Whoever gets the lock and gives it back takes the note away."""


def _wait_or_refuse(path: Path, what: str, owner: str, *, wait: bool, say: Callable[[str], None]) -> None:
    who = f"another process is writing {what}{f' ({owner})' if owner else ''}"
    if not wait:
        raise ConkiError(f"{who}", f"wait for it or stop it (lock file {path})")
    say(f"{who}: waiting for it")


def _wait_for_silence(
    note: Path,
    path: Path,
    what: str,
    is_alive: Callable[[Path, Path], bool],
    *,
    wait: bool,
    say: Callable[[str], None],
) -> None:
    """Wait until a process of another machine gives no sign of life; without `wait`, refuse if it still does then.

    Where locks are seen across machines, as they mostly are, it was killed a moment ago and only its note is left.
    """
    _wait_or_refuse(path, what, _owner(note), wait=True, say=say)
    end = time.monotonic() + (_SILENT + 1) * _BEAT
    while is_alive(note, path):
        if time.monotonic() > end and not wait:
            _wait_or_refuse(path, what, _owner(note), wait=False, say=say)
        time.sleep(_BEAT / 20)


def _signature() -> dict[str, Any]:
    """Return what a note says of this process."""
    return {
        "pid": os.getpid(),
        "host": _host(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "conki"), *sys.argv[1:]])[:_LONGEST_FACT],
    }


@contextlib.contextmanager
def _signed(note: Path) -> Iterator[None]:
    """Say in a small file who holds a lock, and touch it while that lasts; where it cannot be written, do without."""
    with contextlib.suppress(OSError):
        note.unlink(missing_ok=True)  # of a process that was killed, or a link that somebody laid there
        _is_written(note, _signature())
    with _beating(note):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)


@contextlib.contextmanager
def _beating(note: Path) -> Iterator[None]:
    """Touch a note during the block, as a sign of life; where no thread can be started, do without."""
    ended = threading.Event()
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=_touch, args=(note, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _touch(note: Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT):
        with contextlib.suppress(OSError):
            os.utime(note)


def _owner(note: Path) -> str:
    """Return who holds a lock, for people; empty where that is not known."""
    facts = _facts(note)
    pid, known = facts.get("pid"), {key: facts.get(key) for key in ("host", "started", "command")}
    if type(pid) is not int or not all(isinstance(value, str) and value for value in known.values()):
        return ""
    host, started, command = (one_line(str(value)[:_LONGEST_FACT]) for value in known.values())
    return f"process {pid} on {host} since {started}, `{command}`"


def _facts(note: Path) -> dict[str, Any]:
    """Read what a lock's note says; nothing of a file that is missing, no file, no JSON or too long."""
    try:
        handle = os.open(note, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            plain = stat.S_ISREG(os.fstat(handle).st_mode)
            found = json.loads(os.read(handle, _LONGEST_NOTE).decode()) if plain else None
        finally:
            os.close(handle)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_elsewhere(note: Path, lock: Path) -> bool:
    """Say whether a process of another machine, whose lock this one does not see, has given a sign of life lately."""
    host = _facts(note).get("host")
    return isinstance(host, str) and host != _host() and _beats(note, lock)


def _beats(note: Path, lock: Path) -> bool:
    """Say whether a note was touched lately.

    Times are the file system's alone: machines' clocks differ.
    """
    try:
        os.utime(lock)
        return lock.stat().st_mtime - note.stat().st_mtime < _SILENT * _BEAT
    except OSError:
        return False


def _host() -> str:
    return os.uname().nodename


def holder_of(lock: Path) -> str:
    """Say which process holds a lock; empty where none does. The lock itself is not touched."""
    held = note = None
    with contextlib.suppress(Exception):  # whatever lies there
        held = _pid_of(lock)
    with contextlib.suppress(Exception):
        note = _note_of(lock)
    note = note or {}
    known = isinstance(note.get("pid"), int)
    command = f", `{one_line(str(note.get('command', '')))[:200]}`" if known and note.get("command") else ""
    if known and is_held_by_file(lock):
        return f"process {note['pid']} on {one_line(str(note.get('host')))[:100]}{command}"
    if held is not None:
        return f"process {held}{command if note.get('pid') == held else ''}"
    if known and not PROC_LOCKS.is_file() and note.get("host") == os.uname().nodename:
        return f"process {note['pid']}{command}" if _is_alive(note["pid"]) else ""
    elsewhere = known and note.get("host") != os.uname().nodename
    if elsewhere and time.time() - note["touched"] < _BEAT * _SILENT:
        return f"process {note['pid']} on {one_line(str(note.get('host')))[:100]}{command}"
    return ""


def _pid_of(lock: Path) -> int | None:
    """Return the process that holds a lock as the kernel lists it; None where no process of this machine does."""
    if not lock.is_file() or not PROC_LOCKS.is_file():
        return None
    found = lock.stat()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in PROC_LOCKS.read_text(encoding="ascii").splitlines():
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == device:
            return int(words[4])
    return None


def _note_of(lock: Path) -> dict[str, Any]:
    """Read the note beside a lock, which says who wrote it, and when it was touched."""
    note = lock.with_name(f"{lock.name}.owner")
    if not note.is_file() or note.stat().st_size > _LONGEST_NOTE:
        return {}
    return {**read_json(note), "touched": note.stat().st_mtime}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # 0: only asks
    except Exception:
        return False
    return True
