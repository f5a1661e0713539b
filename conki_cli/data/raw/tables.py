"""Tables as rows of text cells: CSV with commas, tabs or semicolons, JSON lines, Parquet and Excel.

Nothing in a table is executed, and its declared bytes, columns and cells are compared with limits before it is
unpacked. pyarrow and openpyxl are needed only for the tables that use them.
"""

import codecs
import csv
import io
import json
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from conki_cli.data.raw.file import encoding_by_mark
from conki_cli.system.errors import SourceError, one_line, reason_of
from conki_cli.system.readable import human_size

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
"""Endings of tables; their content decides the format."""
LABEL_FILES = ("label.csv", "meta.csv", "label.tsv", "label.jsonl", "label.parquet", "label.xlsx")
"""Names of label files that are found automatically."""
_MAX_BYTES = 512 * 2**20
"""Limit of the size of a table, packed or unpacked; MOSEI's label.csv has 4 MB."""
_MAX_COLUMNS = 1000
_MAX_CELLS = 5_000_000
"""MOSEI's label.csv has 230 thousand."""
_BLOCK_BYTES = 2**20
_HEAD_BYTES = 4096
_SEP_LINE = re.compile(r'"?sep=([,;|\t])"?[ \t;,]*\r?(\n|$)', re.IGNORECASE)  # a line of Excel above the header
_BLANK_LINES = re.compile(r"([ \t]*\r?\n)*")
_JSON_OBJECT = re.compile(rb"(\xef\xbb\xbf)?\s*\{\s*[\"}]")
_NEWEST_UNSAFE_PYARROW = 14  # older ones could run what a file says (CVE-2023-47248)


@dataclass(frozen=True)
class Cells:
    """The cells of a table.

    Attributes:
        rows: its rows, including the header, all with the same number of cells.
        lines: the line of the file, or row of the sheet, in which each row starts, from 1.
        has_decimal_comma: whether "1,5" can be a number, because commas do not separate cells.
        remarks: about parts that were left out.
    """

    rows: list[list[str]]
    lines: list[int]
    has_decimal_comma: bool = False
    remarks: tuple[str, ...] = ()


def read_cells(path: Path) -> Cells:
    """Read a table; empty rows are left out, and blanks around cells are kept.

    Raises:
        SourceError: it cannot be read, is not a table, or is too large.
    """
    head = _check_size(path)
    if head.startswith(b"PAR1"):
        cells = _read_parquet(path)
    elif head.startswith(b"PK\x03\x04"):
        cells = _read_excel(path)
    elif _JSON_OBJECT.match(head):
        cells = _read_json_lines(path)
    else:
        cells = _read_text(path)
    kept = [k for k, row in enumerate(cells.rows) if any(row)]
    if not kept:
        raise SourceError(f"{path} is empty: it must have a header and one row per clip")
    rows, lines = [cells.rows[k] for k in kept], [cells.lines[k] for k in kept]
    return Cells(rows, lines, cells.has_decimal_comma, cells.remarks)


def columns_of(path: Path, head: bytes) -> list[str] | None:
    """Return the first row of a Parquet, Excel or JSON lines file (by its first bytes); None for other files.

    Raises:
        SourceError: the library that reads it is missing, or refuses it.
    """
    if head.startswith(b"PAR1"):
        return _read_parquet(path, has_rows=False).rows[0]
    if head.startswith(b"PK\x03\x04") and _is_workbook(path):
        return next(iter(_read_excel(path, most_rows=1).rows), [])
    return _names_in_json(path) if _JSON_OBJECT.match(head) else None


def first_cells(head: bytes) -> list[str]:
    """Return the cells of a text's first line; empty if it is not text.

    Args:
        head: the first bytes of a file.
    """
    encoding = encoding_by_mark(head) or "utf-8"
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    start, separator = _begin(text)
    line = re.split(r"[\r\n]", text[start:].lstrip(), maxsplit=1)[0]
    if "\0" in line or not line:
        return []
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


