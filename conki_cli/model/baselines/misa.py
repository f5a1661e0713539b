"""MISA: Modality-Invariant and -Specific Representations (Hazarika et al., ACM Multimedia 2020).

Every modality is projected into two spaces: a private one, and one that all three share. Three losses keep them apart
and meaningful: the shared vectors of two modalities have similar distributions (central moments), private and shared
vectors hold different information (orthogonality), and their sum reconstructs the modality. Attention over the six
vectors fuses them.

Pinned by sources: layers and losses (the authors' code and MMSA agree); weights, rates, clipping and batches (MMSA).
Our choice: none; `misa.orthogonal` and `misa.freeze_layers` are habits of the authors' code that MMSA dropped.
Departures: audio and vision are read at their own lengths, where MMSA takes the number of tokens for all three; a norm
of 0 has a finite gradient; the adversarial similarity, which both codes leave off, is not here, nor layers of MMSA that
never get a gradient (3,588 parameters). The learning rates stay constant: the authors' decay never acts.

Axis letters: B batch, L positions, d width of the frames, D hidden size of the text encoder, h common width.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.baselines import MisaConfig
from conki_cli.config.sections import RunConfig
from conki_cli.model.baselines.subnets import run_lstm
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.contract import Architecture, Output, SentimentModel
from conki_cli.model.layers import masked_mean
from conki_cli.model.losses import task_loss
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.errors import SettingsError

FACTS = {
    "label": "MISA",
    "title": "MISA: Modality-Invariant and -Specific Representations for Multimodal Sentiment Analysis",
    "authors": "Hazarika, Zimmermann, Poria",
    "year": 2020,
    "venue": "ACM Multimedia",
    "idea": "each modality in a private and in a common space; three losses shape the spaces",
    "pinned": "layers and losses by the authors' code; weights, rates and clipping by MMSA",
    "ours": "audio and vision are read at their own lengths, where MMSA takes the number of tokens",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""

NUM_HEADS = 2
FEED_FORWARD_WIDTH = 2048
FUSION_DROPOUT = 0.1
HIGHEST_MOMENT = 5


def moment_discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """Return the central moment discrepancy of two sets of vectors: distances of their means and central moments.

    Args:
        one: [B, h], entries in [0, 1].
        other: [B, h]; its rows need not belong to those of `one`. Without rows the discrepancy is 0.
    """
    if not (len(one) and len(other)):
        return (one.sum() + other.sum()) * 0
    means = one.mean(dim=0), other.mean(dim=0)  # each [h]
    centred = one - means[0], other - means[1]
    total: Tensor = torch.linalg.vector_norm(means[0] - means[1])
    for power in range(2, HIGHEST_MOMENT + 1):
        moments = [(values**power).mean(dim=0) for values in centred]
        total = total + torch.linalg.vector_norm(moments[0] - moments[1])
    return total


def dependence(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean squared entry of X'Y, X and Y centred and with rows of length 1: 0 if they are orthogonal.

    The lengths count as constants: no gradient flows through them.

    Args:
        one: [B, h].
        other: [B, h], of the same clips. Without clips the dependence is 0.
    """
    if not len(one):
        return (one * other).sum()
    rows = []
    for values in (one, other):
        centred = values - values.mean(dim=0)
        length = torch.linalg.vector_norm(centred, dim=1, keepdim=True).detach()
        rows.append(centred / (length + 1e-6))
    mean_square: Tensor = (rows[0].T @ rows[1]).square().mean()  # over [h, h]
    return mean_square


