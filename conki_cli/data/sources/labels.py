"""label.csv: texts, scores and splits, one row per clip, without audio and vision.

Read: tables separated by commas, tabs or semicolons (a first line such as sep=; is understood, and
without commas as separators 1,5 is a number), in UTF-8, or in UTF-16 with a byte order mark; .jsonl,
one object per line; .parquet, if pyarrow is installed; .xlsx, if openpyxl is installed. Needed are
the columns video_id, clip_id, text, label and mode (train, valid or test; also training,
validation, dev, val); other columns may be anywhere. So all of these are read: the 7 columns of
MMSA's old label.csv (with annotation and label_by), the 9 of its new one (label_T, label_A and
label_V become the scores of single modalities), 8 or 10 with start and stop or text_en, and the
meta.csv of CH-SIMS v2. Copies of 7 to 10 columns without a header are read in the order of these
columns; mode is found by its values, and two numbers after it are start and stop.
The texts come from the column text; for SIMS from the English text_en if present; or --text-column.
Not read: annotation, which contradicts the score in some rows; label_by; any polarity.
--audio and --vision add features per clip. Other formats take this file as --labels.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.tables import read_cells
from conki_cli.data.sources.characters import EXCEL_ERROR
from conki_cli.data.sources.columns import TO_SCORE, fingerprint, number_in, one_each, split_of, stripped, whole_number
from conki_cli.data.sources.label_rows import LabelRow, rows_to_score
from conki_cli.data.sources.request import Request
from conki_cli.data.store.records import ID_SEPARATOR, SPLITS, Corpus, Frames, Sample, Utterances, counted
from conki_cli.datasets import is_chinese
from conki_cli.system.errors import SourceError, names_of, one_line

FORMATS = {"labels": "label.csv or meta.csv: texts, scores and splits, without audio and vision"}
CHINESE_TEXT_NOTE = "the texts are Chinese (no text_en in the file): choose a Chinese text encoder with --encoder"

_REQUIRED = ("video_id", "clip_id", "text", "label", "mode")
_UNIMODAL_COLUMNS = {"text": "label_T", "vision": "label_V", "audio": "label_A"}
_KNOWN_COLUMNS = {*_REQUIRED, *_UNIMODAL_COLUMNS.values(), "annotation", "label_by", "start", "stop", "text_en", "id"}
_OLD = ("video_id", "clip_id", "text", "label")
_NEW = (*_OLD, "label_T", "label_A", "label_V")
_HEADERLESS = {7: _OLD, 8: _OLD, 9: _NEW, 10: _NEW}
"""First columns of the published layouts by their number of columns.

