"""Folders with the features of every clip in a file of its own, .npy or .npz.

The clip is told from the names: <video>/<clip>.npy, <video>$_$<clip>.npy or <video>_<clip>.npy. Names of files become
ids that are compared; nothing is ever opened by an id. Files are looked at first, and read one by one when asked for.

Axes: L frames of a clip, d features per frame.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.errors import SourceError, one_line
from conki_cli.sources.columns import names_of, normal_ids
from conki_cli.sources.joining import are_positions
from conki_cli.sources.raw.npz import Header, look_into_npy, look_into_npz, read_npy, read_npz
from conki_cli.sources.request import Progress
from conki_cli.store import ID_SEPARATOR

FEATURE_KEYS = ("features", "feature")
"""What an array of features may be called besides its modality."""
_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True, eq=False)
class ClipFile:
    """The frames of one clip in a file of their own, [L, d]; the file is opened only while they are read."""

    path: Path
    key: str | None  # name of the array in an .npz
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> npt.NDArray[Any]:
        values = read_npy(self.path) if self.key is None else read_npz(self.path, only=(self.key,))[self.key][:]
        if values.size != self.shape[0] * self.shape[1]:
            raise SourceError(f"{self.path} has changed: it must not change while it is read; run again")
        return np.asarray(values.reshape(self.shape), dtype=dtype)


@dataclass(frozen=True, eq=False)
class ClipFiles:
    """What a folder holds: the frames of its clips by id, the files that were found, and what was left out."""

    frames: Mapping[str, ClipFile]
    paths: Sequence[Path]
    remarks: tuple[str, ...]
    are_positions: bool


def look_into_folder(folder: Path, modality: str, progress: Progress) -> ClipFiles:
    """Find the features of every clip in a folder.

    Args:
        folder: it, with the files or with one folder per video.
        modality: vision or audio; an array of that name is taken from an .npz with several.
        progress: told of every file.

    Raises:
        SourceError: there are none, two are of the same clip, or one is damaged or leads out of the folder.
    """
    paths: dict[str, Path] = {}
    num_others = 0
    for video, path in _files_in(folder):
        if path.suffix not in _SUFFIXES or path.name.startswith("."):
            num_others += 1
            continue
        name = path.stem if not video or ID_SEPARATOR in path.stem else video + ID_SEPARATOR + path.stem
        (clip,), _ = normal_ids([name])
        if clip in paths:
            raise SourceError(f"{paths[clip]} and {path} are both {one_line(clip)[:80]!r}: remove one")
        paths[clip] = path
    if not paths:
        raise SourceError(f"{folder} must hold .npy or .npz files with the {modality} of each clip, found none")
    frames: dict[str, ClipFile] = {}
    for clip, path in paths.items():
        frames[clip] = _clip_file(path, modality)
        progress(1, f"looking at {modality}")
    filled = {clip: file for clip, file in frames.items() if 0 not in file.shape}
    remarks = [f"{num_others} other files in {one_line(folder.name)} were not read"] if num_others else []
    if num_empty := len(frames) - len(filled):
        remarks.append(f"{num_empty} files in {one_line(folder.name)} hold no frames")
    return ClipFiles(filled, list(paths.values()), tuple(remarks), are_positions(path.stem for path in paths.values()))


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder, and of the folders in it with their names, sorted."""
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
        except (OSError, RuntimeError):  # it leads to nothing, or to itself
            target = None
        if target is None or not target.is_relative_to(root):
            raise SourceError(f"{entry.path} is a link that leads out of {root}: put the file itself there")
    return entries


def _clip_file(path: Path, modality: str) -> ClipFile:
    key = None
    if path.suffix == ".npy":
        header = look_into_npy(path)
    else:
        headers = look_into_npz(path)
        key = _feature_key(str(path), modality, headers)
        header = headers[key]
    return ClipFile(path, key, header.dtype, _frame_shape(str(path), header))


def _feature_key(where: str, modality: str, arrays: Mapping[str, Any]) -> str:
    if len(arrays) == 1:
        return next(iter(arrays))
    key = next((key for key in (modality, *FEATURE_KEYS) if key in arrays), None)
    if key is None:
        named = " or ".join(repr(key) for key in (modality, *FEATURE_KEYS))
        raise SourceError(f"{where} must have an array {named}, found {names_of(arrays)}: rename one")
    return key


def _frame_shape(where: str, header: Header) -> tuple[int, int]:
    if header.dtype.kind not in "biuf" or len(header.shape) not in (1, 2):
        raise SourceError(
            f"{where} must be numbers [frames, features], found {header.dtype} of shape {str(header.shape)[:80]}"
        )
    return (header.shape[0], header.shape[1]) if len(header.shape) == 2 else (1, header.shape[0])
