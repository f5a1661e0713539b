"""Take one modality of a corpus from another file, matched by id: --text, --audio, --vision."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from conki_cli.errors import SourceError, one_line
from conki_cli.sources import mmsa, sequences
from conki_cli.sources.columns import fingerprint
from conki_cli.sources.features import FeatureTable, attach, read_features
from conki_cli.sources.labels import read_label_rows
from conki_cli.sources.raw.opening import open_raw
from conki_cli.sources.request import Raw, Request
from conki_cli.store import FRAME_MODALITIES, Corpus

ReadRaw = Callable[[Raw, Request], Corpus]


def override(corpus: Corpus, paths: Mapping[str, Path], request: Request, read_raw: ReadRaw, *, source: Path) -> Corpus:
    """Replace modalities of a corpus by what other files have of them.

    Args:
        corpus: what the source gave.
        paths: the file or folder for each modality.
        request: how the source was read.
        read_raw: reads a file of any known format.
        source: what was read; where it is a label file, or a folder with one, its times cut sequences.

    Raises:
        SourceError: a file cannot be read, or knows too few of the clips.
    """
    if "text" in paths:
        corpus = _with_texts(corpus, paths["text"], request, read_raw)
    tables = {
        m: _table(paths[m], m, replace(request, labels=request.labels or _labels_of(source)), read_raw)
        for m in FRAME_MODALITIES
        if m in paths
    }
    return attach(corpus, tables)


def _labels_of(source: Path) -> Path | None:
    """Return the label file that a source is, or that lies in it."""
    candidates = (source / "label.csv", source / "meta.csv") if source.is_dir() else (source,)
    return next((path for path in candidates if path.is_file() and path.suffix in (".csv", ".tsv")), None)


def _table(path: Path, modality: str, request: Request, read_raw: ReadRaw) -> FeatureTable:
    """Read one modality: a folder or .npz of features, a pickle in MMSA's layout, or any other known format."""
    raw = open_raw(path) if path.is_file() else None
    if raw is None or raw.kind == "npz":
        return read_features(path, modality, request)
    if mmsa.is_layout(raw):
        return mmsa.read_frames(raw, modality, request)
    if sequences.recognise(raw) == "csd":
        return _cut(path, modality, request)
    other = read_raw(raw, request)
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


def _with_texts(corpus: Corpus, path: Path, request: Request, read_raw: ReadRaw) -> Corpus:
    raw = open_raw(path)
    if raw.kind == "table":
        rows = read_label_rows(path, text_column=request.text_column, dataset=request.dataset)
        texts = {row.id: row.text for row in rows if row.text is not None}
    elif mmsa.is_layout(raw):
        texts = mmsa.read_texts(raw, request)
    else:
        texts = {clip.id: clip.text for part in read_raw(raw, request).splits.values() for clip in part}
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
    return replace(corpus, splits=splits, remarks=(*corpus.remarks, f"texts from {one_line(path.name)}"))
