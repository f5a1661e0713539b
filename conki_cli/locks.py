"""Locks between processes: who has one is known by name, and the lock of a process that was killed is free."""

import contextlib
import json
import os
import shlex
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conki_cli.errors import ConkiError, one_line
from conki_cli.files import disk_error

_BEAT = 20.0  # seconds between two signs of life of a process that holds a lock
_SILENT = 3  # so many beats without one, and it is taken for dead
_LONGEST_NOTE, _LONGEST_FACT = 4096, 200  # bytes of a note, characters of one fact in it


def lock_beside(path: Path) -> Path:
    """Return the lock file that whoever writes `path` holds."""
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def locked(
    path: Path, *, what: str, wait: bool = False, say: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Hold the lock file `path` during the block; with `wait`, as soon as no other process holds it.

    The kernel frees the lock when its process ends, however it ends. Beside it `<path>.owner` says who holds it; that
    note is for people, and for network file systems where one machine does not see the locks of another.

    Args:
        path: the lock file; it stays behind, as it does no harm.
        what: names the thing in messages.
        wait: wait for the other process instead of failing.
        say: told whom it waits for.

    Raises:
        ConkiError: another process holds it; who, on which machine, since when and with which command.
    """
    import filelock

    lock = filelock.FileLock(path)
    note = path.with_name(f"{path.name}.owner")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            _wait_or_refuse(path, what, _owner(note), wait=wait, say=say)
            lock.acquire(poll_interval=0.2)
    except NotImplementedError:
        raise ConkiError(f"{path.parent} lies on a file system without locks: choose another --workspace") from None
    except OSError as error:
        raise disk_error(path, error) from error
    try:
        if _is_elsewhere(note, path):
            _wait_for_silence(note, path, what, wait=wait, say=say)
        with _signed(note):
            yield
    finally:
        lock.release()


def forget_killed(path: Path) -> None:
    """Remove the note that a killed process left beside a lock file which nobody needs any more."""
    if path.with_name(f"{path.name}.owner").exists():
        with contextlib.suppress(ConkiError), locked(path, what=path.name):
            """Whoever gets the lock and gives it back takes the note away."""


def _wait_or_refuse(path: Path, what: str, owner: str, *, wait: bool, say: Callable[[str], None]) -> None:
    who = f"another process is writing {what}{f' ({owner})' if owner else ''}"
    if not wait:
        raise ConkiError(f"{who}: wait for it or stop it (lock file {path})")
    say(f"{who}: waiting for it")


def _wait_for_silence(note: Path, path: Path, what: str, *, wait: bool, say: Callable[[str], None]) -> None:
    """Wait until a process of another machine gives no sign of life; without `wait`, refuse if it still does then.

    Where locks are seen across machines, as they mostly are, it was killed a moment ago and only its note is left.
    """
    _wait_or_refuse(path, what, _owner(note), wait=True, say=say)
    end = time.monotonic() + (_SILENT + 1) * _BEAT
    while _is_elsewhere(note, path):
        if time.monotonic() > end and not wait:
            _wait_or_refuse(path, what, _owner(note), wait=False, say=say)
        time.sleep(_BEAT / 20)


@contextlib.contextmanager
def _signed(note: Path) -> Iterator[None]:
    """Say in a small file who holds a lock, and touch it while that lasts; where it cannot be written, do without."""
    facts = {
        "pid": os.getpid(),
        "host": _host(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "conki"), *sys.argv[1:]])[:_LONGEST_FACT],
    }
    ended = threading.Event()
    with contextlib.suppress(OSError, RuntimeError):
        note.unlink(missing_ok=True)  # of a process that was killed, or a link that somebody laid there
        handle = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.write(handle, json.dumps(facts).encode())
        finally:
            os.close(handle)
        threading.Thread(target=_touch, args=(note, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)


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
    """Say whether a process of another machine, whose lock this one does not see, has given a sign of life lately.

    Times are the file system's alone: machines' clocks differ.
    """
    host = _facts(note).get("host")
    if not isinstance(host, str) or host == _host():
        return False
    try:
        os.utime(lock)
        return lock.stat().st_mtime - note.stat().st_mtime < _SILENT * _BEAT
    except OSError:
        return False


def _host() -> str:
    return os.uname().nodename
