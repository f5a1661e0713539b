"""Folders with videos: their features are extracted, as docs/video.md explains.

Read: a folder with label.csv (or .tsv, .jsonl, .parquet, .xlsx) and either one file per clip,
Raw/<video_id>/<clip_id>.mp4, or whole videos, Raw/<video_id>.mp4, with start and stop in seconds in
the label file. Raw/ may be left out. Any container that FFmpeg reads: mp4, mkv, webm, mov, avi, wav,
mp3, flac, ogg and others. With --unlabelled a folder with nothing but videos will do.
Needed: pip install "conki[video]". --audio-features, --vision-features, --fps and --workers say what is
extracted and how. What was extracted is kept in extracted/ and not extracted again.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conki_cli.data.extraction.cache import (
    Clip,
    Extracted,
    Extraction,
    ExtractionError,
    Failure,
    damaged,
    extract_clips,
)
from conki_cli.data.extraction.clip import AUDIO, VISION
from conki_cli.data.extraction.decode import Span
from conki_cli.data.extraction.recipe import COVAREP, NONE
from conki_cli.data.extraction.words import Word, text_of
from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.tables import LABEL_FILES
from conki_cli.data.sources.clip_files import ClipFile
from conki_cli.data.sources.columns import fingerprint
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.sources.labels import read_label_rows, samples_of
from conki_cli.data.sources.request import Request
from conki_cli.data.store.records import ID_SEPARATOR, SCORED, Corpus, counted
from conki_cli.system.errors import SourceError, UnreadableError, one_line
from conki_cli.system.readable import check_read, obstacle_at

FORMATS = {"videos": "a folder with label.csv and videos, one per clip or whole ones: features are extracted"}
_VIDEO = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf", ".mpg", ".mpeg", ".ts", ".mts")
_MORE = (".3gp", ".ogv", ".mxf", ".dv", ".nut")
_AUDIO = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".wma", ".aiff", ".aif", ".amr")
MEDIA_SUFFIXES = frozenset((*_VIDEO, *_MORE, *_AUDIO))
"""Endings by which media are found in a folder; what is in a file, FFmpeg tells from its content."""

_RAW = "Raw"
_DEEPEST = 3  # folders below the source that are looked through
_NAMED = 3  # clips that a warning names
_ROUNDED = 0.5  # seconds by which a stop may be after the end without a warning: times of labels are rounded
_LATEST = 10_000_000  # seconds: times name the folders of the cache, and a name can be too long
_MOST_FILES = 1_000_000


@dataclass(frozen=True)
class _Found:
    """The media of a folder, by the names that label files use."""

    clips: dict[tuple[str, str], Path]
    """By the name of their folder and their own."""
    alone: dict[str, Path]
    """By their own name, those that no other file has: whole videos in folders that say nothing."""

    def folder_of(self, path: Path) -> str:
        """Return the name of the folder of a file, by which a video may be named."""
        return path.parent.name if (path.parent.name, path.stem) in self.clips else ""


def recognise(raw: Raw) -> str | None:
    """Tell whether this is a folder with videos."""
    return "videos" if raw.kind == "folder" and holds_videos(raw.path) else None


def holds_videos(folder: Path) -> bool:
    """Tell whether there is a medium in a folder or in the folders below it."""
    return next((True for _ in media_in(folder)), False) if folder.is_dir() else False


def read(raw: Raw, request: Request, name: str) -> Corpus:
    """Extract the clips of a folder.

    Raises:
        ExtractionError: clips could not be extracted; names them all.
        SourceError: the label file is missing or contradicts itself, or there are no videos.
    """
    extraction = request.extraction
    if extraction is None:
        raise SourceError(f"{raw.path} holds videos", advice="give the folder to `conki prepare --source` by itself")
    extraction = _without_replaced(extraction, request)
    labels = request.labels or next((raw.path / file for file in LABEL_FILES if (raw.path / file).is_file()), None)
    found = _index(raw.path)
    rows, remarks = _rows_of(raw.path, labels, found, request)
    clips, failures = _clips_of(rows, found, raw.path)
    done, failed = extract_clips(clips, extraction)
    heard: list[Extracted] = []
    if extraction.transcribe is not None:
        usable = {one.id for one in done}
        rows, heard, mute = with_words(rows, [clip for clip in clips if clip.id in usable], extraction)
        done, failed = [one for one in done if one.id not in {failure.id for failure in mute}], [*failed, *mute]
    order = {row.id: place for place, row in enumerate(rows)}
    failures = sorted([*failures, *failed], key=lambda failure: order[failure.id])
    if failures and not extraction.skip_failed:
        raise ExtractionError(failed_line(failures, len(rows)), failures)
    if not done:
        raise ExtractionError(f"{raw.path}: no clip could be extracted: see the table", failures)
    notes = [*_failed_notes(failures), *_beyond_the_end(clips, done), *_notes([*done, *heard])]
    return _corpus(raw.path, labels, rows, done, notes, (request, extraction, remarks))


def with_words(
    rows: Sequence[LabelRow], clips: Sequence[Clip], extraction: Extraction
) -> tuple[list[LabelRow], list[Extracted], list[Failure]]:
    """Return rows with the words that are said in their clips as texts, what was heard, and what could not be."""
    heard, failures = extract_clips(clips, extraction.for_words)
    said = {one.id: text_of(words_in(one)) for one in heard}
    return [dataclasses.replace(row, text=said.get(row.id, row.text)) for row in rows], heard, failures


def words_in(extracted: Extracted) -> list[Word]:
    """Return the words that were written down of a clip."""
    times = [
        (text, *(math.nan if time is None else float(time) for time in rest))
        for text, *rest in extracted.result["words"]
    ]
    return [Word(text, start, stop) for text, start, stop in times]


def failed_line(failures: Sequence[Failure], count: int) -> str:
    """Say in one line how many clips failed, and what to do."""
    first, reason = one_line(failures[0].id)[:60], one_line(failures[0].reason)[:200]
    if count == 1:
        return f"the clip {first!r} could not be extracted ({reason})"
    if len(failures) == count:
        return f"none of the {count} clips could be extracted; the first is {first!r} ({reason})"
    return (
        f"{len(failures)} of {count} clips could not be extracted, such as {first!r} ({reason}); the others are kept: "
        "repair these, or leave them out with --skip-failed"
    )


def frames_of(extracted: Extracted, modality: str) -> ClipFile | None:
    """Return the features of a clip, to be read when they are asked for; None: it has none.

    Raises:
        ConkiError: their file is missing, or not whole.
    """
    file = {"audio": AUDIO, "vision": VISION}[modality]
    path = extracted.folder / file
    if not extracted.result.get(f"{modality}_frames"):
        return None
    try:
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            is_whole = stream.tell() + math.prod(shape) * dtype.itemsize == path.stat().st_size
    except (OSError, ValueError) as error:
        check_read(path, error)
        raise damaged(extracted.folder) from error
    if not is_whole:
        raise damaged(extracted.folder)
    return ClipFile(path, None, dtype, shape)


def _without_replaced(extraction: Extraction, request: Request) -> Extraction:
    """Extract nothing that another file replaces."""
    gone: dict[str, Any] = {name: NONE for name in ("audio", "vision") if name in request.replaced}
    return dataclasses.replace(extraction, recipe=dataclasses.replace(extraction.recipe, **gone))


# ---- which clips there are ----


def media_in(folder: Path) -> Iterator[Path]:
    """Yield the media below a folder, sorted; pipes and devices with such names are passed over.

    Raises:
        SourceError: a link leads out of it.
    """
    root = folder.resolve()
    for place, folders, files in os.walk(folder, followlinks=False):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEEPEST else []
        for name in sorted(files):
            path = Path(place) / name
            if path.suffix.lower() not in MEDIA_SUFFIXES or name.startswith("."):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise SourceError(f"{path} is a link that leads out of {root}", advice="put the file itself there")
            what = ""
            with contextlib.suppress(UnreadableError):  # said by whoever reads it
                what = obstacle_at(path)
            if not what:
                yield path


def _index(folder: Path) -> _Found:
    clips: dict[tuple[str, str], Path] = {}
    for number, path in enumerate(media_in(folder)):
        if number >= _MOST_FILES:
            raise SourceError(f"{folder} must hold {_MOST_FILES} media at most", advice="split it")
        inside = path.relative_to(folder).parts
        inside = inside[1:] if inside[0] == _RAW and len(inside) > 1 else inside
        key = (inside[-2] if len(inside) > 1 and ID_SEPARATOR not in path.stem else "", path.stem)
        other = clips.get(key)
        if other is not None:
            raise SourceError(
                f"{other} and {path} have the same name", advice="remove one, or name their folders after videos"
            )
        clips[key] = path
    for (video, clip), path in clips.items():
        other = clips.get(("", video + ID_SEPARATOR + clip)) if video else None
        if other is not None:
            raise SourceError(
                f"{other} and {path} are both the clip {one_line(clip)[:60]!r} of one video", advice="remove one"
            )
    if not clips:
        raise SourceError(
            f"{folder} must hold videos or sound ({', '.join(sorted(MEDIA_SUFFIXES)[:6])}, ...), found none"
        )
    count = Counter(path.stem for path in clips.values())
    return _Found(clips, {path.stem: path for path in clips.values() if count[path.stem] == 1})


def _rows_of(folder: Path, labels: Path | None, found: _Found, request: Request) -> tuple[list[LabelRow], list[str]]:
    """Return the rows of the label file; without one, a row for every file, to be scored."""
    if labels is None:
        if not request.unlabelled:
            raise SourceError(
                f"{folder} holds videos and no label.csv (video_id, clip_id, text, label, mode)",
                advice="add one, name it with --labels, or give --unlabelled to score them",
            )
        rows = [LabelRow(*_name_of(*key), "", split=SCORED) for key in found.clips]
        return rows, [f"no label file: {counted(len(rows), 'file')} to be scored, without texts"]
    has_texts = request.extraction is not None and request.extraction.transcribe is not None
    text = () if has_texts or "text" in request.replaced else ("text",)
    rows = read_label_rows(
        labels,
        needed=("video_id", "clip_id", *text, "label", "mode"),
        text_column=request.text_column,
        takes_english=request.takes_english,
        unlabelled=request.unlabelled,
    )
    named = {path for path, _ in _files_of(rows, found) if path is not None}
    others = len(set(found.clips.values()) - named)
    return rows, [f"{counted(others, 'file')} in {one_line(folder.name)} not named by the label file"] if others else []


def _name_of(folder: str, stem: str) -> tuple[str, str]:
    """Return video and clip of a file that no label file names."""
    if ID_SEPARATOR in stem:
        video, _, clip = stem.rpartition(ID_SEPARATOR)
        return video, clip
    return folder, stem


def _files_of(rows: Sequence[LabelRow], found: _Found) -> list[tuple[Path | None, bool]]:
    """Return the file of every row, and whether it is a whole video that the clip is a part of."""
    own = [_own(row, found) for row in rows]
    with_clips = {row.video for row, path in zip(rows, own, strict=True) if path is not None}
    files: list[tuple[Path | None, bool]] = []
    for row, path in zip(rows, own, strict=True):
        if path is not None:
            files.append((path, False))
        elif not row.video:
            files.append((_alone(row.clip, found, with_clips), False))
        else:
            files.append((found.clips.get(("", row.video)) or _whole(row.video, found, with_clips), True))
    return files


def _own(row: LabelRow, found: _Found) -> Path | None:
    """Return the file that is a clip: in the folder of its video, or called by both names."""
    path = found.clips.get((row.video, row.clip)) or found.clips.get(("", row.id))
    if path is None and ID_SEPARATOR in row.clip:  # in the folder of its video, but listed by its own name alone
        path = found.clips.get(("", row.clip))
        return path if path is not None and path.parent.name == row.video else None
    return path


def _alone(name: str, found: _Found, with_clips: Collection[str]) -> Path | None:
    """Return the only file of a name, in a folder of any name but that of a video with clips, whose clip it is."""
    path = found.alone.get(name)
    return None if path is None or found.folder_of(path) in with_clips else path


def _whole(video: str, found: _Found, with_clips: Collection[str]) -> Path | None:
    """Return the whole video of a name in a folder of its own or of any other, unless clips have that name."""
    path = None if video in with_clips else _alone(video, found, with_clips)
    has_folder = any(name == video for name, _ in found.clips)
    return path if path is None or not has_folder or found.folder_of(path) == video else None


def _clips_of(rows: Sequence[LabelRow], found: _Found, folder: Path) -> tuple[list[Clip], list[Failure]]:
    clips, failures = [], []
    for row, (path, is_part) in zip(rows, _files_of(rows, found), strict=True):
        if path is None:
            names = f"{_RAW}/{row.video}/{row.clip}.mp4 or {_RAW}/{row.video}.mp4" if row.video else f"{row.clip}.mp4"
            reason = f"there is no file {one_line(names)[:120]}: add it, or remove the row of the label file"
            if not row.video and any(stem == row.clip for _, stem in found.clips):
                reason = f"which file {one_line(row.clip)[:60]} is cannot be told: add a column video_id"
            failures.append(Failure(row.id, folder, reason))
        elif is_part and (row.start is None or row.stop is None):
            reason = f"{path.name} is a whole video and the label file has no start and stop for it: add these columns"
            failures.append(Failure(row.id, path, reason))
        elif is_part and not 0 <= (row.start or 0.0) < (row.stop or 0.0):
            reason = f"start {row.start:g} must be before stop {row.stop:g}: correct the row of the label file"
            failures.append(Failure(row.id, path, reason))
        elif is_part and (row.stop or 0.0) > _LATEST:
            reason = f"stop must be at most {_LATEST:,} s, is {row.stop:g}: correct the row of the label file"
            failures.append(Failure(row.id, path, reason))
        else:
            clips.append(Clip(row.id, path, Span(row.start or 0.0, row.stop or math.inf) if is_part else Span()))
    return clips, failures


# ---- the corpus ----


def _corpus(
    folder: Path,
    labels: Path | None,
    rows: Sequence[LabelRow],
    done: Sequence[Extracted],
    notes: Sequence[str],
    asked: tuple[Request, Extraction, list[str]],
) -> Corpus:
    request, extraction, remarks = asked
    by_id = {extracted.id: extracted for extracted in done}
    kept = [row for row in rows if row.id in by_id]
    used = [m for m in ("audio", "vision") if getattr(extraction.recipe, m) != NONE]
    frames = {m: [frames_of(by_id[row.id], m) for row in kept] for m in used}
    digest = hashlib.sha256(fingerprint([labels])[0].encode() if labels is not None else b"")
    for extracted in done:
        digest.update(f"{extracted.id}\0{extracted.folder.name}\n".encode())
    return Corpus(
        dataset=request.dataset,
        score_range=request.score_range,
        splits=samples_of(kept, frames),
        source=folder.name or str(folder),
        source_format="videos",
        source_sha256=digest.hexdigest(),
        notes=tuple(notes),
        remarks=(*remarks, *_remarks(done, extraction)),
        extraction=extraction.provenance() | _words_note(extraction),
    )


def _words_note(extraction: Extraction) -> dict[str, Any]:
    """Return the note of the model that wrote the texts."""
    note = {} if extraction.transcribe is None else extraction.for_words.provenance()
    return {"text": note["text"]} if note else {}


def _failed_notes(failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    shown = "; ".join(f"{one_line(one.id)[:60]} ({one_line(one.reason)[:120]})" for one in failures[:_NAMED])
    return [f"{counted(len(failures), 'clip')} left out that could not be extracted: {shown}"]


def _beyond_the_end(clips: Sequence[Clip], done: Sequence[Extracted]) -> list[str]:
    """Warn about clips that end after their video."""
    spans = {clip.id: clip.span for clip in clips}
    lines = []
    for extracted in done:
        span, seconds = spans[extracted.id], float(extracted.result["seconds"])
        length = float(extracted.result.get("length", 0.0)) or span.start + seconds
        if math.isfinite(span.stop) and span.stop > length + _ROUNDED:
            lines.append(
                f"{one_line(extracted.id)[:60]} (stop {span.stop:g} s, the video lasts {length:.1f} s, "
                f"{seconds:.1f} of {span.stop - span.start:.1f} s were read)"
            )
    if not lines:
        return []
    more = f"; and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    ends = "clip ends" if len(lines) == 1 else "clips end"
    shown = "; ".join(lines[:_NAMED])
    return [f"{len(lines)} {ends} after the video does: {shown}{more}; check start and stop in the label file"]


def _notes(done: Sequence[Extracted]) -> list[str]:
    """Return the warnings of clips, those of a kind together; what two extractions of a clip say counts once."""
    kinds: dict[str, dict[str, None]] = {}
    for extracted in done:
        for warning in extracted.result.get("warnings", []):
            words = "".join("#" if sign.isdigit() else sign for sign in str(warning))
            line = f"{one_line(extracted.id)[:60]}: {one_line(str(warning))[:120]}"
            kinds.setdefault(words, {})[line] = None
    return [
        f"{counted(len(lines), 'clip')}: {'; '.join([*lines][:_NAMED])}{'; ...' if len(lines) > _NAMED else ''}"
        for lines in kinds.values()
    ]


def _remarks(done: Sequence[Extracted], extraction: Extraction) -> list[str]:
    def total(key: str) -> int:
        return sum(int(extracted.result.get(key, 0)) for extracted in done)

    recipe: Any = extraction.recipe
    lines = [f"extracted {counted(len(done), 'clip')}, {sum(one.result['seconds'] for one in done) / 60:.1f} minutes"]
    if recipe.audio != NONE and total("audio_frames"):
        share = total("voiced_frames") / total("audio_frames")
        voiced = f"100 frames a second, {share:.0%} of them voiced" if recipe.audio == COVAREP else "50 frames a second"
        lines.append(f"audio: {recipe.audio}, {voiced}")
    if recipe.vision != NONE and total("vision_frames"):
        share = total("face_frames") / total("vision_frames")
        rate = "the video's own rate" if recipe.fps is None else f"{recipe.fps:g} rows a second"
        lines.append(f"vision: {recipe.vision}, {rate}, a face in {share:.0%} of them")
    return lines
