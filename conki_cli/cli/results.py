"""The commands that use finished runs: their metrics, their list, scores for new utterances."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from conki_cli.cli.options import ExportOption, JsonOption, ProtocolOption, WorkspaceOption
from conki_cli.cli.program import check_export_option, mention_damage, screen_for, store_path, workspace_at
from conki_cli.errors import SettingsError


def evaluate(
    run: Annotated[str | None, typer.Argument(help="Run to evaluate. Default: the newest fine-tuning run.")] = None,
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
    from conki_cli.runs import find_run

    screen = screen_for(json)
    check_export_option(export)
    if run is None:
        mention_damage(screen, workspace)
    found = find_run(workspace_at(workspace), run)
    if left_out := sorted(set(found.result["seeds"]) - set(found.finished_seeds())):
        screen.say(f"{found.name}: seeds {', '.join(map(str, left_out))} are not finished and left out")
    if not found.predictions_exist(split):
        from conki_cli.experiments import predict_split

        predict_split(found, split, workspace_at(workspace), screen)
    rows = [(found.result["label"], found)]
    screen.answer(*screen.compare(rows, split, protocol=protocol, export=export))


def runs(workspace: WorkspaceOption = Path(), json: JsonOption = False) -> None:
    """List the runs of the workspace: stage, state, seeds, test metrics, size."""
    from conki_cli.runs import describe_runs
    from conki_cli.tables import runs_table

    screen = screen_for(json)
    entries = describe_runs(workspace_at(workspace))
    mention_damage(screen, workspace)
    if not entries:
        screen.say(f"no runs below {workspace_at(workspace).runs} yet: train one with `conki finetune`")
    screen.show(runs_table(entries))
    screen.answer({"runs": entries})


def predict(
    run: Annotated[str, typer.Argument(help="A fine-tuning run: its name, or its folder.")],
    store: Annotated[Path | None, typer.Argument(help="A feature store with new clips.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A sentence to score. Repeatable.")] = None,
    source: Annotated[Path | None, typer.Option(help="CSV file with a column `text`, and `id` if you like.")] = None,
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
    from conki_cli.tables import scores_table

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
    with read_new(text, source, place, split) as utterances:
        scored = predict_new(found, utterances, device, screen)
    if export is not None:
        write_scores(export, scored)
        screen.say(f"scores written to {export}")
    screen.show(scores_table(scored, width=screen.results.width))
    screen.answer(scored)
