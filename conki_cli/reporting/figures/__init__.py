"""Figures of finished runs, fit for a paper: equal input, equal bytes. matplotlib loads when one is drawn."""

from conki_cli.reporting.figures.drawing import draw, draw_figure
from conki_cli.reporting.figures.kinds import COLUMN, FORMS, KINDS, PAGE, Choices, Drawn, Form, Kind, check_runs

__all__ = ["COLUMN", "FORMS", "KINDS", "PAGE", "Choices", "Drawn", "Form", "Kind", "check_runs", "draw", "draw_figure"]
