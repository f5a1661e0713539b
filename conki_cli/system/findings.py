"""What verifying a file gives: findings; how an error becomes one. Every writer has a `verify...` that yields them."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from conki_cli.system.errors import ConkiError, Kind, UnreadableError, one_line, quoted, reason_of
from conki_cli.system.readable import check_read, check_readable, obstacle_at
from conki_cli.system.workspace import Workspace

_LONGEST = 400  # characters of a message that may quote what a file holds

UNREAD = "nothing is known to be wrong with it, so leave it: look again, and check the disk or the network it lies on"
"""The advice about what the system could not read."""
_LIBRARY = "nothing is known to be wrong with it, so leave it: repair the environment first, then look again"
"""The advice about what was not read because a library cannot be imported."""

Severity = Literal["ok", "remark", "fault"]
OK: Severity = "ok"
REMARK: Severity = "remark"
FAULT: Severity = "fault"
Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    """A path, or a word for something that is not a file."""
    severity: Severity
    """ok; a remark, which harms nothing; a fault, which must be repaired."""
    what: str
    advice: str = ""
    """The next command or action; empty where nothing is to be done."""


@dataclass(frozen=True)
class Examination:
    """A workspace whose files are verified."""

    workspace: Workspace
    advance: Callable[[int, str], None] = lambda count, remark: None
    """Told how many bytes were read, and of what."""
    here: Mapping[str, Any] = field(default_factory=dict)
    """Versions, device and threads of this process, as `environment.environment` gives them."""

    def command(self, words: str) -> str:
        """Return a command for this workspace, to be typed."""
        root = self.workspace.root
        return f"`conki {words}{'' if root == Path() else f' --workspace {quoted(root)}'}`"


def attempt(
    work: Callable[Arguments, Value], *arguments: Arguments.args, **named: Arguments.kwargs
) -> tuple[Value | None, Exception | None]:
    """Return what `work` returns, or else what it raised: damaged files make libraries raise errors of every kind."""
    try:
        return work(*arguments, **named), None
    except Exception as error:
        return None, error


def _closed_in(place: Path, *, deep: bool) -> Path | None:
    """Return a file or folder, of those at and (with `deep`) below a place, that cannot be read; None if all can.

    Raises:
        UnreadableError: the system cannot read the place itself.
    """
    inside = place.rglob("*") if deep and place.is_dir() and os.access(place, os.R_OK | os.X_OK) else ()
    for path in (place, *inside):
        try:
            check_readable(path)
        except UnreadableError as error:
            if isinstance(error.__cause__, PermissionError):
                return Path(path)
            if path == place:
                raise
    return None


def closed_findings(subject: Path, *, deep: bool = False) -> list[Finding]:
    """Say that a place, or with `deep` something in it, may not or cannot be read; nothing if all can."""
    closed, error = attempt(_closed_in, subject, deep=deep)
    if error is not None:
        return [fault(subject, error, subject, UNREAD)]
    if closed is None:
        return []
    what = f"{one_line(str(closed))} cannot be read"
    return [Finding(str(subject), FAULT, what, f"let your user read it: chmod -R u+rX {quoted(subject)}")]


def is_unread(error: Exception, path: Path) -> bool:
    """Say whether an error about a file is the system's, so that nothing is known of the file's content."""
    return isinstance(attempt(check_read, path, error)[1], UnreadableError)


def missing_library(error: Exception | None) -> ImportError | None:
    """Return why a library that reads a file cannot be imported, if that is behind an error: the file may be sound."""
    found = (one for one in (error, error and error.__cause__) if isinstance(one, ImportError))
    return next(found, None)


def is_newer(error: Exception | None) -> bool:
    """Say whether an error is that a later version wrote the file."""
    return isinstance(error, ConkiError) and error.kind is Kind.NEWER


def fault(subject: Path | str, error: Exception, path: Path, advice: str) -> Finding:
    """Turn an error about a file into a finding; the advice is for a file that was read, and is wrong."""
    if missing_library(error) is not None:
        advice = _LIBRARY
    elif is_unread(error, path):
        advice = UNREAD
    return Finding(str(subject), FAULT, fact_of(error, path), advice)


def guarded(subject: Path, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings; an error that no part of the examination foresaw is one more, and hides nothing but the rest."""
    try:
        yield from findings
    except Exception as error:
        yield fault(subject, error, subject, "restore it from a copy, or delete it")


def fact_of(error: Exception, path: Path) -> str:
    """Return what an error about a file says, with the file's name for its path and without advice."""
    if library := missing_library(error):
        said = f"{path.name} was not examined ({reason_of(library)})"
    elif isinstance(error, ConkiError):
        said = error.fact
    elif isinstance(error, OSError):
        said = f"{path.name} cannot be read: {error.strerror or error}"
    else:
        said = f"{path.name} is damaged ({reason_of(error)})"
    return one_line(said.replace(str(path), path.name))[:_LONGEST]


def ordinary(path: Path) -> Path:
    """Return a path, unless a folder lies there, or a pipe that would be waited for.

    Raises:
        ConkiError: there is one.
    """
    if what := obstacle_at(path):
        raise ConkiError(f"{path} must be a file but is {what}")
    return path


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file, 0 where it cannot be asked."""
    found, _ = attempt(path.stat)
    return found.st_size if found is not None else 0
