"""Shared network parts: Transformer layers, sequence encoders, LSTMs, masked pooling, MLP, freezing.

Axis letters: B batch, L positions (tokens or frames), D width, H heads, d width of the input features.
Masks are boolean [B, L], True on real positions. Padding never changes an output.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli.errors import SettingsError

GROUP_SHARE = 0.7
"""Shortest sequence of a length group, as a share of its longest; 0.7 balances padding against smaller products."""


def largest_divisor(width: int, at_most: int) -> int:
    """Return the largest number of heads <= `at_most` that divides `width`."""
    return next(heads for heads in range(max(1, min(at_most, width)), 0, -1) if width % heads == 0)


def check_heads(section: str, width: int, num_heads: int) -> None:
    """Refuse attention heads that do not divide the width of a model's section.

    Raises:
        SettingsError: they do not.
    """
    if width % num_heads:
        raise SettingsError(
            f"{section}.num_heads must divide {section}.width, found {num_heads} and {width}: "
            f"give --set {section}.num_heads={largest_divisor(width, num_heads)}, or another width"
        )


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Average over the real positions.

    Args:
        states: [B, L, D].
        mask: [B, L] with at least one True per row.

    Returns:
        [B, D].
    """
    weights = mask.unsqueeze(-1).to(states.dtype)  # [B, L, 1]
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def last_position(states: Tensor, mask: Tensor) -> Tensor:
    """Return what stands at the last real position of every row: states [B, L, D] under mask [B, L] to [B, D]."""
    last = mask.sum(dim=1) - 1  # [B]
    return states[torch.arange(len(states), device=states.device), last]


def length_groups(mask: Tensor) -> list[Tensor]:
    """Split a batch into groups of similar length, so that little padding is computed.

    A group holds the sequences of at least 0.7 times the length of its longest. Each sequence is computed on its own,
    so the grouping changes no result beyond rounding, and the batch that the loss sees stays whole.

    Args:
        mask: [B, L].

    Returns:
        Indices of every group, longest first; together each of 0..B-1 once.
    """
    lengths = mask.sum(dim=1).cpu()  # [B]
    order = torch.argsort(lengths, descending=True, stable=True)
    starts: list[int] = []
    longest = 0
    for place, length in enumerate(lengths[order].tolist()):
        if not starts or length < GROUP_SHARE * longest:
            starts.append(place)
            longest = length
    bounds = [*starts, len(order)]
    return [order[first:last].to(mask.device) for first, last in itertools.pairwise(bounds)]


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Build Linear layers of the given widths with GELU between them."""
    layers: list[nn.Module] = []
    for k, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [nn.GELU()] if k else []
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


def relu_mlp(widths: Sequence[int], *, dropout: float = 0.0) -> nn.Sequential:
    """Build dropout, then Linear layers of the given widths with ReLU between them and none behind the last."""
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    for k, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU()] if k else []
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


def run_lstm(lstm: nn.LSTM, sequence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Run a one-layer LSTM over the real positions alone.

    Args:
        lstm: batch first, one layer, one or two directions.
        sequence: [B, L, d].
        mask: [B, L], True on the first positions of every row, one at least.

    Returns:
        The states, zero on padding, [B, L, directions * D]; the last state, forward before backward,
        [B, directions * D].
    """
    lengths = mask.sum(dim=1).cpu()
    packed = nn.utils.rnn.pack_padded_sequence(sequence, lengths, batch_first=True, enforce_sorted=False)
    out, (last, _) = lstm(packed)
    states, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=sequence.shape[1])
    return states, last.transpose(0, 1).reshape(len(sequence), -1)


class LstmHead(nn.Module):
    """The last state of an LSTM, through a Linear: an utterance as one vector."""

    def __init__(self, input_width: int, hidden: int, width: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_width, hidden, batch_first=True, bidirectional=bidirectional)
        self.linear = nn.Linear(hidden * (1 + bidirectional), width)

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """Turn sequences [B, L, d] under mask [B, L] into [B, width]."""
        out: Tensor = self.linear(run_lstm(self.lstm, sequence, mask)[1])
        return out


