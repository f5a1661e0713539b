"""One stage of one configuration: what it hands over, keeps, continues and loads back."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HIDDEN_SIZE, MakeConfig, Notes, OpenJob, Trained, content, equal_bits
from run_support import finetune, pretrain, slowly

from conki_cli.data.store.reading import FeatureStore
from conki_cli.experiments.prediction import predict_split
from conki_cli.runs import Run, read_predictions
from conki_cli.system.environment import choose_device
from conki_cli.system.errors import ConkiError, EncoderError, RunError, SettingsError, StoreError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training import checkpoint
from conki_cli.training.evaluation import predict
from conki_cli.training.inference import load_model, predict_utterances
from conki_cli.training.jobs import Job, build_model

CPU = torch.device("cpu")


def seed_log(run: Run) -> list[dict[str, object]]:
    """Return metrics.jsonl without the seconds."""
    lines = (run.seed_folder(1) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def assert_same_run(one: Run, other: Run) -> None:
    for name in ("best", "last", "frozen"):
        assert one.checkpoint(1, name).exists() == other.checkpoint(1, name).exists()
        if one.checkpoint(1, name).exists():
            assert equal_bits(content(one.checkpoint(1, name)), content(other.checkpoint(1, name))), name
    assert seed_log(one) == seed_log(other)
    for path in (one.seed_folder(1) / "predictions").iterdir():
        assert path.read_bytes() == other.predictions_path(1, path.stem).read_bytes()


def run_folders(workspace: Workspace) -> list[Path]:
    return [path for path in workspace.runs.glob("*") if path.is_dir()]


# --- from stage 1 to stage 2 -----------------------------------------------------------------------------------


def reseeded(first: Run, folder: Path) -> Run:
    """Copy seed 1 of a stage 1 as if it were seed 7, whose random weights are others."""
    shutil.copytree(first.seed_folder(1), folder / "seed-7")
    best = folder / "seed-7" / "checkpoints" / "best.safetensors"
    tensors, facts = checkpoint.load(best)
    checkpoint.save(best, tensors, {**facts, "seed": 7})
    return Run(folder)


def handed(job: Job, trained: Trained, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return a stage-2 network's first weights and everything the stage-1 run stored."""
    stored = {**content(trained.first.checkpoint(1, "best")), **content(trained.first.checkpoint(1, "frozen"))}
    return build_model(job, 7, reseeded(trained.first, folder)).state_dict(), stored


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], prefix: str) -> list[bool]:
    return [torch.equal(one[name], other[name]) for name in other if name.startswith(prefix) and name in one]


def test_stage_2_starts_from_the_whole_of_stage_1(trained: Trained, open_job: OpenJob, tmp_path: Path) -> None:
    state, stored = handed(open_job(trained.config), trained, tmp_path)
    for prefix in ("adapters.", "encoders.vision.", "encoders.audio.", "inner.", "fusion.", "head."):
        assert same(state, stored, prefix)
        assert all(same(state, stored, prefix))


def test_without_handover_fusion_and_head_start_fresh_in_stage_2(
    trained: Trained, tiny_config: MakeConfig, open_job: OpenJob, tmp_path: Path
) -> None:
    state, stored = handed(open_job(tiny_config("handover")), trained, tmp_path)
    assert all(same(state, stored, "adapters."))
    for prefix in ("inner.", "fusion.squeeze.", "head."):
        assert not any(same(state, stored, prefix))


def test_the_bridge_is_dropped_after_stage_1(trained: Trained, open_job: OpenJob, tmp_path: Path) -> None:
    state, stored = handed(open_job(trained.config), trained, tmp_path)
    assert [name for name in stored if name.startswith("bridges.")] == ["bridges.vision.bias", "bridges.vision.weight"]
    assert stored["bridges.vision.weight"].shape == (5, 4)
    assert not [name for name in state if name.startswith("bridges.")]
    assert state["encoders.vision.projection.weight"].shape == (HIDDEN_SIZE, 5)


