"""A live view of who trains where: on a terminal a table, otherwise a line per change, or JSON."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from conki_cli.system.errors import ConkiError
from conki_cli.system.signals import ANY_ENDING

if TYPE_CHECKING:
    from conki_cli.cli.screen import Screen
    from conki_cli.runs.watching import Watched
    from conki_cli.system.workspace import Workspace

_SECONDS_BETWEEN_QUESTIONS = 10.0  # to Slurm, whose controller serves all users


def watch(screen: "Screen", workspace: "Workspace", interval: float) -> None:
    """Show who trains where until the user ends it.

    Args:
        screen: where to show it.
        workspace: has the runs.
        interval: seconds between two looks.
    """
    with contextlib.suppress(*ANY_ENDING):
        looks = _looks(workspace, interval)
        if screen.json:
            for found in looks:
                screen.answer(
                    {"time": _now("%Y-%m-%dT%H:%M:%S%z"), "seeds": [one.as_json() for one in found]}, line=True
                )
                sys.stdout.flush()
        elif screen.results.is_terminal:
            _show_table(screen, looks)
        else:
            _show_changes(screen, workspace, looks)


def _looks(workspace: "Workspace", interval: float) -> Iterator[list["Watched"]]:
    from conki_cli.runs.watching import look
    from conki_cli.system.slurm import queued

    jobs: Mapping[str, str] = {}
    asked = float("-inf")
    while True:
        if time.monotonic() - asked >= _SECONDS_BETWEEN_QUESTIONS:
            asked = time.monotonic()
            with contextlib.suppress(ConkiError):  # a busy controller: the last answer stays
                jobs = queued()
        yield look(workspace, jobs)
        time.sleep(interval)


def _show_table(screen: "Screen", looks: Iterator[list["Watched"]]) -> None:
    from rich.live import Live

    from conki_cli.reporting.tables.watching import watch_table

    with Live(console=screen.results, auto_refresh=False, vertical_overflow="visible") as live:
        for found in looks:
            live.update(watch_table(found, now=_now("%H:%M:%S")), refresh=True)


def _show_changes(screen: "Screen", workspace: "Workspace", looks: Iterator[list["Watched"]]) -> None:
    """Print a line when a seed starts, ends an epoch, waits or ends, and when nothing is left."""
    from conki_cli.reporting.tables.watching import watch_line
    from conki_cli.runs.endings import ending_in_workspace

    known: dict[tuple[str, int], tuple[object, ...]] | None = None
    for found in looks:
        now: dict[tuple[str, int], tuple[object, ...]] = {
            (one.run, one.seed): (one.state, one.pid, one.job, one.epoch, one.stage) for one in found
        }
        lines = [watch_line(one) for one in found if (known or {}).get((one.run, one.seed)) != now[one.run, one.seed]]
        gone = [place for place in known or {} if place not in now]
        lines += [f"{run}, seed {seed}: {ending_in_workspace(workspace, run, seed)}" for run, seed in gone]
        if not now and known != {}:
            lines.append("nothing is in training")
        for line in lines:
            screen.results.print(f"{_now('%H:%M:%S')} {line}", markup=False, soft_wrap=True)
        sys.stdout.flush()
        known = now


def _now(how: str) -> str:
    return time.strftime(how)
