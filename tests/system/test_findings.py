"""How an error about a file becomes a finding."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from conki_cli.system.environment import environment, verify_environments
from conki_cli.system.errors import ConkiError
from conki_cli.system.files import write_json
from conki_cli.system.findings import UNREAD, Examination, Finding, attempt, fault, guarded
from conki_cli.system.workspace import Workspace

FILE = Path("/space/runs/x/result.json")


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (ConkiError(f"{FILE} must be JSON but is not", "restore it"), "result.json must be JSON but is not"),
        (ValueError("no\nnumber"), "result.json is damaged (no number)"),
        (KeyError("seeds"), "result.json is damaged (seeds)"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_with_its_name_and_the_advice_of_its_writer(
    error: Exception, what: str
) -> None:
    assert fault(FILE, error, FILE, "delete it") == Finding(str(FILE), "fault", what, "delete it")


def test_a_file_that_the_system_could_not_read_is_to_be_left_alone() -> None:
    assert fault(FILE, OSError(errno.EIO, "Input/output error"), FILE, "delete it").advice == UNREAD


def test_a_file_whose_library_is_missing_is_not_called_damaged() -> None:
    found = fault(FILE, ImportError("libtorch.so: cannot open"), FILE, "delete it")
    assert found.what == "result.json was not examined (libtorch.so: cannot open)"
    assert found.advice.startswith("nothing is known to be wrong with it, so leave it: repair the environment")


def test_findings_before_an_unforeseen_error_are_kept() -> None:
    def verify() -> Iterator[Finding]:
        yield Finding("x", "ok", "sound so far")
        raise ValueError("unforeseen")

    assert [one.what for one in guarded(FILE, verify())] == ["sound so far", "result.json is damaged (unforeseen)"]


def test_an_attempt_gives_what_was_returned_or_what_was_raised() -> None:
    assert attempt(int, "3") == (3, None)
    value, error = attempt(int, "three")
    assert (value, type(error)) == (None, ValueError)


def test_a_command_names_the_workspace_unless_it_is_the_current_folder(tmp_path: Path) -> None:
    assert Examination(Workspace(Path())).command("demo") == "`conki demo`"
    assert Examination(Workspace(tmp_path)).command("demo") == f"`conki demo --workspace {tmp_path}`"


def test_seeds_that_were_trained_elsewhere_alike_are_named_together(tmp_path: Path) -> None:
    here = environment({}, device="cpu", threads=1)
    recorded = {seed: tmp_path / f"{seed}.json" for seed in (1, 2, 3)}
    for seed, path in recorded.items():
        write_json(path, here if seed == 2 else {**here, "threads": 8, "device": "cuda"})
    (found,) = verify_environments(tmp_path, recorded, here)
    assert found.what == "seeds 1, 3 trained with device cuda (here cpu), threads 8 (here 1)"
