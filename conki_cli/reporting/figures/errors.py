"""Errors: the absolute error of clips by the interval of their score, by their length, and by their video.

Axes: N clips, V videos.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.store.records import FRAME_MODALITIES, Utterances, video_of
from conki_cli.metrics import clipped, rules_of
from conki_cli.reporting.comparison import System
from conki_cli.reporting.figures.canvas import GREY, INK, SERIES, label, light_grid, new_figure
from conki_cli.reporting.figures.kinds import Choices, Plot
from conki_cli.reporting.figures.stored import Floats, about, intervals_of, read_system
from conki_cli.runs import Run
from conki_cli.system.errors import ConkiError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL = 34.0
_GROUPS = 5
"""Groups of clips by length, as equal in size as ties allow."""
_CROWDED = 5
"""Groups in a panel above which their labels have no room for more than two numbers."""
_NAMED = 3
"""Videos that are named: those with the largest error."""
_WORDS_PER_TEXT = 1.5
"""Mean number of words below which texts are taken to be written without spaces, and characters are counted."""


def plot(runs: Sequence[Run], choices: Choices, width: float) -> Plot:
    """Draw where one run errs: with each clip's mean prediction over the seeds."""
    system = read_system(runs[0], choices)
    rules = rules_of(system.run.record.score_range)
    predictions = clipped(system.mean_prediction(), rules)  # [N]
    errors = np.abs(predictions - clipped(system.scores, rules))  # [N]
    lengths, unit, absent = _lengths(system, choices)
    by_interval = _by_interval(errors, system)
    by_length = _by_length(errors, lengths) if lengths is not None else []
    by_video = _by_video(errors, system.ids)
    panels = 2 + bool(by_length)
    stacked = width < 45 * panels
    figure = new_figure(width, _PANEL * panels + 4 if stacked else _PANEL * 1.5)
    grid = list(figure.subplots(*((panels, 1) if stacked else (1, panels)), squeeze=False).flat)
    overall = float(errors.mean())
    _draw_groups(grid[0], by_interval, "interval of the true score", overall)
    if by_length:
        _draw_groups(grid[1], by_length, f"length in {unit}", overall)
    _draw_videos(grid[-1], by_video, overall)
    several = " of the mean prediction over the seeds" if len(system.seeds) > 1 else ""
    caption = (
        f"{about(system, choices)}: mean absolute error{several} ± its standard error, by interval"
        f"{', by length' if by_length else ''} and by video; dashed: over all clips ({overall:.3f})."
    )
    if absent:
        caption += f" Not drawn by length: {absent}."
    numbers = {
        "seeds": list(system.seeds),
        "mae": overall,
        "by_interval": by_interval,
        "by_length": by_length,
        "length_unit": unit,
        "by_video": by_video,
    }
    return Plot(figure, caption, numbers)


def _group(name: str, errors: Floats) -> dict[str, Any]:
    deviation = float(errors.std(ddof=1)) if len(errors) > 1 else math.nan
    mean = float(errors.mean()) if len(errors) else math.nan
    return {"group": name, "n": len(errors), "mae": mean, "standard_error": deviation / math.sqrt(max(1, len(errors)))}


def _by_interval(errors: Floats, system: System) -> list[dict[str, Any]]:
    intervals = intervals_of(system.run.record.score_range)
    found = intervals.index(system.scores)
    return [_group(name, errors[found == number]) for number, name in enumerate(intervals.names)]


def _by_length(errors: Floats, lengths: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """Group clips by length; the groups are as equal in size as equal lengths allow."""
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _GROUPS + 1)).astype(np.int64))
    number = np.clip(np.searchsorted(edges, lengths, side="left") - 1, 0, None)
    groups = []
    for place in np.unique(number):
        inside = lengths[number == place]
        low, high = int(inside.min()), int(inside.max())
        groups.append(_group(f"{low}–{high}" if low < high else f"{low}", errors[number == place]))
    return groups


