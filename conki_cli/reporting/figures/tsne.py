"""Representations (Figure 5): O_m and A_m of clips of two sentiment intervals, by t-SNE, with cosines beside them.

Axes: B clips, N = B K M vectors, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conki_cli.config.words import run_label
from conki_cli.reporting.figures.canvas import DARK, GREY, INK, LETTERS, LIGHT, label, new_figure, signed
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.representations import represent, training_clips
from conki_cli.reporting.figures.stored import Floats
from conki_cli.reporting.figures.vectors import (
    MEASURES,
    Labels,
    chosen_intervals,
    interval_words,
    mean_cosines,
    rounded_scores,
)
from conki_cli.runs import Run
from conki_cli.system.errors import RunError, SettingsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_DRAWN = 50
"""Clips of an interval that are drawn, unless another number is chosen."""
_MOST_COMPARED = 400
"""Clips of an interval whose cosines are taken."""
_FEWEST_VECTORS = 6
_PERPLEXITY = 30.0
_SEED = 0
_MARKERS = ("o", "*")
_SIZES = (6.0, 17.0)
_COLOURS = {"O": LIGHT, "A": DARK}


@dataclass(frozen=True, eq=False)
class _Panel:
    """One run's picture."""

    run: Run
    seed: int
    labels: Labels
    """Of the clips that are drawn."""
    places: Floats
    """[N, 2]."""
    cosines: dict[str, float]
    counts: tuple[int, int]
    """Clips of both intervals; the cosines are of at most `_MOST_COMPARED` of each."""


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw one run, or two side by side as (a) and (b)."""
    intervals: tuple[int, int] | None = choices.intervals
    panels = []
    for run in runs:
        panel, intervals = _panel(run, choices, intervals)
        panels.append(panel)
    assert intervals is not None
    side = width / len(panels)
    figure = new_figure(width, min(side, 80.0) + 32)
    parts: Any = figure.subfigures(2, 1, height_ratios=(min(side, 80.0), 32))
    upper, lower = parts
    grid = upper.subplots(1, len(panels), squeeze=False)
    for place, (axes, panel) in enumerate(zip(grid.flat, panels, strict=True)):
        _draw_panel(axes, panel, intervals, f"({'ab'[place]}) " if len(panels) > 1 else "")
    rest = lower.subplots()
    _draw_numbers(rest, panels)
    kinds = tuple(dict.fromkeys(kind for panel in panels for kind in panel.labels.kinds))
    modalities = tuple(dict.fromkeys(name for panel in panels for name in panel.labels.modalities))
    handles = _legend(kinds, modalities, intervals)
    lower.legend(handles=handles, loc="upper center", ncols=(len(handles) + 1) // 2, columnspacing=1.0)
    return Plot(figure, _caption(panels, intervals, choices), _numbers(panels, intervals))


def _panel(run: Run, choices: Choices, wanted: tuple[int, int] | None) -> tuple[_Panel, tuple[int, int]]:
    """Compute one run's picture; the second run is drawn for the intervals of the first."""
    seed = _seed_of(run, choices)
    if choices.num_clips is not None and not 1 <= choices.num_clips <= _MOST_COMPARED:
        raise SettingsError(f"tsne needs 1 to {_MOST_COMPARED} clips of an interval, found {choices.num_clips}")
    with training_clips(run, choices) as clips:
        if clips.scores is None:
            raise RunError(f"the clips of {clips.path} have no scores, so they belong to no interval")
        rounded = rounded_scores(clips.scores)
        intervals = chosen_intervals(rounded, wanted, f"{run.config.data.dataset}, {choices.split}")
        rows, drawn = _chosen_rows(rounded, intervals, choices.num_clips or _MOST_DRAWN)
        vectors = represent(run, seed, clips, rows, choices)
        labels = Labels.of_run(run, seed, [clips.ids[row] for row in rows], rounded[rows])
    shown = [place for place, row in enumerate(rows) if row in drawn]
    some = Labels([labels.ids[k] for k in shown], labels.intervals[shown], labels.kinds, labels.modalities)
    blocks = vectors.reshape(len(rows), labels.per_clip, -1)[shown]
    places = _embed(blocks.reshape(len(shown) * labels.per_clip, -1), run)
    counts = tuple(int((rounded == interval).sum()) for interval in intervals)
    return _Panel(run, seed, some, places, mean_cosines(vectors, labels), (counts[0], counts[1])), intervals


def _seed_of(run: Run, choices: Choices) -> int:
    finished = run.finished_seeds()
    if choices.seed is not None and choices.seed not in finished:
        known = ", ".join(map(str, finished))
        raise RunError(
            f"seed {choices.seed} of run {run.name} is not finished", advice=f"choose one of {known} with --seed"
        )
    return finished[0] if choices.seed is None else choices.seed


def _chosen_rows(
    rounded: npt.NDArray[np.int64], intervals: Sequence[int], most_drawn: int
) -> tuple[list[int], set[int]]:
    """Return the clips whose cosines are taken, in stored order, and those of them that are drawn."""
    generator = np.random.default_rng(_SEED)
    compared: list[int] = []
    drawn: set[int] = set()
    for interval in intervals:
        order = generator.permutation(np.flatnonzero(rounded == interval)).tolist()
        compared += order[:_MOST_COMPARED]
        drawn |= set(order[:most_drawn])
    return sorted(compared), drawn


