"""Locks between processes: the holder is known by name, and a killed process loses its locks."""

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conki_cli.system.errors import ConkiError, one_line
from conki_cli.system.files import disk_error
from conki_cli.system.readable import NOT_OFFERED
from conki_cli.system.slurm import this_job

if TYPE_CHECKING:
    from filelock import BaseFileLock

_BEAT = 20.0  # seconds between two signs of life of a process that holds a lock
_SILENT = 3  # after this many missed beats a process counts as dead
_UNGUARDED = (
    "warning: this file system has no locks ({reason}): conki uses files that name its processes instead, and opens "
    "stores without HDF5's locks. This does not protect from other programs that write into a store while it is read, "
    "nor from a conki on another machine that gives no sign of life for 60 seconds"
)
_LONGEST_NOTE, _LONGEST_FACT = 4096, 200  # bytes of a note, characters of one fact in it


PROC_LOCKS = Path("/proc/locks")
"""Where Linux lists the locks that processes hold."""


def lock_beside(path: Path) -> Path:
    """Return the lock file that a writer of `path` holds."""
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def locked(
    path: Path, *, what: str, wait: bool = False, say: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Hold the lock file `path` during the block; with `wait`, as soon as no other process holds it.

    The kernel frees the lock when its process ends, for whatever reason. The note `<path>.owner` beside it says who
    holds it: for people, and for network file systems where one machine does not see the locks of another. If the file
    system does not support locks, the note itself is the lock: only one process can create it.

    Args:
        path: the lock file; it is not deleted afterwards.
        what: names the thing in messages.
        wait: wait for the other process instead of failing.
        say: is called with the process that it waits for, and with a warning if there are no locks.

    Raises:
        ConkiError: another process holds it (the message names process, machine, time and command).
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
        if _is_elsewhere(note):
            _wait_for_silence(note, path, what, _is_elsewhere, wait=wait, say=say)
        with _signed(note):
            yield
    finally:
        lock.release()


def _lacking(path: Path) -> str:
    """Say why the file system of a lock file has no locks; empty if it has, or if that is not known yet."""
    try:
        import fcntl
    except ImportError:  # exists only on Unix
        return ""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_UN)  # has no effect
    except OSError as error:
        return os.strerror(error.errno) if error.errno in NOT_OFFERED else ""
    finally:
        os.close(handle)
    return ""


def offers_record_locks(folder: Path) -> bool:
    """Say whether the file system of a folder supports the locks of `fcntl`, which SQLite needs."""
    try:
        import fcntl
    except ImportError:  # exists only on Unix; other systems have other locks
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NOT_OFFERED
    return True


def _acquired(lock: "BaseFileLock", note: Path, what: str, *, wait: bool, say: Callable[[str], None]) -> str:
    """Acquire the kernel's lock; return the reason if the file system does not support locks."""
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
    """Hold a lock by its note alone, which only one process can create; remove the note of a dead process."""
    facts = {**_signature(), "lock": "file", "place": _place(), "born": _born(os.getpid())}
    try:
        is_told = False
        while not _is_written(note, facts):
            if not _is_held(note):
                _remove_stale(note)
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


def _remove_stale(note: Path) -> None:
    """Remove the note of a dead process; a second file makes sure that only one process does this at a time."""
    marker = note.with_name(f"{note.name}.stale")
    if not _is_written(marker, {}):
        if not _beats(marker):
            marker.unlink(missing_ok=True)
        time.sleep(0.05)
        return
    try:
        if not _is_held(note):
            note.unlink(missing_ok=True)
    finally:
        marker.unlink(missing_ok=True)


def is_held_by_file(path: Path) -> bool:
    """Say whether a process holds a lock by its note alone, as it does on a file system without locks."""
    note = path.with_name(f"{path.name}.owner")
    return _facts(note).get("lock") == "file" and _is_held(note)


def _is_held(note: Path) -> bool:
    """Say whether the process of a note is alive: by its id on this machine, by its heartbeat on others."""
    facts = _facts(note)
    if not _is_here(facts):
        return _beats(note)
    pid, born = facts.get("pid"), facts.get("born")
    if type(pid) is not int or pid < 1:
        return _beats(note)
    return _is_alive(pid) and (born is None or born == _born(pid))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # only checks that the process exists
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it belongs to another user
    return True


def _is_here(facts: Mapping[str, Any]) -> bool:
    """Say whether a note was written on this machine since it booted, by a process that this one can see."""
    return facts.get("host") == _host() and facts.get("place", _place()) == _place()


def _place() -> str:
    """Identify this boot of the machine and its process namespace: containers may share a host name."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> str | None:
    """Return the start time of a process, which distinguishes it from a later one with the same id; None if unknown."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return None


# ---- notes ----


def was_killed(path: Path) -> bool:
    """Say whether the last process that held a lock was killed: then its note is left, and nobody holds the lock."""
    return path.with_name(f"{path.name}.owner").exists() and find_holder(path) is None


def forget_killed(path: Path) -> None:
    """Remove the note that a killed process left beside a lock file that is no longer needed."""
    if path.with_name(f"{path.name}.owner").exists():
        with contextlib.suppress(ConkiError), locked(path, what=path.name):
            """Acquiring and releasing the lock removes the note."""


def _wait_or_refuse(path: Path, what: str, owner: str, *, wait: bool, say: Callable[[str], None]) -> None:
    who = f"another process is writing {what}{f' ({owner})' if owner else ''}"
    if not wait:
        raise ConkiError(f"{who}", f"wait for it or stop it (lock file {path})")
    say(f"{who}: waiting for it")


