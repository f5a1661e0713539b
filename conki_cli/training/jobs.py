"""One stage of one configuration, opened: what it reads, its network, and what is known not to work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from conki_cli.config.sections import RunConfig
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import SPLITS
from conki_cli.metrics import neutral_score
from conki_cli.model import zoo
from conki_cli.model.batches import Inputs
from conki_cli.model.contract import Architecture, SentimentModel
from conki_cli.model.layers import compile_positions
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.runs import Run, open_run, write_extraction, write_scale
from conki_cli.system.errors import SettingsError
from conki_cli.system.workspace import Reporter, Workspace
from conki_cli.text import TextReport, backbone_from_config, count_tokens, encoder_sizes, load_backbone
from conki_cli.training import checkpoint
from conki_cli.training import loop as training
from conki_cli.training.evaluation import check_memory, memory_advice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

READ_AT_ONCE = 64
"""Clips of a split that is looked through without a network."""


@dataclass(frozen=True)
class Job:
    """One stage of one configuration, ready to train its seeds."""

    config: RunConfig
    run: Run
    inputs: Inputs
    encoder: str
    device: torch.device
    reporter: Reporter
    data: Mapping[str, str] = field(default_factory=dict)
    """Content id of every store that the run reads, by data set."""
    overwrites: bool = False
    """Whether what stands in the run's folder is discarded before training begins."""

    @property
    def stores(self) -> list[FeatureStore]:
        """Every store that this stage reads."""
        return [store for store in (self.inputs.target, self.inputs.external) if store is not None]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that this stage reads: stage 1 never sees the external test split."""
        return ("train", "valid") if self.config.run.stage == "pretrain" else SPLITS

    def begin(self) -> None:
        """Make the run folder, or add the seeds to the one that is there.

        Raises:
            RunError: a run of that name has other settings or saw other data.
        """
        run = open_run(Workspace(self.run.path.parent.parent), self.config, self.data, self.inputs.score_range)
        if self.config.run.stage == "finetune":
            write_scale(run, self.inputs.target)
            write_extraction(run, self.inputs.target)


def is_finished(job: Job) -> bool:
    """Say whether nothing of a job is left to train."""
    return all(job.run.seed_result(seed) is not None for seed in job.config.run.seeds)


def check_network(job: Job) -> None:
    """Refuse what can be known not to train from the inputs alone, before anything is written.

    The network is built without values: nothing is drawn, nothing is loaded, no memory is taken.

    Raises:
        ConkiError: settings that do not fit each other, the inputs or the device, or a network too large.
    """
    config, on_cpu = job.config, job.device.type == "cpu"
    neutral_score(job.inputs.score_range, config.data.threshold)
    if config.compute.precision == "tf32" and on_cpu:
        raise SettingsError("--precision tf32 is a kind of number that GPUs have, and this run computes on the CPU")
    with memory_advice(None), torch.device("meta"):
        backbone = backbone_from_config(job.encoder) if "text" in job.inputs.modalities else None
        model = _network(job, backbone, frozenset())
    weights = sum(tensor.numel() for tensor in model.state_dict().values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    check_memory(4 * (weights + 3 * trained * on_cpu))  # with a gradient and two moments, float32
    plan = training.plan_of(config, config.run.seeds[0])
    training.check_batches(model, len(job.inputs.learnt.split("train").ids), plan.batch_size)
    text_report(job).check(config.data.max_unknown)
    if config.run.stage == "finetune":
        _look_through(job, "test")


def text_report(job: Job) -> TextReport:
    """Count tokens, unknown ones and truncated texts of every split that a stage reads; of none without text."""
    store, tokenizer = job.inputs.learnt, job.inputs.tokenizer
    counts = {split: count_tokens(tokenizer, *tokens) for split, tokens in job.inputs.tokens(job.splits).items()}
    return TextReport(store.dataset, tokenizer, counts, lambda split: store.split(split).texts)


def _look_through(job: Job, split: str) -> None:
    """Read a split once: numbers that no model may see are refused now, not when it is first read, after all epochs."""
    for _ in job.inputs.batches(split, batch_size=READ_AT_ONCE).epoch():
        pass


def build_model(job: Job, seed: int, first: Run | None) -> SentimentModel:
    """Build the network of a run, random under its seed, with what the stage-1 run `first` hands over."""
    torch.manual_seed(seed)
    config, has_text = job.config, "text" in job.inputs.modalities
    backbone, fresh = load_backbone(job.encoder) if has_text else (None, frozenset())
    model = _network(job, backbone, fresh)
    if first is not None:
        stored, _ = checkpoint.load_best(first, seed)
        checkpoint.restore(model, {name: stored[name] for name in model.handed_over()}, f"stage 1 in {first.path}")
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
    text = TextEncoder(backbone, width=width, fresh=fresh) if backbone is not None else None
    return zoo.build(job.config, architecture, text)
