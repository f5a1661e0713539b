"""Clips on the screen that were extracted, and those that could not be."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from conki_cli.reporting.tables.drawing import empty_table
from conki_cli.system.errors import one_line

if TYPE_CHECKING:
    from conki_cli.data.extraction.cache import Extracted, Failure

_MOST_ROWS = 50


def failure_table(failures: "Sequence[Failure]") -> RenderableType:
    """Draw which clips failed, why, and what to do."""
    table = empty_table(f"{len(failures)} not extracted")
    table.add_column("clip", overflow="fold")
    table.add_column("why, and what to do", overflow="fold")
    for failure in failures[:_MOST_ROWS]:
        table.add_row(Text(one_line(failure.id)), Text(one_line(failure.reason)))
    return _with_rest(table, len(failures))


def extracted_table(done: "Sequence[Extracted]", written: Sequence[Path]) -> RenderableType:
    """Draw what was seen and heard in clips, and the files that were written."""
    table = empty_table("extracted")
    for name in ("clip", "seconds", "frames of sound", "voiced", "rows of vision", "with a face", "warnings"):
        table.add_column(name, justify="left" if name in ("clip", "warnings") else "right", overflow="fold")
    for one in done[:_MOST_ROWS]:
        found = one.result
        counts = (found[f"{key}_frames"] for key in ("audio", "voiced", "vision", "face"))
        numbers = [f"{found['seconds']:.1f}", *(f"{count:,}" for count in counts)]
        table.add_row(Text(one_line(one.id)), *numbers, Text(one_line("; ".join(found["warnings"]))))
    places = sorted({path.parent if path.suffix == ".npz" else path for path in written})
    lines = [Text(f"written: {one_line(str(path))}", overflow="fold") for path in places]
    return Group(_with_rest(table, len(done)), *lines)


def _with_rest(table: Table, count: int) -> RenderableType:
    return Group(table, Text(f"... and {count - _MOST_ROWS:,} more")) if count > _MOST_ROWS else table
