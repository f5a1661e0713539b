"""How a setting is declared."""

from dataclasses import dataclass, field
from typing import Any

WIDEST, DEEPEST, LONGEST_TRAINING = 65_536, 512, 100_000
"""Bounds of widths, of numbers of layers and of epochs: far above what is of use, low enough to catch a slip."""


def setting(default: Any, help_text: str, **limits: Any) -> Any:
    """Declare a setting: `low`/`above` bound numbers, `high` too, `choices` lists the words allowed."""
    return field(default=default, metadata={"help": help_text, **limits})


@dataclass(frozen=True)
class BaselineSection:
    """The common type of the baselines' own sections, which have no setting in common."""

    @property
    def epochs_without_scores(self) -> int:
        """First epochs of a stage that learn without scores; a stage must have more."""
        return 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to say of these settings before training, one line each."""
        return ()
