"""The log of a training: one JSON line per epoch in a seed's metrics.jsonl."""

from pathlib import Path

from conki_cli.system.files import append_line, to_json
from conki_cli.system.observer import Epoch, Observer, Training


class MetricsLog(Observer):
    """An observer that appends every epoch to a file."""

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
