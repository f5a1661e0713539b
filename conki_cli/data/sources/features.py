"""Features of single modalities: a folder with a file per clip, or one .npz with all clips.

For --audio and --vision, together with any source; clips are matched by id, never by position:
    a folder    DIR/<video>/<clip>.npy, DIR/<video>$_$<clip>.npy or DIR/<video>_<clip>.npy; each
                [frames, features], or [features] for one frame per clip. Instead of .npy: .npz or
                .mat (MATLAB 5, save -v7) with one array, or one named after the modality, feature
                or features; .csv, .tsv or .txt with one row per frame, separated by ; tabs, commas
                or blanks, with or without column names; openSMILE's .arff. In tables of OpenFace,
                py-feat, LibreFace, openSMILE, Praat and pandas frame numbers, times, names and row
                numbers are left out. Where a program found no face the row is 0, and so is a last
                column, success. An empty cell is NaN. A folder holds one kind of file
    an .npz     `id` ('video$_$clip', 'video_clip' or 'video[3]'), and an array named after the
                modality (or feature, features): [clips, features] for one frame per clip;
                [clips, frames, features] padded at the end or in front, with audio_lengths or
                vision_lengths if there are any, else frames of zeros at the side with most of them
                are padding; or an object array of one array [frames, features] per clip
Labels in the file (label, labels or regression_labels) are used to verify that clips of the same id
are the same. As --source, an .npz with id and audio or vision is format "npz". It needs --labels
label.csv for texts and splits, and for the scores if the file has no labels. Text vectors are not
read, because the model encodes the texts itself. If the file has its own split (mode, split,
bc_split) and calls clips of label.csv's valid or test split training clips, there is a warning:
features that were trained on them have seen the answers.

Axes: N clips, P padded frames, L frames of a clip, d features per frame.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.npz import Header, look_into_npz, read_npz
from conki_cli.data.sources import ragged
from conki_cli.data.sources.clip_files import FEATURE_KEYS, look_into_folder
from conki_cli.data.sources.columns import (
    TO_SCORE,
    array_of,
    fingerprint,
    frames_of,
    normal_ids,
    numbers_of,
    split_of,
    strings_of,
)
from conki_cli.data.sources.joining import POSITIONS, Clip, are_positions, join
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.sources.labels import read_label_rows, samples_of
from conki_cli.data.sources.matching import Names, match
from conki_cli.data.sources.padding import find_sides, lengths_of, look_at, repairs_of, without_padding
from conki_cli.data.sources.request import Request
from conki_cli.data.store.arrays import Array, FileArray
from conki_cli.data.store.records import FRAME_MODALITIES, ID_SEPARATOR, SCORED, Corpus, Frames, Sample
from conki_cli.system.errors import SourceError, names_of, one_line

FORMATS = {"npz": "one .npz with id and audio or vision of all clips, with or without labels; needs --labels label.csv"}

_ID_KEYS = ("id", "ids", "name", "names")
_SCORE_KEYS = ("label", "labels", "regression_labels")


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """One modality of many clips.

    Attributes:
        path: the folder or file.
        modality: vision or audio.
        frames: [L, d] by the id of the clip, as the folder or file writes it ('video[3]' as 'video$_$3').
        remarks: what was left out.
        notes: warnings.
        padding: the side from which padding was removed, or empty.
        repaired: counts of repaired values.
        sha256: of the file; of a folder, over the names and contents of its files.
        bytes: size of what was read.
        own_splits: the file's own splits, as {its name for them: {id: split}}.
        scores: scores by id, if the file has them.
        are_positions: whether the file calls clips 'video[3]'.
    """

    path: Path
    modality: str
    frames: Mapping[str, Frames]
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    padding: str = ""
    repaired: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""
    bytes: int = 0
    own_splits: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    are_positions: bool = False


# ---- one modality ----


def read_features(path: Path, modality: str, request: Request) -> FeatureTable:
    """Read one modality of many clips; frames stay in their files until they are read.

    Args:
        path: a folder with a file per clip, or one .npz.
        modality: vision or audio.
        request: is notified of every file.

    Raises:
        SourceError: nothing fits, or a file cannot be read, is damaged or leads out of the folder.
    """
    if modality not in FRAME_MODALITIES:
        raise SourceError(f"only features of {' and '.join(FRAME_MODALITIES)} can be read, not of {modality}")
    if path.is_dir():
        files = look_into_folder(path, modality, request.progress)
        sha256, size = fingerprint(files.paths)
        return FeatureTable(
            path,
            modality,
            files.frames,
            files.remarks,
            sha256=sha256,
            bytes=size,
            are_positions=files.are_positions,
            notes=files.notes,
        )
    if not path.exists():
        raise SourceError(f"there is no file or folder {path}", f"check --{modality}")
    return _read_table(path, modality)


def attach(corpus: Corpus, tables: Mapping[str, FeatureTable]) -> Corpus:
    """Replace the frames of a modality, or several, by those of feature tables, matched by id and score.

    Clips that are not in a table get empty frames for that modality.

    Raises:
        SourceError: fewer than half of the clips are in a table, or nothing proves that they are the same clips.
    """
    if not tables:
        return corpus
    mine = names_in(corpus)
    matches = {modality: match(mine, _names_of(table), modality) for modality, table in tables.items()}
    names = {modality: ids for modality, (ids, _, _) in matches.items()}
    found = {m: {clip: tables[m].frames[name] for clip, name in pairs.items()} for m, pairs in names.items()}
    remarks = [remark for m, table in tables.items() for remark in _remarks_of(corpus, table, len(names[m]))]
    remarks += dict.fromkeys(remark for _, _, how in matches.values() for remark in how)
    doubts = [note for table in tables.values() for note in table.notes]
    notes = list(dict.fromkeys([*doubts, *(note for _, noted, _ in matches.values() for note in noted)]))
    for modality, table in tables.items():
        warnings, harmless = _own_splits_of(corpus, table, names[modality])
        notes += [note for note in warnings if note not in (*corpus.notes, *notes)]
        remarks += [remark for remark in harmless if remark not in remarks]
    lines = [f"{corpus.source}\0{corpus.source_sha256}\n"]
    lines += [f"{modality}:{table.path.name}\0{table.sha256}\n" for modality, table in tables.items()]
    padding = {m: side for m, side in corpus.padding.items() if m not in tables}
    repaired = {m: counts for m, counts in corpus.repaired.items() if m not in tables}
    return replace(
        corpus,
        splits={name: [_with_frames(clip, found) for clip in clips] for name, clips in corpus.splits.items()},
        source_sha256=hashlib.sha256("".join(lines).encode()).hexdigest(),
        source_bytes=corpus.source_bytes + sum(table.bytes for table in tables.values()),
        notes=(*corpus.notes, *notes),
        remarks=(*corpus.remarks, *remarks),
        padding=padding | {m: table.padding for m, table in tables.items() if table.padding},
        repaired=repaired | {m: table.repaired for m, table in tables.items() if table.repaired},
    )


def _with_frames(sample: Sample, found: Mapping[str, Mapping[str, Frames]]) -> Sample:
    vision = found["vision"].get(sample.id) if "vision" in found else sample.vision
    audio = found["audio"].get(sample.id) if "audio" in found else sample.audio
    return replace(sample, vision=vision, audio=audio)


def names_in(corpus: Corpus) -> Names:
    """Return the names of a corpus's clips, and their scores."""
    samples = [sample for clips in corpus.splits.values() for sample in clips]
    scores = {sample.id: sample.score if math.isfinite(sample.score) else None for sample in samples}
    return Names(corpus.source, scores, POSITIONS in corpus.remarks)


