"""Segments: the places of clips in their videos, from a label file's times or from the SDK's own labels.

Axes: n labels of a video.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from conki_cli.data.sources.columns import INDEXED
from conki_cli.data.sources.joining import SAME_SCORE, Clip, join
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.sources.labels import read_label_rows
from conki_cli.data.sources.request import Request
from conki_cli.data.sources.tracks import Numbers, Track, label_rows
from conki_cli.data.store.records import FRAME_MODALITIES, SCORED, counted
from conki_cli.system.errors import SourceError, one_line

_SAME_START = 0.05
"""Largest difference of equal starts, in seconds."""
_MOST_CLIPS = 10**6
ONLY_SPLITS = "only the splits of the label file were used"
"""Start of a warning about a label file."""
_SPLIT_ADVICE = "the SDK keeps its splits in code; give --labels with video_id, mode"


@dataclass(frozen=True)
class Segment:
    """A clip to be made: its row of the label file, and its place in the sequences.

    Attributes:
        row: id, text, score, split; start and stop in the video, unless the file is already cut into clips.
        key: the name of the video in the sequences, or of the clip if they are cut.
        is_whole: whether the key names only this clip.
    """

    row: LabelRow
    key: str
    is_whole: bool = False


@dataclass(frozen=True)
class Report:
    """The files of a reading, and its notes and remarks."""

    path: Path
    labels: Path | None
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def find_segments(report: Report, tracks: Mapping[str, Track], request: Request) -> list[Segment]:
    """Find the clips by the label file's times, the keys of a file that is already cut, or the label sequence."""
    rows: list[LabelRow] = []
    if report.labels is not None:
        rows = read_label_rows(
            report.labels,
            needed=("video_id",),
            text_column=request.text_column,
            takes_english=request.takes_english,
            unlabelled=request.unlabelled,
        )
    main = next(tracks[kind] for kind in ("words", "labels", *FRAME_MODALITIES) if kind in tracks)
    is_cut = all(INDEXED.fullmatch(key) for key in main.keys)
    if not is_cut and any(row.start is not None and row.stop is not None for row in rows):
        clips = _timed_segments(report, tracks.get("labels"), rows)
    else:
        found = list(_cut_segments(main, tracks.get("labels")) if is_cut else _labelled_segments(report, tracks, rows))
        alone = request.unlabelled and not rows
        clips = _all_scored(found) if alone else _with_splits(report, found, rows)
    if request.unlabelled:
        return clips
    unscored = next((clip.row.id for clip in clips if clip.row.score is None), None)
    if unscored is not None:
        raise SourceError(
            f"{report.labels} must have a column label with the score of every clip, because no label sequence has it; "
            f"{one_line(unscored)[:80]!r} has none"
        )
    return clips


def _all_scored(clips: Sequence[Segment]) -> list[Segment]:
    return [replace(clip, row=replace(clip.row, split=SCORED)) for clip in clips]


def _timed_segments(report: Report, track: Track | None, rows: Sequence[LabelRow]) -> list[Segment]:
    """Take the clips from the label file; a label sequence gives missing scores, and is compared otherwise."""
    _need_splits(report, rows)
    if not all(row.clip for row in rows):
        raise SourceError(
            f"{report.labels} must have clip_id in every row with start and stop", advice="name the clips"
        )
    clips = [Segment(row, row.video) for row in rows]
    if track is None:
        return clips
    tables = {video: label_rows(track, video) for video in dict.fromkeys(row.video for row in rows)}
    scores = [_score_at(tables[row.video], row.start) for row in rows]
    pairs = [(row.score, score) for row, score in zip(rows, scores, strict=True) if row.score is not None]
    same = sum(score is not None and abs(own - score) <= SAME_SCORE for own, score in pairs)
    if pairs:
        report.remarks.append(f"{track.label}: start and score of {same:,} of {len(pairs):,} clips are the same in it")
    return [
        replace(clip, row=replace(clip.row, score=score)) if clip.row.score is None else clip
        for clip, score in zip(clips, scores, strict=True)
    ]


def _score_at(table: Numbers, start: float | None) -> float | None:
    """Return the score of the interval that starts at `start`; [n, 3] holds start, stop, score."""
    distances = np.nan_to_num(np.abs(table[:, 0] - (math.nan if start is None else start)), nan=math.inf)
    nearest = int(distances.argmin()) if len(distances) else -1
    return float(table[nearest, 2]) if nearest >= 0 and distances[nearest] <= _SAME_START else None


def _cut_segments(main: Track, labels: Track | None) -> Iterator[Segment]:
    for key in main.keys:
        named = INDEXED.fullmatch(key)
        if named is not None:
            table = np.empty((0, 3)) if labels is None else label_rows(labels, key)
            score = float(table[0, 2]) if len(table) else None
            yield Segment(LabelRow(named[1], named[2], score=score), key, is_whole=True)


