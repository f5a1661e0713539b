"""trackio: a local database, or what its variables TRACKIO_DIR, TRACKIO_SPACE_ID and TRACKIO_SERVER_URL name."""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from conki_cli.reporting.tracking.tracker import PROJECT, Library, Subject


def load() -> Library:
    """Import trackio."""
    trackio = import_module("trackio")
    return Library(start=lambda subject: _Record(trackio, subject), where=lambda _: f"trackio show --project {PROJECT}")


class _Record:
    """A run of trackio."""

    def __init__(self, trackio: ModuleType, subject: Subject) -> None:
        self._run: Any = trackio.init(
            project=PROJECT,
            name=subject.name,
            group=subject.training.run,
            config=subject.facts,
            embed=False,
        )

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the values of an epoch."""
        self._run.log(dict(values), step=epoch)

    def finish(self, results: Mapping[str, float], *, is_finished: bool) -> None:
        """Record the results and end the run."""
        if results:
            self._run.log(dict(results))
        self._run.finish()
