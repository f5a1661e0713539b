"""A few pictures of a clip with the mesh of the face in them, so that a person can see whether it fits."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.cache import Clip, Extracted
from conki_cli.data.extraction.clip import SHOWN, VISION
from conki_cli.data.extraction.pool import Task, run_tasks
from conki_cli.data.extraction.recipe import NONE, Recipe

_NUM_SHOWN = 4
_MOST_ROWS = 600  # from the start of a clip, among which they are chosen: a minute at 10 rows a second


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures [n, H, W, 3], and the points of the face in each, [n, 468, 2]; nan where there is none."""

    rows: tuple[int, ...]
    pictures: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float64]


def pictures_shown(extracted: Extracted, clip: Clip, recipe: Recipe) -> Shown | None:
    """Return a few pictures of a clip, decoded in a process of its own; None: it has none, or they cannot be had."""
    path = extracted.folder / VISION
    if recipe.vision == NONE or not extracted.result.get("vision_frames") or not path.is_file():
        return None
    present = np.load(path, mmap_mode="r")[:_MOST_ROWS, -1] > 0
    among = np.flatnonzero(present) if present.any() else np.arange(len(present))
    places = np.linspace(0, len(among) - 1, min(_NUM_SHOWN, len(among))).round().astype(int)
    rows = tuple(int(row) for row in among[places])
    stop = None if math.isinf(clip.span.stop) else clip.span.stop
    with tempfile.TemporaryDirectory(prefix="conki-") as folder:
        task = Task(clip.id, clip.path.absolute(), clip.span.start, stop, Path(folder), rows)
        (ended,) = run_tasks(recipe, [task], 1)
        if ended.result is None:
            return None
        with np.load(Path(folder) / SHOWN) as archive:
            shown = Shown(rows, archive["pictures"], archive["points"])
    return shown if len(shown.pictures) else None
