"""The cached states of a frozen text encoder: their values, when they are computed again, and damaged files."""

import os
import resource
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from baseline_support import text_encoder
from conftest import MakeConfig, Notes, OpenJob, make_corpus, resealed

from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Ragged
from conki_cli.data.store.writing import write_store
from conki_cli.model.inputs import Inputs
from conki_cli.model.packing import Packing
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.errors import StoreError
from conki_cli.system.locks import locked
from conki_cli.system.observer import Observer
from conki_cli.training import cached_states as frozen
from conki_cli.training.cached_states import StateCache, cached_states

SPLITS = ("train", "valid", "test")
LAYERS = (0, 1, 4)
CPU = torch.device("cpu")
States = dict[str, dict[str, Ragged]]


@pytest.fixture
def inputs(open_job: OpenJob, tiny_config: MakeConfig) -> Inputs:
    return open_job(tiny_config("", "model.name=tfn", "data.external=none")).inputs


@pytest.fixture
def cache(encoder: Path, tmp_path: Path) -> StateCache:
    return StateCache(text_encoder(encoder), LAYERS, "fp32", tmp_path / "kept", CPU)


def states_of(cache: StateCache, inputs: Inputs, splits: tuple[str, ...] = SPLITS) -> States:
    found = cached_states(cache, inputs, splits, Observer())
    assert found is not None
    return found


def files_of(cache: StateCache) -> list[Path]:
    return sorted(cache.folder.glob("*.h5"))


def leftovers(folder: Path) -> list[str]:
    """Name everything below a folder but the lock files."""
    return [path.name for path in folder.rglob("*") if path.suffix != ".lock" and path.is_file()]


def one_file(cache: StateCache, inputs: Inputs) -> Path:
    """Keep the states of the test split and return their file."""
    states_of(cache, inputs, ("test",))
    (path,) = files_of(cache)
    return path


def alone(encoder: TextEncoder, ids: np.ndarray) -> list[torch.Tensor]:
    """Encode one text by itself; every hidden state, [L, D]."""
    packing = Packing.of(torch.ones(1, len(ids), dtype=torch.bool))
    with torch.no_grad():
        return encoder.eval()(torch.from_numpy(ids).long(), packing)[1]


def tokens_of(inputs: Inputs, split: str) -> list[np.ndarray]:
    return inputs.token_ids(split) or []


# --- what they are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1e-5), ("fp16", 2e-3)])
def test_the_states_of_a_clip_are_those_of_its_text_alone(
    precision: str, share: float, cache: StateCache, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "_CLIPS", 5)  # three pieces of the training split
    cache.encoder.train()
    found = states_of(replace(cache, precision=precision), inputs)
    for split in SPLITS:
        assert [len(found[split][name]) for name in ("layer_1", "layer_4", "first")] == [
            len(tokens_of(inputs, split))
        ] * 3
        for clip, ids in enumerate(tokens_of(inputs, split)):
            expected = alone(cache.encoder, ids)
            for name, states in (("layer_1", expected[1]), ("layer_4", expected[4]), ("first", expected[4][:1])):
                torch.testing.assert_close(torch.from_numpy(found[split][name][clip]), states, atol=share, rtol=share)


def test_the_output_of_the_embedding_layer_is_a_look_up_and_is_not_kept(cache: StateCache, inputs: Inputs) -> None:
    assert set(states_of(cache, inputs)["train"]) == {"layer_1", "layer_4", "first"}


def test_a_batch_hands_out_the_states_of_its_clips_padded_as_the_tokens_are(cache: StateCache, inputs: Inputs) -> None:
    found = states_of(cache, inputs)
    batch = next(replace(inputs, states=found).batches("train", batch_size=5, seed=1).epoch(1))
    text = batch.modality("text")
    assert batch.states["layer_4"].shape[:2] == text.mask.shape
    assert not batch.states["layer_4"][~text.mask].any()
    for row, clip in enumerate(batch.indices.tolist()):
        kept = torch.from_numpy(found["train"]["layer_4"][clip])
        assert torch.equal(batch.states["layer_4"][row][text.mask[row]], kept)
        assert torch.equal(batch.states["first"][row], kept[0])


def test_half_precision_takes_half_the_space(cache: StateCache, inputs: Inputs) -> None:
    whole = one_file(cache, inputs)
    half = one_file(replace(cache, precision="fp16", folder=cache.folder / "half"), inputs)
    with h5py.File(whole) as one, h5py.File(half) as other:
        assert one["layer_4"].id.get_storage_size() == 2 * other["layer_4"].id.get_storage_size()


