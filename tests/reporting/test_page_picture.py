"""The picture of a report that README and docs show."""

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

from page_support import make_run, make_space

from conki_cli.reporting.page import PageChoices
from conki_cli.reporting.page.gathering import gather
from conki_cli.system.observer import Observer

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "figures" / "report.svg"
SVG = "{http://www.w3.org/2000/svg}"


def words_of(svg: str) -> list[str]:
    """Return the lines of text of a picture."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_picture_shows_the_numbers_of_readmes_table() -> None:
    table = re.search(r"^demo, test split.*?^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert table
    words = words_of(PICTURE.read_text("utf-8"))
    assert "demo, test split, protocol all, seed 1, n = 300" in words
    for line in table[0].splitlines():
        if found := re.match(r"(ConKI|w/o C1|w/o C2|plain transfer) +(\S+) (\S+)", line):
            assert set(found.groups()) <= set(words)


def test_the_picture_is_small_has_two_sets_of_colours_and_loads_nothing() -> None:
    svg = PICTURE.read_text("utf-8")
    assert len(svg) < 80_000
    assert "prefers-color-scheme:dark" in svg
    assert not re.search(r"href|url\(|<script|<image", svg)


def test_any_report_can_be_drawn_and_what_it_says_stays_text(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    report = gather([make_run(space, "full", 0.5)], space, PageChoices(figures=()), Observer())
    hostile = "</text><script>alert(1)</script> & co"
    draw = runpy.run_path(str(ROOT / "docs" / "draw_report.py"))["draw"]
    svg = draw(type(report)(**{**vars(report), "title": hostile}))
    assert {hostile, *(one.label for one in report.headlines)} <= set(words_of(svg))
    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))
    heights = [float(text.get("y", 0)) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert max(heights) < float(ElementTree.fromstring(svg).get("height", 0))
