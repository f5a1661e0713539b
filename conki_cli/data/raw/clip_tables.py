"""Tables of numbers with the features of one clip, as written by OpenFace, openSMILE, Praat, pandas and numpy.savetxt.

One row per frame, separated by `;`, tabs, commas or blanks, with or without column names in the first line. The
separator, the names and the decimal sign are detected per file; ARFF files declare their columns. Columns that identify
the frame instead of describing it are bookkeeping and left out. A file is scanned line by line first to count rows and
columns; its values are read on demand.

Axes: L frames of a clip, d features per frame.
"""

import contextlib
import csv
import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.face_tables import FaceColumns, FaceCount, rows_per_frame
from conki_cli.data.raw.file import encoding_by_mark
from conki_cli.data.raw.table_cells import NOT_A_NUMBER, cell_at, cells_of, is_blank, is_number, num_cells
from conki_cli.data.raw.table_heads import TableHead, TableLayout
from conki_cli.system.errors import SourceError, one_line, reason_of
from conki_cli.system.readable import human_size

MOST_BYTES = 256 * 2**20
"""Limit of the size of a table, and of an array made from it."""
_MOST_LETTERS = 4 * 2**20  # of a line


def look_into_table(path: Path) -> TableLayout:
    """Scan a table of numbers line by line, without keeping values.

    Raises:
        SourceError: it cannot be read, is empty or too large, or its rows are of unequal length.
    """
    encoding = _encoding_of(path)
    with _failures_of(path), path.open(encoding=encoding, errors="replace") as stream:
        head = TableHead()
        for number, line in _lines_of(path, stream):
            if not head.takes(line, number):
                break
        layout = head.layout(path, encoding)
        return _looked_through(path, layout, head, stream)


def read_table(path: Path, layout: TableLayout) -> npt.NDArray[np.float64]:
    """Read the features of a table, [L, d]; empty cells are NaN.

    Raises:
        SourceError: a cell is not a number, or the file has changed since it was scanned.
    """
    if 0 in layout.shape:
        return np.empty(layout.shape)
    marks = _marks_of(layout.faces)
    table = _cells_in(path, layout, marks)
    values: npt.NDArray[np.float64] = table[list(layout.kept)].to_numpy(dtype=np.float64)
    if len(values) != layout.num_rows:
        raise _changed(path)
    if layout.faces is None:
        return values
    cells = {name: [cell.strip() for cell in table[column]] for name, column in marks.items()}
    try:
        values = rows_per_frame(values, cells, layout.faces)
    except SourceError as error:
        raise SourceError(f"{path} {error}") from error
    if values.shape != layout.shape:
        raise _changed(path)
    return values


def _marks_of(faces: FaceColumns | None) -> dict[str, int]:
    """Return the columns that say which frame and whose face a row is about."""
    columns = {name: getattr(faces, name, None) for name in ("frame", "face", "success")}
    return {name: column for name, column in columns.items() if column is not None}


def _cells_in(path: Path, layout: TableLayout, marks: dict[str, int]) -> Any:
    """Read the columns of a table by their numbers: features as numbers, marks as text."""
    import pandas

    text = set(marks.values())
    missing: Any = dict.fromkeys(layout.kept, _written(NOT_A_NUMBER))
    try:
        return pandas.read_csv(
            path,
            sep=r"\s+" if layout.separator is None else layout.separator,
            header=None,
            skiprows=layout.start,
            usecols=sorted({*layout.kept, *text}),
            dtype={**dict.fromkeys(layout.kept, "float64"), **dict.fromkeys(text, "str")},
            decimal=layout.decimal,
            quotechar=layout.quote,
            keep_default_na=False,
            na_values=missing,
            encoding=layout.encoding,
            encoding_errors="replace",
            skipinitialspace=True,
        )
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # the parser can fail in many ways
        raise SourceError(_wrong_cell(path, layout) or f"{path} cannot be read ({reason_of(error)})") from error


def _written(values: frozenset[str]) -> list[str]:
    """Return cells without a value as they may be written; in lowercase, capitals, and as names."""
    return sorted({form for value in values for form in (value, value.upper(), value.capitalize())} | {"NaN", "-NaN"})


def _changed(path: Path) -> SourceError:
    return SourceError(f"{path} was changed: it must not change while it is read; run the command again")


# ---- the rows of a table ----


@dataclass
class _Rows:
    """Counts over the rows of a table."""

    count: int = 0
    faces: FaceCount | None = None
    ends_open: bool = False
    time: float = math.nan  # of the last row, in a table that may have times and no column names
    is_rising: bool = True