def test_states_beyond_half_precision_are_computed_anew(cache: StateCache, inputs: Inputs) -> None:
    with torch.no_grad():
        cache.encoder.backbone.encoder.layer[3].output.LayerNorm.weight.fill_(1e6)
    notes = Notes()
    assert cached_states(replace(cache, precision="fp16"), inputs, SPLITS, notes) is None
    assert notes.lines[-1].startswith("some states of the frozen text encoder are not finite in fp16; ")
    assert leftovers(cache.folder) == []


def test_products_are_full_ones_even_where_the_run_takes_shorter_numbers(cache: StateCache, inputs: Inputs) -> None:
    seen: list[str] = []
    cache.encoder.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    torch.set_float32_matmul_precision("high")
    try:
        states_of(cache, inputs)
        assert (set(seen), torch.get_float32_matmul_precision()) == ({"highest"}, "high")
    finally:
        torch.set_float32_matmul_precision("highest")


# --- when they are computed again --------------------------------------------------------------------------------


def test_the_note_of_a_process_that_was_killed_after_its_last_write_is_removed(
    cache: StateCache, inputs: Inputs
) -> None:
    cached_states(cache, inputs, ("train",), Observer())
    (path,) = cache.folder.glob("*.h5")
    note = path.with_name(f".{path.name}.lock.owner")
    note.write_text('{"pid": 999999999}', encoding="utf-8")
    cached_states(cache, inputs, ("train",), Observer())
    assert not note.exists()


def test_what_was_kept_is_not_computed_again(cache: StateCache, inputs: Inputs) -> None:
    calls: list[int] = []
    cache.encoder.register_forward_hook(lambda *_: calls.append(1))
    first = states_of(cache, inputs)
    made = len(calls)
    again = states_of(cache, inputs)
    assert len(calls) == made > 0
    for split in SPLITS:
        for name, states in first[split].items():
            assert all(np.array_equal(states[k], again[split][name][k]) for k in range(len(states)))


def test_the_size_is_said_before_anything_is_written(cache: StateCache, inputs: Inputs) -> None:
    class Watching(Notes):
        def say(self, line: str) -> None:
            super().say(line)
            assert leftovers(cache.folder) == []

    notes = Watching()
    cached_states(cache, inputs, SPLITS, notes)
    rows = sum(2 * sum(map(len, tokens)) + len(tokens) for tokens in (tokens_of(inputs, split) for split in SPLITS))
    size = f"{rows * 16 * 4 / 1024:.1f} KiB"
    expected = f"the frozen text encoder reads tiny once; its states take {size} below {cache.folder}"
    assert notes.lines == [expected]


def with_weight(cache: StateCache, inputs: Inputs, part: str) -> tuple[StateCache, Inputs]:
    with torch.no_grad():
        cache.encoder.backbone.get_parameter(part).add_(1e-3)
    return cache, inputs


def with_fewer_heads(cache: StateCache, inputs: Inputs) -> tuple[StateCache, Inputs]:
    cache.encoder.backbone.config.num_attention_heads = 1
    return cache, inputs


def with_shorter_texts(cache: StateCache, inputs: Inputs) -> tuple[StateCache, Inputs]:
    return cache, replace(inputs, max_tokens=3, _tokens={})


def with_other_words(cache: StateCache, inputs: Inputs) -> tuple[StateCache, Inputs]:
    """Give the texts other token ids of the same lengths, as another vocabulary would."""
    return cache, replace(
        inputs, _tokens={key: ([ids[::-1] for ids in found], 0) for key, (found, _) in inputs._tokens.items()}
    )


OTHERS: dict[str, Callable[[StateCache, Inputs], tuple[StateCache, Inputs]]] = {
    "limit of tokens": with_shorter_texts,
    "vocabulary": with_other_words,
    "weight of the encoder": lambda k, i: with_weight(k, i, "encoder.layer.3.output.dense.bias"),
    "weight of the embeddings": lambda k, i: with_weight(k, i, "embeddings.word_embeddings.weight"),
    "setting of the encoder": with_fewer_heads,
    "layers": lambda k, i: (replace(k, layers=(0, 2, 4)), i),
    "type of number": lambda k, i: (replace(k, precision="fp16"), i),
}


