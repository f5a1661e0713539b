"""Finds the row of a label file for every clip of a source that names its clips in another way.

The same clip is 'video$_$12' in one file, 'video[3]' in another (the fourth segment of its video) and has no name at
all in a third. Ids alone can deceive: 'video$_$3' may be clip 3 or the fourth clip. So several ways are tried, and one
is believed only when it finds a row for nearly every clip and the scores on both sides agree.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conki_cli.errors import SourceError, one_line
from conki_cli.sources.labels import LabelRow, read_label_rows
from conki_cli.sources.request import Request
from conki_cli.store import ID_SEPARATOR, SPLITS, Sample

_NEARLY_ALL = 0.98
"""Share of the clips that a way must find; the few that lack a row are then named."""
_SAME_SCORE = 0.01
"""Largest difference of equal scores: files round theirs to two digits or more."""
_SCORES_AGREE = 0.95
_ORDERED_SCORES_AGREE = 0.99  # without ids, scores are all there is to go by
_SAME_START = 0.05
"""Largest difference of equal starts, in seconds: about one frame of video."""


@dataclass(frozen=True)
class Clip:
    """What a source knows of a clip that is to be joined: its id ('video$_$clip', or nothing), score and start."""

    id: str
    score: float | None = None
    start: float | None = None


Found = list[LabelRow | None]
Way = Callable[[Sequence[Clip], Mapping[str, Sequence[LabelRow]]], Found]


def join(
    where: str, clips: Sequence[Clip], rows: Sequence[LabelRow], *, labels: Path
) -> tuple[list[LabelRow], list[str]]:
    """Find the row of every clip.

    Args:
        where: names the source in messages.
        clips: the source's clips.
        rows: the label file's rows.
        labels: the label file.

    Returns:
        One row per clip, in the clips' order, and remarks that say how they were found.

    Raises:
        SourceError: a clip has no row, or the scores show that the rows are those of other clips.
    """
    if not clips:
        return [], []
    if not any(clip.id for clip in clips):
        return _join_in_order(where, clips, rows, labels)
    by_video = _by_video(rows)
    best: tuple[float, str, Found] | None = None
    for name, way in _WAYS.items():
        found = way(clips, by_video)
        share = sum(row is not None for row in found) / len(clips)
        agreement = _agreement(clips, found)
        if share >= _NEARLY_ALL and (agreement is None or agreement >= _SCORES_AGREE):
            return _complete(where, clips, found, labels), _remarks(name, labels, agreement)
        if best is None or share > best[0]:
            best = (share, name, found)
    assert best is not None
    raise SourceError(_refusal(where, clips, best[1], best[2], labels))


def with_labels(
    path: Path,
    splits: Mapping[str, Sequence[Sample]],
    request: Request,
    *,
    starts: Mapping[str, Sequence[float | None]] | None = None,
) -> tuple[dict[str, list[Sample]], list[str], list[str]]:
    """Give clips the ids and texts of the label file; splits and scores stay those of the data file.

    Args:
        path: the data file, for messages.
        splits: clips with the ids that the file has, as 'video$_$clip', 'video' or "".
        request: names the label file, and its column of texts if that is not `text`.
        starts: when each clip starts in its video, in seconds, where the file says so.

    Returns:
        The clips, notes and remarks.

    Raises:
        SourceError: the label file cannot be read, has no texts, or does not fit.
    """
    if request.labels is None:
        raise SourceError(f"{path} has no texts: give them with --labels label.csv")
    needed = ("video_id", "clip_id", "text")
    rows = read_label_rows(
        request.labels, needed=needed, text_column=request.text_column, takes_english=request.takes_english
    )
    flat = [(split, i, sample) for split, samples in splits.items() for i, sample in enumerate(samples)]
    clips = [
        Clip(
            id=sample.id,
            score=sample.score if math.isfinite(sample.score) else None,
            start=starts[split][i] if starts else None,
        )
        for split, i, sample in flat
    ]
    found, remarks = join(str(path), clips, rows, labels=request.labels)
    joined: dict[str, list[Sample]] = {split: [] for split in splits}
    moved = 0
    for (split, _, sample), row in zip(flat, found, strict=True):
        moved += row.split not in (None, split)
        joined[split].append(replace(sample, id=row.id, text=(row.text or "").strip()))
    here, there = one_line(path.name), one_line(request.labels.name)
    kept = f"{moved} clips stand in another split in {there}: the splits of {here} were kept"
    return joined, [kept] if moved else [], remarks


def _by_video(rows: Iterable[LabelRow]) -> dict[str, list[LabelRow]]:
    """Group rows by video, each group in the order of time, or of the clips' numbers where starts are missing."""
    groups: defaultdict[str, list[LabelRow]] = defaultdict(list)
    for row in rows:
        groups[row.video].append(row)
    for group in groups.values():
        if all(row.start is not None for row in group):
            group.sort(key=lambda row: (row.start or 0.0, _natural(row.clip)))
        else:
            group.sort(key=lambda row: _natural(row.clip))
    return groups


