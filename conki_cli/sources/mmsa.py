"""MMSA feature pickles: one dictionary per split, arrays padded at the end.

Both published layouts are read, "aligned" without lengths and "unaligned" with them, and the files that MMSA-FET
writes. The keys are those of thuiar/MMSA, README section 2. Lengths are authoritative: what stands behind them is
padding, counted when it is not zero, and dropped. Where a file has none, trailing frames of zeros are padding.

Axes: N clips of a split, P padded frames, d features per frame.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.errors import SourceError
from conki_cli.files import sha256_of
from conki_cli.sources.pickles import read_pickle
from conki_cli.store import FRAME_MODALITIES, SPLITS, Corpus, Sample

CHINESE_TEXT_NOTE = "the texts are Chinese (no text_en in the file): choose a Chinese text encoder with --encoder"

SPLIT_NAMES = {"train": "train", "valid": "valid", "dev": "valid", "test": "test"}
"""The names of splits that are read, and ours for them."""
_UNIMODAL_KEYS = {
    "text": "regression_labels_T",
    "vision": "regression_labels_V",
    "audio": "regression_labels_A",
}


@dataclass(frozen=True)
class _Reader:
    """What the whole file shares: its name for messages, and what was mended so far."""

    path: Path
    text_key: str
    repaired: Mapping[str, Counter[str]] = field(default_factory=lambda: {m: Counter() for m in FRAME_MODALITIES})
    inferred: set[str] = field(default_factory=set)  # modalities whose lengths the file does not give


def read_mmsa(path: Path, dataset: str, score_range: tuple[float, float]) -> Corpus:
    """Read an MMSA feature pickle.

    Args:
        path: the pickle, aligned or unaligned.
        dataset: its name; "sims" prefers the English texts of a key `text_en`.
        score_range: lowest and highest possible score.

    Returns:
        The corpus; frames are views on the padded arrays.

    Raises:
        SourceError: the file is refused, damaged, or lacks or contradicts something.
    """
    data = read_pickle(path)
    if not isinstance(data, dict):
        raise SourceError(f"{path} must be a dictionary of splits as MMSA writes it, found a {type(data).__name__}")
    parts = _splits_of(path, data)
    has_english = dataset == "sims" and all("text_en" in part for part in parts.values())
    reader = _Reader(path, "text_en" if has_english else "raw_text")
    splits = {name: _read_split(reader, name, parts[name]) for name in SPLITS}
    return Corpus(
        dataset=dataset,
        score_range=score_range,
        splits=splits,
        source=path.name,
        source_format="MMSA pickle",
        source_sha256=sha256_of(path),
        repaired={m: dict(counts) for m, counts in reader.repaired.items() if counts},
        notes=tuple(_notes(reader, data, dataset, splits)),
    )


def _splits_of(path: Path, data: dict[Any, Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for key, name in SPLIT_NAMES.items():
        if key not in data:
            continue
        if name in parts:
            raise SourceError(f"{path} must have one split {name!r}, found it under two names: remove one")
        if not isinstance(data[key], dict):
            raise SourceError(f"{path}: {key!r} must be a dictionary of arrays, found a {type(data[key]).__name__}")
        parts[name] = data[key]
    missing = [name for name in SPLITS if name not in parts]
    if missing:
        found = _names(data)
        raise SourceError(f"{path} must have the splits {', '.join(SPLITS)}; {', '.join(missing)} missing in: {found}")
    return parts


def _names(keys: Iterable[Any]) -> str:
    """Render keys for a message; what a file calls its keys must not break the line or steer the terminal."""
    shown = [key[:40] if isinstance(key, str) and key.isprintable() else "?" for key in islice(keys, 20)]
    return ", ".join(shown) or "nothing"


def _notes(reader: _Reader, data: dict[Any, Any], dataset: str, splits: Mapping[str, Sequence[Sample]]) -> list[str]:
    notes = []
    ignored = [key for key in data if key not in SPLIT_NAMES]
    if ignored:
        notes.append(f"ignored beside the splits: {_names(ignored)}")
    if dataset == "sims" and reader.text_key == "raw_text":
        notes.append(CHINESE_TEXT_NOTE)
    if reader.inferred:
        names = " and ".join(m for m in FRAME_MODALITIES if m in reader.inferred)
        notes.append(f"no lengths of {names} in the file: trailing frames of zeros were taken as padding")
    return notes + note_of_empty_texts(splits)


def note_of_empty_texts(splits: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Return a note that counts the clips without text, or nothing."""
    empty = sum(not sample.text for samples in splits.values() for sample in samples)
    return [f"{empty} clips have an empty text; they were kept"] if empty else []


