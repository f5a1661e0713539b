"""Figures about videos: what was seen and heard in a clip, and scores over time."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
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
) -> None:
    """Draw pitch and voicing, whether a face is there, and how the mouth opens, over time; and some of its pictures."""
    panels = []
    for modality, draw in (("audio", _draw_sound), ("vision", _draw_face)):
        frames = frames_of(extracted, modality)
        columns = provenance.get(modality, {}).get("columns", ())
        if frames is not None and columns:
            panels.append((draw, np.asarray(frames), columns, provenance[modality]["rate"]))
    with _figure(path, 2 * max(1, len(panels)) + (shown is not None)) as every_axes:
        axes = every_axes[1:] if shown is not None else every_axes
        if shown is not None:
            _draw_pictures(every_axes[0], shown, provenance["vision"]["rate"])
        for number, (draw, values, columns, rate) in enumerate(panels):
            draw(axes[2 * number : 2 * number + 2], values, list(columns), rate)
        if not panels:
            axes[0].set_title("no sound and no pictures in it", fontsize=9)
        axes[0].set_title(
            f"{one_line(clip.id)[:80]}, {extracted.result['seconds']:.1f} s", fontsize=9, loc="left", parse_math=False
        )
        axes[-1].set_xlabel("seconds" if not panels or panels[-1][3] != "own" else "pictures")


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


def _draw_sound(axes: Sequence[Any], values: npt.NDArray[Any], columns: list[str], rate: float) -> None:
    times = (np.arange(len(values)) + 0.5) / rate
    pitch = np.where(values[:, columns.index("VUV")] > 0, values[:, columns.index("F0")], np.nan)
    axes[0].plot(times, pitch, ".", markersize=2.5, color=_BLUE)
    axes[0].set(ylabel="F0 (Hz)", xlim=(0, times[-1]))
    axes[1].plot(times, values[:, columns.index("MCEP_0")], color=_BLUE, linewidth=0.8)
    axes[1].fill_between(times, 0, 1, where=values[:, columns.index("VUV")] > 0, **_shade(axes[1]))
    axes[1].set(ylabel="MCEP_0\n(grey: voiced)", xlim=(0, times[-1]))


def _draw_face(axes: Sequence[Any], values: npt.NDArray[Any], columns: list[str], rate: float | str) -> None:
    times = np.arange(len(values)) / (rate if isinstance(rate, int | float) else 1.0)
    present = values[:, columns.index("face_present")] > 0
    last = max(float(times[-1]), 1e-3)
    for panel, names in ((axes[0], ("AU25_lips_apart", "AU45_blink")), (axes[1], ("yaw", "pitch", "roll"))):
        for name, color in zip(names, (_BLUE, _ORANGE, _GREY), strict=False):
            panel.plot(
                times, np.where(present, values[:, columns.index(name)], np.nan), color=color, label=name, lw=1.0
            )
        panel.fill_between(times, 0, 1, where=~present, **_shade(panel))
        panel.legend(fontsize=7, loc="upper right", ncols=3)
        panel.set(xlim=(0, last))
    axes[0].set_ylabel("face\n(grey: none)")
    axes[1].set_ylabel("degrees")


def _shade(panel: Any) -> dict[str, Any]:
    return {"transform": panel.get_xaxis_transform(), "color": "#dddddd", "zorder": 0, "step": "mid"}


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
