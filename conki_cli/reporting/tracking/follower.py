"""One tracker at work in a thread of its own, so that a slow or broken one never holds up a training."""

import queue
import threading
from collections.abc import Callable, Mapping

from conki_cli.reporting.tracking.tracker import Subject, Tracker
from conki_cli.system.errors import reason_of
from conki_cli.system.observer import Training

Call = Callable[[], None]


class Follower:
    """Hands calls to a tracker in order, until one fails; then it takes no more."""

    def __init__(self, name: str, start: Callable[[Subject], Tracker]) -> None:
        self.name = name
        self.failure = ""
        """Why the tracker is not followed any more; empty while all is well."""
        self._start = start
        self._trackers: dict[Training, Tracker] = {}
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"track-{name}", daemon=True)
        self._thread.start()

    def begin(self, subject: Subject) -> None:
        """Begin a training."""

        def call() -> None:
            self._trackers[subject.training] = self._start(subject)

        self._calls.put(call)

    def log(self, training: Training, epoch: int, values: Mapping[str, float]) -> None:
        """Record the values of an epoch of a training that was begun."""
        self._calls.put(lambda: self._trackers[training].log(epoch, values))

    def finish(self, training: Training, results: Mapping[str, float], *, is_finished: bool) -> None:
        """End a training that was begun."""
        self._calls.put(lambda: self._trackers.pop(training).finish(results, is_finished=is_finished))

    def close(self, seconds: float) -> None:
        """Wait until everything is recorded, but not longer than some seconds."""
        self._calls.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive() and not self.failure:
            self.failure = f"it was still busy {seconds:g} s after the training"

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self.failure:
                continue
            try:
                call()
            except BaseException as error:  # a library may raise anything, SystemExit too: the training goes on
                self.failure = f"{type(error).__name__}: {reason_of(error)}"
