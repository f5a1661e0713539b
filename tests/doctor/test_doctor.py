"""What the doctor finds, one kind of damage at a time: where, in which words, and what it says to do."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeConfig, Notes, Trained, resealed
from run_support import finetune
from typer.testing import CliRunner, Result

from conki_cli.cli import app
from conki_cli.data.store.seal import SEALED
from conki_cli.data.store.writing import store_lock
from conki_cli.doctor import Finding, examine, examine_named
from conki_cli.runs import Run
from conki_cli.system.errors import CheckpointError, ConkiError
from conki_cli.system.files import append_line, write_json
from conki_cli.system.locks import locked
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training import checkpoint
from conki_cli.training.inference import load_model

Damage = Callable[[Path], object]
VERSION_1 = Path(__file__).parents[1] / "fixtures" / "version_1"


@pytest.fixture
def space(tmp_path: Path, trained: Trained) -> Path:
    """A copy of a workspace with two stores, a stage 1 and a stage 2 of two seeds, all sound."""
    return Path(shutil.copytree(trained.workspace.root, tmp_path / "space"))


def wrong(space: Path) -> list[Finding]:
    """Return what is found of files, but for what is sound."""
    found = examine(Workspace(space), Observer())
    return [finding for finding in found if is_wrong(finding) and Path(finding.subject) != space]


def is_wrong(finding: Finding) -> bool:
    """Say whether something is wrong beside the fact that two epochs over 13 clips do not teach much."""
    return finding.severity != "ok" and " learn" not in finding.what


def wrong_in(run: Run) -> list[Finding]:
    """Return what is found of a run but for what is sound."""
    found = examine_named(str(run.path), run.path, Workspace(run.path.parents[1]), Observer())
    return [finding for finding in found if is_wrong(finding)]


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def snapshot(folder: Path) -> dict[Path, tuple[int, str]]:
    """Return when every file was changed, and what is in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def doctor(space: Path, *arguments: str) -> Result:
    env = {"CONKI_WORKSPACE": str(space), "COLUMNS": "200", "FORCE_COLOR": None}
    return CliRunner().invoke(app, ["doctor", *arguments], env=env)


def run_of(space: Path) -> Run:
    return Run(next((space / "runs").glob("tiny-*")))


def first_of(space: Path) -> Run:
    return Run(next((space / "runs").glob("pretrain-*")))


def seed_1(space: Path) -> Path:
    return run_of(space).seed_folder(1)


def flip(path: Path, at: int = -9) -> None:
    """Change one bit, which no length or header tells."""
    found = bytearray(path.read_bytes())
    found[at] ^= 4
    path.unlink()  # `last` may be `best` under a second name
    path.write_bytes(found)


