"""Settings: frozen dataclasses, one per section. A setting is declared once, with everything known about it."""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from conki_cli.config.externals import NO_EXTERNAL, external_weights
from conki_cli.config.setting import DEEPEST, LONGEST_TRAINING, WIDEST, BaselineSection, Reader
from conki_cli.config.setting import setting as _setting

MODELS = ("conki", "tfn", "lmf", "mult", "iccn", "misa", "mag-bert", "self-mm", "hycon", "mmim")
"""ConKI, then the other systems in the order of the paper's Table 2."""
RECIPES = ("paper", "released")
BASELINES = MODELS[1:]
"""The systems that the paper compares ConKI with."""

_STAGE_TWO: tuple[Reader, ...] = ("stage 2",)
_network = partial(_setting, read_by=("adapters", "whole", "stage 2"))
_contrast = partial(_setting, read_by=_STAGE_TWO)
_first_pass = partial(_setting, read_by=("adapters", "whole"))
_fit = partial(_setting, read_by=("whole", "stage 2", "baselines"))
_fit_added = partial(_fit, since="0.2")
_added = partial(_setting, since="0.2")
_way = partial(_setting, learnt=False)
_way_added = partial(_way, since="0.2")
_epochs = partial(_setting, low=1, high=LONGEST_TRAINING, flag="--epochs")


@dataclass(frozen=True)
class DataConfig:
    """The data."""

    dataset: str = _setting("mosi", "target data set: the name of a store in features/", flag="--dataset")
    external: str = _setting(
        "mosei",
        "external data set, several as A+B or with weights A:2+B, or none (where the target is mosei: mosi)",
        flag="--external",
    )
    max_frames: int = _setting(500, "longest audio or vision sequence in frames; longer ones are truncated", low=1)
    cut_external: bool = _setting(False, "truncate external sequences to the target's longest (recipe released)")
    threshold: float | None = _way_added(
        None,
        "score that separates the two classes of Acc-2 and F1; not set: 0, if that is inside the range",
        flag="--threshold",
        of_results=True,
    )
    limit: int = _added(
        0, "use only this many clips per split, spread evenly, for a quick look; 0: all", low=0, flag="--limit"
    )
    context: int = _added(
        0, "preceding clips of the same video that the text encoder reads behind a clip's own text", low=0, high=100
    )
    context_after: int = _added(
        0, "following clips of the same video that it reads as well; 0: never the future", low=0, high=100
    )
    max_unknown: float = _way_added(0.8, "refuse texts with this share of unknown tokens; 1: never", low=0.0, high=1.0)


@dataclass(frozen=True)
class ModelConfig:
    """The network (Figures 1-3)."""

    name: str = _setting(
        "conki",
        "model: conki, or a system of Table 2 (`conki models` lists them)",
        choices=MODELS,
        flag="--model",
    )
    text_encoder: str = _setting(
        "bert-base-uncased", "text encoder: a Hugging Face name, or a folder", flag="--encoder"
    )
    drop: tuple[str, ...] = _setting((), "switched-off parts, for example C4 or C1+V (Tables 4 and 5)", flag="--drop")
    num_layers: int = _network(2, "Transformer layers of the audio and vision encoders", low=2, high=DEEPEST)
    num_heads: int = _network(8, "attention heads of the audio and vision encoders", low=1, high=WIDEST)
    dropout: float = _network(0.5, "dropout of the audio and vision encoders", low=0.0, high=0.95)
    adapter_width: int = _network(
        0, "inner width of an adapter module; 0: the text encoder's width", low=0, high=WIDEST
    )
    adapter_dropout: float = _network(0.1, "dropout inside the adapters", low=0.0, high=0.95)
    gate_dropout: float = _network(0.1, "dropout after the gate of the fusion network", low=0.0, high=0.95)
    gate_norm: str = _network("layer", "normalisation in the gate of the fusion network", choices=("layer", "batch"))
    adapters: str = _setting(
        "", "exported folder of adapters that stage 2 starts from", read_by=_STAGE_TWO, learnt=False, since="0.2"
    )
    adapters_checksum: str = _setting(
        "", "checksum of that folder; written by --adapters", read_by=_STAGE_TWO, since="0.2"
    )


@dataclass(frozen=True)
class LossConfig:
    """The hierarchical contrastive loss (Section 3.4) beside the task loss (Eq. 5)."""

    contrast_weight: float = _contrast(0.01, "lambda of Eq. 5", low=0.0)
    temperature: float = _contrast(0.07, "tau of Section 3.4", above=0.0)
    reduction: str = _contrast(
        "sample-sum",
        "one denominator per sample, summed (paper), or one per vector, averaged",
        choices=("sample-sum", "anchor-mean"),
    )


