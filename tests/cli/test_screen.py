"""Progress, on a terminal and in a log, and JSON on every kind of stdout."""

import os
import re
from collections.abc import Callable
from io import StringIO

import pytest
from conftest import CI_AND_TERMINALS
from rich.console import Console

from conki_cli.cli.screen import Screen


def on_terminal(clock: Callable[[], float] | None = None) -> tuple[Screen, StringIO]:
    screen, stream = Screen(json=True), StringIO()
    screen.messages = Console(file=stream, force_terminal=True, width=80, highlight=False, get_time=clock)
    return screen, stream


def test_what_is_printed_does_not_depend_on_where_the_test_runner_was_started() -> None:
    assert not set(CI_AND_TERMINALS) & set(os.environ)


def test_a_progress_bar_shows_the_remaining_time_before_the_first_epoch_ends() -> None:
    now = 0.0
    screen, stream = on_terminal(clock=lambda: now)
    with screen.steps("seed 1", 1000) as advance:
        for _ in range(3):
            now += 0.01
            advance(1, "epoch 1/10")
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).rpartition("seed 1")[2]
    assert "3/1000 epoch 1/10 0:00:00 remaining 0:00:10" in last


def test_work_of_unknown_length_promises_no_time() -> None:
    screen, stream = on_terminal()
    with screen.steps("reading mosi", 0):
        pass
    assert "reading mosi" in stream.getvalue()
    assert "remaining" not in stream.getvalue()


def test_words_between_colons_stay_words(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(json=False)
    screen.say("no feature store :file_folder:/mosi.h5")
    screen.show(":warning:")
    screen.results.print("seed 1:smile:", markup=False)
    assert capsys.readouterr() == (":warning:\nseed 1:smile:\n", "no feature store :file_folder:/mosi.h5\n")


def test_a_log_gets_a_line_a_minute_instead_of_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, stream = Screen(json=True), StringIO()
    screen.messages = Console(file=stream, width=80)
    clock = iter([0.0, 0.0, 30.0, 60.0, 61.0])
    monkeypatch.setattr("conki_cli.cli.screen.time.monotonic", lambda: next(clock))
    with screen.steps("seed 1", 41) as advance:
        for count in (0, 10, 10, 1):
            advance(count, "epoch 2/4")
    assert stream.getvalue() == "seed 1: epoch 2/4, 20/41, about 1 min remaining\n"
