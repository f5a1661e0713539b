"""A sweep: the validation MAE of every finished trial over each setting that was varied."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from conki_cli.reporting.figures.canvas import INK, SERIES, file_of, house_style, label, light_grid, new_figure
from conki_cli.reporting.figures.kinds import COLUMN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_HEIGHT = 45.0
"""In millimetres."""
_DECADES = 10.0
"""Of a setting whose largest value is so many times its smallest, the axis is logarithmic."""


def draw_sweep(found: Mapping[str, Any]) -> bytes:
    """Draw a sweep, as `describe_sweep` returns it with a finished trial; return the bytes of an SVG file."""
    trials = [trial for trial in found["trials"] if trial["state"] == "complete"]
    with house_style():
        figure = new_figure(COLUMN, _PANEL_HEIGHT * len(found["over"]))
        rows = figure.subplots(len(found["over"]), 1, squeeze=False)
        for axes, path in zip(rows.flat, found["over"], strict=True):
            _draw_panel(axes, path, trials)
        title = f"{found['sweep']}: validation MAE of {len(trials)} trials; ring: the best"
        return file_of(figure, "svg", name="sweep", title=title)


def _draw_panel(axes: "Axes", path: str, trials: list[Mapping[str, Any]]) -> None:
    values = [trial["values"][path] for trial in trials]
    maes = [trial["mae"] for trial in trials]
    if all(type(value) in (int, float) for value in values):
        if min(values) > 0 and max(values) >= _DECADES * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # powers would be typeset as formulas
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        places = [float(value) for value in values]
    else:
        names = list(dict.fromkeys(map(str, values)))
        places = [float(names.index(str(value))) for value in values]
        axes.set_xticks(range(len(names)), [label(name) for name in names])
    axes.scatter(places, maes, s=9, color=SERIES[0], alpha=0.7, linewidths=0)
    axes.scatter(places[:1], maes[:1], s=40, facecolors="none", edgecolors=INK, linewidths=0.9)
    axes.set_xlabel(label(path))
    axes.set_ylabel("validation MAE")
    light_grid(axes)
