"""Stores on the screen: what was prepared, its columns, one clip, what differs between two.

The content of a store may come from a hostile file, so it is drawn as plain text on one line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from conki_cli.data.store.records import counted
from conki_cli.data.store.words import padding_lines, repair_lines
from conki_cli.reporting.tables.drawing import empty_table
from conki_cli.system.errors import one_line

_BAR_WIDTH = 12
_SPLITS = ("split", "modality")  # headers of columns that hold words
_LONGEST_LINE = 300  # characters, of a remark or warning


def store_tables(description: Mapping[str, Any]) -> list[RenderableType]:
    """Draw what `store.describe` says: origin, sizes, lengths, scores, remarks, and everything worth a warning."""
    splits = description["splits"]
    parts: list[RenderableType] = [_store_header(description), _split_table(description), _length_table(splits)]
    if any(split["scores"] for split in splits.values()):
        parts.append(_score_table(splits))
    remarks = Table.grid(padding=(0, 1))  # a grid: what does not fit on one line goes on below itself
    for mark, style, lines in (
        ("-", "dim", _store_remarks(description)),
        ("!", "yellow", _store_warnings(description)),
    ):
        for line in lines:
            remarks.add_row(Text(mark, style=style), Text(_shortened(one_line(line)), style=style, overflow="fold"))
    return [*_spaced(parts), remarks] if remarks.row_count else _spaced(parts)


def _spaced(parts: Sequence[RenderableType]) -> list[RenderableType]:
    return [line for part in parts for line in (part, "")]


def _facts(facts: Mapping[str, str]) -> Table:
    """Draw names and what is known of them; what is empty is left out."""
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            grid.add_row(Text(name, style="dim", no_wrap=True), Text(one_line(value), overflow="fold"))
    return grid


def _shortened(line: str) -> str:
    """Cut a line of many ids to what one reads on a screen; the store and --json have it whole."""
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE].rpartition(' ')[0]} ... (all: --json)"


def _store_header(description: Mapping[str, Any]) -> Table:
    source, report = description["source"], description["report"]
    widths = ", ".join(f"{modality} {width}" for modality, width in description["widths"].items())
    return _facts(
        {
            "data set": description["dataset"],
            "store": description["path"],
            "source": f"{source['name']} ({source['format']})",
            "SHA-256": str(source["sha256"]),
            "scores": _range(description["score_range"]),
            "features per frame": widths or "none: text only",
            **{f"padding of {m}": _padding(m, report) for m in description["widths"]},
            "normalisation": _normalization(description["normalization"]),
        }
    )


def _range(score_range: Sequence[float] | None) -> str:
    if score_range is None:
        return "none: clips to be scored (conki predict)"
    return f"{score_range[0]:g} to {score_range[1]:g}"


def _padding(modality: str, report: Mapping[str, Any]) -> str:
    removed = str(report.get("padding", {}).get(modality, ""))
    share = report.get("padding_share", {}).get(modality, 0.0)
    if not removed:
        return ""
    return f"removed at the {removed}; padded to the longest clip, {100 * share:.0f}% would be padding"


def _normalization(found: Mapping[str, Any]) -> str:
    if found["method"] == "none":
        return "none: raw frames"
    constant = ", ".join(f"{len(columns)} of {m}" for m, columns in found["constant_columns"].items() if columns)
    text = "z-scores, by mean and deviation of the training split"
    return f"{text}; only centred because they are constant: {constant}" if constant else text


def _split_table(description: Mapping[str, Any]) -> Table:
    published = description["published_sizes"]
    table = empty_table("Splits")
    headers = ("split", "clips", *(("published",) if published else ()), "videos", "empty texts", "mean score")
    for header in headers:
        table.add_column(header, justify="left" if header in _SPLITS else "right")
    for name, split in description["splits"].items():
        scores = split["scores"]
        mean = f"{scores['mean']:.3f} ±{scores['std']:.3f}" if scores else "-"
        style = "yellow" if published and not published[name]["equal"] else ""
        size = [Text(str(published[name]["n"]), style=style)] if published else []
        table.add_row(name, str(split["n"]), *size, str(split["videos"]), str(split["empty_texts"]), mean)
    return table


def _length_table(splits: Mapping[str, Any]) -> Table:
    table = empty_table("Lengths in frames (text: words), and the share of values that are zero")
    for header in ("split", "modality", "min", "median", "q95", "max", "mean", "zero"):
        table.add_column(header, justify="left" if header in _SPLITS else "right")
    for name, split in splits.items():
        for modality, lengths in split["lengths"].items():
            values = split["values"].get(modality)
            share = _share(values["zero_share"]) if values else ""
            quantiles = (f"{lengths[key]:g}" for key in ("min", "median", "q95", "max"))
            table.add_row(name, modality, *quantiles, f"{lengths['mean']:.1f}", share)
    return table


def _score_table(splits: Mapping[str, Any]) -> Table:
    table = empty_table("Scores (clips around each value)")
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


def _store_remarks(description: Mapping[str, Any]) -> list[str]:
    remarks = [str(remark) for remark in description["report"].get("remarks", [])]
    padding = description["report"].get("padding", {})
    return remarks + [
        line
        for m, counts in description["repaired"].items()
        for line in padding_lines(m, counts, str(padding.get(m, "")))
    ]


def _store_warnings(description: Mapping[str, Any]) -> list[str]:
    warnings = [str(note) for note in description["notes"]]
    for modality, counts in description["repaired"].items():
        warnings.extend(repair_lines(modality, counts))
    if description["report"]:
        return warnings  # what follows is among the notes of every store since there are reports
    for pair, count in description["shared_videos"].items():
        if count:
            warnings.append(f"{pair} share {counted(count, 'video')}: they are not independent of each other")
    if any(not size["equal"] for size in (description["published_sizes"] or {}).values()):
        warnings.append("the split sizes differ from the published ones: results are not comparable with the paper's")
    return warnings


def feature_tables(description: Mapping[str, Any]) -> list[RenderableType]:
    """Draw what `store.describing.describe_features` says: a line for each column of audio and vision."""
    facts = _facts({"data set": description["dataset"], "store": description["path"]})
    parts: list[RenderableType] = [facts]
    for modality, found in description["modalities"].items():
        columns = found["columns"]
        table = empty_table(f"{modality}: {len(columns)} features, {found['frames']} frames of all splits")
        for header in ("feature", "mean", "sd", "min", "max", "zero"):
            table.add_column(header, justify="right", no_wrap=True)
        table.add_column("")
        for number, column in enumerate(columns):
            numbers = (_number(column[key]) for key in ("mean", "sd", "min", "max"))
            same = column["constant"] and found["frames"]
            remark = Text("constant", style="yellow") if same else Text("")
            table.add_row(str(number), *numbers, _share(column["zero_share"]), remark)
        constant = [number for number, column in enumerate(columns) if column["constant"] and found["frames"]]
        summary = f"{len(constant)} of {len(columns)} are constant: {_ranges(constant)}" if constant else ""
        table.caption = Text(summary or "none is constant")
        parts.append(table)
    return _spaced(parts if len(parts) > 1 else [*parts, Text("The store has only texts and no features.")])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}%"


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers shortly: [0, 1, 2, 5] -> '0-2, 5'."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def clip_tables(clip: Mapping[str, Any]) -> list[RenderableType]:
    """Draw what `store.describing.describe_clip` says."""
    unimodal = ", ".join(f"{modality} {score:g}" for modality, score in clip["unimodal"].items())
    facts = {
        "clip": clip["id"],
        "data set": clip["dataset"],
        "split": f"{clip['split']}, position {clip['position']}",
        "text": clip["text"] or "(empty)",
        "score": "unknown" if clip["score"] is None else f"{clip['score']:g}",
        "unimodal scores": unimodal,
    }
    parts: list[RenderableType] = [_facts(facts)]
    if clip["modalities"]:
        table = empty_table("Frames")
        for header in ("modality", "frames", "features", "mean", "sd", "zero"):
            table.add_column(header, justify="left" if header in _SPLITS else "right")
        for modality, found in clip["modalities"].items():
            numbers = (_number(found[key]) for key in ("mean", "sd"))
            table.add_row(modality, str(found["frames"]), str(found["width"]), *numbers, _share(found["zero_share"]))
        parts.append(table)
    return _spaced([*parts, *(_first_frames(m, found) for m, found in clip["modalities"].items() if found["first"])])


def _first_frames(modality: str, found: Mapping[str, Any]) -> Table:
    rows = found["first"]
    shown = f"{len(rows)} of {found['frames']} frames and {len(rows[0])} of {found['width']} features"
    title = f"{modality}: the first {shown}"
    table = empty_table(title, gap=1)
    table.add_column("frame", justify="right")
    for number in range(len(rows[0])):
        table.add_column(str(number), justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(str(number), *(f"{value:.3g}" for value in row))
    return table


def comparison_tables(found: Mapping[str, Any]) -> list[RenderableType]:
    """Draw what `store.describing.compare_stores` says."""
    parts: list[RenderableType] = [_both_stores(found["stores"])]
    if found["equal"]:
        return _spaced([*parts, Text("Every column and frame is the same.", style="green")])
    differences = [*_clip_differences(found), *_number_differences(found)]
    table = empty_table(f"{found['common']} clips are in both")
    table.add_column("what differs")
    table.add_column("clips", justify="right")
    table.add_column("at most", justify="right", no_wrap=True)
    table.add_column("such as", overflow="fold")
    for what, count, largest, example in differences:
        table.add_row(what, str(count), largest, Text(one_line(example)[:200]))
    parts.append(table if differences else Text(f"No clip differs: the stores differ {_what_else(found)}."))
    if found["reordered"] and differences:
        parts.append(Text("The clips of both are in a different order.", style="dim"))
    return _spaced(parts)


def _what_else(found: Mapping[str, Any]) -> str:
    """Say in what two stores differ whose clips are the same as far as they can be compared."""
    widths = [store["widths"] for store in found["stores"]]
    reasons = ["in their features per frame"] if widths[0] != widths[1] else []
    reasons += ["in the order of their clips"] if found["reordered"] else []
    return " and ".join(reasons) or "in the last digits of their scores"


def _both_stores(stores: Sequence[Mapping[str, Any]]) -> Table:
    table = empty_table("Two stores")
    for header in ("", "first", "second"):
        table.add_column(header, overflow="fold")
    rows = {
        "store": [store["path"] for store in stores],
        "data set": [store["dataset"] for store in stores],
        "clips": [str(store["clips"]) for store in stores],
        "scores": [_range(store["score_range"]) for store in stores],
        "features per frame": [
            ", ".join(f"{m} {width}" for m, width in store["widths"].items()) or "none" for store in stores
        ],
        "normalisation": [store["normalization"] for store in stores],
        "content": [store["content_id"][:12] for store in stores],
    }
    for name, values in rows.items():
        style = "yellow" if name != "store" and values[0] != values[1] else ""
        table.add_row(Text(name, style="dim"), *(Text(one_line(value), style=style) for value in values))
    return table


_Difference = tuple[str, int, str, str]  # what, clips, largest difference, an example


def _clip_differences(found: Mapping[str, Any]) -> list[_Difference]:
    lines: list[_Difference] = []
    for which, alone in zip(("first", "second"), found["only_in"], strict=True):
        lines.append((f"only in the {which}", alone["count"], "", ", ".join(alone["first"][:2])))
    for what, key in (("split", "moved"), ("text", "texts")):
        clips = found[key]["first"]
        values = clips[0]["splits" if key == "moved" else "texts"] if clips else ("", "")
        example = f"{clips[0]['id']}: {values[0]} / {values[1]}" if clips else ""
        lines.append((what, found[key]["count"], "", example))
    return [line for line in lines if line[1]]


def _number_differences(found: Mapping[str, Any]) -> list[_Difference]:
    lines: list[_Difference] = []
    for name, part in {"score": found["scores"], **{f"{m} score": p for m, p in found["unimodal"].items()}}.items():
        example = [f"{c['id']}: {_number(c['scores'][0])} / {_number(c['scores'][1])}" for c in part["first"][:1]]
        lines.append((name, part["count"], _number(part["max_difference"]), "".join(example)))
    for modality, part in found["frames"].items():
        lengths, values = part["lengths"], part["values"]
        example = [f"{c['id']}: {c['frames'][0]} / {c['frames'][1]}" for c in lengths["first"][:1]]
        lines.append((f"{modality}, number of frames", lengths["count"], "", "".join(example)))
        example = [values["first"][0]] if values["first"] else []
        lines.append((f"{modality}, values", values["count"], _number(values["max_difference"]), "".join(example)))
    return [line for line in lines if line[1]]
