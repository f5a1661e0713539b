"""Training curves: every loss term, and the validation MAE with the best epoch, over the epochs of all seeds."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conki_cli.config.words import run_label
from conki_cli.reporting.figures.canvas import GREY, INK, SERIES, label, light_grid, new_figure
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.stored import Log, read_log
from conki_cli.reporting.tables.grid import seeds_text
from conki_cli.runs import Run, left_out_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {
    "task": "task loss",
    "contrast": "λ · contrastive loss",
    "contrast_per_sample": "contrastive loss per clip",
}
_PANEL_HEIGHT, _PANEL_WIDTH = 33.0, 36.0
"""In millimetres: one panel's height, and how narrow a panel may become."""
_MAE = "validation MAE"


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw the curves of one run."""
    run = runs[0]
    if note := left_out_note(run):
        choices.observer.say(note)
    logs = [read_log(run, seed) for seed in run.finished_seeds()]
    terms = list(dict.fromkeys(name for log in logs for name in log.losses))
    panels = {_NAMES.get(name, label(name.replace("_", " "))): [_column(log, name) for log in logs] for name in terms}
    panels[_MAE] = [log.validation_mae for log in logs]
    columns = max(1, min(len(panels), int(width // _PANEL_WIDTH)))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(width, rows * _PANEL_HEIGHT + 7)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, values) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, name, values, logs)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    median = _median_mae(run)
    if median is not None:
        last = grid.flat[len(panels) - 1]
        last.axhline(median, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="predicting the median")
    handles, names = grid.flat[len(panels) - 1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3 if width > 100 else 2)
    about = f"{run_label(run.config)}, {run.record.dataset}, {seeds_text([log.seed for log in logs])}"
    caption = f"{about}: each loss term (mean over the steps of an epoch) and the validation MAE; dots: best epochs."
    return Plot(figure, caption, _numbers(logs, median))


def _column(log: Log, name: str) -> list[float]:
    return log.losses.get(name, [math.nan] * len(log.epochs))


def _draw_panel(axes: "Axes", name: str, values: Sequence[Sequence[float]], logs: Sequence[Log]) -> None:
    """Draw one quantity: a line per seed, thin where there are several, and their mean."""
    several = len(logs) > 1
    colour = SERIES[1] if name == _MAE else SERIES[0]
    for log, line in zip(logs, values, strict=True):
        style: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.45} if several else {}
        marker = "." if len(log.epochs) == 1 else None
        axes.plot(log.epochs, line, color=colour, marker=marker, **style)
        if name == _MAE and log.best_epoch in log.epochs:
            place = log.epochs.index(log.best_epoch)
            first = log is logs[0]
            axes.plot(
                log.best_epoch,
                line[place],
                "o",
                color=INK,
                markersize=3,
                zorder=3,
                label="best epoch" if first else None,
            )
    if several:
        mean = _mean_over_seeds(values, logs)
        axes.plot(*mean, color=colour, linewidth=1.4, label="mean over seeds" if name == _MAE else None)
    axes.set_title(name)
    axes.set_xlabel("epoch")
    axes.margins(y=0.08)
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.locator_params(axis="y", nbins=5)
    light_grid(axes)


def _mean_over_seeds(values: Sequence[Sequence[float]], logs: Sequence[Log]) -> tuple[list[int], list[float]]:
    """Return the epochs that all seeds have, as some stop earlier, and the mean of each."""
    common = sorted(set.intersection(*(set(log.epochs) for log in logs)))
    tables = [dict(zip(log.epochs, line, strict=True)) for log, line in zip(logs, values, strict=True)]
    return common, [float(np.mean([table[epoch] for table in tables])) for epoch in common]


def _median_mae(run: Run) -> float | None:
    """Return the validation MAE of predicting the training median; None where an older version did not note it."""
    known = run.record.median
    return known.metrics.get("valid", {}).get("mae") if known is not None else None


def _numbers(logs: Sequence[Log], median: float | None) -> dict[str, Any]:
    return {
        "median_mae": median,
        "seeds": [
            {
                "seed": log.seed,
                "epochs": log.epochs,
                "losses": log.losses,
                "validation_mae": log.validation_mae,
                "best_epoch": log.best_epoch,
            }
            for log in logs
        ],
    }
