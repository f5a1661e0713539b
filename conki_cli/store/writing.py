"""Write a corpus as a feature store: checked first, repaired and hashed on the way, complete or not at all."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli import MODALITIES, __version__
from conki_cli.errors import SourceError
from conki_cli.files import atomic_path, locked
from conki_cli.store.records import (
    FORMAT,
    FRAME_MODALITIES,
    SCHEMA_VERSION,
    SLICE_VALUES,
    SPLITS,
    Corpus,
    Float32Array,
    Sample,
    SourceArray,
    in_range,
)


def write_store(path: Path, corpus: Corpus) -> None:
    """Write a corpus as a feature store; the file appears complete or not at all.

    NaN and infinite frame values become 0 and are counted.

    Raises:
        SourceError: the corpus contradicts itself (names the first clip that does).
        ConkiError: the disk is full, the place is not writable, or another process writes the same store.
    """
    widths = _check_corpus(corpus)
    path = Path(path)
    with locked(path.with_name(f".{path.name}.lock"), what=str(path)), atomic_path(path) as temporary:
        import h5py

        with _Sink(temporary) as sink, h5py.File(sink, "w") as file:
            writer = _Writer(file, sink)
            for split in SPLITS:
                writer.write_split(split, corpus.splits[split], widths)
            repaired = {m: {**writer.repaired[m], **corpus.repaired.get(m, {})} for m in widths}
            source = {"name": corpus.source, "format": corpus.source_format, "sha256": corpus.source_sha256}
            file.attrs.update(
                format=FORMAT,
                schema_version=SCHEMA_VERSION,
                conki_version=__version__,
                dataset=corpus.dataset,
                score_range=np.asarray(corpus.score_range, dtype="<f8"),
                widths=json.dumps(widths),
                source=json.dumps(source),
                repaired=json.dumps(repaired),
                notes=json.dumps(list(corpus.notes)),
                content_id=writer.hash.hexdigest(),
            )


class _Sink(io.RawIOBase):
    """The file that HDF5 writes to.

    HDF5 crashes the process when it cannot write while closing a file, and when it reads back what was not written. So
    a failed write (a full disk) is remembered, that write and the few that follow are kept in memory instead, HDF5
    closes in peace, and the failure is raised at the end.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR)
        self._position = 0
        self._size = 0
        self._kept: list[tuple[int, bytes]] = []
        self.failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        if self.failure is None:
            try:
                self._write_through(view)
            except OSError as error:
                self.failure = error
        if self.failure is not None:
            self._kept.append((self._position, bytes(view)))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def _write_through(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.pwrite(self._file, view[done:], self._position + done)
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done += count

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        first, count = self._position, max(0, min(len(view), self._size - self._position))
        found = bytearray(os.pread(self._file, count, first).ljust(count, b"\0"))
        for start, kept in self._kept:
            low, high = max(first, start), min(first + count, start + len(kept))
            if low < high:
                found[low - first : high - first] = kept[low - start : high - start]
        view[:count] = found
        self._position += count
        return count

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        self._size = self._position if size is None else size
        if self.failure is None:
            try:
                os.ftruncate(self._file, self._size)
            except OSError as error:
                self.failure = error
        return self._size

    def flush(self) -> None:
        """Nothing is held back."""

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)
        if self.failure is not None:
            raise self.failure


