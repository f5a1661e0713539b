"""Evaluated runs and compared systems as rows of a table and as the object of `--json`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from conki_cli.config.sections import RunConfig
from conki_cli.metrics import TWO_CLASSES
from conki_cli.reporting.comparison import (
    TESTED,
    Comparison,
    System,
    Verdict,
    differing_stores,
    explanation,
    marks,
)
from conki_cli.reporting.tables.grid import Row, TableInfo, published_row
from conki_cli.runs import Evaluation

MEDIAN = "predicting the training median"
"""Label of the row that shows what the best constant gives: a model must be better."""


def run_row(label: str, config: RunConfig, result: Evaluation) -> Row:
    """Make the row of a run from what `runs.evaluate_run` says, with the paper's numbers."""
    values = {name: summary["values"] for name, summary in result.metrics.items()}
    published = published_of(config, result)
    return Row(
        label,
        values,
        published,
        undefined=result.undefined,
        run=result.run,
        seeds=result.seeds,
        limit=config.data.limit,
    )


def table_of_runs(evaluated: Sequence[tuple[str, RunConfig, Evaluation]]) -> tuple[list[Row], TableInfo]:
    """Make the table of runs, each a label, its settings and what `runs.evaluate_run` says of it."""
    results = [result for *_, result in evaluated]
    notes = limit_notes({label: config for label, config, _ in evaluated})
    notes += [line for label, _, result in evaluated for line in warning_lines(label, result)]
    rows = [run_row(*one) for one in evaluated]
    if len(results) == 1:
        rows += mean_prediction_rows(results[0])
    return [*rows, *median_rows(results)], table_info(results, notes)


def mean_prediction_rows(result: Evaluation) -> list[Row]:
    """Make the row of each clip's mean prediction over the seeds; none with one seed."""
    if result.mean_prediction is None:
        return []
    values = {name: [value] for name, value in result.mean_prediction.items()}
    return [Row(f"mean prediction of {len(result.seeds)} seeds", values, seeds=(), is_aside=True)]


def median_rows(results: Sequence[Evaluation], metrics: Collection[str] | None = None) -> list[Row]:
    """Make the last row of a table, the best constant; none where no run stored it (version 1)."""
    known = next((result.median for result in results if result.median is not None), None)
    if known is None:
        return []
    values = {name: [value] for name, value in known.metrics.items() if metrics is None or name in metrics}
    return [Row(MEDIAN, values, seeds=(), is_aside=True)]


def warning_lines(label: str, result: Evaluation) -> list[str]:
    """Return the warnings about a run's training, with its label in front."""
    return [f"warning: {label}, {line}" for line in result.warnings]


def limit_notes(configs: Mapping[str, RunConfig]) -> list[str]:
    """Say which runs used only a part of the clips (`--limit`): such numbers are a quick look."""
    limits = {label: config.data.limit for label, config in configs.items() if config.data.limit}
    if not limits:
        return []
    if len(limits) == len(configs) and len(set(limits.values())) == 1:
        return [f"a quick look: at most {next(iter(limits.values()))} clips of each split were used (--limit)"]
    shown = ", ".join(f"{limit} of {label}" for label, limit in limits.items())
    return [f"a quick look: some runs used only part of each split (--limit), at most {shown}"]


def table_info(results: Sequence[Evaluation], notes: Sequence[str] = ()) -> TableInfo:
    """Say what the numbers of several runs were measured on; each is what `runs.evaluate_run` says."""
    first = results[0]
    return TableInfo(
        dataset=first.dataset,
        split=first.split,
        protocol=first.protocol,
        seeds=sorted({seed for result in results for seed in result.seeds}),
        n=first.n,
        n_nonzero=first.n_nonzero,
        notes=notes,
        threshold=first.threshold,
    )


def comparison_rows(found: Comparison) -> tuple[list[Row], TableInfo]:
    """Make the rows of compared systems, with a mark where one differs from the first, and what stands around them."""
    verdicts = (None, *found.verdicts)
    rows = [_system_row(system, verdict, found) for system, verdict in zip(found.systems, verdicts, strict=True)]
    results = [system.result for system in found.systems]
    warnings = [line for system in found.systems for line in warning_lines(system.label, system.result)]
    rows += median_rows(results, {name for row in rows for name in row.values})
    limits = limit_notes({system.label: system.config for system in found.systems})
    notes = [*limits, *differing_stores(found.systems), *explanation(found), *warnings]
    return rows, table_info(results, notes)


def _system_row(system: System, verdict: Verdict | None, found: Comparison) -> Row:
    result = system.result
    values = {name: result.metrics[name]["values"] for name in TESTED if name in result.metrics}
    note = ""
    if verdict is not None and verdict.reason and found.is_tested:  # otherwise it is a note under the table
        note = f"{'not tested' if verdict.cells is None else 'only by Welch'}: {verdict.reason}"
    undefined = {name: reason for name, reason in result.undefined.items() if name in values}
    signs = marks((verdict.cells if verdict is not None else None) or {})
    published = published_of(system.config, result)
    limit = system.config.data.limit
    return Row(system.label, values, published, note, undefined, signs, result.run, limit, seeds=result.seeds)


def comparison_answer(found: Comparison) -> dict[str, Any]:
    """Return everything that is known of compared systems, as `conki compare --json` prints it."""
    rows = []
    for system, verdict in zip(found.systems, (None, *found.verdicts), strict=True):
        named = {"label": system.label, "model": system.config.model.name, **system.result.as_json()}
        published = published_of(system.config, system.result)
        rows.append({**named, "paper": published, **_tests(found.systems[0], system, verdict)})
    first = found.systems[0]
    return {
        "reference": first.label,
        "reference_run": first.run.name,
        "num_videos": found.num_videos,
        "num_draws": found.num_draws,
        "rows": rows,
    }


def _tests(reference: System, system: System, verdict: Verdict | None) -> dict[str, Any]:
    """Return the tests of one row; None for the reference, and where no test can be made."""
    if verdict is None:
        return {"common_seeds": None, "test_seeds": None, "tests": None, "untested": None}
    paired = verdict.seeds if len(verdict.seeds) > 1 else ()
    seeds = {
        "paired_t": paired,
        "welch": {"reference": reference.seeds, "row": system.seeds},
        "bootstrap": paired,
    }
    return {
        "common_seeds": verdict.seeds,
        "test_seeds": seeds if verdict.cells is not None else None,
        "tests": verdict.cells,
        "untested": verdict.reason or None,
    }


def published_of(config: RunConfig, result: Evaluation) -> dict[str, float] | None:
    """Return what the paper has for a run: its test split only."""
    if result.split != "test":
        return None
    transferred = config.is_baseline and config.needs_pretraining
    row = published_row(
        result.dataset, config.model.drop, config.model.name, config.data.external if transferred else None
    )
    if row is None or not result.threshold:
        return row
    return {name: value for name, value in row.items() if name not in TWO_CLASSES}  # the paper's classes are others
