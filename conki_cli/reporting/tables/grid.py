"""The content of a table of metrics, before it is drawn in one format or another; and the paper's numbers."""

import functools
import math
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, NamedTuple

from conki_cli.metrics import TWO_CLASSES, class_names
from conki_cli.metrics.reasons import UNDEFINED
from conki_cli.metrics.summaries import summarize

Seeds = Sequence[float | None]
"""One metric's values over the seeds; None and nan are undefined."""

LOWER_IS_BETTER = ("mae",)
UNSCALED = ("mae", "corr")
"""Shown as they are; every other metric is a fraction and shown in percent."""


@dataclass(frozen=True)
class Row:
    """One system in a table of metrics."""

    label: str
    values: Mapping[str, Seeds]
    """Each metric's values, one per seed."""
    published: Mapping[str, float] | None = None
    """The paper's means, as `published_row` gives them."""
    note: str = ""
    """Becomes a footnote."""
    undefined: Mapping[str, str] = field(default_factory=dict)
    """Why a metric is undefined, as `metrics.undefined_reasons` gives it; a general reason stands in."""
    signs: Mapping[str, str] = field(default_factory=dict)
    """What stands behind a metric's mean, such as a dagger; `TableInfo.notes` say what it means."""
    run: str = ""
    """Name of the run, for files."""
    seeds: Sequence[int] = field(kw_only=True)
    """Those of the values; none of a row that is aside."""
    limit: int = 0
    """Most clips of each split that the run used (`--limit`); 0: all."""
    is_aside: bool = False
    """Whether it is not a system but a constant prediction, or the mean prediction of seeds."""


@dataclass(frozen=True)
class TableInfo:
    """What every number of a table was measured on; `seeds` are those of any row."""

    dataset: str
    split: str
    protocol: str
    seeds: Sequence[int]
    n: int
    n_nonzero: int | None = None
    """Samples behind MAE and Corr under protocol nonzero."""
    notes: Sequence[str] = ()
    """Lines below the table that belong to no single cell."""
    threshold: float | None = 0.0
    """The score that separates two classes; None: nothing does."""

    @property
    def title(self) -> str:
        """The line that stands above the table."""
        size = f"n = {self.n}"
        if self.n_nonzero is not None:
            size += f" (MAE and Corr: the {self.n_nonzero} with a score other than {self.threshold or 0:g})"
        classes = f", two classes split at {self.threshold:g}" if self.threshold else ""
        seeds = seeds_text(self.seeds)
        return f"{self.dataset}, {self.split} split, protocol {self.protocol}, {seeds}, {size}{classes}"


class Column(NamedTuple):
    """One column of numbers."""

    name: str
    metrics: tuple[str, ...]
    """One metric, or the two that the paper prints as left/right."""

    @property
    def header(self) -> str:
        """The name, and whether lower or higher is better."""
        return f"{self.name}{'↓' if self.metrics[0] in LOWER_IS_BETTER else '↑'}"


COLUMNS = (
    Column("MAE", ("mae",)),
    Column("Corr", ("corr",)),
    Column("Acc-7", ("acc7",)),
    Column("Acc-5", ("acc5",)),
    Column("Acc-3", ("acc3",)),
    Column("Acc-2", ("acc2_nonneg", "acc2_pos")),
    Column("Acc-2", ("acc2",)),
    Column("F1", ("f1_nonneg", "f1_pos")),
    Column("F1", ("f1",)),
)


class Cell(NamedTuple):
    """One cell, in words that every format draws its own way."""

    text: str
    deviation: str = ""
    """What stands behind ±; empty with one seed."""
    marks: tuple[int, ...] = ()
    """Numbers of footnotes."""
    means: tuple[float, ...] = ()
    """The mean of each part of the text that "/" separates; empty where the row does not compete."""
    best: tuple[bool, ...] = ()
    """Which parts are the best of their column."""

    def parts(self) -> list[tuple[str, bool]]:
        """Return the text in pieces, each with whether it is the best of its column; "/" stands in a piece alone."""
        if not any(self.best):
            return [(self.text, False)]
        pieces: list[tuple[str, bool]] = []
        for part, best in zip(self.text.split("/"), self.best, strict=True):
            pieces += [("/", False)] * bool(pieces) + [(part, best)]
        return pieces


