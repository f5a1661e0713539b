"""The command that examines what other commands wrote: doctor."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from conki_cli.cli.options import JsonOption, WorkspaceOption
from conki_cli.cli.program import ON_INTERRUPTION, screen_for, workspace_at
from conki_cli.system.errors import ConkiError


def doctor(
    context: typer.Context,
    thing: Annotated[
        str | None,
        typer.Argument(metavar="RUN|STORE", help="A run or store: its name, or its path. Default: everything."),
    ] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Verify stores, runs and the environment, and say how to fix what is wrong.

    Verifies every checksum: frames, texts and scores of stores, checkpoints, predictions, cached states. Compares the
    installed versions with those that a run was trained with. Changes nothing. The exit code is 1 if there is a fault.

    conki doctor
    conki doctor mosi
    conki doctor mosi-conki-1a2b3c4d
    """
    context.meta[ON_INTERRUPTION] = "nothing was changed; what was not examined yet may be damaged"
    from conki_cli.doctor import examine, examine_named
    from conki_cli.reporting.tables.findings import findings_table

    screen, space = screen_for(json), workspace_at(workspace)
    found = examine(space, screen) if thing is None else examine_named(thing, space.store_called(thing), space, screen)
    screen.show(*findings_table(found))
    counts = {f"{name}s": sum(finding.severity == name for finding in found) for name in ("fault", "remark")}
    findings = [dataclasses.asdict(finding) for finding in found]
    screen.answer({"workspace": space.root.absolute(), **counts, "findings": findings})
    if faults := counts["faults"]:
        fault = "1 fault was" if faults == 1 else f"{faults} faults were"
        raise ConkiError(f"{fault} found", advice="see the advice under each")
