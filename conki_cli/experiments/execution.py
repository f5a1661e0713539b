"""Carry out a plan, row by row or in several processes; finished work is reused."""

import contextlib
from collections.abc import Mapping, Sequence

from conki_cli.config.sections import RunConfig
from conki_cli.experiments.jobs import train_side_by_side
from conki_cli.experiments.planning import Plan, PlannedRun, make_plan
from conki_cli.runs import Run, Runs, discard_run, nearest_finished
from conki_cli.system.errors import SettingsError
from conki_cli.system.locks import lock_beside, locked
from conki_cli.system.observer import Observer
from conki_cli.system.readable import status_of
from conki_cli.system.torchrun import Seat, seat
from conki_cli.system.workspace import Workspace
from conki_cli.training.following import check_absence, check_devices, joined
from conki_cli.training.lost import saying_what_is_kept
from conki_cli.training.ranks import ALONE
from conki_cli.training.stages import take_over, train
from conki_cli.training.steps import Shelf, Step


def train_all(
    configs: Sequence[RunConfig] | Mapping[str, RunConfig], workspace: Workspace, observer: Observer
) -> list[tuple[str, Run]]:
    """Plan some configurations and train what is missing.

    Args:
        configs: stage-2 configurations, or a mapping from the user's words to them.
        workspace: the folder of the stores and runs.
        observer: is notified of the progress.

    Returns:
        Label and run of every row.

    Raises:
        ConkiError: see `planning.make_plan`; or another process trains one of the seeds, or training failed.
    """
    with Shelf() as shelf:
        return carry_out(make_plan(configs, Runs(workspace), observer, shelf=shelf), observer)


def carry_out(plan: Plan, observer: Observer, *, num_jobs: int = 1) -> list[tuple[str, Run]]:
    """Train the steps of a plan one after another, or side by side in several processes.

    Where torchrun started this process and others, they train every step together.

    Args:
        plan: what to train.
        observer: hears of it.
        num_jobs: processes; 1: this one.

    Returns:
        Label and run of every row.

    Raises:
        ConkiError: another process trains one of the seeds; training failed.
        SettingsError: several processes cannot train together as requested.
    """
    check_processes(plan, num_jobs, seat())
    if num_jobs > 1:
        train_side_by_side(steps_left(plan, observer), observer, num_jobs=num_jobs)
        return [(row.label, row.run) for row in plan.rows]
    _begin(plan, observer)
    ranks = joined() if plan.steps else ALONE
    for number, row in enumerate(plan.rows, start=1):
        if len(plan.rows) > 1:
            observer.say(f"row {number} of {len(plan.rows)}: {row.label}")
        for planned in row.runs:
            for step in _steps_left(plan, planned, observer):
                with saying_what_is_kept(planned.run, step.seed):
                    train(step, observer, shelf=plan.shelf, run=planned.run, ranks=ranks)
    return [(row.label, row.run) for row in plan.rows]


def check_processes(plan: Plan, num_jobs: int, place: Seat | None) -> None:
    """Refuse a plan that several processes cannot train together; `place` is the seat of this one.

    Raises:
        SettingsError: they cannot on these devices, with these settings, or with several jobs.
    """
    if num_jobs > 1 and place is not None:
        raise SettingsError("give --jobs, or several processes for one training (--gpus, torchrun), not both")
    check_devices([step.config.run.device for step in plan.steps], place)
    check_absence([step.config for step in plan.steps], place)


def steps_left(plan: Plan, observer: Observer) -> list[Step]:
    """Prepare every run of a plan and return the steps to train; finished work is taken over, `discard` takes effect.

    Raises:
        ConkiError: another process trains one of the seeds.
    """
    _begin(plan, observer)
    return [step for planned in plan.planned for step in _steps_left(plan, planned, observer)]


def _begin(plan: Plan, observer: Observer) -> None:
    _refuse_if_held(plan)
    for line in plan.remarks:
        observer.say(line)


def _refuse_if_held(plan: Plan) -> None:
    """Refuse a plan if another process trains one of its seeds, before hours are spent on the first steps.

    Raises:
        ConkiError: another process does; the message says which, and since when.
    """
    for step in plan.steps:
        lock = Run(step.run).seed_lock(step.seed)
        if status_of(lock) is not None:
            with locked(lock, what=f"seed {step.seed} of the run {step.run.name}"):
                """Nobody holds it."""


def _steps_left(plan: Plan, planned: PlannedRun, observer: Observer) -> list[Step]:
    """Prepare a run and return its remaining steps; an earlier row may have trained some of them meanwhile."""
    run, stage = planned.run, f"stage {planned.stage}"
    if planned.discards and status_of(run.path) is not None:
        observer.say(f"{stage}: {run.path} is discarded and starts over")
        _discard(run, observer)
    is_there = status_of(run.path / "result.json") is not None
    left = [step for step in planned.steps if not is_there or run.seed_result(step.seed) is None]
    if not left:
        target = plan.shelf.store(plan.runs.workspace.store(planned.config.data.dataset))
        observer.say(f"{stage}: {run.path} is finished, reused")
        take_over(run, planned.config, planned.data, target, observer)
        return []
    if status_of(run.path) is None:
        finished = {other.name: other.config for other in plan.runs.usable() if other.is_finished}
        if line := nearest_finished(finished, planned.config):
            observer.say(f"{stage}: {line}")
    return left


def _discard(run: Run, observer: Observer) -> None:
    """Delete a run folder while no process trains one of its seeds."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(lock_beside(run.path), what=f"the run {run.name}", wait=True, say=observer.say))
        for folder in run.path.glob("seed-*"):
            seed = folder.name.removeprefix("seed-")
            stack.enter_context(locked(run.seed_lock(seed), what=f"seed {seed} of the run {run.name}"))
        discard_run(run)
