"""Save the training state of a seed as a checkpoint and restore it, so that the next step is bit-identical.

`last` holds the trainable weights, the optimisers' moments and the training position; within an epoch also the states
of the random generators and the gradients of an incomplete step. The checkpoint before it stays as `previous` until
the seed is finished, so a damaged `last` costs only the work since then.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from conki_cli.model.contract import SentimentModel
from conki_cli.runs import Run, check_is_file
from conki_cli.system.errors import CheckpointError
from conki_cli.system.files import atomic_path
from conki_cli.system.observer import Observer
from conki_cli.system.readable import status_of
from conki_cli.training import checkpoint
from conki_cli.training.loop import Position, Progress, Schedule

_RANDOM, _GRADIENT = "random.", "gradient."


def save_last(
    run: Run, seed: int, progress: Progress, schedule: Schedule, *, trained: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """Write the current training state and keep the checkpoint before it.

    Args:
        run: the run folder.
        seed: the seed in training.
        progress: the training state.
        schedule: the schedule of the stage.
        trained: names of the trainable weights.
        facts: further facts for the checkpoint.
    """
    last = run.checkpoint(seed, "last")
    if status_of(last) is not None:
        with atomic_path(run.checkpoint(seed, "previous")) as temporary:
            temporary.unlink()
            try:
                os.link(last, temporary)
            except OSError:  # a file system without hard links: for a moment only `previous` exists
                os.replace(last, temporary)
    tensors = {**checkpoint.select(progress.model, trained), **checkpoint.optimizers_tensors(progress.optimizers)}
    if progress.within is not None:
        tensors |= within_step(progress, progress.within, schedule)
    checkpoint.save(last, tensors, {**facts, **facts_of(progress)})


def within_step(progress: Progress, within: Position, schedule: Schedule) -> dict[str, Tensor]:
    """Return the random states, and the gradients if the next batch adds to them."""
    tensors = {f"{_RANDOM}cpu": torch.get_rng_state()}
    device = next(progress.model.parameters()).device
    if device.type != "cpu":
        module = torch.get_device_module(device)
        state = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)  # there is one at most
        tensors[f"{_RANDOM}{device.type}"] = state
    if within.batches % schedule.accumulate:
        named = progress.model.named_parameters()
        tensors |= {f"{_GRADIENT}{name}": p.grad for name, p in named if p.grad is not None}
    return tensors


def facts_of(progress: Progress) -> dict[str, Any]:
    """Return the training position, ready for JSON."""
    within = progress.within
    place = within and {name: getattr(within, name) for name in ("passes", "batches", "sums", "seconds")}
    return {
        "epoch": progress.epoch,
        "step": progress.step,
        "best_mae": progress.best_mae,
        "best_epoch": progress.best_epoch,
        "rate_scale": progress.rate_scale,
        "reduced_epoch": progress.reduced_epoch,
        "within": place,
    }


def latest(
    run: Run, seed: int, observer: Observer, *, facts_only: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest intact checkpoint of an unfinished seed and report damaged ones; None: train from the start.

    A damaged `last` is removed, because otherwise it would soon replace the intact `previous`.

    Raises:
        UnreadableError: the system cannot read a checkpoint; the file is left as it is.
        RunError: it is from another version of the program, or is not a file.
    """
    for name in ("last", "previous"):
        path = run.checkpoint(seed, name)
        check_is_file(path)
        if status_of(path) is None:
            continue
        try:
            return checkpoint.load(path, facts_only=facts_only)
        except CheckpointError as error:
            if not facts_only:  # a caller that asks only for the facts will ask for everything later
                rest = "the one before it" if name == "last" else "none: the seed starts over"
                observer.say(f"{error.found}; used instead is {rest}")
                path.unlink(missing_ok=True)
    return None


def keeps_frozen(run: Run, seed: int, model: SentimentModel, names: Sequence[str], observer: Observer) -> bool:
    """Give a resumed seed the frozen weights that it started with, if the run has all of them.

    They may start differently now, because stage 1 was trained again; the trained weights were trained around them.
    """
    path = run.checkpoint(seed, "frozen")
    check_is_file(path)
    try:
        stored = checkpoint.load(path)[0]
    except CheckpointError as error:
        observer.say(f"{error.found}: written again, as the frozen weights of seed {seed} start now")
        return False
    if not stored.keys() >= set(names):
        observer.say(f"checkpoint {path} lacks weights: written again, as the frozen weights of seed {seed} start now")
        return False
    if any(not torch.equal(weight.cpu(), stored[name]) for name, weight in checkpoint.select(model, names).items()):
        checkpoint.restore(model, {name: stored[name] for name in names}, str(path))
        observer.say(
            f"the frozen weights of seed {seed} of {run.name} would start differently now (was stage 1 trained "
            "again?): the seed keeps those it started with; --overwrite starts it over"
        )
    return True


def best_is_sound(run: Run, seed: int, observer: Observer) -> bool:
    """Say whether the best weights so far can be read; if not, the seed could never finish and starts over."""
    check_is_file(run.checkpoint(seed, "best"))
    try:
        checkpoint.load(run.checkpoint(seed, "best"))
    except CheckpointError as error:
        observer.say(f"{error.found}; seed {seed} starts over")
        return False
    return True


def restore(progress: Progress, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], where: str) -> None:
    """Restore everything; call it right before the next step, because no random number may be drawn in between."""
    model = progress.model
    loose = (_RANDOM, _GRADIENT)
    weights = checkpoint.without_optimizer({name: t for name, t in tensors.items() if not name.startswith(loose)})
    checkpoint.restore(model, weights, where)
    checkpoint.restore_optimizers(progress.optimizers, tensors)
    progress.epoch, progress.step = facts["epoch"], facts["step"]
    progress.best_mae, progress.best_epoch = facts["best_mae"], facts["best_epoch"]
    progress.rate_scale, progress.reduced_epoch = facts.get("rate_scale", 1.0), facts.get("reduced_epoch", 0)
    if facts.get("within") is None:
        return
    progress.within = Position(**facts["within"])
    for name, parameter in model.named_parameters():
        gradient = tensors.get(f"{_GRADIENT}{name}")
        parameter.grad = None if gradient is None else gradient.to(parameter.device)
    torch.set_rng_state(tensors[f"{_RANDOM}cpu"])
    device = next(model.parameters()).device
    if device.type != "cpu" and (state := tensors.get(f"{_RANDOM}{device.type}")) is not None:
        module = torch.get_device_module(device)
        if device.type == "mps":
            module.set_rng_state(state)
        else:
            module.set_rng_state(state, device)