def test_a_stage_1_that_trains_the_encoders_hands_them_over(
    workspace: Workspace, tiny_config: MakeConfig, open_job: OpenJob, tmp_path: Path
) -> None:
    config = tiny_config("", "pretraining.num_epochs=1", "pretraining.lr_encoders=1e-3")
    first = pretrain(config, workspace, Observer())
    stored = content(first.checkpoint(1, "best"))
    state = build_model(open_job(config), 7, reseeded(first, tmp_path)).state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in state.items())
    fresh = build_model(open_job(tiny_config("C1")), 7, None).state_dict()
    assert not all(same(fresh, stored, "encoders.text."))


def test_adapters_with_a_rate_of_their_own_train_in_stage_2(trained: Trained, open_job: OpenJob) -> None:
    config = trained.config.with_values("optimizer", lr_adapters=1e-4)
    model = build_model(open_job(config), 1, trained.first)
    groups = model.parameter_groups(config, "main")
    slow = {id(p) for group in groups if group.learning_rate == 1e-4 for p in group.parameters}
    assert slow == {id(p) for p in model.adapters.parameters()}
    assert not any(module in model.frozen for module in model.adapters.values())


def test_without_adapters_fusion_and_head_are_still_handed_over(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config("C2+T", "pretraining.num_epochs=1", "optimizer.num_epochs=1", recipe="released")
    run, notes = finetune(config, workspace), Notes()
    first = pretrain(config, workspace, notes)
    assert run.seed_result(1).stage_1 == first.name
    assert first.config.model.drop == ("C2", "T")
    names = list(content(first.checkpoint(1, "best")))
    assert not [name for name in names if name.startswith("adapters.")]
    assert "fusion.norm.running_mean" in names


def test_plain_transfer_hands_over_everything(
    workspace: Workspace, tiny_config: MakeConfig, open_job: OpenJob, tmp_path: Path
) -> None:
    config = tiny_config("plain-transfer", "pretraining.num_epochs=1")
    first = pretrain(config, workspace, Observer())
    stored = content(first.checkpoint(1, "best"))
    state = build_model(open_job(config), 7, reseeded(first, tmp_path)).state_dict()
    assert state.keys() == {name for name in stored if not name.startswith("bridges.")}
    assert all(torch.equal(value, stored[name]) for name, value in state.items())
    assert not first.checkpoint(1, "frozen").exists()


def test_without_external_data_there_is_no_stage_1(workspace: Workspace, tiny_config: MakeConfig) -> None:
    run = finetune(tiny_config("C1+T", "optimizer.num_epochs=1"), workspace)
    assert [path.name for path in workspace.runs.iterdir() if path.is_dir()] == [run.name]
    assert run.seed_result(1).stage_1 is None
    with pytest.raises(SettingsError, match=r"w/o C1\+T with external none has no stage 1"):
        pretrain(run.config, workspace, Observer())


# --- what is stored --------------------------------------------------------------------------------------------


def test_weights_that_a_stage_froze_are_stored_once(trained: Trained) -> None:
    frozen, best = content(trained.run.checkpoint(1, "frozen")), content(trained.run.checkpoint(1, "best"))
    assert {name.split(".")[0] for name in frozen} == {"adapters"}
    assert not frozen.keys() & best.keys()
    assert not frozen.keys() & content(trained.run.checkpoint(1, "last")).keys()


def test_stage_1_stores_its_random_frame_encoders_and_not_the_pretrained_text_encoder(trained: Trained) -> None:
    frozen = content(trained.first.checkpoint(1, "frozen"))
    assert {".".join(name.split(".")[:2]) for name in frozen} == {"encoders.vision", "encoders.audio"}
    stored = {**frozen, **content(trained.first.checkpoint(1, "best"))}
    assert not [name for name in stored if name.startswith("encoders.text")]


def test_a_finished_last_holds_no_optimiser_state(trained: Trained) -> None:
    for run in (trained.first, trained.run):
        for seed in (1, 2):
            assert content(run.checkpoint(seed, "last")).keys() == content(run.checkpoint(seed, "best")).keys()


def test_the_size_on_disk_is_announced_before_training(trained: Trained) -> None:
    said = [line for line in trained.lines if line.startswith("ConKI, stage 2 on tiny")]
    assert len(said) == 2
    assert "(text, vision, audio), seed 1" in said[0]
    assert "checkpoints take" in said[0]
    assert "while training" in said[0]


def test_a_disk_too_small_is_said_before_training(
    workspace: Workspace, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ConkiError, match=r"checkpoints need .* and 1 B are free below"):
        finetune(tiny_config("C1+T"), workspace)
    assert run_folders(workspace) == []


def test_a_frozen_text_encoder_is_counted_as_long_as_the_run_does_not_keep_it(
    workspace: Workspace, tiny_config: MakeConfig, encoder: Path
) -> None:
    notes = Notes()
    lines = ("model.name=lmf", "data.external=none", "optimizer.num_epochs=1", "optimizer.patience=0")
    run = finetune(tiny_config("", *lines, seeds=(1, 2)), workspace, notes)
    said = [re.search(r"([\d.]+) KiB afterwards", line) for line in notes.lines]
    first, second = [float(found[1]) for found in said if found]
    kept = sum(tensor.nbytes for tensor in content(run.path / "encoder" / "frozen.safetensors").values())
    assert first - second == pytest.approx(kept / 1024, abs=0.2)
    assert kept > 20_000


# --- interrupted and continued ---------------------------------------------------------------------------------


def test_an_interrupted_stage_2_continues_to_the_same_bits(
    trained: Trained, workspace: Workspace, tiny_config: MakeConfig
) -> None:
    shutil.copytree(trained.first.path, workspace.runs / trained.first.name)
    config, notes = tiny_config(), Notes()
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 2/2"))
    (unfinished,) = (run for run in workspace.runs.iterdir() if run.is_dir() and run.name != trained.first.name)
    tensors = content(Run(unfinished).checkpoint(1, "last"))
    assert [name for name in tensors if name.startswith("optimizer.")]
    run = finetune(config, workspace, notes)
    assert f"{run.path} is unfinished: seed 1 resumes after epoch 1" in notes.lines
    assert_same_run(run, trained.run)


def test_an_interrupted_stage_1_continues_to_the_same_bits(
    trained: Trained, workspace: Workspace, tiny_config: MakeConfig
) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_config(), workspace, Notes(interrupt_at="epoch 2/2"))
    first = pretrain(tiny_config(), workspace, Observer())
    assert_same_run(first, trained.first)


