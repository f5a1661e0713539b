"""Rows of a label file, and of a table of clips to be scored."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conki_cli.data.sources.columns import number_in
from conki_cli.data.store.records import ID_SEPARATOR, SCORED, counted
from conki_cli.system.errors import SourceError, names_of


@dataclass(frozen=True)
class LabelRow:
    """One row of a label file; missing and empty cells are None.

    Attributes:
        video: name of the video, as written.
        clip: name of the clip in it, as written, including leading zeros.
        text: what was said.
        score: the label.
        split: train, valid or test.
        start: start of the clip in the video, in seconds.
        stop: its end.
        unimodal: scores of single modalities, by modality.
    """

    video: str
    clip: str
    text: str | None = None
    score: float | None = None
    split: str | None = None
    start: float | None = None
    stop: float | None = None
    unimodal: Mapping[str, float] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The clip's id, 'video$_$clip'."""
        return self.video + ID_SEPARATOR + self.clip if self.video else self.clip


def rows_to_score(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    text_column: str | None,
    *,
    has_decimal_comma: bool,
) -> list[LabelRow]:
    """Return the rows of a table without scores, all in one split.

    Clips are named by video_id and clip_id, or by id; if the table has neither, they are numbered from 1.

    Raises:
        SourceError: a row has no name, or the table has neither names nor texts.
    """
    has_names = {"video_id", "clip_id"} <= set(columns)
    if not rows or not (has_names or text_column in columns or "id" in columns):
        raise SourceError(
            f"{path} must have a row per clip to be scored, with the columns video_id and clip_id, or id, or text; "
            f"found {counted(len(rows), 'row')} below {names_of(columns)}"
        )
    found = []
    for number, row in enumerate(rows, start=1):
        if has_names and not (row["video_id"] and row["clip_id"]):
            raise SourceError(f"{path}, row {number}: video_id and clip_id must not be empty")
        name = (row["video_id"], row["clip_id"]) if has_names else _parts_of(row.get("id") or str(number))
        times = (number_in(row.get(key, ""), has_decimal_comma=has_decimal_comma) for key in ("start", "stop"))
        start, stop = (seconds if math.isfinite(seconds) else None for seconds in times)
        found.append(LabelRow(*name, row.get(text_column or ""), split=SCORED, start=start, stop=stop))
    return found


def _parts_of(name: str) -> tuple[str, str]:
    video, _, clip = name.rpartition(ID_SEPARATOR)
    return video, clip
