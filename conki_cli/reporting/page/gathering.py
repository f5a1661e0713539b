"""Reads finished runs and says what stands in their report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from conki_cli.reporting.comparison import (
    Comparison,
    System,
    check_predicts,
    compare,
    read_system,
    read_systems,
    system_label,
)
from conki_cli.reporting.page.cautions import cautions
from conki_cli.reporting.page.choices import PageChoices
from conki_cli.reporting.page.content import Clip, ClipTable, Headline, Judged, Report
from conki_cli.reporting.page.effects import sheets_of_tests
from conki_cli.reporting.page.figures import draw_figures
from conki_cli.reporting.page.provenance import data_sheet, differing_sheet, recipes, training_sheet, versions_sheet
from conki_cli.reporting.page.stores import StoreFacts, read_stores
from conki_cli.reporting.tables.grid import Row, TableInfo, build_grid, format_metric, mean_and_deviation, seeds_text
from conki_cli.reporting.tables.systems import MEDIAN, comparison_rows, median_rows, run_row, table_info
from conki_cli.runs import Run, common_threshold, evaluate_run
from conki_cli.runs.learning import constant_metrics
from conki_cli.system.workspace import Reporter, Workspace

MEAN = "predicting the training mean"


def gather(runs: Sequence[Run], workspace: Workspace, choices: PageChoices, reporter: Reporter) -> Report:
    """Read what a report says of runs; see `page.make_page`."""
    systems, compared = _read(runs, choices)
    reporter.say(f"reading the predictions of {', '.join(system.label for system in systems)}")
    contents = {name: content for system in systems for name, content in system.run.result["data"].items()}
    stores, problems = read_stores(_home(runs[0], workspace), contents)
    dataset = systems[0].result["dataset"]
    rows, info = _rows(systems, compared, stores.get(dataset))
    labels = [system.label for system in systems]
    tests, remarks = sheets_of_tests(compared) if compared is not None else ([], [])
    grid = build_grid(rows, info)
    with_texts = choices.with_texts and dataset in stores
    return Report(
        title=_title(labels, dataset),
        subtitle=info.title,
        headlines=[_headline(system) for system in systems],
        summary=_summary(systems),
        cautions=cautions(systems, stores, choices.split),
        grid=grid,
        training=training_sheet(systems, stores),
        tests=tests,
        tests_note=remarks,
        figures=draw_figures(runs, labels, _home(runs[0], workspace), choices, reporter),
        clips=_clip_table(systems, stores[dataset].texts[choices.split] if with_texts else None),
        differing=differing_sheet(systems),
        versions=versions_sheet(systems),
        data=data_sheet(systems, stores),
        recipes=recipes(systems),
        notes=_notes(choices, problems, dataset),
    )


def _title(labels: Sequence[str], dataset: str) -> str:
    others = {1: "", 2: f" against {labels[-1]}"}.get(len(labels), f" against {len(labels) - 1} other systems")
    return f"{labels[0]}{others} on {dataset}"


def _home(run: Run, workspace: Workspace) -> Workspace:
    """Return the workspace that a run lies in: its features are there."""
    folder = Path(run.path).absolute().parent
    return Workspace(folder.parent) if folder.name == "runs" else workspace


def _read(runs: Sequence[Run], choices: PageChoices) -> tuple[list[System], Comparison | None]:
    """Read the runs, and compare them where there are several."""
    if len(runs) > 1:
        systems = read_systems(runs, choices.split, choices.protocol, threshold=choices.threshold)
        return systems, compare(systems, choices.protocol)
    run = runs[0]
    check_predicts(run)
    threshold = common_threshold(runs) if choices.threshold is None else choices.threshold
    result = evaluate_run(run, choices.split, choices.protocol, threshold=threshold)
    return [replace(read_system(run, choices.split, result), label=system_label(run.config))], None


def _rows(
    systems: Sequence[System], compared: Comparison | None, store: StoreFacts | None
) -> tuple[list[Row], TableInfo]:
    """Return the table of metrics: the systems, the paper's numbers, and two constant predictions."""
    if compared is not None:
        rows, info = comparison_rows(compared)
        info = replace(info, notes=[note for note in info.notes if "--json" not in note and "warning: " not in note])
    else:
        system = systems[0]
        rows = [run_row(system.label, system.config, system.result), *median_rows([system.result])]
        info = table_info([system.result])
    if store is None or not math.isfinite(store.mean_score):
        return rows, info
    low, high = systems[0].run.result["score_range"]
    measured = constant_metrics(store.mean_score, systems[0].scores, (low, high), info.threshold or None, info.protocol)
    shown = {name for row in rows for name in row.values} & set(measured)
    mean = Row(MEAN, {name: [measured[name]] for name in measured if name in shown}, seeds=(), is_constant=True)
    return [*rows, mean], info


def _headline(system: System) -> Headline:
    mean, deviation = mean_and_deviation(_values(system, "mae"))
    about = [seeds_text(system.seeds)]
    correlation = mean_and_deviation(_values(system, "corr"))[0]
    if math.isfinite(correlation):
        about.insert(0, f"Corr {format_metric('corr', correlation)}")
    shown = f"{deviation:.3f}" if math.isfinite(deviation) else ""
    return Headline(system.label, format_metric("mae", mean), shown, about)


def _values(system: System, metric: str) -> list[float]:
    return [math.nan if value is None else value for value in system.result["metrics"][metric]["values"]]


def _summary(systems: Sequence[System]) -> str:
    """Say in one sentence which system has the lowest error, and how far below the best constant it lies."""
    means = {system.label: mean_and_deviation(_values(system, "mae"))[0] for system in systems}
    best = min(means, key=lambda label: means[label])
    what = f"{best} has the lowest MAE, {means[best]:.3f}" if len(systems) > 1 else f"The MAE is {means[best]:.3f}"
    median = systems[0].result["median"]
    if median is None:
        return f"{what}."
    constant = median["metrics"]["mae"]
    share = 100 * (means[best] / constant - 1) if constant else math.nan
    side = "below" if share < 0 else "above"
    return f"{what}; {MEDIAN} for every clip gives {constant:.3f} ({abs(share):.0f} % {side} it)."


def _clip_table(systems: Sequence[System], texts: Mapping[str, str] | None) -> ClipTable:
    first = systems[0]
    values = [np.array([*one.predictions.values()], dtype=np.float64) for one in systems]  # [S, N] each
    means = [by_seed.mean(axis=0) for by_seed in values]
    errors = [np.abs(mean - first.scores) for mean in means]
    order = np.argsort(-errors[0], kind="stable")
    low, high = first.run.result["score_range"]
    clips = [
        Clip(
            id=first.ids[n],
            text=texts.get(first.ids[n], "") if texts is not None else "",
            score=float(first.scores[n]),
            means=[float(mean[n]) for mean in means],
            errors=[float(error[n]) for error in errors],
            by_seed=[[float(value) for value in by_seed[:, n]] for by_seed in values],
        )
        for n in order
    ]
    judged = [Judged(system.label, system.seeds) for system in systems]
    return ClipTable(judged, clips, texts is not None, high - low)


def _notes(choices: PageChoices, problems: Mapping[str, str], dataset: str) -> dict[str, str]:
    notes = {"clips": "", "data": ""}
    if not choices.with_texts:
        notes["clips"] = "The texts are left out, for data licences may forbid to pass them on."
    elif dataset in problems:
        notes["clips"] = f"Without texts: {problems[dataset]}."
    if problems:
        notes["data"] = "; ".join(f"the store of {name} is not known here: {why}" for name, why in problems.items())
    return notes
