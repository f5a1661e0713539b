"""Find the row of a label file for every clip of a source that names its clips differently.

The same clip is 'video$_$12' in one file, 'video[3]' in another (the fourth segment of its video) and has no name in a
third. Ids alone can mislead: 'video$_$3' may be clip 3 or the fourth clip. So several ways are attempted, and one is
accepted only if it finds a row for nearly every clip, no row for two clips, and the scores on both sides agree.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from conki_cli.data.sources.columns import INDEXED, stripped, whole_number
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.sources.labels import read_label_rows
from conki_cli.data.sources.request import Request
from conki_cli.data.store.records import ID_SEPARATOR, SPLITS, Sample
from conki_cli.system.errors import SourceError, one_line

NEARLY_ALL = 0.98
"""Share of the clips that a way must find; the few without a row are then named."""
SAME_SCORE = 0.01
"""Largest difference of equal scores: files round theirs to two digits or more."""
SCORES_AGREE = 0.95
OTHER_SPLITS = "clips are in another split in"
"""Said in a warning about the splits of a label file."""
_ORDERED_SCORES_AGREE = 0.99  # without ids, only the scores can prove a match
_SAME_TIME = 0.05
"""Largest difference of equal starts and stops, in seconds: about one frame of video."""
_MOST_TIED = 16
"""Number of rows of one video that may start together; with more, starts prove nothing."""

POSITIONS = (
    "ids are positions in the video ('video[0]' becomes 'video$_$0'), and label.csv may count differently: "
    "--labels label.csv gives its ids"
)
"""Remark of a corpus whose ids count the clips of a video from 0, as the CMU SDK does."""


@dataclass(frozen=True)
class Clip:
    """A source's facts about a clip to be joined: id ('video$_$clip', or empty), score, start and stop."""

    id: str
    score: float | None = None
    start: float | None = None
    stop: float | None = None


@dataclass(frozen=True)
class Attempt:
    """The result of one way: the rows, the share of clips with a row, and of equal scores (None: none to compare)."""

    way: str
    found: list[LabelRow | None]
    share: float
    agreement: float | None
    fits: bool


Found = list[LabelRow | None]
Way = Callable[[Sequence[Clip], Mapping[str, Sequence[LabelRow]]], Found]
_Cost = tuple[float, ...]


def join(
    where: str, clips: Sequence[Clip], rows: Sequence[LabelRow], *, labels: Path
) -> tuple[list[LabelRow], list[str]]:
    """Find the row of every clip.

    Args:
        where: the source's name in messages.
        clips: the source's clips.
        rows: the label file's rows.
        labels: the label file.

    Returns:
        One row per clip, in the clips' order, and remarks that say how they were found.

    Raises:
        SourceError: a clip has no row, or the scores show that the rows belong to other clips.
    """
    if not clips:
        return [], []
    if not any(clip.id for clip in clips):
        return _join_in_order(where, clips, rows, labels)
    tried = []
    for attempt in attempts(clips, rows):
        if attempt.fits:
            return _complete(where, clips, attempt.found, rows, labels=labels), _remarks(attempt, labels)
        tried.append(attempt)
    best = max(tried, key=lambda attempt: attempt.share)
    raise SourceError(_refusal(where, clips, best, labels) + _hint(clips, rows, labels))


def attempts(clips: Sequence[Clip], rows: Sequence[LabelRow]) -> Iterator[Attempt]:
    """Attempt every way; one fits if nearly all clips have a row, no two the same one, and the scores agree.

    Args:
        clips: one or more.
        rows: in any order.
    """
    by_video = _by_video(rows)
    # A repeated identical clip counts once, unless its id is only the video.
    distinct = list(dict.fromkeys(clips)) if all(parts_of(clip.id)[1] for clip in clips) else list(clips)
    numbers = [*range(len(clips))]
    if len(distinct) < len(clips):
        places = {clip: number for number, clip in enumerate(distinct)}
        numbers = [places[clip] for clip in clips]
    for name, way in _WAYS.items():
        once = way(distinct, by_video)
        found = [once[number] for number in numbers]
        share = sum(row is not None for row in found) / len(clips)
        agreement = _agreement(clips, found)
        agrees = agreement is None or agreement >= SCORES_AGREE
        fits = share >= NEARLY_ALL and agrees and _shared(distinct, once) is None
        yield Attempt(name, found, share, agreement, fits)


