"""MAG-BERT: a Multimodal Adaptation Gate inside BERT (Rahman et al., ACL 2020).

Audio and vision of a clip shift the embedding of every token before the first block of BERT; a gate decides how far.
The rest of BERT, including its pooler, is fine-tuned unchanged.

Pinned by sources: the gate and its place behind the embedding layer (the authors' code and MMSA agree), its shift that
is never longer than beta times the embedding, the initial weights N(0, 0.02); L1, rates and dropout from MMSA.
Our choice: how frames of unaligned clips are assigned to tokens (`align_to_tokens`), which neither source needs; a
modality that the run leaves out has no term in the gate.
Departures: the authors train with MSE, AdamW and a warm-up, and repeat word-aligned features for every word piece; MMSA
averages the padded sequence in windows, for SIMS, so that its padding counts. Here only the real frames count.

Axis letters: B batch, L tokens, T frames, d width of the frames, D hidden size of the text encoder.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli.config.baselines import MagBertConfig
from conki_cli.config.sections import RunConfig
from conki_cli.model.batches import Batch
from conki_cli.model.contract import Architecture, Output, SentimentModel
from conki_cli.model.losses import absolute_loss
from conki_cli.model.packing import Packing
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.errors import EncoderError

FACTS = {
    "label": "MAG-BERT",
    "title": "Integrating Multimodal Information in Large Pretrained Transformers",
    "authors": "Rahman, Hasan, Lee, Zadeh, Mao, Morency, Hoque",
    "year": 2020,
    "venue": "ACL",
    "idea": "a gate shifts BERT's token embeddings by audio and vision, before its first block",
    "pinned": "the gate and its place by the authors' code; dropout, rates and L1 by MMSA",
    "ours": "frames of unaligned clips are spread evenly over the tokens; absent modalities have no term",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""

INITIAL_DEVIATION = 0.02
"""Initial deviation of the new Linear layers, as in BERT itself."""


def align_to_tokens(frames: Tensor, frame_mask: Tensor, token_mask: Tensor) -> Tensor:
    """Spread the real frames of a clip evenly over its inner tokens; [CLS], [SEP] and padding get zeros.

    With n tokens and T frames, token j in 1..n-2 gets the mean of frames floor((j-1) T/(n-2)) to ceil(j T/(n-2)) - 1:
    adaptive average pooling to n-2 windows, as one product with a matrix of weights.

    Args:
        frames: [B, T, d].
        frame_mask: [B, T], True on the first positions of every row.
        token_mask: [B, L], the same for the tokens; the first is [CLS] and the last real one [SEP].

    Returns:
        [B, L, d].
    """
    inner = token_mask.sum(dim=1, keepdim=True) - 2  # [B, 1]; 0 or less: only [CLS] and [SEP]
    num_frames = frame_mask.sum(dim=1, keepdim=True)  # [B, 1]
    token = torch.arange(token_mask.shape[1], device=frames.device)  # [L]
    windows = inner.clamp_min(1)
    first = (token - 1) * num_frames // windows  # [B, L]
    behind = -(-token * num_frames // windows)  # [B, L]; the division rounds down, its negative up
    frame = torch.arange(frames.shape[1], device=frames.device)  # [T]
    inside = (frame >= first.unsqueeze(-1)) & (frame < behind.unsqueeze(-1))  # [B, L, T]
    inside &= (token <= inner).unsqueeze(-1)  # the window of token 0 ends before the first frame
    weights = inside.to(frames.dtype) / (behind - first).clamp_min(1).unsqueeze(-1)
    return torch.bmm(weights, frames)


def own_tokens(ids: Tensor, mask: Tensor) -> Tensor:
    """Return which tokens are of the clip and not of its context, [B, L]: up to the first [SEP].

    Args:
        ids: [B, L]; the last real token of every row is [SEP].
        mask: [B, L], True on the first positions of every row.
    """
    separator = ids.gather(1, mask.sum(dim=1, keepdim=True) - 1)  # [B, 1]
    first = ((ids == separator) & mask).int().argmax(dim=1, keepdim=True)  # [B, 1]
    return torch.arange(ids.shape[1], device=ids.device) <= first


def limited_shift(embeddings: Tensor, shift: Tensor, beta: float) -> Tensor:
    """Limit a shift to beta times the length of the embedding; both [..., D]."""
    room = beta * torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)  # [..., 1]
    length = torch.linalg.vector_norm(shift, dim=-1, keepdim=True)
    limited: Tensor = (room / (length + 1e-6)).clamp(max=1.0) * shift
    return limited


class AdaptationGate(nn.Module):
    """Shift token embeddings by gated audio and vision, then LayerNorm and dropout."""

    def __init__(self, widths: Mapping[str, int], width: int, *, beta: float, dropout: float) -> None:
        super().__init__()
        self.beta = beta
        self.gates = nn.ModuleDict({name: nn.Linear(d + width, width) for name, d in widths.items()})
        self.shifts = nn.ModuleDict({name: nn.Linear(d, width) for name, d in widths.items()})
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, embeddings: Tensor, aligned: Mapping[str, Tensor], absent: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Shift embeddings [B, L, D] by the frames of every modality at their tokens, each [B, L, d].

        Tokens whose clip lacks a modality, `absent` [B, L] by its name, have no term of it in their shift.
        """
        shift = torch.zeros_like(embeddings)
        for name, frames in aligned.items():
            gate = F.relu(self.gates[name](torch.cat([frames, embeddings], dim=-1)))  # [B, L, D]
            term = gate * self.shifts[name](frames)
            shift = shift + (term.masked_fill(absent[name].unsqueeze(-1), 0) if absent and name in absent else term)
        out: Tensor = self.dropout(self.norm(embeddings + limited_shift(embeddings, shift, self.beta)))
        return out


