"""The process that decodes: reads requests as lines of JSON, extracts one clip after the other, answers in JSON.

It may crash, hang or be killed; whoever started it notices. Its address space is limited once everything is loaded, and
it ends with its parent.

The first line is a recipe; every other one is {"path", "start", "stop", "folder", "shown"}. Answers are
{"ready": true}, {"progress": seconds}, {"done": result} and {"failed": reason}.
"""

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from conki_cli.data.extraction.clip import Extractors, Result
from conki_cli.data.extraction.decode import Span
from conki_cli.data.extraction.recipe import Recipe
from conki_cli.system.errors import ConkiError, reason_of

_MEMORY = 3 * 2**30  # bytes that a clip may need on top of what is loaded
_PAUSE = 0.1  # seconds between two answers about the progress
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Serve requests until there are no more."""
    answers = _own_answers()
    _end_with_parent()
    try:
        extractors = Extractors(Recipe.from_json(json.loads(sys.stdin.readline())))
    except ConkiError as error:
        _answer(answers, {"failed": str(error)})
        return
    _limit_memory()
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        _answer(answers, _served(extractors, json.loads(line), answers))


def _served(extractors: Extractors, request: Mapping[str, Any], answers: TextIO) -> dict[str, Any]:
    span = Span(request["start"], math.inf if request["stop"] is None else request["stop"])

    progress = _Progress(answers)
    path, folder = Path(request["path"]), Path(request["folder"])
    try:
        if request["shown"]:
            extractors.show(path, span, request["shown"], folder, progress)
            return {"done": asdict(Result())}
        found = extractors.extract(path, span, folder, progress)
    except ConkiError as error:
        return {"failed": str(error)}
    except MemoryError:
        return {"failed": f"it needs more than {_MEMORY >> 30} GiB of memory: convert it to a smaller size"}
    except OSError as error:
        return {"failed": f"{error.strerror or reason_of(error)}: check the file and the disk"}
    except Exception as error:  # a broken file makes libraries fail in many ways
        return {"failed": f"it cannot be decoded ({reason_of(error)}): convert it with ffmpeg"}
    finally:
        progress.flush()
    return {"done": asdict(found)}


class _Progress:
    """Tells the seconds that were finished, a few times a second at most; 0: it works and nothing was finished yet."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._seconds, self._told = 0.0, -math.inf

    def __call__(self, seconds: float) -> None:
        self._seconds += seconds
        if time.monotonic() - self._told >= _PAUSE:
            self.flush()

    def flush(self) -> None:
        """Tell what was not told yet."""
        _answer(self._answers, {"progress": self._seconds})
        self._seconds, self._told = 0.0, time.monotonic()


def _answer(answers: TextIO, value: Mapping[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _own_answers() -> TextIO:
    """Return the way out for answers; what libraries print goes to stderr instead."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it; elsewhere the end of stdin is noticed
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)


def _limit_memory() -> None:
    """Allow so much memory and not more; no core is dumped."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return
    most = pages * resource.getpagesize() + _MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main()
