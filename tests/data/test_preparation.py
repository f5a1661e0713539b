"""`prepare`: a store appears complete or not at all, whatever happens, and one process makes it at a time."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conki_cli.data.preparation import Preparation, prepare
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.writing import store_lock
from conki_cli.system.errors import ConkiError, SourceError
from conki_cli.system.locks import locked
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

ROWS = ("a,1,good,1.5,train", "b,2,bad,-2,valid", "c,3,so so,0,test")


@pytest.fixture
def task(tmp_path: Path) -> Preparation:
    """The preparation of three texts, as `conki prepare --dataset talks` would do it."""
    (tmp_path / "data" / "talks").mkdir(parents=True)
    write_rows(tmp_path, *ROWS)
    return Preparation("talks", Workspace(tmp_path), score_range=(-3, 3))


def write_rows(root: Path, *rows: str) -> None:
    lines = "\n".join(["video_id,clip_id,text,label,mode", *rows]) + "\n"
    (root / "data" / "talks" / "label.csv").write_text(lines, encoding="utf-8")


def texts(task: Preparation) -> list[str]:
    with FeatureStore(task.path) as store:
        return store.split("train").texts


class Interrupting(Observer):
    """Ctrl-C at the given call of any progress function."""

    def __init__(self, at: int) -> None:
        self.left = at

    @contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Count down."""
        self.step(0, label)
        yield self.step

    def step(self, count: int, remark: str) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_store_is_made_and_nothing_else_stays_but_the_lock(task: Preparation) -> None:
    assert prepare(task, Observer()) == task.path
    assert sorted(path.name for path in task.path.parent.iterdir()) == [".talks.h5.lock", "talks.h5"]


def write_features(path: Path) -> Path:
    """Write a pickle in MMSA's layout: one clip with audio in every split."""
    columns = {"raw_text": ["new"], "regression_labels": [1.0], "audio": np.ones((1, 4, 2), dtype=np.float32)}
    splits = {split: {"id": [f"{split}$_$1"], **columns} for split in ("train", "valid", "test")}
    path.write_bytes(pickle.dumps(splits))
    return path


@pytest.mark.parametrize("at", range(1, 9))
def test_an_interruption_leaves_the_old_store(task: Preparation, at: int) -> None:
    prepare(task, Observer())
    with pytest.raises(KeyboardInterrupt):  # calls: reading, audio of 3 splits, writing, audio of 3 splits
        prepare(replace(task, source=write_features(task.workspace.root / "new.pkl")), Interrupting(at))
    assert texts(task) == ["good"]
    assert not list(task.path.parent.glob("*.part"))


def test_without_an_interruption_the_new_store_replaces_the_old(task: Preparation) -> None:
    prepare(task, Observer())
    prepare(replace(task, source=write_features(task.workspace.root / "new.pkl")), Interrupting(9))
    assert texts(task) == ["new"]


def test_an_interruption_before_the_end_leaves_no_store(task: Preparation) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(task, Interrupting(1))
    assert not task.path.exists()


def test_a_second_process_is_refused_in_one_line(task: Preparation) -> None:
    with (
        locked(store_lock(task.path), what="x"),
        pytest.raises(ConkiError, match=r"another process is writing .*talks\.h5"),
    ):
        prepare(task, Observer())


def test_parts_of_a_killed_process_are_removed(task: Preparation) -> None:
    task.path.parent.mkdir()
    old = task.path.parent / ".talks.h5.abc.part"
    other = task.path.parent / ".mosi.h5.abc.part"
    for path in (old, other):
        path.write_bytes(b"half")
    prepare(task, Observer())
    assert (old.exists(), other.exists()) == (False, True)


def test_leftovers_of_a_long_name_with_brackets_are_removed_too(task: Preparation) -> None:
    path = task.workspace.root / "out" / f"a[1]{'x' * 120}.h5"
    path.parent.mkdir()
    old = path.parent / f".{path.name[:100]}.abc.part"
    old.write_bytes(b"half")
    prepare(replace(task, out=path), Observer())
    assert path.exists()
    assert not old.exists()


def test_strict_makes_errors_of_warnings_and_keeps_the_old_store(task: Preparation) -> None:
    prepare(task, Observer())
    write_rows(task.workspace.root, "a,1,,1.5,train", *ROWS[1:])
    with pytest.raises(SourceError, match="empty text"):
        prepare(replace(task, strict=True), Observer())
    assert texts(task) == ["good"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_killing_the_process_leaves_the_old_store_and_the_next_one_finishes(task: Preparation) -> None:
    prepare(task, Observer())
    rows = [f"v{n},1,new {n},{n % 7 - 3},{('train', 'valid', 'test')[n % 3]}" for n in range(3000)]
    write_rows(task.workspace.root, *rows)
    command = [sys.executable, "-m", "conki_cli", "prepare", "--dataset", "talks", "--score-range", "-3..3"]
    command += ["--workspace", str(task.workspace.root)]
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    whole = time.monotonic() - began
    write_rows(task.workspace.root, "v,1,newer,0,train", *rows[1:])
    for share in (0.5, 0.7, 0.8, 0.85, 0.9, 0.95):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        time.sleep(whole * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert texts(task)[0] in ("new 0", "newer")
    prepare(task, Observer())
    assert texts(task)[0] == "newer"