def test_an_interruption_in_the_first_epoch_begins_again(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config("C1+T", "optimizer.num_epochs=1")
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 1/1"))
    run = finetune(config, workspace)
    assert [line["epoch"] for line in seed_log(run)] == [1]


def test_an_interruption_after_the_last_epoch_only_finishes(workspace: Workspace, tiny_config: MakeConfig) -> None:
    run = finetune(tiny_config("C1+T"), workspace)
    before = {name: content(run.checkpoint(1, name)) for name in ("best", "last")}
    log = seed_log(run)
    (run.seed_folder(1) / "result.json").unlink()
    finetune(tiny_config("C1+T"), workspace)
    assert seed_log(run) == log
    assert all(equal_bits(content(run.checkpoint(1, name)), tensors) for name, tensors in before.items())


def test_what_a_killed_process_left_in_a_run_is_swept(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config("C1+C2", "data.external=none")
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 2/2"))
    (run,) = workspace.runs.glob("tiny-*")
    (run / "encoder" / ".encoder.1.part").mkdir()
    for folder in (run, run / "encoder" / ".encoder.1.part", run / "seed-1" / "checkpoints"):
        (folder / ".result.json.1.part").write_text("{")
    finetune(config, workspace)
    assert list(workspace.runs.rglob("*.part")) == []


def test_a_torn_line_of_the_log_is_dropped(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config("C1+T")
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 2/2"))
    (path,) = workspace.runs.glob("*/seed-1/metrics.jsonl")
    path.write_text(path.read_text(encoding="utf-8") + '{"epoch": 2, "los', encoding="utf-8")
    assert [line["epoch"] for line in seed_log(finetune(config, workspace))] == [1, 2]


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"", b'{"epoch": 2}\n["epoch"]\n{"epoch": true}\n', b"[" * 9999, None]
)
def test_a_log_that_was_damaged_is_continued_and_its_gap_is_said(
    content: bytes | None, workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config, notes = tiny_config("C1+T"), Notes()
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 2/2"))
    (path,) = workspace.runs.glob("*/seed-1/metrics.jsonl")
    path.unlink() if content is None else path.write_bytes(content)
    assert [line["epoch"] for line in seed_log(finetune(config, workspace, notes))] == [2]
    assert f"{path} was damaged and lacks epochs 1; the weights are not affected" in notes.lines


def test_the_whole_lines_of_a_damaged_log_are_kept(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config, notes = tiny_config("C1+T", "optimizer.num_epochs=3"), Notes()
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 3/3"))
    (path,) = workspace.runs.glob("*/seed-1/metrics.jsonl")
    path.write_bytes(b"\xff\xfe\n" + path.read_bytes().partition(b"\n")[2])
    assert [line["epoch"] for line in seed_log(finetune(config, workspace, notes))] == [2, 3]
    assert [line for line in notes.lines if "lacks epochs 1; " in line]


# --- loaded back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_loaded_model_predicts_what_it_predicted_while_training(trained: Trained, split: str) -> None:
    stored = read_predictions(trained.run.predictions_path(2, split))
    with FeatureStore(trained.workspace.store("tiny")) as store:
        found = predict_utterances(trained.run, store.split(split), CPU)
    np.testing.assert_allclose(found[2], stored.predictions, atol=1e-6)


def test_a_run_predicts_with_its_encoder_folder_gone(
    workspace: Workspace, tiny_config: MakeConfig, encoder: Path, tmp_path: Path
) -> None:
    shutil.copytree(encoder, tmp_path / "bert")
    config = tiny_config("C1+V+A", f"model.text_encoder={tmp_path / 'bert'}", "optimizer.num_epochs=1")
    run = finetune(config, workspace)
    shutil.rmtree(tmp_path / "bert")
    stored = read_predictions(run.predictions_path(1, "test"))
    with FeatureStore(workspace.store("tiny")) as store:
        found = predict_utterances(run, store.split("test"), CPU)
    np.testing.assert_allclose(found[1], stored.predictions, atol=1e-6)


def test_the_weights_of_stage_2_are_those_of_the_best_epoch(trained: Trained, open_job: OpenJob) -> None:
    job = open_job(trained.config)
    model = load_model(trained.run, 1, CPU)
    mae = trained.run.seed_result(1).metrics["valid"]["mae"]
    batches = job.inputs.batches("valid", batch_size=4)
    errors = np.abs(predict(model, batches, CPU) - batches.scores())
    assert float(errors.mean()) == pytest.approx(mae, abs=1e-6)
    assert mae == min(line["validation"]["mae"] for line in seed_log(trained.run))


def test_clips_of_another_feature_width_are_refused(trained: Trained) -> None:
    with (
        FeatureStore(trained.workspace.store("tiny-external")) as store,
        pytest.raises(RunError, match="reads vision frames of width 5, these clips have width 4"),
    ):
        predict_utterances(trained.run, store.split("test"), CPU)


def test_a_stage_1_run_predicts_nothing(trained: Trained) -> None:
    with pytest.raises(RunError, match="is a stage-1 run, which hands over adapters and cannot predict"):
        load_model(trained.first, 1, CPU)


def test_an_unfinished_seed_is_not_loaded(trained: Trained) -> None:
    with pytest.raises(RunError, match=r"seed 9 of run .* is not finished"):
        load_model(trained.run, 9, CPU)


@pytest.mark.parametrize("name", ["best", "frozen"])
def test_a_lost_checkpoint_is_one_line(trained: Trained, tmp_path: Path, name: str) -> None:
    shutil.copytree(trained.run.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.checkpoint(1, name).unlink()
    with pytest.raises(RunError, match=r"is missing|lack adapters") as error:
        load_model(run, 1, CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cache", slowly(["fp32", "fp16", "off"], ["fp16"]))
def test_a_frozen_encoders_predictions_come_out_again_to_the_last_bit(
    cache: str, workspace: Workspace, tiny_config: MakeConfig
) -> None:
    lines = ("model.name=tfn", "data.external=none", "optimizer.num_epochs=1", "optimizer.patience=0")
    run = finetune(tiny_config("", *lines, cache=cache), workspace)
    path = run.predictions_path(1, "test")
    stored = path.read_bytes()
    path.unlink()
    predict_split(run, "test", workspace, Observer())
    assert path.read_bytes() == stored


def test_what_a_frozen_encoder_says_is_read_from_where_it_is_kept(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    lines = ("model.name=tfn", "data.external=none", "optimizer.num_epochs=1", "optimizer.patience=0")
    run = finetune(tiny_config("", *lines), workspace)
    for path in (workspace.root / "frozen").glob("*-test-*.h5"):
        path.write_bytes(b"")
    with pytest.raises(StoreError, match=r"frozen/tiny-test-.*\.h5 is damaged"):
        predict_split(run, "test", workspace, Observer())


# --- encoders --------------------------------------------------------------------------------------------------


@pytest.fixture
def without_pooler(encoder: Path, tmp_path: Path) -> Path:
    """A tiny DistilBERT, which has no pooler, with the tiny tokenizer."""
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    folder = tmp_path / "distilbert"
    sizes = DistilBertConfig(vocab_size=40, dim=HIDDEN_SIZE, n_layers=2, n_heads=2, hidden_dim=32)
    DistilBertModel(sizes).save_pretrained(str(folder))
    for path in encoder.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def test_an_encoder_without_a_pooler_gets_one_that_travels_with_the_run(
    workspace: Workspace, tiny_config: MakeConfig, open_job: OpenJob, without_pooler: Path, tmp_path: Path
) -> None:
    lines = (f"model.text_encoder={without_pooler}", "pretraining.num_epochs=1", "optimizer.num_epochs=1")
    config = tiny_config("V+A", *lines)
    run = finetune(config, workspace)
    first = pretrain(config, workspace, Observer())
    kept = content(first.checkpoint(1, "frozen"))
    assert list(kept) == ["encoders.text.pooler.bias", "encoders.text.pooler.weight"]
    job = open_job(config)
    job = Job(config, run, job.inputs, str(without_pooler), CPU, Observer())
    start = build_model(job, 7, None).state_dict()  # another random pooler
    assert not torch.equal(start["encoders.text.pooler.weight"], kept["encoders.text.pooler.weight"])
    begun = build_model(job, 7, reseeded(first, tmp_path)).state_dict()
    assert all(torch.equal(begun[name], value) for name, value in kept.items())
    assert "encoders.text.pooler.weight" in content(run.checkpoint(1, "best"))
    assert load_model(run, 1, CPU).fresh_text == {"encoders.text.pooler.weight", "encoders.text.pooler.bias"}


def test_without_text_the_encoders_weights_are_not_needed(
    workspace: Workspace, tiny_config: MakeConfig, encoder: Path, tmp_path: Path
) -> None:
    shutil.copytree(encoder, tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    lines = (f"model.text_encoder={tmp_path / 'bert'}", "optimizer.num_epochs=1")
    run = finetune(tiny_config("C1+T", *lines), workspace)
    assert load_model(run, 1, CPU).architecture.width == HIDDEN_SIZE
    with pytest.raises(EncoderError, match="weights in safetensors"):
        finetune(tiny_config("C1+V", *lines), workspace)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(SettingsError, match="needs a usable NVIDIA GPU, but none was found: give --device cpu"):
        choose_device("cuda")


def test_auto_and_cpu_always_give_a_device() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x", "../cpu"])
def test_a_device_that_torch_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="--device must be auto, cpu, cuda"):
        choose_device(name)


def test_a_device_needs_a_machine_that_has_it() -> None:
    with pytest.raises(SettingsError, match=r"--device cpu:7 must exist, found 1 cpu device"):
        choose_device("cpu:7")
    if not torch.xpu.is_available():
        with pytest.raises(SettingsError, match="--device xpu:0 needs a usable Intel GPU, but none was found"):
            choose_device("xpu:0")
