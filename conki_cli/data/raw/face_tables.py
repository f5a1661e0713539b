"""Tables of programs that follow faces: OpenFace, py-feat and LibreFace, one row per face and frame.

They are recognised by their columns. Of several faces in a table one is read: the one that is seen in most frames, the
first of equal ones. Every frame from the first to the last one becomes a row, so that time stays aligned: where the
face is not seen, or the frame has no row, the features are 0, and the last column, `success`, is 0 instead of 1.

Axes: R rows of a table, L frames of a clip, d features.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.frame_numbers import MOST_FRAMES, places_of
from conki_cli.data.raw.table_cells import NOT_A_NUMBER, cell_at
from conki_cli.system.errors import SourceError, one_line

MASK = "success"
"""Name of the last column: 1 where a face is seen, 0 where it is not."""

_OPENFACE = frozenset({"frame", "face_id", "face", "timestamp", "confidence", "success"})
_PYFEAT = frozenset({"input", "frame", "approx_time", "framewidth", "frameheight", "identity", "facescore"})
_LIBREFACE = frozenset({"frame_idx", "frame_time_in_ms", "facial_expression", "image_path", "video_path"})
OPENFACE, PYFEAT, LIBREFACE = "OpenFace", "py-feat", "LibreFace"
_MOST_FACES = 4096
_SUCCESS = frozenset({"0", "1", "0.0", "1.0"})  # as floats where pandas wrote the table again


@dataclass(frozen=True)
class FaceColumns:
    """Where a table says which frame and which face a row is about, and whether that face was seen.

    Attributes:
        tool: the program.
        never: its columns that are not features, lowercase.
        frame, face: numbers of the columns; None: there is none.
        success: number of the column that is above 0 where the face was seen; None: it was, unless all is empty.
        chosen: the face that is read, as its column has it, where there are several; None: all rows are of one.
        num_frames: number of frames, L.
        num_missing: frames between the first and the last one that have no row.
        num_seen: frames in which the chosen face was seen.
        num_faces: number of faces in the table.
    """

    tool: str
    never: frozenset[str]
    frame: int | None = None
    face: int | None = None
    success: int | None = None
    chosen: str | None = None
    num_frames: int = 0
    num_missing: int = 0
    num_seen: int = 0
    num_faces: int = 0


def face_columns_of(names: Sequence[str]) -> FaceColumns | None:
    """Recognise the program that wrote a table by its column names, lowercase; None: it is another table."""
    there = set(names)

    def place(name: str) -> int | None:
        return names.index(name) if name in there else None

    if {"confidence", "success"} <= there:
        return FaceColumns(OPENFACE, _OPENFACE, place("frame"), place("face_id"), place("success"))
    if {"facescore", "facerectx"} <= there:
        people = {name for name in names if name.startswith("identity_")}  # numbers that tell people apart
        return FaceColumns(PYFEAT, _PYFEAT | people, place("frame"), place("identity"), place("facescore"))
    if there & {"frame_idx", "facial_expression"} and any(name.startswith(("au_", "lm_mp_")) for name in names):
        return FaceColumns(LIBREFACE, _LIBREFACE, place("frame_idx"))  # its tables of pictures have no numbers
    return None


@dataclass
class FaceCount:
    """Counts the frames and faces of a table, row by row."""

    columns: FaceColumns
    rows: int = 0
    frames: set[str] = field(default_factory=set)
    seen: Counter[str] = field(default_factory=Counter)

    def take(self, line: str, separator: str | None, quote: str) -> None:
        """Count a row.

        Raises:
            SourceError: there are too many; says so without the file's name.
        """
        columns = self.columns
        frame, face, success = (
            None if column is None else cell_at(line, separator, column, quote)
            for column in (columns.frame, columns.face, columns.success)
        )
        self.rows += 1
        if self.rows > MOST_FRAMES:
            raise SourceError(f"has more than {MOST_FRAMES:,} rows of faces", advice="split it into shorter clips")
        name = face or ""
        if name not in self.seen and len(self.seen) >= _MOST_FACES:
            raise SourceError(f"has more than {_MOST_FACES:,} faces", advice="write one face per clip")
        if columns.tool == OPENFACE and success is not None:
            _check_success(success, self.rows)
        self.seen[name] += success is None or _number(success) > 0
        if frame is not None:
            self.frames.add(frame)

    def counted(self) -> FaceColumns:
        """Return the columns with the face that is read, and the counts.

        Raises:
            SourceError: the frame numbers are too far apart; says so without the file's name.
        """
        if not self.rows:
            return self.columns
        chosen, num_seen = max(self.seen.items(), key=lambda pair: pair[1])  # the first of equal ones
        num_frames = places_of(self.frames)[1] if self.columns.frame is not None else self.rows
        return replace(
            self.columns,
            chosen=chosen if self.columns.face is not None and len(self.seen) > 1 else None,
            num_frames=num_frames,
            num_missing=num_frames - len(self.frames) if self.columns.frame is not None else 0,
            num_seen=min(num_seen, num_frames),
            num_faces=max(1, sum(count > 0 for count in self.seen.values())),  # py-feat names nobody where none is
        )


def rows_per_frame(
    values: npt.NDArray[np.float64], marks: Mapping[str, Sequence[Any]], columns: FaceColumns
) -> npt.NDArray[np.float64]:
    """Put the rows of a table at their frames, [L, d + 1], with 0 where the face is not seen.

    Args:
        values: the features of every row, [R, d].
        marks: the cells of the columns `frame`, `face` and `success` of every row, of those that there are.
        columns: where they are, and which face is read.

    Raises:
        SourceError: a frame has two rows of one face; says so without the file's name.
    """
    frames = marks.get("frame", [str(row) for row in range(len(values))])
    places, num_frames = places_of(frames)
    found = np.zeros((num_frames, values.shape[1] + 1))
    is_taken = np.zeros(num_frames, dtype=bool)
    faces, success = marks.get("face"), marks.get("success")
    is_anyone = columns.tool == PYFEAT and (faces is None or not any(faces))  # its first row is the surest
    for row, frame in enumerate(frames):
        place = places[frame]
        if columns.chosen is not None and faces is not None and faces[row] != columns.chosen:
            continue
        if is_taken[place]:
            if is_anyone:
                continue
            raise SourceError(f"has two rows for frame {one_line(str(frame))[:20]}", advice="write one clip per table")
        is_taken[place] = True
        is_seen = _number(success[row]) > 0 if success is not None else bool(np.isfinite(values[row]).any())
        if is_seen:
            found[place, :-1], found[place, -1] = values[row], 1.0
    return found


def _check_success(cell: str, row: int) -> None:
    if cell.lower() not in NOT_A_NUMBER and cell not in _SUCCESS:
        raise SourceError(
            f"must have 0 or 1 in the column success, found {one_line(cell)[:40]!r} in row {row}",
            advice="extract it again",
        )


def _number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return 0.0
    return 0.0 if math.isnan(value) else value
