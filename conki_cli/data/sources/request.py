"""The requests of `conki prepare` to the readers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conki_cli.data.extraction.cache import Extraction
from conki_cli.data.store.records import SPLITS
from conki_cli.datasets import is_chinese

Progress = Callable[[int, str], None]
"""A function of the number of bytes or clips finished since the last call, and a label."""


def no_progress(count: int, remark: str) -> None:
    """Ignore the progress."""


@dataclass(frozen=True)
class Options:
    """The user's options for reading a source.

    Attributes:
        format: name of the format; None: detect it from the content.
        labels: `label.csv` to join by id.
        overrides: file or folder per modality that replaces the source's.
        text_column: the column or key with the texts.
        align_words: average frames over each word's interval.
        prefers_english: whether texts of SIMS come from text_en if present.
        unlabelled: whether these are clips to be scored: scores and splits are neither needed nor read.
        extraction: how features are made of videos; None: in the usual way.
    """

    format: str | None = None
    labels: Path | None = None
    overrides: Mapping[str, Path] = field(default_factory=dict)
    text_column: str | None = None
    align_words: bool = False
    prefers_english: bool = True
    unlabelled: bool = False
    extraction: Extraction | None = None


@dataclass(frozen=True)
class Request:
    """A request to a reader.

    Attributes:
        dataset: name of the data set.
        score_range: lowest and highest possible score.
        labels: `label.csv` to join by id: texts, scores, splits or times that the source lacks.
        text_column: the column or key with the texts, instead of the reader's default.
        align_words: average frames over each word's interval (sequences with times only).
        prefers_english: whether texts of SIMS come from text_en if present; False if they are translated.
        replaced: modalities that come from another file, so that the source's are ignored.
        needs_texts: whether clips need their texts; False if only one modality is taken from a file, or if their texts
            come from another one.
        unlabelled: whether these are clips to be scored: scores and splits are neither needed nor read.
        extraction: how features are made of videos.
        progress: is notified of what was read.
    """

    dataset: str
    score_range: tuple[float, float]
    labels: Path | None = None
    text_column: str | None = None
    align_words: bool = False
    prefers_english: bool = True
    replaced: frozenset[str] = frozenset()
    needs_texts: bool = True
    unlabelled: bool = False
    extraction: Extraction | None = None
    progress: Progress = no_progress

    @property
    def needed_splits(self) -> tuple[str, ...]:
        """The required splits of a source."""
        return () if self.unlabelled else SPLITS

    @property
    def takes_english(self) -> bool:
        """Whether texts come from text_en if present: SIMS has both, and the paper uses the English ones."""
        return self.prefers_english and is_chinese(self.dataset)
