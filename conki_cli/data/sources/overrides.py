"""Take one modality of a corpus from another file, matched by id and score: --text, --audio, --vision."""

import contextlib
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.opening import open_raw
from conki_cli.data.raw.tables import LABEL_FILES, TABLE_SUFFIXES
from conki_cli.data.sources import mmsa, sequences
from conki_cli.data.sources.columns import (
    fingerprint,
    normal_ids,
    numbers_of,
    one_each,
    splits_of,
    strings_of,
    stripped,
)
from conki_cli.data.sources.features import FeatureTable, attach, names_in, read_features
from conki_cli.data.sources.joining import OTHER_SPLITS, are_positions
from conki_cli.data.sources.labels import CHINESE_TEXT_NOTE, read_label_rows
from conki_cli.data.sources.matching import Names, match
from conki_cli.data.sources.request import Request
from conki_cli.data.sources.segments import ONLY_SPLITS
from conki_cli.data.store.records import FRAME_MODALITIES, Corpus
from conki_cli.datasets import is_chinese
from conki_cli.system.errors import SourceError, one_line

_CHINESE = re.compile("[\u4e00-\u9fff]")


def override(corpus: Corpus, paths: Mapping[str, Path], request: Request, *, source: Path | None) -> Corpus:
    """Replace modalities of a corpus by those of other files.

    Args:
        corpus: the corpus of the source.
        paths: the file or folder for each modality.
        request: how to read these files.
        source: the source; if it is a label file, or a folder with one, its times cut sequences into clips. None: only
            these files are read.

    Raises:
        SourceError: a file cannot be read, or has too few of the clips.
    """
    if "text" in paths:
        corpus = _with_texts(corpus, paths["text"], request)
    request = replace(request, labels=request.labels or (_labels_of(source) if source is not None else None))
    return attach(corpus, {m: _table(paths[m], m, request) for m in FRAME_MODALITIES if m in paths})


def _labels_of(source: Path) -> Path | None:
    """Return the source if it is a label file, or the label file in it."""
    candidates = [source / name for name in LABEL_FILES] if source.is_dir() else [source]
    return next((path for path in candidates if path.is_file() and path.suffix in TABLE_SUFFIXES), None)


def _table(path: Path, modality: str, request: Request) -> FeatureTable:
    """Read one modality: a folder or .npz of features, a pickle in MMSA's layout, or any other known format."""
    from conki_cli.data.sources.formats import recognise

    raw = open_raw(path) if path.is_file() else None
    if raw is None or raw.kind == "npz":
        return read_features(path, modality, request)
    name, _ = recognise(raw)
    if name == "csd":
        return _cut(path, modality, request)
    if name in (None, "mmsa") and mmsa.is_layout(raw):
        table = mmsa.read_frames(raw, modality, request)
        names = _names_in_columns(raw)
        scores = {clip: score for clip, score in names.scores.items() if score is not None}
        return replace(table, scores=scores, are_positions=names.are_positions)
    other = _with_own_ids(raw, replace(request, replaced=frozenset(), needs_texts=False))
    samples = [sample for part in other.splits.values() for sample in part]
    return FeatureTable(
        path,
        modality,
        {sample.id: frames for sample in samples if (frames := getattr(sample, modality)) is not None},
        notes=tuple(note for note in other.notes if _concerns(modality, note)),
        padding=other.padding.get(modality, ""),
        repaired=other.repaired.get(modality, {}),
        sha256=other.source_sha256,
        bytes=other.source_bytes,
        scores={sample.id: sample.score for sample in samples},
        are_positions=names_in(other).are_positions,
    )


def _concerns(modality: str, note: str) -> bool:
    """Say whether a warning about a file concerns one of its modalities, and not its texts, splits or another one."""
    others = tuple(f"{name}: " for name in FRAME_MODALITIES if name != modality)
    is_elsewhere = note == CHINESE_TEXT_NOTE or OTHER_SPLITS in note or note.startswith((ONLY_SPLITS, *others))
    return not is_elsewhere


def _with_own_ids(raw: Raw, request: Request) -> Corpus:
    """Read a file whose clips get the label file's ids, or keep their own if that file lacks some of them."""
    from conki_cli.data.sources.formats import read_raw

    try:
        corpus = read_raw(raw, request)
        _check_ids(raw.path, corpus)
        return corpus
    except SourceError:
        if request.labels is not None:
            with contextlib.suppress(SourceError):
                return _with_own_ids(raw, replace(request, labels=None))
        raise


