"""Calibration: the true scores of the clips whose prediction is in an interval, and the number of these clips.

Axes: I intervals, N clips.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conki_cli.reporting.figures.canvas import GREY, INK, SERIES, light_grid, new_figure
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.stored import Intervals, about, intervals_of, read_system
from conki_cli.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 68.0


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw the calibration of one run: of each clip's mean prediction over the seeds."""
    system = read_system(runs[0], choices)
    low, high = system.run.record.score_range
    intervals = intervals_of((low, high))
    predictions = system.mean_prediction()  # [N]
    rows = _by_interval(predictions, system.scores.astype(np.float64), intervals)
    figure = new_figure(width, _HEIGHT)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_scores(upper, rows, (low, high))
    _draw_counts(lower, rows, intervals)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=2 if width < 100 else 4)
    several = "mean over the seeds of the predictions" if len(system.seeds) > 1 else "predictions"
    caption = (
        f"{about(system, choices)}: true scores of the clips by the interval of their {several}; "
        "below, how many clips each interval has."
    )
    return Plot(figure, caption, {"seeds": list(system.seeds), "intervals": rows})


def _by_interval(predictions: Any, scores: Any, intervals: Intervals) -> list[dict[str, Any]]:
    """Return what is drawn of every interval; numbers of an interval without clips are nan."""
    found = intervals.index(predictions)
    rows = []
    for number, name in enumerate(intervals.names):
        true = scores[found == number]
        empty = not len(true)
        quantiles = [math.nan] * 4 if empty else np.quantile(true, [0.05, 0.25, 0.75, 0.95]).tolist()
        rows.append(
            {
                "interval": name,
                "n": len(true),
                "mean_prediction": math.nan if empty else float(predictions[found == number].mean()),
                "mean_score": math.nan if empty else float(true.mean()),
                **dict(zip(("q05", "q25", "q75", "q95"), quantiles, strict=True)),
            }
        )
    return rows


def _draw_scores(axes: "Axes", rows: Sequence[dict[str, Any]], score_range: tuple[float, float]) -> None:
    """Draw mean, middle half and middle 90 % of the true scores over the mean prediction of every interval."""
    filled = [row for row in rows if row["n"]]
    x = [row["mean_prediction"] for row in filled]
    axes.plot(score_range, score_range, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="calibrated")
    axes.vlines(
        x, [r["q05"] for r in filled], [r["q95"] for r in filled], SERIES[0], linewidth=0.8, label="middle 90 %"
    )
    axes.vlines(
        x, [r["q25"] for r in filled], [r["q75"] for r in filled], SERIES[0], linewidth=3.2, label="middle half"
    )
    axes.plot(x, [r["mean_score"] for r in filled], "o", color=INK, markersize=3.6, label="mean", zorder=3)
    axes.set_ylabel("true score")
    light_grid(axes)


def _draw_counts(axes: "Axes", rows: Sequence[dict[str, Any]], intervals: Intervals) -> None:
    counts = [row["n"] for row in rows]
    edges = [2 * intervals.centres[0] - intervals.edges[0], *intervals.edges]
    edges.append(2 * intervals.centres[-1] - intervals.edges[-1])
    widths = np.diff(edges)
    axes.bar(intervals.centres, counts, width=0.9 * widths, color=SERIES[5])
    for centre, count in zip(intervals.centres, counts, strict=True):
        axes.text(centre, count, f"{count:,}", ha="center", va="bottom", fontsize=6)
    axes.set_xticks(intervals.centres, intervals.names)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(0, 1.35 * max(counts))
    axes.set_ylabel("clips")
    axes.set_xlabel("predicted score, by interval")
