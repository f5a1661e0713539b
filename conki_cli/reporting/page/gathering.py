"""Read finished runs and build the content of their report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from conki_cli.config.words import run_label
from conki_cli.data.store.records import counted
from conki_cli.metrics import clipped, rules_of
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
from conki_cli.reporting.page.content import Clip, ClipTable, Headline, Predictor, Report
from conki_cli.reporting.page.effects import sheets_of_tests
from conki_cli.reporting.page.figures import draw_figures
from conki_cli.reporting.page.provenance import data_sheet, differing_sheet, recipes, training_sheet, versions_sheet
from conki_cli.reporting.page.stores import StoreFacts, read_stores
from conki_cli.reporting.tables.grid import Grid, Row, TableInfo, build_grid, format_metric, mean_and_deviation
from conki_cli.reporting.tables.systems import (
    MEDIAN,
    comparison_rows,
    limit_notes,
    mean_prediction_rows,
    median_rows,
    run_row,
    table_info,
)
from conki_cli.runs import Constant, Run, common_threshold, evaluate_run
from conki_cli.runs.learning import constant_metrics
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

MEAN = "predicting the training mean"


def gather(runs: Sequence[Run], workspace: Workspace, choices: PageChoices, observer: Observer) -> Report:
    """Read what a report says of runs; see `page.make_page`."""
    systems, compared = _read(runs, choices)
    observer.say(f"reading the predictions of {', '.join(system.label for system in systems)}")
    contents = dict.fromkeys((name, str(content)) for one in systems for name, content in one.run.record.data.items())
    stores, problems = read_stores(_home(runs[0], workspace), [*contents])
    dataset = systems[0].result.dataset
    systems = [_with_median(system, stores.get(dataset)) for system in systems]
    if compared is not None:
        compared = replace(compared, systems=systems)
    rows, info = _rows(systems, compared, stores.get(dataset))
    labels = [system.label for system in systems]
    tests, remarks = sheets_of_tests(compared) if compared is not None else ([], [])
    grid = build_grid(rows, info)
    with_texts = choices.with_texts and dataset in stores
    return Report(
        title=_title(labels, dataset),
        subtitle=info.title,
        headlines=[_headline(one) for one in systems] if len(systems) > 1 else _metrics_of_one(grid),
        summary=_summary(systems),
        cautions=cautions(systems, stores, choices.split),
        grid=grid,
        training=training_sheet(systems, stores),
        tests=tests,
        tests_note=remarks,
        figures=draw_figures(runs, labels, _home(runs[0], workspace), choices, observer),
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
        systems = _shortly(read_systems(runs, choices.split, choices.protocol, threshold=choices.threshold))
        return systems, compare(systems, choices.protocol)
    run = runs[0]
    check_predicts(run)
    threshold = common_threshold(runs) if choices.threshold is None else choices.threshold
    result = evaluate_run(run, choices.split, choices.protocol, threshold=threshold)
    return [replace(read_system(run, choices.split, result), label=system_label(run.config))], None


def _shortly(systems: list[System]) -> list[System]:
    """Name versions of ConKI among themselves by what they lack, as tables of ablations do."""
    labels = [run_label(system.config) for system in systems]
    if any(system.config.is_baseline for system in systems) or len(set(labels)) < len(labels):
        return systems
    return [replace(system, label=label) for system, label in zip(systems, labels, strict=True)]


def _with_median(system: System, store: StoreFacts | None) -> System:
    """Return a system that knows the best constant: runs of version 1 did not store it."""
    if store is None or system.result.median is not None:
        return system
    median = Constant(store.median_score, _constant(store.median_score, system))
    return replace(system, result=replace(system.result, median=median))


def _constant(constant: float, system: System) -> dict[str, float]:
    """Measure a constant prediction on the clips of a system, in the metrics that it has."""
    low, high = system.run.record.score_range
    threshold, protocol = system.result.threshold or None, system.result.protocol
    measured = constant_metrics(constant, system.scores, (low, high), threshold, protocol)
    return {name: value for name, value in measured.items() if name in system.result.metrics}


def _rows(
    systems: Sequence[System], compared: Comparison | None, store: StoreFacts | None
) -> tuple[list[Row], TableInfo]:
    """Return the table of metrics: the systems, the paper's numbers, and two constant predictions."""
    if compared is not None:
        rows, info = comparison_rows(compared)
        info = replace(info, notes=[note for note in info.notes if "--json" not in note and "warning: " not in note])
    else:
        system = systems[0]
        own = run_row(system.label, system.config, system.result)
        rows = [own, *mean_prediction_rows(system.result), *median_rows([system.result])]
        info = table_info([system.result], limit_notes({system.label: system.config}))
    if store is None:
        return rows, info
    shown = {name for row in rows for name in row.values}
    measured = {name: [value] for name, value in _constant(store.mean_score, systems[0]).items() if name in shown}
    mean = Row(MEAN, measured, seeds=(), is_aside=True)
    return [*rows, mean], info


