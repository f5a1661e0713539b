"""Rank 0 leads, the others follow; a run continues with another number of ranks, and a lost rank ends all."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import MakeConfig, content, equal_bits, make_corpus
from ranks_support import on_ranks

from conki_cli.config.sections import RunConfig
from conki_cli.data.store.writing import write_store
from conki_cli.experiments.planning import make_plan
from conki_cli.runs import Run, Runs
from conki_cli.runs.log import log_path, logged_epochs
from conki_cli.system.errors import SettingsError
from conki_cli.system.observer import Observer, Training
from conki_cli.system.torchrun import Seat, seat
from conki_cli.system.workspace import Workspace
from conki_cli.training.following import check_devices, take_part
from conki_cli.training.lost import LostRankError
from conki_cli.training.ranks import ALONE, Ranks
from conki_cli.training.stages import train
from conki_cli.training.steps import Shelf, Step
from conki_cli.training.together import FAILED, SeveralRanks

QUIET = ("model.dropout=0", "model.adapter_dropout=0", "model.gate_dropout=0")
LINES = ("data.external=none", "optimizer.num_epochs=3", "optimizer.batch_size=4", "optimizer.accumulate=3", *QUIET)


class StopAt(Observer):
    """Interrupts at a step, before it is saved."""

    def __init__(self, number: int) -> None:
        self.number = number

    def step(self, training: Training, number: int, terms: Mapping[str, float]) -> None:
        if number == self.number:
            raise KeyboardInterrupt


def in_step(step: Step, stop_at: int, ranks: Ranks) -> None:
    """Train a step on all ranks, until rank 0 is interrupted."""
    try:
        if ranks.rank:
            with Shelf() as shelf:
                take_part(ranks, shelf)
        else:
            train(step, StopAt(stop_at), ranks=ranks)
    except (KeyboardInterrupt, LostRankError):
        """Its last checkpoint is kept."""


def planned(config: RunConfig, workspace: Workspace) -> Step:
    """Return the first step of a configuration."""
    with Shelf() as shelf:
        return make_plan([config], Runs(workspace), Observer(), shelf=shelf).steps[0]


@pytest.fixture
def step(workspace: Workspace, tiny_config: MakeConfig, encoder: Path, tmp_path: Path) -> Step:
    """A stage 2 without any dropout that saves every step."""
    return calm_step(workspace, tiny_config, encoder, tmp_path, "run.checkpoint_every=1")


def calm_step(workspace: Workspace, tiny_config: MakeConfig, encoder: Path, tmp_path: Path, *options: str) -> Step:
    """Return the first step of a configuration without any dropout."""
    calm = shutil.copytree(encoder, tmp_path / "encoder")
    facts = json.loads((calm / "config.json").read_text(encoding="utf-8"))
    facts.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (calm / "config.json").write_text(json.dumps(facts), encoding="utf-8")
    own = [option.partition("=")[0] for option in options]
    lines = [line for line in LINES if line.partition("=")[0] not in own]
    return planned(tiny_config("", *lines, f"model.text_encoder={calm}", *options), workspace)


def learnt(folder: Path) -> tuple[list[Mapping[str, float]], float]:
    """Return the losses of every epoch and the test MAE."""
    result = Run(folder).seed_result(1)
    assert result is not None
    return [epoch.losses for epoch in logged_epochs(log_path(Run(folder), 1))], result.metrics["test"]["mae"]


@pytest.mark.slow
def test_a_run_of_two_ranks_continues_with_one_and_ends_with_three(step: Step) -> None:
    on_ranks(2, lambda ranks: in_step(step, 7, ranks))  # 4 steps an epoch; 2 batches of 3 wait for their step
    in_step(step, 10, ALONE)
    on_ranks(3, lambda ranks: in_step(step, 0, ranks))
    epochs, mae = learnt(step.run)
    shutil.rmtree(step.run)
    train(step, Observer())
    others, other_mae = learnt(step.run)
    assert (len(epochs), mae) == (3, pytest.approx(other_mae, rel=1e-5))
    for one, other in zip(epochs, others, strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6)


@pytest.mark.slow
def test_two_ranks_continue_to_the_same_bits_with_dropout(workspace: Workspace, tiny_config: MakeConfig) -> None:
    lines = ("data.external=none", "optimizer.num_epochs=2", "run.checkpoint_every=1")
    step = planned(tiny_config("", *lines), workspace)
    for stop_at in (6, 0):
        on_ranks(2, lambda ranks, stop_at=stop_at: in_step(step, stop_at, ranks))
    found = content(Run(step.run).checkpoint(1, "best"))
    shutil.rmtree(step.run)
    on_ranks(2, lambda ranks: in_step(step, 0, ranks))
    assert equal_bits(found, content(Run(step.run).checkpoint(1, "best")))
    shutil.rmtree(step.run)
    train(step, Observer())
    assert not equal_bits(found, content(Run(step.run).checkpoint(1, "best")))  # its masks are others


@pytest.mark.parametrize("line", ["optimizer.modality_dropout=0.4", "data.external=tiny-external+tiny-second"])
def test_two_ranks_read_what_one_process_reads(
    line: str, workspace: Workspace, tiny_config: MakeConfig, encoder: Path, tmp_path: Path
) -> None:
    """Clips that lose a modality, and several external sets with cached states of the frozen text encoder."""
    write_store(workspace.store("tiny-second"), make_corpus("tiny-second", (9, 4, 4), seed=3, longest=5))
    step = calm_step(workspace, tiny_config, encoder, tmp_path, "optimizer.num_epochs=1", line)
    on_ranks(2, lambda ranks: in_step(step, 0, ranks))
    together = logged_epochs(log_path(Run(step.run), 1))
    shutil.rmtree(step.run)
    train(step, Observer())
    for one, other in zip(together, logged_epochs(log_path(Run(step.run), 1)), strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-6, abs=1e-6)


def leave_during(ranks: SeveralRanks, reason: str) -> str:
    """Return what rank 0 says when rank 1 is gone."""
    if ranks.rank:
        if reason and ranks.store is not None:
            ranks.store.set(FAILED, reason)
        os._exit(1)
    with pytest.raises(LostRankError) as caught:
        ranks.collect([1])
    return f"{caught.value}{'' if reason else f' because {type(caught.value.__cause__).__name__}'}"


def test_a_lost_rank_ends_the_others_with_one_line() -> None:
    line, _ = on_ranks(2, lambda ranks: leave_during(ranks, ""))
    assert line == "another process of this training ended because RuntimeError"


def test_rank_0_says_why_another_rank_ended() -> None:
    line, _ = on_ranks(2, lambda ranks: leave_during(ranks, "process 1: its store is damaged"))
    assert line == "process 1: its store is damaged"


def test_several_processes_need_devices_that_can_train_together() -> None:
    check_devices(["cpu", "auto"], None)
    check_devices(["cpu"], Seat(0, 2, 0, 2))
    with pytest.raises(SettingsError):
        check_devices(["meta"], Seat(0, 2, 0, 2))


def test_torchrun_gives_each_process_a_seat() -> None:
    given = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert seat({"TORCHELASTIC_RUN_ID": "x", **given}) == Seat(3, 4, 1, 2)
    assert seat({"TORCHELASTIC_RUN_ID": "x", **given, "WORLD_SIZE": "1"}) is None
    assert seat(given) is None  # other programs set these, too
