"""Tables on the screen: metrics with the paper's numbers below ours, runs, scores, settings, formats."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from conki_cli.errors import one_line
from conki_cli.files import human_size, to_json
from conki_cli.tables.grid import UNSCALED, Cell, Row, TableInfo, build_grid, numbers, seeds_text, superscript


def metric_table(rows: Sequence[Row], info: TableInfo, *, width: int = 80) -> Table:
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
    table.caption = Text("\n".join([grid.legend, *grid.notes, *notes]).strip())
    taken = sum(_widths(grid.headers, drawn)[1:]) + gap * (len(grid.headers) - 1)
    # Only the labels fold; they also take up the room that the title needs to stand on one line.
    table.add_column("", overflow="fold", min_width=max(8, min(len(info.title), width) - taken))
    for header in grid.headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    for cells in drawn:
        table.add_row(*cells)
    return table


def _metric_cell(cell: Cell, is_published: bool, separator: str) -> Text:
    text = Text(cell.text + superscript(cell.marks), style="dim" if is_published else "")
    return text.append(separator + cell.deviation, style="dim") if cell.deviation else text


def _widths(headers: Sequence[str], drawn: Sequence[Sequence[Text]]) -> list[int]:
    """Return the width of every column."""
    lines = [
        [len(line) for cells in drawn for line in cells[number].plain.split("\n")] for number in range(len(headers))
    ]
    return [max([len(header), *lengths]) for header, lengths in zip(headers, lines, strict=True)]


def empty_table(title: str, *, gap: int = 2) -> Table:
    """Return a table without columns, as all of ours look."""
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,  # draws one blank between columns
        padding=(0, gap - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Draw the list of runs, as `runs.describe_runs` returns it: test metrics are means over the finished seeds."""
    table = empty_table(f"{len(runs)} run{'s' if len(runs) != 1 else ''}, oldest first", gap=1)
    table.caption = Text("MAE and Corr: test split, mean over the finished seeds")
    table.add_column("run", overflow="fold", min_width=18)
    for header in ("stage", "state", "seeds", "MAE", "Corr", "size", "changed"):
        table.add_column(header, justify="right" if header in ("MAE", "Corr", "size") else "left", no_wrap=True)
    for run in runs:
        seeds, finished = run["seeds"], run.get("finished_seeds", run["seeds"])
        done = f"{len(finished)}/{len(seeds)}" if len(finished) != len(seeds) else f"{len(seeds)}"
        means = [numbers([(run["metrics"].get(name) or {}).get("mean")])[0] for name in UNSCALED]
        shown = ["-" if math.isnan(mean) else f"{mean:.3f}" for mean in means]
        day = run["changed"][:10]
        cells = (run["name"], run["kind"] or "-", run["state"], done, *shown, human_size(run["size"]), day)
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table


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
    if many:
        table.add_column("by seed", justify="right", min_width=6)
    for clip in clips:
        by_seed = [" ".join(f"{score:.3f}" for score in clip["by_seed"].values())] if many else []
        names = (Text(one_line(clip[key])) for key in ("id", "text"))  # a hostile file must not steer the terminal
        table.add_row(*names, f"{clip['prediction']:.3f}", *by_seed)
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
