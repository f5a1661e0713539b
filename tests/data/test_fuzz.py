"""Thousands of mutated files: what comes out is the file or one line, never a traceback, a crash or a hang."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_corpus
from fuzz_support import READERS, Worker
from guided_fuzz import TARGETS, inputs
from test_sequences import write_folder, write_labels

from conki_cli.data.store.seal import BLOCK
from conki_cli.data.store.writing import write_store

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1"
every_kind = pytest.mark.parametrize("kind", READERS)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell what a process holds (/proc)")
    folder = tmp_path_factory.mktemp("fuzz")
    (run,) = (path for path in (FIXTURE / "runs").iterdir() if not path.name.startswith("pretrain"))
    shutil.copytree(run, folder / "run")
    write_store(folder / "store.h5", make_corpus("tiny", (13, 6, 6), seed=1, longest=6))
    (folder / "old.h5").write_bytes((folder / "store.h5").read_bytes()[BLOCK:])  # without its seal
    write_labels(write_folder(folder / "sequences") / "label.csv")
    shutil.copy(run / "seed-1" / "checkpoints" / "best.safetensors", folder / "checkpoint.safetensors")
    shutil.copy(run / "config.toml", folder / "settings.toml")
    shutil.copy(run / "seed-1" / "predictions" / "test.csv", folder / "predictions.csv")
    made = Worker(folder)
    yield made
    made.close()


def findings(worker: Worker, kind: str, seeds: range) -> dict[int, str]:
    outcomes = {seed: worker.outcome(kind, seed) for seed in seeds}
    refused = sum(text.startswith("error: ") for text in outcomes.values())
    assert refused > len(outcomes) / 20  # or the mutations would do no harm
    return {seed: text for seed, text in outcomes.items() if text.startswith("finding")}


@every_kind
def test_mutated_files_are_read_or_refused_in_one_line(kind: str, worker: Worker) -> None:
    assert not findings(worker, kind, range(20))


@pytest.mark.slow
@every_kind
def test_a_thousand_mutated_files_are_read_or_refused_in_one_line(kind: str, worker: Worker) -> None:
    assert not findings(worker, kind, range(1000))


@pytest.mark.parametrize(("target", "file"), [(target, path) for target in TARGETS for path in inputs(target)])
def test_what_guided_fuzzing_kept_is_read_or_refused_in_one_line(target: str, file: Path) -> None:
    TARGETS[target](file.read_bytes())
