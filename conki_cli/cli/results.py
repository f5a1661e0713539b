"""The commands that use finished runs: their metrics, their list, scores for new utterances."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conki_cli.cli.extraction import ExtractionFlags
from conki_cli.cli.options import (
    CorruptOption,
    CorruptSeedOption,
    ExportOption,
    JsonOption,
    ProtocolOption,
    ThresholdOption,
    WorkspaceOption,
)
from conki_cli.cli.program import check_export_option, clips_path, mention_damage, screen_for, workspace_at
from conki_cli.cli.streams import note_written
from conki_cli.cli.videos import VideoWords, predict_videos
from conki_cli.system.errors import RunError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conki_cli.cli.screen import Screen
    from conki_cli.experiments.robustness import Condition
    from conki_cli.runs import Evaluation, Run
    from conki_cli.system.workspace import Workspace


def evaluate(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Run to evaluate: its name, or its folder (./FOLDER). Default: the newest fine-tuning run."
        ),
    ] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Split to evaluate.")] = "test",
    protocol: ProtocolOption = "all",
    threshold: ThresholdOption = None,
    export: ExportOption = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITIES", help="Leave modalities out of every clip, such as text+vision. Repeatable."),
    ] = None,
    all_subsets: Annotated[
        bool, typer.Option("--all-subsets", help="Show every subset of the modalities that the model can read.")
    ] = False,
    corrupt: CorruptOption = None,
    corrupt_seed: CorruptSeedOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show the metrics of a run (MAE, Corr, Acc-7, Acc-2, F1) over its seeds, beside the paper's.

    With --without, --all-subsets or --corrupt, also those for clips that lack something or are damaged.

    conki evaluate
    conki evaluate mosi-conki-1a2b3c4d --split valid --export table.tex
    conki evaluate mosi-conki-1a2b3c4d --without audio --without text+vision
    conki evaluate mosi-conki-1a2b3c4d --corrupt audio:noise=20dB,10dB,0dB --corrupt text:asr=0.2
    """
    from conki_cli.config.words import run_label
    from conki_cli.reporting.tables.systems import table_of_runs
    from conki_cli.runs import Runs, evaluate_run, left_out_note

    screen = screen_for(json)
    check_export_option(export)
    if corrupt_seed is not None and not corrupt:
        raise SettingsError("--corrupt-seed has no effect without --corrupt", "give --corrupt, or leave it out")
    catalogue = Runs(workspace_at(workspace))
    if run is None:
        mention_damage(screen, catalogue)
    found = catalogue.find(run)
    if run is None and catalogue.damaged():
        screen.say(f"warning: the newest run may be one of these; {found.name} is the newest usable one")
    if note := left_out_note(found):
        screen.say(note)
    asked = {"without": without or (), "all_subsets": all_subsets, "corrupt": corrupt or ()}
    conditions = _conditions(found, asked, screen) if any(asked.values()) else []
    if not found.predictions_exist(split):
        if (found.record.stage, split) == ("pretrain", "valid"):
            raise RunError(
                f"a stage-1 run predicts only while it trains, and {found.name} lacks valid.csv",
                advice="train it again",
            )
        from conki_cli.experiments.prediction import predict_split

        predict_split(found, split, workspace_at(workspace), screen)
    label, result = run_label(found.config), evaluate_run(found, split, protocol, threshold=threshold)
    if conditions:
        task = _Task(found, label, result, conditions, corrupt_seed or 0, threshold)
        _evaluate_conditions(task, export, workspace_at(workspace), screen)
        return
    screen.show_metrics(*table_of_runs([(label, found.config, result)]), export)
    screen.answer({"label": label, **result.as_json()})


def _conditions(run: "Run", asked: dict[str, Any], screen: "Screen") -> "list[Condition]":
    from conki_cli.experiments.robustness import conditions_of

    found = conditions_of(run, screen, **asked)
    if not found:
        raise SettingsError(f"{run.name} has no modality that it can leave out", "leave --all-subsets out")
    return found


@dataclass(frozen=True)
class _Task:
    """A run, its metrics on the clips as they are, and the conditions to measure it under."""

    run: "Run"
    label: str
    result: "Evaluation"
    conditions: "Sequence[Condition]"
    seed: int
    threshold: float | None


def _evaluate_conditions(task: _Task, export: Path | None, space: "Workspace", screen: "Screen") -> None:
    """Measure a run under conditions, and show them below its own metrics."""
    from conki_cli.experiments.robustness import measure
    from conki_cli.reporting.tables.robustness import condition_answers, condition_rows

    result, seed = task.result, task.seed
    rules: dict[str, Any] = {"protocol": result.protocol, "threshold": task.threshold, "seed": seed}
    measured = measure(task.run, task.conditions, result.split, space, screen, **rules)
    found = list(zip(task.conditions, measured, strict=True))
    screen.show_metrics(*condition_rows(task.label, task.run.config, result, found, seed=seed), export)
    conditions = condition_answers(found, seed=seed)
    screen.answer({"label": task.label, **result.as_json(), "conditions": conditions})