def _embed(vectors: Floats, run: Run) -> Floats:
    """Return the places of vectors [N, D] on paper, [N, 2]: t-SNE on their cosine distances, seeded, one thread."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(vectors) < _FEWEST_VECTORS:
        raise RunError(
            f"t-SNE needs {_FEWEST_VECTORS} vectors, and the chosen clips of {run.name} have {len(vectors)}",
            advice="choose intervals with more clips",
        )
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(limits=1):
        found = TSNE(
            perplexity=perplexity, metric="cosine", init="random", random_state=_SEED, n_jobs=1, learning_rate="auto"
        ).fit_transform(vectors)
    places: Floats = np.round(found.astype(np.float64), 3)
    return places


def _draw_panel(axes: "Axes", panel: _Panel, intervals: Sequence[int], letter: str) -> None:
    labels = panel.labels
    blocks = panel.places.reshape(len(labels.ids), len(labels.kinds), len(labels.modalities), 2)
    for kind_place, kind in enumerate(labels.kinds):
        for modality_place, name in enumerate(labels.modalities):
            for interval, marker, size in zip(intervals, _MARKERS, _SIZES, strict=True):
                x, y = blocks[labels.intervals == interval, kind_place, modality_place].T
                axes.scatter(x, y, s=size, marker=marker, color=_COLOURS[kind][name], linewidths=0)
    axes.set_title(f"{letter}{label(run_label(panel.run.config), 22)}")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color=GREY)
    axes.margins(0.04)


def _draw_numbers(axes: "Axes", panels: Sequence[_Panel]) -> None:
    """Write the mean cosines below the picture, a row per kind of pair and a column per run."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    tops = np.linspace(0.52, 0.05, len(MEASURES) + 1)
    columns = [0.72, 0.92][: len(panels)]
    axes.text(0.02, tops[0], "mean cosine", color=GREY)
    for column, letter in zip(columns, "ab", strict=False):
        axes.text(column, tops[0], f"({letter})" if len(panels) > 1 else "", ha="right", color=GREY)
    for top, (name, words) in zip(tops[1:], MEASURES.items(), strict=True):
        axes.text(0.02, top, words)
        for column, panel in zip(columns, panels, strict=True):
            value = panel.cosines[name]
            axes.text(column, top, signed(value, 3) if np.isfinite(value) else "–", ha="right")


def _legend(kinds: Sequence[str], modalities: Sequence[str], intervals: Sequence[int]) -> list[Any]:
    from matplotlib.lines import Line2D

    order = ("text", "audio", "vision")  # as the paper names them
    points: dict[str, Any] = {"linestyle": "", "markeredgewidth": 0}
    handles = [
        Line2D([], [], marker="s", color=_COLOURS[kind][name], label=f"{kind}{LETTERS[name]}", markersize=4.5, **points)
        for name in order
        if name in modalities
        for kind in kinds
    ]
    for interval, marker, size in zip(intervals, _MARKERS, (3.5, 6), strict=True):
        text = f"interval {signed(interval)}"
        handles.append(Line2D([], [], marker=marker, color=INK, label=text, markersize=size, **points))
    return handles


def _caption(panels: Sequence[_Panel], intervals: Sequence[int], choices: Choices) -> str:
    first = panels[0]
    names = [f"{run_label(panel.run.config)}, seed {panel.seed}" for panel in panels]
    shown = "; ".join(f"({'ab'[k]}) {name}" for k, name in enumerate(names)) if len(names) > 1 else names[0]
    drawn = len(first.labels.ids)
    some = f", {drawn} of them drawn" if drawn < sum(first.counts) else ""
    limit = f" and are of at most {_MOST_COMPARED} clips of each" if max(first.counts) > _MOST_COMPARED else ""
    kinds = dict.fromkeys(kind for panel in panels for kind in panel.labels.kinds)
    words = {"O": "O (pan-knowledge, light)", "A": "A (knowledge-specific, dark)"}
    return (
        f"{shown}: {' and '.join(words[kind] for kind in kinds)} of the {first.counts[0]} and "
        f"{first.counts[1]} {first.run.config.data.dataset} {choices.split} clips of intervals "
        f"{interval_words(intervals)}{some}, by t-SNE (cosine, seed {_SEED}); distances between groups in it mean "
        f"little, the cosines do not depend on it{limit}."
    )


def _numbers(panels: Sequence[_Panel], intervals: Sequence[int]) -> dict[str, Any]:
    return {
        "intervals": list(intervals),
        "runs": [
            {
                "run": panel.run.name,
                "label": run_label(panel.run.config),
                "seed": panel.seed,
                "clips": list(panel.counts),
                "compared": [min(count, _MOST_COMPARED) for count in panel.counts],
                "mean_cosine": panel.cosines,
                "drawn": [
                    {"id": identity, "vector": panel.labels.names[k], "x": x, "y": y}
                    for k, (x, y) in enumerate(panel.places.tolist())
                    for identity in [panel.labels.ids[k // panel.labels.per_clip]]
                ],
            }
            for panel in panels
        ],
    }
