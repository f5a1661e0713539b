"""Steps side by side in processes: the same bits, stage 1 first, and nothing is lost when one of them ends early."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig, Notes, Trained, content, equal_bits
from process_support import SECONDS, finished, started
from run_support import finetune
from worker_support import room

from conki_cli.config.resolving import resolve, to_toml
from conki_cli.experiments import jobs
from conki_cli.experiments.execution import carry_out
from conki_cli.experiments.planning import make_plan
from conki_cli.experiments.workers import Done, Gone, Said, Workers, spread
from conki_cli.runs import Run, Runs
from conki_cli.system.errors import ConkiError, SettingsError
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.workspace import Workspace
from conki_cli.training.steps import Shelf, Step

STEP = Step(resolve(), 3, Path("run"), None, "bert", {}, {})
QUICK = ("optimizer.num_epochs=2", "pretraining.num_epochs=1")


class Diary(Notes):
    """Notes what it hears, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[tuple[int, int, int]] = []
        self.totals: list[int] = []

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        self.totals.append(total)
        yield self._advance

    def epoch(self, training: Training, epoch: Epoch) -> None:
        self.epochs.append((training.seed, training.stage, epoch.number))


@pytest.mark.slow
def test_seeds_side_by_side_have_the_bits_of_seeds_one_after_another(workspace: Workspace, trained: Trained) -> None:
    diary = Diary()
    with Shelf() as shelf:
        plan = make_plan([trained.config], Runs(workspace), diary, shelf=shelf)
        [(_, run)] = carry_out(plan, diary, num_jobs=2)
    assert run.is_finished
    for seed in (1, 2):
        assert equal_bits(content(run.checkpoint(seed, "best")), content(trained.run.checkpoint(seed, "best")))
        assert [e for e in diary.epochs if e[0] == seed] == [
            (seed, stage, epoch) for stage in (1, 2) for epoch in (1, 2)
        ]
    assert (diary.totals, diary.num_steps) == ([8], 8)
    assert "4 steps in 2 jobs, each with 1 thread" in diary.lines
    assert any(line.startswith("[ConKI, stage 2, seed 2] seed 2: best epoch") for line in diary.lines)


def planned(workspace: Workspace, config: Any, **options: Any) -> list[Step]:
    with Shelf() as shelf:
        return make_plan([config], Runs(workspace), Observer(), shelf=shelf, **options).steps


def test_a_step_waits_for_its_stage_1_and_for_no_other(workspace: Workspace, tiny_config: MakeConfig) -> None:
    order = jobs._Order(planned(workspace, tiny_config(seeds=(1, 2))))
    taken = [order.take() for _ in range(3)]
    assert [(step.config.run.stage, step.seed) for step in taken if step] == [("pretrain", 1), ("pretrain", 2)]
    order.finish(taken[1])
    after = order.take()
    assert (after.config.run.stage, after.seed) == ("finetune", 2)
    assert order.take() is None
    order.finish(taken[0])
    order.finish(after)
    order.finish(order.take())
    assert not order.is_unfinished


def test_the_longest_chain_of_steps_begins_first(tmp_path: Path) -> None:
    sizes = {"small": 10, "large": 1000}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))

    def step(run: str, store: str, first: str | None = None) -> Step:
        place = None if first is None else tmp_path / first
        return replace(STEP, run=tmp_path / run, first=place, stores={store: tmp_path / store})

    steps = [step("short", "small"), step("stage 1", "large"), step("stage 2", "small", "stage 1"), step("x", "large")]
    order = jobs._Order(list(steps))
    assert [order.take() for _ in steps] == [steps[1], steps[3], steps[0], None]


def test_a_network_with_adapters_begins_before_one_without(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"x")
    without = replace(STEP, config=resolve(extra_drop=["C1", "C2"]), stores={"s": tmp_path / "store"})
    adapted = replace(STEP, config=resolve(extra_drop=["C1"]), stores={"s": tmp_path / "store"})
    order = jobs._Order([without, adapted])
    assert [order.take(), order.take()] == [adapted, without]


def test_what_workers_do_is_one_remark() -> None:
    assert spread(["seed 1: epoch 1/2", "seed 2: epoch 2/2"]) == "seed 1: epoch 1/2 | seed 2: epoch 2/2"
    assert len(spread(["x" * 99, "y"])) == 100


