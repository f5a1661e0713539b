"""`conki doctor`: whether what lies in a workspace is what was written there, and what to do where it is not.

Everything is read, to the last byte where there is a checksum; nothing is written. Whatever goes wrong while a file is
read is a finding, so one damaged file hides no other. Torch is imported where checkpoints are read.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from conki_cli.doctor.findings import Finding, Visit, closed_findings, guarded, tried
from conki_cli.doctor.kept import built_in_encoder_findings, kept_states_findings
from conki_cli.doctor.machine import machine_findings, this_machine
from conki_cli.doctor.runs import is_run_folder, run_findings
from conki_cli.doctor.stores import store_findings
from conki_cli.doctor.traces import left_over
from conki_cli.runs import Run
from conki_cli.system.errors import ConkiError, one_line
from conki_cli.system.files import size_of
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace, is_path

__all__ = ["Finding", "examine", "examine_named"]

_UNIT = 2**20  # bytes of one step of the progress bar
Thing = tuple[Path, Callable[[Visit], Iterator[Finding]]]
"""What is examined: where it lies, and what yields the findings."""


def examine(workspace: Workspace, observer: Observer) -> list[Finding]:
    """Examine the environment, every store, run and kept state of a workspace, and the built-in encoder."""
    here, problem = this_machine()
    found = list(machine_findings(workspace, here, problem))
    root = workspace.root
    folders = [root / name for name in ("features", "runs", "frozen")]
    if shut := [finding for folder in folders for finding in closed_findings(folder)]:
        return [*found, *shut]
    things: list[Thing] = []
    things += [(path, partial(store_findings, path)) for path in _listed(root / "features", "*.h5")]
    things += [(path, partial(run_findings, Run(path))) for path in _listed(workspace.runs, "*") if path.is_dir()]
    things += [(path, partial(kept_states_findings, path)) for path in _listed(root / "frozen", "*.h5")]
    things.append((workspace.built_in_encoder, built_in_encoder_findings))
    found += _examined(things, Visit(workspace, here=here), observer)
    for folder in folders:
        found += left_over(folder)
    return found


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
    folders = [place] if place.is_dir() and is_run_folder(place) else []
    if not store.is_file() and not folders:
        raise ConkiError(
            f"no store and no run '{one_line(name)[:120]}' is there",
            advice=(
                f"give a file, a data set below "
                f"{workspace.root / 'features'}, or a run that `conki runs` lists; a path has a separator (./NAME)"
            ),
        )
    found: list[Finding] = []
    if store.is_file():
        found += _examined([(store, partial(store_findings, store))], Visit(workspace), observer)
    for path in folders:
        is_in_workspace = path.absolute().parent.name == "runs"
        home = Workspace(path.parents[1]) if is_in_workspace and len(path.parents) > 1 else workspace
        found += _examined([(path, partial(run_findings, Run(path)))], Visit(home, here=this_machine()[0]), observer)
    return found


def _listed(folder: Path, pattern: str) -> list[Path]:
    """Return what fits in a folder, in order, without hidden names; nothing of a folder that cannot be read."""
    found, _ = tried(sorted, folder.glob(pattern))
    return [path for path in found or [] if not path.name.startswith(".")]


def _examined(things: Sequence[Thing], visit: Visit, observer: Observer) -> list[Finding]:
    """Examine things one after the other, saying how far it is."""
    size = sum(tried(size_of, path)[0] or 0 for path, _ in things)
    found: list[Finding] = []
    with observer.steps("doctor", max(1, size // _UNIT)) as step:
        done = 0

        def advance(count: int, remark: str) -> None:
            nonlocal done
            step((done + count) // _UNIT - done // _UNIT, f"MiB, {one_line(remark)}")
            done += count

        visit = replace(visit, advance=advance)
        for path, findings in things:
            found += closed_findings(path, deep=True) or guarded(path, findings(visit))
    return found
