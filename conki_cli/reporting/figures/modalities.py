"""Modalities: how much one run relies on each, or how much training on each helps several runs.

One run: the error if a modality of every clip comes from another clip of the split (permutation importance). It shows
what the trained network uses, not what a network could learn without it. Several runs: the error by the modalities that
each was trained on (Table 4), which shows the latter.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from conki_cli.reporting.comparison import System
from conki_cli.reporting.figures.canvas import GREY, label, new_figure
from conki_cli.reporting.figures.intervals import draw_rows, half_width
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.representations import shuffled_errors, training_clips
from conki_cli.reporting.figures.stored import about, of_clips, read_several, read_system
from conki_cli.reporting.tables.grid import seeds_text
from conki_cli.runs import Run
from conki_cli.system.errors import RunError, SettingsError

_ROW, _REST = 7.5, 24.0
"""Millimetres: height of a row, and of what stands around the rows."""
_DRAWS = 3
"""Orders in which the clips of a split are shuffled."""


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw one run's reliance on its modalities, or several runs by theirs."""
    return _of_one(runs[0], choices, width) if len(runs) == 1 else _of_several(runs, choices, width)


def _of_one(run: Run, choices: Choices, width: float) -> Plot:
    system = read_system(run, choices)
    with training_clips(run, choices) as clips:
        if clips.scores is None or len(clips) < 2:
            raise RunError(
                f"the {choices.split} clips of {clips.path} cannot be shuffled: at least two with scores are needed"
            )
        found = {seed: shuffled_errors(run, seed, clips, _DRAWS, choices) for seed in system.seeds}
    own = [error for error, _ in found.values()]
    names = list(next(iter(found.values()))[1])
    rows = [_row(name, [float(np.mean(shuffled[name])) for _, shuffled in found.values()]) for name in names]
    figure = new_figure(width, _ROW * len(rows) + _REST)
    axes = figure.add_subplot()
    mean = float(np.mean(own))
    axes.axvline(mean, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="as it is")
    draw_rows(axes, rows, [f"{row['label']} shuffled" for row in rows])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3 if width > 100 else 2)
    caption = (
        f"{about(system, choices)}: MAE when one modality of every clip is taken from another clip (mean of {_DRAWS} "
        f"orders), against the MAE of the clips as they are ({mean:.3f}): what the trained network relies on, not "
        "what training without a modality would give."
    )
    numbers = {"seeds": list(system.seeds), "mae": own, "num_draws": _DRAWS, "shuffled": rows}
    return Plot(figure, caption, numbers)


def _of_several(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    from conki_cli.training.inference import modalities_of

    systems = read_several(runs, choices)
    used = [modalities_of(system.run, system.seeds[0]) for system in systems]
    if len(set(used)) < len(used):
        twice = next(found for found in used if used.count(found) > 1)
        raise SettingsError(
            f"several runs are shown by the modalities that they were trained on, but two have {', '.join(twice)}",
            advice="name runs that differ, such as those of `conki ablate --drop T`, or one run alone",
        )
    rows = [
        _row("+".join(names), system.result.metrics["mae"]["values"])
        for names, system in zip(used, systems, strict=True)
    ]
    figure = new_figure(width, _ROW * len(rows) + _REST)
    axes = figure.add_subplot()
    draw_rows(
        axes,
        rows,
        [label(_with_model(row["label"], system, systems), 34) for row, system in zip(rows, systems, strict=True)],
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    seeds = "; ".join(f"{row['label']}: {seeds_text(system.seeds)}" for row, system in zip(rows, systems, strict=True))
    caption = (
        f"{of_clips(systems[0], choices)} ({seeds}): MAE of runs that were trained on different modalities, each seed, "
        "and the 95 % interval of their mean (t, from three seeds on)."
    )
    numbers = [{**row, "run": s.run.name, "seeds": list(s.seeds)} for row, s in zip(rows, systems, strict=True)]
    return Plot(figure, caption, {"runs": numbers})


def _with_model(name: str, system: System, systems: Sequence[System]) -> str:
    """Put the model's name in front where the runs are of several models."""
    models = {other.config.model.name for other in systems}
    return f"{system.config.model.name}: {name}" if len(models) > 1 else name


def _row(name: str, values: list[float]) -> dict[str, Any]:
    return {"label": name, "mae": values, "mean": float(np.mean(values)), "half_width": half_width(values)}
