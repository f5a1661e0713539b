"""The report in a real browser: sorting, searching, colours, narrow screens, paper, a large table, hostile clips."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_support import HOSTILE, make_run, make_space

from conki_cli.reporting.page import PageChoices, write_page
from conki_cli.runs import Run
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium"),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports: of one run, of two, and of 10,000 clips with five seeds."""
    root = tmp_path_factory.mktemp("browser")
    small, large = make_space(root / "small", num_clips=40), make_space(root / "large", (), num_clips=10_000)
    runs = {"one": [make_run(small, "full", 0.5)]}
    runs["two"] = [*runs["one"], make_run(small, "without", 1.0, drop="C4")]
    runs["large"] = [make_run(large, "full", 0.5, seeds=range(1, 6))]
    return {name: written(root / f"{name}.html", found) for name, found in runs.items()}


def written(path: Path, runs: list[Run]) -> Path:
    write_page(path, runs, Workspace(path.parent), PageChoices(figures=("seeds",)), Observer())
    return path


@pytest.fixture
def visit(browser: Any, files: dict[str, Path]) -> Iterator[Any]:
    """Return a function that opens a report; at the end nothing may have been complained of or asked for."""
    complaints: list[str] = []
    contexts = []

    def opened(name: str, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda asked: complaints.append(asked.url) if asked.url[:5] not in ("file:", "data:") else None
        )
        page.goto(files[name].as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def column(page: Any, number: int) -> list[str]:
    cells: list[str] = page.eval_on_selector_all(
        f"#clip-table tbody tr:not([hidden]) > :nth-child({number})", "cells => cells.map(cell => cell.textContent)"
    )
    return cells


def test_a_heading_sorts_by_numbers_in_both_directions_with_the_keyboard(visit: Any) -> None:
    page = visit("one")
    head = page.get_by_role("columnheader", name="score")
    head.get_by_role("button").focus()
    for key, direction, is_falling in (("Enter", "ascending", False), ("Space", "descending", True)):
        page.keyboard.press(key)
        assert head.get_attribute("aria-sort") == direction
        numbers = [float(cell) for cell in column(page, 3)]
        assert numbers == sorted(numbers, reverse=is_falling)
    assert page.locator("[aria-sort]").count() == 1


def test_search_finds_words_in_any_order_in_texts_and_ids(visit: Any) -> None:
    page = visit("one")
    page.get_by_role("searchbox").fill("PLAINLY  number video-10")
    page.get_by_text("3 of 40 clips").wait_for()
    assert {name.partition("$")[0] for name in column(page, 1)} == {"video-10"}
    page.get_by_role("searchbox").fill("")
    page.get_by_text("40 clips", exact=True).wait_for()


def test_hostile_clips_do_nothing(visit: Any) -> None:
    page = visit("two")
    assert "hacked" not in page.title()
    assert page.locator("#clip-table script, #clip-table img, #clip-table a").count() == 0
    texts = column(page, 2)
    assert all(hostile in texts for hostile in HOSTILE[:4])


def test_seeds_of_several_systems_are_shown_on_demand(visit: Any) -> None:
    page = visit("two")
    first = page.locator("#clip-table tbody tr:first-child .s1").first
    assert not first.is_visible()
    page.get_by_role("checkbox", name="w/o C4").check()
    assert first.is_visible()


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_system_and_a_button(visit: Any, scheme: str, is_dark: bool) -> None:
    page = visit("one", color_scheme=scheme)

    def dark() -> bool:
        found = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
        return sum(map(int, found)) < 384

    assert dark() is is_dark
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Colours: light"
    assert not dark()
    page.locator("#theme").click()
    assert dark()


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_never_scrolls_sideways(visit: Any, name: str, width: int) -> None:
    page = visit(name, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#clip-table tbody tr:first-child td").first.bounding_box()
    assert width > 700 or box["width"] > 0.6 * width  # on a phone the text has the row for itself


def test_on_paper_the_page_is_light_and_the_clips_are_a_table_whose_heading_repeats(visit: Any, tmp_path: Path) -> None:
    page = visit("one", color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#controls").is_visible()
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#clip-table thead')).display") == "table-header-group"
    )
    page.pdf(path=str(tmp_path / "page.pdf"), format="A4")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_figures_are_pictures_that_load(visit: Any) -> None:
    page = visit("two")
    sizes = page.eval_on_selector_all("figure img", "all => all.map(one => one.naturalWidth)")
    assert sizes
    assert min(sizes) > 100
    assert all(page.eval_on_selector_all("figure img", "all => all.map(one => one.alt.length)"))


def test_on_a_phone_a_figure_scrolls_within_its_frame_instead_of_shrinking(visit: Any) -> None:
    page = visit("one", viewport={"width": 390, "height": 800})
    frame = page.locator(".picture").first
    assert frame.bounding_box()["width"] < 390
    assert frame.locator("img").bounding_box()["width"] >= 576
    frame.focus()
    page.keyboard.press("ArrowRight")
    moved = "one => new Promise(done => { (function look() { one.scrollLeft ? done(1) : setTimeout(look, 20) })() })"
    assert frame.evaluate(moved)


def test_everything_can_be_reached_without_a_mouse_and_has_a_name(visit: Any) -> None:
    page = visit("two")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    names = page.eval_on_selector_all(
        "button, a, input, [tabindex='0'][role]",
        "all => all.map(one => one.ariaLabel || one.textContent || (one.labels && one.labels[0].textContent))",
    )
    assert all(name.strip() for name in names)


def test_ten_thousand_clips_open_in_less_than_two_seconds_of_work(visit: Any) -> None:
    page = visit("one")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # what this page computes, not what others do

    def work() -> float:
        found = session.send("Performance.getMetrics")["metrics"]
        return float(next(entry["value"] for entry in found if entry["name"] == "TaskDuration"))

    page.goto(page.url.replace("one.html", "large.html"))
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator("#count").inner_text() == "10000 clips"
    assert work() < 2