Annotation and mode follow, then label_by (7), start and stop (8), text_en (10).
"""
LABELS_NOT_NEEDED = "--labels was not needed"
"""Start of a remark that is dropped if --labels was not given."""
_EXCEL_NUMBER = re.compile(r"\d([.,]\d+)?E\+\d+")  # 1.23E+12

Row = dict[str, str]


@dataclass(frozen=True)
class _Table:
    path: Path
    columns: list[str]
    rows: list[Row]
    lines: list[int]  # the line in the file, from 1, where each row starts
    blanks: dict[str, int]  # number of cells of each column from which surrounding blanks were removed
    has_header: bool = True
    has_decimal_comma: bool = False
    remarks: tuple[str, ...] = ()  # what was rewritten or left out

    def where(self, number: int) -> str:
        row, line = self.rows[number], self.lines[number]
        return f"{self.path}, line {line} ({row.get('video_id', '')[:40]!r}, {row.get('clip_id', '')[:40]!r})"


def recognise(raw: Raw) -> str | None:
    """Return "labels" for a table whose first row names video_id and clip_id, or fits a published layout."""
    if raw.kind != "table":
        return None
    cells = [str(cell).strip() for cell in raw.content]
    return "labels" if {"video_id", "clip_id"} <= set(cells) or _lacks_header(cells) else None


def read(raw: Raw, request: Request, name: str = "labels") -> Corpus:
    """Read a label file as a corpus of texts.

    Raises:
        SourceError: the file cannot be read, lacks a column, or a row is invalid (the message names it).
    """
    if raw.kind != "table":
        raise SourceError(
            f"{raw.path} must be a table to be read as {name}, but is not text", advice="leave out --format"
        )
    table = _read_table(raw.path)
    text_column = _text_column(table, request.text_column, request.takes_english) or "text"
    needed = (*_REQUIRED[:2], text_column, *_REQUIRED[3:])
    rows = _label_rows(table, needed, text_column, unlabelled=request.unlabelled)
    partly = [
        column
        for modality, column in _UNIMODAL_COLUMNS.items()
        if 0 < sum(modality in row.unimodal for row in rows) < len(rows)
    ]
    notes = [f"{', '.join(partly)} left out: some rows are empty there"] if partly else []
    if is_chinese(request.dataset) and text_column == "text" and request.text_column is None:
        notes.append(CHINESE_TEXT_NOTE)
    remarks = [] if table.has_header else [f"no header: the columns were read as {_columns_said(table.columns)}"]
    remarks += table.remarks
    remarks += [f"the texts come from the column {one_line(text_column)}"] if text_column != "text" else []
    remarks += blanks_remark(table.blanks.get(text_column, 0))
    remarks += [f"{LABELS_NOT_NEEDED}: the source is a label file itself"] if request.labels is not None else []
    sha256, size = fingerprint([raw.path])
    return Corpus(
        dataset=request.dataset,
        score_range=request.score_range,
        splits=samples_of(rows),
        source=raw.path.name,
        source_format="label.csv",
        source_sha256=sha256,
        source_bytes=size,
        notes=tuple(notes),
        remarks=tuple(remarks),
    )


def blanks_remark(count: int) -> list[str]:
    """Describe how many texts had blanks at the ends."""
    return [f"removed blanks at the ends of {counted(count, 'text')}"] if count else []


def samples_of(
    rows: Sequence[LabelRow], frames: Mapping[str, Sequence[Frames | None]] | None = None
) -> dict[str, list[Sample]]:
    """Return rows as clips, by split; scores of a modality are kept if every row has one.

    Args:
        rows: rows with a split.
        frames: by modality, the frames of every row.
    """
    complete = [m for m in _UNIMODAL_COLUMNS if all(m in row.unimodal for row in rows)]
    splits: dict[str, list[Sample]] = {name: [] for name in SPLITS}
    for i, row in enumerate(rows):
        score = math.nan if row.score is None else row.score
        unimodal = {m: row.unimodal[m] for m in complete}
        clips = {m: column[i] for m, column in (frames or {}).items()}
        made = Sample(row.id, row.text or "", score, unimodal=unimodal, start=row.start, **clips)
        splits[row.split or ""].append(made)
    return splits


def read_label_rows(
    path: Path,
    *,
    needed: Sequence[str] = ("video_id", "clip_id"),
    text_column: str | None = None,
    takes_english: bool = False,
    unlabelled: bool = False,
) -> list[LabelRow]:
    """Read a label file to be joined with a source.

    Args:
        path: a file in this module's format.
        needed: required columns; all of them except texts must be filled in every row.
        text_column: the column with the texts; None: `text`.
        takes_english: use `text_en` instead of `text` if present.
        unlabelled: scores and splits are not read.

    Returns:
        One item per row, in the file's order.

    Raises:
        SourceError: the file cannot be read, lacks a column, a row is invalid, or two rows of one id differ (the
            message names them).
    """
    table = _read_table(path)
    column = _text_column(table, text_column, takes_english)
    needed = [column or name if name == "text" else name for name in needed]
    rows = _label_rows(table, needed, column, unlabelled=unlabelled)
    one_each((table.where(number), row.id, row) for number, row in enumerate(rows) if row.clip)
    return rows


def read_texts(path: Path) -> Utterances:
    """Read new utterances to score from a table with a column `text` and, optionally, `id` or `video_id` and `clip_id`.

    Raises:
        SourceError: the file is missing, empty, not CSV, or has no column `text`.
    """
    table = _read_table(path, may_lack_header=False)
    _check_columns(table, ("text",))
    names = [_name_of(row, number) for number, row in enumerate(table.rows, 1)]
    return Utterances(names, [row["text"] for row in table.rows], None, {}, {})


def _name_of(row: Row, number: int) -> str:
    if "video_id" in row and "clip_id" in row:
        return row["video_id"] + ID_SEPARATOR + row["clip_id"]
    return row.get("id") or str(number)


def _text_column(table: _Table, asked: str | None, takes_english: bool) -> str | None:
    if asked is not None:
        if table.columns.count(asked) != 1:
            raise SourceError(
                f"{table.path} has no column {one_line(asked)[:40]!r} for --text-column: "
                f"its columns are {names_of(table.columns)}"
            )
        return asked
    if takes_english and "text_en" in table.columns:
        return "text_en"
    return "text" if "text" in table.columns else None


# ---- rows ----


def _label_rows(table: _Table, needed: Sequence[str], text_column: str | None, *, unlabelled: bool) -> list[LabelRow]:
    if unlabelled:
        comma = table.has_decimal_comma
        return rows_to_score(table.path, table.columns, table.rows, text_column, has_decimal_comma=comma)
    _check_columns(table, needed)
    return [_label_row(table, number, needed, text_column) for number in range(len(table.rows))]


def _label_row(table: _Table, number: int, needed: Sequence[str], text_column: str | None) -> LabelRow:
    row = table.rows[number]
    if any(name in needed and not row[name] for name in ("video_id", "clip_id")):
        raise SourceError(f"{table.where(number)}: video_id and clip_id must not be empty")

    def cell(column: str) -> float | None:
        if column not in needed and not row.get(column):
            return None
        return _number(table, number, column)

    def is_number(column: str) -> bool:
        return math.isfinite(number_in(row.get(column, ""), has_decimal_comma=table.has_decimal_comma))

    unimodal = {modality: cell(column) for modality, column in _UNIMODAL_COLUMNS.items()}
    return LabelRow(
        video=row.get("video_id", ""),
        clip=row.get("clip_id", ""),
        text=row.get(text_column) if text_column is not None else None,
        score=cell("label"),
        split=_split_of(table, number) if "mode" in needed or row.get("mode") else None,
        start=cell("start") if "start" in needed or is_number("start") else None,
        stop=cell("stop") if "stop" in needed or is_number("stop") else None,
        unimodal={modality: score for modality, score in unimodal.items() if score is not None},
    )


def _split_of(table: _Table, number: int) -> str:
    mode = table.rows[number]["mode"]
    split = split_of(mode)
    if split is None:
        raise SourceError(
            f"{table.where(number)}: mode must be train, valid or test, found {mode[:40]!r}", advice="correct the row"
        )
    return split


def _number(table: _Table, number: int, column: str) -> float:
    cell = table.rows[number][column]
    value = number_in(cell, has_decimal_comma=table.has_decimal_comma)
    if not math.isfinite(value):
        raise SourceError(
            f"{table.where(number)}: {column} must be a number, found {cell[:40]!r}", advice="correct the row"
        )
    return value


# ---- tables ----


def _check_columns(table: _Table, required: Sequence[str]) -> None:
    missing = [name for name in required if table.columns.count(name) != 1]
    if missing == ["mode"] and "mode" not in table.columns:
        raise SourceError(
            f"{table.path} has no column 'mode', which must be train, valid or test in every row",
            advice=f"add it{TO_SCORE}",
        )
    if missing:
        absent = ", ".join(name for name in missing if name not in table.columns)
        twice = ", ".join(name for name in missing if name in table.columns)
        wrong = [f"{what}: {names}" for what, names in (("missing", absent), ("repeated", twice)) if names]
        raise SourceError(
            f"{table.path} must have the column{'s' * (len(required) > 1)} {', '.join(required)}, separated by commas, "
            f"tabs or semicolons; {'; '.join(wrong)}; its first line is {names_of(table.columns)}"
            f"{TO_SCORE if {'label', 'mode'} & set(missing) else ''}"
        )
    if not table.rows:
        raise SourceError(f"{table.path} has a header but no rows: it must have one row per clip")


def _read_table(path: Path, *, may_lack_header: bool = True) -> _Table:
    """Return the rows of a table; 'None' in a cell is a word, not a missing value."""
    cells = read_cells(path)
    rows = [[stripped(cell) for cell in row] for row in cells.rows]
    lacks_header = may_lack_header and _lacks_header(rows[0])
    columns = _columns_by_content(path, rows) if lacks_header else rows[0]
    begin = 0 if lacks_header else 1
    blanks = {
        name: sum(raw[place] != row[place] for raw, row in zip(cells.rows[begin:], rows[begin:], strict=True))
        for place, name in enumerate(columns)
    }
    named = [dict(zip(columns, row, strict=True)) for row in rows[begin:]]
    remarks = (*cells.remarks, *_ids_as_whole_numbers(named))
    table = _Table(
        path,
        columns,
        named,
        cells.lines[begin:],
        blanks,
        has_header=not lacks_header,
        has_decimal_comma=cells.has_decimal_comma,
        remarks=remarks,
    )
    _check_ids(table)
    return table


def _ids_as_whole_numbers(rows: Sequence[Row]) -> list[str]:
    """Write 11.0 as 11 if all ids of a column have this form of spreadsheets and data frames; return remarks."""
    remarks = []
    for name in (*_REQUIRED[:2], "id"):
        old = [row.get(name, "") for row in rows]
        new = [whole_number(cell) for cell in old]
        if rows and all(one != other for one, other in zip(old, new, strict=True)):
            for row, cell in zip(rows, new, strict=True):
                row[name] = cell
            remarks.append(f"{name}: {counted(len(rows), 'id')} rewritten, such as {old[0][:60]} to {new[0][:60]}")
    return remarks


def _check_ids(table: _Table) -> None:
    """Refuse ids that Excel destroyed, which cannot be restored."""
    for name in (*_REQUIRED[:2], "id"):
        for lost, why in (
            (EXCEL_ERROR, "instead of ids that start with -, + or ="),
            (_EXCEL_NUMBER, "instead of long numbers"),
        ):
            numbers = [number for number, row in enumerate(table.rows) if lost.fullmatch(row.get(name, ""))]
            if numbers:
                cell = table.rows[numbers[0]][name][:40]
                raise SourceError(
                    f"{table.where(numbers[0])}: {name} must be an id, found {cell!r}, which Excel writes {why} "
                    f"({counted(len(numbers), 'row')})",
                    advice="use the table from before Excel, or import the column as text",
                )


def _lacks_header(first: Sequence[str]) -> bool:
    """Say whether a table's first row is a clip in a layout like the published ones, and not the names of columns."""
    return (
        len(first) >= min(_HEADERLESS)
        and not _KNOWN_COLUMNS & set(first)
        and _is_number(first[3])
        and any(split_of(cell) for cell in first[4:])
    )


