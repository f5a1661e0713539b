"""The text encoder over packed tokens against transformers' own forward of the same weights on padded ones.

Axis letters: B texts, L tokens of the longest, T tokens of all of them, D hidden size.
"""

import copy
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from baseline_support import encoded, mask_of
from torch import Tensor, nn
from transformers import PreTrainedModel

from conki_cli.model.batches import Padded
from conki_cli.model.packing import ATTENTION_SHARE, Packing
from conki_cli.model.text_encoder import PACKED_TYPES, TextEncoder

D, NUM_LAYERS, NUM_WORDS = 16, 3, 30
LENGTHS = (3, 9, 1, 8, 7)
"""28 tokens together, more than any encoder here has positions."""

_BERT: dict[str, object] = {
    "hidden_size": D,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 14,
    "vocab_size": NUM_WORDS,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_DISTILBERT = {
    "dim": D,
    "n_layers": NUM_LAYERS,
    "n_heads": 2,
    "hidden_dim": 24,
    "max_position_embeddings": 14,
    "vocab_size": NUM_WORDS,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
_DEBERTA: dict[str, object] = _BERT | {
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_MODERNBERT: dict[str, object] = {
    "hidden_size": D,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 14,
    "vocab_size": NUM_WORDS,
    "local_attention": 4,
    "pad_token_id": 0,
    "attention_dropout": 0.0,
}
SIZES: dict[str, dict[str, object]] = {
    "Bert": _BERT,
    "Roberta": _BERT | {"pad_token_id": 1},
    "XLMRoberta": _BERT | {"pad_token_id": 1},
    "Camembert": _BERT | {"pad_token_id": 1},
    "DistilBert": _DISTILBERT,
    "Electra": _BERT | {"embedding_size": 8},
    "Albert": _BERT | {"embedding_size": 8},
    "ModernBert": _MODERNBERT,
    "DebertaV2": _DEBERTA,
    "MPNet": _BERT | {"pad_token_id": 1},
}
IN_GROUPS = ("DebertaV2", "MPNet")
PACKED = tuple(kind for kind in SIZES if kind not in IN_GROUPS)
WITHOUT_POOLER = ("DistilBert", "Electra", "ModernBert", "DebertaV2")

REFERENCE = {"ModernBert": "sdpa"}
"""Its eager attention gives NaN where padding is farther than a window from every word."""
ENTRIES = {"Electra": "embeddings_project", "Albert": "encoder.embedding_hidden_mapping_in"}
"""Where embeddings narrower than D are projected."""
DROPOUTS = {
    "DistilBert": ("dropout", "attention_dropout"),
    "ModernBert": ("mlp_dropout", "attention_dropout"),
}

every_kind = pytest.mark.parametrize("kind", SIZES)
one_of_each = pytest.mark.parametrize("kind", ["Bert", "DebertaV2"])
"""Packed, and in groups."""


def backbone_of(kind: str, attention: str | None = None, **settings: object) -> PreTrainedModel:
    """Build a tiny encoder in float64; every call gives the same weights."""
    config = getattr(transformers, f"{kind}Config")(**SIZES[kind] | settings)
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Model")(config).double().eval()
    with torch.no_grad():
        for weight in made.parameters():  # biases start at 0, and norms at 1
            weight.add_(0.1 * torch.randn(weight.shape))
    if attention is not None:
        made.set_attn_implementation(attention)
    return made


def encoder_of(kind: str, **settings: object) -> TextEncoder:
    made = TextEncoder(backbone_of(kind, **settings), width=D).double().eval()
    if made.pooler is not None:
        torch.manual_seed(1)
        nn.init.normal_(made.pooler.weight, std=0.3)
    return made


def texts(kind: str, lengths: Sequence[int] = LENGTHS) -> Padded:
    """Draw token ids [B, L] that are no padding."""
    mask = mask_of(lengths)
    drawn = torch.randint(5, NUM_WORDS, mask.shape, generator=torch.Generator().manual_seed(3))
    return Padded(torch.where(mask, drawn, SIZES[kind].get("pad_token_id", 0)), mask)


def plainly(backbone: PreTrainedModel, text: Padded, pooler: nn.Module | None) -> tuple[Tensor, list[Tensor]]:
    """Run transformers' own forward: pooled output [B, D], hidden states [B, L, D] with 0 on padding."""
    out = backbone(input_ids=text.values, attention_mask=text.mask.long(), output_hidden_states=True)
    pooled = out.pooler_output if pooler is None else torch.tanh(pooler(out.last_hidden_state[:, 0]))
    return pooled, [states * text.mask[..., None] for states in out.hidden_states]


def assert_equal(found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]], atol: float = 1e-9) -> None:
    assert len(found[1]) == len(expected[1]) == 1 + NUM_LAYERS
    for one, other in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=0)