def halve(path: Path) -> None:
    found = path.read_bytes()
    path.write_bytes(found[: len(found) // 2])


def edit_json(path: Path, **values: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **values})


def changed_frame(path: Path, value: float = 0.5) -> None:
    with resealed(path) as file:
        file["train/vision/frames"][3, 2] = value


# --- a sound workspace -------------------------------------------------------------------------------------------


def test_of_a_sound_workspace_everything_is_listed_as_sound(space: Path) -> None:
    found = examine(Workspace(space), Observer())
    assert wrong(space) == []
    assert {"tiny.h5", "tiny-external.h5", run_of(space).name, "seed-1"} <= {Path(one.subject).name for one in found}


def test_nothing_is_changed(space: Path) -> None:
    before = snapshot(space)
    examine(Workspace(space), Observer())
    assert snapshot(space) == before


def test_what_version_1_wrote_has_no_fault_and_its_checkpoints_no_checksums(tmp_path: Path) -> None:
    copied = Path(shutil.copytree(VERSION_1, tmp_path / "version_1"))
    assert [finding.what for finding in wrong(copied) if finding.severity == "fault"] == []
    seeds = [one for one in examine(Workspace(copied), Observer()) if Path(one.subject).name == "seed-1"]
    assert all("its checkpoints were written before there were checksums" in one.what for one in seeds)


def test_the_progress_counts_every_byte_once(space: Path) -> None:
    shutil.copyfile(space / "features" / "tiny.h5", space / "features" / "other.h5")
    with (space / "features" / "large.h5").open("wb") as file:
        file.truncate(5 * 2**20)  # no store, but bytes all the same
    notes = Notes()
    examine(Workspace(space), notes)
    assert notes.num_steps in (5, 6)


# --- stores ------------------------------------------------------------------------------------------------------


def test_a_changed_frame_is_found(space: Path) -> None:
    changed_frame(space / "features" / "tiny.h5")
    found = only(wrong(space))
    assert (found.subject, found.severity) == (str(space / "features" / "tiny.h5"), "fault")
    assert "its clips are not those that were written: their SHA-256 is " in found.what
    assert f"`conki prepare --dataset tiny --workspace {space}` (it came from tiny.pkl)" in found.advice


@pytest.mark.parametrize("column", ["ids", "texts"])
def test_a_changed_text_is_found(space: Path, column: str) -> None:
    with resealed(space / "features" / "tiny.h5") as file:
        file[f"valid/{column}"][1] = "something else"
    assert "texts, scores or frames were changed or damaged" in only(wrong(space)).what


def test_a_changed_score_is_found(space: Path) -> None:
    with resealed(space / "features" / "tiny.h5") as file:
        file["test/scores"][0] = 0.25
    assert "texts, scores or frames were changed or damaged" in only(wrong(space)).what


def test_a_frame_that_is_no_number_is_counted(space: Path) -> None:
    changed_frame(space / "features" / "tiny.h5", np.nan)
    assert "1 value of its frames are not finite" in [finding.what for finding in wrong(space)]


def test_a_store_that_was_cut_off_is_found_with_the_runs_that_need_it(space: Path) -> None:
    halve(space / "features" / "tiny.h5")
    store, run = (found for found in wrong(space) if "pretrain" not in found.subject)
    assert store.what.startswith("tiny.h5 is damaged (it has ")
    assert store.advice == f"make it again: `conki prepare --dataset tiny --workspace {space}`"
    assert (run.severity, run.subject) == ("remark", str(run_of(space).path))
    assert "tiny.h5 cannot be opened, so its training split cannot be predicted" in run.what


def test_a_store_of_a_newer_version_asks_for_a_newer_conki(space: Path) -> None:
    with resealed(space / "features" / "tiny-external.h5") as file:
        file.attrs["schema_version"] = 9
    found = wrong(space)[0]
    assert found.what == "tiny-external.h5 has store schema 9, this conki reads 1"
    assert found.advice.startswith("install a newer conki, or make it again: `conki prepare --dataset tiny-external")


def test_a_store_that_was_normalised_elsewhere_is_made_again_with_the_same_options(space: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(space / "features" / "tiny.h5", tmp_path / "mine.h5"))
    changed_frame(path)
    found = only(examine_named(str(path), path, Workspace(space), Observer()))
    assert f"`conki prepare --dataset tiny --out {path} --workspace {space}`" in found.advice


def test_a_folder_and_rubbish_named_like_stores_are_faults(space: Path) -> None:
    (space / "features" / "a.h5").mkdir()
    (space / "features" / "b.h5").write_bytes(b"rubbish")
    said = [finding.what for finding in wrong(space)]
    assert said[0] == "a.h5 must be a feature store but is a folder"
    assert said[1] == "b.h5 must be a conki feature store (HDF5) but is not"


# --- runs --------------------------------------------------------------------------------------------------------

SEED_FAULTS: dict[str, tuple[Damage, str, str, str]] = {
    "a flipped bit in best": (
        lambda seed: flip(seed / "checkpoints" / "best.safetensors"),
        "fault",
        "checkpoint best.safetensors is damaged (its content does not fit its checksum)",
        "delete that seed: rm -r ",
    ),
    "best cut off": (
        lambda seed: halve(seed / "checkpoints" / "best.safetensors"),
        "fault",
        "checkpoint best.safetensors is damaged (",
        "delete that seed: rm -r ",
    ),
    "best missing": (
        lambda seed: (seed / "checkpoints" / "best.safetensors").unlink(),
        "fault",
        "checkpoints/best.safetensors is missing",
        "delete that seed: rm -r ",
    ),
    "frozen damaged": (
        lambda seed: flip(seed / "checkpoints" / "frozen.safetensors"),
        "fault",
        "checkpoint frozen.safetensors is damaged",
        "delete that seed: rm -r ",
    ),
    "frozen missing": (
        lambda seed: (seed / "checkpoints" / "frozen.safetensors").unlink(),
        "fault",
        "checkpoints/frozen.safetensors is missing",
        "delete that seed: rm -r ",
    ),
    "last damaged": (
        lambda seed: flip(seed / "checkpoints" / "last.safetensors"),
        "fault",
        "checkpoint last.safetensors is damaged",
        "a finished seed needs `best` and `frozen` alone",
    ),
    "last missing": (
        lambda seed: (seed / "checkpoints" / "last.safetensors").unlink(),
        "remark",
        "checkpoints/last.safetensors is missing",
        "nothing: a finished seed needs `best` and `frozen` alone",
    ),
    "previous damaged": (
        lambda seed: (seed / "checkpoints" / "previous.safetensors").write_bytes(b"rubbish"),
        "fault",
        "checkpoint previous.safetensors is damaged",
        "delete it: rm ",
    ),
    "result damaged": (
        lambda seed: (seed / "result.json").write_text("{"),
        "fault",
        "result.json must be JSON but is not (",
        "restore it, or delete it: rm ",
    ),
    "result of another kind": (
        lambda seed: (seed / "result.json").write_text("[1]"),
        "fault",
        "result.json must describe a trained seed but does not",
        "restore it, or delete it: rm ",
    ),
    "predictions missing": (
        lambda seed: (seed / "predictions" / "test.csv").unlink(),
        "remark",
        "predictions/test.csv is missing",
        "--split test --workspace ",
    ),
    "predictions cut off": (
        lambda seed: halve(seed / "predictions" / "valid.csv"),
        "fault",
        "valid.csv must hold id,score,prediction rows, but",
        "delete it: rm ",
    ),
    "a prediction lost": (
        lambda seed: drop_row(seed / "predictions" / "test.csv"),
        "fault",
        "test.csv must hold 6 clips but holds 5",
        "predicts it again",
    ),
    "a prediction changed": (
        lambda seed: change_row(seed / "predictions" / "test.csv"),
        "fault",
        "test.csv must give the mae ",
        "predicts it again",
    ),
    "environment damaged": (
        lambda seed: (seed / "environment.json").write_text("{}"),
        "fault",
        "environment.json is damaged (packages)",
        "restore it from a copy if you have one",
    ),
    "environment missing": (
        lambda seed: (seed / "environment.json").unlink(),
        "remark",
        "cannot read environment.json: No such file or directory",
        "restore it from a copy if you have one",
    ),
    "log torn": (
        lambda seed: halve(seed / "metrics.jsonl"),
        "remark",
        "metrics.jsonl lacks epochs 2",
        "nothing: what was learnt and measured is not affected",
    ),
    "log with more": (
        lambda seed: append_line(seed / "metrics.jsonl", "rubbish"),
        "remark",
        "metrics.jsonl has lines that are not epochs of this seed",
        "nothing: what was learnt and measured is not affected",
    ),
}


def drop_row(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def change_row(path: Path) -> None:
    *rows, last = path.read_text().splitlines()
    identity, score, prediction = last.rsplit(",", 2)
    path.write_text("\n".join([*rows, f"{identity},{score},{float(prediction) + 0.5}"]) + "\n")


@pytest.mark.parametrize("name", SEED_FAULTS)
def test_what_is_wrong_with_a_finished_seed_is_found_alone(space: Path, name: str) -> None:
    damage, severity, what, advice = SEED_FAULTS[name]
    damage(seed_1(space))
    found = only(wrong_in(run_of(space)))
    assert (found.severity, found.subject) == (severity, str(seed_1(space)))
    assert what in found.what
    assert advice in found.advice


def test_the_advice_for_a_seed_is_a_command_that_trains_it_again(space: Path) -> None:
    flip(seed_1(space) / "checkpoints" / "best.safetensors")
    command = f"`conki finetune --config {run_of(space).path / 'config.toml'} --workspace {space}`"
    assert only(wrong_in(run_of(space))).advice == f"delete that seed: rm -r {seed_1(space)}; then {command}"
    shutil.rmtree(seed_1(space))
    assert only(wrong_in(run_of(space))).advice == f"restore it, or {command} trains it again"
    done = CliRunner().invoke(app, command.strip("`").split()[1:])
    assert (done.exit_code, wrong_in(run_of(space))) == (0, [])


def test_a_stage_1_seed_is_trained_again_by_the_command_for_stage_1(space: Path) -> None:
    run = first_of(space)
    (run.seed_folder(2) / "predictions" / "valid.csv").unlink()
    found = only(wrong_in(run))
    assert (found.severity, found.what) == ("fault", "predictions/valid.csv is missing")
    assert f"`conki pretrain --config {run.path / 'config.toml'} --workspace {space}`" in found.advice


def test_predictions_of_other_clips_than_those_of_another_seed_are_found(space: Path) -> None:
    path = run_of(space).predictions_path(2, "test")
    path.write_text(path.read_text().replace("test$_$0,", "other$_$0,"))
    found = only(wrong_in(run_of(space)))
    assert "must hold the same clips with the same scores in the same order" in found.what
    assert found.advice == "delete the file that differs; `conki evaluate` predicts it again"


def test_predictions_of_other_clips_than_those_of_the_store_are_found(space: Path) -> None:
    path = first_of(space).predictions_path(1, "valid")
    path.write_text(path.read_text().replace("valid$_$0,", "valid$_$7,"))
    said = [finding.what for finding in wrong(space)]
    assert "valid.csv must name the clips of the store tiny-external but names others" in said


def test_metrics_of_a_run_that_are_not_those_of_its_seeds_are_found(space: Path) -> None:
    run = run_of(space)
    metrics = run.record.metrics
    metrics["test"]["mae"]["values"][1] += 0.01
    edit_json(run.path / "result.json", metrics=metrics)
    found = only(wrong_in(run))
    assert found.what == "result.json has other metrics than its seeds: test mae"
    assert found.advice.endswith("` writes them again")


def test_damaged_metrics_hide_no_other_finding(space: Path) -> None:
    flip(seed_1(space) / "checkpoints" / "best.safetensors")
    edit_json(run_of(space).path / "result.json", metrics=["no", "metrics"])
    record, seed = wrong_in(run_of(space))
    assert record.severity == "fault"
    assert record.advice.startswith("restore result.json from a copy")
    assert seed.what.startswith("checkpoint best.safetensors is damaged")


@pytest.mark.parametrize("name", ["config.toml", "result.json", "seed-1/environment.json", "seed-1/metrics.jsonl"])
def test_a_pipe_is_not_waited_for(space: Path, name: str) -> None:
    path = run_of(space).path / name
    path.unlink()
    os.mkfifo(path)
    assert f"{path.name} must be a file but is a pipe or device" in wrong_in(run_of(space))[0].what


def test_a_checkpoint_that_lacks_weights_is_found(space: Path) -> None:
    folder = seed_1(space) / "checkpoints"
    (folder / "best.safetensors").unlink()
    shutil.copyfile(folder / "frozen.safetensors", folder / "best.safetensors")
    assert "checkpoints/best.safetensors lacks " in only(wrong_in(run_of(space))).what


def test_checkpoint_facts_that_describe_no_network_are_found(space: Path) -> None:
    from conki_cli.training.checkpoint import load, save

    path = run_of(space).checkpoint(1, "best")
    tensors, facts = load(path)
    path.unlink()
    save(path, tensors, {**facts, "architecture": {}})
    assert only(wrong_in(run_of(space))).what.startswith("its network cannot be built from best.safetensors (")


def with_mean(run: Path, mean: float) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "result.json").read_text())["metrics"]
    metrics["test"]["mae"]["mean"] = mean
    return metrics


