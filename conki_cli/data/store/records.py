"""The data model: one utterance as read, a whole corpus as read, one split of a store.

Axes: N clips of a split, L frames of a clip, T frames of all clips, d features per frame.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from conki_cli import MODALITIES
from conki_cli.data.store.arrays import FileArray

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
SCORED = "test"
"""The only split of a store of clips to be scored."""

FRAME_MODALITIES = MODALITIES[1:]
ID_SEPARATOR = "$_$"
"""Separates video and clip in an id, as in the MMSA files: 'video$_$clip'."""

FORMAT = "conki feature store"
"""The `format` attribute of every store."""
SLICE_VALUES = 4 * 2**20
"""Number of values (16 MiB) of frames that are read or written at a time."""

Float32Array = npt.NDArray[np.float32]
SourceArray = npt.NDArray[Any]  # any kind of number; the store holds float32


class Frames(Protocol):
    """The frames of one clip, [L, d]: an array, or an object that reads them from a file on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of frames L, and of features d."""
        ...

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> SourceArray:
        """Read the frames."""
        ...


@dataclass(frozen=True, eq=False)
class Sample:
    """One utterance as read. None or empty frames: the clip lacks that modality."""

    id: str
    text: str
    score: float
    vision: Frames | None = None
    audio: Frames | None = None
    unimodal: Mapping[str, float] = field(default_factory=dict)
    start: float | None = None
    """Where the clip starts in its video, in seconds; None: unknown."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A data set as read: its clips by split, and their origin.

    Attributes:
        dataset: its name.
        score_range: lowest and highest possible score.
        splits: clips of train, valid and test.
        source: name of the file or folder.
        source_format: name of its format.
        source_sha256: SHA-256 of the file; of a folder, over the names and contents of the files that were read.
        source_bytes: size of the files that were read, which limits the sizes that they may declare. 0: no limit.
        repaired: counts per modality of what the reader repaired; for text, also of what could not be repaired.
        notes: warnings, which `--strict` turns into errors.
        remarks: harmless facts: what the reader did, detected or left out.
        padding: per modality the side from which padding was removed, such as "end, by the lengths in the file".
        unlabelled: whether these are clips to be scored: without scores, all in the split `SCORED`.
        extraction: how features were made of videos (`data/extraction/recipe.py`); empty: they came in files.
    """

    dataset: str
    score_range: tuple[float, float]
    splits: Mapping[str, Sequence[Sample]]
    source: str
    source_format: str
    source_sha256: str
    source_bytes: int = 0
    repaired: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    padding: Mapping[str, str] = field(default_factory=dict)
    unlabelled: bool = False
    extraction: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ragged:
    """Sequences of unequal length, back to back: clip i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Any  # FileArray, h5py.Dataset or ndarray, [T, d] float32
    offsets: npt.NDArray[np.int64]  # [N + 1]
    picked: npt.NDArray[np.int64] | None = None
    """Indices of the selected clips, if not all; their places in the file do not change."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Frames of every clip, [N]."""
        lengths = np.diff(self.offsets)
        return lengths if self.picked is None else lengths[self.picked]

    @property
    def width(self) -> int:
        """Features per frame, d."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.picked is None else len(self.picked)

    def __getitem__(self, index: int) -> Float32Array:
        """Read one clip, [L, d]."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.picked is not None:
            index = int(self.picked[index])
        return np.asarray(self.values[self.offsets[index] : self.offsets[index + 1]], dtype=np.float32)

    def pick(self, rows: npt.NDArray[np.int64]) -> "Ragged":
        """Return the clips in these rows."""
        return replace(self, picked=rows if self.picked is None else self.picked[rows])

    def check_unchanged(self) -> None:
        """Refuse everything read so far if the file was changed meanwhile.

        Raises:
            ConkiError: it was.
        """
        if isinstance(self.values, FileArray):
            self.values.file.check_unchanged()


@dataclass(frozen=True, eq=False)
class Utterances:
    """One split: columns of length N, and the ragged frames of every modality with frames."""

    ids: list[str]
    texts: list[str]
    scores: Float32Array | None
    frames: Mapping[str, Ragged]
    unimodal: Mapping[str, Float32Array]
    path: Path | None = None
    """The path of their store."""
    split: str = ""
    order: npt.NDArray[np.int64] | None = None
    """Places of the clips in time, [N], if their ids do not tell them and they are not those of the rows."""
    whole: "Utterances | None" = None
    """The split that these clips were picked from; None: they are the split."""
    picked: npt.NDArray[np.int64] | None = None
    """Their rows in that split."""

    def __len__(self) -> int:
        return len(self.ids)

    def limited(self, count: int) -> "Utterances":
        """Return at most `count` of the clips, spread evenly over the split, in order; 0: all of them."""
        if not 0 < count < len(self):
            return self
        picked = evenly(count, len(self))
        return replace(
            self,
            ids=[self.ids[i] for i in picked],
            texts=[self.texts[i] for i in picked],
            scores=None if self.scores is None else self.scores[picked],
            frames={name: rows.pick(picked) for name, rows in self.frames.items()},
            unimodal={name: values[picked] for name, values in self.unimodal.items()},
            order=None if self.order is None else self.order[picked],
            whole=self.whole or self,
            picked=picked if self.picked is None else self.picked[picked],
        )


def evenly(count: int, total: int) -> npt.NDArray[np.int64]:
    """Return `count` of the numbers 0..total-1, spread evenly, including the first and the last."""
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def video_of(clip_id: str) -> str:
    """Return the video of a clip: the part before the last '$_$', or the whole id."""
    return clip_id.rpartition(ID_SEPARATOR)[0] or clip_id


def is_unicode(text: str) -> bool:
    """Say whether a text can be stored; numpy and old pickles can hold invalid characters."""
    try:
        text.encode().decode()
    except UnicodeError:  # surrogates do not encode, numbers beyond U+10FFFF do not decode
        return False
    return True


def counted(count: int, noun: str) -> str:
    """Render a count for people: (1, "clip") -> '1 clip', (2000, "clip") -> '2,000 clips'."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def in_range(score: float, score_range: tuple[float, float]) -> bool:
    """Say whether a score is a number inside the range, within the rounding of float32."""
    low, high = score_range
    tolerance = 1e-6 * max(abs(low), abs(high))  # labels were float32 in many files
    return math.isfinite(score) and low - tolerance <= score <= high + tolerance
