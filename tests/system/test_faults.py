"""Disks that fail under whole commands, at every point where one writes: one line, nothing half-written, go on after.

Every command runs undisturbed once; then the disk fills up under it at one of its writes, and then it is given again.
"""

import contextlib
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import make_corpus, resealed
from fault_support import BALLAST, Commands, Done, Fault
from run_support import slowly
from safetensors import safe_open

from conki_cli.data.sources import check_dataset_name
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.writing import write_store
from conki_cli.runs import Run, check_name, read_predictions
from conki_cli.system.errors import ConkiError, one_line
from conki_cli.system.locks import locked

SPARES = (0, 30, 700, 9_000, 60_000)
"""Bytes that still fit: nothing, a line, a small file, cached states, the first of the checkpoints."""
TRAIN = (
    "--dataset tiny --external tiny-external --encoder {encoder} --device cpu --epochs 1 "
    "--set pretraining.num_epochs=1 --set optimizer.batch_size=8 --set pretraining.batch_size=8"
)
COMMANDS = {
    "prepare": "prepare --dataset own --source {source} --score-range -3..3",
    "prepare again": "prepare --dataset own --source {other} --score-range -3..3",
    "pretrain": f"pretrain {TRAIN}",
    "finetune": f"finetune {TRAIN} --name full",
    "evaluate": "evaluate full --split train --export {space}/out/table.tex",
    "predict": "predict full tiny --export {space}/out/scores.csv",
    "ablate": f"ablate {TRAIN} --name full --drop C4 --export {{space}}/ablation.md",
    "self-mm": f"finetune {TRAIN} --model self-mm --name self",
    "mmim": f"finetune {TRAIN} --model mmim --name mmim",
    "compare": "compare full self --export {space}/out/table.md",
}
"""In the order of a day's work: each begins with what the ones before it have left."""
DEFAULT = {"prepare": 2, "finetune": 1}
"""How many faults a command meets in the default run; the slow tests give all of them hundreds."""
KILLED = -9
UNSTEADY = {"result.json", "environment.json", "metrics.jsonl"}
"""Files that hold times."""


@dataclass
class Day:
    """What every command found and left when nothing was wrong; a command is given when a test first asks for it."""

    commands: Commands
    places: dict[str, Path]
    events: dict[str, int] = field(default_factory=dict)

    def run(self, name: str, space: Path, fault: Fault | None = None) -> Done:
        line = [part.format(**self.places, space=space) for part in COMMANDS[name].split()]
        return self.commands.run(space, line, fault)

    def before(self, name: str) -> Path:
        number = list(COMMANDS).index(name)
        return self.after(list(COMMANDS)[number - 1]) if number else self.places["morning"]

    def after(self, name: str) -> Path:
        place: Path = self.places["root"] / name
        if name not in self.events:
            shutil.copytree(self.before(name), place)
            done = self.run(name, place)
            assert done.code == 0, done.err
            self.events[name] = done.events
        return place

    def num_events(self, name: str) -> int:
        self.after(name)
        return self.events[name]


def write_pickle(path: Path, text: str) -> Path:
    """Write a pickle in MMSA's layout with six clips."""
    draw = np.random.default_rng(1)
    columns = {"raw_text": [text, "bad"], "regression_labels": [1.0, -2.0], "audio": draw.normal(size=(2, 90, 33))}
    path.write_bytes(pickle.dumps({s: {"id": [f"{s}$_$1", f"{s}$_$2"], **columns} for s in ("train", "valid", "test")}))
    return path


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, stores: Path, encoder: Path) -> Iterator[Day]:
    root = tmp_path_factory.mktemp("day")
    sources = {name: write_pickle(root / f"{name}.pkl", name) for name in ("source", "other")}
    shutil.copytree(stores, root / "morning" / "features")
    with Commands(encoder) as commands:
        yield Day(commands, {"root": root, "morning": root / "morning", "encoder": encoder, **sources})


def digests(space: Path) -> dict[str, str]:
    """Return what must be equal whatever happened on the way: every file that holds no time, by its name."""
    files = (path for path in space.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != BALLAST)
    return {
        str(path.relative_to(space)): digest(path)
        for path in files
        if path.name not in UNSTEADY and "last." not in path.name
    }


