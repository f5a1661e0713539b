"""The commands that train, and the list of their settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conki_cli.cli.launching import LAUNCHER, handed_over
from conki_cli.cli.options import (
    DropOption,
    DryRunOption,
    EpochsOption,
    ExportOption,
    JobsOption,
    JsonOption,
    OverwriteOption,
    ProtocolOption,
    StageOneEpochsOption,
    TrackOption,
    WorkspaceOption,
    adapter_flags,
    resolved,
    run_options,
)
from conki_cli.cli.program import check_export_option, mention_damage, screen_for, workspace_at
from conki_cli.cli.ranks import any_seat, in_ranks
from conki_cli.cli.streams import note_written
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conki_cli.cli.screen import Screen
    from conki_cli.config.sections import RunConfig
    from conki_cli.experiments.planning import Plan
    from conki_cli.runs import Run, Runs
    from conki_cli.system.observer import Observer


@run_options
@in_ranks
def pretrain(
    settings: dict[str, Any],
    drop: DropOption = None,
    epochs: StageOneEpochsOption = None,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    track: TrackOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Stage 1: pretrain the adapters on the external data set (Algorithm 1).

    `finetune` runs this automatically when needed. A finished run is reused;
    the same command resumes an interrupted one.

    conki pretrain --external mosei --dataset mosi
    """
    from conki_cli.runs import Runs

    screen = screen_for(json)
    config = resolved(settings, screen.say, epochs=("pretraining.num_epochs", epochs), drop=drop)
    catalogue = Runs(workspace_at(workspace))
    mention_damage(screen, catalogue, besides=config.run.name)
    done = trained(screen, [config], catalogue, stage="pretrain", discard=overwrite, dry_run=dry_run, track=track)
    if done:
        _show_finished(screen, done[0][1], split="valid")


@run_options
@in_ranks
def finetune(
    settings: dict[str, Any],
    drop: DropOption = None,
    adapters: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Start from exported adapters instead of an external data set."),
    ] = None,
    epochs: EpochsOption = None,
    overwrite: OverwriteOption = False,
    jobs: JobsOption = 1,
    dry_run: DryRunOption = False,
    track: TrackOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Stage 2: fine-tune on the target data set, after stage 1 if needed.

    Finished work is reused; the same command resumes an interrupted run.
    A data set without a store is prepared first if its files are below data/.

    conki finetune --external mosei --seeds 1..5
    conki finetune --dataset mosi --drop C4 --epochs 20
    conki finetune --dataset sims --adapters mosei-adapters
    """
    from conki_cli.runs import Runs

    screen = screen_for(json)
    if adapters is not None:
        settings = {**settings, "flags": {**settings["flags"], **adapter_flags(adapters, settings["flags"])}}
    config = resolved(settings, screen.say, epochs=("optimizer.num_epochs", epochs), drop=drop)
    catalogue = Runs(workspace_at(workspace))
    mention_damage(screen, catalogue, besides=config.run.name)
    done = trained(screen, [config], catalogue, discard=overwrite, num_jobs=jobs, dry_run=dry_run, track=track)
    if done:
        _show_finished(screen, done[0][1], split="test")


def trained(
    screen: "Screen",
    configs: "Sequence[RunConfig] | Mapping[str, RunConfig]",
    catalogue: "Runs",
    *,
    stage: Literal["pretrain", "finetune"] = "finetune",
    discard: bool = False,
    num_jobs: int = 1,
    dry_run: bool,
    track: "Sequence[str] | None",
) -> "list[tuple[str, Run]]":
    """Train what is missing and return the runs by label; a dry run only shows the plan."""
    from conki_cli.experiments.planning import make_plan
    from conki_cli.reporting.tracking import load_trackers, tracked
    from conki_cli.training.steps import Shelf

    libraries = load_trackers(track or [])
    with Shelf() as shelf:
        plan = make_plan(configs, catalogue, screen, shelf=shelf, stage=stage, discard=discard, dry_run=dry_run)
        if handed_over(plan, num_jobs=num_jobs, dry_run=dry_run, track=track or []):
            return []
        with tracked(libraries, catalogue.workspace, screen) as observer:
            return carried_out(screen, plan, observer, num_jobs=num_jobs, dry_run=dry_run)


def carried_out(
    screen: "Screen", plan: "Plan", observer: "Observer", *, num_jobs: int = 1, dry_run: bool
) -> "list[tuple[str, Run]]":
    """Train what a plan has and return the runs by label; or, in a dry run, show the plan alone."""
    from conki_cli.experiments.execution import carry_out, check_processes

    if not dry_run:
        return carry_out(plan, observer, num_jobs=num_jobs)
    check_processes(plan, num_jobs, any_seat())
    from conki_cli.experiments.forecast import describe_plan
    from conki_cli.reporting.tables.plans import plan_table

    described = describe_plan(plan, num_jobs=num_jobs)
    screen.show(*plan_table(described, folder=str(plan.runs.workspace.runs)))
    screen.answer(described)
    return []


def _show_finished(screen: "Screen", run: "Run", split: str) -> None:
    note_written(str(run.path))
    from conki_cli.config.words import run_label
    from conki_cli.runs import learning_warnings

    screen.say(f"run: {run.path}")
    screen.compare([(run_label(run.config), run)], split)
    warnings = learning_warnings(run, run.finished_seeds())
    screen.answer({"run": run.name, "path": run.path, **run.record.as_json(), "warnings": warnings})


@run_options
@in_ranks
def ablate(
    settings: dict[str, Any],
    drop: DropOption = None,
    table: Annotated[
        int | None, typer.Option(help="All rows of the paper's Table 4 or 5.", min=4, max=5, metavar="NUMBER")
    ] = None,
    epochs: EpochsOption = None,
    protocol: ProtocolOption = "all",
    export: ExportOption = None,
    overwrite: OverwriteOption = False,
    jobs: JobsOption = 1,
    dry_run: DryRunOption = False,
    track: TrackOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Compare the full model with versions that lack a part (Tables 4 and 5); train what is missing.

    Every --drop adds a row below the full model. Finished runs are reused.

    conki ablate --drop C4 --drop N1 --drop C1+C4
    conki ablate --table 5 --seeds 1..5 --export table5.md
    """
    if not drop and table is None:
        raise SettingsError("say what to leave out: --drop C4 (repeatable, combined as C1+C4), or --table 4 or 5")
    from conki_cli.config.resolving import parse_switches
    from conki_cli.config.words import switch_label
    from conki_cli.experiments.ablations import PAPER_ROWS, ablation_rows
    from conki_cli.runs import Runs

    screen = screen_for(json)
    paper_rows = PAPER_ROWS[table] if table is not None else ()
    drops = [(), *paper_rows, *(parse_switches(words) for words in drop or [])]
    rows = {
        switch_label(words): resolved(
            settings,
            screen.say,
            epochs=("optimizer.num_epochs", epochs),
            drop=["+".join(words)] if words else None,
            is_row=True,
        )
        for words in drops
    }
    check_export_option(export)
    catalogue = Runs(workspace_at(workspace))
    mention_damage(screen, catalogue, besides=rows["ConKI"].run.name)
    rows_by_words = ablation_rows(rows)
    done = trained(screen, rows_by_words, catalogue, discard=overwrite, num_jobs=jobs, dry_run=dry_run, track=track)
    if not done:
        return
    note_written(str(workspace_at(workspace).runs))
    screen.answer({"rows": screen.compare(done, "test", protocol=protocol, export=export)})


