"""Delete a run folder so that an interrupted deletion never leaves half a run."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from conki_cli.runs.folders import Run
from conki_cli.system.errors import RunError
from conki_cli.system.files import disk_error

_DISCARDED = ".discarded"


def discard_run(run: Run) -> None:
    """Delete a run folder; it is renamed first, so an interrupted delete never leaves half a run.

    Raises:
        RunError: it is a symbolic link, which leads to files of somebody else.
        ConkiError: it cannot be deleted.
    """
    if run.path.is_symlink():
        raise RunError(
            f"the run folder {run.path} is a symbolic link to {run.path.resolve()}",
            "delete the link, or give --name another name",
        )
    hidden = run.path.with_name(f".{run.name[:100]}{_DISCARDED}")
    for folder in (run.path.parent, run.path, *(path for path in run.path.rglob("*") if path.is_dir())):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):  # before a part of it is deleted
            raise disk_error(folder, OSError(errno.EACCES, ""))
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        os.replace(run.path, hidden)
        shutil.rmtree(hidden)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(run.path, error) from error


def discarded_folders(folder: Path, *, deep: bool = False) -> Iterator[tuple[Path, Path]]:
    """Yield the remains of runs whose deletion was interrupted, each with the run that it was."""
    for path in sorted(folder.rglob(f".*{_DISCARDED}") if deep else folder.glob(f".*{_DISCARDED}")):
        if path.is_dir():
            yield path, path.parent / path.name[1:].removesuffix(_DISCARDED)