def _check_size(path: Path) -> bytes:
    """Return the first bytes of a file, and refuse one that is too large."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe could block forever
            raise SourceError(f"{path} must be a file", "name a label.csv")
        if status.st_size > _MAX_BYTES:
            raise SourceError(f"{path} has {human_size(status.st_size)}: the limit for label files is 512 MiB")
        with path.open("rb") as stream:
            return stream.read(_HEAD_BYTES)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def _check_extent(path: Path, num_rows: int, num_columns: int) -> None:
    if num_columns > _MAX_COLUMNS or num_rows * max(1, num_columns) > _MAX_CELLS:
        raise SourceError(
            f"{path} declares {num_rows:,} rows of {num_columns:,} columns: a table may have {_MAX_COLUMNS:,} columns "
            f"and {_MAX_CELLS:,} cells; check that it is a label file"
        )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


# ---- text ----


def _begin(text: str) -> tuple[int, str]:
    """Return the start of the header, after empty lines and a line such as 'sep=;', and the separator."""
    begin = _BLANK_LINES.match(text)
    start = begin.end() if begin is not None else 0
    if named := _SEP_LINE.match(text, start):
        return named.end(), named[1]
    line = text[start : start + _HEAD_BYTES].partition("\n")[0]
    # Names in a header never contain commas, so a header with tabs and without commas is separated by tabs.
    if "\t" in line and "," not in line:
        return start, "\t"
    return start, ";" if _num_cells(line, ";") > _num_cells(line, ",") else ","


def _num_cells(line: str, separator: str) -> int:
    return len(next(csv.reader([line.replace("\0", "").replace("\r", "")], delimiter=separator), [])) if line else 0


def _read_text(path: Path) -> Cells:
    text = _decode(path)
    start, separator = _begin(text)
    table = text[start:]
    _check_extent(path, 1 + table.count("\n"), 1 + table.partition("\n")[0].count(separator))
    cells = _parse_tabs(path, table) if separator == "\t" else _parse(path, table, sep=separator)
    return Cells(cells, _lines_of(cells, 1 + text.count("\n", 0, start)), separator != ",")


def _decode(path: Path) -> str:
    data = _read_bytes(path)
    try:
        text = data.decode(encoding_by_mark(data) or "utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} must be UTF-8 but byte {error.start} is not", "save it as UTF-8") from None
    if "\0" in text:
        raise SourceError(f"{path} must be text but holds NUL characters", "save it as CSV in UTF-8")
    return text


def _lines_of(cells: Sequence[Sequence[str]], first: int) -> list[int]:
    """Return the line of the file in which each row starts, as an editor counts; cells may have line breaks."""
    breaks = [sum(cell.count("\n") + cell.count("\r") - cell.count("\r\n") for cell in row) for row in cells]
    return [first + k + before for k, before in enumerate(accumulate(breaks[:-1], initial=0))]


def _parse_tabs(path: Path, text: str) -> list[list[str]]:
    """Split a table at its tabs, with quotes as part of the text: most such files have no quoting."""
    num_tabs = {line.count("\t") for line in text.split("\n") if line.strip()}
    if len(num_tabs) == 1:
        cells = _parse(path, text, sep="\t", quoting=csv.QUOTE_NONE)
        if not all(_is_quoted(cell) for row in cells for cell in row if '"' in cell):
            return cells
    try:
        return _parse(path, text, sep="\t")
    except SourceError:
        return _parse(path, text, sep="\t", quoting=csv.QUOTE_NONE)


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def _parse(path: Path, text: str, *, sep: str, **options: Any) -> list[list[str]]:
    import pandas as pd

    try:
        # Read the header as a row: pandas would take the first column as an index if rows are longer than the header.
        # Keep empty lines, so that lines can be counted.
        table = pd.read_csv(
            io.StringIO(text),
            header=None,
            dtype=str,
            sep=sep,
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,
            **options,
        )
    except pd.errors.EmptyDataError:
        raise SourceError(f"{path} is empty: it must have a header and one row per clip") from None
    except pd.errors.ParserError as error:
        raise SourceError(f"{path} must be CSV but {_in_plain_words(str(error), sep)}") from error
    cells: list[list[str]] = table.to_numpy().tolist()
    return cells


def _in_plain_words(complaint: str, separator: str) -> str:
    """Explain a parser's error; it counts rows and not lines, because cells may have line breaks."""
    if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", complaint):
        wanted, row, seen = found.groups()
        name = {",": "commas", ";": "semicolons", "\t": "tabs"}.get(separator, separator)
        return f"row {row} has {seen} cells where the first has {wanted}: put texts with {name} into double quotes"
    if found := re.search(r"EOF inside string starting at row (\d+)", complaint):
        return (
            f"a double quote that is opened in row {int(found[1]) + 1} is never closed: check that the file is complete"
        )
    return "its rows cannot be separated: save it as CSV in UTF-8"