def digest(path: Path) -> str:
    if path.suffix == ".h5" and path.parent.name == "features":
        with FeatureStore(path) as store:
            return store.content_id
    if path.suffix == ".safetensors":  # whose header comes in any order
        with safe_open(path, framework="np") as stored:
            parts = [repr(sorted(stored.metadata().items())), *sorted(stored.keys())]
            content = b"".join(stored.get_tensor(name).tobytes() for name in parts[1:])
        return hashlib.sha256(repr(parts).encode() + content).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_whole(space: Path) -> None:
    """Assert that every file can be read to its end, and that none is a part of one."""
    for path in space.rglob("*"):
        assert path.suffix not in (".part", ".owner"), path
        if path.suffix == ".safetensors":
            assert digest(path)
        elif path.suffix == ".h5" and path.parent.name == "features":
            FeatureStore(path).close()
        elif path.suffix == ".h5":
            h5py.File(path).close()
        elif path.name == "config.toml":
            assert Run(path.parent).config
        elif path.suffix == ".json":
            assert json.loads(path.read_text(encoding="utf-8"))
        elif path.parent.name == "predictions":
            assert len(read_predictions(path).ids) > 0


def assert_one_line(done: Done) -> None:
    """Assert that a command ended with one line about its error, after its usual notes and without a result."""
    assert (done.code, done.out) == (1, ""), done
    *notes, last = done.err.splitlines()
    assert last.startswith("error: "), done.err
    for line in notes:
        assert not any(sign in line for sign in ("error: ", "Traceback", "Exception", "Warning", '  File "')), done.err


def assert_survives(day: Day, name: str, space: Path, fault: Fault) -> bool:
    """Let the disk fail under a command, and give the command again; return whether it had failed."""
    shutil.copytree(day.before(name), space, dirs_exist_ok=True)
    old = digests(space)
    done = day.run(name, space, fault)
    assert_whole(space)
    if done.code:
        assert_one_line(done)
        found = digests(space)
        assert {path: found.get(path) for path in old} == old or name == "prepare again"
    (Path(fault.disk) / BALLAST).unlink(missing_ok=True)
    again = day.run(name, space)
    assert again.code == 0, again.err
    assert_whole(space)
    assert digests(space) == digests(day.after(name))
    return bool(done.code)


def kill(day: Day, name: str, space: Path, at: int) -> None:
    """Kill a command, as `kill -9` does, when it is about to change the disk for the `at`-th time."""
    assert day.run(name, space, Fault(at, kills=True)).code == KILLED


def spread(total: int, count: int) -> list[int]:
    """Return at most `count` numbers from 1 to `total`, evenly far from each other."""
    return sorted({1 + int(total * (k + 0.5) / count) for k in range(count)})


@pytest.mark.parametrize("name", DEFAULT)
def test_a_disk_that_fails_costs_a_command_one_line_and_nothing_else(name: str, day: Day, tmp_path: Path) -> None:
    points = spread(day.num_events(name), DEFAULT[name])
    assert [at for at in points if assert_survives(day, name, tmp_path / str(at), Fault(at))]


