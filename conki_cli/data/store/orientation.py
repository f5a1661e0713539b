"""Detect frames that are all stored as [features, frames] instead of [frames, features], and transpose them.

Axes: L frames of a clip, d features per frame.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conki_cli.data.store.records import FRAME_MODALITIES, SPLITS, Corpus, Frames, Sample, SourceArray

_FEWEST = 3  # arrays of two clips can have equal rows by chance


@dataclass(frozen=True, eq=False)
class Transposed:
    """Frames [L, d] that their source stores as [d, L]."""

    frames: Frames

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of frames L, and of features d."""
        return self.frames.shape[::-1]

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> SourceArray:
        return np.asarray(np.asarray(self.frames).T, dtype=dtype)


def upright(corpus: Corpus) -> tuple[Corpus, list[str]]:
    """Transpose the modalities whose clips are all [features, frames]; return the corpus and warnings.

    This applies if all clips have the same number of rows and at least half of them differ in their columns: as
    [frames, features] they would not have a common width.
    """
    warnings = []
    for modality in FRAME_MODALITIES:
        found = [getattr(sample, modality) for split in SPLITS for sample in corpus.splits[split]]
        shapes = [tuple(frames.shape) for frames in found if frames is not None]
        if not is_transposed(shapes):
            continue
        columns = [shape[1] for shape in shapes]
        warnings.append(
            f"{modality} was transposed: every clip has {shapes[0][0]} rows and {min(columns)} to {max(columns)} "
            "columns, so rows are features and columns are frames; save [frames, features] (array.T) to avoid "
            "this warning"
        )
        splits = {name: [_turned(sample, modality) for sample in samples] for name, samples in corpus.splits.items()}
        corpus = dataclasses.replace(corpus, splits=splits)
    return corpus, warnings


def is_transposed(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Say whether arrays can only be [features, frames]; clips without values are ignored."""
    filled = [shape for shape in shapes if 0 not in shape]
    if len(filled) < _FEWEST or any(len(shape) != 2 for shape in filled):
        return False
    if len({rows for rows, _ in filled}) > 1 or filled[0][0] == 1:
        return False
    return 2 * _most_common(columns for _, columns in filled) <= len(filled)


def looks_transposed(shapes: Sequence[tuple[int, int]]) -> bool:
    """Say whether most arrays agree in their rows and differ in their columns, so that a hint may help."""
    rows, columns = zip(*shapes, strict=True)
    return 2 * _most_common(rows) > len(shapes) >= 2 * _most_common(columns)


def _most_common(values: Any) -> int:
    return max(Counter(values).values())


def _turned(sample: Sample, modality: str) -> Sample:
    frames = getattr(sample, modality)
    if frames is None or len(frames.shape) != 2:
        return sample
    changes: dict[str, Any] = {modality: Transposed(frames)}
    return dataclasses.replace(sample, **changes)
