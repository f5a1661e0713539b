"""TFN: the Tensor Fusion Network (Zadeh et al., EMNLP 2017).

Every modality becomes one vector. The outer product of the three, each with a 1 in front, holds all single, pairwise
and threefold products of their entries; a small network reads the score from it.

Pinned by sources: layers and the order of the product (two public implementations agree, Justin1904's and MMSA's);
sizes, dropouts, rates and the L1 loss (MMSA's settings); the score is between -3 and 3 on every data set, also SIMS.
Our choice: fine-tuning the text encoder as an option (MMSA reads its states from a file).
Departures: audio and vision are averaged over the real frames and the LSTM stops at the last real token, where MMSA
divides by the padded length and runs on; no scaling of vision by its largest values, which BatchNorm makes redundant.

Axis letters: B batch, L positions, D hidden size of the text encoder, d width of a vector.
"""

import torch
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.baselines import LmfConfig, TfnConfig
from conki_cli.config.sections import RunConfig
from conki_cli.model.baselines.subnets import LstmHead, SubNet, relu_mlp
from conki_cli.model.batches import Batch
from conki_cli.model.contract import Architecture, Output, SentimentModel
from conki_cli.model.layers import masked_mean
from conki_cli.model.losses import absolute_loss
from conki_cli.model.text_encoder import TextEncoder

FACTS = {
    "label": "TFN",
    "title": "Tensor Fusion Network for Multimodal Sentiment Analysis",
    "authors": "Zadeh, Chen, Poria, Cambria, Morency",
    "year": 2017,
    "venue": "EMNLP",
    "idea": "one outer product holds every single, pairwise and threefold interaction of the three modalities",
    "pinned": "layers and order of the product by two public implementations; sizes, rates and L1 by MMSA",
    "ours": "means over the real frames; the LSTM stops at the last real token",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""

LARGEST_SCORE = 3.0
"""The head's scores are inside the open interval from minus this to this."""


class ClipEncoder(nn.Module):
    """One vector per modality: a network over mean audio and mean vision each, an LSTM over the text (TFN, LMF)."""

    def __init__(self, own: TfnConfig | LmfConfig, architecture: Architecture, *, text_out: int) -> None:
        super().__init__()
        widths = architecture.widths
        self.audio = SubNet(widths["audio"], own.audio_hidden, dropout=own.audio_dropout)
        self.vision = SubNet(widths["vision"], own.vision_hidden, dropout=own.vision_dropout)
        self.text = LstmHead(architecture.width, own.text_hidden, text_out)

    def forward(self, model: SentimentModel, batch: Batch) -> dict[str, Tensor]:
        """Turn text states and frames, as a model reads them of a batch, into t, v and a, each [B, d].

        A modality that a clip lacks is 0, so its (1; 0) leaves exactly the products of the others.
        """
        words = batch.modality("text")
        text = self.text(model.text_states(batch), words.mask, words.lengths)
        frames = {name: model.frames(batch, name) for name in ("vision", "audio")}
        means = {name: masked_mean(part.values, part.mask) for name, part in frames.items()}
        return {
            "t": batch.masked("text", text),
            "v": self.vision(means["vision"], batch.present("vision")),
            "a": self.audio(means["audio"], batch.present("audio")),
        }


def with_one(vectors: Tensor) -> Tensor:
    """Prepend a 1 to vectors [B, d] -> [B, 1+d], so that their products include the lower-order ones."""
    return torch.cat([vectors.new_ones(len(vectors), 1), vectors], dim=1)


def outer_product(audio: Tensor, vision: Tensor, text: Tensor) -> Tensor:
    """Multiply every entry of (1; audio), (1; vision) and (1; text) with every other.

    Args:
        audio: [B, a].
        vision: [B, v].
        text: [B, t].

    Returns:
        [B, (1+a)(1+v)(1+t)]; the index of the text runs fastest, that of audio slowest.
    """
    parts = (with_one(audio), with_one(vision), with_one(text))
    return torch.einsum("bi,bj,bk->bijk", *parts).flatten(1)


def bounded(logits: Tensor) -> Tensor:
    """Map logits [B] to scores between -3 and 3."""
    return 2 * LARGEST_SCORE * torch.sigmoid(logits) - LARGEST_SCORE


class Tfn(SentimentModel):
    """The outer product of three modality vectors, and a network that reads it."""

    required_modalities = frozenset(MODALITIES)
    largest_score = LARGEST_SCORE

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, text_encoder)
        own = config.own
        assert isinstance(own, TfnConfig)
        if self.text is not None and not own.train_text:
            self.freeze(self.text)
        self.clip_encoder = ClipEncoder(own, architecture, text_out=own.text_out)
        product = (1 + own.audio_hidden) * (1 + own.vision_hidden) * (1 + own.text_out)
        self.head = relu_mlp([product, own.fusion_width, own.fusion_width, 1], dropout=own.fusion_dropout)

    def forward(self, batch: Batch) -> Output:
        """Predict the scores of a batch; `f` is the outer product."""
        clips = self.clip_encoder(self, batch)
        fused = outer_product(clips["a"], clips["v"], clips["t"])
        return Output(bounded(self.head(fused).squeeze(-1)), parts={**clips, "f": fused})

    def smallest_batch(self, phase: str) -> int:
        """Return 2: BatchNorm cannot train on one clip."""
        return 2

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the mean absolute error."""
        return {"task": absolute_loss(output.prediction, batch.scores)}