RUN_FAULTS: dict[str, tuple[Damage, str, str, str]] = {
    "settings damaged": (
        lambda run: (run / "config.toml").write_text("[data\n"),
        "fault",
        "config.toml must be TOML but is not: ",
        "restore config.toml from a copy, or delete the run: rm -r ",
    ),
    "settings missing": (
        lambda run: (run / "config.toml").unlink(),
        "fault",
        "config.toml is missing",
        "restore it, or delete the run: rm -r ",
    ),
    "settings changed": (
        lambda run: (run / "config.toml").write_text((run / "config.toml").read_text().replace("0.07", "0.08")),
        "remark",
        ": config.toml was changed, or the text encoder ",
        "until then the same command makes another run",
    ),
    "result damaged": (
        lambda run: (run / "result.json").write_text("[" * 100_000),
        "fault",
        "result.json must be JSON but is not (maximum recursion depth exceeded",
        "restore result.json from a copy, or delete the run: rm -r ",
    ),
    "result of another kind": (
        lambda run: (run / "result.json").write_text('{"schema": 1}'),
        "fault",
        "result.json must describe a run but does not",
        "restore result.json from a copy",
    ),
    "result missing": (
        lambda run: (run / "result.json").unlink(),
        "fault",
        "result.json is missing",
        "the command that made the run writes it again",
    ),
    "result of a newer version": (
        lambda run: edit_json(run / "result.json", schema=9),
        "fault",
        "has schema 9, this conki ",
        "install a newer conki",
    ),
    "another mean": (
        lambda run: edit_json(run / "result.json", metrics=with_mean(run, 0.1)),
        "fault",
        "result.json has other metrics than its seeds: test mae",
        " writes them again",
    ),
    "lost split": (
        lambda run: edit_json(run / "result.json", metrics={}),
        "fault",
        "result.json has other metrics than its seeds: valid ",
        " writes them again",
    ),
    "encoder missing": (
        lambda run: shutil.rmtree(run / "encoder"),
        "fault",
        "config.json is missing",
        "restore configuration and tokenizer of ",
    ),
    "encoder cut off": (
        lambda run: halve(run / "encoder" / "tokenizer.json"),
        "fault",
        "tokenizer.json is damaged (",
        "restore configuration and tokenizer of ",
    ),
    "temporary file": (
        lambda run: (run / "seed-1" / "checkpoints" / ".best.safetensors.ab.part").write_bytes(b"x" * 2048),
        "remark",
        "left behind by a process that was ended while it wrote, 2.0 KiB",
        "delete it: rm ",
    ),
    "temporary folder": (
        lambda run: (run / "encoder" / ".encoder.ab").mkdir(),
        "remark",
        "left behind by a process that was ended while it wrote",
        "delete it: rm -r ",
    ),
}


