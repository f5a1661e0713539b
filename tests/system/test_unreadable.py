"""Disks and networks that fail for a moment while something is read: one line, no file is touched, none is blamed.

A child process loses single system calls: `read` from files whose path has a word, or `mmap`. A tiny library that is
compiled here does that below Python and below the libraries; where there is no C compiler these tests are skipped.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_support import slowly

import conki_cli
from conki_cli.runs import Run
from conki_cli.system.errors import CheckpointError, UnreadableError
from conki_cli.system.files import read_tensors
from conki_cli.system.readable import status_of, system_error_in
from conki_cli.training import checkpoint

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
static int fails(const char *call, int handle) {
  char name[64], path[4096] = "";
  const char *calls = getenv("LOST_CALLS"), *word = getenv("LOST_WORD");
  if (handle < 0 || !calls || !word || !strstr(calls, call)) return 0;
  snprintf(name, sizeof name, "/proc/self/fd/%d", handle);
  if (readlink(name, path, sizeof path - 1) < 0 || !strstr(path, word)) return 0;
  errno = atoi(getenv("LOST_ERRNO"));
  return 1;
}
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
ssize_t read(int h, void *b, size_t n) { return fails("read", h) ? -1 : REAL(read)(h, b, n); }
ssize_t pread(int h, void *b, size_t n, off_t o) { return fails("read", h) ? -1 : REAL(pread)(h, b, n, o); }
ssize_t pread64(int h, void *b, size_t n, off64_t o) { return fails("read", h) ? -1 : REAL(pread64)(h, b, n, o); }
ssize_t preadv64(int h, const struct iovec *v, int n, off64_t o) {
  return fails("read", h) ? -1 : REAL(preadv64)(h, v, n, o);
}
int flock(int h, int operation) { return fails("flock", h) ? -1 : REAL(flock)(h, operation); }
void *mmap(void *a, size_t n, int p, int f, int h, off_t o) {
  return fails("mmap", h) ? MAP_FAILED : REAL(mmap)(a, n, p, f, h, o);
}
void *mmap64(void *a, size_t n, int p, int f, int h, off64_t o) {
  return fails("mmap", h) ? MAP_FAILED : REAL(mmap64)(a, n, p, f, h, o);
}
"""
FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1"
RUN = next(path.name for path in (FIXTURE / "runs").iterdir() if not path.name.startswith("pretrain"))
SEED = f"runs/{RUN}/seed-1"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that loses calls."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux's LD_PRELOAD")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "lost.c").write_text(SHIM)
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "lost.so"), str(folder / "lost.c"), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "lost.so"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lost") / "space"
    shutil.copytree(FIXTURE, made)
    return made


