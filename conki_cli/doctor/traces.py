"""What programs leave behind: temporary files, and locks with the process that holds them."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conki_cli.doctor.findings import Finding, size_on_disk, tried
from conki_cli.system.errors import one_line, quoted
from conki_cli.system.files import read_json
from conki_cli.system.locks import is_held_by_file, lock_beside
from conki_cli.system.readable import human_size

LOCKS = Path("/proc/locks")
_LONGEST_NOTE = 4096  # bytes of the note beside a lock
_ALIVE = 60.0  # seconds since the last sign of life of a process on another machine


def holder_of(lock: Path) -> str:
    """Say which process holds a lock; empty where none does. The lock itself is not touched."""
    held, error = tried(_pid_of, lock)
    note, _ = tried(_note_of, lock)
    note = note or {}
    known = isinstance(note.get("pid"), int)
    command = f", `{one_line(str(note.get('command', '')))[:200]}`" if known and note.get("command") else ""
    if known and is_held_by_file(lock):
        return f"process {note['pid']} on {one_line(str(note.get('host')))[:100]}{command}"
    if held is not None and error is None:
        return f"process {held}{command if note.get('pid') == held else ''}"
    if known and not LOCKS.is_file() and note.get("host") == os.uname().nodename:
        return f"process {note['pid']}{command}" if tried(os.kill, note["pid"], 0)[1] is None else ""  # 0: only asks
    elsewhere = known and note.get("host") != os.uname().nodename
    if elsewhere and time.time() - note["touched"] < _ALIVE:
        return f"process {note['pid']} on {one_line(str(note.get('host')))[:100]}{command}"
    return ""


def _pid_of(lock: Path) -> int | None:
    """Return the process that holds a lock as the kernel lists it; None where no process of this machine does."""
    if not lock.is_file() or not LOCKS.is_file():
        return None
    found = lock.stat()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in LOCKS.read_text(encoding="ascii").splitlines():
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


def left_over(folder: Path, *, deep: bool = False) -> Iterator[Finding]:
    """Yield a remark for every temporary file below a folder that no process is writing.

    Args:
        folder: where to look.
        deep: in its folders too.
    """
    found, _ = tried(sorted, folder.rglob(".*") if deep else folder.glob(".*"))
    for path in found or []:
        is_scratch = (path.name.startswith(".encoder.") or path.name.endswith(".discarded")) and path.is_dir()
        if not is_scratch and not (path.name.endswith(".part") and path.is_file()):
            continue
        written = folder / path.name[1:].removesuffix(".part").rpartition(".")[0]
        if not holder_of(lock_beside(written)):
            size = "" if is_scratch else f", {human_size(size_on_disk(path))}"
            done = "deleted" if path.name.endswith(".discarded") else "wrote"
            what = f"left behind by a process that was ended while it {done}{size}"
            yield Finding(str(path), "remark", what, f"delete it: rm {'-r ' * is_scratch}{quoted(path)}")
