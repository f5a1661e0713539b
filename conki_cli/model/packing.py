"""Sequences of different lengths, packed back to back, so that nothing is computed for padding.

Position-wise operations (Linear, LayerNorm, GELU, dropout) run once over all real positions; attention, which combines
positions of one sequence, runs over groups of sequences of equal or similar length. The batch does not change: no
sample changes its place, and the contrastive loss gets the same pairs.

Axis letters: B sequences of a batch, L longest of them, T positions of all of them, D width, H heads, G sequences of a
group.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ATTENTION_SHARE = {"cpu": 1.0}
"""Shortest sequence of an attention group, as a share of its longest, by kind of device: 1 pads nothing."""
_SHARE_ELSEWHERE = 0.0
"""On a GPU all sequences are one padded group: padding is cheaper than many small kernels, which are launched one by
one."""
SIMILAR_SHARE = 0.7
"""If whole layers run in groups: the shortest sequence of a group, as a share of its longest. It balances padding
against smaller products."""


def share_on(kind: str) -> float:
    """Return the share of a kind of device, such as cpu or cuda."""
    return ATTENTION_SHARE.get(kind, _SHARE_ELSEWHERE)


@dataclass(frozen=True)
class Group:
    """Contiguous packed sequences whose attention is computed together."""

    count: int
    """G."""
    longest: int
    rows: int
    """Positions of the group, without padding."""
    gather: Tensor | None
    """The group's row at each padded position, [G * longest]; None if all have the same length."""
    real: Tensor | None
    """[rows], the padded position of each row."""
    mask: Tensor | None
    """[G, 1, 1, longest], True on real positions."""
    _added: dict[torch.dtype, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def added(self, dtype: torch.dtype) -> Tensor | None:
        """Return what the mask adds to attention scores, 0 or -inf, [G, 1, 1, longest]; made once per group.

        Rows start at multiples of 16 numbers, as fused attention on a GPU wants: it would copy the mask in every layer.
        """
        if self.mask is not None and dtype not in self._added:
            room = -(-self.longest // 16) * 16
            values = torch.zeros(self.count, 1, 1, room, dtype=dtype, device=self.mask.device)[..., : self.longest]
            self._added[dtype] = values.masked_fill_(~self.mask, float("-inf"))
        return self._added.get(dtype)


@dataclass(frozen=True, eq=False)
class Packing:
    """The layout of a batch's packed positions: whole sequences, longest first.

    What it holds is computed by the host from the lengths, so no GPU is waited for.
    """

    lengths: tuple[int, ...]
    """Lengths of the sequences in packed order, each at least 1."""
    order: Tensor
    """[B] int64, the sample of the batch at each packed place."""
    width: int
    """L of the padded batch."""
    groups: tuple[Group, ...]
    _samples: np.ndarray
    """`order` on the host."""

    @classmethod
    def of(cls, mask: Tensor, lengths: Sequence[int] | None = None) -> "Packing":
        """Compute the packing of a batch whose real positions come first.

        Args:
            mask: [B, L].
            lengths: real positions of every row; None: count them, which waits for a GPU.
        """
        counts = [int(count) for count in mask.sum(dim=1).tolist()] if lengths is None else list(lengths)
        order = sorted(range(len(counts)), key=lambda sample: -counts[sample])
        packed = tuple(counts[sample] for sample in order)
        groups = tuple(_group(part, mask.device) for part in similar(packed, share_on(mask.device.type)))
        samples = np.array(order, dtype=np.int64)
        return cls(packed, moved_array(samples, mask.device), mask.shape[1], groups, samples)

    @cached_property
    def _positions(self) -> np.ndarray:
        return np.concatenate([np.arange(length) for length in self.lengths])

    @cached_property
    def _places(self) -> np.ndarray:
        return np.argsort(self._samples)

    @cached_property
    def positions(self) -> Tensor:
        """[T] int64, the place of each packed position in its sequence."""
        return self._here(self._positions)

    @cached_property
    def rows(self) -> Tensor:
        """[T] int64, the row of each packed position in the padded batch flattened to [B * L, ...]."""
        return self._here(np.repeat(self._samples, self.lengths) * self.width + self._positions)

    @cached_property
    def places(self) -> Tensor:
        """[B] int64, the packed place of each sample of the batch: the inverse of `order`."""
        return self._here(self._places)

    @cached_property
    def first(self) -> Tensor:
        """[B] int64, the packed row of the first position of each sample of the batch."""
        starts = np.array([0, *itertools.accumulate(self.lengths)][:-1], dtype=np.int64)
        return self._here(starts[self._places])

    @cached_property
    def _shares(self) -> Tensor:
        """[B, T], 1/length for the positions of a sample, else 0."""
        owner = np.repeat(self._samples, self.lengths)  # [T]
        weights = np.repeat(np.float32(1) / np.array(self.lengths, dtype=np.float32), self.lengths)  # [T]
        return self._here((owner == np.arange(len(self.lengths))[:, None]) * weights)

    def _here(self, array: np.ndarray) -> Tensor:
        return moved_array(array, self.order.device)

    def pack(self, padded: Tensor) -> Tensor:
        """Return the real positions of [B, L, ...] as [T, ...]."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def unpack(self, values: Tensor) -> Tensor:
        """Return [T, ...] at their padded places, [B, L, ...] with 0 on padding."""
        flat = values.new_zeros(len(self.lengths) * self.width, *values.shape[1:])
        return flat.index_copy(0, self.rows, values).view(len(self.lengths), self.width, *values.shape[1:])

    def mean(self, values: Tensor) -> Tensor:
        """Average [T, D] over the positions of each sample, [B, D]; a matrix product, to be deterministic."""
        with torch.autocast(values.device.type, enabled=False):  # a rounded 1/length would shift the whole mean
            return self._shares.to(values.dtype) @ values


def moved(values: Tensor, device: torch.device) -> Tensor:
    """Copy from the host to a device; the host does not wait for it.

    On mps it does: torch does not keep the memory of the host until such a copy is over.
    """
    return values.to(device, non_blocking=device.type != "mps")


def moved_array(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device; the host does not wait for it."""
    return moved(torch.from_numpy(array), device)


def similar(lengths: Sequence[int], share: float) -> list[tuple[int, ...]]:
    """Split non-increasing lengths into runs whose shortest is at least `share` of their longest."""
    parts: list[list[int]] = []
    for length in lengths:
        if not parts or length < share * parts[-1][0]:
            parts.append([])
        parts[-1].append(length)
    return [tuple(part) for part in parts]


def _group(lengths: tuple[int, ...], device: torch.device) -> Group:
    count, longest, rows = len(lengths), lengths[0], sum(lengths)
    if lengths[-1] == longest:
        return Group(count, longest, rows, None, None, None)
    real = np.arange(longest) < np.array(lengths)[:, None]  # [G, longest]
    places = np.flatnonzero(real)  # [rows]
    gather = np.zeros(count * longest, dtype=np.int64)  # padding reads row 0, and is masked
    gather[places] = np.arange(rows)
    mask = moved_array(real[:, None, None, :], device)
    return Group(count, longest, rows, moved_array(gather, device), moved_array(places, device), mask)


class _Pad(torch.autograd.Function):
    """The rows of a group at their padded positions; padding holds row 0, and no gradient comes from it.

    Nothing that is read depends on the padding, so every row has one position that its gradient comes from: reading it
    is one kernel, deterministic, where the gradient of `index_select` is two, which add.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gather: Tensor, real: Tensor) -> Tensor:
        """Return [G * longest, ...] of [rows, ...]."""
        ctx.real = real
        return rows.index_select(0, gather)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradient of the rows."""
        return gradients[0].index_select(0, ctx.real), None, None


def attend(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, dropout: float = 0.0, window: int | None = None
) -> Tensor:
    """Let the positions of each sequence attend to one another (scaled dot products).

    Args:
        query: [T, H, D/H].
        key: like `query`.
        value: like `query`.
        packing: the sequences of the rows.
        dropout: share of the attention weights that are dropped.
        window: positions attend only to those whose distance is smaller; None: to all.

    Returns:
        [T, D].
    """
    if len(packing.groups) == 1:
        return _attend_group(query, key, value, packing.groups[0], dropout, window)
    sizes = [group.rows for group in packing.groups]
    pieces = [torch.split(tensor, sizes) for tensor in (query, key, value)]
    parts = zip(packing.groups, *pieces, strict=True)
    return torch.cat([_attend_group(q, k, v, group, dropout, window) for group, q, k, v in parts])


def attend_first(query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, dropout: float = 0.0) -> Tensor:
    """Let only the first position of each sequence attend to its sequence.

    Args:
        query: [B, H, D/H] of the first positions, in the order of the batch.
        key: [T, H, D/H].
        value: like `key`.
        packing: the sequences of the rows.
        dropout: share of the attention weights that are dropped.

    Returns:
        [B, D], in the order of the batch: the rows of `attend` at `packing.first`.
    """
    sizes = [group.rows for group in packing.groups]
    asked = torch.split(query[packing.order], [group.count for group in packing.groups])
    parts = zip(packing.groups, asked, torch.split(key, sizes), torch.split(value, sizes), strict=True)
    found = []
    for group, q, k, v in parts:
        keys, values = _padded((k, v), group)
        found.append(_mixed(q[:, :, None], keys, values, group.added(q.dtype), dropout))
    return torch.cat(found)[packing.places]


def _padded(rows: Sequence[Tensor], group: Group) -> list[Tensor]:
    """Turn tensors of the rows of a group, [rows, H, D/H] each, into [G, H, longest, D/H] each."""
    whole = rows
    if group.gather is not None:
        stacked: Tensor = _Pad.apply(torch.stack(list(rows), dim=1), group.gather, group.real)  # type: ignore[no-untyped-call]
        whole = stacked.unbind(1)
    return [part.view(group.count, group.longest, *part.shape[1:]).transpose(1, 2) for part in whole]


def _mixed(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend within a group; query [G, H, Q, D/H], key and value [G, H, longest, D/H] -> [G * Q, D]."""
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


def _attend_group(
    query: Tensor, key: Tensor, value: Tensor, group: Group, dropout: float, window: int | None
) -> Tensor:
    """Return the attention output of the rows of one group; [rows, H, D/H] each -> [rows, D]."""
    q, k, v = _padded((query, key, value), group)
    mask = group.added(q.dtype) if window is None or window >= group.longest else _near(group, window, q.device)
    flat = _mixed(q, k, v, mask, dropout)  # [G * longest, D]
    return flat if group.real is None else flat.index_select(0, group.real)


def _near(group: Group, window: int, device: torch.device) -> Tensor:
    """Return which positions attend to which in a group, [1 or G, 1, longest, longest]: real and near ones."""
    places = torch.arange(group.longest, device=device)
    near = ((places[:, None] - places).abs() < window)[None, None]
    if group.mask is None:
        return near
    return (near & group.mask) | ~group.mask.transpose(2, 3)  # a row of padding may not be all False: it would be NaN
