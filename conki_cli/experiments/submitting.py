"""The steps of a plan as jobs: arrays in Slurm, or processes in the background of this machine.

A job carries out one `Step`, read from files that anyone can read; nothing is pickled. `submitit` is not used: its jobs
unpickle functions, and its handler of the signal before the time limit ends the process where it stands, while here the
training step in progress is finished and saved first.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conki_cli.config.resolving import from_toml, to_toml
from conki_cli.experiments.execution import steps_left
from conki_cli.experiments.planning import Plan
from conki_cli.runs.submissions import JOB, Submission, Task, new_folder, unfinished
from conki_cli.system import slurm
from conki_cli.system.errors import ConkiError, SettingsError, quoted
from conki_cli.system.files import write_text
from conki_cli.system.locks import find_holder
from conki_cli.system.observer import Observer
from conki_cli.system.programs import command_of
from conki_cli.training.steps import Step


@dataclass(frozen=True)
class Order:
    """How a plan is submitted."""

    command: tuple[str, ...]
    """The command whose plan it is, for people."""
    launcher: str
    """slurm or local."""
    options: Mapping[str, str]
    """Of sbatch."""
    notice: int
    """Seconds before the time limit at which a job saves and queues itself again."""
    track: tuple[str, ...] = ()
    num_jobs: int = 1
    """Steps at the same time; 1 with Slurm: as many as it lets."""
    threads: int = 0
    """Of one local job."""


def check_order(order: Order) -> None:
    """Refuse what Slurm would refuse, before anything is changed.

    Raises:
        SettingsError: there is no sbatch, or it does not take the options; or no time is left before the notice.
    """
    if order.launcher == "local":
        if order.options:
            raise SettingsError("--slurm is for Slurm", advice="leave it out with --launcher local")
        return
    slurm.check_installed()
    limit = slurm.seconds_of(order.options.get("time", ""))
    if limit is not None and limit <= order.notice:
        raise SettingsError(
            f"{limit} s with --notice {order.notice}",
            advice="give a longer time, or a shorter --notice",
            must="the time limit of a job must be longer than the notice before it",
        )
    slurm.check_script("\n".join(["#!/bin/bash", *slurm.directives(order.options), "true", ""]))


def most_at_once(steps: Sequence[Step], launcher: str, num_jobs: int) -> int:
    """Return how many steps may train at the same time: with Slurm `num_jobs` limits each array, and 1 limits none."""
    if launcher == "local":
        return num_jobs
    return len(steps) if num_jobs == 1 else num_jobs * len({task.array for task in arrays_of(steps)})


def arrays_of(steps: Sequence[Step]) -> list[Task]:
    """Arrange steps in arrays: those of array 0 wait for nothing, each other one for the same index in array 0."""
    tasks: list[Task] = []
    for step in steps:
        before = None
        if step.first is not None:
            found = [task for task in tasks if (task.run, task.seed) == (os.path.realpath(step.first), step.seed)]
            before = found[0] if found else None
        if before is None:
            array, index = 0, 1 + sum(task.array == 0 for task in tasks)
        else:
            array, index = sum(task.index == before.index for task in tasks), before.index
        tasks.append(_task(step, array, index))
    return tasks


def _task(step: Step, array: int, index: int) -> Task:
    is_folder = Path(step.encoder).is_dir()
    return Task(
        array,
        index,
        os.path.realpath(step.run),
        1 if step.config.run.stage == "pretrain" else 2,
        step.seed,
        os.path.realpath(step.first) if step.first is not None else None,
        os.path.realpath(step.encoder) if is_folder else step.encoder,
        {name: os.path.realpath(path) for name, path in step.stores.items()},
        dict(step.data),
    )


def step_of(submission: Submission, task: Task) -> Step:
    """Return the step of a task.

    Raises:
        ConkiError: the file with its configuration is missing or damaged.
    """
    return Step(
        from_toml(submission.config_path(task)),
        task.seed,
        Path(task.run),
        Path(task.first) if task.first is not None else None,
        task.encoder,
        {name: Path(path) for name, path in task.stores.items()},
        dict(task.data),
    )


def submit(plan: Plan, order: Order, observer: Observer) -> Submission:
    """Write a submission and queue its jobs; those of a local one are started by `start_locally`.

    Args:
        plan: has steps left.
        order: how; checked by `check_order`.
        observer: hears of reused and discarded runs.

    Raises:
        ConkiError: a step is already trained or queued; Slurm refuses a job, and then none is queued.
    """
    _refuse_queued(plan)
    steps = steps_left(plan, observer)
    path = new_folder(plan.runs.workspace, order.command[0])
    tasks = arrays_of(steps)
    submission = Submission(
        path, order.command, order.launcher, tuple(tasks), order.track, order.num_jobs, order.threads
    )
    for step, task in zip(steps, tasks, strict=True):
        write_text(submission.config_path(task), to_toml(step.config))
    submission.write()
    if order.launcher == "slurm":
        submission = _queue(submission, order)
        submission.write()
    return submission


def _refuse_queued(plan: Plan) -> None:
    """Refuse a step that an earlier submission still has in the queue, or will start in the background.

    Raises:
        ConkiError: there is one; the message says which job.
    """
    wanted = {(os.path.realpath(step.run), step.seed) for step in plan.steps}
    known = [(sub, task) for sub, task in unfinished(plan.runs.workspace) if (task.run, task.seed) in wanted]
    jobs = slurm.queued() if any(submission.launcher == "slurm" for submission, _ in known) else {}
    for submission, task in known:
        what, job = f"seed {task.seed} of {Path(task.run).name}", submission.job(task)
        if job in jobs:
            raise ConkiError(
                f"{what} is in the queue already, as job {job}: {jobs[job]}",
                advice=f"wait for it, or take it out: scancel {job.partition('_')[0]}",
            )
        if (holder := find_holder(submission.lock)) is not None:
            place, where = ("", "") if holder.is_here else (f" on {holder.host}", " there")
            raise ConkiError(
                f"{what} is trained in the background already, by process {holder.pid}{place}",
                advice=f"wait for it, or stop it{where}: kill {holder.pid}",
            )


def _queue(submission: Submission, order: Order) -> Submission:
    """Queue one array after the other; if one is refused, take the others out of the queue."""
    queued: list[str] = []
    try:
        for array in range(1 + max(task.array for task in submission.tasks)):
            path = submission.path / f"array-{array}.sh"
            write_text(path, script_of(submission, order, array))
            queued.append(slurm.queue_script(path, after=queued[0] if array else ""))
    except BaseException:
        slurm.cancel(queued)
        raise
    return replace(submission, arrays=tuple(queued))


def script_of(submission: Submission, order: Order, array: int) -> str:
    """Return the script of an array, for sbatch."""
    indices = ",".join(str(task.index) for task in submission.tasks if task.array == array)
    folder = str(submission.path)
    options = {
        **order.options,
        "job-name": f"conki-{order.command[0]}",
        "array": f"{indices}%{order.num_jobs}" if order.num_jobs > 1 else indices,
        "output": f"{folder.replace('%', '%%')}/logs/{array}_%a.log",
        "open-mode": "append",
        "requeue": "",
        "signal": f"B:USR1@{order.notice}",
    }
    return "\n".join(
        [
            "#!/bin/bash",
            *slurm.directives(options),
            f"# One job per step of: conki {' '.join(map(quoted, order.command))}",
            'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}}"',
            f"cd {quoted(Path.cwd())} || exit 1",
            f'exec {" ".join(map(quoted, command_of(JOB)))} {quoted(folder)} {array} "$SLURM_ARRAY_TASK_ID"',
            "",
        ]
    )