def _looked_through(path: Path, layout: TableLayout, head: TableHead, stream: IO[str]) -> TableLayout:
    """Scan the rows, of which the head may already have two."""
    rows = _Rows(faces=None if layout.faces is None else FaceCount(layout.faces))
    if head.first and layout.start == head.before:
        _count(path, head.before + 1, head.first, layout, rows)
    if head.second:
        _count(path, head.number, head.second, layout, rows)
    for number, line in _lines_of(path, stream, head.number):
        if not is_blank(line, layout.separator):
            _count(path, number, line, layout, rows)
    if rows.count * layout.num_columns * 8 > MOST_BYTES:
        raise SourceError(
            f"{path} has {rows.count} rows of {layout.num_columns} cells, and the limit is "
            f"{human_size(MOST_BYTES)} of numbers",
            advice="split it into shorter clips",
        )
    return replace(
        layout,
        has_times=layout.has_unnamed_text and rows.is_rising and rows.count > 1,
        num_rows=rows.count,
        faces=None if rows.faces is None else _counted(path, rows.faces, layout),
        ends_open=rows.ends_open,
    )


def _counted(path: Path, faces: FaceCount, layout: TableLayout) -> FaceColumns:
    try:
        found = faces.counted()
    except SourceError as error:
        raise SourceError(f"{path} {error}") from error
    if found.num_frames * (len(layout.kept) + 1) * 8 > MOST_BYTES:
        raise SourceError(
            f"{path} has {found.num_frames} frames of {len(layout.kept)} features, and the limit is "
            f"{human_size(MOST_BYTES)} of numbers",
            advice="split it into shorter clips",
        )
    return found


def _count(path: Path, number: int, line: str, layout: TableLayout, rows: _Rows) -> None:
    if layout.quote == "'" and line.lstrip().startswith("{"):  # an ARFF file's
        raise SourceError(
            f"{path}, line {number} is a row of a sparse ARFF file, {{...}}, which is not read",
            advice="save it with all its values, in Weka with the filter SparseToNonSparse",
        )
    if (found := num_cells(line, layout.separator, layout.quote)) != layout.num_columns:
        raise SourceError(
            f"{path}, line {number} must have {layout.num_columns} cells like the first line, found {found}: "
            "it may be truncated; extract the clip again"
        )
    rows.count += 1
    rows.ends_open = not line.endswith("\n")
    if rows.faces is not None:
        try:
            rows.faces.take(line, layout.separator, layout.quote)
        except SourceError as error:
            raise SourceError(f"{path} {error}") from error
    if layout.has_unnamed_text and rows.is_rising:
        time = _time_of(cell_at(line, layout.separator, 1, layout.quote))
        rows.is_rising = time > rows.time if rows.count > 1 else time == 0
        rows.time = time


def _time_of(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _wrong_cell(path: Path, layout: TableLayout) -> str | None:
    """Name the first cell that is not a number; None if there is none."""
    with _failures_of(path), path.open(encoding=layout.encoding, errors="replace") as stream:
        for number, line in _lines_of(path, stream):
            if number <= layout.start or is_blank(line, layout.separator):
                continue
            cells = cells_of(line, layout.separator, layout.quote)
            for column in layout.kept:
                cell = cells[column] if column < len(cells) else ""
                if not is_number(cell, layout.decimal):
                    return (
                        f"{path}, line {number}, column {column + 1} must be a number, found {one_line(cell)[:40]!r}: "
                        "extract the clip again"
                    )
    return None


# ---- the file ----


def _encoding_of(path: Path) -> str:
    with _failures_of(path):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe could block forever
            raise SourceError(f"{path} must be a file")
        if found.st_size > MOST_BYTES:
            raise SourceError(
                f"{path} has {human_size(found.st_size)}, and the limit for a clip is {human_size(MOST_BYTES)}",
                advice="split it into shorter clips",
            )
        with path.open("rb") as stream:
            head = stream.read(4)
    return encoding_by_mark(head) or "utf-8"


def _lines_of(path: Path, stream: IO[str], number: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the lines that follow line `number`, with their numbers."""
    while line := stream.readline(_MOST_LETTERS):
        number += 1
        if len(line) == _MOST_LETTERS:
            raise SourceError(
                f"{path}, line {number} is longer than any row of features",
                advice="check that it is a table of numbers",
            )
        yield number, line


@contextlib.contextmanager
def _failures_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeError, csv.Error) as error:
        raise SourceError(
            f"{path} is not a table of text ({reason_of(error)})", advice="extract the clip again"
        ) from error