@pytest.mark.parametrize("other", OTHERS)
def test_everything_that_the_states_depend_on_has_files_of_its_own(
    other: str, cache: StateCache, inputs: Inputs
) -> None:
    states_of(cache, inputs)
    states_of(*OTHERS[other](cache, inputs))
    assert len(files_of(cache)) == 2 * len(SPLITS)


def test_other_texts_have_a_file_of_their_own(cache: StateCache, inputs: Inputs, tmp_path: Path) -> None:
    write_store(tmp_path / "tiny.h5", make_corpus("tiny", (4, 2, 2), seed=9, longest=3))
    with FeatureStore(tmp_path / "tiny.h5") as store:
        states_of(cache, inputs)
        states_of(cache, replace(inputs, target=store, _tokens={}))
    assert len(files_of(cache)) == 2 * len(SPLITS)


def test_the_pooler_comes_after_what_is_kept(cache: StateCache, inputs: Inputs) -> None:
    states_of(cache, inputs)
    states_of(*with_weight(cache, inputs, "pooler.dense.weight"))
    assert len(files_of(cache)) == len(SPLITS)


def test_the_same_encoder_in_another_folder_shares_the_files(
    cache: StateCache, inputs: Inputs, encoder: Path, tmp_path: Path
) -> None:
    states_of(cache, inputs)
    shutil.copytree(encoder, tmp_path / "elsewhere")
    states_of(replace(cache, encoder=text_encoder(tmp_path / "elsewhere")), inputs)
    assert len(files_of(cache)) == len(SPLITS)


# --- whole or not at all -----------------------------------------------------------------------------------------


