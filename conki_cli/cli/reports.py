"""The command that writes a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from conki_cli.cli.options import JsonOption, ProtocolOption, ThresholdOption, WorkspaceOption
from conki_cli.cli.program import mention_damage, predict_missing, screen_for, workspace_at
from conki_cli.cli.streams import note_written
from conki_cli.datasets import is_generated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conki_cli.cli.screen import Screen
    from conki_cli.reporting.page import PageChoices
    from conki_cli.runs import Run


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Fine-tuning runs; the first is the reference. Default: the newest finished one."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HTML file. Default: report.html in the workspace.")] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Split to report on.")] = "test",
    protocol: ProtocolOption = "all",
    threshold: ThresholdOption = None,
    texts: Annotated[
        bool, typer.Option("--texts/--no-texts", help="Show the texts of the clips, or leave them out.")
    ] = True,
    figures: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="all, stored (loads no weights), none, or kinds with commas. Default: all but slow ones.",
        ),
    ] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Write one HTML file about runs: metrics, tests, figures, every clip, settings, versions, warnings.

    The file is self-contained: it works without a network and can be mailed, searched, sorted and printed.
    The licence of a data set may forbid sharing its texts: --no-texts leaves them out.

    conki report
    conki report mosi-conki-1a2b3c4d mosi-misa-5e6f7a8b --out conki-misa.html --no-texts
    """
    from conki_cli.reporting.page import NAME, PageChoices, check_page
    from conki_cli.reporting.page.figures import chosen_kinds

    screen = screen_for(json)
    path = workspace_at(workspace).root / NAME if out is None else out
    check_page(path)
    choices = PageChoices(split, protocol, threshold, texts, chosen_kinds(figures))
    found = _runs_to_report(runs or [], split, workspace, screen)
    write_report(path, found, workspace, choices, screen)
    screen.answer({"report": path.resolve(), "runs": [run.name for run in found], "texts": texts})


def _runs_to_report(names: list[str], split: str, workspace: Path, screen: "Screen") -> "list[Run]":
    from conki_cli.reporting.comparison import check_predicts
    from conki_cli.runs import Runs

    place = workspace_at(workspace)
    catalogue = Runs(place)
    if not names:
        mention_damage(screen, catalogue)
    found = [catalogue.find(name) for name in dict.fromkeys(names)] or [catalogue.find(None)]
    for run in found:
        check_predicts(run)
    predict_missing(found, split, place, screen)
    return found


def write_report(path: Path, runs: "Sequence[Run]", workspace: Path, choices: "PageChoices", screen: "Screen") -> None:
    """Write the report of finished runs, and say where it is."""
    from conki_cli.reporting.page import write_page

    write_page(path, runs, workspace_at(workspace), choices, screen)
    note_written(str(path))
    screen.say(f"report: {path.resolve()}")
    if choices.with_texts and not all(is_generated(run.record.dataset) for run in runs):
        screen.say("it shows the texts of the clips: give --no-texts if their licence forbids sharing them")
