"""Seeds: the test metrics of every seed; the same seeds of several runs are joined.

Axes: R runs, S seeds.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conki_cli.reporting.comparison import System
from conki_cli.reporting.figures.canvas import GREY, INK, PALE, SERIES, light_grid, new_figure, short_labels
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.stored import of_clips, read_several
from conki_cli.reporting.tables.grid import mean_and_deviation, seeds_text
from conki_cli.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = {"mae": "MAE ↓", "corr": "Corr ↑", "acc7": "Acc-7 (%) ↑", "acc3": "Acc-3 (%) ↑", "acc2_nonneg": "Acc-2 (%) ↑"}
_MOST = 3
"""Metrics that are drawn."""
_PANEL, _LOW_PANEL = 38.0, 27.0
"""Millimetres: height of panels beside each other, and on top of each other."""


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw the metrics of every seed of the runs."""
    systems = read_several(runs, choices)
    metrics = [name for name in _SHOWN if name in systems[0].result.metrics][:_MOST]
    beside = width / len(metrics) >= 25 + 6 * max(0, len(systems) - 3)
    columns, rows = (len(metrics), 1) if beside else (1, len(metrics))
    labels = short_labels([system.label for system in systems], 22)
    height = rows * (_PANEL if beside else _LOW_PANEL) + (4 if len(systems) == 1 else 3 + 1.1 * max(map(len, labels)))
    figure = new_figure(width, height)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, metric in zip(grid.flat, metrics, strict=False):
        _draw_metric(axes, systems, metric)
        axes.set_title(_SHOWN[metric]) if beside else axes.set_ylabel(_SHOWN[metric])
        _name_runs(axes, labels)
    caption = f"{of_clips(systems[0], choices)}: each dot is a seed, each black bar the mean over seeds ± one deviation"
    if len(systems) > 1:
        caption += "; lines join the same seed of neighbouring runs"
    numbers = [
        {"label": s.label, "run": s.run.name, "seeds": list(s.seeds), **{m: _values(s, m) for m in metrics}}
        for s in systems
    ]
    counts = "; ".join(f"{system.label}: {seeds_text(system.seeds)}" for system in systems)
    return Plot(figure, f"{caption} ({counts}).", {"metrics": metrics, "runs": numbers})


def _values(system: System, metric: str) -> list[float]:
    factor = 1.0 if metric in ("mae", "corr") else 100.0
    return [factor * value for value in system.result.metrics[metric]["values"]]


def _draw_metric(axes: "Axes", systems: Sequence[System], metric: str) -> None:
    """Draw a column of dots per run, its mean and deviation beside it, and lines between equal seeds."""
    tables = [dict(zip(system.seeds, _values(system, metric), strict=True)) for system in systems]
    places = [_offsets(len(table)) + number for number, table in enumerate(tables)]
    where = [dict(zip(table, place, strict=True)) for table, place in zip(tables, places, strict=True)]
    for left in range(len(systems) - 1):
        for seed in (seed for seed in tables[left] if seed in tables[left + 1]):
            x, y = ([rows[k][seed] for k in (left, left + 1)] for rows in (where, tables))
            axes.plot(x, y, color=PALE, linewidth=0.7, zorder=1)
    for number, (table, place) in enumerate(zip(tables, places, strict=True)):
        axes.plot(place, list(table.values()), "o", color=SERIES[number % len(SERIES)], markersize=2.8, zorder=2)
        mean, deviation = mean_and_deviation(list(table.values()))
        if len(table) > 1 and math.isfinite(mean):
            bar: dict[str, Any] = {"color": INK, "markersize": 7, "markeredgewidth": 1.1, "elinewidth": 0.9}
            axes.errorbar(number + 0.3, mean, yerr=deviation, fmt="_", capsize=1.6, zorder=3, **bar)
    axes.margins(y=0.12)
    axes.locator_params(axis="y", nbins=5)
    light_grid(axes)


def _offsets(count: int) -> Any:
    """Return how far the dots of one run stand beside its place, so that equal values are seen, [S]."""
    return np.linspace(-0.18, 0.12, count) if count > 1 else np.zeros(1)


def _name_runs(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_xlim(-0.6, len(labels) - 0.4)
    if len(labels) == 1:
        axes.set_xticks([])
        return
    axes.set_xticks(range(len(labels)), labels, rotation=50, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_color(GREY)
