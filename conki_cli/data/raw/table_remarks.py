"""What a report says about the tables of a folder."""

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace

from conki_cli.data.raw.face_tables import LIBREFACE
from conki_cli.data.raw.table_heads import TableLayout
from conki_cli.system.errors import one_line

_NAMED = 20  # columns


def without_times(layouts: Sequence[TableLayout]) -> list[TableLayout]:
    """Leave out the times of tables without column names, if their first column rises from 0 in every table."""
    long = [layout for layout in layouts if layout.has_unnamed_text and layout.num_rows > 1]
    if not long or not all(layout.has_times for layout in long):
        return list(layouts)
    return [
        replace(layout, kept=layout.kept[1:], has_times=True) if layout.has_unnamed_text else layout
        for layout in layouts
    ]


def said_of_tables(tables: Mapping[str, TableLayout], what: str) -> tuple[list[str], list[str]]:
    """Return warnings and remarks about the tables of a folder.

    Args:
        tables: the layouts of all clips, by the names of their files.
        what: the folder's name in messages.
    """
    warnings, remarks = _doubts(tables, what), []
    layouts = list(tables.values())
    left_out = Counter(name for layout in layouts for name in layout.left_out)
    if left_out:
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        shown = ", ".join(list(left_out)[:_NAMED])
        remarks.append(f"columns left out of the tables in {what}, because they are not features: {shown}{more}")
    if any(layout.names and all(name.isdigit() for name in layout.names) for layout in layouts):
        remarks.append(f"a first line 0, 1, 2, ... was read as the numbers of the columns in {what}")
    if any(layout.decimal == "," for layout in layouts):
        remarks.append(f"a comma was read as the decimal sign in {what}")
    tools = sorted({layout.faces.tool for layout in layouts if layout.faces is not None})
    if tools:
        faces = [layout.faces for layout in layouts if layout.faces is not None]
        unseen, frames = sum(one.num_frames - one.num_seen for one in faces), sum(one.num_frames for one in faces)
        remarks.append(
            f"{what} has tables of {' and '.join(tools)}: in {unseen:,} of {frames:,} frames no face was found; their "
            "rows are zeros, and the last column, success, is 0"
        )
        several = [one for one in faces if one.num_faces > 1]
        if several:
            first = several[0]
            warnings.append(
                f"{len(several)} tables in {what} have several faces: the one in most frames was read, the first of "
                f"equal ones (such as {one_line(first.chosen or '')[:40]!r}, in {first.num_seen} of "
                f"{first.num_frames} frames)"
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


def _doubts(tables: Mapping[str, TableLayout], what: str) -> list[str]:
    """Return warnings about tables that may be damaged, although they can be read."""
    warnings = []
    gaps = {
        name: f"{faces.num_missing} of {faces.num_frames} frames"
        for name, table in tables.items()
        if (faces := table.faces) is not None and faces.num_missing and faces.tool != LIBREFACE and faces.num_faces == 1
    }
    if gaps:
        name, count = next(iter(gaps.items()))
        warnings.append(
            f"rows are missing between the frames of {_tables(gaps)} in {what} (such as {one_line(name)[:80]}, "
            f"{count}): these became frames without a face; if rows were lost, extract the clip again"
        )
    doubled = {name: table.doubled[0] for name, table in tables.items() if table.doubled}
    if doubled:
        name, column = next(iter(doubled.items()))
        warnings.append(
            f"a column is twice in {_tables(doubled)} in {what} (such as {column!r} in {one_line(name)[:80]}): both "
            "are features; remove one of them"
        )
    open_ones = [name for name, table in tables.items() if table.ends_open]
    if 0 < len(open_ones) < len(tables):  # one program ends its last row in one way: some write no line break there
        warnings.append(
            f"there is no line break at the end of {len(open_ones)} of {len(tables)} tables in {what} (such as "
            f"{one_line(open_ones[0])[:80]}): the last number there may be truncated; extract these clips again"
        )
    return warnings


def _tables(found: Sized) -> str:
    return f"{len(found)} table{'s' if len(found) != 1 else ''}"
