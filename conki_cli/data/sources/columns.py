"""Functions that the readers share: columns of texts, numbers and frames in raw files, ids, padding.

Axes: N clips of a split, P padded frames, d features per frame.
"""

import hashlib
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from conki_cli.data.store.arrays import Array, FileArray
from conki_cli.data.store.records import ID_SEPARATOR, SPLITS, counted
from conki_cli.system.errors import SourceError, names_of, one_line
from conki_cli.system.files import sha256_of

T = TypeVar("T")
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev", "devel", "development"),
    "test": ("test", "testing"),
}
_SPLITS_BY_NAME = {name: split for split, names in _SPLIT_NAMES.items() for name in names}
TO_SCORE = " (clips to be scored do not need it: --unlabelled)"
"""Added to messages about missing scores or splits."""
SCAN_BYTES = 16 * 2**20
"""Arrays are scanned this many bytes at a time."""

MOST_LETTERS = 256 * 2**20
"""Limit of the letters in all texts together: a file can refer to a long text many times. MOSEI has 2.5 million."""
INDEXED = re.compile(r"(.+)\[(\d+)\]", re.DOTALL)
"""'video[3]', as the CMU SDK names clips."""

_LONGEST_ID = 1000
_MINUS = dict.fromkeys(map(ord, "\u2212\u2013\ufe63\uff0d"), "-")  # minus signs of word processors
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_WHOLE = re.compile(r"(\d+)[.,]0+")  # 11.0, as spreadsheets and data frames write 11
# Python's blanks except NEL, which is a Windows-1252 ellipsis that was read as Latin-1.
_BLANKS = "".join(chr(code) for code in range(0x3001) if chr(code).isspace() and code != 0x85)
_NUMBERED = re.compile(r".+_\d+", re.DOTALL)  # 'video_3'


def plain_key(key: Any) -> str:
    """Return a key as text; python 2 wrote bytes, and a number is not a name."""
    return key.decode("ascii", "replace") if isinstance(key, bytes) else key if isinstance(key, str) else ""


def split_of(name: Any) -> str | None:
    """Return our name for a file's split name (train, training, dev, val, Validation, ...); None if it is not a split.

    Args:
        name: text or, as in python 2, bytes; anything else is not a name.
    """
    return _SPLITS_BY_NAME.get(plain_key(name).strip().lower())


def stripped(text: str) -> str:
    """Remove the blanks at the ends of a text."""
    return text.strip(_BLANKS)


def number_in(cell: str, *, has_decimal_comma: bool = False) -> float:
    """Return the number in a cell of a table, with any kind of minus; NaN if it is not a finite number.

    Args:
        cell: the text.
        has_decimal_comma: whether "1,5" is a number.
    """
    text = cell.translate(_MINUS)
    if has_decimal_comma and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def whole_number(text: str) -> str:
    """Return 11 for 11.0; other texts are not changed."""
    found = _WHOLE.fullmatch(text)
    return found[1] if found else text


def splits_of(path: Path, data: Mapping[Any, Any], needed: Sequence[str] = SPLITS) -> dict[str, Any]:
    """Return the splits of a dictionary under our names and in our order; keys may be bytes, as in python 2.

    Raises:
        SourceError: one is missing, or has two names.
    """
    parts: dict[str, Any] = {}
    for key, value in data.items():
        name = split_of(key)
        if name in parts:
            raise SourceError(f"{path} must have one split {name!r}, found it under two names", advice="remove one")
        if name is not None:
            parts[name] = value
    missing = [name for name in needed if name not in parts]
    if missing or not parts:
        missing, found = missing or list(SPLITS), names_of(data)
        raise SourceError(
            f"{path} must have the splits {', '.join(SPLITS)}; {', '.join(missing)} missing in: {found}{TO_SCORE}"
        )
    return {name: parts[name] for name in SPLITS if name in parts}


