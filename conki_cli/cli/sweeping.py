"""The command that searches settings."""

from pathlib import Path
from typing import Annotated, Any

import typer

from conki_cli.cli.options import (
    DropOption,
    DryRunOption,
    EpochsOption,
    JobsOption,
    JsonOption,
    WorkspaceOption,
    resolved,
    run_options,
)
from conki_cli.cli.program import screen_for, workspace_at
from conki_cli.cli.streams import note_written


@run_options
def sweep(
    settings: dict[str, Any],
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES", help="Setting to vary: LOW..HIGH, LOW..HIGH:log or a list A,B,C. Repeatable."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, over all processes; a grid has no more.")] = 50,
    storage: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="Where trials are kept. Default: a file below sweeps/."),
    ] = None,
    drop: DropOption = None,
    epochs: EpochsOption = None,
    jobs: JobsOption = 1,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Search settings by validation MAE; the test split is never read.

    Ranges are searched by Optuna (TPE; bad trials are pruned), lists alone as a grid.
    The same command continues; several processes may share one storage. The best
    settings are written to sweeps/NAME/best.toml, for `conki finetune --config`.

    conki sweep --over loss.contrast_weight=1e-4..1e-1:log --over loss.temperature=0.03,0.07,0.2 --trials 50
    """
    from conki_cli.experiments.sweeps import describe_sweep, foresee_sweep, make_sweep, sweep_all
    from conki_cli.reporting.tables.sweeps import foreseen, next_steps, sweep_table
    from conki_cli.system.files import write_bytes

    screen = screen_for(json)
    name = settings["flags"].pop("run.name") or ""
    base = resolved(settings, screen.say, epochs=("optimizer.num_epochs", epochs), drop=drop)
    place = workspace_at(workspace)
    wanted = make_sweep(base, over or [], place, num_trials=trials, storage=storage or "", name=name)
    if dry_run:
        plan = foresee_sweep(wanted, screen, num_jobs=jobs)
        screen.show(*foreseen(plan, folder=place.root.resolve()))
        screen.answer(plan)
        return
    screen.say(f"sweep {wanted.name}: {wanted.folder}")
    sweep_all(wanted, screen, num_jobs=jobs)
    note_written(str(wanted.folder))
    found = describe_sweep(wanted)
    if found["best"] is not None:
        from conki_cli.reporting.figures.sweep import draw_sweep

        figure = wanted.folder / "sweep.svg"
        write_bytes(figure, draw_sweep(found))
        screen.say(f"figure: {figure}")
    screen.show(*sweep_table(found))
    for line in next_steps(found):
        screen.say(line)
    screen.answer(found)
