"""Folders of text encoders are verified by the room that writes them."""

from pathlib import Path

import pytest

from conki_cli.text.folders import scratch_folders
from conki_cli.text.verifying import verify_encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"vocab_size": 3}', encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("a\n", encoding="utf-8")
    return tmp_path


def test_a_sound_folder_has_no_problem(folder: Path) -> None:
    assert list(verify_encoder(folder, weights=False, advice="")) == []


def test_every_missing_part_is_named(folder: Path) -> None:
    (folder / "vocab.txt").unlink()
    said = [finding.what for finding in verify_encoder(folder, weights=True, advice="")]
    assert said == ["a tokenizer is missing (tokenizer.json or vocab.txt)", "model.safetensors is missing"]


def test_a_damaged_file_is_a_fault_with_the_advice(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")
    (finding,) = verify_encoder(folder, weights=False, advice="restore it")
    assert finding.what.startswith("config.json is damaged (Expecting property name")
    assert (finding.subject, finding.severity, finding.advice) == (str(folder), "fault", "restore it")


def test_a_scratch_folder_is_known_with_what_it_was_to_become(folder: Path) -> None:
    scratch = folder / ".encoder.x1.part"
    scratch.mkdir()
    assert list(scratch_folders(folder)) == [(scratch, folder / "encoder")]
