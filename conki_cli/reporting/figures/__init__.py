"""Figures of finished runs, ready for a paper: equal input gives equal bytes. Only drawing loads matplotlib."""

from conki_cli.reporting.figures.drawing import draw_figure
from conki_cli.reporting.figures.kinds import COLUMN, FORMS, KINDS, PAGE, Choices, Drawn, Form, Kind, check_runs

__all__ = ["COLUMN", "FORMS", "KINDS", "PAGE", "Choices", "Drawn", "Form", "Kind", "check_runs", "draw_figure"]
