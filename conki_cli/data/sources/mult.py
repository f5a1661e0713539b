"""MulT, MultiBench and LMF pickles: padded arrays without the spoken words.

One dictionary with train, valid (or dev) and test; each is a dictionary of columns with one entry
per clip. The files hold words only as vectors (GloVe or BERT), so the texts come from a label file:
--labels label.csv is needed. Ids are those of the label file.

    MulT        mosi_data.pkl, mosi_data_noalign.pkl, mosei_senti_data.pkl, mosei_senti_data_noalign.pkl
    MultiBench  mosi_raw.pkl, mosei_raw.pkl, mosi_data.pkl, mosei_senti_data.pkl

    vision, audio   numbers [clips, frames, features], padded in front; needed
    labels          one score per clip, (N, 1, 1), or wider: the first is the
                    sentiment; needed
    id              MulT: (N, 3), text or bytes: 'video' or 'video_clip', start and
                    stop in seconds; MultiBench: 'video[clip]'
    text            word vectors, not read; clips of zeros are kept

A clip starts with its first frame that is not all zeros; a clip of zeros has no frames. If more clips
of a modality end with zeros than start with them, its padding is at the end. If clips disagree, the
side with more frames of zeros in the whole file counts, with a warning.

LMF: mosi.pkl and similar files, written by python 2

    covarep, facet  numbers [clips, features] of the whole clip: they become one
                    frame; needed
    label           one score per clip; needed
    glove           word vectors, not read

Clips of LMF, and of MulT without `id`, have no ids: they are joined with the label file by their
order, if the scores agree. The splits and scores of the pickle are kept. IEMOCAP (four emotions per
clip) is refused.

Axes: N clips of a split, P padded frames, d features per frame.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.file import Raw
from conki_cli.data.sources.columns import (
    array_of,
    clip_ids,
    fingerprint,
    frames_of,
    name_of,
    plain_key,
    slices_of,
    split_of,
    splits_of,
)
from conki_cli.data.sources.joining import POSITIONS, Clip, are_positions, with_labels
from conki_cli.data.sources.padding import Padded, find_sides, look_at, without_padding
from conki_cli.data.sources.request import Progress, Request
from conki_cli.data.sources.unsupported import iemocap, is_emotion_shape
from conki_cli.data.store.arrays import Array, FileArray
from conki_cli.data.store.records import FRAME_MODALITIES, Corpus, Sample
from conki_cli.system.errors import SourceError, names_of

FORMATS = {
    "mult": "MulT mosi_data.pkl, mosei_senti_data_noalign.pkl and similar; needs --labels label.csv",
    "multibench": "MultiBench mosi_raw.pkl, mosei_raw.pkl and similar; needs --labels label.csv",
    "lmf": "LMF mosi.pkl, written by python 2; needs --labels label.csv",
}
_NAMES = {"mult": "MulT", "multibench": "MultiBench", "lmf": "LMF"}
_KEYS = {"vision": "vision", "audio": "audio", "scores": "labels", "ids": "id"}
_LMF_KEYS = {"vision": "facet", "audio": "covarep", "scores": "label", "ids": "id"}
_FOREIGN = {"raw_text", "regression_labels", "annotations", "text_bert"}  # keys of MMSA's files


@dataclass(frozen=True)
class _Reader:
    """The state that all splits share, and the observations so far."""

    path: Path
    keys: Mapping[str, str]
    progress: Progress
    unlabelled: bool = False
    remarks: dict[str, None] = field(default_factory=dict)  # in the order of occurrence, each once
    ignored: set[str] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class _Split:
    """The columns of one split: N ids and times, scores [N], and padded frames, [N, P, d]."""

    clips: list[Clip]
    scores: npt.NDArray[np.float64]
    padded: Mapping[str, Padded]


def recognise(raw: Raw) -> str | None:
    """Return the name of the format, if it is one of these."""
    if raw.kind != "pickle" or not isinstance(raw.content, dict):
        return None
    for key, value in raw.content.items():
        if split_of(key) is None or not isinstance(value, dict):
            continue
        part = _named(value)
        if "label" in part and {"covarep", "facet"} & part.keys():
            return "lmf"
        found = {"text", "vision", "audio", "labels"} & part.keys()
        if len(found) >= 3 and not _FOREIGN & part.keys():
            return "multibench" if _is_list(part.get("id")) else "mult"
    return None


def _is_list(ids: Any) -> bool:
    """Distinguish one id per clip from a table of ids and times; None is neither."""
    return isinstance(ids, list) or (isinstance(ids, np.ndarray | FileArray) and ids.ndim > 0 and ids.size == len(ids))


def _named(part: Mapping[Any, Any]) -> dict[str, Any]:
    return {plain_key(key): value for key, value in part.items()}


def read(raw: Raw, request: Request, name: str) -> Corpus:
    """Read padded arrays, joined with the texts of a label file; frames stay in their file until they are read.

    Raises:
        SourceError: the file is incomplete or contradicts itself, or there is no matching label file.
    """
    if raw.kind != "pickle" or not isinstance(raw.content, dict):
        raise SourceError(f"{raw.path} must be a dictionary of splits, found a {type(raw.content).__name__}")
    name = recognise(raw) or name
    parts = splits_of(raw.path, raw.content, request.needed_splits)
    reader = _Reader(raw.path, _LMF_KEYS if name == "lmf" else _KEYS, request.progress, request.unlabelled)
    if others := [key for key in raw.content if split_of(key) is None]:
        reader.remarks[f"ignored, besides the splits: {names_of(others)}"] = None
    _check_labels(reader, parts, request)
    columns = {split: _read_split(reader, f"{raw.path}, split {split!r}", part) for split, part in parts.items()}
    sides, padding, doubts = find_sides(
        {m: [part.padded[m] for part in columns.values()] for m in FRAME_MODALITIES}, "front"
    )
    frames = {
        split: {m: without_padding(padded, sides[m]) for m, padded in part.padded.items()}
        for split, part in columns.items()
    }
    splits, notes, remarks = _samples(reader, columns, frames, request)
    sha256, size = fingerprint([raw.path, *([request.labels] if request.labels else [])])
    return Corpus(
        dataset=request.dataset,
        score_range=request.score_range,
        splits=splits,
        source=raw.path.name,
        source_format=f"{_NAMES[name]} pickle",
        source_sha256=sha256,
        source_bytes=size,
        notes=(*doubts, *notes),
        remarks=(*reader.remarks, *_ignored(reader), *remarks),
        padding=padding,
    )


def _check_labels(reader: _Reader, parts: Mapping[str, Any], request: Request) -> None:
    # Check before the arrays are scanned, which takes minutes for MOSEI.
    for part in parts.values():
        labels = _named(part).get(reader.keys["scores"]) if isinstance(part, dict) else None
        if isinstance(labels, np.ndarray | FileArray) and is_emotion_shape(labels.shape):
            raise SourceError(f"{reader.path} is {iemocap()}")
    if request.labels is None and request.needs_texts and not request.unlabelled:
        raise SourceError(
            f"{reader.path} has words only as vectors, and ConKI reads texts",
            advice="give them with --labels label.csv (columns video_id, clip_id, text)",
        )


def _ignored(reader: _Reader) -> list[str]:
    return [f"not read: {names_of(sorted(reader.ignored))}"] if reader.ignored else []


def _read_split(reader: _Reader, where: str, part: Any) -> _Split:
    if not isinstance(part, dict):
        raise SourceError(f"{where} must be a dictionary of arrays, found a {type(part).__name__}")
    columns, keys = _named(part), reader.keys
    if reader.unlabelled and keys["vision"] in columns:
        vision = array_of(where, keys["vision"], columns[keys["vision"]])
        columns[keys["scores"]] = np.full(vision.shape[:1], np.nan)
    missing = [keys[what] for what in ("vision", "audio", "scores") if keys[what] not in columns]
    if missing:
        raise SourceError(f"{where} must have {', '.join(missing)}, found only {names_of(columns)}")
    scores = _scores(reader, where, keys["scores"], columns[keys["scores"]])
    rows = list(_id_rows(where, columns[keys["ids"]])) if keys["ids"] in columns else [Clip("")] * len(scores)
    frames = {m: _frames(where, keys[m], columns[keys[m]], keys is _LMF_KEYS) for m in FRAME_MODALITIES}
    counts = {keys["scores"]: len(scores), keys["ids"]: len(rows), **{keys[m]: len(a) for m, a in frames.items()}}
    if len(set(counts.values())) != 1 or not len(scores):
        found = ", ".join(f"{key} {count}" for key, count in counts.items())
        raise SourceError(f"{where}: all keys must have the same number of clips, at least one, found {found}")
    reader.ignored.update(key for key in columns if key not in keys.values())
    padded = {m: _padded(reader, where, m, array) for m, array in frames.items()}
    return _Split(rows, scores, padded)


def _scores(reader: _Reader, where: str, key: str, value: Any) -> npt.NDArray[np.float64]:
    """Return the first label of every clip, [N], from (N,), (N, k) and (N, 1, k)."""
    array = array_of(where, key, value)
    if is_emotion_shape(array.shape):
        raise SourceError(f"{reader.path} is {iemocap()}")
    if not (1 <= array.ndim <= 3) or 0 in array.shape[1:] or (array.ndim == 3 and array.shape[1] != 1):
        raise SourceError(f"{where}: {key!r} must hold one score per clip, found the shape {array.shape}")
    width = array.shape[-1] if array.ndim > 1 else 1
    if width > 1:
        reader.remarks[f"{key} have {width} values per clip: only the first, the sentiment, was read"] = None
    firsts = [block.reshape(len(block), -1)[:, 0] for block in slices_of(array)]
    return np.concatenate([np.empty(0), *firsts]).astype(np.float64)


def _id_rows(where: str, value: Any) -> Iterator[Clip]:
    """Yield id, start and stop of every clip from a list or array of ids, or of (id, start, stop)."""
    rows: Any = value
    if isinstance(value, np.ndarray | FileArray):
        fits = (value.ndim == 1 or (value.ndim == 2 and value.shape[1] <= 3)) and value.dtype.kind in "SUOiu"
        rows = [row for block in slices_of(value) for row in block.tolist()] if fits else None
    if not isinstance(rows, list | tuple):
        raise SourceError(f"{where}: 'id' must hold one id, or id, start and stop, per clip")
    for number, row in enumerate(rows, start=1):
        row = row.reshape(-1)[:4].tolist() if isinstance(row, np.ndarray) else row
        parts = row if isinstance(row, list | tuple) else [row]
        if not 1 <= len(parts) <= 3:
            raise SourceError(
                f"{where}, row {number}: 'id' must be an id, or id, start and stop, found {len(parts)} parts"
            )
        # Some sets have numbers as ids; python refuses to print very long ones.
        name = str(parts[0]) if isinstance(parts[0], int) and abs(parts[0]) < 2**63 else parts[0]
        start, stop = (_seconds(parts[k]) if len(parts) > k else None for k in (1, 2))
        yield Clip(name_of(f"{where}, row {number}", "id", name), start=start, stop=stop)


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if np.isfinite(seconds) else None


def _frames(where: str, key: str, value: Any, may_be_flat: bool) -> Array:
    """Return frames [N, P, d]; features of whole clips, [N, d], become one frame each."""
    array = array_of(where, key, value)
    if may_be_flat and array.ndim == 2:
        if isinstance(array, FileArray):
            return dataclasses.replace(array, shape=(array.shape[0], 1, array.shape[1]))
        return array[:, None, :]
    return frames_of(where, key, array)


def _padded(reader: _Reader, where: str, modality: str, frames: Array) -> Padded:
    return look_at(where, frames, told=lambda count: reader.progress(count, f"{modality} of {where}"))


def _samples(
    reader: _Reader,
    columns: Mapping[str, _Split],
    frames: Mapping[str, Mapping[str, Sequence[Array]]],
    request: Request,
) -> tuple[dict[str, list[Sample]], list[str], list[str]]:
    written = [clip.id for part in columns.values() for clip in part.clips]
    ids, remarks = clip_ids(written)
    names = iter(ids)
    splits = {
        split: [
            Sample(
                id=next(names),
                text="",
                score=float(part.scores[i]),
                vision=frames[split]["vision"][i],
                audio=frames[split]["audio"][i],
                start=part.clips[i].start,
            )
            for i in range(len(part.clips))
        ]
        for split, part in columns.items()
    }
    if request.labels is None:
        return splits, [], [*remarks, *([POSITIONS] if are_positions(written) else [])]
    return with_labels(reader.path, splits, request, times={split: part.clips for split, part in columns.items()})
