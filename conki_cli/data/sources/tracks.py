"""Tracks: one computational sequence of the CMU SDK, with rows in time for every video; cut into clips.

A row belongs to the clip, or word, whose interval [start, stop) contains the middle of the row's interval.

Axes: n rows of a video, L frames of a clip, d features per frame.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.hdf5 import (
    H5Frames,
    address_of,
    damage_in,
    dataset_in,
    group_in,
    has,
    open_hdf5,
    path_of,
    place_of,
    refuse_large,
    rows_of,
    texts_of,
)
from conki_cli.data.store.records import Frames, counted
from conki_cli.system.errors import SourceError, one_line

PAUSE = "sp"
"""The CMU SDK's word for a pause."""
_NAMES = {
    "audio": re.compile(r"covarep|opensmile|acoustic|audio", re.IGNORECASE),
    "vision": re.compile(r"facet|openface|visual|vision", re.IGNORECASE),
}
_LABEL_NAME = re.compile(r"opinion|label|sentiment", re.IGNORECASE)
_LABEL_WIDTHS = (1, 7)  # sentiment alone, or sentiment and six emotions
_PHONES = re.compile(r"phon", re.IGNORECASE)
_LOOKED_AT = 20
"""Number of videos that are examined to find one with data, which shows the kind of the track."""

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Track:
    """One computational sequence.

    Attributes:
        path: its file.
        name: its name in the file.
        kind: "words", "labels", "audio", "vision", "numbers" for other numbers, or "" for anything else.
        videos: the group with one group per video.
        file: the open file, shared by everything that is read from the track.
        counts: rows, rows without a usable interval, and videos without data found so far.
        addresses: places in the file that were read, to refuse a second name for the same data.
    """

    path: Path
    name: str
    kind: str
    videos: Any  # h5py.Group
    file: Any  # h5py.File
    counts: Counter[str] = field(default_factory=Counter)
    addresses: set[int] = field(default_factory=set)

    @property
    def label(self) -> str:
        """Name the track and its file for a remark."""
        return f"{one_line(self.name)[:60]} ({one_line(self.path.name)[:80]})"

    @property
    def keys(self) -> list[str]:
        """Names of the videos, or of the clips in files that are already cut."""
        with damage_in(self.path):
            return list(self.videos)

    def has(self, key: str) -> bool:
        """Say whether the track has a video, or a clip in files that are already cut."""
        return has(self.videos, key)


@dataclass(frozen=True, eq=False)
class Video:
    """The rows of one video of a track, in the order of time.

    Attributes:
        track: the track of the rows.
        features: the data set in the file's order, [n, d], or [n] and [n, 1] for words.
        intervals: start and stop of every row in seconds, [n, 2]; invalid ones are nan, and last; None if the file has
            no intervals.
        order: the rows of the file in the order of time, [n]; None if they are already in that order.
    """

    track: Track
    features: Any  # h5py.Dataset
    intervals: Numbers | None = None
    order: Indices | None = None

    @property
    def everything(self) -> slice:
        """All rows."""
        return slice(0, len(self.features))

    @cached_property
    def _middles(self) -> Numbers:
        middles: Numbers = self.times.mean(axis=1)
        return middles

    @property
    def times(self) -> Numbers:
        """Start and stop of every row in seconds, [n, 2].

        Raises:
            SourceError: the file has no intervals.
        """
        if self.intervals is None:
            raise SourceError(f"{place_of(self.features)} needs intervals beside it to be cut by time, found none")
        return self.intervals

    def between(self, start: float, stop: float) -> slice:
        """Return the rows whose middle is in [start, stop)."""
        first, last = np.searchsorted(self._middles, [start, stop]).tolist()
        return slice(first, max(first, last))


# ---- opening ----


def tracks_of(file: Any, *, nested: bool) -> Iterator[Track]:
    """Yield the tracks of an open HDF5 file.

    Args:
        file: the `h5py.File`.
        nested: whether the videos of a track are in a group `data`, as in .csd files, or directly in the track.

    Raises:
        SourceError: there are no tracks, or the file is hostile or damaged.
    """
    path = path_of(file)
    with damage_in(path):
        names = list(file)
    if not names:
        raise SourceError(f"{path} holds nothing", advice="get the complete file again")
    for name in names:
        root = group_in(file, name)
        videos = group_in(root, "data") if nested else root
        yield Track(path, name, _kind_of(path, name, videos), videos, file)


