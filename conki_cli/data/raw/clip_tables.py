"""Tables of numbers with the features of one clip, as written by OpenFace, openSMILE, pandas and numpy.savetxt.

One row per frame, separated by `;`, tabs, commas or blanks, with or without column names in the first line. The
separator, the names and the decimal sign are detected per file. Columns that identify the frame instead of describing
it are bookkeeping and left out. A file is scanned line by line first to count rows and columns; its values are read on
demand.

Axes: L frames of a clip, d features per frame.
"""

import codecs
import contextlib
import csv
import math
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from conki_cli.system.errors import SourceError, one_line, reason_of
from conki_cli.system.readable import human_size

MOST_BYTES = 256 * 2**20
"""Limit of the size of a table, and of an array made from it."""
_MOST_COLUMNS = 65_536
_MOST_LETTERS = 4 * 2**20  # of a line
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SEPARATOR_LINE = re.compile(r'"?sep=([;,|:\t])"?', re.IGNORECASE)  # the first line of tables for Excel
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_NOT_A_NUMBER = frozenset({"", "na", "n/a", "#n/a", "null", "none", "nan", "-nan", "1.#ind", "-1.#ind", "1.#qnan"})

_NEVER_FEATURES = frozenset(
    {"", "unnamed: 0", "frame", "frameindex", "frametime", "timestamp", "face_id", "name", "file", "filename"}
)
"""Names of columns that identify the frame, of any program; pandas leaves the name of its row numbers empty."""
_OPENFACE = frozenset({"face", "confidence", "success"})
_OPENSMILE = ("file", "start", "end")  # the first columns of its Python package


