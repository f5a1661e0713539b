"""The commands: each reads its options, calls one function, shows one table. Imports no torch until work begins."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from conki_cli import __version__
from conki_cli.config import parse_seeds, parse_switches, setting_fields, setting_type
from conki_cli.errors import ConkiError, SettingsError, one_line
from conki_cli.options import (
    DropOption,
    ExportOption,
    JsonOption,
    ProtocolOption,
    WorkspaceOption,
    resolved,
    run_options,
)

if TYPE_CHECKING:
    from conki_cli.runs import Run, Workspace
    from conki_cli.screen import Screen

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes after Ctrl-C and after a request to end, as shells count them."""


class _Terminated(BaseException):
    """The system asked the program to end (SIGTERM); unwinds like Ctrl-C, so nothing stays half-written."""


class OneLineErrors(TyperGroup):
    """Commands whose errors are one line on stderr and exit code 1, without a traceback."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the command line."""
        with _one_line_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with _one_line_errors():
            found = super().invoke(ctx)
            sys.stdout.flush()  # a full disk behind stdout must be noticed here, not while Python ends
            return found


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ConkiError as error:
        _end(1, f"error: {error}")
    except (KeyboardInterrupt, _Terminated) as error:
        code = TERMINATED if isinstance(error, _Terminated) else INTERRUPTED
        _end(code, "interrupted: what was finished is kept, and the same command continues")
    except MemoryError:
        _end(1, "error: this machine's memory is used up: lower --set optimizer.batch_size or data.max_frames")
    except OSError as error:
        if error.filename is None:
            _abandon_stdout()
        is_unread = isinstance(error, BrokenPipeError)  # `conki runs | head -1` wants no more, and no complaint
        where = f"{error.filename or 'the output'}: " if error.errno else ""
        _end(1, "" if is_unread else f"error: {where}{error.strerror or error}")


def _abandon_stdout() -> None:
    """Send what is left in the buffer of stdout nowhere, or Python would fail on it once more while it ends."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(code: int, message: str) -> NoReturn:
    """Print one line and end the program."""
    sys.stderr.write(f"{one_line(message)}\n" if message else "")
    raise typer.Exit(code) from None


app = typer.Typer(
    cls=OneLineErrors,
    name="conki",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Multimodal sentiment analysis with ConKI (Contrastive Knowledge Injection, ACL Findings 2023).\n\n"
        "conki demo                                    everything, in minutes\n"
        "conki prepare --dataset mosi                  make a feature store\n"
        "conki finetune --external mosei --seeds 1..5  train, both stages\n"
        "conki evaluate                                show the metrics\n"
        "conki ablate --drop C4                        train without a part, compare"
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"conki {__version__}")
        raise typer.Exit


@app.callback()
def _conki(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _screen(json: bool) -> "Screen":
    from conki_cli.screen import Screen

    return Screen(json=json)


def _workspace(root: Path) -> "Workspace":
    from conki_cli.runs import Workspace

    return Workspace(root)


@app.command()
def prepare(
    dataset: Annotated[str, typer.Option(help="mosi, mosei, sims, demo, demo-external, or a name of your own.")],
    source: Annotated[Path | None, typer.Option(help="File to read. Default: searched below data/.")] = None,
    out: Annotated[Path | None, typer.Option(help="Store to write. Default: features/<dataset>.h5.")] = None,
    score_range: Annotated[
        str | None, typer.Option(metavar="LOW..HIGH", help="Range of the scores, for a data set of your own.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Read a data set as it is distributed, check it, and write one clean feature store (HDF5).

    MMSA feature pickles are read (nothing in them can run), and label.csv (texts alone).
    Without --source they are searched below data/, such as data/MOSI/label.csv.

    conki prepare --dataset mosi
    conki prepare --dataset mine --source clips.csv --score-range -3..3
    """
    from conki_cli.sources import parse_score_range, read_corpus
    from conki_cli.store import FeatureStore, describe, write_store
    from conki_cli.tables import store_tables

    screen = _screen(json)
    bounds = parse_score_range(score_range) if score_range is not None else None
    path = out if out is not None else _workspace(workspace).store(dataset)
    _check_store_path(path)
    with screen.steps(f"reading {dataset}", 0):
        corpus = read_corpus(dataset, workspace=workspace, source=source, score_range=bounds)
    with screen.steps(f"writing {path}", 0):
        write_store(path, corpus)
    with FeatureStore(path) as store:
        description = describe(store)
    screen.show(*store_tables(description))
    screen.answer(description)