@pytest.mark.parametrize("name", RUN_FAULTS)
def test_what_is_wrong_with_a_run_folder_is_found_first(space: Path, name: str) -> None:
    damage, severity, what, advice = RUN_FAULTS[name]
    damage(run_of(space).path)
    found = wrong_in(run_of(space))[0]
    assert found.subject.startswith(str(run_of(space).path))
    assert (found.severity, what in found.what) == (severity, True), found
    assert advice in found.advice


def test_weights_of_a_newer_version_are_not_to_be_deleted(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = seed_1(space) / "checkpoints" / "best.safetensors"
    weights, facts = checkpoint.load(path)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SCHEMA", "2")
    checkpoint.save(path, weights, facts)
    monkeypatch.undo()
    found = [one for one in wrong_in(run_of(space)) if "best.safetensors has schema 2" in one.what]
    assert [one.advice for one in found] == ["install the version that wrote it, or a newer one"]


def test_other_versions_than_here_are_a_remark(space: Path) -> None:
    path = seed_1(space) / "environment.json"
    packages = json.loads(path.read_text())["packages"]
    edit_json(path, packages={**packages, "torch": "2.0.1"}, threads=7)
    found = only(wrong_in(run_of(space)))
    here = f"threads 7 (here 1), torch 2.0.1 (here {packages['torch']})"
    assert (found.severity, found.what) == ("remark", f"seed 1 trained with {here}")


def test_a_seed_that_was_trained_in_two_environments_is_a_remark(space: Path) -> None:
    path = seed_1(space) / "environment.json"
    edit_json(path, earlier=[{**json.loads(path.read_text()), "threads": 7}])
    found = only(wrong_in(run_of(space)))
    assert (found.severity, found.what) == ("remark", "seed 1 trained with threads 7 then 1 (here 1)")


def test_a_seed_with_other_metrics_than_the_rest_is_named(space: Path) -> None:
    path = run_of(space).seed_folder(1) / "result.json"
    metrics = json.loads(path.read_text())["metrics"]
    del metrics["test"]["corr"]
    edit_json(run_of(space).seed_folder(2) / "result.json", metrics=metrics)
    assert any(one.what == "seed 2 has other metrics than seed 1" for one in wrong_in(run_of(space)))


def test_a_store_that_is_gone_is_a_remark_for_a_finished_run(space: Path) -> None:
    (space / "features" / "tiny.h5").unlink()
    found = only([one for one in wrong(space) if "pretrain" not in one.subject])
    assert found.severity == "remark"
    assert found.what.endswith("is missing, so its training split cannot be predicted, nor further seeds trained")
    assert f"make it again, from the same file: `conki prepare --dataset tiny --workspace {space}`" in found.advice


def test_another_version_of_a_store_is_a_remark_for_a_finished_run(space: Path) -> None:
    shutil.copyfile(space / "features" / "tiny-external.h5", space / "features" / "tiny.h5")
    found = [one for one in wrong(space) if one.subject == str(run_of(space).path)]
    assert "tiny.h5 is another version: " in only(found).what
    assert only(found).advice == "restore that version, or train under a new --name"


def test_a_stage_1_that_is_gone_is_a_remark(space: Path) -> None:
    name = first_of(space).name
    shutil.rmtree(first_of(space).path)
    found = only(wrong(space))
    assert (found.severity, found.advice) == ("remark", "nothing for finished seeds; further seeds train stage 1 again")
    assert found.what.startswith(f"the stage-1 run {name} that seeds 1, 2 started from is not there")


def test_a_folder_that_is_no_run_is_a_remark(space: Path) -> None:
    (space / "runs" / "empty").mkdir()
    assert only(wrong(space)).what == "holds nothing of a run"


def test_best_weights_of_another_seed_or_epoch_are_a_fault(space: Path, trained: Trained) -> None:
    run = Run(space / "runs" / trained.run.name)
    tensors, facts = checkpoint.load(run.checkpoint(1, "best"))
    checkpoint.save(run.checkpoint(1, "best"), tensors, {**facts, "seed": 2})
    assert "best.safetensors has the weights of seed 2, epoch " in only(wrong(space)).what
    with pytest.raises(CheckpointError, match="has the weights of seed 2, "):
        load_model(run, 1, torch.device("cpu"))
    checkpoint.save(run.checkpoint(1, "best"), tensors, {**facts, "epoch": 77})
    assert re.search("weights of seed 1, epoch 77, not of seed 1, epoch [12]$", only(wrong(space)).what)


def test_a_seed_that_is_no_folder_is_a_fault(space: Path, trained: Trained) -> None:
    folder = space / "runs" / trained.run.name / "seed-1"
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)
    assert "must be a folder and is none" in [finding.what for finding in wrong(space) if finding.severity == "fault"]