@pytest.mark.parametrize("name", slowly(["finetune", "pretrain"], {"finetune"}))
def test_a_killed_command_ends_with_the_same_bits(name: str, day: Day, tmp_path: Path) -> None:
    space = Path(shutil.copytree(day.before(name), tmp_path / "space"))
    for at in (day.num_events(name) // 2, 3):
        kill(day, name, space, at)
    assert day.run(name, space).code == 0
    assert_whole(space)
    assert digests(space) == digests(day.after(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_may_fail_at_any_write_of_a_command(name: str, day: Day, tmp_path: Path) -> None:
    failed = []
    for number in spread(day.num_events(name) * len(SPARES), 200):
        at, kind = divmod(number - 1, len(SPARES))
        failed.append(assert_survives(day, name, tmp_path / str(number), Fault(at + 1, SPARES[kind])))
        shutil.rmtree(tmp_path / str(number))
    sys.stderr.write(f"{name}: {len(failed)} faults, {sum(failed)} failures\n")
    assert sum(failed) >= len(failed) // 5


# --- real disks --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(place: Path, size: str) -> Iterator[Path]:
    """Mount a disk in memory, where that is permitted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    permitted = os.geteuid() == 0 and shutil.which("mount") is not None
    if not permitted or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("name", slowly(["prepare again", "finetune"], {"finetune"}))
def test_a_disk_that_is_really_full_is_no_different(name: str, day: Day, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "96m") as disk:
        assert assert_survives(day, name, disk / "space", Fault(day.num_events(name) // 2, disk=str(disk)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "self-mm", "ablate", "evaluate"])
def test_a_real_disk_may_fill_up_at_any_write(name: str, day: Day, tmp_path: Path) -> None:
    failed = []
    with mounted(tmp_path / "disk", "96m") as disk:
        for at in spread(day.num_events(name), 50):
            failed.append(assert_survives(day, name, disk / "space", Fault(at, 4096 * (at % 3), str(disk))))
            shutil.rmtree(disk / "space")
    sys.stderr.write(f"{name}, real disk: {len(failed)} faults, {sum(failed)} failures\n")
    assert sum(failed) >= len(failed) // 5


@contextlib.contextmanager
def read_only(space: Path, original: Path) -> Iterator[None]:
    """Let nobody write into a copy of a workspace: by its rights, or for root by its file system."""
    if os.geteuid() == 0:
        with mounted(space, "96m"):
            shutil.copytree(original, space, dirs_exist_ok=True)
            subprocess.run(["mount", "-o", "remount,ro", str(space)], check=True)
            yield
        return
    shutil.copytree(original, space)
    folders = [space, *(path for path in space.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_a_place_without_the_right_to_write_is_one_line_for_every_command(day: Day, tmp_path: Path) -> None:
    space = tmp_path / "space"
    with read_only(space, day.before("pretrain")):
        for name in ("prepare", "pretrain", "finetune", "self-mm"):
            done = day.run(name, space)
            assert_one_line(done)
            assert "cannot write" in done.err.splitlines()[-1]
            assert "choose another place with --workspace" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("finetune", ("evaluate full --export {out}", "predict full tiny", "runs", "inspect tiny")),
        pytest.param("compare", ("compare full self --export {out}",), marks=pytest.mark.slow),
    ],
)
def test_what_only_reads_needs_no_right_to_write(name: str, lines: tuple[str, ...], day: Day, tmp_path: Path) -> None:
    space, out = tmp_path / "space", tmp_path / "table.md"
    with read_only(space, day.after(name)):
        for line in lines:
            done = day.commands.run(space, [part.format(out=out) for part in line.split()])
            assert (done.code, bool(done.out)) == (0, True), done.err
        moved = ["prepare", "--dataset", "own", "--source", str(day.places["source"]), "--score-range", "-3..3"]
        assert day.commands.run(space, [*moved, "--workspace", str(tmp_path / "elsewhere")]).code == 0
    assert out.exists()


# --- data that change or are no numbers --------------------------------------------------------------------------


def begun(day: Day, space: Path) -> Path:
    """Make the workspace of a run whose store was cut in place while it trained; return the store."""
    shutil.copytree(day.before("finetune"), space)
    store = space / "features" / "tiny.h5"
    done = day.run("finetune", space, Fault(day.num_events("finetune") // 2, cut=str(store)))
    assert_one_line(done)
    assert "tiny.h5 was changed while it was in use" in done.err or "tiny.h5 ends too early" in done.err
    assert_whole(space / "runs")
    return store


def test_a_store_that_is_cut_while_a_run_uses_it_costs_nothing_once_it_is_restored(day: Day, tmp_path: Path) -> None:
    store = begun(day, tmp_path / "space")
    again = day.run("finetune", tmp_path / "space")
    assert_one_line(again)
    assert f"error: {store} is damaged (it has " in again.err
    shutil.copyfile(day.before("finetune") / "features" / "tiny.h5", store)
    assert day.run("finetune", tmp_path / "space").code == 0
    assert digests(tmp_path / "space") == digests(day.after("finetune"))


def test_a_run_does_not_continue_on_other_data(day: Day, tmp_path: Path) -> None:
    store = begun(day, tmp_path / "space")
    write_store(store, make_corpus("tiny", (13, 6, 6), seed=3, longest=6))
    again = day.run("finetune", tmp_path / "space")
    assert_one_line(again)
    assert re.search(
        "error: run .+ was trained on another version of the store tiny: restore that version, give --name", again.err
    )


@pytest.mark.parametrize("name", slowly(["finetune", "evaluate", "predict"], {"finetune"}))
def test_a_number_that_is_not_finite_reaches_no_model(name: str, day: Day, tmp_path: Path) -> None:
    space = Path(shutil.copytree(day.before(name), tmp_path / "space"))
    for split in ("train", "test"):
        with resealed(space / "features" / "tiny.h5") as file:
            file[f"{split}/vision/frames"][3, 1] = np.nan
    done = day.run(name, space)
    assert_one_line(done)
    split = "train" if name == "evaluate" else "test"  # which is looked through before training
    assert f"tiny.h5 must hold only finite numbers, found nan in vision of the clip '{split}$_$" in done.err
    assert f"`conki doctor {space / 'features' / 'tiny.h5'}` says more" in done.err
    assert not list(space.glob("runs/full/seed-1/checkpoints/best*")) or name != "finetune"


# --- two at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lock"),
    [("prepare", "features/.own.h5.lock"), ("finetune", "runs/.full.seed-1.lock")],
    ids=["store", "seed"],
)
def test_a_second_command_on_the_same_thing_is_told_who_is_at_it(
    name: str, lock: str, day: Day, tmp_path: Path
) -> None:
    space = Path(shutil.copytree(day.before(name), tmp_path / "space"))
    with locked(space / lock, what="it"):
        done = day.run(name, space)
    assert_one_line(done)
    assert f"(process {os.getpid()} on {os.uname().nodename} since " in done.err
    assert day.run(name, space).code == 0


# --- names and paths ---------------------------------------------------------------------------------------------


def test_a_workspace_may_have_any_name(day: Day, tmp_path: Path) -> None:
    odd = tmp_path / "two  words, ünï 数据 🎬" / "[a]{b}*?'c\"$d%s\\n" / ("x" * 200) / "-n"
    space = Path(shutil.copytree(day.before("pretrain"), odd))
    done = day.run("pretrain", space)
    assert done.code == 0, done.err
    assert digests(space) == digests(day.after("pretrain"))


ODD_IDS = (
    "../../../escaped",
    "/escaped",
    "a b ",
    "a;b,c",
    "..",
    ".",
    'q"q',
    "=1+1",
    "[2J",
    "x" * 300,
    "a/b\\c",
    "ü",
    "C:",
)


def test_ids_of_clips_name_no_files(day: Day, tmp_path: Path) -> None:
    space = Path(shutil.copytree(day.before("pretrain"), tmp_path / "deep" / "er" / "space"))
    corpus = make_corpus("tiny", (13, 6, 13), seed=1, longest=6)
    clips = [replace(clip, id=odd) for clip, odd in zip(corpus.splits["test"], ODD_IDS, strict=True)]
    (space / "features" / "tiny.h5").unlink()
    write_store(space / "features" / "tiny.h5", replace(corpus, splits={**corpus.splits, "test": clips}))
    done = day.run("finetune", space)
    assert done.code == 0, done.err
    assert tuple(read_predictions(space / "runs/full/seed-1/predictions/test.csv").ids) == ODD_IDS
    strangers = [path for path in tmp_path.rglob("*") if path.is_file() and space not in path.parents]
    assert not strangers
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "/x", "a/b", "a\\b", "a\nb", "a\n", "a\0b", "", " ", "~", "-x", "ü", "x" * 200]
)
def test_names_of_data_sets_and_runs_are_no_paths(name: str) -> None:
    with pytest.raises(ConkiError) as error:
        check_dataset_name(name)
    assert "\n" not in one_line(str(error.value))
    if name:  # a run without a name is given one
        with pytest.raises(ConkiError, match="a run name must consist of letters"):
            check_name(name)
