"""Tables on the screen: metrics with the paper's numbers below ours, runs, scores, settings, formats."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from conki_cli.reporting.tables.drawing import empty_table
from conki_cli.reporting.tables.grid import UNSCALED, Cell, Row, TableInfo, build_grid, numbers, seeds_text, superscript
from conki_cli.system.errors import one_line
from conki_cli.system.files import to_json
from conki_cli.system.readable import human_size


def metric_table(rows: Sequence[Row], info: TableInfo, *, width: int = 80) -> RenderableType:
    """Draw mean ± sample standard deviation of every system, and the paper's row below each of ours.

    Args:
        rows: the systems.
        info: what was measured; becomes the title.
        width: columns of the screen; the deviation goes below the mean where one line would be wider.
    """
    grid = build_grid(rows, info)
    gap, drawn = 2, [[_metric_cell(cell, line.is_published, " ± ") for cell in line.cells] for line in grid.lines]
    if sum(_widths(grid.headers, drawn)) + gap * (len(grid.headers) - 1) > width:
        gap, drawn = 1, [[_metric_cell(cell, line.is_published, "\n±") for cell in line.cells] for line in grid.lines]
    notes = [f"{superscript((number,))} {note}" for number, note in enumerate(grid.footnotes, start=1)]
    table = empty_table(info.title, gap=gap)
    table.caption = Text("\n".join(map(one_line, [grid.legend, *grid.notes, *notes])).strip())
    taken = sum(_widths(grid.headers, drawn)[1:]) + gap * (len(grid.headers) - 1)
    # The labels take up the room that the title needs to stand on one line.
    room = max(8, min(len(info.title), width) - taken)
    return _filled(table, grid.headers, drawn, width=width, taken=taken, room=room, right=grid.headers[1:])


def _filled(
    table: Table,
    headers: Sequence[str],
    drawn: Sequence[Sequence[Text]],
    *,
    width: int,
    taken: int,
    room: int,
    right: Collection[str],
) -> RenderableType:
    """Fill a table whose first column holds names: they fold between words, or get lines of their own.

    Args:
        table: with title and caption, without columns.
        headers: one per column.
        drawn: the cells of every line.
        width: columns of the screen.
        taken: columns of it that all but the names need.
        room: what the names get where there is more room than they need.
        right: headers of columns that are flush right.
    """
    longest = max((cell_len(word) for cells in drawn for word in cells[0].plain.split()), default=0)
    if taken + longest > width:
        return _below_names(table, headers, drawn, width=width, right=right)
    table.add_column(headers[0], overflow="fold", min_width=max(longest, room))
    for header in headers[1:]:
        table.add_column(header, justify="right" if header in right else "left", no_wrap=True)
    for cells in drawn:
        table.add_row(*cells)
    return table


def _below_names(
    table: Table, headers: Sequence[str], drawn: Sequence[Sequence[Text]], *, width: int, right: Collection[str]
) -> Group:
    """Draw what a screen is too narrow for as a table: every name on a line of its own, its cells below it."""
    body = [list(cells[1:]) for cells in drawn]
    if sum(_widths(headers[1:], body)) + 2 * len(headers) > width:
        body = [[Text("/\n").join(cell.split("/")) for cell in cells] for cells in body]
    widths = _widths(headers[1:], body)

    def line(cells: Sequence[Text]) -> Text:
        places = zip(headers[1:], widths, cells, strict=True)
        pads = [(" " * (size - cell.cell_len), cell, name in right) for name, size, cell in places]
        parts = [Text.assemble(pad, cell) if is_right else Text.assemble(cell, pad) for pad, cell, is_right in pads]
        return Text.assemble("  ", Text(" ").join(parts))

    lines = [Text(str(table.title), style="bold"), line([Text(header, style="bold") for header in headers[1:]])]
    for (name, *_), cells in zip(drawn, body, strict=True):
        parts = [cell.split("\n") for cell in cells]
        height = max(map(len, parts))
        lines.append(name)
        lines += [line([part[row] if row < len(part) else Text() for part in parts]) for row in range(height)]
    caption = Text(str(table.caption), style="dim italic")
    return Group(*lines, caption)


def _metric_cell(cell: Cell, is_published: bool, separator: str) -> Text:
    text = Text(style="dim" if is_published else "")
    for piece, is_best in cell.parts():
        text.append(one_line(piece), style="bold" if is_best else "")  # a folder's name must not steer the terminal
    text.append(superscript(cell.marks))
    return text.append(separator + cell.deviation, style="dim") if cell.deviation else text


def _widths(headers: Sequence[str], drawn: Sequence[Sequence[Text]]) -> list[int]:
    """Return the width of every column."""
    lines = [
        [cell_len(line) for cells in drawn for line in cells[number].plain.split("\n")]
        for number in range(len(headers))
    ]
    return [max([len(header), *lengths]) for header, lengths in zip(headers, lines, strict=True)]


def runs_table(runs: Sequence[Mapping[str, Any]], *, width: int = 80) -> RenderableType:
    """Draw the list of runs, as `runs.describe_runs` returns it: test metrics are means over the finished seeds.

    A name is never broken: where `width` columns do not hold all, it has a line of its own.
    """
    table = empty_table(f"{len(runs)} run{'s' if len(runs) != 1 else ''}, oldest first", gap=1)
    caption = "MAE and Corr: test split, mean over the finished seeds"
    if limited := [f"{one_line(run['name'])} ({run['limit']} clips)" for run in runs if run.get("limit")]:
        caption += f"; a quick look with a part of the clips (--limit): {', '.join(limited)}"
    table.caption = Text(caption)
    headers = ("run", "stage", "state", "seeds", "MAE", "Corr", "size", "changed")
    drawn = []
    for run in runs:
        seeds, finished = run["seeds"], run.get("finished_seeds", run["seeds"])
        done = f"{len(finished)}/{len(seeds)}" if len(finished) != len(seeds) else f"{len(seeds)}"
        means = [numbers([(run["metrics"].get(name) or {}).get("mean")])[0] for name in UNSCALED]
        shown = ["-" if math.isnan(mean) else f"{mean:.3f}" for mean in means]
        day = run["changed"][:10]
        cells = (run["name"], run["kind"] or "-", run["state"], done, *shown, human_size(run["size"]), day)
        drawn.append([Text(one_line(cell)) for cell in cells])
    taken = sum(_widths(headers, drawn)[1:]) + len(headers) - 1
    return _filled(table, headers, drawn, width=width, taken=taken, room=0, right=("MAE", "Corr", "size"))


def scores_table(scored: Mapping[str, Any], *, width: int = 80) -> Table:
    """Draw the scores of new utterances, as `experiments.predict_new` returns them, on `width` columns."""
    low, high = scored["score_range"]
    seeds = scored["seeds"]
    clips = scored["clips"]
    many = len(seeds) > 1
    about = f"scores from {low:g} to {high:g}, {'mean over ' if many else ''}{seeds_text(seeds)}, n = {len(clips)}"
    title = f"{one_line(scored['run'])}: {about}"
    table = empty_table(title)
    table.min_width = min(len(title), width)
    table.add_column("id", overflow="fold")
    table.add_column("text", overflow="fold", ratio=1)
    table.add_column("score", justify="right", no_wrap=True)
    lacks = any(clip.get("absent") for clip in clips)
    if lacks:
        table.add_column("absent", overflow="fold")
    if many:
        table.add_column("by seed", justify="right", min_width=6)
    for clip in clips:
        by_seed = [" ".join(f"{score:.3f}" for score in clip["by_seed"].values())] if many else []
        names = (Text(one_line(clip[key])) for key in ("id", "text"))  # a hostile file must not steer the terminal
        absent = [", ".join(clip["absent"])] if lacks else []
        table.add_row(*names, f"{clip['prediction']:.3f}", *absent, *by_seed)
    return table


def settings_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Draw all settings: {"setting", "type", "default", "help"} each."""
    table = empty_table(f"{len(entries)} settings, for --set SETTING=VALUE and --config")
    table.add_column("setting", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=20)
    table.add_column("meaning", overflow="fold")
    for entry in entries:
        default = to_json(entry["default"], indent=None)
        table.add_row(*(Text(str(cell)) for cell in (entry["setting"], default, entry["help"])))
    return table
