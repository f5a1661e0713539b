"""The commands that train, and the list of the settings that they take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conki_cli.cli.options import (
    DropOption,
    ExportOption,
    JsonOption,
    OverwriteOption,
    ProtocolOption,
    WorkspaceOption,
    resolved,
    run_options,
)
from conki_cli.cli.program import check_export_option, mention_damage, screen_for, workspace_at
from conki_cli.cli.streams import note_kept
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from conki_cli.cli.screen import Screen
    from conki_cli.runs import Run


@run_options
def pretrain(
    settings: dict[str, Any],
    drop: DropOption = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of stage 1.")] = None,
    overwrite: OverwriteOption = False,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Stage 1: pretrain the adapters on the external data set (Algorithm 1).

    `finetune` does this by itself where it is needed. A finished run is reused;
    an interrupted one continues with the same command.

    conki pretrain --external mosei --dataset mosi
    """
    from conki_cli.experiments.plans import pretrain as work

    screen = screen_for(json)
    config = resolved(settings, screen.say, epochs=("pretraining.num_epochs", epochs), drop=drop)
    mention_damage(screen, workspace, besides=config.run.name)
    run = work(config, workspace_at(workspace), screen, overwrites=overwrite)
    _show_finished(screen, run, split="valid")


@run_options
def finetune(
    settings: dict[str, Any],
    drop: DropOption = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of stage 2; stage 1 keeps its own.")] = None,
    overwrite: OverwriteOption = False,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Stage 2: fine-tune on the target data set, after the stage 1 it needs.

    Finished work is reused; an interrupted run continues with the same command.
    A data set without a store is prepared first if its files lie below data/.

    conki finetune --external mosei --seeds 1..5
    conki finetune --dataset mosi --drop C4 --epochs 20
    """
    from conki_cli.experiments.plans import finetune as work

    screen = screen_for(json)
    config = resolved(settings, screen.say, epochs=("optimizer.num_epochs", epochs), drop=drop)
    mention_damage(screen, workspace, besides=config.run.name)
    run = work(config, workspace_at(workspace), screen, overwrites=overwrite)
    _show_finished(screen, run, split="test")


def _show_finished(screen: "Screen", run: "Run", split: str) -> None:
    note_kept(str(run.path))
    from conki_cli.config.words import run_label
    from conki_cli.runs import learning_warnings

    screen.say(f"run: {run.path}")
    screen.compare([(run_label(run.config), run)], split)
    warnings = learning_warnings(run, run.finished_seeds())
    screen.answer({"run": run.name, "path": run.path, **run.result, "warnings": warnings})


@run_options
def ablate(
    settings: dict[str, Any],
    drop: DropOption = None,
    table: Annotated[
        int | None, typer.Option(help="All rows of the paper's Table 4 or 5.", min=4, max=5, metavar="NUMBER")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of stage 2; stage 1 keeps its own.")] = None,
    protocol: ProtocolOption = "all",
    export: ExportOption = None,
    overwrite: OverwriteOption = False,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Compare the full model with versions that lack a part (Tables 4 and 5); trains what is missing.

    Every --drop is a row, the full model is the first. Finished runs are reused.

    conki ablate --drop C4 --drop N1 --drop C1+C4
    conki ablate --table 5 --seeds 1..5 --export table5.md
    """
    from conki_cli.experiments.plans import ablate as work

    if not drop and table is None:
        raise SettingsError("say what to leave out: --drop C4 (repeatable, combined as C1+C4), or --table 4 or 5")
    from conki_cli.config.resolving import parse_switches
    from conki_cli.config.words import switch_label

    screen = screen_for(json)
    paper_rows = {None: [], 4: [("T",), ("V",), ("A",)], 5: [("C1",), ("C2",), ("C3",), ("C4",), ("N1",)]}[table]
    drops = [(), *paper_rows, *(parse_switches(words) for words in drop or [])]
    rows = {
        switch_label(words): resolved(
            settings, screen.say, epochs=("optimizer.num_epochs", epochs), drop=["+".join(words)] if words else None
        )
        for words in drops
    }
    check_export_option(export)
    mention_damage(screen, workspace, besides=rows["ConKI"].run.name)
    done = work(rows, workspace_at(workspace), screen, overwrites=overwrite)
    note_kept(str(workspace_at(workspace).runs))
    screen.answer({"rows": screen.compare(done, "test", protocol=protocol, export=export)})


def demo(
    encoder: Annotated[
        str | None, typer.Option(help="A real text encoder: Hugging Face name or folder. Default: a small one, built.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Random seeds: 1..5 or 1,4,9.")] = "1",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    video: Annotated[
        bool, typer.Option("--video", help="From videos to scores instead: drawn faces and synthetic voices.")
    ] = False,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """See everything once, on two small built-in corpora: prepare, pretrain, fine-tune, evaluate, compare.

    Needs no data, no network and no GPU; takes a few minutes.

    conki demo
    conki demo --seeds 1..5 --workspace /tmp/conki-demo
    conki demo --video
    """
    if video:
        from conki_cli.cli.videos import show_demo_video

        return show_demo_video(seeds, device, encoder, workspace, json)
    from conki_cli.config.words import parse_seeds
    from conki_cli.experiments.plans import ablate as work
    from conki_cli.experiments.plans import demo_rows

    screen = screen_for(json)
    place = workspace_at(workspace)
    rows = work(demo_rows(encoder, parse_seeds(seeds), device), place, screen)
    note_kept(str(place.runs))
    shown = screen.compare(rows, "test")
    screen.say(f"features: {place.store('demo').parent.resolve()}")
    for _, run in rows:
        screen.say(f"run: {run.path.resolve()}")
    screen.answer({"rows": shown, "workspace": place.root.resolve()})
    screen.say(f"next: conki evaluate {rows[0][1].name}; conki predict {rows[0][1].name} ...; conki runs")
    return None


def settings(json: JsonOption = False) -> None:
    """List every setting: name, default and meaning (for --set and --config)."""
    from conki_cli.config.resolving import setting_fields, setting_type
    from conki_cli.reporting.tables.screen import settings_table

    screen = screen_for(json)
    entries = [
        {"setting": path, "type": str(setting_type(path)), "default": field.default, "help": field.metadata["help"]}
        for path, field in setting_fields().items()
    ]
    screen.show(settings_table(entries))
    screen.answer({"settings": entries})
