"""Who trains where: from locks, notes, logs and submissions, on a terminal, in a log and as JSON."""

import io
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from conftest import Trained
from process_support import SECONDS, started
from rich.console import Console

from conki_cli.cli.screen import Screen
from conki_cli.cli.watching import _show_changes
from conki_cli.reporting.tables.watching import watch_line, watch_table
from conki_cli.runs import Run
from conki_cli.runs.endings import ending_in_workspace
from conki_cli.runs.submissions import Submission, Task, new_folder, read_submission, submissions, unfinished
from conki_cli.runs.watching import Watched, look
from conki_cli.system.errors import ConkiError, Kind
from conki_cli.system.locks import find_holder, locked
from conki_cli.system.workspace import Workspace

TRAINING = Watched("mosi-conki", 2, 1, "training", "node7", 4711, "12_1", 3, 200, 0.9, 5000.0)
WAITING = Watched("mosi-conki", 2, 2, "pending (Dependency)", job="13_2")


def submitted(
    space: Workspace, *, launcher: str = "slurm", arrays: tuple[str, ...] = ("12",), seed: int = 1
) -> Submission:
    """Submit one step that is not trained."""
    run = os.path.realpath(space.runs / "mosi-conki")
    task = Task(0, 1, run, 2, 1, None, "bert", {"mosi": "/f/mosi.h5"}, {"mosi": "abc"})
    found = Submission(new_folder(space, "finetune"), ("finetune",), launcher, (task,), arrays=arrays)
    found.write()
    return found


def test_a_seed_in_training_is_seen_with_its_process_and_epoch(copied: Workspace, trained: Trained) -> None:
    run = Run(copied.runs / trained.run.name)
    with locked(run.seed_lock(1), what="it"):
        [watched] = look(copied, {})
    assert (watched.run, watched.stage, watched.seed, watched.state) == (run.name, 2, 1, "training")
    assert (watched.host, watched.pid, watched.job) == (os.uname().nodename, os.getpid(), "")
    assert (watched.epoch, watched.num_epochs, watched.remaining) == (2, 2, 0.0)
    assert look(copied, {}) == []


def test_the_remaining_time_is_the_median_epoch_times_the_epochs_left(copied: Workspace, trained: Trained) -> None:
    run = Run(copied.runs / trained.run.name)
    config = run.path / "config.toml"
    config.write_text(re.sub(r"(\[optimizer\][^[]*num_epochs = )2", r"\g<1>12", config.read_text()))
    log = run.seed_folder(1) / "metrics.jsonl"
    lines = [{**json.loads(line), "seconds": 60.0} for line in log.read_text().splitlines()]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    os.utime(log, (time.time() + 3600,) * 2)  # another machine's clock
    with locked(run.seed_lock(1), what="it"):
        assert look(copied, {})[0].remaining == 600.0


def test_the_note_of_a_lock_names_the_job_in_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with locked(tmp_path / ".it.lock", what="it"):
        holder = find_holder(tmp_path / ".it.lock")
    assert holder is not None
    assert (holder.pid, holder.job, holder.is_here) == (os.getpid(), "12_3", True)


