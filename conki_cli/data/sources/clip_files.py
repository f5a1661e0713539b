"""Folders with one file of features per clip: .npy, .npz, .mat, .csv, .tsv, .arff or .txt.

The clip follows from the name: <video>/<clip>.npy, <video>$_$<clip>.npy or <video>_<clip>.npy. File names become ids
that are compared; no file is ever opened by an id. Files are examined first, and read one by one on demand. A folder is
read as one kind of file; other files in it are counted.

Axes: L frames of a clip, d features per frame.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.clip_tables import look_into_table, read_table
from conki_cli.data.raw.mat import look_into_mat, read_mat
from conki_cli.data.raw.npz import Header, look_into_npy, look_into_npz, read_npy, read_npz
from conki_cli.data.raw.table_heads import TableLayout
from conki_cli.data.raw.table_remarks import said_of_tables, without_times
from conki_cli.data.sources.columns import normal_ids, whole_number
from conki_cli.data.sources.joining import are_positions
from conki_cli.data.sources.request import Progress
from conki_cli.data.store.records import ID_SEPARATOR
from conki_cli.system.errors import SourceError, names_of, one_line

FEATURE_KEYS = ("features", "feature")
"""Names of an array of features besides its modality."""
_KINDS = ((".npy", ".npz"), (".mat",), (".csv", ".tsv"), (".arff",), (".txt",))
"""Endings in order of priority: OpenFace writes a .txt with details beside its .csv."""
_NO_CLIPS = frozenset({"label", "labels", "meta", "readme", "license"})
"""Names of other tables and texts that may be in the same folder."""


@dataclass(frozen=True, eq=False)
class ClipFile:
    """The frames of one clip in its own file, [L, d]; the file is open only while they are read."""

    path: Path
    key: str | None  # name of the array in an .npz or .mat
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    layout: TableLayout | None = None  # of a table

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> npt.NDArray[Any]:
        values = self._values()
        if values.size != self.shape[0] * self.shape[1]:
            raise SourceError(f"{self.path} was changed: it must not change while it is read; run the command again")
        return np.asarray(values.reshape(self.shape), dtype=dtype)

    def _values(self) -> npt.NDArray[Any]:
        if self.layout is not None:
            return read_table(self.path, self.layout)
        if self.key is None:
            return read_npy(self.path)
        if self.path.suffix.lower() == ".mat":
            return read_mat(self.path, self.key)
        return np.asarray(read_npz(self.path, only=(self.key,))[self.key][:])


@dataclass(frozen=True, eq=False)
class ClipFiles:
    """The content of a folder: the frames of its clips by id, the files found, remarks and warnings."""

    frames: Mapping[str, ClipFile]
    paths: Sequence[Path]
    remarks: tuple[str, ...]
    are_positions: bool
    notes: tuple[str, ...] = ()


def look_into_folder(folder: Path, modality: str, progress: Progress) -> ClipFiles:
    """Find the features of every clip in a folder.

    Args:
        folder: a folder with the files, or with one folder per video.
        modality: vision or audio; of several arrays in an .npz or .mat, the one with this name is used.
        progress: is notified of every file.

    Raises:
        SourceError: there are no files, two are for the same clip, or one is damaged or is a link out of the folder.
    """
    paths, others = _clips_in(folder, modality)
    frames: dict[str, ClipFile] = {}
    for clip, path in paths.items():
        frames[clip] = _clip_file(path, modality)
        progress(1, f"examining {modality}")
    _check_columns(frames.values())
    tables = [clip for clip, file in frames.items() if file.layout is not None]
    layouts = without_times([layout for file in frames.values() if (layout := file.layout) is not None])
    frames |= {
        clip: replace(frames[clip], layout=layout, shape=layout.shape)
        for clip, layout in zip(tables, layouts, strict=True)
    }
    name = one_line(folder.name)
    filled = {clip: file for clip, file in frames.items() if 0 not in file.shape}
    notes, remarks = said_of_tables(
        {file.path.name: file.layout for file in filled.values() if file.layout is not None}, name
    )
    if others:
        endings = ", ".join(f"{count} {one_line(ending)[:20]}" for ending, count in others.most_common(5))
        remarks.append(f"{others.total()} other files in {name} were not read ({endings})")
    if num_empty := len(frames) - len(filled):
        remarks.append(f"{num_empty} files in {name} hold no frames")
    unnamed = [file.shape for file in filled.values() if file.layout is None or not file.layout.names]
    notes += _doubts(name, modality, unnamed)
    counted = are_positions(path.stem for path in paths.values())
    return ClipFiles(filled, list(paths.values()), tuple(remarks), counted, tuple(notes))


def holds_clips(folder: Path) -> bool:
    """Say whether there is a folder with a file per clip.

    Raises:
        SourceError: it cannot be read, or has a link that leads out of it.
    """
    endings = {ending for kind in _KINDS for ending in kind}
    files = (path for _, path in _files_in(folder)) if folder.is_dir() else iter(())
    return any(path.suffix.lower() in endings and _may_be_clip(path) for path in files)


def _clips_in(folder: Path, modality: str) -> tuple[dict[str, Path], Counter[str]]:
    """Return the files of a folder by clip, and the number of other files by ending."""
    found = [(video, path, path.suffix.lower()) for video, path in _files_in(folder)]
    clips = [(video, path, ending) for video, path, ending in found if _may_be_clip(path)]
    endings = next((kind for kind in _KINDS if any(ending in kind for _, _, ending in clips)), ())
    paths: dict[str, Path] = {}
    for video, path, ending in clips:
        if ending not in endings:
            continue
        name = path.stem if not video or ID_SEPARATOR in path.stem else video + ID_SEPARATOR + path.stem
        (clip,), _ = normal_ids([name])
        if clip in paths:
            raise SourceError(f"{paths[clip]} and {path} are both {one_line(clip)[:80]!r}", advice="remove one")
        paths[clip] = path
    _check_names(paths)
    if not paths:
        kinds = ", ".join(ending for kind in _KINDS for ending in kind)
        raise SourceError(f"{folder} must hold a file with the {modality} of each clip ({kinds}), found none")
    taken = set(paths.values())
    return paths, Counter(ending or "without an ending" for _, path, ending in found if path not in taken)


def _may_be_clip(path: Path) -> bool:
    is_text = path.suffix.lower() in (".csv", ".tsv", ".txt")
    return not path.name.startswith(".") and not (is_text and path.stem.lower() in _NO_CLIPS)


def _check_names(paths: Mapping[str, Path]) -> None:
    """Refuse two files that clips find by the same name: v1/1.txt and v1_1.txt, or v1/1.txt and v1/1.0.txt."""
    owners: dict[str, str] = {}
    for clip, path in paths.items():
        video, separator, part = clip.rpartition(ID_SEPARATOR)
        short = f"{video}_{whole_number(part)}" if separator else clip
        other = owners.setdefault(short, clip)
        # 'a_b/1' and 'a/b_1' are different clips, although both are a_b_1 in short.
        if other != clip and (not separator or ID_SEPARATOR not in other or other.rpartition(ID_SEPARATOR)[0] == video):
            raise SourceError(
                f"{paths[other]} and {path} may both be the clip {one_line(max(clip, other, key=len))[:80]!r}",
                advice="remove one of them",
            )


def _check_columns(files: Iterable[ClipFile]) -> None:
    """Refuse tables with other column names than most: the same number of columns is not enough."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for file in files:
        if file.layout is not None and file.layout.names:
            groups.setdefault(file.layout.names, []).append(file.path)
    if len(groups) < 2:
        return
    (usual, alike), (odd, paths) = sorted(groups.items(), key=lambda group: -len(group[1]))[:2]
    pairs = zip_longest(odd, usual, fillvalue="nothing")
    mine, other = next((mine[:80], other[:80]) for mine, other in pairs if mine != other)
    if len(alike) == len(paths):
        raise SourceError(
            f"{paths[0]} must have the same columns as {alike[0]}, found {mine!r} in the one and {other!r} in the "
            "other",
            advice="extract all clips in the same way",
        )
    count = sum(map(len, groups.values()))
    others = count - len(alike) - 1
    raise SourceError(
        f"{paths[0]}{f' and {others} more' if others else ''} must have the same columns as the other "
        f"{len(alike)} of {count} files, found {mine!r} instead of {other!r}",
        advice="extract all clips in the same way",
    )


