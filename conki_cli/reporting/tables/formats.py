"""The output of `conki prepare --list-formats`: the readers' descriptions, set for the width of the terminal."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_ENTRY = re.compile(r" {0,8}(\S.*?) {2,}(\S.*)")  # a term, two blanks or more, what it means


def format_list(families: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Draw the formats that are read: {"formats": {name: line}, "description": a docstring} of each family."""
    parts: list[RenderableType] = []
    for family in families:
        names = _grid()
        for name, line in family["formats"].items():
            names.add_row(Text(name, style="bold cyan"), Text(line, style="bold"))
        description = family["description"].strip().partition("\n\n")[2]
        paragraphs = [text for text in description.split("\n\n") if not text.startswith("Axes:")]
        parts += [names, *(Padding(part, (1, 0, 0, 2)) for text in paragraphs for part in _set(text)), ""]
    return parts


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _set(paragraph: str) -> Iterator[RenderableType]:
    """Yield running text and tables of terms; a line that is indented further continues the term above it."""
    words: list[str] = []
    rows: list[list[str]] = []
    for line in paragraph.splitlines():
        entry = _ENTRY.fullmatch(line)
        if entry is not None:
            rows.append([entry[1], entry[2]])
        elif rows and line.startswith("         "):
            rows[-1][1] += " " + line.strip()
        else:
            yield from _table(rows)
            rows = []
            words.append(line.strip())
            continue
        if words:
            yield Text(" ".join(words))
            words = []
    yield from _table(rows)
    if words:
        yield Text(" ".join(words))


def _table(rows: Sequence[Sequence[str]]) -> Iterator[RenderableType]:
    if rows:
        grid = _grid()
        for term, meaning in rows:
            grid.add_row(Text(term), Text(re.sub(r" {2,}", ", ", meaning)))
        yield grid