def with_labels(
    path: Path,
    splits: Mapping[str, Sequence[Sample]],
    request: Request,
    *,
    times: Mapping[str, Sequence[Clip]] | None = None,
    keeps_texts: bool = False,
) -> tuple[dict[str, list[Sample]], list[str], list[str]]:
    """Give clips the ids and texts of the label file; splits and scores come from the data file.

    Args:
        path: the data file, for messages.
        splits: clips with the ids of the file, as 'video$_$clip', 'video' or "".
        request: the label file, and its column of texts if that is not `text`.
        times: start and stop of each clip in its video, if the file has them.
        keeps_texts: keep the texts, unless the request names a column for them.

    Returns:
        The clips, notes and remarks.

    Raises:
        SourceError: the label file cannot be read, has no texts, or does not fit.
    """
    if request.labels is None:
        raise SourceError(f"{path} has no texts", advice="give them with --labels label.csv")
    keeps_texts = keeps_texts and request.text_column is None
    needed = ("video_id", "clip_id", *(() if keeps_texts else ("text",)))
    rows = read_label_rows(
        request.labels,
        needed=needed,
        text_column=request.text_column,
        takes_english=request.takes_english,
        unlabelled=request.unlabelled,
    )
    flat = [(split, i, sample) for split, samples in splits.items() for i, sample in enumerate(samples)]
    clips = [
        Clip(
            id=sample.id,
            score=sample.score if math.isfinite(sample.score) else None,
            start=times[split][i].start if times else None,
            stop=times[split][i].stop if times else None,
        )
        for split, i, sample in flat
    ]
    found, remarks = join(str(path), clips, rows, labels=request.labels)
    joined: dict[str, list[Sample]] = {split: [] for split in splits}
    moved = 0
    for (split, _, sample), row in zip(flat, found, strict=True):
        moved += row.split not in (None, split) and not request.unlabelled
        text = sample.text if keeps_texts else stripped(row.text or "")
        start = sample.start if row.start is None else row.start
        joined[split].append(replace(sample, id=row.id, text=text, start=start))
    here, there = one_line(path.name), one_line(request.labels.name)
    kept = f"{moved} {OTHER_SPLITS} {there}: the splits of {here} were kept"
    return joined, [kept] if moved else [], remarks


def parts_of(name: str) -> tuple[str, str]:
    """Return video and clip of an id; an id without separator is only a video."""
    video, separator, part = name.rpartition(ID_SEPARATOR)
    return (video, part) if separator else (name, "")


def are_positions(names: Iterable[str]) -> bool:
    """Say whether a file names clips 'video[3]', by their position from 0."""
    return any(INDEXED.fullmatch(name) for name in names)


def _by_video(rows: Iterable[LabelRow]) -> dict[str, list[LabelRow]]:
    """Group rows by video, each group in the order of time, or of the clips' numbers if starts are missing."""
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
    text = whole_number(text)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _natural(clip: str) -> tuple[float, str]:
    """Return a key that sorts 'clip 10' after 'clip 9'."""
    number = _number_of(clip)
    return (math.inf if number is None else number, clip)


# ---- ways ----


def _looked_up(clips: Sequence[Clip], keys: Iterable[tuple[str, LabelRow]], asked: Iterable[str]) -> Found:
    """Look up every clip by its key; a key that several rows share finds the first."""
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
    """Compare clips as numbers: spreadsheets drop leading zeros, and write 11 as 11.0."""
    keys = ((f"{row.video}{ID_SEPARATOR}{_number_of(row.clip)}", row) for g in by_video.values() for row in g)
    numbers = ((video, _number_of(part)) for video, part in (parts_of(clip.id) for clip in clips))
    asked = (f"{video}{ID_SEPARATOR}{number}" if number is not None else "" for video, number in numbers)
    return _looked_up(clips, keys, asked)


def _by_position(first: int) -> Way:
    def way(clips: Sequence[Clip], by_video: Mapping[str, Sequence[LabelRow]]) -> Found:
        pairs: list[tuple[_Cost, int, LabelRow]] = []
        for index, clip in enumerate(clips):
            video, part = parts_of(clip.id)
            group, number = by_video.get(video, ()), _number_of(part)
            position = -1 if number is None else number - first
            if 0 <= position < len(group):
                for row, distance in _tied(group, position):
                    pairs.append(((_differ(clip.score, row.score, SAME_SCORE), distance), index, row))
        return _assigned(len(clips), pairs)

    return way


def _tied(group: Sequence[LabelRow], position: int) -> list[tuple[LabelRow, int]]:
    """Return the row at a position and those with the same start, whose order is arbitrary, with their distances."""
    start, last = group[position].start, len(group) - 1
    near = range(max(0, position - _MOST_TIED), min(last, position + _MOST_TIED) + 1)
    return [
        (group[i], abs(i - position)) for i in near if i == position or (start is not None and group[i].start == start)
    ]


def _by_start(clips: Sequence[Clip], by_video: Mapping[str, Sequence[LabelRow]]) -> Found:
    pairs: list[tuple[_Cost, int, LabelRow]] = []
    for index, clip in enumerate(clips):
        if clip.start is None:
            continue
        near = [
            row
            for row in by_video.get(parts_of(clip.id)[0], ())
            if row.start is not None and abs(row.start - clip.start) <= _SAME_TIME
        ]
        pairs += [(_cost_of_times(clip, row), index, row) for row in near if len(near) <= _MOST_TIED]
    return _assigned(len(clips), pairs)


def _cost_of_times(clip: Clip, row: LabelRow) -> _Cost:
    """Rank rows with the start of a clip: by the stop, then the score, then the milliseconds."""
    distance = round(abs((row.start or 0.0) - (clip.start or 0.0)), 3)
    return _differ(clip.stop, row.stop, _SAME_TIME), _differ(clip.score, row.score, SAME_SCORE), distance


