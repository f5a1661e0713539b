"""The lines of a table before its rows: column names, comments, the header of an ARFF file; and what follows from them.

Axes: L frames of a clip, d features per frame.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conki_cli.data.raw.face_tables import MASK, FaceColumns, face_columns_of
from conki_cli.data.raw.table_cells import (
    DECIMAL_COMMA,
    SEPARATOR_LINE,
    cells_of,
    is_blank,
    is_number,
    separator_of,
)
from conki_cli.system.errors import SourceError, one_line

_MOST_COLUMNS = 65_536
_NEVER_FEATURES = frozenset(
    {
        *("", "unnamed: 0", "frame", "frameindex", "frametime", "timestamp", "face_id", "name", "file", "filename"),
        *("time", "time_s", "time(s)", "time (s)", "tmin", "tmax", "tmid", "rowlabel"),
    }
)
"""Names of columns that identify the frame, of any program; pandas leaves the name of its row numbers empty, and the
last ones are Praat's."""
_OPENSMILE = ("file", "start", "end")  # the first columns of its Python package
_ARFF = re.compile(r"@(relation|attribute|data)\b\s*", re.IGNORECASE)
_ARFF_NAME = re.compile(r"'([^']*)'\s*|\"([^\"]*)\"\s*|(\S+)\s*")
_ARFF_NUMBERS = frozenset({"numeric", "real", "integer"})
_PRAAT_OBJECT = re.compile(r'(File type\s*=\s*)?"?ooTextFile|Object class\s*=', re.IGNORECASE)
_WIDE_BLANKS = re.compile(r"\s{2,}|\t")


@dataclass(frozen=True)
class TableLayout:
    """The layout of a table, and its feature columns.

    Attributes:
        encoding: encoding of the text.
        separator: separator of cells; None: blanks.
        decimal: the decimal sign.
        quote: the sign around cells that hold separators.
        start: number of lines before the first frame.
        num_columns: number of cells per row.
        kept: indices of the feature columns.
        names: their names; empty if the table has no column names.
        left_out: names of the bookkeeping columns.
        has_unnamed_text: whether a column of text was left out of a table without column names.
        has_times: whether the first kept column starts with 0 and rises, in such a table.
        num_rows: number of rows.
        faces: whose face a row is about, in the tables of programs that follow faces.
        doubled: names that several feature columns have.
        ends_open: whether the last row has no line break, as in a file that was truncated inside a number.
    """

    encoding: str
    separator: str | None
    decimal: str = "."
    quote: str = '"'
    start: int = 0
    num_columns: int = 0
    kept: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    has_unnamed_text: bool = False
    has_times: bool = False
    num_rows: int = 0
    faces: FaceColumns | None = None
    doubled: tuple[str, ...] = ()
    ends_open: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Number of frames L, and of features d."""
        if self.faces is not None:
            return self.faces.num_frames, len(self.kept) + 1
        return self.num_rows, len(self.kept)


@dataclass
class TableHead:
    """The lines before the frames (comments, `sep=;`, column names) and the first row or two."""

    separator: str | None = None
    is_given: bool = False  # by a line `sep=;`
    comment: str = ""
    before: int = 0  # lines before `first`
    first: str = ""
    second: str = ""
    number: int = 0  # of the line `second`, from 1
    attributes: list[tuple[str, str]] | None = None  # name and type of every column of an ARFF file
    has_data: bool = False  # of an ARFF file: the line @data was seen

    def takes(self, line: str, number: int) -> bool:
        """Add a line; say whether more lines are needed to know the layout."""
        text = line.strip()
        if not self.first:
            if self.attributes is not None or _ARFF.match(text):
                return self._takes_arff(text, number)
            if (given := SEPARATOR_LINE.fullmatch(line.strip("\r\n"))) and not self.is_given:
                self.separator, self.is_given = given[1], True
            elif text.startswith(("#", "%")):
                self.comment = text.lstrip("#% ")
            elif text:
                self.first = line
                return True
            self.before += 1
            return True
        if is_blank(line, self.separator if self.is_given else separator_of(self.first)):
            return True
        self.second, self.number = line, number
        return False

    def _takes_arff(self, text: str, number: int) -> bool:
        """Add a line of an ARFF file's header."""
        self.attributes = self.attributes if self.attributes is not None else []
        self.before, self.number = number, number
        found = _ARFF.match(text)
        if found is None:
            return True
        word, rest = found[1].lower(), text[found.end() :]
        if word == "attribute" and (name := _ARFF_NAME.match(rest)):
            if len(self.attributes) >= _MOST_COLUMNS:
                raise SourceError(f"declares more than {_MOST_COLUMNS} columns", advice="extract the clip again")
            self.attributes.append((name[1] or name[2] or name[3] or "", rest[name.end() :].strip().lower()))
        self.has_data = word == "data"
        return not self.has_data

    def layout(self, path: Path, encoding: str) -> TableLayout:
        """Return the layout in these lines, without rows."""
        if self.attributes is not None:
            return self._arff_layout(path, encoding)
        if not self.first:
            raise SourceError(f"{path} is empty: it must have one row of numbers per frame; extract it again")
        if _PRAAT_OBJECT.match(self.first.strip()):
            raise SourceError(
                f"{path} is a Praat object: it must be a table; save it as a tab-separated file, or write its listing"
            )
        separator = self.separator if self.is_given else separator_of(self.first)
        first = checked_cells(path, self.before + 1, self.first, separator)
        row = checked_cells(path, self.number, self.second, separator) if self.second else first
        if separator is None and len(first) > len(row):  # Praat's listings: Time (s)   Intensity (dB)
            wide = [cell for cell in _WIDE_BLANKS.split(self.first.strip()) if cell]
            first = wide if len(wide) == len(row) else first
        decimal = "," if separator != "," and any(DECIMAL_COMMA.fullmatch(cell) for cell in (*first, *row)) else "."
        titled = _are_names(first, decimal, is_alone=not self.second)
        names = first if titled else cells_of(self.comment, separator) if self.comment else []
        layout = TableLayout(encoding, separator, decimal, start=self.before + titled, num_columns=len(first))
        if titled or (len(names) == len(first) and not any(is_number(name, decimal) for name in names)):
            return _with_names(path, layout, names)
        text = [i for i, cell in enumerate(row) if not is_number(cell, decimal)]
        has_text = (
            not titled and text == [0] and len(row) == len(first) > 1
        )  # openSMILE's name of the clip, without a header
        kept = tuple(range(int(has_text), len(first)))
        return replace(layout, kept=kept, has_unnamed_text=has_text)

    def _arff_layout(self, path: Path, encoding: str) -> TableLayout:
        attributes = self.attributes or []
        if not self.has_data or not attributes:
            lacking = "@attribute" if not attributes else "@data"
            raise SourceError(f"{path} must have a line {lacking}, found none: it may be truncated; extract it again")
        layout = TableLayout(encoding, ",", quote="'", start=self.before, num_columns=len(attributes))
        last = len(attributes) - 1
        other = {
            number
            for number, (name, kind) in enumerate(attributes)
            if kind.split(" ")[0] not in _ARFF_NUMBERS or (number == last and name.lower() in ("class", "emotion"))
        }
        return _with_names(path, layout, [name for name, _ in attributes], other)