class SequenceReader(nn.Module):
    """Two bidirectional LSTMs as wide as the frames, LayerNorm between them; their last states, side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * width)
        self.second = nn.LSTM(2 * width, width, batch_first=True, bidirectional=True)

    def forward(self, frames: Padded) -> Tensor:
        """Turn frames [B, L, d] into [B, 4d]: forward of both LSTMs, then backward of both."""
        states, first = run_lstm(self.first, frames.values, frames.mask, frames.lengths)  # [B, L, 2d], [B, 2d]
        _, second = run_lstm(self.second, self.norm(states), frames.mask, frames.lengths)
        pairs = [last.reshape(len(last), 2, -1) for last in (first, second)]  # each [B, 2 directions, d]
        return torch.stack(pairs, dim=2).flatten(1)


class Misa(SentimentModel):
    """Private and shared vectors of every modality, fused by attention."""

    required_modalities = frozenset(MODALITIES)

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, text_encoder)
        own = config.own
        assert isinstance(own, MisaConfig)
        if own.width % NUM_HEADS:
            raise SettingsError(
                f"misa.width must be even, found {own.width}", advice=f"give {own.width + 1}, for example"
            )
        self.own = own
        h = own.width
        self.readers = nn.ModuleDict({name: SequenceReader(architecture.widths[name]) for name in ("vision", "audio")})
        widths = {name: 4 * d for name, d in architecture.widths.items()} | {"text": architecture.width}
        self.projections = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(widths[name], h), nn.ReLU(), nn.LayerNorm(h)) for name in MODALITIES}
        )
        self.private = nn.ModuleDict({name: nn.Linear(h, h) for name in MODALITIES})
        self.shared = nn.Linear(h, h)
        self.restorers = nn.ModuleDict({name: nn.Linear(h, h) for name in MODALITIES})
        self.fusion = nn.TransformerEncoderLayer(h, NUM_HEADS, FEED_FORWARD_WIDTH, FUSION_DROPOUT, batch_first=True)
        self.head = nn.Sequential(nn.Linear(6 * h, 3 * h), nn.Dropout(own.dropout), nn.ReLU(), nn.Linear(3 * h, 1))
        if own.orthogonal:
            for name, parameter in self.readers.named_parameters():
                if "weight_hh" in name:
                    nn.init.orthogonal_(parameter)
        self._freeze_blocks(own.freeze_layers)

    def _freeze_blocks(self, count: int) -> None:
        """Stop training the lowest blocks of the text encoder; as in the authors' code their dropout stays on."""
        depth = self.architecture.text_layers
        if count > depth:
            raise SettingsError(f"misa.freeze_layers must be at most {depth}, the text encoder's, found {count}")
        if self.text is None or not count:
            return
        lists = (part for part in self.text.backbone.modules() if isinstance(part, nn.ModuleList))
        blocks = next((part for part in lists if len(part) == depth), None)
        if blocks is None:
            raise SettingsError(
                "misa.freeze_layers needs a text encoder with a list of blocks, as BERT", advice="leave it out"
            )
        for block in itertools.islice(blocks, count):
            block.requires_grad_(False)

    def forward(self, batch: Batch) -> Output:
        """Predict the scores of a batch; t, v and a are private plus shared vectors, f the fused six."""
        clips = {name: reader(self.frames(batch, name)) for name, reader in self.readers.items()}
        clips["text"] = masked_mean(self.text_states(batch), batch.modality("text").mask)
        original = torch.stack([self.projections[name](clips[name]) for name in MODALITIES], dim=1)  # [B, 3, h]
        private = torch.sigmoid(_each(self.private, original))
        shared = torch.sigmoid(self.shared(original))
        sums = private + shared
        fused = self._fuse(torch.cat([private, shared], dim=1), batch.presence(MODALITIES)).flatten(1)  # [B, 6h]
        parts = {"original": original, "private": private, "shared": shared, "restored": _each(self.restorers, sums)}
        parts |= dict(zip("tva", sums.unbind(dim=1), strict=True))  # each [B, h]
        return Output(self.head(fused).squeeze(-1), parts={**parts, "f": fused})

    def _fuse(self, vectors: Tensor, presence: Tensor | None) -> Tensor:
        """Let six vectors of a clip attend to one another, [B, 6, h]; those of an absent modality, [B, 3], to nobody.

        Their own results are 0.
        """
        if presence is None:
            fused: Tensor = self.fusion(vectors)
            return fused
        lacking = ~presence.repeat(1, 2)  # [B, 6]
        hidden = lacking & presence.any(dim=1, keepdim=True)  # of a clip without anything all are 0 in any case
        attended: Tensor = self.fusion(vectors, src_key_padding_mask=hidden)
        return attended.masked_fill(lacking.unsqueeze(-1), 0)

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the mean squared error and the three weighted terms on the spaces.

        A term of two modalities is over the clips that have both, a reconstruction over those that have the modality.
        """
        presence, numbers = batch.presence(MODALITIES), range(len(MODALITIES))

        def rows(*columns: int) -> Tensor | slice:
            return slice(None) if presence is None else presence[:, list(columns)].all(dim=1)

        private, shared = (output.parts[kind].unbind(dim=1) for kind in ("private", "shared"))  # each 3 x [B, h]
        apart = [(private[m], shared[m], rows(m)) for m in numbers]
        apart += [(private[m], private[n], rows(m, n)) for m, n in itertools.combinations(numbers, 2)]  # six pairs
        alike = [(shared[m][rows(m)], shared[n][rows(n)]) for m, n in itertools.combinations(numbers, 2)]
        difference = torch.stack([dependence(one[both], other[both]) for one, other, both in apart]).sum()
        similarity = torch.stack([moment_discrepancy(*pair) for pair in alike]).mean()
        restored, original = output.parts["restored"], output.parts["original"]  # both get the gradient
        if presence is not None:
            restored, original = restored[presence], original[presence]
        reconstruction = F.mse_loss(restored, original)
        return {
            "task": task_loss(output.prediction, batch.scores),
            "difference": self.own.difference_weight * difference,
            "similarity": self.own.similarity_weight * similarity,
            "reconstruction": self.own.reconstruction_weight * reconstruction,
        }


def _each(layers: nn.ModuleDict, vectors: Tensor) -> Tensor:
    """Send the vectors of every modality, [B, 3, h] in the order t, v, a, through its own layer."""
    columns = zip(MODALITIES, vectors.unbind(dim=1), strict=True)
    return torch.stack([layers[name](column) for name, column in columns], dim=1)