@dataclass(frozen=True)
class PretrainingConfig:
    """Stage 1: learning from the external data set."""

    num_epochs: int = _epochs(10, "epochs of stage 1", read_by=("adapters", "whole", "baselines"))
    # A stage 1 of the whole network (plain transfer) learns with [optimizer], but the next four count in its digest.
    batch_size: int = _first_pass(32, "clips per step", low=1)
    learning_rate: float = _first_pass(5e-5, "peak learning rate of ConKI's stage 1", above=0.0)
    weight_decay: float = _first_pass(0.0, "AdamW weight decay", low=0.0)
    warmup: float = _first_pass(0.1, "share of the steps in which the learning rate grows", low=0.0, high=1.0)
    lr_encoders: float = _added(
        0.0,
        "stage-1 rate of the encoders; 0: frozen (plain transfer, baselines: optimizer.lr_encoders)",
        low=0.0,
    )
    lr_audio_vision: float = _added(
        0.0, "stage-1 rate of the audio and vision encoders; 0: same as pretraining.lr_encoders", low=0.0
    )
    lr_others: float = _added(
        0.0, "plain transfer, baselines: stage-1 rate of everything else; 0: optimizer.lr_others", low=0.0
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """Stage 2: fine-tuning on the target data set."""

    num_epochs: int = _epochs(200, "epochs of stage 2; stage 1 has its own setting", read_by=("stage 2", "baselines"))
    batch_size: int = _fit(32, "clips per step", low=1)
    lr_encoders: float = _fit(5e-6, "peak learning rate of the text encoder", above=0.0)
    lr_audio_vision: float = _fit(
        0.0,
        "peak learning rate of the audio and vision encoders; 0: same as lr_encoders",
        low=0.0,
        read_by=("whole", "stage 2"),
    )
    lr_others: float = _fit(1e-6, "peak learning rate of everything else", above=0.0)
    lr_adapters: float = _fit_added(
        0.0,
        "peak learning rate of adapters that stage 1 trained; 0: frozen, as in the paper",
        low=0.0,
        read_by=_STAGE_TWO,
    )
    weight_decay: float = _fit(1e-3, "AdamW weight decay, none on biases and LayerNorm", low=0.0)
    warmup: float = _fit(0.05, "share of the steps in which the learning rate grows", low=0.0, high=1.0)
    patience: int = _fit(0, "stop after this many epochs without a better validation MAE; 0: never", low=0)
    algorithm: str = _fit_added("adamw", "adamw, or adam with coupled weight decay", choices=("adamw", "adam"))
    schedule: str = _fit_added("linear", "learning rates: linear decay, or constant", choices=("linear", "constant"))
    accumulate: int = _fit_added(1, "batches whose gradients are summed per step", low=1)
    clip_value: float = _fit_added(0.0, "clip every gradient entry to this absolute value; 0: no clipping", low=0.0)
    clip_norm: float = _fit_added(0.0, "clip the norm of all gradients together to this value; 0: no clipping", low=0.0)
    plateau_patience: int = _fit_added(
        0, "divide the rates by ten after more than this many epochs without a better validation MAE; 0: never", low=0
    )
    modality_dropout: tuple[float, ...] = _added(
        (),
        "share of training clips that lose a modality, in both stages: one number, or text, vision, audio; []: none",
        low=0.0,
        high=0.9,
    )


@dataclass(frozen=True)
class ComputeConfig:
    """Faster computation that slightly changes what is learnt."""

    precision: str = _added(
        "fp32",
        "number format of the forward pass (tf32: GPUs only); weights stay fp32",
        choices=("fp32", "tf32", "bf16"),
        flag="--precision",
    )
    bucket: bool = _added(
        False, "group clips of similar length; this changes which clips share a batch", flag="--bucket"
    )


@dataclass(frozen=True)
class RunSection:
    """How the run is carried out; only the recipe changes what a seed learns beyond rounding."""

    recipe: str = _network("paper", "follow the paper, or the authors' released code", choices=RECIPES, flag="--recipe")
    stage: str = _setting("finetune", "which stage this run is", choices=("pretrain", "finetune"))
    seeds: tuple[int, ...] = _way((1,), "random seeds, one each (1..5 or 1,4,9)", flag="--seeds", of_results=True)
    device: str = _way(
        "auto",
        "where to compute: auto, cpu, cuda, cuda:1, mps, xpu or another device of torch",
        pattern=r"[a-z]+(:\d{1,4})?",
        flag="--device",
    )
    name: str = _way("", "folder name below runs/; empty: derived from the settings", flag="--name")
    cache: str = _way_added(
        "fp32",
        "cache the frozen text encoder's hidden states below frozen/",
        choices=("fp32", "fp16", "off"),
        flag="--cache",
    )
    compile: bool = _way_added(False, "fuse operations with torch.compile; for GPUs, slow to start", flag="--compile")
    checkpoint_every: int = _way_added(0, "steps between checkpoints within an epoch; 0: only at its end", low=0)


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
    """The section of a baseline, which has the model's name; None for ConKI."""

    def dropped(self, switch: str) -> bool:
        """Say whether a part is switched off."""
        return switch in self.model.drop

    @property
    def externals(self) -> tuple[str, ...]:
        """The names of the external data sets."""
        return tuple(external_weights(self.data.external))

    @property
    def is_baseline(self) -> bool:
        """Say whether the model is one of the systems that ConKI is compared with."""
        return self.model.name in BASELINES

    @property
    def has_adapters(self) -> bool:
        """Say whether the network has adapters."""
        return not (self.is_baseline or self.dropped("C2") or self.dropped("plain-transfer"))

    @property
    def transfers_whole(self) -> bool:
        """Say whether stage 1 trains the whole network on the external data: plain transfer, baselines (Table 6)."""
        return self.is_baseline or self.dropped("plain-transfer")

    @property
    def trains_encoders_first(self) -> bool:
        """Say whether stage 1 also trains the encoders, which stage 2 then starts from."""
        return self.transfers_whole or self.pretraining.lr_encoders > 0

    @property
    def needs_pretraining(self) -> bool:
        """Say whether stage 2 of this configuration starts from a stage 1 (docs/method.md has the table)."""
        if self.data.external == NO_EXTERNAL:
            return False
        return self.has_adapters or self.transfers_whole or not self.dropped("handover")

    @property
    def starts_from_adapters(self) -> bool:
        """Say whether stage 2 starts from trained adapters: of its stage 1, or of an exported folder."""
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
