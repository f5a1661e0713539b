"""What a data set is made of: one utterance as read, a whole corpus as read, one split of a store.

Axes: N clips of a split, L frames of a clip, T frames of all clips, d features per frame.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from conki_cli import MODALITIES
from conki_cli.data.store.arrays import FileArray

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
SCORED = "test"
"""The one split of a store of clips to be scored."""
PUBLISHED_SIZES = {"mosi": (1284, 229, 686), "mosei": (16326, 1871, 4659), "sims": (1368, 456, 457)}
"""Clips in train, valid and test as published."""
PUBLISHED_LOST_TEXTS = {"mosei": 28}
"""Texts that were published with U+FFFD."""
KNOWN_RANGES: dict[str, tuple[float, float]] = {
    "mosi": (-3, 3),
    "mosei": (-3, 3),
    "sims": (-1, 1),
    "simsv2": (-1, 1),
    "demo": (-3, 3),
    "demo-external": (-3, 3),
}
"""Lowest and highest score of the data sets that conki knows by name."""

FRAME_MODALITIES = MODALITIES[1:]
ID_SEPARATOR = "$_$"
"""Stands between video and clip in an id, as in the MMSA files: 'video$_$clip'."""

FORMAT = "conki feature store"
"""The `format` attribute of every store."""
SLICE_VALUES = 4 * 2**20
"""Frames are moved this many values, 16 MiB, at a time."""

Float32Array = npt.NDArray[np.float32]
SourceArray = npt.NDArray[Any]  # of any kind of number; the store keeps float32


class Frames(Protocol):
    """The frames of one clip, [L, d]: an array, or something that reads them from a file when it is asked for one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of frames L, and of features d."""
        ...

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> SourceArray:
        """Read the frames."""
        ...


@dataclass(frozen=True, eq=False)
class Sample:
    """One utterance as read. None or no frames at all: the clip has nothing of that modality."""

    id: str
    text: str
    score: float
    vision: Frames | None = None
    audio: Frames | None = None
    unimodal: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Corpus:
    """A data set as read: its clips by split, and where they came from.

    Attributes:
        dataset: its name.
        score_range: lowest and highest possible score.
        splits: clips of train, valid and test.
        source: name of the file or folder.
        source_format: name of its format.
        source_sha256: SHA-256 of the file; of a folder, over the names and contents of the files that were read.
        source_bytes: size of the files that were read; bounds what they may declare. 0: not bounded.
        repaired: counts per modality of what the reader mended; of text, also what could not be mended.
        notes: warnings; `--strict` makes errors of them.
        remarks: what the reader did, understood or left out that is no reason to worry.
        padding: per modality the side that padding was removed from, such as "end, by the lengths in the file".
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
    """Sequences of unequal length behind each other: clip i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Any  # FileArray, h5py.Dataset or ndarray, [T, d] float32
    offsets: npt.NDArray[np.int64]  # [N + 1]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Frames of every clip, [N]."""
        return np.diff(self.offsets)

    @property
    def width(self) -> int:
        """Features per frame, d."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Float32Array:
        """Read one clip, [L, d]."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return np.asarray(self.values[self.offsets[index] : self.offsets[index + 1]], dtype=np.float32)

    def check_unchanged(self) -> None:
        """Refuse what was read so far if its file was written into meanwhile.

        Raises:
            ConkiError: it was.
        """
        if isinstance(self.values, FileArray):
            self.values.file.check_unchanged()


@dataclass(frozen=True, eq=False)
class Utterances:
    """One split: columns of length N, and the ragged frames of every modality that has them."""

    ids: list[str]
    texts: list[str]
    scores: Float32Array | None
    frames: Mapping[str, Ragged]
    unimodal: Mapping[str, Float32Array]
    path: Path | None = None
    """The store that they are a split of."""
    split: str = ""

    def __len__(self) -> int:
        return len(self.ids)


def video_of(clip_id: str) -> str:
    """Return the video of a clip: what stands before the last '$_$', or the whole id."""
    return clip_id.rpartition(ID_SEPARATOR)[0] or clip_id


def is_unicode(text: str) -> bool:
    """Tell whether a text can be stored; numpy and old pickles can hold what is no character at all."""
    try:
        text.encode().decode()
    except UnicodeError:  # surrogates do not encode, numbers beyond U+10FFFF do not decode
        return False
    return True


def counted(count: int, noun: str) -> str:
    """Render a count for people: (1, "clip") -> '1 clip', (2000, "clip") -> '2,000 clips'."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def in_range(score: float, score_range: tuple[float, float]) -> bool:
    """Tell whether a score is a number inside the range, within the rounding of float32."""
    low, high = score_range
    tolerance = 1e-6 * max(abs(low), abs(high))  # labels were float32 in many files
    return math.isfinite(score) and low - tolerance <= score <= high + tolerance
