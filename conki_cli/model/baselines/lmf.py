"""LMF: Low-rank Multimodal Fusion (Liu et al., ACL 2018).

TFN applies a full tensor of weights to the outer product of the three modality vectors; LMF applies a tensor of rank r:
r products of one number per modality, weighted and summed. The outer product is never built.

Pinned by sources: layers, factors and their initial values (the authors' code); sizes, dropouts, rates, weight decay
and the L1 loss (MMSA's settings). The encoders of the modalities are those of TFN.
Our choice: fine-tuning the text encoder as an option.
Departures: the rank weights and the bias train, as in the authors' code; MMSA leaves both out of its optimiser by
mistake. The paper sums over the rank without weights; the code's learnt weights contain that. Means and the LSTM keep
to the real positions, as in TFN. Both codes have a dropout after the fusion that they never apply: it is not here.

Axis letters: B batch, r rank, d width of a vector.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.baselines import LmfConfig
from conki_cli.config.sections import RunConfig
from conki_cli.model.baselines.tfn import ClipEncoder, with_one
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.contract import Architecture, Output, ParameterGroup, SentimentModel
from conki_cli.model.losses import absolute_loss
from conki_cli.model.text_encoder import TextEncoder

FACTS = {
    "label": "LMF",
    "title": "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors",
    "authors": "Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency",
    "year": 2018,
    "venue": "ACL",
    "idea": "the tensor of TFN through weights of low rank, so that it is never built",
    "pinned": "layers and factors by the authors' code; sizes, rates and L1 by MMSA",
    "ours": "means over the real frames; rank weights and bias train, as in the authors' code and unlike in MMSA",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""


class LowRankFusion(nn.Module):
    """b + sum over k of w_k times one product, per modality, of factor k with (1; vector)."""

    def __init__(self, widths: Mapping[str, int], rank: int) -> None:
        """Make the factors of vectors t, v and a of these widths."""
        super().__init__()
        self.factors = nn.ParameterDict({name: torch.empty(rank, 1 + d) for name, d in widths.items()})
        self.combination = nn.Linear(rank, 1)  # w and b
        for weights in (*self.factors.values(), self.combination.weight):
            nn.init.xavier_normal_(weights)
        nn.init.zeros_(self.combination.bias)

    def forward(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fuse t, v and a, each [B, d], into scores [B] and the weighted products [B, r]."""
        text, vision, audio = (with_one(vectors[name]) @ self.factors[name].T for name in "tva")  # each [B, r]
        products = text * vision * audio
        return self.combination(products).squeeze(-1), products


class Lmf(SentimentModel):
    """Three modality vectors, fused by factors of low rank."""

    required_modalities = frozenset(MODALITIES)

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, text_encoder)
        own = config.own
        assert isinstance(own, LmfConfig)
        if self.text is not None and not own.train_text:
            self.freeze(self.text)
        text_out = own.text_hidden // 2
        self.clip_encoder = ClipEncoder(own, architecture, text_out=text_out)
        self.fusion = LowRankFusion({"t": text_out, "v": own.vision_hidden, "a": own.audio_hidden}, own.rank)

    def forward(self, batch: Batch) -> Output:
        """Predict the scores of a batch; `f` holds the products of every rank, [B, r]."""
        words = batch.modality("text")
        text = Padded(self.text_states(batch), words.mask, words.lengths)
        clips = self.clip_encoder(text, self.frames(batch, "vision"), self.frames(batch, "audio"))
        prediction, products = self.fusion(clips)
        return Output(prediction, parts={**clips, "f": products})

    def smallest_batch(self, phase: str) -> int:
        """Return 2: BatchNorm cannot train on one clip."""
        return 2

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the mean absolute error."""
        return {"task": absolute_loss(output.prediction, batch.scores)}

    def parameter_groups(self, config: RunConfig, phase: str) -> list[ParameterGroup]:
        """Return the text encoder, if it trains, the factors, and the rest."""
        own, rates = config.own, config.optimizer
        assert isinstance(own, LmfConfig)
        speeds = {self.text_prefix: rates.lr_encoders, "fusion.factors.": own.lr_factors, "": rates.lr_others}
        return self.groups_by_prefix(speeds, rates.weight_decay)
