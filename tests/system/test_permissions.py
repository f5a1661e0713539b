"""Files and folders that the user may not read: said to be so, never taken for missing or damaged, never deleted."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from run_support import slowly

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1"
RUN = next(path.name for path in (FIXTURE / "runs").iterdir() if not path.name.startswith("pretrain"))
BEST = f"runs/{RUN}/seed-1/checkpoints/best.safetensors"
WITHOUT_RIGHTS = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
]
"""What takes from root the right to read everything."""


def prefix() -> list[str]:
    """Return what a command must begin with so that permissions count, which for root they do not."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None or subprocess.run([*WITHOUT_RIGHTS, "true"], capture_output=True).returncode:
        pytest.skip("root reads everything, and setpriv, which would take that from it, is not there")
    return WITHOUT_RIGHTS


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("closed") / "space"
    shutil.copytree(FIXTURE, made)
    return made


@contextmanager
def closed(path: Path) -> Iterator[None]:
    """Take all rights from a file or folder for a while."""
    before = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(before)


def run(space: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*prefix(), sys.executable, *words]
    env = {**os.environ, "COLUMNS": "500", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=space, env=env)


CASES = {
    "features/tiny.h5": "inspect tiny",
    "runs": "evaluate",
    f"runs/{RUN}": f"evaluate {RUN}",
    f"runs/{RUN}/config.toml": f"evaluate {RUN}",
    BEST: f"predict {RUN} --text hello",
    f"runs/{RUN}/seed-1/predictions/test.csv": f"evaluate {RUN}",
}


@pytest.mark.parametrize("place", slowly(CASES, ["features/tiny.h5"]))
def test_what_may_not_be_read_is_one_line_that_says_so(place: str, space: Path) -> None:
    with closed(space / place):
        found = run(space, "-m", "conki_cli", *CASES[place].split())
    errors = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert (found.returncode, len(errors)) == (1, 1), found.stderr
    assert f"cannot read {place}: permission denied: give your user read permission" in errors[0]


def test_the_list_of_runs_names_the_one_that_may_not_be_read(space: Path) -> None:
    with closed(space / "runs" / RUN):
        found = run(space, "-m", "conki_cli", "runs")
    assert found.returncode == 0
    assert f"cannot read runs/{RUN}: permission denied" in found.stderr
    assert RUN in found.stdout


def test_overwriting_a_run_that_may_not_be_deleted_deletes_nothing(space: Path) -> None:
    folder = space / "runs" / RUN / "encoder"
    before = sorted(path for path in space.rglob("*") if path.suffix != ".pyc")
    discard = (
        f"from pathlib import Path; from conki_cli.runs import Run, discard_run; discard_run(Run(Path('runs/{RUN}')))"
    )
    folder.chmod(0o500)
    try:
        found = run(space, "-c", discard)
    finally:
        folder.chmod(0o700)
    assert f"cannot write runs/{RUN}/encoder: writing is not permitted" in found.stderr
    assert sorted(path for path in space.rglob("*") if path.suffix != ".pyc") == before


@pytest.mark.parametrize(("place", "names"), slowly([(f"runs/{RUN}", []), (BEST, [RUN])], []))
def test_the_doctor_gives_the_command_that_opens_it(place: str, names: list[str], space: Path) -> None:
    with closed(space / place):
        found = run(space, "-m", "conki_cli", "doctor", *names)
    assert found.returncode == 1
    assert f"{place} cannot be read" in found.stdout
    assert "chmod -R u+rX" in found.stdout
    assert "damaged" not in found.stdout


@pytest.mark.slow
def test_a_folder_that_may_not_be_read_hides_nothing_of_the_others(space: Path) -> None:
    with closed(space / "features"):
        found = run(space, "-m", "conki_cli", "doctor")
    assert "features cannot be read" in found.stdout
    assert "chmod -R u+rX features" in found.stdout
    assert f"runs/{RUN}/seed-1\n  ok      finished" in found.stdout


def test_a_checkpoint_that_may_not_be_read_is_not_deleted_as_a_damaged_one_is(space: Path) -> None:
    last = space / "runs" / RUN / "seed-1" / "checkpoints" / "last.safetensors"
    latest = (
        "from pathlib import Path; from conki_cli.runs import Run; from conki_cli.system.observer import Observer; "
        f"from conki_cli.training.resuming import latest; latest(Run(Path('runs/{RUN}')), 1, Observer())"
    )
    with closed(last):
        found = run(space, "-c", latest)
    assert "UnreadableError: cannot read" in found.stderr
    assert last.exists()
