"""Why a metric is undefined."""

import numpy.typing as npt

from conki_cli.metrics import ALL_ZERO, NO_NEUTRAL, all_neutral, bounds_of, checked, regression_part, why_no_correlation

UNDEFINED = {
    "mae": ALL_ZERO,
    "corr": "constant predictions or scores",
    "acc2_pos": ALL_ZERO,
    "f1_pos": ALL_ZERO,
}
"""Why a metric is undefined, as far as is known without its samples."""


def undefined_reasons(
    predictions: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    dataset: str = "mosi",
    protocol: str = "all",
    score_range: tuple[float, float] | None = None,
    threshold: float | None = None,
) -> dict[str, str]:
    """Return the reason for each metric that `sentiment_metrics` leaves undefined: {"corr": "constant predictions"}.

    Args:
        predictions: p, [N].
        scores: t, [N].
        dataset: as in `sentiment_metrics`; so are `protocol` and `score_range`.
        protocol: see there.
        score_range: see there.
        threshold: see there.
    """
    samples = checked(predictions, scores, bounds_of(dataset, score_range), None, threshold)
    p, t = regression_part(samples, protocol)
    reasons = {} if len(t) else {"mae": all_neutral(samples.neutral)}
    if reason := why_no_correlation(p, t, samples.neutral):
        reasons["corr"] = reason
    if samples.rules == "sims":
        return reasons
    if samples.neutral is None:
        reasons |= dict.fromkeys(("acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos"), NO_NEUTRAL)
    elif not (samples.scores != samples.neutral).any():
        reason = all_neutral(samples.neutral)
        reasons |= dict.fromkeys(("acc2_pos", "f1_pos"), reason)
    return reasons
