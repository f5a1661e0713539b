"""The paired bootstrap over videos: how the difference of two systems varies with the evaluated videos.

The clips of a video resemble each other, so whole videos are resampled. Every metric follows from sums over clips,
which are computed once per video; a resample is a product of counts and sums. Axes: N clips, V videos, R draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from conki_cli.metrics import clipped

Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

NUM_DRAWS = 10_000
_TAIL = 0.025
"""Share of the draws on either side of the interval."""
_SEED = 0
_VALUES_AT_ONCE = 4 * 2**20
"""Counts [R, V] that are held in memory: 32 MiB."""


class Bootstrap(TypedDict):
    """The bootstrap result of one cell over the videos, for each clip's mean prediction over the seeds."""

    difference: float
    low: float
    """With `high` the interval that holds the middle 95 % of the drawn differences."""
    high: float
    p: float
    p_holm: float
    num_draws: int
    """Those in which the metric is defined for both systems."""


def bootstrap(
    reference: npt.ArrayLike,
    other: npt.ArrayLike,
    scores: npt.ArrayLike,
    videos: npt.NDArray[np.intp],
    *,
    rules: str = "mosi",
    protocol: str = "all",
    threshold: float | None = 0.0,
    num_draws: int = NUM_DRAWS,
) -> dict[str, Bootstrap | None]:
    """Resample V of V videos with replacement, R times, and measure how the difference of two systems varies.

    The p-value is two-sided and goes with the interval: twice the smaller share of draws in which the difference is
    at most, or at least, 0; one draw more is counted on either side, so that it is never 0.

    Args:
        reference: predictions, [N].
        other: predictions of the compared system, [N].
        scores: true scores, [N].
        videos: number of each clip's video, [N], from 0.
        rules: which metrics there are and how they are counted, see `metrics.rules_of`.
        protocol: "nonzero" takes MAE and Corr on the clips whose score is not 0.
        threshold: the score that separates two classes; None: there are none, and their metrics are left out.
        num_draws: R.

    Returns:
        One entry per metric; None if it is undefined, or with a single video.
    """
    one, two, true = (np.asarray(values, dtype=np.float32) for values in (reference, other, scores))
    neutral = None if threshold is None else np.float32(threshold)
    sums = [
        {name: np.bincount(videos, weights=column).astype(np.float64) for name, column in columns.items()}
        for columns in (_columns(p, true, rules, protocol, neutral) for p in (one, two))
    ]
    num_videos = int(videos.max()) + 1
    ones = np.ones((1, num_videos))
    observed = {name: float(value[0]) for name, value in _difference(sums, ones).items()}
    parts = [_difference(sums, counts) for counts in _draws(num_videos, num_draws)] if num_videos > 1 else []
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in observed} if parts else {}
    return {name: _interval(value, drawn[name]) if name in drawn else None for name, value in observed.items()}


def _draws(num_videos: int, num_draws: int) -> Iterator[Floats]:
    """Yield how often each video is drawn, [some of R, V]; the same draws for every pair of systems."""
    generator = np.random.default_rng(_SEED)
    step = max(1, _VALUES_AT_ONCE // num_videos)
    for first in range(0, num_draws, step):
        rows = min(step, num_draws - first)
        drawn = generator.integers(0, num_videos, size=(rows, num_videos))
        places = (drawn + num_videos * np.arange(rows)[:, None]).ravel()
        yield np.bincount(places, minlength=rows * num_videos).reshape(rows, num_videos).astype(np.float64)


def _interval(observed: float, drawn: Floats) -> Bootstrap | None:
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(observed) or not len(defined):
        return None
    side = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (len(defined) + 1))
    low, high = (float(value) for value in np.quantile(defined, [_TAIL, 1 - _TAIL]))
    return {"difference": observed, "low": low, "high": high, "p": p, "p_holm": p, "num_draws": len(defined)}