def _wait_for_silence(
    note: Path,
    path: Path,
    what: str,
    is_alive: Callable[[Path], bool],
    *,
    wait: bool,
    say: Callable[[str], None],
) -> None:
    """Wait until a process on another machine gives no sign of life; without `wait`, refuse if it is still alive.

    Usually locks are visible across machines: then the process was killed a moment ago and only its note is left.
    """
    _wait_or_refuse(path, what, _owner(note), wait=True, say=say)
    end = time.monotonic() + (_SILENT + 1) * _BEAT
    while is_alive(note):
        if time.monotonic() > end and not wait:
            _wait_or_refuse(path, what, _owner(note), wait=False, say=say)
        time.sleep(_BEAT / 20)


def _signature() -> dict[str, Any]:
    """Return the content of a note about this process."""
    return {
        "pid": os.getpid(),
        "host": _host(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "conki"), *sys.argv[1:]])[:_LONGEST_FACT],
        **({"job": job} if (job := this_job()) else {}),
    }


@contextlib.contextmanager
def _signed(note: Path) -> Iterator[None]:
    """Write a note that says who holds a lock, and touch it meanwhile; continue without if it cannot be written."""
    with contextlib.suppress(OSError):
        note.unlink(missing_ok=True)  # left by a killed process, or a link
        _is_written(note, _signature())
    with _beating(note):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)


@contextlib.contextmanager
def _beating(note: Path) -> Iterator[None]:
    """Touch a note during the block, as a sign of life; continue without if no thread can be started."""
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
    """Return who holds a lock, for a message; empty if unknown."""
    facts = _facts(note)
    pid, known = facts.get("pid"), {key: facts.get(key) for key in ("host", "started", "command")}
    if type(pid) is not int or not all(isinstance(value, str) and value for value in known.values()):
        return ""
    host, started, command = (one_line(str(value)[:_LONGEST_FACT]) for value in known.values())
    return f"process {pid} on {host} since {started}, `{command}`"


def _facts(note: Path) -> dict[str, Any]:
    """Read a lock's note; empty if it is missing, not a file, not JSON or too long."""
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


def _is_elsewhere(note: Path) -> bool:
    """Say whether a process on another machine, whose lock is not visible here, recently gave a sign of life."""
    host = _facts(note).get("host")
    return isinstance(host, str) and host != _host() and _beats(note)


def _beats(note: Path) -> bool:
    """Say whether a note was touched recently.

    Only the file system's times are compared, because the clocks of machines differ.
    """
    try:
        return _now_in(note.parent) - note.stat().st_mtime < _SILENT * _BEAT
    except OSError:
        return False


def _now_in(folder: Path) -> float:
    """Return the time by the clock of the file system of a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # nothing can be written there
        return time.time()


def _host() -> str:
    return os.uname().nodename


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, and what its note says about it; the words may be anything."""

    pid: int
    host: str = ""
    """Empty: a process of this machine that left no note."""
    command: str = ""
    job: str = ""
    """Its job in Slurm."""
    is_here: bool = True
    """Whether the kernel of this machine names it."""


def holder_of(lock: Path) -> str:
    """Say which process holds a lock; empty if none does. The lock itself is not touched."""
    holder = find_holder(lock)
    if holder is None:
        return ""
    place = "" if holder.is_here else f" on {holder.host}"
    return f"process {holder.pid}{place}" + (f", `{holder.command}`" if holder.command else "")


def find_holder(lock: Path) -> Holder | None:
    """Return the process that holds a lock; None if none does. The lock itself is not touched."""
    held, note = None, lock.with_name(f"{lock.name}.owner")
    with contextlib.suppress(Exception):  # the file may be anything
        held = _pid_of(lock)
    facts = _facts(note)
    pid = facts.get("pid")
    noted = _noted(facts) if type(pid) is int and pid > 0 else None
    if noted is not None and is_held_by_file(lock):
        return noted
    if held is not None:
        return replace(noted, is_here=True) if noted is not None and noted.pid == held else Holder(held)
    if noted is None:
        return None
    if not PROC_LOCKS.is_file() and facts.get("host") == _host():
        return replace(noted, is_here=True) if _is_alive(noted.pid) else None
    return noted if _is_elsewhere(note) else None


def _noted(note: Mapping[str, Any]) -> Holder:
    host, command, job = (one_line(str(note.get(name) or ""))[:_LONGEST_FACT] for name in ("host", "command", "job"))
    return Holder(note["pid"], host[:100], command, job, is_here=False)


def _pid_of(lock: Path) -> int | None:
    """Return the id of the process that holds a lock, from the kernel's list; None if no local process does."""
    if not lock.is_file() or not PROC_LOCKS.is_file():
        return None
    found = lock.stat()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    for line in PROC_LOCKS.read_text(encoding="ascii").splitlines():
        words = line.split()
        place, _, inode = words[5].rpartition(":") if len(words) > 5 and words[1] == "FLOCK" else ("", "", "")
        if inode == str(found.st_ino) and (place == device or _has_open(int(words[4]), found)):
            return int(words[4])
    return None


def _has_open(pid: int, file: os.stat_result) -> bool:
    """Say whether a process has a file open: on btrfs the kernel's list names another device than `stat` does."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:  # it ended, or is another user's
        return any(os.path.samestat(entry.stat(), file) for entry in entries)
    return False
