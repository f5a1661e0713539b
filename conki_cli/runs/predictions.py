"""Stored predictions: written, read back, checked against what was measured when they were made, evaluated.

Axes: N clips of a split.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conki_cli.metrics import COUNTS, TWO_CLASSES, neutral_score, sentiment_metrics
from conki_cli.metrics.reasons import undefined_reasons
from conki_cli.metrics.summaries import summarize
from conki_cli.runs.folders import Run, check_is_file
from conki_cli.runs.learning import constant_metrics, constant_on, learning_warnings
from conki_cli.system.errors import RunError, one_line
from conki_cli.system.files import atomic_path, write_json
from conki_cli.system.readable import check_read, unreadable

_COLUMNS = ["id", "score", "prediction"]
_PREDICT_AGAIN = "delete it: it is predicted again"
_PREDICT_BOTH = "delete both: they are predicted again"
_TRAIN_AGAIN = "delete that seed's folder and train it again"  # stage 1 predicts its clips only while it trains
_TRAIN_BOTH = "delete the folders of both seeds and train them again"
_TOLERANCE = 1e-6  # of a metric; the stored predictions are those it was taken from, to the last bit


@dataclass(frozen=True)
class Predictions:
    """What a run says of every clip of a split."""

    ids: Sequence[str]
    scores: np.ndarray  # the true ones, [N] float32
    predictions: np.ndarray  # [N] float32


def write_predictions(path: Path, found: Predictions) -> None:
    """Write id, score and prediction as CSV; the shortest decimals that give the same float32 back."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "score", "prediction"])
        for identity, score, prediction in zip(found.ids, found.scores, found.predictions, strict=True):
            writer.writerow([identity, str(np.float32(score)), str(np.float32(prediction))])


def read_predictions(path: Path, advice: str = _PREDICT_AGAIN) -> Predictions:
    """Read stored predictions; `advice` says what to do about a damaged file.

    Raises:
        RunError: the file is missing, truncated or not of this form, an id occurs twice, or a number is not finite.
    """
    check_is_file(path)
    try:
        return _parsed(path.read_bytes().decode("utf-8"))
    except OSError as error:
        check_read(path, error)
        raise RunError(f"{unreadable(path, error)}; train the run again") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} must hold id,score,prediction rows but is no UTF-8 text: {advice}") from error
    except (ValueError, csv.Error) as error:
        raise RunError(f"{path} must hold id,score,prediction rows, but {error}: {advice}") from error


def _parsed(text: str) -> Predictions:
    """Turn the text of a file of predictions into numbers; a ValueError says in words what is wrong with it."""
    header, *rows = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
    if header != _COLUMNS or not rows or not text.endswith("\n"):
        missing = "its first line is another" if header != _COLUMNS else "its end is missing"
        raise ValueError(missing)
    seen: set[str] = set()
    columns: tuple[list[float], list[float]] = ([], [])
    for number, row in enumerate(rows, start=1):
        if len(row) != len(_COLUMNS):
            raise ValueError(f"row {number} has {len(row)} of {len(_COLUMNS)} fields")
        where = f"row {number} (id '{one_line(row[0][:60])}')"
        if row[0] in seen:
            raise ValueError(f"{where} has the id of an earlier row")
        seen.add(row[0])
        for column, name, cell in zip(columns, _COLUMNS[1:], row[1:], strict=True):
            column.append(_finite(cell, f"{where} has the {name} '{one_line(cell[:30])}'"))
    scores, predictions = (np.array(column, dtype=np.float32) for column in columns)
    return Predictions([row[0] for row in rows], scores, predictions)


def _finite(cell: str, fault: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{fault}, which is no number") from None
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(value)):
            raise ValueError(f"{fault}, which is not finite (a run that was just trained has diverged)")
    return value


def stored_predictions(run: Run, split: str, seeds: Sequence[int]) -> dict[int, Predictions]:
    """Read what some seeds predicted for a split, and check it against the metrics they had when they were trained.

    Raises:
        RunError: a file is missing or damaged, gives other metrics, or names other clips than the other seeds' files.
    """
    is_tuned = run.result["stage"] == "finetune"
    advice, both = (_PREDICT_AGAIN, _PREDICT_BOTH) if is_tuned else (_TRAIN_AGAIN, _TRAIN_BOTH)
    found = {seed: read_predictions(run.predictions_path(seed, split), advice) for seed in seeds}
    for seed, predictions in found.items():
        _check_measured(run, seed, split, predictions, advice)
    keys = {run.predictions_path(s, split): (*one.ids, *one.scores.tolist()) for s, one in found.items()}
    usual, count = Counter(keys.values()).most_common(1)[0]
    if odd := [path for path, key in keys.items() if key != usual]:
        same = "must hold the same clips with the same scores in the same order"
        if 2 * count > len(keys):
            raise RunError(f"{odd[0]} {same} as the files of the other seeds but does not: {advice}")
        first = next(path for path, key in keys.items() if key == usual)
        raise RunError(f"{first} and {odd[0]} {same} but do not: {both}")
    return found


