"""Stored predictions: write them, read them back, check them against the stored metrics, evaluate them.

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
from conki_cli.runs.records import Constant, Evaluation
from conki_cli.system.errors import Kind, RunError, one_line
from conki_cli.system.files import atomic_path
from conki_cli.system.readable import check_read, unreadable
from conki_cli.system.untrusted import from_spreadsheet_cell, spreadsheet_cell, visible

_COLUMNS = ["id", "score", "prediction"]
_PREDICT_AGAIN = "delete it: it will be predicted again"
_PREDICT_BOTH = "delete both: they will be predicted again"
_TRAIN_AGAIN = "delete that seed's folder and train it again"  # stage 1 predicts only while it trains
_TRAIN_BOTH = "delete the folders of both seeds and train them again"
_TOLERANCE = 1e-6  # of a metric; stored predictions have the very bits that it was computed from


@dataclass(frozen=True)
class Predictions:
    """The predictions of a seed for every clip of a split."""

    ids: Sequence[str]
    scores: np.ndarray  # true scores, [N] float32
    predictions: np.ndarray  # [N] float32


def write_predictions(path: Path, found: Predictions) -> None:
    """Write id, score and prediction as CSV, with the shortest decimals that give the same float32."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "score", "prediction"])
        for identity, score, prediction in zip(found.ids, found.scores, found.predictions, strict=True):
            writer.writerow([spreadsheet_cell(identity), str(np.float32(score)), str(np.float32(prediction))])


def read_predictions(path: Path, advice: str = _PREDICT_AGAIN) -> Predictions:
    """Read stored predictions; `advice` says what to do about a damaged file.

    Raises:
        RunError: the file is missing, truncated or has another form, an id occurs twice, or a number is not finite.
    """
    check_is_file(path)
    try:
        return _parsed(path.read_bytes().decode("utf-8"))
    except OSError as error:
        check_read(path, error)
        raise RunError(unreadable(path, error), "train the run again", kind=Kind.MISSING) from error
    except UnicodeDecodeError as error:
        raise RunError(f"{_rows_in(path)} but is not UTF-8 text", advice, kind=Kind.DAMAGED) from error
    except (ValueError, csv.Error) as error:
        raise RunError(f"{_rows_in(path)}, but {error}", advice, kind=Kind.DAMAGED) from error


def _rows_in(path: Path) -> str:
    return f"{path} must hold id,score,prediction rows"


def _parsed(text: str) -> Predictions:
    """Parse the text of a file of predictions; a ValueError says what is wrong with it."""
    header, *rows = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
    if header != _COLUMNS or not rows or not text.endswith("\n"):
        missing = "its first line is different" if header != _COLUMNS else "its end is missing"
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
    return Predictions([from_spreadsheet_cell(row[0]) for row in rows], scores, predictions)


def _finite(cell: str, fault: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{fault}, which is not a number") from None
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(value)):
            raise ValueError(f"{fault}, which is not finite (a run that was just trained has diverged)")
    return value


def stored_predictions(run: Run, split: str, seeds: Sequence[int]) -> dict[int, Predictions]:
    """Read the predictions of some seeds for a split, and check them against the metrics measured after training.

    Raises:
        RunError: a file is missing or damaged, gives other metrics, or names other clips than the files of other seeds.
    """
    is_tuned = run.record.stage == "finetune"
    advice, both = (_PREDICT_AGAIN, _PREDICT_BOTH) if is_tuned else (_TRAIN_AGAIN, _TRAIN_BOTH)
    found = {seed: read_predictions(run.predictions_path(seed, split), advice) for seed in seeds}
    for seed, predictions in found.items():
        _check_measured(run, seed, split, predictions, advice)
    keys = {run.predictions_path(s, split): (*one.ids, *one.scores.tolist()) for s, one in found.items()}
    usual, count = Counter(keys.values()).most_common(1)[0]
    if odd := [path for path, key in keys.items() if key != usual]:
        same = "must hold the same clips with the same scores in the same order"
        if 2 * count > len(keys):
            raise RunError(f"{odd[0]} {same} as the files of the other seeds but does not", advice)
        first = next(path for path, key in keys.items() if key == usual)
        raise RunError(f"{first} and {odd[0]} {same} but do not", both)
    return found