def _names_of(table: FeatureTable) -> Names:
    scores = {clip: table.scores.get(clip, math.nan) for clip in table.frames}
    finite = {clip: score if math.isfinite(score) else None for clip, score in scores.items()}
    return Names(str(table.path), finite, table.are_positions)


def _remarks_of(corpus: Corpus, table: FeatureTable, matched: int) -> Iterator[str]:
    modality, name = table.modality, one_line(table.path.name)
    count = sum(len(samples) for samples in corpus.splits.values())
    had_frames = any(getattr(sample, modality) is not None for clips in corpus.splits.values() for sample in clips)
    replaced = f" instead of those of {one_line(corpus.source)}" if had_frames else ""
    yield f"{modality} of {matched} of {count} clips from {name}{replaced}"
    yield from table.remarks
    if unused := len(table.frames) - matched:
        yield f"{unused} clips in {name} are not in {one_line(corpus.source)}"


def _own_splits_of(corpus: Corpus, table: FeatureTable, names: Mapping[str, str]) -> tuple[list[str], list[str]]:
    clips = [(sample.id, split) for split, samples in corpus.splits.items() for sample in samples if sample.id in names]
    own = {key: [(splits[names[clip]], split) for clip, split in clips] for key, splits in table.own_splits.items()}
    return _compared(table.path, own, corpus.source)


