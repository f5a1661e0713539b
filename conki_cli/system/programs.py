"""Modules as programs of their own."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import conki_cli

_SAFE = "PYTHONSAFEPATH"


def command_of(module: str) -> list[str]:
    """Return the command that runs a module with this Python.

    Nothing is imported from the current folder, in which somebody else's torch.py may lie, unless the package lies
    there.
    """
    is_here = Path(conki_cli.__file__).parent.parent.resolve() == Path.cwd()
    return [sys.executable, *([] if is_here else ["-P"]), "-m", module]


@contextlib.contextmanager
def without_current_folder() -> Iterator[None]:
    """Let a Python that is started import nothing from the current folder, but what this one would import."""
    before = os.environ.get(_SAFE)
    os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE]
        else:
            os.environ[_SAFE] = before
