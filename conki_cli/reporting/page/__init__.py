"""The report: finished runs as one self-contained HTML file to read, search, print and share."""

from collections.abc import Sequence
from pathlib import Path

from conki_cli.reporting.page.choices import PageChoices
from conki_cli.reporting.page.content import MARK
from conki_cli.runs import Run
from conki_cli.system.errors import ConkiError
from conki_cli.system.files import check_writable, write_text
from conki_cli.system.observer import Observer
from conki_cli.system.readable import status_of
from conki_cli.system.workspace import Workspace

__all__ = ["NAME", "PageChoices", "check_page", "make_page", "write_page"]

NAME = "report.html"
"""What the file is called in a workspace, where no other name is given."""


def check_page(path: Path) -> None:
    """Refuse a place that a report cannot be written to, before any work begins.

    Args:
        path: the file.

    Raises:
        ConkiError: another ending, a place that cannot be written, or a file that is not a report.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConkiError(
            f"a report must be written to a file that ends in .html, found '{path.name}'", advice="choose such a name"
        )
    check_writable(path)
    if status_of(path) is not None and MARK not in _beginning(path):
        raise ConkiError(f"{path} is not a report of conki, so it is not overwritten", advice="give --out another name")


def _beginning(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(4096).decode("utf-8", errors="replace")


def make_page(runs: Sequence[Run], workspace: Workspace, choices: PageChoices, observer: Observer) -> str:
    """Return the report of finished fine-tuning runs of one data set as HTML; the first run is the reference.

    The same runs give the same text: there is no time and no path of this machine in it but what the runs hold.

    Raises:
        RunError: a run cannot be used, or the runs are not of the same clips.
    """
    from conki_cli.reporting.page.gathering import gather
    from conki_cli.reporting.page.rendering import render

    return render(gather(runs, workspace, choices, observer))


def write_page(path: Path, runs: Sequence[Run], workspace: Workspace, choices: PageChoices, observer: Observer) -> None:
    """Write the report of finished runs to a file, whole or not at all."""
    write_text(path, make_page(runs, workspace, choices, observer))
