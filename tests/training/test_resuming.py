"""A training that stops at any step and continues has the bits of one that never stopped; damage costs no run."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import pytest
import torch
from conftest import FOURS, MakeConfig, Notes, OpenJob
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_support import finetune, slowly

from conki_cli.config.sections import RunConfig
from conki_cli.data.store.seal import seal
from conki_cli.model import zoo
from conki_cli.runs import Run
from conki_cli.system.errors import ConkiError, RunError, StoreError
from conki_cli.system.files import read_json, sha256_of, write_json
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.workspace import Workspace
from conki_cli.training import checkpoint, resuming
from conki_cli.training import loop as training
from conki_cli.training.jobs import Job, build_model, training_batches

SETTINGS = {
    "conki": ("optimizer.modality_dropout=0.3",),
    "self-mm": ("optimizer.accumulate=3", "optimizer.modality_dropout=0.3"),
    "mmim": ("optimizer.modality_dropout=[0.1, 0.3, 0.5]",),
    "misa": ("optimizer.accumulate=2", "optimizer.clip_value=0.8"),
    "mult": ("mult.width=10", "mult.num_heads=2", "mult.num_layers=1", "optimizer.clip_norm=0.8"),
    "tfn": ("tfn.audio_hidden=4", "tfn.vision_hidden=6", "tfn.text_out=3"),
    "iccn": ("iccn.out_width=2", "iccn.cca_batch_size=6", "iccn.cca_epochs=1"),
}
"""Windows of several batches, bounds of gradients, passes of other sizes and modality dropout are among them."""
every_model = pytest.mark.parametrize("name", zoo.MODELS)


class Stopped(BaseException):
    """Stands for a signal."""


@dataclass
class Trained:
    """What a training left."""

    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    epochs: list[tuple[Mapping[str, float], Mapping[str, float]]]


def config_of(make: MakeConfig, name: str) -> RunConfig:
    own = SETTINGS.get(name, ())
    lines = ("data.external=none", "optimizer.num_epochs=2", "optimizer.patience=0", "optimizer.batch_size=4")
    return make("", *lines, f"model.name={name}", *own)


def train(job: Job, run: Run, *, stop_at: int | None = None, calls: list[int] | None = None) -> Trained:
    """Train from the run's last checkpoint, if it has one; save and stop at its call `stop_at` of `on_step`."""
    torch.seed()  # what was drawn before must not matter
    model = build_model(job, 1, None)
    progress, plan = training.start(model, job.config), training.schedule_of(job.config, 1)
    if (found := resuming.latest(run, 1, Observer())) is not None:
        resuming.restore(progress, *found, "the test")
    train_part, valid = training_batches(job, model, 1)
    trained = model.stored_names()[0]
    seen = 0

    def on_step() -> None:
        nonlocal seen
        seen += 1
        if calls is not None:
            calls.append(progress.step)
        if seen == stop_at:
            resuming.save_last(run, 1, progress, plan, trained=trained, facts={})
            raise Stopped

    epochs = training.fit(progress, train_part, valid, plan, device=job.device, observer=Observer(), on_step=on_step)
    done = [(epoch.losses, epoch.metrics) for epoch in epochs]
    moments = checkpoint.optimizers_tensors(progress.optimizers)
    return Trained({name: t.clone() for name, t in model.state_dict().items()}, moments, done)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_continues(job: Job, folder: Path, whole: Trained, stop_at: int) -> None:
    run = Run(folder / f"stopped-{stop_at}")
    with pytest.raises(Stopped):
        train(job, run, stop_at=stop_at)
    rest = train(job, run)
    assert same(rest.weights, whole.weights)
    assert same(rest.moments, whole.moments)
    assert rest.epochs == whole.epochs[len(whole.epochs) - len(rest.epochs) :]


