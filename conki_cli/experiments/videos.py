"""Scores for new videos: extracted as the run's training data were, whole or in segments."""

import bisect
import contextlib
import dataclasses
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conki_cli.data.extraction.cache import Clip, Extracted, Extraction, ExtractionError, Failure, extract_clips
from conki_cli.data.extraction.decode import Span
from conki_cli.data.extraction.recipe import NONE, Recipe
from conki_cli.data.extraction.words import Word, text_of
from conki_cli.data.sources.loose_videos import clips_of, write_to_score
from conki_cli.data.sources.videos import failed_line, words_in
from conki_cli.data.store.records import FRAME_MODALITIES, ID_SEPARATOR, Ragged, Utterances
from conki_cli.experiments.prediction import open_clips, predict_new
from conki_cli.runs import Run, recipe_of
from conki_cli.system.errors import RunError, SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

SENTENCES = "sentences"
_SHORTEST_SENTENCE = 0.01  # seconds; the names of segments tell starts that are so far apart
_SHORTEST_REST = 0.5  # of a segment: what is left at the end is a segment of its own, else part of the last


@dataclasses.dataclass(frozen=True)
class VideoTask:
    """What is to be scored.

    Attributes:
        videos: files, or folders with files.
        texts: what is said: one for all videos, or one for each; empty: nothing is known.
        segments: their length in seconds, or sentences; None: each video is one clip.
        extraction: cache, workers and model files; its recipe is that of the run.
        device: where to compute.
    """

    videos: Sequence[Path]
    extraction: Extraction
    texts: Sequence[str] = ()
    segments: float | str | None = None
    device: str = "auto"


def parse_segments(text: str) -> float | str:
    """Read the length of segments, such as 5s, or "sentences".

    Raises:
        SettingsError: it is none.
    """
    if text == SENTENCES:
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)s?", text.strip())
    seconds = float(found[1]) if found else 0.0
    if not 0.5 <= seconds <= 3600:
        raise SettingsError(
            f"--segments must be seconds from 0.5s to 3600s, such as 5s, or sentences, found {text[:40]!r}"
        )
    return seconds


def score_videos(run: Run, task: VideoTask, workspace: Workspace, observer: Observer) -> dict[str, Any]:
    """Score videos with every finished seed of a run.

    Returns:
        As `predict_new`, each clip with `start` and `stop` in its video where there are segments, and `warnings`;
        `failures` where clips are left out.

    Raises:
        RunError: the run reads features of another kind, or texts and there are none.
        ExtractionError: a video could not be extracted.
    """
    videos = clips_of(task.videos)
    heard = _words_of(videos, task)
    whole = [video for video in videos if heard is None or video.id in heard.words]
    texts = _texts_of(run, whole, task.texts) if heard is None else {}
    recipe = recipe_of(run, task.extraction.recipe.face_models)
    extraction = dataclasses.replace(task.extraction, recipe=recipe, observer=observer)
    clips, failures = _cut(whole, task, heard.words if heard else None, extraction)
    if recipe.audio == NONE and recipe.vision == NONE:
        done: list[Extracted] = [Extracted(clip.id, Path(), {"warnings": []}) for clip in clips]
    else:
        done, failed = extract_clips(clips, extraction)
        failures = [*failures, *failed]
    failures = [*(heard.failures if heard else []), *failures]
    if failures and (not extraction.skip_failed or not done):
        raise ExtractionError(failed_line(failures, len(failures) + len(done)), failures)
    spans = {clip.id: clip.span for clip in clips}
    said = {clip.id: texts[_video_of(clip, whole)] for clip in clips} if texts else {}
    if heard is not None:
        said = said_in(whole, clips, heard.words, task.segments)
    with _opened(run, done, said, extraction, workspace, observer) as utterances:
        scored = predict_new(run, utterances, task.device, observer)
    warnings = {one.id: list(one.result["warnings"]) for one in done}
    of_words = {clip.id: heard.warnings[_video_of(clip, whole)] if heard else [] for clip in clips}
    for clip in scored["clips"]:
        span = spans[clip["id"]]
        if not span.is_whole:
            clip |= {"start": span.start, "stop": span.stop}
        clip["warnings"] = list(dict.fromkeys([*of_words[clip["id"]], *warnings[clip["id"]]]))  # each once
    return {**scored, "failures": [failure.to_json() for failure in failures]}


@dataclasses.dataclass(frozen=True)
class _Heard:
    """What is said in videos, by their ids, what is worth a look there, and the videos in which it cannot be heard."""

    words: Mapping[str, list[Word]]
    warnings: Mapping[str, list[str]]
    failures: Sequence[Failure]


def _words_of(whole: Sequence[Clip], task: VideoTask) -> _Heard | None:
    """Return the words of every video; None: they are not to be written down."""
    if task.extraction.transcribe is None:
        if task.segments == SENTENCES:
            raise SettingsError(
                "--segments sentences needs the time of every word", advice="name a model with --transcribe"
            )
        return None
    if task.texts:
        raise SettingsError("--transcribe writes down what is said", advice="leave --text out")
    done, failures = extract_clips(whole, task.extraction.for_words)
    if failures and (not task.extraction.skip_failed or not done):
        raise ExtractionError(failed_line(failures, len(whole)), failures)
    words = {one.id: words_in(one) for one in done}
    if task.segments is not None and any(math.isnan(word.start) for said in words.values() for word in said):
        raise SettingsError(
            f"{task.extraction.transcribe} does not tell the times of words (its generation_config.json has no "
            "alignment_heads)",
            advice="name another model, or leave --segments out",
        )
    return _Heard(words, {one.id: list(one.result["warnings"]) for one in done}, failures)