@contextmanager
def failing(encoder: TextEncoder, error: BaseException) -> Iterator[None]:
    """Let the encoder fail at its third call."""
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise error

    hook = encoder.register_forward_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("error", [RuntimeError("the power is gone"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_an_encoder_that_fails_half_way_leaves_no_file(
    error: BaseException, cache: StateCache, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "_CLIPS", 2)
    with failing(cache.encoder, error), pytest.raises(type(error)):
        states_of(cache, inputs)
    assert leftovers(cache.folder) == []
    assert len(states_of(cache, inputs)["train"]["first"]) == 13


def test_what_a_killed_process_left_is_removed(cache: StateCache, inputs: Inputs) -> None:
    path = one_file(cache, inputs)
    path.rename(path.with_name(f".{path.name}.killed.part"))
    states_of(cache, inputs, ("test",))
    assert leftovers(cache.folder) == [path.name]


def test_a_second_process_waits_for_the_first_and_takes_its_file(
    cache: StateCache, inputs: Inputs, tmp_path: Path
) -> None:
    path, calls = one_file(cache, inputs), []
    path.rename(tmp_path / "ready.h5")
    cache.encoder.register_forward_hook(lambda *_: calls.append(1))
    found: list[States | None] = []
    notes = Notes()
    second = threading.Thread(target=lambda: found.append(cached_states(cache, inputs, ("test",), notes)))
    with locked(path.with_name(f".{path.name}.lock"), what="it"):
        second.start()
        second.join(0.3)
        assert second.is_alive()
        (tmp_path / "ready.h5").rename(path)
    second.join(10)
    assert (len(found), calls) == (1, [])
    assert found[0] is not None
    expected = f"another process is writing {path} (process {os.getpid()} on "
    assert [line for line in notes.lines if line.startswith(expected) and line.endswith("): waiting for it")]


# --- no room -----------------------------------------------------------------------------------------------------


def assert_goes_on(cache: StateCache, inputs: Inputs, said: str) -> None:
    """Assert that nothing is kept, that the last line says why, and that nothing lies below the folder."""
    notes = Notes()
    assert cached_states(cache, inputs, SPLITS, notes) is None
    assert said in notes.lines[-1]
    assert notes.lines[-1].endswith("; the states of the frozen text encoder are computed again in every epoch instead")
    assert "\n" not in notes.lines[-1]
    assert not cache.folder.is_dir() or leftovers(cache.folder) == []


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40 - free, free))


def test_a_disk_without_room_is_said_and_nothing_is_written(
    cache: StateCache, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 64 * 2**20)
    assert_goes_on(
        cache, inputs, f"{cache.folder} has 64.0 MiB free, and the states of the frozen text encoder for tiny "
    )


def test_what_the_run_needs_for_itself_stays_free(
    cache: StateCache, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 2**30)
    assert_goes_on(replace(cache, spare=2**30), inputs, "KiB and the run's own files 1.0 GiB; ")
    states_of(cache, inputs)


@pytest.mark.parametrize("limit", [100, 3000, 12_000], ids=["at once", "in the first file", "in the training split"])
def test_a_disk_that_fills_up_leaves_nothing(limit: int, cache: StateCache, inputs: Inputs) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        assert_goes_on(cache, inputs, "the file would exceed the allowed size: raise the file size limit (ulimit -f)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_files_that_were_whole_are_removed_when_a_later_one_finds_no_room(cache: StateCache, inputs: Inputs) -> None:
    sizes = []
    for split in ("valid", "train"):
        states_of(replace(cache, folder=cache.folder / split), inputs, (split,))
        sizes.append(files_of(replace(cache, folder=cache.folder / split))[0].stat().st_size)
    shutil.rmtree(cache.folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sum(sizes) // 2, hard))
    try:
        assert cached_states(cache, inputs, ("valid", "train"), Observer()) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert leftovers(cache.folder) == []


def test_a_place_that_cannot_be_a_folder_is_said(cache: StateCache, inputs: Inputs) -> None:
    cache.folder.write_text("in the way", encoding="utf-8")
    assert_goes_on(cache, inputs, f"cannot write {cache.folder}: there is a file where a folder must be: move it away")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_said(cache: StateCache, inputs: Inputs) -> None:
    cache.folder.mkdir()
    cache.folder.chmod(0o500)
    assert_goes_on(cache, inputs, "writing is not permitted")


# --- damage ------------------------------------------------------------------------------------------------------


def _replace(file: h5py.File, name: str, values: np.ndarray, **options: object) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, data=values, **options).attrs.update(attributes)


def _sealed(file: h5py.File, name: str, value: float) -> None:
    """Write a number and the checksum that fits."""
    file[name][3, 5] = value
    file[name].attrs["crc32"] = np.uint32(zlib.crc32(file[name][:].data))


DAMAGES: dict[str, Callable[[h5py.File], None]] = {
    "a layer is missing": lambda file: file.__delitem__("layer_4"),
    "the last thing written is missing": lambda file: file.__delitem__("offsets"),
    "a clip is missing": lambda file: _replace(file, "offsets", np.delete(file["offsets"][:], 1)),
    "an end too early": lambda file: file["offsets"].__setitem__(-1, 1),
    "offsets that fall": lambda file: file["offsets"].__setitem__(2, 0),
    "a row is missing": lambda file: _replace(file, "layer_4", file["layer_4"][1:]),
    "longer numbers": lambda file: _replace(file, "layer_4", file["layer_4"][:].astype("<f8")),
    "in pieces": lambda file: _replace(file, "layer_4", file["layer_4"][:], chunks=(1, 16)),
    "one number": lambda file: file["layer_4"].__setitem__((3, 5), 0.25),
    "one number of the first tokens": lambda file: file["first"].__setitem__((0, 0), 0.25),
    "not finite": lambda file: _sealed(file, "layer_4", np.nan),
    "no checksum": lambda file: file["layer_1"].attrs.__delitem__("crc32"),
    "a checksum of text": lambda file: file["layer_1"].attrs.__setitem__("crc32", "x"),
    "a group instead": lambda file: (file.__delitem__("first"), file.create_group("first")),
}


def assert_damaged(path: Path, cache: StateCache, inputs: Inputs) -> None:
    with pytest.raises(StoreError) as caught:
        states_of(cache, inputs, ("test",))
    said = str(caught.value)
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("): delete it and run again")
    assert "\n" not in said


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_in_one_line(damage: str, cache: StateCache, inputs: Inputs) -> None:
    path = one_file(cache, inputs)
    with resealed(path) as file:
        DAMAGES[damage](file)
    assert_damaged(path, cache, inputs)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.99])
def test_a_torn_file_is_named_too(share: float, cache: StateCache, inputs: Inputs) -> None:
    path = one_file(cache, inputs)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert_damaged(path, cache, inputs)


def test_bytes_changed_anywhere_are_named_or_change_no_state(cache: StateCache, inputs: Inputs) -> None:
    path = one_file(cache, inputs)
    whole = path.read_bytes()
    expected = {name: states[2] for name, states in states_of(cache, inputs, ("test",))["test"].items()}
    said: list[str] = []
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = states_of(cache, inputs, ("test",))["test"]
        except StoreError as error:
            said.append(str(error))
        else:
            assert all(np.array_equal(states[2], expected[name]) for name, states in found.items())
    assert len(said) > len(whole) // 41 // 2
    assert all(line.startswith(f"{path} ") and line.endswith("delete it and run again") for line in said)
