"""Run folders: layout, names, what is found again and what is refused, results and stored predictions."""

import csv
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeConfig, Trained
from hypothesis import given
from hypothesis import strategies as st
from run_support import begin

from conki_cli.config.resolving import from_toml, stage_one
from conki_cli.config.sections import RunConfig
from conki_cli.experiments.prediction import predict_split
from conki_cli.metrics import sentiment_metrics
from conki_cli.runs import (
    Predictions,
    Run,
    Runs,
    check_name,
    default_name,
    digest_of,
    discard_run,
    evaluate_run,
    read_predictions,
    write_predictions,
    write_scores,
)
from conki_cli.runs.discarding import discarded_folders
from conki_cli.system.environment import environment
from conki_cli.system.errors import ConkiError, RunError
from conki_cli.system.files import read_json, temporary_files, write_json
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.text.folders import scratch_folders

RANGE = (-3.0, 3.0)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Trained:
    """The trained workspace, to be changed."""
    shutil.copytree(trained.workspace.root, tmp_path / "copy")
    space = Workspace(tmp_path / "copy")
    first, run = (Run(space.runs / run.name) for run in (trained.first, trained.run))
    return Trained(space, trained.config, first, run, [])


def hub(config: RunConfig) -> RunConfig:
    """Name the encoder, so that no folder is read."""
    return config.with_values("model", text_encoder="bert-base-uncased")


# --- layout ----------------------------------------------------------------------------------------------------


def test_a_fine_tuned_run_folder_holds_exactly_what_is_promised(trained: Trained) -> None:
    files = {str(p.relative_to(trained.run.path)) for p in trained.run.path.rglob("*") if p.is_file()}
    inside = {name for name in files if name.startswith("encoder/")}
    per_seed = (
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "predictions/valid.csv",
        "predictions/test.csv",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
        "checkpoints/frozen.safetensors",
    )
    seeds = {f"seed-{seed}/{name}" for seed in (1, 2) for name in per_seed}
    assert files - inside == {"config.toml", "result.json", "normalization.json", *seeds}
    assert inside == {"encoder/config.json", "encoder/tokenizer.json", "encoder/tokenizer_config.json"}


def test_stage_1_never_predicts_a_test_split(trained: Trained) -> None:
    assert [path.name for path in (trained.first.seed_folder(1) / "predictions").iterdir()] == ["valid.csv"]
    assert trained.first.record.metrics.keys() == {"valid"}


def test_nothing_in_a_workspace_is_pickled_or_left_over(trained: Trained) -> None:
    files = [path for path in trained.workspace.root.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".toml", ".json", ".jsonl", ".csv", ".safetensors", ".h5", ".lock"}
    for path in files:
        if path.suffix in (".json", ".jsonl"):
            assert all(json.loads(line) for line in _json_documents(path))


