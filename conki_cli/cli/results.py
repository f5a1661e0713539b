"""The commands that use finished runs: their metrics, their list, scores for new utterances."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from conki_cli.cli.options import ExportOption, JsonOption, ProtocolOption, WorkspaceOption
from conki_cli.cli.program import check_export_option, mention_damage, screen_for, store_path, workspace_at
from conki_cli.cli.streams import note_kept
from conki_cli.errors import RunError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conki_cli.screen import Screen
    from conki_cli.tables.grid import Row, TableInfo


def evaluate(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Run to evaluate: its name, or its folder (./FOLDER). Default: the newest fine-tuning run."
        ),
    ] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Split to evaluate.")] = "test",
    protocol: ProtocolOption = "all",
    export: ExportOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show the metrics of a run (MAE, Corr, Acc-7, Acc-2, F1) over its seeds, beside the paper's.

    conki evaluate
    conki evaluate mosi-conki-1a2b3c4d --split valid --export table.tex
    """
    from conki_cli.runs import evaluate_run, find_run
    from conki_cli.tables.systems import table_of_runs

    screen = screen_for(json)
    check_export_option(export)
    if run is None:
        mention_damage(screen, workspace)
    found = find_run(workspace_at(workspace), run)
    if left_out := sorted(set(found.result["seeds"]) - set(found.finished_seeds())):
        screen.say(f"{found.name}: seeds {', '.join(map(str, left_out))} are not finished and left out")
    if not found.predictions_exist(split):
        if (found.result["stage"], split) == ("pretrain", "valid"):
            raise RunError(f"a stage-1 run predicts while it trains, and {found.name} lacks valid.csv: train it again")
        from conki_cli.experiments import predict_split

        predict_split(found, split, workspace_at(workspace), screen)
    label, result = found.result["label"], evaluate_run(found, split, protocol)
    show_metrics(screen, *table_of_runs([(label, found.config, result)]), export)
    screen.answer({"label": label, **result})


def show_metrics(screen: "Screen", rows: "Sequence[Row]", info: "TableInfo", export: Path | None) -> None:
    """Write a table of metrics to a file, if one is wanted, and show it."""
    from conki_cli.tables.export import export_table
    from conki_cli.tables.screen import metric_table

    if export is not None:
        export_table(rows, info, export)
        note_kept(str(export))
        screen.say(f"table written to {export}")
    screen.show(metric_table(rows, info, width=screen.results.width))


def runs(workspace: WorkspaceOption = Path(), json: JsonOption = False) -> None:
    """List the runs of the workspace: stage, state, seeds, test metrics, size."""
    from conki_cli.runs import describe_runs
    from conki_cli.tables.screen import runs_table

    screen = screen_for(json)
    entries = describe_runs(workspace_at(workspace))
    mention_damage(screen, workspace)
    if not entries:
        screen.say(f"no runs below {workspace_at(workspace).runs} yet: train one with `conki finetune`")
    if not json:  # not `show`, which would cut a name that is longer than a line
        screen.results.print(runs_table(entries, width=screen.results.width), soft_wrap=True)
    screen.answer({"runs": entries})


def predict(
    run: Annotated[str, typer.Argument(help="A fine-tuning run: its name, or its folder.")],
    store: Annotated[str | None, typer.Argument(help="A feature store with new clips: its name, or a file.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A sentence to score. Repeatable.")] = None,
    source: Annotated[Path | None, typer.Option(help="Table with a column `text`, and `id` if you like.")] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Split of the store.")] = "test",
    export: Annotated[Path | None, typer.Option(help="Also write the scores to FILE.csv.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Score new utterances: the mean over a run's seeds, and each seed.

    A run that uses audio or vision needs a feature store; a run of texts takes them all.

    conki predict mosi-conki-1a2b3c4d --text "I loved it" --text "Not again"
    conki predict mosi-conki-1a2b3c4d mosei --split test --export scores.csv
    """
    from conki_cli.experiments import mention_scale, predict_new, read_new
    from conki_cli.runs import find_run, write_scores
    from conki_cli.tables.screen import scores_table

    if sum(given is not None for given in (store, text, source)) != 1:
        raise SettingsError("say what to score with one of --text, --source FILE.csv or a feature store")
    screen = screen_for(json)
    check_export_option(export, ".csv")
    if export is not None and source is not None and export.resolve() == source.resolve():
        raise SettingsError(f"--export would overwrite --source {source}: give another file")
    found = find_run(workspace_at(workspace), run)
    place = store_path(store, workspace) if store else None
    if place is not None:
        mention_scale(found, place, workspace_at(workspace), screen)
    with read_new(text, source, place, split, screen) as utterances:
        scored = predict_new(found, utterances, device, screen)
    if export is not None:
        write_scores(export, scored)
        note_kept(str(export))
        screen.say(f"scores written to {export}")
    screen.show(scores_table(scored, width=screen.results.width))
    screen.answer(scored)
