"""The settings of the nine systems that the paper compares with, one section each.

Defaults are those for CMU-MOSI; presets/<model>.toml holds what differs on MOSEI and SIMS. Batch size, epochs, rates of
text encoder and rest, weight decay, clipping and accumulation are in [optimizer]. docs/baselines.md names the sources.
"""

from dataclasses import dataclass

from conki_cli.config.setting import DEEPEST, LONGEST_TRAINING, WIDEST, BaselineSection, setting


@dataclass(frozen=True)
class TfnConfig(BaselineSection):
    """Tensor Fusion Network (Zadeh et al., 2017)."""

    text_hidden: int = setting(128, "width of the text LSTM", low=1, high=WIDEST)
    audio_hidden: int = setting(32, "width of the audio sub-network", low=1, high=WIDEST)
    vision_hidden: int = setting(128, "width of the vision sub-network", low=1, high=WIDEST)
    text_out: int = setting(32, "width of the text representation", low=1, high=WIDEST)
    fusion_width: int = setting(64, "width of the layers after the tensor", low=1, high=WIDEST)
    audio_dropout: float = setting(0.3, "dropout of the audio sub-network", low=0.0, high=0.95)
    vision_dropout: float = setting(0.3, "dropout of the vision sub-network", low=0.0, high=0.95)
    fusion_dropout: float = setting(0.5, "dropout of the tensor", low=0.0, high=0.95)
    train_text: bool = setting(False, "fine-tune the text encoder instead of keeping it frozen")


@dataclass(frozen=True)
class LmfConfig(BaselineSection):
    """Low-rank Multimodal Fusion (Liu et al., 2018)."""

    text_hidden: int = setting(
        128, "width of the text LSTM; the text representation has half this width", low=2, high=WIDEST
    )
    audio_hidden: int = setting(16, "width of the audio sub-network", low=1, high=WIDEST)
    vision_hidden: int = setting(128, "width of the vision sub-network", low=1, high=WIDEST)
    rank: int = setting(3, "rank of the factors", low=1, high=WIDEST)
    audio_dropout: float = setting(0.3, "dropout of the audio sub-network", low=0.0, high=0.95)
    vision_dropout: float = setting(0.3, "dropout of the vision sub-network", low=0.0, high=0.95)
    lr_factors: float = setting(1e-3, "learning rate of the factors", above=0.0)
    train_text: bool = setting(False, "fine-tune the text encoder instead of keeping it frozen")


@dataclass(frozen=True)
class MultConfig(BaselineSection):
    """Multimodal Transformer (Tsai et al., 2019)."""

    width: int = setting(50, "common width of the modalities", low=1, high=WIDEST)
    num_heads: int = setting(10, "attention heads; their number must divide the width", low=1, high=WIDEST)
    num_layers: int = setting(4, "layers of each cross-modal encoder", low=1, high=DEEPEST)
    text_kernel: int = setting(5, "kernel of the text convolution", low=1, high=DEEPEST)
    audio_kernel: int = setting(5, "kernel of the audio convolution", low=1, high=DEEPEST)
    vision_kernel: int = setting(5, "kernel of the vision convolution", low=1, high=DEEPEST)
    text_dropout: float = setting(0.5, "dropout of the text sequence", low=0.0, high=0.95)
    attention_dropout: float = setting(0.3, "dropout of attention to text, and of self-attention", low=0.0, high=0.95)
    audio_attention_dropout: float = setting(0.2, "dropout of attention to audio", low=0.0, high=0.95)
    vision_attention_dropout: float = setting(0.0, "dropout of attention to vision", low=0.0, high=0.95)
    relu_dropout: float = setting(0.0, "dropout inside the feed-forward layers", low=0.0, high=0.95)
    embedding_dropout: float = setting(0.2, "dropout of the embedded sequences", low=0.0, high=0.95)
    residual_dropout: float = setting(0.0, "dropout before the residual sums", low=0.0, high=0.95)
    output_dropout: float = setting(0.5, "dropout in the head", low=0.0, high=0.95)
    train_text: bool = setting(False, "fine-tune the text encoder instead of keeping it frozen")