def test_what_is_left_of_a_deleted_run_is_found(space: Path) -> None:
    (space / "runs" / ".old.discarded" / "seed-1").mkdir(parents=True)
    found = only(wrong(space))
    assert (Path(found.subject).name, found.what) == (
        ".old.discarded",
        "left behind by a process that was ended while it deleted",
    )


def test_metrics_that_a_seeds_predictions_contradict_are_not_to_be_written_on(space: Path, trained: Trained) -> None:
    path = space / "runs" / trained.run.name / "seed-1" / "result.json"
    result = json.loads(path.read_text())
    result["metrics"]["test"]["mae"] = 0.1
    write_json(path, result)
    found = {finding.subject: finding for finding in wrong(space)}
    assert found[str(path.parents[1])].advice.startswith("first repair seed 1, whose metrics do not match")
    assert "if that is refused too, restore the seed's result.json" in found[str(path.parent)].advice


# --- unfinished runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(workspace: Workspace, tiny_config: MakeConfig) -> Path:
    """A workspace with one run, stopped in its second epoch of three, with the checkpoint before the last."""
    config = tiny_config("", "model.name=lmf", "optimizer.num_epochs=3", "data.external=none", name="cut")
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 3/3"))
    checkpoints = workspace.runs / "cut" / "seed-1" / "checkpoints"
    if not (checkpoints / "previous.safetensors").exists():
        shutil.copyfile(checkpoints / "last.safetensors", checkpoints / "previous.safetensors")
    return checkpoints