# ---- one file with all clips ----


def _read_table(path: Path, modality: str) -> FeatureTable:
    where, names = str(path), look_into_npz(path)
    id_key = next((key for key in _ID_KEYS if key in names), None)
    if id_key is None:
        raise SourceError(f"{where} must have the clips' ids as 'id', found {names_of(names)}", "add them")
    key = next((key for key in (modality, *FEATURE_KEYS) if key in names), None)
    if key is None:
        raise SourceError(f"{where} must have an array {modality!r}, found {names_of(names)}", "name another file")
    # Scores are optional: ignore values that are not one number per clip.
    has_scores = [name for name in _SCORE_KEYS if name in names and _are_scores(names[name], names[id_key].shape)]
    lengths = {f"{name}_lengths" for name in (key, modality)}
    arrays = read_npz(path, only={id_key, key, *lengths, *has_scores, *filter(_is_split, names)})
    written = strings_of(where, id_key, arrays[id_key])
    ids, _ = normal_ids(written)
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise SourceError(f"{where}: ids must be unique, {one_line(twice)[:80]!r} occurs twice", "rename one")
    rows = _rows_of(where, arrays, key, modality, len(ids))
    frames = dict(zip(ids, rows.frames, strict=True))
    sha256, size = fingerprint([path])
    own = {key: dict(zip(ids, splits, strict=True)) for key, splits in _splits_in(where, arrays, len(ids)).items()}
    return FeatureTable(
        path,
        modality,
        frames,
        notes=rows.notes,
        padding=rows.padding,
        repaired=rows.repaired,
        sha256=sha256,
        bytes=size,
        own_splits=own,
        scores=dict(zip(ids, _scores_in(where, arrays, len(ids)) or [], strict=False)),
        are_positions=are_positions(written),
    )


def _are_scores(header: Header, ids: tuple[int, ...]) -> bool:
    return header.dtype.kind in "biuf" and header.shape[:1] == ids[:1] and math.prod(header.shape) == math.prod(ids)


@dataclass(frozen=True, eq=False)
class _Rows:
    frames: list[Array]
    notes: tuple[str, ...] = ()
    padding: str = ""
    repaired: Mapping[str, int] = field(default_factory=dict)


def _rows_of(where: str, arrays: Mapping[str, Array], key: str, modality: str, count: int) -> _Rows:
    """Return the frames of every clip, [L, d] each, from [N, d] or [N, P, d]."""
    value = arrays[key]
    if not value.ndim or len(value) != count:
        raise SourceError(f"{where}: {key!r} must have one row for each of {count} ids, found the shape {value.shape}")
    if (clips := ragged.clips_in(value)) is not None:
        made, counts = ragged.cut(clips, _lengths_of(where, arrays, key, modality, count))
        return _Rows(made, padding=ragged.PADDING, repaired=dict(counts))
    values = array_of(where, key, value)
    if values.ndim == 2 and values.shape[1]:
        return _Rows([_row(values, i) for i in range(count)])
    return _padded_rows(where, arrays, key, modality, frames_of(where, key, values))


def _row(values: Array, index: int) -> Array:
    """Return row `index` of [N, d] as one frame, [1, d], without reading it."""
    if isinstance(values, FileArray):
        offset = values.offset + index * values.row_bytes
        return FileArray(values.file, offset, values.dtype, (1, *values.shape[1:]))
    return values[index : index + 1]


