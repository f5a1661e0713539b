"""Packed sequences against plain definitions: where everything lies, and attention written out per sequence.

Axis letters: B sequences of a batch, L longest of them, T positions of all of them, D width, H heads.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from baseline_support import mask_of
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from conki_cli.model.packing import ATTENTION_SHARE, Packing, attend, attend_first, similar

B_LENGTHS = [3, 7, 1, 5, 7, 2]
H, WIDTH = 2, 3  # WIDTH of a head
SHARES = [1.0, 0.5, 0.0]
"""At 1 no attention is padded, at 0 all sequences are one group."""

every_share = pytest.mark.parametrize("share", SHARES)


def any_lengths(test: Callable[..., None]) -> Callable[..., None]:
    """Run a property over the lengths of a batch; one sequence, one position, all equal are always among them."""
    for lengths in ([1], [6], [1, 1, 1], [4, 4, 4], B_LENGTHS):
        test = example(lengths=lengths)(test)
    return given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=7))(test)


def drawn(lengths: list[int], *shape: int) -> Tensor:
    """Draw a padded batch [B, L, ...] with something on the padding too."""
    generator = torch.Generator().manual_seed(len(lengths))
    return torch.randn(len(lengths), max(lengths), *shape, generator=generator, dtype=torch.float64)


def packing_of(lengths: list[int], share: float = 1.0) -> Packing:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTENTION_SHARE, "cpu", share)
        return Packing.of(mask_of(lengths))


def queries(lengths: list[int]) -> tuple[Tensor, ...]:
    """Draw packed query, key and value, [T, H, D/H] each."""
    return tuple(packing_of(lengths).pack(drawn(lengths, 3, H, WIDTH)).unbind(1))


def attended(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """Write out the attention of every sequence by itself, [T, D]; `lengths` in their packed order."""
    found = []
    for q, k, v in zip(*(tensor.split(lengths) for tensor in (query, key, value)), strict=True):
        weights = torch.softmax(torch.einsum("ihd,jhd->hij", q, k) / WIDTH**0.5, dim=-1)  # [H, length, length]
        found.append(torch.einsum("hij,jhd->ihd", weights, v).flatten(1))
    return torch.cat(found)


# --- where everything lies ---------------------------------------------------------------------------------------


@any_lengths
def test_whole_sequences_lie_behind_each_other_the_longest_first(lengths: list[int]) -> None:
    padded, packing = drawn(lengths, 2), packing_of(lengths)
    order = sorted(range(len(lengths)), key=lambda sample: -lengths[sample])  # equal ones stay as they came
    assert packing.order.tolist() == order
    assert packing.lengths == tuple(lengths[sample] for sample in order)
    expected = torch.cat([padded[sample, : lengths[sample]] for sample in order])
    assert torch.equal(packing.pack(padded), expected)


@any_lengths
def test_unpacking_puts_everything_back_and_zeros_on_padding(lengths: list[int]) -> None:
    padded, packing = drawn(lengths, 2), packing_of(lengths)
    assert torch.equal(packing.unpack(packing.pack(padded)), padded * mask_of(lengths)[..., None])


@any_lengths
def test_token_ids_are_packed_as_frames_are(lengths: list[int]) -> None:
    packing, token_ids = packing_of(lengths), torch.arange(1, 1 + mask_of(lengths).numel()).view(len(lengths), -1)
    assert torch.equal(packing.unpack(packing.pack(token_ids)), token_ids * mask_of(lengths))


@any_lengths
def test_the_width_of_the_batch_need_not_be_its_longest_sequence(lengths: list[int]) -> None:
    mask = torch.nn.functional.pad(mask_of(lengths), (0, 3))
    packing, frames = Packing.of(mask), torch.randn(*mask.shape, 2)
    assert torch.equal(packing.unpack(packing.pack(frames)), frames * mask[..., None])


@any_lengths
def test_positions_count_from_0_in_every_sequence(lengths: list[int]) -> None:
    packing = packing_of(lengths)
    assert packing.positions.tolist() == [place for length in packing.lengths for place in range(length)]


@any_lengths
def test_the_first_rows_are_those_of_the_first_positions_in_the_order_of_the_batch(lengths: list[int]) -> None:
    padded, packing = drawn(lengths, 2), packing_of(lengths)
    assert torch.equal(packing.pack(padded)[packing.first], padded[:, 0])


@any_lengths
def test_the_mean_is_that_of_every_samples_real_positions(lengths: list[int]) -> None:
    padded, packing = drawn(lengths, 2), packing_of(lengths)
    expected = torch.stack([row[:length].mean(dim=0) for row, length in zip(padded, lengths, strict=True)])
    torch.testing.assert_close(packing.mean(packing.pack(padded)), expected, atol=1e-6, rtol=1e-6)


@any_lengths
def test_every_real_position_gets_the_same_share_of_the_gradient_of_the_mean(lengths: list[int]) -> None:
    padded, packing = drawn(lengths, 2).requires_grad_(), packing_of(lengths)
    packing.mean(packing.pack(padded)).sum().backward()
    expected = mask_of(lengths) / torch.tensor(lengths)[:, None]
    torch.testing.assert_close(padded.grad, expected[..., None].expand_as(padded).double(), atol=1e-6, rtol=1e-6)


def test_autocast_rounds_no_mean() -> None:
    packing, values = packing_of(B_LENGTHS), torch.randn(sum(B_LENGTHS), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = packing.mean(values)
    assert torch.equal(found, packing.mean(values))


# --- which sequences attend together -----------------------------------------------------------------------------


@given(st.lists(st.integers(1, 99), max_size=12), st.floats(0, 1))
def test_similar_lengths_are_runs_as_long_as_the_share_allows(lengths: list[int], share: float) -> None:
    lengths = sorted(lengths, reverse=True)
    parts = similar(lengths, share)
    assert [length for part in parts for length in part] == lengths
    assert all(part[-1] >= share * part[0] for part in parts)
    assert all(later[0] < share * part[0] for part, later in pairwise(parts))


def test_on_a_cpu_nothing_is_padded_for_attention() -> None:
    groups = Packing.of(mask_of(B_LENGTHS)).groups
    assert [(group.count, group.longest) for group in groups] == [(2, 7), (1, 5), (1, 3), (1, 2), (1, 1)]
    assert all(group.mask is None for group in groups)


def test_at_share_0_all_sequences_are_one_group_with_a_mask() -> None:
    (group,) = packing_of(B_LENGTHS, 0.0).groups
    assert (group.count, group.longest, group.rows) == (6, 7, 25)
    assert group.mask is not None
    assert group.mask.sum(dim=(1, 2, 3)).tolist() == sorted(B_LENGTHS, reverse=True)


@every_share
@any_lengths
def test_the_groups_hold_every_position_once(share: float, lengths: list[int]) -> None:
    groups = packing_of(lengths, share).groups
    assert sum(group.rows for group in groups) == sum(lengths)
    assert sum(group.count for group in groups) == len(lengths)


# --- attention ---------------------------------------------------------------------------------------------------


@every_share
@any_lengths
def test_attention_is_that_of_every_sequence_by_itself(share: float, lengths: list[int]) -> None:
    packing, parts = packing_of(lengths, share), queries(lengths)
    found = attend(*parts, packing)
    torch.testing.assert_close(found, attended(*parts, list(packing.lengths)), atol=1e-12, rtol=1e-6)


@every_share
@any_lengths
def test_first_positions_attend_alone_as_they_do_among_the_others(share: float, lengths: list[int]) -> None:
    packing, (query, key, value) = packing_of(lengths, share), queries(lengths)
    found = attend_first(query[packing.first], key, value, packing)
    torch.testing.assert_close(found, attend(query, key, value, packing)[packing.first], atol=1e-12, rtol=1e-6)


@every_share
@any_lengths
def test_its_gradients_are_those_of_every_sequence_by_itself(share: float, lengths: list[int]) -> None:
    packing = packing_of(lengths, share)
    ours, theirs = ([part.clone().requires_grad_() for part in queries(lengths)] for _ in range(2))
    attend(*ours, packing).sin().sum().backward()
    attended(*theirs, list(packing.lengths)).sin().sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=1e-6)


@every_share
@given(order=st.permutations(range(len(B_LENGTHS))))
def test_the_order_of_the_samples_never_matters(share: float, order: list[int]) -> None:
    padded = drawn(B_LENGTHS, 3, H, WIDTH)
    packings = [packing_of(B_LENGTHS, share), packing_of([B_LENGTHS[sample] for sample in order], share)]
    expected, found = (
        packing.unpack(attend(*packing.pack(frames).unbind(1), packing))
        for packing, frames in zip(packings, (padded, padded[order]), strict=True)
    )
    torch.testing.assert_close(found, expected[order], atol=1e-12, rtol=1e-6)


@every_share
def test_another_sequence_never_matters(share: float) -> None:
    packing, (query, key, value) = packing_of(B_LENGTHS, share), queries(B_LENGTHS)
    before = packing.unpack(attend(query, key, value, packing))
    value[packing.first[4]] += 50.0
    after = packing.unpack(attend(query, key, value, packing))
    changed = (before != after).flatten(1).any(dim=1)
    assert changed.tolist() == [False, False, False, False, True, False]


@every_share
def test_dropout_leaves_out_its_share_of_the_weights_and_scales_the_rest(share: float) -> None:
    torch.manual_seed(0)
    lengths = [40, 30, 40]
    query, key = torch.randn(2, 110, H, WIDTH).unbind()
    found = attend(query, key, torch.ones(110, H, WIDTH), packing_of(lengths, share), dropout=0.3)
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)  # every weight's expectation is what it was
    assert float(found.std()) > 0.05
    kept = attend(query, key, torch.ones(110, H, WIDTH), packing_of(lengths, share))
    torch.testing.assert_close(kept, torch.ones_like(kept))


@every_share
def test_one_seed_gives_the_same_bits_again(share: float) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        parts = [part.requires_grad_() for part in queries(B_LENGTHS)]
        packing = packing_of(B_LENGTHS, share)
        means = packing.mean(attend(*parts, packing, dropout=0.3))
        means.sin().sum().backward()
        found.append([means.detach(), *(part.grad for part in parts)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