def _check_measured(run: Run, seed: int, split: str, found: Predictions, advice: str) -> None:
    """Refuse predictions that do not give a seed's stored metrics."""
    path, result = run.predictions_path(seed, split), run.seed_result(seed)
    if result is None:
        return
    known = result.metrics.get(split, {})
    count = known.get("n", len(found.ids))
    if len(found.ids) != count:
        raise RunError(f"{path} must hold {count} clips but holds {len(found.ids)}", advice, kind=Kind.DAMAGED)
    metrics = _measured(run, found, result.threshold)
    for name in (name for name in known if name in metrics):
        if name in TWO_CLASSES and math.isnan(metrics[name]) and not result.has_threshold:
            continue  # older versions took 0 as neutral for any range of scores
        value, expected = metrics[name], math.nan if known[name] is None else known[name]
        if not (abs(value - expected) <= _TOLERANCE or (math.isnan(value) and math.isnan(expected))):
            raise RunError(
                f"{path} must give the {name} {expected:.6f} that the seed's result.json has, but gives {value:.6f}",
                f"{advice}; if it still differs, delete the seed's folder and train it again",
                kind=Kind.CONTRADICTED,
            )


def _measured(run: Run, found: Predictions, threshold: float | None) -> dict[str, float]:
    rules: dict[str, Any] = {"score_range": run.record.score_range, "threshold": threshold}
    return sentiment_metrics(found.predictions, found.scores, ids=found.ids, **rules)


def measure_again(run: Run) -> None:
    """Compute the metrics of finished seeds from their predictions again if the run's threshold has changed."""
    threshold, score_range = run.config.data.threshold, run.record.score_range
    has_classes = neutral_score(score_range, threshold) is not None
    for seed, result in run.results().items():
        if result.threshold == threshold and (has_classes or result.has_threshold):
            continue
        stored = {split: stored_predictions(run, split, [seed])[seed] for split in result.metrics}
        metrics = {split: _measured(run, found, threshold) for split, found in stored.items()}
        median = result.median
        if median is not None:
            scores = {split: found.scores for split, found in stored.items()}
            median = constant_on(median.score, scores, score_range, threshold)
        run.write_seed_result(seed, result.measured(metrics, threshold, median))


def common_threshold(runs: Sequence[Run]) -> float | None:
    """Return the common threshold between two classes of the runs in a table; None if no run sets one.

    Raises:
        RunError: they set different ones.
    """
    named = {run.name: threshold for run in runs if (threshold := run.config.data.threshold) is not None}
    if len(set(named.values())) > 1:
        shown = ", ".join(f"{threshold:g} in {name}" for name, threshold in named.items())
        raise RunError(
            f"runs in one table must have the same threshold between two classes, found {shown}", "give --threshold"
        )
    return next(iter(named.values()), None)


def evaluate_run(
    run: Run, split: str, protocol: str, *, seeds: Sequence[int] | None = None, threshold: float | None = None
) -> Evaluation:
    """Compute the metrics of a run from its stored predictions, over its finished seeds or only some of them.

    Args:
        run: a finished run.
        split: a split with stored predictions.
        protocol: see `metrics.sentiment_metrics`.
        seeds: the finished seeds to use; None: all.
        threshold: the score that separates two classes, instead of the run's.

    Raises:
        SettingsError: the threshold is not inside the range of the scores.
        RunError: no seed, or none of the requested ones, is finished, or predictions are missing or damaged.
    """
    finished = run.finished_seeds()
    if not finished:
        raise RunError(f"run {run.name} has no finished seed", "run the command that started it again to resume it")
    chosen = [seed for seed in finished if seeds is None or seed in seeds]
    if not chosen:
        known = ", ".join(map(str, finished))
        raise RunError(f"run {run.name} must have finished one of the requested seeds, but has {known}")
    stored = stored_predictions(run, split, chosen)
    paths = [str(run.predictions_path(seed, split)) for seed in chosen]
    return evaluate_predictions(run, split, protocol, stored, threshold=threshold, paths=paths)


