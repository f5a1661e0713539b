"""CMU-MultimodalSDK computational sequences: a .csd file or a folder of them; MultiBench's *.hdf5.

A .csd file is HDF5 and holds one sequence of all videos: <sequence>/data/<video>/features,
[rows, features], and intervals, [rows, 2], the start and stop of every row in seconds. MultiBench
has several sequences in one file, <sequence>/<video>/features, usually already cut into clips with
keys such as 'video[3]'. Type, number of features and name of a sequence show what it holds:

    words    text                      not named after phones
    labels   1 or 7 numbers            named opinion, label or sentiment
    audio    numbers                   named COVAREP, openSMILE, acoustic or audio
    vision   numbers                   named FACET, OpenFace, visual or vision

Others, such as GloVe vectors and phones, are left out. Words alone are enough. The clips come from
--labels FILE, or from a label.csv or meta.csv in the folder. The columns video_id, clip_id, start,
stop, mode and label are sufficient. Without times the label sequence defines the clips (interval i
of a video is its clip i, the first number its score), and the file needs video_id and mode, because
the SDK has its splits only in code; rows for the same clips also give ids and texts.

A word or frame belongs to the clip that contains the middle of its interval. The words of a clip,
without the pauses 'sp', are its text. They are compared with the texts of the label file, which
replace them if a clip has no words (and always with --text-column). --align words averages the
frames in the interval of each word: numbers that are not finite are left out, and a word without
frames gets zeros. Rows with an invalid interval are ignored and counted. Metadata are not read.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from conki_cli import MODALITIES
from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.tables import LABEL_FILES
from conki_cli.data.sources.columns import MOST_LETTERS, fingerprint, stripped
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.sources.request import Progress, Request, no_progress
from conki_cli.data.sources.segments import Report, Segment, check_presence, find_segments
from conki_cli.data.sources.tracks import (
    Track,
    Video,
    frames_by_word,
    frames_in,
    is_track,
    notes_of,
    open_tracks,
    tracks_of,
    video_in,
    words_of,
)
from conki_cli.data.store.records import FRAME_MODALITIES, SPLITS, Corpus, Frames, Sample, counted
from conki_cli.system.errors import SourceError, one_line

FORMATS = {
    "csd": "CMU-MultimodalSDK computational sequences: a .csd file, or a folder of them",
    "multibench-hdf5": "MultiBench's mosi.hdf5 and others: several computational sequences in one file",
}


def recognise(raw: Raw) -> str | None:
    """Return "csd" for a computational sequence or a folder with some, "multibench-hdf5" for several in one file."""
    if raw.kind == "folder":
        return "csd" if _csd_files(raw) else None
    if raw.kind != "hdf5":
        return None
    with contextlib.suppress(Exception):  # not one of these formats
        if is_track(raw.content, nested=True):
            return "csd"
        if is_track(raw.content, nested=False):
            return "multibench-hdf5"
    return None


def read(raw: Raw, request: Request, name: str) -> Corpus:
    """Read sequences as a corpus; frames stay in their files until they are read.

    Raises:
        SourceError: the files are refused or damaged, contradict each other, or do not locate the clips.
    """
    labels = _label_file(raw, request)
    report = Report(raw.path, labels)
    if raw.kind == "folder" and (unread := [name for name in LABEL_FILES if raw.content.get(name, labels) != labels]):
        report.remarks.append(f"not read, because {one_line(str(labels))} was: {' and '.join(unread)}")
    tracks = _choose(report, _tracks_in(raw, name), request)
    if request.align_words and "words" not in tracks:
        raise SourceError(
            f"{raw.path} must hold words for --align words, found none", advice="leave it out or add them"
        )
    clips = find_segments(report, tracks, request)
    check_presence(report, tracks, clips)
    made = _cut_all(tracks, clips, request.align_words, request.progress)
    texts = _texts_of(report, clips, [text for text, _ in made], request)
    splits = _samples([clip.row for clip in clips], texts, [frames for _, frames in made])
    for track in tracks.values():
        report.notes.extend(notes_of(track))
    used = {track.path for track in tracks.values()} | ({labels} if labels is not None else set())
    sha256, size = fingerprint(sorted(used))
    return Corpus(
        dataset=request.dataset,
        score_range=request.score_range,
        splits=splits,
        source=raw.path.name,
        source_format="CMU SDK computational sequences" if name == "csd" else "MultiBench HDF5",
        source_sha256=sha256,
        source_bytes=size,
        notes=tuple(report.notes),
        remarks=tuple(report.remarks),
    )


def _samples(
    rows: Sequence[LabelRow], texts: Sequence[str], frames: Sequence[Mapping[str, Frames]]
) -> dict[str, list[Sample]]:
    """Return the clips by split; scores of a modality are kept where every row has one."""
    complete = [modality for modality in MODALITIES if all(modality in row.unimodal for row in rows)]
    splits: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for row, text, parts in zip(rows, texts, frames, strict=True):
        score = math.nan if row.score is None else row.score
        unimodal = {modality: row.unimodal[modality] for modality in complete}
        splits[row.split or ""].append(Sample(row.id, text, score, unimodal=unimodal, start=row.start, **parts))
    return splits


def cut(
    path: Path,
    rows: Sequence[LabelRow],
    modality: str,
    *,
    words: Path | None = None,
    progress: Progress = no_progress,
) -> tuple[list[Frames | None], list[str]]:
    """Cut one .csd file into the clips of a label file.

    Args:
        path: the file; if no sequence is named after the modality, its only sequence of numbers is used.
        rows: clips with start and stop, or clips that the file names 'video[clip]'.
        modality: "audio" or "vision".
        words: the .csd file with the words over which frames are averaged; None: no averaging.
        progress: is notified of the finished clips.

    Returns:
        The frames of every row, in the order of the rows (None for a row without frames), and notes.

    Raises:
        SourceError: a file is refused or damaged, has no such sequence, or the rows have no times.
    """
    tracks = open_tracks(path)
    named = [track for track in tracks if track.kind == modality]
    found = named or [track for track in tracks if track.kind in (*FRAME_MODALITIES, "numbers")]
    if len(found) != 1:
        raise SourceError(
            f"{path} must hold one sequence of {modality}, found {len(found)}", advice="name another file"
        )
    chosen = {modality: replace(found[0], kind=modality)}
    if words is not None:
        chosen |= {track.kind: track for track in open_tracks(words) if track.kind == "words"}
        if "words" not in chosen:
            raise SourceError(f"{words} must hold words to average over, found none", advice="name another file")
    clips = [_segment_in(chosen[modality], row) for row in rows]
    if not any(clip.is_whole or clip.row.start is not None for clip in clips):
        raise SourceError(f"{path} must be cut into clips by time: the label file must have the columns start and stop")
    report = Report(path, None)
    check_presence(report, chosen, clips)
    frames = [made.get(modality) for _, made in _cut_all(chosen, clips, words is not None, progress)]
    return frames, report.notes + notes_of(chosen[modality])


def _segment_in(track: Track, row: LabelRow) -> Segment:
    key = f"{row.video}[{row.clip}]"
    return Segment(row, key, is_whole=True) if track.has(key) else Segment(row, row.video)


# ---- files and tracks ----


def _csd_files(raw: Raw) -> list[Path]:
    return [path for name, path in sorted(raw.content.items()) if name.lower().endswith(".csd")]


def _label_file(raw: Raw, request: Request) -> Path | None:
    if request.labels is not None or raw.kind != "folder":
        return request.labels
    return next((raw.content[name] for name in LABEL_FILES if name in raw.content), None)


def _tracks_in(raw: Raw, name: str) -> list[Track]:
    if raw.kind == "folder":
        tracks = [track for path in _csd_files(raw) for track in open_tracks(path)]
    elif raw.kind == "hdf5":
        tracks = list(tracks_of(raw.content, nested=name == "csd"))
    else:
        raise SourceError(
            f"{raw.path} must be HDF5 or a folder with .csd files to be read as {name}", advice="leave out --format"
        )
    if not tracks:
        raise SourceError(f"{raw.path} has no .csd file", advice="name one, or a folder with some")
    return tracks


def _choose(report: Report, tracks: Sequence[Track], request: Request) -> dict[str, Track]:
    """Return the one track of every kind; a remark names the others."""
    chosen: dict[str, Track] = {}
    for track in tracks:
        if track.kind not in ("words", "labels", *FRAME_MODALITIES) or track.kind in request.replaced:
            continue
        if track.kind in chosen:
            raise SourceError(
                f"{report.path} must have one sequence of {track.kind}, found {chosen[track.kind].label} and "
                f"{track.label}",
                advice=f"move one away, or name the right one with --{track.kind} FILE.csd",
            )
        chosen[track.kind] = track
    if not set(chosen) - {"labels"}:
        found = ", ".join(track.label for track in tracks[:10])
        raise SourceError(
            f"{report.path} must have words, audio or vision, recognised by their names; found only {found}"
        )
    report.remarks.extend(f"{kind}: {track.label}" for kind, track in chosen.items())
    unused = [track.label for track in tracks if track not in chosen.values()]
    if unused:
        report.remarks.append(f"left out, not needed: {', '.join(unused)}")
    return chosen


# ---- cutting ----


def _cut_all(
    tracks: Mapping[str, Track], clips: Sequence[Segment], align_words: bool, progress: Progress
) -> list[tuple[str, dict[str, Frames]]]:
    """Return spoken text and frames of every clip; only the rows of one video at a time are in memory."""
    made: list[tuple[str, dict[str, Frames]]] = [("", {})] * len(clips)
    by_key: defaultdict[str, list[int]] = defaultdict(list)
    for number, clip in enumerate(clips):
        by_key[clip.key].append(number)
    letters = 0
    for key, numbers in by_key.items():
        opened = {kind: video_in(track, key) for kind, track in tracks.items() if kind != "labels"}
        videos = {kind: video for kind, video in opened.items() if video is not None}
        words = words_of(videos["words"]) if "words" in videos else []
        for number in numbers:
            made[number] = _cut_clip(videos, words, clips[number], align_words)
            letters += len(made[number][0])
        if letters > MOST_LETTERS:
            raise SourceError(
                f"the texts of all clips have more than {MOST_LETTERS:,} letters", advice="use trustworthy data"
            )
        progress(len(numbers), one_line(key)[:60])
    return made


def _cut_clip(
    videos: Mapping[str, Video], words: Sequence[str], clip: Segment, align_words: bool
) -> tuple[str, dict[str, Frames]]:
    spans = {kind: _span(video, clip) for kind, video in videos.items()}
    spoken = [row for row in range(len(words))[spans.get("words", slice(0, 0))] if words[row]]
    frames: dict[str, Frames | None] = {}
    for modality in FRAME_MODALITIES:
        if modality not in videos:
            continue
        if not align_words:
            frames[modality] = frames_in(videos[modality], spans[modality])
        elif spoken:
            frames[modality] = frames_by_word(videos[modality], videos["words"].times[spoken])
    kept = {modality: values for modality, values in frames.items() if values is not None}
    return " ".join(words[row] for row in spoken), kept


def _span(video: Video, clip: Segment) -> slice:
    if clip.is_whole:
        return video.everything
    if clip.row.start is None or clip.row.stop is None:
        return slice(0, 0)
    return video.between(clip.row.start, clip.row.stop)


# ---- texts ----


def _texts_of(report: Report, clips: Sequence[Segment], spoken: Sequence[str], request: Request) -> list[str]:
    """Choose the text of every clip, and compare the spoken words with the label file's texts."""
    told = [stripped(clip.row.text or "") for clip in clips]
    if not any(spoken) or request.text_column is not None:
        if not any(told) and not request.unlabelled:
            raise SourceError(f"{report.path} has no words for its clips", advice="give --labels with a column text")
        report.remarks.append(f"the texts come from {report.labels}")
        return told
    compared = [k for k in range(len(clips)) if spoken[k] and told[k]]
    other = [clips[k].row.id for k in compared if _letters(spoken[k]) != _letters(told[k])]
    unspoken = [k for k in range(len(clips)) if told[k] and not spoken[k]]
    if told_count := len(compared) + len(unspoken):
        line = f"{len(compared) - len(other):,} of {told_count:,} transcripts equal the label file's"
        report.remarks.append(f"{line}; others: {', '.join(map(one_line, other))}" if other else line)
    if unspoken:
        ids = ", ".join(one_line(clips[k].row.id) for k in unspoken)
        report.remarks.append(f"without words, with the label file's text: {counted(len(unspoken), 'clip')}: {ids}")
    return [spoken[k] or told[k] for k in range(len(clips))]


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