def _differ(one: float | None, other: float | None, tolerance: float) -> bool:
    return one is not None and other is not None and abs(one - other) > tolerance


def _assigned(count: int, pairs: Iterable[tuple[_Cost, int, LabelRow]]) -> Found:
    """Give every clip the best row, no row to two clips, and no row if two fit equally well.

    Args:
        count: number of clips.
        pairs: the cost of a row for a clip, the number of the clip, and the row.
    """
    found: Found = [None] * count
    taken: set[int] = set()
    for (_, index), group in groupby(sorted(pairs, key=lambda pair: pair[:2]), key=lambda pair: pair[:2]):
        free = [row for _, _, row in group if id(row) not in taken]
        if found[index] is None and len(free) == 1:
            found[index] = free[0]
            taken.add(id(free[0]))
    return found


def _by_video_alone(clips: Sequence[Clip], by_video: Mapping[str, Sequence[LabelRow]]) -> Found:
    """Take the only row of a video if the clip has no name, on either side."""
    groups = [(by_video.get(video, ()), part) for video, part in (parts_of(clip.id) for clip in clips)]
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
            f"{advice}, found {len(clips)} clips and {len(rows)} rows", advice="give the label file of this source"
        )
    if any(clip.score is None for clip in clips) or any(row.score is None for row in rows):
        raise SourceError(f"{advice}, but without scores nothing shows which row belongs to which clip")
    by_split = sorted(rows, key=lambda row: SPLITS.index(row.split) if row.split in SPLITS else len(SPLITS))
    best = 0.0
    for order, ordered in (("", list(rows)), (" of each split", by_split)):
        agreement = _agreement(clips, ordered)
        best = max(best, agreement or 0.0)
        if best >= _ORDERED_SCORES_AGREE:
            how = f"the source has no ids: joined by the order of the clips{order}"
            return ordered, [f"{how} in {one_line(labels.name)}; {best:.1%} of the scores are equal"]
    raise SourceError(
        f"{advice}, but only {best:.1%} of the scores are equal", advice="give the label file of this source"
    )


# ---- checking a way ----


def _agreement(clips: Sequence[Clip], found: Sequence[LabelRow | None]) -> float | None:
    """Return the share of equal scores among the clips with scores on both sides; None if there are none."""
    pairs = [
        (clip.score, row.score)
        for clip, row in zip(clips, found, strict=True)
        if row is not None and clip.score is not None and row.score is not None
    ]
    return sum(abs(a - b) <= SAME_SCORE for a, b in pairs) / len(pairs) if pairs else None


def _shared(clips: Sequence[Clip], found: Found) -> tuple[Clip, Clip] | None:
    """Return two clips that have the same row, if there are any."""
    owners: dict[int, Clip] = {}
    for clip, row in zip(clips, found, strict=True):
        owner = clip if row is None else owners.setdefault(id(row), clip)
        if owner is not clip:
            return owner, clip
    return None


def _complete(
    where: str, clips: Sequence[Clip], found: Found, rows: Sequence[LabelRow], *, labels: Path
) -> list[LabelRow]:
    missing = [clip for clip, row in zip(clips, found, strict=True) if row is None]
    if missing:
        raise SourceError(
            f"{labels} must have a row for every clip of {where}, found none for {len(missing)} of {len(clips)}, "
            f"the first {_called(missing[0])}: add them or use the label file of this source"
            + _hint(missing, rows, labels)
        )
    return [row for row in found if row is not None]


def _called(clip: Clip) -> str:
    name = repr(one_line(clip.id)[:80])
    return name if clip.start is None else f"{name} at {clip.start:g} s"


def _remarks(attempt: Attempt, labels: Path) -> list[str]:
    if attempt.way == "id":
        return []
    equal = "no scores to compare" if attempt.agreement is None else f"{attempt.agreement:.1%} of the scores are equal"
    return [f"clips and rows of {one_line(labels.name)} were joined by {attempt.way}; {equal}"]


def _refusal(where: str, clips: Sequence[Clip], best: Attempt, labels: Path) -> str:
    matched = sum(row is not None for row in best.found)
    head = (
        f"the clips of {where} must have rows in {labels}; at best, by {best.way}, {matched} of {len(clips)} have one"
    )
    advice = "give the label file of this source"
    if best.share >= NEARLY_ALL and best.agreement is not None and best.agreement < SCORES_AGREE:
        return f"{head}, but only {best.agreement:.1%} of their scores are equal: {advice}"
    shared = _shared(clips, best.found)
    if best.share >= NEARLY_ALL and shared is not None:
        return f"{head}, but {_called(shared[0])} and {_called(shared[1])} have the same row: {advice}"
    missing = next(clip for clip, row in zip(clips, best.found, strict=True) if row is None)
    return f"{head}; {_called(missing)} has no row: {advice}"


def _hint(clips: Sequence[Clip], rows: Sequence[LabelRow], labels: Path) -> str:
    if all(clip.start is None for clip in clips):
        return ""
    if all(row.start is None for row in rows):
        return f"; the source identifies its clips by their starts, but {one_line(labels.name)} has no column start"
    return "; rows with the same start must differ in stop or score"
