"""What only a process of its own shows: the installed program, import times, full disks, pipes, signals."""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from process_support import SECONDS, SIGNALS, as_from_a_terminal, finished, started
from run_support import slowly

from conki_cli import __version__
from conki_cli.system.workspace import Workspace


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def block_interrupts() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


@pytest.mark.parametrize("runner", [ignore_interrupts, block_interrupts])
def test_a_process_starts_as_from_a_terminal_however_the_test_runner_was_started(runner: Callable[[], None]) -> None:
    def prepare() -> None:
        runner()  # this is what a child of such a test runner inherits
        as_from_a_terminal()

    names = [number.name for number in SIGNALS]
    asked = f"import signal as s\nprint(*(s.getsignal(s.Signals[name]) for name in {names}), s.pthread_sigmask(0, []))"
    expected = f"{signal.default_int_handler} {signal.SIG_DFL} {signal.SIG_DFL} set()\n"
    code, out, err = finished("-c", asked, prepare=prepare)
    assert (code, re.sub(" at 0x[0-9a-f]+", "", out), err) == (0, expected, "")


def test_the_installed_program_tells_its_version() -> None:
    program = shutil.which("conki", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("conki is not installed beside this Python")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"conki {__version__}\n", "")


def test_help_imports_nothing_that_a_help_page_does_not_need() -> None:
    code = "import sys\nfrom conki_cli.cli import main\nsys.argv = ['conki', '--help']\n"
    code += "try: main()\nexcept SystemExit: print('\\n', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "conki_cli.cli" in loaded
    assert not loaded & {"numpy", "torch", "rich.progress", "conki_cli.runs", "conki_cli.cli.screen"}


def test_a_full_disk_leaves_no_half_written_store(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code, out, err = finished("-m", "conki_cli", "prepare", "--dataset", "demo", space=tmp_path, prepare=limit)
    assert (code, out) == (1, "")
    assert err.startswith(
        f"error: cannot write {tmp_path / 'features' / 'demo.h5'}: the file would exceed the allowed size"
    )
    assert [path.name for path in (tmp_path / "features").iterdir()] == [".demo.h5.lock"]


INTERRUPTED_AT = """
import signal, sys
from conki_cli.cli import main

seen = []

def interrupt(event, args):
    if event == "os.rename" or seen:
        seen.append(event)
    if len(seen) == {count}:
        signal.raise_signal(signal.SIGINT)

sys.addaudithook(interrupt)
sys.argv = ["conki", "prepare", "--dataset", "demo"]
main()
"""


@pytest.mark.parametrize(("count", "said"), [(1, "no store was made or changed"), (2, "{path} is new and complete")])
def test_an_interrupted_prepare_says_what_is_there(tmp_path: Path, count: int, said: str) -> None:
    path = tmp_path / "features" / "demo.h5"
    found = finished("-c", INTERRUPTED_AT.format(count=count), space=tmp_path)
    assert found == (130, "", f"interrupted: {said.format(path=path)}\n")
    assert path.exists() == (count == 2)


def test_an_interrupt_that_the_caller_has_the_program_ignore_is_ignored(tmp_path: Path) -> None:
    code, _, err = finished("-c", INTERRUPTED_AT.format(count=1), space=tmp_path, prepare=ignore_interrupts)
    assert (code, "interrupted" in err) == (0, False)
    assert (tmp_path / "features" / "demo.h5").exists()


@pytest.mark.parametrize("line", slowly(["settings", "settings --json", "--help", "--version"], ["settings --json"]))
def test_a_result_that_cannot_be_written_is_one_line(line: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "conki_cli", *line.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: the output: No space left on device\n")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    with started("-m", "conki_cli", "settings", space=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert (process.wait(timeout=SECONDS), said) == (1, "")


def wait_for_epochs(log: Path, count: int, process: subprocess.Popen[str]) -> None:
    for _ in range(int(SECONDS / 0.05)):
        assert process.poll() is None, process.communicate()
        if log.is_file() and len(log.read_text(encoding="utf-8").splitlines()) >= count:
            return
        time.sleep(0.05)
    pytest.fail("the training is stuck")


@pytest.mark.slow
def test_an_interrupted_training_continues_with_the_same_command(workspace: Workspace, encoder: Path) -> None:
    stores = ["--dataset", "tiny", "--external", "none", "--drop", "V+A", "--encoder", str(encoder)]
    command = ["finetune", *stores, "--epochs", "4000", "--name", "long"]
    log, said, done = workspace.runs / "long" / "seed-1" / "metrics.jsonl", "", 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 0)):
        with started("-m", "conki_cli", *command, space=workspace.root) as process:
            wait_for_epochs(log, done + 2, process)
            process.send_signal(number)
            out, said = process.communicate(timeout=SECONDS)
        assert (process.returncode, out) == (code, "")
        again = shlex.join(["conki", *command])
        assert said.splitlines()[-1] == f"interrupted: what was finished is kept; resume with: {again}"
        assert "\x1b" not in said  # no terminal, no bar
        done = len(log.read_text(encoding="utf-8").splitlines())
    assert re.search(r"runs/long is unfinished: seed 1 resumes (after|in) epoch [1-9]", said)
    epochs = [json.loads(line)["epoch"] for line in log.read_text(encoding="utf-8").splitlines()]
    assert epochs == list(range(1, len(epochs) + 1))
    assert not list(workspace.root.rglob("*.part"))


