"""Tasks of a local submission: a process in the background starts one process per task, stage 1 before stage 2."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field

from conki_cli.runs.submissions import AGAIN, JOB, Submission, Task
from conki_cli.system.errors import ConkiError
from conki_cli.system.files import disk_error
from conki_cli.system.locks import find_holder, locked
from conki_cli.system.observer import Observer
from conki_cli.system.programs import command_of

_PAUSE = 0.2  # seconds between two looks at the processes


def start_locally(submission: Submission) -> int:
    """Start the process in the background, which outlives this one and its terminal; return its id.

    Raises:
        ConkiError: it cannot be started.
    """
    log = submission.path / "logs" / "all.log"
    try:
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [*command_of(JOB), str(submission.path)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
    except OSError as error:
        raise disk_error(log, error) from error
    while find_holder(submission.lock) is None:  # until then, nobody could see that the steps are taken
        if process.poll() is not None:
            raise ConkiError(f"the process in the background ended with exit code {process.returncode}", f"see {log}")
        time.sleep(_PAUSE)
    process.returncode = 0  # nobody here waits for it
    return process.pid


def carry_out_locally(submission: Submission, observer: Observer) -> None:
    """Start the tasks of a submission until all have ended; a failed one ends only those that wait for it.

    Raises:
        ConkiError: another process does this already, or tasks failed.
    """
    with locked(submission.lock, what=f"the submission {submission.path.name}"):
        failed = _Background(submission, observer, list(submission.tasks)).run()
    if failed:
        raise ConkiError(
            f"{failed} of {len(submission.tasks)} steps failed or were not started",
            advice=f"see {submission.path / 'logs'}, then give the same command again",
        )


@dataclass
class _Background:
    """Which tasks wait, which run, which failed."""

    submission: Submission
    observer: Observer
    waiting: list[Task]
    running: dict[int, tuple[Task, "subprocess.Popen[bytes]"]] = field(default_factory=dict)
    """By number of the job."""
    failed: int = 0

    def run(self) -> int:
        """Start all; return how many failed or never started."""
        try:
            while self.waiting or self.running:
                self._start()
                time.sleep(_PAUSE)
                self._collect()
        except BaseException:  # a signal, or a task that cannot be started: nobody would watch the others
            self._end()
            raise
        return self.failed

    def _start(self) -> None:
        """Start tasks that wait for nothing, as many as may run."""
        for slot in range(self.submission.num_jobs):
            before = {task.index for task in (*self.waiting, *self._tasks()) if task.array == 0}
            ready = [task for task in self.waiting if task.array == 0 or task.index not in before]
            if slot in self.running or not ready:
                continue
            self.waiting.remove(ready[0])
            self.running[slot] = ready[0], self._process(ready[0], slot)
            self.observer.say(f"{_words_of(ready[0])} started, see {self.submission.log(ready[0])}")

    def _tasks(self) -> list[Task]:
        return [task for task, _ in self.running.values()]

    def _process(self, task: Task, slot: int) -> "subprocess.Popen[bytes]":
        place = [str(self.submission.path), str(task.array), str(task.index), str(slot)]
        env = {**os.environ, "OMP_NUM_THREADS": str(self.submission.threads)}
        with self.submission.log(task).open("ab") as log:
            return subprocess.Popen(
                [*command_of(JOB), *place], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env
            )

    def _collect(self) -> None:
        """Take note of the tasks that have ended."""
        for slot, (task, process) in list(self.running.items()):
            if (code := process.poll()) is None:
                continue
            del self.running[slot]
            if code == AGAIN:
                self.waiting.insert(0, task)
                self.observer.say(f"{_words_of(task)} saved and starts again")
            elif code:
                after = [other for other in self.waiting if task.array == 0 and other.index == task.index]
                self.waiting = [other for other in self.waiting if other not in after]
                self.failed += 1 + len(after)
                how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
                self.observer.say(f"{_words_of(task)} {how}, see {self.submission.log(task)}")
            else:
                self.observer.say(f"{_words_of(task)} is finished")

    def _end(self) -> None:
        """Ask the running tasks to save and to end, and wait for them."""
        for _, process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for _, process in self.running.values():
            process.wait()


def _words_of(task: Task) -> str:
    return f"stage {task.stage}, seed {task.seed} of {os.path.basename(task.run)}"