def _check_ids(path: Path, corpus: Corpus) -> None:
    counts = Counter(clip.id for part in corpus.splits.values() for clip in part)
    name, count = next(iter(counts.most_common(1)), ("", 0))
    if "" in counts or count > 1:
        found = "they have no ids" if "" in counts else f"{one_line(name)[:80]!r} names {count}"
        raise SourceError(
            f"{path}: an id must name one clip, {found}",
            advice="give --labels label.csv, with start and stop if the file has them",
        )


def _names_in_columns(raw: Raw) -> Names:
    """Return the ids and scores in a file of MMSA's layout; values that are not scores are ignored."""
    scores: dict[str, float | None] = {}
    written: list[str] = []
    for split, part in splits_of(raw.path, raw.content, needed=()).items():
        where = f"{raw.path}, split {split!r}"
        ids = strings_of(where, "id", part["id"])
        values: list[float] = []
        with contextlib.suppress(SourceError, KeyError):
            values = numbers_of(where, "regression_labels", part["regression_labels"]).tolist()
        if len(values) != len(ids):
            values = [math.nan] * len(ids)
        finite = [score if math.isfinite(score) else None for score in values]
        scores.update(zip(normal_ids(ids)[0], finite, strict=True))
        written += ids
    return Names(str(raw.path), scores, are_positions(written))


def _cut(path: Path, modality: str, request: Request) -> FeatureTable:
    if request.labels is None:
        raise SourceError(
            f"{path} must be cut into clips by time", advice="give --labels label.csv with the columns start and stop"
        )
    if request.align_words:
        raise SourceError(
            f"--align words needs {path.name} and the words in one folder", advice="give that as --source"
        )
    rows = read_label_rows(request.labels)
    clips, notes = sequences.cut(path, rows, modality, progress=request.progress)
    frames = {row.id: clip for row, clip in zip(rows, clips, strict=True) if clip is not None}
    sha256, size = fingerprint([path])
    return FeatureTable(path, modality, frames, remarks=tuple(notes), sha256=sha256, bytes=size)


def _with_texts(corpus: Corpus, path: Path, request: Request) -> Corpus:
    texts, names, (sha256, size) = _texts(path, request)
    mine = names_in(corpus)
    found, notes, remarks = match(mine, names, "a text")
    lacking = [clip for clip in mine.scores if clip not in found or found[clip] not in texts]
    if lacking:
        raise SourceError(
            f"{path} must have a text for every clip of {corpus.source}, but has none for {len(lacking)} of "
            f"{len(mine.scores)}, such as {one_line(lacking[0])[:80]!r}",
            advice="add them, or leave out --text",
        )
    splits = {
        name: [replace(clip, text=stripped(texts[found[clip.id]])) for clip in part]
        for name, part in corpus.splits.items()
    }
    notes = [*(note for note in corpus.notes if note != CHINESE_TEXT_NOTE), *notes]
    if is_chinese(request.dataset) and any(_CHINESE.search(clip.text) for part in splits.values() for clip in part):
        notes.append(CHINESE_TEXT_NOTE)
    said = (*corpus.remarks, f"texts from {one_line(path.name)}", *remarks)
    lines = f"{corpus.source}\0{corpus.source_sha256}\ntext:{path.name}\0{sha256}\n"
    return replace(
        corpus,
        splits=splits,
        source_sha256=hashlib.sha256(lines.encode()).hexdigest(),
        source_bytes=corpus.source_bytes + size,
        notes=tuple(notes),
        remarks=said,
    )


def _texts(path: Path, request: Request) -> tuple[Mapping[str, str], Names, tuple[str, int]]:
    """Return the texts of a label file, of a pickle in MMSA's layout, or of any other known format.

    Returns:
        The texts by id, names and scores of the clips, and the SHA-256 and size of what was read.
    """
    from conki_cli.data.sources.formats import read_raw, recognise

    raw = open_raw(path)
    if raw.kind == "table":
        rows = read_label_rows(path, text_column=request.text_column, takes_english=request.takes_english)
        names = Names(str(path), {row.id: row.score for row in rows})
        return {row.id: row.text for row in rows if row.text is not None}, names, fingerprint([path])
    if recognise(raw)[0] in (None, "mmsa") and mmsa.is_layout(raw):
        return mmsa.read_texts(raw, request), _names_in_columns(raw), fingerprint([path])
    other = read_raw(raw, request)
    named = (
        (f"{path}, split {split!r}, clip {number}", clip.id, clip.text)
        for split, part in other.splits.items()
        for number, clip in enumerate(part, start=1)
    )
    names = replace(names_in(other), where=str(path))
    return one_each(named), names, (other.source_sha256, other.source_bytes)