def _lengths_of(
    where: str, arrays: Mapping[str, Array], key: str, modality: str, count: int
) -> npt.NDArray[np.float64] | None:
    """Return the lengths of all clips, [N]; None if the file has no lengths."""
    name = next((name for name in (f"{key}_lengths", f"{modality}_lengths") if name in arrays), "")
    return lengths_of(where, name, arrays[name], count) if name else None


def _padded_rows(where: str, arrays: Mapping[str, Array], key: str, modality: str, padded: Array) -> _Rows:
    longest = padded.shape[1]
    if not longest:
        raise SourceError(f"{where}: {key!r} has the shape {padded.shape}, which has no frames", "name another file")
    lengths = _lengths_of(where, arrays, key, modality, len(padded))
    parts = {modality: [look_at(where, padded, lengths)]}
    sides, said, doubts = find_sides(parts, "end")
    (part,), side = parts[modality], sides[modality]
    repaired = repairs_of([part], side)
    return _Rows(without_padding(part, side), tuple(doubts), said.get(modality, ""), repaired)


# ---- the format "npz" ----


def recognise(raw: Raw) -> str | None:
    """Return "npz" for an archive with ids and frames."""
    if raw.kind != "npz":
        return None
    has = [any(key in raw.content for key in keys) for keys in (_ID_KEYS, FRAME_MODALITIES)]
    return "npz" if all(has) else None


def read(raw: Raw, request: Request, name: str = "npz") -> Corpus:
    """Read an archive of all clips, with texts and splits from the label file.

    Raises:
        SourceError: there is no label file, or it belongs to other data.
    """
    where, arrays = str(raw.path), raw.content
    if recognise(raw) is None:
        found = names_of(arrays)
        raise SourceError(f"{where} must be an .npz with 'id', and 'audio' or 'vision', found {found}")
    if request.labels is None and not request.unlabelled:
        raise SourceError(f"{where} has no texts", f"give them, and the splits, with --labels label.csv{TO_SCORE}")
    rows, joining = (
        _joined_rows(where, arrays, request, request.labels) if request.labels else _rows_to_score(where, arrays)
    )
    modalities = {m: _rows_of(where, arrays, m, m, len(rows)) for m in FRAME_MODALITIES if m in arrays}
    own = _splits_in(where, arrays, len(rows))
    pairs = {key: [(mine, row.split) for mine, row in zip(splits, rows, strict=True)] for key, splits in own.items()}
    notes, comparing = _compared(raw.path, pairs, request.labels.name) if request.labels else ([], [])
    sha256, size = fingerprint([raw.path, *([request.labels] if request.labels else [])])
    return Corpus(
        dataset=request.dataset,
        score_range=request.score_range,
        splits=samples_of(rows, {m: part.frames for m, part in modalities.items()}),
        source=raw.path.name,
        source_format="npz",
        source_sha256=sha256,
        source_bytes=size,
        repaired={m: part.repaired for m, part in modalities.items() if part.repaired},
        notes=(*notes, *(note for part in modalities.values() for note in part.notes)),
        remarks=(*joining, *comparing, *_left_out(arrays)),
        padding={m: part.padding for m, part in modalities.items() if part.padding},
    )


def _rows_to_score(where: str, arrays: Mapping[str, Array]) -> tuple[list[LabelRow], list[str]]:
    """Return a row without text and score for every clip in the archive, and remarks."""
    id_key = next(key for key in _ID_KEYS if key in arrays)
    ids, remarks = normal_ids(strings_of(where, id_key, arrays[id_key]))
    names = [clip.rpartition(ID_SEPARATOR) for clip in ids]
    return [LabelRow(video, clip, "", split=SCORED) for video, _, clip in names], remarks


def to_score(tables: Sequence[FeatureTable], request: Request) -> Corpus:
    """Return the clips of feature tables as clips to be scored, without texts; frames are attached later."""
    ids = dict.fromkeys(clip for table in tables for clip in table.frames)
    lines = "".join(f"{table.path.name}\0{table.sha256}\n" for table in tables)
    return Corpus(
        dataset=request.dataset,
        score_range=request.score_range,
        splits={SCORED: [Sample(clip, "", math.nan) for clip in ids]},
        source=" and ".join(one_line(table.path.name) for table in tables),
        source_format="features of single modalities",
        source_sha256=hashlib.sha256(lines.encode()).hexdigest(),
        remarks=(POSITIONS,) if any(table.are_positions for table in tables) else (),
    )


