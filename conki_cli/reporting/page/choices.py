"""The options of a report."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PageChoices:
    """The options of a report."""

    split: str = "test"
    protocol: str = "all"
    """See `metrics.sentiment_metrics`."""
    threshold: float | None = None
    """The score that separates two classes, instead of the runs' own."""
    with_texts: bool = True
    """Whether the report has the texts of the clips, whose licence may forbid sharing them."""
    figures: Sequence[str] | None = None
    """Kinds of figures; None: those that fit the runs and are not slow."""
