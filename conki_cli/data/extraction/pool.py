"""The processes that decode: one clip each at a time; one that crashes, hangs or ends takes only its clip with it."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import conki_cli
from conki_cli.data.extraction.recipe import Recipe
from conki_cli.system.errors import SettingsError

_GRACE = 120.0  # seconds without progress after which a clip is stopped
_LOADING = 1800.0  # seconds in which the extractors must be loaded
_CONVERT = "convert it with ffmpeg, or leave it out"


@dataclass(frozen=True)
class Task:
    """A clip to be extracted into an empty folder; `stop` None: to the end.

    With `shown`, numbers of rows, only the pictures of these are written, with the face in each.
    """

    key: str
    path: Path
    start: float
    stop: float | None
    folder: Path
    shown: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A task that came to its end: its result, or why it failed."""

    task: Task
    result: dict[str, Any] | None
    failure: str = ""


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    recipe: Recipe,
    tasks: Sequence[Task],
    workers: int,
    *,
    progress: Callable[[float], None] = lambda seconds: None,
    grace: float = _GRACE,
    loading: float = _LOADING,
) -> Iterator[Ended]:
    """Extract clips in processes of their own, and yield each as it ends, in any order.

    Args:
        recipe: what to extract.
        tasks: the clips.
        workers: how many processes; results do not depend on it.
        progress: told the seconds of sound and pictures that were finished.
        grace: seconds after which a clip is stopped that comes no further.
        loading: seconds in which the extractors must be loaded.

    Raises:
        SettingsError: the extractors cannot be loaded, or not in time.
    """
    waiting = deque(tasks)
    with selectors.DefaultSelector() as selector:
        crew = [_Worker(recipe, selector) for _ in range(min(workers, len(tasks)))]
        try:
            while waiting or any(worker.task is not None for worker in crew):
                for number, worker in enumerate(crew):
                    if worker.task is None and waiting:
                        if not worker.is_alive:
                            crew[number] = worker = _Worker(recipe, selector)
                        worker.begin(waiting.popleft())
                for key, _ in selector.select(timeout=0.5):
                    worker, before = key.data, key.data.done
                    yield from worker.heard()
                    progress(max(0.0, worker.done - before))
                for worker in crew:
                    yield from worker.overdue(grace, loading)
        finally:
            for worker in crew:
                worker.kill()


class _Worker:
    """One process, and what it is at."""

    def __init__(self, recipe: Recipe, selector: selectors.BaseSelector) -> None:
        places = [str(Path(conki_cli.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        path = os.pathsep.join(place for place in places if place)
        # -P: import nothing from the current folder, in which somebody else's av.py may lie.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "conki_cli.data.extraction.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **single, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the program, which ends its workers
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._selector = selector
        selector.register(self._process.stdout, selectors.EVENT_READ, self)
        self._unread = b""
        self._last_sign = time.monotonic()
        self.done = 0.0  # seconds of its clip
        self._is_ready = False
        self.is_alive = True
        self.task: Task | None = None
        self._tell(recipe.to_json())

    def begin(self, task: Task) -> None:
        """Give it a clip."""
        self.task, self.done = task, 0.0
        if self._is_ready:
            self._last_sign = time.monotonic()
        request = {"path": str(task.path), "start": task.start, "stop": task.stop, "folder": str(task.folder)}
        self._tell({**request, "shown": task.shown})

    def _tell(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: `heard` says so
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()

    def heard(self) -> Iterator[Ended]:
        """Read what it says; yield the clip that ended by that."""
        assert self._process.stdout is not None
        data = self._process.stdout.read()
        if data is None:
            return
        if not data:
            yield from self._ended(f"the decoder {self._cause()}: {_CONVERT}")
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            yield from self._answered(json.loads(line))

    def _answered(self, answer: dict[str, Any]) -> Iterator[Ended]:
        self._last_sign = time.monotonic()
        if "ready" in answer:
            self._is_ready = True
        elif not self._is_ready:
            raise SettingsError(answer["failed"])
        elif "progress" in answer:
            self.done += answer["progress"]
        elif self.task is not None:
            task, self.task = self.task, None
            yield Ended(task, answer.get("done"), answer.get("failed", ""))

    def overdue(self, grace: float, loading: float) -> Iterator[Ended]:
        """Kill it if it has come no further for too long.

        Raises:
            SettingsError: that was before its first clip.
        """
        silent = time.monotonic() - self._last_sign
        if self.task is None or silent <= (grace if self._is_ready else loading):
            return
        if not self._is_ready:
            raise SettingsError(
                f"the extractors must be loaded within {loading / 60:.0f} minutes but were not",
                advice="use fewer --workers, or name smaller models",
            )
        yield from self._ended(f"decoding came no further for {grace:.0f} seconds and was stopped: {_CONVERT}")

    def _ended(self, why: str) -> Iterator[Ended]:
        self.kill()
        task, self.task = self.task, None
        if task is not None:
            yield Ended(task, None, why)

    def _cause(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"ended (exit code {code})"
        return f"crashed ({signal.Signals(-code).name})"

    def kill(self) -> None:
        """End the process, whatever it does."""
        if not self.is_alive:
            return
        self.is_alive = False
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._selector.unregister(self._process.stdout)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(OSError):  # what was not read yet
            self._process.stdin.close()
