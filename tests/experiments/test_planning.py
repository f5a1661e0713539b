"""The plan of a command: opened and read once, shown without a change, trained in any process to the same bits."""

import io
import json
import multiprocessing
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FOURS, MakeConfig, Notes, Trained, content, equal_bits
from run_support import ablate, finetune, pretrain
from typer.testing import CliRunner

from conki_cli.cli import app
from conki_cli.config.sections import RunConfig
from conki_cli.data.store.reading import FeatureStore
from conki_cli.experiments.forecast import describe_plan, peak_of
from conki_cli.experiments.planning import Plan, make_plan
from conki_cli.runs import Run, Runs
from conki_cli.system.errors import ConkiError, SettingsError
from conki_cli.system.locks import locked
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.observers import Observers
from conki_cli.system.workspace import Workspace
from conki_cli.text import encoders
from conki_cli.training import inference
from conki_cli.training.stages import train
from conki_cli.training.steps import Shelf, Step

QUICK = ("optimizer.num_epochs=1", "pretraining.num_epochs=1")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count which files of runs are read, and which stores and tokenizers are opened."""
    counts: Counter[str] = Counter()
    open_file, open_store, load = io.open, FeatureStore.__init__, encoders.load_tokenizer

    def counting_open(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if (
            isinstance(file, str | os.PathLike)
            and Path(file).name in ("result.json", "config.toml")
            and "w" not in mode
        ):
            counts[os.fspath(file)] += 1
        return open_file(file, mode, *rest, **options)

    def counting_store(store: FeatureStore, path: Path, **options: Any) -> None:
        counts[os.fspath(path)] += 1
        open_store(store, path, **options)

    def counting_load(name: str) -> Any:
        counts["tokenizer"] += 1
        return load(name)

    monkeypatch.setattr(io, "open", counting_open)
    monkeypatch.setattr(FeatureStore, "__init__", counting_store)
    monkeypatch.setattr(encoders, "load_tokenizer", counting_load)
    return counts


def command(space: Workspace, *words: str) -> Any:
    return CliRunner().invoke(
        app, words, env={"CONKI_WORKSPACE": str(space.root), "COLUMNS": "100", "FORCE_COLOR": None}
    )


def planned(configs: list[RunConfig], space: Workspace, shelf: Shelf, **options: Any) -> Plan:
    return make_plan(configs, Runs(space), Observer(), shelf=shelf, **options)


def settings_of(run: Run) -> list[str]:
    return ["--config", str(run.path / "config.toml"), "--name", run.name]


def test_what_is_finished_is_opened_and_read_once(copied: Workspace, trained: Trained, opened: Counter[str]) -> None:
    done = command(copied, "finetune", *settings_of(Run(copied.runs / trained.run.name)))
    assert done.exit_code == 0, done.stderr
    assert {path: count for path, count in opened.items() if path.endswith((".h5", "tokenizer")) and count > 1} == {}
    read = {path: count for path, count in opened.items() if path.endswith("result.json")}
    rewritten = {str(copied.runs / name / "result.json") for name in (trained.run.name, trained.first.name)}
    assert set(read) >= rewritten
    assert set(read.values()) == {1}
    # --config names a run's own config.toml, which is parsed as an option and as the run's
    assert max(count for path, count in opened.items() if path.endswith("config.toml")) <= 2


def test_an_ablation_opens_each_store_and_tokenizer_once(
    workspace: Workspace, tiny_config: MakeConfig, opened: Counter[str]
) -> None:
    rows = {"ConKI": tiny_config("", *QUICK), "w/o C4": tiny_config("C4", *QUICK)}
    assert len(ablate(rows, workspace, Observer())) == 2
    assert opened["tokenizer"] == 1
    assert [opened[str(workspace.store(name))] for name in ("tiny", "tiny-external")] == [1, 1]


def test_texts_are_tokenised_once_for_all_seeds(
    copied: Workspace, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    tokenize = inference.tokenize

    def counting(tokenizer: Any, texts: Any, **options: Any) -> Any:
        calls.append(len(texts))
        return tokenize(tokenizer, texts, **options)

    monkeypatch.setattr(inference, "tokenize", counting)
    assert len(trained.run.finished_seeds()) == 2
    done = command(copied, "predict", trained.run.name, "tiny")
    assert done.exit_code == 0, done.stderr
    assert calls == [6]


def test_a_dry_run_changes_nothing_and_says_what_would_be_trained(
    copied: Workspace, trained: Trained, tiny_config: MakeConfig
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")}
    with Shelf() as shelf:
        plan = planned([tiny_config(seeds=(1, 2, 3))], copied, shelf, dry_run=True)
        found, both = describe_plan(plan), describe_plan(plan, num_jobs=4)
    assert {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")} == before
    states = {(entry["stage"], entry["seed"]): entry["state"] for entry in found["steps"]}
    assert states == {
        (1, 1): "reuse",
        (1, 2): "reuse",
        (1, 3): "train",
        (2, 1): "reuse",
        (2, 2): "reuse",
        (2, 3): "train",
    }
    step = next(entry for entry in found["steps"] if entry["state"] == "train" and entry["stage"] == 2)
    result = trained.run.seed_result(1)
    assert (step["parameters"], step["trained"]) == (result.parameters["all"], result.parameters["trained"])
    paces = [result.seconds / result.epochs for result in trained.run.results().values()]
    assert step["seconds"] == pytest.approx(step["epochs"] * sum(paces) / 2)
    assert 0 < found["disk"] < both["disk"]
    assert (found["at_once"], both["at_once"]) == (1, 2)


def test_steps_that_train_at_once_need_their_space_at_once() -> None:
    entries = [{"disk": disk, "disk_afterwards": 1} for disk in (3, 9, 5)]
    assert [peak_of(entries, at_once) for at_once in (1, 2, 3, 9)] == [3 + 8, 3 + 8 + 4, 3 + 8 + 4 + 2, 3 + 14]


def test_a_dry_run_is_a_table_or_json_and_prepares_no_store(tmp_path: Path) -> None:
    space = Workspace(tmp_path / "space")
    shown = command(space, "demo", "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert "7 of 7 steps to train, nothing was changed" in shown.stdout
    told = json.loads(command(space, "finetune", "--dataset", "demo", "--dry-run", "--json").stdout)
    assert [entry["store"] for entry in told["prepare"]] == [str(space.store(n)) for n in ("demo", "demo-external")]
    assert told["builds_encoder"]
    assert not space.root.exists()


def test_a_dry_run_refuses_what_training_refuses(workspace: Workspace, tiny_config: MakeConfig) -> None:
    with Shelf() as shelf, pytest.raises(SettingsError, match="tf32"):
        planned([tiny_config("", "compute.precision=tf32")], workspace, shelf, dry_run=True)
    assert not workspace.runs.exists()


def test_equal_configurations_are_one_row_with_the_seeds_of_both(workspace: Workspace, tiny_config: MakeConfig) -> None:
    with Shelf() as shelf:
        one, other = tiny_config("", seeds=(1,), name="mine"), tiny_config("", seeds=(2,))
        plan = make_plan({"ConKI": one, "again": other}, Runs(workspace), Observer(), shelf=shelf)
    assert [row.run.name for row in plan.rows] == ["mine"]
    assert plan.remarks == ("again equals an earlier row, ConKI: it is shown once",)
    assert [(step.config.run.stage, step.seed) for step in plan.steps if step.run.name == "mine"] == [
        ("finetune", 1),
        ("finetune", 2),
    ]


def test_different_configurations_do_not_share_a_name(workspace: Workspace, tiny_config: MakeConfig) -> None:
    rows = [tiny_config(name="mine"), tiny_config("C4", name="mine")]
    with Shelf() as shelf, pytest.raises(SettingsError, match=r"ConKI and w/o C4 .* same name, mine"):
        planned(rows, workspace, shelf)


def test_settings_of_adapters_alone_are_refused_for_plain_transfer_but_not_in_an_ablation(tmp_path: Path) -> None:
    words = ["--dataset", "demo", "--drop", "plain-transfer", "--set", "pretraining.learning_rate=0.1", "--dry-run"]
    for name in ("finetune", "pretrain"):
        refused = command(Workspace(tmp_path), name, *words)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert refused.stderr.startswith("error: setting pretraining.learning_rate has no effect on plain transfer")
    assert command(Workspace(tmp_path), "ablate", *words).exit_code == 0


def test_the_settings_of_a_stage_1_run_pretrain_that_run(copied: Workspace, trained: Trained) -> None:
    words = ["pretrain", "--config", str(copied.runs / trained.first.name / "config.toml"), "--dry-run", "--json"]
    told = json.loads(command(copied, *words).stdout)
    steps = [(step["run"], step["stage"], step["seed"], step["state"]) for step in told["steps"]]
    assert steps == [(trained.first.name, 1, seed, "reuse") for seed in (1, 2)]
    other = json.loads(command(copied, *words, "--set", "loss.temperature=0.5", "--epochs", "9").stdout)
    assert [(step["stage"], step["epochs"], step["state"]) for step in other["steps"]] == [(1, 9, "train")] * 2


def _train_in_another_process(word: bytes) -> None:
    torch.set_num_threads(1)  # as in this one
    train(pickle.loads(word), Observer())


@pytest.mark.slow
def test_a_step_trains_in_another_process_to_the_same_bits(
    workspace: Workspace, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config("", *QUICK)
    here = finetune(config, workspace, Observer())
    there = Workspace(tmp_path / "there")
    there.store("tiny").parent.mkdir(parents=True)
    for name in ("tiny", "tiny-external"):
        there.store(name).write_bytes(workspace.store(name).read_bytes())
    with Shelf() as shelf:
        steps = planned([config], there, shelf).steps
    assert [step.config.run.stage for step in steps] == ["pretrain", "finetune"]
    for step in steps:
        process = multiprocessing.get_context("spawn").Process(
            target=_train_in_another_process, args=(pickle.dumps(step),)
        )
        process.start()
        process.join()
        assert process.exitcode == 0
    run = Run(steps[-1].run)
    assert run.is_finished
    assert equal_bits(content(run.checkpoint(1, "best")), content(here.checkpoint(1, "best")))


def test_a_seed_can_be_trained_while_another_seed_of_the_run_is(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config("C1+C2", "data.external=none", *QUICK)
    with Shelf() as shelf:
        first: Step = planned([config], workspace, shelf).steps[0]
    with locked(Run(first.run).seed_lock(7), what="another seed"):
        run = finetune(config, workspace, Observer())
    assert run.is_finished
    with locked(run.seed_lock(2), what="it"), pytest.raises(ConkiError, match="is writing seed 2 of the run"):
        finetune(config.with_values("run", seeds=(1, 2)), workspace, Observer())


def test_a_run_is_not_discarded_while_a_seed_of_it_is_trained(copied: Workspace, trained: Trained) -> None:
    run = Run(copied.runs / trained.run.name)
    with locked(run.seed_lock(2), what="it"), pytest.raises(ConkiError, match="is writing seed 2 of the run"):
        finetune(trained.config, copied, Observer(), discard=True)
    assert run.is_finished


class Diary(Observer):
    """Notes the steps and epochs it hears of."""

    def __init__(self) -> None:
        self.steps_heard: list[tuple[int, int]] = []
        self.epochs: list[tuple[str, int, int]] = []

    def step(self, training: Training, number: int, terms: Any) -> None:
        self.steps_heard.append((training.stage, number))
        assert set(terms) >= {"task"}

    def epoch(self, training: Training, epoch: Epoch) -> None:
        self.epochs.append((training.run, training.stage, epoch.number))


def test_observers_hear_of_every_step_and_epoch(workspace: Workspace, tiny_config: MakeConfig) -> None:
    one, other = Diary(), Diary()
    run = finetune(
        tiny_config("", "optimizer.num_epochs=2", "pretraining.num_epochs=1", *FOURS), workspace, Observers(one, other)
    )
    assert one.epochs == other.epochs
    assert [(stage, number) for _, stage, number in one.epochs] == [(1, 1), (2, 1), (2, 2)]
    assert one.epochs[-1][0] == run.name
    assert [number for stage, number in one.steps_heard if stage == 2] == list(range(1, 9))


def test_quiet_prints_results_alone_and_verbose_a_line_per_epoch(copied: Workspace, trained: Trained) -> None:
    words = ["finetune", *settings_of(Run(copied.runs / trained.run.name))]
    quiet = command(copied, *words, "-q")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert "MAE" in quiet.stdout
    words = [*words[:3], "--epochs", "1", "--seed", "9", "--name", "new", "-v"]
    loud = command(copied, *words)
    assert loud.exit_code == 0, loud.stderr
    assert "stage 2, seed 9, epoch 1/1: validation MAE" in loud.stderr
    assert command(copied, "runs", "-q", "-v").exit_code == 1


def test_an_observer_can_end_a_training(workspace: Workspace, tiny_config: MakeConfig) -> None:
    class PrunedError(Exception):
        pass

    class Pruner(Notes):
        def epoch(self, training: Training, epoch: Epoch) -> None:
            raise PrunedError

    with pytest.raises(PrunedError):
        pretrain(tiny_config("", *QUICK), workspace, Pruner())
    assert pretrain(tiny_config("", *QUICK), workspace, Observer()).is_finished