def of_seed(checkpoints: Path) -> list[Finding]:
    return [finding for finding in wrong_in(Run(checkpoints.parents[1])) if finding.subject == str(checkpoints.parent)]


def test_an_unfinished_seed_is_a_remark_with_the_command_that_continues_it(unfinished: Path) -> None:
    found, run = only(of_seed(unfinished)), unfinished.parents[1]
    assert (found.severity, found.what[:29]) == ("remark", "unfinished, continues after e")
    command = f"conki finetune --config {run / 'config.toml'} --workspace {run.parents[1]}"
    assert found.advice == f"`{command}` continues it"
    assert CliRunner().invoke(app, command.split()[1:]).exit_code == 0
    assert of_seed(unfinished) == []


def test_a_damaged_last_is_a_remark_while_the_one_before_it_is_sound(unfinished: Path) -> None:
    flip(unfinished / "last.safetensors")
    found = only(of_seed(unfinished))
    assert found.severity == "remark"
    assert "last.safetensors is damaged (its content does not fit its checksum); continues from the" in found.what


def test_a_damaged_last_with_nothing_before_it_is_a_fault(unfinished: Path) -> None:
    flip(unfinished / "last.safetensors")
    (unfinished / "previous.safetensors").unlink()
    found = only(of_seed(unfinished))
    assert found.severity == "fault"
    assert found.what.endswith("is damaged (its content does not fit its checksum); nothing is left to continue from")
    assert found.advice.endswith("` starts the seed over")


def test_a_seed_without_a_checkpoint_starts_from_the_beginning(unfinished: Path) -> None:
    shutil.rmtree(unfinished)
    assert only(of_seed(unfinished)).what == "started, but without a checkpoint yet: it starts from the beginning"