def _columns_by_content(path: Path, cells: Sequence[Sequence[str]]) -> list[str]:
    """Name the columns of a table without a header; columns that are not needed get no name."""
    count = len(cells[0])
    known = _HEADERLESS.get(count, ())
    modes = [k for k in range(len(_OLD), count) if all(split_of(row[k]) for row in cells)]
    scores = cells[0][len(_OLD) : len(known)]
    if not known or len(modes) != 1 or not all(_is_number(cell) or not cell for cell in scores):
        found = f"one of {count} columns" if not known else f"{len(modes)} such columns"
        found = f"{', '.join(scores)} instead of three scores" if known and len(modes) == 1 else found
        raise SourceError(
            f"{path} has no header: without one a table must have 7 to 10 columns, one of which says train, valid "
            f"or test in every row; found {found}",
            advice=f"add a first line such as {','.join(_REQUIRED)}",
        )
    columns = [*known, *[""] * (count - len(known))]
    columns[modes[0]] = "mode"
    behind = range(modes[0] + 1, count)
    if count == 8 and len(behind) == 2 and all(_is_span(row[behind[0]], row[behind[1]]) for row in cells):
        columns[-2:] = "start", "stop"
    elif count == 10 and len(behind) == 1:
        columns[-1] = "text_en"
    return columns


def _is_span(start: str, stop: str) -> bool:
    return 0 <= number_in(start, has_decimal_comma=True) <= number_in(stop, has_decimal_comma=True)


def _columns_said(columns: Sequence[str]) -> str:
    return ", ".join(name or "(not read)" for name in columns)


def _is_number(cell: str) -> bool:
    return math.isfinite(number_in(cell, has_decimal_comma=True))
