"""Tables of metrics as files: Markdown, CSV, LaTeX."""

import csv
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from conki_cli.reporting.tables.grid import (
    COLUMNS,
    Cell,
    Row,
    TableInfo,
    build_grid,
    mean_and_deviation,
    numbers,
    superscript,
)
from conki_cli.system.errors import ConkiError
from conki_cli.system.files import check_writable, write_text
from conki_cli.system.untrusted import spreadsheet_cell, visible

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    "[": "{[}",  # bare, at the start of a line, it would be an argument of the line break before it; so would a star
    "*": "{*}",
    "`": r"\textasciigrave{}",  # ?` and !` would be Spanish punctuation
}
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*_`<>[]~$"})
_ENTITY = re.compile(r"&(?=[#\w])")


def export_table(rows: Sequence[Row], info: TableInfo, path: Path) -> None:
    """Write a table of metrics to a file, in the format its ending names.

    `.md` and `.tex` hold what `metric_table` draws. `.csv` holds fractions, one line per system and metric: mean, std
    (ddof 1), the paper's value, the marks of tests, and below `value_N` the value of seed N. `run` is the run's name,
    `seeds` are its own; `threshold` separates the two classes of Acc-2 and F1, empty where nothing does; "nan" is
    undefined, an empty field is absent.

    Raises:
        ConkiError: another ending, or the file cannot be written.
    """
    check_export(path)
    write_text(path, _FORMATS[path.suffix.lower()](rows, info))


def check_export(path: Path, endings: Collection[str] = ()) -> None:
    """Refuse a file that a table cannot be exported to, before long work whose result goes there.

    Args:
        path: where the table is to go.
        endings: those allowed; by default those of `export_table`.

    Raises:
        ConkiError: another ending, or a place that cannot be written.
    """
    allowed = endings or _FORMATS
    if path.suffix.lower() not in allowed:
        raise ConkiError(
            f"a table must be exported as {', '.join(allowed)}, found '{path.name}'", advice="choose such an ending"
        )
    check_writable(path)


def _markdown(rows: Sequence[Row], info: TableInfo) -> str:
    def escape(text: str) -> str:
        return " ".join(_ENTITY.sub(r"\&", visible(text).translate(_MARKDOWN)).split())

    def draw(cell: Cell, italic: bool) -> str:
        text = "".join(f"**{escape(piece)}**" if is_best else escape(piece) for piece, is_best in cell.parts())
        text += superscript(cell.marks) + (f" ± {cell.deviation}" if cell.deviation else "")
        return f"*{text}*" if italic else text

    grid = build_grid(rows, info)
    body = [[draw(cell, line.is_published and not n) for n, cell in enumerate(line.cells)] for line in grid.lines]
    lines = [list(grid.headers), ["---", *["---:"] * (len(grid.headers) - 1)], *body]
    notes = [escape(grid.legend), *(f"{superscript((i,))} {escape(n)}" for i, n in enumerate(grid.footnotes, 1))]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    below = filter(None, [notes[0], *map(escape, grid.notes), *notes[1:]])
    return "\n\n".join([f"**{escape(info.title)}**", table, *below]) + "\n"


def _latex(rows: Sequence[Row], info: TableInfo) -> str:
    def escape(text: str) -> str:
        return " ".join("".join(_LATEX.get(character, character) for character in visible(text, "?")).split())

    def draw(cell: Cell, italic: bool) -> str:
        pieces = (rf"\textbf{{{escape(piece)}}}" if is_best else escape(piece) for piece, is_best in cell.parts())
        text = rf"\textit{{{escape(cell.text)}}}" if italic else "".join(pieces)
        marks = ",".join(map(str, cell.marks))
        text += rf"\textsuperscript{{{marks}}}" if marks else ""
        return text + (rf" $\pm$ {cell.deviation}" if cell.deviation else "")

    grid = build_grid(rows, info)
    body = [" & ".join(draw(cell, ln.is_published and not n) for n, cell in enumerate(ln.cells)) for ln in grid.lines]
    notes = [f"{escape(note)}." for note in grid.notes]
    notes += [rf"\textsuperscript{{{number}}} {escape(note)}." for number, note in enumerate(grid.footnotes, 1)]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.headers) - 1)}}}",
            r"\toprule",
            rf"{' & '.join(map(escape, grid.headers))} \\",
            r"\midrule",
            *(rf"{line} \\" for line in body),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{' '.join([escape(info.title) + '.', escape(grid.legend), *notes]).strip()}}}",
            r"\end{table}",
            "",
        ]
    )


def _csv(rows: Sequence[Row], info: TableInfo) -> str:
    seeds = sorted({seed for row in rows for seed in row.seeds})
    head = ["dataset", "split", "protocol", "n", "n_nonzero", "threshold", "limit", "seeds", "run", "label", "metric"]
    head += ["mean", "std", "paper", "marks"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*head, *(f"value_{seed}" for seed in seeds)])
    start = [
        spreadsheet_cell(visible(info.dataset)),
        info.split,
        info.protocol,
        info.n,
        "" if info.n_nonzero is None else info.n_nonzero,
    ]
    start.append("" if info.threshold is None else info.threshold)
    for row in rows:
        for name in (metric for column in COLUMNS for metric in column.metrics):
            values, paper = numbers(row.values.get(name, ())), (row.published or {}).get(name, "")
            if values or paper != "":
                mean, std = mean_and_deviation(values) if values else ("", "")
                by_seed = dict(zip(row.seeds, values, strict=False))
                shown = [mean, std if len(values) > 1 else "", paper, row.signs.get(name, "")]
                shown_names = [spreadsheet_cell(visible(one)) for one in (row.run, row.label)]
                named = [row.limit or "", " ".join(map(str, row.seeds)), *shown_names, name]
                writer.writerow([*start, *named, *shown, *(by_seed.get(seed, "") for seed in seeds)])
    return stream.getvalue()


_FORMATS = {".md": _markdown, ".csv": _csv, ".tex": _latex}