def _read_split(reader: _Reader, name: str, part: dict[str, Any]) -> list[Sample]:
    where = f"{reader.path}, split {name!r}"
    ids = _strings(where, part, "id")
    texts = _strings(where, part, reader.text_key)
    scores = _numbers(where, part, "regression_labels")
    columns = {m: _numbers(where, part, key) for m, key in _UNIMODAL_KEYS.items() if key in part}
    frames = {m: _frames(reader, where, part, m) for m in FRAME_MODALITIES if m in part}
    found = {"id": len(ids), reader.text_key: len(texts), "regression_labels": len(scores)}
    found |= {_UNIMODAL_KEYS[m]: len(column) for m, column in columns.items()}
    found |= {m: len(clips) for m, clips in frames.items()}
    if len(set(found.values())) != 1:
        counts = ", ".join(f"{key} {count}" for key, count in found.items())
        raise SourceError(f"{where}: all keys must hold the same clips, found {counts}")
    return [
        Sample(
            id=ids[i],
            text=texts[i].strip(),
            score=float(scores[i]),
            vision=frames["vision"][i] if "vision" in frames else None,
            audio=frames["audio"][i] if "audio" in frames else None,
            unimodal={m: float(column[i]) for m, column in columns.items()},
        )
        for i in range(len(ids))
    ]


def _value(where: str, part: dict[str, Any], key: str) -> Any:
    if key not in part:
        found = _names(part)
        raise SourceError(f"{where} must have {key!r}, found only {found}: is this an MMSA feature file?")
    return part[key]


def _strings(where: str, part: dict[str, Any], key: str) -> list[str]:
    value = _value(where, part, key)
    items = value.ravel().tolist() if isinstance(value, np.ndarray) and value.size == len(value) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str | bytes) for item in items):
        raise SourceError(f"{where}: {key!r} must be a list of texts, one per clip")
    try:
        return [item.decode() if isinstance(item, bytes) else str(item) for item in items]
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: {key!r} must be UTF-8 ({error.reason})") from None


def _numbers(where: str, part: dict[str, Any], key: str) -> npt.NDArray[np.float64]:
    """Return one number per clip, [N], from shapes such as (N,), (N, 1) and (N, 1, 1)."""
    value = _array(where, key, _value(where, part, key))
    if not value.ndim or value.size != len(value):
        raise SourceError(f"{where}: {key!r} must hold one number per clip, found the shape {value.shape}")
    return value.reshape(-1).astype(np.float64)


def _array(where: str, key: str, value: Any) -> npt.NDArray[Any]:
    """Return an array of numbers from an array or a list of numbers or of equal arrays."""
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(_plain_rows(value))
    except MemoryError:
        raise SourceError(f"{where}: {key!r} needs more memory than this machine has") from None
    except (ValueError, TypeError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        raise SourceError(f"{where}: {key!r} must be an array of numbers")
    return array


def _plain_rows(value: Any) -> list[Any]:
    # One level is looked into and no deeper: nested lists from a hostile pickle could be endless.
    if not isinstance(value, list | tuple) or not all(
        isinstance(row, int | float | np.generic | np.ndarray) for row in value
    ):
        raise TypeError
    return list(value)


def _frames(reader: _Reader, where: str, part: dict[str, Any], modality: str) -> list[npt.NDArray[Any]]:
    """Return every clip's frames, [L, d] each, as views on the padded array [N, P, d]."""
    padded = _array(where, modality, part[modality])
    if padded.ndim != 3 or not padded.shape[2]:
        raise SourceError(f"{where}: {modality!r} must be [clips, frames, features], found the shape {padded.shape}")
    if padded.dtype not in (np.float32, np.float64):
        padded = padded.astype(np.float32)
    key = f"{modality}_lengths"
    if key not in part:
        reader.inferred.add(modality)
        return [clip[: _end_of(clip)] for clip in padded]
    lengths = _numbers(where, part, key)
    if len(lengths) != len(padded):
        raise SourceError(f"{where}: {key!r} must have one number for each of {len(padded)} clips, has {len(lengths)}")
    if not (np.isfinite(lengths) & (lengths >= 0) & (lengths == np.floor(lengths))).all():
        raise SourceError(f"{where}: {key!r} must be whole numbers from 0")
    counts = reader.repaired[modality]
    counts["lengths_clamped"] += int((lengths > padded.shape[1]).sum())
    ends = np.minimum(lengths, padded.shape[1]).astype(np.int64)
    for clip, end in zip(padded, ends, strict=True):
        junk = int((clip[end:] != 0).any(axis=1).sum())
        counts["clips_with_junk"] += bool(junk)
        counts["junk_frames"] += junk
    return [clip[:end] for clip, end in zip(padded, ends, strict=True)]


def _end_of(clip: npt.NDArray[Any]) -> int:
    """Return how many frames of [P, d] there are up to the last that is not all zeros."""
    filled = np.flatnonzero((clip != 0).any(axis=1))
    return int(filled[-1]) + 1 if len(filled) else 0
