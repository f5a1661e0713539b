"""The log of a training: one JSON line per epoch in a seed's metrics.jsonl."""

import json
from pathlib import Path

from conki_cli.system.files import append_line, to_json
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.readable import unread


class MetricsLog(Observer):
    """Appends every epoch to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def epoch(self, training: Training, epoch: Epoch) -> None:
        """Write number, losses, validation metrics and seconds of an epoch."""
        line = {
            "epoch": epoch.number,
            "losses": epoch.losses,
            "validation": epoch.metrics,
            "best": epoch.is_best,
            "seconds": round(epoch.seconds, 3),
        }
        append_line(self.path, to_json(line, indent=None))


def logged_epochs(path: Path) -> list[Epoch]:
    """Return the epochs of a log, those whose line is whole; none where there is no log.

    Raises:
        ConkiError: the system cannot read the file.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unread(path, error) from error
    return [epoch for epoch in map(_parsed, lines) if epoch is not None]


def _parsed(line: str) -> Epoch | None:
    """Return what a line says; None where it is damaged."""
    try:
        found = json.loads(line)
        losses, metrics = dict(found["losses"]), dict(found["validation"])
        return Epoch(int(found["epoch"]), losses, metrics, float(found.get("seconds", 0.0)), bool(found.get("best")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
