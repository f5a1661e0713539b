"""The one training loop: stages 1 and 2 of Algorithm 1 are two calls of `fit`."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from conki_cli.config.sections import RunConfig
from conki_cli.metrics import sentiment_metrics
from conki_cli.model.batches import Batch, Batches
from conki_cli.model.contract import SentimentModel
from conki_cli.system.errors import ConkiError
from conki_cli.training.evaluation import memory_advice, predict

if TYPE_CHECKING:
    from conki_cli.system.workspace import Reporter


_NAMED = 5  # clips that a message names
LEAST_GAIN = 1e-6
"""A validation MAE is better than another if it is lower by this much: less is rounding."""


@dataclass(frozen=True)
class Plan:
    """How long and in which steps a stage trains."""

    num_epochs: int
    batch_size: int
    warmup: float
    """Share of the steps in which the learning rates grow linearly; then they fall linearly to 0."""
    patience: int
    seed: int
    schedule: str = "linear"
    """Linear warm-up and decay, or constant rates."""
    accumulate: int = 1
    """Batches whose gradients are summed for one step."""
    clip_value: float = 0.0
    """Bound of every gradient entry, after every batch; 0: none."""
    clip_norm: float = 0.0
    """Bound of the norm of all gradients together, before every step; 0: none."""
    plateau_patience: int = 0
    """Epochs without a better validation MAE after which the rates fall to a tenth; 0: never."""


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
class Position:
    """How far an epoch that has begun has come."""

    passes: int = 0
    """Passes that are over."""
    batches: int = 0
    """Batches of the pass in progress that are over."""
    sums: dict[str, list[float]] = field(default_factory=dict)
    """Every term of every batch so far."""
    seconds: float = 0.0
    """Spent before the program was started anew."""


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
    rate_scale: float = 1.0
    """What plateaus have left of the learning rates."""
    reduced_epoch: int = 0
    """The epoch after which they were last reduced."""
    within: Position | None = None
    """Where epoch `epoch` stands; None between two epochs."""
    peak_rates: dict[str, list[float]] = field(default_factory=dict)


def plan_of(config: RunConfig, seed: int) -> Plan:
    """Return the plan of a run's stage; a stage 1 of the whole network takes stage 2's settings but its own epochs."""
    first, second = config.pretraining, config.optimizer
    if config.run.stage == "pretrain" and not config.transfers_whole:
        return Plan(first.num_epochs, first.batch_size, first.warmup, 0, seed)
    is_first = config.run.stage == "pretrain"
    return Plan(
        first.num_epochs if is_first else second.num_epochs,
        second.batch_size,
        second.warmup,
        0 if is_first and not config.is_baseline else second.patience,
        seed,
        schedule=second.schedule,
        accumulate=second.accumulate,
        clip_value=second.clip_value,
        clip_norm=second.clip_norm,
        plateau_patience=second.plateau_patience,
    )


def start(model: SentimentModel, config: RunConfig) -> Progress:
    """Make the optimisers of a run, one per phase, with the groups that the model names."""
    optimizers: dict[str, torch.optim.Optimizer] = {}
    algorithm = torch.optim.Adam if config.optimizer.algorithm == "adam" else torch.optim.AdamW
    for phase in model.phases:
        groups = model.parameter_groups(config, phase)
        optimizers[phase] = algorithm(
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
    progress: Progress,
    train: Batches,
    valid: Batches,
    plan: Plan,
    *,
    device: torch.device,
    reporter: "Reporter",
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Epoch]:
    """Train from where `progress` stands, yielding after every epoch; the caller saves, prints, stops.

    The test split has no way in. Randomness is a function of (seed, epoch); who continues within an epoch puts the
    generators back first. So a run continued after any step equals one that never stopped.

    Args:
        progress: the model and how far it has come; changes.
        train: shuffled batches of the training split.
        valid: batches of the validation split.
        plan: how long and in which steps.
        device: where to compute.
        reporter: is told the progress.
        on_step: called between steps, also of the validation; may save `progress`, or stop by raising.

    Raises:
        ConkiError: a loss or a gradient is not finite, or the device's memory is used up.
    """
    model = progress.model
    batches = {phase: _batches_of(model, train, phase) for phase in model.phases}
    total = sum(_steps(model, batches, number + 1) for number in range(plan.num_epochs))
    check_batches(model, len(train.scores()), train.batch_size)
    _mind_small_batches(model, batches, reporter)
    if not progress.epoch:  # what a model remembers of its clips continues with it
        model.start(torch.from_numpy(train.scores()).to(device))
    with reporter.steps(f"seed {plan.seed}", total) as say:
        say(progress.step, "")

        def after_step() -> None:
            say(1, f"epoch {progress.epoch}/{plan.num_epochs}")
            on_step()

        while progress.within or (progress.epoch < plan.num_epochs and not _out_of_patience(progress, plan)):
            within = progress.within or _begin_epoch(progress, plan)
            began = time.monotonic() - within.seconds
            _train_epoch(progress, within, batches, plan, total=total, device=device, after_step=after_step)
            metrics = sentiment_metrics(
                predict(model, valid, device, lambda count, remark: on_step()),
                valid.scores(),
                score_range=valid.score_range,
                threshold=valid.threshold,
                ids=valid.utterances.ids,
            )
            is_best = _judge(progress, plan, metrics["mae"])
            losses = {name: math.fsum(values) / len(values) for name, values in within.sums.items()}
            progress.within = None
            yield Epoch(progress.epoch, losses, metrics, time.monotonic() - began, is_best)


def _begin_epoch(progress: Progress, plan: Plan) -> Position:
    progress.epoch += 1
    progress.within = Position()
    torch.manual_seed(int(np.random.SeedSequence([plan.seed, progress.epoch]).generate_state(1)[0]))
    return progress.within


def _train_epoch(
    progress: Progress,
    within: Position,
    batches: Mapping[str, Batches],
    plan: Plan,
    *,
    total: int,
    device: torch.device,
    after_step: Callable[[], None],
) -> None:
    """Take the passes of an epoch that are not over yet."""
    began = time.monotonic() - within.seconds
    model = progress.model
    for phase in model.passes(progress.epoch)[within.passes :]:
        remembered = {name: buffer.clone() for name, buffer in model.named_buffers()} if within.batches else {}
        model.train()
        model.start_phase(progress.epoch, phase)
        if remembered:  # beginning the pass anew has emptied what its first part left
            model.load_state_dict(remembered, strict=False)
        for terms in _pass(progress, batches[phase], plan, phase, total, device, skip=within.batches):
            for name, value in terms.items():
                within.sums.setdefault(name, []).append(value)
            within.batches += 1
            within.seconds = time.monotonic() - began
            after_step()
        within.passes, within.batches = within.passes + 1, 0


def _batches_of(model: SentimentModel, train: Batches, phase: str) -> Batches:
    size = model.batch_size(phase)
    return train if size is None else replace(train, batch_size=size)


def _steps(model: SentimentModel, batches: Mapping[str, Batches], epoch: int) -> int:
    """Count the batches of an epoch over its passes."""
    return sum(math.ceil(len(batches[phase]) * model.share(phase)) for phase in model.passes(epoch))


def _pass(
    progress: Progress,
    train: Batches,
    plan: Plan,
    phase: str,
    total: int,
    device: torch.device,
    *,
    skip: int,
) -> Iterator[dict[str, float]]:
    """Go once over the training split, but for the batches to `skip`; yield the terms, none of a batch too small."""
    model, optimizer = progress.model, progress.optimizers[phase]
    count = math.ceil(len(train) * model.share(phase))
    rest = itertools.islice(train.epoch(progress.epoch, model.share(phase)), skip, None)
    for number, batch in enumerate(rest, start=skip + 1):
        if (number - 1) % plan.accumulate == 0:
            model.zero_grad(set_to_none=True)
        factor = rate_factor(progress.step, total, plan.warmup) if plan.schedule == "linear" else 1.0
        _set_rates(progress, phase, factor * progress.rate_scale)
        progress.step += 1
        terms: dict[str, float] = {}
        where = _Place(progress.epoch, number, phase, [train.utterances.ids[i] for i in batch.indices.tolist()])
        if len(batch) >= model.smallest_batch(phase):
            with memory_advice(train.batch_size):
                terms = _backward(progress, batch.to(device), plan, where)
        if number % plan.accumulate == 0 or number == count:
            _check_gradients(model, plan, where, terms)
            optimizer.step()
        yield terms


def _judge(progress: Progress, plan: Plan, mae: float) -> bool:
    """Compare the validation MAE of an epoch with the best, and lower the rates on a plateau."""
    if not progress.model.judged(progress.epoch):
        progress.best_epoch = progress.reduced_epoch = progress.epoch  # patience counts from the first that is judged
        return False
    is_best = mae <= progress.best_mae - LEAST_GAIN
    if is_best:
        progress.best_mae, progress.best_epoch = mae, progress.epoch
    since = progress.epoch - max(progress.best_epoch, progress.reduced_epoch)
    if plan.plateau_patience and since > plan.plateau_patience:
        progress.rate_scale, progress.reduced_epoch = 0.1 * progress.rate_scale, progress.epoch
    return is_best


def _out_of_patience(progress: Progress, plan: Plan) -> bool:
    return bool(plan.patience) and progress.epoch - progress.best_epoch >= plan.patience


def check_batches(model: SentimentModel, count: int, batch_size: int) -> None:
    """Refuse batches of `count` training clips that are all too small for a pass of the model.

    Raises:
        ConkiError: they are.
    """
    for phase in model.phases:
        smallest, size = model.smallest_batch(phase), model.batch_size(phase) or batch_size
        if min(count, size) < smallest:
            raise ConkiError(
                f"this model needs training batches of at least {smallest} clips, found batch_size {size} "
                f"for {count} clips: raise it (or, ConKI: --set model.gate_norm=layer; ICCN: lower iccn.out_width)"
            )


def _mind_small_batches(model: SentimentModel, batches: Mapping[str, Batches], reporter: "Reporter") -> None:
    """Say that the last batch of a pass is too small to train on."""
    for phase, train in batches.items():
        smallest, count = model.smallest_batch(phase), len(train.scores())
        if 0 < count % train.batch_size < smallest:
            reporter.say(
                f"the last batch of every epoch has {count % train.batch_size} of {count} training clips and is "
                f"skipped: this model needs {smallest} to learn from"
            )


def _set_rates(progress: Progress, phase: str, factor: float) -> None:
    for group, peak in zip(progress.optimizers[phase].param_groups, progress.peak_rates[phase], strict=True):
        group["lr"] = peak * factor


@dataclass(frozen=True)
class _Place:
    """Which batch it is, for messages."""

    epoch: int
    number: int
    phase: str
    ids: Sequence[str]

    def words(self, suspects: Sequence[bool] = ()) -> str:
        """Name epoch, batch and clips: the suspects among them, if there are any."""
        ids = list(self.ids)
        if any(suspects):
            ids = [name for name, is_suspect in zip(ids, suspects, strict=True) if is_suspect]
        rest = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        return f"in epoch {self.epoch}, batch {self.number} (clips {', '.join(ids[:_NAMED])}{rest})"


_STOPPED = (
    "training stopped before it could damage the weights, and the last checkpoint is kept; lower the learning rates or "
    "look at these clips with `conki inspect`"
)


def _backward(progress: Progress, batch: Batch, plan: Plan, where: _Place) -> dict[str, float]:
    """Add the gradients of one batch and return the value of every term."""
    model = progress.model
    output = model.represent(batch)
    terms = model.loss(output, batch, where.phase)
    loss = torch.stack(list(terms.values())).sum()
    values = {name: float(value.detach()) for name, value in {**terms, **model.report(terms, batch)}.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            suspects = (~torch.isfinite(output.prediction.detach())).tolist()
            raise ConkiError(f"the loss term '{name}' is {value} {where.words(suspects)}: {_STOPPED}")
    torch.autograd.backward(loss)
    if plan.clip_value:
        torch.nn.utils.clip_grad_value_(model.parameters(), plan.clip_value)
    model.after_backward(output, batch, epoch=progress.epoch, phase=where.phase)
    return values


def _check_gradients(model: SentimentModel, plan: Plan, where: _Place, terms: Mapping[str, float]) -> None:
    """Bound the gradients of a step, where the plan does, and refuse one that is not finite before it is taken.

    Raises:
        ConkiError: it is not.
    """
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([gradient for _, gradient in named])
    if bool(torch.isfinite(norm)):
        if plan.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), plan.clip_norm, norm)
        return
    bad = next((name for name, gradient in named if not bool(torch.isfinite(gradient).all())), "all weights together")
    listed = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    raise ConkiError(f"the gradient of {bad} is not finite {where.words()}, with the loss terms {listed}: {_STOPPED}")
