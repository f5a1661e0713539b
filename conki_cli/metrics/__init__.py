"""The numbers of the paper's tables: MAE, Corr, Acc-2 and F1 in both conventions, Acc-3, Acc-5, Acc-7.

Which rules apply follows the range of the scores: -3..3 (MOSI, MOSEI), -1..1 (SIMS), or any other. The two classes of
Acc-2 and F1 are on both sides of a neutral score: 0 if it is inside the range, else a given threshold.
Accuracies and F1 are fractions; an undefined metric is nan. Axis letters: N samples.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from conki_cli.system.errors import ConkiError, SettingsError

Floats = npt.NDArray[np.float32]
Rules = Literal["mosi", "sims", "other"]
Real = TypeVar("Real", np.float32, np.float64)

PROTOCOLS = ("all", "nonzero")
COUNTS = ("n", "n_nonzero")
"""Entries that count samples and measure nothing."""

ALL_ZERO = "every score is 0"
NO_NEUTRAL = "0 is not inside the range of the scores: give the score that separates two classes with --threshold"
TWO_CLASSES = ("acc2", "acc2_nonneg", "acc2_pos", "f1", "f1_nonneg", "f1_pos")
"""The metrics that need a neutral score."""
SIMS_THREE = np.array([-0.1, 0.1], dtype=np.float32)
"""Upper edges of classes of SIMS; float32, because 0.1 as stored is float32(0.1) and belongs below the edge."""
_SIMS_FIVE = np.array([-0.7, -0.1, 0.1, 0.7], dtype=np.float32)


class _Samples(NamedTuple):
    predictions: Floats
    """p, [N]."""
    scores: Floats
    """t, [N]."""
    rules: Rules
    neutral: np.float32 | None
    """The neutral score between the two classes; None if there is none."""


def neutral_score(score_range: tuple[float, float], threshold: float | None = None) -> float | None:
    """Return the score that separates negative from positive ones: the threshold, else 0 if it is inside the range.

    Raises:
        SettingsError: the threshold is not inside the range.
    """
    low, high = score_range
    if threshold is None:
        return 0.0 if low < 0 < high else None
    if not low < threshold < high:
        raise SettingsError(
            f"the threshold between two classes must be inside the range of the scores, {low:g} to {high:g}, "
            f"found {threshold:g}",
            advice="choose another --threshold",
        )
    return threshold


def class_names(threshold: float | None = None) -> dict[str, tuple[str, str]]:
    """Name the two classes of both conventions, by the ending of their metrics' names: `nonneg` and `pos`."""
    if not threshold:
        return {"nonneg": ("negative", "non-negative"), "pos": ("negative", "positive")}
    named = f"{threshold:g}"
    return {"nonneg": (f"below {named}", f"{named} and above"), "pos": (f"below {named}", f"above {named}")}


