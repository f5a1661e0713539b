"""Trackers beside a training: what they are told, what is kept of it, and that nothing they do reaches the training."""

import json
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig, Notes, Trained, content, equal_bits
from typer.testing import CliRunner

from conki_cli.cli import app
from conki_cli.experiments.execution import train_all
from conki_cli.reporting.tracking import TRACKERS, load_trackers, tracked
from conki_cli.reporting.tracking.observer import Tracking
from conki_cli.reporting.tracking.tracker import Library, Subject
from conki_cli.runs import Run, logged_epochs
from conki_cli.system.errors import SettingsError
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.observers import Observers
from conki_cli.system.workspace import Workspace

MOMENTS = ("start", "log", "finish", "exit")


@dataclass
class Recorder:
    """A tracker that remembers, or fails at one moment."""

    fails_at: str = ""
    subjects: list[Subject] = field(default_factory=list)
    epochs: list[tuple[str, int, Mapping[str, float]]] = field(default_factory=list)
    ends: list[tuple[str, bool, Mapping[str, float]]] = field(default_factory=list)

    def start(self, subject: Subject) -> "Record":
        self.fail("start")
        self.subjects.append(subject)
        return Record(self, subject.name)

    def fail(self, moment: str) -> None:
        if self.fails_at in (moment, "always"):
            raise ConnectionError(f"no network at {moment}")

    @property
    def library(self) -> Library:
        return Library(start=self.start, where=lambda _: "nowhere")


@dataclass
class Record:
    """One training of a recorder."""

    recorder: Recorder
    name: str

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        if self.recorder.fails_at == "exit":
            sys.exit("a library that ends the program")
        self.recorder.fail("log")
        self.recorder.epochs.append((self.name, epoch, values))

    def finish(self, results: Mapping[str, float], *, is_finished: bool) -> None:
        self.recorder.fail("finish")
        self.recorder.ends.append((self.name, is_finished, results))


def followed(config: Any, space: Workspace, *recorders: Recorder) -> Notes:
    """Train a configuration with recorders beside it."""
    notes = Notes()
    with tracked({f"recorder-{n}": one.library for n, one in enumerate(recorders)}, space, notes) as observer:
        train_all([config], space, observer)
    return notes


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> tuple[Workspace, Recorder, Notes]:
    """Both stages of `trained` again, with trackers that fail at every moment beside one that remembers."""
    space = Workspace(tmp_path_factory.mktemp("tracked"))
    (space.root / "features").symlink_to(trained.workspace.root / "features")
    recorder = Recorder()
    config = trained.config.with_values("run", seeds=(1,))
    notes = followed(config, space, *map(Recorder, (*MOMENTS, "always")), recorder)
    return space, recorder, notes


def test_weights_and_log_are_the_same_bits_with_trackers(
    heard: tuple[Workspace, Recorder, Notes], trained: Trained
) -> None:
    for run in (trained.first, trained.run):
        again = Run(heard[0].runs / run.name)
        assert equal_bits(content(again.checkpoint(1, "best")), content(run.checkpoint(1, "best")))
        logs = [logged_epochs(one.seed_folder(1) / "metrics.jsonl") for one in (again, run)]
        assert len(logs[0]) == 2
        assert [(e.losses, e.metrics) for e in logs[0]] == [(e.losses, e.metrics) for e in logs[1]]


def test_a_tracker_that_fails_is_warned_of_once(heard: tuple[Workspace, Recorder, Notes]) -> None:
    warnings = [line for line in heard[2].lines if line.startswith("warning: recorder-")]
    assert sorted(line.split()[1] for line in warnings) == [f"recorder-{n}" for n in range(len(MOMENTS) + 1)]
    assert "(ConnectionError: no network at start); the training is not affected" in warnings[0]


def test_a_tracker_hears_of_both_stages(heard: tuple[Workspace, Recorder, Notes], trained: Trained) -> None:
    subjects = heard[1].subjects
    assert [one.name for one in subjects] == [f"{run.name}/seed-1" for run in (trained.first, trained.run)]
    assert [one.training.stage for one in subjects] == [1, 2]
    assert subjects[-1].facts["optimizer.batch_size"] == "8"
    assert subjects[-1].facts["seed"] == "1"


def test_a_tracker_hears_every_loss_term_and_metric_of_every_epoch(
    heard: tuple[Workspace, Recorder, Notes], trained: Trained
) -> None:
    logged = logged_epochs(heard[0].runs / trained.run.name / "seed-1" / "metrics.jsonl")
    values = [values for name, _, values in heard[1].epochs if name == f"{trained.run.name}/seed-1"]
    assert [v["loss/task"] for v in values] == [epoch.losses["task"] for epoch in logged]
    assert [v["valid/mae"] for v in values] == [epoch.metrics["mae"] for epoch in logged]
    assert {name.partition("/")[2] for name in values[0] if name.startswith("loss/")} == set(logged[0].losses)
    assert all("seconds" in v for v in values)


