"""MulT: the Multimodal Transformer (Tsai et al., ACL 2019).

Every modality attends to every other one, frame by frame and unaligned; a further Transformer per modality reads the
results, and its last position represents the clip.

Pinned by sources: the network, its initial weights, positions and mask (the authors' code, equal to 2e-7 on full
sequences); sizes, rates, dropouts and the separate dropout of the text from MMSA, which Table 3 comes from.
Our choice: keys and values share one dropout mask for the embedded sequence; text states of the frozen encoder.
Departures: MMSA leaves out the positions, and both codes read padding of the shorter clips and attend to it. Here
positions are on, masks and the causal order follow every clip's own lengths, and the last real position is read.
Neither drops the convolution if widths agree. MMSA states a weight decay but never applies it: it is 0.

Axis letters: B batch, L positions, k width of a kernel, d common width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.baselines import MultConfig
from conki_cli.config.sections import RunConfig
from conki_cli.model.baselines.transformer import Dropouts, SequenceTransformer, check_heads
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.contract import Architecture, Output, SentimentModel
from conki_cli.model.layers import length_groups
from conki_cli.model.losses import absolute_loss
from conki_cli.model.text_encoder import TextEncoder

FACTS = {
    "label": "MulT",
    "title": "Multimodal Transformer for Unaligned Multimodal Language Sequences",
    "authors": "Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov",
    "year": 2019,
    "venue": "ACL",
    "idea": "each modality attends to each other one, frame by frame, without alignment",
    "pinned": "layers, positions and mask by the authors' code; sizes, rates, clipping and L1 by MMSA",
    "ours": "a padding mask, and the last real position, while both read the last of the array",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""

CROSSINGS = tuple((target, source) for target in MODALITIES for source in MODALITIES if source != target)
"""The modalities that each modality attends to."""
SELF_LAYERS = 3
"""Minimum number of layers of the encoders after the crossings."""


def convolve(convolution: nn.Module, kernel: int, part: Padded) -> Padded:
    """Convolve sequences [B, L, d_m] without padding to [B, L-k+1, d]; one shorter than the kernel keeps a position."""
    frames = F.pad(part.values.transpose(1, 2), (0, max(0, kernel - part.values.shape[1])))  # [B, d_m, >= k]
    values = convolution(frames).transpose(1, 2)  # [B, L-k+1, d]
    lengths = (part.mask.sum(dim=1) - kernel + 1).clamp_min(1)  # [B]
    return Padded(values, torch.arange(values.shape[1], device=values.device) < lengths[:, None])


class Mult(SentimentModel):
    """Six crossings between the modalities, three encoders after them, a residual head."""

    required_modalities = frozenset(MODALITIES)

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, text_encoder)
        own = config.own
        assert isinstance(own, MultConfig)
        check_heads("mult", own.width, own.num_heads)
        widths = {"text": architecture.width, **architecture.widths}
        self.kernels = {"text": own.text_kernel, "vision": own.vision_kernel, "audio": own.audio_kernel}
        shares = {
            "text": own.attention_dropout,
            "vision": own.vision_attention_dropout,
            "audio": own.audio_attention_dropout,
        }
        self.text_dropout = nn.Dropout(own.text_dropout)
        self.convolutions = nn.ModuleDict(
            {name: nn.Conv1d(widths[name], own.width, self.kernels[name], bias=False) for name in MODALITIES}
        )
        self.crossings = nn.ModuleDict(
            {
                f"{target}_from_{source}": _transformer(own, own.width, own.num_layers, shares[source])
                for target, source in CROSSINGS
            }
        )
        layers = max(own.num_layers, SELF_LAYERS)
        self.readers = nn.ModuleDict(
            {name: _transformer(own, 2 * own.width, layers, own.attention_dropout) for name in MODALITIES}
        )
        fused = 2 * own.width * len(MODALITIES)
        self.inner = nn.Sequential(
            nn.Linear(fused, fused), nn.ReLU(), nn.Dropout(own.output_dropout), nn.Linear(fused, fused)
        )
        self.head = nn.Linear(fused, 1)
        if self.text is not None and not own.train_text:
            self.freeze(self.text)

    def forward(self, batch: Batch) -> Output:
        """Predict the scores of a batch; `t`, `v` and `a` are the three last positions [B, 2d], `f` all of them."""
        text = batch.modality("text")
        states = self.text_states(batch) * text.mask.unsqueeze(-1)  # [B, L, D]
        parts = {"text": Padded(self.text_dropout(states), text.mask)}
        parts.update({name: self.frames(batch, name) for name in ("vision", "audio")})
        represent = self._represent_in_groups if text.mask.device.type == "cpu" else self._represent
        fused = represent(parts, {name: ~rows for name, rows in batch.absent.items()})  # [B, 6d]
        prediction = self.head(fused + self.inner(fused)).squeeze(-1)  # [B]
        read = dict(zip("tva", fused.chunk(len(MODALITIES), dim=-1), strict=True))
        return Output(prediction, parts={**read, "f": fused})

    def _represent_in_groups(self, parts: Mapping[str, Padded], present: Mapping[str, Tensor]) -> Tensor:
        """Represent clips of similar length together, [B, 6d], so that a CPU computes less padding.

        A GPU would only wait for more and smaller steps.
        """
        groups = length_groups(max((part.mask for part in parts.values()), key=lambda mask: mask.shape[1]))
        pieces = [
            self._represent(
                {name: part.take(group) for name, part in parts.items()},
                {name: rows[group] for name, rows in present.items()},
            )
            for group in groups
        ]
        return torch.cat(pieces)[torch.argsort(torch.cat(groups))]

    def _represent(self, parts: Mapping[str, Padded], present: Mapping[str, Tensor]) -> Tensor:
        """Return the representations of clips, [G, 6d]: the last positions of the three modalities.

        `present` says which clips have a modality, [G], where any lacks it: nothing attends to one that is absent, and
        its own position is 0.
        """
        sequences = {}  # each [G, L, d]
        for name, part in parts.items():
            sequences[name] = convolve(self.convolutions[name], self.kernels[name], part)
        return torch.cat([self._read(name, sequences, present) for name in MODALITIES], dim=-1)

    def _read(self, target: str, sequences: Mapping[str, Padded], present: Mapping[str, Tensor]) -> Tensor:
        """Return what a modality attends to in the other two, at its last real position, [B, 2d]."""
        own = sequences[target]
        found = []
        for source, other in sequences.items():
            if source != target:
                states = self.crossings[f"{target}_from_{source}"](own.values, own.mask, other.values, other.mask)
                found.append(states * present[source][:, None, None] if source in present else states)
        reader = self.readers[target]
        assert isinstance(reader, SequenceTransformer)
        last = reader.last(torch.cat(found, dim=-1), own.mask)
        return last * present[target][:, None] if target in present else last

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the mean absolute error."""
        return {"task": absolute_loss(output.prediction, batch.scores)}


def _transformer(own: MultConfig, width: int, num_layers: int, attention_dropout: float) -> SequenceTransformer:
    shares = Dropouts(attention_dropout, own.relu_dropout, own.residual_dropout, own.embedding_dropout)
    return SequenceTransformer(width, num_layers=num_layers, num_heads=own.num_heads, dropouts=shares, ordered=True)
