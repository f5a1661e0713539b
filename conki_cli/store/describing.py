"""Describe a store: sizes, lengths, scores and values, and how it compares with the published splits."""

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli import MODALITIES
from conki_cli.store.reading import FeatureStore, damage_in
from conki_cli.store.records import PUBLISHED_SIZES, SLICE_VALUES, SPLITS, Float32Array, Ragged, Utterances, video_of


def describe(store: FeatureStore) -> dict[str, Any]:
    """Describe a store for people and machines; everything in it is ready for JSON."""
    published = PUBLISHED_SIZES.get(store.dataset)
    splits = {name: store.split(name) for name in store.splits}
    videos = {name: {video_of(clip) for clip in part.ids} for name, part in splits.items()}
    return {
        "path": str(store.path),
        "dataset": store.dataset,
        "splits": {name: _describe_split(part, store) for name, part in splits.items()},
        "widths": dict(store.widths),
        "repaired": store.repaired,
        "score_range": list(store.score_range),
        "modalities": list(store.modalities),
        "published_sizes": published
        and {
            name: {"n": size, "equal": size == len(splits[name])} for name, size in zip(SPLITS, published, strict=True)
        },
        "shared_videos": {f"{a}/{b}": len(videos[a] & videos[b]) for a, b in combinations(SPLITS, 2)},
        "source": store.source,
        "notes": list(store.notes),
        "schema_version": store.schema_version,
        "conki_version": store.conki_version,
        "content_id": store.content_id,
    }


def _describe_split(part: Utterances, store: FeatureStore) -> dict[str, Any]:
    words = np.array([len(text.split()) for text in part.texts])
    lengths = {"text": words, **{modality: ragged.lengths for modality, ragged in part.frames.items()}}
    with damage_in(store.path):
        values = {modality: _describe_values(ragged) for modality, ragged in part.frames.items()}
    return {
        "n": len(part),
        "videos": len({video_of(clip) for clip in part.ids}),
        "empty_texts": sum(not text for text in part.texts),
        "lengths": {modality: _quantiles(count) for modality, count in lengths.items()},
        "scores": _describe_scores(part.scores, store.score_range),
        "unimodal": sorted(part.unimodal, key=MODALITIES.index),
        "values": values,
    }


def _quantiles(lengths: npt.NDArray[np.int64]) -> dict[str, float]:
    names = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
    found = {name: float(np.quantile(lengths, share)) for name, share in names.items()}
    return {**found, "mean": float(lengths.mean())}


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
    """Return the shares of zero and of non-finite values (a store should have none of the latter; this looks)."""
    zero = bad = 0
    rows = max(1, SLICE_VALUES // ragged.width)
    for start in range(0, int(ragged.offsets[-1]), rows):
        block = np.asarray(ragged.values[start : start + rows])
        zero += int((block == 0).sum())
        bad += int((~np.isfinite(block)).sum())
    total = max(1, int(ragged.offsets[-1]) * ragged.width)
    return {"zero_share": zero / total, "non_finite_share": bad / total}
