"""Tests of compared systems, with effect sizes, as tables of the page."""

from collections.abc import Sequence

from conki_cli.metrics import class_names
from conki_cli.reporting.comparison import CellTests, Comparison, SeedTest, System, Verdict
from conki_cli.reporting.page.content import Sheet
from conki_cli.reporting.tables.grid import COLUMNS, LOWER_IS_BETTER, UNSCALED, seeds_text

_HEADERS = ("", "difference", "paired t, p", "d_z", "Welch, p (Holm)", "d", "bootstrap, 95 %", "p (Holm)")

EXPLANATION = (
    "Differences are the system minus the reference: for MAE and Corr in their own units, else in percentage points. "
    "Paired t-test and bootstrap use the seeds that both systems have; Welch's test uses all of each. The bootstrap "
    "resamples whole videos and uses each clip's mean prediction over the seeds. d_z is the mean of the paired "
    "differences over their deviation; d is the difference of the means over the root of the mean variance. Holm's "
    "correction covers the cells of all tables here, separately for each kind of test; the paired t-test is "
    "uncorrected, as in the paper."
)


def sheets_of_tests(compared: Comparison) -> tuple[list[Sheet], list[str]]:
    """Return one table of tests for each system but the first, and remarks about those that were not tested."""
    reference, others = compared.systems[0], compared.systems[1:]
    sheets, notes = [], []
    for system, verdict in zip(others, compared.verdicts, strict=True):
        if verdict.reason:
            notes.append(
                f"{system.label} is {'not tested' if verdict.cells is None else 'tested only by Welch'}: "
                f"{verdict.reason}."
            )
        if verdict.cells is not None:
            sheets.append(_sheet(reference, system, verdict))
    return sheets, [*notes, *([EXPLANATION] if sheets else [])]


def _sheet(reference: System, system: System, verdict: Verdict) -> Sheet:
    cells = verdict.cells or {}
    seeds = f"paired over {seeds_text(verdict.seeds)}" if len(verdict.seeds) > 1 else "no common seeds"
    threshold = reference.result.threshold or 0.0
    rows = [[_name(metric, threshold), *_cells(metric, cell)] for metric, cell in cells.items()]
    return Sheet(_HEADERS, rows, f"{system.label} against {reference.label} ({seeds})", has_numbers=True)


def _name(metric: str, threshold: float) -> str:
    plain, _, ending = metric.partition("_")
    name = next(column.name for column in COLUMNS if metric in column.metrics)
    classes = f", {' or '.join(class_names(threshold)[ending])}" if ending and plain != metric else ""
    return f"{name}{'↓' if metric in LOWER_IS_BETTER else '↑'}{classes}"


def _cells(metric: str, cell: CellTests) -> Sequence[str]:
    paired, welch, drawn = cell["paired_t"], cell["welch"], cell["bootstrap"]
    interval = f"{_difference(metric, drawn['low'])} to {_difference(metric, drawn['high'])}" if drawn else "–"
    return [
        _difference(metric, cell["difference"]),
        _p(paired["p"] if paired else None),
        _size(paired),
        _p(welch["p_holm"] if welch else None),
        _size(welch),
        interval,
        _p(drawn["p_holm"] if drawn else None),
    ]


def _difference(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:+.3f}" if metric in UNSCALED else f"{100 * value:+.2f}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _size(test: SeedTest | None) -> str:
    return f"{test['cohen_d']:+.2f}" if test is not None else "–"
