"""`--limit N`: a quick look with a part of the clips, which every table says."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import MakeConfig, Trained
from run_support import finetune, pretrain
from typer.testing import CliRunner

from conki_cli.cli import app
from conki_cli.data.store.reading import FeatureStore
from conki_cli.doctor import examine
from conki_cli.runs import read_predictions
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

QUICK = ("optimizer.num_epochs=1", "pretraining.num_epochs=1", "data.limit=4")


def test_the_clips_of_a_limit_are_spread_evenly_over_the_split(workspace: Workspace) -> None:
    with FeatureStore(workspace.store("tiny")) as store:
        whole = store.split("train")
        part = whole.limited(4)
        assert len(whole) == 13
        assert part.ids == [whole.ids[i] for i in (0, 4, 8, 12)]
        assert part.scores.tolist() == [whole.scores[i] for i in (0, 4, 8, 12)]
        for name, rows in part.frames.items():
            assert rows.lengths.tolist() == [len(rows[i]) for i in range(4)]
            assert all(np.array_equal(rows[i], whole.frames[name][4 * i]) for i in range(4))
        assert whole.limited(0) is whole.limited(13) is whole


def test_a_limit_of_a_limit_picks_among_its_clips(workspace: Workspace) -> None:
    with FeatureStore(workspace.store("tiny")) as store:
        whole = store.split("train")
        part = whole.limited(4).limited(2)
        assert part.ids == [whole.ids[0], whole.ids[12]]
        assert part.picked.tolist() == [0, 12]
        for name, rows in part.frames.items():
            assert rows.lengths.tolist() == [len(rows[i]) for i in range(2)]
            assert all(np.array_equal(rows[i], whole.frames[name][12 * i]) for i in range(2))


def test_a_run_with_a_limit_learns_and_predicts_these_clips_alone(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    run = finetune(tiny_config("", *QUICK), workspace, Observer())
    with FeatureStore(workspace.store("tiny")) as store:
        assert read_predictions(run.predictions_path(1, "test")).ids == store.split("test").limited(4).ids
    assert run.record.metrics["test"]["mae"]["mean"] >= 0
    assert run.seed_result(1).metrics["valid"]["n"] == 4
    assert [finding for finding in examine(workspace, Observer()) if finding.severity == "fault"] == []


def test_a_limit_is_part_of_the_settings_and_of_stage_1(workspace: Workspace, tiny_config: MakeConfig) -> None:
    whole, part = (pretrain(tiny_config("", *QUICK[:2], *more), workspace, Observer()) for more in ((), QUICK[2:]))
    assert whole.path != part.path


def test_every_table_says_that_a_limit_was_used(workspace: Workspace, encoder: Path) -> None:
    def conki(*words: str) -> Any:
        env = {"CONKI_WORKSPACE": str(workspace.root), "COLUMNS": "200", "FORCE_COLOR": None}
        return CliRunner().invoke(app, words, env=env)

    options = ["--dataset", "tiny", "--external", "none", "--encoder", str(encoder), "--epochs", "1", "--limit", "4"]
    trained = conki("finetune", *options, "--drop", "V+A", "--device", "cpu", "--name", "quick")
    assert trained.exit_code == 0, trained.stderr
    assert "a quick look: at most 4 clips of each split were used (--limit)" in trained.stdout
    assert "a quick look" in conki("evaluate", "quick").stdout
    split = conki("evaluate", "quick", "--split", "train", "--json")
    assert json.loads(split.stdout)["n"] == 4


def test_a_limit_is_in_the_csv_and_in_the_list_of_runs_and_keeps_runs_apart(
    copied: Workspace, trained: Trained, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run = finetune(tiny_config("", *QUICK), copied, Observer())
    env = {"CONKI_WORKSPACE": str(copied.root), "COLUMNS": "200", "FORCE_COLOR": None}
    found = CliRunner().invoke(app, ["evaluate", run.name, "--export", str(tmp_path / "t.csv")], env=env)
    assert found.exit_code == 0, found.stderr
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["limit"] for row in rows if row["run"] == run.name} == {"4"}
    assert f"{run.name} (4 clips)" in CliRunner().invoke(app, ["runs"], env=env).stdout
    refused = CliRunner().invoke(app, ["compare", run.name, trained.run.name], env=env)
    assert "used --limit 4 and run" in refused.stderr
