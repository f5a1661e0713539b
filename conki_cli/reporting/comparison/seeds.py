"""Tests over the seeds of two systems, and the correction for many tests. Axes: S seeds."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class SeedTest(TypedDict):
    """A t-test of one cell over the seeds."""

    statistic: float
    df: float
    p: float
    p_holm: float
    cohen_d: float
    """Paired: d_z, the mean of the differences over their deviation. Welch: the difference of the means over the root
    of the mean of both variances."""


def paired_t(reference: npt.ArrayLike, other: npt.ArrayLike) -> SeedTest | None:
    """Test the differences other - reference, [S], against 0; None if they do not vary or one is undefined."""
    from scipy.stats import ttest_rel

    one, two = (np.asarray(values, dtype=np.float64) for values in (reference, other))
    return _seed_test(ttest_rel, one, two, float(np.std(two - one, ddof=1)))


def welch_t(reference: npt.ArrayLike, other: npt.ArrayLike) -> SeedTest | None:
    """Test the means of two systems over the seeds of each; None if neither varies or a value is undefined."""
    from scipy.stats import ttest_ind

    one, two = (np.asarray(values, dtype=np.float64) for values in (reference, other))
    deviation = float(np.sqrt((np.var(one, ddof=1) + np.var(two, ddof=1)) / 2))
    return _seed_test(lambda a, b: ttest_ind(a, b, equal_var=False), one, two, deviation)


def _seed_test(test: Callable[[Floats, Floats], Any], one: Floats, two: Floats, deviation: float) -> SeedTest | None:
    # If values differ only by rounding, their deviation is only rounding and means nothing.
    largest = float(np.max(np.abs([*one, *two])))
    if not np.isfinite(deviation) or deviation <= 1e-12 * largest or not np.isfinite(largest):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy rightly warns about nearly constant values
        found = test(two, one)
    p = float(found.pvalue)
    return {
        "statistic": float(found.statistic),
        "df": float(found.df),
        "p": p,
        "p_holm": p,
        "cohen_d": float(np.mean(two) - np.mean(one)) / deviation,
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979): the k-th smallest of m times m - k + 1, never falling, at most 1.

    Returns:
        Corrected values in the order of the input.
    """
    order = np.argsort(np.asarray(p_values, dtype=np.float64), kind="stable")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
