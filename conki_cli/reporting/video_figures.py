"""Figures about videos: what was seen and heard in a clip, and scores over time."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.cache import Clip, Extracted
from conki_cli.data.extraction.libraries import library
from conki_cli.data.extraction.showing import Shown
from conki_cli.data.sources.videos import frames_of
from conki_cli.system.errors import one_line
from conki_cli.system.files import atomic_path

Values = npt.NDArray[Any]
_INCHES = (9.0, 1.8)  # of one panel
_BLUE, _ORANGE, _GREY = "#1f5f99", "#c2571a", "#888888"


def draw_time_line(path: Path, scored: Mapping[str, Any]) -> None:
    """Draw the scores of the segments of videos over time, one panel for each video."""
    videos: dict[str, list[Mapping[str, Any]]] = {}
    for clip in scored["clips"]:
        videos.setdefault(str(clip["id"]).rpartition("$_$")[0], []).append(clip)
    low, high = scored["score_range"]
    with _figure(path, len(videos)) as axes:
        for panel, (name, clips) in zip(axes, videos.items(), strict=True):
            values, edges = steps_of(clips, [clip["prediction"] for clip in clips])
            panel.axhline(0.0, color=_GREY, linewidth=0.8)
            panel.stairs(values, edges, color=_BLUE, linewidth=1.8, baseline=None)
            for seed in scored["seeds"] if len(scored["seeds"]) > 1 else ():
                by_seed, _ = steps_of(clips, [clip["by_seed"][str(seed)] for clip in clips])
                panel.stairs(by_seed, edges, color=_BLUE, linewidth=0.6, alpha=0.4, baseline=None)
            panel.set(ylim=(low, high), xlim=(edges[0], edges[-1]), ylabel="score")
            panel.set_title(one_line(name)[:80], fontsize=9, loc="left", parse_math=False)
        axes[-1].set_xlabel("seconds")


def steps_of(clips: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the steps of a line over time and the edges between them; where nobody speaks, a step is nan."""
    values, edges = [scores[0]], [clips[0]["start"]]
    for (before, clip), score in zip(pairwise(clips), scores[1:], strict=True):
        if before["stop"] < clip["start"]:
            values.append(math.nan)
            edges.append(before["stop"])
        values.append(score)
        edges.append(clip["start"])
    return values, [*edges, clips[-1]["stop"]]


def draw_clip(
    path: Path, extracted: Extracted, clip: Clip, provenance: Mapping[str, Any], shown: Shown | None = None
) -> list[str]:
    """Draw pitch and voicing, whether a face is there, and how the mouth opens, over time; and some of its pictures.

    Returns:
        A line for each modality of which panels are left out: its features have not the columns that they show.
    """
    tracks, left_out = [], []
    for modality in ("audio", "vision"):
        frames = frames_of(extracted, modality)
        note = provenance.get(modality, {})
        if frames is None or not note.get("columns"):
            continue
        own = [panel for panel in _PANELS if panel.modality == modality]
        drawn = [panel for panel in own if set(panel.columns) <= set(note["columns"])]
        tracks += [(panel, np.asarray(frames), note) for panel in drawn]
        if absent := [panel for panel in own if panel not in drawn]:
            columns = dict.fromkeys(name for panel in absent for name in panel.columns if name not in note["columns"])
            left_out.append(
                f"not drawn: {', '.join(panel.shows for panel in absent)}; the {modality} features of "
                f"{note['extractor']} have no column {' or '.join(columns)}"
            )
    with _figure(path, max(1, len(tracks)) + (shown is not None)) as every_axes:
        axes = every_axes[1:] if shown is not None else every_axes
        if shown is not None:
            _draw_pictures(every_axes[0], shown, provenance["vision"]["rate"])
        for panel, (what, values, note) in zip(axes, tracks, strict=False):
            named = {name: values[:, note["columns"].index(name)] for name in what.columns}
            what.draw(panel, _times(len(values), note["rate"], what.modality), named)
        _label(axes, tracks[-1][2]["rate"] if tracks else 0.0, clip, extracted)
        if not tracks:
            axes[0].set_axis_off()
            axes[0].text(0.5, 0.5, "nothing in it can be drawn over time", ha="center", transform=axes[0].transAxes)
    return left_out


