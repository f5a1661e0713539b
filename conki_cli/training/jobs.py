"""One stage of one configuration with opened inputs: its network, and checks of what cannot work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from conki_cli.config.models import label_of
from conki_cli.config.sections import RunConfig
from conki_cli.data.store.reading import FeatureStore
from conki_cli.metrics import neutral_score
from conki_cli.model import zoo
from conki_cli.model.absence import dropout_shares
from conki_cli.model.batches import Batches
from conki_cli.model.contract import Architecture, SentimentModel
from conki_cli.model.inputs import Inputs
from conki_cli.model.layers import compile_positions
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.runs import Run
from conki_cli.system.errors import SettingsError
from conki_cli.system.observer import Observer
from conki_cli.text import TextReport, backbone_from_config, count_tokens, encoder_sizes, load_backbone
from conki_cli.text.context import separator_of
from conki_cli.training import checkpoint
from conki_cli.training import loop as training
from conki_cli.training.adapters import GivenAdapters
from conki_cli.training.evaluation import check_memory, memory_advice
from conki_cli.training.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

READ_AT_ONCE = 64
"""Clips per block when a split is checked without a network."""


@dataclass(frozen=True)
class Job:
    """One stage of one configuration, ready to train its seeds."""

    config: RunConfig
    run: Run
    inputs: Inputs
    encoder: str
    device: torch.device
    observer: Observer
    data: Mapping[str, str] = field(default_factory=dict)
    """Content id of every store that the run reads, by data set."""
    unused_tokenizer: "PreTrainedTokenizerBase | None" = None
    """The text encoder's tokenizer as it was loaded, to be saved with the run; None: load it again."""
    ranks: Ranks = ALONE
    """The processes that train together."""

    @property
    def stores(self) -> list[FeatureStore]:
        """Every store that this stage reads."""
        externals = [part.external for part in self.inputs.sources if part.external is not None]
        return [self.inputs.target, *externals]

    @property
    def score_ranges(self) -> dict[str, tuple[float, float]]:
        """The score range of every store that this stage trains on, by data set."""
        names = [self.config.data.dataset, *self.config.externals]
        return {name: store.score_range for name, store in zip(names, self.stores, strict=False)}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that this stage reads: stage 1 never sees the external test split, a sweep no test split."""
        return ("train", "valid") if self.config.run.stage == "pretrain" else self.inputs.target.splits


@dataclass(frozen=True)
class NetworkSize:
    """The size of a network, and the disk space of one seed."""

    num_parameters: int
    num_trained: int
    while_training: int
    """Bytes of a seed's checkpoints while it trains."""
    afterwards: int
    """Bytes of a finished seed's checkpoints."""


