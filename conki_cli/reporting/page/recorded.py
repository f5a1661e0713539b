"""What the seeds of a run recorded of the machine and of the program that trained them."""

from collections.abc import Sequence
from typing import Any

from conki_cli.runs import Run
from conki_cli.system.errors import ConkiError
from conki_cli.system.files import read_json


def environments(run: Run, seeds: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Return what each seed was trained in, the latest last; nothing of a seed whose record is missing or damaged."""
    found = {}
    for seed in seeds:
        try:
            recorded = read_json(run.seed_folder(seed) / "environment.json")
        except ConkiError:
            continue
        if isinstance(recorded, dict):
            earlier = recorded.get("earlier")
            parts = [*(earlier if isinstance(earlier, list) else []), recorded]
            found[seed] = [part for part in parts if isinstance(part, dict)]
    return found
