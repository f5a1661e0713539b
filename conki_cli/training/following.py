"""Rank 0 leads a training and the other ranks follow.

Rank 0 runs the command: it alone plans, reads and writes the run, locks and prints. For every step (one seed of one
stage) it hands the others the plain `Step` and the whole state of the training, so a run can be resumed with any
number of ranks. A follower has nothing to save: it ends as soon as rank 0 has ended, for whatever reason.
"""

import contextlib
import functools
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from conki_cli.config.models import label_of
from conki_cli.config.sections import RunConfig
from conki_cli.model.absence import trains_absence
from conki_cli.system.environment import choose_device
from conki_cli.system.errors import ConkiError, SettingsError, one_line, reason_of
from conki_cli.system.observer import Observer
from conki_cli.system.torchrun import Seat, leave_note, seat
from conki_cli.training import checkpoint, resuming
from conki_cli.training import loop as training
from conki_cli.training.cached_states import StateCache, with_states
from conki_cli.training.jobs import build_model, training_batches
from conki_cli.training.lost import LostRankError
from conki_cli.training.ranks import ALONE, Ranks
from conki_cli.training.steps import Shelf, Step, open_step
from conki_cli.training.together import FAILED, SeveralRanks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_ENDED = "conki/ended"
_FOREVER = timedelta(days=100)  # torchrun notices processes that end; a long wait for rank 0 is normal
_SOON = timedelta(seconds=20)
_GRACE = 2.0  # seconds in which the end of rank 0 explains why a rank was lost
_LONG_GRACE = 60.0  # seconds in which rank 0 may save after torchrun was killed


@functools.cache
def joined() -> Ranks:
    """Return the ranks of this process, together with those that torchrun started beside it.

    Raises:
        ConkiError: they cannot reach each other.
    """
    place = seat()
    if place is None or place.count == 1:
        return ALONE
    if torch.accelerator.is_available() and (number := torch.accelerator.device_count()) > 1:
        torch.accelerator.set_device_index(place.local_rank % number)
    try:
        store = _store()
        dist.init_process_group(_backends(), store=store, rank=place.rank, world_size=place.count, timeout=_FOREVER)
    except (RuntimeError, ValueError) as error:
        found = f"the {place.count} processes of this training cannot reach each other: {reason_of(error)}"
        raise ConkiError(found) from error
    return SeveralRanks(place.rank, place.count, store)


@functools.cache
def _store() -> "Store":
    """Return this process's connection to the store that torchrun offers to all ranks, which is there before them."""
    return _connected()


def _connected() -> "Store":
    store: Store = next(iter(rendezvous("env://", timeout=_SOON)))[0]
    return store


def _backends() -> str:
    """Return the library of collectives for each kind of device here."""
    found = {"cpu": "gloo"}
    if torch.cuda.is_available() and dist.is_backend_available("nccl"):
        found["cuda"] = "nccl"
    if torch.xpu.is_available() and dist.is_backend_available("xccl"):
        found["xpu"] = "xccl"
    return ",".join(f"{device}:{name}" for device, name in found.items())


def check_devices(names: Iterable[str], place: Seat | None) -> None:
    """Refuse devices (as after `--device`) on which several ranks cannot train together.

    Raises:
        SettingsError: a device has a number, lacks collectives, or there are too few.
    """
    if place is None:
        return
    for name in dict.fromkeys(names):
        device = choose_device(name)
        if device.type != "cpu" and device.type not in _backends():
            raise SettingsError(f"several processes cannot train together on {device.type}", advice="give --device cpu")
        if device.index is not None:
            raise SettingsError(
                f"--device {name} is one device, found {place.count} processes",
                advice=f"give --device {device.type}: each process takes another one",
            )
        here = torch.get_device_module(device).device_count()
        if device.type != "cpu" and here < place.local_count:
            raise SettingsError(
                f"{place.local_count} processes on this machine need as many {device.type} devices, found {here}",
                advice="start fewer, or give --device cpu",
            )


# ---- rank 0 ----


NORMALISE_THE_PRESENT = ("tfn", "lmf")
"""Models whose BatchNorm reads only the clips that have a modality, of which ranks have different numbers."""


