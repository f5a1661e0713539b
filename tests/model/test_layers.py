"""Shared network parts, against torch's own layers and against their definitions."""

import pytest
import torch
from baseline_support import mask_of
from torch import Tensor, nn

from conki_cli.model.batches import Padded
from conki_cli.model.layers import (
    EncoderLayer,
    SequenceEncoder,
    freeze,
    largest_divisor,
    length_groups,
    masked_mean,
    mlp,
    trained_parameters,
)
from conki_cli.model.packing import Packing

B, L, D = 3, 5, 8
LENGTHS = torch.tensor([3, 5, 1])
MASK = mask_of(LENGTHS.tolist())  # [B, L]
PACKING = Packing.of(MASK)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def sequence_encoder(num_layers: int = 2, dropout: float = 0.0) -> SequenceEncoder:
    made = SequenceEncoder(4, D, num_positions=9, num_layers=num_layers, num_heads=8, dropout=dropout)
    nn.init.normal_(made.positions)
    return made


def transformed(layer: EncoderLayer, states: Tensor) -> Tensor:
    """Run a layer on the real positions of [B, L, D]; 0 on padding."""
    return PACKING.unpack(layer(PACKING.pack(states), PACKING))


def encoded(encoder: SequenceEncoder, frames: Tensor, mask: Tensor = MASK) -> tuple[Tensor, list[Tensor], Packing]:
    """Run an encoder on frames [B, L, d]: O_m [B, D], its packed hidden states [T, D], how they are packed."""
    led = Padded(frames, mask).with_leading_position()
    packing = Packing.of(led.mask)
    return *encoder(packing.pack(led.values), packing), packing


def torchs_layer(ours: EncoderLayer, dropout: float = 0.0) -> nn.TransformerEncoderLayer:
    theirs = nn.TransformerEncoderLayer(
        D, ours.num_heads, ours.ffn_in.out_features, dropout, "gelu", batch_first=True, norm_first=False
    )
    names = {
        "self_attn.in_proj_weight": ours.qkv.weight,
        "self_attn.in_proj_bias": ours.qkv.bias,
        "self_attn.out_proj.weight": ours.out.weight,
        "self_attn.out_proj.bias": ours.out.bias,
        "linear1.weight": ours.ffn_in.weight,
        "linear1.bias": ours.ffn_in.bias,
        "linear2.weight": ours.ffn_out.weight,
        "linear2.bias": ours.ffn_out.bias,
        "norm1.weight": ours.norm_attention.weight,
        "norm1.bias": ours.norm_attention.bias,
        "norm2.weight": ours.norm_ffn.weight,
        "norm2.bias": ours.norm_ffn.bias,
    }
    theirs.load_state_dict(names)
    return theirs


@pytest.mark.parametrize("num_heads", [1, 2, 8])
def test_an_encoder_layer_equals_torchs_post_norm_layer(num_heads: int) -> None:
    ours = EncoderLayer(D, num_heads=num_heads, ffn_width=12, dropout=0.0)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    states = torch.randn(B, L, D)
    expected = torchs_layer(ours)(states, src_key_padding_mask=~MASK)
    torch.testing.assert_close(transformed(ours, states)[MASK], expected[MASK], atol=1e-5, rtol=1e-5)


def test_the_gradients_of_an_encoder_layer_equal_those_of_torchs() -> None:
    ours = EncoderLayer(D, num_heads=2, ffn_width=12, dropout=0.0)
    theirs, states = torchs_layer(ours), torch.randn(B, L, D)
    transformed(ours, states).square().sum().backward()
    theirs(states, src_key_padding_mask=~MASK)[MASK].square().sum().backward()
    assert ours.qkv.weight.grad is not None
    torch.testing.assert_close(ours.qkv.weight.grad, theirs.self_attn.in_proj_weight.grad, atol=1e-4, rtol=1e-4)


def test_the_first_positions_alone_are_those_of_the_whole_layer_with_the_same_gradients() -> None:
    layer, states = EncoderLayer(D, num_heads=2, ffn_width=12, dropout=0.0), PACKING.pack(torch.randn(B, L, D))
    whole = [states.clone().requires_grad_(), *layer.parameters()]
    alone = [states.clone().requires_grad_(), *layer.parameters()]
    found, known = layer.first(alone[0], PACKING), layer(whole[0], PACKING)[PACKING.first]
    torch.testing.assert_close(found, known)
    theirs = torch.autograd.grad(known.sin().sum(), whole)
    for one, other in zip(torch.autograd.grad(found.sin().sum(), alone), theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_dropout_acts_in_training_alone() -> None:
    layer, states = EncoderLayer(D, num_heads=2, ffn_width=12, dropout=0.5), torch.randn(B, L, D)
    assert not torch.equal(transformed(layer, states), transformed(layer, states))
    layer.eval()
    assert torch.equal(transformed(layer, states), transformed(layer, states))


def test_what_stands_behind_the_mask_does_not_reach_the_rest() -> None:
    layer, states = EncoderLayer(D, num_heads=2, ffn_width=12, dropout=0.0), torch.randn(B, L, D)
    changed = torch.where(MASK[..., None], states, 1e3)
    assert torch.equal(transformed(layer, changed), transformed(layer, states))


def test_the_masked_mean_is_the_mean_of_the_real_positions() -> None:
    states = torch.randn(B, L, D)
    expected = torch.stack([row[:length].mean(dim=0) for row, length in zip(states, LENGTHS, strict=True)])
    torch.testing.assert_close(masked_mean(states, MASK), expected)


@pytest.mark.parametrize(
    ("width", "at_most", "heads"), [(768, 8, 8), (12, 8, 6), (7, 8, 7), (11, 8, 1), (384, 12, 12), (4, 8, 4)]
)
def test_heads_divide_the_width(width: int, at_most: int, heads: int) -> None:
    assert largest_divisor(width, at_most) == heads


def test_an_mlp_has_gelu_between_its_layers_and_nothing_behind_the_last() -> None:
    kinds = [type(layer) for layer in mlp([6, 4, 2, 1])]
    assert kinds == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]
    assert [(layer.in_features, layer.out_features) for layer in mlp([6, 4, 2, 1])[::2]] == [(6, 4), (4, 2), (2, 1)]