class _Writer:
    """Writes columns and frames in a fixed order, hashing and repairing on the way."""

    def __init__(self, file: Any, sink: _Sink) -> None:
        self.file = file
        self.sink = sink
        self.hash = hashlib.sha256()
        self.repaired: dict[str, dict[str, int]] = {m: {"nan": 0, "inf": 0} for m in FRAME_MODALITIES}

    def write_split(self, split: str, samples: Sequence[Sample], widths: Mapping[str, int]) -> None:
        group = self.file.create_group(split)
        self._column(group, "ids", [sample.id for sample in samples])
        self._column(group, "texts", [sample.text for sample in samples])
        self._column(group, "scores", np.array([sample.score for sample in samples], dtype="<f4"))
        for modality in sorted(samples[0].unimodal):
            scores = np.array([sample.unimodal[modality] for sample in samples], dtype="<f4")
            self._column(group, f"scores_{modality}", scores)
        for modality, width in widths.items():
            self._frames(group.create_group(modality), modality, samples, width)

    def _announce(self, name: str, shape: tuple[int, ...]) -> None:
        self.hash.update(f"{name} {shape}\n".encode())

    def _column(self, group: Any, name: str, column: list[str] | npt.NDArray[Any]) -> None:
        import h5py

        self._announce(f"{group.name}/{name}", (len(column),))
        if isinstance(column, list):
            group.create_dataset(name, data=column, dtype=h5py.string_dtype("utf-8"))
            for text in column:
                self.hash.update(len(text.encode()).to_bytes(8, "little") + text.encode())
        else:
            group.create_dataset(name, data=column)
            self.hash.update(column.tobytes())

    def _frames(self, group: Any, modality: str, samples: Sequence[Sample], width: int) -> None:
        frames = [getattr(sample, modality) for sample in samples]
        offsets = np.concatenate([[0], np.cumsum([len(clip) for clip in frames])]).astype("<i8")
        self._column(group, "offsets", offsets)
        self._announce(f"{group.name}/frames", (int(offsets[-1]), width))
        target = group.create_dataset("frames", shape=(int(offsets[-1]), width), dtype="<f4")
        start = 0
        for block in _blocks(frames, width):
            values = self._repair(modality, block)
            target[start : start + len(values)] = values
            self.hash.update(values.data)
            start += len(values)
            if self.sink.failure is not None:
                raise self.sink.failure

    def _repair(self, modality: str, block: list[SourceArray]) -> Float32Array:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite here and is counted as that
            values = np.concatenate(block, dtype="<f4", casting="same_kind")
        if not np.isfinite(values).all():
            missing = np.isnan(values)
            self.repaired[modality]["nan"] += int(missing.sum())
            self.repaired[modality]["inf"] += int(np.isinf(values).sum())
            np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return values


def _blocks(frames: Sequence[SourceArray], width: int) -> Iterator[list[SourceArray]]:
    """Group neighbouring clips until a block holds about `SLICE_VALUES` values."""
    block: list[SourceArray] = []
    held = 0
    for clip in frames:
        block.append(clip)
        held += len(clip) * width
        if held >= SLICE_VALUES:
            yield block
            block, held = [], 0
    if block:
        yield block


def _check_corpus(corpus: Corpus) -> dict[str, int]:
    """Refuse what must not enter a store; return the widths of the frames."""
    for split in SPLITS:
        if not corpus.splits.get(split):
            raise SourceError(f"{corpus.source}: the split {split!r} must have at least one clip, found none")
    samples = [sample for split in SPLITS for sample in corpus.splits[split]]
    _check_ids(corpus, samples)
    _check_scores(corpus, samples)
    widths = (_width_of(corpus, samples, modality) for modality in FRAME_MODALITIES)
    return {m: width for m, width in zip(FRAME_MODALITIES, widths, strict=True) if width is not None}


def _check_ids(corpus: Corpus, samples: Sequence[Sample]) -> None:
    seen: set[str] = set()
    for number, sample in enumerate(samples, start=1):
        if not sample.id:
            raise SourceError(f"{corpus.source}: every clip must have an id, clip {number} has none")
        if sample.id in seen:
            raise SourceError(f"{corpus.source}: ids must be unique, {sample.id!r} occurs twice: rename one")
        seen.add(sample.id)
        for name, text in (("id", sample.id), ("text", sample.text)):
            if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                raise SourceError(f"{corpus.source}: the {name} of {sample.id!r} holds characters that are no text")


def _check_scores(corpus: Corpus, samples: Sequence[Sample]) -> None:
    columns = set(samples[0].unimodal)
    for sample in samples:
        if set(sample.unimodal) != columns or not columns <= set(MODALITIES):
            raise SourceError(f"{corpus.source}: all clips must have the same unimodal scores, {sample.id!r} differs")
        for score in (sample.score, *sample.unimodal.values()):
            if not in_range(score, corpus.score_range):
                low, high = corpus.score_range
                raise SourceError(
                    f"{corpus.source}: scores must be numbers from {low:g} to {high:g}, "
                    f"{sample.id!r} has {score:g}: mend the label or give the right --score-range"
                )


def _width_of(corpus: Corpus, samples: Sequence[Sample], modality: str) -> int | None:
    first = getattr(samples[0], modality)
    for sample in samples:
        frames = getattr(sample, modality)
        if (frames is None) != (first is None):
            raise SourceError(f"{corpus.source}: all clips or none must have {modality}, {sample.id!r} differs")
        if frames is not None and (frames.ndim != 2 or not frames.shape[1] or frames.dtype.kind != "f"):
            raise SourceError(f"{corpus.source}: {modality} of {sample.id!r} must be numbers [frames, features]")
        if frames is not None and frames.shape[1] != first.shape[1]:
            raise SourceError(
                f"{corpus.source}: {modality} must have {first.shape[1]} features per frame everywhere, "
                f"{sample.id!r} has {frames.shape[1]}"
            )
    return None if first is None else int(first.shape[1])