def _are_names(cells: list[str], decimal: str, *, is_alone: bool) -> bool:
    """Say whether a first line has column names: no cell is a number, or pandas numbered the columns from 0."""
    written = [cell for cell in cells if cell]
    numbers = [cell for cell in written if is_number(cell, decimal)]
    if not numbers:
        return bool(written)
    counted = [str(number) for number in range(len(numbers))]
    # A row 0, 1 may be a frame; 0, 1, 2, ... at the start of every table is not a measurement.
    return not is_alone and numbers == counted and (len(cells) > len(numbers) or len(numbers) > 2)


def _with_names(
    path: Path, layout: TableLayout, names: Sequence[str], other: frozenset[int] | set[int] = frozenset()
) -> TableLayout:
    """Return a layout with the names of its features.

    Args:
        path: of the table, for messages.
        layout: without names.
        names: of all columns.
        other: columns that are known not to be numbers.
    """
    plain = [name.strip().lower() for name in names]
    faces = face_columns_of(plain)
    never = _NEVER_FEATURES | (faces.never if faces is not None else frozenset())
    if plain[:2] == ["face", "confidence"]:  # OpenFace's tables of single pictures
        never |= {"face", "confidence"}
    if tuple(plain[:3]) == _OPENSMILE:
        never |= set(_OPENSMILE)
    kept = tuple(i for i, name in enumerate(plain) if name not in never and i not in other)
    if not kept:
        raise SourceError(f"{path} must have columns of features, found only {one_line(', '.join(names))[:120]}")
    doubled = _doubled(path, names, kept, faces)
    added = (MASK,) if faces is not None else ()
    return replace(
        layout,
        kept=kept,
        names=(*(one_line(names[i])[:80] for i in kept), *added),
        left_out=tuple(
            one_line(name)[:80] or "row numbers"
            for i, name in enumerate(names)
            if i not in set(kept) and name not in added
        ),
        faces=faces,
        doubled=doubled,
    )


def _doubled(path: Path, names: Sequence[str], kept: Sequence[int], faces: FaceColumns | None) -> tuple[str, ...]:
    """Return the names of feature columns that are there twice; no program that follows faces writes a name twice.

    OpenFace has both x_0 and X_0, so capitals count.
    """
    of_columns = Counter(one_line(names[i].strip())[:80] for i in (kept if faces is None else range(len(names))))
    doubled = tuple(name for name, count in of_columns.items() if count > 1 and name)
    if doubled and faces is not None:
        raise SourceError(
            f"{path} must have every column of {faces.tool} once, found {doubled[0]!r} {of_columns[doubled[0]]} times",
            advice="extract the clip again",
        )
    return doubled


def checked_cells(path: Path, number: int, line: str, separator: str | None) -> list[str]:
    """Split a line into its cells, and refuse one that cannot be of a table."""
    if line.count(separator or " ") >= _MOST_COLUMNS or "\0" in line:
        what = "bytes that are not text" if "\0" in line else f"more than {_MOST_COLUMNS} cells"
        raise SourceError(f"{path}, line {number} has {what}: it must be a table of numbers, one row per frame")
    return cells_of(line, separator)
