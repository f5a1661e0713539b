"""Tiny real objects for all tests: an encoder, two corpora of different widths, a workspace, trained runs."""

import contextlib
import functools
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import typer.testing
from hypothesis import settings
from run_support import finetune, pretrain

from conki_cli.config.resolving import canonical, resolve
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import switch_label
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.data.store.seal import seal
from conki_cli.data.store.writing import write_store
from conki_cli.model.batches import Batch
from conki_cli.model.conki import ConKI
from conki_cli.model.inputs import open_inputs
from conki_cli.runs import Run
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.text.demo_encoder import build_demo_encoder
from conki_cli.training.jobs import Job, build_model

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

CI_AND_TERMINALS = (
    "COLUMNS",
    "CONKI_WORKSPACE",
    "FORCE_COLOR",
    "GITHUB_ACTIONS",
    "LINES",
    "NO_COLOR",
    "PY_COLORS",
    "TERM",
    "TERMINAL_WIDTH",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "TYPER_USE_RICH",
)
"""Variables by which a CI system or a terminal changes what Rich, Typer and the program print."""

MakeConfig = Callable[..., RunConfig]
OpenJob = Callable[[RunConfig], Job]

HIDDEN_SIZE = 16
ALL_SWITCHES = ("", "C1", "C2", "C3", "C4", "N1", "T", "V", "A", "T+V", "C3+T", "plain-transfer")
WIDTHS = {
    "tiny": {"vision": 5, "audio": 3},
    "tiny-external": {"vision": 4, "audio": 3},
    "tiny-second": {"vision": 5, "audio": 2},
}
_WORDS = ["bad", "poor", "dull", "plain", "fair", "good", "great", "film", "plot", "was", "not", "very", "the", "and"]
_SETTINGS = (
    "pretraining.num_epochs=2",
    "pretraining.batch_size=8",
    "pretraining.learning_rate=1e-3",
    "optimizer.num_epochs=2",
    "optimizer.batch_size=8",
    "optimizer.lr_encoders=1e-3",
    "optimizer.lr_others=2e-3",
)


FOURS = ("pretraining.batch_size=4", "optimizer.batch_size=4")
"""Batches of four clips, for tests that count steps: of the 13 clips of `tiny` a step reads eight by default."""


def pytest_configure() -> None:
    """Forget where the test runner was started, before a test imports what reads it."""
    for name in CI_AND_TERMINALS:
        os.environ.pop(name, None)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from visiting thousands of collected tests again and again."""
    gc.collect()
    gc.freeze()


@dataclass
class Notes(Observer):
    """A observer that remembers; interrupts when a step's remark starts with `interrupt_at`."""

    lines: list[str] = field(default_factory=list)
    interrupt_at: str = ""
    num_steps: int = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        yield self._advance

    def _advance(self, count: int, remark: str) -> None:
        self.num_steps += count
        if self.interrupt_at and remark.startswith(self.interrupt_at):
            raise KeyboardInterrupt


def make_corpus(dataset: str, sizes: tuple[int, int, int], *, seed: int, longest: int) -> Corpus:
    """Draw clips whose scores follow their words; the first clips of each split have 0 and 1 frames."""
    draw = np.random.default_rng(seed)
    widths = WIDTHS[dataset]

    def clip(split: str, number: int) -> Sample:
        length = number if number < 2 else int(draw.integers(2, longest + 1))
        words = draw.integers(0, len(_WORDS), size=int(draw.integers(1, 8)))
        frames = {name: draw.normal(size=(length, width)) for name, width in widths.items()}
        score = round(float(np.clip(np.mean(words) - 6 + draw.normal(), -3, 3)), 1)
        return Sample(f"{split}$_${number}", " ".join(_WORDS[k] for k in words), score, **frames)

    splits = {
        name: [clip(name, k) for k in range(size)] for name, size in zip(("train", "valid", "test"), sizes, strict=True)
    }
    return Corpus(dataset, (-3.0, 3.0), splits, f"{dataset}.pkl", "drawn", "0" * 64)


