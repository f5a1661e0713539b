"""A run that did not learn says so: the best constant beside every model, and warnings."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Trained
from typer.testing import CliRunner

from conki_cli.cli import app
from conki_cli.doctor import examine_named
from conki_cli.runs import Run, evaluate_run, learning_warnings, median_of, read_predictions
from conki_cli.system.files import write_json
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "version_1"


@pytest.fixture
def run(tmp_path: Path, trained: Trained) -> Run:
    root = Path(shutil.copytree(trained.workspace.root, tmp_path / "space"))
    return Run(root / "runs" / trained.run.name)


def set_result(run: Run, seed: int, *, valid_mae: float, best_epoch: int = 1, epochs: int = 2) -> None:
    """Change what a seed's result says of its training, against a median with MAE 1 on validation."""
    path = run.seed_folder(seed) / "result.json"
    result = json.loads(path.read_text())
    result["metrics"]["valid"]["mae"], result["median"]["metrics"]["valid"]["mae"] = valid_mae, 1.0
    write_json(path, {**result, "best_epoch": best_epoch, "epochs": epochs})


def evaluated(run: Run, *words: str) -> str:
    done = CliRunner().invoke(
        app, ["evaluate", run.name, "--workspace", str(run.path.parents[1]), *words], env={"COLUMNS": "200"}
    )
    assert done.exit_code == 0
    return done.stdout


def test_the_best_constant_is_the_median_of_the_training_scores() -> None:
    test = np.array([1.0, -1.0, 3.0], dtype=np.float32)
    found = median_of(np.array([-3.0, 0.5, 2.0], dtype=np.float32), {"test": test}, (-3.0, 3.0))
    assert found.score == 0.5
    assert found.metrics["test"]["mae"] == pytest.approx((0.5 + 1.5 + 2.5) / 3)
    assert np.isnan(found.metrics["test"]["corr"])


def test_it_stands_in_the_result_and_is_said_before_training(trained: Trained) -> None:
    train = trained.run.seed_result(1).median
    assert trained.run.record.median == train
    assert train.metrics.keys() == {"valid", "test"}
    mae = train.metrics["valid"]["mae"]
    assert f"predicting the training median ({train.score:.2f}) gives a validation MAE of {mae:.3f}" in trained.lines


@pytest.mark.parametrize(("valid_mae", "is_warned"), [(0.951, True), (0.949, False), (1.2, True)])
def test_a_seed_must_be_5_percent_better_than_the_median(run: Run, valid_mae: float, is_warned: bool) -> None:
    set_result(run, 1, valid_mae=valid_mae)
    set_result(run, 2, valid_mae=0.5)
    assert bool(learning_warnings(run, [1, 2])) == is_warned


def test_the_warning_names_seeds_values_and_rates(run: Run) -> None:
    set_result(run, 1, valid_mae=0.99)
    set_result(run, 2, valid_mae=0.5)
    (line,) = learning_warnings(run, [1, 2])
    assert line.startswith("seed 1 did not learn: the best validation MAE (0.990) must be 5% below")
    assert "optimizer.lr_encoders (0.001) and optimizer.lr_others" in line


def test_a_best_epoch_that_is_the_last_may_not_be_the_best(run: Run) -> None:
    set_result(run, 1, valid_mae=0.5, best_epoch=2)
    set_result(run, 2, valid_mae=0.5, best_epoch=2)
    (line,) = learning_warnings(run, [1, 2])
    assert line.startswith("seeds 1, 2 may not have finished learning: the best epoch is the last one (2)")


def test_the_median_is_the_last_line_of_a_table_and_warnings_stand_below(run: Run, tmp_path: Path) -> None:
    set_result(run, 1, valid_mae=0.99)
    run_text = evaluated(run, "--export", str(tmp_path / "table.md"), "--split", "test")
    mae = evaluate_run(run, "test", "all").median.metrics["mae"]
    rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    assert rows[-1].startswith(f"| predicting the training median | {mae:.3f} | - |")
    assert "warning: ConKI, seeds 1, 2 did not learn" in run_text


def test_the_mean_prediction_of_the_seeds_is_measured_as_predict_gives_it(run: Run, tmp_path: Path) -> None:
    both = [read_predictions(run.predictions_path(seed, "test")) for seed in (1, 2)]
    means = (both[0].predictions.astype(np.float64) + both[1].predictions) / 2
    found = evaluate_run(run, "test", "all")
    assert found.mean_prediction["mae"] == pytest.approx(np.abs(means - both[0].scores).mean())
    assert found.mean_prediction["mae"] <= found.metrics["mae"]["mean"]
    assert json.loads(evaluated(run, "--json"))["mean_prediction"].keys() == found.metrics.keys()
    evaluated(run, "--export", str(tmp_path / "table.md"))
    own, mean, _ = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")][-3:]
    assert own.startswith("| ConKI | ")
    assert mean.startswith(f"| mean prediction of 2 seeds | {found.mean_prediction['mae']:.3f} |")


def test_one_seed_has_no_mean_prediction(run: Run) -> None:
    shutil.rmtree(run.seed_folder(2))
    assert evaluate_run(run, "test", "all").mean_prediction is None
    assert "mean prediction" not in evaluated(run)


def test_json_has_the_median_and_the_warnings(run: Run) -> None:
    set_result(run, 1, valid_mae=0.99)
    found = json.loads(evaluated(run, "--json"))
    assert found["median"]["metrics"]["corr"] is None
    assert found["warnings"][0].startswith("seeds 1, 2 did not learn")


def test_the_doctor_remarks_on_it(run: Run) -> None:
    set_result(run, 1, valid_mae=0.99)
    found = examine_named(str(run.path), run.path, Workspace(run.path.parents[1]), Observer())
    (finding,) = [one for one in found if "did not learn" in one.what]
    assert finding.severity == "remark"


def test_a_run_of_version_1_did_not_store_the_median(tmp_path: Path) -> None:
    root = Path(shutil.copytree(VERSION_1, tmp_path / "space"))
    run = next(one for one in map(Run, (root / "runs").iterdir()) if one.record.stage == "finetune")
    assert evaluate_run(run, "test", "all").median is None
    assert "predicting the training median" not in evaluated(run)


@pytest.mark.parametrize("metrics", [{}, {"test": {"mae": 1.0}}, {"valid": []}, {"valid": {"mae": "1"}}])
def test_a_median_without_a_validation_mae_raises_no_doubt(run: Run, metrics: object) -> None:
    path = run.seed_folder(1) / "result.json"
    result = json.loads(path.read_text())
    write_json(path, {**result, "median": {"score": 0.0, "metrics": metrics}, "best_epoch": 1, "epochs": 2})
    assert learning_warnings(run, [1]) == []
