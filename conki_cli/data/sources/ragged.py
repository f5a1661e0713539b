"""A modality as a list of arrays, one per clip with the clip's length, instead of one padded array.

Axes: N clips, L frames of a clip, d features per frame.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.sources.columns import slices_of
from conki_cli.data.store.arrays import Array, FileArray

PADDING = "none, every clip has its own array"
"""The report's text about the padding of such clips."""


@dataclass(frozen=True, eq=False)
class Clips:
    """The frames of clips with one array each, [L, d], and counts of dropped frames."""

    frames: list[Array]
    counts: Counter[str]

    def __len__(self) -> int:
        return len(self.frames)


def clips_in(value: Any) -> list[Array] | None:
    """Return the frames of every clip, [L, d] each, from a list or an object array of arrays of different shapes.

    None and arrays without values are clips without frames. Arrays of equal shape in a list are one padded array, which
    other readers handle.

    Returns:
        The arrays, which stay in their file; None for any other value.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim == 1:
        items = value.tolist()
    elif isinstance(value, list | tuple):
        items = list(value)
    else:
        return None
    arrays = [item for item in items if item is not None]
    if not arrays or not all(isinstance(item, np.ndarray | FileArray) and _are_frames(item) for item in arrays):
        return None
    if isinstance(value, list | tuple) and len(arrays) == len(items) and len({item.shape for item in arrays}) == 1:
        return None
    return [_empty() if item is None or item.ndim < 2 else item for item in items]


def _are_frames(array: Array) -> bool:
    return array.dtype.kind in "biuf" and (array.ndim == 2 or array.shape == (0,))


def _empty() -> npt.NDArray[np.float32]:
    return np.empty((0, 0), dtype=np.float32)


def cut(clips: Sequence[Array], lengths: npt.NDArray[np.float64] | None) -> tuple[list[Array], Counter[str]]:
    """Truncate clips to the lengths in their file; return them and counts of dropped frames.

    Args:
        clips: frames, [L, d] each.
        lengths: whole numbers from 0, [N]; None: keep all frames.
    """
    counts: Counter[str] = Counter()
    if lengths is None or _counts_columns(clips, lengths):
        return list(clips), counts
    made = []
    for clip, length in zip(clips, lengths.tolist(), strict=True):
        end = int(min(length, len(clip)))
        counts["lengths_clamped"] += length > len(clip)
        if end < len(clip):
            junk = sum(int((block != 0).any(axis=1).sum()) for block in slices_of(_rows(clip, end, len(clip))))
            counts.update(clips_with_junk=junk > 0, junk_frames=junk)
        made.append(_rows(clip, 0, end))
    return made, counts


def _counts_columns(clips: Sequence[Array], lengths: npt.NDArray[np.float64]) -> bool:
    """Say whether the lengths are those of the second axis: then all arrays are [d, L], which is detected later."""
    shapes = np.array([clip.shape for clip in clips])
    return bool((shapes[:, 1] == lengths).all() and (shapes[:, 0] != lengths).any())


def _rows(array: Array, start: int, stop: int) -> Array:
    """Return rows [start:stop] without reading them."""
    if not isinstance(array, FileArray):
        return array[start:stop]
    shape = (stop - start, *array.shape[1:])
    return FileArray(array.file, array.offset + start * array.row_bytes, array.dtype, shape)
