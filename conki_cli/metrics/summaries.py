"""Metrics over the seeds of a run."""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from conki_cli.metrics import COUNTS


class Summary(TypedDict):
    """One metric over the seeds of a run."""

    mean: float
    std: float
    values: list[float]


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
    return {"mean": float(column.mean()) if len(column) else math.nan, "std": std, "values": column.tolist()}
