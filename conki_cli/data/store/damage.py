"""Damage on purpose: noise on features, lost frames, texts with the errors of a speech recogniser.

What happens to a clip is a function of the seed, the clip's id, the modality and the kind of damage. More damage of a
kind only adds to less of it: the same noise is louder, the same frames are lost and further ones, so that curves over
the amount are smooth.

Axes: N clips, L frames of a clip, d features per frame.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from conki_cli.data.store.records import FRAME_MODALITIES, Float32Array, Ragged, Utterances
from conki_cli.system.errors import SettingsError, one_line

KINDS: Mapping[str, tuple[str, ...]] = {"text": ("asr",), **dict.fromkeys(FRAME_MODALITIES, ("noise", "drop"))}
"""The kinds of damage that a modality can take."""
REPLACED, DELETED = 0.6, 0.25
"""Shares of the recognition errors that replace and that delete a word; the rest inserts one after it."""
_FORM = "--corrupt takes MODALITY:KIND=VALUES, such as audio:noise=20dB,10dB, vision:drop=0.5 or text:asr=0.2"


@dataclass(frozen=True)
class Corruption:
    """One kind of damage to one modality, of one amount."""

    modality: str
    kind: str
    value: float
    """noise: signal-to-noise ratio in dB; drop: share of the frames; asr: share of the words."""

    @property
    def spec(self) -> str:
        """The damage as it is typed."""
        return f"{self.modality}:{self.kind}={self.amount.replace(' ', '')}"

    @property
    def words(self) -> str:
        """The damage as a label that can fold."""
        return f"{self.modality} {self.kind} {self.amount}"

    @property
    def amount(self) -> str:
        """The amount with its unit."""
        return f"{self.value:g}{' dB' if self.kind == 'noise' else ''}"


def parse_corruptions(text: str) -> list[tuple[Corruption, ...]]:
    """Read one `--corrupt`: a curve over the amounts of one kind, or several kinds together with one amount each.

    Raises:
        SettingsError: it has another form, or an amount is out of bounds.
    """
    parts = [_curve(part) for part in text.split("+")]
    if len(parts) == 1:
        return [(one,) for one in parts[0]]
    if any(len(part) > 1 for part in parts):
        raise SettingsError(
            f"kinds of damage that are joined by + must have one amount each, found '{one_line(text)[:80]}'",
            advice="give a --corrupt for each combination",
        )
    if len({(one.modality, one.kind) for part in parts for one in part}) < len(parts):
        raise SettingsError(f"--corrupt must name each kind of damage once, found '{one_line(text)[:80]}'")
    return [tuple(one for part in parts for one in part)]


def _curve(text: str) -> list[Corruption]:
    name, equals, values = text.partition("=")
    modality, colon, kind = (part.strip() for part in name.partition(":"))
    if not equals or not colon:
        raise SettingsError(one_line(text)[:80], must=_FORM)
    if modality not in KINDS:
        raise SettingsError(f"--corrupt damages {', '.join(KINDS)}, found '{one_line(modality)[:40]}'")
    if kind not in KINDS[modality]:
        raise SettingsError(
            f"{modality} can be damaged by {' or '.join(KINDS[modality])}, found '{one_line(kind)[:40]}'"
        )
    found = [Corruption(modality, kind, _amount(value.strip(), kind, text)) for value in values.split(",")]
    if len(set(found)) < len(found):
        raise SettingsError(f"--corrupt must name each amount once, found '{one_line(text)[:80]}'")
    return found


def _amount(text: str, kind: str, whole: str) -> float:
    number = text.lower().removesuffix("db") if kind == "noise" else text
    try:
        value = float(number)
    except ValueError:
        raise SettingsError(one_line(whole)[:80], must=_FORM) from None
    low, high = (-100.0, 100.0) if kind == "noise" else (0.0, 1.0)
    if not low <= value <= high:
        must = "-100dB to 100dB" if kind == "noise" else "a share of 0 to 1"
        raise SettingsError(f"{kind} must be {must}, found '{one_line(text)[:40]}'")
    return value


@dataclass(frozen=True, eq=False)
class Damaged(Ragged):
    """Sequences that are damaged while they are read; nothing is held in memory."""

    source: Ragged | None = None
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Frames of every clip after the damage, [N]."""
    change: Callable[[Float32Array, int], Float32Array] = lambda frames, index: frames
    """Turns the frames of a clip, [L, d], and its place in the split into damaged ones."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Frames of every clip, [N]."""
        return self.counts

    def __getitem__(self, index: int) -> Float32Array:
        """Read one clip and damage it."""
        assert self.source is not None
        return self.change(self.source[index], index)

    def pick(self, rows: npt.NDArray[np.int64]) -> "Damaged":
        """Return the clips in these rows, damaged as they are among all."""
        assert self.source is not None
        return replace(
            self,
            picked=super().pick(rows).picked,
            source=self.source.pick(rows),
            counts=self.counts[rows],
            change=lambda frames, index: self.change(frames, int(rows[index])),
        )

    def check_unchanged(self) -> None:
        """Refuse everything read so far if the file was changed meanwhile."""
        assert self.source is not None
        self.source.check_unchanged()


