"""The Transformer that MulT and HyCon share: pre-norm layers over a sequence that attends to itself or to another one.

It is separate from layers.py because no training step of ConKI uses it.

Axis letters: B batch, L positions (Lq of queries, Lk of keys), D width, H heads.
Masks are boolean [B, L], True on the first positions of every row, one at least. Padding never changes an output.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli.model.layers import largest_divisor
from conki_cli.system.errors import SettingsError


def check_heads(section: str, width: int, num_heads: int) -> None:
    """Refuse attention heads that do not divide the width of a model's section.

    Raises:
        SettingsError: they do not.
    """
    if width % num_heads:
        raise SettingsError(
            f"{section}.num_heads must divide {section}.width, found {num_heads} and {width}",
            advice=f"give --set {section}.num_heads={largest_divisor(width, num_heads)}, or another width",
        )


def last_position(states: Tensor, mask: Tensor) -> Tensor:
    """Return the state at the last real position of every row: states [B, L, D] under mask [B, L] to [B, D]."""
    last = mask.sum(dim=1) - 1  # [B]
    return states[torch.arange(len(states), device=states.device), last]


def sinusoids(length: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Return fixed position vectors [L, D]: all sines, then all cosines, then a 0 if the width is odd (MulT).

    Positions count from 1; the frequencies fall geometrically from 1 to 1/10000.
    """
    half = width // 2
    powers = torch.arange(half, device=device) * (-math.log(10_000) / max(1, half - 1))  # [D/2]
    angles = torch.arange(1, 1 + length, device=device)[:, None] * powers.exp()  # [L, D/2]
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def visible_keys(mask: Tensor, source_mask: Tensor, *, ordered: bool) -> Tensor:
    """Return which keys a position may attend to: the real ones and, if ordered, none too far ahead.

    In order, position i of a sequence of n sees key j of one of m where j <= i + |m - n| (MulT's mask, with each
    clip's own lengths): its last position sees all. Key 0 is seen even from padding, so no row is empty.

    Args:
        mask: real positions of the queries, [B, Lq].
        source_mask: real positions of the keys, [B, Lk].
        ordered: whether positions may not attend too far ahead in time.

    Returns:
        [B, 1, Lq, Lk], or [B, 1, 1, Lk] if every position sees the same keys; True for visible keys.
    """
    real = source_mask[:, None, None, :]
    if not ordered:
        return real
    ahead = (source_mask.sum(dim=1) - mask.sum(dim=1)).abs()[:, None, None]  # [B, 1, 1]
    query = torch.arange(mask.shape[1], device=mask.device)[:, None]  # [Lq, 1]
    key = torch.arange(source_mask.shape[1], device=mask.device)  # [Lk]
    return real & (key <= query + ahead).unsqueeze(1)


@dataclass(frozen=True)
class Dropouts:
    """The shares that a SequenceTransformer drops in training."""

    attention: float = 0.0
    relu: float = 0.0
    """Inside the feed-forward layers."""
    residual: float = 0.0
    """Before a residual sum."""
    embedding: float = 0.0


class CrossLayer(nn.Module):
    """One pre-norm Transformer layer with ReLU whose keys and values may come from another sequence (MulT)."""

    def __init__(self, width: int, *, num_heads: int, dropouts: Dropouts) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropouts = dropouts
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, 4 * width)
        self.ffn_out = nn.Linear(4 * width, width)
        self.norm_ffn = nn.LayerNorm(width)
        for linear in (self.qkv, self.out, self.ffn_in, self.ffn_out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, states: Tensor, source: Tensor, visible: Tensor) -> Tensor:
        """Transform states [B, Lq, D] by what they see, `visible` [B, 1, Lq or 1, Lk], of a source [B, Lk, D]."""
        queries = self.norm_attention(states)
        keys = queries if source is states else self.norm_attention(source)
        states = states + self._drop(self._attention(queries, keys, visible), self.dropouts.residual)
        inner = self._drop(F.relu(self.ffn_in(self.norm_ffn(states))), self.dropouts.relu)  # [B, Lq, 4D]
        return states + self._drop(self.ffn_out(inner), self.dropouts.residual)

    def _drop(self, values: Tensor, share: float) -> Tensor:
        return F.dropout(values, share, self.training)

    def _attention(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        batch, length, width = queries.shape
        heads, weight, bias = self.num_heads, self.qkv.weight, self.qkv.bias
        query = F.linear(queries, weight[:width], bias[:width]).view(batch, length, heads, -1).transpose(1, 2)
        both = F.linear(keys, weight[width:], bias[width:]).view(batch, keys.shape[1], 2, heads, -1)
        key, value = both.permute(2, 0, 3, 1, 4)  # each [B, H, Lk, D/H], as the query [B, H, Lq, D/H]
        share = self.dropouts.attention if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=share)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))  # [B, Lq, D]
        return out


class SequenceTransformer(nn.Module):
    """The encoder of MulT and HyCon: pre-norm layers over a sequence that attends to itself or to another one.

    Every layer attends to the other sequence as it was embedded, and normalises it with its own norm.
    """

    def __init__(self, width: int, *, num_layers: int, num_heads: int, dropouts: Dropouts, ordered: bool) -> None:
        """Make the layers; `ordered`: positions do not attend too far ahead (see `visible_keys`)."""
        super().__init__()
        self.dropouts = dropouts
        self.ordered = ordered
        self.layers = nn.ModuleList(
            CrossLayer(width, num_heads=num_heads, dropouts=dropouts) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, sequence: Tensor, mask: Tensor, source: Tensor, source_mask: Tensor) -> Tensor:
        """Encode sequences [B, Lq, D] by what they see of others [B, Lk, D], under masks [B, Lq] and [B, Lk]."""
        visible = visible_keys(mask, source_mask, ordered=self.ordered)
        states, seen = self._embed(sequence), self._embed(source)
        for layer in self.layers:
            states = layer(states, seen, visible)
        out: Tensor = self.norm(states)  # [B, Lq, D]
        return out

    def last(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """Encode sequences [B, L, D] under mask [B, L] by themselves, and return their last real position, [B, D].

        The last layer is computed at that position alone, where everything real is seen: the result is the same.
        """
        visible = visible_keys(mask, mask, ordered=self.ordered)
        states = self._embed(sequence)
        for layer in self.layers[:-1]:
            states = layer(states, states, visible)
        end = last_position(states, mask).unsqueeze(1)  # [B, 1, D]
        out: Tensor = self.norm(self.layers[-1](end, states, mask[:, None, None, :])).squeeze(1)
        return out

    def _embed(self, sequence: Tensor) -> Tensor:
        length, width = sequence.shape[1:]
        placed = math.sqrt(width) * sequence + sinusoids(length, width, device=sequence.device)
        return F.dropout(placed, self.dropouts.embedding, self.training)
