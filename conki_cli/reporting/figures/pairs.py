"""Pairs (Figure 4): which vectors of a batch attract each other, from the masks that the loss itself uses.

Axes: B clips, K kinds of knowledge, M modalities, N = B K M vectors.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conki_cli.reporting.figures.canvas import INK, new_figure, signed
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.stored import check_predicted
from conki_cli.reporting.figures.vectors import Labels, chosen_intervals, masks_of, rounded_scores
from conki_cli.runs import Run, stored_predictions
from conki_cli.system.errors import RunError, SettingsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST, MOST = 2, 8
"""Clips whose pairs can be drawn legibly."""
_CLIPS = 3
"""As in Figure 4."""
_NAMES = ("within a clip", "within an interval", "between knowledge", "other negatives", "left out")
_COLOURS = ("#d55e00", "#f0b27a", "#9ecae1", "#ffffff", "#c8c8c8")
_ONES = (0, 1)
"""The positive kinds of pairs."""
_BIG = 30
"""Vectors above which cells are too small for numbers and names."""


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw the pairs of a few clips: two thirds of one interval, the rest of another."""
    run = runs[0]
    labels, scores, intervals = _batch(run, choices)
    masks = masks_of(labels, inter_knowledge=not run.config.dropped("N1"))
    cells = _cells(masks)
    figure = new_figure(width, min(width, 120) * 1.13)
    axes = figure.add_subplot()
    _draw_cells(axes, cells, labels, width)
    _name_clips(axes, labels, scores)
    present = [number for number in range(len(_NAMES)) if (cells == number).any()]
    figure.legend(
        handles=[_patch(number) for number in present], loc="outside lower center", ncols=3 if width > 100 else 2
    )
    counts = {_NAMES[number]: int((cells == number).sum()) for number in present}
    caption = (
        f"{run.record.label}, {run.record.dataset}, {choices.split}: pairs of the vectors O (pan-knowledge) and "
        f"A (knowledge-specific) of {len(scores)} clips with scores {', '.join(signed(s, 1) for s in scores)} "
        f"(intervals {', '.join(map(signed, intervals))}); 1: positive, 0: negative."
    )
    numbers = {"vectors": labels.names, "ids": labels.ids, "scores": scores, "counts": counts, "cells": cells.tolist()}
    return Plot(figure, caption, numbers)


def _batch(run: Run, choices: Choices) -> tuple[Labels, list[float], list[int]]:
    """Choose the clips: the first of both intervals, in stored order."""
    count = _CLIPS if choices.num_clips is None else choices.num_clips
    if not FEWEST <= count <= MOST:
        raise SettingsError(f"pairs needs {FEWEST} to {MOST} clips, found {count}")
    check_predicted(run, choices)
    seed = run.finished_seeds()[0]
    found = stored_predictions(run, choices.split, [seed])[seed]
    rounded = rounded_scores(found.scores)
    one, other = chosen_intervals(rounded, choices.intervals, f"{run.record.dataset}, {choices.split}", num_clips=count)
    first = np.flatnonzero(rounded == one)[: min(-(-2 * count // 3), count - 1)]
    second = np.flatnonzero(rounded == other)[: count - len(first)]
    rows = [*first.tolist(), *second.tolist()]
    if len(rows) < count:
        raise RunError(
            f"the intervals {one} and {other} of {choices.split} have {len(first)} and {len(second)} clips to "
            f"choose from, too few for {count}",
            advice="give a smaller --clips, or other --intervals",
        )
    labels = Labels.of_run(run, seed, [found.ids[row] for row in rows], rounded[rows])
    return labels, [float(found.scores[row]) for row in rows], [int(rounded[row]) for row in rows]


def _cells(masks: dict[str, npt.NDArray[np.bool_]]) -> npt.NDArray[np.int64]:
    """Return the number of the kind of pair, as in `_NAMES`, for every two vectors, [N, N]."""
    cells = np.full(masks["positive"].shape, 3)
    cells[masks["between_knowledge"]] = 2
    cells[masks["positive"]] = 1
    cells[masks["positive"] & masks["same_clip"]] = 0
    cells[masks["ignored"]] = 4
    return cells


def _draw_cells(axes: "Axes", cells: npt.NDArray[np.int64], labels: Labels, width: float) -> None:
    count = len(cells)
    for number, colour in enumerate(_COLOURS):
        _fill(axes, cells == number, colour)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    size = min(6.0, 0.62 * 72 / 25.4 * 0.82 * min(width, 120) / count)
    if count <= _BIG:
        for text, has_text in (("1", cells <= max(_ONES)), ("0", (cells > max(_ONES)) & (cells < 4))):
            rows, columns = np.nonzero(has_text)
            axes.scatter(columns, rows, s=(0.75 * size) ** 2, marker=_digit(text), color=INK, linewidths=0)
        axes.set_xticks(range(count), labels.names, fontsize=size)
        axes.set_yticks(range(count), labels.names, fontsize=size)
        axes.tick_params(length=0, pad=1.5, labeltop=True, labelbottom=False)
    for edge in range(count + 1):
        wide = edge % labels.per_clip == 0
        line: dict[str, Any] = {"color": INK if wide else "#bdbdbd", "linewidth": 0.9 if wide else 0.25}
        axes.axhline(edge - 0.5, **line)
        axes.axvline(edge - 0.5, **line)
    axes.spines[:].set_visible(False)


def _fill(axes: "Axes", mask: npt.NDArray[np.bool_], colour: str) -> None:
    """Fill cells with a colour, as one shape."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    squares = [
        Path(
            [(x - 0.5, y - 0.5), (x + 0.5, y - 0.5), (x + 0.5, y + 0.5), (x - 0.5, y + 0.5), (x - 0.5, y - 0.5)],
            closed=True,
        )
        for y, x in np.argwhere(mask).tolist()
    ]
    if squares:
        axes.add_patch(PathPatch(Path.make_compound_path(*squares), facecolor=colour, linewidth=0))


def _digit(text: str) -> Any:
    """Return a digit as a mark whose middle lies at its place: one path in a file, however often it is drawn."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), text, size=10, prop=FontProperties(family="DejaVu Sans"))
    low, high = path.vertices.min(axis=0), path.vertices.max(axis=0)
    return MarkerStyle(Path(path.vertices - (low + high) / 2, path.codes))


def _name_clips(axes: "Axes", labels: Labels, scores: Sequence[float]) -> None:
    """Write below each block which clip it is, and what its score is."""
    per_clip = labels.per_clip
    middles = [(number + 0.5) * per_clip - 0.5 for number in range(len(scores))]
    few = len(scores) <= 4
    lower = axes.secondary_xaxis(-0.005)
    lower.set_xticks(middles, [f"clip {n}\ny = {signed(s, 1)}" if few else f"{n}" for n, s in enumerate(scores, 1)])
    lower.tick_params(length=0)
    lower.spines[:].set_visible(False)
    if len(labels.names) > _BIG:
        axes.set_xticks([])
        axes.set_yticks(middles, [f"{number}" for number in range(1, len(scores) + 1)])
        axes.tick_params(length=0)


def _patch(number: int) -> Any:
    from matplotlib.patches import Patch

    value = "" if number == 4 else ("1: " if number in _ONES else "0: ")
    return Patch(facecolor=_COLOURS[number], edgecolor="#8a8a8a", linewidth=0.5, label=f"{value}{_NAMES[number]}")