def corrupted(clips: Utterances, corruptions: Sequence[Corruption], seed: int) -> Utterances:
    """Return clips with damage: frames when they are read, texts at once.

    Args:
        clips: a split, or clips to be scored.
        corruptions: the kinds of damage, one after the other.
        seed: of everything that is drawn.
    """
    for one in corruptions:
        if one.modality == "text":
            clips = replace(clips, texts=_misheard(clips, one, seed))
        else:
            make = _with_noise if one.kind == "noise" else _with_lost_frames
            rows = make(clips.frames[one.modality], clips.ids, one, seed)
            clips = replace(clips, frames={**clips.frames, one.modality: rows})
    return clips


def _generator(seed: int, identity: str, one: Corruption) -> np.random.Generator:
    """Return the random numbers of a clip for one kind of damage."""
    return np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in (identity, one.modality, one.kind))])


def _with_noise(rows: Ragged, ids: Sequence[str], one: Corruption, seed: int) -> Damaged:
    """Add white noise to every feature: its variance is that of the feature over all frames, over 10^(dB/10)."""
    deviations = (_deviations(rows) * 10 ** (-one.value / 20)).astype(np.float32)  # [d]

    def change(frames: Float32Array, index: int) -> Float32Array:
        noise = _generator(seed, ids[index], one).standard_normal(frames.shape, dtype=np.float32)
        return frames + noise * deviations

    return Damaged(rows.values, rows.offsets, rows.picked, rows, rows.lengths, change)


def _deviations(rows: Ragged) -> npt.NDArray[np.float64]:
    """Return the standard deviation of every feature over all frames of all clips, [d]; 0 without frames."""
    count, mean, squares = 0, np.zeros(rows.width), np.zeros(rows.width)
    for index in range(len(rows)):  # merged clip by clip, which is exact for large offsets, too
        frames = rows[index].astype(np.float64)
        if len(frames):
            own, total = frames.mean(axis=0), count + len(frames)
            squares += ((frames - own) ** 2).sum(axis=0) + (own - mean) ** 2 * count * len(frames) / total
            mean, count = mean + (own - mean) * len(frames) / total, total
    deviations: npt.NDArray[np.float64] = np.sqrt(squares / max(1, count))
    return deviations


def _with_lost_frames(rows: Ragged, ids: Sequence[str], one: Corruption, seed: int) -> Damaged:
    """Remove a share of the frames of every clip, rounded to whole frames; the others keep their order."""
    lost = np.round(rows.lengths * one.value).astype(np.int64)

    def change(frames: Float32Array, index: int) -> Float32Array:
        order = _generator(seed, ids[index], one).permutation(len(frames))
        return frames[np.sort(order[int(lost[index]) :])]

    return Damaged(rows.values, rows.offsets, rows.picked, rows, rows.lengths - lost, change)


def _misheard(clips: Utterances, one: Corruption, seed: int) -> list[str]:
    """Return the texts with recognition errors in a share of their words."""
    spoken = [word for text in clips.texts for word in text.split()]
    similar: dict[tuple[str, int], list[str]] = {}
    for word in sorted(set(spoken)):
        for size in range(len(word) - 1, len(word) + 2):
            similar.setdefault((word[:1].casefold(), size), []).append(word)

    def heard(word: str, error: float, kind: float, place: float) -> list[str]:
        if error >= one.value:
            return [word]
        if kind < REPLACED:
            near = similar[word[:1].casefold(), len(word)]
            return [_other(word, near if len(near) > 1 else spoken, place)]
        if kind < REPLACED + DELETED:
            return []
        return [word, spoken[math.floor(place * len(spoken))]]

    texts: list[str] = []
    for identity, text in zip(clips.ids, clips.texts, strict=True):
        words = text.split()
        draws = _generator(seed, identity, one).random((len(words), 3))
        heard_words = [found for word, row in zip(words, draws, strict=True) for found in heard(word, *row)]
        texts.append(" ".join(heard_words) if heard_words != words else text)
    return texts


def _other(word: str, words: Sequence[str], place: float) -> str:
    """Return another word, at a place of 0 to 1 in a list, or the next one there that differs; itself if none does."""
    start, count = math.floor(place * len(words)), len(words)
    return next((found for k in range(count) if (found := words[(start + k) % count]) != word), word)