def gradients(module: nn.Module, outputs: tuple[Tensor, list[Tensor]]) -> dict[str, Tensor | None]:
    """Return the gradients of a number that everything enters."""
    torch.stack([states.sin().sum() for states in (outputs[0], *outputs[1])]).sum().backward()
    return {name: weight.grad for name, weight in module.named_parameters()}


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Collect the shapes of the token ids that a backbone is called with."""
    shapes: list[tuple[int, ...]] = []

    def note(module: nn.Module, inputs: Any, settings: Any) -> None:
        shapes.append(tuple(settings["input_ids"].shape))

    hook = module.register_forward_pre_hook(note, with_kwargs=True)
    yield shapes
    hook.remove()


# --- the same as transformers ------------------------------------------------------------------------------------


def test_the_kinds_here_are_all_that_pack_and_some_that_do_not() -> None:
    assert {backbone_of(kind).config.model_type for kind in PACKED} == set(PACKED_TYPES)
    assert [kind for kind in SIZES if encoder_of(kind).packs] == list(PACKED)
    assert [kind for kind in SIZES if encoder_of(kind).pooler is not None] == list(WITHOUT_POOLER)


@every_kind
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_pooled_output_and_every_hidden_state_are_those_of_transformers(kind: str, attention: str) -> None:
    attention = REFERENCE.get(kind, attention)
    encoder, plain, text = encoder_of(kind), backbone_of(kind, attention), texts(kind)
    assert_equal(encoded(encoder, text), plainly(plain, text, encoder.pooler))


@every_kind
def test_in_float32_they_are_the_same_to_five_digits(kind: str) -> None:
    encoder, plain, text = encoder_of(kind).float(), backbone_of(kind).float(), texts(kind)
    assert_equal(encoded(encoder, text), plainly(plain, text, encoder.pooler), atol=1e-5)


@every_kind
def test_every_text_is_encoded_as_it_is_alone(kind: str) -> None:
    encoder, plain, text = encoder_of(kind), backbone_of(kind), texts(kind)
    pooled, hidden = encoded(encoder, text)
    for row, length in enumerate(LENGTHS):
        alone = Padded(text.values[row : row + 1, :length], text.mask[row : row + 1, :length])
        found = pooled[row : row + 1], [states[row : row + 1, :length] for states in hidden]
        assert_equal(found, plainly(plain, alone, encoder.pooler))


@every_kind
def test_the_gradients_of_every_weight_are_those_of_transformers(kind: str) -> None:
    encoder, plain, text = encoder_of(kind), backbone_of(kind, REFERENCE.get(kind, "eager")), texts(kind)
    reference = nn.ModuleDict({"backbone": plain})
    if encoder.pooler is not None:
        reference["pooler"] = copy.deepcopy(encoder.pooler)
    expected = gradients(reference, plainly(plain, text, dict(reference.items()).get("pooler")))
    found = gradients(encoder, encoded(encoder, text))
    assert all(gradient is not None for gradient in found.values())
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-6)


@every_kind
@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (9,), (4, 4, 4), (1, 12)])
def test_single_tokens_single_texts_and_equal_lengths_are_no_exception(kind: str, lengths: tuple[int, ...]) -> None:
    encoder, plain, text = encoder_of(kind), backbone_of(kind), texts(kind, lengths)
    assert_equal(encoded(encoder, text), plainly(plain, text, encoder.pooler))


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_padded_attention_groups_change_nothing(kind: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, text = encoder_of(kind), texts(kind)
    expected = encoded(encoder, text)
    monkeypatch.setitem(ATTENTION_SHARE, "cpu", share)
    assert_equal(encoded(encoder, text), expected)


@pytest.mark.parametrize("kind", PACKED)
def test_all_tokens_run_as_one_row(kind: str) -> None:
    encoder = encoder_of(kind)
    with calls_of(encoder.backbone) as shapes:
        encoded(encoder, texts(kind))
    assert shapes == [(1, 28)]


@pytest.mark.parametrize("kind", IN_GROUPS)
def test_other_families_run_in_groups_of_similar_length(kind: str) -> None:
    encoder = encoder_of(kind)
    with calls_of(encoder.backbone) as shapes:
        encoded(encoder, texts(kind))
    assert shapes == [(3, 9), (1, 3), (1, 1)]


@pytest.mark.parametrize("kind", PACKED)
def test_the_embeddings_alone_are_the_first_hidden_state(kind: str) -> None:
    encoder, packing = encoder_of(kind), Packing.of(texts(kind).mask)
    token_ids = packing.pack(texts(kind).values)
    assert torch.equal(encoder.embed(token_ids, packing), encoder(token_ids, packing)[1][0])


@every_kind
def test_the_last_states_of_the_first_tokens_are_enough_for_the_pooled_output(kind: str) -> None:
    encoder = encoder_of(kind)
    pooled, hidden = encoded(encoder, texts(kind))
    assert torch.equal(encoder.pool(hidden[-1][:, 0]), pooled)


# --- training ----------------------------------------------------------------------------------------------------


@every_kind
def test_without_dropout_training_computes_what_evaluation_does(kind: str) -> None:
    encoder, text = encoder_of(kind), texts(kind)
    expected = encoded(encoder, text)
    assert_equal(encoded(encoder.train(), text), expected, atol=0)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("number", [0, 1])
def test_dropout_acts_in_training_alone(kind: str, number: int) -> None:
    name = DROPOUTS.get(kind, ("hidden_dropout_prob", "attention_probs_dropout_prob"))[number]
    encoder, text = encoder_of(kind, **{name: 0.5}), texts(kind)
    assert_equal(encoded(encoder, text), encoded(encoder, text), atol=0)
    encoder.train()
    assert not torch.equal(encoded(encoder, text)[0], encoded(encoder, text)[0])


# --- shifted embeddings ------------------------------------------------------------------------------------------


def shifted(encoder: TextEncoder, text: Padded, extra: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Encode with `extra` [T, D] added to the embeddings of the packed tokens."""
    packing = Packing.of(text.mask)
    pooled, hidden = encoder(packing.pack(text.values), packing, lambda embeddings, rows: embeddings + extra[rows])
    return pooled, [packing.unpack(states) for states in hidden]


