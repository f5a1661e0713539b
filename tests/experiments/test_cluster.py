"""Jobs in a real Slurm: arrays and dependencies, the time limit, scancel, a killed job; always the same weights."""

import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeConfig, Trained, content, equal_bits
from process_support import finished
from run_support import finetune
from slurm_support import lacking, running_slurm, slurm, state_of, wait_for

from conki_cli.config.resolving import to_toml
from conki_cli.config.sections import RunConfig
from conki_cli.runs import Run
from conki_cli.runs.submissions import Submission, submissions
from conki_cli.runs.watching import look
from conki_cli.system.slurm import queued
from conki_cli.system.workspace import Workspace

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(lacking()), reason=lacking() or "Slurm can run")]


@pytest.fixture(scope="session", autouse=True)
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with running_slurm(tmp_path_factory.mktemp("slurm")):
        yield


def command(space: Workspace, config: RunConfig) -> list[str]:
    path = space.root / "given.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    return ["finetune", "--config", str(path)]


def submit(space: Workspace, config: RunConfig, *options: str) -> Submission:
    """Submit a command and return what was queued."""
    words = ("-m", "conki_cli", "submit", "--json", *options, "--", *command(space, config))
    code, out, err = finished(*words, space=space.root)
    assert code == 0, err
    path = json.loads(out)["submission"]
    return next(found for found in submissions(space) if str(found.path) == path)


def logs(submission: Submission) -> str:
    return "".join(path.read_text() for path in sorted((submission.path / "logs").glob("*.log")))


def check_equal(space: Workspace, here: Run, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        there = Run(space.runs / here.name).checkpoint(seed, "best")
        assert equal_bits(content(there), content(here.checkpoint(seed, "best")))


@pytest.fixture
def longer(tiny_config: MakeConfig) -> RunConfig:
    """A configuration without stage 1 that trains for some seconds."""
    return tiny_config("C1+C2", "data.external=none", "optimizer.num_epochs=40", "optimizer.patience=0")


def held_in_training(space: Workspace, submission: Submission) -> int:
    """Wait until the first job trains, and stop its process, so that nothing depends on how fast it is."""
    pid: int = wait_for(lambda: next((seen.pid for seen in look(space, {}) if seen.pid and seen.epoch), 0))
    os.kill(pid, signal.SIGSTOP)
    assert not submission.tasks[0].is_finished
    return pid


def is_pending(pid: int, number: int) -> bool:
    """Say whether a signal waits until a stopped process continues."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True  # Slurm let it continue
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.fixture(autouse=True)
def _empty_queue() -> Iterator[None]:
    yield
    slurm("scancel", "--user=root")
    wait_for(lambda: not queued())


@pytest.fixture
def elsewhere(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A second workspace with the same stores, for the jobs."""
    shutil.copytree(workspace.root, tmp_path / "there")
    return Workspace(tmp_path / "there")


def test_stage_2_starts_after_its_stage_1_and_all_weights_are_those_of_the_command(
    workspace: Workspace, trained: Trained
) -> None:
    submission = submit(workspace, trained.config, "--slurm", "partition=cpu,time=30")
    assert [(task.stage, submission.job(task)) for task in submission.tasks] == [
        (stage, f"{submission.arrays[stage - 1]}_{seed}") for stage in (1, 2) for seed in (1, 2)
    ]
    waiting = [watched.state for watched in look(workspace, queued()) if watched.stage == 2]
    assert waiting == ["pending (Dependency)"] * 2
    again = finished("-m", "conki_cli", "submit", "--", *command(workspace, trained.config), space=workspace.root)
    assert (again[0], "is in the queue already, as job" in again[2]) == (1, True), again[2]
    wait_for(lambda: not queued())
    assert all(task.is_finished for task in submission.tasks), logs(submission)
    check_equal(workspace, trained.run, (1, 2))


def test_a_job_near_its_time_limit_saves_continues_and_ends_with_the_same_weights(
    workspace: Workspace, elsewhere: Workspace, longer: RunConfig
) -> None:
    submission = submit(elsewhere, longer, "--slurm", "time=60", "--notice", "120")
    [task] = submission.tasks
    job = submission.job(task)
    pid = held_in_training(elsewhere, submission)
    minutes = int(re.search(r"RunTime=(\d+):(\d+)", slurm("scontrol", "show", "job", job)).group(2))  # type: ignore
    slurm("scontrol", "update", f"jobid={job}", f"timelimit={minutes + 2}")
    wait_for(lambda: is_pending(pid, signal.SIGUSR1))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: state_of(job) == "PENDING")
    slurm("scontrol", "update", f"jobid={job}", "starttime=now", "timelimit=60")  # it would wait two minutes
    wait_for(lambda: not queued())
    said = logs(submission)
    assert task.is_finished, said
    assert "the time is nearly up: saved, to be continued" in said
    assert f"job {job} on" in said.partition("to be continued")[2]
    assert " resumes " in said.partition("to be continued")[2]
    check_equal(elsewhere, finetune(longer, workspace), (1,))


def test_a_job_that_is_cancelled_saves_and_can_be_submitted_again(
    workspace: Workspace, elsewhere: Workspace, longer: RunConfig
) -> None:
    first = submit(elsewhere, longer)
    held_in_training(elsewhere, first)
    slurm("scancel", first.arrays[0])
    wait_for(lambda: not queued())
    assert "interrupted: what was trained is saved" in logs(first)
    assert not first.tasks[0].is_finished
    second = submit(elsewhere, longer)
    wait_for(lambda: not queued())
    assert second.tasks[0].is_finished, logs(second)
    assert " resumes " in logs(second)
    check_equal(elsewhere, finetune(longer, workspace), (1,))


def test_a_killed_job_cancels_what_waits_for_it_and_the_same_command_continues(
    workspace: Workspace, elsewhere: Workspace, tiny_config: MakeConfig
) -> None:
    config = tiny_config("", "pretraining.num_epochs=40")
    first = submit(elsewhere, config)
    os.kill(held_in_training(elsewhere, first), signal.SIGKILL)
    wait_for(lambda: not queued())
    assert state_of(first.job(first.tasks[1])) == "CANCELLED"
    second = submit(elsewhere, config)
    assert len(second.tasks) == 2
    wait_for(lambda: not queued())
    assert all(task.is_finished for task in second.tasks), logs(second)
    assert " resumes " in logs(second)
    check_equal(elsewhere, finetune(config, workspace), (1,))


def test_an_unknown_partition_is_refused_in_the_words_of_sbatch(workspace: Workspace, trained: Trained) -> None:
    words = ("submit", "--slurm", "partition=nope", "--", *command(workspace, trained.config))
    code, out, err = finished("-m", "conki_cli", *words, space=workspace.root)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "sbatch refuses the jobs: invalid partition specified: nope" in err
    assert not workspace.jobs.exists()
