"""Draw the top of a report as docs/figures/report.svg: `python docs/draw_report.py WORKSPACE RUN [RUN ...]`.

The content is that of `conki report`, and the colours are those of its style sheet, light and dark. Text stays text, so
the file is small and sharp at any size. The same runs give the same bytes.
"""

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import conki_cli.reporting.page as page
from conki_cli.reporting.page.content import Headline, Report
from conki_cli.reporting.page.gathering import gather
from conki_cli.reporting.tables.grid import Cell, Line
from conki_cli.runs import Runs
from conki_cli.system.files import write_text
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

PICTURE = Path(__file__).parent / "figures" / "report.svg"
WIDTH, MARGIN = 920, 32
_TILES = 4  # in a row
_LETTERS = 104  # of a warning, in a line
_LABELS = 222  # width of the first column
_SECTIONS = ("Results", "Figures", "Clips", "Origin", "Make it again")


def draw(report: Report) -> str:
    """Return the top of a report as SVG: title, tiles, warnings, results."""
    parts = [*_head(report)]
    height = 152
    for row in range(0, len(report.headlines), _TILES):
        parts += _tiles(report.headlines[row : row + _TILES], height)
        height += 96
    parts.append(_text(MARGIN, height + 18, report.summary, "body"))
    height += 42
    drawn, height = _cautions(report.cautions, height)
    parts += drawn
    drawn, height = _results(report, height + 44)
    parts += drawn
    height += 14
    frame = f'<rect class="paper" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="12"/>'
    title = escape(f"The top of a report: {report.title}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{title}">\n<style>{_style()}</style>\n{frame}\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _style() -> str:
    """Return the classes of the picture, with the colours of the page."""
    sheet = (Path(page.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([a-z-]+): (#\w+)", block)) for block in sheet.split("--paper")[1:3])
    names = ("raised", "ink", "soft", "line", "link", "caution", "caution-line")
    papers = re.findall(r"--paper: (#\w+)", sheet)[:2]
    variables = [
        f"--paper:{paper};" + "".join(f"--{name}:{colours[name]};" for name in names)
        for paper, colours in zip(papers, (light, dark), strict=True)
    ]
    return (
        f"svg{{{variables[0]}}}@media(prefers-color-scheme:dark){{svg{{{variables[1]}}}}}"
        'text{font:14px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;fill:var(--ink)}'
        ".paper{fill:var(--paper);stroke:var(--line)}.tile{fill:var(--raised);stroke:var(--line)}"
        ".caution{fill:var(--caution)}.edge{fill:var(--caution-line)}.rule{stroke:var(--line)}"
        "text.h1{font-size:27px;font-weight:700}text.h2{font-size:19px;font-weight:700}text.value{font-size:25px}"
        "text.soft,.deviation{fill:var(--soft)}text.small{font-size:12px;fill:var(--soft)}text.link{fill:var(--link)}"
        "text.cell{font-size:12.5px}text.bold,.bold{font-weight:700}.deviation{font-size:12px}"
    )


def _text(x: float, y: float, words: str, kind: str, *, anchor: str = "start") -> str:
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x:g}" y="{y:g}"{place}>{escape(words)}</text>'


def _head(report: Report) -> Iterator[str]:
    x = float(MARGIN)
    for name in _SECTIONS:
        yield _text(x, 36, name, "link")
        x += 8 * len(name) + 22
    yield f'<line class="rule" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="52" y2="52"/>'
    yield _text(MARGIN, 96, report.title, "h1")
    yield _text(MARGIN, 122, report.subtitle, "soft")


def _tiles(headlines: Sequence[Headline], top: int) -> Iterator[str]:
    gap = 14
    width = (WIDTH - 2 * MARGIN - gap * (_TILES - 1)) / _TILES
    for number, one in enumerate(headlines):
        x = MARGIN + number * (width + gap)
        yield f'<rect class="tile" x="{x:g}" y="{top}" width="{width:g}" height="84" rx="9"/>'
        yield _text(x + 14, top + 24, one.label, "bold")
        deviation = f' <tspan class="deviation">± {escape(one.deviation)}</tspan>' if one.deviation else ""
        yield f'<text class="value" x="{x + 14:g}" y="{top + 52}">{escape(one.value)}{deviation}</text>'
        yield _text(x + 14, top + 72, " · ".join(one.about), "small")


def _cautions(cautions: Sequence[tuple[str, str]], top: int) -> tuple[list[str], int]:
    """Return the box of warnings and where it ends."""
    if not cautions:
        return [], top
    lines: list[str] = []
    y = top + 60
    for about, words in cautions:
        first, *rest = textwrap.wrap(f"{about}: {words}", _LETTERS)
        lines.append(
            f'<text x="{MARGIN + 20}" y="{y}"><tspan class="bold">{escape(about)}:</tspan>'
            f"{escape(first.removeprefix(f'{about}:'))}</text>"
        )
        for line in rest:
            y += 20
            lines.append(_text(MARGIN + 20, y, line, "body"))
        y += 24
    box = f'x="{MARGIN}" y="{top}" height="{y - top - 6}"'
    around = [
        f'<rect class="caution" {box} width="{WIDTH - 2 * MARGIN}" rx="5"/>',
        f'<rect class="edge" {box} width="4"/>',
        _text(MARGIN + 20, top + 30, "Before you believe these numbers", "bold"),
    ]
    return [*around, *lines], y - 6


def _results(report: Report, top: int) -> tuple[list[str], int]:
    """Return the table of metrics and where it ends."""
    grid = report.grid
    columns = list(zip(*(line.cells[1:] for line in grid.lines), strict=True))
    shares = [5 + max(len(cell.text) + len(cell.deviation) for cell in column) for column in columns]
    room = WIDTH - 2 * MARGIN - _LABELS
    ends = [MARGIN + _LABELS + room * sum(shares[: n + 1]) / sum(shares) for n in range(len(shares))]
    parts = [_text(MARGIN, top, "Results", "h2")]
    y = top + 32
    parts += [_text(end, y, name, "cell bold", anchor="end") for end, name in zip(ends, grid.headers[1:], strict=True)]
    for line in grid.lines:
        y += 11
        parts.append(f'<line class="rule" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y}" y2="{y}"/>')
        y += 19
        parts += _row(line, ends, y)
    return parts, y + 14


def _row(line: Line, ends: Sequence[float], y: int) -> Iterator[str]:
    yield _text(MARGIN, y, line.cells[0].text, "cell bold")
    for cell, end in zip(line.cells[1:], ends, strict=True):
        yield f'<text class="cell" x="{end:.1f}" y="{y}" text-anchor="end">{_spans(cell)}</text>'


def _spans(cell: Cell) -> str:
    parts = [f'<tspan class="bold">{escape(t)}</tspan>' if best else escape(t) for t, best in cell.parts()]
    deviation = f'<tspan class="deviation"> ± {escape(cell.deviation)}</tspan>' if cell.deviation else ""
    return "".join(parts) + deviation


def main(root: str, *names: str) -> None:
    """Draw the report of runs of a workspace."""
    workspace = Workspace(Path(root))
    runs = [Runs(workspace).find(name) for name in names]
    report = gather(runs, workspace, page.PageChoices(figures=()), Observer())
    write_text(PICTURE, draw(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
