"""What is left of a training in several processes when one of them was killed."""

import contextlib
from collections.abc import Iterator

from conki_cli.runs.folders import Run
from conki_cli.system.errors import ConkiError
from conki_cli.system.readable import status_of


class LostRankError(ConkiError):
    """Another process of the training ended, so that this one cannot continue."""


class KilledRankError(LostRankError):
    """It left no reason."""


@contextlib.contextmanager
def saying_what_is_kept(run: Run, seed: int) -> Iterator[None]:
    """Add to the error about a killed process what is kept of a seed.

    Raises:
        KilledRankError: a process was killed during the block.
    """
    try:
        yield
    except KilledRankError as error:
        raise KilledRankError(error.found, what_is_kept(run, seed)) from error.__cause__


def what_is_kept(run: Run, seed: int) -> str:
    """Say what the same command does with an interrupted seed."""
    if any(status_of(run.checkpoint(seed, name)) is not None for name in ("last", "previous")):
        return "the last checkpoint is kept; give the same command again to continue"
    return f"seed {seed} had no checkpoint yet; give the same command again to start it from scratch"
