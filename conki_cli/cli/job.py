"""The program of a job: `python -m conki_cli.cli.job SUBMISSION [ARRAY INDEX [SLOT]]`.

With a task it trains that one; without, it starts all tasks of a local submission. Its exit code is 0 only when its
work is done, because other jobs wait for that: before a time limit it saves, queues itself again and ends with 75.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from conki_cli.cli.program import ON_INTERRUPTION, one_line_errors, screen_for
from conki_cli.cli.streams import secure_streams
from conki_cli.runs import Run
from conki_cli.runs.submissions import AGAIN, Submission, Task, read_submission
from conki_cli.system import slurm
from conki_cli.system.errors import ConkiError
from conki_cli.system.signals import ENDINGS, TimeUp, install

if TYPE_CHECKING:
    from conki_cli.system.observer import Observer

KEPT = "what was trained is saved; submit the same command again to continue"


def main(words: Sequence[str]) -> int:
    """Do the work of a job; return its exit code."""
    install()
    secure_streams()
    path, *place = words
    try:
        with one_line_errors({ON_INTERRUPTION: KEPT}):
            if place:
                return _trained(Path(path), *map(int, place))
            from conki_cli.experiments.background import carry_out_locally

            carry_out_locally(read_submission(Path(path)), screen_for(False))
    except typer.Exit as ending:
        return ending.exit_code
    return 0


def _trained(path: Path, array: int, index: int, slot: int | None = None) -> int:
    """Train one task; before the time limit, let it be started again."""
    screen = screen_for(False)
    job = slurm.this_job()
    submission = read_submission(path)
    sys.argv = ["conki", *submission.command]  # what is stored beside a result as the command that gives it
    before = _saved(submission.task(array, index))
    try:
        screen.say(f"job {job or os.getpid()} on {os.uname().nodename}, restart {_restarts()}")
        _train(submission, (array, index), slot, screen)
    except TimeUp:
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)  # Slurm ends what it queues again
        if _saved(submission.task(array, index)) == before:  # queued again, it would never get further
            raise ConkiError(
                "the time was up before this job had trained a single step", advice="submit it with a longer time limit"
            ) from None
        screen.say("the time is nearly up: saved, to be continued")
        if job:
            slurm.requeue(job)
        return AGAIN
    return 0


def _train(submission: Submission, place: tuple[int, int], slot: int | None, observer: "Observer") -> None:
    from conki_cli.experiments.submitting import step_of
    from conki_cli.experiments.workers import compute_with
    from conki_cli.reporting.tracking import load_trackers, tracked
    from conki_cli.system.workspace import Workspace
    from conki_cli.training.stages import train

    step = step_of(submission, submission.task(*place))
    if slot is not None:
        compute_with(submission.threads, slot)
    with tracked(load_trackers(submission.track), Workspace(step.run.parent.parent), observer) as followed:
        train(step, followed)


def _saved(task: Task) -> tuple[int, int]:
    """Return what changes when a step of training is saved."""
    try:
        found = Run(Path(task.run)).checkpoint(task.seed, "last").stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _restarts() -> str:
    return os.environ.get("SLURM_RESTART_COUNT", "0")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
