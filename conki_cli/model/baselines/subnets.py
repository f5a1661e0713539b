"""Layers that several baselines share: an LSTM over real positions, its last state as a vector, networks with ReLU.

Axis letters: B batch, L positions, D width, d width of the input. Masks are boolean [B, L], True on real positions.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli.model.batches import Batch


def relu_mlp(widths: Sequence[int], *, dropout: float = 0.0) -> nn.Sequential:
    """Build dropout, then Linear layers of the given widths with ReLU between them and none after the last."""
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    for k, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU()] if k else []
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


def rows_with(batch: Batch, names: Sequence[str], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of the clips that have all of some modalities, of every tensor [B, ...]; maybe none."""
    presence = batch.presence(names)
    return tensors if presence is None else tuple(tensor[presence.all(dim=1)] for tensor in tensors)


def run_lstm(
    lstm: nn.LSTM, sequence: Tensor, mask: Tensor, lengths: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Run a one-layer LSTM over only the real positions.

    Args:
        lstm: batch first, one layer, one or two directions.
        sequence: [B, L, d].
        mask: [B, L], True on the first positions of every row, one at least.
        lengths: real positions of every row; None: count them, which waits for a GPU.

    Returns:
        The states, zero on padding, [B, L, directions * D]; the last state, forward before backward,
        [B, directions * D].
    """
    counts = mask.sum(dim=1).cpu() if lengths is None else torch.tensor(lengths)
    packed = nn.utils.rnn.pack_padded_sequence(sequence, counts, batch_first=True, enforce_sorted=False)
    out, (last, _) = lstm(packed)
    states, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=sequence.shape[1])
    return states, last.transpose(0, 1).reshape(len(sequence), -1)


class LstmHead(nn.Module):
    """The last state of an LSTM, through a Linear: an utterance as one vector."""

    def __init__(self, input_width: int, hidden: int, width: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_width, hidden, batch_first=True, bidirectional=bidirectional)
        self.linear = nn.Linear(hidden * (1 + bidirectional), width)

    def forward(self, sequence: Tensor, mask: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Turn sequences [B, L, d] under mask [B, L] into [B, width]."""
        out: Tensor = self.linear(run_lstm(self.lstm, sequence, mask, lengths)[1])
        return out


class SubNet(nn.Module):
    """BatchNorm, dropout and three Linear layers with ReLU over one vector per utterance (TFN, LMF)."""

    def __init__(self, input_width: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(input_width)
        self.dropout = nn.Dropout(dropout)
        self.layers = relu_mlp([input_width, width, width, width])

    def forward(self, vectors: Tensor, present: Tensor | None = None) -> Tensor:
        """Transform [B, d] into [B, width]; 0 for clips that lack the modality, which the norm does not see."""
        if present is None:
            return F.relu(self.layers(self.dropout(self.norm(vectors))))
        kept = self._normalised(vectors[present])  # [P, d]
        rows = F.relu(self.layers(self.dropout(kept)))
        return rows.new_zeros(len(vectors), rows.shape[1]).index_copy(0, present.nonzero().squeeze(1), rows)

    def _normalised(self, vectors: Tensor) -> Tensor:
        """Normalise what is left of a batch; of a single clip there are no moments, so it gets the running ones."""
        norm = self.norm
        if len(vectors) > 1 or not self.training:
            normal: Tensor = norm(vectors)
            return normal
        return F.batch_norm(vectors, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
