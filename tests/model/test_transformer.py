"""The Transformer of MulT and HyCon, against its definition written with loops."""

import pytest
import torch
from torch import nn

from conki_cli.model.baselines.transformer import (
    CrossLayer,
    Dropouts,
    SequenceTransformer,
    check_heads,
    last_position,
    sinusoids,
    visible_keys,
)
from conki_cli.system.errors import SettingsError

B, L, D = 3, 5, 8
LENGTHS = torch.tensor([5, 3, 1])
MASK = torch.arange(L)[None, :] < LENGTHS[:, None]  # [B, L]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def sequence_transformer(
    width: int = D, *, ordered: bool = True, dropouts: Dropouts | None = None
) -> SequenceTransformer:
    made = SequenceTransformer(width, num_layers=3, num_heads=2, dropouts=dropouts or Dropouts(), ordered=ordered)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def seen(lengths: tuple[int, int]) -> list[list[int]]:
    """Return which keys every position sees, without padding."""
    masks = [torch.ones(1, length, dtype=torch.bool) for length in lengths]
    return [row.nonzero().flatten().tolist() for row in visible_keys(*masks, ordered=True)[0, 0]]


@pytest.mark.parametrize(
    ("lengths", "counts"), [((4, 4), [1, 2, 3, 4]), ((2, 5), [4, 5]), ((5, 2), [2, 2, 2, 2, 2]), ((1, 3), [3])]
)
def test_a_position_sees_the_first_keys_up_to_its_own_and_the_difference_in_length(
    lengths: tuple[int, int], counts: list[int]
) -> None:
    assert seen(lengths) == [list(range(count)) for count in counts]


def test_with_padding_every_clip_sees_by_its_own_lengths() -> None:
    mask = torch.arange(6)[None, :] < torch.tensor([[4], [2], [5]])
    source = torch.arange(7)[None, :] < torch.tensor([[4], [5], [2]])
    found = visible_keys(mask, source, ordered=True)[:, 0].sum(dim=-1)
    assert found[0, :4].tolist() == [1, 2, 3, 4]
    assert found[1, :2].tolist() == [4, 5]
    assert found[2, :5].tolist() == [2] * 5
    assert found.min() >= 1  # padding sees something too, or its softmax would be nan


def test_without_an_order_every_real_key_is_seen() -> None:
    assert torch.equal(visible_keys(MASK, MASK, ordered=False), MASK[:, None, None, :])