def digests(space: Path) -> dict[str, str]:
    files = (path for path in space.rglob("*") if path.is_file() and ".lock" not in path.name)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(space: Path, shim: Path, calls: str, word: str, number: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a workspace while calls on some files fail."""
    lost = {"LD_PRELOAD": str(shim), "LOST_CALLS": calls, "LOST_WORD": word, "LOST_ERRNO": str(number)}
    env = {**os.environ, "COLUMNS": "500", "OMP_NUM_THREADS": "1", **lost}
    env["PYTHONPATH"] = str(Path(conki_cli.__file__).parents[1])
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=space, env=env)


READING = {
    f"{SEED}/checkpoints/best.safetensors": f"predict {RUN} tiny",
    f"{SEED}/predictions/test.csv": f"evaluate {RUN}",
    f"{SEED}/result.json": f"evaluate {RUN}",
    f"runs/{RUN}/result.json": f"evaluate {RUN}",
    f"runs/{RUN}/config.toml": f"evaluate {RUN}",
    f"runs/{RUN}/encoder/tokenizer.json": f"predict {RUN} tiny",
    "features/tiny.h5": "inspect tiny",
}


IN_EVERY_RUN = (f"{SEED}/predictions/test.csv", "features/tiny.h5")
"""The others start whole programs for the same few lines of code, and are slow."""


@pytest.mark.parametrize(
    ("place", "command"),
    [pytest.param(*one, marks=() if one[0] in IN_EVERY_RUN else pytest.mark.slow) for one in READING.items()],
    ids=READING,
)
def test_a_read_that_fails_is_one_line_with_the_systems_words(
    place: str, command: str, space: Path, shim: Path
) -> None:
    before = digests(space)
    done = run(space, shim, "read", place, errno.ESTALE, "-m", "conki_cli", *command.split())
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False), done.stderr
    assert last.startswith("error: ")
    assert "Stale file handle" in last
    assert not [word for word in ("damaged", "delete", "train", "make it again", "fetch") if word in last]
    assert digests(space) == before


@pytest.mark.parametrize("word", slowly(["/checkpoints/", "/features/", f"{RUN}/", ".json"], [".json"]))
def test_the_doctor_blames_no_file_that_could_not_be_read(word: str, space: Path, shim: Path) -> None:
    done = run(space, shim, "read", word, errno.EIO, "-m", "conki_cli", "doctor")
    assert done.returncode == 1
    assert "Input/output error" in done.stdout
    assert "nothing is known to be wrong with it, so leave it" in done.stdout
    assert not [said for said in ("rm ", "damaged", "make it again") if said in done.stdout], done.stdout


@pytest.mark.slow
def test_without_memory_maps_a_run_is_read_plainly(space: Path, shim: Path) -> None:
    predict = ["-m", "conki_cli", "predict", RUN, "tiny", "--json"]
    usual, plain = (run(space, shim, calls, "/runs/", errno.ENODEV, *predict) for calls in ("", "mmap"))
    assert (plain.returncode, plain.stdout) == (0, usual.stdout), plain.stderr
    assert '"prediction"' in plain.stdout


LATEST = f"""
from pathlib import Path
from conki_cli.training.resuming import best_is_sound, latest
from conki_cli.runs import Run
from conki_cli.system.observer import Observer
found = latest(Run(Path("runs/{RUN}")), 1, Observer())
print(best_is_sound(Run(Path("runs/{RUN}")), 1, Observer()), found[1]["epoch"])
"""


@pytest.mark.parametrize(
    ("calls", "number"),
    slowly([("read", errno.EIO), ("mmap", errno.ESTALE), ("mmap", errno.EIO)], [("mmap", errno.EIO)]),
)
def test_a_checkpoint_that_could_not_be_read_stays_and_nothing_takes_its_place(
    calls: str, number: int, space: Path, shim: Path
) -> None:
    before = digests(space)
    done = run(space, shim, calls, "last.safetensors", number, "-c", LATEST)
    assert f"UnreadableError: cannot read runs/{RUN}/seed-1/checkpoints/last.safetensors: " in done.stderr
    assert os.strerror(number) in done.stderr
    assert digests(space) == before


@pytest.mark.parametrize("number", slowly([errno.ENODEV, errno.ENOMEM], []))
def test_a_run_continues_where_there_are_no_memory_maps(number: int, space: Path, shim: Path) -> None:
    done = run(space, shim, "mmap", "/runs/", number, "-c", LATEST)
    assert done.stdout == "True 2\n", done.stderr


@pytest.mark.parametrize("number", slowly([errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, 524], [errno.ENOLCK]))
def test_a_file_system_without_locks_is_said_once_and_is_no_obstacle(number: int, tmp_path: Path, shim: Path) -> None:
    for words in (["prepare", "--dataset", "demo"], ["inspect", "demo"]):
        done = run(tmp_path, shim, "flock", "/", number, "-m", "conki_cli", *words)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert done.stderr.count("this file system has no locks") == (words[0] == "prepare")
        assert "SoftFileLock" not in done.stderr
    assert [path.name for path in (tmp_path / "features").glob("*.owner*")] == []


# --- within this process ------------------------------------------------------------------------------------------


def test_only_what_was_read_and_contradicts_itself_is_damaged(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE / "runs" / RUN, tmp_path / RUN)
    path = Run(tmp_path / RUN).checkpoint(1, "best")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.load(path)


def test_plainly_read_tensors_have_the_same_bits_and_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors
    import torch

    tensors = {"a": torch.randn(3, 2), "half": torch.ones(5, dtype=torch.bfloat16), "empty": torch.zeros(0)}
    checkpoint.save(tmp_path / "x.safetensors", tensors, {"epoch": 3})
    usual = read_tensors(tmp_path / "x.safetensors")

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError("No such device (os error 19)")

    monkeypatch.setattr(safetensors, "safe_open", refuse)
    plain = read_tensors(tmp_path / "x.safetensors")
    assert plain[1] == usual[1]
    assert all(
        torch.equal(plain[0][name], values) and values.dtype == plain[0][name].dtype
        for name, values in usual[0].items()
    )


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("Input/output error (os error 5)", 5),
        ("unable to mmap 12 bytes from file </x>: No such device (19)", 19),
        ("Can't read data (file read failed: errno = 116, error message = 'Stale file handle')", 116),
        ("file read failed: errno = 22, error message = 'Invalid argument'", None),
        ("truncated file: eof = 96", None),
    ],
)
def test_the_systems_error_is_found_in_a_librarys_words(said: str, number: int | None) -> None:
    found = system_error_in(OSError(said))
    assert (found and found.errno) == number


def test_a_place_that_the_system_cannot_tell_of_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **named: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    assert status_of(tmp_path / "missing") is None
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(UnreadableError, match="Stale file handle"):
        status_of(tmp_path)


def test_the_list_of_runs_says_unreadable_and_not_damaged(space: Path, shim: Path) -> None:
    done = run(space, shim, "read", f"{RUN}/result.json", errno.EIO, "-m", "conki_cli", "runs", "--json")
    assert '"state": "unreadable"' in done.stdout
    assert "damaged" not in done.stdout