@pytest.mark.parametrize("name", slowly(zoo.MODELS, ("mmim",)))
def test_a_training_continues_to_the_same_bits_from_any_step(
    name: str, tiny_config: MakeConfig, open_job: OpenJob, tmp_path: Path
) -> None:
    job, calls = open_job(config_of(tiny_config, name)), list[int]()
    whole = train(job, Run(tmp_path / "whole"), calls=calls)
    first_epoch = len(calls) // 2
    for stop_at in (1, first_epoch - 4, first_epoch, first_epoch + 3):  # its last calls are of the validation
        assert_continues(job, tmp_path, whole, stop_at)


@pytest.mark.slow
@every_model
def test_a_training_continues_to_the_same_bits_from_every_step(
    name: str, tiny_config: MakeConfig, open_job: OpenJob, tmp_path: Path
) -> None:
    job, calls = open_job(config_of(tiny_config, name)), list[int]()
    whole = train(job, Run(tmp_path / "whole"), calls=calls)
    for stop_at in range(1, len(calls) + 1):
        assert_continues(job, tmp_path, whole, stop_at)


@pytest.mark.slow
@given(stops=st.lists(st.integers(1, 5), max_size=6))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_training_may_stop_again_and_again(
    stops: list[int], tiny_config: MakeConfig, open_job: OpenJob, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job, folder = open_job(config_of(tiny_config, "mmim")), tmp_path_factory.mktemp("runs")
    whole, run = train(job, Run(folder / "whole")), Run(folder / "stopped")
    for stop_at in stops:
        try:
            train(job, run, stop_at=stop_at)
        except Stopped:
            continue
        break
    assert same(train(job, run).weights, whole.weights)


# --- damaged checkpoints -----------------------------------------------------------------------------------------


def unfinished(config: RunConfig, workspace: Workspace, at: str = "epoch 3/3", run: str = "*") -> Path:
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at=at))
    (path,) = workspace.runs.glob(f"{run}/seed-1/checkpoints/last.safetensors")
    return path


@dataclass
class Interrupting(Observer):
    """Interrupts when a step, or an epoch, is over."""

    at_step: int = 0
    at_epoch: int = 1

    def step(self, training: Training, number: int, terms: Mapping[str, float]) -> None:
        if number == self.at_step:
            raise KeyboardInterrupt

    def epoch(self, training: Training, epoch: Epoch) -> None:
        if not self.at_step and epoch.number == self.at_epoch:
            raise KeyboardInterrupt


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


damages = pytest.mark.parametrize("damage", slowly([flip, cut, empty, Path.unlink], [cut]))


@damages
def test_a_damaged_last_checkpoint_costs_what_lies_behind_the_one_before(
    damage: Callable[[Path], None], workspace: Workspace, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config, notes = tiny_config("C1+T", "optimizer.num_epochs=3"), Notes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "features").symlink_to(workspace.root / "features")
    whole = finetune(config, Workspace(tmp_path / "other"), Observer())
    last = unfinished(config, workspace)
    damage(last)
    run = finetune(config, workspace, notes)
    assert f"{run.path} is unfinished: seed 1 resumes after epoch 1" in notes.lines
    said = [line for line in notes.lines if f"checkpoint {last} is damaged" in line]
    assert [line.endswith("; used instead is the one before it") for line in said] == [True] * (damage != Path.unlink)
    for name in ("best", "last"):
        assert same(*(checkpoint.load(found.checkpoint(1, name))[0] for found in (run, whole)))
    assert not run.checkpoint(1, "previous").exists()


