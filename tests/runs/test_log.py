"""The log of a training, verified by the room that writes it."""

from pathlib import Path

import pytest

from conki_cli.runs import MetricsLog, Run
from conki_cli.runs.log import log_path, verify_log, whole_lines
from conki_cli.system.observer import Epoch, Training


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a log of three epochs."""
    run = Run(tmp_path)
    log_path(run, 1).parent.mkdir()
    log = MetricsLog(log_path(run, 1))
    for number in (1, 2, 3):
        log.epoch(Training("x", 2, 1, 3), Epoch(number, {"task": 1.0}, {"mae": 0.5}, 2.0, is_best=False))
    return run


def said(run: Run, epochs: object, *, is_over: bool = True) -> list[str]:
    return [finding.what for finding in verify_log(run, 1, epochs, is_over=is_over)]


def test_a_log_with_a_line_per_epoch_is_sound(run: Run) -> None:
    assert said(run, 3) == []
    assert list(whole_lines(log_path(run, 1), 3)) == [1, 2, 3]


def test_epochs_that_the_log_lacks_are_named(run: Run) -> None:
    log_path(run, 1).write_text("".join(log_path(run, 1).read_text().splitlines(keepends=True)[1:]))
    assert said(run, 4) == ["metrics.jsonl lacks epochs 1, 4"]


def test_the_log_of_an_unfinished_seed_may_be_ahead_of_its_checkpoint(run: Run) -> None:
    assert said(run, 2, is_over=False) == []
    assert said(run, 2) == ["metrics.jsonl has lines that are not epochs of this seed"]


@pytest.mark.parametrize("epochs", [None, "3", True, -1, 10**9])
def test_a_count_that_is_none_is_compared_with_nothing(run: Run, epochs: object) -> None:
    assert said(run, epochs) == []