@in_ranks
def demo(
    encoder: Annotated[
        str | None,
        typer.Option(help="A real text encoder: Hugging Face name or folder. Default: a small built-in one."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Random seeds: 1..5 or 1,4,9.")] = "1",
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps or xpu.")] = "auto",
    video: Annotated[
        bool, typer.Option("--video", help="From videos to scores instead: drawn faces and synthetic voices.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, metavar="N", help="Train N rows side by side. Default: 2 where torch has several threads."
        ),
    ] = None,
    dry_run: DryRunOption = False,
    track: TrackOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Run everything once on two small built-in corpora: prepare, pretrain, fine-tune, evaluate, compare.

    Needs no data, no network and no GPU; takes a few minutes. The last step
    writes report.html, one page with all results (see `conki report`).

    conki demo
    conki demo --seeds 1..5 --workspace /tmp/conki-demo
    conki demo --video
    """
    if video:
        from conki_cli.cli.videos import show_demo_video

        return show_demo_video(seeds, device, encoder, workspace, json)
    from conki_cli.cli.reports import write_report
    from conki_cli.config.words import parse_seeds
    from conki_cli.experiments.demo import demo_rows
    from conki_cli.reporting.page import NAME, PageChoices, check_page
    from conki_cli.reporting.page.figures import chosen_kinds
    from conki_cli.runs import Runs

    screen = screen_for(json)
    place = workspace_at(workspace)
    page = place.root / NAME
    check_page(page)
    configs = demo_rows(encoder, parse_seeds(seeds), device)
    rows = trained(screen, configs, Runs(place), num_jobs=jobs or _side_by_side(), dry_run=dry_run, track=track)
    if not rows:
        return None
    note_written(str(place.runs))
    shown = screen.compare(rows, "test")
    screen.say(f"features: {place.store('demo').parent.resolve()}")
    for _, run in rows:
        screen.say(f"run: {run.path.resolve()}")
    choices = PageChoices(figures=chosen_kinds("stored"))
    write_report(page, [run for _, run in rows], workspace, choices, screen)
    screen.answer({"rows": shown, "workspace": place.root.resolve(), "report": page.resolve()})
    screen.say(f"next: conki evaluate {rows[0][1].name}; conki predict {rows[0][1].name} ...; conki runs")
    return None


def _side_by_side() -> int:
    """Return how many rows of the demo train at once: two, unless there is one thread or `conki submit` or ranks."""
    import torch

    return 1 if any_seat() or LAUNCHER.get() else min(2, torch.get_num_threads())


def settings(json: JsonOption = False) -> None:
    """List every setting: name, default and meaning (for --set and --config)."""
    from conki_cli.config.declarations import setting_fields, setting_type
    from conki_cli.reporting.tables.screen import settings_table

    screen = screen_for(json)
    entries = [
        {
            "setting": path,
            "type": str(setting_type(path)),
            "default": field.default,
            "help": field.metadata["help"],
            "option": field.metadata["flag"] or None,
            "since": field.metadata["since"],
        }
        for path, field in setting_fields().items()
    ]
    screen.show(settings_table(entries))
    screen.answer({"settings": entries})
