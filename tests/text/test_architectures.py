"""Encoders of other families, each with its own tokenizer, as folders: our states are transformers' own.

Axis letters: B texts, L tokens of the longest, D hidden size.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoModel, PreTrainedTokenizerBase

from conki_cli.config.resolving import resolve
from conki_cli.data.store.records import Utterances
from conki_cli.model.batches import Batch, pad_tokens
from conki_cli.model.conki import ConKI
from conki_cli.model.contract import Architecture
from conki_cli.model.packing import Packing
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.errors import EncoderError
from conki_cli.text import encoder_config, load_backbone, load_reader, tokenize
from conki_cli.text.context import Context, separator_of, tokenize_with_context

D, NUM_LAYERS = 16, 3
WORDS = ("the", "film", "was", "great", "but", "its", "ending", "felt", "slow", "and", "dull", "nobody", "cried")
TEXTS = ["the film was great", "nobody cried", "its ending felt slow and dull but the film was great", "dull"]


# --- tokenizers of the families, with a vocabulary of a few words --------------------------------------------------


def word_pieces() -> tuple[Tokenizer, dict[str, str]]:
    """BERT's: [CLS] text [SEP], lowercase, pieces of words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made, {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def bytes_in_pairs(begin: str, end: str, pad: str) -> tuple[Tokenizer, dict[str, str]]:
    """GPT-2's bytes, as RoBERTa and ModernBERT have them; a blank belongs to the word behind it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([begin, pad, end, "<unk>", *letters])}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if begin == "<s>":
        made.post_processor = processors.RobertaProcessing((end, 2), (begin, 0), add_prefix_space=False)
    else:
        made.post_processor = processors.BertProcessing((end, 2), (begin, 0))
    return made, {"pad_token": pad, "unk_token": "<unk>", "cls_token": begin, "sep_token": end}


def sentence_pieces(begin: str, end: str, pad: str, *, doubled: bool) -> tuple[Tokenizer, dict[str, str]]:
    """SentencePiece's unigrams, as XLM-R and DeBERTa-v3 have them."""
    pieces = [(begin, 0.0), (pad, 0.0), (end, 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in WORDS)]
    made = Tokenizer(models.Unigram([*pieces, ("▁", -5.0)], unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    middle = f" {end} {end}" if doubled else f" {end}"
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A{middle} $B {end}", special_tokens=[(begin, 0), (end, 2)]
    )
    return made, {"pad_token": pad, "unk_token": "<unk>", "cls_token": begin, "sep_token": end}


_BERT = {
    "hidden_size": D,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 60,
}
_ROBERTA = _BERT | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}


class Family(NamedTuple):
    """A family of encoders: how its tokenizer is made, its configuration, and what holds of it."""

    tokenizer: Callable[[], tuple[Tokenizer, dict[str, str]]]
    settings: dict[str, object]
    is_packed: bool
    max_tokens: int = 60
    model: str = ""


