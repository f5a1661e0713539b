"""`--gpus` starts torchrun: what it refuses, and real processes that are killed or asked to end."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from process_support import SECONDS, finished, started

from conki_cli.experiments.launching import Team
from conki_cli.runs import Run
from conki_cli.runs.log import log_path
from conki_cli.system.errors import SettingsError
from conki_cli.system.workspace import Workspace


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here")
def test_gpus_that_are_not_there_are_refused_with_the_way_to_train_without() -> None:
    with pytest.raises(SettingsError) as caught:
        Team(2).check("auto")
    assert str(caught.value) == (
        "--gpus 2 needs 2 GPUs, found none: give --device cpu to train in 2 processes on the CPU"
    )
    Team(2).check("cpu")


def test_several_machines_must_know_where_they_meet() -> None:
    with pytest.raises(SettingsError, match="--nodes needs --rendezvous HOST:PORT of one of the machines"):
        Team(1, nodes=2).check("cpu")


def words(encoder: Path, *more: str, num_epochs: int = 40) -> tuple[str, ...]:
    lines = ("optimizer.batch_size=4", f"optimizer.num_epochs={num_epochs}", "optimizer.patience=0")
    settings = [word for line in lines for word in ("--set", line)]
    command = ("finetune", "--dataset", "tiny", "--external", "none", "--encoder", str(encoder), "--name", "run")
    return ("-m", "conki_cli", *command, "--device", "cpu", *settings, *more)


def ranks_of(launcher: "subprocess.Popen[str]", space: Workspace, epochs: int) -> dict[int, int]:
    """Return the processes by rank as soon as so many epochs are logged."""
    log, end = log_path(Run(space.runs / "run"), 1), time.monotonic() + SECONDS
    while not log.is_file() or len(log.read_bytes().splitlines()) < epochs:
        assert time.monotonic() < end
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.1)
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if f" {launcher.pid} " in (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2]:
            variables = dict(item.partition("=")[::2] for item in (folder / "environ").read_text().split("\0"))
            if "RANK" in variables:
                found[int(variables["RANK"])] = int(folder.name)
    return found


@pytest.mark.slow
def test_a_training_in_two_processes_survives_kills_and_ends_in_one(workspace: Workspace, encoder: Path) -> None:
    ended = "the last checkpoint is kept; give the same command again to continue"
    lines = {1: "error: another process of this training ended (", 0: "error: the leading process of this training was"}
    for number, (rank, line) in enumerate(lines.items(), start=1):
        with started(*words(encoder, "--gpus", "2"), space=workspace.root) as launcher:
            os.kill(ranks_of(launcher, workspace, number)[rank], signal.SIGKILL)
            _, err = launcher.communicate(timeout=SECONDS)
        assert launcher.returncode == 1, err
        last = err.splitlines()[-1]
        assert last.startswith(line), err
        assert last.endswith(ended)
        assert err.count("error: ") == 1
    with started(*words(encoder, "--gpus", "2"), space=workspace.root) as launcher:
        ranks_of(launcher, workspace, 3)
        launcher.send_signal(signal.SIGINT)
        _, err = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 130, err
    assert "is unfinished: seed 1 resumes" in err
    assert err.splitlines()[-1].startswith("interrupted: what was finished is kept; resume with: conki finetune")
    code, _, err = finished(*words(encoder), space=workspace.root)
    assert (code, "is unfinished: seed 1 resumes" in err) == (0, True), err
    assert Run(workspace.runs / "run").is_finished


@pytest.mark.slow
def test_torchrun_trains_in_several_processes(workspace: Workspace, encoder: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "3")
    code, out, err = finished(*torchrun, *words(encoder, num_epochs=2), space=workspace.root)
    assert code == 0, err
    assert "parameters train on cpu in 3 processes" in err
    assert out.count("tiny, test split, protocol all") == 1  # one process prints the table
