"""What a seed's training is when it stops, as a checkpoint, and back: the next step has the bits it would have had.

`last` holds the weights that train, the optimisers' moments and how far training has come; within an epoch also the
states of the random generators and the gradients of a step that some batches are still missing from. The checkpoint
before it stays as `previous` until the seed is finished, so a damaged `last` costs no more than what lies between.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

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
    """Write where training stands, beside the checkpoint before it.

    Args:
        run: the run folder.
        seed: whose training it is.
        progress: what changes.
        schedule: what does not.
        trained: names of the weights that change.
        facts: what else the checkpoint says.
    """
    last = run.checkpoint(seed, "last")
    if status_of(last) is not None:
        with atomic_path(run.checkpoint(seed, "previous")) as temporary:
            temporary.unlink()
            try:
                os.link(last, temporary)
            except OSError:  # a file system without hard links: for a moment only `previous` is there
                os.replace(last, temporary)
    tensors = {**checkpoint.select(progress.model, trained), **checkpoint.optimizers_tensors(progress.optimizers)}
    if progress.within is not None:
        tensors |= _within_step(progress, progress.within, schedule)
    checkpoint.save(last, tensors, {**facts, **facts_of(progress)})


def _within_step(progress: Progress, within: Position, schedule: Schedule) -> dict[str, Tensor]:
    """Return the random states, and the gradients where the next batch adds to them."""
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
    """Return how far training has come, ready for JSON."""
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
    """Read the newest sound checkpoint of an unfinished seed, saying which were not; None: it begins at the start.

    A `last` that was read and is damaged is removed, or it would soon take the place of the sound `previous`.

    Raises:
        UnreadableError: the system cannot read one: it stays, and nothing takes its place.
        RunError: it is from another version of the program, or no file.
    """
    for name in ("last", "previous"):
        path = run.checkpoint(seed, name)
        check_is_file(path)
        if status_of(path) is None:
            continue
        try:
            return checkpoint.load(path, facts_only=facts_only)
        except CheckpointError as error:
            if not facts_only:  # whoever asks for the facts alone comes back for all
                rest = "the one before it" if name == "last" else "none: the seed begins again"
                observer.say(f"{error.found}; used instead is {rest}")
                path.unlink(missing_ok=True)
    return None


def best_is_sound(run: Run, seed: int, observer: Observer) -> bool:
    """Say whether the best weights so far can be read at the end; if not, all that lies before it would be in vain."""
    check_is_file(run.checkpoint(seed, "best"))
    try:
        checkpoint.load(run.checkpoint(seed, "best"))
    except CheckpointError as error:
        observer.say(f"{error.found}; seed {seed} begins again")
        return False
    return True


def restore(progress: Progress, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], where: str) -> None:
    """Put everything back as it was; the last word before the next step, as nothing may be drawn in between."""
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
