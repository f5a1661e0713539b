"""A model and batches -> predictions; their metrics come from `metrics`."""

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from conki_cli.model.batches import Batches
from conki_cli.model.contract import SentimentModel
from conki_cli.system.errors import ConkiError
from conki_cli.training.ranks import ALONE, Ranks

_NO_MEMORY = (
    "DefaultCPUAllocator",
    "not enough memory",
    "Storage size calculation overflow",
    "multiplication overflow",
)
"""Torch's messages about a CPU out of memory, or about an impossible size; it has no error type for them."""

_SMALLER = "lower its widths and numbers of layers (`conki settings` lists them), or choose a smaller --encoder"


def check_memory(size: int) -> None:
    """Refuse a network whose weights and training state, in bytes, exceed the memory of this machine.

    Raises:
        ConkiError: the machine has less memory in total.
    """
    from conki_cli.system.readable import human_size

    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # this system does not report it
        return
    if size > whole:
        raise ConkiError(
            f"the network takes {human_size(size)} of memory and this machine has {human_size(whole)}: {_SMALLER}"
        )


@contextlib.contextmanager
def memory_advice(batch_size: int | None) -> Iterator[None]:
    """Turn an out-of-memory error into one line that names the settings to change.

    Args:
        batch_size: clips per batch; None while a network is built.

    Raises:
        ConkiError: the GPU or the machine is out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # a GPU's is also a RuntimeError
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not (on_gpu or isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)):
            raise
        where = "the GPU's" if on_gpu else "this machine's"
        if batch_size is None:
            raise ConkiError(f"{where} memory is too small for the network: {_SMALLER}") from error
        raise ConkiError(
            f"{where} memory is used up at a batch size of {batch_size}",
            advice=(
                "lower it with --set optimizer.batch_size=N and --set pretraining.batch_size=N, or truncate sequences "
                "with --set data.max_frames=N"
            ),
        ) from error


@torch.no_grad()
def predict(
    model: SentimentModel,
    batches: Batches,
    device: torch.device,
    on_batch: Callable[[int, str], None] = lambda count, remark: None,
    ranks: Ranks = ALONE,
) -> npt.NDArray[np.float32]:
    """Predict every clip of a split, in stored order and evaluation mode; ranks share the batches, whole ones each.

    Returns:
        Predicted scores, [N].

    Raises:
        ConkiError: a prediction is not a finite number.
    """
    model.eval()
    own, absent = [], batches.absent()
    with memory_advice(batches.batch_size):
        for number, indices in enumerate(batches.order()):
            if ranks.is_mine(number):
                own.append(model.represent(batches.take(indices, absent).to(device)).prediction.cpu().numpy())
                on_batch(1, "")
    predictions: npt.NDArray[np.float32] = np.concatenate(ranks.collect(own))
    bad = np.flatnonzero(~np.isfinite(predictions))
    if len(bad):
        raise ConkiError(
            f"{len(bad)} of {len(predictions)} predictions are not finite (first: {batches.utterances.ids[bad[0]]}): "
            "the training diverged; lower the learning rates"
        )
    return predictions