def test_an_unfinished_seed_needs_its_best(unfinished: Path) -> None:
    flip(unfinished / "best.safetensors")
    assert of_seed(unfinished)[0].what.startswith("checkpoint best.safetensors is damaged")
    (unfinished / "best.safetensors").unlink()
    assert of_seed(unfinished)[0].what == "checkpoints/best.safetensors is missing"


def test_an_unfinished_run_without_its_store_is_a_fault(unfinished: Path) -> None:
    space = unfinished.parents[3]
    (space / "features" / "tiny.h5").unlink()
    found = only([one for one in wrong(space) if one.severity == "fault"])
    assert found.what.endswith("tiny.h5 is missing, so it cannot be continued")


def test_the_weights_of_a_frozen_encoder_belong_to_the_run(unfinished: Path) -> None:
    run = unfinished.parents[1]
    CliRunner().invoke(app, ["finetune", "--config", str(run / "config.toml"), "--workspace", str(run.parents[1])])
    assert [finding.what for finding in wrong_in(Run(run))] == []
    flip(run / "encoder" / "frozen.safetensors")
    assert only(wrong_in(Run(run))).what.startswith("checkpoint frozen.safetensors is damaged")
    (run / "encoder" / "frozen.safetensors").unlink()
    found = only(wrong_in(Run(run)))
    assert found.what == "frozen.safetensors is missing, and the model predicts with it"


def test_kept_states_are_compared_with_their_checksums(unfinished: Path) -> None:
    space = unfinished.parents[3]
    kept = sorted((space / "frozen").glob("*.h5"))
    for path, damage in zip(kept, (flip_states, halve, rename_states), strict=False):
        damage(path)
    found = {Path(one.subject): one for one in wrong(space)}
    assert found[kept[0]].what.endswith(" was changed after it was written)")
    assert f"{kept[1].name} " in found[kept[1]].what
    assert found[kept[2]].what == f"{kept[2].name} is damaged (other does not match its texts)"
    assert found[kept[0]].advice == f"delete it: rm {kept[0]}; the next training that reads it computes it again"


def flip_states(path: Path) -> None:
    with resealed(path) as file:
        file["layer_4"][0, 0] += 1


def rename_states(path: Path) -> None:
    with resealed(path) as file:
        file["other"] = file["layer_4"][:-1]


def test_the_built_in_encoder_is_examined(space: Path, encoder: Path) -> None:
    folder = Path(shutil.copytree(encoder, space / "encoders" / "demo"))
    assert wrong(space) == []
    halve(folder / "model.safetensors")
    (folder / "config.json").unlink()
    found = wrong(space)
    assert [one.what.partition(" (")[0] for one in found] == ["config.json is missing", "model.safetensors is damaged"]
    assert found[0].advice == f"delete it: rm -r {folder}; `conki demo --workspace {space}` builds it again"


def test_what_a_killed_process_left_of_the_built_in_encoder_is_found(space: Path, encoder: Path) -> None:
    folder = Path(shutil.copytree(encoder, space / "encoders" / "demo"))
    (folder / ".encoder.ab.part").mkdir()
    with locked(folder.with_name(".demo.lock"), what="the encoder"):
        assert wrong(space) == []
    assert only(wrong(space)).subject == str(folder / ".encoder.ab.part")


# --- who is at work ----------------------------------------------------------------------------------------------


def test_a_lock_file_alone_is_no_matter_and_a_held_one_names_its_process(space: Path) -> None:
    store = space / "features" / "tiny.h5"
    (store.parent / ".tiny.h5.ab.part").write_bytes(b"x")
    with locked(store_lock(store), what="the store"):
        found = only(wrong(space))
        assert found.what.startswith(f"process {os.getpid()}")
        assert found.what.endswith(" is writing it again")
    assert only(wrong(space)).subject.endswith(".part")


