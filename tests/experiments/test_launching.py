"""`--gpus` starts torchrun: what it refuses, and real processes that are killed or asked to end."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from process_support import SECONDS, finished, started
from typer.testing import CliRunner

from conki_cli.cli import app
from conki_cli.config.resolving import setting_given
from conki_cli.experiments.launching import Team
from conki_cli.experiments.meeting import parse_meeting
from conki_cli.runs import Run
from conki_cli.runs.log import log_path
from conki_cli.system.errors import SettingsError
from conki_cli.system.locks import find_holder
from conki_cli.system.workspace import Workspace
from conki_cli.training.lost import KilledRankError, saying_what_is_kept, what_is_kept


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


@pytest.mark.parametrize(
    ("rendezvous", "found"),
    [
        ("node1:abc", "'node1:abc': give a port from 1 to 65535, as in node1:29400"),
        ("127.0.0.1:99999", "'127.0.0.1:99999': give a port"),
        ("127.0.0.1:0", "'127.0.0.1:0': give a port"),
        ("127.0.0.1:", "'127.0.0.1:': give a port"),
        ("::1:29400", "'::1:29400': give a port"),
        ("node.invalid:29400", "'node.invalid', which has no address here: give a name that `ping` finds"),
        ("a..b", "'a..b', which has no address here"),
    ],
)
def test_a_meeting_point_that_cannot_be_one_is_refused_before_anything_starts(rendezvous: str, found: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Team(2, nodes=2, rendezvous=rendezvous).check("cpu")
    assert str(refused.value).startswith(f"--rendezvous must be HOST:PORT of one of the machines, found {found}")


def test_a_meeting_point_is_read_with_its_port_or_gets_that_of_torchrun() -> None:
    assert [str(parse_meeting(text)) for text in ("node-1.site", "10.0.0.1:7", "[::1]:8", "[fe80::1]")] == [
        *("node-1.site:29400", "10.0.0.1:7", "[::1]:8", "[fe80::1]:29400")
    ]
    with pytest.raises(SettingsError, match="--rendezvous is for several machines: give --nodes 2, or leave"):
        Team(2, rendezvous="localhost:29400").check_meeting()


def test_a_killed_training_says_whether_there_is_a_checkpoint_to_continue_from(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert what_is_kept(run, 1) == "seed 1 had no checkpoint yet; give the same command again to start it from scratch"
    run.checkpoint(1, "last").parent.mkdir(parents=True)
    run.checkpoint(1, "last").touch()
    with (
        pytest.raises(KilledRankError, match=r"^a process ended: the last checkpoint is kept; give the same command"),
        saying_what_is_kept(run, 1),
    ):
        raise KilledRankError("a process ended")


@pytest.mark.parametrize("command", ["pretrain", "finetune", "ablate", "compare", "demo"])
def test_every_command_that_trains_steps_can_be_started_in_several_processes(command: str) -> None:
    more = {"ablate": ["--drop", "C4"], "compare": ["--table", "2"]}.get(command, [])
    done = CliRunner().invoke(app, [command, *more, "--gpus", "2", "--nodes", "2", "--device", "cpu"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --nodes needs --rendezvous HOST:PORT of one of the machines, found nothing")


def test_the_device_of_several_processes_is_known_without_the_options_of_one_command(tmp_path: Path) -> None:
    for line in (
        "finetune --model iccn --set iccn.cca_epochs=90 --epochs 100",
        "compare --table 2 --models conki,misa --set misa.dropout=0.1",
    ):
        words = [*line.split(), "--dataset", "demo", "--gpus", "2", "--set", "run.device=cpu", "--dry-run"]
        done = CliRunner().invoke(app, [*words, "--workspace", str(tmp_path)])
        assert done.exit_code == 0, done.stderr
    assert setting_given("run.device", assignments=["run.device=cpu"], flags={"run.device": "cuda"}) == "cuda"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("finetune --device cpu --jobs 2", "give --jobs, or several processes for one training"),
        (
            "finetune --device cpu --model tfn --set optimizer.modality_dropout=0.3",
            "several processes cannot train one seed of TFN with optimizer.modality_dropout",
        ),
        pytest.param(
            "finetune",
            "--gpus 2 needs 2 GPUs, found none",
            marks=pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here"),
        ),
    ],
)
def test_a_dry_run_refuses_what_several_processes_refuse(line: str, found: str, tmp_path: Path) -> None:
    words = [*line.split(), "--dataset", "demo", "--gpus", "2", "--dry-run", "--workspace", str(tmp_path)]
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: {found}")
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_of_finished_runs_starts_no_processes() -> None:
    done = CliRunner().invoke(app, ["compare", "one", "other", "--gpus", "2"])
    line = "error: nothing is trained to compare finished runs: leave out --gpus and --nodes\n"
    assert (done.exit_code, done.stderr) == (1, line)


def test_a_sweep_is_refused_where_torchrun_started_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RUN_ID": "x", **dict.fromkeys(("LOCAL_RANK", "RANK"), "0")}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}" if name == "RUN_ID" else name, value)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    done = CliRunner().invoke(app, ["sweep", "--over", "loss.temperature=0.03,0.07"])
    assert (done.exit_code, done.stderr) == (
        1,
        "error: each trial of a sweep trains in one process: start it without torchrun; --jobs trains several trials\n",
    )


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
    lines = {1: "error: another process of this training ended: ", 0: "error: the leading process of this training was"}
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


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_machine_that_waits_for_another_says_so_and_ends_at_the_first_signal(
    number: signal.Signals, code: int, workspace: Workspace, encoder: Path
) -> None:
    place = f"127.0.0.1:{free_port()}"
    team = ("--gpus", "2", "--nodes", "2", "--rendezvous", place)
    with started(*words(encoder, *team), space=workspace.root) as launcher:
        assert launcher.stderr is not None
        said = launcher.stderr.readline()
        assert said.startswith(f"waiting for 1 other machine at {place}; give the same command there: conki finetune")
        time.sleep(1)
        launcher.send_signal(number)
        out, err = launcher.communicate(timeout=SECONDS)
    assert (launcher.returncode, out) == (code, "")
    assert err.startswith("interrupted: what was finished is kept; resume with: conki finetune")
    assert len(err.splitlines()) == 1
    assert not workspace.runs.exists()


@pytest.mark.slow
def test_ranks_end_by_themselves_when_their_launcher_is_killed(workspace: Workspace, encoder: Path) -> None:
    command = words(encoder, "--gpus", "2", num_epochs=10)
    with started(*command, space=workspace.root) as launcher:
        ranks = ranks_of(launcher, workspace, 1)
        launcher.kill()
        launcher.communicate(timeout=SECONDS)  # until the ranks have closed its pipes, which they inherit
    assert len(ranks) == 2
    run = Run(workspace.runs / "run")
    end = time.monotonic() + SECONDS
    while any(is_alive(pid) for pid in ranks.values()):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert find_holder(run.seed_lock(1)) is None
    code, _, err = finished(*command, space=workspace.root)
    assert (code, "is unfinished: seed 1 resumes" in err, run.is_finished) == (0, True, True), err


def is_alive(pid: int) -> bool:
    """Say whether a process still runs; a zombie, which nobody waited for, does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