def test_a_tracker_hears_the_test_metrics_of_a_finished_seed(
    heard: tuple[Workspace, Recorder, Notes], trained: Trained
) -> None:
    name, is_finished, results = heard[1].ends[-1]
    seed = trained.run.seed_result(1)
    assert seed is not None
    assert (name, is_finished) == (f"{trained.run.name}/seed-1", True)
    assert results["best/test/mae"] == seed.metrics["test"]["mae"]
    assert results["best/epoch"] == seed.best_epoch


def test_an_interrupted_training_has_no_results_and_its_continuation_has_all_epochs(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config, first, second = tiny_config("C1"), Recorder(), Recorder()
    with (
        pytest.raises(KeyboardInterrupt),
        tracked({"recorder": first.library}, workspace, Notes(interrupt_at="epoch 2")) as observer,
    ):
        train_all([config], workspace, observer)
    followed(config, workspace, second)
    assert [(number, is_finished) for _, number, _ in first.epochs for _, is_finished, _ in first.ends] == [(1, False)]
    assert [number for _, number, _ in second.epochs] == [1, 2]
    assert second.ends[0][1]


def test_a_tracker_that_hangs_holds_nothing_up(tmp_path: Path, trained: Trained) -> None:
    gate, notes = threading.Event(), Notes()

    def hang(subject: Subject) -> Any:
        gate.wait()

    tracking = Tracking({"slow": Library(hang, lambda _: "")}, trained.workspace, notes, patience=0.05)
    training = Training(trained.run.name, 2, 1, 2)
    for number in (1, 2):
        tracking.epoch(training, Epoch(number, {"task": 1.0}, {"mae": 1.0}, 1.0, True))
    tracking.close()
    gate.set()
    assert notes.lines == [
        "warning: slow failed and records nothing more (it was still busy 0.05 s after the training); "
        "the training is not affected"
    ]


def test_trainings_side_by_side_have_one_record_each(tmp_path: Path, trained: Trained) -> None:
    space = Workspace(Path(shutil.copytree(trained.workspace.root, tmp_path / "space")))
    run, recorder = Run(space.runs / trained.run.name), Recorder()
    results = [(run.seed_folder(seed) / "result.json").rename(tmp_path / f"{seed}.json") for seed in (1, 2)]
    tracking = Tracking({"recorder": recorder.library}, space, Observer())
    one, other = (Training(run.name, 2, seed, 2) for seed in (1, 2))
    for number in (1, 2):
        for training in (one, other, one):
            tracking.step(training, number, {})
        tracking.epoch(one, Epoch(number, {}, {"mae": 1.0}, -1.0, True))
        tracking.epoch(other, Epoch(number, {}, {"mae": 2.0}, -1.0, True))
    results[0].rename(run.seed_folder(1) / "result.json")
    tracking.step(Training(trained.first.name, 1, 1, 2), 1, {})
    tracking.close()
    names = [f"{run.name}/seed-1", f"{run.name}/seed-2", f"{trained.first.name}/seed-1"]
    assert [subject.name for subject in recorder.subjects] == names
    told = [(name, values["valid/mae"]) for name, _, values in recorder.epochs if values["seconds"] == -1.0]
    assert told == [*zip(names, (1.0, 2.0), strict=False)] * 2
    assert [end[:2] for end in recorder.ends] == [*zip(names, (True, False, True), strict=True)]


def test_undefined_metrics_are_left_out(trained: Trained) -> None:
    recorder = Recorder()
    tracking = Tracking({"recorder": recorder.library}, trained.workspace, Observer())
    epoch = Epoch(3, {"task": 1.0}, {"mae": 1.0, "corr": float("nan")}, 2.0, False)
    tracking.epoch(Training(trained.run.name, 2, 1, 2), epoch)
    tracking.close()
    assert recorder.epochs[-1][1:] == (3, {"loss/task": 1.0, "valid/mae": 1.0, "seconds": 2.0})


def test_no_tracker_means_no_observer_beside(workspace: Workspace) -> None:
    screen = Observer()
    with tracked(load_trackers([]), workspace, screen) as observer:
        assert observer is screen
    with tracked({"recorder": Recorder().library}, workspace, screen) as observer:
        assert isinstance(observer, Observers)


def conki(space: Workspace, line: str) -> Any:
    return CliRunner().invoke(app, line.split(), env={"CONKI_WORKSPACE": str(space.root), "COLUMNS": "200"})


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_library_is_one_line_before_anything_is_trained(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # Python's way to say: cannot be imported
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    done = conki(workspace, f"finetune --dataset tiny --external none --track {name}")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: --track {name} needs the library {name}, which cannot be imported here")
    assert done.stderr.endswith(f": pip install {name}\n")
    assert done.stderr.count("\n") == 1
    assert not workspace.runs.exists()


def test_an_unknown_tracker_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match=r"--track names a tracker, found 'tensorbord': did you mean tensorboard\?"):
        load_trackers(["tensorbord"])


def test_finished_runs_are_compared_without_trackers(trained: Trained) -> None:
    done = conki(trained.workspace, f"compare {trained.run.name} {trained.run.name} --track wandb")
    assert (done.exit_code, done.stderr) == (
        1,
        "error: nothing is trained to compare finished runs: leave out --track\n",
    )


# ---- the real libraries, where they are installed ----

LINE = "finetune --dataset tiny --external none --epochs 2 --device cpu --seeds 1 --set optimizer.batch_size=4 --json"


def real(test: Any) -> Any:
    """Mark a test that trains beside a real library."""
    return pytest.mark.slow(pytest.mark.filterwarnings("default")(test))


@pytest.fixture
def train_with(workspace: Workspace, encoder: Path) -> Any:
    """Return a function that trains a seed with a tracker and gives its log."""

    def train(tracker: str) -> tuple[str, list[Epoch]]:
        done = conki(workspace, f"{LINE} --encoder {encoder} --track {tracker}")
        assert done.exit_code == 0, done.stderr
        assert "warning: " + tracker not in done.stderr
        answer = json.loads(done.stdout)  # alone on stdout, whatever the library prints
        return answer["run"], logged_epochs(workspace.runs / answer["run"] / "seed-1" / "metrics.jsonl")

    return train


@real
def test_tensorboard_shows_each_epoch_once_also_after_a_second_start(workspace: Workspace, train_with: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, epochs = train_with("tensorboard")
    folder = workspace.root / "tensorboard" / run / "seed-1"
    found = EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("valid/mae")] == [
        (e.number, pytest.approx(e.metrics["mae"])) for e in epochs
    ]
    assert [e.step for e in found.Scalars("best/test/mae")] == [2]
    text = found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| optimizer.batch_size | 4 |" in text


@real
def test_mlflow_has_parameters_metrics_and_state(
    workspace: Workspace, train_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(workspace.root)
    run, epochs = train_with("mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{workspace.root / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("conki").experiment_id])
    assert (found.info.run_name, found.info.status) == (f"{run}/seed-1", "FINISHED")
    assert found.data.params["optimizer.batch_size"] == "4"
    history = client.get_metric_history(found.info.run_id, "valid/mae")
    assert [(m.step, m.value) for m in history] == [(e.number, pytest.approx(e.metrics["mae"])) for e in epochs]
    assert "best/test/mae" in found.data.metrics


@real
def test_trackio_has_settings_and_epochs(tmp_path: Path, train_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    run, epochs = train_with("trackio")
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    (found,) = trackio.Api().runs("conki")
    assert found.name == f"{run}/seed-1"
    assert found.config["optimizer.batch_size"] == "4"
    rows = [row for row in storage.get_logs("conki", found.name) if "valid/mae" in row]
    assert [(row["step"], row["valid/mae"]) for row in rows] == [(e.number, e.metrics["mae"]) for e in epochs]
    assert [row["best/epoch"] for row in storage.get_logs("conki", found.name) if "best/test/mae" in row]


@real
def test_wandb_offline_writes_into_the_workspace_and_asks_for_no_login(
    workspace: Workspace, train_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    run, epochs = train_with("wandb")
    (file,) = workspace.root.glob("wandb/offline-run-*/*.wandb")
    records = [proto.Record.FromString(part) for part in parts_of(file.read_bytes())]
    (begun,) = [record.run for record in records if record.HasField("run")]
    assert (begun.display_name, begun.run_group, begun.project) == (f"{run}/seed-1", run, "conki")
    assert {item.key: item.value_json for item in begun.config.update}["optimizer.batch_size"] == '"4"'
    rows = [{"/".join(i.nested_key) or i.key: i.value_json for i in r.history.item} for r in records]
    logged = [(float(row["epoch"]), float(row["valid/mae"])) for row in rows if "valid/mae" in row]
    assert logged == [(e.number, e.metrics["mae"]) for e in epochs]
    assert any(item.key == "best/test/mae" for record in records for item in record.summary.update)


def parts_of(content: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file of one block: a header of 7 bytes, then check sum, length, kind, content."""
    assert len(content) <= 32768
    at = 7
    while at < len(content):
        length = int.from_bytes(content[at + 4 : at + 6], "little")
        yield content[at + 7 : at + 7 + length]
        at += 7 + length