def is_track(file: Any, *, nested: bool) -> bool:
    """Say whether an HDF5 file's first group looks like a track; may raise on strange content; see `tracks_of`."""
    root = group_in(file, next(iter(file)))
    if nested:
        return has(root, "data") and (has(root, "metadata") or _has_features(group_in(root, "data")))
    return _has_features(root)


def _has_features(videos: Any) -> bool:
    return has(group_in(videos, next(iter(videos))), "features")


def open_tracks(path: Path) -> list[Track]:
    """Open a .csd file.

    Raises:
        SourceError: it is not a computational sequence, or is hostile or damaged.
    """
    return list(tracks_of(open_hdf5(path), nested=True))


def _kind_of(path: Path, name: str, videos: Any) -> str:
    """Return the kind of a track, from the type and width of its features and its name or its file's name."""
    features = _first_features(videos)
    if features is None:
        return ""
    if features.dtype.kind in "SO":
        return "" if _PHONES.search(name) else "words"
    width = math.prod(features.shape[1:])
    for said in (name, path.stem):
        if _LABEL_NAME.search(said) and width in _LABEL_WIDTHS:
            return "labels"
        for kind, pattern in _NAMES.items():
            if pattern.search(said) and features.ndim == 2:
                return kind
    return "numbers" if features.ndim == 2 else ""


def _first_features(videos: Any) -> Any:
    """Return the features of the first video that has some."""
    place = place_of(videos)
    with damage_in(path_of(videos)):
        names = [name for _, name in zip(range(_LOOKED_AT), videos, strict=False)]
    if not names:
        raise SourceError(f"{place} holds no videos", advice="get the complete file again")
    for name in names:
        features = dataset_in(group_in(videos, name), "features", texts=True)
        if features.size:
            return features
    return None


def video_in(track: Track, key: str) -> Video | None:
    """Open a video of a track; None if it is missing or has no rows.

    Raises:
        SourceError: features and intervals contradict each other, or the file is hostile or damaged.
    """
    if not has(track.videos, key):
        return None
    group = group_in(track.videos, key)
    is_text = track.kind == "words"
    features = dataset_in(group, "features", texts=is_text, in_memory=is_text or track.kind == "labels")
    _read_once(track, features)
    if not features.size:
        track.counts["videos without data"] += 1
        return None
    if not is_text and track.kind != "labels" and features.ndim != 2:
        raise SourceError(f"{place_of(features)} must be numbers [rows, features], found the shape {features.shape}")
    if not has(group, "intervals"):
        return Video(track, features)
    intervals = _intervals_of(track, group, len(features))
    order = np.argsort(intervals.mean(axis=1), kind="stable")  # nan comes last
    if (order == np.arange(len(order))).all():
        return Video(track, features, intervals)
    return Video(track, features, intervals[order], order)


def _read_once(track: Track, features: Any) -> None:
    address = address_of(features)
    if address in track.addresses:
        raise SourceError(
            f"{place_of(features)} is the data set of another video under a second name, which is refused"
        )
    track.addresses.add(address)


def _intervals_of(track: Track, group: Any, count: int) -> Numbers:
    """Read intervals, [n, 2]; invalid ones become nan and are counted."""
    dataset = dataset_in(group, "intervals", in_memory=True)
    if dataset.shape != (count, 2):
        raise SourceError(
            f"{place_of(dataset)} must have the shape ({count}, 2) for {count} rows of features; found {dataset.shape}",
            advice="get the file again",
        )
    with damage_in(track.path):
        intervals: Numbers = dataset[()].astype(np.float64)
    usable = np.isfinite(intervals).all(axis=1) & (intervals[:, 0] <= intervals[:, 1])
    intervals[~usable] = np.nan
    track.counts["rows"] += count
    track.counts["rows without a usable interval"] += count - int(usable.sum())
    return intervals


