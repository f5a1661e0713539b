"""How `conki submit` gets the plan of the command that it submits."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from conki_cli.experiments.planning import Plan


@dataclass(frozen=True)
class Handover:
    """What a command that trains would carry out."""

    plan: "Plan"
    num_jobs: int
    dry_run: bool
    track: Sequence[str]


class Launcher(Protocol):
    """Takes the plan of a command in place of the command."""

    def take(self, handover: Handover) -> None:
        """Submit a plan, or show what would be submitted."""


LAUNCHER: ContextVar[Launcher | None] = ContextVar("launcher", default=None)
"""Who takes the plans of the running command; None: the command carries them out."""


def handed_over(plan: "Plan", *, num_jobs: int, dry_run: bool, track: Sequence[str]) -> bool:
    """Give a plan to the launcher; say whether there is one."""
    launcher = LAUNCHER.get()
    if launcher is not None:
        launcher.take(Handover(plan, num_jobs, dry_run, track))
    return launcher is not None
