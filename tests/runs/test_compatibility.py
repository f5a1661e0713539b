"""What version 1 wrote stays readable, and the losses stay the same: see tests/fixtures/make_version_1.py."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_support import finetune

from conki_cli.config.resolving import resolve, stage_one, version_1_stage_one
from conki_cli.config.sections import RunConfig
from conki_cli.data.store.describing import describe
from conki_cli.data.store.reading import FeatureStore
from conki_cli.experiments.prediction import predict_new
from conki_cli.model.inputs import open_inputs
from conki_cli.runs import Run, Runs, digest_of, evaluate_run
from conki_cli.system.environment import choose_device
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training import loop as training
from conki_cli.training.jobs import Job, build_model

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "version_1"


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
            job = Job(stage, Run(root), inputs, str(root / "encoder"), choose_device("cpu"), Observer())
            progress, plan = training.start(build_model(job, 1, None), stage), training.schedule_of(stage, 1)
            train = inputs.batches("train", batch_size=plan.batch_size, seed=1)
            valid = inputs.batches("valid", batch_size=plan.batch_size)
            for epoch in training.fit(progress, train, valid, plan, device=job.device, observer=Observer()):
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
    states = {entry["kind"]: entry["state"] for entry in Runs(copied).described()}
    assert states == {"pretrain": "finished", "finetune": "finished"}
    metrics = evaluate_run(fine_tuned(copied), "test", "all").metrics
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
        if recipe == "released" and "contrast" in theirs:  # its mean was divided by the batch's 4 clips once more
            theirs = {**theirs, "contrast_per_sample": 4 * theirs["contrast_per_sample"]}
        assert ours == pytest.approx(theirs, rel=1e-4 if dropout else 1e-5)


def test_the_configuration_of_version_1_is_still_complete(copied: Workspace) -> None:
    config = fine_tuned(copied).config
    expected = tiny_config(Path(config.model.text_encoder), "paper").with_values("model", drop=("handover",))
    assert dataclasses.replace(config, run=expected.run) == expected


DIGESTS = {
    # recipe and switches: digest of the run and of its stage 1, as version 1 gave them
    "paper -": ("f28d674b", "cb72b928"),
    "paper C1": ("9a99540a", "-"),
    "paper C2": ("80471001", "-"),
    "paper C3": ("92ee1b4d", "73f38f54"),
    "paper C4": ("3b0e9c71", "cb72b928"),
    "paper N1": ("85e3422a", "cb72b928"),
    "paper T": ("021bd293", "151eda13"),
    "paper plain-transfer": ("80273c15", "468ac5cb"),
    "paper C1+C2": ("80471001", "-"),
    "paper C2+C4": ("c3bf9916", "-"),
    "paper plain-transfer+T": ("86c8eadb", "61ca6ba6"),
    "released -": ("8d3e8dc6", "c833215a"),
    "released C1": ("f9c45fb1", "-"),
    "released C2": ("c6f03db5", "eb87f31b"),
    "released C3": ("45e1aa44", "f9d8353a"),
    "released C4": ("749237dd", "c833215a"),
    "released N1": ("ed7d6067", "c833215a"),
    "released T": ("4b564f89", "4aa2ba9a"),
    "released plain-transfer": ("e7f69a28", "19b80b1d"),
    "released C1+C2": ("0632d8ef", "-"),
    "released C2+C4": ("9e2c4746", "eb87f31b"),
    "released plain-transfer+T": ("6ea74dbd", "535c4c63"),
}
"""Recipe `paper` of version 1 handed over the adapters alone, `released` the whole of stage 1."""


@pytest.mark.parametrize("key", DIGESTS)
def test_a_configuration_of_version_1_has_the_digest_it_had(key: str) -> None:
    recipe, switches = key.split()
    start = {"paper": "adapters", "released": "all"}[recipe]
    flags = {"data.dataset": "own", "data.external": "other", "model.text_encoder": "demo", "run.recipe": recipe}
    drop = () if switches == "-" else tuple(switches.split("+"))
    config = resolve(flags=flags, assignments=[f"model.start_from={start}"], extra_drop=drop)
    first = version_1_stage_one(config) if config.dropped("handover") else stage_one(config)
    assert (digest_of(config), digest_of(first) if config.needs_pretraining else "-") == DIGESTS[key]


def test_an_unfinished_run_of_version_1_continues_from_its_own_stage_1(copied: Workspace) -> None:
    run = fine_tuned(copied)
    (run.seed_folder(1) / "result.json").unlink()
    config = run.config.with_values("model", text_encoder=str(copied.root / "encoder"))
    before = {path.name for path in copied.runs.iterdir()}
    finetune(config, copied, Observer())
    assert {path.name for path in copied.runs.iterdir() if not path.name.startswith(".")} == before
    assert run.is_finished


def fine_tuned(workspace: Workspace) -> Run:
    return next(run for run in map(Run, workspace.runs.iterdir()) if run.record.stage == "finetune")