def _label(axes: Sequence[Any], rate: float | str, clip: Clip, extracted: Extracted) -> None:
    name = f"{one_line(clip.id)[:80]}, {extracted.result['seconds']:.1f} s"
    axes[0].set_title(name, fontsize=9, loc="left", parse_math=False)
    axes[-1].set_xlabel("pictures" if rate == "own" else "seconds")


def _draw_pictures(panel: Any, shown: Shown, rate: float | str) -> None:
    """Draw pictures side by side, each with the points of its face and its time."""
    panel.set_axis_off()
    share = 1 / len(shown.rows)
    for place, (row, picture, points) in enumerate(zip(shown.rows, shown.pictures, shown.points, strict=False)):
        part = panel.inset_axes((share * place, 0.0, 0.97 * share, 1.0))
        part.imshow(picture)
        part.plot(points[:, 0], points[:, 1], ".", markersize=0.6, color="#30e0a0")
        part.set(xlim=(0, picture.shape[1]), ylim=(picture.shape[0], 0))
        part.set_axis_off()
        when = f"{row / rate:.1f} s" if isinstance(rate, int | float) else f"picture {row}"
        part.set_title(when, fontsize=7)


def _times(count: int, rate: float | str, modality: str) -> Values:
    """Return when each row is: frames of sound at their middle; pictures by number where their rate is not known."""
    step = 1 / rate if isinstance(rate, int | float) else 1.0
    return (np.arange(count) + (0.5 if modality == "audio" else 0.0)) * step


def _draw_pitch(panel: Any, times: Values, columns: Mapping[str, Values]) -> None:
    panel.plot(times, np.where(columns["VUV"] > 0, columns["F0"], np.nan), ".", markersize=2.5, color=_BLUE)
    panel.set(ylabel="F0 (Hz)", xlim=(0, times[-1]))


def _draw_energy(panel: Any, times: Values, columns: Mapping[str, Values]) -> None:
    panel.plot(times, columns["MCEP_0"], color=_BLUE, linewidth=0.8)
    panel.fill_between(times, 0, 1, where=columns["VUV"] > 0, **_shade(panel))
    panel.set(ylabel="MCEP_0\n(grey: voiced)", xlim=(0, times[-1]))


def _draw_face(panel: Any, times: Values, columns: Mapping[str, Values], *, unit: str) -> None:
    """Draw columns of a face, in grey where there is none."""
    present = columns["face_present"] > 0
    names = [name for name in columns if name != "face_present"]
    for name, color in zip(names, (_BLUE, _ORANGE, _GREY), strict=False):
        panel.plot(times, np.where(present, columns[name], np.nan), color=color, label=name, lw=1.0)
    panel.fill_between(times, 0, 1, where=~present, **_shade(panel))
    panel.legend(fontsize=7, loc="upper right", ncols=3)
    panel.set(xlim=(0, max(float(times[-1]), 1e-3)), ylabel=unit)


def _shade(panel: Any) -> dict[str, Any]:
    return {"transform": panel.get_xaxis_transform(), "color": "#dddddd", "zorder": 0, "step": "mid"}


@dataclass(frozen=True)
class _Panel:
    """A panel of a clip: what it shows, and the columns that it needs."""

    modality: str
    shows: str
    columns: tuple[str, ...]
    draw: Callable[[Any, Values, Mapping[str, Values]], None]


_PANELS = (
    _Panel("audio", "pitch", ("F0", "VUV"), _draw_pitch),
    _Panel("audio", "energy and voicing", ("MCEP_0", "VUV"), _draw_energy),
    _Panel(
        "vision",
        "mouth and blinks",
        ("AU25_lips_apart", "AU45_blink", "face_present"),
        partial(_draw_face, unit="face\n(grey: none)"),
    ),
    _Panel("vision", "pose", ("yaw", "pitch", "roll", "face_present"), partial(_draw_face, unit="degrees")),
)


@contextlib.contextmanager
def _figure(path: Path, panels: int) -> Iterator[Sequence[Any]]:
    """Yield panels below one another; the figure is written when the block ends."""
    library("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_INCHES[0], _INCHES[1] * panels + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    yield list(figure.subplots(panels, 1, squeeze=False)[:, 0])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=120)