def test_a_frozen_part_neither_trains_nor_drops() -> None:
    part = EncoderLayer(D, num_heads=2, ffn_width=12, dropout=0.5)
    freeze([part])
    assert not any(p.requires_grad for p in part.parameters())
    assert not any(module.training for module in part.modules())


def test_the_first_hidden_state_is_what_enters_layer_1() -> None:
    encoder, frames = sequence_encoder(), torch.randn(B, L, 4)
    _, hidden, packing = encoded(encoder, frames)
    cls = encoder.cls.expand(B, 1, D)
    expected = torch.cat([cls, encoder.projection(frames)], dim=1) + encoder.positions[: 1 + L]
    torch.testing.assert_close(hidden[0], packing.pack(expected))
    torch.testing.assert_close(hidden[1], encoder.layers[0](hidden[0], packing))


def test_there_is_a_hidden_state_per_layer_and_the_input() -> None:
    assert len(encoded(sequence_encoder(num_layers=3), torch.randn(B, L, 4))[1]) == 4


def test_the_pan_knowledge_is_the_normalised_mean_over_cls_and_the_real_frames() -> None:
    encoder = sequence_encoder()
    pan, hidden, packing = encoded(encoder, torch.randn(B, L, 4))
    normalised = packing.unpack(encoder.norm(hidden[-1]))
    expected = torch.stack([row[: 1 + length].mean(dim=0) for row, length in zip(normalised, LENGTHS, strict=True)])
    assert packing.lengths == (6, 4, 2)
    torch.testing.assert_close(pan, expected)


def test_a_fresh_encoder_starts_with_a_cls_of_ones_and_positions_of_zeros() -> None:
    fresh = SequenceEncoder(4, D, num_positions=9, num_layers=2, num_heads=8, dropout=0.5)
    assert torch.equal(fresh.cls, torch.ones(D))
    assert torch.equal(fresh.positions, torch.zeros(10, D))


def test_extra_frames_behind_the_mask_change_no_encoding() -> None:
    encoder, frames = sequence_encoder().eval(), torch.randn(B, L, 4)
    longer = torch.cat([frames, torch.full((B, 3, 4), 1e3)], dim=1)
    mask = torch.cat([MASK, MASK.new_zeros(B, 3)], dim=1)
    torch.testing.assert_close(encoded(encoder, longer, mask)[0], encoded(encoder, frames)[0], atol=1e-5, rtol=0)


def test_the_order_of_the_frames_matters_once_positions_are_learnt() -> None:
    encoder, frames = sequence_encoder().eval(), torch.randn(1, L, 4)
    mask = torch.ones(1, L, dtype=torch.bool)
    forwards, backwards = encoded(encoder, frames, mask)[0], encoded(encoder, frames.flip(1), mask)[0]
    assert not torch.allclose(forwards, backwards, atol=1e-4)


def test_the_layers_heads_divide_an_odd_width() -> None:
    encoder = SequenceEncoder(4, 12, num_positions=9, num_layers=2, num_heads=8, dropout=0.0)
    assert encoder.layers[0].num_heads == 6
    assert encoded(encoder, torch.randn(B, L, 4))[0].shape == (B, 12)


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1], [3, 9, 1, 7, 10, 2], [100, 71, 70, 69, 50, 49]])
def test_length_groups_hold_every_sequence_once_and_similar_lengths_only(lengths: list[int]) -> None:
    groups = [[lengths[k] for k in group.tolist()] for group in length_groups(mask_of(lengths))]
    assert sorted(length for group in groups for length in group) == sorted(lengths)
    assert all(min(group) >= 0.7 * max(group) for group in groups)
    assert [max(group) for group in groups] == sorted((max(group) for group in groups), reverse=True)


def test_sequences_of_one_length_are_one_group_in_their_order() -> None:
    assert [group.tolist() for group in length_groups(torch.ones(4, 3, dtype=torch.bool))] == [[0, 1, 2, 3]]


def test_biases_and_norms_train_without_weight_decay_and_frozen_parts_not_at_all() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1).requires_grad_(False))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: decays for parameter, decays in trained_parameters(model)}
    assert found == {"0.weight": True, "0.bias": False, "1.weight": False, "1.bias": False}
