"""`label.csv`: the texts, scores and splits of a data set, without audio and vision.

Both published layouts are read, the old one with 7 columns (video_id, clip_id, text, label, annotation, mode,
label_by) and the new one with label_T, label_A, label_V; further columns may stand anywhere. Polarity is never taken
from `annotation`, which contradicts the score in some rows.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from conki_cli.errors import SourceError
from conki_cli.files import sha256_of
from conki_cli.sources.mmsa import CHINESE_TEXT_NOTE, SPLIT_NAMES, note_of_empty_texts
from conki_cli.store import ID_SEPARATOR, SPLITS, Corpus, Sample, Utterances

_REQUIRED = ("video_id", "clip_id", "text", "label", "mode")
_UNIMODAL_COLUMNS = {"text": "label_T", "vision": "label_V", "audio": "label_A"}

Row = dict[str, str]


def read_labels(path: Path, dataset: str, score_range: tuple[float, float]) -> Corpus:
    """Read a label file as a corpus of texts.

    Args:
        path: a CSV file in UTF-8 with a header, of either layout.
        dataset: its name; "sims" prefers the English texts of a column `text_en`.
        score_range: lowest and highest possible score.

    Raises:
        SourceError: the file cannot be read, lacks a column, or a row makes no sense (names the row).
    """
    rows = _read_rows(path, _REQUIRED)
    has_english = dataset == "sims" and "text_en" in rows[0]
    unimodal = {m: column for m, column in _UNIMODAL_COLUMNS.items() if all(row.get(column) for row in rows)}
    splits: dict[str, list[Sample]] = {name: [] for name in SPLITS}
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number} ({row['video_id'][:40]!r}, {row['clip_id'][:40]!r})"
        splits[_split_of(where, row)].append(_sample(where, row, "text_en" if has_english else "text", unimodal))
    partly = [
        column for m, column in _UNIMODAL_COLUMNS.items() if m not in unimodal and any(row.get(column) for row in rows)
    ]
    notes = [f"{', '.join(partly)} left out: some rows are empty there"] if partly else []
    notes += [CHINESE_TEXT_NOTE] if dataset == "sims" and not has_english else []
    return Corpus(
        dataset=dataset,
        score_range=score_range,
        splits=splits,
        source=path.name,
        source_format="label.csv",
        source_sha256=sha256_of(path),
        notes=(*notes, *note_of_empty_texts(splits)),
    )


def read_texts(path: Path) -> Utterances:
    """Read new utterances to score from CSV: a column `text`, and `id` (or `video_id` and `clip_id`) if there is one.

    Raises:
        SourceError: the file is missing, empty, not CSV or has no column `text`.
    """
    rows = _read_rows(path, ("text",))
    return Utterances(
        [_name_of(row, number) for number, row in enumerate(rows, 1)], [row["text"] for row in rows], None, {}, {}
    )


def _name_of(row: Row, number: int) -> str:
    if "video_id" in row and "clip_id" in row:
        return row["video_id"] + ID_SEPARATOR + row["clip_id"]
    return row.get("id") or str(number)


def _read_rows(path: Path, required: Sequence[str]) -> list[Row]:
    """Return the rows under a header with the `required` columns; 'None' in a cell is a word, not a missing value."""
    import pandas as pd

    text = _decode(path)
    try:
        # The header is read as a row: pandas would take the first column as an index where rows are longer than it.
        table = pd.read_csv(io.StringIO(text), header=None, dtype=str, keep_default_na=False, na_filter=False)
    except pd.errors.EmptyDataError:
        raise SourceError(f"{path} is empty: it must have a header and one row per clip") from None
    except pd.errors.ParserError as error:
        raise SourceError(f"{path} must be CSV but is not ({' '.join(str(error).split())})") from error
    header, *cells = ([cell.strip() for cell in row] for row in table.to_numpy().tolist())
    missing = [name for name in required if header.count(name) != 1]
    if missing:
        raise SourceError(
            f"{path} must have each of the columns {', '.join(required)} once, separated by commas; "
            f"not so {', '.join(missing)} in the header {str(header)[:200]}"
        )
    if not cells:
        raise SourceError(f"{path} has a header but no rows: it must have one row per clip")
    return [dict(zip(header, row, strict=True)) for row in cells]


def _decode(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} must be UTF-8 but byte {error.start} is not: save it as UTF-8") from None
    if "\0" in text:
        raise SourceError(f"{path} must be text but holds NUL characters: save it as CSV in UTF-8")
    return text


def _split_of(where: str, row: Row) -> str:
    try:
        return SPLIT_NAMES[row["mode"].lower()]
    except KeyError:
        raise SourceError(f"{where}: mode must be train, valid or test, found {row['mode'][:40]!r}") from None


def _sample(where: str, row: Row, text_column: str, unimodal: dict[str, str]) -> Sample:
    if not row["video_id"] or not row["clip_id"]:
        raise SourceError(f"{where}: video_id and clip_id must not be empty")
    return Sample(
        id=row["video_id"] + ID_SEPARATOR + row["clip_id"],
        text=row[text_column],
        score=_number(where, row, "label"),
        unimodal={m: _number(where, row, column) for m, column in unimodal.items()},
    )


def _number(where: str, row: Row, column: str) -> float:
    try:
        number = float(row[column])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SourceError(f"{where}: {column} must be a number, found {row[column][:40]!r}")
    return number