FAMILIES = {
    "MiniLM": Family(word_pieces, _BERT, True, model="Bert"),
    "Roberta": Family(lambda: bytes_in_pairs("<s>", "</s>", "<pad>"), _ROBERTA, True, max_tokens=58),
    "XLMRoberta": Family(lambda: sentence_pieces("<s>", "</s>", "<pad>", doubled=True), _ROBERTA, True, max_tokens=58),
    "DebertaV2": Family(
        lambda: sentence_pieces("[CLS]", "[SEP]", "[PAD]", doubled=False),
        _BERT
        | {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
        | {"pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0, "pad_token_id": 1},
        False,
    ),
    "ModernBert": Family(
        lambda: bytes_in_pairs("[CLS]", "[SEP]", "[PAD]"),
        _BERT
        | {"local_attention": 6, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        | {"cls_token_id": 0, "sep_token_id": 2},
        True,
    ),
    "Electra": Family(word_pieces, _BERT | {"embedding_size": 8}, True),
    "DistilBert": Family(
        word_pieces,
        {"dim": D, "n_layers": NUM_LAYERS, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 60},
        True,
    ),
    "Albert": Family(word_pieces, _BERT | {"embedding_size": 8}, True),
    "MPNet": Family(lambda: bytes_in_pairs("<s>", "</s>", "<pad>"), _ROBERTA, False, max_tokens=58),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random tiny model of every family with its tokenizer, saved as the hub has them."""
    return {name: saved(name, family, tmp_path_factory.mktemp(name)) for name, family in FAMILIES.items()}


def saved(name: str, family: Family, folder: Path) -> Path:
    backend, special = family.tokenizer()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.save_pretrained(folder)
    kind = family.model or name
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **family.settings)
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}Model")(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    return folder


def encoder_at(folder: Path, separator: int | None = None) -> TextEncoder:
    backbone, fresh = load_backbone(str(folder))
    return TextEncoder(backbone, width=D, fresh=fresh, separator=separator).eval()


def plainly(folder: Path, tokenizer: PreTrainedTokenizerBase, *texts: list[str]) -> tuple[list[Tensor], Tensor]:
    """Run transformers' own forward of padded texts, or pairs of them: hidden states [B, L, D], mask [B, L]."""
    model = AutoModel.from_pretrained(folder).eval()
    has_types = getattr(model.config, "type_vocab_size", 0) > 1
    given = tokenizer(*texts, padding=True, return_tensors="pt", return_token_type_ids=has_types)
    with torch.no_grad():
        return list(model(**given, output_hidden_states=True).hidden_states), given["attention_mask"].bool()


def assert_states(encoder: TextEncoder, ids: list, expected: tuple[list[Tensor], Tensor]) -> None:
    text = pad_tokens(ids)
    packing = Packing.of(text.mask)
    with torch.no_grad():
        hidden = encoder(packing.pack(text.values), packing)[1]
    assert torch.equal(text.mask, expected[1])
    assert len(hidden) == len(expected[0]) == 1 + NUM_LAYERS
    for states, wanted in zip(hidden, expected[0], strict=True):
        torch.testing.assert_close(packing.unpack(states)[text.mask], wanted[text.mask], atol=1e-5, rtol=0)


# --- what they read ----------------------------------------------------------------------------------------------


@every_family
def test_states_of_texts_are_those_of_transformers(name: str, folders: dict[str, Path]) -> None:
    tokenizer, limit = load_reader(str(folders[name]))
    encoder = encoder_at(folders[name])
    assert (limit, encoder.packs) == (FAMILIES[name].max_tokens, FAMILIES[name].is_packed)
    ids, num_truncated = tokenize(tokenizer, TEXTS, max_length=limit)
    assert num_truncated == 0
    assert_states(encoder, ids, plainly(folders[name], tokenizer, TEXTS))


@every_family
def test_states_of_a_clip_with_its_context_are_those_of_a_pair(name: str, folders: dict[str, Path]) -> None:
    tokenizer, limit = load_reader(str(folders[name]))
    clips = Utterances(["v$_$1", "v$_$2"], ["the film", " was great"], None, {}, {})
    (_, pair), _ = tokenize_with_context(tokenizer, clips, Context(1), max_length=limit)
    separator = separator_of(tokenizer, encoder_config(str(folders[name])), Context(1))
    assert (separator is not None) == (name in ("MiniLM", "Electra", "Albert"))
    expected = plainly(folders[name], tokenizer, [" was great"], [" the film"])
    assert_states(encoder_at(folders[name], separator), [pair], expected)


@every_family
def test_the_longest_text_that_is_read_has_a_position_for_every_token(name: str, folders: dict[str, Path]) -> None:
    tokenizer, limit = load_reader(str(folders[name]))
    (row,), _ = tokenize(tokenizer, ["the film was great " * 20], max_length=limit)
    text = pad_tokens([row])
    packing = Packing.of(text.mask)
    pooled, _ = encoder_at(folders[name])(packing.pack(text.values), packing)
    assert len(row) == limit
    assert torch.isfinite(pooled).all()


@every_family
def test_adapters_read_the_states_of_their_layers(name: str, folders: dict[str, Path]) -> None:
    tokenizer, limit = load_reader(str(folders[name]))
    config = resolve(assignments=["data.external=none"], extra_drop=("V", "A"))
    torch.manual_seed(2)
    model = ConKI(config, Architecture(("text",), D, NUM_LAYERS), encoder_at(folders[name])).eval()
    short = TEXTS[:2]
    text = pad_tokens(tokenize(tokenizer, short, max_length=limit)[0])
    states, mask = plainly(folders[name], tokenizer, short)
    packing = Packing.of(mask)
    with torch.no_grad():
        found = model(Batch(torch.arange(2), torch.zeros(2), text=text)).specific
        adapter = model.adapters["text"]
        for module in adapter.chain:  # fresh modules are nearly the identity
            module.up.weight.normal_()
        found = model(Batch(torch.arange(2), torch.zeros(2), text=text)).specific
        expected = adapter([packing.pack(layer) for layer in states], packing)
    assert adapter.indices == (0, 1, 2)
    torch.testing.assert_close(found[:, 0], expected, atol=1e-5, rtol=0)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "modernbert-decoder"])
def test_decoders_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(EncoderError, match=rf"is a decoder \(type '{kind}'\), which reads it from left to right"):
        encoder_config(str(tmp_path))


def test_an_encoder_that_is_set_up_as_a_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "is_decoder": true}')
    with pytest.raises(EncoderError, match="is a decoder"):
        encoder_config(str(tmp_path))


@pytest.mark.parametrize("name", ["num_labels", "num_hidden_layers"])
def test_a_small_configuration_that_would_take_any_memory_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "bert", "{name}": 1000000000}}')
    with pytest.raises(EncoderError, match=rf"{name} in .*config\.json must be at most 10,000, found 1,000,000,000"):
        encoder_config(str(tmp_path))


def test_a_model_of_sounds_is_refused(tmp_path: Path) -> None:
    from conki_cli.text import backbone_from_config

    config = transformers.Wav2Vec2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, conv_dim=(8,), conv_stride=(5,),
        conv_kernel=(10,), num_feat_extract_layers=1, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"must read token ids, but .* \(type 'wav2vec2'\) reads input_values"):
        backbone_from_config(tmp_path)