def test_the_sound_checkpoint_outlives_a_disk_that_fails_right_after_the_other_was_damaged(
    workspace: Workspace, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("C1+T", "optimizer.num_epochs=4")
    last = unfinished(config, workspace, "epoch 4/4")
    sound = checkpoint.load(last.with_name("previous.safetensors"))[1]["epoch"]
    flip(last)

    def fails(*given: object) -> None:
        raise ConkiError("the disk is full")

    monkeypatch.setattr(checkpoint, "save", fails)
    with pytest.raises(ConkiError, match="the disk is full"):
        finetune(config, workspace, Observer())
    assert checkpoint.load(last.with_name("previous.safetensors"))[1]["epoch"] == sound == 2


@pytest.mark.parametrize("damage", slowly([flip, Path.unlink], [Path.unlink]))
def test_a_seed_whose_best_weights_are_lost_begins_again_before_it_trains_in_vain(
    damage: Callable[[Path], None], workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config, notes = tiny_config("C1+T", "optimizer.num_epochs=3"), Notes()
    damage(unfinished(config, workspace).with_name("best.safetensors"))
    assert finetune(config, workspace, notes).is_finished
    assert any(line.endswith("; seed 1 starts over") for line in notes.lines)


def test_a_seed_that_begins_again_does_not_continue_from_what_it_gave_up(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config, notes = tiny_config("C1+T", "optimizer.num_epochs=3"), Notes()
    last = unfinished(config, workspace)
    last.with_name("best.safetensors").unlink()
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Interrupting())  # between the new best weights and the checkpoint after them
    assert not last.exists()
    finetune(config, workspace, notes)
    assert not any("resumes" in line for line in notes.lines)


def test_a_seed_that_lost_its_result_alone_gets_it_again_without_training(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    run = finetune(tiny_config("C1+T"), workspace)
    path, log = run.seed_folder(1) / "result.json", (run.seed_folder(1) / "metrics.jsonl").read_bytes()
    before = read_json(path)
    path.unlink()
    after = read_json(finetune(tiny_config("C1+T"), workspace).seed_folder(1) / "result.json")
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    assert (run.seed_folder(1) / "metrics.jsonl").read_bytes() == log


def test_best_weights_of_another_epoch_are_not_those_of_the_seed(workspace: Workspace, tiny_config: MakeConfig) -> None:
    run = finetune(tiny_config("C1+T"), workspace)
    (run.seed_folder(1) / "result.json").unlink()
    tensors, facts = checkpoint.load(run.checkpoint(1, "best"))
    checkpoint.save(run.checkpoint(1, "best"), tensors, {**facts, "epoch": 77})
    with pytest.raises(RunError, match=r"best\.safetensors must be of epoch \d, found epoch 77: delete it"):
        finetune(tiny_config("C1+T"), workspace)


def test_an_interrupted_seed_without_an_epoch_that_counts_continues(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    lines = ("data.external=none", "model.name=iccn", "iccn.out_width=2", "iccn.cca_batch_size=6", "iccn.cca_epochs=3")
    config, notes = tiny_config("", *lines, "optimizer.num_epochs=4", "run.checkpoint_every=1"), Notes()
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Interrupting(at_step=7))
    finetune(config, workspace, notes)
    assert any(line.endswith("seed 1 resumes after epoch 2") for line in notes.lines)


@pytest.mark.parametrize("name", ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "metrics.jsonl"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_in_an_unfinished_seed_is_one_line(
    name: str, make: Callable[[Path], None], workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config = tiny_config("C1+T", "optimizer.num_epochs=3")
    path = unfinished(config, workspace).parents[1] / name
    path.unlink()
    make(path)
    with pytest.raises(RunError, match=r"must be a file but is (a folder|a pipe or device): move it away"):
        finetune(config, workspace, Observer())


def test_a_run_that_lost_its_result_is_not_continued_with_other_settings(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    run = finetune(tiny_config("C1+T", name="mine"), workspace, Observer())
    before = run.record
    (run.path / "result.json").unlink()
    with pytest.raises(RunError, match=r"run mine exists with other settings .*: give another --name, or --overwrite"):
        finetune(tiny_config("C1+T", "optimizer.num_epochs=5", name="mine"), workspace, Observer())
    finetune(tiny_config("C1+T", name="mine"), workspace, Observer())
    assert run.record == before
    for name in ("result.json", "config.toml"):
        (run.path / name).unlink()
    with pytest.raises(RunError, match=r"run mine has no result\.json and no settings .*: give --overwrite"):
        finetune(tiny_config("C1+T", name="mine"), workspace, Observer())


def test_a_seed_without_a_sound_checkpoint_begins_again(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config, notes = tiny_config("C1+T", "optimizer.num_epochs=3"), Notes()
    last = unfinished(config, workspace)
    for path in (last, last.with_name("previous.safetensors")):
        flip(path)
    run = finetune(config, workspace, notes)
    assert run.is_finished
    assert any(line.endswith("; used instead is none: the seed starts over") for line in notes.lines)


def test_a_checkpoint_of_a_newer_program_is_no_reason_to_begin_again(
    workspace: Workspace, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("C1+T", "optimizer.num_epochs=3")
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SCHEMA", "2")
    unfinished(config, workspace)
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"has schema 2, this conki .* reads 1: install the version that wrote"):
        finetune(config, workspace, Observer())


def test_steps_between_checkpoints_are_as_asked(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config = tiny_config("C1+T", "run.checkpoint_every=3", "optimizer.num_epochs=2", *FOURS)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 2/2"))
    (path,) = workspace.runs.glob("*/seed-1/checkpoints/last.safetensors")
    facts = checkpoint.load(path, facts_only=True)[1]
    assert (facts["step"], facts["within"]) == (4, None)  # the end of the epoch
    before = checkpoint.load(path.with_name("previous.safetensors"), facts_only=True)[1]
    assert (before["step"], before["within"]["batches"]) == (3, 3)


# --- what is damaged or replaced meanwhile ---------------------------------------------------------------------


@dataclass
class Damaging(Observer):
    """A observer that does something when training reaches its second epoch."""

    work: Callable[[], object]
    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        yield lambda count, remark: self.work() if remark.startswith("epoch 2") else None


@pytest.mark.parametrize(
    ("model", "external", "file", "damage"),
    [
        ("conki", "tiny-external", "seed-1/checkpoints/frozen", flip),
        pytest.param("conki", "tiny-external", "seed-1/checkpoints/frozen", Path.unlink, marks=pytest.mark.slow),
        ("lmf", "none", "encoder/frozen", cut),
    ],
)
def test_frozen_weights_that_are_damaged_while_a_seed_trains_are_written_anew(
    model: str,
    external: str,
    file: str,
    damage: Callable[[Path], object],
    workspace: Workspace,
    tiny_config: MakeConfig,
) -> None:
    settings = (f"model.name={model}", f"data.external={external}", "optimizer.num_epochs=2")
    path = workspace.runs / "mine" / f"{file}.safetensors"
    done: list[object] = []
    notes = Damaging(lambda: done.append(damage(path)) if path.exists() and not done else None)
    finetune(tiny_config("", *settings, name="mine"), workspace, notes)
    assert [line.endswith(": written again") for line in notes.lines if str(path) in line] == [True]
    checkpoint.load(path)


def test_a_seed_keeps_its_frozen_weights_though_stage_1_was_trained_again(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config, notes = tiny_config("V+A", "optimizer.num_epochs=2", name="mine"), Notes()
    whole = finetune(tiny_config("V+A", "optimizer.num_epochs=2", name="whole"), workspace)
    last = unfinished(config, workspace, "epoch 2/2", run="mine")
    first = Run(workspace.runs / str(whole.seed_result(1).stage_1))
    tensors, facts = checkpoint.load(first.checkpoint(1, "best"))
    checkpoint.save(first.checkpoint(1, "best"), {name: tensor + 0.1 for name, tensor in tensors.items()}, facts)
    run = finetune(config, workspace, notes)
    assert last.exists()
    assert any(
        line.startswith("the frozen weights of seed 1 of mine would start differently now") for line in notes.lines
    )
    for name in ("frozen", "best", "last"):
        assert same(*(checkpoint.load(found.checkpoint(1, name))[0] for found in (run, whole)))


def test_the_environment_of_a_resumed_seed_names_all_that_it_was_trained_in(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config, notes = tiny_config("C1+T", "optimizer.num_epochs=2"), Notes()
    path = unfinished(config, workspace, "epoch 2/2").parents[1] / "environment.json"
    found = read_json(path)
    write_json(path, {**found, "threads": 7})
    finetune(config, workspace, notes)
    assert "seed 1 was trained with threads 7 (now 1) until now: its last digits may be those of neither" in notes.lines
    kept = read_json(path)
    assert (kept["threads"], [part["threads"] for part in kept["earlier"]]) == (1, [7])


def test_a_seed_that_starts_over_was_trained_in_one_environment(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config, notes = tiny_config("C1+T", "optimizer.num_epochs=2"), Notes()
    last = unfinished(config, workspace, "epoch 2/2")
    path = last.parents[1] / "environment.json"
    write_json(path, {**read_json(path), "threads": 7})
    flip(last.with_name("best.safetensors"))
    finetune(config, workspace, notes)
    assert "earlier" not in read_json(path)
    assert not any("threads" in line for line in notes.lines)


def edit_frames(store: Path) -> None:
    """Change a frame in place; the store says of itself what it said before."""
    with h5py.File(store, "r+") as file:
        file["train/vision/frames"][0, 0] += 1
    seal(store)


def test_a_run_does_not_continue_on_clips_that_were_changed_in_place(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config, store = tiny_config("C1+T", "optimizer.num_epochs=3"), workspace.store("tiny")
    unfinished(config, workspace)
    before = store.read_bytes()
    edit_frames(store)
    with pytest.raises(StoreError, match=r"tiny\.h5 must hold the clips that it was written with"):
        finetune(config, workspace, Observer())
    store.write_bytes(before)
    notes = Notes()
    assert finetune(config, workspace, notes).is_finished
    assert f"{store} was written or copied after seed 1 started: its clips are compared" in notes.lines


def test_a_store_of_another_version_is_named_before_anything_is_built(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config = tiny_config("", "optimizer.num_epochs=3")
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 3/3"))
    os.replace(shutil.copy(workspace.store("tiny-external"), workspace.root / "copy"), workspace.store("tiny"))
    with pytest.raises(ConkiError, match="trained on another version of the store tiny: restore"):
        finetune(config, workspace, Observer())


def test_equal_trainings_write_equal_files(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config, digests = tiny_config("C1+T", name="mine"), set()
    for _ in range(4):
        run = finetune(config, workspace, Observer(), discard=True)
        digests.add(sha256_of(run.checkpoint(1, "best")))
    assert len(digests) == 1


# --- starting over ------------------------------------------------------------------------------------------------


def test_overwriting_begins_a_finished_run_anew(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config, notes = tiny_config("C1+T", name="mine"), Notes()
    run = finetune(config, workspace, Observer())
    (run.seed_folder(1) / "notes.txt").write_text("mine", encoding="utf-8")
    finetune(config, workspace, notes, discard=True)
    assert f"stage 2: {run.path} is discarded and starts over" in notes.lines
    assert run.is_finished
    assert not (run.seed_folder(1) / "notes.txt").exists()
    assert not list(workspace.runs.glob(".*.discarded"))


def test_overwriting_replaces_a_run_of_other_settings_and_a_damaged_one(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    run = finetune(tiny_config("C1+T", name="mine"), workspace, Observer())
    other = tiny_config("C1+T", "loss.contrast_weight=0.3", name="mine")
    assert finetune(other, workspace, Observer(), discard=True).config.loss.contrast_weight == 0.3
    (run.path / "result.json").write_text("{", encoding="utf-8")
    assert finetune(other, workspace, Observer(), discard=True).is_finished


def test_overwriting_what_cannot_be_trained_deletes_nothing(workspace: Workspace, tiny_config: MakeConfig) -> None:
    run = finetune(tiny_config("C1+T", name="mine"), workspace, Observer())
    with pytest.raises(ConkiError):
        finetune(tiny_config("C1+T", "run.device=cuda", name="mine"), workspace, Observer(), discard=True)
    assert run.is_finished


def test_overwriting_stage_2_keeps_the_stage_1_it_starts_from(workspace: Workspace, tiny_config: MakeConfig) -> None:
    config, notes = tiny_config("V+A"), Notes()
    finetune(config, workspace, Observer())
    finetune(config, workspace, notes, discard=True)
    assert any("stage 1: " in line and line.endswith("is finished, reused") for line in notes.lines)