def _json_documents(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def test_the_log_holds_every_term_the_validation_metrics_and_the_seconds_of_every_epoch(trained: Trained) -> None:
    lines = [json.loads(line) for line in (trained.run.seed_folder(1) / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[0]["losses"].keys() == {"task", "contrast", "contrast_per_sample"}
    assert {"mae", "corr", "acc7", "acc2_pos"} <= lines[0]["validation"].keys()
    assert lines[0]["seconds"] >= 0


def test_the_environment_names_versions_data_command_threads_and_device(trained: Trained) -> None:
    found = read_json(trained.run.seed_folder(1) / "environment.json")
    assert {"torch", "transformers", "numpy"} <= found["packages"].keys()
    assert found["data"].keys() == {"tiny"}
    assert len(found["data"]["tiny"]["store"]) == 64
    assert (found["threads"], found["device"]) == (1, "cpu")
    assert isinstance(found["command"], list)
    first = read_json(trained.first.seed_folder(1) / "environment.json")
    assert first["data"].keys() == {"tiny", "tiny-external"}


def test_the_environment_survives_a_package_that_is_not_installed() -> None:
    assert environment({}, device="cpu", threads=1)["packages"].keys() >= {"torch", "h5py"}


def test_config_toml_reproduces_the_run(trained: Trained) -> None:
    assert from_toml(trained.run.path / "config.toml") == trained.config
    assert digest_of(trained.run.config) == trained.run.record.digest


# --- names -----------------------------------------------------------------------------------------------------


def test_the_name_says_data_model_switches_and_digest(tiny_config: MakeConfig) -> None:
    config = hub(tiny_config("C1+C4"))
    assert default_name(config) == f"tiny-conki-wo-C1+C4-{digest_of(config)}"
    assert default_name(hub(tiny_config("A+plain-transfer"))).startswith("tiny-conki-plain-transfer-wo-A-")
    assert default_name(stage_one(hub(tiny_config("C4")))).startswith("pretrain-tiny-external-for-tiny-conki-")
    assert len(digest_of(config)) == 8


@pytest.mark.parametrize("values", [{"seeds": (4, 5)}, {"device": "auto"}, {"name": "mine"}])
def test_seeds_device_and_name_are_not_part_of_the_digest(tiny_config: MakeConfig, values: dict[str, object]) -> None:
    config = hub(tiny_config())
    assert digest_of(config.with_values("run", **values)) == digest_of(config)


def test_every_other_setting_is_part_of_the_digest(tiny_config: MakeConfig) -> None:
    config = hub(tiny_config())
    changes = {
        "data": {"max_frames": 7},
        "model": {"dropout": 0.1},
        "loss": {"temperature": 0.1},
        "pretraining": {"num_epochs": 9},
        "optimizer": {"patience": 3},
        "run": {"recipe": "released"},
    }
    digests = {digest_of(config.with_values(section, **values)) for section, values in changes.items()}
    assert len(digests | {digest_of(config)}) == 7


def test_the_settings_of_a_stage_1_that_does_not_happen_are_not_part_of_the_digest(tiny_config: MakeConfig) -> None:
    for drop, equal in (("C1", True), ("C2+handover", True), ("C2", False), ("C4", False)):
        config = hub(tiny_config(drop))
        assert (digest_of(config.with_values("pretraining", num_epochs=9)) == digest_of(config)) is equal


def test_the_encoders_content_counts_and_not_its_path(tiny_config: MakeConfig, encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder, tmp_path / "copy")
    moved = tiny_config("", f"model.text_encoder={tmp_path / 'copy'}")
    assert digest_of(moved) == digest_of(tiny_config())
    (tmp_path / "copy" / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert digest_of(moved) != digest_of(tiny_config())


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-x", "a b", "x" * 101, "ü", "a\n"])
def test_a_name_that_could_leave_the_folder_of_runs_is_refused(name: str) -> None:
    with pytest.raises(RunError, match="a run name must consist of letters, digits"):
        check_name(name)


def test_a_run_cannot_take_the_lock_of_a_seed() -> None:
    with pytest.raises(RunError, match="must not end like a seed's folder"):
        check_name("a.seed-1")


@pytest.mark.parametrize("name", ["", "a", "Run_1.2+C4-x", "x" * 100])
def test_an_ordinary_name_passes(name: str) -> None:
    assert check_name(name) == name


# --- found again or refused ------------------------------------------------------------------------------------


def test_the_same_settings_find_the_same_run_and_add_their_seeds(place: Workspace, tiny_config: MakeConfig) -> None:
    one = begin(place, hub(tiny_config(seeds=(3, 1))), {"tiny": "a"}, RANGE)
    other = begin(place, hub(tiny_config(seeds=(2,))), {"tiny": "a"}, RANGE)
    assert one == other
    assert other.record.seeds == (1, 2, 3)
    assert other.config.run.seeds == (1, 2, 3)


def test_a_renamed_run_is_found_by_its_settings(place: Workspace, tiny_config: MakeConfig) -> None:
    run = begin(place, hub(tiny_config()), {"tiny": "a"}, RANGE)
    run.path.rename(place.runs / "renamed")
    assert begin(place, hub(tiny_config()), {"tiny": "a"}, RANGE).name == "renamed"


def test_the_same_name_with_other_settings_is_refused(place: Workspace, tiny_config: MakeConfig) -> None:
    begin(place, hub(tiny_config(name="mine")), {"tiny": "a"}, RANGE)
    with pytest.raises(RunError, match=r"run mine exists .* \(model\.drop was nothing, is now .*C4.*another --name"):
        begin(place, hub(tiny_config("C4", name="mine")), {"tiny": "a"}, RANGE)


def test_a_store_whose_clips_changed_is_refused(place: Workspace, tiny_config: MakeConfig) -> None:
    begin(place, hub(tiny_config()), {"tiny": "a", "tiny-external": "b"}, RANGE)
    with pytest.raises(RunError, match="trained on another version of the store tiny-external"):
        begin(place, hub(tiny_config()), {"tiny": "a", "tiny-external": "c"}, RANGE)


def test_a_run_of_a_newer_schema_is_refused_clearly(place: Workspace, tiny_config: MakeConfig) -> None:
    run = begin(place, hub(tiny_config()), {"tiny": "a"}, RANGE)
    write_json(run.path / "result.json", {**run.record.as_json(), "schema": 2})
    with pytest.raises(RunError, match=r"has schema 2, this conki .* knows up to 1: install a newer conki"):
        _ = run.record


@pytest.mark.parametrize("metrics", [[], None, {"test": []}, {"test": {"mae": 3}}, {"test": {"mae": {"mean": 3}}}])
def test_a_run_whose_metrics_are_damaged_is_listed_as_damaged(copied: Trained, metrics: object) -> None:
    write_json(copied.run.path / "result.json", {**copied.run.record.as_json(), "metrics": metrics})
    states = {entry["name"]: (entry["state"], entry["problem"] or "") for entry in Runs(copied.workspace).described()}
    assert states[copied.first.name] == ("finished", "")
    state, problem = states[copied.run.name]
    assert (state, "result.json must describe a run but does not" in problem) == ("damaged", True)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_damaged_result_is_one_line(place: Workspace, tiny_config: MakeConfig, content: str) -> None:
    run = begin(place, hub(tiny_config()), {"tiny": "a"}, RANGE)
    (run.path / "result.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConkiError) as error:
        _ = run.record
    assert "result.json must" in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_name_the_newest_finished_fine_tuning_is_meant(trained: Trained, place: Workspace) -> None:
    assert Runs(trained.workspace).find(None) == trained.run
    with pytest.raises(RunError, match="there is no finished fine-tuning run below"):
        Runs(place).find(None)


def test_a_run_is_found_by_name_and_by_path(trained: Trained) -> None:
    assert Runs(trained.workspace).find(trained.run.name) == trained.run
    assert Runs(Workspace(Path("nowhere"))).find(str(trained.run.path)) == trained.run
    with pytest.raises(RunError, match="there is no run 'other' below"):
        Runs(trained.workspace).find("other")


def test_runs_are_listed_oldest_first_and_described(trained: Trained) -> None:
    assert Runs(trained.workspace).usable() == [trained.first, trained.run]
    entries = Runs(trained.workspace).described()
    assert [entry["kind"] for entry in entries] == ["pretrain", "finetune"]
    assert [entry["dataset"] for entry in entries] == ["tiny-external", "tiny"]
    assert entries[1]["state"] == "finished"
    assert entries[1]["finished_seeds"] == [1, 2]
    assert entries[1]["metrics"]["mae"]["mean"] > 0
    assert entries[1]["size"] == sum(p.stat().st_size for p in trained.run.path.rglob("*") if p.is_file())


def test_an_empty_workspace_has_no_runs(place: Workspace) -> None:
    assert Runs(place).described() == []


# --- predictions and metrics -----------------------------------------------------------------------------------

_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
_IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.tuples(_IDS, _FLOATS, _FLOATS), min_size=1, max_size=5, unique_by=lambda row: row[0]))
def test_predictions_come_back_to_the_last_bit(rows: list[tuple[str, float, float]]) -> None:
    import tempfile

    ids, scores, predictions = zip(*rows, strict=True)
    given_ = Predictions(ids, np.array(scores, np.float32), np.array(predictions, np.float32))
    with tempfile.TemporaryDirectory() as folder:
        write_predictions(Path(folder) / "test.csv", given_)
        found = read_predictions(Path(folder) / "test.csv")
    assert found.ids == list(ids)
    assert found.scores.tobytes() == given_.scores.tobytes()
    assert found.predictions.tobytes() == given_.predictions.tobytes()


DAMAGED = {
    b"": "its first line is different",
    b"id,score\n1,2\n": "its first line is different",
    b"id,score,prediction\n": "its end is missing",
    b"id,score,prediction\na,1,2": "its end is missing",
    b"id,score,prediction\na,1\n": "row 1 has 2 of 3 fields",
    b"id,score,prediction\na,1,2,3\n": "row 1 has 4 of 3 fields",
    b"id,score,prediction\na,1,1\n\n": "row 2 has 0 of 3 fields",
    b"id,score,prediction\na,x,1\n": r"row 1 \(id 'a'\) has the score 'x', which is not a number",
    b"id,score,prediction\na,1,1\nb,1,nan\n": r"row 2 \(id 'b'\) has the prediction 'nan', which is not finite",
    b"id,score,prediction\na,1,1e300\n": r"row 1 \(id 'a'\) has the prediction '1e300', which is not finite",
    b"id,score,prediction\na,-inf,1\n": r"row 1 \(id 'a'\) has the score '-inf', which is not finite",
    b"id,score,prediction\na,1,1\na,1,1\n": r"row 2 \(id 'a'\) has the id of an earlier row",
}


@pytest.mark.parametrize(("content", "fault"), DAMAGED.items())
def test_damaged_predictions_are_one_line_that_names_file_row_and_what_to_do(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    (tmp_path / "test.csv").write_bytes(content)
    with pytest.raises(
        RunError, match=rf"test\.csv must hold .* rows, but {fault}.*: delete it: it will be pred"
    ) as error:
        read_predictions(tmp_path / "test.csv")
    assert "\n" not in str(error.value)


def test_predictions_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=r"test\.csv must hold .* rows but is not UTF-8 text: delete it"):
        read_predictions(tmp_path / "test.csv")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_predictions_that_are_no_file_are_noticed_before_anything_is_predicted(
    copied: Trained, make: Callable[[Path], None]
) -> None:
    path = copied.run.predictions_path(2, "test")
    path.unlink()
    make(path)
    for use in (lambda: read_predictions(path), lambda: copied.run.predictions_exist("test")):
        with pytest.raises(RunError, match=r"test\.csv must be a file but is .*: move it away"):
            use()


def test_a_place_where_no_predictions_can_be_written_is_noticed_before_anything_is_predicted(copied: Trained) -> None:
    folder = copied.run.predictions_path(1, "test").parent
    shutil.rmtree(folder)
    folder.write_text("", encoding="utf-8")
    with pytest.raises(ConkiError, match="a part of the path is a file"):
        copied.run.predictions_exist("test")


def change(path: Path, column: str, row: int, by: float) -> None:
    """Edit one number of a file of predictions."""
    found = read_predictions(path)
    getattr(found, column)[row] += by
    write_predictions(path, found)


@pytest.mark.parametrize("column", ["predictions", "scores"])
def test_edited_predictions_are_refused(copied: Trained, column: str) -> None:
    change(copied.run.predictions_path(1, "test"), column, 2, 0.01)
    with pytest.raises(
        RunError, match=r"seed-1/predictions/test\.csv must give the mae .* but gives .*: delete it: it"
    ):
        evaluate_run(copied.run, "test", "all")


def test_edited_predictions_of_stage_1_are_trained_again_for_it_predicts_nothing_later(copied: Trained) -> None:
    change(copied.first.predictions_path(1, "valid"), "predictions", 2, 0.01)
    with pytest.raises(
        RunError, match=r"valid\.csv must give the mae .*: delete that seed's folder and train it again"
    ):
        evaluate_run(copied.first, "valid", "all")


def test_predictions_that_are_made_again_are_those_that_were_measured(copied: Trained) -> None:
    before = evaluate_run(copied.run, "test", "all")
    copied.run.predictions_path(1, "test").unlink()
    predict_split(copied.run, "test", copied.workspace, Observer())
    assert evaluate_run(copied.run, "test", "all") == before


def reorder(path: Path) -> None:
    found = read_predictions(path)
    write_predictions(path, Predictions([*found.ids][::-1], found.scores[::-1], found.predictions[::-1]))


@pytest.mark.parametrize("seed", [1, 2])
def test_of_two_seeds_with_other_clips_neither_is_blamed(copied: Trained, seed: int) -> None:
    reorder(copied.run.predictions_path(seed, "test"))
    expected = r"seed-1/\S+ and \S+/seed-2/\S+ must hold the same clips .* delete both: they will be predicted again"
    with pytest.raises(RunError, match=expected):
        evaluate_run(copied.run, "test", "all")


def test_of_three_seeds_the_one_with_other_clips_is_named(copied: Trained) -> None:
    shutil.copytree(copied.run.seed_folder(2), copied.run.seed_folder(3))
    write_json(copied.run.path / "result.json", {**copied.run.record.as_json(), "seeds": [1, 2, 3]})
    reorder(copied.run.predictions_path(1, "test"))
    with pytest.raises(RunError, match=r"seed-1/predictions/test\.csv must .* as the files of the other seeds but"):
        evaluate_run(copied.run, "test", "all")


@pytest.mark.parametrize("wrong", [{"epochs": "9"}, {"cut": {"test": 3}}, {"stage_1": 7}, {"parameters": {"all": "x"}}])
def test_a_result_of_a_seed_with_words_for_numbers_is_one_line(copied: Trained, wrong: dict[str, object]) -> None:
    path = copied.run.seed_folder(1) / "result.json"
    write_json(path, {**read_json(path), **wrong})
    with pytest.raises(RunError, match=r"seed-1/result\.json must describe a trained seed but does not"):
        evaluate_run(copied.run, "test", "all")


def test_a_run_is_unfinished_when_one_of_its_seeds_was_deleted(copied: Trained) -> None:
    shutil.rmtree(copied.run.seed_folder(2))
    (entry,) = [one for one in Runs(copied.workspace).described() if one["kind"] == "finetune"]
    assert (entry["state"], entry["finished_seeds"]) == ("unfinished", [1])
    assert entry["metrics"]["mae"]["values"] == [copied.run.seed_result(1).metrics["test"]["mae"]]
    with pytest.raises(RunError, match="there is no finished fine-tuning run"):
        Runs(copied.workspace).find(None)


@pytest.mark.parametrize("metrics", ["[]", '{"test": []}', '{"test": {"mae": "x"}}', "null"])
def test_a_damaged_result_of_a_seed_is_one_line(copied: Trained, metrics: str) -> None:
    (copied.run.seed_folder(1) / "result.json").write_text(f'{{"metrics": {metrics}}}', encoding="utf-8")
    with pytest.raises(RunError, match=r"seed-1/result\.json must describe a trained seed but does not"):
        evaluate_run(copied.run, "test", "all")


def test_missing_predictions_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*test\.csv: No such file"):
        read_predictions(tmp_path / "test.csv")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_results_metrics_are_those_of_the_stored_predictions(trained: Trained, split: str) -> None:
    for seed in (1, 2):
        found = read_predictions(trained.run.predictions_path(seed, split))
        expected = sentiment_metrics(found.predictions, found.scores, score_range=RANGE)
        stored = trained.run.seed_result(seed).metrics[split]
        for name, value in expected.items():
            assert stored[name] == (None if math.isnan(value) else pytest.approx(value, abs=1e-12)), name


def test_a_result_is_the_mean_over_the_seeds(trained: Trained) -> None:
    found = evaluate_run(trained.run, "test", "all")
    values = [trained.run.seed_result(seed).metrics["test"]["mae"] for seed in (1, 2)]
    assert found.metrics["mae"]["values"] == pytest.approx(values)
    assert found.metrics["mae"]["mean"] == pytest.approx(np.mean(values))
    assert found.metrics["mae"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert trained.run.record.metrics["test"]["mae"]["mean"] == pytest.approx(np.mean(values))
    assert (found.dataset, found.split, found.n, found.seeds) == ("tiny", "test", 6, [1, 2])
    assert all(Path(path).is_file() for path in found.predictions)


def test_a_stage_1_run_is_measured_on_the_external_set(trained: Trained) -> None:
    assert evaluate_run(trained.first, "valid", "all").dataset == "tiny-external"


def test_the_nonzero_protocol_leaves_out_scores_of_zero(copied: Trained) -> None:
    path = copied.run.predictions_path(1, "test")
    found = read_predictions(path)
    scores = np.where(np.arange(6) < 2, 0, found.scores).astype(np.float32)
    write_predictions(path, Predictions(found.ids, scores, found.predictions))
    shutil.copy(copied.run.predictions_path(1, "test"), copied.run.predictions_path(2, "test"))
    for seed in (1, 2):
        write_json(copied.run.seed_folder(seed) / "result.json", {"metrics": {}})
    expected = np.abs(found.predictions - scores)[scores != 0].mean(dtype=np.float64)
    assert evaluate_run(copied.run, "test", "nonzero").metrics["mae"]["values"][0] == pytest.approx(expected)


def test_a_run_without_a_finished_seed_cannot_be_evaluated(place: Workspace, tiny_config: MakeConfig) -> None:
    run = begin(place, hub(tiny_config()), {"tiny": "a"}, RANGE)
    with pytest.raises(RunError, match="has no finished seed: run the command that started it again"):
        evaluate_run(run, "test", "all")


def test_scores_of_new_clips_are_written_with_one_column_per_seed(tmp_path: Path) -> None:
    clip = {"id": "1", "text": 'so, "good"', "prediction": 0.5, "by_seed": {"1": 0.25, "2": 0.75}}
    write_scores(tmp_path / "scores.csv", {"seeds": [1, 2], "clips": [clip]})
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["id", "text", "prediction", "seed_1", "seed_2"], ["1", 'so, "good"', "0.5", "0.25", "0.75"]]


def test_the_silent_reporter_accepts_everything() -> None:
    observer = Observer()
    observer.say("line")
    with observer.steps("label", 3) as advance:
        assert advance(1, "remark") is None


def test_a_run_that_lost_its_result_is_found_by_its_digest_whatever_its_name(
    place: Workspace, tiny_config: MakeConfig
) -> None:
    run = begin(place, hub(tiny_config()), {"tiny": "a"}, RANGE)
    older = place.runs / f"older-name-{run.record.digest}"
    run.path.rename(older)
    (older / "result.json").unlink()
    assert Runs(place).locate(hub(tiny_config())).path == older


def test_a_run_that_lost_its_result_keeps_its_seeds_its_threshold_and_its_data(
    place: Workspace, tiny_config: MakeConfig
) -> None:
    config = hub(tiny_config(seeds=(1, 2)))
    run = begin(place, config.with_values("data", threshold=0.5), {"tiny": "a"}, RANGE)
    facts = environment({"tiny": {"store": "a"}}, device="cpu", threads=1)
    write_json(run.seed_folder(1) / "environment.json", facts)
    (run.path / "result.json").unlink()
    with pytest.raises(RunError, match="was trained on another version of the store tiny"):
        begin(place, config, {"tiny": "b"}, RANGE)
    assert not (run.path / "result.json").exists()
    again = begin(place, config.with_values("run", seeds=(3,)), {"tiny": "a"}, RANGE)
    assert (again.record.seeds, again.config.run.seeds, again.config.data.threshold) == ((1, 2, 3), (1, 2, 3), 0.5)


def test_a_run_that_is_a_symbolic_link_is_not_discarded(copied: Trained) -> None:
    real = copied.workspace.root / "elsewhere"
    copied.run.path.rename(real)
    copied.run.path.symlink_to(real)
    with pytest.raises(RunError, match=f"{copied.run.name} is a symbolic link to {real}: delete the link"):
        discard_run(copied.run)
    assert (copied.run.path / "result.json").is_file()
    assert list(discarded_folders(copied.workspace.runs)) == []


def test_what_is_left_in_a_deep_folder_is_named_with_the_file_beside_it(tmp_path: Path) -> None:
    inner = tmp_path / "seed-1"
    (inner / ".gone.discarded").mkdir(parents=True)
    (inner / ".encoder.1").mkdir()
    (inner / ".a.json.1.part").touch()
    sources = (temporary_files, scratch_folders, discarded_folders)
    pairs = [pair for source in sources for pair in source(tmp_path, deep=True)]
    assert [written for _, written in pairs] == [inner / "a.json", inner / "encoder", inner / "gone"]
