"""How a setting is declared."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

WIDEST, DEEPEST, LONGEST_TRAINING = 65_536, 512, 100_000
"""Bounds of widths, numbers of layers and epochs: far above useful values, low enough to catch a typo."""


Reader = Literal["adapters", "whole", "stage 2", "baselines"]
"""Who reads a setting: ConKI's stage 1, a stage 1 that trains the whole network, ConKI's stage 2, the baselines."""
ALL: tuple[Reader, ...] = ("adapters", "whole", "stage 2", "baselines")
FIRST_VERSION = "0.1"


def setting(
    default: Any,
    help_text: str,
    *,
    flag: str = "",
    read_by: Collection[Reader] = ALL,
    learnt: bool = True,
    of_results: bool = False,
    since: str = FIRST_VERSION,
    **limits: Any,
) -> Any:
    """Declare a setting; this is the only place that describes it (`config/declarations.py` reads it).

    Args:
        default: its value if no source gives one.
        help_text: one line, for `conki settings` and, if there is a flag, for the help pages.
        flag: its option, such as `--precision`.
        read_by: who reads it; for all others it is reset and does not count as a difference.
        learnt: whether it changes what a run learns, and so the run's name.
        of_results: whether it can also be chosen for a finished run.
        since: the first version that has it; at its default it does not change the name of an older run.
        limits: `low` or `above`, and `high`, bound numbers; `choices` lists the words allowed,
            `pattern` is the form of a word.
    """
    facts = {"flag": flag, "read_by": read_by, "learnt": learnt, "of_results": of_results, "since": since}
    return field(default=default, metadata={"help": help_text, **facts, **limits})


@dataclass(frozen=True)
class BaselineSection:
    """The base class of the baselines' own sections, which share no setting."""

    @property
    def epochs_without_scores(self) -> int:
        """Number of first epochs of a stage that learn without scores; a stage must have more epochs."""
        return 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about these settings before training, one line each."""
        return ()