@dataclass(frozen=True)
class TableLayout:
    """The layout of a table, and its feature columns.

    Attributes:
        encoding: encoding of the text.
        separator: separator of cells; None: blanks.
        decimal: the decimal sign.
        start: number of lines before the first frame.
        num_columns: number of cells per row.
        kept: indices of the feature columns.
        names: their names; empty if the table has no column names.
        left_out: names of the bookkeeping columns.
        has_unnamed_text: whether a column of text was left out of a table without column names.
        has_times: whether the first kept column starts with 0 and rises, in such a table.
        num_rows: number of frames, L.
        num_faces: number of different faces in OpenFace's output.
        num_unseen: number of frames in which OpenFace found no face.
    """

    encoding: str
    separator: str | None
    decimal: str = "."
    start: int = 0
    num_columns: int = 0
    kept: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    has_unnamed_text: bool = False
    has_times: bool = False
    num_rows: int = 0
    num_faces: int = 0
    num_unseen: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Number of frames L, and of features d."""
        return self.num_rows, len(self.kept)


def look_into_table(path: Path) -> TableLayout:
    """Scan a table of numbers line by line, without keeping values.

    Raises:
        SourceError: it cannot be read, is empty or too large, or its rows are of unequal length.
    """
    encoding = _encoding_of(path)
    with _failures_of(path), path.open(encoding=encoding, errors="replace") as stream:
        head = _Head()
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
    import pandas

    if 0 in layout.shape:
        return np.empty(layout.shape)
    try:
        table = pandas.read_csv(
            path,
            sep=r"\s+" if layout.separator is None else layout.separator,
            header=None,
            skiprows=layout.start,
            usecols=list(layout.kept),
            dtype="float64",
            decimal=layout.decimal,
            na_values=sorted(_NOT_A_NUMBER),
            encoding=layout.encoding,
            encoding_errors="replace",
            skipinitialspace=True,
        )
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # the parser can fail in many ways
        raise SourceError(_wrong_cell(path, layout) or f"{path} cannot be read ({reason_of(error)})") from error
    values: npt.NDArray[np.float64] = table.to_numpy(dtype=np.float64)
    if values.shape != layout.shape:
        raise SourceError(f"{path} was changed: it must not change while it is read; run the command again")
    return values


# ---- the head of a table ----


@dataclass
class _Head:
    """The lines before the frames (comments, `sep=;`, column names) and the first row or two."""

    separator: str | None = None
    is_given: bool = False  # by a line `sep=;`
    comment: str = ""
    before: int = 0  # lines before `first`
    first: str = ""
    second: str = ""
    number: int = 0  # of the line `second`, from 1

    def takes(self, line: str, number: int) -> bool:
        """Add a line; say whether more lines are needed to know the layout."""
        text = line.strip()
        if not self.first:
            if (given := _SEPARATOR_LINE.fullmatch(line.strip("\r\n"))) and not self.is_given:
                self.separator, self.is_given = given[1], True
            elif text.startswith("#"):
                self.comment = text.lstrip("# ")
            elif text:
                self.first = line
                return True
            self.before += 1
            return True
        if not text:
            return True
        self.second, self.number = line, number
        return False

    def layout(self, path: Path, encoding: str) -> TableLayout:
        """Return the layout in these lines, without rows."""
        if not self.first:
            raise SourceError(f"{path} is empty: it must have one row of numbers per frame; extract it again")
        separator = self.separator if self.is_given else _separator_of(self.first)
        first = _checked_cells(path, self.before + 1, self.first, separator)
        row = _checked_cells(path, self.number, self.second, separator) if self.second else first
        decimal = "," if separator != "," and any(_DECIMAL_COMMA.fullmatch(cell) for cell in (*first, *row)) else "."
        titled = _are_names(first, decimal, is_alone=not self.second)
        names = first if titled else _cells_of(self.comment, separator) if self.comment else []
        layout = TableLayout(encoding, separator, decimal, self.before + titled, len(first))
        if titled or (len(names) == len(first) and not any(_is_number(name, decimal) for name in names)):
            return _with_names(path, layout, names)
        text = [i for i, cell in enumerate(row) if not _is_number(cell, decimal)]
        has_text = (
            not titled and text == [0] and len(row) == len(first) > 1
        )  # openSMILE's name of the clip, without a header
        kept = tuple(range(int(has_text), len(first)))
        return replace(layout, kept=kept, has_unnamed_text=has_text)


def _are_names(cells: list[str], decimal: str, *, is_alone: bool) -> bool:
    """Say whether a first line has column names: no cell is a number, or pandas numbered the columns from 0."""
    written = [cell for cell in cells if cell]
    numbers = [cell for cell in written if _is_number(cell, decimal)]
    if not numbers:
        return bool(written)
    counted = [str(number) for number in range(len(numbers))]
    # A row 0, 1 may be a frame; 0, 1, 2, ... at the start of every table is not a measurement.
    return not is_alone and numbers == counted and (len(cells) > len(numbers) or len(numbers) > 2)


def _with_names(path: Path, layout: TableLayout, names: list[str]) -> TableLayout:
    plain = [name.strip().lower() for name in names]
    never = set(_NEVER_FEATURES)
    if {"confidence", "success"} <= set(plain) or plain[:2] == ["face", "confidence"]:
        never |= _OPENFACE
    if tuple(plain[:3]) == _OPENSMILE:
        never |= set(_OPENSMILE)
    kept = tuple(i for i, name in enumerate(plain) if name not in never)
    if not kept:
        raise SourceError(f"{path} must have columns of features, found only {one_line(', '.join(names))[:120]}")
    return replace(
        layout,
        kept=kept,
        names=tuple(one_line(names[i])[:80] for i in kept),
        left_out=tuple(one_line(name)[:80] or "row numbers" for i, name in enumerate(names) if i not in set(kept)),
    )


# ---- the rows of a table ----


@dataclass
class _Rows:
    """Counts over the rows of a table."""

    count: int = 0
    faces: set[str] = field(default_factory=set)
    unseen: int = 0
    time: float = math.nan  # of the last row, in a table that may have times and no column names
    is_rising: bool = True


def _looked_through(path: Path, layout: TableLayout, head: _Head, stream: IO[str]) -> TableLayout:
    """Scan the rows, of which the head may already have two."""
    rows = _Rows()
    marks = {name: _column_called(head, layout, name) for name in ("face_id", "success")}
    if layout.start == head.before:
        _count(path, head.before + 1, head.first, layout, marks, rows)
    if head.second:
        _count(path, head.number, head.second, layout, marks, rows)
    for number, line in _lines_of(path, stream, head.number):
        if line.strip():
            _count(path, number, line, layout, marks, rows)
    if rows.count * layout.num_columns * 8 > MOST_BYTES:
        raise SourceError(
            f"{path} has {rows.count} rows of {layout.num_columns} cells, and the limit is {human_size(MOST_BYTES)} of "
            "numbers: split it into shorter clips"
        )
    return replace(
        layout,
        has_times=layout.has_unnamed_text and rows.is_rising and rows.count > 1,
        num_rows=rows.count,
        num_faces=len(rows.faces),
        num_unseen=rows.unseen,
    )


def _column_called(head: _Head, layout: TableLayout, name: str) -> int | None:
    if not layout.names:
        return None
    line = head.first if layout.start > head.before else head.comment
    names = [cell.lower() for cell in _cells_of(line, layout.separator)]
    return names.index(name) if name in names else None


def _count(path: Path, number: int, line: str, layout: TableLayout, marks: dict[str, int | None], rows: _Rows) -> None:
    if (found := _num_cells(line, layout.separator)) != layout.num_columns:
        raise SourceError(
            f"{path}, line {number} must have {layout.num_columns} cells like the first line, found {found}: "
            "it may be truncated; extract the clip again"
        )
    rows.count += 1
    if (column := marks["face_id"]) is not None and len(rows.faces) < 2:
        rows.faces.add(_cell_at(line, layout.separator, column))
    if (column := marks["success"]) is not None:
        rows.unseen += _cell_at(line, layout.separator, column) in ("0", "0.0")
    if layout.has_unnamed_text and rows.is_rising:
        time = _time_of(_cell_at(line, layout.separator, 1))
        rows.is_rising = time > rows.time if rows.count > 1 else time == 0
        rows.time = time


def _time_of(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _cell_at(line: str, separator: str | None, column: int) -> str:
    return line.split(separator, column + 1)[column].strip()


def _num_cells(line: str, separator: str | None) -> int:
    if separator is None:
        return len(line.split())
    return len(_cells_of(line, separator)) if '"' in line else line.count(separator) + 1


def _separator_of(line: str) -> str | None:
    return next((sign for sign in (";", "\t") if sign in line.strip("\r\n ")), "," if _has_commas(line) else None)


def _has_commas(line: str) -> bool:
    """Say whether commas separate cells; in numbers separated by blanks they are decimal signs."""
    words = line.split()
    return "," in line and not (len(words) > 1 and all(_is_number(word, ",") for word in words))


def _cells_of(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return [cell.strip('"') for cell in line.split()]
    cells = next(csv.reader([line.rstrip("\r\n")], delimiter=separator, skipinitialspace=True), [])
    return [cell.strip() for cell in cells]


def _checked_cells(path: Path, number: int, line: str, separator: str | None) -> list[str]:
    if line.count(separator or " ") >= _MOST_COLUMNS or "\0" in line:
        what = "bytes that are not text" if "\0" in line else f"more than {_MOST_COLUMNS} cells"
        raise SourceError(f"{path}, line {number} has {what}: it must be a table of numbers, one row per frame")
    return _cells_of(line, separator)


def _is_number(cell: str, decimal: str) -> bool:
    if cell.lower() in _NOT_A_NUMBER:
        return True
    try:
        float(cell.replace(",", ".") if decimal == "," else cell)
    except ValueError:
        return False
    return "_" not in cell  # Python allows it between digits


def _wrong_cell(path: Path, layout: TableLayout) -> str | None:
    """Name the first cell that is not a number; None if there is none."""
    with _failures_of(path), path.open(encoding=layout.encoding, errors="replace") as stream:
        for number, line in _lines_of(path, stream):
            if number <= layout.start or not line.strip():
                continue
            cells = _cells_of(line, layout.separator)
            for column in layout.kept:
                cell = cells[column] if column < len(cells) else ""
                if not _is_number(cell, layout.decimal):
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
                f"{path} has {human_size(found.st_size)}, and the limit for a clip is {human_size(MOST_BYTES)}: split "
                "it into shorter clips"
            )
        with path.open("rb") as stream:
            head = stream.read(4)
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def _lines_of(path: Path, stream: IO[str], number: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the lines that follow line `number`, with their numbers."""
    while line := stream.readline(_MOST_LETTERS):
        number += 1
        if len(line) == _MOST_LETTERS:
            raise SourceError(
                f"{path}, line {number} is longer than any row of features: check that it is a table of numbers"
            )
        yield number, line


