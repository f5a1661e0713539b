import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conki_cli import text
from conki_cli.system.errors import ConkiError, EncoderError
from conki_cli.text.demo_encoder import build_demo_encoder

SENTENCES = ["the cat sat on the mat", "a dog ran by the river , honestly", "She never wrote two letters"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo_encoder(tmp_path_factory.mktemp("small") / "bert", SENTENCES, num_steps=3, hidden_size=16)


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copied"))


def ids_of(folder: Path, *texts: str, max_length: int = 64) -> list[list[int]]:
    return [row.tolist() for row in text.tokenize(text.load_tokenizer(str(folder)), texts, max_length=max_length)[0]]


def without_tensor(folder: Path, prefix: str) -> None:
    kept = {key: value for key, value in load_file(folder / "model.safetensors").items() if not key.startswith(prefix)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_importing_the_module_imports_neither_torch_nor_transformers():
    code = "import sys, conki_cli.text; print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_the_demo_encoder_knows_every_word_it_was_built_from(small):
    unknown = text.load_tokenizer(str(small)).unk_token_id
    assert all(unknown not in row for row in ids_of(small, *SENTENCES))


def test_a_word_that_the_demo_encoder_never_saw_becomes_the_unknown_token(small):
    tokenizer = text.load_tokenizer(str(small))
    assert tokenizer.convert_ids_to_tokens(ids_of(small, "THE zebra")[0]) == ["[CLS]", "the", "[UNK]", "[SEP]"]


def test_the_demo_encoder_has_its_whole_vocabulary_also_in_a_run_folder(small, tmp_path):
    words = {word for sentence in SENTENCES for word in sentence.lower().split()}
    text.save_encoder_files(str(small), tmp_path / "run")
    for folder in (small, tmp_path / "run"):
        tokenizer = text.load_tokenizer(str(folder))
        assert set(tokenizer.get_vocab()) == words | {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
        assert len(tokenizer) == text.encoder_config(str(folder)).vocab_size == 5 + len(words)


def test_the_tokenizer_of_a_folder_with_vocab_txt_alone_has_its_whole_vocabulary(small, copied):
    ids = text.load_tokenizer(str(small)).get_vocab()
    (copied / "vocab.txt").write_text("\n".join(sorted(ids, key=ids.__getitem__)))
    (copied / "tokenizer.json").unlink()
    assert text.load_tokenizer(str(copied)).get_vocab() == ids


def test_the_demo_encoder_has_four_layers_of_the_chosen_width(small):
    config = text.encoder_config(str(small))
    assert (config.hidden_size, config.num_hidden_layers) == (16, 4)


def test_the_demo_encoder_is_stored_whole_and_in_float32(small):
    model, missing = text.load_backbone(str(small))
    assert not missing
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_equal_seeds_build_equal_encoders_and_leave_the_global_generator_alone(small, tmp_path):
    before = torch.random.get_rng_state()
    again = build_demo_encoder(tmp_path / "again", SENTENCES, num_steps=3, hidden_size=16)
    assert text.encoder_identity(str(again)) == text.encoder_identity(str(small))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_demo_encoder_is_built_with_one_thread_because_other_numbers_add_in_another_order(tmp_path):
    before, used = torch.get_num_threads(), set()
    torch.set_num_threads(3)

    def note(step, total):
        used.add(torch.get_num_threads())

    build_demo_encoder(tmp_path / "bert", SENTENCES, num_steps=1, hidden_size=16, progress=note)
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert (used, after) == ({1}, 3)


def test_another_seed_builds_another_encoder(small, tmp_path):
    other = build_demo_encoder(tmp_path / "other", SENTENCES, num_steps=3, hidden_size=16, seed=1)
    assert text.encoder_identity(str(other)) != text.encoder_identity(str(small))


@pytest.mark.slow
def test_masked_word_pretraining_teaches_the_pooled_output_which_words_stand_in_the_sentence(tmp_path):
    words = ["amber", "coral", "lunar", "polar", "solar", "tidal"]
    folder = build_demo_encoder(tmp_path, [f"the {word} list" for word in words], num_steps=120, hidden_size=32)
    model, _ = text.load_backbone(str(folder))
    pooled = model(torch.tensor(ids_of(folder, *(f"the {word} list" for word in words)))).pooler_output
    assert torch.cdist(pooled, pooled)[~torch.eye(6, dtype=torch.bool)].min() > 1.0  # untrained: 0.15


def test_progress_counts_every_step(tmp_path):
    seen = []
    build_demo_encoder(tmp_path, SENTENCES, num_steps=2, hidden_size=8, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 2), (2, 2)]


def test_sentences_without_a_word_build_no_encoder_and_leave_no_file(tmp_path):
    with pytest.raises(EncoderError, match="sentences with words"):
        build_demo_encoder(tmp_path / "empty", ["", "  "])
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_empty_text_keeps_its_special_tokens(small):
    tokenizer = text.load_tokenizer(str(small))
    assert ids_of(small, "") == [[tokenizer.cls_token_id, tokenizer.sep_token_id]]


def test_long_texts_are_cut_before_the_closing_token_and_counted(small):
    tokenizer = text.load_tokenizer(str(small))
    rows, num_cut = text.tokenize(tokenizer, ["the cat", "the " * 900, "dog"], max_length=5)
    assert num_cut == 1
    assert [len(row) for row in rows] == [4, 5, 3]
    assert rows[1][-1] == tokenizer.sep_token_id


def test_token_ids_are_int64_arrays(small):
    rows, _ = text.tokenize(text.load_tokenizer(str(small)), ["the cat"], max_length=9)
    assert rows[0].dtype == np.int64


def test_no_texts_give_no_ids(small):
    assert text.tokenize(text.load_tokenizer(str(small)), [], max_length=9) == ([], 0)


def test_a_length_that_only_holds_the_special_tokens_is_refused(small):
    with pytest.raises(EncoderError, match="must exceed the 2 special tokens, found 2"):
        text.tokenize(text.load_tokenizer(str(small)), ["the cat"], max_length=2)


@pytest.mark.parametrize(
    ("model_type", "stated", "positions", "expected"),
    [
        ("bert", 512, 512, 512),
        ("bert", 10**30, 300, 300),
        ("roberta", 10**30, 514, 512),
        ("mpnet", 512, 130, 128),
        ("t5", 10**30, None, 512),
    ],
)
def test_tokenizer_and_position_table_both_bound_the_tokens(model_type, stated, positions, expected):
    config = SimpleNamespace(model_type=model_type, max_position_embeddings=positions, pad_token_id=1)
    assert text.max_tokens(SimpleNamespace(model_max_length=stated), config) == expected


def test_a_copy_of_a_folder_is_the_same_encoder_whatever_else_lies_in_it(small, copied):
    (copied / "README.md").write_text("a remark")
    assert text.encoder_identity(str(copied)) == text.encoder_identity(str(small))


def test_one_changed_weight_makes_another_encoder(small, copied):
    weights = load_file(copied / "model.safetensors")
    weights["pooler.dense.bias"][0] += 1.0
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert text.encoder_identity(str(copied)) != text.encoder_identity(str(small))


@pytest.mark.parametrize("place", [0, ((40 << 20) - (64 << 10)) * 16 // 31, (40 << 20) - 1])
def test_the_identity_of_a_large_weight_file_sees_its_head_middle_and_tail(tmp_path, place):
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.truncate(40 << 20)
    before = text.encoder_identity(str(tmp_path))
    with (tmp_path / "model.safetensors").open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\1")
    assert text.encoder_identity(str(tmp_path)) != before


def test_a_hub_name_is_its_own_identity():
    assert text.encoder_identity("bert-base-uncased") == "bert-base-uncased"


def test_the_architecture_alone_is_built_from_a_saved_configuration_and_takes_the_weights(small, tmp_path):
    text.save_encoder_files(str(small), tmp_path / "run")
    model, _ = text.load_backbone(str(small))
    before = torch.random.get_rng_state()
    rebuilt = text.backbone_from_config(tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), before)
    rebuilt.load_state_dict(model.state_dict())


def test_the_saved_encoder_files_hold_the_tokenizer_and_no_weights(small, tmp_path):
    text.save_encoder_files(str(small), tmp_path)
    assert ids_of(tmp_path, *SENTENCES) == ids_of(small, *SENTENCES)
    assert not list(tmp_path.glob("*.safetensors"))


def test_saving_where_a_file_stands_is_a_users_error(small, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConkiError, match="there is a file where a folder must be"):
        text.save_encoder_files(str(small), tmp_path / "taken")


def test_a_checkpoint_without_pooler_says_which_parameters_are_random(copied):
    without_tensor(copied, "pooler.")
    _, missing = text.load_backbone(str(copied))
    assert missing == {"pooler.dense.weight", "pooler.dense.bias"}


@pytest.mark.parametrize("prefix", ["module.", "bert.", "module.bert.", "encoder.", "_orig_mod.", "0.auto_model."])
def test_a_prefix_of_all_weights_changes_nothing_not_even_what_a_fresh_pooler_draws(copied, prefix):
    without_tensor(copied, "pooler.")
    torch.manual_seed(1)
    plain, missing = text.load_backbone(str(copied))
    weights = {f"{prefix}{name}": value for name, value in load_file(copied / "model.safetensors").items()}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(1)
    found, also_missing = text.load_backbone(str(copied))
    assert also_missing == missing
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in found.state_dict().items())


def test_two_encoders_in_one_file_are_refused(copied):
    weights = load_file(copied / "model.safetensors")
    both = {f"{side}.{name}": value.clone() for side in ("query", "passage") for name, value in weights.items()}
    save_file(both, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"are missing \(embeddings\.\*, encoder\.\*\)"):
        text.load_backbone(str(copied))


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("encoder.layer.2.", r"16 of \d+ are missing \(encoder\.layer\.2\.\*\)"),
        ("encoder.layer.1.output.dense.bias", r"1 of \d+ are missing \(encoder\.layer\.1\.output\.dense\.bias\)"),
        ("embeddings.position", r"1 of \d+ are missing \(embeddings\.position_embeddings\.\*\)"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_missing_weight_but_a_poolers_is_named_and_refused(copied, lost, named, prefix):
    without_tensor(copied, "pooler.")
    without_tensor(copied, lost)
    weights = {f"{prefix}{name}": value for name, value in load_file(copied / "model.safetensors").items()}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=named):
        text.load_backbone(str(copied))


def test_weights_of_another_architecture_are_refused_by_name(copied):
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**settings, "model_type": "distilbert"}))
    with pytest.raises(EncoderError, match=r"are missing \(transformer\.\*\)"):
        text.load_backbone(str(copied))


