"""The faces of a clip over time: who is who, and who speaks.

A face is looked for where it was; every second, and where none is left, in the whole picture. Only a face that the
mesh model believes in for a few rows in a row counts, since the detector also sees faces in clouds and letters. Of
several faces the one counts whose mouth moves with the sound, else the largest.

Axes: T rows of a clip, d columns of a face (31, or 83 with blendshapes).
"""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.decode import Picture
from conki_cli.data.extraction.face_columns import FACE_COLUMNS, MOUTH, SIZE, face_columns
from conki_cli.data.extraction.landmarks import Face, FaceReader, Region

Row = npt.NDArray[np.float32]  # [d]

_BEGIN, _KEEP = 0.8, 0.4  # presence of a face that is new, and of one that was there
_SURE_ROWS = 5  # a face that is seen for fewer is none, unless the clip is shorter
_MOST_FACES = 4
_SECONDS_BETWEEN_SEARCHES = 1.0
_SECONDS_LOST = 1.0  # after which a face that comes back is somebody new
_SAME = 0.5  # of the side of its region: a face this near is the same
_SMALL_PIXELS = 48.0  # of the width of a face
_SPEAKS = 0.1  # by which the correlation of mouth and sound must be higher
_LEAST_TOGETHER = 10  # rows that two faces are seen together before sound decides


@dataclass
class _Track:
    """One face over time; what was seen of it lies in plain arrays, as a clip may last for hours."""

    region: Region
    last_time: float
    is_here: bool = True
    num_small: int = 0
    is_small: bool = False
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("f"))  # [rows, d], one after the other
    places: "array[float]" = field(default_factory=lambda: array("d"))  # [rows, 4]: centre, side and angle

    def add(self, row: int, values: Row, region: Region, *, is_small: bool) -> None:
        """Note the face in a row."""
        self.is_small = is_small
        self.num_small += is_small
        self.rows.append(row)
        self.values.frombytes(values.astype("=f4").tobytes())
        self.places.extend((region.x, region.y, region.side, region.angle))
        self.region = region

    @property
    def columns(self) -> npt.NDArray[np.float32]:
        """What was seen, [rows, d]."""
        return np.frombuffer(self.values, dtype=np.float32).reshape(len(self.rows), -1)


@dataclass(frozen=True, eq=False)
class FaceRows:
    """What was seen in a clip.

    Attributes:
        columns: of the chosen face, [T, d].
        places: its region in every row, [T, 4]: centre, side and angle; nan where there is none.
        num_faces: how many faces there are.
        num_small: rows in which the chosen face is too small.
    """

    columns: npt.NDArray[np.float32]
    places: npt.NDArray[np.float64]
    num_faces: int
    num_small: int

    @property
    def regions(self) -> Iterator[Region | None]:
        """Where the face was, row by row."""
        for x, y, side, angle in self.places:
            yield None if math.isnan(x) else Region(float(x), float(y), float(side), float(angle))