def _joined_rows(
    where: str, arrays: Mapping[str, Array], request: Request, path: Path
) -> tuple[list[LabelRow], list[str]]:
    """Return the label file's row of every clip in the archive, with a score, and remarks."""
    id_key = next(key for key in _ID_KEYS if key in arrays)
    written = strings_of(where, id_key, arrays[id_key])
    ids, remarks = normal_ids(written)
    scores = None if request.unlabelled else _scores_in(where, arrays, len(ids))
    if scores is None and are_positions(written) and not request.unlabelled:
        raise SourceError(
            f"{where} names clips by position from 0, 'video[3]', and {path} may count differently: scores are needed; "
            "add them as 'label', or name the clips as in the label file"
        )
    needed = ("video_id", "clip_id", "text", "mode", *(("label",) if scores is None else ()))
    labels = read_label_rows(
        path,
        needed=needed,
        text_column=request.text_column,
        takes_english=request.takes_english,
        unlabelled=request.unlabelled,
    )
    clips = [Clip(clip, None if scores is None else scores[i]) for i, clip in enumerate(ids)]
    found, joining = join(where, clips, labels, labels=path)
    if len(labels) > len(found):
        joining.append(f"{len(labels) - len(found)} rows of {one_line(path.name)} have no clip in the file")
    if scores is not None:
        found = [replace(row, score=one) if row.score is None else row for row, one in zip(found, scores, strict=True)]
    return found, [*remarks, *joining]


def _scores_in(where: str, arrays: Mapping[str, Array], count: int) -> list[float] | None:
    """Return the score of every clip; None if the file has no scores."""
    key = next((key for key in _SCORE_KEYS if key in arrays), None)
    if key is None:
        return None
    scores: list[float] = numbers_of(where, key, arrays[key]).tolist()
    if len(scores) != count:
        raise SourceError(f"{where}: {key!r} must have one score for each of {count} ids, found {len(scores)}")
    return scores


def _left_out(arrays: Mapping[str, Array]) -> Iterator[str]:
    if "text" in arrays:
        yield f"text vectors {arrays['text'].shape} were not read: the model encodes the texts itself"
    used = {*_ID_KEYS, *_SCORE_KEYS, "text", *FRAME_MODALITIES, *(f"{m}_lengths" for m in FRAME_MODALITIES)}
    if others := [key for key in arrays if key not in used and not _is_split(key)]:
        yield f"not read: {names_of(others)}"


def _is_split(key: str) -> bool:
    return key in ("mode", "split") or key.endswith("_split")


def _splits_in(where: str, arrays: Mapping[str, Array], count: int) -> dict[str, list[str | None]]:
    """Return a file's own splits, by its names for them; None for unknown names of splits."""
    found: dict[str, list[str | None]] = {}
    for key, array in arrays.items():
        if _is_split(key) and array.dtype.kind in "SUO":
            found[key] = [split_of(name) for name in strings_of(where, key, array)]
            if len(found[key]) != count:
                raise SourceError(f"{where}: {key!r} must have one split per clip, found {len(found[key])} of {count}")
    return found


def _compared(
    path: Path, own: Mapping[str, Sequence[tuple[str | None, str | None]]], other: str
) -> tuple[list[str], list[str]]:
    """Compare a file's own splits with the ones in use; return notes and remarks."""
    notes, remarks = [], []
    for key, pairs in own.items():
        moved = [(mine, used) for mine, used in pairs if mine != used]
        said = f"{key!r} in {one_line(path.name)} puts {len(moved)} clips into other splits than {one_line(other)}"
        if leaked := sum(mine == "train" for mine, _ in moved):
            notes.append(
                f"{said}, {leaked} of the valid and test clips into train: "
                "features that were trained with that split have seen their scores"
            )
        elif moved:
            remarks.append(said)
    return notes, remarks