def text_of(where: str, key: str, item: Any) -> str:
    """Return a text from str or UTF-8 bytes.

    Raises:
        SourceError: it is not text.
    """
    if isinstance(item, bytes):
        try:
            return item.decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{where}: {key!r} must be UTF-8 ({error.reason})") from None
    if not isinstance(item, str):
        raise SourceError(f"{where}: {key!r} must be a list of texts, one per clip")
    return str(item)


def strings_of(where: str, key: str, value: Any) -> list[str]:
    """Return one text per clip, from a list or an array of str or bytes, of shape (N,) or (N, 1).

    Raises:
        SourceError: it is something else.
    """
    items: Any = value
    if isinstance(value, np.ndarray | FileArray):
        flat = value.ndim and value.size == len(value) and value.dtype.kind in "SUO"
        items = [item for rows in slices_of(value) for item in rows.ravel().tolist()] if flat else None
    if not isinstance(items, list | tuple):
        raise SourceError(f"{where}: {key!r} must be a list of texts, one per clip")
    return [text_of(where, key, item) for item in items]


def array_of(where: str, key: str, value: Any) -> Array:
    """Return an array of numbers from an array, or from a list of numbers or of equal arrays.

    Raises:
        SourceError: it is something else.
    """
    try:
        array = value if isinstance(value, np.ndarray | FileArray) else np.asarray(_plain_rows(where, key, value))
    except MemoryError:
        raise SourceError(f"{where}: {key!r} needs more memory than this machine has") from None
    except (ValueError, TypeError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        nested = isinstance(value, list | tuple) and any(isinstance(row, list | tuple) for row in value)
        found = ", found lists in a list: save them as one array, numpy.asarray(...)" if nested else ""
        raise SourceError(f"{where}: {key!r} must be an array of numbers{found}")
    return array


def _plain_rows(where: str, key: str, value: Any) -> list[Any]:
    # Only one level is examined: nested lists from a hostile pickle could be endless.
    if not isinstance(value, list | tuple) or not all(
        isinstance(row, int | float | np.generic | np.ndarray | FileArray) for row in value
    ):
        raise TypeError
    sizes = [(id(row), row.size * row.dtype.itemsize) for row in value if isinstance(row, np.ndarray | FileArray)]
    if (
        sum(size for _, size in sizes) > 64 * sum(dict(sizes).values()) + SCAN_BYTES
    ):  # one array, referred to many times
        raise SourceError(
            f"{where}: {key!r} repeats the same rows many times: it must have separate rows for each clip"
        )
    return list(value)


def numbers_of(where: str, key: str, value: Any) -> npt.NDArray[np.float64]:
    """Return one number per clip, [N], from shapes such as (N,), (N, 1) and (N, 1, 1).

    Raises:
        SourceError: it has another shape.
    """
    array = array_of(where, key, value)
    if not array.ndim or array.size != len(array):
        raise SourceError(f"{where}: {key!r} must hold one number per clip, found the shape {array.shape}")
    return array[:].reshape(-1).astype(np.float64)


def slices_of(array: Array) -> Iterator[npt.NDArray[Any]]:
    """Yield an array [N, ...] in slices of contiguous rows, `SCAN_BYTES` at a time."""
    row_bytes = max(1, array.size // max(1, len(array)) * array.dtype.itemsize)
    step = max(1, SCAN_BYTES // row_bytes)
    for start in range(0, len(array), step):
        yield array[start : start + step]


def frames_of(where: str, key: str, value: Any) -> Array:
    """Return padded frames [N, P, d].

    Raises:
        SourceError: it is not an array of numbers of that shape.
    """
    padded = array_of(where, key, value)
    if padded.ndim != 3 or not padded.shape[2]:
        raise SourceError(f"{where}: {key!r} must be [clips, frames, features], found the shape {padded.shape}")
    return padded


def filled_frames(padded: Array) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield, for each slice of [N, P, d], which frames are not all zeros, [n, P]."""
    for block in slices_of(padded):
        yield (block != 0).any(axis=2)


def edges_of(filled: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first filled frame and the end of the last one for every clip, [n] each; 0 and 0 if none is filled.

    Args:
        filled: which frames are not all zeros, [n, P].
    """
    if not filled.shape[1]:
        return np.zeros(len(filled), dtype=np.int64), np.zeros(len(filled), dtype=np.int64)
    some = filled.any(axis=1)
    first = np.where(some, filled.argmax(axis=1), 0)
    end = np.where(some, filled.shape[1] - filled[:, ::-1].argmax(axis=1), 0)
    return first.astype(np.int64), end.astype(np.int64)


def name_of(where: str, key: str, value: Any) -> str:
    """Return a clip's name in a file.

    Raises:
        SourceError: it is not text, or too long for a name.
    """
    if not isinstance(value, str | bytes) or not 0 < len(value) <= _LONGEST_ID:
        what = (
            f"found a {type(value).__name__}" if not isinstance(value, str | bytes) else f"found {len(value)} letters"
        )
        raise SourceError(f"{where}: {key!r} must be a text such as 'video[3]', {what}")
    return text_of(where, key, value)


def clip_ids(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return ids as 'video$_$clip' and remarks; 'video_3' is split if every clip has this form."""
    numbered = all(_NUMBERED.fullmatch(name) for name in names)  # 'video[3]' and 'video$_$3' are not
    return normal_ids(names, joined_by_underscore=numbered)


def normal_ids(ids: Sequence[str], *, joined_by_underscore: bool = False) -> tuple[list[str], list[str]]:
    """Return ids as 'video$_$clip', and a remark if any was rewritten.

    'video[3]' becomes 'video$_$3'. With `joined_by_underscore`, so does 'video_3': the clip is the part after the last
    underscore. Other ids are not changed.
    """
    made = [_normal_id(name, joined_by_underscore) for name in ids]
    changed = [(old, new) for old, new in zip(ids, made, strict=True) if old != new]
    if not changed:
        return made, []
    old, new = changed[0]
    return made, [f"{counted(len(changed), 'id')} rewritten, such as {old[:60]} to {new[:60]}"]


def _normal_id(name: str, joined_by_underscore: bool) -> str:
    if ID_SEPARATOR in name:
        return name
    if indexed := INDEXED.fullmatch(name):
        return f"{indexed[1]}{ID_SEPARATOR}{indexed[2]}"
    video, _, clip = name.rpartition("_")
    return f"{video}{ID_SEPARATOR}{clip}" if joined_by_underscore and video and clip else name


def one_each(named: Iterable[tuple[str, str, T]], are_equal: Callable[[T, T], bool] = operator.eq) -> dict[str, T]:
    """Return what belongs to every id, given as place in the file, id and value; an id may come again with the same.

    Raises:
        SourceError: an id comes again with something else; both places are named.
    """
    found: dict[str, tuple[str, T]] = {}
    for place, name, value in named:
        before, first = found.setdefault(name, (place, value))
        if first is not value and not are_equal(first, value):
            raise SourceError(
                f"{place}: ids must be unique, {one_line(name)[:80]!r} is already in {before}, with other content",
                "rename or remove one",
            )
    return {name: value for name, (_, value) in found.items()}


def fingerprint(paths: Sequence[Path]) -> tuple[str, int]:
    """Return one SHA-256 over the names and contents of files (for a single file: its own), and their size in bytes.

    Raises:
        SourceError: a file cannot be read.
    """
    try:
        size = sum(path.stat().st_size for path in paths)
        if len(paths) == 1:
            return sha256_of(paths[0]), size
        lines = "".join(f"{path.name}\0{sha256_of(path)}\n" for path in sorted(paths))
    except OSError as error:
        raise SourceError(f"cannot read {error.filename}: {error.strerror or error}") from error
    return hashlib.sha256(lines.encode()).hexdigest(), size