def an_extra() -> Tensor:
    return torch.randn(sum(LENGTHS), D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@every_kind
def test_a_shift_changes_what_the_embedding_layer_gives_for_every_token(kind: str) -> None:
    encoder, plain, text, extra = encoder_of(kind), backbone_of(kind), texts(kind), an_extra()
    padded = Packing.of(text.mask).unpack(extra)  # [B, L, D]
    plain.get_submodule(ENTRIES.get(kind, "embeddings")).register_forward_hook(
        lambda module, inputs, embeddings: embeddings + padded
    )
    expected = plainly(plain, text, encoder.pooler)
    assert_equal(shifted(encoder, text, extra), expected)
    assert (expected[0] - encoded(encoder, text)[0]).abs().max() > 0.01


@every_kind
def test_gradients_reach_what_shifts(kind: str) -> None:
    encoder, extra = encoder_of(kind), an_extra().requires_grad_()
    shifted(encoder, texts(kind), extra)[0].sum().backward()
    assert extra.grad is not None
    assert extra.grad.any(dim=1).all()


@every_kind
def test_a_shift_is_given_every_packed_row_once(kind: str) -> None:
    encoder, packing, seen = encoder_of(kind), Packing.of(texts(kind).mask), []

    def note(embeddings: Tensor, rows: slice) -> Tensor:
        numbers = range(sum(LENGTHS))[rows]
        assert len(embeddings) == len(numbers)
        seen.extend(numbers)
        return embeddings

    encoder(packing.pack(texts(kind).values), packing, note)
    assert seen == list(range(sum(LENGTHS)))


@every_kind
def test_a_shift_lasts_one_call(kind: str) -> None:
    encoder, text = encoder_of(kind), texts(kind)
    expected = encoded(encoder, text)
    shifted(encoder, text, an_extra())
    assert_equal(encoded(encoder, text), expected, atol=0)


def _fails(embeddings: Tensor, rows: slice) -> Tensor:
    raise ZeroDivisionError


@every_kind
@pytest.mark.parametrize(
    ("token", "shift", "error"), [(7, _fails, ZeroDivisionError), (999, lambda e, _: e, IndexError)]
)
def test_nothing_stays_hooked_after_a_failure(
    kind: str, token: int, shift: Callable[[Tensor, slice], Tensor], error: type[Exception]
) -> None:
    encoder, text = encoder_of(kind), texts(kind)
    expected, packing = encoded(encoder, text), Packing.of(text.mask)
    with pytest.raises(error):
        encoder(torch.full((28,), token), packing, shift)
    assert not encoder.backbone.get_submodule(ENTRIES.get(kind, "embeddings"))._forward_hooks
    assert_equal(encoded(encoder, text), expected, atol=0)


# --- copies and files --------------------------------------------------------------------------------------------


@every_kind
def test_its_weights_have_the_names_that_transformers_gives_them(kind: str) -> None:
    own = {"pooler.weight", "pooler.bias"} if kind in WITHOUT_POOLER else set()
    assert set(encoder_of(kind).state_dict()) == {f"backbone.{name}" for name in backbone_of(kind).state_dict()} | own


@one_of_each
def test_a_copy_goes_its_own_way(kind: str) -> None:
    encoder, text = encoder_of(kind), texts(kind)
    expected, other = encoded(encoder, text), copy.deepcopy(encoder)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    assert_equal(encoded(other, text), expected, atol=0)


@one_of_each
def test_a_pickled_encoder_is_the_same(kind: str) -> None:
    encoder, text = encoder_of(kind), texts(kind)
    assert_equal(encoded(pickle.loads(pickle.dumps(encoder)), text), encoded(encoder, text), atol=0)


@one_of_each
def test_stored_weights_make_another_encoder_the_same(kind: str) -> None:
    encoder, other, text, file = encoder_of(kind), encoder_of(kind), texts(kind), io.BytesIO()
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    torch.save(encoder.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_equal(encoded(other, text), encoded(encoder, text), atol=0)


@pytest.mark.parametrize("kind", PACKED)
def test_a_backbone_that_is_saved_is_a_plain_one(kind: str, tmp_path: Path) -> None:
    encoder, text = encoder_of(kind), texts(kind)
    encoder.backbone.save_pretrained(tmp_path)
    assert "conki" not in (tmp_path / "config.json").read_text()
    plain = transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert_equal(plainly(plain, text, encoder.pooler), encoded(encoder, text))
