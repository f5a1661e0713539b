"""The table of a run on clips that lack modalities or are damaged."""

from collections.abc import Sequence
from typing import Any

from conki_cli.config.sections import RunConfig
from conki_cli.experiments.robustness import Condition
from conki_cli.reporting.tables.grid import Row, TableInfo
from conki_cli.reporting.tables.systems import limit_notes, median_rows, run_row, table_info, warning_lines
from conki_cli.runs import Evaluation

_NEVER_LEARNT = "this run never learnt to miss a modality: train one with --set optimizer.modality_dropout=0.3"


def condition_rows(
    label: str, config: RunConfig, result: Evaluation, found: Sequence[tuple[Condition, Evaluation]], *, seed: int
) -> tuple[list[Row], TableInfo]:
    """Make the rows of a run: its clips as they are, then each condition, then the best constant.

    Args:
        label: of the run.
        config: of the run.
        result: of the clips as they are.
        found: the conditions, and what was measured under them.
        seed: of the damage.
    """
    rows = [_row(condition.label, config, one) for condition, one in found]
    notes = [*limit_notes({label: config}), *warning_lines(label, result)]
    if any(condition.without for condition, _ in found):
        notes.append("named by modalities: the others are left out of every clip, masked as absent")
        notes += [] if config.optimizer.modality_dropout else [_NEVER_LEARNT]
    if any(condition.corruptions for condition, _ in found):
        notes.append(f"named by damage: that was done to every clip on purpose, drawn with seed {seed}")
    info = table_info([result], notes)
    return [run_row(label, config, result), *rows, *median_rows([result])], info


def _row(label: str, config: RunConfig, result: Evaluation) -> Row:
    values = {name: summary["values"] for name, summary in result.metrics.items()}
    return Row(label, values, undefined=result.undefined, run=result.run, seeds=result.seeds, limit=config.data.limit)


def condition_answers(found: Sequence[tuple[Condition, Evaluation]], *, seed: int) -> list[dict[str, Any]]:
    """Return what `conki evaluate --json` prints of each condition."""
    answers = []
    for condition, one in found:
        drawn = {"seed": seed} if condition.corruptions else {}
        metrics = {key: value for key, value in one.as_json().items() if key not in ("predictions", "warnings")}
        answers.append({**condition.as_json(), **drawn, **metrics})
    return answers
