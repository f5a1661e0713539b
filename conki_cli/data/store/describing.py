"""Describe a store: sizes, lengths, scores and values; its columns; one of its clips; differences from another store.

All results are ready for JSON. Axes: T frames of all clips, L frames of a clip, d features per frame.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli import MODALITIES
from conki_cli.data.store.moments import no_moments
from conki_cli.data.store.reading import FeatureStore, damage_in
from conki_cli.data.store.records import (
    FRAME_MODALITIES,
    SLICE_VALUES,
    SPLITS,
    Float32Array,
    Ragged,
    Utterances,
    video_of,
)
from conki_cli.datasets import about, sizes_of
from conki_cli.system.errors import StoreError

_NAMED = 10  # number of differing ids and clips that are named
_SHOWN = (5, 8)  # first frames and features of a clip that are shown
_NEARLY = 1e-6  # scores that differ by less than this share of the range are equal


def describe(store: FeatureStore) -> dict[str, Any]:
    """Describe a whole store."""
    published = None if store.is_unlabelled else sizes_of(store.dataset)
    splits = {name: store.split(name) for name in store.splits}
    videos = {name: {video_of(clip) for clip in part.ids} for name, part in splits.items()}
    return {
        "path": str(store.path),
        "dataset": store.dataset,
        "about": about(store.dataset),
        "splits": {name: _describe_split(part, store) for name, part in splits.items()},
        "widths": dict(store.widths),
        "repaired": store.repaired,
        "score_range": _range_of(store),
        "modalities": list(store.modalities),
        "published_sizes": published
        and {
            name: {"n": size, "equal": size == len(splits[name])} for name, size in zip(SPLITS, published, strict=True)
        },
        "shared_videos": {f"{a}/{b}": len(videos[a] & videos[b]) for a, b in combinations(store.splits, 2)},
        "source": store.source,
        "notes": list(store.notes),
        "report": store.report,
        "normalization": store.normalization,
        "schema_version": store.schema_version,
        "conki_version": store.conki_version,
        "content_id": store.content_id,
    }


def _range_of(store: FeatureStore) -> list[float] | None:
    return None if store.is_unlabelled else list(store.score_range)


def _describe_split(part: Utterances, store: FeatureStore) -> dict[str, Any]:
    words = np.array([len(text.split()) for text in part.texts])
    lengths = {"text": words, **{modality: ragged.lengths for modality, ragged in part.frames.items()}}
    with damage_in(store.path):
        values = {modality: _describe_values(ragged) for modality, ragged in part.frames.items()}
    return {
        "n": len(part),
        "videos": len({video_of(clip) for clip in part.ids}),
        "empty_texts": sum(not text.strip() for text in part.texts),
        "lengths": {modality: _quantiles(count) for modality, count in lengths.items()},
        "scores": _describe_scores(part.scores, store.score_range),
        "unimodal": sorted(part.unimodal, key=MODALITIES.index),
        "values": values,
    }


def _quantiles(lengths: npt.NDArray[np.int64]) -> dict[str, float]:
    names = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
    places = (len(lengths) - 1) * np.array(list(names.values()))  # np.quantile would import numpy.ma
    found = np.interp(places, np.arange(len(lengths)), np.sort(lengths)).tolist()
    return {**dict(zip(names, found, strict=True)), "mean": float(lengths.mean())}


def _describe_scores(scores: Float32Array | None, score_range: tuple[float, float]) -> dict[str, Any] | None:
    """Count scores around 7 centres on wide ranges (-3, -2, ..., 3) and 11 on narrow ones (-1, -0.8, ..., 1)."""
    if scores is None:
        return None
    low, high = score_range
    centres = np.linspace(low, high, 7 if high - low >= 4 else 11)
    step = float(centres[1] - centres[0])
    edges = np.append(centres - step / 2, np.inf)
    edges[0] = -np.inf
    counts = np.histogram(scores.astype(np.float64), bins=edges)[0]
    return {
        "mean": float(scores.mean(dtype=np.float64)),
        "std": float(scores.std(dtype=np.float64)),
        "histogram": {"centres": [round(float(c), 6) for c in centres], "counts": [int(n) for n in counts]},
    }


def _describe_values(ragged: Ragged) -> dict[str, float]:
    """Return the shares of zero and of non-finite values (of which a store should have none)."""
    zero = bad = 0
    for block in blocks_of(ragged):
        zero += block.size - int(np.count_nonzero(block))
        bad += block.size - int(np.count_nonzero(np.isfinite(block)))
    total = max(1, int(ragged.offsets[-1]) * ragged.width)
    return {"zero_share": zero / total, "non_finite_share": bad / total}


def blocks_of(ragged: Ragged) -> Iterator[Float32Array]:
    """Yield the frames of all clips back to back, [T, d], `SLICE_VALUES` values at a time."""
    rows = max(1, SLICE_VALUES // ragged.width)
    for start in range(0, int(ragged.offsets[-1]), rows):
        yield np.asarray(ragged.values[start : start + rows])


def describe_features(store: FeatureStore) -> dict[str, Any]:
    """Describe every column of audio and vision, over the frames of all splits.

    Returns:
        `path`, `dataset` and `modalities`: for each, `frames` and `columns`, one dictionary of `mean`, `sd` (ddof 0),
        `min`, `max`, `zero_share` and `constant` for each feature; the numbers are None if there are no frames.
    """
    with damage_in(store.path):
        modalities = {m: _describe_columns(store, m) for m in FRAME_MODALITIES if m in store.widths}
    return {"path": str(store.path), "dataset": store.dataset, "modalities": modalities}


def _describe_columns(store: FeatureStore, modality: str) -> dict[str, Any]:
    width = store.widths[modality]
    moments, zero = no_moments(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for block in chain.from_iterable(blocks_of(store.split(split).frames[modality]) for split in store.splits):
        moments = moments.joined(block)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        zero += (block == 0).sum(axis=0)
    found = {
        "mean": moments.mean,
        "sd": moments.sd,
        "min": low,
        "max": high,
        "zero_share": zero / max(1, moments.count),
    }
    constant = moments.is_constant | (low == high)
    columns = [
        {**{name: float(value[k]) if moments.count else None for name, value in found.items()}, "constant": bool(same)}
        for k, same in enumerate(constant)
    ]
    return {"frames": moments.count, "columns": columns}


def describe_clip(store: FeatureStore, name: str) -> dict[str, Any]:
    """Describe one clip.

    Returns:
        `id`, `split`, `position` in it, `text`, `score`, `unimodal` scores, and `modalities`: for each `frames`,
        `width`, `mean`, `sd`, `zero_share` (None without frames) and `first`, the first values of the first frames.

    Raises:
        StoreError: there is no such clip (the message names similar ones).
    """
    for split in store.splits:
        part = store.split(split)
        if name in part.ids:
            break
    else:
        raise StoreError(_no_clip(store, name))
    position = part.ids.index(name)
    with damage_in(store.path):
        modalities = {modality: _describe_frames(ragged[position]) for modality, ragged in part.frames.items()}
    return {
        "path": str(store.path),
        "dataset": store.dataset,
        "id": name,
        "split": split,
        "position": position,
        "text": part.texts[position],
        "score": None if part.scores is None else float(part.scores[position]),
        "unimodal": {modality: float(scores[position]) for modality, scores in part.unimodal.items()},
        "modalities": modalities,
    }


def _no_clip(store: FeatureStore, name: str) -> str:
    ids = [clip for split in store.splits for clip in store.split(split).ids]
    import difflib

    similar = difflib.get_close_matches(name[:200], ids, n=3, cutoff=0.5)
    similar = similar or [clip for clip in ids if video_of(clip) == name][:3] or ids[:3]
    shown = ", ".join(f"'{clip[:60]}'" for clip in similar)
    # The most likely mistake: in double quotes most shells replace the middle of an id.
    return f"{store.path} has no clip {name[:60]!r}: similar are {shown} (use single quotes: the shell replaces $_)"


def _describe_frames(frames: Float32Array) -> dict[str, Any]:
    rows, columns = _SHOWN
    about: dict[str, Any] = {"frames": len(frames), "width": frames.shape[1]}
    values = frames.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        about["mean"] = float(values.mean()) if values.size else None
        about["sd"] = float(values.std()) if values.size else None
    about["zero_share"] = float((values == 0).mean()) if values.size else None
    about["first"] = [[float(f"{value:.4g}") for value in row] for row in frames[:rows, :columns]]
    return about


def compare_stores(one: FeatureStore, other: FeatureStore) -> dict[str, Any]:
    """Return the differences between two stores; clips are matched by id.

    Returns:
        `stores`: path, data set, content id, score range, normalisation and widths of both; `equal`: whether every
        column and frame is the same (by content id: then no clip is looked at); and of the clips `common`, `only_in`
        the one and the other, `reordered`, `moved` between splits, and those whose `texts`, `scores`, `unimodal` scores
        and `frames` differ: a count, the first few, and the largest difference of numbers.
    """
    found: dict[str, Any] = {
        "stores": [_identify(one), _identify(other)],
        "equal": one.content_id == other.content_id,
    }
    if found["equal"]:
        return found
    first, second = _places(one), _places(other)
    common = [clip for clip in first if clip in second]
    return {
        **found,
        "common": len(common),
        "only_in": [_counted([c for c in first if c not in second]), _counted([c for c in second if c not in first])],
        "reordered": common != [clip for clip in second if clip in first],
        "moved": _counted(
            [
                {"id": clip, "splits": [first[clip][0], second[clip][0]]}
                for clip in common
                if first[clip][0] != second[clip][0]
            ]
        ),
        **_compare_columns(one, other, [(clip, first[clip], second[clip]) for clip in common]),
        "frames": {
            modality: _compare_frames(one, other, modality, [(c, first[c], second[c]) for c in common])
            for modality in FRAME_MODALITIES
            if modality in one.widths and one.widths[modality] == other.widths.get(modality)
        },
    }


_Place = tuple[str, int]  # a split, and a position in it
_Pair = tuple[str, _Place, _Place]  # a clip, and where it is in both stores


def _identify(store: FeatureStore) -> dict[str, Any]:
    return {
        "path": str(store.path),
        "dataset": store.dataset,
        "content_id": store.content_id,
        "score_range": _range_of(store),
        "normalization": store.normalization["method"],
        "widths": dict(store.widths),
        "clips": sum(len(store.split(split)) for split in store.splits),
    }


def _places(store: FeatureStore) -> dict[str, _Place]:
    return {clip: (split, k) for split in store.splits for k, clip in enumerate(store.split(split).ids)}


def _counted(items: Sequence[Any]) -> dict[str, Any]:
    return {"count": len(items), "first": list(items[:_NAMED])}


def _compare_columns(one: FeatureStore, other: FeatureStore, pairs: Sequence[_Pair]) -> dict[str, Any]:
    texts = []
    for clip, (a, i), (b, j) in pairs:
        both = [one.split(a).texts[i], other.split(b).texts[j]]
        if both[0] != both[1]:
            texts.append({"id": clip, "texts": both})
    names = [m for m in MODALITIES if any(m in s.split(p).unimodal for s in (one, other) for p in s.splits)]
    tolerance = _NEARLY * (one.score_range[1] - one.score_range[0])  # infinite for stores without scores
    scores = {
        name: _compare_scores([(c, _score(one, a, name), _score(other, b, name)) for c, a, b in pairs], tolerance)
        for name in ("", *names)
    }
    return {"texts": _counted(texts), "scores": scores.pop(""), "unimodal": scores}


def _score(store: FeatureStore, place: _Place, modality: str) -> float | None:
    part = store.split(place[0])
    scores = part.unimodal.get(modality) if modality else part.scores
    return None if scores is None else float(scores[place[1]])


def _compare_scores(triples: Sequence[tuple[str, float | None, float | None]], tolerance: float) -> dict[str, Any]:
    differing = [
        {"id": clip, "scores": [a, b]}
        for clip, a, b in triples
        if (a is None) != (b is None) or (a is not None and b is not None and abs(a - b) > tolerance)
    ]
    gaps = [abs(a - b) for _, a, b in triples if a is not None and b is not None]
    return {**_counted(differing), "max_difference": max(gaps, default=0.0)}


def _compare_frames(one: FeatureStore, other: FeatureStore, modality: str, pairs: Sequence[_Pair]) -> dict[str, Any]:
    """Count the clips whose number of frames differs, and those of the rest whose values differ."""
    lengths, values, largest = [], [], 0.0
    frames: list[Mapping[str, Ragged]] = [
        {split: store.split(split).frames[modality] for split in store.splits} for store in (one, other)
    ]
    for clip, (a, i), (b, j) in pairs:
        with damage_in(one.path):
            first = frames[0][a][i]
        with damage_in(other.path):
            second = frames[1][b][j]
        if len(first) != len(second):
            lengths.append({"id": clip, "frames": [len(first), len(second)]})
        elif not np.array_equal(first, second, equal_nan=True):
            with np.errstate(invalid="ignore", over="ignore"):
                largest = max(largest, float(np.abs(first.astype(np.float64) - second).max()))
            values.append(clip)
    return {"lengths": _counted(lengths), "values": {**_counted(values), "max_difference": largest}}
