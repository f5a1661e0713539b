"""Did a run learn? Compares its validation MAE with the best constant's, and looks at its best epoch."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from conki_cli.config.sections import RunConfig
from conki_cli.metrics import sentiment_metrics
from conki_cli.runs.folders import Run
from conki_cli.runs.records import Median, SeedResult

LEAST_SHARE = 0.05
"""A seed counts as not learnt unless its validation MAE is below the training median's by at least this share."""


def median_of(
    train: np.ndarray,
    splits: Mapping[str, np.ndarray],
    score_range: tuple[float, float],
    threshold: float | None = None,
) -> Median:
    """Measure the best constant: the median of the training scores.

    Args:
        train: scores of the training split, [N].
        splits: scores of the splits to measure on, [N] each.
        score_range: the range of the scores.
        threshold: the score that separates two classes, if one is set.
    """
    return constant_on(float(np.median(train)), splits, score_range, threshold)


def constant_on(
    constant: float, splits: Mapping[str, np.ndarray], score_range: tuple[float, float], threshold: float | None
) -> Median:
    """Measure a constant prediction on the scores of some splits, as `median_of` returns it."""
    measured = {name: constant_metrics(constant, scores, score_range, threshold) for name, scores in splits.items()}
    return Median(constant, measured)


def constant_metrics(
    constant: float,
    scores: np.ndarray,
    score_range: tuple[float, float],
    threshold: float | None = None,
    protocol: str = "all",
) -> dict[str, float]:
    """Measure a constant prediction against scores [N]; Corr is undefined."""
    rules: dict[str, Any] = {"score_range": score_range, "threshold": threshold, "protocol": protocol}
    return sentiment_metrics(np.full(len(scores), constant), scores, **rules)


def learning_warnings(run: Run, seeds: Sequence[int]) -> list[str]:
    """Return warnings about seeds of a run that did not learn, or may not have finished learning."""
    return [f"{fact}; {advice}" for fact, advice in doubts_about_learning(run, seeds)]


def doubts_about_learning(run: Run, seeds: Sequence[int]) -> list[tuple[str, str]]:
    """Return (fact, advice) for seeds of a run that did not learn, or may not have finished learning.

    Runs of version 1 did not store the training median, so for them only the latter is known.
    """
    results = {seed: result for seed in seeds if (result := run.seed_result(seed)) is not None}
    config, doubts = run.config, []
    if failed := {seed: found for seed, found in results.items() if not _learnt(found)}:
        known = next(iter(failed.values())).median
        median = known.metrics["valid"]["mae"] if known is not None else float("nan")
        maes = ", ".join(f"{found.metrics['valid']['mae']:.3f}" for found in failed.values())
        doubts.append(
            (
                f"{_named(failed)} did not learn: the best validation MAE ({maes}) must be {LEAST_SHARE:.0%} below "
                f"that of predicting the training median ({median:.3f})",
                f"check {_rates(config)}, or train for more epochs",
            )
        )
    at_end = {s: found for s, found in results.items() if _ends_at_best(found) and s not in failed}
    if at_end:
        number = "pretraining.num_epochs" if config.run.stage == "pretrain" else "optimizer.num_epochs"
        doubts.append(
            (
                f"{_named(at_end)} may not have finished learning: the best epoch is the last one "
                f"({next(iter(at_end.values())).epochs})",
                f"raise {number} or the learning rates",
            )
        )
    return doubts


def _learnt(result: SeedResult) -> bool:
    if result.median is None:
        return True
    own, constant = (found.metrics.get("valid", {}).get("mae") for found in (result, result.median))
    return own is None or constant is None or own <= (1 - LEAST_SHARE) * constant


def _ends_at_best(result: SeedResult) -> bool:
    return result.epochs > 1 and result.best_epoch == result.epochs


def left_out_note(run: Run, asked: Iterable[int] | None = None) -> str:
    """Say which seeds, of those asked for or of all of a run, are not finished and left out; empty if none is."""
    lacking = sorted(set(run.record.seeds if asked is None else asked) - set(run.finished_seeds()))
    verb = "is" if len(lacking) == 1 else "are"
    return f"{run.name}: {_named(lacking)} {verb} not finished and left out" if lacking else ""


def _named(seeds: Collection[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _rates(config: RunConfig) -> str:
    """Name the learning rates of a stage by their settings."""
    first, rates = config.pretraining, config.optimizer
    if config.run.stage == "pretrain" and not config.transfers_whole:
        encoders = f" and pretraining.lr_encoders ({first.lr_encoders:g})" if first.lr_encoders else ""
        return f"pretraining.learning_rate ({first.learning_rate:g}){encoders}"
    # For a stage 1, `stage_one` has copied the rates of [pretraining] into [optimizer].
    section = "pretraining" if config.run.stage == "pretrain" else "optimizer"
    return f"{section}.lr_encoders ({rates.lr_encoders:g}) and {section}.lr_others ({rates.lr_others:g})"