class MagBert(SentimentModel):
    """BERT with the gate on its embeddings, and a Linear on its pooled output."""

    required_modalities = frozenset({"text"})
    optional_modalities = frozenset({"vision", "audio"})

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, text_encoder)
        own = config.own
        assert isinstance(own, MagBertConfig)
        widths = {name: architecture.widths[name] for name in architecture.modalities if name != "text"}
        self.gate = AdaptationGate(widths, architecture.width, beta=own.beta, dropout=own.dropout)
        self.dropout = nn.Dropout(own.head_dropout)
        self.classifier = nn.Linear(architecture.width, 1)
        self.reads_context = bool(config.data.context or config.data.context_after)
        for module in (*self.gate.modules(), self.classifier):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
                nn.init.zeros_(module.bias)
        if text_encoder is not None:
            _check_embeddings(text_encoder.backbone, architecture.width)

    def forward(self, batch: Batch) -> Output:
        """Predict the scores of a batch; `f` is the pooled output of the gated encoder, [B, D]."""
        assert self.text is not None
        text = batch.modality("text")
        packing = Packing.of(text.mask, text.lengths)
        own = own_tokens(text.values, text.mask) if self.reads_context else text.mask
        aligned = {}
        for name in self.gate.gates:
            frames = self.frames(batch, name)
            aligned[name] = packing.pack(align_to_tokens(frames.values, frames.mask, own))  # [T, d]

        absent = {name: packing.pack(rows[:, None].expand_as(text.mask)) for name, rows in batch.absent.items()}  # [T]

        def shift(embeddings: Tensor, rows: slice) -> Tensor:
            parts, lacking = ({name: found[rows] for name, found in all_.items()} for all_ in (aligned, absent))
            shifted: Tensor = self.gate(embeddings, parts, lacking)
            return shifted

        pooled = self.text(packing.pack(text.values), packing, shift)[0]  # [B, D]
        return Output(self.classifier(self.dropout(pooled)).squeeze(-1), parts={"f": pooled})

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the mean absolute error."""
        return {"task": absolute_loss(output.prediction, batch.scores)}


def _check_embeddings(backbone: nn.Module, width: int) -> None:
    """Refuse a text encoder whose embeddings cannot be gated.

    Raises:
        EncoderError: it lacks embeddings of that name, or their width differs from the hidden states' (ALBERT).
    """
    layer = getattr(backbone, "embeddings", None)
    if not isinstance(layer, nn.Module):
        raise EncoderError(
            f"mag-bert needs a text encoder with a sub-module `embeddings`, as in BERT and RoBERTa, but "
            f"{type(backbone).__name__} has none",
            advice="choose another --encoder",
        )
    found = getattr(getattr(backbone, "config", None), "embedding_size", width)
    if found != width:
        raise EncoderError(
            f"mag-bert needs embeddings as wide as the hidden states, {width}, but those of {type(backbone).__name__} "
            f"have width {found}",
            advice="choose another --encoder",
        )
