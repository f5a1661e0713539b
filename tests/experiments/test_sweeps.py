"""A sweep: what it varies, which trials it trains, that it never reads the test split, how it continues."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import MakeConfig, Notes, resealed
from process_support import SECONDS, started
from typer.testing import CliRunner

from conki_cli.cli import app
from conki_cli.config.resolving import resolve, to_toml
from conki_cli.config.sections import RunConfig
from conki_cli.data.store.reading import FeatureStore
from conki_cli.experiments import trials
from conki_cli.experiments.spaces import combinations, parse_over
from conki_cli.experiments.sweeps import describe_sweep, disk_of, foresee_sweep, make_sweep, sweep_all
from conki_cli.reporting.tables.sweeps import foreseen
from conki_cli.runs import Run
from conki_cli.system.errors import ConkiError, SettingsError, StoreError
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.signals import Interrupted, Terminated, TimeUp
from conki_cli.system.workspace import Workspace

GRID = "loss.temperature=0.05,0.5"


@pytest.fixture
def quick(tiny_config: MakeConfig) -> RunConfig:
    """A configuration without stage 1 that trains for two epochs."""
    return tiny_config("C1+C2", "data.external=none")


def numbers_and_states(sweep: trials.Sweep) -> list[tuple[int, str]]:
    return sorted((trial["number"], trial["state"]) for trial in describe_sweep(sweep)["trials"])


class Totals(Observer):
    """Remembers to which number progress is counted."""

    def __init__(self) -> None:
        self.totals: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        self.totals.append((label, total))
        yield lambda count, remark: None


def test_a_sweep_works_on_a_store_whose_test_split_is_gone(workspace: Workspace, quick: RunConfig) -> None:
    path, whole = workspace.store("tiny"), workspace.root / "whole.h5"
    shutil.copy2(path, whole)
    with resealed(path) as file:
        del file["test"]
    with pytest.raises(StoreError):
        FeatureStore(path)
    sweep, progress = make_sweep(quick, [GRID], workspace, num_trials=9, name="mine"), Totals()
    sweep_all(sweep, progress)
    assert ("trials", 2) in progress.totals  # a grid has no more
    found = describe_sweep(sweep)
    assert numbers_and_states(sweep) == [(0, "complete"), (1, "complete")]
    best = Run(Path(found["run"]))
    assert list(best.seed_result(1).metrics) == ["valid"]
    assert best.seed_result(1).metrics["valid"]["mae"] == found["best"]["mae"] == min(t["mae"] for t in found["trials"])
    assert [path.name for path in best.path.parent.iterdir() if path.is_dir()] == [best.name]
    shutil.copy2(whole, path)
    done = CliRunner().invoke(app, ["evaluate", str(best.path), "--workspace", str(workspace.root)])
    assert done.exit_code == 0, done.stderr
    assert best.predictions_path(1, "test").is_file()


def test_the_best_settings_are_a_configuration(workspace: Workspace, quick: RunConfig) -> None:
    given = workspace.root / "given.toml"
    given.write_text(to_toml(quick), encoding="utf-8")
    words = ["sweep", "--config", str(given), "--workspace", str(workspace.root), "--name", "it", "--over", GRID]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert "sweep it: 2 finished" in done.stdout
    best = resolve(config_file=workspace.root / "sweeps" / "it" / "best.toml")
    assert best.loss.temperature in (0.05, 0.5)
    assert best == resolve(config_file=given).with_values("loss", temperature=best.loss.temperature)
    assert (workspace.root / "sweeps" / "it" / "sweep.svg").read_bytes().startswith(b"<svg")
    again = CliRunner().invoke(app, words)
    assert again.stdout == done.stdout
    other = CliRunner().invoke(app, [*words[:-1], "loss.temperature=0.05,0.6"])
    assert (other.exit_code, "has other settings" in other.stderr) == (1, True)


def test_a_trial_that_fails_is_recorded_and_the_others_go_on(workspace: Workspace, quick: RunConfig) -> None:
    sweep = make_sweep(quick, ["optimizer.lr_others=1e30,1e-3"], workspace, num_trials=2)
    notes = Notes()
    sweep_all(sweep, notes)
    assert numbers_and_states(sweep) == [(0, "fail"), (1, "complete")]
    [failed] = [trial for trial in describe_sweep(sweep)["trials"] if trial["state"] == "fail"]
    assert "not finite" in failed["failure"] or "is nan" in failed["failure"]
    assert any(line.startswith("trial 0 (optimizer.lr_others=1e+30): failed: ") for line in notes.lines)


class StopsIn(Notes):
    """Interrupts the program at an epoch of a trial."""

    def epoch(self, training: Training, epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt


def test_an_interrupted_trial_is_continued_and_counts_once(workspace: Workspace, quick: RunConfig) -> None:
    sweep = make_sweep(quick, ["loss.temperature=0.01..1:log"], workspace, num_trials=2)
    with pytest.raises(KeyboardInterrupt):
        sweep_all(sweep, StopsIn())
    assert numbers_and_states(sweep) == [(0, "running")]
    notes = Notes()
    sweep_all(sweep, notes)
    assert numbers_and_states(sweep) == [(0, "complete"), (1, "complete")]
    assert any("seed 1 resumes after epoch 1" in line for line in notes.lines)


class Killed(BaseException):
    """Ends a trial without a word, as a signal that nobody can catch does."""


class EndsWith(Notes):
    """Ends the program at the first epoch of a trial."""

    def __init__(self, ending: type[BaseException]) -> None:
        super().__init__()
        self._ending = ending

    def epoch(self, training: Training, epoch: Epoch) -> None:
        raise self._ending


def test_a_trial_is_given_up_after_three_kills_and_no_number_of_interruptions(
    workspace: Workspace, quick: RunConfig
) -> None:
    sweep = make_sweep(quick, ["loss.temperature=0.01..1"], workspace, num_trials=1)
    for ending in (Terminated, TimeUp, Killed, Interrupted, Killed, Killed):
        with pytest.raises(ending):
            sweep_all(sweep, EndsWith(ending))
        assert numbers_and_states(sweep) == [(0, "running")]
    sweep_all(sweep, Notes())
    [trial] = describe_sweep(sweep)["trials"]
    assert (trial["state"], trial["failure"]) == ("fail", "its process was killed 3 times")


def test_a_trial_that_was_chosen_but_not_begun_comes_next_and_shifts_nothing(
    workspace: Workspace, quick: RunConfig
) -> None:
    sweep = make_sweep(quick, ["loss.temperature=0.05,0.5,0.6"], workspace, num_trials=3)
    study = trials.open_study(sweep)
    study.enqueue_trial({"loss.temperature": 0.05})  # and the process is killed
    with contextlib.ExitStack() as held:
        found = [held.enter_context(trials._claimed(sweep, study)) for _ in range(4)]
        assert found[3] is None
        assert [(one.number, one.params["loss.temperature"]) for one in found[:3]] == [(0, 0.05), (1, 0.5), (2, 0.6)]


def test_a_grid_point_that_two_machines_took_leaves_none_out(workspace: Workspace, quick: RunConfig) -> None:
    sweep = make_sweep(quick, ["loss.temperature=0.05,0.5,0.6"], workspace, num_trials=3)
    study = trials.open_study(sweep)
    for _ in range(2):
        study.enqueue_trial({"loss.temperature": 0.05})
        study.ask({one.path: one.distribution() for one in sweep.space})  # on machines that see no lock of each other
    with contextlib.ExitStack() as held:
        found = [held.enter_context(trials._claimed(sweep, study)) for _ in range(3)]
        assert found[2] is None
        assert [one.params["loss.temperature"] for one in found[:2]] == [0.5, 0.6]


def test_a_trial_that_another_process_trains_is_not_taken(workspace: Workspace, quick: RunConfig) -> None:
    sweep = make_sweep(quick, ["loss.temperature=0.01..1"], workspace, num_trials=2)
    study = trials.open_study(sweep)
    with trials._claimed(sweep, study) as mine, trials._claimed(sweep, trials.open_study(sweep)) as other:
        assert (mine.number, other.number) == (0, 1)
        with trials._claimed(sweep, study) as none:
            assert none is None
    with trials._claimed(sweep, study) as abandoned:
        assert (abandoned.number, abandoned.params) == (0, mine.params)


def test_a_trial_is_pruned_by_the_validation_mae_of_its_first_seed() -> None:
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_warmup_steps=2))
    for value in (0.5, 0.6, 0.7, 0.8, 0.9):
        study.add_trial(optuna.create_trial(value=value, intermediate_values={1: value, 2: value}))
    judge = trials._Judge(study.ask(), seed=4)

    def hear(stage: int, seed: int, number: int, mae: float) -> None:
        judge.epoch(Training("it", stage, seed, 9), Epoch(number, {}, {"mae": mae}, 1.0, is_best=True))

    hear(1, 4, 2, 9.0)
    hear(2, 5, 2, 9.0)
    hear(2, 4, 1, 0.71)
    with pytest.raises(trials.PrunedError):
        hear(2, 4, 2, 0.71)


def test_lists_are_a_grid_and_ranges_are_not() -> None:
    space = parse_over(["loss.temperature=0.1,0.2", "optimizer.batch_size=8,16"], resolve())
    assert combinations(space) == [
        {"loss.temperature": t, "optimizer.batch_size": b} for t in (0.1, 0.2) for b in (8, 16)
    ]
    [one] = parse_over(["optimizer.batch_size=8..64:log"], resolve())
    assert one.distribution() == optuna.distributions.IntDistribution(8, 64, log=True)
    assert combinations([one]) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "needs something to vary"),
        (["loss.temperature"], "--over takes section.key=LOW..HIGH"),
        (["loss.temprature=1..2"], "unknown setting 'loss.temprature'.*loss.temperature"),
        (["loss.temperature=2..1"], "must be LOW..HIGH with LOW < HIGH"),
        (["loss.contrast_weight=0..1:log"], "0 < LOW where :log follows"),
        (["loss.temperature=0..1"], "must be greater than 0"),
        (["loss.temperature=0.1"], "two or more different values"),
        (["loss.temperature=0.1,0.2", "loss.temperature=1..2"], "each setting once"),
        (["data.dataset=mosi,sims"], "data.dataset is fixed"),
        (["misa.dropout=0.1,0.2"], "belongs to --model misa"),
        (["optimizer.algorithm=adam..adamw"], "has no range"),
        (["optimizer.batch_size=1.5..2.5"], "must be a whole number"),
        (["optimizer.modality_dropout=[0.1,0.2],0.5"], "must have single values: a sweep does not vary lists"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_one_line(lines: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.compile(message, re.DOTALL)) as error:
        parse_over(lines, resolve())
    assert "\n" not in str(error.value)


def test_settings_that_are_valid_only_together_are_varied_together() -> None:
    lines = ["pretraining.lr_encoders=1e-5,1e-4", "pretraining.lr_audio_vision=1e-5,1e-4"]
    assert len(combinations(parse_over(lines, resolve()))) == 4
    some = [lines[0].replace("1e-5", "0"), lines[1].replace("1e-5", "0")]  # three of four work
    assert len(combinations(parse_over(some, resolve()))) == 4
    with pytest.raises(SettingsError, match=r"needs pretraining\.lr_encoders"):
        parse_over(lines[1:], resolve())


def test_a_setting_that_changes_nothing_is_not_varied() -> None:
    with pytest.raises(SettingsError, match=r"optimizer\.lr_adapters changes nothing in this configuration"):
        parse_over(["optimizer.lr_adapters=1e-5,1e-4"], resolve(extra_drop=("C2",)))


def test_a_setting_that_plain_transfer_does_not_read_is_not_varied() -> None:
    with pytest.raises(SettingsError, match="batch_size has no effect on plain transfer"):
        parse_over(["pretraining.batch_size=8,16"], resolve(extra_drop=["plain-transfer"]))


def test_a_sweep_that_cannot_work_is_refused_before_its_first_trial(workspace: Workspace, quick: RunConfig) -> None:
    sweep = make_sweep(quick.with_values("data", dataset="absent"), [GRID], workspace, num_trials=2)
    with pytest.raises(ConkiError, match="no feature store"):
        sweep_all(sweep, Observer())
    assert numbers_and_states(sweep) == []
    nowhere = make_sweep(quick, [GRID], workspace, num_trials=2, storage="nonsense://there")
    with pytest.raises(SettingsError, match="cannot be used"):
        sweep_all(nowhere, Observer())


@pytest.mark.slow
def test_several_processes_on_one_storage_train_every_trial_once(
    workspace: Workspace, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    given = tmp_path / "given.toml"
    given.write_text(to_toml(tiny_config()), encoding="utf-8")  # with a stage 1 that the trials share
    over = ("--over", "loss.temperature=0.01..1:log", "--trials", "8", "--name", "it")
    words = ("-m", "conki_cli", "sweep", "--config", str(given), *over)
    with (
        started(*words, "--jobs", "2", space=workspace.root) as one,
        started(*words, space=workspace.root) as other,
    ):
        errors = [process.communicate(timeout=SECONDS)[1] for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], errors
    told: list[Any] = [int(number) for text in errors for number in re.findall(r"^trial (\d+) \(", text, re.MULTILINE)]
    assert sorted(told) == list(range(8))


def test_a_dry_run_of_a_sweep_shows_one_trial_and_writes_nothing(workspace: Workspace, quick: RunConfig) -> None:
    sweep = make_sweep(quick, [GRID], workspace, num_trials=9, name="mine")
    before = sorted(workspace.root.rglob("*"))
    plan = foresee_sweep(sweep, Observer())
    assert sorted(workspace.root.rglob("*")) == before
    assert (plan["trials"], plan["finished"], plan["seconds"]) == (2, 0, None)
    assert [(entry["stage"], entry["state"]) for entry in plan["trial"]["steps"]] == [(2, "train")]
    [step] = plan["trial"]["steps"]
    assert (plan["stages_1"], plan["disk_afterwards"]) == (0, step["disk_afterwards"])  # only the best trial is kept
    assert plan["disk"] == step["disk"] + step["disk_afterwards"]  # and while another one trains
    assert foresee_sweep(sweep, Observer(), num_jobs=2)["disk"] == 2 * step["disk"] + step["disk_afterwards"]


def test_a_dry_run_counts_every_stage_1_that_the_trials_vary(workspace: Workspace, tiny_config: MakeConfig) -> None:
    rates = "pretraining.learning_rate=1e-3,2e-3"
    for over, count in {(GRID,): 1, (GRID, rates): 2, ("pretraining.learning_rate=1e-3..1e-2",): 5}.items():
        sweep = make_sweep(tiny_config(), list(over), workspace, num_trials=5)
        plan = foresee_sweep(sweep, Observer())
        first, second = (entry["disk_afterwards"] for entry in plan["trial"]["steps"])
        assert (plan["stages_1"], plan["disk_afterwards"]) == (count, count * first + second)


@pytest.mark.parametrize(
    ("num_first", "num_jobs", "needed"), [(1, 1, 11), (5, 1, 15), (5, 2, 24), (1, 3, 21), (0, 2, 11)]
)
def test_the_last_stage_1_trains_beside_all_that_are_kept(num_first: int, num_jobs: int, needed: int) -> None:
    first, second = ([{"state": "train", "disk": disk, "disk_afterwards": 1}] for disk in (10, 5))
    found = disk_of(first if num_first else [], second, num_first, num_jobs, has_best=True)
    assert found == {"disk": needed, "disk_afterwards": num_first + 1}


def test_a_dry_run_says_what_is_kept_and_where(workspace: Workspace, quick: RunConfig) -> None:
    plan = foresee_sweep(make_sweep(quick, [GRID], workspace, num_trials=9, name="mine"), Observer())
    lines = [str(line) for line in foreseen(plan, folder=Path("/space"))[1:]]
    assert not [line for line in lines if line.startswith("stage 1")]
    assert "trials: 2 in all, 0 are finished" in lines
    [disk] = [line for line in lines if line.startswith("disk: ")]
    assert disk.endswith(" afterwards, below /space; of the trials only the best one is kept")
    shared = [str(line) for line in foreseen({**plan, "stages_1": 1}, folder=Path("/space"))]
    assert "stage 1: trained once for all trials, and kept" in shared


def test_a_dry_run_counts_finished_trials_and_refuses_other_settings(workspace: Workspace, quick: RunConfig) -> None:
    sweep_all(make_sweep(quick, [GRID], workspace, num_trials=1, name="mine"), Observer())
    longer = make_sweep(quick, [GRID], workspace, num_trials=2, name="mine")
    journal = Path(longer.place).read_bytes()
    assert foresee_sweep(longer, Observer())["finished"] == 1
    assert Path(longer.place).read_bytes() == journal
    sweep_all(longer, Observer())
    enough = foresee_sweep(make_sweep(quick, [GRID], workspace, num_trials=1, name="mine"), Observer())
    assert (enough["finished"], enough["disk"]) == (2, 0)
    with pytest.raises(SettingsError, match="has other settings"):
        foresee_sweep(make_sweep(quick, ["loss.temperature=0.1,0.2"], workspace, num_trials=2, name="mine"), Observer())