class FaceTracker:
    """Follows the faces of one clip, row by row."""

    def __init__(self, reader: FaceReader, width: int = len(FACE_COLUMNS)) -> None:
        self._reader, self._width = reader, width
        self._tracks: list[_Track] = []
        self._num_rows = 0
        self._searched = -np.inf
        self._picture: Picture | None = None

    def take(self, time: float, picture: Picture) -> None:
        """Look at the picture of the next row; a picture that stays the same is not looked at again."""
        row, self._num_rows = self._num_rows, self._num_rows + 1
        if picture is self._picture:
            self._repeat(row, time)
            return
        self._picture = picture
        for track in self._here():
            self._add(track, row, time, picture, self._reader.read(picture, track.region), _KEEP)
        if not self._here() or time - self._searched >= _SECONDS_BETWEEN_SEARCHES:
            self._searched = time
            self._search(row, time, picture)

    def _here(self) -> list[_Track]:
        return [track for track in self._tracks if track.is_here]

    def _repeat(self, row: int, time: float) -> None:
        for track in self._here():
            if track.rows and track.rows[-1] == row - 1:
                track.add(row, track.columns[-1].copy(), track.region, is_small=track.is_small)
                track.last_time = time

    def _search(self, row: int, time: float, picture: Picture) -> None:
        for region in self._reader.detect(picture)[:_MOST_FACES]:
            if any(_is_same(track.region, region) for track in self._here()):
                continue
            if len(self._here()) >= _MOST_FACES:
                return
            face = self._reader.read(picture, region)
            lost = (track for track in self._tracks if not track.is_here and time - track.last_time <= _SECONDS_LOST)
            track = next((track for track in lost if _is_same(track.region, region)), None) or _Track(region, time)
            if self._add(track, row, time, picture, face, _BEGIN) and track not in self._tracks:
                self._tracks.append(track)

    def _add(self, track: _Track, row: int, time: float, picture: Picture, face: Face, least: float) -> bool:
        """Note a face in its track, if it is one; say whether it is."""
        track.is_here = face.presence >= least
        if track.is_here:
            columns, is_small = face_columns(face, *picture.shape[:2]), face.width < _SMALL_PIXELS
            track.add(row, columns, face.region, is_small=bool(is_small))
            track.last_time = time
        return track.is_here

    def finished(self, loudness: npt.NDArray[np.float64] | None = None) -> FaceRows:
        """Choose a face for every row.

        Args:
            loudness: of the sound in every row, [T] or longer; None: there is no sound.
        """
        sure = [track for track in self._tracks if len(track.rows) >= min(_SURE_ROWS, self._num_rows)]
        columns = np.zeros((self._num_rows, self._width), dtype=np.float32)
        places = np.full((self._num_rows, 4), np.nan)
        num_small = 0
        for track in reversed(list(_ranked(sure, loudness))):  # the best comes last, over the others
            rows = np.array(track.rows)
            columns[rows], places[rows] = track.columns, np.frombuffer(track.places).reshape(-1, 4)
            num_small = track.num_small
        return FaceRows(columns, places, len(sure), num_small)


def _is_same(one: Region, other: Region) -> bool:
    reach = _SAME * max(min(one.side, other.side), 1.0)
    return abs(one.x - other.x) < reach and abs(one.y - other.y) < reach


def _ranked(tracks: list[_Track], loudness: npt.NDArray[np.float64] | None) -> Iterator[_Track]:
    """Yield the faces, first the one that speaks or, where that cannot be told, the largest."""
    by_size = sorted(tracks, key=lambda track: -float(track.columns[:, SIZE].sum(dtype=np.float64)))
    num_together = len(np.intersect1d(by_size[0].rows, by_size[1].rows)) if len(by_size) > 1 else 0
    if loudness is not None and num_together >= _LEAST_TOGETHER:
        speaks = [_speaking(track, loudness) for track in by_size]
        best = int(np.argmax(speaks))
        if speaks[best] > speaks[0] + _SPEAKS:
            yield by_size.pop(best)
    yield from by_size


def _speaking(track: _Track, loudness: npt.NDArray[np.float64]) -> float:
    """Return how much the movement of a mouth goes with the sound: a correlation; -1 where it cannot be told."""
    rows = np.array(track.rows)
    rows = rows[rows < len(loudness)]
    if len(rows) < _LEAST_TOGETHER:
        return -1.0
    opening = track.columns[: len(rows), MOUTH].astype(np.float64)
    movement = np.abs(np.gradient(opening)) + np.maximum(opening - np.median(opening), 0.0)
    smooth = [np.convolve(values, np.ones(3) / 3, mode="same") for values in (movement, loudness[rows])]
    if min(values.std() for values in smooth) < 1e-9:
        return -1.0
    return float(np.corrcoef(smooth[0], smooth[1])[0, 1])