def said_in(
    whole: Sequence[Clip], clips: Sequence[Clip], words: Mapping[str, list[Word]], segments: float | str | None
) -> dict[str, str]:
    """Return what is said in each clip: every word of a video belongs to exactly one of its clips."""
    if segments == SENTENCES:
        return {clip.id: text for clip, text in _sentences(whole, words)}
    of_video: dict[Path, list[Clip]] = {}
    for clip in clips:
        of_video.setdefault(clip.path, []).append(clip)
    said: dict[str, list[Word]] = {clip.id: [] for clip in clips}
    for video in whole:
        parts = sorted(of_video.get(video.path, ()), key=lambda clip: clip.span.start)
        starts = [part.span.start for part in parts]
        for word in words[video.id] if parts else ():
            number = bisect.bisect_right(starts, (word.start + word.stop) / 2) - 1
            said[parts[max(0, number)].id].append(word)
    return {clip: text_of(part) for clip, part in said.items()}


def sentences_of(words: Sequence[Word]) -> list[list[Word]]:
    """Return the words of every sentence: it ends with a full stop, a question or an exclamation mark.

    A sentence that takes no time, by the times of its words, is joined to the next one, the last one to that before.
    """
    found: list[list[Word]] = []
    sentence: list[Word] = []
    for word in words:
        sentence.append(word)
        is_over = word.text.rstrip("\"')").endswith((".", "?", "!", "\u3002", "\uff1f", "\uff01"))
        if is_over and _takes_time(sentence):
            found.append(sentence)
            sentence = []
    if _takes_time(sentence):
        found.append(sentence)
    elif found:
        found[-1] = [*found[-1], *sentence]
    return found


def _takes_time(sentence: Sequence[Word]) -> bool:
    return bool(sentence) and sentence[-1].stop - sentence[0].start >= _SHORTEST_SENTENCE


def _sentences(whole: Sequence[Clip], words: Mapping[str, list[Word]]) -> list[tuple[Clip, str]]:
    """Return every sentence of videos as a clip and its text."""
    found = [(video, part) for video in whole for part in sentences_of(words.get(video.id, []))]
    return [(_part(video, Span(part[0].start, part[-1].stop)), text_of(part)) for video, part in found]


def _cut(
    whole: Sequence[Clip], task: VideoTask, words: Mapping[str, list[Word]] | None, extraction: Extraction
) -> tuple[list[Clip], list[Failure]]:
    """Return the clips to be scored: whole videos, or their segments."""
    if task.segments is None:
        return list(whole), []
    if isinstance(task.segments, float):
        return _segments(whole, task.segments, extraction)
    sentences = [clip for clip, _ in _sentences(whole, words or {})]
    if not sentences:
        raise SettingsError("no sentence was heard", advice="leave --segments sentences out, or give --segments 5s")
    heard = {clip.path for clip in sentences}
    silent = [Failure(video.id, video.path, "no sentence was heard") for video in whole if video.path not in heard]
    return sentences, silent


def _part(video: Clip, span: Span) -> Clip:
    return Clip(f"{video.id}{ID_SEPARATOR}{span.start:09.2f}", video.path, span)


def _video_of(clip: Clip, whole: Sequence[Clip]) -> str:
    return next(video.id for video in whole if video.path == clip.path)


def _texts_of(run: Run, clips: Sequence[Clip], texts: Sequence[str]) -> dict[str, str]:
    """Return the text of every video by its id."""
    if not texts:
        if "T" not in run.config.model.drop:
            raise RunError(
                f"run {run.name} reads what is said",
                advice='give it with --text "...", once per video, or name a model with --transcribe',
            )
        return {}
    if len(texts) not in (1, len(clips)):
        raise SettingsError(f"--text must be given once, or once per video ({len(clips)}), found {len(texts)}")
    return {clip.id: texts[0 if len(texts) == 1 else number] for number, clip in enumerate(clips)}


def _segments(whole: Sequence[Clip], seconds: float, extraction: Extraction) -> tuple[list[Clip], list[Failure]]:
    """Cut videos into segments of equal length; how long they are, decoding tells."""
    lengths, failures = extract_clips(whole, dataclasses.replace(extraction, recipe=Recipe(NONE, NONE)))
    found = {one.id: float(one.result["seconds"]) for one in lengths}
    clips = []
    for video in whole:
        if video.id in found:
            count = max(1, math.floor(found[video.id] / seconds + 1 - _SHORTEST_REST))
            stops = [*(seconds * number for number in range(1, count)), found[video.id] or seconds]
            starts = [0.0, *stops[:-1]]
            for start, stop in zip(starts, stops, strict=True):
                clips.append(_part(video, Span(start, stop)))
    return clips, failures


@contextlib.contextmanager
def _opened(
    run: Run,
    done: Sequence[Extracted],
    texts: Mapping[str, str],
    extraction: Extraction,
    workspace: Workspace,
    observer: Observer,
) -> Iterator[Utterances]:
    """Open extracted clips in the scale of a run."""
    with tempfile.TemporaryDirectory(prefix="conki-") as folder:
        path = Path(folder) / "clips.h5"
        write_to_score(path, done, extraction, texts)
        with open_clips(run, path, None, workspace, observer) as utterances:
            yield _with_absent(utterances, extraction)


def _with_absent(utterances: Utterances, extraction: Extraction) -> Utterances:
    """Give clips of which none has sound, or pictures, no frames of it, as in a store where other clips have some."""
    provenance = extraction.provenance()
    nothing = np.zeros(len(utterances) + 1, dtype=np.int64)
    absent = {
        name: Ragged(np.zeros((0, len(provenance[name]["columns"])), dtype=np.float32), nothing)
        for name in FRAME_MODALITIES
        if name in provenance and name not in utterances.frames
    }
    return dataclasses.replace(utterances, frames={**utterances.frames, **absent})
