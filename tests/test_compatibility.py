"""What version 1 wrote stays readable, and the losses stay the same: see tests/fixtures/make_version_1.py."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conki_cli import training
from conki_cli.batches import open_inputs
from conki_cli.config.resolving import resolve, stage_one
from conki_cli.config.sections import RunConfig
from conki_cli.environment import choose_device
from conki_cli.experiments import predict_new
from conki_cli.runs import Run, describe_runs, evaluate_run
from conki_cli.stages import Job, build_model
from conki_cli.store import FeatureStore, describe
from conki_cli.workspace import Reporter, Workspace

VERSION_1 = Path(__file__).parent / "fixtures" / "version_1"


def tiny_config(encoder: Path, recipe: str) -> RunConfig:
    settings = ["pretraining.num_epochs=2", "pretraining.batch_size=4", "pretraining.learning_rate=1e-3"]
    settings += ["optimizer.num_epochs=2", "optimizer.batch_size=4", "optimizer.lr_encoders=1e-3"]
    flags = {
        "data.dataset": "tiny",
        "data.external": "tiny-external",
        "model.text_encoder": str(encoder),
        "run.recipe": recipe,
        "run.device": "cpu",
    }
    return resolve(assignments=[*settings, "optimizer.lr_others=2e-3"], flags=flags)


NO_DROPOUT = {"dropout": 0.0, "adapter_dropout": 0.0, "gate_dropout": 0.0}


def losses_of(root: Path, recipe: str, *, dropout: bool) -> list[dict[str, float]]:
    """Train both stages of a recipe on the fixture's stores, each from its own start; every term of every epoch."""
    config = tiny_config(root / "encoder", recipe)
    if not dropout:
        config = config.with_values("model", **NO_DROPOUT)
        file = root / "encoder" / "config.json"
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        file.write_text(json.dumps({**json.loads(file.read_text()), **off}))
    found = []
    for stage in (stage_one(config), config):
        with (
            FeatureStore(root / "features" / "tiny.h5") as target,
            FeatureStore(root / "features" / "tiny-external.h5") as external,
        ):
            inputs = open_inputs(stage, target, external, str(root / "encoder"))
            job = Job(stage, Run(root), inputs, str(root / "encoder"), choose_device("cpu"), Reporter())
            progress, plan = training.start(build_model(job, 1, None), stage), training.plan_of(stage, 1)
            train = inputs.batches("train", batch_size=plan.batch_size, seed=1)
            valid = inputs.batches("valid", batch_size=plan.batch_size)
            for epoch in training.fit(progress, train, valid, plan, device=job.device, reporter=Reporter()):
                found.append({**epoch.losses, "mae": epoch.metrics["mae"]})
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return dict(json.loads((VERSION_1 / "expected.json").read_text()))


@pytest.fixture
def copied(tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(VERSION_1, tmp_path / "version_1")))


def test_a_store_of_version_1_reads_as_it_was_written(copied: Workspace, expected: dict[str, Any]) -> None:
    with FeatureStore(copied.store("tiny")) as store:
        found = describe(store)
    assert {key: found[key] for key in expected["store"]} == expected["store"]


def test_a_run_of_version_1_is_listed_and_evaluated(copied: Workspace, expected: dict[str, Any]) -> None:
    states = {entry["kind"]: entry["state"] for entry in describe_runs(copied)}
    assert states == {"pretrain": "finished", "finetune": "finished"}
    metrics = evaluate_run(fine_tuned(copied), "test", "all")["metrics"]
    assert metrics["mae"]["values"] == pytest.approx(expected["metrics"]["mae"]["values"], abs=1e-9)


def test_a_run_of_version_1_predicts_what_it_predicted_then(copied: Workspace, expected: dict[str, Any]) -> None:
    with FeatureStore(copied.store("tiny")) as store:
        found = predict_new(fine_tuned(copied), store.split("test"), "cpu")
    assert [clip["prediction"] for clip in found["clips"]] == pytest.approx(expected["predictions"], abs=1e-5)


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("dropout", [False, True])
def test_the_losses_stay_the_same(copied: Workspace, expected: dict[str, Any], recipe: str, dropout: bool) -> None:
    # Without dropout: as before sequences were packed (0.3), which changed where dropout's masks fall.
    known = expected["losses" if dropout else "losses_without_dropout"][recipe]
    found = losses_of(copied.root, recipe, dropout=dropout)
    assert len(found) == len(known) == 4
    for ours, theirs in zip(found, known, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4 if dropout else 1e-5)


def test_the_configuration_of_version_1_is_still_complete(copied: Workspace) -> None:
    config = fine_tuned(copied).config
    assert dataclasses.replace(config, run=tiny_config(Path(), "paper").run) == dataclasses.replace(
        tiny_config(Path(config.model.text_encoder), "paper"), run=tiny_config(Path(), "paper").run
    )


def fine_tuned(workspace: Workspace) -> Run:
    return next(run for run in map(Run, workspace.runs.iterdir()) if run.result["stage"] == "finetune")