def evaluate_predictions(
    run: Run,
    split: str,
    protocol: str,
    found: Mapping[int, Predictions],
    *,
    threshold: float | None = None,
    paths: Sequence[str] = (),
) -> Evaluation:
    """Compute the metrics of predictions that seeds of a run made for a split.

    Args:
        run: the run.
        split: the split.
        protocol: see `metrics.sentiment_metrics`.
        found: the predictions, by seed.
        threshold: the score that separates two classes, instead of the run's.
        paths: files that hold the predictions.

    Raises:
        SettingsError: the threshold is not inside the range of the scores.
    """
    chosen, stored = list(found), found.values()
    score_range = run.record.score_range
    threshold = run.config.data.threshold if threshold is None else threshold
    rules: dict[str, Any] = {"protocol": protocol, "score_range": score_range, "threshold": threshold}
    values = [sentiment_metrics(one.predictions, one.scores, ids=one.ids, **rules) for one in stored]
    reasons = [undefined_reasons(one.predictions, one.scores, **rules) for one in stored]
    medians = [one.median.score for seed, one in run.results().items() if seed in chosen and one.median is not None]
    return Evaluation(
        run=run.name,
        dataset=run.record.dataset,
        split=split,
        protocol=protocol,
        threshold=neutral_score(score_range, threshold),
        n=int(values[0]["n"]),
        n_nonzero=int(values[0]["n_nonzero"]) if "n_nonzero" in values[0] else None,
        seeds=chosen,
        metrics=summarize(values),
        undefined={name: reason for one in reasons for name, reason in one.items()},
        median=_constant(medians[0], next(iter(stored)).scores, rules) if medians else None,
        warnings=learning_warnings(run, chosen),
        predictions=list(paths),
        mean_prediction=_of_mean_prediction([*stored], rules) if len(found) > 1 else None,
    )


def _of_mean_prediction(found: Sequence[Predictions], rules: Mapping[str, Any]) -> dict[str, float]:
    """Measure each clip's mean prediction over the seeds."""
    means = np.mean([one.predictions for one in found], axis=0, dtype=np.float64)
    measured = sentiment_metrics(means, found[0].scores, ids=found[0].ids, **rules)
    return {name: value for name, value in measured.items() if name not in COUNTS}


def _constant(score: float, scores: np.ndarray, rules: Mapping[str, Any]) -> Constant:
    measured = constant_metrics(score, scores, **rules)
    return Constant(score, {name: value for name, value in measured.items() if name not in COUNTS})


def write_scores(path: Path, scored: Mapping[str, Any]) -> None:
    """Write the scores of new utterances as CSV: id, text, their mean, and one column per seed.

    An id or text that a spreadsheet would compute gets an apostrophe in front.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        times = ["start", "stop"] if any("start" in clip for clip in scored["clips"]) else []
        lacks = any(clip.get("absent") for clip in scored["clips"])
        columns = ["id", "text", *times, "prediction", *(f"seed_{seed}" for seed in scored["seeds"])]
        writer.writerow([*columns, *(["absent"] if lacks else [])])
        for clip in scored["clips"]:
            names = (spreadsheet_cell(visible(clip[key])) for key in ("id", "text"))
            between = [clip.get(name, "") for name in times]
            absent = ["+".join(clip["absent"])] if lacks else []
            writer.writerow([*names, *between, clip["prediction"], *clip["by_seed"].values(), *absent])
