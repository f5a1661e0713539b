"""What a report is to hold."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PageChoices:
    """What a report is to hold."""

    split: str = "test"
    protocol: str = "all"
    """See `metrics.sentiment_metrics`."""
    threshold: float | None = None
    """What separates two classes, instead of what the runs say."""
    with_texts: bool = True
    """Whether the texts of the clips are in it: licences of data may forbid to pass them on."""
    figures: Sequence[str] | None = None
    """Kinds of figures; None: those that fit the runs and are not slow."""
