"""Lays a report out as HTML: every text escaped, script and style named by their hashes, nothing from elsewhere."""

import base64
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from conki_cli import __version__
from conki_cli.reporting.page.content import MARK, Clip, ClipTable, Report
from conki_cli.reporting.tables.grid import superscript
from conki_cli.system.untrusted import visible

if TYPE_CHECKING:
    from jinja2 import Environment

_LONG = 280
"""Characters of a text that are shown at once, at most; the rest unfolds."""
_STEPS = 5
"""Shades of an error, from none to half of the range of the scores."""


class Column(NamedTuple):
    """A column of the table of clips."""

    label: str
    kind: str
    """id, text, number, error or seed."""
    group: int = 0
    """Number of the system."""
    system: str = ""
    """Its name, where there are several."""

    @property
    def short(self) -> str:
        """What the column is called behind others of its system."""
        return self.system if self.system and self.kind == "number" else self.label


def render(report: Report) -> str:
    """Return the report as one HTML file."""
    environment = _environment()
    columns = _columns(report.clips)
    style = environment.get_template("report.css").render(columns=columns, table=report.clips)
    script = environment.get_template("report.js").render()
    page: str = environment.get_template("report.html").render(
        report=report,
        clips=report.clips,
        columns=columns,
        style=_trusted(style),
        script=_trusted(script),
        policy=_policy(style, script),
        generator=_trusted(MARK),
        version=__version__,
    )
    return page


def _policy(style: str, script: str) -> str:
    """Return what a browser may do with the page: run this script, use this style, show pictures that are in it."""
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("conki_cli.reporting.page"),
        autoescape=lambda name: name is None or name.endswith(".html"),
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters |= {"data_url": _data_url, "marks": superscript, "css_string": _css_string, "cells": _cells}
    environment.filters |= {"fixed": _fixed, "shade": _shade, "folded": _folded}
    return environment


def _shown(value: Any) -> Any:
    """Let no control character and no mark of direction reach the page; what is trusted markup stays."""
    return visible(value) if type(value) is str else value


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _data_url(content: bytes | str, media: str) -> str:
    data = content.encode() if isinstance(content, str) else content
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def _css_string(text: str) -> str:
    """Return a text as a string of a style sheet, in which nothing but letters and digits stands as it is."""
    plain = "".join(c if c.isascii() and c.isalnum() else f"\\{ord(c):x} " for c in visible(text))
    return f'"{plain}"'


def _fixed(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def _shade(error: float, width: float) -> int:
    return min(_STEPS, int(2 * _STEPS * error / width)) if width > 0 else 0


def _folded(text: str) -> tuple[str, str]:
    """Divide a text behind a word into what is shown at once and the rest; both together are the text."""
    if len(text) <= _LONG:
        return text, ""
    end = text.rfind(" ", _LONG // 2, _LONG) + 1 or _LONG  # a text without blanks is divided anywhere
    return text[:end], text[end:]


def _columns(table: ClipTable) -> list[Column]:
    several = len(table.systems) > 1
    columns = [Column("clip", "id"), *([Column("text", "text")] if table.has_texts else []), Column("score", "number")]
    for group, system in enumerate(table.systems):
        name = system.label if several else ""
        columns += [Column("prediction", "number", group, name), Column("error", "error", group, name)]
        columns += [Column(f"seed {seed}", "seed", group, name) for seed in system.seeds if len(system.seeds) > 1]
    return columns


def _cells(clip: Clip, systems: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what stands behind the score of a clip, system by system."""
    for group, system in enumerate(systems):
        yield {
            "mean": clip.means[group],
            "error": clip.errors[group],
            "seeds": clip.by_seed[group] if len(system.seeds) > 1 else (),
            "group": group,
        }