def _by_video(errors: Floats, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return one entry per video, the largest error first; equal ones by name."""
    clips: dict[str, list[float]] = {}
    for identity, error in zip(ids, errors, strict=True):
        clips.setdefault(video_of(identity), []).append(float(error))
    entries = [_group(name, np.array(values)) for name, values in clips.items()]
    return sorted(entries, key=lambda entry: (-entry["mae"], entry["group"]))


def _lengths(system: System, choices: Choices) -> tuple[npt.NDArray[np.int64] | None, str, str]:
    """Return the length of every clip [N], its unit, and why it is not known; the last is empty where it is."""
    from conki_cli.data.store.reading import FeatureStore

    dataset = system.result.dataset
    path = choices.workspace_of(system.run).store(dataset)
    if not path.is_file():
        return None, "", f"the feature store of {dataset} is missing"
    try:
        with FeatureStore(path) as store:
            if system.run.record.data.get(dataset) != store.content_id:
                return None, "", f"the feature store of {dataset} differs from the version that the run was trained on"
            clips = store.split(choices.split)
            lengths, unit = _lengths_in(clips)
    except ConkiError as error:
        return None, "", f"the feature store of {dataset} cannot be read ({error.fact})"
    known = dict(zip(clips.ids, lengths.tolist(), strict=True))
    if not all(identity in known for identity in system.ids):
        return None, "", f"the feature store of {dataset} lacks clips of the predictions"
    return np.array([known[identity] for identity in system.ids]), unit, ""


def _lengths_in(clips: Utterances) -> tuple[npt.NDArray[np.int64], str]:
    """Count words; characters where texts have no spaces; frames where clips have no texts."""
    words = np.array([len(text.split()) for text in clips.texts])
    if words.mean() >= _WORDS_PER_TEXT:
        return words, "words"
    if words.any():
        return np.array([len("".join(text.split())) for text in clips.texts]), "characters"
    name = next((name for name in FRAME_MODALITIES if name in clips.frames), None)
    return (clips.frames[name].lengths, f"{name} frames") if name is not None else (words, "words")


def _draw_groups(axes: "Axes", groups: Sequence[dict[str, Any]], what: str, overall: float) -> None:
    places = np.arange(len(groups))
    means, halves = ([group[key] for group in groups] for key in ("mae", "standard_error"))
    axes.axhline(overall, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.errorbar(places, means, yerr=np.nan_to_num(halves), fmt="o", color=SERIES[0], markersize=3.2, elinewidth=1)
    count, about = ("", "; below: clips") if len(groups) > _CROWDED else ("n=", "")
    axes.set_xticks(places, [f"{group['group']}\n{count}{group['n']:,}" for group in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    _finish(axes, f"{what}{about}")


def _draw_videos(axes: "Axes", videos: Sequence[dict[str, Any]], overall: float) -> None:
    """Draw the error of every video by rank; the worst are named."""
    ranks = np.arange(1, len(videos) + 1)
    axes.axhline(overall, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.plot(ranks, [entry["mae"] for entry in videos], "o", color=SERIES[1], markersize=2.4, markeredgewidth=0)
    worst = "\n".join(f"{label(entry['group'], 18)} (n={entry['n']:,})" for entry in videos[:_NAMED])
    axes.text(0.99, 0.99, worst, transform=axes.transAxes, ha="right", va="top", fontsize=6, color=INK)
    top = max(entry["mae"] for entry in videos)
    axes.set_ylim(top=max(1.1 * top, 1.9 * np.median([entry["mae"] for entry in videos])))  # room for the names
    axes.set_xlim(1 - 0.03 * len(videos), max(len(videos), 3) * 1.03)
    axes.locator_params(axis="x", integer=True, nbins=6)
    _finish(axes, f"video, by rank ({len(videos)} videos)")


def _finish(axes: "Axes", what: str) -> None:
    axes.set_xlabel(what)
    axes.set_ylabel("MAE")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=5)
    light_grid(axes)