def _number_of(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _natural(clip: str) -> tuple[float, str]:
    """Sort 'clip 10' behind 'clip 9' when clips are called by numbers."""
    number = _number_of(clip)
    return (math.inf if number is None else number, clip)


def _parts(clip: Clip) -> tuple[str, str]:
    """Return video and clip of an id; an id without separator is a video alone."""
    video, separator, part = clip.id.rpartition(ID_SEPARATOR)
    return (video, part) if separator else (clip.id, "")


# ---- ways ----


def _looked_up(clips: Sequence[Clip], keys: Iterable[tuple[str, LabelRow]], asked: Iterable[str]) -> Found:
    """Look every clip up under a key of its own; a key that several rows share finds the first."""
    table: dict[str, LabelRow] = {}
    for key, row in keys:
        table.setdefault(key, row)
    return [table.get(key) for key in asked]


def _by_id(clips: Sequence[Clip], by_video: Mapping[str, Sequence[LabelRow]]) -> Found:
    keys = ((row.id, row) for group in by_video.values() for row in group)
    return _looked_up(clips, keys, (clip.id for clip in clips))


def _by_underscore(clips: Sequence[Clip], by_video: Mapping[str, Sequence[LabelRow]]) -> Found:
    keys = ((f"{row.video}_{row.clip}", row) for group in by_video.values() for row in group)
    return _looked_up(clips, keys, (clip.id.replace(ID_SEPARATOR, "_") for clip in clips))


def _by_number(clips: Sequence[Clip], by_video: Mapping[str, Sequence[LabelRow]]) -> Found:
    """Compare clips as numbers: spreadsheets drop the zeros in front."""
    keys = ((f"{row.video}{ID_SEPARATOR}{_number_of(row.clip)}", row) for g in by_video.values() for row in g)
    numbers = ((video, _number_of(part)) for video, part in map(_parts, clips))
    asked = (f"{video}{ID_SEPARATOR}{number}" if number is not None else "" for video, number in numbers)
    return _looked_up(clips, keys, asked)


def _by_position(first: int) -> Way:
    def way(clips: Sequence[Clip], by_video: Mapping[str, Sequence[LabelRow]]) -> Found:
        found: Found = []
        for video, part in map(_parts, clips):
            group = by_video.get(video, ())
            number = _number_of(part)
            position = -1 if number is None else number - first
            found.append(group[position] if 0 <= position < len(group) else None)
        return found

    return way


def _by_start(clips: Sequence[Clip], by_video: Mapping[str, Sequence[LabelRow]]) -> Found:
    found: Found = []
    for clip in clips:
        near = [
            (abs(row.start - clip.start), number, row)
            for number, row in enumerate(by_video.get(_parts(clip)[0], ()))
            if clip.start is not None and row.start is not None and abs(row.start - clip.start) <= _SAME_START
        ]
        found.append(min(near)[2] if near else None)
    return found


def _by_video_alone(clips: Sequence[Clip], by_video: Mapping[str, Sequence[LabelRow]]) -> Found:
    """Take the one row of a video when the clip is not named, on either side."""
    groups = [(by_video.get(video, ()), part) for video, part in map(_parts, clips)]
    return [group[0] if len(group) == 1 and not (part and group[0].clip) else None for group, part in groups]


_WAYS: dict[str, Way] = {
    "id": _by_id,
    "id, with _ between video and clip": _by_underscore,
    "clip number, without leading zeros": _by_number,
    "position in the video, counted from 0": _by_position(0),
    "position in the video, counted from 1": _by_position(1),
    "video and start time": _by_start,
    "video alone": _by_video_alone,
}


def _join_in_order(
    where: str, clips: Sequence[Clip], rows: Sequence[LabelRow], labels: Path
) -> tuple[list[LabelRow], list[str]]:
    """Join clips without ids: the same number in the same order, which equal scores must prove."""
    advice = f"{where} has no ids, so {labels} must hold the same clips in the same order with the same scores"
    if len(rows) != len(clips):
        raise SourceError(
            f"{advice}, found {len(clips)} clips and {len(rows)} rows: give the label file of this source"
        )
    if any(clip.score is None for clip in clips) or any(row.score is None for row in rows):
        raise SourceError(f"{advice}, but scores are missing: nothing shows which row belongs to which clip")
    by_split = sorted(rows, key=lambda row: SPLITS.index(row.split) if row.split in SPLITS else len(SPLITS))
    best = 0.0
    for order, ordered in (("", list(rows)), (" of each split", by_split)):
        agreement = _agreement(clips, ordered)
        best = max(best, agreement or 0.0)
        if best >= _ORDERED_SCORES_AGREE:
            how = f"the source has no ids: joined by the order of the clips{order}"
            return ordered, [f"{how} in {one_line(labels.name)}; {best:.1%} of the scores are equal"]
    raise SourceError(f"{advice}, but only {best:.1%} of the scores are equal: give the label file of this source")


# ---- judging a way ----


def _agreement(clips: Sequence[Clip], found: Sequence[LabelRow | None]) -> float | None:
    """Return the share of equal scores among the clips that have one on both sides; None: there are none."""
    pairs = [
        (clip.score, row.score)
        for clip, row in zip(clips, found, strict=True)
        if row is not None and clip.score is not None and row.score is not None
    ]
    return sum(abs(a - b) <= _SAME_SCORE for a, b in pairs) / len(pairs) if pairs else None


def _complete(where: str, clips: Sequence[Clip], found: Found, labels: Path) -> list[LabelRow]:
    missing = [clip for clip, row in zip(clips, found, strict=True) if row is None]
    if missing:
        raise SourceError(
            f"{labels} must have a row for every clip of {where}, found none for {len(missing)} of {len(clips)}, "
            f"the first {one_line(missing[0].id)[:80]!r}: add them or use the label file of this source"
        )
    return [row for row in found if row is not None]


def _remarks(name: str, labels: Path, agreement: float | None) -> list[str]:
    if name == "id":
        return []
    proof = "no scores to compare" if agreement is None else f"{agreement:.1%} of the scores are equal"
    return [f"clips and rows of {one_line(labels.name)} were joined by {name}; {proof}"]


def _refusal(where: str, clips: Sequence[Clip], name: str, found: Found, labels: Path) -> str:
    matched = sum(row is not None for row in found)
    head = f"the clips of {where} must have rows in {labels}; at best, by {name}, {matched} of {len(clips)} have one"
    agreement = _agreement(clips, found)
    if agreement is not None and matched >= _NEARLY_ALL * len(clips):
        return f"{head}, but only {agreement:.1%} of their scores are equal: give the label file of this source"
    missing = next(clip.id for clip, row in zip(clips, found, strict=True) if row is None)
    return f"{head}; without one is {one_line(missing)[:80]!r}: give the label file of this source"
