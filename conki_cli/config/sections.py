"""Settings: frozen dataclasses, one per section. A setting is written down once: type, default, help line, bounds."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from conki_cli.config.setting import DEEPEST, LONGEST_TRAINING, WIDEST, BaselineSection
from conki_cli.config.setting import setting as _setting

MODEL_NAMES = {
    "conki": "ConKI",
    "tfn": "TFN",
    "lmf": "LMF",
    "mult": "MulT",
    "iccn": "ICCN",
    "misa": "MISA",
    "mag-bert": "MAG-BERT",
    "self-mm": "Self-MM",
    "hycon": "HyCon",
    "mmim": "MMIM",
}
"""What the paper's tables call the models."""

BASELINES = tuple(name for name in MODEL_NAMES if name != "conki")
"""The systems that the paper compares ConKI with."""

NO_EXTERNAL = "none"


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from."""

    dataset: str = _setting("mosi", "target data set: the name of a store in features/")
    external: str = _setting("mosei", "external data set whose knowledge is injected, or none")
    max_frames: int = _setting(500, "longest audio or vision sequence in frames; longer ones are cut", low=1)
    cut_external: bool = _setting(False, "cut external sequences to the target's longest (recipe released)")
    threshold: float | None = _setting(
        None, "score that separates the two classes of Acc-2 and F1; not set: 0, where it lies inside the range"
    )
    max_unknown: float = _setting(0.8, "refuse texts with this share of unknown tokens; 1: never", low=0.0, high=1.0)


@dataclass(frozen=True)
class ModelConfig:
    """The network (Figures 1-3)."""

    name: str = _setting("conki", "the model: conki, or a system of Table 2", choices=("conki", *BASELINES))
    text_encoder: str = _setting("bert-base-uncased", "Hugging Face name, or folder, of the text encoder")
    drop: tuple[str, ...] = _setting((), "switched-off parts, for example C4 or C1+V (Tables 4 and 5)")
    num_layers: int = _setting(2, "Transformer layers of the audio and vision encoders", low=2, high=DEEPEST)
    num_heads: int = _setting(8, "attention heads of the audio and vision encoders", low=1, high=WIDEST)
    dropout: float = _setting(0.5, "dropout of the audio and vision encoders", low=0.0, high=0.95)
    adapter_width: int = _setting(
        0, "inner width of an adapter module; 0: that of the text encoder", low=0, high=WIDEST
    )
    adapter_dropout: float = _setting(0.1, "dropout inside the adapters", low=0.0, high=0.95)
    gate_dropout: float = _setting(0.1, "dropout behind the gate of the fusion network", low=0.0, high=0.95)
    gate_norm: str = _setting("layer", "normalisation in the gate of the fusion network", choices=("layer", "batch"))
    adapters: str = _setting("", "exported folder of adapters that stage 2 starts from, instead of a stage 1")
    adapters_checksum: str = _setting("", "checksum of that folder; written by --adapters")


@dataclass(frozen=True)
class LossConfig:
    """The hierarchical contrastive loss (Section 3.4) beside the task loss (Eq. 5)."""

    contrast_weight: float = _setting(0.01, "lambda of Eq. 5", low=0.0)
    temperature: float = _setting(0.07, "tau of Section 3.4", above=0.0)
    reduction: str = _setting(
        "sample-sum",
        "one denominator per sample, summed (paper), or one per vector, averaged",
        choices=("sample-sum", "anchor-mean"),
    )


@dataclass(frozen=True)
class PretrainingConfig:
    """Stage 1: learning from the external data set."""

    num_epochs: int = _setting(10, "epochs of stage 1", low=1, high=LONGEST_TRAINING)
    batch_size: int = _setting(32, "clips per step", low=1)
    learning_rate: float = _setting(5e-5, "peak learning rate of ConKI's stage 1", above=0.0)
    weight_decay: float = _setting(0.0, "AdamW weight decay", low=0.0)
    warmup: float = _setting(0.1, "share of the steps with a growing learning rate", low=0.0, high=1.0)
    lr_encoders: float = _setting(
        0.0, "stage-1 rate of the encoders; 0: frozen (plain transfer, baselines: optimizer.lr_encoders)", low=0.0
    )
    lr_audio_vision: float = _setting(
        0.0, "stage-1 rate of the audio and vision encoders; 0: as pretraining.lr_encoders", low=0.0
    )
    lr_others: float = _setting(
        0.0, "plain transfer, baselines: stage-1 rate of everything else; 0: optimizer.lr_others", low=0.0
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """Stage 2: fine-tuning on the target data set."""

    num_epochs: int = _setting(200, "epochs of stage 2", low=1, high=LONGEST_TRAINING)
    batch_size: int = _setting(32, "clips per step", low=1)
    lr_encoders: float = _setting(5e-6, "peak learning rate of the text encoder", above=0.0)
    lr_audio_vision: float = _setting(0.0, "that of the audio and vision encoders; 0: as lr_encoders", low=0.0)
    lr_others: float = _setting(1e-6, "that of everything else", above=0.0)
    lr_adapters: float = _setting(0.0, "that of adapters that stage 1 trained; 0: frozen, as in the paper", low=0.0)
    weight_decay: float = _setting(1e-3, "AdamW weight decay, none on biases and LayerNorm", low=0.0)
    warmup: float = _setting(0.05, "share of the steps with a growing learning rate", low=0.0, high=1.0)
    patience: int = _setting(0, "stop after so many epochs without a better validation MAE; 0: never", low=0)
    algorithm: str = _setting("adamw", "adamw, or adam with coupled weight decay", choices=("adamw", "adam"))
    schedule: str = _setting("linear", "learning rates: linear decay, or constant", choices=("linear", "constant"))
    accumulate: int = _setting(1, "batches whose gradients are summed for one step", low=1)
    clip_value: float = _setting(0.0, "largest absolute value of a gradient's entry; 0: any", low=0.0)
    clip_norm: float = _setting(0.0, "largest norm of all gradients together; 0: any", low=0.0)
    plateau_patience: int = _setting(
        0, "epochs without a better validation MAE after which the rates fall to a tenth; 0: never", low=0
    )


@dataclass(frozen=True)
class ComputeConfig:
    """Ways to compute faster that change what is learnt a little."""

    precision: str = _setting(
        "fp32", "numbers of the forward pass; weights stay fp32. tf32: GPUs", choices=("fp32", "tf32", "bf16")
    )
    bucket: bool = _setting(False, "batches of clips of similar length; other clips then meet in the contrast")


@dataclass(frozen=True)
class RunSection:
    """How the run is carried out; none of it but the recipe changes what is learnt per seed beyond rounding."""

    recipe: str = _setting("paper", "paper, or released (as the authors' code)", choices=("paper", "released"))
    stage: str = _setting("finetune", "which stage this run is", choices=("pretrain", "finetune"))
    seeds: tuple[int, ...] = _setting((1,), "random seeds, one training each")
    device: str = _setting("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    name: str = _setting("", "folder name below runs/; empty: made from the settings")
    cache: str = _setting(
        "fp32",
        "states of a frozen text encoder: kept as fp32 or fp16, or computed anew",
        choices=("fp32", "fp16", "off"),
    )
    compile: bool = _setting(False, "let torch.compile fuse what happens at every position; slow to start")
    checkpoint_every: int = _setting(0, "steps between checkpoints within an epoch; 0: at its end alone", low=0)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; each section goes only to its consumer."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    run: RunSection = field(default_factory=RunSection)
    own: BaselineSection | None = None
    """The section of a baseline, called like the model; None for ConKI."""

    def dropped(self, switch: str) -> bool:
        """Say whether a part is switched off."""
        return switch in self.model.drop

    @property
    def is_baseline(self) -> bool:
        """Say whether the model is one of the systems that ConKI is compared with."""
        return self.model.name in BASELINES

    @property
    def has_adapters(self) -> bool:
        """Say whether the network has adapters at all."""
        return not (self.is_baseline or self.dropped("C2") or self.dropped("plain-transfer"))

    @property
    def transfers_whole(self) -> bool:
        """Say whether stage 1 trains the whole network on the external data: plain transfer, baselines (Table 6)."""
        return self.is_baseline or self.dropped("plain-transfer")

    @property
    def trains_encoders_first(self) -> bool:
        """Say whether stage 1 trains the encoders too, which stage 2 then starts from."""
        return self.transfers_whole or self.pretraining.lr_encoders > 0

    @property
    def needs_pretraining(self) -> bool:
        """Say whether stage 2 of this configuration starts from a stage 1 (docs/method.md has the table)."""
        if self.data.external == NO_EXTERNAL:
            return False
        return self.has_adapters or self.transfers_whole or not self.dropped("handover")

    @property
    def starts_from_adapters(self) -> bool:
        """Say whether stage 2 starts from adapters that learnt before: in its stage 1, or in an exported folder."""
        return self.needs_pretraining or bool(self.model.adapters_checksum)

    def with_values(self, section: str, **values: Any) -> "RunConfig":
        """Return a copy with some settings of one section replaced."""
        return dataclasses.replace(self, **{section: dataclasses.replace(getattr(self, section), **values)})


SECTIONS: dict[str, Any] = {
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "pretraining": PretrainingConfig,
    "optimizer": OptimizerConfig,
    "compute": ComputeConfig,
    "run": RunSection,
}
"""The sections that every run has."""