class Line(NamedTuple):
    """One line of the table."""

    cells: tuple[Cell, ...]
    """The label, then one cell per column."""
    is_published: bool


class Grid(NamedTuple):
    """A table before it is drawn in one format or another."""

    headers: tuple[str, ...]
    lines: tuple[Line, ...]
    legend: str
    notes: tuple[str, ...]
    footnotes: tuple[str, ...]


def build_grid(rows: Sequence[Row], info: TableInfo) -> Grid:
    """Lay out the rows: columns that hold something, the paper's line below each of ours, footnotes numbered from 1."""
    known = {name for row in rows for name in (*row.values, *(row.published or {}))}
    columns = [column for column in COLUMNS if known & set(column.metrics)]
    footnotes: dict[str, int] = {}
    lines = []
    for row in rows:
        cells = (_row_cell(row, column, info, footnotes) for column in columns)
        lines.append(Line((_label_cell(row, info, footnotes), *cells), False))
        if row.published:
            published = (_published_cell(row.published, column) for column in columns)
            lines.append(Line((Cell("paper"), *published), True))
    headers = ("", *(column.header for column in columns))
    marked = _with_best(lines, columns)
    return Grid(headers, tuple(marked), _legend(rows, columns, info.threshold), tuple(info.notes), tuple(footnotes))


def _with_best(lines: Sequence[Line], columns: Sequence[Column]) -> list[Line]:
    """Mark the best value of every column, as shown, where two systems or more compete; several may share it."""
    cells = [list(line.cells) for line in lines]
    for number, column in enumerate(columns, start=1):
        best: list[set[int]] = [
            _best_rows([row[number].means[part] if row[number].means else math.nan for row in cells], metric)
            for part, metric in enumerate(column.metrics)
        ]
        for at, row in enumerate(cells):
            if row[number].means:
                row[number] = row[number]._replace(best=tuple(at in rows for rows in best))
    return [line._replace(cells=tuple(row)) for line, row in zip(lines, cells, strict=True)]


def _best_rows(means: Sequence[float], metric: str) -> set[int]:
    known = [mean for mean in means if not math.isnan(mean)]
    if len(known) < 2:
        return set()
    best = format_metric(metric, min(known) if metric in LOWER_IS_BETTER else max(known))
    return {at for at, mean in enumerate(means) if not math.isnan(mean) and format_metric(metric, mean) == best}


def _legend(rows: Sequence[Row], columns: Sequence[Column], threshold: float | None) -> str:
    parts = ["Acc and F1 in percent"] if any(column.metrics[0] not in UNSCALED for column in columns) else []
    if any(len(column.metrics) == 2 for column in columns) and threshold is not None:
        parts.append(_legend_of_classes(threshold))
    if any(len(values) > 1 for row in rows for values in row.values.values()):
        parts.append("mean ± sample standard deviation over seeds (ddof 1)")
    if any(row.published for row in rows):
        parts.append("paper: as published")
    if sum(not row.is_aside for row in rows) > 1:
        parts.append("best of each column in bold")
    return "; ".join(parts) + "." if parts else ""


def _legend_of_classes(threshold: float) -> str:
    both = " / ".join(" vs ".join(names) for names in class_names(threshold).values())
    return f"left/right: {both} (scores of {threshold:g} left out)"


def _mark(text: str, footnotes: dict[str, int]) -> int:
    return footnotes.setdefault(text, len(footnotes) + 1)


def _label_cell(row: Row, info: TableInfo, footnotes: dict[str, int]) -> Cell:
    if row.is_aside:
        return Cell(row.label)
    notes = [row.note] if row.note else []
    if list(row.seeds) != list(info.seeds):
        notes.append(seeds_text(row.seeds))
    return Cell(row.label, marks=tuple(_mark(note, footnotes) for note in notes))