# ---- JSON lines ----


def _read_json_lines(path: Path) -> Cells:
    """Read one object per line; leave out columns that contain lists or objects."""
    objects: list[tuple[int, dict[str, Any]]] = []
    names: dict[str, None] = {}
    nested: dict[str, None] = {}
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if not line.strip():
            continue
        value = _json_object(path, number, line)
        names |= dict.fromkeys(value)
        nested |= dict.fromkeys(name for name, cell in value.items() if isinstance(cell, dict | list))
        _check_extent(path, len(objects) + 1, len(names))
        objects.append((number, value))
    columns = [name for name in names if name not in nested]
    rows = [[_as_text(value.get(name)) for name in columns] for _, value in objects]
    first = objects[0][0] if objects else 1
    left_out = (f"not read, because they hold lists or objects: {_listed(nested)}",) if nested else ()
    return Cells([columns, *rows], [first, *(number for number, _ in objects)], True, left_out)


def _names_in_json(path: Path) -> list[str] | None:
    """Return the names in the first line, if it is an object of a table; None for other JSON."""
    with path.open("rb") as stream:
        lines = (line for line in iter(lambda: stream.readline(_BLOCK_BYTES), b"") if line.strip())
        first = next(lines, b"")
    try:
        value = json.loads(first.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError):
        return None
    is_flat = isinstance(value, dict) and any(not isinstance(cell, dict | list) for cell in value.values())
    return list(value) if is_flat else None


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # a number of thousands of digits raises a ValueError
        value = None
    if not isinstance(value, dict):
        raise SourceError(
            f'{path}, line {number}: must be one JSON object such as {{"video_id": "v", "clip_id": "1", '
            '"text": "good"}',
            "write one per line",
        )
    return value


def _listed(names: Iterable[str]) -> str:
    return ", ".join(one_line(name)[:40] for name in list(names)[:20])


def _as_text(value: Any) -> str:
    """Return a cell as in a CSV file."""
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value)


# ---- Parquet ----


