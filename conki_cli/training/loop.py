"""The training loop: stages 1 and 2 of Algorithm 1 are two calls of `fit`."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from conki_cli.config.sections import RunConfig
from conki_cli.metrics import clipped, rules_of, sentiment_metrics
from conki_cli.model.batches import Batch, Batches
from conki_cli.model.contract import SentimentModel
from conki_cli.system.errors import ConkiError
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.training.evaluation import memory_advice, predict
from conki_cli.training.ranks import ALONE, Ranks

_NAMED = 5  # clips that a message names
LEAST_GAIN = 1e-6
"""A validation MAE counts as better if it is lower by at least this much: smaller differences are rounding."""


@dataclass(frozen=True)
class Schedule:
    """How long a stage trains, and how its steps are taken."""

    num_epochs: int
    batch_size: int
    warmup: float
    """Share of the steps in which the learning rates grow linearly; then they fall linearly to 0."""
    patience: int
    seed: int
    schedule: str = "linear"
    """Linear warm-up and decay, or constant rates."""
    accumulate: int = 1
    """Batches whose gradients are summed per step."""
    clip_value: float = 0.0
    """Bound of every gradient entry, after every batch; 0: none."""
    clip_norm: float = 0.0
    """Bound of the norm of all gradients together, before every step; 0: none."""
    plateau_patience: int = 0
    """Epochs without a better validation MAE after which the rates fall to a tenth; 0: never."""


@dataclass
class Position:
    """The position within an unfinished epoch."""

    passes: int = 0
    """Finished passes."""
    batches: int = 0
    """Finished batches of the current pass."""
    sums: dict[str, list[float]] = field(default_factory=dict)
    """Every term of every batch so far."""
    seconds: float = 0.0
    """Seconds spent before the program was started again."""


@dataclass
class Progress:
    """The state that changes while a model trains; a checkpoint of it resumes the run."""

    model: SentimentModel
    optimizers: Mapping[str, torch.optim.Optimizer]
    """One per phase."""
    epoch: int = 0
    step: int = 0
    best_mae: float = math.inf
    best_epoch: int = 0
    rate_scale: float = 1.0
    """Learning-rate multiplier after plateaus."""
    reduced_epoch: int = 0
    """The epoch after which the learning rates were last reduced."""
    within: Position | None = None
    """The position within the current epoch; None between two epochs."""
    peak_rates: dict[str, list[float]] = field(default_factory=dict)


def schedule_of(config: RunConfig, seed: int) -> Schedule:
    """Return the schedule of a stage; a stage 1 of the whole network uses stage 2's settings except for the epochs."""
    first, second = config.pretraining, config.optimizer
    if config.run.stage == "pretrain" and not config.transfers_whole:
        return Schedule(first.num_epochs, first.batch_size, first.warmup, 0, seed)
    is_first = config.run.stage == "pretrain"
    return Schedule(
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
    schedule: Schedule,
    *,
    device: torch.device,
    observer: Observer,
    training: Training | None = None,
    on_step: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> Iterator[Epoch]:
    """Train from the state `progress`, yielding after every epoch; the caller saves, prints, stops.

    The test split is not an input. Randomness is a function of (seed, epoch); a caller that resumes within an epoch
    restores the generators first. So a run resumed after any step equals one that never stopped.

    Args:
        progress: the model and its training state; modified in place.
        train: shuffled batches of the training split.
        valid: batches of the validation split.
        schedule: how long to train, and how steps are taken.
        device: where to compute.
        observer: is notified of every step.
        training: identifies the training for the observer.
        on_step: called between steps, also during validation; may save `progress`, or stop by raising.
        ranks: the processes that share every batch; all must call this with equal states.

    Raises:
        ConkiError: a loss or a gradient is not finite, or the device is out of memory.
    """
    named = training or Training("", 2, schedule.seed, schedule.num_epochs)
    return _Fit(progress, train, valid, schedule, device, observer, named, on_step, ranks).epochs()


@dataclass(frozen=True)
class _Fit:
    """A running training: the state that its epochs, passes and steps share."""

    progress: Progress
    train: Batches
    valid: Batches
    schedule: Schedule
    device: torch.device
    observer: Observer
    training: Training
    on_step: Callable[[], None]
    ranks: Ranks

    def epochs(self) -> Iterator[Epoch]:
        """Train the remaining epochs."""
        progress, schedule, model = self.progress, self.schedule, self.progress.model
        scores = self.train.scores()
        check_batches(model, len(scores), self.train.batch_size)
        self._mention_small_batches([rows.stop - rows.start for rows in self.train.sets.values()] or [len(scores)])
        self.ranks.normalise_together(model)
        if not progress.epoch:  # a resumed model keeps its memory of the clips
            model.start(torch.from_numpy(scores).to(self.device))
        with self.observer.steps(f"seed {schedule.seed}", self._num_steps()) as advance:
            advance(progress.step, "")

            def after_step(terms: Mapping[str, float]) -> None:
                self.observer.step(self.training, progress.step, terms)
                advance(1, f"epoch {progress.epoch}/{schedule.num_epochs}")
                self.on_step()

            while progress.within or (progress.epoch < schedule.num_epochs and not self._out_of_patience()):
                within = progress.within or self._begin_epoch()
                began = time.monotonic() - within.seconds
                for terms in self._train_epoch(within):
                    within.seconds = time.monotonic() - began
                    after_step(terms)
                metrics = self._validate()
                is_best = self._is_best(metrics["mae"])
                losses = {name: math.fsum(values) / len(values) for name, values in within.sums.items()}
                progress.within = None
                yield Epoch(progress.epoch, losses, metrics, time.monotonic() - began, is_best)

    def _begin_epoch(self) -> Position:
        progress = self.progress
        progress.epoch += 1
        progress.within = Position()
        torch.manual_seed(int(np.random.SeedSequence([self.schedule.seed, progress.epoch]).generate_state(1)[0]))
        return progress.within

    def _train_epoch(self, within: Position) -> Iterator[dict[str, float]]:
        """Run the remaining passes of an epoch; yield the terms of every step."""
        model, epoch = self.progress.model, self.progress.epoch
        for phase in model.passes(epoch)[within.passes :]:
            remembered = {name: buffer.clone() for name, buffer in model.named_buffers()} if within.batches else {}
            model.train()
            model.start_phase(epoch, phase)
            if remembered:  # `start_phase` emptied what the first part of the pass had collected
                model.load_state_dict(remembered, strict=False)
            for terms in self._pass(phase, skip=within.batches):
                for name, value in terms.items():
                    within.sums.setdefault(name, []).append(value)
                within.batches += 1
                yield terms
            within.passes, within.batches = within.passes + 1, 0

    def _pass(self, phase: str, *, skip: int) -> Iterator[dict[str, float]]:
        """Iterate once over the training split after the batches to `skip`; too small a batch yields no terms."""
        progress, model, accumulate = self.progress, self.progress.model, self.schedule.accumulate
        train = self._batches(phase)
        count = math.ceil(len(train) * model.share(phase))
        rest = itertools.islice(train.order(progress.epoch, model.share(phase)), skip, None)
        total, absent = self._num_steps(), train.absent(progress.epoch)
        for number, indices in enumerate(rest, start=skip + 1):
            if (number - 1) % accumulate == 0:
                model.zero_grad(set_to_none=True)
            self._set_rates(phase, total)
            progress.step += 1
            self.ranks.seed(self.schedule.seed, progress.epoch, progress.step)
            terms: dict[str, Tensor] = {}
            where = _Place(progress.epoch, number, phase, [train.utterances.ids[i] for i in indices.tolist()])
            is_step = number % accumulate == 0 or number == count
            if len(indices) >= model.smallest_batch(phase):
                batch = train.take(self.ranks.share(indices, train.lengths[indices]), absent).to(self.device)
                labels = train.labels(indices, absent).to(self.device) if self.ranks.count > 1 else batch
                with memory_advice(train.batch_size):
                    terms = self._backward(batch, labels, where)
            norm = torch.nn.utils.get_total_norm([gradient for _, gradient in self._gradients()]) if is_step else None
            values = self._read(terms, norm, where)
            if is_step:
                if norm is not None and self.schedule.clip_norm:
                    torch.nn.utils.clip_grads_with_norm_(model.parameters(), self.schedule.clip_norm, norm)
                progress.optimizers[phase].step()
            yield values

    def _backward(self, batch: Batch, labels: Batch, where: "_Place") -> dict[str, Tensor]:
        """Add the gradients of one batch and return every term; the loss reads the `labels` of all ranks' clips."""
        model = self.progress.model
        output = self.ranks.whole(model.represent(batch))
        terms = model.loss(output, labels, where.phase)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        self.ranks.average(model)
        if self.schedule.clip_value:
            torch.nn.utils.clip_grad_value_(model.parameters(), self.schedule.clip_value)
        model.after_backward(output, labels, epoch=where.epoch, phase=where.phase)
        where.predictions = output.prediction.detach()
        return {name: value.detach() for name, value in {**terms, **model.report(terms, labels)}.items()}

    def _read(self, terms: Mapping[str, Tensor], norm: Tensor | None, where: "_Place") -> dict[str, float]:
        """Return the values of the terms; the only moment of a step at which the host waits for the device.

        Raises:
            ConkiError: a term is not finite, or the norm of the gradients of a step.
        """
        checked = [*terms.values(), *([] if norm is None else [norm])]
        read = torch.stack(checked).tolist() if checked else []
        values = dict(zip(terms, read, strict=False))
        for name, value in values.items():
            if not math.isfinite(value):
                raise ConkiError(f"the loss term '{name}' is {value} {where.words(are_suspects=True)}: {_STOPPED}")
        if norm is None or math.isfinite(read[-1]):
            return values
        named = self._gradients()
        bad = next(
            (name for name, gradient in named if not bool(torch.isfinite(gradient).all())), "all weights together"
        )
        listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise ConkiError(
            f"the gradient of {bad} is not finite {where.words()}, with the loss terms {listed}: {_STOPPED}"
        )

    def _gradients(self) -> list[tuple[str, Tensor]]:
        return [(name, p.grad) for name, p in self.progress.model.named_parameters() if p.grad is not None]

    def _set_rates(self, phase: str, total: int) -> None:
        progress, schedule = self.progress, self.schedule
        factor = rate_factor(progress.step, total, schedule.warmup) if schedule.schedule == "linear" else 1.0
        for group, peak in zip(progress.optimizers[phase].param_groups, progress.peak_rates[phase], strict=True):
            group["lr"] = peak * (factor * progress.rate_scale)

    def _validate(self) -> dict[str, float]:
        valid, scores = self.valid, self.valid.scores()
        found = predict(self.progress.model, valid, self.device, lambda count, remark: self.on_step(), self.ranks)
        metrics = sentiment_metrics(
            found, scores, score_range=valid.score_range, threshold=valid.threshold, ids=valid.utterances.ids
        )
        p, t = (clipped(values, rules_of(valid.score_range)) for values in (found, scores))
        errors = {f"mae_{name}": float(np.abs(p[rows] - t[rows]).mean()) for name, rows in valid.sets.items()}
        if errors:  # several external sets: the mean of their errors selects, so a small set counts like a large one
            metrics |= {**errors, "mae": math.fsum(errors.values()) / len(errors)}
        agreed: dict[str, float] = self.ranks.from_first(metrics)  # other processors may round differently
        return agreed

    def _is_best(self, mae: float) -> bool:
        """Compare the validation MAE of an epoch with the best one, and lower the rates on a plateau."""
        progress, patience = self.progress, self.schedule.plateau_patience
        if not progress.model.counts_for_selection(progress.epoch):  # patience counts from the first epoch that counts
            progress.best_epoch = progress.reduced_epoch = progress.epoch
            return False
        is_best = mae <= progress.best_mae - LEAST_GAIN
        if is_best:
            progress.best_mae, progress.best_epoch = mae, progress.epoch
        since = progress.epoch - max(progress.best_epoch, progress.reduced_epoch)
        if patience and since > patience:
            progress.rate_scale, progress.reduced_epoch = 0.1 * progress.rate_scale, progress.epoch
        return is_best

    def _out_of_patience(self) -> bool:
        patience = self.schedule.patience
        return bool(patience) and self.progress.epoch - self.progress.best_epoch >= patience

    def _batches(self, phase: str) -> Batches:
        size = self.progress.model.batch_size(phase)
        return self.train if size is None else replace(self.train, batch_size=size)

    def _num_steps(self) -> int:
        """Count the batches of all passes of all epochs."""
        model = self.progress.model
        counts = {phase: math.ceil(len(self._batches(phase)) * model.share(phase)) for phase in model.phases}
        return sum(counts[phase] for epoch in range(self.schedule.num_epochs) for phase in model.passes(epoch + 1))

    def _mention_small_batches(self, counts: Sequence[int]) -> None:
        """Say that the last batch of a pass over a set is too small to train on; `counts` are the sets' clips."""
        model = self.progress.model
        for phase, count in itertools.product(model.phases, counts):
            smallest, size = model.smallest_batch(phase), self._batches(phase).batch_size
            if 0 < count % size < smallest:
                self.observer.say(
                    f"the last batch of every epoch has {count % size} of {count} training clips and is "
                    f"skipped: this model needs at least {smallest}"
                )


def check_batches(model: SentimentModel, count: int, batch_size: int) -> None:
    """Refuse batches of `count` training clips that are all too small for a pass of the model.

    Raises:
        ConkiError: all batches are too small.
    """
    for phase in model.phases:
        smallest, size = model.smallest_batch(phase), model.batch_size(phase) or batch_size
        if min(count, size) < smallest:
            raise ConkiError(
                f"this model needs training batches of at least {smallest} clips, found batch_size {size} "
                f"for {count} clips",
                advice="raise it (or, ConKI: --set model.gate_norm=layer; ICCN: lower iccn.out_width)",
            )


@dataclass
class _Place:
    """Identifies a batch in messages."""

    epoch: int
    number: int
    phase: str
    ids: Sequence[str]
    predictions: Tensor | None = None
    """[B], once they are known."""

    def words(self, *, are_suspects: bool = False) -> str:
        """Name epoch, batch and clips: of suspects only those whose prediction is not finite, if there are any."""
        ids = list(self.ids)
        if are_suspects and self.predictions is not None:
            bad = (~torch.isfinite(self.predictions)).tolist()
            ids = [name for name, is_bad in zip(ids, bad, strict=True) if is_bad] or ids
        rest = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        return f"in epoch {self.epoch}, batch {self.number} (clips {', '.join(ids[:_NAMED])}{rest})"


_STOPPED = (
    "training stopped before the weights were affected, and the last checkpoint is kept; lower the learning rates or "
    "examine these clips with `conki inspect`"
)
