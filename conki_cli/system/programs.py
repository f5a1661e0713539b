"""Modules as programs of their own."""

import sys
from pathlib import Path

import conki_cli


def command_of(module: str) -> list[str]:
    """Return the command that runs a module with this Python.

    Nothing is imported from the current folder, in which somebody else's torch.py may lie, unless the package lies
    there.
    """
    is_here = Path(conki_cli.__file__).resolve().parent.parent == Path.cwd()
    return [sys.executable, *([] if is_here else ["-P"]), "-m", module]
