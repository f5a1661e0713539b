"""What programs leave behind: the temporary files that the writers know of."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from conki_cli.runs.discarding import discarded_folders
from conki_cli.system.errors import quoted
from conki_cli.system.files import temporary_files
from conki_cli.system.findings import REMARK, Finding, attempt, size_on_disk
from conki_cli.system.locks import holder_of, lock_beside
from conki_cli.system.readable import human_size
from conki_cli.text.folders import scratch_folders

_SOURCES = ((temporary_files, "wrote"), (scratch_folders, "wrote"), (discarded_folders, "deleted"))
"""Who leaves something behind, and what it was doing: each writer says what its temporary files are called."""


def left_over(folder: Path, *, deep: bool = False, locks: Iterable[Path] = ()) -> Iterator[Finding]:
    """Yield a remark for every temporary file below a folder that no process is writing.

    Args:
        folder: where to look.
        deep: in its folders too.
        locks: a process that holds one of them is at work on all of the folder.
    """
    if any(map(holder_of, locks)):
        return
    for source, done in _SOURCES:
        for path, written in attempt(list, source(folder, deep=deep))[0] or []:
            if holder_of(lock_beside(written)):
                continue
            is_folder = path.is_dir()
            size = "" if is_folder else f", {human_size(size_on_disk(path))}"
            what = f"left behind by a process that was ended while it {done}{size}"
            yield Finding(str(path), REMARK, what, f"delete it: rm {'-r ' * is_folder}{quoted(path)}")
