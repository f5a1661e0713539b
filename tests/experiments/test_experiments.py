"""Plans of runs: what is trained, what is reused, how ablations and new clips are scored."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeConfig, Notes, Trained, content, equal_bits, make_corpus, resealed, rows_of
from run_support import ablate, finetune, pretrain, result_of

from conki_cli.config.resolving import resolve
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.writing import write_store
from conki_cli.experiments import comparisons as contests
from conki_cli.experiments import opening
from conki_cli.experiments.demo import demo_rows
from conki_cli.experiments.execution import train_all
from conki_cli.experiments.opening import ready_encoder
from conki_cli.experiments.prediction import predict_new, predict_split, read_new
from conki_cli.runs import Run, Runs, read_predictions
from conki_cli.system.errors import ConkiError, RunError, SettingsError, StoreError
from conki_cli.system.locks import locked
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

QUICK = ("pretraining.num_epochs=1", "optimizer.num_epochs=1")


ICCN = ("iccn.cca_epochs=0",)


def run_folders(workspace: Workspace) -> list[Path]:
    return [path for path in workspace.runs.glob("*") if path.is_dir()]


def stamps(workspace: Workspace) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in workspace.runs.rglob("*.safetensors")}


def test_the_same_command_trains_nothing_again(trained: Trained, copied: Workspace) -> None:
    before, notes = stamps(copied), Notes()
    run = finetune(trained.config, copied, notes)
    assert run.name == trained.run.name
    assert stamps(copied) == before
    assert notes.num_steps == 0
    assert [line.rpartition(" is ")[2] for line in notes.lines] == ["finished, reused", "finished, reused"]


@pytest.mark.parametrize("drop", ["C4", "N1"])
def test_the_contrasts_ablations_reuse_the_stage_1_of_conki(
    drop: str, copied: Workspace, trained: Trained, tiny_config: MakeConfig
) -> None:
    notes = Notes()
    run = finetune(tiny_config(drop), copied, notes)
    assert notes.lines[0] == f"stage 1: {copied.runs / trained.first.name} is finished, reused"
    assert run.seed_result(1).stage_1 == trained.first.name
    frozen = [content(one.checkpoint(1, "frozen")) for one in (run, trained.run)]
    assert equal_bits(*frozen)


@pytest.mark.parametrize("drop", ["C3", "V", "plain-transfer"])
def test_another_network_trains_a_stage_1_of_its_own(drop: str, copied: Workspace, tiny_config: MakeConfig) -> None:
    first = pretrain(tiny_config(drop, *QUICK), copied, Observer())
    assert first.record.label in ("w/o C3", "w/o V", "plain transfer")
    assert first.seed_result(1) is not None


def test_a_further_seed_is_added_to_the_run(copied: Workspace, trained: Trained, tiny_config: MakeConfig) -> None:
    before = stamps(copied)
    run = finetune(tiny_config(seeds=(3,)), copied, Observer())
    assert run.name == trained.run.name
    assert run.finished_seeds() == [1, 2, 3]
    assert run.is_finished
    assert before.items() <= stamps(copied).items()


def test_stage_1_can_be_named_and_is_then_found_by_stage_2(workspace: Workspace, tiny_config: MakeConfig) -> None:
    first = pretrain(tiny_config("T", *QUICK, name="knowledge"), workspace, Observer())
    run = finetune(tiny_config("T", *QUICK, name="mine"), workspace, Observer())
    assert (first.name, run.name) == ("knowledge", "mine")
    assert run.seed_result(1).stage_1 == "knowledge"


def test_the_configuration_of_a_stage_1_run_is_not_fine_tuned(copied: Workspace, trained: Trained) -> None:
    with pytest.raises(SettingsError, match=r"run\.stage must be finetune here, found pretrain"):
        finetune(trained.first.config, copied, Observer())


def test_a_target_that_changed_is_refused(copied: Workspace, trained: Trained) -> None:
    write_store(copied.store("tiny"), make_corpus("tiny", (13, 6, 6), seed=9, longest=6))
    with pytest.raises(RunError, match="trained on another version of the store tiny"):
        finetune(trained.config, copied, Observer())


def test_a_score_range_that_changed_is_refused(workspace: Workspace, tiny_config: MakeConfig) -> None:
    first = pretrain(tiny_config("T", *QUICK), workspace, Observer())
    assert first.record.score_ranges == {"tiny": [-3.0, 3.0], "tiny-external": [-3.0, 3.0]}
    content = FeatureStore(workspace.store("tiny-external")).content_id
    with resealed(workspace.store("tiny-external")) as file:
        file.attrs["score_range"] = [-5.0, 5.0]
    assert FeatureStore(workspace.store("tiny-external")).content_id == content
    with pytest.raises(RunError, match="scores of tiny-external from -3 to 3, and its store now says -5 to 5"):
        finetune(tiny_config("T", *QUICK), workspace, Observer())


def test_a_run_of_before_score_ranges_were_recorded_goes_on(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config("T", *QUICK)
    run = finetune(config, workspace, Observer())
    run.write_record(dataclasses.replace(run.record, score_ranges={}))
    assert "score_ranges" not in result_of(run.path)
    assert finetune(config.with_values("run", seeds=(1, 2)), workspace, Observer()).is_finished


def test_a_missing_store_names_the_command_that_makes_it(workspace: Workspace, tiny_config: MakeConfig) -> None:
    workspace.store("tiny").unlink()
    with pytest.raises(StoreError, match=r"no feature store .*make it with `conki prepare --dataset tiny`") as error:
        finetune(tiny_config("C1"), workspace, Observer())
    assert "\n" not in str(error.value)
    assert not workspace.runs.exists()


def test_a_seed_that_another_process_trains_is_refused(
    copied: Workspace, trained: Trained, tiny_config: MakeConfig
) -> None:
    lock = Run(copied.runs / trained.first.name).seed_lock(3)
    with locked(lock, what="it"), pytest.raises(ConkiError, match="is writing seed 3 of the run pretrain-tiny"):
        pretrain(tiny_config(seeds=(3,)), copied, Observer())


def test_ablating_gives_the_full_model_first_and_one_row_per_switch(copied: Workspace, tiny_config: MakeConfig) -> None:
    notes = Notes()
    config = tiny_config("T", *QUICK)
    rows = ablate(rows_of(config, ("C4",), ("C1", "C4")), copied, notes)
    assert [label for label, _ in rows] == ["w/o T", "w/o C4+T", "w/o C1+C4+T"]
    assert [run.config.model.drop for _, run in rows] == [("T",), ("C4", "T"), ("C1", "C4", "T")]
    assert len({run.path for _, run in rows}) == 3
    assert "row 2 of 3: w/o C4+T" in notes.lines


def test_rows_that_are_the_same_experiment_are_shown_once(workspace: Workspace, tiny_config: MakeConfig) -> None:
    notes = Notes()
    config = tiny_config("C2+T", *QUICK)
    rows = ablate(rows_of(config, ("N1",)), workspace, notes)
    assert [label for label, _ in rows] == ["w/o C2+T"]
    assert "w/o N1 equals an earlier row, w/o C2+T: it is shown once" in notes.lines


def test_an_impossible_row_is_refused_before_it_is_trained(workspace: Workspace, tiny_config: MakeConfig) -> None:
    with pytest.raises(SettingsError, match="there is no representation"):
        ablate(rows_of(tiny_config("C2+T", *QUICK), ("C4",), ("C3",)), workspace, Observer())
    assert not workspace.runs.exists()


# --- what can be known is refused before anything is trained ---------------------------------------------------

REFUSED = {
    "model.name=tfn model.drop=A": "tfn needs audio",
    "model.name=mult model.drop=V": "mult needs vision",
    "model.name=mult mult.num_heads=7": r"mult\.num_heads must divide mult\.width",
    "model.name=misa misa.width=3": r"misa\.width must be even",
    "model.name=misa misa.freeze_layers=99": r"misa\.freeze_layers must be at most 4",
    "model.name=iccn iccn.cca_batch_size=2": r"iccn\.cca_batch_size must exceed",
    "model.name=tfn optimizer.batch_size=1": "needs training batches of at least 2 clips",
    "model.name=tfn tfn.text_hidden=65536 tfn.audio_hidden=65536 tfn.vision_hidden=65536": "memory",
    "compute.precision=tf32": "--precision tf32 needs a GPU",
    "model.gate_norm=batch optimizer.batch_size=1": "needs training batches of at least 2 clips",
}


@pytest.mark.parametrize("external", ["none", "tiny-external"])
@pytest.mark.parametrize(("lines", "message"), REFUSED.items(), ids=REFUSED)
def test_a_refused_run_leaves_no_folder(
    lines: str, message: str, external: str, workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config = tiny_config("", *lines.split(), f"data.external={external}", *QUICK, *(ICCN if "iccn" in lines else ()))
    with pytest.raises(ConkiError, match=message) as error:
        finetune(config, workspace, Observer())
    assert "\n" not in str(error.value)
    assert run_folders(workspace) == []


def test_a_gpu_that_is_missing_leaves_no_folder(workspace: Workspace, tiny_config: MakeConfig) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    with pytest.raises(SettingsError, match="needs a usable NVIDIA GPU"):
        finetune(tiny_config("C1", "run.device=cuda"), workspace, Observer())
    assert run_folders(workspace) == []


def test_a_text_encoder_whose_weights_are_damaged_leaves_no_folder(
    workspace: Workspace, tiny_config: MakeConfig, encoder: Path, tmp_path: Path
) -> None:
    shutil.copytree(encoder, tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"damaged")
    config = tiny_config("C1", f"model.text_encoder={tmp_path / 'bert'}")
    with pytest.raises(ConkiError, match=r"the weights in .* cannot be loaded"):
        finetune(config, workspace, Observer())
    assert run_folders(workspace) == []


def test_kept_states_that_are_damaged_leave_no_folder(workspace: Workspace, tiny_config: MakeConfig) -> None:
    lines = ("model.name=tfn", "data.external=none", *QUICK)
    run = finetune(tiny_config("", *lines), workspace, Observer())
    for path in (workspace.root / "frozen").glob("*.h5"):
        path.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="is damaged"):
        finetune(tiny_config("", *lines, "tfn.text_out=5"), workspace, Observer())
    assert run_folders(workspace) == [run.path]


def test_seeds_that_are_refused_leave_the_finished_run_finished(
    copied: Workspace, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ConkiError, match="checkpoints need"):
        finetune(tiny_config(seeds=(1, 9)), copied, Observer())
    assert [run.is_finished for run in Runs(copied).usable()] == [True, True]


def test_no_row_is_trained_where_a_later_one_cannot_be(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config("", "model.name=tfn", "data.external=none", *QUICK)
    with pytest.raises(SettingsError, match="tfn needs audio"):
        ablate(rows_of(config, ("A",)), workspace, Observer())
    assert run_folders(workspace) == []


def test_no_model_of_a_table_is_trained_where_a_later_one_cannot_be(workspace: Workspace, encoder: Path) -> None:
    flags = {"data.dataset": "tiny", "data.external": "tiny-external", "model.text_encoder": str(encoder)}
    configs = contests.table_configs(2, ["conki", "lmf", "mult"], assignments=["mult.num_heads=7"], flags=flags)
    with pytest.raises(SettingsError, match=r"mult\.num_heads must divide"):
        train_all(configs, workspace, Observer())
    assert run_folders(workspace) == []


def test_settings_of_conki_alone_reach_no_other_row_of_a_table() -> None:
    lines = ["loss.contrast_weight=0.5", "model.adapter_width=8", "optimizer.lr_audio_vision=0.1", "tfn.text_out=5"]
    flags = {"run.recipe": "released"}
    conki, tfn, lmf = contests.table_configs(2, ["conki", "tfn", "lmf"], assignments=lines, flags=flags)
    assert (conki.loss.contrast_weight, conki.model.adapter_width, conki.run.recipe) == (0.5, 8, "released")
    assert tfn == resolve(assignments=["tfn.text_out=5"], flags={"model.name": "tfn"})
    assert lmf == resolve(flags={"model.name": "lmf"})
    with pytest.raises(
        SettingsError, match=r"--set loss\.contrast_weight=0\.5 belongs to a model that is not compared"
    ):
        contests.table_configs(2, ["tfn", "lmf"], assignments=lines)


def test_the_training_split_can_be_predicted_afterwards(copied: Workspace, trained: Trained) -> None:
    run = finetune(trained.config, copied, Observer())
    assert not run.predictions_exist("train")
    predict_split(run, "train", copied, Observer())
    assert run.predictions_exist("train")
    assert len(read_predictions(run.predictions_path(2, "train")).ids) == 13


def test_new_clips_get_the_mean_over_the_seeds(trained: Trained) -> None:
    with read_new(None, None, trained.workspace.store("tiny"), "test") as utterances:
        scored = predict_new(trained.run, utterances, "cpu")
    stored = [read_predictions(trained.run.predictions_path(seed, "test")).predictions for seed in (1, 2)]
    means = [clip["prediction"] for clip in scored["clips"]]
    np.testing.assert_allclose(means, np.mean(stored, axis=0), atol=1e-6)
    assert scored["clips"][0].keys() == {"id", "text", "prediction", "by_seed", "absent"}
    assert scored["clips"][0]["by_seed"].keys() == {"1", "2"}
    assert (scored["run"], scored["seeds"]) == (trained.run.name, [1, 2])


def test_sentences_and_files_are_scored_by_a_run_of_texts(
    workspace: Workspace, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run = finetune(tiny_config("C1+V+A", *QUICK), workspace, Observer())
    (tmp_path / "new.csv").write_text("id,text\nx,good film\n", encoding="utf-8")
    with read_new(["good film", "zzz"], None, None, "test") as sentences:
        first = predict_new(run, sentences, "cpu")["clips"]
    with read_new(None, tmp_path / "new.csv", None, "test") as lines:
        second = predict_new(run, lines, "cpu")["clips"]
    assert [clip["id"] for clip in first] == ["1", "2"]
    assert second[0]["id"] == "x"
    assert second[0]["prediction"] == pytest.approx(first[0]["prediction"], abs=1e-6)


def test_raw_files_are_prepared_on_the_way(workspace: Workspace, tiny_config: MakeConfig) -> None:
    folder = workspace.root / "data" / "MOSI"
    folder.mkdir(parents=True)
    rows = [f"{mode},{k},good film {k},{k % 3 - 1},x,{mode}" for mode in ("train", "valid", "test") for k in range(3)]
    header = "video_id,clip_id,text,label,annotation,mode"
    (folder / "label.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    notes = Notes()
    run = finetune(tiny_config("C1", *QUICK, "data.dataset=mosi"), workspace, notes)
    assert "mosi.h5 did not exist yet: prepared from" in notes.lines[0]
    with FeatureStore(workspace.store("mosi")) as store:
        assert store.modalities == ("text",)
    assert run.is_finished


def test_the_demo_trains_a_real_encoder_slower_than_its_own() -> None:
    own, real = (demo_rows(encoder, (1,), "cpu") for encoder in (None, "some-encoder"))
    for label in own:
        assert real[label].optimizer.lr_encoders == 5e-5
    firsts = [rows["plain transfer"].pretraining.lr_encoders for rows in (own, real)]
    assert firsts == [3e-4, 5e-5]
    assert real["ConKI"].pretraining.lr_encoders == 0


def test_a_built_in_encoder_that_another_process_builds_is_waited_for(tmp_path: Path, encoder: Path) -> None:
    workspace, notes = Workspace(tmp_path), Notes()
    folder = workspace.built_in_encoder
    with ThreadPoolExecutor(1) as pool:
        with locked(folder.with_name(f".{folder.name}.lock"), what="it"):
            ready = pool.submit(ready_encoder, workspace, folder.name, notes)
            while not notes.lines:
                assert not ready.done()
            shutil.copytree(encoder, folder)
        assert ready.result(timeout=60) == str(folder)
    assert [line.endswith("waiting for it") for line in notes.lines] == [True]


def test_what_a_killed_process_left_of_the_built_in_encoder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    left = workspace.built_in_encoder / ".encoder.ab.part"
    left.mkdir(parents=True)
    monkeypatch.setattr(opening, "build_demo_encoder", lambda folder, sentences, progress: folder)
    ready_encoder(workspace, workspace.built_in_encoder.name, Observer())
    assert not left.exists()


def test_more_epochs_make_another_run_and_the_setting_that_differs_is_named(
    copied: Workspace, trained: Trained, tiny_config: MakeConfig
) -> None:
    notes = Notes()
    run = finetune(tiny_config("", "optimizer.num_epochs=3"), copied, notes)
    assert run.name != trained.run.name
    line = next(line for line in notes.lines if line.startswith(f"stage 2: {trained.run.name} is finished"))
    assert "optimizer.num_epochs was 2, is now 3: this is another run, which starts at epoch 1" in line


def test_another_row_of_a_table_is_not_told_what_differs(copied: Workspace, tiny_config: MakeConfig) -> None:
    notes = Notes()
    finetune(tiny_config("C4"), copied, notes)
    assert not any("another run" in line for line in notes.lines)


def test_other_settings_under_a_name_are_named(workspace: Workspace, tiny_config: MakeConfig) -> None:
    finetune(tiny_config("C1+T", *QUICK, name="mine"), workspace, Observer())
    with pytest.raises(RunError, match=r"optimizer\.patience was 0, is now 3.*another --name") as error:
        finetune(tiny_config("C1+T", *QUICK, "optimizer.patience=3", name="mine"), workspace, Observer())
    assert "\n" not in str(error.value)
