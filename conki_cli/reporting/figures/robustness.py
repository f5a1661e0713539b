"""Robustness: the error of runs on clips that are damaged on purpose, by kind and amount of damage."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conki_cli.reporting.comparison import System
from conki_cli.reporting.figures.canvas import GREY, SERIES, label, light_grid, new_figure
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.stored import of_clips, read_several
from conki_cli.reporting.tables.grid import seeds_text
from conki_cli.runs import Run
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from conki_cli.experiments.robustness import Condition

DEFAULT = (
    "text:asr=0.1,0.2,0.4",
    "vision:noise=20dB,10dB,0dB",
    "vision:drop=0.25,0.5,0.75",
    "audio:noise=20dB,10dB,0dB",
    "audio:drop=0.25,0.5,0.75",
)
"""Curves that are drawn if none are asked for, of the modalities that the runs read."""
_PANEL_HEIGHT, _PANEL_WIDTH = 38.0, 36.0
"""In millimetres: one panel's height, and how narrow a panel may become."""
_NAMES = {
    "noise": ("noise", "signal to noise"),
    "drop": ("lost frames", "share of frames"),
    "asr": ("misheard words", "share of words"),
}
"""What stands above the panel of a kind of damage, and below it."""


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw a panel for every kind of damage, with a line for every run."""
    from conki_cli.experiments.robustness import measure

    systems = read_several(runs, choices)
    conditions = _conditions(runs, choices)
    rows: list[dict[str, Any]] = []
    for system in systems:
        space = choices.workspace_of(system.run)
        rules: dict[str, Any] = {"protocol": choices.protocol, "threshold": system.result.threshold}
        rules["seed"] = choices.corrupt_seed
        found = measure(system.run, conditions, choices.split, space, choices.observer, **rules)
        maes = [list(one.metrics["mae"]["values"]) for one in found]
        rows.append({"run": system.run.name, "label": system.label, "seeds": list(system.seeds), "mae": maes})
    panels = _panels(conditions)
    columns = max(1, min(len(panels), int(width // _PANEL_WIDTH)))
    figure = new_figure(width, math.ceil(len(panels) / columns) * _PANEL_HEIGHT + 7)
    grid = figure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False, sharey=True)
    for axes, (name, places) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, name, [conditions[place] for place in places], places, systems, rows)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for line in grid[:, 0]:
        line.set_ylabel("MAE")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    seeds = "; ".join(f"{system.label}: {seeds_text(system.seeds)}" for system in systems)
    caption = (
        f"{of_clips(systems[0], choices)} ({seeds}): MAE on clips that are damaged on purpose, each seed and their "
        f"mean; left: the clips as they are. Damage drawn with seed {choices.corrupt_seed}."
    )
    numbers = {"corruptions": [condition.as_json()["corruptions"] for condition in conditions], "runs": rows}
    undamaged = {system.run.name: list(system.result.metrics["mae"]["values"]) for system in systems}
    return Plot(figure, caption, {**numbers, "undamaged": undamaged, "corrupt_seed": choices.corrupt_seed})


def _conditions(runs: Sequence[Run], choices: Choices) -> "list[Condition]":
    """Return the amounts of all curves; the runs must read what is damaged."""
    from conki_cli.experiments.robustness import conditions_of
    from conki_cli.training.inference import modalities_of

    asked = choices.corruptions
    if not asked:
        read = set.intersection(*(set(modalities_of(run, run.finished_seeds()[0])) for run in runs))
        asked = tuple(text for text in DEFAULT if text.partition(":")[0] in read)
    if not asked:
        raise SettingsError("these runs share no modality that could be damaged", advice="draw one run alone")
    found, *_ = [conditions_of(run, choices.observer, corrupt=asked) for run in runs]
    if any(len(condition.corruptions) > 1 for condition in found):
        raise SettingsError(
            "a curve is over the amounts of one kind of damage, found kinds that are joined by +",
            advice="give --corrupt audio:noise=20dB,10dB,0dB, for example; `conki evaluate` takes joined ones",
        )
    return found


def _panels(conditions: "Sequence[Condition]") -> dict[str, list[int]]:
    """Return the places of the conditions of every kind of damage, by what stands above its panel, mildest first."""
    panels: dict[str, list[int]] = {}
    for place, condition in enumerate(conditions):
        one = condition.corruptions[0]
        panels.setdefault(f"{one.modality}: {_NAMES[one.kind][0]}", []).append(place)
    for places in panels.values():
        first = conditions[places[0]].corruptions[0]
        places.sort(key=lambda place: conditions[place].corruptions[0].value, reverse=first.kind == "noise")
    return panels


def _draw_panel(
    axes: "Axes",
    name: str,
    conditions: "Sequence[Condition]",
    places: Sequence[int],
    systems: Sequence[System],
    rows: Sequence[dict[str, Any]],
) -> None:
    """Draw one kind of damage: a thin line for every seed, their mean, and the error of the best constant."""
    ticks = range(1 + len(places))
    for number, (system, row) in enumerate(zip(systems, rows, strict=True)):
        colour = SERIES[number % len(SERIES)]
        values = [list(system.result.metrics["mae"]["values"]), *(row["mae"][place] for place in places)]
        for seed in range(len(values[0]) if len(values[0]) > 1 else 0):
            axes.plot(ticks, [maes[seed] for maes in values], color=colour, linewidth=0.6, alpha=0.45)
        means = [float(np.mean(maes)) for maes in values]
        axes.plot(ticks, means, color=colour, marker="o", markersize=2.5, label=label(system.label))
    median = systems[0].result.median
    if median is not None:
        style: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (4, 2))}
        axes.axhline(median.metrics["mae"], **style, label="predicting the median")
    axes.set_title(name)
    axes.set_xlabel(_NAMES[conditions[0].corruptions[0].kind][1])
    axes.set_xticks(ticks, ["none", *(condition.corruptions[0].amount for condition in conditions)])
    axes.locator_params(axis="y", nbins=5)
    light_grid(axes)
