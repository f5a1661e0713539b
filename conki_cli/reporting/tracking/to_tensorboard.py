"""TensorBoard: one folder of event files per seed, in the workspace."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from conki_cli.reporting.tracking.tracker import Library, Subject
from conki_cli.system.errors import quoted


def load() -> Library:
    """Import TensorBoard and PyTorch's writer of its files."""
    writer = import_module("torch.utils.tensorboard").SummaryWriter
    return Library(
        start=lambda subject: _Record(writer, subject),
        where=lambda workspace: f"tensorboard --logdir {quoted(workspace.root / 'tensorboard')}",
    )


class _Record:
    """The event file of a seed; it hides the scalars of earlier starts, which it has too."""

    def __init__(self, writer: Any, subject: Subject) -> None:
        folder = subject.workspace.root / "tensorboard" / subject.name
        self._writer = writer(str(folder), purge_step=0, flush_secs=10)
        self._last = 0
        rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in subject.facts.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the values of an epoch."""
        self._last = epoch
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)

    def finish(self, results: Mapping[str, float], *, is_finished: bool) -> None:
        """Record the results at the last epoch and close the file."""
        self.log(self._last, results)
        self._writer.close()


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