def test_the_position_vectors_are_all_sines_then_all_cosines_from_position_1_on() -> None:
    expected = [[0.841471, 0.0001, 0.540302, 1.0], [0.909297, 0.0002, -0.416147, 1.0]]
    torch.testing.assert_close(sinusoids(2, 4), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_narrow_and_odd_widths_have_positions_too(width: int) -> None:
    found = sinusoids(3, width)
    assert found.shape == (3, width)
    assert found.isfinite().all()
    assert width % 2 == 0 or not found[:, -1].any()


def test_a_crossing_equals_its_definition_clip_by_clip_and_head_by_head() -> None:
    model, other = sequence_transformer().double(), torch.randn(B, 6, D, dtype=torch.float64)
    own, lengths = torch.randn(B, L, D, dtype=torch.float64), (2, 6, 4)
    source_mask = torch.arange(6)[None, :] < torch.tensor(lengths)[:, None]
    found = model(own, MASK, other, source_mask)
    for row, (queries, keys) in enumerate(zip(LENGTHS.tolist(), lengths, strict=True)):
        expected = literal_crossing(model, own[row, :queries], other[row, :keys])
        torch.testing.assert_close(found[row, :queries], expected, atol=1e-5, rtol=1e-5)


def literal_crossing(model: SequenceTransformer, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Encode one clip [Lq, D] by another sequence [Lk, D], without padding."""
    states, source = (D**0.5 * part + sinusoids(len(part), D).double() for part in (own, other))
    for layer in model.layers:
        states = states + literal_attention(layer, layer.norm_attention(states), layer.norm_attention(source))
        states = states + layer.ffn_out(layer.ffn_in(layer.norm_ffn(states)).relu())
    return model.norm(states)


def literal_attention(layer: CrossLayer, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    query, key, value = layer.qkv(queries)[:, :D], layer.qkv(keys)[:, D : 2 * D], layer.qkv(keys)[:, 2 * D :]
    heads, size = [], D // layer.num_heads
    for part in (slice(k * size, (k + 1) * size) for k in range(layer.num_heads)):
        rows = []
        for i in range(len(query)):
            sight = min(len(key), i + abs(len(key) - len(query)) + 1)
            weights = (key[:sight, part] @ query[i, part] / size**0.5).softmax(dim=0)
            rows.append(weights @ value[:sight, part])
        heads.append(torch.stack(rows))
    return layer.out(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("ordered", [True, False])
def test_the_last_position_is_that_of_the_whole_encoding(ordered: bool) -> None:
    model, sequence = sequence_transformer(ordered=ordered), torch.randn(B, L, D)
    whole = model(sequence, MASK, sequence, MASK)  # looks at the embedded sequence, the first layer's states
    model.layers = model.layers[:1]
    first = last_position(model(sequence, MASK, sequence, MASK), MASK)
    torch.testing.assert_close(model.last(sequence, MASK), first)
    assert not torch.allclose(last_position(whole, MASK), first)


def test_later_layers_look_at_the_states_of_the_layer_before() -> None:
    model, sequence = sequence_transformer(), torch.randn(B, L, D)
    states, visible = model._embed(sequence), visible_keys(MASK, MASK, ordered=True)
    for layer in model.layers:
        states = layer(states, states, visible)
    torch.testing.assert_close(model.last(sequence, MASK), last_position(model.norm(states), MASK))


def test_padding_changes_no_last_position() -> None:
    model, sequence = sequence_transformer(), torch.randn(B, L, D)
    longer = torch.cat([torch.where(MASK[..., None], sequence, 1e3), torch.full((B, 3, D), 1e3)], dim=1)
    mask = torch.cat([MASK, MASK.new_zeros(B, 3)], dim=1)
    torch.testing.assert_close(model.last(longer, mask), model.last(sequence, MASK))


@pytest.mark.parametrize("kind", ["attention", "relu", "residual", "embedding"])
def test_each_dropout_acts_in_training_alone(kind: str) -> None:
    model, sequence = sequence_transformer(dropouts=Dropouts(**{kind: 0.5})), torch.randn(B, L, D)
    assert not torch.equal(model.last(sequence, MASK), model.last(sequence, MASK))
    model.eval()
    assert torch.equal(model.last(sequence, MASK), model.last(sequence, MASK))


def test_attention_of_the_crossings_starts_as_xavier_over_the_joint_projection() -> None:
    layer = CrossLayer(32, num_heads=2, dropouts=Dropouts())
    bound = (6 / (32 + 96)) ** 0.5
    assert 0.95 * bound < layer.qkv.weight.abs().max() <= bound
    assert not any(linear.bias.any() for linear in (layer.qkv, layer.out, layer.ffn_in, layer.ffn_out))


def test_heads_that_do_not_divide_the_width_are_refused_with_a_number_that_does() -> None:
    check_heads("mult", 50, 10)
    message = "mult.num_heads must divide mult.width, found 10 and 49: give --set mult.num_heads=7, or another width"
    with pytest.raises(SettingsError) as caught:
        check_heads("mult", 49, 10)
    assert str(caught.value) == message


def test_the_residual_dropout_drops_what_attention_and_feed_forward_layers_add() -> None:
    layer = CrossLayer(D, num_heads=2, dropouts=Dropouts(residual=1.0))
    states = torch.randn(B, L, D)
    assert torch.equal(layer(states, states, MASK[:, None, None, :]), states)