def sentiment_metrics(
    predictions: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    dataset: str = "mosi",
    protocol: str = "all",
    score_range: tuple[float, float] | None = None,
    threshold: float | None = None,
    ids: Sequence[str] | None = None,
) -> dict[str, float]:
    """Measure predictions against true scores.

    Args:
        predictions: p, [N].
        scores: t, [N].
        dataset: gives the score range, if conki knows the data set (`datasets.py`).
        protocol: "nonzero" takes MAE and Corr on the samples with t != 0, as some published scripts do; where a
            threshold is named, on those whose score is not the threshold.
        score_range: lowest and highest possible score; decides instead of `dataset`.
        threshold: the score that separates two classes, see `neutral_score`; the zero of what follows.
        ids: names of the samples, [N], for error messages.

    Returns:
        Range -3..3: mae, corr, acc7, acc5, acc3, acc2_nonneg, acc2_pos, f1_nonneg, f1_pos, n. `_nonneg` is negative
        against non-negative, `_pos` negative against positive with the zero scores left out (left and right of the
        paper's "/"). Range -1..1: mae, corr, acc2, acc3, acc5, f1, n. Any other range: mae, corr, both acc2, both
        f1, n; acc2 and f1 are nan where nothing separates two classes. Under "nonzero" also n_nonzero, the number
        behind MAE and Corr.

    Raises:
        ConkiError: no samples, unequal numbers, or numbers that are not finite.
        SettingsError: an unknown protocol or data set, a threshold outside the range, or "nonzero" for scores in -1..1
            or without a neutral score.
    """
    samples = checked(predictions, scores, bounds_of(dataset, score_range), ids, threshold)
    p, t, rules = samples.predictions, samples.scores, samples.rules
    p_regression, t_regression = regression_part(samples, protocol)
    metrics = {
        "mae": _mean(np.abs(p_regression.astype(np.float64) - t_regression)),
        "corr": _correlation(p_regression, t_regression),
    }
    if rules == "sims":
        metrics |= _sims_classes(p, t, samples.neutral)
    else:
        metrics |= _interval_accuracies(p, t) if rules == "mosi" else {}
        metrics |= _polarity(p, t, samples.neutral)
    metrics["n"] = len(t)
    return metrics if protocol == "all" else {**metrics, "n_nonzero": len(t_regression)}


def all_neutral(neutral: np.float32 | None) -> str:
    """Say that every score is neutral."""
    return f"every score is {neutral:g}" if neutral else ALL_ZERO


def bounds_of(dataset: str, score_range: tuple[float, float] | None) -> tuple[float, float]:
    """Return the score range that is given, or that of a data set."""
    if score_range is not None:
        return score_range
    from conki_cli.datasets import DATASETS  # a run gives the range of its store

    if dataset not in DATASETS:
        raise SettingsError(
            f"the score range of '{dataset}' is not known (only of {', '.join(DATASETS)})", advice="give score_range"
        )
    return DATASETS[dataset].score_range


def rules_of(bounds: tuple[float, float]) -> Rules:
    """Name the rules that a score range has: mosi (-3..3), sims (-1..1), other."""
    if bounds == (-3, 3):
        return "mosi"
    return "sims" if bounds == (-1, 1) else "other"


def checked(
    predictions: npt.ArrayLike,
    scores: npt.ArrayLike,
    bounds: tuple[float, float],
    ids: Sequence[str] | None,
    threshold: float | None,
) -> _Samples:
    """Turn the input into flat float32 arrays, or raise an error about it."""
    neutral = neutral_score(bounds, threshold)
    try:
        with np.errstate(over="ignore"):  # overflowing values become infinite and are refused below
            p, t = (np.asarray(values, dtype=np.float32) for values in (predictions, scores))
    except (TypeError, ValueError) as error:
        raise ConkiError(f"predictions and scores must be numbers: {error}") from error
    if p.ndim != 1 or t.ndim != 1 or len(p) != len(t):
        raise ConkiError(
            f"predictions and scores must be two flat lists of one length, found {list(p.shape)} and {list(t.shape)}"
        )
    if not len(t):
        raise ConkiError("metrics need at least one sample, found none", advice="check that the split is not empty")
    for name, values, advice in (
        ("predictions", p, "the model has diverged; lower its learning rate"),
        ("scores", t, "correct the labels"),
    ):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            first = f"'{ids[bad[0]]}'" if ids is not None else f"sample {bad[0] + 1}"
            raise ConkiError(
                f"{name} must be finite numbers, but {len(bad)} of {len(values)} are not (the first: {first}): {advice}"
            )
    # float32, as the scores are: a score of 0.1 is the threshold 0.1
    return _Samples(p, t, rules_of(bounds), None if neutral is None else np.float32(neutral))


