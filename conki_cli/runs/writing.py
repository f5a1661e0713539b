"""Write a run folder: start it, add seeds, summarise its seeds."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from conki_cli.config.resolving import to_toml
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import run_label
from conki_cli.metrics import neutral_score
from conki_cli.metrics.summaries import Summary, summarize
from conki_cli.runs.folders import Run
from conki_cli.runs.naming import digest_of
from conki_cli.runs.records import RunRecord, SeedResult
from conki_cli.system.errors import ConkiError, RunError, UnreadableError
from conki_cli.system.files import read_json, write_text
from conki_cli.system.readable import status_of

Ranges = Mapping[str, tuple[float, float]]
"""Score ranges of stores, by data set."""


def open_run(
    run: Run,
    config: RunConfig,
    data: Mapping[str, str],
    score_range: tuple[float, float],
    *,
    ranges: Ranges = MappingProxyType({}),
) -> None:
    """Make the run folder of a configuration, or add its seeds to the existing one.

    Args:
        run: the run, whose folder may not exist yet.
        config: the resolved configuration; its seeds are added to the run's, and its threshold, if it has one,
            replaces the run's.
        data: content id of every store that the run reads, by data set.
        score_range: range of the scores that the run learns; it decides which metrics apply.
        ranges: score range of every store that the run trains on, by data set.

    Raises:
        RunError: the run was trained on other data, or on other score ranges.
        SettingsError: the threshold is outside the range of the scores.
    """
    neutral_score(score_range, config.data.threshold)
    if status_of(run.path / "result.json") is None:
        _start_run(run, config, data, score_range, ranges)
        return
    check_data(run, data, ranges)
    record, known = run.record, run.config
    merged = tuple(sorted({*record.seeds, *config.run.seeds}))
    threshold = known.data.threshold if config.data.threshold is None else config.data.threshold
    named = known.with_values("run", seeds=merged).with_values("data", threshold=threshold)
    if merged != record.seeds or threshold != known.data.threshold:
        write_text(run.path / "config.toml", to_toml(named))
    if merged != record.seeds:
        run.write_record(dataclasses.replace(record, seeds=merged, state="unfinished"))


def check_data(run: Run, data: Mapping[str, str], ranges: Ranges = MappingProxyType({})) -> None:
    """Refuse stores, given by data set with content ids and score ranges, that a run was not started with.

    Raises:
        RunError: a store is another version, or has another score range.
    """
    if status_of(run.path / "result.json") is None:
        _check_with_seeds(run, data)
        return
    known, before = run.record.data, run.record.score_ranges
    if changed := [name for name, content in data.items() if known.get(name, content) != content]:
        raise _other_data(run, changed[0])
    for name, (low, high) in ranges.items():
        if name in before and (low, high) != tuple(before[name]):
            first, last = before[name]
            raise RunError(
                f"run {run.name} was trained on scores of {name} from {first:g} to {last:g}, and its store now says "
                f"{low:g} to {high:g}",
                advice=f"prepare it with --score-range {first:g}..{last:g} again, give --name a new name, or delete "
                "the run's folder",
            )


def _other_data(run: Run, dataset: str) -> RunError:
    return RunError(
        f"run {run.name} was trained on another version of the store {dataset}",
        advice="restore that version, give --name a new name, or delete the run's folder",
    )


def _check_with_seeds(run: Run, data: Mapping[str, str]) -> None:
    """Refuse stores that are not those that the seeds of a run without a result.json recorded.

    Raises:
        RunError: a store is another version.
    """
    for path in sorted(run.path.glob("seed-*/environment.json")):
        known = recorded(path, "store")
        if changed := [name for name, content in data.items() if known.get(name, content) != content]:
            raise _other_data(run, changed[0])


def recorded(path: Path, fact: str) -> dict[str, Any]:
    """Return what a seed's environment.json says of each store; empty if the file is missing, old or damaged.

    Raises:
        UnreadableError: the system cannot read it; the file is left as it is.
    """
    try:
        return {name: part[fact] for name, part in read_json(path)["data"].items()}
    except UnreadableError:
        raise
    except (ConkiError, KeyError, TypeError, AttributeError):
        return {}


def _start_run(
    run: Run, config: RunConfig, data: Mapping[str, str], score_range: tuple[float, float], ranges: Ranges
) -> None:
    seeds = tuple(sorted(config.run.seeds))
    if status_of(run.path / "config.toml") is not None:  # result.json was lost
        check_data(run, data)
        known = run.config
        seeds = tuple(sorted({*known.run.seeds, *seeds}))
        if config.data.threshold is None:
            config = config.with_values("data", threshold=known.data.threshold)
    write_text(run.path / "config.toml", to_toml(config.with_values("run", seeds=seeds)))
    record = RunRecord(
        stage=config.run.stage,
        digest=digest_of(config),
        dataset=config.data.external if config.run.stage == "pretrain" else config.data.dataset,
        label=run_label(config),
        data=dict(data),
        score_range=score_range,
        score_ranges=dict(ranges),
        seeds=seeds,
        state="unfinished",
    )
    run.write_record(record)


def metrics_of_seeds(results: Iterable[SeedResult]) -> dict[str, dict[str, Summary]]:
    """Return the metrics by split as mean, sd and values over seeds."""
    by_split, listed = {}, list(results)
    for split in ("valid", "test"):
        per_seed = [result.metrics.get(split, {}) for result in listed]
        if per_seed and all(per_seed):  # nan is written as null
            by_split[split] = summarize([{k: np.nan if v is None else v for k, v in m.items()} for m in per_seed])
    return by_split


def finish_run(run: Run) -> None:
    """Write the run's result: metrics per split as mean, sd and values over its finished seeds."""
    record, results = run.record, run.results()
    by_split = metrics_of_seeds(results.values())
    medians = [result.median for result in results.values() if result.median is not None]
    state = "finished" if tuple(results) == record.seeds else "unfinished"
    median = medians[0] if medians else record.median  # of the training split, so the same for every seed
    run.write_record(dataclasses.replace(record, metrics=by_split, state=state, median=median))
