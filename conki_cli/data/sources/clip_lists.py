"""Lists of clips as MAG-BERT, MISA and MMIM store them.

MAG-BERT: mosi.pkl or mosei.pkl, one dictionary with train, dev (or valid) and test. MISA and MMIM:
a folder with train.pkl, dev.pkl (or valid.pkl) and test.pkl; name the folder, not one of its files.
Every split is a list with one tuple per clip, (features, label, segment). Features are

    MAG-BERT   (words, visual, acoustic)
    MISA       (word ids, visual, acoustic, words)
    MMIM       (nothing, visual, acoustic, words, visual length, acoustic length)

words      the spoken words; the text is these words without the pauses 'sp', joined with blanks.
           Word ids cannot be turned back into words: if a file has no words, the texts come
           from --labels label.csv
visual     numbers [frames, features] of this clip, usually one frame per word and not padded
acoustic   the same; the counts of words and frames may differ
lengths    real frames; the rest of an array is padding, which is removed on the side of the zeros
label      a number or an array of any shape; the first value is the sentiment, the others
           (emotions) are not read
segment    'video[clip]', or 'video_clip' if all clips have this form

'video[3]' is the fourth clip of a video; label.csv may have another name for it. With --labels
label.csv, clips get the ids of that file; words, scores and splits stay (with --text-column the
texts also come from that file). So the same clips have the same ids, from whatever file they come.

embedding_and_mapping.pt, which MISA and MMIM write beside them, is not read: the model's text
encoder reads words.

Axes: N clips of a split, L frames of a clip, d features per frame.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.pickles import read_pickle
from conki_cli.data.sources.columns import (
    MOST_LETTERS,
    array_of,
    clip_ids,
    fingerprint,
    name_of,
    split_of,
    splits_of,
    stripped,
    text_of,
)
from conki_cli.data.sources.joining import POSITIONS, are_positions, with_labels
from conki_cli.data.sources.padding import Padded, find_sides, look_at_clip, repairs_of, without_padding
from conki_cli.data.sources.request import Request
from conki_cli.data.sources.tracks import PAUSE
from conki_cli.data.store.arrays import Array, FileArray
from conki_cli.data.store.records import SCORED, SPLITS, Corpus, Sample
from conki_cli.system.errors import SourceError, names_of

FORMATS = {
    "mag-bert": "MAG-BERT mosi.pkl or mosei.pkl: per split a list of ((words, visual, acoustic), label, segment)",
    "misa": "MISA folder with train.pkl, dev.pkl, test.pkl: ((word ids, visual, acoustic, words), label, segment)",
    "mmim": "MMIM folder with train.pkl, dev.pkl, test.pkl: as MISA's, with two lengths after the words",
}
_MOST_LABELS = 64  # values that a clip's label may hold; MOSEI has 7

_KINDS = {3: "MAG-BERT", 4: "MISA", 6: "MMIM"}  # by the number of parts of a clip's features


@dataclass(frozen=True)
class _Reader:
    """The state that all splits share, and the observations so far."""

    path: Path
    unlabelled: bool = False
    padded: Mapping[str, dict[int, Padded]] = field(default_factory=lambda: {"vision": {}, "audio": {}})
    """By modality, the clips that are longer than their stated length, by their number in the whole file."""
    kinds: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    wordless: list[str] = field(default_factory=list)  # places of clips with numbers instead of words
    remarks: list[str] = field(default_factory=list)


def recognise(raw: Raw) -> str | None:
    """Return the name of the format, if it is one of these; reading distinguishes MMIM's folder from MISA's."""
    if raw.kind == "folder":
        return "misa" if len({split for name in raw.content if (split := _split_of_file(name))}) >= 2 else None
    if raw.kind != "pickle":
        return None
    if isinstance(raw.content, dict):
        parts = [value for key, value in raw.content.items() if split_of(key)]
        is_list = bool(parts) and all(isinstance(part, list | tuple) for part in parts)
        return "mag-bert" if is_list and any(_is_clip(part[0]) for part in parts if part) else None
    return "misa" if is_clip_list(raw.content) else None


def _split_of_file(name: str) -> str | None:
    """Return the split of a file such as train.pkl or dev.pkl; None for another file."""
    return split_of(name.removesuffix(".pkl")) if name.endswith(".pkl") else None


def is_clip_list(value: Any) -> bool:
    """Say whether a value is a list of ((words, visual, acoustic, ...), label, segment)."""
    return isinstance(value, list) and bool(value) and _is_clip(value[0])


def _is_clip(item: Any) -> bool:
    # A clip with a part too few or too many counts, so that the message can name it.
    has_parts = isinstance(item, list | tuple) and 2 <= len(item) <= 4 and isinstance(item[0], list | tuple)
    return has_parts and 2 <= len(item[0]) <= 7


def read(raw: Raw, request: Request, name: str) -> Corpus:
    """Read lists of clips; frames stay in their files until they are read.

    Raises:
        SourceError: a file lacks or contradicts something, or there are no words and no label file.
    """
    reader = _Reader(raw.path, request.unlabelled)
    if raw.kind == "folder":
        paths, lists = _open_folder(reader, raw.content)
    else:
        paths, lists = [raw.path], _lists_of(reader, raw)
    padded = {split: _read_split(reader, where, items) for split, (where, items) in lists.items()}
    splits, padding, repaired, doubts = _without_padding(reader, padded)
    splits, notes = _with_ids(reader, splits, request)
    sha256, size = fingerprint([*paths, *([request.labels] if request.labels else [])])
    return Corpus(
        dataset=request.dataset,
        score_range=request.score_range,
        splits=splits,
        source=raw.path.name,
        source_format=f"{'/'.join(sorted(reader.kinds))} {'folder' if raw.kind == 'folder' else 'pickle'}",
        source_sha256=sha256,
        source_bytes=size,
        repaired=repaired,
        notes=(*doubts, *notes),
        remarks=tuple(_remarks(reader)),
        padding=padding,
    )


def _open_folder(reader: _Reader, files: Mapping[str, Path]) -> tuple[list[Path], dict[str, tuple[str, Any]]]:
    """Return the files of the splits, and for each split its place in messages and its content."""
    splits = {name: split for name in files if (split := _split_of_file(name))}
    names = sorted(splits, key=lambda name: SPLITS.index(splits[name]))
    found = {name.removesuffix(".pkl"): files[name] for name in names}
    parts = splits_of(reader.path, found, () if reader.unlabelled else SPLITS)
    others = [name for name in files if name not in splits]
    if others:
        reader.remarks.append(f"not read: {names_of(others)}")
    lists = {split: (f"{path}, split {split!r}", read_pickle(path)) for split, path in parts.items()}
    return list(parts.values()), lists


def _lists_of(reader: _Reader, raw: Raw) -> dict[str, tuple[str, Any]]:
    if reader.unlabelled and is_clip_list(raw.content):
        return {SCORED: (str(raw.path), raw.content)}
    if raw.kind != "pickle" or not isinstance(raw.content, dict):
        is_list = raw.kind == "pickle" and isinstance(raw.content, list)
        found = "one list of clips" if is_list else f"a {type(raw.content).__name__}"
        raise SourceError(
            f"{raw.path} holds {found}: MISA and MMIM have one file per split, so give the folder with train.pkl, "
            "dev.pkl and test.pkl; MAG-BERT has a dictionary of splits"
        )
    others = [key for key in raw.content if split_of(key) is None]
    if others:
        reader.remarks.append(f"ignored, besides the splits: {names_of(others)}")
    parts = splits_of(raw.path, raw.content, () if reader.unlabelled else SPLITS)
    return {split: (f"{raw.path}, split {split!r}", items) for split, items in parts.items()}


def _remarks(reader: _Reader) -> list[str]:
    width = reader.counts["labels"]
    wide = [f"labels have {width} values per clip: only the first, the sentiment, was read"] if width > 1 else []
    return reader.remarks + wide


def _read_split(reader: _Reader, where: str, items: Any) -> list[Sample]:
    if not isinstance(items, list | tuple):
        raise SourceError(f"{where} must be a list of clips, found a {type(items).__name__}")
    if not items and not reader.unlabelled:
        raise SourceError(f"{where} must be a list of clips, found an empty list")
    return [_read_clip(reader, f"{where}, row {number}", item) for number, item in enumerate(items, start=1)]


def _read_clip(reader: _Reader, where: str, item: Any) -> Sample:
    if not isinstance(item, list | tuple) or len(item) != 3 or not isinstance(item[0], list | tuple):
        found = f"{len(item)} parts" if isinstance(item, list | tuple) else f"a {type(item).__name__}"
        raise SourceError(f"{where} must be ((words, visual, acoustic, ...), label, segment), found {found}")
    features, label, segment = item
    if len(features) not in _KINDS:
        raise SourceError(f"{where} must have 3 features (MAG-BERT), 4 (MISA) or 6 (MMIM), found {len(features)}")
    reader.kinds.add(_KINDS[len(features)])
    text = _text(reader, where, features[0] if len(features) == 3 else features[3])
    if text is None:
        reader.wordless.append(where)
    vision, audio = _frames(where, "visual", features[1]), _frames(where, "acoustic", features[2])
    if len(features) == 6:
        _look_at(reader, where, "vision", vision, features[4])
        _look_at(reader, where, "audio", audio, features[5])
    reader.counts["clips"] += 1
    return Sample(_segment(where, segment), text or "", _score(reader, where, label), vision, audio)


def _text(reader: _Reader, where: str, words: Any) -> str | None:
    """Return the words as one text; None if they are word ids."""
    if isinstance(words, np.ndarray | FileArray):
        if words.dtype.kind in "biuf" and words.size:
            return None
        items = np.asarray(words).reshape(-1).tolist()
    else:
        items = [words] if isinstance(words, str | bytes) else words
        if isinstance(items, list | tuple) and items and isinstance(items[0], int | np.integer):
            return None
    if not isinstance(items, list | tuple) or not all(isinstance(word, str | bytes) for word in items):
        raise SourceError(f"{where}: the words must be a list of texts")
    reader.counts["letters"] += sum(len(word) + 1 for word in items)
    if reader.counts["letters"] > MOST_LETTERS:
        raise SourceError(f"{where}: the words of all clips must have {MOST_LETTERS} letters at most, but have more")
    spoken = [stripped(text_of(where, "words", word)) for word in items]
    return " ".join(word for word in spoken if word not in ("", PAUSE))


def _frames(where: str, key: str, value: Any) -> Array | None:
    """Return the frames of one clip, [L, d]; None without frames."""
    # Lists of arrays are not joined: they could refer to one array many times.
    array = array_of(where, key, value if isinstance(value, np.ndarray | FileArray) or not value else None)
    if array.ndim == 1 and not array.size:
        return None
    if array.ndim != 2 or not array.shape[1]:
        raise SourceError(f"{where}: {key!r} must be [frames, features], found the shape {array.shape}")
    return array


def _look_at(reader: _Reader, where: str, modality: str, frames: Array | None, length: Any) -> None:
    """Record where the values are in a clip that has more frames than its stated length."""
    number = _number(length)
    if number is None or not number.is_integer() or number < 0:
        raise SourceError(f"{where}: the length of {modality} must be a whole number from 0")
    if frames is not None and len(frames) > number:
        reader.padded[modality][reader.counts["clips"]] = look_at_clip(where, frames, number)


def _without_padding(
    reader: _Reader, splits: Mapping[str, Sequence[Sample]]
) -> tuple[dict[str, list[Sample]], dict[str, str], dict[str, dict[str, int]], list[str]]:
    """Return the clips without padding, its side, counts of repairs, and warnings."""
    parts = {m: list(found.values()) for m, found in reader.padded.items() if found}
    sides, padding, doubts = find_sides(parts, "front")  # MMIM pads there
    kept = {
        m: {number: without_padding(padded, sides[m])[0] for number, padded in found.items()}
        for m, found in reader.padded.items()
    }
    repaired = {m: counts for m, padded in parts.items() if any((counts := repairs_of(padded, sides[m])).values())}
    numbers = itertools.count()
    cut: dict[str, list[Sample]] = {split: [] for split in splits}
    for split, part in splits.items():
        for sample in part:
            number = next(numbers)
            vision, audio = kept["vision"].get(number, sample.vision), kept["audio"].get(number, sample.audio)
            cut[split].append(dataclasses.replace(sample, vision=vision, audio=audio))
    return cut, padding, repaired, doubts


def _score(reader: _Reader, where: str, label: Any) -> float:
    if reader.unlabelled:
        return math.nan
    values = label if isinstance(label, np.ndarray | FileArray | list) else [label]
    size = values.size if isinstance(values, np.ndarray | FileArray) else len(values)
    if not 1 <= size <= _MOST_LABELS:
        found = values.shape if isinstance(values, np.ndarray | FileArray) else size
        raise SourceError(f"{where}: the label must be a number, found {found} of them")
    first = np.asarray(values).reshape(-1)[0] if isinstance(values, np.ndarray | FileArray) else values[0]
    score = _number(first)
    if score is None:
        raise SourceError(f"{where}: the label must be a number, found a {type(first).__name__}")
    reader.counts["labels"] = max(reader.counts["labels"], size)
    return score


def _number(value: Any) -> float | None:
    """Return a number, or the only number in an array; None if it is not a number, or is too long."""
    is_array = isinstance(value, np.ndarray | FileArray) and value.size == 1
    item = np.asarray(value).reshape(-1)[0] if is_array else value
    try:
        return float(item) if isinstance(item, int | float | np.integer | np.floating) else None
    except OverflowError:
        return None


def _segment(where: str, segment: Any) -> str:
    if isinstance(segment, np.ndarray) and segment.size == 1:  # MMIM wraps some ids in an array of size 1
        segment = segment.reshape(-1)[0]
    return name_of(where, "segment", segment)


def _with_ids(
    reader: _Reader, splits: Mapping[str, Sequence[Sample]], request: Request
) -> tuple[dict[str, list[Sample]], list[str]]:
    """Give clips the ids of the label file if there is one, and its texts if the file has no words."""
    samples = [sample for part in splits.values() for sample in part]
    has_words = not reader.wordless and any(sample.text for sample in samples)
    if not has_words and request.labels is None and request.needs_texts and not request.unlabelled:
        where = reader.wordless[0] if reader.wordless else str(reader.path)
        found = "word ids instead of words" if reader.wordless else "no words"
        count = len(reader.wordless) or len(samples)
        raise SourceError(f"{where} has {found} ({count} clips)", advice="give the texts with --labels label.csv")
    ids, rewritten = clip_ids([sample.id for sample in samples])
    names = iter(ids)
    named = {split: [dataclasses.replace(sample, id=next(names)) for sample in part] for split, part in splits.items()}
    if request.labels is not None:
        joined, notes, remarks = with_labels(reader.path, named, request, keeps_texts=has_words)
        reader.remarks.extend(remarks)
        return joined, notes
    reader.remarks.extend(rewritten)
    if are_positions(sample.id for sample in samples):
        reader.remarks.append(POSITIONS)
    return named, []
