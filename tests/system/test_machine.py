"""The machine and its libraries are verified by the room that records them."""

from pathlib import Path

import pytest
import torch

from conki_cli.system.machine import disk_finding, this_machine, verify_machine
from conki_cli.system.workspace import Workspace


def test_the_environment_names_versions_threads_and_devices(tmp_path: Path) -> None:
    here, problem = this_machine()
    found = list(verify_machine(Workspace(tmp_path), here, problem))
    said = " ".join(finding.what for finding in found)
    assert f"torch {torch.__version__}" in said
    assert f"{here['threads']} thread" in said
    assert "GPU" in said
    assert " free" in said


def test_a_library_that_is_missing_or_broken_is_a_fault(tmp_path: Path) -> None:
    here, _ = this_machine()
    here["packages"]["h5py"] = None
    found = [one for one in verify_machine(Workspace(tmp_path), here, "libtorch.so: cannot open") if one.advice]
    assert [one.what for one in found if one.severity == "fault"] == [
        "h5py is not installed",
        "torch cannot be imported: libtorch.so: cannot open",
    ]


def test_more_threads_than_cores_are_a_remark(tmp_path: Path) -> None:
    here, _ = this_machine()
    found = list(verify_machine(Workspace(tmp_path), {**here, "threads": 999}, ""))
    assert [one.advice.partition(":")[0] for one in found if one.what.startswith("999 threads")] == [
        "threads that share a core wait for each other"
    ]


def test_a_driver_that_torch_cannot_use_is_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch can use the GPU of this machine")
    (tmp_path / "version").write_text("NVRM version")
    monkeypatch.setattr("conki_cli.system.machine.NVIDIA_DRIVER", tmp_path / "version")
    found = [one for one in verify_machine(Workspace(tmp_path), *this_machine()) if one.severity == "remark"]
    assert "this machine has an NVIDIA driver, but torch " in " ".join(one.what for one in found)


def test_an_accelerator_of_another_kind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conki_cli.system.machine.choose_device", lambda name: torch.device("mps"))
    found = [one.what for one in verify_machine(Workspace(tmp_path), *this_machine())]
    assert "computes on the mps device" in found
    assert not any("there is no usable GPU" in what for what in found)


def test_a_nearly_full_disk_is_a_remark() -> None:
    assert disk_finding("here", 2**30).what.startswith("1.0 GiB free, and one seed of BERT-base takes about 3.0 GiB")
    assert disk_finding("here", 2**40).severity == "ok"
