"""Who trains where: from the locks of seeds, the notes beside them, the logs, and what was submitted."""

import contextlib
import os
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conki_cli.runs.endings import ending_in_log
from conki_cli.runs.folders import Run
from conki_cli.runs.log import log_path, logged_epochs
from conki_cli.runs.submissions import Submission, Task, unfinished
from conki_cli.system.errors import ConkiError
from conki_cli.system.locks import Holder, find_holder
from conki_cli.system.workspace import Workspace

_LOCK = re.compile(r"\.(?P<run>.+)\.seed-(?P<seed>\d+)\.lock")


@dataclass(frozen=True)
class Watched:
    """A seed that is trained now, or that was submitted and is not finished."""

    run: str
    stage: int | None
    seed: int
    state: str
    """training, starting, waiting (a local process starts it later), stopped, failed, or what Slurm says of its job."""
    host: str = ""
    pid: int | None = None
    job: str = ""
    epoch: int = 0
    """Finished epochs."""
    num_epochs: int | None = None
    best_mae: float | None = None
    """Lowest validation MAE so far."""
    remaining: float | None = None
    """Seconds at the most; patience may end a training earlier."""
    log: str = ""
    """What its job says, if it was submitted."""
    reason: str = ""
    """Why it failed."""

    def as_json(self) -> dict[str, Any]:
        """Return it as `conki runs --watch --json` prints it."""
        return dict(vars(self))


def look(workspace: Workspace, jobs: Mapping[str, str]) -> list[Watched]:
    """Return every seed in training, then every submitted one that waits or has stopped.

    Args:
        workspace: the folder of the runs.
        jobs: state by id of what is in Slurm's queue.
    """
    submitted = {(task.run, task.seed): (submission, task) for submission, task in unfinished(workspace)}
    found = []
    for run, seed, holder in _held(workspace):
        submission, task = submitted.pop((os.path.realpath(run.path), seed), (None, None))
        watched = _in_training(run, seed, holder)
        if submission is not None and task is not None:
            watched = replace(watched, stage=task.stage, log=str(submission.log(task)))
        found.append(watched)
    waiting = [_without_process(submission, task, jobs) for submission, task in submitted.values()]
    return [*sorted(found, key=_place), *sorted(waiting, key=_place)]


def _place(watched: Watched) -> tuple[str, int]:
    return watched.run, watched.seed


def _held(workspace: Workspace) -> Iterator[tuple[Run, int, Holder]]:
    """Yield every seed whose lock a process holds, also of the trials of sweeps."""
    for folder in (workspace.runs, workspace.trials):
        for lock in sorted(folder.glob(".*.lock")):
            named = _LOCK.fullmatch(lock.name)
            holder = find_holder(lock) if named is not None else None
            if named is not None and holder is not None:
                yield Run(folder / named["run"]), int(named["seed"]), holder


def _in_training(run: Run, seed: int, holder: Holder) -> Watched:
    """Describe a seed whose lock is held; its folder may not exist yet."""
    stage, num_epochs = None, None
    with contextlib.suppress(ConkiError):
        config = run.config
        stage = 1 if config.run.stage == "pretrain" else 2
        num_epochs = config.pretraining.num_epochs if stage == 1 else config.optimizer.num_epochs
    epochs = []
    with contextlib.suppress(ConkiError):
        epochs = logged_epochs(log_path(run, seed))
    done = epochs[-1].number if epochs else 0
    remaining = None
    if epochs and num_epochs is not None:
        pace = statistics.median(epoch.seconds for epoch in epochs)
        remaining = max(0.0, pace * (num_epochs - done) - min(pace, _age(log_path(run, seed))))
    host = (os.uname().nodename if holder.is_here else holder.host) or "?"
    return Watched(
        run.name,
        stage,
        seed,
        "training" if epochs else "starting",
        host,
        holder.pid,
        holder.job,
        done,
        num_epochs,
        min((epoch.metrics["mae"] for epoch in epochs if epoch.metrics.get("mae") is not None), default=None),
        remaining,
    )


def _without_process(submission: Submission, task: Task, jobs: Mapping[str, str]) -> Watched:
    """Describe a submitted seed that no process trains now."""
    job, host = submission.job(task), ""
    state, reason = (jobs[job], "") if job in jobs else ending_in_log(submission.log(task))
    if submission.launcher == "local" and (holder := find_holder(submission.lock)) is not None:
        state, reason, host = "waiting", "", os.uname().nodename if holder.is_here else holder.host
    run = Run(Path(task.run))
    return Watched(run.name, task.stage, task.seed, state, host, job=job, log=str(submission.log(task)), reason=reason)


def _age(path: Path) -> float:
    """Return the seconds since a file was written; 0 if there is none."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0