def check_absence(configs: Iterable[RunConfig], place: Seat | None) -> None:
    """Refuse models that several ranks cannot train while modalities are dropped.

    Raises:
        SettingsError: BatchNorm would read another number of clips on every rank.
    """
    for config in configs:
        if place is not None and config.model.name in NORMALISE_THE_PRESENT and trains_absence(config):
            raise SettingsError(
                f"several processes cannot train one seed of {label_of(config.model.name)} with "
                "optimizer.modality_dropout",
                advice="train it in one process; --jobs trains several seeds at once",
            )


def lead(ranks: Ranks, step: Step, cache: str, progress: training.Progress, schedule: training.Schedule) -> None:
    """Hand a step and the state of its training to the other ranks; they then train in step with this one.

    Args:
        ranks: the ranks.
        step: the step.
        cache: how the states of a frozen text encoder are cached (written by now): fp32, fp16 or off.
        progress: the state that training starts from.
        schedule: the schedule of the stage.
    """
    if not isinstance(ranks, SeveralRanks):
        return
    leave_note(0, run=str(step.run.resolve()), seed=step.seed)
    tensors = {**progress.model.state_dict(), **checkpoint.optimizers_tensors(progress.optimizers)}
    if progress.within is not None:
        tensors |= resuming.within_step(progress, progress.within, schedule)
    sizes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    ranks.from_first((step, cache, resuming.facts_of(progress), sizes))
    for tensor in tensors.values():
        ranks.copy_from_first(tensor.detach().cpu().contiguous())


def end_with_launcher() -> None:
    """Let this process save and end if torchrun is killed: then nobody else would end it."""
    threading.Thread(target=_end_with_launcher, daemon=True).start()


def _end_with_launcher() -> None:
    with contextlib.suppress(RuntimeError, ValueError):
        store = _connected()
        try:
            return store.wait([_ENDED], _FOREVER)
        except RuntimeError:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_LONG_GRACE)
            os._exit(1)


def dismiss() -> None:
    """Let the other ranks end."""
    with contextlib.suppress(RuntimeError, ValueError):
        _store().set(_ENDED, "")


# ---- the other ranks ----


def follow() -> NoReturn:
    """Take part in the trainings that rank 0 leads, until it ends."""
    threading.Thread(target=_end_with_first, daemon=True).start()
    try:
        ranks = joined()
        with Shelf() as shelf:
            while isinstance(ranks, SeveralRanks):
                take_part(ranks, shelf)
    except LostRankError:
        """Rank 0 says it, or whoever started torchrun."""
    except ConkiError as error:
        _explain(str(error))
    except Exception as error:
        _explain(f"{type(error).__name__}: {reason_of(error)}")
        traceback.print_exc()  # a bug
    time.sleep(_GRACE)
    os._exit(1)


def _explain(line: str) -> None:
    """Leave the reason why this rank ends for rank 0, which prints it."""
    with contextlib.suppress(RuntimeError, ValueError):
        _store().set(FAILED, one_line(f"process {os.environ['RANK']} of this training: {line}"))


def _end_with_first() -> None:
    """End this process when rank 0 has ended, or torchrun itself."""
    with contextlib.suppress(RuntimeError):
        _connected().wait([_ENDED], _FOREVER)
        os._exit(0)
    os._exit(1)


def take_part(ranks: SeveralRanks, shelf: Shelf) -> None:
    """Wait for a step of rank 0 and train it to its end."""
    step, cache, facts, sizes = ranks.from_first()
    job = open_step(step, shelf, Observer())
    model = build_model(job, step.seed, None)
    progress = training.start(model, job.config)
    tensors: dict[str, Tensor] = {}
    for name, (shape, kind) in sizes.items():
        tensors[name] = torch.empty(shape, dtype=kind)
        ranks.copy_from_first(tensors[name])
    resuming.restore(progress, tensors, facts, "the state of rank 0")
    if cache != "off" and model.layers_read is not None:
        found = StateCache(model.text_encoder, model.layers_read, cache, job.run.states_folder, job.device)
        job = replace(job, inputs=with_states(found, job.inputs, job.splits, job.observer) or job.inputs)
    schedule = training.schedule_of(job.config, step.seed)
    train, valid = training_batches(job, model, step.seed)
    for _ in training.fit(progress, train, valid, schedule, device=job.device, observer=job.observer, ranks=ranks):
        """Rank 0 alone saves."""
