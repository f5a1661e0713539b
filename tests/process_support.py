"""Processes of their own, which start as from a terminal however the test runner was started."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = 600.0
"""When a process counts as stuck; far more than a loaded machine needs."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def as_from_a_terminal() -> None:
    """Give every signal its default action and block none; to be called in the child.

    `nohup`, a shell's `&` and many CI systems start the test runner with some signals ignored, which is inherited, and
    which the program rightly respects.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def started(
    *words: str, space: Path | None = None, prepare: Callable[[], None] = as_from_a_terminal
) -> Iterator[subprocess.Popen[str]]:
    """Start Python with these arguments; kill it at the end if it still runs, so that a failed test leaves nothing.

    Args:
        words: What follows `python` on the command line.
        space: The workspace.
        prepare: What the child does before it becomes the program.
    """
    env = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    env.pop("CONKI_WORKSPACE", None)
    if space is not None:
        env["CONKI_WORKSPACE"] = str(space)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *words], env=env, text=True, stdout=pipe, stderr=pipe, preexec_fn=prepare
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def finished(
    *words: str, space: Path | None = None, prepare: Callable[[], None] = as_from_a_terminal
) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of `started`."""
    with started(*words, space=space, prepare=prepare) as process:
        out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err
