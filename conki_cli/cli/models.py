"""The commands about many models at once: compare systems, list the models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conki_cli.cli.launching import LAUNCHER, handed_over
from conki_cli.cli.options import (
    DryRunOption,
    EpochsOption,
    ExportOption,
    JobsOption,
    JsonOption,
    ProtocolOption,
    TrackOption,
    WorkspaceOption,
    run_options,
    training_options,
)
from conki_cli.cli.program import (
    check_export_option,
    mention_damage,
    predict_missing,
    screen_for,
    store_path,
    workspace_at,
)
from conki_cli.cli.ranks import in_ranks
from conki_cli.cli.streams import note_written
from conki_cli.cli.training import carried_out
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from conki_cli.cli.screen import Screen
    from conki_cli.config.sections import RunConfig
    from conki_cli.runs import Run


@run_options
@in_ranks
def compare(
    settings: dict[str, Any],
    runs: Annotated[
        list[str] | None, typer.Argument(help="Finished fine-tuning runs; the first is the reference.")
    ] = None,
    table: Annotated[
        Literal["2", "3", "6"] | None, typer.Option(help="Or: the models of the paper's table, ConKI first.")
    ] = None,
    models: Annotated[str | None, typer.Option(metavar="A,B,C", help="Restrict or extend the table's models.")] = None,
    epochs: EpochsOption = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Split to compare on.")] = "test",
    protocol: ProtocolOption = "all",
    export: ExportOption = None,
    jobs: JobsOption = 1,
    dry_run: DryRunOption = False,
    track: TrackOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Compare systems on the same clips and test whether they differ.

    --table trains the missing rows of the paper's Table 2 (MOSI, or
    --dataset mosei), 3 (SIMS) or 6 (MOSI, every model on MOSEI first).
    Marks show which test finds a difference from the first row: Welch's needs two
    seeds of each run, the paired tests two that both have. --json has raw and
    corrected p-values and effect sizes.

    conki compare --table 2 --seeds 1..5 --export table2.md
    conki compare --table 6 --models conki,self-mm --seeds 1..5
    conki compare mosi-conki-1a2b3c4d mosi-misa-5e6f7a8b
    """
    from conki_cli.reporting.comparison import compare as work
    from conki_cli.reporting.comparison import read_systems
    from conki_cli.reporting.tables.systems import comparison_answer, comparison_rows

    if bool(runs) == (table is not None):
        raise SettingsError("name two or more finished runs, or give --table 2, 3 or 6 to train the missing models")
    screen = screen_for(json)
    check_export_option(export)
    if table is None:
        _refuse_training_options(settings, models, epochs)
        seeds = settings["flags"]["run.seeds"]
        unread = {"conki submit": LAUNCHER.get(), "--dry-run": dry_run, "--track": track, "--jobs": jobs > 1}
        if given := [option for option, value in unread.items() if value]:
            raise SettingsError("nothing is trained to compare finished runs", advice=f"leave out {given[0]}")
        found = _named_runs(runs or [], seeds, split, workspace, screen)
    else:
        configs = _table_configs(int(table), models, {**settings, "epochs": epochs})
        found = _trained_rows(configs, workspace, screen, num_jobs=jobs, dry_run=dry_run, track=track)
        if not found:
            return
        predict_missing(found, split, workspace_at(workspace), screen)
        seeds = configs[0].run.seeds
    systems = read_systems(found, split, protocol, seeds, threshold=settings["flags"]["data.threshold"])
    compared = work(systems, protocol)
    screen.show_metrics(*comparison_rows(compared), export)
    screen.answer({"table": int(table) if table is not None else None, **comparison_answer(compared)})


def _refuse_training_options(settings: dict[str, Any], models: str | None, epochs: int | None) -> None:
    """Refuse options that would be ignored: the settings of finished runs are fixed."""
    own = {"--models": models, "--epochs": epochs}
    given = [*training_options(settings), *(option for option, value in own.items() if value is not None)]
    if given:
        raise SettingsError(
            "the settings of finished runs cannot be changed",
            advice=(
                f"leave out {given[0]} (or give --table instead of runs); "
                "--seeds, --threshold, --split and --protocol can be chosen"
            ),
        )


