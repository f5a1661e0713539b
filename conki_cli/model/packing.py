"""Sequences of different lengths, packed back to back, so that nothing is computed for padding.

Position-wise operations (Linear, LayerNorm, GELU, dropout) run once over all real positions; attention, which combines
positions of one sequence, runs over groups of sequences of equal or similar length. The batch does not change: no
sample changes its place, and the contrastive loss gets the same pairs.

Axis letters: B sequences of a batch, L longest of them, T positions of all of them, D width, H heads, G sequences of a
group.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

ATTENTION_SHARE = {"cpu": 1.0}
"""Shortest sequence of an attention group, as a share of its longest, by kind of device: 1 pads nothing."""
_SHARE_ELSEWHERE = 0.5
"""On a GPU some padding is cheaper than many small kernels."""
SIMILAR_SHARE = 0.7
"""If whole layers run in groups: the shortest sequence of a group, as a share of its longest. It balances padding
against smaller products."""


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


@dataclass(frozen=True, eq=False)
class Packing:
    """The layout of a batch's packed positions: whole sequences, longest first."""

    lengths: tuple[int, ...]
    """Lengths of the sequences in packed order, each at least 1."""
    order: Tensor
    """[B] int64, the sample of the batch at each packed place."""
    width: int
    """L of the padded batch."""
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, mask: Tensor) -> "Packing":
        """Compute the packing of a batch whose real positions come first; mask [B, L]."""
        counts = mask.sum(dim=1).tolist()  # one GPU synchronisation per batch and modality
        order = sorted(range(len(counts)), key=lambda sample: -counts[sample])
        lengths = tuple(int(counts[sample]) for sample in order)
        share = ATTENTION_SHARE.get(mask.device.type, _SHARE_ELSEWHERE)
        groups = tuple(_group(part, mask.device) for part in similar(lengths, share))
        return cls(lengths, torch.tensor(order, device=mask.device), mask.shape[1], groups)

    @cached_property
    def positions(self) -> Tensor:
        """[T] int64, the place of each packed position in its sequence."""
        return torch.cat([torch.arange(length) for length in self.lengths]).to(self.order.device)

    @cached_property
    def rows(self) -> Tensor:
        """[T] int64, the row of each packed position in the padded batch flattened to [B * L, ...]."""
        lengths = torch.tensor(self.lengths, device=self.order.device)
        return self.order.repeat_interleave(lengths) * self.width + self.positions

    @cached_property
    def places(self) -> Tensor:
        """[B] int64, the packed place of each sample of the batch: the inverse of `order`."""
        return torch.argsort(self.order)

    @cached_property
    def first(self) -> Tensor:
        """[B] int64, the packed row of the first position of each sample of the batch."""
        starts = torch.tensor([0, *itertools.accumulate(self.lengths)][:-1], device=self.order.device)
        return starts[self.places]

    @cached_property
    def _shares(self) -> Tensor:
        """[B, T], 1/length for the positions of a sample, else 0."""
        device = self.order.device
        lengths = torch.tensor(self.lengths, device=device)
        owner = self.order.repeat_interleave(lengths)  # [T]
        weights = (1.0 / lengths).repeat_interleave(lengths)  # [T]
        return (owner == torch.arange(len(self.lengths), device=device)[:, None]) * weights

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
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]  # [G, longest]
    gather = torch.zeros(count * longest, dtype=torch.int64)  # padding reads row 0, and is masked
    places = real.flatten().nonzero().squeeze(1)  # [rows]
    gather[places] = torch.arange(rows)
    return Group(count, longest, rows, *(part.to(device) for part in (gather, places, real[:, None, None, :])))


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
    found = [
        _mixed(q[:, :, None], _padded(k, group), _padded(v, group), group.mask, dropout) for group, q, k, v in parts
    ]
    return torch.cat(found)[packing.places]


def _padded(rows: Tensor, group: Group) -> Tensor:
    """Turn the rows of a group, [rows, H, D/H], into [G, H, longest, D/H]."""
    whole = rows if group.gather is None else rows.index_select(0, group.gather)
    return whole.view(group.count, group.longest, *rows.shape[1:]).transpose(1, 2)


def _mixed(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend within a group; query [G, H, Q, D/H], key and value [G, H, longest, D/H] -> [G * Q, D]."""
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


def _attend_group(
    query: Tensor, key: Tensor, value: Tensor, group: Group, dropout: float, window: int | None
) -> Tensor:
    """Return the attention output of the rows of one group; [rows, H, D/H] each -> [rows, D]."""
    q, k, v = (_padded(rows, group) for rows in (query, key, value))
    mask = group.mask if window is None or window >= group.longest else _near(group, window, q.device)
    flat = _mixed(q, k, v, mask, dropout)  # [G * longest, D]
    return flat if group.real is None else flat.index_select(0, group.real)


def _near(group: Group, window: int, device: torch.device) -> Tensor:
    """Return which positions attend to which in a group, [1 or G, 1, longest, longest]: real and near ones."""
    places = torch.arange(group.longest, device=device)
    near = ((places[:, None] - places).abs() < window)[None, None]
    if group.mask is None:
        return near
    return (near & group.mask) | ~group.mask.transpose(2, 3)  # a row of padding may not be all False: it would be NaN
