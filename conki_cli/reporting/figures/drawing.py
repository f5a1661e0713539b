"""The entry: a kind of figure and its runs -> the bytes of a file."""

import importlib
import math
from collections.abc import Sequence

from conki_cli.reporting.figures.kinds import COLUMN, FORMS, Choices, Drawn, Form, Plot, check_runs, kind_called
from conki_cli.runs import Run
from conki_cli.system.errors import SettingsError

NARROWEST, WIDEST = 50.0, 400.0
"""Widths in millimetres between which labels stay legible and a page can hold the figure."""
_MODULES = {"ablation": "systems", "compare": "systems"}
"""Where a kind is drawn, if not in the module of its own name."""


def draw_figure(
    kind: str, runs: Sequence[Run], *, form: Form = "svg", width: float = COLUMN, choices: Choices | None = None
) -> Drawn:
    """Draw a figure of finished runs.

    Args:
        kind: one of `KINDS`.
        runs: as many as the kind takes; the first is the reference where runs are compared.
        form: file format.
        width: of the figure, in millimetres; text has the same size in all widths.
        choices: what is drawn of the runs.

    Raises:
        ConkiError: the kind, a run, the width or a choice does not fit, or stored files are missing or damaged.
    """
    check_form(form)
    check_width(width)
    check_runs(kind, runs)
    from conki_cli.reporting.figures.canvas import file_of, house_style

    module = importlib.import_module(f"conki_cli.reporting.figures.{_MODULES.get(kind, kind)}")
    title = kind_called(kind).title
    with house_style():
        plot: Plot = module.plot(runs, choices or Choices(), width)
        content = file_of(plot.figure, form, name=kind, title=f"{title}: {plot.caption}")
    return Drawn(content, title, plot.caption, plot.numbers)


def check_form(form: str) -> None:
    """Refuse a file format that figures are not written in.

    Raises:
        SettingsError: it is one.
    """
    if form not in FORMS:
        raise SettingsError(f"a figure must be written as {', '.join(FORMS)}, found '{form[:40]}'")


def check_width(width: float) -> None:
    """Refuse a width at which nothing would be legible.

    Raises:
        SettingsError: it is one.
    """
    if not (math.isfinite(width) and NARROWEST <= width <= WIDEST):
        raise SettingsError(f"the width of a figure must be {NARROWEST:g} to {WIDEST:g} millimetres, found {width:g}")