def _check_store_path(path: Path) -> None:
    from conki_cli.files import check_writable

    check_writable(path)
    if path.exists() and path.suffix != ".h5":
        raise SettingsError(f"{path} exists and is no .h5 file: it will not be overwritten, give --out another name")


@app.command("inspect")
def inspect_store(
    store: Annotated[Path, typer.Argument(help="A feature store: a file, or the name of a prepared data set.")],
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show what is in a feature store: sizes, widths, lengths, scores, repairs, origin.

    conki inspect mosi
    """
    from conki_cli.store import FeatureStore, describe
    from conki_cli.tables import store_tables

    screen = _screen(json)
    with FeatureStore(_store_path(store, workspace)) as opened:
        description = describe(opened)
    screen.show(*store_tables(description))
    screen.answer(description)


def _store_path(store: Path, workspace: Path) -> Path:
    named = _workspace(workspace).store(str(store))
    return named if not store.exists() and named.exists() else store


@app.command()
@run_options
def pretrain(
    settings: dict[str, Any],
    drop: DropOption = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of stage 1.")] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Stage 1: pretrain the adapters on the external data set (Algorithm 1).

    `finetune` does this by itself where it is needed. A finished run is reused;
    an interrupted one continues with the same command.

    conki pretrain --external mosei --dataset mosi
    """
    from conki_cli.experiments import pretrain as work

    screen = _screen(json)
    config = resolved(settings, screen.say, epochs=("pretraining.num_epochs", epochs), drop=drop)
    _mention_damage(screen, workspace)
    run = work(config, _workspace(workspace), screen)
    _show_finished(screen, run, split="valid")


@app.command()
@run_options
def finetune(
    settings: dict[str, Any],
    drop: DropOption = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of stage 2; stage 1 keeps its own.")] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Stage 2: fine-tune on the target data set, after the stage 1 it needs.

    Finished work is reused; an interrupted run continues with the same command.
    A data set without a store is prepared first if its files lie below data/.

    conki finetune --external mosei --seeds 1..5
    conki finetune --dataset mosi --drop C4 --epochs 20
    """
    from conki_cli.experiments import finetune as work

    screen = _screen(json)
    config = resolved(settings, screen.say, epochs=("optimizer.num_epochs", epochs), drop=drop)
    _mention_damage(screen, workspace)
    run = work(config, _workspace(workspace), screen)
    _show_finished(screen, run, split="test")


def _mention_damage(screen: "Screen", workspace: Path) -> None:
    from conki_cli.runs import damaged_runs

    for line in damaged_runs(_workspace(workspace)):
        screen.say(f"warning: {line}")


def _check_export(export: Path | None, *endings: str) -> None:
    from conki_cli.tables import check_export

    if export is not None:
        check_export(export, endings)


def _show_finished(screen: "Screen", run: "Run", split: str) -> None:
    screen.say(f"run: {run.path}")
    screen.compare([(run.result["label"], run)], split)
    screen.answer({"run": run.name, "path": run.path, **run.result})


@app.command()
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

    screen = _screen(json)
    _check_export(export)
    if run is None:
        _mention_damage(screen, workspace)
    found = find_run(_workspace(workspace), run)
    if left_out := sorted(set(found.result["seeds"]) - set(found.finished_seeds())):
        screen.say(f"{found.name}: seeds {', '.join(map(str, left_out))} are not finished and left out")
    if not found.predictions_exist(split):
        from conki_cli.experiments import predict_split

        predict_split(found, split, _workspace(workspace), screen)
    rows = [(found.result["label"], found)]
    screen.answer(*screen.compare(rows, split, protocol=protocol, export=export))


@app.command()
def runs(workspace: WorkspaceOption = Path(), json: JsonOption = False) -> None:
    """List the runs of the workspace: stage, state, seeds, test metrics, size."""
    from conki_cli.runs import describe_runs
    from conki_cli.tables import runs_table

    screen = _screen(json)
    entries = describe_runs(_workspace(workspace))
    _mention_damage(screen, workspace)
    if not entries:
        screen.say(f"no runs below {_workspace(workspace).runs} yet: train one with `conki finetune`")
    screen.show(runs_table(entries))
    screen.answer({"runs": entries})


@app.command()
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
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Compare the full model with versions that lack a part (Tables 4 and 5); trains what is missing.

    Every --drop is a row, the full model is the first. Finished runs are reused.

    conki ablate --drop C4 --drop N1 --drop C1+C4
    conki ablate --table 5 --seeds 1..5 --export table5.md
    """
    from conki_cli.experiments import ablate as work

    if not drop and table is None:
        raise SettingsError("say what to leave out: --drop C4 (repeatable, combined as C1+C4), or --table 4 or 5")
    screen = _screen(json)
    paper_rows = {None: [], 4: [("T",), ("V",), ("A",)], 5: [("C1",), ("C2",), ("C3",), ("C4",), ("N1",)]}[table]
    drops = [*paper_rows, *(parse_switches(words) for words in drop or [])]
    config = resolved(settings, screen.say, epochs=("optimizer.num_epochs", epochs))
    _check_export(export)
    _mention_damage(screen, workspace)
    rows = work(config, drops, _workspace(workspace), screen)
    screen.answer({"rows": screen.compare(rows, "test", protocol=protocol, export=export)})


@app.command()
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
    from conki_cli.experiments import predict_new, read_new
    from conki_cli.runs import find_run, write_scores
    from conki_cli.tables import scores_table

    if sum(given is not None for given in (store, text, source)) != 1:
        raise SettingsError("say what to score with one of --text, --source FILE.csv or a feature store")
    screen = _screen(json)
    _check_export(export, ".csv")
    if export is not None and source is not None and export.resolve() == source.resolve():
        raise SettingsError(f"--export would overwrite --source {source}: give another file")
    found = find_run(_workspace(workspace), run)
    with read_new(text, source, _store_path(store, workspace) if store else None, split) as utterances:
        scored = predict_new(found, utterances, device, screen)
    if export is not None:
        write_scores(export, scored)
        screen.say(f"scores written to {export}")
    screen.show(scores_table(scored, width=screen.results.width))
    screen.answer(scored)


@app.command()
def settings(json: JsonOption = False) -> None:
    """List every setting: name, default and meaning (for --set and --config)."""
    from conki_cli.tables import settings_table

    screen = _screen(json)
    entries = [
        {"setting": path, "type": str(setting_type(path)), "default": field.default, "help": field.metadata["help"]}
        for path, field in setting_fields().items()
    ]
    screen.show(settings_table(entries))
    screen.answer({"settings": entries})


@app.command()
def demo(
    encoder: Annotated[
        str | None, typer.Option(help="A real text encoder: Hugging Face name or folder. Default: a small one, built.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Random seeds: 1..5 or 1,4,9.")] = "1",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """See everything once, on two small built-in corpora: prepare, pretrain, fine-tune, evaluate, compare.

    Needs no data, no network and no GPU; takes a few minutes.

    conki demo
    conki demo --seeds 1..5 --workspace /tmp/conki-demo
    """
    from conki_cli.experiments import DEMO_ROWS, demo_config
    from conki_cli.experiments import ablate as work

    screen = _screen(json)
    config = demo_config(encoder, parse_seeds(seeds), device)
    place = _workspace(workspace)
    rows = work(config, list(DEMO_ROWS), place, screen)
    shown = screen.compare(rows, "test")
    screen.say(f"features: {place.store('demo').parent.resolve()}")
    for _, run in rows:
        screen.say(f"run: {run.path.resolve()}")
    screen.answer({"rows": shown, "workspace": place.root.resolve()})
    screen.say(f"next: conki evaluate {rows[0][1].name}; conki predict {rows[0][1].name} ...; conki runs")


def main() -> None:
    """Run the program."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the sign for plus-minus shows a question mark
    app()


def _terminate(number: int, frame: object) -> NoReturn:
    raise _Terminated
