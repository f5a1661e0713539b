"""Whether stored predictions and metrics agree: with each other, between seeds, and with the clips of the store."""

from collections.abc import Iterator

import numpy as np

from conki_cli.data.store.records import SPLITS, evenly
from conki_cli.metrics.summaries import Summary
from conki_cli.runs.folders import Run
from conki_cli.runs.predictions import Predictions, read_predictions, stored_predictions
from conki_cli.runs.records import RunRecord, SeedResult
from conki_cli.runs.verifying.examined import ExaminedRun
from conki_cli.runs.writing import metrics_of_seeds
from conki_cli.system.errors import Kind, RunError, quoted
from conki_cli.system.findings import FAULT, REMARK, UNREAD, Finding, attempt, fact_of, fault, is_unread


def verify_predictions(examined: ExaminedRun, seed: int) -> Iterator[Finding]:
    """Verify the stored predictions of a finished seed."""
    needed = ("valid",) if examined.is_first_stage else ("valid", "test")
    for split in (*needed, "train"):
        path = examined.run.predictions_path(seed, split)
        advice, severity = examined.seed_again(seed), FAULT
        if not examined.is_first_stage:
            severity = REMARK
            evaluation = examined.examination.command(f"evaluate {examined.name} --split {split}")
            advice = f"{evaluation} predicts it again"
        if not path.exists():
            if split in needed:
                yield Finding(str(path.parents[1]), severity, f"predictions/{split}.csv is missing", advice)
            continue
        error = attempt(_check, examined, seed, split)[1]
        if error is not None:
            advice = advice if examined.is_first_stage else f"delete it: rm {quoted(path)}; {advice}"
            is_contradicted = isinstance(error, RunError) and error.kind is Kind.CONTRADICTED
            if not examined.is_first_stage and is_contradicted:
                advice += f"; if that is refused too, restore the seed's result.json, or {examined.seed_again(seed)}"
            yield fault(path.parents[1], error, path, advice)


def _check(examined: ExaminedRun, seed: int, split: str) -> None:
    """Compare predictions with the results of their seed and the clips of the store, where those can be read.

    Raises:
        RunError: they are damaged, or others.
    """
    run, path = examined.run, examined.run.predictions_path(seed, split)
    found, (result, _) = read_predictions(path), attempt(run.seed_result, seed)
    if result is not None and examined.result is not None:
        stored_predictions(run, split, [seed])
    _check_clips(examined, found, split, path.name)


def _check_clips(examined: ExaminedRun, found: Predictions, split: str, name: str) -> None:
    """Compare the clips that predictions name with those of the store, if it is the one that was trained on."""
    dataset, data = (examined.result.dataset, examined.result.data) if examined.result is not None else ("", {})
    store = examined.stores.at(examined.examination.workspace.store(dataset)) if dataset in data else None
    if store is None or store.content_id != data[dataset]:
        return
    ids, limit = store.ids.get(split, found.ids), examined.config.data.limit if examined.config is not None else 0
    if 0 < limit < len(ids):
        ids = [ids[i] for i in evenly(limit, len(ids))]
    if ids != found.ids:
        raise RunError(f"{name} must name the clips of the store {dataset} but names others")


def verify_predictions_of_all(examined: ExaminedRun) -> Iterator[Finding]:
    """Compare the predictions of seeds with each other, which must name the same clips, where each alone is sound."""
    run, seeds = examined.run, examined.finished
    for split in SPLITS:
        error = attempt(stored_predictions, run, split, seeds)[1] if len(seeds) > 1 else None
        if error is not None:
            alone = [seed for seed in seeds if attempt(stored_predictions, run, split, [seed])[1] is None]
            error = attempt(stored_predictions, run, split, alone)[1] if len(alone) > 1 else None
        if error is not None:
            first = "delete the seed's folder; then " if examined.is_first_stage else "delete the file that differs; "
            last = examined.command if examined.is_first_stage else "`conki evaluate` predicts it again"
            advice = UNREAD if is_unread(error, run.path) else first + last
            yield Finding(examined.subject, FAULT, fact_of(error, run.path), advice)


def verify_metrics(examined: ExaminedRun, result: RunRecord) -> Iterator[Finding]:
    """Compare the metrics of a finished run with those of its seeds."""
    run, finished = examined.run, examined.finished
    differing: list[str] = []
    if result.state != "finished" or finished != result.seeds:
        return
    results = run.results()
    for seed, one in results.items():
        if _names_in(one) != _names_in(results[finished[0]]):
            what = f"seed {seed} has other metrics than seed {finished[0]}"
            yield Finding(examined.subject, FAULT, what, examined.seed_again(seed))
            return
    expected = metrics_of_seeds(results.values())
    for split in dict.fromkeys((*expected, *result.metrics)):
        stored, own = result.metrics.get(split, {}), expected.get(split, {})
        unequal = [name for name in {**own, **stored} if not _are_equal(stored.get(name), own.get(name))]
        differing += [f"{split} {name}" for name in unequal]
    if differing:
        what = f"result.json has other metrics than its seeds: {', '.join(differing[:5])}"
        advice = f"{examined.command} writes them again"
        if contradicted := [seed for seed in finished if _is_contradicted(run, seed)]:
            names = ", ".join(f"seed {seed}" for seed in contradicted)
            advice = f"first repair {names}, whose metrics do not match its predictions (below)"
        yield Finding(examined.subject, FAULT, what, advice)


def _names_in(result: SeedResult) -> dict[str, set[str]]:
    return {split: set(metrics) for split, metrics in result.metrics.items()}


def _are_equal(stored: Summary | None, expected: Summary | None) -> bool:
    """Compare mean, sd and values over seeds; other versions of NumPy may add them in another order."""
    if stored is None or expected is None:
        return False
    one, other = (
        np.array([np.nan if value is None else value for value in (part["mean"], part["std"], *part["values"])])
        for part in (stored, expected)
    )
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True))


def _is_contradicted(run: Run, seed: int) -> bool:
    """Say whether predictions of a seed give other metrics than the seed says that they had."""
    result = run.seed_result(seed)
    splits = result.metrics if result is not None else {}
    return any(attempt(stored_predictions, run, split, [seed])[1] is not None for split in splits)
