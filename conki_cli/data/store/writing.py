"""Write a corpus as a feature store atomically: checked first, repaired and hashed while writing."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from conki_cli import __version__
from conki_cli.data.store.checking import Checked, check
from conki_cli.data.store.moments import CONSTANT_BELOW, Moments, no_moments, standardize
from conki_cli.data.store.order import order_of
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import (
    FORMAT,
    FRAME_MODALITIES,
    SCHEMA_VERSION,
    SLICE_VALUES,
    SPLITS,
    Corpus,
    Float32Array,
    Sample,
    SourceArray,
)
from conki_cli.data.store.seal import BLOCK, seal
from conki_cli.data.store.sink import Sink
from conki_cli.data.store.words import repair_lines
from conki_cli.system.errors import SourceError, StoreError, UnreadableError
from conki_cli.system.files import atomic_path
from conki_cli.system.locks import lock_beside
from conki_cli.system.readable import check_read

Normalization = Literal["none", "zscore"]
Progress = Callable[[int, str], None]
"""A function of the number of values finished since the last call, and a label."""


def store_lock(path: Path) -> Path:
    """Return the lock file that a process must hold while it makes the store `path`."""
    return lock_beside(path)


def num_values(corpus: Corpus, normalize: Normalization = "none") -> int:
    """Count the values that `write_store` reports to `progress`: for z-scores the training split counts twice."""
    splits = [*SPLITS, "train"] if normalize == "zscore" else SPLITS
    frames = (getattr(sample, m) for split in splits for sample in corpus.splits[split] for m in FRAME_MODALITIES)
    return sum(math.prod(part.shape) for part in frames if part is not None)


def write_store(
    path: Path,
    corpus: Corpus,
    *,
    normalize: Normalization = "none",
    strict: bool = False,
    progress: Progress = lambda count, remark: None,
) -> None:
    """Check a corpus and write it as a feature store atomically.

    NaN, infinite values and values beyond float32 become 0 and are counted. A new store must open before it replaces an
    old one. Two processes must not write the same store: hold `store_lock`.

    Args:
        path: the store.
        corpus: the data set.
        normalize: "zscore" subtracts the mean of every feature over the frames of the training split and divides by
            its standard deviation (ddof 0), in all splits; constant features (`moments.CONSTANT_BELOW`) are only
            centred. Means and deviations are written into the store.
        strict: refuse to write a corpus with warnings or repaired values.
        progress: is notified of what was written.

    Raises:
        SourceError: the corpus contradicts itself (the message names the first such clip), `strict` found a warning, or
            z-scores were requested for clips to be scored.
        ConkiError: the disk is full, or the folder is not writable.
    """
    if corpus.unlabelled and normalize != "none":
        raise SourceError(
            "clips to be scored must have raw frames, because the run converts them to its own scale",
            f"leave out --normalize {normalize}",
        )
    checked = check(corpus)
    if strict:
        _refuse(corpus, checked.warnings)
    path = Path(path)
    with atomic_path(path) as temporary:
        import h5py

        with Sink(temporary) as sink, h5py.File(sink, "w", userblock_size=BLOCK) as file:
            writer = _Writer(file, sink, checked, progress)
            if normalize == "zscore":
                writer.learn_moments()
            for split in SPLITS:
                if corpus.splits[split]:
                    writer.write_split(split)
            writer.write_attributes()
        seal(temporary)
        if strict:
            _refuse(corpus, [*writer.repairs(), *writer.zeros()])
        _check_whole(temporary, corpus)


def _refuse(corpus: Corpus, warnings: Sequence[str]) -> None:
    if warnings:
        first = "; ".join(warning[:200] for warning in warnings[:3])
        raise SourceError(
            f"{corpus.source}: --strict allows no warning, found {len(warnings)}: {first}"
            f"{'; ...' if len(warnings) > 3 else ''}",
            "repair the file, or prepare it without --strict",
        )


def _check_whole(path: Path, corpus: Corpus) -> None:
    try:
        FeatureStore(path).close()
    except UnreadableError:
        raise
    except StoreError as error:
        raise SourceError(
            f"{corpus.source}: the store made from it cannot be opened and was deleted ({error.__cause__ or error})",
            advice="check its ids, texts and scores",
        ) from error


class _Writer:
    """Writes columns and frames in a fixed order, and hashes, repairs and normalises them meanwhile."""

    def __init__(self, file: Any, sink: Sink, checked: Checked, progress: Progress) -> None:
        self.file = file
        self.sink = sink
        self.corpus = checked.corpus
        self.checked = checked
        self.progress = progress
        self.hash = hashlib.sha256()
        self.moments: dict[str, Moments] = {}  # of the training split, by modality; empty: no normalisation
        self.repaired = {modality: Counter(nan=0, inf=0) for modality in checked.widths}
        self.is_zero = dict.fromkeys(checked.widths, True)

    def learn_moments(self) -> None:
        """Compute mean and deviation of every column of the training split, and write them into the file."""
        group = self.file.create_group("normalization")
        for modality, width in self.checked.widths.items():
            moments = no_moments(width)
            for block, _ in self._blocks("train", modality):
                _repair(block)
                moments = moments.joined(block)
                self.progress(block.size, f"mean and deviation of {modality}")
            if not moments.count:
                raise SourceError(
                    f"{self.corpus.source}: z-scores need frames in the training split, no clip of it has {modality}",
                    "prepare without --normalize zscore",
                )
            self.moments[modality] = moments
            group.create_dataset(f"{modality}/mean", data=moments.mean.astype("<f8"))
            group.create_dataset(f"{modality}/sd", data=moments.sd.astype("<f8"))

    def write_split(self, split: str) -> None:
        """Write the columns and frames of a split."""
        samples = self.corpus.splits[split]
        group = self.file.create_group(split)
        self._column(group, "ids", [sample.id for sample in samples])
        self._column(group, "texts", [sample.text for sample in samples])
        if not self.corpus.unlabelled:
            self._column(group, "scores", np.array([sample.score for sample in samples], dtype="<f4"))
        for modality in sorted(samples[0].unimodal):
            scores = np.array([sample.unimodal[modality] for sample in samples], dtype="<f4")
            self._column(group, f"scores_{modality}", scores)
        if (order := order_of(samples)) is not None:
            self._column(group, "order", order.astype("<i8"))
        for modality in self.checked.widths:
            self._frames(group.create_group(modality), split, modality)

    def write_attributes(self) -> None:
        """Write the attributes of the file."""
        corpus = self.corpus
        repaired = {m: {**counts, **corpus.repaired.get(m, {})} for m, counts in self.repaired.items()}
        constant = {m: np.flatnonzero(moments.is_constant).tolist() for m, moments in self.moments.items()}
        normalization: dict[str, Any] = {"method": "none"}
        if self.moments:
            normalization |= {"method": "zscore", "epsilon": CONSTANT_BELOW, "constant_columns": constant}
        warnings = [*self.checked.warnings, *self.zeros()]
        source = {"name": corpus.source, "format": corpus.source_format, "sha256": corpus.source_sha256}
        self.file.attrs.update(
            format=FORMAT,
            schema_version=SCHEMA_VERSION,
            conki_version=__version__,
            dataset=corpus.dataset,
            widths=json.dumps(dict(self.checked.widths)),
            source=json.dumps(source),
            repaired=json.dumps(repaired),
            notes=json.dumps(warnings),
            normalization=json.dumps(normalization),
            report=json.dumps({**self.checked.report, "repaired": repaired, "warnings": warnings}),
            content_id=self.hash.hexdigest(),
        )
        if corpus.extraction:
            self.file.attrs["extraction"] = json.dumps(dict(corpus.extraction))
        if corpus.unlabelled:
            self.file.attrs["unlabelled"] = True
        else:
            self.file.attrs["score_range"] = np.asarray(corpus.score_range, dtype="<f8")

    def repairs(self) -> list[str]:
        """Describe the repairs."""
        return [line for modality, counts in self.repaired.items() for line in repair_lines(modality, counts)]

    def zeros(self) -> list[str]:
        """Warn about modalities that are all zeros."""
        return [
            f"{modality} is all zeros in every clip: check that this is the right file"
            for modality, is_so in self.is_zero.items()
            if is_so
        ]

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

    def _frames(self, group: Any, split: str, modality: str) -> None:
        width = self.checked.widths[modality]
        lengths = [getattr(sample, modality).shape[0] for sample in self.corpus.splits[split]]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
        self._column(group, "offsets", offsets)
        self._announce(f"{group.name}/frames", (int(offsets[-1]), width))
        target = group.create_dataset("frames", shape=(int(offsets[-1]), width), dtype="<f4")
        start = 0
        for block, too_large in self._blocks(split, modality):
            self._count(modality, _repair(block), too_large)
            self.is_zero[modality] = self.is_zero[modality] and not block.any()
            if modality in self.moments:
                moments = self.moments[modality]
                standardize(block, moments.mean, np.where(moments.is_constant, 1.0, moments.sd))
                nan, beyond = _repair(block)  # values too far from the mean for float32
                self._count(modality, (nan, beyond), beyond)
            target[start : start + len(block)] = block
            self.hash.update(block.data)
            start += len(block)
            if self.sink.failure is not None:
                raise self.sink.failure
            self.progress(block.size, f"{split} {modality}")

    def _count(self, modality: str, repaired: tuple[int, int], too_large: int) -> None:
        nan, inf = repaired
        self.repaired[modality].update(nan=nan, inf=inf - too_large)
        if too_large:
            self.repaired[modality].update(too_large=too_large)

    def _blocks(self, split: str, modality: str) -> Iterator[tuple[Float32Array, int]]:
        """Yield the frames of all clips back to back, `SLICE_VALUES` values at a time.

        Yields:
            One reused array, [T, d], and how many of its values became infinite because they exceed float32.
        """
        samples, width = self.corpus.splits[split], self.checked.widths[modality]
        total = sum(getattr(sample, modality).shape[0] for sample in samples)
        block = np.empty((min(total, max(1, SLICE_VALUES // width)), width), dtype="<f4")
        filled = too_large = 0
        for sample in samples:
            for piece in self._pieces(sample, modality, len(block)):
                rest = piece
                while len(rest):
                    count = min(len(rest), len(block) - filled)
                    too_large += _copy(block[filled : filled + count], rest[:count])
                    rest, filled = rest[count:], filled + count
                    if filled == len(block):
                        yield block, too_large
                        filled = too_large = 0
        if filled:
            yield block[:filled], too_large

    def _pieces(self, sample: Sample, modality: str, rows: int) -> Iterator[SourceArray]:
        """Read the frames of a clip, [L, d] of any kind of number, a few at a time if the source supports that."""
        frames, announced = getattr(sample, modality), getattr(sample, modality).shape
        for start in range(0, announced[0], max(1, rows)):
            stop = min(start + rows, announced[0])
            try:
                if not hasattr(frames, "__getitem__"):
                    frames = np.asarray(frames)
                piece = np.asarray(frames[start:stop])
            except (OSError, RuntimeError, TypeError, ValueError) as error:
                check_read(Path(self.corpus.source), error)
                raise SourceError(
                    f"{self.corpus.source}: {modality} of {sample.id[:60]!r} cannot be read ({error})"
                ) from error
            whole = frames.shape == announced and piece.shape == (stop - start, announced[1])
            if not whole or piece.dtype.kind not in "biuf":
                raise SourceError(
                    f"{self.corpus.source}: {modality} of {sample.id[:60]!r} must be numbers {tuple(announced)} "
                    f"as declared, found {piece.dtype} {piece.shape}"
                )
            yield piece


def _copy(target: Float32Array, values: SourceArray) -> int:
    """Copy frames [T, d] of any kind of number; return how many became infinite."""
    overflows: list[str] = []
    with np.errstate(over="call", call=lambda kind, flag: overflows.append(kind)):
        target[:] = values
    return int((np.isinf(target) & np.isfinite(values)).sum()) if overflows else 0


def _repair(values: Float32Array) -> tuple[int, int]:
    """Replace values of [T, d] that are not finite by 0; return how many were NaN and how many infinite."""
    if np.isfinite(values).all():
        return 0, 0
    counts = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return counts