def _doubts(where: str, modality: str, shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """Warn about arrays that all have the same odd shape; unequal ones are checked when all clips are known."""
    if len(shapes) < 2 or len(set(shapes)) > 1 or shapes[0][0] < 2:
        return []
    rows, columns = shapes[0]
    if columns == 1:
        return [
            f"{modality}: every file in {where} is a column of {rows} numbers, read as {rows} frames of one feature: "
            f"if it is one frame of {rows} features, save it as a row"
        ]
    if columns <= rows:
        return []
    return [
        f"{modality}: every file in {where} has {rows} rows and {columns} columns, read as {rows} frames of {columns} "
        "features: if these are [features, frames], save them transposed (array.T) and prepare again"
    ]


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder, and of its subfolders with their names, sorted."""
    root = folder.resolve()
    for entry in _entries(folder, root):
        if not entry.is_dir():
            yield "", Path(entry.path)
            continue
        for inner in _entries(Path(entry.path), root):
            if not inner.is_dir():
                yield entry.name, Path(inner.path)


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f"cannot read {folder}: {error.strerror or error}") from error
    for entry in entries:
        if not entry.is_symlink():
            continue
        try:
            target = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):  # a broken or circular link
            target = None
        if target is None or not target.is_relative_to(root):
            raise SourceError(f"{entry.path} is a link that leads out of {root}", advice="put the file itself there")
    return entries


def _clip_file(path: Path, modality: str) -> ClipFile:
    ending = path.suffix.lower()
    if ending == ".npy":
        header = look_into_npy(path)
        return ClipFile(path, None, header.dtype, _frame_shape(str(path), header))
    if ending == ".npz":
        headers = look_into_npz(path)
        key = _feature_key(str(path), modality, headers)
        return ClipFile(path, key, headers[key].dtype, _frame_shape(str(path), headers[key]))
    if ending == ".mat":
        return _matrix_file(path, modality)
    layout = look_into_table(path)
    return ClipFile(path, None, np.dtype(np.float64), layout.shape, layout)


def _matrix_file(path: Path, modality: str) -> ClipFile:
    found = look_into_mat(path)
    numbers = {name: matrix for name, matrix in found.items() if not matrix.other}
    if not numbers:
        others = ", ".join(f"{one_line(name)[:40]} ({matrix.other})" for name, matrix in list(found.items())[:10])
        raise SourceError(f"{path} must have a matrix of numbers, found {others or 'nothing'}", advice="save one in it")
    key = _feature_key(str(path), modality, numbers)
    shape = numbers[key].shape
    if len(shape) != 2:
        raise SourceError(f"{path} must be numbers [frames, features], found the shape {str(shape)[:80]}")
    return ClipFile(path, key, np.dtype(numbers[key].dtype), shape)


def _feature_key(where: str, modality: str, arrays: Mapping[str, Any]) -> str:
    if len(arrays) == 1:
        return next(iter(arrays))
    key = next((key for key in (modality, *FEATURE_KEYS) if key in arrays), None)
    if key is None:
        named = " or ".join(repr(key) for key in (modality, *FEATURE_KEYS))
        raise SourceError(f"{where} must have an array {named}, found {names_of(arrays)}", advice="rename one")
    return key


def _frame_shape(where: str, header: Header) -> tuple[int, int]:
    if header.dtype.kind not in "biuf" or len(header.shape) not in (1, 2):
        raise SourceError(
            f"{where} must be numbers [frames, features], found {header.dtype} of shape {str(header.shape)[:80]}"
        )
    return (header.shape[0], header.shape[1]) if len(header.shape) == 2 else (1, header.shape[0])