def _row_cell(row: Row, column: Column, info: TableInfo, footnotes: dict[str, int]) -> Cell:
    means, deviations, marks, values_shown = [], [], [], []
    for name in column.metrics:
        values = numbers(row.values.get(name, ()))
        mean, deviation = mean_and_deviation(values)
        if row.is_aside and math.isnan(mean):
            values = []
        if values and math.isnan(mean):
            marks.append(_mark(_undefined_note(row, name, values), footnotes))
        is_shown = bool(values) and (info.threshold is not None or name not in TWO_CLASSES)
        means.append(format_metric(name, mean) + row.signs.get(name, "") if is_shown else "-")
        values_shown.append(mean if is_shown else math.nan)
        if not math.isnan(deviation):
            deviations.append(format_metric(name, deviation))
        elif len(values) > 1:
            deviations.append("-")
    shown = any(deviation != "-" for deviation in deviations)
    text = "/".join(means) if set(means) != {"-"} else "-"
    competes = () if row.is_aside or text == "-" else tuple(values_shown)
    return Cell(text, "/".join(deviations) if shown else "", tuple(dict.fromkeys(marks)), competes)


def _undefined_note(row: Row, name: str, values: Sequence[float]) -> str:
    reason = row.undefined.get(name) or UNDEFINED.get(name, "no value")
    bad = [seed for seed, value in zip(row.seeds, values, strict=False) if math.isnan(value)]
    where = f" ({seeds_text(bad)})" if 0 < len(bad) < len(values) else ""
    return f"undefined: {reason}{where}"


def _published_cell(published: Mapping[str, float], column: Column) -> Cell:
    parts = [format_metric(name, published[name]) if name in published else "-" for name in column.metrics]
    return Cell("/".join(parts) if set(parts) != {"-"} else "-")


def numbers(values: Seeds) -> list[float]:
    """Return the values with nan where JSON had null."""
    return [math.nan if value is None else value for value in values]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (ddof 1), nan where they are undefined."""
    summary = summarize({"": values})[""]
    return summary["mean"], summary["std"]


def format_metric(name: str, value: float) -> str:
    """Show MAE and Corr as they are with three decimals, all else in percent with two."""
    if math.isnan(value):
        return "undef."
    return f"{value:.3f}" if name in UNSCALED else f"{100 * value:.2f}"


def seeds_text(seeds: Sequence[int]) -> str:
    """Name seeds as the command line takes them: 'seed 1', 'seeds 1..5', 'seeds 1, 4'."""
    if len(seeds) < 2:
        return f"seed {seeds[0]}" if seeds else "no seed"
    consecutive = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"seeds {seeds[0]}..{seeds[-1]}" if consecutive else f"seeds {', '.join(map(str, seeds))}"


def superscript(marks: Iterable[int]) -> str:
    """Write the numbers of footnotes: (1, 2) -> '¹,²'."""
    return ",".join(str(mark).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")) for mark in marks)


@functools.cache
def _published() -> dict[str, Any]:
    text = resources.files("conki_cli").joinpath("config", "presets", "published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def published_row(
    dataset: str, drop: Collection[str] = (), model: str = "conki", external: str | None = None
) -> dict[str, float] | None:
    """Return the paper's results for a data set with some switches off; None where the paper has none.

    Args:
        dataset: name of the data set.
        drop: switches in any order, () for the full model.
        model: name of the model.
        external: data set that a baseline is trained on first (Table 6); None for none, and for ConKI.

    Returns:
        Metric -> mean; accuracies and F1 as fractions.
    """
    rows = _published().get(dataset, {}).get(model, {})
    wanted = [f"with-{external}"] if external is not None else []
    switches = {key: [] if key == "full" else key.split("+") for key in rows}
    found = [row for key, row in rows.items() if sorted(switches[key]) == sorted([*wanted, *drop])]
    return _as_metrics(found[0]) if found else None


def _as_metrics(printed: Mapping[str, Any]) -> dict[str, float]:
    """Turn a row as printed, 84.37/86.13 or -/80.8, into fractions of one metric each."""
    metrics: dict[str, float] = {}
    for name, cell in printed.items():
        if name != "table":
            parts = str(cell).split("/")
            names = (f"{name}_nonneg", f"{name}_pos") if len(parts) == 2 else (name,)
            scale = 1 if name in UNSCALED else 100
            # Rounded, because 82.35 / 100 is 0.8234999999999999.
            pairs = zip(names, parts, strict=True)
            metrics |= {key: round(float(part) / scale, 6) for key, part in pairs if part != "-"}
    return metrics
