"""Runs as tests train them: one configuration, its run."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from conki_cli.config.sections import RunConfig
from conki_cli.experiments.ablations import ablation_rows
from conki_cli.experiments.execution import carry_out, train_all
from conki_cli.experiments.planning import make_plan
from conki_cli.runs import Run, Runs, open_run
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training.steps import Shelf

QUICK = ("conki", "mmim", "self-mm")
"""The models that long tests train in the default run: the core, one with two passes, one with a memory of clips."""


def slowly(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Return the parameters of a test of which only some are for the default run; the others are slow."""
    rows = [(value, value if isinstance(value, tuple) else (value,)) for value in values]
    return [value if value in quick else pytest.param(*row, marks=pytest.mark.slow) for value, row in rows]


def finetune(
    config: RunConfig, workspace: Workspace, observer: Observer | None = None, *, discard: bool = False
) -> Run:
    """Train stage 2 after the stage 1 it needs."""
    return _train(config, workspace, observer, "finetune", discard=discard)


def pretrain(
    config: RunConfig, workspace: Workspace, observer: Observer | None = None, *, discard: bool = False
) -> Run:
    """Train stage 1 alone."""
    return _train(config, workspace, observer, "pretrain", discard=discard)


def _train(
    config: RunConfig,
    workspace: Workspace,
    observer: Observer | None,
    stage: Literal["pretrain", "finetune"],
    *,
    discard: bool,
) -> Run:
    observer = observer or Observer()
    with Shelf() as shelf:
        plan = make_plan([config], Runs(workspace), observer, shelf=shelf, stage=stage, discard=discard)
        return carry_out(plan, observer)[0][1]


def ablate(rows: Mapping[str, RunConfig], workspace: Workspace, observer: Observer) -> list[tuple[str, Run]]:
    """Train the rows of an ablation."""
    return train_all(ablation_rows(rows), workspace, observer)


def result_of(folder: Path) -> dict[str, Any]:
    """Return the content of a result.json."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def begin(workspace: Workspace, config: RunConfig, data: Mapping[str, str], score_range: tuple[float, float]) -> Run:
    """Make the folder of a run, or add the seeds of a configuration to it."""
    run = Runs(workspace).locate(config)
    open_run(run, config, data, score_range)
    return run
