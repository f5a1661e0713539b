"""What `conki prepare` was asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conki_cli.data.extraction.cache import Extraction
from conki_cli.data.store.records import SPLITS

Progress = Callable[[int, str], None]
"""Takes the number of bytes or clips finished since the last call, and a remark."""


def no_progress(count: int, remark: str) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Options:
    """How a source is to be read, where the user says more than which one.

    Attributes:
        format: name of the format; None: recognised from the content.
        labels: `label.csv` to join by id.
        overrides: file or folder per modality that replaces what the source has of it.
        text_column: the column or key with the texts.
        align_words: average frames over each word's interval.
        prefers_english: whether texts of SIMS are taken from text_en where there is one.
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
    """What a reader is asked for.

    Attributes:
        dataset: name of the data set.
        score_range: lowest and highest possible score.
        labels: `label.csv` to join by id: texts, scores, splits or times that the source itself does not have.
        text_column: the column or key with the texts, instead of the reader's own choice.
        align_words: average frames over each word's interval (sequences with times only).
        prefers_english: whether texts of SIMS are taken from text_en where there is one; not when they are translated.
        replaced: modalities that come from another file: what the source has of them does not matter.
        needs_texts: whether clips are of use only with their texts; not where one modality is taken from a file.
        unlabelled: whether these are clips to be scored: scores and splits are neither needed nor read.
        extraction: how features are made of videos.
        progress: told what was read.
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
        """The splits that a source must have."""
        return () if self.unlabelled else SPLITS

    @property
    def takes_english(self) -> bool:
        """Whether texts come from text_en where there is one: SIMS has both, and the paper uses the English ones."""
        return self.prefers_english and is_chinese(self.dataset)


def is_chinese(dataset: str) -> bool:
    """Tell whether a data set is CH-SIMS or CH-SIMS v2, by its name."""
    return dataset.startswith("sims")