@contextlib.contextmanager
def resealed(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file of ours to change it as one would who knows of its seal."""
    with h5py.File(path, "r+") as file:
        yield file
        has_seal = file.userblock_size > 0
    if has_seal:
        seal(path)


@pytest.fixture(scope="session", autouse=True)
def _no_power_failures() -> Iterator[None]:
    """Do not wait for the disk: a flush protects from power failures alone, which no test in this process plays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_reading_of_the_signatures() -> Iterator[None]:
    """Let hundreds of commands that run in this process share what Typer makes of their signatures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 4 layers and width 16 with its own words, as a folder."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    return build_demo_encoder(folder, [" ".join(_WORDS)], num_steps=2, hidden_size=HIDDEN_SIZE)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `features` folder with the target `tiny` and the external `tiny-external`, whose clips are longer."""
    folder = tmp_path_factory.mktemp("prepared") / "features"
    write_store(folder / "tiny.h5", make_corpus("tiny", (13, 6, 6), seed=1, longest=6))
    write_store(folder / "tiny-external.h5", make_corpus("tiny-external", (15, 6, 4), seed=2, longest=9))
    return folder


@pytest.fixture
def workspace(tmp_path: Path, stores: Path) -> Workspace:
    """A workspace of the test's own, with both stores."""
    shutil.copytree(stores, tmp_path / "space" / "features")
    return Workspace(tmp_path / "space")


@pytest.fixture(scope="session")
def tiny_config(encoder: Path) -> MakeConfig:
    """Return a function that resolves a configuration for the tiny corpora: switches first, then `--set` lines."""

    def make(drop: str = "", *assignments: str, **run: object) -> RunConfig:
        flags = {
            "data.dataset": "tiny",
            "data.external": "tiny-external",
            "model.text_encoder": str(encoder),
            "model.drop": drop or None,
            "run.device": "cpu",
            **{f"run.{key}": value for key, value in run.items()},
        }
        settings = dict(line.split("=", 1) for line in (*_SETTINGS, *assignments))
        flags.update({path: None for path in settings if path in flags})
        return resolve(assignments=[f"{path}={value}" for path, value in settings.items()], flags=flags)

    return make


@pytest.fixture
def open_job(stores: Path, encoder: Path, tmp_path: Path) -> Iterator[OpenJob]:
    """Return a function that opens what a configuration reads, without a run folder."""
    with contextlib.ExitStack() as stack:

        def make(config: RunConfig) -> Job:
            target = stack.enter_context(FeatureStore(stores / f"{config.data.dataset}.h5"))
            names = config.externals if config.needs_pretraining else ()
            externals = [stack.enter_context(FeatureStore(stores / f"{name}.h5")) for name in names]
            inputs = open_inputs(config, target, externals, str(encoder))
            return Job(config, Run(tmp_path / "run"), inputs, str(encoder), torch.device("cpu"), Observer())

        yield make


def model_and_batch(job: Job) -> tuple[ConKI, Batch]:
    """Build a job's network and one batch of its whole training split."""
    batches = job.inputs.batches("train", batch_size=99)
    return build_model(job, 1, None), next(batches.epoch())


@dataclass(frozen=True)
class Trained:
    """A finished stage 2 with the stage 1 it started from; for tests that only read."""

    workspace: Workspace
    config: RunConfig
    first: Run
    run: Run
    lines: list[str]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, stores: Path, tiny_config: MakeConfig) -> Trained:
    """ConKI with seeds 1 and 2 on the tiny corpora; do not change what lies there."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(stores, root / "features")
    space, config, notes = Workspace(root), tiny_config(seeds=(1, 2)), Notes()
    run = finetune(config, space, notes)
    first = pretrain(config, space, Observer())
    return Trained(space, config, first, run, notes.lines)


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Workspace:
    """The trained workspace, to be changed."""
    shutil.copytree(trained.workspace.root, tmp_path / "copy", copy_function=shutil.copy2)
    return Workspace(tmp_path / "copy")


def rows_of(config: RunConfig, *drops: tuple[str, ...]) -> dict[str, RunConfig]:
    """Return the rows of an ablation: a configuration, and it with switches added."""
    changed = {drop: config.with_values("model", drop=(*config.model.drop, *drop)) for drop in ((), *drops)}
    return {switch_label(drop): canonical(row) for drop, row in changed.items()}


def content(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, to be compared bit by bit."""
    from safetensors.torch import load_file

    return load_file(path)


def equal_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Say whether two sets of named tensors are the same to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
