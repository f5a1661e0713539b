"""Modules as programs of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import conki_cli
from conki_cli.system.programs import command_of, without_current_folder


def test_a_library_in_the_current_folder_is_not_imported_unless_the_package_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bisect.py").write_text("print('imported')")
    monkeypatch.chdir(tmp_path)
    assert command_of("random") == [sys.executable, "-P", "-m", "random"]
    assert "imported" in subprocess.run([sys.executable, "-m", "random"], capture_output=True, text=True).stdout
    assert "imported" not in subprocess.run(command_of("random"), capture_output=True, text=True, check=True).stdout
    monkeypatch.chdir(Path(conki_cli.__file__).parent.parent)
    assert command_of("random") == [sys.executable, "-m", "random"]


def test_a_job_imports_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    (tmp_path / "bisect.py").write_text("print('imported')")
    monkeypatch.chdir(tmp_path)
    words = [sys.executable, "-c", "import bisect"]
    assert "imported" in subprocess.run(words, capture_output=True, text=True).stdout
    with without_current_folder():
        assert "imported" not in subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "PYTHONSAFEPATH" not in os.environ
