"""MMSA feature pickles, and what MMSA-FET writes.

One dictionary with the splits train, valid (or dev) and test; each is a dictionary of columns with one entry per clip:

    id                  'video$_$clip', as text or bytes; needed
    raw_text            the spoken words; needed, or --labels. --text-column names
                        another key; sims and simsv2: text_en if present
    regression_labels   one score per clip, (N,), (N, 1) or (N, 1, 1), or seven, of which
                        the first is the sentiment; needed, or --labels; with _T, _V,
                        _A: scores of one modality alone
    vision, audio       numbers [clips, frames, features], padded at the end or in front; or a
                        list of one array [frames, features] per clip, not padded
    *_lengths           real frames of vision or audio per clip, list or array

"Unaligned" files have lengths, which are authoritative: frames outside are dropped, and counted if
they are not zero. The side of the padding (MMSA-FET's padding_location) is found from the zeros, per
modality; a file whose values contradict its lengths on both sides is refused. "Aligned" files have
no lengths: a clip ends with its last frame that is not all zeros, or, if the zeros are in front,
starts with its first. Not read are text and text_bert (the model's text encoder reads raw_text), and
annotations and classification_labels, which contradict the score of some clips. MMSA-FET adds a
top-level `config`, may leave out any modality, may use torch tensors, and writes clips in any order.
Splits with other names, such as train_mix of SIMS v2, are ignored. --audio FILE, --vision FILE and
--text FILE take one modality from another file of this layout, matched by id, like MMSA's feature_A,
feature_V and feature_T.

Axes: N clips of a split, P padded frames, d features per frame.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.file import Raw
from conki_cli.data.sources import ragged
from conki_cli.data.sources.columns import (
    TO_SCORE,
    array_of,
    fingerprint,
    frames_of,
    normal_ids,
    numbers_of,
    one_each,
    split_of,
    splits_of,
    strings_of,
    stripped,
)
from conki_cli.data.sources.features import FeatureTable
from conki_cli.data.sources.joining import Clip, join
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.sources.labels import CHINESE_TEXT_NOTE, LABELS_NOT_NEEDED, blanks_remark, read_label_rows
from conki_cli.data.sources.padding import Padded, find_sides, lengths_of, look_at, repairs_of, without_padding
from conki_cli.data.sources.request import Progress, Request
from conki_cli.data.store.arrays import Array, FileArray
from conki_cli.data.store.records import FRAME_MODALITIES, SPLITS, Corpus, Sample
from conki_cli.datasets import is_chinese
from conki_cli.system.errors import SourceError, names_of, one_line

FORMATS = {
    "mmsa": "MMSA feature pickle (aligned_50.pkl, unaligned_50.pkl, unaligned_39.pkl), and MMSA-FET output",
}
_TELLTALE = {"raw_text", "regression_labels", "annotations", "text_bert", "audio_lengths", "vision_lengths"}
_WIDE = 7  # scores of a clip in MOSEI: its sentiment and six emotions
_UNIMODAL_KEYS = {
    "text": "regression_labels_T",
    "vision": "regression_labels_V",
    "audio": "regression_labels_A",
}


@dataclass(frozen=True)
class _Reader:
    """The state that all splits share, and the observations so far."""

    path: Path
    text_key: str
    progress: Progress
    unlabelled: bool = False
    needs_texts: bool = True
    ignored: set[str] = field(default_factory=set)
    rewritten: list[str] = field(default_factory=list)
    blanks: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, eq=False)
class _Split:
    """The columns of one split, [N] each; None if the file lacks them."""

    ids: list[str]
    texts: list[str] | None
    scores: npt.NDArray[np.float64] | None
    unimodal: Mapping[str, npt.NDArray[np.float64]]
    clips: Mapping[str, Padded | ragged.Clips]


def recognise(raw: Raw) -> str | None:
    """Return the name of the format, if the file has this layout."""
    if raw.kind != "pickle" or not isinstance(raw.content, dict):
        return None
    parts = [part for key, part in raw.content.items() if split_of(key)]
    return "mmsa" if any(isinstance(part, dict) and _TELLTALE & part.keys() for part in parts) else None


def read(raw: Raw, request: Request, name: str) -> Corpus:
    """Read a feature file; frames stay in it until they are read.

    Raises:
        SourceError: the file is incomplete or contradicts itself.
    """
    parts = _splits_of(raw, request.needed_splits)
    reader = _Reader(
        raw.path,
        _text_key(request, parts),
        request.progress,
        unlabelled=request.unlabelled,
        needs_texts=request.needs_texts,
    )
    empty = [split for split, part in parts.items() if _is_empty(part.get("id"))]  # its columns have no type
    if empty and not request.unlabelled:
        raise SourceError(f"{raw.path}: the split {empty[0]!r} must have at least one clip, found none{TO_SCORE}")
    parts = {split: part for split, part in parts.items() if split not in empty}
    columns = {split: _read_split(reader, split, part) for split, part in parts.items()}
    frames, padding, repaired, doubts = _frames(columns)
    joined = _joined(reader, columns, request)
    sha256, size = fingerprint([raw.path, *([request.labels] if joined and request.labels else [])])
    return Corpus(
        dataset=request.dataset,
        score_range=request.score_range,
        splits={
            split: _samples(reader, split, part, frames[split], joined.get(split)) for split, part in columns.items()
        },
        source=raw.path.name,
        source_format="MMSA-FET pickle" if "config" in raw.content else "MMSA pickle",
        source_sha256=sha256,
        source_bytes=size,
        repaired=repaired,
        notes=(*_notes(reader, request), *doubts),
        remarks=_remarks(reader, raw.content),
        padding=padding,
    )


def _is_empty(ids: Any) -> bool:
    has_axis = isinstance(ids, list | tuple) or (isinstance(ids, np.ndarray | FileArray) and ids.ndim > 0)
    return has_axis and not len(ids)


def is_layout(raw: Raw) -> bool:
    """Say whether a file has splits that are dictionaries of columns by id, with any columns."""
    data = raw.content
    if raw.kind != "pickle" or not isinstance(data, dict):
        return False
    return any(isinstance(part, dict) and "id" in part for key, part in data.items() if split_of(key))


def read_frames(raw: Raw, modality: str, request: Request) -> FeatureTable:
    """Read one modality of every clip by its id; the rest of the file may be missing.

    Raises:
        SourceError: a split lacks ids or that modality, or an id has two different ones.
    """
    reader = _Reader(raw.path, "raw_text", request.progress)
    columns: dict[str, _Split] = {}
    for split, part in _splits_of(raw, needed=()).items():
        where = f"{raw.path}, split {split!r}"
        ids = _ids(reader, where, part)
        _value(where, part, modality)
        clips = _clips(reader, where, part, modality)
        _check_counts(where, {"id": len(ids), modality: len(clips)})
        columns[split] = _Split(ids, None, None, {}, {modality: clips})
    frames, padding, repaired, doubts = _frames(columns)
    sha256, size = fingerprint([raw.path])
    return FeatureTable(
        raw.path,
        modality,
        one_each(
            (
                (f"{raw.path}, split {split!r}, clip {number}", clip, one)
                for split, part in columns.items()
                for number, (clip, one) in enumerate(zip(part.ids, frames[split][modality], strict=True), start=1)
            ),
            lambda one, other: np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True),
        ),
        notes=tuple(doubts),
        padding=padding.get(modality, ""),
        repaired=repaired.get(modality, {}),
        sha256=sha256,
        bytes=size,
    )


def read_texts(raw: Raw, request: Request) -> dict[str, str]:
    """Read the texts of every clip by its id; the rest of the file may be missing.

    Raises:
        SourceError: a split lacks ids or texts, or an id has two texts.
    """
    parts = _splits_of(raw, needed=())
    key = _text_key(request, parts)
    reader = _Reader(raw.path, key, request.progress)
    found: list[tuple[str, str, str]] = []
    for split, part in parts.items():
        where = f"{raw.path}, split {split!r}"
        ids, texts = _ids(reader, where, part), strings_of(where, key, _value(where, part, key))
        _check_counts(where, {"id": len(ids), key: len(texts)})
        pairs = enumerate(zip(ids, texts, strict=True), start=1)
        found += [(f"{where}, clip {number}", clip, text) for number, (clip, text) in pairs]
    return one_each(found)


def _splits_of(raw: Raw, needed: Sequence[str] = SPLITS) -> dict[str, dict[str, Any]]:
    if not isinstance(raw.content, dict):
        kind = type(raw.content).__name__
        raise SourceError(f"{raw.path} must be a dictionary of splits as MMSA writes it, found a {kind}")
    parts = splits_of(raw.path, raw.content, needed)
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise SourceError(f"{raw.path}: {key!r} must be a dictionary of arrays, found a {type(part).__name__}")
    return parts


def _text_key(request: Request, parts: Mapping[str, dict[str, Any]]) -> str:
    if request.text_column is not None:
        return request.text_column
    has_english = request.takes_english and all("text_en" in part for part in parts.values())
    return "text_en" if has_english else "raw_text"


def _notes(reader: _Reader, request: Request) -> tuple[str, ...]:
    return (CHINESE_TEXT_NOTE,) if is_chinese(request.dataset) and reader.text_key == "raw_text" else ()


def _remarks(reader: _Reader, data: Mapping[Any, Any]) -> tuple[str, ...]:
    remarks = [*reader.rewritten, *blanks_remark(reader.blanks[reader.text_key])]
    if others := [key for key in data if split_of(key) is None]:
        remarks.append(f"ignored, besides the splits: {names_of(others)}")
    if reader.ignored:
        remarks.append(f"not read: {names_of(sorted(reader.ignored))}")
    return tuple(remarks)


def _read_split(reader: _Reader, name: str, part: dict[str, Any]) -> _Split:
    where = f"{reader.path}, split {name!r}"
    ids = _ids(reader, where, part)
    texts = strings_of(where, reader.text_key, part[reader.text_key]) if reader.text_key in part else None
    scored = {} if reader.unlabelled else part
    scores = _scores(reader, where, part["regression_labels"]) if "regression_labels" in scored else None
    unimodal = {m: numbers_of(where, key, part[key]) for m, key in _UNIMODAL_KEYS.items() if key in scored}
    clips = {m: _clips(reader, where, part, m) for m in FRAME_MODALITIES if m in part}
    counts: dict[str, int] = {"id": len(ids)}
    counts |= {reader.text_key: len(texts)} if texts is not None else {}
    counts |= {"regression_labels": len(scores)} if scores is not None else {}
    counts |= {_UNIMODAL_KEYS[m]: len(column) for m, column in unimodal.items()}
    counts |= {m: len(column) for m, column in clips.items()}
    _check_counts(where, counts)
    read_keys = {*counts, *(f"{m}_lengths" for m in clips)}
    reader.ignored.update(key for key in part if isinstance(key, str) and key not in read_keys)
    return _Split(ids, texts, scores, unimodal, clips)


def _check_counts(where: str, found: Mapping[str, int]) -> None:
    if len(set(found.values())) != 1:
        counts = ", ".join(f"{key} {count}" for key, count in found.items())
        raise SourceError(f"{where}: all keys must have the same number of clips, found {counts}")


def _value(where: str, part: Mapping[str, Any], key: str) -> Any:
    if key not in part:
        raise SourceError(
            f"{where} must have {key!r}, found only {names_of(part)}", advice="check that this is an MMSA feature file"
        )
    return part[key]


def _ids(reader: _Reader, where: str, part: Mapping[str, Any]) -> list[str]:
    ids, remarks = normal_ids(strings_of(where, "id", _value(where, part, "id")))
    reader.rewritten.extend(remarks)
    return ids


def _joined(reader: _Reader, columns: Mapping[str, _Split], request: Request) -> dict[str, list[LabelRow]]:
    """Return the rows of the label file for every split, if there is one and it is needed."""
    lacking = [key for key, missing in (
        (reader.text_key, reader.needs_texts and any(part.texts is None for part in columns.values())),
        ("regression_labels", not request.unlabelled and any(part.scores is None for part in columns.values())),
    ) if missing]  # fmt: skip
    if not lacking:
        if request.labels is not None:
            reader.rewritten.append(f"{LABELS_NOT_NEEDED}: {one_line(reader.path.name)} has texts and scores itself")
        return {}
    if request.labels is None and request.unlabelled:
        return {}
    if request.labels is None:
        other = ", or name another key with --text-column" if lacking[0] == reader.text_key else ""
        raise SourceError(
            f"{reader.path} must have {lacking[0]!r} in every split but does not",
            advice=f"give the texts and scores with --labels label.csv{other}",
        )
    clips = [
        Clip(id=clip, score=None if part.scores is None else float(part.scores[i]))
        for part in columns.values()
        for i, clip in enumerate(part.ids)
    ]
    column = request.text_column if reader.text_key in lacking else None
    rows = read_label_rows(
        request.labels, text_column=column, takes_english=request.takes_english, unlabelled=request.unlabelled
    )
    rows, remarks = join(str(reader.path), clips, rows, labels=request.labels)
    reader.rewritten.extend(remarks)
    ends = np.cumsum([len(part.ids) for part in columns.values()])
    return {split: rows[end - len(columns[split].ids) : end] for split, end in zip(columns, ends, strict=True)}


def _samples(
    reader: _Reader,
    split: str,
    part: _Split,
    frames: Mapping[str, Sequence[Array]],
    rows: Sequence[LabelRow] | None,
) -> list[Sample]:
    samples = []
    for i, clip in enumerate(part.ids):
        text = part.texts[i] if part.texts is not None else rows[i].text if rows else None
        score = float(part.scores[i]) if part.scores is not None else rows[i].score if rows else None
        if reader.unlabelled:
            text, score = text or "", math.nan
        if text is None and not reader.needs_texts:
            text = ""
        if text is None or score is None:
            what = "text" if text is None else "score"
            raise SourceError(f"{reader.path}, split {split!r}: {clip!r} has no {what} in the label file either")
        unimodal = {m: float(column[i]) for m, column in part.unimodal.items()}
        reader.blanks[reader.text_key] += text != stripped(text)
        samples.append(
            Sample(
                id=clip,
                text=stripped(text),
                score=score,
                unimodal=unimodal,
                start=rows[i].start if rows else None,
                **{m: clips[i] for m, clips in frames.items()},
            )
        )
    return samples


def _scores(reader: _Reader, where: str, value: Any) -> npt.NDArray[np.float64]:
    """Return one score per clip, [N]: the first of (N, 7) and (N, 1, 7), the only one for other shapes."""
    scores = array_of(where, "regression_labels", value)
    if scores.ndim < 2 or scores.shape[-1] != _WIDE or scores.size != len(scores) * _WIDE:
        return numbers_of(where, "regression_labels", scores)
    remark = f"regression_labels have {_WIDE} values per clip: only the first, the sentiment, was read"
    if remark not in reader.rewritten:
        reader.rewritten.append(remark)
    return scores[:].reshape(len(scores), _WIDE)[:, 0].astype(np.float64)


def _clips(reader: _Reader, where: str, part: Mapping[str, Any], modality: str) -> Padded | ragged.Clips:
    """Scan the frames of a split: padded [N, P, d], or one array per clip."""
    key = f"{modality}_lengths"
    if (own := ragged.clips_in(part[modality])) is not None:
        lengths = lengths_of(where, key, part[key], len(own)) if key in part else None
        reader.progress(sum(clip.size * clip.dtype.itemsize for clip in own), f"{modality} of {where}")
        return ragged.Clips(*ragged.cut(own, lengths))
    frames = frames_of(where, modality, part[modality])
    lengths = lengths_of(where, key, part[key], len(frames)) if key in part else None
    return look_at(where, frames, lengths, lambda count: reader.progress(count, f"{modality} of {where}"))


def _frames(
    columns: Mapping[str, _Split],
) -> tuple[dict[str, dict[str, list[Array]]], dict[str, str], dict[str, dict[str, int]], list[str]]:
    """Remove the padding.

    Returns:
        Every clip's frames, [L, d] each, by split and modality; the side of the padding; counts of repairs; warnings.
    """
    padded = {m: [one for one in _of(columns, m) if isinstance(one, Padded)] for m in FRAME_MODALITIES}
    sides, padding, doubts = find_sides({m: parts for m, parts in padded.items() if parts}, "end")
    repaired = {m: Counter(repairs_of(padded[m], side)) for m, side in sides.items()}
    for m in FRAME_MODALITIES:
        for one in _of(columns, m):
            if isinstance(one, ragged.Clips):
                repaired.setdefault(m, Counter()).update(one.counts)
                padding.setdefault(m, ragged.PADDING)
    frames = {
        split: {
            m: one.frames if isinstance(one, ragged.Clips) else without_padding(one, sides[m])
            for m, one in part.clips.items()
        }
        for split, part in columns.items()
    }
    return frames, padding, {m: dict(counts) for m, counts in repaired.items() if counts}, doubts


def _of(columns: Mapping[str, _Split], modality: str) -> list[Padded | ragged.Clips]:
    return [part.clips[modality] for part in columns.values() if modality in part.clips]
