"""Shared network parts: Transformer encoder layer, sequence encoder, LSTMs, masked pooling, MLP, freezing.

Axis letters: B batch, L positions (tokens or frames), T real positions of the whole batch, D width, H heads, d width of
the input features. Masks are boolean [B, L], True on real positions. Padding never changes an output.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli.model.packing import SIMILAR_SHARE, Packing, attend, attend_first, similar


def largest_divisor(width: int, at_most: int) -> int:
    """Return the largest number of heads <= `at_most` that divides `width`."""
    return next(heads for heads in range(max(1, min(at_most, width)), 0, -1) if width % heads == 0)


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


def length_groups(mask: Tensor) -> list[Tensor]:
    """Split a batch into groups of similar length, so that little padding is computed.

    A group holds sequences of at least 0.7 times the length of its longest. Each sequence is computed independently, so
    the grouping changes no result beyond rounding, and the loss still gets the whole batch.

    Args:
        mask: [B, L].

    Returns:
        Indices of every group, longest first; each of 0..B-1 occurs once.
    """
    lengths = mask.sum(dim=1).cpu()  # [B]
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = [len(part) for part in similar(lengths[order].tolist(), SIMILAR_SHARE)]
    return [group.to(mask.device) for group in torch.split(order, sizes)]


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Build Linear layers of the given widths with GELU between them."""
    layers: list[nn.Module] = []
    for k, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [nn.GELU()] if k else []
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


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


def compile_positions(model: nn.Module, backend: str = "inductor") -> None:
    """Let torch.compile fuse position-wise operations, in our layers and in those of a BERT.

    Attention is not compiled, because its groups change with every batch. Weights keep their names.
    """
    compiled = torch.compile(EncoderLayer.after_attention, dynamic=True, backend=backend)
    for part in model.modules():
        if isinstance(part, EncoderLayer):
            part.run_after_attention = compiled
        elif type(part).__name__.endswith(("Intermediate", "SelfOutput", "Output")):
            part.compile(dynamic=True, backend=backend)


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
        self.run_after_attention: Callable[[EncoderLayer, Tensor, Tensor], Tensor] = EncoderLayer.after_attention
        """Takes the layer as an argument, so that a copy of the layer uses its own weights."""

    def forward(self, states: Tensor, packing: Packing) -> Tensor:
        """Transform packed states [T, D] into [T, D]."""
        query, key, value = self.qkv(states).view(len(states), 3, self.num_heads, -1).unbind(1)  # each [T, H, D/H]
        share = self.dropout.p if self.training else 0.0
        return self.run_after_attention(self, states, attend(query, key, value, packing, dropout=share))

    def first(self, states: Tensor, packing: Packing) -> Tensor:
        """Transform packed states [T, D], and return only the first position of every sequence, [B, D].

        It attends to its whole sequence, but states that no later layer reads are not computed: with a feed-forward
        width of 4 D that saves five sixths of the layer's operations.
        """
        own = states[packing.first]  # [B, D]
        width = own.shape[1]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = F.linear(own, weight[:width], bias[:width]).view(len(own), self.num_heads, -1)
        both = F.linear(states, weight[width:], bias[width:]).view(len(states), 2, self.num_heads, -1)
        key, value = both.unbind(1)  # [T, H, D/H] each
        share = self.dropout.p if self.training else 0.0
        return self.run_after_attention(self, own, attend_first(query, key, value, packing, dropout=share))

    def after_attention(self, states: Tensor, attended: Tensor) -> Tensor:
        """Apply the position-wise part of the layer to the attended states; [T, D] each."""
        states = self.norm_attention(states + self.dropout(self.out(attended)))
        inner = self.dropout(F.gelu(self.ffn_in(states)))  # [T, ffn_width]
        out: Tensor = self.norm_ffn(states + self.dropout(self.ffn_out(inner)))
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

    def forward(self, frames: Tensor, packing: Packing) -> tuple[Tensor, list[Tensor]]:
        """Encode packed frames [T, d] whose first position per sequence is replaced by [CLS].

        Returns:
            O_m [B, D]; H_m, the input of layer 1 and every layer's output, each [T, D].
        """
        is_first = (packing.positions == 0).unsqueeze(1)  # [T, 1]
        states = torch.where(is_first, self.cls, self.projection(frames))  # [T, D]
        hidden = [self.dropout(states + F.embedding(packing.positions, self.positions))]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], packing))
        return packing.mean(self.norm(hidden[-1])), hidden