def _named_runs(
    names: list[str], seeds: tuple[int, ...] | None, split: str, workspace: Path, screen: "Screen"
) -> list["Run"]:
    from conki_cli.reporting.comparison import check_predicts
    from conki_cli.runs import Runs

    catalogue = Runs(workspace_at(workspace))
    found = [catalogue.find(name) for name in names]
    for run in found:
        check_predicts(run)
        _mention_absent(run, seeds, screen)
    predict_missing(found, split, workspace_at(workspace), screen)
    return found


def _mention_absent(run: "Run", seeds: tuple[int, ...] | None, screen: "Screen") -> None:
    """Say which seeds a comparison lacks, of those asked for or of all seeds of the run."""
    from conki_cli.runs import left_out_note

    wanted = set(run.record.seeds if seeds is None else seeds)
    if wanted & set(run.finished_seeds()) and (note := left_out_note(run, wanted)):  # none is there: an error, later
        screen.say(note)


def _table_configs(table: int, models: str | None, settings: dict[str, Any]) -> "list[RunConfig]":
    from conki_cli.experiments.comparisons import table_configs

    epochs, flags = settings.pop("epochs"), settings["flags"]
    typed = {line.partition("=")[0].strip() for line in settings["assignments"]}
    typed |= {path for path, value in flags.items() if value is not None}
    if typed & {"model.name", "run.name"}:
        raise SettingsError(
            "a table has many models, each with its own run", advice="give --models instead of --model or --name"
        )
    names = [name.strip() for name in models.split(",")] if models is not None else None
    return table_configs(table, names, **{**settings, "flags": {**flags, "optimizer.num_epochs": epochs}})


def _trained_rows(
    configs: "list[RunConfig]",
    workspace: Path,
    screen: "Screen",
    *,
    num_jobs: int,
    dry_run: bool,
    track: list[str] | None,
) -> list["Run"]:
    from conki_cli.experiments.comparisons import plan_rows
    from conki_cli.reporting.tracking import load_trackers, tracked
    from conki_cli.runs import Runs
    from conki_cli.training.steps import Shelf

    libraries = load_trackers(track or [])
    catalogue = Runs(workspace_at(workspace))
    for config in configs:  # a damaged run that is needed is an error, so no warning about it is due
        catalogue.locate(config)
    mention_damage(screen, catalogue)
    with Shelf() as shelf:
        plan = plan_rows(configs, catalogue, screen, shelf=shelf, dry_run=dry_run)
        if handed_over(plan, num_jobs=num_jobs, dry_run=dry_run, track=track or []):
            return []
        with tracked(libraries, catalogue.workspace, screen) as observer:
            found = carried_out(screen, plan, observer, num_jobs=num_jobs, dry_run=dry_run)
    if found:
        note_written(str(catalogue.workspace.runs))
    return [run for _, run in found]


def models(
    store: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Feature store whose widths are used: a name or a file. Default: mosi."),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model. Repeatable.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Text encoder: Hugging Face name or folder. Default: the data set's.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """List the models: paper, year, parameters, what the sources fix, what we chose.

    Parameters are counted without the text encoder, at the feature widths of a store.

    conki models
    conki models --model iccn --model hycon
    conki models --store mosei --json
    """
    from conki_cli.config.models import facts
    from conki_cli.config.sections import MODELS
    from conki_cli.data.store.reading import FeatureStore
    from conki_cli.datasets import REFERENCE
    from conki_cli.reporting.tables.models import models_table

    names = list(dict.fromkeys(model or MODELS))
    for name in names:
        facts(name)
    place = workspace_at(workspace)
    path = store_path(store, workspace) if store is not None else place.store(REFERENCE.name)
    screen = screen_for(json)
    from conki_cli.experiments.comparisons import describe_models

    if store is None and not path.exists():
        found = describe_models(names, None, encoder, place)
    else:
        with FeatureStore(path) as opened:
            found = describe_models(names, opened, encoder, place)
    screen.show(*models_table(found))
    screen.answer(found)
