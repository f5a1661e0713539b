"""Take one modality of a corpus from another file, matched by id: --text, --audio, --vision."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from conki_cli.errors import SourceError, one_line
from conki_cli.sources import mmsa, sequences
from conki_cli.sources.columns import fingerprint
from conki_cli.sources.features import FeatureTable, attach, read_features
from conki_cli.sources.labels import CHINESE_TEXT_NOTE, read_label_rows
from conki_cli.sources.raw.opening import open_raw
from conki_cli.sources.request import Request, is_chinese
from conki_cli.store import FRAME_MODALITIES, Corpus

_CHINESE = re.compile("[\u4e00-\u9fff]")


def override(corpus: Corpus, paths: Mapping[str, Path], request: Request, *, source: Path) -> Corpus:
    """Replace modalities of a corpus by what other files have of them.

    Args:
        corpus: what the source gave.
        paths: the file or folder for each modality.
        request: how these files are to be read.
        source: what was read; where it is a label file, or a folder with one, its times cut sequences.

    Raises:
        SourceError: a file cannot be read, or knows too few of the clips.
    """
    if "text" in paths:
        corpus = _with_texts(corpus, paths["text"], request)
    request = replace(request, labels=request.labels or _labels_of(source))
    return attach(corpus, {m: _table(paths[m], m, request) for m in FRAME_MODALITIES if m in paths})


def _labels_of(source: Path) -> Path | None:
    """Return the label file that a source is, or that lies in it."""
    candidates = (source / "label.csv", source / "meta.csv") if source.is_dir() else (source,)
    return next((path for path in candidates if path.is_file() and path.suffix in (".csv", ".tsv")), None)


def _table(path: Path, modality: str, request: Request) -> FeatureTable:
    """Read one modality: a folder or .npz of features, a pickle in MMSA's layout, or any other known format."""
    from conki_cli.sources import read_raw, recognise

    raw = open_raw(path) if path.is_file() else None
    if raw is None or raw.kind == "npz":
        return read_features(path, modality, request)
    name, _ = recognise(raw)
    if name == "csd":
        return _cut(path, modality, request)
    if name in (None, "mmsa") and mmsa.is_layout(raw):
        return mmsa.read_frames(raw, modality, request)
    other = read_raw(raw, replace(request, replaced=frozenset()))
    samples = [sample for part in other.splits.values() for sample in part]
    return FeatureTable(
        path,
        modality,
        {sample.id: frames for sample in samples if (frames := getattr(sample, modality)) is not None},
        padding=other.padding.get(modality, ""),
        repaired=other.repaired.get(modality, {}),
        sha256=other.source_sha256,
        bytes=other.source_bytes,
    )


def _cut(path: Path, modality: str, request: Request) -> FeatureTable:
    if request.labels is None:
        raise SourceError(f"{path} is to be cut by time: give --labels label.csv with the columns start and stop")
    if request.align_words:
        raise SourceError(f"--align words needs {path.name} and the words in one folder: give that as --source")
    rows = read_label_rows(request.labels)
    clips, notes = sequences.cut(path, rows, modality, progress=request.progress)
    frames = {row.id: clip for row, clip in zip(rows, clips, strict=True) if clip is not None}
    sha256, size = fingerprint([path])
    return FeatureTable(path, modality, frames, remarks=tuple(notes), sha256=sha256, bytes=size)


def _with_texts(corpus: Corpus, path: Path, request: Request) -> Corpus:
    texts = _texts(path, request)
    ids = [clip.id for part in corpus.splits.values() for clip in part]
    lacking = [clip for clip in ids if clip not in texts]
    if lacking:
        raise SourceError(
            f"{path} must have a text for every clip of {corpus.source}, has none for {len(lacking)} of {len(ids)}, "
            f"such as {one_line(lacking[0])[:80]!r}: add them, or leave --text out"
        )
    splits = {
        name: [replace(clip, text=texts[clip.id].strip()) for clip in part] for name, part in corpus.splits.items()
    }
    notes = tuple(note for note in corpus.notes if note != CHINESE_TEXT_NOTE)
    if is_chinese(request.dataset) and any(_CHINESE.search(texts[clip]) for clip in ids):
        notes = (*notes, CHINESE_TEXT_NOTE)
    remarks = (*corpus.remarks, f"texts from {one_line(path.name)}")
    return replace(corpus, splits=splits, notes=notes, remarks=remarks)


def _texts(path: Path, request: Request) -> Mapping[str, str]:
    """Return the texts of a label file, of a pickle in MMSA's layout, or of any other known format, by id."""
    from conki_cli.sources import read_raw, recognise

    raw = open_raw(path)
    if raw.kind == "table":
        rows = read_label_rows(path, text_column=request.text_column, takes_english=request.takes_english)
        return {row.id: row.text for row in rows if row.text is not None}
    if recognise(raw)[0] in (None, "mmsa") and mmsa.is_layout(raw):
        return mmsa.read_texts(raw, request)
    return {clip.id: clip.text for part in read_raw(raw, request).splits.values() for clip in part}
