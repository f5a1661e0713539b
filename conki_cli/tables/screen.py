"""Tables on the screen: metrics with the paper's numbers below ours, the list of runs, the content of a store."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from conki_cli.errors import one_line
from conki_cli.files import human_size, to_json
from conki_cli.tables.grid import UNSCALED, Cell, Row, TableInfo, build_grid, numbers, seeds_text, superscript

_BAR_WIDTH = 12


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
    table = _empty_table(info.title, gap=gap)
    table.caption = Text("\n".join([grid.legend, *notes]).strip())
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


def _empty_table(title: str, *, gap: int = 2) -> Table:
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
    table = _empty_table(f"{len(runs)} run{'s' if len(runs) != 1 else ''}, oldest first", gap=1)
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
    table = _empty_table(title)
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
    table = _empty_table(f"{len(entries)} settings, for --set SETTING=VALUE and --config")
    table.add_column("setting", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=20)
    table.add_column("meaning", overflow="fold")
    for entry in entries:
        default = to_json(entry["default"], indent=None)
        table.add_row(*(Text(str(cell)) for cell in (entry["setting"], default, entry["help"])))
    return table


def store_tables(description: Mapping[str, Any]) -> list[RenderableType]:
    """Draw what `store.describe` says: origin, sizes, lengths, scores, and everything worth a warning."""
    splits = description["splits"]
    parts: list[RenderableType] = [_store_header(description), _split_table(description), _length_table(splits)]
    if any(split["scores"] for split in splits.values()):
        parts.append(_score_table(splits))
    warnings = [Text(f"! {one_line(warning)}", style="yellow") for warning in _store_warnings(description)]
    return [line for part in parts for line in (part, "")] + [*warnings]


def _store_header(description: Mapping[str, Any]) -> Table:
    low, high = description["score_range"]
    source = description["source"]
    grid = Table.grid(padding=(0, 2))
    widths = ", ".join(f"{modality} {width}" for modality, width in description["widths"].items())
    for name, value in (
        ("data set", description["dataset"]),
        ("store", description["path"]),
        ("source", f"{source['name']} ({source['format']})"),
        ("SHA-256", source["sha256"]),
        ("scores", f"{low:g} to {high:g}"),
        ("features per frame", widths or "none: text only"),
    ):
        grid.add_row(Text(name, style="dim"), Text(one_line(str(value)), overflow="fold"))
    return grid


def _split_table(description: Mapping[str, Any]) -> Table:
    published = description["published_sizes"]
    table = _empty_table("Splits")
    headers = ("split", "clips", *(("published",) if published else ()), "videos", "empty texts", "mean score")
    for header in headers:
        table.add_column(header, justify="left" if header == "split" else "right")
    for name, split in description["splits"].items():
        scores = split["scores"]
        mean = f"{scores['mean']:.3f} ±{scores['std']:.3f}" if scores else "-"
        size = [str(published[name]["n"])] if published else []
        table.add_row(name, str(split["n"]), *size, str(split["videos"]), str(split["empty_texts"]), mean)
    return table


def _length_table(splits: Mapping[str, Any]) -> Table:
    table = _empty_table("Lengths in frames (text: words), and shares of values")
    for header in ("split", "modality", "min", "median", "q95", "max", "mean", "zero", "not finite"):
        table.add_column(header, justify="left" if header in ("split", "modality") else "right")
    for name, split in splits.items():
        for modality, lengths in split["lengths"].items():
            values = split["values"].get(modality)
            shares = [f"{100 * values[key]:.2f}%" for key in ("zero_share", "non_finite_share")] if values else ["", ""]
            quantiles = (f"{lengths[key]:g}" for key in ("min", "median", "q95", "max"))
            table.add_row(name, modality, *quantiles, f"{lengths['mean']:.1f}", *shares)
    return table


def _score_table(splits: Mapping[str, Any]) -> Table:
    table = _empty_table("Scores (clips around each value)")
    shown = {name: split["scores"]["histogram"] for name, split in splits.items() if split["scores"]}
    table.add_column("score", justify="right")
    for name in shown:
        table.add_column(name)
    for number, centre in enumerate(next(iter(shown.values()))["centres"]):
        table.add_row(f"{centre:g}", *(_bar(histogram["counts"], number) for histogram in shown.values()))
    return table


def _bar(counts: Sequence[int], number: int) -> str:
    """Draw one count and its bar; the largest count of a split fills the width, and no clip goes unseen."""
    length = round(8 * _BAR_WIDTH * counts[number] / max(max(counts), 1))
    full, eighths = divmod(max(length, 1 if counts[number] else 0), 8)
    return f"{counts[number]:>{len(str(max(counts)))}} " + "█" * full + " ▏▎▍▌▋▊▉"[eighths].strip()


def _store_warnings(description: Mapping[str, Any]) -> list[str]:
    warnings = [str(note) for note in description["notes"]]
    for modality, counts in description["repaired"].items():
        mended = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        if mended:
            warnings.append(f"{modality}: repaired when prepared: {mended}")
    for pair, count in description["shared_videos"].items():
        if count:
            warnings.append(f"{pair} share {count} video{'s' * (count != 1)}: they are not independent of each other")
    if any(not size["equal"] for size in (description["published_sizes"] or {}).values()):
        warnings.append("the split sizes differ from the published ones: results are not comparable with the paper's")
    return warnings