def _read_parquet(path: Path, *, has_rows: bool = True) -> Cells:
    """Read a Parquet file, or only the names of its columns."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise SourceError(_lacks(path, "Parquet", "pyarrow")) from None
    if int(pyarrow.__version__.partition(".")[0]) <= _NEWEST_UNSAFE_PYARROW:
        raise SourceError(
            f"{path} is Parquet, which needs a newer pyarrow than {pyarrow.__version__}: pip install -U pyarrow"
        )
    try:
        schema = parquet.read_schema(path)
        plain = [field.name for field in schema if not pyarrow.types.is_nested(field.type)]
        left_out = [name for name in schema.names if name not in plain]
        # Texts that a file stores once and refers to often stay one object.
        texts = [name for name in plain if not pyarrow.types.is_primitive(schema.field(name).type)]
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            _check_parquet(path, file.metadata)
            columns = [_column(path, file, name) for name in plain] if has_rows else []
    except SourceError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        reason = reason_of(error)
        raise SourceError(f"{path} must be a whole Parquet file but is not ({reason})", "get it again") from error
    rows = [list(row) for row in zip(*columns, strict=True)] if columns else []
    remarks = (f"not read, because they hold lists or objects: {_listed(left_out)}",) if left_out else ()
    return Cells([plain, *rows], list(range(1, len(rows) + 2)), True, remarks)


def _check_parquet(path: Path, found: Any) -> None:
    _check_extent(path, found.num_rows, found.num_columns)
    unpacked = sum(found.row_group(k).total_byte_size for k in range(found.num_row_groups))
    if not 0 <= unpacked <= _MAX_BYTES:
        raise SourceError(f"{path} declares {human_size(abs(unpacked))} when unpacked, and the limit is 512 MiB")


def _column(path: Path, file: Any, name: str) -> list[str]:
    cells: list[str] = []
    letters = 0
    for group in range(file.num_row_groups):
        chunked = file.read_row_group(group, columns=[name], use_threads=False).column(0)
        for chunk in chunked.chunks:
            encoded = chunk if hasattr(chunk, "dictionary") else chunk.dictionary_encode()
            values = encoded.dictionary.to_pylist()
            words = [_as_text(value.decode() if isinstance(value, bytes) else value) for value in values]
            cells += ["" if index is None else words[index] for index in encoded.indices.to_pylist()]
        letters += sum(map(len, cells[-len(chunked) :])) if len(chunked) else 0
        if letters > _MAX_BYTES:
            shown = one_line(name)[:40]
            raise SourceError(f"{path} has more than 512 MiB of text in {shown!r}", "check that it is a label file")
    return cells


def _lacks(path: Path, kind: str, package: str) -> str:
    return (
        f"{path} is {kind}, which needs {package}, which is not installed: pip install {package}, "
        "or save the table as CSV in UTF-8"
    )


# ---- Excel ----


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except Exception:  # not a workbook
        return False


def _read_excel(path: Path, *, most_rows: int | None = None) -> Cells:
    """Read the first sheet of a workbook; formulas are not computed, but their stored values are read."""
    try:
        import openpyxl
    except ImportError:
        raise SourceError(_lacks(path, "an Excel file", "openpyxl")) from None
    import warnings

    _check_workbook(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")  # about styles and forms, which are not read
            book = openpyxl.load_workbook(stream, read_only=True, data_only=True, keep_links=False)
            try:
                names = list(book.sheetnames)
                numbered = list(islice(_rows_of_sheet(path, book.worksheets[0]), most_rows))
            finally:
                book.close()
    except SourceError:
        raise
    except Exception as error:  # a damaged workbook can fail in any way
        reason = reason_of(error)
        raise SourceError(f"{path} must be a whole Excel file but is not ({reason})", "save it again") from error
    width = len(numbered[0][1]) if numbered else 0
    long = next((number for number, row in numbered if len(row) > width), None)
    if long is not None:
        raise SourceError(f"{path}, row {long} has more cells than the first, {width}", "name every column there")
    rows = [row + [""] * (width - len(row)) for _, row in numbered]
    remarks = (f"read: the sheet {_listed(names[:1])}; not read: {_listed(names[1:])}",) if len(names) > 1 else ()
    return Cells(rows, [number for number, _ in numbered], True, remarks)


def _rows_of_sheet(path: Path, sheet: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of every row that is not empty, and its cells up to the last filled one."""
    num_cells = 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        num_cells += max(1, len(row))
        if num_cells > _MAX_CELLS:
            raise SourceError(f"{path} declares more than {_MAX_CELLS:,} cells", "check that it is a label file")
        cells = [_as_text(value) for value in row]
        while cells and not cells[-1].strip():
            cells.pop()
        if len(cells) > _MAX_COLUMNS:
            _check_extent(path, number, len(cells))
        if cells:
            yield number, cells


def _check_workbook(path: Path) -> None:
    """Refuse a workbook that is too large when unpacked, or defines XML entities, before its XML is parsed."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > _MAX_BYTES:
                raise SourceError(f"{path} declares {human_size(size)} when unpacked, and the limit is 512 MiB")
            for entry in entries:
                with archive.open(entry) as stream:  # never yields more than the declared size
                    if entry.filename.endswith((".xml", ".rels")) and _declares(stream):
                        name = one_line(entry.filename)[:60]
                        raise SourceError(f"{path}: {name!r} defines XML entities", "save the table with Excel")
    except SourceError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        reason = reason_of(error)
        raise SourceError(f"{path} must be a whole Excel file but is not ({reason})", "get it again") from error


def _declares(stream: Any) -> bool:
    last = b""
    while block := stream.read(_BLOCK_BYTES):
        text = (last + block).replace(b"\0", b"")  # XML may be UTF-16
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            return True
        last = block[-32:]
    return False
