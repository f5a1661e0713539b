"""`conki doctor`: whether what lies in a workspace is what was written there, and what to do where it is not.

Every writer verifies its own files; here is only which things there are, in which order, and how far it is. Everything
is read, to the last byte where there is a checksum; nothing is written. Whatever goes wrong while a file is read is a
finding, so one damaged file hides no other.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from conki_cli.data.store.verifying import KnownStores, stores_in, verify_store
from conki_cli.doctor.traces import left_over
from conki_cli.runs import Run
from conki_cli.runs.verifying import is_run_folder, locks_of
from conki_cli.system.errors import ConkiError, one_line
from conki_cli.system.files import size_of
from conki_cli.system.findings import Examination, Finding, attempt, closed_findings, guarded
from conki_cli.system.locks import lock_beside
from conki_cli.system.machine import this_machine, verify_machine
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace, is_path
from conki_cli.text.verifying import verify_built_in_encoder
from conki_cli.training.state_files import states_in, verify_states
from conki_cli.training.verifying import verify_run

__all__ = ["Finding", "examine", "examine_named"]

_UNIT = 2**20  # bytes of one step of the progress bar


@dataclass(frozen=True)
class _Thing:
    """Something to verify."""

    path: Path
    verify: Callable[[Examination], Iterator[Finding]]
    locks: Callable[[], Iterable[Path]] = tuple
    """Of a folder, the locks that whoever writes into it holds."""


def examine(workspace: Workspace, observer: Observer) -> list[Finding]:
    """Examine the environment, every store, run and file of cached states of a workspace, and the built-in encoder."""
    here, problem = this_machine()
    found = list(verify_machine(workspace, here, problem))
    folders = (workspace.stores, workspace.runs, workspace.states)
    found += [finding for folder in folders for finding in closed_findings(folder)]  # which are taken for empty
    found += _examined(_things(workspace), Examination(workspace, here=here), observer)
    for folder in folders:
        found += left_over(folder)
    return found


def _things(workspace: Workspace) -> list[_Thing]:
    """List what there is to verify: stores before the runs that were trained on them."""
    stores, encoder = KnownStores(), workspace.built_in_encoder
    runs = attempt(lambda: [path for path in sorted(workspace.runs.glob("[!.]*")) if path.is_dir()])[0] or []
    return [
        *(_store(path, stores) for path in attempt(stores_in, workspace)[0] or []),
        *(_run(Run(path), stores) for path in runs),
        *(_Thing(path, partial(verify_states, path)) for path in attempt(states_in, workspace)[0] or []),
        _Thing(encoder, verify_built_in_encoder, lambda: [lock_beside(encoder)]),
    ]


def _store(path: Path, stores: KnownStores) -> _Thing:
    return _Thing(path, partial(verify_store, path, stores=stores))


def _run(run: Run, stores: KnownStores) -> _Thing:
    return _Thing(run.path, partial(verify_run, run, stores=stores), partial(locks_of, run))


def examine_named(name: str, store: Path, workspace: Workspace, observer: Observer) -> list[Finding]:
    """Examine one store or run, or both where they are called alike.

    Args:
        name: of a run, a path to one, or what names a store.
        store: the store that `name` would mean.
        workspace: where runs lie, and the stores that they were trained on.
        observer: is notified of the progress.

    Raises:
        ConkiError: there is no such thing.
    """
    place = Path(name) if is_path(name) else workspace.runs / name
    is_run = place.is_dir() and is_run_folder(place)
    if not store.is_file() and not is_run:
        raise ConkiError(
            f"no store and no run '{one_line(name)[:120]}' is there",
            advice=(
                f"give a file, a data set below "
                f"{workspace.stores}, or a run that `conki runs` lists; a path has a separator (./NAME)"
            ),
        )
    found: list[Finding] = []
    if store.is_file():
        found += _examined([_store(store, KnownStores())], Examination(workspace), observer)
    if is_run:
        folder = place.absolute().parent
        home = Workspace(folder.parent) if folder.name == workspace.runs.name else workspace
        examination = Examination(home, here=this_machine()[0])
        found += _examined([_run(Run(place), KnownStores())], examination, observer)
    return found


def _examined(things: Sequence[_Thing], examination: Examination, observer: Observer) -> list[Finding]:
    """Verify things one after the other, saying how far it is."""
    size = sum(attempt(size_of, thing.path)[0] or 0 for thing in things)
    found: list[Finding] = []
    with observer.steps("doctor", max(1, size // _UNIT)) as step:
        done = 0

        def advance(count: int, remark: str) -> None:
            nonlocal done
            step((done + count) // _UNIT - done // _UNIT, f"MiB, {one_line(remark)}")
            done += count

        examination = replace(examination, advance=advance)
        for thing in things:
            if closed := closed_findings(thing.path, deep=True):
                found += closed
                continue
            found += guarded(thing.path, thing.verify(examination))
            if thing.path.is_dir():
                found += left_over(thing.path, deep=True, locks=thing.locks())
    return found