def regression_part(samples: _Samples, protocol: str) -> tuple[Floats, Floats]:
    """Return the predictions and scores for MAE and Corr."""
    p, t, rules, neutral = samples
    if protocol not in PROTOCOLS:
        raise SettingsError(f"unknown protocol '{protocol}'", advice=f"choose {' or '.join(PROTOCOLS)}")
    if rules == "sims":
        if protocol == "nonzero":
            raise SettingsError("protocol nonzero is not defined for scores in -1..1 (SIMS)", advice="choose all")
        return clipped(p, rules), clipped(t, rules)
    if protocol == "all":
        return p, t
    if neutral is None:
        raise SettingsError(f"protocol nonzero leaves out neutral scores, and {NO_NEUTRAL}, or choose protocol all")
    return p[t != neutral], t[t != neutral]


def clipped(values: npt.NDArray[Real], rules: str) -> npt.NDArray[Real]:
    """Return predictions or scores as errors are measured in them: with the rules of SIMS, -1..1 at most."""
    return np.clip(values, -1, 1) if rules == "sims" else values


def _mean(values: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else math.nan


def why_no_correlation(p: Floats, t: Floats, neutral: np.float32 | None = None) -> str:
    """Say why Pearson's r is undefined; empty if it is defined."""
    if len(t) < 2:
        return "a single sample" if len(t) else all_neutral(neutral)
    if p.min() == p.max():
        return "constant predictions"
    return "constant scores" if t.min() == t.max() else ""


def _correlation(p: Floats, t: Floats) -> float:
    """Return Pearson's r in float64; nan if it is undefined."""
    if why_no_correlation(p, t):
        return math.nan
    centred = [values - values.mean(dtype=np.float64) for values in (p, t)]
    first, second = (values / np.linalg.norm(values) for values in centred)
    return float(np.clip(first @ second, -1, 1))


def _interval_accuracies(p: Floats, t: Floats) -> dict[str, float]:
    """Return the shares of equal integers after clipping to -3..3, -2..2 and -1..1; halves go to the even integer."""

    def share(bound: int) -> float:
        return _mean(np.clip(p, -bound, bound).round() == np.clip(t, -bound, bound).round())

    return {"acc7": share(3), "acc5": share(2), "acc3": share(1)}


def _polarity(p: Floats, t: Floats, neutral: np.float32 | None) -> dict[str, float]:
    """Return Acc-2 and F1 in both conventions; the second leaves out the scores that are exactly neutral."""
    if neutral is None:
        return dict.fromkeys(("acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos"), math.nan)
    rest = t != neutral
    return {
        "acc2_nonneg": _mean((p >= neutral) == (t >= neutral)),
        "acc2_pos": _mean((p[rest] > neutral) == (t[rest] > neutral)),
        "f1_nonneg": _weighted_f1(p >= neutral, t >= neutral),
        "f1_pos": _weighted_f1(p[rest] > neutral, t[rest] > neutral),
    }


def _sims_classes(p: Floats, t: Floats, neutral: np.float32 | None) -> dict[str, float]:
    """Return the SIMS metrics; its lowest class of two is x <= 0. Clipping to -1..1 moves nothing over an edge."""
    edge = np.float32(0) if neutral is None else neutral

    def share(edges: Floats) -> float:  # class k: edges[k - 1] < x <= edges[k]
        return _mean(np.searchsorted(edges, p) == np.searchsorted(edges, t))

    return {
        "acc2": _mean((p > edge) == (t > edge)),
        "acc3": share(SIMS_THREE),
        "acc5": share(_SIMS_FIVE),
        "f1": _weighted_f1(p > edge, t > edge),
    }


def _weighted_f1(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    """Return the mean of both classes' F1, weighted by their counts among the true labels."""
    if not len(true):
        return math.nan
    f1: list[float] = []
    counts: list[int] = []
    for label in (False, True):
        hits = int(np.count_nonzero((predicted == label) & (true == label)))
        counts.append(int(np.count_nonzero(true == label)))
        f1.append(2 * hits / max(int(np.count_nonzero(predicted == label)) + counts[-1], 1))
    return float(np.average(f1, weights=counts))