def test_where_the_kernel_lists_no_locks_the_note_beside_it_counts_while_its_process_lives(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conki_cli.system.locks.PROC_LOCKS", space / "none")
    lock = store_lock(space / "features" / "tiny.h5")
    with locked(lock, what="the store"):
        assert only(wrong(space)).what.startswith(f"process {os.getpid()}, `")
    assert wrong(space) == []


def test_a_run_that_another_process_trains_is_waited_for(unfinished: Path) -> None:
    run = unfinished.parents[1]
    with locked(run.with_name(f".{run.name}.lock"), what="the run"):
        assert only(of_seed(unfinished)).advice.startswith(f"wait for process {os.getpid()}")


# --- the environment ---------------------------------------------------------------------------------------------


def test_a_workspace_that_is_missing_or_a_file_is_a_fault(tmp_path: Path) -> None:
    found = [one for one in examine(Workspace(tmp_path / "nowhere"), Observer()) if one.severity == "fault"]
    assert only(found).what == "there is no such folder"


def test_a_workspace_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    found = [one for one in examine(Workspace(tmp_path), Observer()) if one.severity == "fault"]
    assert only(found).what == "nothing can be written here: no store, no run"


def test_sound_seeds_are_not_called_damaged_where_torch_cannot_be_imported(space: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from conki_cli.cli import app; app()"
    command = [sys.executable, "-c", program, "doctor", run_of(space).name, "--json", "--workspace", str(space)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {finding["what"] for finding in json.loads(done.stdout)["findings"] if finding["severity"] == "fault"}
    assert {what.partition(" (")[0] for what in found} == {"seed-1 was not examined", "seed-2 was not examined"}


def test_nothing_is_to_be_deleted_where_transformers_cannot_be_imported(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = wrong_in(run_of(space))
    assert "seed-1 was not examined (import of transformers halted; None in sys.modules)" in [one.what for one in found]
    assert [one.advice for one in found if "delete" in one.advice] == []


# --- the command -------------------------------------------------------------------------------------------------


def test_200_damaged_things_are_all_listed(tmp_path: Path) -> None:
    for number in range(100):
        folder = tmp_path / "runs" / f"run-{number}"
        (tmp_path / "features").mkdir(exist_ok=True)
        (tmp_path / "features" / f"data-{number}.h5").write_bytes(SEALED + bytes([number]) * number)
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(bytes([number]))
    done = doctor(tmp_path)
    assert done.exit_code == 1
    assert all(f"/run-{number}\n" in done.stdout for number in range(100))
    assert all(f"/data-{number}.h5\n" in done.stdout for number in range(100))
    assert done.stderr == "error: 300 faults were found: see the advice under each\n"


def test_the_command_ends_with_0_where_there_are_remarks_alone(space: Path) -> None:
    (seed_1(space) / "predictions" / "test.csv").unlink()
    done = doctor(space, run_of(space).name)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "remark  predictions/test.csv is missing " in done.stdout
    assert re.search(r"0 faults, [12] remarks?, 2 sound\n$", done.stdout)  # the tiny run hardly learns


def test_a_store_is_examined_by_its_name_and_by_its_path(space: Path) -> None:
    changed_frame(space / "features" / "tiny.h5")
    for name in ("tiny", str(space / "features" / "tiny.h5")):
        done = doctor(space, name)
        assert (done.exit_code, done.stderr) == (1, "error: 1 fault was found: see the advice under each\n")
        assert done.stdout.startswith(f"{space / 'features' / 'tiny.h5'}\n  fault   its clips are not those")


def test_a_run_is_compared_with_the_stores_of_its_own_workspace(space: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    done = doctor(tmp_path / "elsewhere", str(run_of(space).path))
    assert (done.exit_code, "is missing" in done.stdout) == (0, False)


def test_a_run_is_compared_with_those_stores_from_inside_its_folder_too(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(space / "runs")
    found = examine_named(f"./{run_of(space).name}", Path("none.h5"), Workspace(Path()), Observer())
    assert [finding for finding in found if is_wrong(finding)] == []


def test_a_run_folder_without_its_result_is_still_found_by_name(space: Path) -> None:
    (run_of(space).path / "result.json").unlink()
    assert "result.json is missing" in doctor(space, run_of(space).name).stdout


def test_a_name_of_nothing_is_refused(space: Path) -> None:
    with pytest.raises(ConkiError, match="no store and no run 'nothing' is there: give a file, a data set below"):
        examine_named("nothing", space / "features" / "nothing.h5", Workspace(space), Observer())


def test_json_holds_every_finding(space: Path) -> None:
    flip(seed_1(space) / "checkpoints" / "best.safetensors")
    done = doctor(space, "--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["faults"], answer["workspace"]) == (1, 1, str(space))
    assert set(answer["findings"][0]) == {"subject", "severity", "what", "advice"}


def test_names_of_files_steer_neither_the_table_nor_the_shell(tmp_path: Path) -> None:
    (tmp_path / "runs" / "[red]a\x1b[1m\nb" / "seed-1").mkdir(parents=True)
    done = doctor(tmp_path)
    assert "\x1b" not in done.stdout
    assert "[red]a?[1m b" in done.stdout
    assert f"rm -r $'{tmp_path}/runs/[red]a\\x1b[1m\\nb'" in done.stdout
