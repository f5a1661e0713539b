"""Weights on disk: the same bits come back, nothing is pickled, and what does not fit is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import equal_bits
from safetensors.torch import save_file
from torch import nn

from conki_cli.system.errors import ConkiError, RunError
from conki_cli.system.files import write_text
from conki_cli.training import checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "best.safetensors"


def stepped(model: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Take one AdamW step so that the optimiser has a state."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {"main": optimizer}


def test_tensors_and_facts_come_back_to_the_last_bit(path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "count": torch.tensor(7), "empty": torch.zeros(0)}
    checkpoint.save(path, tensors, {"epoch": 3, "best_mae": 0.1})
    found, facts = checkpoint.load(path)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert facts == {"epoch": 3, "best_mae": 0.1}


def test_a_checkpoint_is_safetensors_with_json_in_its_header(path: Path) -> None:
    checkpoint.save(path, {"a": torch.zeros(2)}, {"seed": 1})
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["a"]["dtype"] == "F32"
    assert json.loads(header["__metadata__"]["facts"]) == {"seed": 1}
    assert header["__metadata__"]["schema"] == "1"


def test_views_and_shared_tensors_can_be_saved(path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    checkpoint.save(path, {"a": base.T, "b": base, "c": base[1]}, {})
    assert torch.equal(checkpoint.load(path)[0]["a"], base.T)


def test_a_missing_checkpoint_is_one_line(path: Path) -> None:
    with pytest.raises(
        RunError, match=r"checkpoint .*best\.safetensors is missing: delete its seed folder and train again"
    ):
        checkpoint.load(path)


@pytest.mark.parametrize("keep", [0, 5, 40, -1], ids=["empty", "length", "header", "last byte"])
def test_a_truncated_checkpoint_is_one_line(path: Path, keep: int) -> None:
    checkpoint.save(path, {"a": torch.zeros(9)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match="is damaged") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RunError, match=r"has schema None, this conki [\d.]+ reads 1: install the version"):
        checkpoint.load(tmp_path / "other.safetensors")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConkiError, match="cannot write"):
        checkpoint.save(tmp_path / "file" / "best.safetensors", {"a": torch.zeros(1)}, {})


def test_restoring_copies_weights_and_buffers_into_a_model() -> None:
    one, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    one(torch.randn(4, 3))
    checkpoint.restore(other, checkpoint.select(one, list(one.state_dict())), "there")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"bias": torch.zeros(2)}, r"there does not fit the model: bias \(2,\) there, shape \(4,\) here"),
        ({"other": torch.zeros(2)}, r"other \(2,\) there, no such weight here"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_copied(
    tensors: dict[str, torch.Tensor], message: str
) -> None:
    model = nn.Linear(3, 4)
    before = model.weight.clone()
    with pytest.raises(RunError, match=message):
        checkpoint.restore(model, {"weight": torch.zeros(4, 3), **tensors}, "there")
    assert torch.equal(model.weight, before)


def test_a_restored_optimiser_steps_as_if_it_had_never_stopped(path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimizers = stepped(model)
    moments = checkpoint.optimizers_tensors(optimizers)
    checkpoint.save(path, {**checkpoint.select(model, ["weight", "bias"]), **moments}, {})
    twin = nn.Linear(3, 4)
    again = {"main": torch.optim.AdamW(twin.parameters(), lr=0.1, fused=True)}
    tensors = checkpoint.load(path)[0]
    checkpoint.restore(twin, checkpoint.without_optimizer(tensors), "there")
    checkpoint.restore_optimizers(again, tensors)
    for network, optimizer in ((model, optimizers["main"]), (twin, again["main"])):
        network.zero_grad()
        network(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    assert torch.equal(model.weight, twin.weight)


def test_the_states_of_several_phases_do_not_mix() -> None:
    models = [nn.Linear(3, 4), nn.Linear(3, 2)]
    optimizers = {name: stepped(model)["main"] for name, model in zip(("first", "second"), models, strict=True)}
    fresh = {
        name: torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        for name, model in zip(("first", "second"), models, strict=True)
    }
    checkpoint.restore_optimizers(fresh, checkpoint.optimizers_tensors(optimizers))
    for name in optimizers:
        states = [made[name].state_dict()["state"][0]["exp_avg"] for made in (optimizers, fresh)]
        assert torch.equal(*states)


def test_a_finished_last_loses_the_optimisers_state(path: Path) -> None:
    last = path.with_name("last.safetensors")
    model = nn.Linear(3, 4)
    moments = checkpoint.optimizers_tensors(stepped(model))
    checkpoint.save(last, {**checkpoint.select(model, ["weight"]), **moments}, {"epoch": 2})
    checkpoint.slim_last(last, path, best_is_last=False)
    tensors, facts = checkpoint.load(last)
    assert (list(tensors), facts) == (["weight"], {"epoch": 2})


def test_a_last_that_equals_the_best_shares_its_bytes(path: Path) -> None:
    last = path.with_name("last.safetensors")
    for target in (path, last):
        checkpoint.save(target, {"a": torch.zeros(3)}, {})
    for _ in range(2):  # also when it was linked before
        checkpoint.slim_last(last, path, best_is_last=True)
        assert os.path.samefile(last, path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, last.name]


def test_where_files_cannot_be_linked_the_last_is_a_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    last = path.with_name("last.safetensors")
    checkpoint.save(path, {"a": torch.zeros(3)}, {})
    checkpoint.save(last, {"a": torch.zeros(3), "optimizer.main.0.step": torch.zeros(1)}, {})
    monkeypatch.setattr(os, "link", refuse)
    checkpoint.slim_last(last, path, best_is_last=True)
    assert last.read_bytes() == path.read_bytes()


def test_the_announced_size_is_that_of_the_weights_and_the_moments() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    during, after = checkpoint.size_while_training(model, ["1.weight", "1.bias"], ["0.weight", "0.bias"])
    assert after == 4 * (2 * 5 + 16)
    assert during == after + 4 * (2 * 5 + 2 * 2 * 5)  # two of `last` with two moments each, one of `best` more


def test_changed_bytes_of_a_tensor_are_found(path: Path) -> None:
    checkpoint.save(path, {"a": torch.arange(500.0)}, {"epoch": 1})
    content = bytearray(path.read_bytes())
    content[-900:-850] = bytes(byte ^ 0x55 for byte in content[-900:-850])
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"is damaged \(its content does not fit its checksum\): delete its seed folder"):
        checkpoint.load(path)
    assert checkpoint.load(path, facts_only=True)[1] == {"epoch": 1}


def test_changed_facts_are_found(path: Path) -> None:
    checkpoint.save(path, {"a": torch.zeros(3)}, {"epoch": 7})
    path.write_bytes(path.read_bytes().replace(rb"\"epoch\": 7", rb"\"epoch\": 8"))
    with pytest.raises(RunError, match="does not fit its checksum"):
        checkpoint.load(path)


def test_facts_that_are_nested_too_deeply_are_no_facts(path: Path) -> None:
    path.parent.mkdir()
    save_file({"a": torch.zeros(3)}, path, metadata={"schema": "1", "facts": "[" * 200_000})
    with pytest.raises(RunError, match="lacks its facts"):
        checkpoint.load(path)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.bfloat16, torch.float64])
def test_every_type_of_number_has_a_checksum(path: Path, kind: torch.dtype) -> None:
    tensors = {"scalar": torch.ones((), dtype=kind), "none": torch.ones(0, 2, dtype=kind)}
    checkpoint.save(path, tensors, {})
    assert equal_bits(checkpoint.load(path)[0], tensors)


def test_a_checkpoint_of_an_earlier_version_has_no_checksum_and_is_read(path: Path) -> None:
    path.parent.mkdir()
    save_file({"a": torch.ones(2)}, path, metadata={"schema": "1", "facts": "{}"})
    assert equal_bits(checkpoint.load(path)[0], {"a": torch.ones(2)})


def test_weights_may_be_read_by_whom_other_files_may_be(path: Path) -> None:
    checkpoint.save(path, {"a": torch.zeros(1)}, {})
    write_text(path.with_name("other"), "")
    assert path.stat().st_mode == path.with_name("other").stat().st_mode


def test_a_damaged_file_of_the_whole_run_names_the_runs_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is missing: delete the run folder and train again"):
        checkpoint.load(tmp_path / "encoder" / "frozen.safetensors")
