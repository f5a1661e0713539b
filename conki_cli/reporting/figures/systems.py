"""Ablations and comparisons as intervals: the MAE of every seed, and the difference from the first run over videos.

Axes: R runs, S seeds, N clips, V videos.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conki_cli.data.store.records import video_of
from conki_cli.metrics import rules_of
from conki_cli.reporting.comparison import System, bootstrap, numbered
from conki_cli.reporting.figures.canvas import GREY, INK, SERIES, light_grid, new_figure, short_labels
from conki_cli.reporting.figures.intervals import draw_rows, half_width
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.stored import of_clips, read_several
from conki_cli.reporting.tables.grid import seeds_text
from conki_cli.reporting.tables.systems import published_of
from conki_cli.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _REST = 6.5, 24.0
"""Millimetres: height of a row, and of what stands around the rows."""


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw one row per run, the first at the top."""
    systems = read_several(runs, choices)
    rows = [_row(system, systems[0], choices) for system in systems]
    figure = new_figure(width, _ROW * len(rows) + _REST)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))
    _draw_values(left, rows)
    _draw_differences(right, rows)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3 if width > 110 else 2)
    seeds = "; ".join(f"{system.label}: {seeds_text(system.seeds)}" for system in systems)
    videos = len({video_of(identity) for identity in systems[0].ids})
    caption = (
        f"{of_clips(systems[0], choices)} ({seeds}). Left: MAE of each seed and the 95 % "
        "interval of their mean (t, from three seeds on). "
        f"Right: difference from {systems[0].label} in the MAE of the mean prediction over seeds "
        f"({_seeds_in_words(rows)}), with the middle 95 % of draws of the {videos} videos: it covers the choice of "
        "test videos, not that of seeds."
    )
    return Plot(figure, caption, {"rows": rows, "num_videos": videos})


def _row(system: System, reference: System, choices: Choices) -> dict[str, Any]:
    values = system.result.metrics["mae"]["values"]
    return {
        "label": system.label,
        "run": system.run.name,
        "seeds": list(system.seeds),
        "mae": values,
        "mean": float(np.mean(values)),
        "half_width": half_width(values),
        "paper": (published_of(system.config, system.result) or {}).get("mae"),
        "difference": None if system is reference else _difference(reference, system, choices),
        "difference_seeds": None if system is reference else _seeds_of_difference(reference, system),
    }


def _seeds_of_difference(reference: System, system: System) -> dict[str, list[int]]:
    """Return the seeds whose mean predictions are compared: those in common, else the first, as many of each.

    The mean of more seeds has a smaller error, so both sides have equally many.
    """
    common = [seed for seed in reference.seeds if seed in system.seeds]
    if common:
        return {"reference": common, "row": common}
    count = min(len(reference.seeds), len(system.seeds))
    return {"reference": list(reference.seeds[:count]), "row": list(system.seeds[:count])}


def _seeds_in_words(rows: Sequence[dict[str, Any]]) -> str:
    """Say over which seeds the mean predictions are, once where all rows have the same."""
    words = {}
    for row in rows[1:]:
        ours, others = (seeds_text(row["difference_seeds"][key]) for key in ("row", "reference"))
        words[row["label"]] = f"{ours} of both" if ours == others else f"{ours} against {others}"
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return "; ".join(f"{label}: {seeds}" for label, seeds in words.items())


def _difference(reference: System, system: System, choices: Choices) -> dict[str, float] | None:
    """Draw the videos of both systems' mean predictions."""
    seeds = _seeds_of_difference(reference, system)
    one, other = reference.mean_prediction(seeds["reference"]), system.mean_prediction(seeds["row"])
    videos = numbered([video_of(identity) for identity in system.ids])
    measured: dict[str, Any] = {"rules": rules_of(system.run.record.score_range), "protocol": choices.protocol}
    measured["threshold"] = reference.result.threshold
    drawn = bootstrap(one, other, system.scores, videos, **measured)["mae"]
    if drawn is None:
        return None
    return {"difference": drawn["difference"], "low": drawn["low"], "high": drawn["high"], "p": drawn["p"]}


def _draw_values(axes: "Axes", rows: Sequence[dict[str, Any]]) -> None:
    draw_rows(axes, rows, short_labels([row["label"] for row in rows], 20))
    known = [(row["paper"], place) for place, row in enumerate(rows) if row["paper"] is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "D", color=SERIES[1], fillstyle="none", markersize=3.6, label="the paper")
    axes.locator_params(axis="x", nbins=4)


def _draw_differences(axes: "Axes", rows: Sequence[dict[str, Any]]) -> None:
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    for place, row in enumerate(rows):
        found = row["difference"]
        if found is None:
            text = "reference" if not place else "one video: not drawn"
            axes.text(0, place, f" {text}", va="center", ha="left", color=GREY, fontsize=6)
            continue
        axes.hlines(place, found["low"], found["high"], SERIES[0], linewidth=1.6)
        axes.plot(found["difference"], place, "o", color=INK, markersize=3.2, zorder=3)
    axes.set_xlabel("difference in MAE")
    axes.locator_params(axis="x", nbins=4)
    axes.margins(x=0.1)
    axes.tick_params(axis="y", length=0)
    light_grid(axes, "x")