def test_a_seed_that_has_no_folder_yet_is_starting(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    submission = submitted(space)
    with locked(Run(space.runs / "mosi-conki").seed_lock(1), what="it"):
        [watched] = look(space, {"12_1": "running"})
    assert (watched.state, watched.stage, watched.num_epochs) == ("starting", 2, None)
    assert watched.log == str(submission.path / "logs" / "0_1.log")


def test_a_submitted_seed_waits_in_the_queue_or_has_stopped(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    submitted(space)
    [waiting], [stopped] = look(space, {"12_1": "pending (Resources)"}), look(space, {})
    assert (waiting.state, waiting.job, waiting.pid) == ("pending (Resources)", "12_1", None)
    assert stopped.state == "stopped"


def test_a_seed_of_a_local_submission_waits_while_its_process_lives(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    submission = submitted(space, launcher="local", arrays=())
    with locked(submission.lock, what="it"):
        assert [watched.state for watched in look(space, {})] == ["waiting"]
    assert [watched.state for watched in look(space, {})] == ["stopped"]


def test_of_two_submissions_of_a_seed_the_newer_one_counts(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    older, newer = submitted(space), submitted(space, arrays=("15",))
    assert [pair[0].path for pair in unfinished(space)] == [max(older.path, newer.path)]
    assert read_submission(newer.path) == newer


@pytest.mark.parametrize("text", ["{}", "[]", '{"schema": 1, "tasks": [{"array": 0}]}', '{"schema": 1, "tasks": 3}'])
def test_a_damaged_submission_is_one_line_and_hides_no_other(text: str, tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    whole, damaged = submitted(space), submitted(space)
    damaged.file.write_text(text)
    with pytest.raises(ConkiError, match="does not describe a submission: submit the command again") as refused:
        read_submission(damaged.path)
    assert refused.value.kind == Kind.DAMAGED
    assert [found.path for found in submissions(space)] == [whole.path]


def test_a_log_gets_a_line_per_change_and_none_without(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    after = Watched(**{**TRAINING.as_json(), "epoch": 4})
    looks = iter([[TRAINING, WAITING], [TRAINING, WAITING], [after], []])
    _show_changes(Screen(json=False), Workspace(tmp_path), looks)
    lines = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [watch_line(TRAINING), watch_line(WAITING), watch_line(after), *_ended(2), *_ended(1), NOTHING]


NOTHING = "nothing is in training"


def _ended(seed: int) -> list[str]:
    return [f"mosi-conki, seed {seed}: ended before it had a folder"]


def test_a_seed_that_is_gone_is_finished_killed_or_neither(copied: Workspace, trained: Trained) -> None:
    run = Run(copied.runs / trained.run.name)
    mae = trained.run.seed_result(1).metrics["valid"]["mae"]  # type: ignore[union-attr]
    assert ending_in_workspace(copied, run.name, 1) == f"finished, validation MAE {mae:.3f}"
    (run.seed_folder(1) / "result.json").unlink()
    unfinished = "stopped or failed, as its own output says; the same command continues"
    assert ending_in_workspace(copied, run.name, 1) == unfinished
    lock = run.seed_lock(1)
    note = lock.with_name(f"{lock.name}.owner")
    note.write_text('{"pid": 4711, "host": "another"}')
    os.utime(note, (0, 0))  # its heartbeat stopped long ago
    assert ending_in_workspace(copied, run.name, 1) == "killed; the same command continues"
    (copied.trials / ".mine-0001.seed-1.lock").parent.mkdir()
    (copied.trials / ".mine-0001.seed-1.lock").touch()
    assert ending_in_workspace(copied, "mine-0001", 1) == "ended; a sweep keeps only its best trial"


def test_a_finished_seed_whose_mae_is_undefined_is_finished(copied: Workspace, trained: Trained) -> None:
    path = copied.runs / trained.run.name / "seed-1" / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    result["metrics"]["valid"]["mae"] = None
    path.write_text(json.dumps(result), encoding="utf-8")
    assert ending_in_workspace(copied, trained.run.name, 1) == "finished"


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        ("seed 1\nerror: the store is damaged: restore it\n", "failed", "the store is damaged: restore it"),
        ("slurmstepd: error: *** JOB 12 CANCELLED DUE TO TIME LIMIT ***\n\n", "failed", "*** JOB 12 CANCELLED DUE"),
        ("error: once\nseed 1 resumes\ninterrupted: what was trained is saved\n", "stopped", ""),
        ("", "stopped", ""),
    ],
)
def test_a_submitted_seed_that_ended_has_failed_if_its_log_ends_with_an_error(
    said: str, state: str, reason: str, tmp_path: Path
) -> None:
    space = Workspace(tmp_path)
    submission = submitted(space)
    submission.log(submission.tasks[0]).write_text(said)
    [watched] = look(space, {})
    assert (watched.state, watched.reason[: len(reason)], bool(watched.reason)) == (state, reason, bool(reason))
    [queued] = look(space, {"12_1": "pending"})
    assert (queued.state, queued.reason) == ("pending", "")
    assert (f"seed 1: failed, {reason}" in watch_line(watched)) == (state == "failed")


def test_a_line_and_a_table_name_host_process_job_epoch_and_time() -> None:
    place = "process 4711 on node7, job 12_1"
    assert watch_line(TRAINING) == (
        f"mosi-conki, stage 2, seed 1: training, epoch 3/200, MAE 0.900, at most 83 min remaining, {place}"
    )
    assert watch_line(WAITING) == "mosi-conki, stage 2, seed 2: pending (Dependency), job 13_2"
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(watch_table([TRAINING, WAITING], now="12:00:00"))
    rows = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert rows[0] == "12:00:00: 1 in training, 1 waiting or ended"
    assert rows[3] == "mosi-conki 2 1 training 3/200 0.900 83 min node7 4711 12_1"


def test_ctrl_c_ends_the_view_as_it_should_end(tmp_path: Path) -> None:
    submitted(Workspace(tmp_path))
    with started("-m", "conki_cli", "runs", "--watch", "--interval", "0.1", "--json", space=tmp_path) as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert [look["seeds"][0]["state"] for look in looks] == ["stopped"] * 2
    assert (process.returncode, err) == (0, "")
