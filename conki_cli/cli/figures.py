"""The command that draws figures of finished runs."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conki_cli.cli.options import CorruptOption, CorruptSeedOption, JsonOption, WorkspaceOption
from conki_cli.cli.program import predict_missing, screen_for, workspace_at
from conki_cli.cli.streams import note_written
from conki_cli.system.errors import SettingsError, one_line
from conki_cli.system.files import check_writable, write_bytes

if TYPE_CHECKING:
    from conki_cli.reporting.figures import Form, Kind
    from conki_cli.runs import Run

_LONGEST_NAME = 150


def _kinds(incomplete: str) -> list[str]:
    """Complete the name of a kind."""
    from conki_cli.reporting.figures.kinds import KINDS

    return [name for name in KINDS if name.startswith(incomplete)]


def plot(
    runs: Annotated[list[str], typer.Argument(help="Finished runs: their names, or their folders (./FOLDER).")],
    kind: Annotated[
        str,
        typer.Option(metavar="KIND", help="What to draw: one of the kinds above.", autocompletion=_kinds),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .svg, .pdf or .png. Default: figures/KIND-RUN.svg.")
    ] = None,
    width: Annotated[
        str, typer.Option(metavar="column|page|MM", help="Width: column (77 mm), page (160 mm), or millimetres.")
    ] = "column",
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Split to draw.")] = "test",
    intervals: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="tsne, pairs: two sentiment intervals. Default: -2,1, or the outermost two."),
    ] = None,
    clips: Annotated[
        int | None, typer.Option(help="pairs: clips, 2 to 8 (3); tsne: clips drawn per interval (50).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="tsne: the seed to draw. Default: the first finished one.")] = None,
    corrupt: CorruptOption = None,
    corrupt_seed: CorruptSeedOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Draw a figure of finished runs, ready for a paper. The same input gives the same file.

    curves       every loss term and the validation MAE per epoch
    tsne         O_m and A_m of clips of two intervals (Figure 5); one or two runs
    pairs        positive and negative pairs of a few clips (Figure 4)
    confusion    predicted classes against true ones
    calibration  true scores by the interval of their predictions
    errors       absolute error by interval, length and video
    modalities   one run: error with a modality shuffled; several: by modalities
    robustness   error on clips that are damaged on purpose (--corrupt)
    seeds        metrics of every seed; the same seeds of several runs joined
    ablation     MAE and difference from the first run, with intervals
    compare      the same for different models

    conki plot mosi-conki-1a2b3c4d --kind curves
    conki plot mosi-conki-1a2b3c4d mosi-conki-wo-C4-5e6f7a8b --kind tsne --out figure5.pdf
    conki plot mosi-conki-1a2b3c4d --kind confusion --width page
    """
    from rich.text import Text

    from conki_cli.reporting.figures import Choices, check_runs, draw_figure
    from conki_cli.reporting.figures.kinds import kind_called
    from conki_cli.runs import Runs

    screen, space = screen_for(json), workspace_at(workspace)
    asked = kind_called(kind)
    millimetres, form = _width(width), _form(out)
    _check_options(asked, intervals, clips, seed, damage=(corrupt, corrupt_seed))
    chosen = None if intervals is None else _intervals(intervals)
    catalogue = Runs(space)
    found = [catalogue.find(name) for name in runs]
    check_runs(kind, found)
    place = out or space.root / "figures" / _file_name(kind, found)
    check_writable(place)
    if asked.needs_predictions:
        predict_missing(found, split, space, screen)
    damage: dict[str, Any] = {"corruptions": tuple(corrupt or ()), "corrupt_seed": corrupt_seed or 0}
    choices = Choices(split, chosen, seed, clips, workspace=space, observer=screen, **damage)
    drawn = draw_figure(kind, found, form=form, width=millimetres, choices=choices)
    write_bytes(place, drawn.content)
    note_written(str(place))
    screen.say(f"figure written to {one_line(str(place))}")
    screen.show(Text(one_line(f"{drawn.title}: {drawn.caption}")))
    screen.answer(
        {
            "kind": kind,
            "runs": [run.name for run in found],
            "file": place,
            "width_mm": millimetres,
            "title": drawn.title,
            "caption": drawn.caption,
            "numbers": drawn.numbers,
        }
    )


def _width(text: str) -> float:
    """Read --width."""
    from conki_cli.reporting.figures.drawing import check_width
    from conki_cli.reporting.figures.kinds import COLUMN, PAGE

    named = {"column": COLUMN, "page": PAGE}
    try:
        width = named[text] if text in named else float(text.removesuffix("mm"))
    except ValueError:
        raise SettingsError(
            f"--width takes column, page or a number of millimetres, found '{one_line(text)[:40]}'"
        ) from None
    check_width(width)
    return width


def _form(out: Path | None) -> "Form":
    """Return the file format that --out names by its ending."""
    from conki_cli.reporting.figures.kinds import FORMS

    ending = ".svg" if out is None else out.suffix.lower()
    for form in FORMS:
        if ending == f".{form}":
            return form
    shown = one_line(out.name if out is not None else "")[:80]
    raise SettingsError(
        f"a figure is written as .svg, .pdf or .png, found '{shown}'", advice="give --out such an ending"
    )


def _check_options(
    kind: "Kind",
    intervals: str | None,
    clips: int | None,
    seed: int | None,
    *,
    damage: tuple[list[str] | None, int | None],
) -> None:
    """Refuse options that would have no effect."""
    given = {
        "--intervals": (intervals, "tsne and pairs", kind.takes_intervals),
        "--clips": (clips, "pairs and tsne", kind.takes_intervals),
        "--seed": (seed, "tsne", kind.name == "tsne"),
        "--corrupt": (damage[0], "robustness", kind.name == "robustness"),
        "--corrupt-seed": (damage[1], "robustness", kind.name == "robustness"),
    }
    for option, (value, readers, is_read) in given.items():
        if value is not None and not is_read:
            raise SettingsError(f"{option} is for {readers} and has no effect on {kind.name}", advice="leave it out")


def _intervals(text: str) -> tuple[int, int]:
    try:
        one, other = (int(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"--intervals takes two integers such as -2,1, found '{one_line(text)[:40]}'") from None
    return one, other


def _file_name(kind: str, runs: "list[Run]") -> str:
    """Name a figure after its kind and its runs, so that the same command writes the same file."""
    names = "-".join(run.name for run in runs)
    if len(names) > _LONGEST_NAME:
        digest = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:8]
        rest = f"-and-{len(runs) - 1}-more" if len(runs) > 1 else ""
        names = f"{runs[0].name[:80]}{rest}-{digest}"
    return f"{kind}-{names}.svg"
