"""Rows of values over seeds: a dot for each, their mean, and the interval of the mean.

Axes: R rows, S seeds.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conki_cli.reporting.figures.canvas import INK, SERIES, light_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CONFIDENCE = 0.95
_FEWEST = 3


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % t interval of the mean of values [S]; nan for one or two.

    Of two values it is thirteen times their deviation and would only hide them.
    """
    if len(values) < _FEWEST:
        return math.nan
    from scipy.stats import t

    deviation = float(np.std(values, ddof=1))
    return float(t.ppf(0.5 + _CONFIDENCE / 2, len(values) - 1)) * deviation / math.sqrt(len(values))


def draw_rows(axes: "Axes", rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Draw a row of dots, one per seed, with their mean and its interval."""
    for place, row in enumerate(rows):
        values, several = row["mae"], len(row["mae"]) > 1
        first = None if place else "seed"
        axes.plot(values, [place] * len(values), "o", color=SERIES[5], markersize=3, label=first, zorder=2)
        if several:
            if math.isfinite(row["half_width"]):
                low, high = row["mean"] - row["half_width"], row["mean"] + row["half_width"]
                axes.hlines(place, low, high, INK, linewidth=0.9, zorder=3)
            axes.plot(row["mean"], place, "|", color=INK, markersize=7, zorder=4)
    if any(math.isfinite(row["half_width"]) for row in rows):
        axes.plot([], [], "|-", color=INK, linewidth=0.9, markersize=7, label="mean, 95 % interval")
    elif any(len(row["mae"]) > 1 for row in rows):
        axes.plot([], [], "|", color=INK, markersize=7, label="mean")
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("MAE (lower is better)")
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=6)
    light_grid(axes, "x")