class SubNet(nn.Module):
    """BatchNorm, dropout and three Linear layers with ReLU over one vector per utterance (TFN, LMF)."""

    def __init__(self, input_width: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(input_width)
        self.dropout = nn.Dropout(dropout)
        self.layers = relu_mlp([input_width, width, width, width])

    def forward(self, vectors: Tensor) -> Tensor:
        """Transform [B, d] into [B, width]."""
        return F.relu(self.layers(self.dropout(self.norm(vectors))))


def freeze(modules: Iterable[nn.Module]) -> None:
    """Stop training the modules and put them in evaluation mode."""
    for module in modules:
        module.requires_grad_(False)
        module.eval()


def trained_parameters(module: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield the parameters that train, and whether weight decay applies: none on biases and normalisation."""
    for part in module.modules():
        is_norm = "norm" in type(part).__name__.lower()
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield parameter, not (is_norm or name == "bias")


class EncoderLayer(nn.Module):
    """One post-norm Transformer encoder layer with GELU (Vaswani et al., 2017)."""

    def __init__(self, width: int, *, num_heads: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width, eps=1e-5)
        self.ffn_in = nn.Linear(width, ffn_width)
        self.ffn_out = nn.Linear(ffn_width, width)
        self.norm_ffn = nn.LayerNorm(width, eps=1e-5)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Transform states [B, L, D] under mask [B, L] into [B, L, D]."""
        states = self.norm_attention(states + self.dropout(self._attention(states, mask)))
        inner = self.dropout(F.gelu(self.ffn_in(states)))  # [B, L, ffn_width]
        out: Tensor = self.norm_ffn(states + self.dropout(self.ffn_out(inner)))
        return out

    def _attention(self, states: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = states.shape
        qkv = self.qkv(states).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, L, D/H]
        share = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :], dropout_p=share)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))  # [B, L, D]
        return out


class SequenceEncoder(nn.Module):
    """The audio or vision encoder (Eq. 2, Appendix B): projection, [CLS], positions, Transformer layers.

    Its sizes beyond the number of layers, and the mean pooling, follow the authors' released code
    (docs/fidelity.md).
    """

    def __init__(
        self, input_width: int, width: int, *, num_positions: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(input_width, width)
        self.cls = nn.Parameter(torch.ones(width))
        self.positions = nn.Parameter(torch.zeros(1 + num_positions, width))
        self.dropout = nn.Dropout(dropout)
        heads = largest_divisor(width, num_heads)
        self.layers = nn.ModuleList(
            EncoderLayer(width, num_heads=heads, ffn_width=width, dropout=dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Encode frames [B, L, d] under mask [B, L].

        Returns:
            O_m [B, D]; H_m, the input of layer 1 and every layer's output, each [B, 1+L, D]; their mask [B, 1+L].
        """
        projected = self.projection(frames)  # [B, L, D]
        cls = self.cls.expand(len(frames), 1, -1)  # [B, 1, D]
        states = torch.cat([cls, projected], dim=1) + self.positions[: 1 + frames.shape[1]]  # [B, 1+L, D]
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)  # [B, 1+L]
        hidden = [self.dropout(states)]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], mask))
        return masked_mean(self.norm(hidden[-1]), mask), hidden, mask


def sinusoids(length: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Return fixed position vectors [L, D]: all sines, then all cosines, then a 0 if the width is odd (MulT).

    Positions count from 1; the frequencies fall geometrically from 1 to 1/10000.
    """
    half = width // 2
    powers = torch.arange(half, device=device) * (-math.log(10_000) / max(1, half - 1))  # [D/2]
    angles = torch.arange(1, 1 + length, device=device)[:, None] * powers.exp()  # [L, D/2]
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def visible_keys(mask: Tensor, source_mask: Tensor, *, ordered: bool) -> Tensor:
    """Return which keys a position may look at: the real ones and, if ordered, none that lies too far ahead.

    In order, position i of a sequence of n sees key j of one of m where j <= i + |m - n| (MulT's mask, with each
    clip's own lengths): its last position sees all. Key 0 is seen even from padding, so no row is empty.

    Args:
        mask: real positions of the sequences that look, [B, Lq].
        source_mask: real positions of those looked at, [B, Lk].
        ordered: whether the order of time limits the sight.

    Returns:
        [B, 1, Lq, Lk], or [B, 1, 1, Lk] where every position sees the same; True where seen.
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
    """Of what a residual sum adds."""
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
    """The encoder of MulT and HyCon: pre-norm layers over a sequence, looking at itself or at another one.

    Another sequence is looked at as it was embedded, in every layer; each layer normalises it with its own norm.
    """

    def __init__(self, width: int, *, num_layers: int, num_heads: int, dropouts: Dropouts, ordered: bool) -> None:
        """Make the layers; `ordered`: positions do not look too far ahead (see `visible_keys`)."""
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