def check_network(job: Job) -> NetworkSize:
    """Refuse what cannot train, as far as the inputs show it, before anything is written.

    The network is built without values: this draws no random numbers, loads nothing and allocates no memory.

    Returns:
        Its size.

    Raises:
        ConkiError: the settings do not fit each other, the inputs or the device, or the network is too large.
    """
    config, on_cpu = job.config, job.device.type == "cpu"
    if config.model.adapters_checksum:
        GivenAdapters.of(config).check(job.inputs, job.encoder, config)
    neutral_score(job.inputs.score_range, config.data.threshold)
    if config.compute.precision == "tf32" and on_cpu:
        raise SettingsError("--precision tf32 needs a GPU, and this run computes on the CPU")
    with memory_advice(None), torch.device("meta"):
        backbone = backbone_from_config(job.encoder) if "text" in job.inputs.modalities else None
        model = _network(job, backbone, frozenset())
    weights = sum(tensor.numel() for tensor in model.state_dict().values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    check_memory(4 * (weights + 3 * trained * on_cpu))  # with a gradient and two moments, float32
    dropout_shares(job.config, job.inputs.modalities, model.optional_modalities)
    check_scores(job, model)
    schedule = training.schedule_of(config, config.run.seeds[0])
    for part in job.inputs.sources:
        training.check_batches(model, len(part.clips("train")), schedule.batch_size)
        part.context.check(part.learnt.split("train"))
    for report in text_reports(job):
        report.check(config.data.max_unknown)
    if "test" in job.splits:
        _look_through(job, "test")
    names, kept = model.stored_names()
    frozen = [*kept, *frozen_text(model)]
    count = sum(p.numel() for p in model.parameters())
    return NetworkSize(count, trained, *checkpoint.size_while_training(model, names, frozen))


def check_scores(job: Job, model: SentimentModel) -> str:
    """Refuse scores that a model cannot predict.

    Returns:
        A warning about scores that a part of its loss was not made for, or nothing.

    Raises:
        SettingsError: they are outside what it predicts.
    """
    (low, high), limit, label = job.inputs.score_range, model.largest_score, label_of(job.config.model.name)
    found = f"those of {job.config.data.dataset} go from {low:g} to {high:g}"
    if not model.can_predict((low, high)):
        raise SettingsError(
            f"{label} predicts scores from -{limit:g} to {limit:g}, but {found}", "choose another --model"
        )
    if model.reads_signs and not low < 0 < high:
        return f"warning: a part of the loss of {label} compares scores below 0 with others, but {found}"
    return ""


def training_batches(job: Job, model: SentimentModel, seed: int) -> tuple[Batches, Batches]:
    """Return the batches of the training split, of whose clips some lose a modality, and of the validation split.

    Raises:
        SettingsError: clips would lose a modality that the model needs.
    """
    size = training.schedule_of(job.config, seed).batch_size
    shares = dropout_shares(job.config, job.inputs.modalities, model.optional_modalities)
    train = job.inputs.batches("train", batch_size=size, seed=seed, shares=shares)
    return train, job.inputs.batches("valid", batch_size=size)


def frozen_text(model: SentimentModel) -> list[str]:
    """Name the weights of a text encoder that no stage trains, which a run stores once for all seeds."""
    if not model.text_is_frozen:
        return []
    return [name for name in model.state_dict() if name.startswith(model.text_prefix)]


def text_reports(job: Job) -> list[TextReport]:
    """Count tokens, unknown and truncated ones of every set and split that a stage reads; empty without text."""
    return [_text_report(part, job.splits) for part in job.inputs.sources]


def text_facts(job: Job) -> dict[str, dict[str, float]]:
    """Return the counts of tokens for a result.json, by split; of several sets by 'set/split'."""
    found = {report.what: report.as_facts() for report in text_reports(job)}
    if len(found) == 1:
        return next(iter(found.values()))
    return {f"{name}/{split}": counts for name, facts in found.items() for split, counts in facts.items()}


def _text_report(inputs: Inputs, splits: Sequence[str]) -> TextReport:
    tokenizer = inputs.tokenizer
    counts = {split: count_tokens(tokenizer, *tokens) for split, tokens in inputs.tokens(splits).items()}
    return TextReport(inputs.learnt.dataset, tokenizer, counts, lambda split: inputs.clips(split).texts)


def _look_through(job: Job, split: str) -> None:
    """Read a split once, so that invalid numbers are refused now and not after all epochs."""
    for _ in job.inputs.batches(split, batch_size=READ_AT_ONCE).epoch():
        pass


def build_model(job: Job, seed: int, first: Run | None) -> SentimentModel:
    """Build the network of a run, initialised by its seed, with the weights that the stage-1 run `first` hands over."""
    torch.manual_seed(seed)
    config, has_text = job.config, "text" in job.inputs.modalities
    backbone, fresh = load_backbone(job.encoder) if has_text else (None, frozenset())
    model = _network(job, backbone, fresh)
    if first is not None:
        stored, _ = checkpoint.load_best(first, seed)
        checkpoint.restore(model, {name: stored[name] for name in model.handed_over()}, f"stage 1 in {first.path}")
    if config.model.adapters_checksum:
        GivenAdapters.of(config).give(model, seed, job.observer)
    torch.set_float32_matmul_precision("high" if config.compute.precision == "tf32" else "highest")
    if config.run.compile:
        compile_positions(model)
    return model.to(job.device)


def _network(job: Job, backbone: "PreTrainedModel | None", fresh: frozenset[str]) -> SentimentModel:
    """Make the network of a run around the text encoder's backbone."""
    (width, num_layers), inputs = encoder_sizes(job.encoder, reads_text=backbone is not None), job.inputs
    names = [name for name in inputs.modalities if name != "text"]
    architecture = Architecture(
        modalities=inputs.modalities,
        width=width,
        text_layers=num_layers,
        widths={name: inputs.target.widths[name] for name in names},
        positions={name: inputs.limits[name] for name in names},
        external_widths=inputs.external_widths,
    )
    text = None
    if backbone is not None:
        separator = separator_of(inputs.tokenizer, backbone.config, inputs.context)
        text = TextEncoder(backbone, width=width, fresh=fresh, separator=separator)
    return zoo.build(job.config, architecture, text)