def _labelled_segments(report: Report, tracks: Mapping[str, Track], rows: Sequence[LabelRow]) -> Iterator[Segment]:
    track = tracks.get("labels")
    if track is None:
        found = "no label file" if not rows else f"only {report.labels}, without times,"
        raise SourceError(
            f"{report.path} must be cut into clips, but there is {found} and no label sequence",
            advice="give --labels with video_id, clip_id, start, stop, label and mode",
        )
    count = 0
    for video in track.keys:
        table = label_rows(track, video)
        count += len(table)
        if count > _MOST_CLIPS:
            raise SourceError(f"{track.path} has more than {_MOST_CLIPS:,} labels", advice="use a trustworthy file")
        for number, (start, stop, score) in enumerate(table.tolist()):
            row = LabelRow(video, str(number), score=score)
            # Without a usable interval the clip has only the label file's data.
            yield Segment(row if math.isnan(start) else replace(row, start=start, stop=stop), video)


def _need_splits(report: Report, rows: Sequence[LabelRow]) -> None:
    if not rows:
        raise SourceError(f"{report.path} does not say which clips are for training: {_SPLIT_ADVICE}")
    lacking = next((row for row in rows if row.split is None), None)
    if lacking is not None:
        raise SourceError(
            f"{report.labels} must have a column mode with train, valid or test in every row, but has not for "
            f"{one_line(lacking.video)[:60]!r}: {_SPLIT_ADVICE}"
        )


def _with_splits(report: Report, clips: Sequence[Segment], rows: Sequence[LabelRow]) -> list[Segment]:
    """Find the split of every clip, and its id and text if the label file has them; times come from the sequence."""
    _need_splits(report, rows)
    videos = {row.video for row in rows}
    known = [clip for clip in clips if clip.row.video in videos]
    if not known:
        raise SourceError(
            f"{report.labels} and {report.path} have no video in common", advice="give the label file of this data"
        )
    if len(known) < len(clips):
        left_out = counted(len(clips) - len(known), "clip")
        report.notes.append(f"{left_out} left out: {report.labels} does not have their videos")
    return _join(report, known, rows) or _by_video(report, known, rows)


def _join(report: Report, clips: Sequence[Segment], rows: Sequence[LabelRow]) -> list[Segment] | None:
    """Give every clip its row of the label file; None if the file names no clips, or other ones."""
    if report.labels is None or not all(row.clip for row in rows):
        return None
    asked = [Clip(clip.row.id, clip.row.score, clip.row.start) for clip in clips]
    try:
        joined, remarks = join(str(report.path), asked, rows, labels=report.labels)
    except SourceError as error:
        if any(clip.row.score is None for clip in clips):
            raise
        report.notes.append(f"{ONLY_SPLITS}: {error}")
        return None
    report.remarks.extend(remarks)
    unused = len({row.id for row in rows} - {row.id for row in joined})
    if unused:
        report.notes.append(
            f"{counted(unused, 'row')} of {report.labels} left out: {report.path.name} has no clip for them"
        )
    return [
        replace(
            clip,
            row=replace(
                row,
                score=clip.row.score if row.score is None else row.score,
                start=clip.row.start,
                stop=clip.row.stop,
            ),
        )
        for clip, row in zip(clips, joined, strict=True)
    ]


def _by_video(report: Report, clips: Sequence[Segment], rows: Sequence[LabelRow]) -> list[Segment]:
    """Give every clip the split of its video."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row.video].add(row.split or "")
    torn = next((video for video in splits if len(splits[video]) > 1), None)
    if torn is not None:
        raise SourceError(
            f"{report.labels} puts the video {one_line(torn)[:60]!r} into two splits", advice="choose one"
        )
    return [replace(clip, row=replace(clip.row, split=min(splits[clip.row.video]))) for clip in clips]


def check_presence(report: Report, tracks: Mapping[str, Track], clips: Sequence[Segment]) -> None:
    """Report which videos are missing from a track.

    Raises:
        SourceError: no track has any of them.
    """
    wanted = dict.fromkeys(clip.key for clip in clips)
    data = [track for kind, track in tracks.items() if kind != "labels"]
    missing = [[key for key in wanted if not track.has(key)] for track in data]
    if all(len(keys) == len(wanted) for keys in missing):
        raise SourceError(
            f"{report.path} must have the videos of its labels, but has none of {len(wanted):,}, such as "
            f"{one_line(next(iter(wanted), ''))[:60]!r}",
            advice="give the label file of this data",
        )
    for track, keys in zip(data, missing, strict=True):
        if keys:
            first = one_line(keys[0])[:60]
            missed = f"{len(keys):,} of {counted(len(wanted), 'video')}"
            report.notes.append(f"{track.label}: without {missed}, first {first!r}")
        others = sum(key not in wanted for key in track.keys)
        if others:
            report.remarks.append(f"{track.label}: {counted(others, 'video')} left out, because they have no clips")
