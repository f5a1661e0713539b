"""The program around the commands: errors as one line, signals, exit codes, and code that commands share."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from conki_cli import __version__
from conki_cli.cli.loudness import LOUDNESS
from conki_cli.cli.streams import check_shown, forget_odd_width, secure_streams
from conki_cli.system.errors import ConkiError, StoreError, one_line, quoted
from conki_cli.system.signals import ANY_ENDING, exit_code, ignore_all, install, postponed
from conki_cli.system.torchrun import Seat, leave_note, seat

if TYPE_CHECKING:
    from conki_cli.cli.screen import Screen
    from conki_cli.runs import Run, Runs
    from conki_cli.system.workspace import Workspace

ON_INTERRUPTION = "conki.interrupted"
"""Key in a command's context."""


class OneLineErrors(TyperGroup):
    """Commands whose errors are one line on stderr and exit code 1, without a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the program."""
        forget_odd_width()
        return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the command line."""
        with one_line_errors({ON_INTERRUPTION: "nothing was started"}):
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with one_line_errors(ctx.meta):
            return super().invoke(ctx)


@contextlib.contextmanager
def one_line_errors(said: Mapping[str, str]) -> Iterator[None]:
    """Turn errors into one line; `said` may hold, under `ON_INTERRUPTION`, what an interruption leaves behind."""
    try:
        with _shown():
            yield
    except ConkiError as error:
        _end(1, f"error: {error}")
    except ANY_ENDING as error:
        resumed = f"what was finished is kept; resume with: {_this_command()}"
        kept = said.get(ON_INTERRUPTION) or ("nothing was changed" if "--dry-run" in sys.argv else resumed)
        _end(exit_code(error), f"interrupted: {kept}")
    except MemoryError:
        _end(1, "error: this machine is out of memory: lower --set optimizer.batch_size or data.max_frames")
    except OSError as error:
        is_unread = isinstance(error, BrokenPipeError)  # the reader of `conki runs | head -1` has enough: not an error
        rest = ": change its permissions for your user (chmod)" if isinstance(error, PermissionError) else ""
        where = f"{error.filename or 'the output'}: " if error.errno else ""
        _end(1, "" if is_unread else f"error: {where}{error.strerror or error}{rest}")


@contextlib.contextmanager
def _shown() -> Iterator[None]:
    """Check at the end, also of a help page, that the result could be shown."""
    try:
        yield
    except typer.Exit as ending:
        if ending.exit_code == 0:
            _warn(check_shown())
        raise
    _warn(check_shown())


def _warn(line: str) -> None:
    sys.stderr.write(f"{one_line(line)}\n" if line else "")


def _end(code: int, message: str) -> NoReturn:
    """Print one line and end the program."""
    _warn(message)
    raise typer.Exit(code) from None


app = typer.Typer(
    cls=OneLineErrors,
    name="conki",
    no_args_is_help=True,
    add_completion=True,
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


def main() -> None:
    """Run the program."""
    install()
    secure_streams()
    place = seat()
    if place is None:
        app()
        return
    _run_in_seat(place)


def _run_in_seat(place: Seat) -> None:
    """Run the program as rank 0, which leads; every other rank follows."""
    if place.rank:
        ignore_all()
    leave_note(place.rank)
    code: object = 1
    try:
        _take_seat(place)
        app()
        code = 0
    except SystemExit as ending:
        code = ending.code or 0
        raise
    finally:
        leave_note(place.rank, code=code if isinstance(code, int) else 1)
        ignore_all()
        if (following := sys.modules.get("conki_cli.training.following")) is not None:
            following.dismiss()


def _take_seat(place: Seat) -> None:
    """Import what ranks need, which takes a while; rank 0 returns."""
    try:
        with one_line_errors({ON_INTERRUPTION: "nothing was started"}), postponed():  # torch imports as a whole
            from conki_cli.training.following import end_with_launcher, follow
    except typer.Exit as ending:
        raise SystemExit(ending.exit_code) from None
    if place.rank:
        follow()
    end_with_launcher()


def _this_command() -> str:
    """Return the command line that resumes this one: the same, without starting over."""
    return " ".join(["conki", *(quoted(word) for word in sys.argv[1:] if word != "--overwrite")])


def screen_for(json: bool) -> "Screen":
    """Return where a command shows its tables and messages, or its one JSON object."""
    from conki_cli.cli.screen import Screen

    return Screen(json=json, loudness=LOUDNESS.get())


def workspace_at(root: Path) -> "Workspace":
    """Return the workspace in a folder."""
    from conki_cli.system.workspace import Workspace

    return Workspace(root)


def store_path(store: str, workspace: Path) -> Path:
    """Return the path of a feature store given as a file, or as the name of a prepared data set.

    Raises:
        StoreError: there is no such store, but a file of that name in the current folder.
    """
    path = workspace_at(workspace).store_called(store)
    if path != Path(store) and not path.exists() and Path(store).is_file():
        raise StoreError(
            f"there is no store {path}, which {one_line(store)[:80]!r} names",
            advice=(f"prepare that data set, or write {quoted(f'./{store}')} for the file in the current folder"),
        )
    return path


def clips_path(word: str, workspace: Path) -> Path:
    """Return the path of new clips: that of a store, as `store_path` has it, or of what `conki prepare` reads.

    A word with a file ending is a path: names of data sets have no ending.

    Raises:
        StoreError: there is no such store, but a file or folder of that name in the current folder.
    """
    if Path(word).suffix:
        return Path(word)
    path = store_path(word, workspace)
    if path != Path(word) and not path.exists() and Path(word).is_dir():
        raise StoreError(
            f"there is no store {path}, which {one_line(word)[:80]!r} names",
            advice=(f"prepare that data set, or write {quoted(f'./{word}')} for the folder in the current one"),
        )
    return path


def predict_missing(runs: "Sequence[Run]", split: str, workspace: "Workspace", screen: "Screen") -> None:
    """Predict a split with every run that has no stored predictions for it; only then is torch imported."""
    missing = [run for run in runs if not run.predictions_exist(split)]
    if missing:
        from conki_cli.experiments.prediction import predict_split

        for run in missing:
            predict_split(run, split, workspace, screen)


def mention_damage(screen: "Screen", runs: "Runs", *, besides: str = "") -> None:
    """Warn about every run folder that cannot be read and is left out, except the one that the command is about."""
    for line in runs.damaged(besides=besides):
        screen.say(f"warning: {line}")


def check_export_option(export: Path | None, *endings: str) -> None:
    """Refuse an `--export` file that cannot be written, before any work starts."""
    from conki_cli.reporting.tables.export import check_export

    if export is not None:
        check_export(export, endings)
