"""The numbers of the paper's tables: MAE, Corr, Acc-2 and F1 in both conventions, Acc-3, Acc-5, Acc-7.

Which rules apply follows the range of the scores: -3..3 (MOSI, MOSEI), -1..1 (SIMS), or any other.
Accuracies and F1 are fractions; an undefined metric is nan. Axis letters: N samples.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from conki_cli.errors import ConkiError, SettingsError

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Rules = Literal["mosi", "sims", "other"]

SCORE_RANGES = {"mosi": (-3.0, 3.0), "mosei": (-3.0, 3.0), "sims": (-1.0, 1.0)}
PROTOCOLS = ("all", "nonzero")
COUNTS = ("n", "n_nonzero")
"""Entries that count samples and measure nothing."""

_ALL_ZERO = "every score is 0"
UNDEFINED = {
    "mae": _ALL_ZERO,
    "corr": "constant predictions or scores",
    "acc2_pos": _ALL_ZERO,
    "f1_pos": _ALL_ZERO,
}
"""Why a metric is undefined, as far as can be said without its samples."""

# Upper edges of the SIMS classes; float32, because 0.1 as stored is float32(0.1) and belongs below the edge.
_SIMS_THREE = np.array([-0.1, 0.1], dtype=np.float32)
_SIMS_FIVE = np.array([-0.7, -0.1, 0.1, 0.7], dtype=np.float32)


class Summary(TypedDict):
    """One metric over the seeds of a run."""

    mean: float
    std: float
    values: list[float]


class _Samples(NamedTuple):
    predictions: Floats
    """p, [N]."""
    scores: Floats
    """t, [N]."""
    rules: Rules


def sentiment_metrics(
    predictions: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    dataset: str = "mosi",
    protocol: str = "all",
    score_range: tuple[float, float] | None = None,
    ids: Sequence[str] | None = None,
) -> dict[str, float]:
    """Measure predictions against true scores.

    Args:
        predictions: p, [N].
        scores: t, [N].
        dataset: gives the score range of mosi, mosei and sims.
        protocol: "nonzero" takes MAE and Corr on the samples with t != 0, as some published scripts do.
        score_range: lowest and highest possible score; decides instead of `dataset`.
        ids: names of the samples, [N], for error messages.

    Returns:
        Range -3..3: mae, corr, acc7, acc5, acc3, acc2_nonneg, acc2_pos, f1_nonneg, f1_pos, n. `_nonneg` is negative
        against non-negative, `_pos` negative against positive with the zero scores left out (left and right of the
        paper's "/"). Range -1..1: mae, corr, acc2, acc3, acc5, f1, n. Any other range: mae, corr, both acc2, both
        f1, n. Under "nonzero" also n_nonzero, the number behind MAE and Corr.

    Raises:
        ConkiError: no samples, unequal numbers, or numbers that are not finite.
        SettingsError: an unknown protocol or data set, or "nonzero" for scores in -1..1.
    """
    samples = _checked(predictions, scores, _rules_of(dataset, score_range), ids)
    p, t, rules = samples
    p_regression, t_regression = _regression_part(samples, protocol)
    metrics = {
        "mae": _mean(np.abs(p_regression.astype(np.float64) - t_regression)),
        "corr": _correlation(p_regression, t_regression),
    }
    if rules == "sims":
        metrics |= _sims_classes(p, t)
    else:
        metrics |= _interval_accuracies(p, t) if rules == "mosi" else {}
        metrics |= _polarity(p, t)
    metrics["n"] = len(t)
    return metrics if protocol == "all" else {**metrics, "n_nonzero": len(t_regression)}


def undefined_reasons(
    predictions: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    dataset: str = "mosi",
    protocol: str = "all",
    score_range: tuple[float, float] | None = None,
) -> dict[str, str]:
    """Say for each metric that `sentiment_metrics` leaves undefined why, for example {"corr": "constant predictions"}.

    Args:
        predictions: p, [N].
        scores: t, [N].
        dataset: as in `sentiment_metrics`; so are `protocol` and `score_range`.
        protocol: see there.
        score_range: see there.
    """
    samples = _checked(predictions, scores, _rules_of(dataset, score_range), None)
    p, t = _regression_part(samples, protocol)
    reasons = {} if len(t) else {"mae": _ALL_ZERO}
    if reason := _why_no_correlation(p, t):
        reasons["corr"] = reason
    if samples.rules != "sims" and not samples.scores.any():
        reasons |= {name: UNDEFINED[name] for name in ("acc2_pos", "f1_pos")}
    return reasons


def summarize(
    values_per_seed: Sequence[Mapping[str, float]] | Mapping[str, Sequence[float]],
) -> dict[str, Summary]:
    """Return mean, sample standard deviation (ddof 1; nan for one seed) and values of every metric.

    Args:
        values_per_seed: the metrics of each seed, or each metric's values over the seeds. Counts are left out. A
            metric that is undefined for one seed has an undefined mean.
    """
    if not isinstance(values_per_seed, Mapping):
        names = list(values_per_seed[0]) if values_per_seed else []
        if any(set(metrics) != set(names) for metrics in values_per_seed):
            raise ValueError("all seeds must have the same metrics")
        values_per_seed = {name: [metrics[name] for metrics in values_per_seed] for name in names}
    return {name: _summary(values) for name, values in values_per_seed.items() if name not in COUNTS}


def _summary(values: Sequence[float]) -> Summary:
    column = np.asarray(values, dtype=np.float64)
    std = float(column.std(ddof=1)) if len(column) > 1 else math.nan
    return {"mean": _mean(column), "std": std, "values": column.tolist()}


def _rules_of(dataset: str, score_range: tuple[float, float] | None) -> Rules:
    if score_range is None and dataset not in SCORE_RANGES:
        raise SettingsError(
            f"the score range of '{dataset}' is not known (only of {', '.join(SCORE_RANGES)}): give score_range"
        )
    low, high = score_range or SCORE_RANGES[dataset]
    if (low, high) == (-3, 3):
        return "mosi"
    return "sims" if (low, high) == (-1, 1) else "other"


def _checked(predictions: npt.ArrayLike, scores: npt.ArrayLike, rules: Rules, ids: Sequence[str] | None) -> _Samples:
    """Turn the input into flat float32 arrays, or say what is wrong with it."""
    try:
        with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
            p, t = (np.asarray(values, dtype=np.float32) for values in (predictions, scores))
    except (TypeError, ValueError) as error:
        raise ConkiError(f"predictions and scores must be numbers: {error}") from error
    if p.ndim != 1 or t.ndim != 1 or len(p) != len(t):
        raise ConkiError(
            f"predictions and scores must be two flat lists of one length, found {list(p.shape)} and {list(t.shape)}"
        )
    if not len(t):
        raise ConkiError("metrics need at least one sample, found none: check that the split is not empty")
    for name, values, advice in (
        ("predictions", p, "the model has diverged; lower its learning rate"),
        ("scores", t, "mend the labels"),
    ):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            first = f"'{ids[bad[0]]}'" if ids is not None else f"sample {bad[0] + 1}"
            raise ConkiError(
                f"{name} must be finite numbers, {len(bad)} of {len(values)} are not (the first: {first}): {advice}"
            )
    return _Samples(p, t, rules)


def _regression_part(samples: _Samples, protocol: str) -> tuple[Floats, Floats]:
    """Return the predictions and scores that MAE and Corr are taken on."""
    p, t, rules = samples
    if protocol not in PROTOCOLS:
        raise SettingsError(f"unknown protocol '{protocol}': choose {' or '.join(PROTOCOLS)}")
    if rules == "sims":
        if protocol == "nonzero":
            raise SettingsError("protocol nonzero is not defined for scores in -1..1 (SIMS): choose all")
        return np.clip(p, -1, 1), np.clip(t, -1, 1)
    return (p, t) if protocol == "all" else (p[t != 0], t[t != 0])


def _mean(values: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _why_no_correlation(p: Floats, t: Floats) -> str:
    if len(t) < 2:
        return "a single sample" if len(t) else _ALL_ZERO
    if p.min() == p.max():
        return "constant predictions"
    return "constant scores" if t.min() == t.max() else ""


def _correlation(p: Floats, t: Floats) -> float:
    """Return Pearson's r in float64; nan where it is not defined."""
    if _why_no_correlation(p, t):
        return math.nan
    centred = [values - values.mean(dtype=np.float64) for values in (p, t)]
    first, second = (values / np.linalg.norm(values) for values in centred)
    return float(np.clip(first @ second, -1, 1))


def _interval_accuracies(p: Floats, t: Floats) -> dict[str, float]:
    """Return the shares of equal integers after clipping to -3..3, -2..2 and -1..1; halves go to the even integer."""

    def share(bound: int) -> float:
        return _mean(np.clip(p, -bound, bound).round() == np.clip(t, -bound, bound).round())

    return {"acc7": share(3), "acc5": share(2), "acc3": share(1)}


def _polarity(p: Floats, t: Floats) -> dict[str, float]:
    """Return Acc-2 and F1 in both conventions; the second leaves out the scores that are exactly 0."""
    rest = t != 0
    return {
        "acc2_nonneg": _mean((p >= 0) == (t >= 0)),
        "acc2_pos": _mean((p[rest] > 0) == (t[rest] > 0)),
        "f1_nonneg": _weighted_f1(p >= 0, t >= 0),
        "f1_pos": _weighted_f1(p[rest] > 0, t[rest] > 0),
    }


def _sims_classes(p: Floats, t: Floats) -> dict[str, float]:
    """Return the SIMS metrics; its lowest class of two is x <= 0. Clipping to -1..1 moves nothing over an edge."""

    def share(edges: Floats) -> float:  # class k: edges[k - 1] < x <= edges[k]
        return _mean(np.searchsorted(edges, p) == np.searchsorted(edges, t))

    return {
        "acc2": _mean((p > 0) == (t > 0)),
        "acc3": share(_SIMS_THREE),
        "acc5": share(_SIMS_FIVE),
        "f1": _weighted_f1(p > 0, t > 0),
    }


def _weighted_f1(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    """Return the mean of both classes' F1, weighted by their counts among the true labels."""
    from sklearn.metrics import f1_score

    if not len(true):
        return math.nan
    return float(f1_score(true, predicted, average="weighted", zero_division=0.0))
