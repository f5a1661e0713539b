"""Open a feature store: everything except the frames is read and checked at once; frames stay on disk."""

import contextlib
import json
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from conki_cli import MODALITIES
from conki_cli.data.store.arrays import FileArray, OpenFile
from conki_cli.data.store.opening import open_hdf5
from conki_cli.data.store.records import (
    FORMAT,
    FRAME_MODALITIES,
    SCHEMA_VERSION,
    SCORED,
    SPLITS,
    Float32Array,
    Ragged,
    Utterances,
    in_range,
)
from conki_cli.system.errors import Kind, StoreError, reason_of
from conki_cli.system.readable import check_read, check_readable, obstacle_at

_TEXT_PLACE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
"""What HDF5 stores for a text of any length: how long it is, and where."""


class FeatureStore:
    """An open feature store; a context manager. Frames stay on disk until they are read.

    Attributes:
        path: the file.
        dataset: name of the data set.
        is_unlabelled: whether its clips are to be scored: they have no scores, and are in one split.
        score_range: lowest and highest possible score; infinite if the clips have no scores.
        widths: features per frame of each modality that has frames, in the paper's order.
        modalities: "text" and those with frames, in the paper's order.
        splits: names of the splits.
        source: `name`, `format` and `sha256` of the file that the store was made from.
        repaired: counts of repaired values, per modality.
        notes: warnings from when it was made.
        report: the report of `conki prepare` about the store; empty for stores from before 0.2.
        normalization: `method`, "none" or "zscore"; for the latter also `epsilon` and `constant_columns`.
        extraction: how features were made of videos; empty if they came in files.
        moments: mean and standard deviation [d] of the z-scores, per modality.
        content_id: SHA-256 over every column and frame.
        schema_version: the schema of the file.
        conki_version: the program that wrote it.

    Raises:
        StoreError: the file is missing, is not a store, has another schema, or is damaged.
        UnreadableError: reading it is not permitted, or the system failed.
    """

    def __init__(self, path: Path, *, splits: Collection[str] | None = None) -> None:
        """Open the file; of `splits` alone, where they are given: nothing of the others is read."""
        self.path, self._wanted = Path(path), splits
        self._file = _open(self.path)
        # A second handle on the same file, even if another store has replaced it by now.
        handle = os.dup(self._file.id.get_vfd_handle())
        advice = "make it again with `conki prepare`"
        self._bytes = OpenFile(self.path, handle=handle, failure=StoreError, advice=advice)
        try:
            with damage_in(self.path):
                self._read_attributes()
                self._utterances = {split: self._read_split(split) for split in self.splits}
            self._bytes.check_unchanged()
        except BaseException:
            self.close()
            raise

    def _read_attributes(self) -> None:
        attributes = self._file.attrs
        self.schema_version = int(attributes["schema_version"])
        self.conki_version = str(attributes["conki_version"])
        self.dataset = str(attributes["dataset"])
        self.is_unlabelled = bool(attributes.get("unlabelled", False))
        low, high = (float(bound) for bound in ((-1, 1) if self.is_unlabelled else attributes["score_range"]))
        widths = {str(name): int(width) for name, width in json.loads(attributes["widths"]).items()}
        if (
            not -math.inf < low < high < math.inf
            or not set(widths) <= set(FRAME_MODALITIES)
            or any(w < 1 for w in widths.values())
        ):
            raise ValueError("score range or widths are invalid")
        self.score_range = (-math.inf, math.inf) if self.is_unlabelled else (low, high)
        self.widths = {m: widths[m] for m in FRAME_MODALITIES if m in widths}
        self.modalities = tuple(m for m in MODALITIES if m == "text" or m in widths)
        splits = (SCORED,) if self.is_unlabelled else SPLITS
        self.splits = tuple(split for split in splits if self._wanted is None or split in self._wanted)
        self.source: dict[str, str] = dict(json.loads(attributes["source"]))
        self.repaired = _repaired(json.loads(attributes["repaired"]))
        self.notes: tuple[str, ...] = tuple(json.loads(attributes["notes"]))
        self.content_id = str(attributes["content_id"])
        self.report = _report(json.loads(attributes.get("report", "{}")))
        self.normalization = _normalization(json.loads(attributes.get("normalization", '{"method": "none"}')))
        self.extraction: dict[str, Any] = dict(json.loads(attributes.get("extraction", "{}")))
        self.moments = {m: self._read_moments(m) for m in widths if self.normalization["method"] != "none"}

    def _read_moments(self, modality: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        import h5py

        group = _child(_child(self._file, "normalization", h5py.Group), modality, h5py.Group)
        mean, sd = (_dataset(group, name, "<f8", (self.widths[modality],))[:] for name in ("mean", "sd"))
        return mean, sd

    def _read_split(self, split: str) -> Utterances:
        import h5py

        group = _child(self._file, split, h5py.Group)
        ids = _strings(group, "ids", None, self._bytes)
        if not ids:
            raise ValueError(f"{group.name} has no clips")
        scores = None if self.is_unlabelled else self._scores(group, "scores", len(ids))
        columns = {m: f"scores_{m}" for m in MODALITIES if f"scores_{m}" in group}
        return Utterances(
            ids=ids,
            texts=_strings(group, "texts", len(ids), self._bytes),
            scores=scores,
            frames={m: self._ragged(_child(group, m, h5py.Group), len(ids)) for m in self.widths},
            unimodal={m: self._scores(group, column, len(ids)) for m, column in columns.items()},
            path=self.path,
            split=split,
            order=_order(group, len(ids)) if "order" in group else None,
        )

    def _ragged(self, group: Any, count: int) -> Ragged:
        offsets: npt.NDArray[np.int64] = _dataset(group, "offsets", "<i8", (count + 1,))[:]
        frames = _dataset(group, "frames", "<f4", (None, self.widths[group.name.rpartition("/")[2]]))
        if offsets[0] != 0 or (np.diff(offsets) < 0).any() or offsets[-1] != len(frames):
            raise ValueError(f"{group.name}/offsets do not cover the frames")
        return Ragged(values=_direct(frames, self._bytes), offsets=offsets)

    def _scores(self, group: Any, name: str, count: int) -> Float32Array:
        scores: Float32Array = _dataset(group, name, "<f4", (count,))[:]
        if not all(in_range(float(score), self.score_range) for score in (scores.min(), scores.max())):
            row = next(row for row, score in enumerate(scores) if not in_range(float(score), self.score_range))
            raise ValueError(f"{group.name}/{name} is outside the score range: {scores[row]} for clip {row + 1}")
        return scores

    @property
    def stamp(self) -> list[int]:
        """Size in bytes, and time of the last change in nanoseconds, when the file was opened."""
        return list(self._bytes.stamp)

    def split(self, name: str) -> Utterances:
        """Return the utterances of a split.

        Raises:
            StoreError: there is no such split.
        """
        if name not in self._utterances:
            raise StoreError(f"{self.path} has the splits {', '.join(self.splits)}, not {name!r}", "choose one of them")
        return self._utterances[name]

    def longest(self, modality: str, split: str) -> int:
        """Return the longest sequence of a split, in frames, or for "text" in words between blanks."""
        utterances = self.split(split)
        if modality == "text":
            return max(len(text.split()) for text in utterances.texts)
        if modality not in self.widths:
            raise StoreError(f"{self.path} has {', '.join(self.modalities)}, not {modality!r}", "choose one of them")
        return int(utterances.frames[modality].lengths.max())

    def close(self) -> None:
        """Close the file; frames cannot be read afterwards."""
        self._bytes.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _order(group: Any, count: int) -> npt.NDArray[np.int64]:
    order: npt.NDArray[np.int64] = _dataset(group, "order", "<i8", (count,))[:]
    if not np.array_equal(np.sort(order), np.arange(count)):
        raise ValueError(f"{group.name}/order does not name every place once")
    return order


def _direct(frames: Any, file: OpenFile) -> Any:
    """Return frames that are read without HDF5 if they are stored plainly in the file, else the HDF5 data set."""
    offset = frames.id.get_offset()
    inside = offset is not None and offset + 4 * math.prod(frames.shape) <= file.size
    if not inside:
        return frames
    return FileArray(file, offset, np.dtype("<f4"), frames.shape)


def _repaired(found: Any) -> dict[str, dict[str, int]]:
    """Return counts of repaired values after checking them."""
    repaired = {str(m): {str(name): count for name, count in dict(counts).items()} for m, counts in dict(found).items()}
    if not all(type(count) is int and count >= 0 for counts in repaired.values() for count in counts.values()):
        raise ValueError("the numbers of repaired values are not whole numbers")
    return repaired


def _report(found: Any) -> dict[str, Any]:
    """Return a report after checking it, because a damaged or hostile file may hold anything."""
    report = dict(found)
    for name in ("padding", "padding_share"):
        report[name] = dict(report.get(name, {}))
    report["padding_share"] = {str(m): float(share) for m, share in report["padding_share"].items()}
    report["remarks"] = [str(remark) for remark in report.get("remarks", [])]
    return report if found else {}


def _normalization(found: Any) -> dict[str, Any]:
    if found["method"] == "none":
        return {"method": "none"}
    if found["method"] != "zscore":
        raise ValueError("the normalisation of the frames is unknown")
    constant = {str(m): [int(column) for column in columns] for m, columns in found["constant_columns"].items()}
    return {"method": "zscore", "epsilon": float(found["epsilon"]), "constant_columns": constant}


def _open(path: Path) -> Any:
    from conki_cli.data.store.seal import ForeignFileError, NewerSealError, check_seal

    is_ours = False
    check_readable(path)
    if what := obstacle_at(path):
        raise StoreError(f"{path} must be a feature store but is {what}", "move it away, then `conki prepare`")
    if not path.is_file():
        raise StoreError(
            f"there is no feature store {path}",
            "make it with `conki prepare`, or check the path",
            kind=Kind.MISSING,
        )
    try:
        with damage_in(path, NewerSealError), contextlib.suppress(ForeignFileError):
            check_seal(path)
            is_ours = True
        if not is_ours:
            raise StoreError(f"{path} must be a conki feature store (HDF5) but is not", "make one with `conki prepare`")
        file = open_hdf5(path)
    except NewerSealError as error:
        raise StoreError(f"{path} cannot be opened ({error})", "install a newer conki", kind=Kind.NEWER) from error
    except OSError as error:
        check_read(path, error)
        raise StoreError(
            f"{path} cannot be opened ({reason_of(error)})", "make it again with `conki prepare`", kind=Kind.DAMAGED
        ) from error
    try:
        with damage_in(path):
            found = int(file.attrs["schema_version"]) if file.attrs.get("format") == FORMAT else None
    except StoreError:
        file.close()
        raise
    if found == SCHEMA_VERSION:
        return file
    file.close()
    if found is None:
        raise StoreError(f"{path} is HDF5 but not a conki feature store", "make one with `conki prepare`")
    raise StoreError(
        f"{path} has store schema {found}, this conki reads {SCHEMA_VERSION}",
        "make it again with `conki prepare`, or install the conki that wrote it",
        kind=Kind.NEWER if found > SCHEMA_VERSION else Kind.REFUSED,
    )


@contextlib.contextmanager
def damage_in(path: Path, *passed: type[Exception]) -> Iterator[None]:
    """Turn every error that a damaged or hostile file causes into one line, except errors of the types `passed`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (StoreError, *passed)):
            raise
        check_read(path, error)
        raise StoreError(
            f"{path} is damaged ({reason_of(error)})", "make it again with `conki prepare`", kind=Kind.DAMAGED
        ) from error


def _child(group: Any, name: str, kind: type) -> Any:
    """Return a member that is stored in this file; links to other places are refused."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group.get(name), kind):
        raise ValueError(f"{group.name.rstrip('/')}/{name} is missing or not stored in the file itself")
    return group[name]


def _dataset(group: Any, name: str, dtype: str, shape: tuple[int | None, ...]) -> Any:
    import h5py

    column = _child(group, name, h5py.Dataset)
    fits = len(column.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, column.shape, strict=True)
    )
    is_text = dtype == "text" and h5py.check_string_dtype(column.dtype) is not None
    if not fits or not (is_text or column.dtype == np.dtype(dtype if dtype != "text" else object)):
        raise ValueError(f"{column.name} is {column.dtype} {column.shape}")
    # Stored plainly and completely: a file cannot declare more than it holds or refer to other files.
    declared = column.size * (_TEXT_PLACE.itemsize if is_text else column.dtype.itemsize)
    if column.is_virtual or column.external or column.chunks or column.id.get_storage_size() != declared:
        raise ValueError(f"{column.name} is not stored as declared")
    return column


def _strings(group: Any, name: str, count: int | None, file: OpenFile) -> list[str]:
    """Read a column of texts; all together they are no longer than the file, though several may be one text in it."""
    import h5py

    column = _dataset(group, name, "text", (count,))
    if len(column) and h5py.check_string_dtype(column.dtype).length is None:
        places = np.empty(len(column), dtype=_TEXT_PLACE)
        file.fill(places, column.id.get_offset())
        if (length := int(places["length"].sum(dtype=np.uint64))) > file.size:
            raise ValueError(f"{column.name} declares {length} bytes of texts in a file of {file.size}")
    return list(column.asstr()[:])