def notes_of(track: Track) -> list[str]:
    """Return warnings about a track.

    Raises:
        SourceError: no row has a usable interval.
    """
    bad, rows = track.counts["rows without a usable interval"], track.counts["rows"]
    if bad and bad == rows:
        raise SourceError(
            f"{track.path}: none of the {rows} intervals of {one_line(track.name)[:60]} is a start and a later "
            "stop in seconds",
            advice="get the file again",
        )
    ignored = f"{bad:,} of {counted(rows, 'row')} ignored"
    notes = [f"{track.label}: {ignored}, without a usable interval"] if bad else []
    empty = track.counts["videos without data"]
    return [*notes, f"{track.label}: {counted(empty, 'video')} without data"] if empty else notes


# ---- cutting ----


def words_of(video: Video) -> list[str]:
    """Read the words of a video in the order of time, [n]; pauses are empty.

    Raises:
        SourceError: they are not texts.
    """
    words = [word.replace("\0", "").strip() for word in texts_of(video.features)]
    words = words if video.order is None else [words[row] for row in video.order]
    return ["" if word == PAUSE else word for word in words]


def frames_in(video: Video, rows: slice) -> Frames | None:
    """Return frames of a video, [L, d], without reading them; None if there are none."""
    start, stop, _ = rows.indices(len(video.features))
    if start >= stop:
        return None
    if video.order is None:
        return rows_of(video.track.file, video.features, start, stop)
    picked = video.order[start:stop]
    first = int(picked.min())
    frames = rows_of(video.track.file, video.features, first, int(picked.max()) + 1)
    return PickedFrames(frames, picked - first)


def frames_by_word(video: Video, intervals: Numbers) -> Frames | None:
    """Return one frame per word, [L, d]: the mean of the frames whose middle is in the word's interval.

    Args:
        video: audio or vision.
        intervals: start and stop of every word of the clip in seconds, [L, 2].
    """
    if not len(intervals):
        return None
    parts = [video.between(start, stop) for start, stop in intervals.tolist()]
    bounds = np.array([(part.start, part.stop) for part in parts if part.start < part.stop] or [(0, 0)])
    first = int(bounds.min())
    shape = (len(parts), int(video.features.shape[1]))
    refuse_large(place_of(video.features), 8 * math.prod(shape))
    relative = np.array([(part.start, part.stop) for part in parts]) - first
    return WordFrames(frames_in(video, slice(first, int(bounds.max()))), shape, relative)


@dataclass(frozen=True, eq=False)
class PickedFrames:
    """Frames that are not contiguous in the file, [L, d], read on demand."""

    frames: H5Frames
    rows: Indices

    @property
    def shape(self) -> tuple[int, int]:
        """Number of frames L, and of features d."""
        return (len(self.rows), self.frames.shape[1])

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(np.asarray(self.frames)[self.rows], dtype=dtype)


@dataclass(frozen=True, eq=False)
class WordFrames:
    """One frame per word of a clip, [L, d], averaged on demand.

    Numbers that are not finite are left out of the mean; if none remain it is 0. Word k has the frames
    `bounds[k, 0]:bounds[k, 1]`.
    """

    frames: Frames | None
    shape: tuple[int, int]
    bounds: Indices  # [L, 2]

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> npt.NDArray[Any]:
        made = np.zeros(self.shape, dtype=np.float64)
        frames = np.empty((0, self.shape[1])) if self.frames is None else np.asarray(self.frames)
        for word, (start, stop) in enumerate(self.bounds.tolist()):
            block = frames[max(0, start) : max(0, stop)].astype(np.float64)
            finite = np.isfinite(block)
            made[word] = np.where(finite, block, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
        return np.asarray(made, dtype=dtype)


def label_rows(track: Track, key: str) -> Numbers:
    """Read the labels of a video in the file's order, [n, 3]: start, stop, score; nan for an invalid interval.

    Raises:
        SourceError: see `video_in`.
    """
    video = video_in(track, key)
    if video is None:
        return np.empty((0, 3))
    with damage_in(track.path):
        scores = video.features[()].reshape(len(video.features), -1)[:, 0].astype(np.float64)
    times = np.full((len(scores), 2), np.nan)
    if video.intervals is not None:
        times[slice(None) if video.order is None else video.order] = video.intervals
    return np.column_stack([times, scores])
