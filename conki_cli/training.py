"""The one training loop: stages 1 and 2 of Algorithm 1 are two calls of `fit`."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from conki_cli.batches import Batch, Batches
from conki_cli.config import RunConfig
from conki_cli.errors import ConkiError
from conki_cli.evaluation import memory_advice, predict
from conki_cli.metrics import sentiment_metrics
from conki_cli.model import SentimentModel

if TYPE_CHECKING:
    from conki_cli.runs import Reporter


@dataclass(frozen=True)
class Plan:
    """How long and in which steps a stage trains."""

    num_epochs: int
    batch_size: int
    warmup: float
    """Share of the steps in which the learning rates grow linearly; then they fall linearly to 0."""
    patience: int
    seed: int


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training gave."""

    number: int
    losses: Mapping[str, float]
    """Mean over the batches of every weighted term, and of what the model reports beside them."""
    metrics: Mapping[str, float]
    """Metrics of the validation split."""
    seconds: float
    is_best: bool


@dataclass
class Progress:
    """What changes while a model trains; a checkpoint of it continues the run."""

    model: SentimentModel
    optimizers: Mapping[str, torch.optim.Optimizer]
    """One per phase."""
    epoch: int = 0
    step: int = 0
    best_mae: float = math.inf
    best_epoch: int = 0
    peak_rates: dict[str, list[float]] = field(default_factory=dict)


def plan_of(config: RunConfig, seed: int) -> Plan:
    """Return the plan of a run's stage; plain transfer's first pass takes stage 2's settings but stage 1's epochs."""
    if config.run.stage == "finetune":
        stage = config.optimizer
        return Plan(stage.num_epochs, stage.batch_size, stage.warmup, stage.patience, seed)
    first = config.pretraining
    if config.dropped("plain-transfer"):
        return Plan(first.num_epochs, config.optimizer.batch_size, config.optimizer.warmup, 0, seed)
    return Plan(first.num_epochs, first.batch_size, first.warmup, 0, seed)


def start(model: SentimentModel, config: RunConfig) -> Progress:
    """Make the optimisers of a run; AdamW with the groups that the model names."""
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for phase in model.phases:
        groups = model.parameter_groups(config, phase)
        optimizers[phase] = torch.optim.AdamW(
            [{"params": g.parameters, "lr": g.learning_rate, "weight_decay": g.weight_decay} for g in groups],
            fused=True,
        )
    rates = {phase: [float(g["lr"]) for g in made.param_groups] for phase, made in optimizers.items()}
    return Progress(model, optimizers, peak_rates=rates)


def rate_factor(step: int, total: int, warmup: float) -> float:
    """Return the share of the peak learning rate at a step in 0..total-1: linear warm-up, then linear decay."""
    rising = math.ceil(total * warmup)
    if step < rising:
        return (step + 1) / rising
    return (total - step) / (total - rising)


def fit(
    progress: Progress, train: Batches, valid: Batches, plan: Plan, *, device: torch.device, reporter: "Reporter"
) -> Iterator[Epoch]:
    """Train from where `progress` stands, yielding after every epoch; the caller saves, prints, stops.

    The test split has no way in. Randomness is a function of (seed, epoch), so a run continued after any
    epoch equals one that never stopped.

    Raises:
        ConkiError: a loss is not finite, or the device's memory is used up.
    """
    model = progress.model
    num_phases = len(model.phases)
    total = plan.num_epochs * len(train) * num_phases
    _mind_small_batches(model, train, reporter)
    model.start(torch.from_numpy(train.scores()).to(device))
    with reporter.steps(f"seed {plan.seed}", total) as advance:
        advance(progress.step, "")
        while progress.epoch < plan.num_epochs and not _out_of_patience(progress, plan):
            began = time.monotonic()
            progress.epoch += 1
            torch.manual_seed(int(np.random.SeedSequence([plan.seed, progress.epoch]).generate_state(1)[0]))
            sums: dict[str, list[float]] = {}
            for phase in model.phases:
                model.train()
                model.start_phase(progress.epoch, phase)
                for batch in train.epoch(progress.epoch):
                    _set_rates(progress, phase, rate_factor(progress.step, total, plan.warmup))
                    progress.step += 1
                    if len(batch) >= model.smallest_training_batch:
                        with memory_advice(plan.batch_size):
                            terms = _step(progress, batch.to(device), phase)
                        for name, value in terms.items():
                            sums.setdefault(name, []).append(value)
                    advance(1, f"epoch {progress.epoch}/{plan.num_epochs}")
            metrics = sentiment_metrics(
                predict(model, valid, device),
                valid.scores(),
                score_range=valid.score_range,
                ids=valid.utterances.ids,
            )
            is_best = metrics["mae"] < progress.best_mae
            if is_best:
                progress.best_mae, progress.best_epoch = metrics["mae"], progress.epoch
            losses = {name: math.fsum(values) / len(values) for name, values in sums.items()}
            yield Epoch(progress.epoch, losses, metrics, time.monotonic() - began, is_best)


def _out_of_patience(progress: Progress, plan: Plan) -> bool:
    return bool(plan.patience) and progress.epoch - progress.best_epoch >= plan.patience


def _mind_small_batches(model: SentimentModel, train: Batches, reporter: "Reporter") -> None:
    """Say that a last batch is too small to train on; refuse when that leaves nothing to train on."""
    smallest, count = model.smallest_training_batch, len(train.scores())
    if min(count, train.batch_size) < smallest:
        raise ConkiError(
            f"this model's BatchNorm needs training batches of at least {smallest} clips, found batch_size "
            f"{train.batch_size} for {count} clips: raise batch_size, or give --set model.gate_norm=layer"
        )
    if 0 < count % train.batch_size < smallest:
        reporter.say(
            f"the last batch of every epoch has {count % train.batch_size} of {count} training clips and is skipped: "
            f"BatchNorm needs {smallest}"
        )


def _set_rates(progress: Progress, phase: str, factor: float) -> None:
    for group, peak in zip(progress.optimizers[phase].param_groups, progress.peak_rates[phase], strict=True):
        group["lr"] = peak * factor


def _step(progress: Progress, batch: Batch, phase: str) -> dict[str, float]:
    """Take one optimiser step and return the value of every term."""
    model, optimizer = progress.model, progress.optimizers[phase]
    optimizer.zero_grad(set_to_none=True)
    output = model(batch)
    terms = model.loss(output, batch, phase)
    loss = torch.stack(list(terms.values())).sum()
    values = {name: float(value.detach()) for name, value in {**terms, **model.report(terms, batch)}.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise ConkiError(
                f"the loss term '{name}' is {value} in epoch {progress.epoch}: training stopped before it could "
                "damage the weights; lower the learning rates or check the features with `conki inspect`"
            )
    torch.autograd.backward(loss)
    model.after_backward(output, batch, epoch=progress.epoch, phase=phase)
    optimizer.step()
    return values