def runs(
    watch: Annotated[
        bool, typer.Option("--watch", help="Show who trains where (host, process, job, epoch) until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="With --watch: seconds between two looks.")
    ] = 2.0,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """List the runs of the workspace: stage, state, seeds, test metrics, size.

    With --watch a terminal shows a table, anything else gets a line per change,
    and --json prints one object per look, each on one line.

    conki runs
    conki runs --watch
    """
    screen = screen_for(json)
    if watch:
        from conki_cli.cli.watching import watch as work

        work(screen, workspace_at(workspace), interval)
        return
    from conki_cli.reporting.tables.screen import runs_table
    from conki_cli.runs import Runs

    catalogue = Runs(workspace_at(workspace))
    entries = catalogue.described()
    mention_damage(screen, catalogue)
    if not entries:
        screen.say(f"no runs below {workspace_at(workspace).runs} yet: train one with `conki finetune`")
    if not json:  # not `show`, which would truncate a name that is longer than a line
        screen.results.print(runs_table(entries, width=screen.results.width), soft_wrap=True)
    screen.answer({"runs": entries})


def predict(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FOLDER|OWNER/NAME",
            help="A fine-tuned run (--video needs one), a folder of `conki export`, or a model of the hub (@REVISION).",
        ),
    ],
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="STORE|SOURCE",
            help="New clips: a feature store (its name, or a file), or a path that `prepare --source` reads.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A sentence to score, or what is said in a --video. Repeatable.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="Table with a column `text` and, optionally, `id`.")] = None,
    split: Annotated[
        Literal["train", "valid", "test"] | None, typer.Option(help="Split of a store with scores. Default: test.")
    ] = None,
    video: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A video to score with a run, or a folder. Repeatable.")
    ] = None,
    transcribe: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Write down what is said in a --video: a Whisper-type model.")
    ] = None,
    segments: Annotated[str | None, typer.Option(metavar="5s|sentences", help="Score a --video in segments.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the scores of segments over time.")
    ] = None,
    face_models: Annotated[
        Path | None, typer.Option(metavar="DIR|FILE.task", help="Where the model files that find faces lie.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that extract videos. Default: one per core.")] = None,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Leave out videos that cannot be extracted.")
    ] = False,
    export: Annotated[Path | None, typer.Option(help="Also write the scores to FILE.csv.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps or xpu.")] = "auto",
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Score new utterances: the mean over a run's seeds, and each seed.

    A run that uses audio or vision needs a feature store, or a raw file or folder with
    features; a run on texts alone takes any input. Clips need no labels and no splits.

    conki predict mosi-conki-1a2b3c4d --text "I loved it" --text "Not again"
    conki predict mosi-conki-1a2b3c4d mosei --split test --export scores.csv
    conki predict mosi-conki-1a2b3c4d new_clips.pkl
    conki predict me/mosi-conki@v1.0 new_clips.pkl
    conki predict talks-conki-1a2b3c4d --video clip.mp4 --text "I loved it"
    """
    from conki_cli.experiments.prediction import open_clips, predict_new, read_new
    from conki_cli.reporting.export.hub import find_model
    from conki_cli.reporting.tables.screen import scores_table
    from conki_cli.runs import write_scores

    screen = screen_for(json)
    check_export_option(export, ".csv")
    check_export_option(plot, ".png", ".pdf", ".svg")
    if video:
        if store is not None or source is not None or split is not None:
            raise SettingsError("--video is what to score", advice="leave the store, --source and --split out")
        flags = ExtractionFlags(
            face_models=face_models, workers=workers, skip_failed=skip_failed, transcribe=transcribe
        )
        predict_videos(run, VideoWords(video, text or (), segments, plot, export, device), flags, workspace, screen)
        return
    if segments is not None or plot is not None or transcribe is not None:
        raise SettingsError("--segments, --plot and --transcribe need --video", advice="name a video")
    if sum(given is not None for given in (store, text, source)) != 1:
        raise SettingsError(
            "say what to score",
            advice="give one of --text, --source FILE.csv, --video FILE or a feature store (or raw file)",
        )
    place = None if store is None else clips_path(store, workspace)
    for name, given in (("--source ", source), ("", place)):
        if export is not None and given is not None and export.resolve() == given.resolve():
            raise SettingsError(f"--export would overwrite {name}{given}", advice="give another file")
    found, name = find_model(workspace_at(workspace), run, screen)
    if place is not None:
        opened = open_clips(found, place, split, workspace_at(workspace), screen)
    else:
        opened = read_new(text, source, observer=screen)
    with opened as utterances:
        scored = {**predict_new(found, utterances, device, screen), "run": name}
    if export is not None:
        write_scores(export, scored)
        note_written(str(export))
        screen.say(f"scores written to {export}")
    screen.show(scores_table(scored, width=screen.results.width))
    screen.answer(scored)
