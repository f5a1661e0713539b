"""The content of a report, before it is rendered. Axes: N clips, S seeds of a system."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conki_cli.reporting.tables.grid import Grid
from conki_cli.system.errors import quoted

MARK = '<meta name="generator" content="conki">'
"""Stands near the beginning of every report."""


@dataclass(frozen=True)
class Sheet:
    """A table of words: the names of its columns, and rows whose first cell names them."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    has_numbers: bool = False
    """Whether all but the first column are numbers, flush right."""
    merges: bool = False
    """Whether what all columns have in common is said once."""


@dataclass(frozen=True)
class Headline:
    """One system in short, or one metric where there is one system."""

    label: str
    value: str
    deviation: str
    """What stands behind ±; empty with one seed."""
    about: Sequence[str]


@dataclass(frozen=True)
class Figure:
    """A picture, or why there is none."""

    kind: str
    title: str
    caption: str
    svg: bytes = b""
    problem: str = ""


@dataclass(frozen=True)
class Predictor:
    """A system whose predictions the table of clips shows."""

    label: str
    seeds: Sequence[int]


@dataclass(frozen=True)
class Clip:
    """A line of the table of clips; predictions and errors by system."""

    id: str
    text: str
    score: float
    means: Sequence[float]
    """Over the seeds."""
    errors: Sequence[float]
    """Of the means; absolute, in what MAE measures: with the rules of SIMS, within -1..1."""
    by_seed: Sequence[Sequence[float]]


@dataclass(frozen=True)
class ClipTable:
    """All clips of a split, those with the largest error of the first system first."""

    systems: Sequence[Predictor]
    clips: Sequence[Clip]
    has_texts: bool
    width: float
    """Of the range of the scores."""


@dataclass(frozen=True)
class Recipe:
    """How one run is made again."""

    label: str
    run: str
    commands: Sequence[str]
    """As they were given."""
    toml: str
    """Every setting."""

    @property
    def file(self) -> str:
        """The name of a file of its settings, as a shell reads it."""
        return quoted(f"{self.run}.toml")


@dataclass(frozen=True)
class Report:
    """Everything that a report says."""

    title: str
    subtitle: str
    headlines: Sequence[Headline]
    summary: str
    cautions: Sequence[tuple[str, str]]
    """What each is about, and what it says."""
    grid: Grid
    training: Sheet
    tests: Sequence[Sheet]
    tests_note: Sequence[str]
    figures: Sequence[Figure]
    clips: ClipTable
    differing: Sheet | None
    versions: Sheet
    data: Sheet
    recipes: Sequence[Recipe]
    notes: Mapping[str, str]
    """Remarks below a section, by its name."""