def test_how_a_process_ended_is_said_in_words() -> None:
    assert Gone(-9).words == "was ended by signal 9 (SIGKILL)"
    assert Gone(3).words == "ended with exit code 3"


def reports(workers: Workers) -> tuple[Any, Any]:
    """Return the next message of the only worker, and the task that it is about."""
    [(_, message, task)] = workers.hear()
    return message, task


def test_a_worker_reports_what_it_says_why_it_failed_and_that_it_was_killed() -> None:
    with Workers(1, room, threads=1) as workers:
        workers.idle[0].give("a line")
        assert [reports(workers), reports(workers)] == [(Said("a line"), "a line"), (Done(), "a line")]
        workers.idle[0].give("refuse")
        error = reports(workers)[0].error
        assert (type(error), error.must) == (SettingsError, "what must hold")
        assert str(error) == "what must hold, found what was found: what to do"
        workers.idle[0].give("break")
        assert "ZeroDivisionError" in str(reports(workers)[0].error)
        [worker] = workers.idle
        worker.give("die")
        gone, _ = reports(workers)
    with pytest.raises(ConkiError, match=r"trained ConKI.*stage 2, seed 3 was ended by signal 9"):
        jobs._heed(jobs._Order([STEP]), jobs._Display(Observer(), lambda count, remark: None), worker, gone, STEP)


class StopError(Exception):
    pass


def stopped(checkpoint: Path) -> None:
    """Let a worker train, send it what reaches it from outside, and stop."""
    with Workers(1, room, threads=1) as workers:
        [worker] = workers.idle
        worker.give(checkpoint)
        pid = int(reports(workers)[0].line)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
        assert not checkpoint.exists()
        raise StopError


def test_workers_save_what_they_do_when_the_program_ends_and_hear_no_other_signal(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        stopped(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint").read_text() == "saved"
    assert children(os.getpid()) == []


def study(workspace: Workspace, config: Any) -> tuple[str, ...]:
    """Return a command that trains for long enough to be stopped."""
    path = workspace.root / "given.toml"
    path.write_text(to_toml(config.with_values("run", seeds=(1, 2))), encoding="utf-8")
    return ("-m", "conki_cli", "finetune", "--config", str(path), "--jobs", "2")


def children(pid: int) -> list[int]:
    """Return the processes that train for a command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            rest = path.read_text().rpartition(")")[2].split()
            line = (path.parent / "cmdline").read_bytes()
            if int(rest[1]) == pid and b"spawn_main" in line:
                found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return the first true value of a condition."""
    until = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return value


@pytest.mark.slow
@pytest.mark.parametrize("how", ["worker killed", "interrupted", "program killed"])
def test_a_study_that_ends_early_continues_to_the_same_bits(
    how: str, workspace: Workspace, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config("C1+C2", "data.external=none", "optimizer.num_epochs=12")
    shutil.copytree(workspace.root, tmp_path / "there")
    there = Workspace(tmp_path / "there")
    words = study(there, config)
    with started(*words, space=there.root) as process:
        wait_for(lambda: len([*there.runs.glob("*/seed-*/checkpoints/last.safetensors")]) == 2)
        pids = children(process.pid)
        assert len(pids) == 2
        if how == "worker killed":
            os.kill(pids[0], signal.SIGKILL)
        elif how == "interrupted":
            for pid in (process.pid, *pids):  # as a terminal sends it
                os.kill(pid, signal.SIGINT)
        else:
            process.kill()
        _, err = process.communicate(timeout=SECONDS)
        wait_for(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()])
    expected = {"worker killed": (1, "signal 9"), "interrupted": (130, "interrupted: "), "program killed": (-9, "")}
    code, last = expected[how]
    assert (process.returncode, last in err.strip().splitlines()[-1], "Traceback" in err) == (code, True, False)
    [folder] = [path for path in there.runs.iterdir() if path.is_dir()]
    assert not Run(folder).is_finished
    code, _, err = finished(*words, space=there.root)
    assert code == 0, err
    assert err.count(" resumes ") == 2
    here = finetune(config.with_values("run", seeds=(1, 2)), workspace)
    for seed in (1, 2):
        assert equal_bits(content(Run(folder).checkpoint(seed, "best")), content(here.checkpoint(seed, "best")))
