"""Confusion of classes: the class of each clip's prediction against the class of its true score.

Axes: C classes, S seeds, N clips.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from conki_cli.metrics import SIMS_THREE
from conki_cli.reporting.figures.canvas import GREY, INK, new_figure
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.stored import Floats, Intervals, about, intervals_of, read_system
from conki_cli.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIMS = Intervals(
    ("negative", "neutral", "positive"), np.array([-1.0, 0.0, 1.0]), SIMS_THREE.astype(np.float64), rounded=False
)
_MARGIN = 15.0
"""Millimetres that labels take beside and below the matrix."""
_DARK = 0.62
"""Share above which a cell is so dark that its number is white."""


def classes_of(score_range: Sequence[float]) -> Intervals:
    """Return the classes of a range of scores: those of Acc-7 for -3..3, of Acc-3 for -1..1, else intervals."""
    return _SIMS if tuple(score_range) == (-1, 1) else intervals_of(score_range)


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw the matrix of one run; the predictions of all its seeds are counted."""
    system = read_system(runs[0], choices)
    classes = classes_of(system.run.record.score_range)
    true = classes.index(system.scores)  # [N]
    counts = np.zeros((len(classes.names), len(classes.names)), dtype=np.int64)  # [C, C]
    for predictions in system.predictions.values():
        np.add.at(counts, (true, classes.index(predictions)), 1)
    clips = np.bincount(true, minlength=len(classes.names))  # [C]
    shares = np.full(counts.shape, np.nan)
    np.divide(counts, counts.sum(axis=1, keepdims=True), where=counts.any(axis=1, keepdims=True), out=shares)
    hits = float(np.trace(counts) / counts.sum())
    figure = new_figure(width, min(width, 110) - _MARGIN / 2)
    _draw_matrix(figure.add_subplot(), shares, clips, classes)
    caption = (
        f"{about(system, choices)}: percent of the clips of each true class by the class of their prediction; "
        f"{100 * hits:.2f} % lie on the diagonal."
    )
    numbers = {
        "classes": list(classes.names),
        "counts": counts.tolist(),
        "clips": clips.tolist(),
        "accuracy": hits,
        "seeds": list(system.seeds),
    }
    return Plot(figure, caption, numbers)


def _draw_matrix(axes: "Axes", shares: Floats, clips: npt.NDArray[np.intp], classes: Intervals) -> None:
    from matplotlib.patches import Rectangle

    edges = np.arange(len(shares) + 1) - 0.5
    axes.pcolormesh(edges, edges, np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1, edgecolors="face", linewidth=0.1)
    axes.invert_yaxis()
    for row, column in np.ndindex(*shares.shape):
        value = shares[row, column]
        if np.isfinite(value) and value > 0:
            text = f"{100 * value:.0f}" if value >= 0.005 else "<1"
            axes.text(column, row, text, ha="center", va="center", color="white" if value > _DARK else INK)
    places = range(len(classes.names))
    for place in places:
        axes.add_patch(
            Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor=GREY, linewidth=0.7, clip_on=False)
        )
    axes.set_xticks(places, classes.names)
    axes.set_yticks(places, [f"{name}  (n={count:,})" for name, count in zip(classes.names, clips, strict=True)])
    axes.set_xlabel("predicted class (% of each row)")
    axes.set_ylabel("true class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