def _headline(system: System) -> Headline:
    mean, deviation = mean_and_deviation(system.result.metrics["mae"]["values"])
    about = ["MAE", counted(len(system.seeds), "seed")]
    correlation = mean_and_deviation(system.result.metrics["corr"]["values"])[0]
    if math.isfinite(correlation):
        about.insert(1, f"Corr {format_metric('corr', correlation)}")
    shown = f"{deviation:.3f}" if math.isfinite(deviation) else ""
    return Headline(system.label, format_metric("mae", mean), shown, about)


def _metrics_of_one(grid: Grid) -> list[Headline]:
    """Return the metrics of the one system of a table, each beside the paper's and beside the best constant."""
    ours, *others = grid.lines
    named = [("paper", line.cells) for line in others if line.is_published]
    named += [("median", line.cells) for line in others if line.cells[0].text == MEDIAN]
    found = []
    for number, header in enumerate(grid.headers[1:], start=1):
        about = [f"{name} {cells[number].text}" for name, cells in named if cells[number].text != "-"]
        found.append(Headline(header, ours.cells[number].text, ours.cells[number].deviation, about))
    return found


def _summary(systems: Sequence[System]) -> str:
    """Say in one sentence which system has the lowest error, and how far below the best constant it lies."""
    means = {system.label: mean_and_deviation(system.result.metrics["mae"]["values"])[0] for system in systems}
    best = min(means, key=lambda label: means[label])
    what = f"Lowest MAE: {best}, {means[best]:.3f}" if len(systems) > 1 else f"The MAE is {means[best]:.3f}"
    median = systems[0].result.median
    if median is None:
        return f"{what}."
    constant = median.metrics["mae"]
    share = 100 * (means[best] / constant - 1) if constant else math.nan
    side = "below" if share < 0 else "above"
    return f"{what}, {abs(share):.0f} % {side} {MEDIAN} for every clip ({constant:.3f})."


def _clip_table(systems: Sequence[System], texts: Mapping[str, str] | None) -> ClipTable:
    first = systems[0]
    values = [np.array([*one.predictions.values()], dtype=np.float64) for one in systems]  # [S, N] each
    means = [one.mean_prediction() for one in systems]
    rules = rules_of(first.run.record.score_range)
    errors = [np.abs(clipped(mean, rules) - clipped(first.scores, rules)) for mean in means]
    order = np.argsort(-errors[0], kind="stable")
    low, high = first.run.record.score_range
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
    predictors = [Predictor(system.label, system.seeds) for system in systems]
    return ClipTable(predictors, clips, texts is not None, high - low)


def _notes(choices: PageChoices, problems: Mapping[str, str], dataset: str) -> dict[str, str]:
    notes = {"clips": "", "data": ""}
    if not choices.with_texts:
        notes["clips"] = "The texts are left out, because data licences may forbid sharing them."
    elif dataset in problems:
        notes["clips"] = f"Without texts: {problems[dataset]}."
    if problems:
        notes["data"] = "; ".join(f"the store of {name} is not known here: {why}" for name, why in problems.items())
    return notes
