"""Padding: find its side from the values, and remove it.

One routine for all formats with padded arrays. If a file says how many frames of a clip are real, the rest must be
zeros on one side, which is found per modality: MMSA's files are padded at the end, MulT's in front, and MMSA-FET writes
both. Published files have some clips with values outside their length (14 % of MOSI's in vision): these frames are
dropped and counted. A file that contradicts its lengths on both sides is refused. Without lengths, frames of zeros are
padding on the side with most of them.

Axes: N clips, P padded frames, d features per frame.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from conki_cli.data.sources.columns import edges_of, filled_frames, numbers_of
from conki_cli.data.store.arrays import Array, FileArray, part_of_row
from conki_cli.system.errors import SourceError

Side = Literal["front", "end"]
SIDES: tuple[Side, Side] = ("front", "end")

MOST_MISFITS = 0.5
"""Share of the padded clips that may have values on both sides of their length; published files have up to 0.15."""
MOST_OPPOSED = 0.05
"""Share of the padded clips whose zeros may be only on the other side, as when a face is lost in the first frames."""
_CLEARLY = 0.9
"""Without lengths: the share of the clips, or of the frames of zeros, that must be on one side to be believed."""


@dataclass(frozen=True, eq=False)
class Padded:
    """Padded clips of one modality, and where their values are.

    Attributes:
        where: the place in messages.
        frames: [N, P, d].
        first: the first frame of every clip that is not all zeros, [N].
        end: the end of the last such frame, [N]; 0 if the clip is all zeros.
        lengths: real frames of every clip, P at most, [N]; None if the file has no lengths.
        misfits: nonzero frames outside the length, if the padding is in front and if it is at the end, [N, 2].
        num_clamped: lengths that were greater than P.
    """

    where: str
    frames: Array
    first: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64] | None
    misfits: npt.NDArray[np.int64]
    num_clamped: int = 0

    def __len__(self) -> int:
        return len(self.end)

    @property
    def num_padded(self) -> int:
        """Frames of every clip with its padding, P."""
        return int(self.frames.shape[1])


def lengths_of(where: str, key: str, value: Any, count: int) -> npt.NDArray[np.float64]:
    """Return the number of real frames of every clip, [N].

    Raises:
        SourceError: it is not one whole number from 0 per clip.
    """
    lengths = numbers_of(where, key, value)
    rule = f"{where}: {key!r} must be one whole number from 0 for each of {count} clips"
    if len(lengths) != count:
        raise SourceError(f"{rule}, has {len(lengths)}")
    wrong = lengths[~(np.isfinite(lengths) & (lengths >= 0) & (lengths == np.floor(lengths)))]
    if len(wrong):
        raise SourceError(f"{rule}, found {wrong[0]:g}")
    return lengths


def look_at(
    where: str,
    frames: Array,
    lengths: npt.NDArray[np.float64] | None = None,
    told: Callable[[int], None] = lambda count: None,
) -> Padded:
    """Scan padded frames slice by slice.

    Args:
        where: the place in messages.
        frames: [N, P, d].
        lengths: whole numbers from 0, [N], if the file has them.
        told: receives the number of bytes read since the last call.
    """
    count, longest = frames.shape[:2]
    kept = None if lengths is None else np.minimum(lengths, longest).astype(np.int64)
    first, end = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    misfits = np.zeros((count, len(SIDES)), dtype=np.int64)
    done = 0
    for filled in filled_frames(frames):
        rows = slice(done, done + len(filled))
        first[rows], end[rows] = edges_of(filled)
        if kept is not None:
            places, limits = np.arange(longest), kept[rows, None]
            misfits[rows, 0] = (filled & (places < longest - limits)).sum(axis=1)
            misfits[rows, 1] = (filled & (places >= limits)).sum(axis=1)
        done = rows.stop
        told(filled.size * frames.shape[2] * frames.dtype.itemsize)
    num_clamped = 0 if lengths is None else int((lengths > longest).sum())
    return Padded(where, frames, first, end, kept, misfits, num_clamped)


def look_at_clip(where: str, frames: Array, length: float) -> Padded:
    """Scan the padded frames of one clip, [P, d]."""
    if isinstance(frames, FileArray):
        return look_at(where, dataclasses.replace(frames, shape=(1, *frames.shape)), np.array([length]))
    return look_at(where, frames[None], np.array([length]))


def find_sides(parts: Mapping[str, Sequence[Padded]], usual: Side) -> tuple[dict[str, Side], dict[str, str], list[str]]:
    """Find the side that each modality is padded on.

    Args:
        parts: all padded clips of a file, by modality.
        usual: the side of this format, if the values do not show it.

    Returns:
        The sides; how they were found, by modality, if there may be padding; and a warning if the side is not clear.

    Raises:
        SourceError: the values contradict the lengths on both sides.
    """
    sides: dict[str, Side] = {}
    said: dict[str, str] = {}
    without: dict[str, Sequence[Padded]] = {}
    notes: list[str] = []
    for modality, padded in parts.items():
        if not any(part.lengths is not None for part in padded):
            without[modality] = padded
            continue
        sides[modality] = _side_by_lengths(modality, padded, usual)
        said[modality] = f"{sides[modality]}, by the file's lengths"
        notes += _doubts(modality, padded, sides[modality])
    found, unclear = _sides_by_zeros(without, usual)
    notes += unclear
    for modality, side in found.items():
        said[modality] = f"{side}, {'leading' if side == 'front' else 'trailing'} frames of zeros"
    return {**dict.fromkeys(parts, usual), **sides, **found}, said, notes


def without_padding(padded: Padded, side: Side) -> list[Array]:
    """Return the frames of every clip, [L, d] each, as parts of the padded array.

    A clip with values only on the other side is truncated there: no real value is lost.
    """
    longest, is_front = padded.num_padded, side == "front"
    starts, ends = np.zeros_like(padded.end), padded.end
    if padded.lengths is not None:
        in_front = _opposed(padded, side) != is_front  # [N]
        starts = np.where(in_front, longest - padded.lengths, 0)
        ends = np.where(in_front, longest, padded.lengths)
    elif is_front:
        starts, ends = padded.first, np.where(padded.end > 0, longest, 0)
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    return [part_of_row(padded.frames, i, start, end) for i, (start, end) in enumerate(pairs)]


def repairs_of(padded: Sequence[Padded], side: Side) -> dict[str, int]:
    """Count frames outside the lengths of a file, and lengths greater than its array; {} if there are none."""
    told = [part for part in padded if part.lengths is not None]
    if not told:
        return {}
    outside = np.concatenate([np.where(_opposed(part, side), 0, part.misfits[:, SIDES.index(side)]) for part in told])
    counts = {"lengths_clamped": sum(part.num_clamped for part in told)}
    if outside.any():
        counts |= {"clips_with_junk": int((outside > 0).sum()), "junk_frames": int(outside.sum())}
    return counts


# ---- with lengths ----


def _side_by_lengths(modality: str, padded: Sequence[Padded], usual: Side) -> Side:
    fits = np.concatenate([part.misfits == 0 for part in padded])  # [N, 2]
    tells = np.concatenate([_tells(part) for part in padded])
    alone = [int((tells & fits[:, k] & ~fits[:, 1 - k]).sum()) for k in range(len(SIDES))]
    neither = tells & ~fits.any(axis=1)
    side: Side = usual if alone[0] == alone[1] else SIDES[int(alone[1] > alone[0])]
    opposed = tells & ~fits[:, SIDES.index(side)] & fits.any(axis=1)
    total = int(tells.sum())
    if neither.sum() > MOST_MISFITS * total:
        raise SourceError(_misfit(modality, padded, neither, total))
    if opposed.sum() > MOST_OPPOSED * total:
        where, _ = _clip_at(padded, int(opposed.argmax()))
        raise SourceError(
            f"{where}: {modality} must be padded on one side, but zeros are in front in {alone[0]} clips and at the "
            f"end in {alone[1]}: the lengths are wrong, or clips of two files were mixed; write the file again"
        )
    return side


def _opposed(part: Padded, side: Side) -> npt.NDArray[np.bool_]:
    """Return which clips are padded on the other side than the rest, [N]: their values fill their length there."""
    if part.lengths is None:
        return np.zeros(len(part), dtype=bool)
    has_junk = part.misfits[:, SIDES.index(side)] > 0
    in_front = (part.first == part.num_padded - part.lengths) & (part.end == part.num_padded)
    at_end = (part.first == 0) & (part.end == part.lengths)
    opposed: npt.NDArray[np.bool_] = _tells(part) & has_junk & (at_end if side == "front" else in_front)
    return opposed


def _doubts(modality: str, padded: Sequence[Padded], side: Side) -> list[str]:
    """Return warnings about clips padded on the other side than the rest, and lengths greater than the array."""
    opposed = np.concatenate([_opposed(part, side) for part in padded])
    notes = []
    if opposed.any():
        where, _ = _clip_at(padded, int(opposed.argmax()))
        notes.append(
            f"{modality}: {int(opposed.sum())} of {len(opposed)} clips are padded on the other side than the rest and "
            f"were truncated there (the first: {where})"
        )
    clamped, total = sum(part.num_clamped for part in padded), len(opposed)
    if 2 * clamped > total:
        notes.append(f"{modality}: {clamped} of {total} lengths are greater than the array: they belong to other data")
    return notes


def _tells(part: Padded) -> npt.NDArray[np.bool_]:
    """Return which clips can show a side, [N]: not those without padding, without frames, or with only zeros."""
    if part.lengths is None:
        return np.zeros(len(part.end), dtype=bool)
    return (part.lengths > 0) & (part.lengths < part.num_padded) & (part.end > 0)


def _misfit(modality: str, padded: Sequence[Padded], neither: npt.NDArray[np.bool_], total: int) -> str:
    where, (longest, length) = _clip_at(padded, int(neither.argmax()))
    others = f" ({int(neither.sum())} of {total} padded clips have this problem)" if total > 1 else ""
    return (
        f"{where}: {modality} has {longest} frames and the length {length}, but neither side is {longest - length} "
        f"frames of zeros{others}: the length is wrong; write the file again"
    )


def _clip_at(padded: Sequence[Padded], number: int) -> tuple[str, tuple[int, int]]:
    """Return the place of a clip, counted over all parts, and its padded and real frames."""
    for part in padded:
        if number < len(part.end) and part.lengths is not None:
            row = f", row {number + 1}" if len(part.end) > 1 else ""
            return part.where + row, (part.num_padded, int(part.lengths[number]))
        number -= len(part.end)
    raise IndexError(number)


# ---- without lengths ----


@dataclass(frozen=True)
class _Zeros:
    """Numbers of clips of a modality that start and that end with frames of zeros, and the numbers of these frames."""

    clips: tuple[int, int]  # in front, at the end
    frames: tuple[int, int]

    def side(self, usual: Side) -> Side:
        return _larger(self.clips if self._is_clear(self.clips) else self.frames, usual)

    @property
    def is_clear(self) -> bool:
        return self._is_clear(self.clips) or self._is_clear(self.frames)

    def _is_clear(self, counts: tuple[int, int]) -> bool:
        return max(counts) >= _CLEARLY * sum(counts)


def _larger(counts: tuple[int, int], usual: Side) -> Side:
    return usual if counts[0] == counts[1] else SIDES[int(counts[1] > counts[0])]


def _zeros_in(padded: Sequence[Padded]) -> _Zeros:
    before = np.concatenate([part.first for part in padded])
    behind = np.concatenate([np.where(part.end > 0, part.num_padded - part.end, 0) for part in padded])
    return _Zeros((int((before > 0).sum()), int((behind > 0).sum())), (int(before.sum()), int(behind.sum())))


def _sides_by_zeros(parts: Mapping[str, Sequence[Padded]], usual: Side) -> tuple[dict[str, Side], list[str]]:
    """Return the side of each modality that has frames of zeros at an end, and a warning if that is not clear."""
    zeros = {m: found for m, padded in parts.items() if padded and any((found := _zeros_in(padded)).clips)}
    sides = {m: found.side(usual) for m, found in zeros.items()}
    unclear = [m for m, found in zeros.items() if not found.is_clear]
    if not unclear:
        return sides, []
    # Most files are padded on one side. Padding is long; zeros of a lost face at the other end are short.
    frames = (sum(found.frames[0] for found in zeros.values()), sum(found.frames[1] for found in zeros.values()))
    side = _larger(frames, usual)
    counts = ", ".join(f"{m} in {found.clips[0]} clips and {found.clips[1]}" for m, found in zeros.items())
    return {**sides, **dict.fromkeys(unclear, side)}, [
        f"the side of the padding is not clear: frames of zeros are in front and at the end, {counts}; assumed to be "
        f"{'in front' if side == 'front' else 'at the end'}, where {max(frames)} of {sum(frames)} such frames are"
    ]