@contextlib.contextmanager
def _failures_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeError, csv.Error) as error:
        raise SourceError(f"{path} is not a table of text ({reason_of(error)}): extract the clip again") from error


def without_times(layouts: Sequence[TableLayout]) -> list[TableLayout]:
    """Leave out the times of tables without column names, if their first column rises from 0 in every table."""
    long = [layout for layout in layouts if layout.has_unnamed_text and layout.num_rows > 1]
    if not long or not all(layout.has_times for layout in long):
        return list(layouts)
    return [
        replace(layout, kept=layout.kept[1:], has_times=True) if layout.has_unnamed_text else layout
        for layout in layouts
    ]


def said_of_tables(layouts: Sequence[TableLayout], what: str) -> tuple[list[str], list[str]]:
    """Return warnings and remarks about the tables of a folder.

    Args:
        layouts: the layouts of all clips.
        what: the folder's name in messages.
    """
    warnings, remarks = [], []
    left_out = Counter(name for layout in layouts for name in layout.left_out)
    if left_out:
        remarks.append(
            f"columns left out of the tables in {what}, because they are not features: {', '.join(list(left_out)[:20])}"
        )
    if any(layout.names and all(name.isdigit() for name in layout.names) for layout in layouts):
        remarks.append(f"a first line 0, 1, 2, ... was read as the numbers of the columns in {what}")
    if any(layout.decimal == "," for layout in layouts):
        remarks.append(f"a comma was read as the decimal sign in {what}")
    if unseen := sum(layout.num_unseen for layout in layouts):
        remarks.append(
            f"in {unseen:,} of {sum(layout.num_rows for layout in layouts):,} frames in {what} OpenFace found no face "
            "(success 0); they were kept"
        )
    if several := sum(layout.num_faces > 1 for layout in layouts):
        warnings.append(
            f"{several} tables in {what} have rows of more than one face (face_id): all rows were kept as frames; "
            "write one face per clip"
        )
    unnamed = [layout for layout in layouts if layout.has_unnamed_text]
    if unnamed:
        has_times = 2 + len(unnamed[0].kept) == unnamed[0].num_columns
        rest = (
            "and the second, which rises from 0 in every clip as times do, were left out"
            if has_times
            else "was left out; if the next one is a time it counts as a feature"
        )
        warnings.append(
            f"{len(unnamed)} tables in {what} have no column names: the first column, a text, {rest}; write them with "
            "column names"
        )
    return warnings, remarks