@dataclass(frozen=True)
class IccnConfig(BaselineSection):
    """Interaction Canonical Correlation Network (Sun et al., 2020)."""

    text_width: int = setting(64, "width of the text representation; 0: the text encoder's width", low=0, high=WIDEST)
    sequence_width: int = setting(32, "width of the audio and vision representations", low=4, high=WIDEST)
    out_width: int = setting(16, "width of text-based audio and text-based vision", low=1, high=WIDEST)
    ridge: float = setting(1e-3, "r, added to the diagonal of the covariances", low=0.0)
    cca_epochs: int = setting(
        10, "epochs on the correlation alone, before the scores are learnt", low=0, high=LONGEST_TRAINING
    )
    cca_batch_size: int = setting(128, "clips per step of the correlation; well above out_width", low=2)
    lr_cca: float = setting(1e-3, "learning rate of the correlation", above=0.0)
    joint: bool = setting(False, "learn correlation and scores together, in one phase", since="0.2")
    joint_weight: float = setting(0.1, "weight of the correlation if both are learnt together", low=0.0, since="0.2")

    @property
    def epochs_without_scores(self) -> int:
        """The epochs on the correlation alone."""
        return 0 if self.joint else self.cca_epochs

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warn if a step has few clips, which overstates a correlation: with clips <= dimensions it is always 1."""
        if not self.epochs_without_scores or self.cca_batch_size >= 4 * self.out_width:
            return ()
        return (
            f"iccn.cca_batch_size is {self.cca_batch_size}, less than four times iccn.out_width ({self.out_width}): "
            "correlations of so few clips are overstated; raise the former or lower the latter",
        )


@dataclass(frozen=True)
class MisaConfig(BaselineSection):
    """Modality-Invariant and -Specific Representations (Hazarika et al., 2020)."""

    width: int = setting(128, "width of the private and shared spaces; must be even", low=2, high=WIDEST)
    dropout: float = setting(0.2, "dropout of the head", low=0.0, high=0.95)
    difference_weight: float = setting(0.1, "weight of the orthogonality of private and shared", low=0.0)
    similarity_weight: float = setting(0.3, "weight of the central moment discrepancy", low=0.0)
    reconstruction_weight: float = setting(1.0, "weight of the reconstruction", low=0.0)
    orthogonal: bool = setting(False, "orthogonal recurrent matrices, as in the original code")
    freeze_layers: int = setting(0, "number of lower blocks of the text encoder that are frozen", low=0, high=DEEPEST)


@dataclass(frozen=True)
class MagBertConfig(BaselineSection):
    """Multimodal Adaptation Gate for BERT (Rahman et al., 2020)."""

    dropout: float = setting(0.3, "dropout after the gate", low=0.0, high=0.95)
    beta: float = setting(1.0, "largest shift of an embedding by the gate, as a share of its length", low=0.0)
    head_dropout: float = setting(0.1, "dropout of the pooled output", low=0.0, high=0.95)


@dataclass(frozen=True)
class SelfMmConfig(BaselineSection):
    """Self-Supervised Multi-task learning (Yu et al., 2021)."""

    audio_hidden: int = setting(16, "width of the audio LSTM", low=1, high=WIDEST)
    audio_out: int = setting(16, "width of the audio representation", low=1, high=WIDEST)
    vision_hidden: int = setting(32, "width of the vision LSTM", low=1, high=WIDEST)
    vision_out: int = setting(32, "width of the vision representation", low=1, high=WIDEST)
    fusion_width: int = setting(128, "width of the multimodal head", low=1, high=WIDEST)
    text_width: int = setting(32, "width of the text head", low=1, high=WIDEST)
    audio_width: int = setting(16, "width of the audio head", low=1, high=WIDEST)
    vision_width: int = setting(32, "width of the vision head", low=1, high=WIDEST)
    fusion_dropout: float = setting(0.0, "dropout of the multimodal head", low=0.0, high=0.95)
    text_dropout: float = setting(0.1, "dropout of the text head", low=0.0, high=0.95)
    audio_dropout: float = setting(0.1, "dropout of the audio head", low=0.0, high=0.95)
    vision_dropout: float = setting(0.0, "dropout of the vision head", low=0.0, high=0.95)
    lr_audio: float = setting(5e-3, "learning rate of the audio LSTM and its Linear", above=0.0)
    lr_vision: float = setting(5e-3, "learning rate of the vision LSTM and its Linear", above=0.0)
    decay_audio: float = setting(1e-3, "weight decay of the audio LSTM and its Linear", low=0.0)
    decay_vision: float = setting(1e-3, "weight decay of the vision LSTM and its Linear", low=0.0)
    decay_others: float = setting(1e-3, "weight decay of the heads", low=0.0)


@dataclass(frozen=True)
class HyconConfig(BaselineSection):
    """Hybrid Contrastive learning (Mai et al., 2021)."""

    width: int = setting(40, "common width of the modalities", low=1, high=WIDEST)
    num_heads: int = setting(5, "attention heads; their number must divide the width", low=1, high=WIDEST)
    num_layers: int = setting(3, "layers of the audio and vision encoders", low=1, high=DEEPEST)
    attention_dropout: float = setting(0.5, "dropout of the attention weights", low=0.0, high=0.95)
    dropout: float = setting(0.3, "dropout elsewhere in these encoders", low=0.0, high=0.95)
    intra_weight: float = setting(0.1, "weight of the intra-modal contrast", low=0.0)
    inter_weight: float = setting(0.1, "weight of the inter-modal contrast", low=0.0)
    semi_weight: float = setting(0.1, "weight of the semi-contrast", low=0.0)


@dataclass(frozen=True)
class MmimConfig(BaselineSection):
    """MultiModal InfoMax (Han et al., 2021)."""

    audio_hidden: int = setting(16, "width of the audio LSTM in each direction", low=1, high=WIDEST)
    vision_hidden: int = setting(16, "width of the vision LSTM in each direction", low=1, high=WIDEST)
    audio_out: int = setting(16, "width of the audio representation", low=1, high=WIDEST)
    vision_out: int = setting(16, "width of the vision representation", low=1, high=WIDEST)
    fusion_width: int = setting(128, "width of the fusion", low=1, high=WIDEST)
    dropout: float = setting(0.1, "dropout of the fusion", low=0.0, high=0.95)
    nce_weight: float = setting(0.1, "alpha, weight of the contrastive prediction", low=0.0)
    mi_weight: float = setting(0.1, "beta, weight of the likelihood bound and the entropy", low=0.0)
    lr_mi: float = setting(1e-3, "learning rate of the likelihood networks", above=0.0)
    lld_share: float = setting(1.0, "share of the batches that the likelihood pass sees", above=0.0, high=1.0)


BASELINE_SECTIONS: dict[str, type[BaselineSection]] = {
    "tfn": TfnConfig,
    "lmf": LmfConfig,
    "mult": MultConfig,
    "iccn": IccnConfig,
    "misa": MisaConfig,
    "mag-bert": MagBertConfig,
    "self-mm": SelfMmConfig,
    "hycon": HyconConfig,
    "mmim": MmimConfig,
}
"""The section of every model, which has the model's name."""
