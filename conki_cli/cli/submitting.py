"""The command that submits another one: its steps become jobs."""

import itertools
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from conki_cli.cli.launching import LAUNCHER, Handover, Launcher
from conki_cli.cli.options import DryRunOption, JsonOption
from conki_cli.cli.program import screen_for
from conki_cli.cli.streams import note_written
from conki_cli.system.errors import SettingsError, one_line, quoted

if TYPE_CHECKING:
    from conki_cli.cli.screen import Screen
    from conki_cli.experiments.submitting import Order
    from conki_cli.runs.submissions import Submission

TRAINING = ("finetune", "pretrain", "ablate", "compare")
"""The commands that can be submitted."""
_EXAMPLE = "conki submit --slurm partition=gpu -- finetune --seeds 1..5"


class SubmitCommand(TyperCommand):
    """A command whose unknown options are probably those of the command that it submits."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line.

        Raises:
            SettingsError: an option of another command stands before `--`.
        """
        others = [command for name, command in _commands(ctx).items() if name in TRAINING]
        known = {option for command in others for parameter in command.params for option in parameter.opts}
        own = {option for parameter in self.params for option in parameter.opts}
        given = [
            word.partition("=")[0] for word in itertools.takewhile(lambda word: word not in ("--", *TRAINING), args)
        ]
        if misplaced := next((word for word in given if word in known - own and word.startswith("-")), None):
            raise SettingsError(
                f"{misplaced} is an option of the command that is submitted",
                advice=f"give it after --, behind that command, as in: {_EXAMPLE}",
            )
        return super().parse_args(ctx, args)


