"""What was submitted (`conki submit`): one folder per submission, with its tasks and the jobs that carry them out."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conki_cli.runs.folders import Run
from conki_cli.system.errors import ConkiError, Kind
from conki_cli.system.files import disk_error, read_json, write_json
from conki_cli.system.locks import lock_beside
from conki_cli.system.workspace import Workspace

SCHEMA = 1
JOB = "conki_cli.cli.job"
"""The program of a job: `python -m conki_cli.cli.job SUBMISSION ARRAY INDEX`."""
AGAIN = 75
"""Exit code of a job that saved because its time is nearly up (SIGUSR1), and that is to be started again."""


@dataclass(frozen=True)
class Task:
    """One step of a plan as plain data; its configuration is a file beside it."""

    array: int
    """0 waits for nothing; a task of any other array waits for the task of the same index in array 0."""
    index: int
    run: str
    """The run's folder."""
    stage: int
    seed: int
    first: str | None
    encoder: str
    stores: Mapping[str, str]
    data: Mapping[str, str]

    @property
    def name(self) -> str:
        """How its log is called."""
        return f"{self.array}_{self.index}"

    @property
    def is_finished(self) -> bool:
        """Whether its seed is trained."""
        return Run(Path(self.run)).seed_result(self.seed) is not None


@dataclass(frozen=True)
class Submission:
    """A command that was submitted."""

    path: Path
    command: tuple[str, ...]
    launcher: str
    """slurm or local."""
    tasks: tuple[Task, ...]
    track: tuple[str, ...] = ()
    num_jobs: int = 1
    """Tasks that run at the same time."""
    threads: int = 0
    """Of one local task."""
    arrays: tuple[str, ...] = ()
    """Slurm's id of every array, once they are queued."""

    @property
    def file(self) -> Path:
        """The file that this is stored in."""
        return self.path / "submission.json"

    @property
    def lock(self) -> Path:
        """The lock of the process that carries out the tasks of a local submission."""
        return lock_beside(self.file)

    def config_path(self, task: Task) -> Path:
        """Return the file with the configuration of a task's run."""
        return self.path / f"{Path(task.run).name}.toml"

    def log(self, task: Task) -> Path:
        """Return the file that gets what a task says."""
        return self.path / "logs" / f"{task.name}.log"

    def task(self, array: int, index: int) -> Task:
        """Return a task by its place.

        Raises:
            ConkiError: there is none.
        """
        for task in self.tasks:
            if (task.array, task.index) == (array, index):
                return task
        raise ConkiError(f"{self.file} has no task {array}_{index}", advice="submit the same command again")

    def job(self, task: Task) -> str:
        """Return Slurm's id of a task's job, such as `12_3`; empty without Slurm."""
        return f"{self.arrays[task.array]}_{task.index}" if task.array < len(self.arrays) else ""

    def write(self) -> None:
        """Write it into its folder."""
        facts = {name: value for name, value in asdict(self).items() if name != "path"}
        write_json(self.file, {"schema": SCHEMA, **facts})


def read_submission(path: Path) -> Submission:
    """Read the submission in a folder.

    Raises:
        ConkiError: there is none, or it is damaged.
    """
    file = path / "submission.json"
    facts = read_json(file)
    try:
        if facts.pop("schema") != SCHEMA:
            raise ConkiError(f"{file} was written by a newer version", "install that one", kind=Kind.NEWER)
        tasks = tuple(Task(**task) for task in facts.pop("tasks"))
        lists: dict[str, Any] = {name: tuple(facts.pop(name)) for name in ("command", "track", "arrays")}
        return Submission(path, tasks=tasks, **lists, **facts)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ConkiError(
            f"{file} does not describe a submission", "submit the command again", kind=Kind.DAMAGED
        ) from error


def submissions(workspace: Workspace) -> Iterator[Submission]:
    """Yield every readable submission of a workspace, the newest first."""
    for path in sorted(workspace.jobs.glob("[!.]*"), key=lambda path: path.name, reverse=True):
        with contextlib.suppress(ConkiError):
            yield read_submission(path)


def new_folder(workspace: Workspace, command: str) -> Path:
    """Make the folder of a submission, named after the time and the command."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}"
    for number in range(1, 1000):
        path = (workspace.jobs / (stem if number == 1 else f"{stem}-{number}")).absolute()
        try:
            (path / "logs").mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise disk_error(path, error) from error
        return path
    raise ConkiError(f"{workspace.jobs} has too many submissions of this second", advice="try again")


def unfinished(workspace: Workspace) -> list[tuple[Submission, Task]]:
    """Return every submitted task whose seed is not trained; of several for one seed the newest."""
    found: dict[tuple[str, int], tuple[Submission, Task]] = {}
    for submission in submissions(workspace):
        for task in submission.tasks:
            found.setdefault((task.run, task.seed), (submission, task))
    return [pair for pair in found.values() if not _is_finished(pair[1])]


def _is_finished(task: Any) -> bool:
    try:
        return bool(task.is_finished)
    except ConkiError:  # a damaged result
        return False