def _check_measured(run: Run, seed: int, split: str, found: Predictions, advice: str) -> None:
    """Refuse predictions that are not those a seed's metrics were taken from."""
    path, result = run.predictions_path(seed, split), run.seed_result(seed) or {"metrics": {}}
    known = result["metrics"].get(split, {})
    count = known.get("n", len(found.ids))
    if len(found.ids) != count:
        raise RunError(f"{path} must hold {count} clips but holds {len(found.ids)}: {advice}")
    metrics = _measured(run, found, result.get("threshold"))
    for name in (name for name in known if name in metrics):
        if name in TWO_CLASSES and math.isnan(metrics[name]) and "threshold" not in result:
            continue  # older versions took 0 as neutral, whatever the range of the scores
        value, expected = metrics[name], math.nan if known[name] is None else known[name]
        if not (abs(value - expected) <= _TOLERANCE or (math.isnan(value) and math.isnan(expected))):
            raise RunError(
                f"{path} must give the {name} {expected:.6f} that the seed's result.json has, but gives {value:.6f}: "
                f"{advice}; if it still differs, delete the seed's folder and train it again"
            )


def _measured(run: Run, found: Predictions, threshold: float | None) -> dict[str, float]:
    low, high = run.result["score_range"]
    rules: dict[str, Any] = {"score_range": (low, high), "threshold": threshold}
    return sentiment_metrics(found.predictions, found.scores, ids=found.ids, **rules)


def measure_again(run: Run) -> None:
    """Take the metrics of finished seeds from their predictions where the run's threshold is another than theirs."""
    threshold, (low, high) = run.config.data.threshold, run.result["score_range"]
    has_classes = neutral_score((low, high), threshold) is not None
    for seed in run.finished_seeds():
        result = run.seed_result(seed) or {"metrics": {}}
        if result.get("threshold") == threshold and (has_classes or "threshold" in result):
            continue
        stored = {split: stored_predictions(run, split, [seed])[seed] for split in result["metrics"]}
        again: dict[str, Any] = {
            "metrics": {split: _measured(run, found, threshold) for split, found in stored.items()}
        }
        if "median" in result:
            scores = {split: found.scores for split, found in stored.items()}
            again["median"] = constant_on(result["median"]["score"], scores, (low, high), threshold)
        write_json(run.seed_folder(seed) / "result.json", {**result, "threshold": threshold, **again})


def common_threshold(runs: Sequence[Run]) -> float | None:
    """Return the threshold between two classes that runs in one table are measured at; None: no run names one.

    Raises:
        RunError: they name different ones.
    """
    named = {run.name: threshold for run in runs if (threshold := run.config.data.threshold) is not None}
    if len(set(named.values())) > 1:
        shown = ", ".join(f"{threshold:g} in {name}" for name, threshold in named.items())
        raise RunError(f"runs in one table must have one threshold of two classes, found {shown}: give --threshold")
    return next(iter(named.values()), None)


def evaluate_run(
    run: Run, split: str, protocol: str, *, seeds: Sequence[int] | None = None, threshold: float | None = None
) -> dict[str, Any]:
    """Compute the metrics of a run from its stored predictions, over its finished seeds; `seeds` leaves out all others.

    Args:
        run: a finished run.
        split: a split with stored predictions.
        protocol: see `metrics.sentiment_metrics`.
        seeds: of the finished ones.
        threshold: what separates two classes, instead of what the run says.

    Returns:
        The object that `conki evaluate --json` prints; undefined values are nan.

    Raises:
        SettingsError: the threshold does not lie inside the range of the scores.
        RunError: no seed is finished, none of those asked for, or predictions are missing or damaged.
    """
    finished = run.finished_seeds()
    if not finished:
        raise RunError(f"run {run.name} has no finished seed: give the command that began it again to continue it")
    chosen = [seed for seed in finished if seeds is None or seed in seeds]
    if not chosen:
        known = ", ".join(map(str, finished))
        raise RunError(f"run {run.name} must have finished one of the seeds asked for, but has {known}")
    result = run.result
    low, high = result["score_range"]
    stored = stored_predictions(run, split, chosen).values()
    threshold = run.config.data.threshold if threshold is None else threshold
    rules: dict[str, Any] = {"protocol": protocol, "score_range": (low, high), "threshold": threshold}
    values = [sentiment_metrics(found.predictions, found.scores, ids=found.ids, **rules) for found in stored]
    reasons = [undefined_reasons(found.predictions, found.scores, **rules) for found in stored]
    median = next((seed["median"]["score"] for s in chosen if "median" in (seed := run.seed_result(s) or {})), None)
    counts: dict[str, Any] = {name: int(values[0][name]) for name in ("n", "n_nonzero") if name in values[0]}
    return {
        "run": run.name,
        "dataset": result["dataset"],
        "split": split,
        "protocol": protocol,
        "threshold": neutral_score((low, high), threshold),
        **counts,
        "seeds": chosen,
        "metrics": summarize(values),
        "undefined": {name: reason for found in reasons for name, reason in found.items()},
        "median": None if median is None else _median_metrics(median, next(iter(stored)).scores, rules),
        "warnings": learning_warnings(run, chosen),
        "predictions": [str(run.predictions_path(seed, split)) for seed in chosen],
    }


def _median_metrics(median: float, scores: np.ndarray, rules: Mapping[str, Any]) -> dict[str, Any]:
    measured = constant_metrics(median, scores, **rules)
    return {"score": median, "metrics": {name: value for name, value in measured.items() if name not in COUNTS}}


def write_scores(path: Path, scored: Mapping[str, Any]) -> None:
    """Write the scores of new utterances as CSV: id, text, their mean, and one column per seed."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        times = ["start", "stop"] if any("start" in clip for clip in scored["clips"]) else []
        writer.writerow(["id", "text", *times, "prediction", *(f"seed_{seed}" for seed in scored["seeds"])])
        for clip in scored["clips"]:
            between = [clip.get(name, "") for name in times]
            writer.writerow([clip["id"], clip["text"], *between, clip["prediction"], *clip["by_seed"].values()])