def submit(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help=f"What to train: {', '.join(TRAINING)}, with its options."),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,...", help="Options of sbatch, without their dashes. Repeatable."),
    ] = None,
    launcher: Annotated[
        Literal["slurm", "local"], typer.Option(help="Queue jobs in Slurm, or train in the background of this machine.")
    ] = "slurm",
    notice: Annotated[
        int, typer.Option(min=1, metavar="SECONDS", help="Save and queue again so long before the time limit.")
    ] = 120,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Train on a cluster: each seed of each stage becomes a job, stage 1 before stage 2.

    A job that reaches its time limit saves, queues itself again and continues.
    Give the command again to submit what is not finished, `conki runs --watch`
    to see who trains where. --jobs N in COMMAND: at most N jobs at the same time.

    conki submit --slurm partition=gpu,time=04:00:00,gpus=1 -- finetune --external mosei --seeds 1..5
    conki submit --slurm partition=gpu,time=1-00 -- ablate --table 5 --seeds 1..5
    conki submit --launcher local -- finetune --seeds 1..5 --jobs 2
    """
    from conki_cli.system.slurm import parse_options

    words = command or []
    _check_command(words, _commands(context))
    screen = screen_for(json)
    taker = _Submitter(screen, words, launcher, parse_options(slurm or []), notice)
    taker.check()
    token = LAUNCHER.set(taker)
    try:
        _call(context, [*words, *(["--dry-run"] if dry_run else [])])
    finally:
        LAUNCHER.reset(token)


def _check_command(words: Sequence[str], known: Container[str]) -> None:
    if not words or words[0] not in TRAINING:
        raise SettingsError(
            f"'{one_line(words[0])[:80]}'" if words else "nothing",
            _instead_of(words[0], known) if words else f"give it after --, as in: {_EXAMPLE}",
            must=f"`conki submit` takes one of {', '.join(TRAINING)}",
        )
    if "--json" in words[1:]:
        raise SettingsError("--json belongs to `conki submit`", advice="give it before --")


def _instead_of(word: str, known: Container[str]) -> str:
    """Say what to do with a word that cannot be submitted."""
    if word == "sweep":
        return "start `conki sweep` itself; several machines may start the same sweep and share its trials"
    if word in known:
        return f"it trains nothing that could become jobs: start `conki {word}` itself"
    return f"name the command first, as in: {_EXAMPLE}"


def _commands(context: typer.Context) -> dict[str, Any]:
    """Return the commands of this program by name."""
    group: Any = context.find_root().command
    return dict(getattr(group, "commands", {}))


def _call(context: typer.Context, words: Sequence[str]) -> None:
    """Run a command of this program."""
    name, *rest = words
    own = _commands(context)[name].make_context(name, rest, parent=context.parent)
    with own:
        own.command.invoke(own)


@dataclass
class _Submitter(Launcher):
    """Submits the plan that a command hands over."""

    screen: "Screen"
    words: Sequence[str]
    launcher: str
    options: dict[str, str]
    notice: int

    def check(self) -> None:
        """Refuse what Slurm does not take, before stores are opened."""
        from conki_cli.experiments.submitting import check_order

        check_order(self._order(1, ()))

    def _order(self, num_jobs: int, track: Sequence[str]) -> "Order":
        from conki_cli.experiments.submitting import Order
        from conki_cli.experiments.workers import threads_each

        threads = threads_each(num_jobs) if self.launcher == "local" else 0
        return Order(tuple(self.words), self.launcher, self.options, self.notice, tuple(track), num_jobs, threads)

    def take(self, handover: Handover) -> None:
        """Show the plan and submit it."""
        from conki_cli.experiments.forecast import describe_plan
        from conki_cli.experiments.submitting import most_at_once
        from conki_cli.experiments.submitting import submit as work
        from conki_cli.reporting.tables.plans import plan_table

        at_once = most_at_once(handover.plan.steps, self.launcher, handover.num_jobs)
        described = describe_plan(handover.plan, num_jobs=at_once)
        left = sum(entry["state"] != "reuse" for entry in described["steps"])
        title = f"{left} of {len(described['steps'])} steps to train, each a job"
        title = f"dry run: {title}, nothing was changed" if handover.dry_run else title
        self.screen.show(*plan_table(described, folder=str(handover.plan.runs.workspace.runs), title=title))
        if handover.dry_run or not left:
            if not left:
                self.screen.say(f"nothing was submitted: `{self._command()}` shows the results")
            self.screen.answer({**described, "submission": None, "jobs": []})
            return
        submission = work(handover.plan, self._order(handover.num_jobs, handover.track), self.screen)
        pid = None
        if submission.launcher == "local":
            from conki_cli.experiments.background import start_locally

            pid = start_locally(submission)
        note_written(str(submission.path))
        self._tell(submission, pid)
        self.screen.answer({**described, "submission": str(submission.path), "pid": pid, "jobs": _jobs_of(submission)})

    def _tell(self, submission: "Submission", pid: int | None) -> None:
        """Say what was started, how to watch it and how to stop it."""
        if pid is not None:
            self.screen.say(f"{len(submission.tasks)} steps are trained in the background by process {pid}")
        for number, job in enumerate(submission.arrays):
            count = sum(task.array == number for task in submission.tasks)
            jobs = f"{count} job{'s' if count > 1 else ''}"
            after = f", each after its stage 1 in array {submission.arrays[0]}" if number else ""
            self.screen.say(f"array {job}: {jobs}{after}")
        stop = f"kill {pid}" if pid is not None else f"scancel {' '.join(submission.arrays)}"
        self.screen.say(f"watch: conki runs --watch; stop: {stop}; logs: {submission.path / 'logs'}")
        self.screen.say(f"when all are finished, `{self._command()}` shows the results")

    def _command(self) -> str:
        return f"conki {' '.join(map(quoted, self.words))}"


def _jobs_of(submission: "Submission") -> list[dict[str, Any]]:
    return [
        {
            "job": submission.job(task) or None,
            "run": task.run,
            "stage": task.stage,
            "seed": task.seed,
            "log": str(submission.log(task)),
        }
        for task in submission.tasks
    ]
