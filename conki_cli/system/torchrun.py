"""This process as one of several that torchrun started for one training, and notes for the `conki` that started it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conki_cli.system.files import write_json

NOTES = "CONKI_RANK_NOTES"
"""Variable that names the folder in which ranks note their process, if `conki --gpus` started torchrun."""


@dataclass(frozen=True)
class Seat:
    """The place of a process among those of one training."""

    rank: int
    count: int
    """Processes on all machines."""
    local_rank: int
    local_count: int
    """Processes on this machine."""


def seat(variables: Mapping[str, str] = os.environ) -> Seat | None:
    """Return the seat that torchrun gave this process; None without torchrun, or if it started only this process."""
    if "TORCHELASTIC_RUN_ID" not in variables:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    found = Seat(*(int(variables[name]) for name in names))
    return found if found.count > 1 else None


def leave_note(rank: int, **facts: int | str) -> None:
    """Note the process of a rank, what it trains, and at its end its exit code; the last note counts."""
    if folder := os.environ.get(NOTES):
        write_json(Path(folder) / f"{rank}.json", {"pid": os.getpid(), **facts})


def notes(folder: Path) -> dict[int, dict[str, Any]]:
    """Return what the ranks of this machine noted, by rank."""
    found: dict[int, dict[str, Any]] = {}
    for path in folder.glob("[0-9]*.json"):
        found[int(path.stem)] = json.loads(path.read_text(encoding="utf-8"))
    return found