def test_weights_of_another_shape_are_refused_with_both_shapes(copied):
    weights = load_file(copied / "model.safetensors")
    rows = len(weights["embeddings.word_embeddings.weight"])
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][:-2].clone()
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=rf"word_embeddings\.weight \[{rows - 2}, 16\] instead of \[{rows}, 16\]"):
        text.load_backbone(str(copied))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["encoder.layer.1.output.dense.weight", "pooler.dense.weight"])
def test_weights_that_are_not_finite_are_refused_by_file_and_name(copied, name, value):
    weights = load_file(copied / "model.safetensors")
    weights[name][1, 2] = value
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=rf"model\.safetensors must hold only finite .* but {name} has {value}"):
        text.load_backbone(str(copied))


def test_of_weights_in_several_files_the_one_with_the_nan_is_named(copied):
    weights = load_file(copied / "model.safetensors")
    weights["pooler.dense.bias"][0] = float("nan")
    files = {name: f"part-{'pooler' in name:d}.safetensors" for name in weights}
    for file in set(files.values()):
        part = {f"module.{name}": value for name, value in weights.items() if files[name] == file}
        save_file(part, copied / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {f"module.{name}": file for name, file in files.items()}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    (copied / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"part-1\.safetensors must hold only finite .* pooler\.dense\.bias"):
        text.load_backbone(str(copied))


def test_weights_of_another_model_are_refused(copied):
    save_file({"other.weight": torch.zeros(2)}, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"must fit its config\.json"):
        text.load_backbone(str(copied))


def test_half_precision_weights_are_widened_to_float32(copied):
    halved = {key: value.half() for key, value in load_file(copied / "model.safetensors").items()}
    save_file(halved, copied / "model.safetensors", metadata={"format": "pt"})
    model, _ = text.load_backbone(str(copied))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_truncated_weights_give_one_line(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(EncoderError, match=r"the weights in .* cannot be loaded") as caught:
        text.load_backbone(str(copied))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read_and_the_error_tells_how_to_convert(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pickle, which could run code .*save_pretrained"):
        text.load_backbone(str(copied))


@pytest.mark.parametrize(
    ("lost", "load", "message"),
    [
        ("config.json", text.encoder_config, "must hold config.json"),
        ("config.json", text.encoder_identity, "must hold config.json"),
        ("model.safetensors", text.load_backbone, "must hold weights in safetensors"),
        ("tokenizer.json", text.load_tokenizer, "must hold a tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_that_files_name(copied, lost, load, message):
    (copied / lost).unlink()
    with pytest.raises(EncoderError, match=message):
        load(str(copied))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "no-such-model"}'])
def test_an_unreadable_configuration_gives_one_line(copied, content):
    (copied / "config.json").write_text(content)
    with pytest.raises(EncoderError, match=r"configuration \(config\.json\) in .* cannot be loaded") as caught:
        text.encoder_config(str(copied))
    assert "\n" not in str(caught.value)


def test_an_encoder_decoder_is_refused(copied):
    (copied / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(EncoderError, match=r"as BERT does, but .* has the type 't5'"):
        text.encoder_config(str(copied))


def test_a_folder_that_brings_its_own_code_does_not_run_it(copied):
    settings = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (copied / "config.json").write_text(json.dumps(settings))
    (copied / "own.py").write_text(f"open({str(copied / 'ran')!r}, 'w')")
    with pytest.raises(EncoderError):
        text.encoder_config(str(copied))
    assert not (copied / "ran").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "must be a folder or a hub name"),
        ("nul\0byte", "must be a folder or a hub name"),
        ("./nowhere", "there is no folder ./nowhere"),
        ("a/b/c", "there is no folder a/b/c"),
        (__file__, "is a file: pass the folder that holds it"),
    ],
)
def test_a_name_that_can_be_neither_folder_nor_hub_name_is_refused(name, message):
    with pytest.raises(EncoderError, match=message):
        text.load_tokenizer(name)


@pytest.mark.parametrize("load", [text.encoder_config, text.load_tokenizer, text.load_backbone])
def test_without_the_hub_the_error_says_how_to_fetch_the_encoder(monkeypatch, tmp_path, load):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match=r"`hf download some/bert --local-dir bert` once.* --encoder FOLDER"):
        load("some/bert")


def test_loading_prints_nothing_and_restores_the_libraries_settings(copied, capfd):
    from transformers.utils import logging

    without_tensor(copied, "pooler.")
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    text.load_backbone(str(copied))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
