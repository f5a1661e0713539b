"""The log of a training: one JSON line per epoch in a seed's metrics.jsonl."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conki_cli.runs.folders import Run
from conki_cli.system.files import append_line, to_json
from conki_cli.system.findings import REMARK, Finding, attempt, fact_of, ordinary
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.readable import status_of, unread


def log_path(run: Run, seed: int) -> Path:
    """Return where the log of a seed lies."""
    return run.seed_folder(seed) / "metrics.jsonl"


class MetricsLog(Observer):
    """An observer that appends every epoch to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def epoch(self, training: Training, epoch: Epoch) -> None:
        """Write number, losses, validation metrics and seconds of an epoch."""
        line = {
            "epoch": epoch.number,
            "losses": epoch.losses,
            "validation": epoch.metrics,
            "best": epoch.is_best,
            "seconds": round(epoch.seconds, 3),
        }
        append_line(self.path, to_json(line, indent=None))


def whole_lines(log: Path, last: int) -> dict[int, str]:
    """Return the lines of a log that are whole, by epoch, in order, up to an epoch; the rest may be anything."""
    found: dict[int, str] = {}
    try:
        content = log.read_bytes() if status_of(log) is not None else b""
    except OSError as error:
        raise unread(log, error) from error
    for line in content.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(text := line.decode("utf-8"))
            number = entry.get("epoch") if isinstance(entry, dict) else None
            if type(number) is int and 1 <= number <= last:
                found[number] = text
    return dict(sorted(found.items()))


def verify_log(run: Run, seed: int, epochs: object, *, is_over: bool) -> Iterator[Finding]:
    """Compare the lines of a seed's log with the epochs that it trained, which may be anything that a file said.

    Args:
        run: the run folder.
        seed: whose log it is.
        epochs: that were trained.
        is_over: whether the seed is finished, so that the log may hold nothing else.
    """
    if type(epochs) is not int or not 0 <= epochs < 10**6:
        return
    log = log_path(run, seed)
    kept, error = attempt(lambda: whole_lines(ordinary(log), epochs))
    problems = [fact_of(error, log)] if error is not None else []
    if kept is not None:
        lost = [str(number) for number in range(1, epochs + 1) if number not in kept]
        problems += [f"{log.name} lacks epochs {', '.join(lost[:20])}{', ...' * (len(lost) > 20)}"] if lost else []
        if is_over and not lost and sum(map(bool, log.read_bytes().split(b"\n"))) != epochs:
            problems.append(f"{log.name} has lines that are not epochs of this seed")
    for problem in problems:
        yield Finding(str(log.parent), REMARK, problem, "nothing: what was learnt and measured is not affected")


def logged_epochs(path: Path) -> list[Epoch]:
    """Return the epochs of a log whose lines are complete; none where there is no log.

    Raises:
        UnreadableError: the system cannot read the file.
    """
    return [epoch for epoch in map(_parsed, whole_lines(path, sys.maxsize).values()) if epoch is not None]


def _parsed(line: str) -> Epoch | None:
    """Return what a line says; None where it is damaged."""
    try:
        found = json.loads(line)
        losses, metrics = _numbers(found["losses"]), _numbers(found["validation"])
        return Epoch(int(found["epoch"]), losses, metrics, float(found.get("seconds", 0.0)), bool(found.get("best")))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """Return what a line holds by name; nan for null, which stands for what is not defined."""
    return {name: math.nan if value is None else float(value) for name, value in found.items()}
