"""Stage 1 on several external data sets: how they are written, mixed, bridged, rescaled, selected by and resumed."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FOURS, MakeConfig, Notes, OpenJob, Trained, content, equal_bits, make_corpus
from run_support import finetune, pretrain

from conki_cli.config.externals import canonical_external, external_weights
from conki_cli.config.resolving import from_toml
from conki_cli.config.sections import MODELS
from conki_cli.data.store.writing import write_store
from conki_cli.experiments.forecast import describe_plan
from conki_cli.experiments.planning import make_plan
from conki_cli.model.absence import _STREAM
from conki_cli.model.mixing import _AGAIN, _ORDER, MixedBatches
from conki_cli.runs import Runs, digest_of
from conki_cli.system.errors import SettingsError, StoreError
from conki_cli.system.workspace import Workspace
from conki_cli.training.jobs import build_model
from conki_cli.training.steps import Shelf

BOTH = "data.external=tiny-external+tiny-second"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> Path:
    """The two stores, and a second external one whose scores lie in -1..1; both external sets need a bridge."""
    folder = tmp_path_factory.mktemp("several") / "features"
    shutil.copytree(stores, folder)
    corpus = make_corpus("tiny-second", (9, 4, 3), seed=3, longest=7)
    splits = {name: [replace(clip, score=clip.score / 3) for clip in clips] for name, clips in corpus.splits.items()}
    write_store(folder / "tiny-second.h5", replace(corpus, splits=splits, score_range=(-1.0, 1.0)))
    return folder


def test_shuffling_again_draws_other_numbers_than_what_else_is_drawn_in_an_epoch() -> None:
    streams = [[1, 5 + _AGAIN], [1, 5 + _AGAIN * _ORDER], [1, 5], [1, 5, _STREAM], [1, 5, _ORDER]]
    assert len({np.random.default_rng(words).random() for words in streams}) == len(streams)


@pytest.fixture(scope="module")
def both(stores: Path, tiny_config: MakeConfig) -> Trained:
    """ConKI after a stage 1 on both external sets."""
    space, notes = Workspace(stores.parent), Notes()
    config = tiny_config("", BOTH, *FOURS)
    run = finetune(config, space, notes)
    return Trained(space, config, pretrain(config, space, Notes()), run, notes.lines)


# --- how they are written ----------------------------------------------------------------------------------------


def test_equal_experiments_are_written_alike() -> None:
    assert canonical_external("sims+mosei") == "mosei+sims"
    assert canonical_external("mosei:2+sims:2.0") == canonical_external("mosei+sims:1")
    assert canonical_external("sims+mosei:2") == "mosei:2+sims:1"
    assert canonical_external("mosei:3") == "mosei"
    for text in ("mosei:1.0000001+sims", "mosei:1.00000049+sims:1.00000051", "mosei:1.23456789+sims:2"):
        assert canonical_external(once := canonical_external(text)) == once
    assert external_weights("mosei:2.5+sims") == {"mosei": 2.5, "sims": 1.0}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("mosei+mosei", "found mosei twice"),
        ("mosei+", "found an empty name in 'mosei\\+'"),
        ("none+mosei", "found none beside another"),
        ("mosei:0+sims", "weight of mosei must be a number from 0.001 to 1000, found '0'"),
        ("mosei:two+sims", "found 'two'"),
        ("mosei:nan+sims", "found 'nan'"),
        ("mosei:+sims", "found ''"),
    ],
)
def test_what_cannot_be_meant_is_refused(written: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        canonical_external(written)


def test_the_target_cannot_be_one_of_the_external_sets(tiny_config: MakeConfig) -> None:
    with pytest.raises(SettingsError, match="must differ from the target, found 'tiny' as both"):
        tiny_config("", "data.external=tiny-external+tiny")


def test_a_set_without_a_store_is_named(tiny_config: MakeConfig, workspace: Workspace) -> None:
    with pytest.raises(StoreError, match=r"no feature store .*nowhere\.h5.*prepare --dataset nowhere"):
        finetune(tiny_config("", "data.external=tiny-external+nowhere"), workspace)


def test_one_set_is_what_it_was(tiny_config: MakeConfig) -> None:
    assert tiny_config("", "data.external=tiny-external:4") == tiny_config()
    assert digest_of(tiny_config("", BOTH)) != digest_of(tiny_config())


# --- batches -----------------------------------------------------------------------------------------------------


def mixed(open_job: OpenJob, config_of: MakeConfig, external: str, seed: int | None = 1) -> MixedBatches:
    job = open_job(config_of("", f"data.external={external}", stage="pretrain"))
    found = job.inputs.batches("train", batch_size=3, seed=seed)
    assert isinstance(found, MixedBatches)
    return found


def test_with_equal_weights_an_epoch_visits_every_clip_of_both_sets_once(
    open_job: OpenJob, tiny_config: MakeConfig
) -> None:
    batches = mixed(open_job, tiny_config, "tiny-external+tiny-second")
    found = list(batches.epoch(4))
    assert len(found) == len(batches) == 8
    assert sorted(index for batch in found for index in batch.indices.tolist()) == list(range(24))
    for batch in found:
        assert {batches.utterances.ids[i].partition("/")[0] for i in batch.indices.tolist()} == {batch.source}
        assert torch.equal(batch.scores, torch.from_numpy(batches.scores(batch.indices.numpy())))


def test_weights_change_the_shares_and_not_the_length_of_an_epoch(open_job: OpenJob, tiny_config: MakeConfig) -> None:
    batches = mixed(open_job, tiny_config, "tiny-external+tiny-second:5")
    assert batches.shares() == {"tiny-external": 2, "tiny-second": 6}
    found = list(batches.epoch(1))
    assert Counter(batch.source for batch in found) == batches.shares()
    second = Counter(i for batch in found if batch.source == "tiny-second" for i in batch.indices.tolist())
    assert second == dict.fromkeys(range(15, 24), 2)
    assert mixed(open_job, tiny_config, "tiny-external:1000+tiny-second").shares() == {
        "tiny-external": 7,
        "tiny-second": 1,
    }


def test_the_order_follows_from_seed_and_epoch_alone(open_job: OpenJob, tiny_config: MakeConfig) -> None:
    def order(number: int, seed: int) -> list[list[int]]:
        batches = mixed(open_job, tiny_config, "tiny-external+tiny-second", seed)
        return [batch.indices.tolist() for batch in batches.epoch(number)]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(2, 1)
    assert order(1, 1) != order(1, 2)
    plain = mixed(open_job, tiny_config, "tiny-external+tiny-second", None)
    assert [i for batch in plain.epoch() for i in batch.indices.tolist()] == list(range(24))


def test_scores_of_every_set_are_in_the_range_of_the_target(open_job: OpenJob, tiny_config: MakeConfig) -> None:
    batches = mixed(open_job, tiny_config, "tiny-external+tiny-second")
    second = batches.parts["tiny-second"].utterances.scores
    assert second is not None
    assert abs(second).max() <= 1
    np.testing.assert_allclose(batches.scores()[batches.sets["tiny-second"]], 3 * second, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_bridges_each_set_and_modality_of_another_width(
    model: str, open_job: OpenJob, tiny_config: MakeConfig
) -> None:
    settings = () if model == "conki" else (f"model.name={model}",)
    epochs = ("optimizer.num_epochs=12", "pretraining.num_epochs=12")
    job = open_job(tiny_config("", BOTH, *settings, *epochs, stage="pretrain"))
    made = build_model(job, 1, None).eval()
    weights = {name: tuple(bridge.weight.shape) for name, bridge in made.bridges.items()}
    assert weights == {"tiny-external/vision": (5, 4), "tiny-second/audio": (3, 2)}
    batches = job.inputs.batches("train", batch_size=9, seed=1)
    outputs = {batch.source: made(batch).prediction for batch in batches.epoch(1)}
    assert {name: bool(torch.isfinite(found).all()) for name, found in outputs.items()} == dict.fromkeys(outputs, True)
    assert not [name for name in made.handed_over() if "bridges" in name]


# --- runs --------------------------------------------------------------------------------------------------------


def test_the_run_is_named_after_both_sets_and_knows_both_stores(both: Trained) -> None:
    assert both.first.name.startswith("pretrain-tiny-external+tiny-second-for-tiny-conki-")
    assert both.first.record.dataset == "tiny-external+tiny-second"
    assert set(both.run.record.data) == {"tiny", "tiny-external", "tiny-second"}
    assert from_toml(both.run.path / "config.toml").externals == ("tiny-external", "tiny-second")
    assert "every epoch has 7 batches: 4 of tiny-external and 3 of tiny-second" in both.lines
    assert sorted(path.name[:13] for path in (both.workspace.root / "frozen").glob("*.h5")) == [
        "tiny-external",
        "tiny-external",
        "tiny-second-t",
        "tiny-second-v",
    ]


def test_bridges_train_in_stage_1_and_stage_2_has_none(both: Trained) -> None:
    first, second = (content(run.checkpoint(1, "best")) for run in (both.first, both.run))
    assert sorted(name for name in first if "bridges" in name and "weight" in name) == [
        "bridges.tiny-external/vision.weight",
        "bridges.tiny-second/audio.weight",
    ]
    assert not [name for name in second if "bridges" in name]


def test_the_mean_of_the_external_validation_errors_selects(both: Trained) -> None:
    entries = [json.loads(line) for line in (both.first.seed_folder(1) / "metrics.jsonl").read_text().splitlines()]
    for entry in entries:
        found = entry["validation"]
        assert found["mae"] == pytest.approx((found["mae_tiny-external"] + found["mae_tiny-second"]) / 2)
    best = min(entries, key=lambda entry: entry["validation"]["mae"])
    assert both.first.seed_result(1).best_epoch == best["epoch"]
    with both.first.predictions_path(1, "valid").open() as file:
        rows = [(row["id"], float(row["score"]) - float(row["prediction"])) for row in csv.DictReader(file)]
    errors = [abs(error) for name, error in rows if name.startswith("tiny-second/")]
    assert len(rows) == 10
    assert best["validation"]["mae_tiny-second"] == pytest.approx(np.mean(errors), abs=1e-6)


def test_an_interrupted_stage_1_resumes_to_the_same_bits(both: Trained, tmp_path: Path, stores: Path) -> None:
    shutil.copytree(stores, tmp_path / "features")
    space = Workspace(tmp_path)
    config = both.config.with_values("run", checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, space, Notes(interrupt_at="epoch 2"))
    assert equal_bits(content(pretrain(config, space).checkpoint(1, "best")), content(both.first.checkpoint(1, "best")))


def test_a_dry_run_plans_both_stages_and_finds_them_finished(both: Trained) -> None:
    with Shelf() as shelf:
        plan = make_plan([both.config], Runs(both.workspace), Notes(), shelf=shelf, dry_run=True)
        found = describe_plan(plan)
        again = make_plan(
            [both.config.with_values("run", seeds=(1, 2))], Runs(both.workspace), Notes(), shelf=shelf, dry_run=True
        )
        left = [entry for entry in describe_plan(again)["steps"] if entry["state"] == "train"]
    assert [(entry["stage"], entry["state"]) for entry in found["steps"]] == [(1, "reuse"), (2, "reuse")]
    assert [(entry["stage"], entry["seed"]) for entry in left] == [(1, 2), (2, 2)]
    assert left[0]["parameters"] - left[1]["parameters"] == (4 * 5 + 5) + (2 * 3 + 3)