def _difference(sums: Sequence[Mapping[str, Floats]], counts: Floats) -> dict[str, Floats]:
    """Return other - reference of every metric when each video is counted so often, [R]; `counts` is [R, V]."""
    one, two = (_metrics({name: counts @ column for name, column in found.items()}) for found in sums)
    return {name: two[name] - one[name] for name in one}


def _columns(p: Scores, t: Scores, rules: str, protocol: str, neutral: np.float32 | None) -> dict[str, Floats]:
    """Return columns [N] from whose sums per video every metric follows, however often each video is counted."""
    p, t = clipped(p, rules), clipped(t, rules)
    every = np.ones(len(t), dtype=np.bool_)
    chosen = every if protocol == "all" or neutral is None else t != neutral
    columns: dict[str, Floats] = {"n": np.ones(len(t)), **_moments(p, t, chosen)}
    if neutral is not None and rules == "sims":
        columns |= _confusion("", p > neutral, t > neutral, every)
    elif neutral is not None:
        columns |= _confusion("_nonneg", p >= neutral, t >= neutral, every)
        columns |= _confusion("_pos", p > neutral, t > neutral, t != neutral)
    if rules == "mosi":
        columns["same7"] = (np.clip(p, -3, 3).round() == np.clip(t, -3, 3).round()).astype(np.float64)
    return columns


def _moments(p: Scores, t: Scores, chosen: Flags) -> dict[str, Floats]:
    """Return what MAE and Pearson's r are made of, [N] each; values are centred, lest large sums swallow small ones."""
    weight = chosen.astype(np.float64)
    if not chosen.any():
        return dict.fromkeys(("used", "error", "p", "t", "pp", "tt", "pt"), weight)
    x, y = (np.where(chosen, values - values[chosen].mean(dtype=np.float64), 0.0) for values in (p, t))
    error = weight * np.abs(p.astype(np.float64) - t)
    return {"used": weight, "error": error, "p": x, "t": y, "pp": x * x, "tt": y * y, "pt": x * y}


def _confusion(ending: str, predicted: Flags, true: Flags, chosen: Flags) -> dict[str, Floats]:
    cells = {"hit": predicted & true, "false": predicted & ~true, "missed": ~predicted & true, "no": ~predicted & ~true}
    return {name + ending: (cell & chosen).astype(np.float64) for name, cell in cells.items()}


def _metrics(sums: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return the metrics of `TESTED`, [R] each, nan where they are undefined, from sums over the clips that count."""
    found = {"mae": _share(sums["error"], sums["used"]), "corr": _correlation(sums)}
    if "same7" in sums:
        found["acc7"] = _share(sums["same7"], sums["n"])
    for ending in (ending for ending in ("", "_nonneg", "_pos") if f"hit{ending}" in sums):
        hit, false, missed, no = (sums[name + ending] for name in ("hit", "false", "missed", "no"))
        total = hit + false + missed + no
        # Each class's F1, weighted by how often the class is true; a class that never occurs has no weight.
        f1 = [_share(2 * right, 2 * right + false + missed, otherwise=0.0) for right in (hit, no)]
        found[f"acc2{ending}"] = _share(hit + no, total)
        found[f"f1{ending}"] = _share((hit + missed) * f1[0] + (no + false) * f1[1], total)
    return found


def _share(part: Floats, whole: Floats, otherwise: float = np.nan) -> Floats:
    shares = np.full(len(part), otherwise, dtype=np.float64)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _correlation(sums: Mapping[str, Floats]) -> Floats:
    n = sums["used"]
    squares = {}
    for name in ("p", "t"):
        square = sums[name + name] - _share(sums[name] ** 2, n, 0.0)
        squares[name] = np.where(square > 1e-12 * sums[name + name], square, 0.0)  # smaller values are rounding
    covariance = sums["pt"] - _share(sums["p"] * sums["t"], n, 0.0)
    return _share(covariance, np.sqrt(squares["p"] * squares["t"]))
