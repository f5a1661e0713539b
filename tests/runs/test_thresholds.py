"""Scores that never cross 0: what a run keeps of a threshold, and what old runs without one show."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeConfig, Notes
from run_support import finetune

from conki_cli.config.resolving import resolve, stage_one, version_1_stage_one
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.data.store.writing import write_store
from conki_cli.reporting.comparison import compare, read_systems
from conki_cli.reporting.tables.export import export_table
from conki_cli.reporting.tables.systems import run_row, table_info
from conki_cli.runs import Run, Runs, evaluate_run, read_predictions
from conki_cli.system.errors import ConkiError, SettingsError
from conki_cli.system.files import read_json, write_json
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

QUICK = ("data.dataset=stars", "data.external=none", "optimizer.num_epochs=1")


def write_stars(path: Path) -> None:
    draw = np.random.default_rng(0)
    splits = {
        split: [Sample(f"{split}-{k // 2}$_${k}", "good film", float(draw.integers(1, 6))) for k in range(size)]
        for split, size in (("train", 6), ("valid", 4), ("test", 8))
    }
    write_store(path, Corpus("stars", (1.0, 5.0), splits, "stars.csv", "drawn", "0" * 64))


@pytest.fixture
def stars(workspace: Workspace, tiny_config: MakeConfig) -> tuple[Workspace, Run]:
    """A run of two seeds on scores from 1 to 5, without a threshold."""
    write_stars(workspace.store("stars"))
    return workspace, finetune(tiny_config("C1", *QUICK, seeds=(1, 2)), workspace, Observer())


def test_a_run_keeps_its_threshold_and_is_not_trained_again_for_another(
    stars: tuple[Workspace, Run], tiny_config: MakeConfig
) -> None:
    workspace, run = stars
    assert run.record.metrics["test"]["acc2_nonneg"]["mean"] is None
    before = run.checkpoint(1, "best").stat().st_mtime_ns
    notes = Notes()
    again = finetune(tiny_config("C1", *QUICK, "data.threshold=3"), workspace, notes)
    assert "the run's threshold between two classes was None and is now 3.0" in notes.lines
    assert (again.name, again.config.data.threshold) == (run.name, 3.0)
    assert run.checkpoint(1, "best").stat().st_mtime_ns == before
    found = read_predictions(run.predictions_path(2, "test"))
    expected = float(np.mean((found.predictions >= 3) == (found.scores >= 3)))
    assert evaluate_run(run, "test", "all").metrics["acc2_nonneg"]["values"][1] == pytest.approx(expected)
    assert run.record.metrics["test"]["acc2_nonneg"]["values"][1] == pytest.approx(expected)
    finetune(tiny_config("C1", *QUICK), workspace, Observer())
    assert run.config.data.threshold == 3.0


def test_the_training_median_is_measured_at_the_same_threshold(
    stars: tuple[Workspace, Run], tiny_config: MakeConfig
) -> None:
    workspace, run = stars
    known = run.record.median
    assert known.metrics["test"]["acc2_nonneg"] is None
    scores = read_predictions(run.predictions_path(1, "test")).scores
    expected = {at: float(np.mean((known.score >= at) == (scores >= at))) for at in (2, 3)}
    evaluated = evaluate_run(run, "test", "all", threshold=2).median.metrics
    assert evaluated["acc2_nonneg"] == pytest.approx(expected[2])
    finetune(tiny_config("C1", *QUICK, "data.threshold=3"), workspace, Observer())
    assert run.record.median.metrics["test"]["acc2_nonneg"] == pytest.approx(expected[3])


def test_a_threshold_outside_the_range_leaves_no_folder(workspace: Workspace, tiny_config: MakeConfig) -> None:
    write_stars(workspace.store("stars"))
    with pytest.raises(SettingsError, match="must be inside the range"):
        finetune(tiny_config("C1", *QUICK, "data.threshold=5"), workspace, Observer())
    assert not any(workspace.runs.glob("*/"))


def test_a_run_of_an_older_version_is_evaluated_and_shows_no_classes(stars: tuple[Workspace, Run]) -> None:
    workspace, run = stars
    for seed in (1, 2):  # older versions compared with 0, where every clip is on one side
        path = run.seed_folder(seed) / "result.json"
        found = read_json(path)
        del found["threshold"]
        found["metrics"]["test"] |= {"acc2_nonneg": 1.0, "f1_nonneg": 1.0}
        write_json(path, found)
    write_json(
        run.path / "result.json", json.loads(json.dumps(run.record.as_json()).replace('{"mean": null', '{"mean": 1.0'))
    )
    assert np.isnan(evaluate_run(run, "test", "all").metrics["acc2_nonneg"]["mean"])
    assert Runs(workspace).described()[0]["metrics"]["acc2_nonneg"] is None


def test_compared_runs_are_measured_at_one_threshold(stars: tuple[Workspace, Run], tiny_config: MakeConfig) -> None:
    workspace, run = stars
    lines = (*QUICK, "optimizer.lr_others=1e-3", "data.threshold=3")
    other = finetune(tiny_config("C1", *lines, seeds=(1, 2)), workspace, Observer())
    systems = read_systems([run, other], "test", "all")
    assert [system.result.threshold for system in systems] == [3, 3]
    cells = compare(systems, num_draws=20).verdicts[0].cells or {}
    assert cells["acc2_nonneg"]["difference"] is not None
    assert [system.result.threshold for system in read_systems([run, other], "test", "all", threshold=2)] == [2, 2]
    finetune(tiny_config("C1", *QUICK, "data.threshold=2"), workspace, Observer())
    with pytest.raises(ConkiError, match="the same threshold"):
        read_systems([run, other], "test", "all")


@pytest.mark.parametrize("ending", ["md", "tex", "csv"])
def test_exports_name_the_threshold_or_say_why_there_are_no_classes(
    ending: str, stars: tuple[Workspace, Run], tmp_path: Path
) -> None:
    _, run = stars
    texts = []
    for threshold in (None, 3.0):
        result = evaluate_run(run, "test", "all", threshold=threshold)
        export_table([run_row("x", run.config, result)], table_info([result]), tmp_path / f"t.{ending}")
        texts.append((tmp_path / f"t.{ending}").read_text())
    assert ("nan" in texts[0]) if ending == "csv" else ("is not inside the range" in texts[0])
    assert (",8,,3.0,,1 2," in texts[1]) if ending == "csv" else ("two classes split at 3" in texts[1])


def test_stage_1_is_measured_at_the_threshold_where_its_scores_have_the_targets_range() -> None:
    config = resolve(assignments=["data.threshold=1"], extra_drop=("handover",))
    assert stage_one(config).data.threshold == 1
    assert version_1_stage_one(config).data.threshold is None
