"""The kept states of a frozen text encoder: what they are, when they are made anew, and files that are not whole."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from baseline_support import text_encoder
from conftest import MakeConfig, OpenJob, make_corpus

from conki_cli import frozen
from conki_cli.batches import Inputs
from conki_cli.contract import TextEncoder
from conki_cli.errors import ConkiError, StoreError
from conki_cli.files import locked
from conki_cli.runs import Reporter
from conki_cli.store import FeatureStore, Ragged, write_store

SPLITS = ("train", "valid", "test")


@pytest.fixture
def inputs(open_job: OpenJob, tiny_config: MakeConfig) -> Inputs:
    return open_job(tiny_config("", "model.name=tfn", "data.external=none")).inputs


@pytest.fixture
def reader(encoder: Path) -> TextEncoder:
    return text_encoder(encoder)


def states_of(reader: TextEncoder, inputs: Inputs, folder: Path, identity: str = "a bert") -> dict[str, Ragged]:
    return frozen.text_states(reader, inputs, folder, identity, device=torch.device("cpu"), reporter=Reporter())


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.h5"))


def test_the_states_of_a_clip_are_those_of_its_text_alone(
    reader: TextEncoder, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "_CLIPS", 5)  # three pieces of the training split
    found = states_of(reader.train(), inputs, tmp_path)
    reader.eval()
    for split in SPLITS:
        tokens = inputs.token_ids(inputs.learnt.split(split), f"tiny/{split}") or []
        assert len(found[split]) == len(tokens)
        for clip, ids in enumerate(tokens):
            ids = torch.from_numpy(ids).long()[None]
            expected = reader(ids, torch.ones_like(ids, dtype=torch.bool))[1][-1][0].detach()
            torch.testing.assert_close(torch.from_numpy(found[split][clip]), expected, atol=1e-5, rtol=1e-5)


def test_what_was_kept_is_not_computed_again(reader: TextEncoder, inputs: Inputs, tmp_path: Path) -> None:
    calls: list[int] = []
    reader.register_forward_hook(lambda *_: calls.append(1))
    first = states_of(reader, inputs, tmp_path)
    made = len(calls)
    again = states_of(reader, inputs, tmp_path)
    assert len(calls) == made > 0
    assert all(np.array_equal(first[split][k], again[split][k]) for split in SPLITS for k in range(len(first[split])))


def test_another_encoder_another_limit_and_other_texts_have_files_of_their_own(
    reader: TextEncoder, inputs: Inputs, tmp_path: Path
) -> None:
    write_store(tmp_path / "tiny.h5", make_corpus("tiny", (4, 2, 2), seed=9, longest=3))
    with FeatureStore(tmp_path / "tiny.h5") as store:
        states_of(reader, inputs, tmp_path / "kept")
        states_of(reader, inputs, tmp_path / "kept", "another bert")
        states_of(reader, replace(inputs, max_tokens=3, _tokens={}), tmp_path / "kept")
        states_of(reader, replace(inputs, target=store, _tokens={}), tmp_path / "kept")
    assert len(kept(tmp_path / "kept")) == 4


def test_an_encoder_that_fails_half_way_leaves_no_file(
    reader: TextEncoder, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("the power is gone")

    monkeypatch.setattr(frozen, "_CLIPS", 2)
    hook = reader.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="the power is gone"):
        states_of(reader, inputs, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    hook.remove()
    assert len(states_of(reader, inputs, tmp_path)["train"]) == 13


def test_states_that_another_process_is_writing_are_not_written_twice(
    reader: TextEncoder, inputs: Inputs, tmp_path: Path
) -> None:
    states_of(reader, inputs, tmp_path)
    (path,) = kept(tmp_path)
    path.unlink()
    with (
        locked(path.with_name(f".{path.name}.lock"), what="it"),
        pytest.raises(ConkiError, match=f"^another process is writing {path}: wait"),
    ):
        states_of(reader, inputs, tmp_path)
    assert not path.exists()


def _replace(file: h5py.File, name: str, values: np.ndarray, **options: object) -> None:
    del file[name]
    file.create_dataset(name, data=values, **options)


DAMAGES: dict[str, Callable[[h5py.File], None]] = {
    "a split is missing": lambda file: file.__delitem__("test"),
    "the last thing written is missing": lambda file: file.__delitem__("test/offsets"),
    "a clip is missing": lambda file: _replace(file, "test/offsets", np.delete(file["test/offsets"][:], 1)),
    "an end too early": lambda file: file["test/offsets"].__setitem__(-1, 1),
    "longer numbers": lambda file: _replace(file, "test/states", file["test/states"][:].astype("<f8")),
    "in pieces": lambda file: _replace(file, "test/states", file["test/states"][:], chunks=(1, 16)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_in_one_line(damage: str, reader: TextEncoder, inputs: Inputs, tmp_path: Path) -> None:
    states_of(reader, inputs, tmp_path)
    (path,) = kept(tmp_path)
    with h5py.File(path, "r+") as file:
        DAMAGES[damage](file)
    with pytest.raises(StoreError) as caught:
        states_of(reader, inputs, tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("): delete it and run again")
    assert "\n" not in said


def test_a_torn_file_is_named_too(reader: TextEncoder, inputs: Inputs, tmp_path: Path) -> None:
    states_of(reader, inputs, tmp_path)
    (path,) = kept(tmp_path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(StoreError, match=r"is damaged .*: delete it and run again$"):
        states_of(reader, inputs, tmp_path)