STOPPED_TWICE = """
import signal, sys
from conki_cli.training import loop as training
from conki_cli.cli import main

step = training._Fit._backward

def interrupted(*given):
    for _ in range({count}):
        signal.raise_signal(signal.SIGINT)
    return step(*given)

training._Fit._backward = interrupted
sys.argv = ["conki", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("count", "saved"), [(1, True), (2, False)])
def test_the_first_signal_lets_the_step_end_and_the_second_does_not(
    count: int, saved: bool, workspace: Workspace, encoder: Path
) -> None:
    given = ["finetune", "--dataset", "tiny", "--external", "none", "--drop", "V+A", "--encoder", str(encoder)]
    command = ["-c", STOPPED_TWICE.format(count=count), *given, "--overwrite", "--name", "short"]
    code, out, err = finished(*command, space=workspace.root)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1].endswith(f"resume with: {shlex.join(['conki', *given, '--name', 'short'])}")
    assert (workspace.runs / "short" / "seed-1" / "checkpoints" / "last.safetensors").exists() == saved


EARLY = """
import os, signal, sys

def interrupt(event, args):
    if event == "import" and args[0] == "typer":
        os.kill(os.getpid(), {number})

sys.addaudithook(interrupt)
sys.argv = ["conki", "runs"]
from conki_cli.__main__ import main
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_signal_while_the_program_is_imported_is_one_line(number: int, code: int) -> None:
    assert finished("-c", EARLY.format(number=int(number))) == (code, "", "interrupted: nothing was started\n")


# --- streams that are closed, full or left ------------------------------------------------------------------------


def shell(space: Path, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `conki` with the redirections of a shell."""
    env = {**os.environ, "CONKI_WORKSPACE": str(space), "COLUMNS": "80", "OMP_NUM_THREADS": "1", **variables}
    command = f"{shlex.quote(sys.executable)} -m conki_cli {line}"
    return subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=False, timeout=120)


FINETUNE = "finetune --dataset tiny --external none --drop V+A --encoder {encoder} --epochs 1 --name short"
needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&- 2>/dev/full"])
@needs_dev_full
def test_a_training_whose_streams_are_closed_ends_well(closed: str, workspace: Workspace, encoder: Path) -> None:
    done = shell(workspace.root, f"{FINETUNE.format(encoder=encoder)} {closed}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads((workspace.runs / "short" / "result.json").read_text(encoding="utf-8"))
    assert result["state"] == "finished"
    assert set(result["metrics"]) == {"valid", "test"}


@needs_dev_full
@pytest.mark.parametrize("json_too", ["", "--json"])
def test_what_was_made_counts_though_it_cannot_be_shown(json_too: str, tmp_path: Path) -> None:
    done = shell(tmp_path, f"prepare --dataset demo {json_too} >/dev/full")
    said = (
        f"the result could not be shown (No space left on device), but it is kept: {tmp_path / 'features' / 'demo.h5'}"
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"warning: {said}")


def test_what_was_made_counts_though_its_reader_has_left(tmp_path: Path) -> None:
    done = shell(tmp_path, "prepare --dataset demo | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout) == (0, "")
    assert "warning" not in done.stderr


@pytest.mark.parametrize(
    "line", slowly(["prepare --dataset demo", "settings", "settings --json", "--help", "--version"], ["settings"])
)
def test_a_command_without_a_stdout_ends_well(line: str, tmp_path: Path) -> None:
    done = shell(tmp_path, f"{line} >&-")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not [word for word in ("error", "Traceback", "Exception") if word in done.stderr]


def test_an_error_without_a_stderr_still_has_its_exit_code(tmp_path: Path) -> None:
    assert shell(tmp_path, "inspect missing 2>&-").returncode == 1


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    assert shell(tmp_path, "prepare --dataset demo >&- 2>&-").returncode == 0
    assert shell(tmp_path, "doctor demo").returncode == 0


# --- the width of the terminal ------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", slowly(["0", "-5", "²", "", "999999999999"], ["²"]))
def test_a_width_that_cannot_be_one_is_80_columns(columns: str, tmp_path: Path) -> None:
    odd, usual = (shell(tmp_path, "settings", COLUMNS=width) for width in (columns, "80"))
    assert odd.returncode == 0, odd.stderr
    assert odd.stdout == usual.stdout
    assert 60 < max(map(len, odd.stdout.splitlines())) <= 80


@pytest.mark.parametrize("variable", slowly(["COLUMNS", "LINES", "TERMINAL_WIDTH"], ["COLUMNS"]))
def test_a_help_page_is_shown_whatever_the_terminal_says(variable: str, tmp_path: Path) -> None:
    done = shell(tmp_path, "finetune --help", **{variable: "0"})
    assert "--dataset" in done.stdout


def test_a_width_that_is_one_is_kept(tmp_path: Path) -> None:
    lines = shell(tmp_path, "settings", COLUMNS="200").stdout.splitlines()
    assert max(map(len, lines)) > 80


# --- completion in the shell ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "offered"), [("conki fine", "finetune"), ("conki finetune --rec", "--recipe")])
def test_a_shell_completes_commands_and_options(typed: str, offered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CONKI_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    code, out, _ = finished("-c", "import sys\nfrom conki_cli.__main__ import main\nsys.argv = ['conki']\nmain()")
    assert (code, out.split()) == (0, [offered])
