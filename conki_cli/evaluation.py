"""A model and batches -> predictions; their metrics come from `metrics`."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from conki_cli.batches import Batches
from conki_cli.contract import SentimentModel
from conki_cli.errors import ConkiError


@contextlib.contextmanager
def memory_advice(batch_size: int) -> Iterator[None]:
    """Turn a GPU's out-of-memory error into one line that names the setting to change.

    Raises:
        ConkiError: the device's memory is used up.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConkiError(
            f"the GPU's memory is used up at a batch size of {batch_size}: "
            "lower it with --set optimizer.batch_size=N and --set pretraining.batch_size=N, or cut sequences "
            "with --set data.max_frames=N"
        ) from error


@torch.no_grad()
def predict(
    model: SentimentModel,
    batches: Batches,
    device: torch.device,
    on_batch: Callable[[int, str], None] = lambda count, remark: None,
) -> npt.NDArray[np.float32]:
    """Predict every clip of a split, in stored order and evaluation mode.

    Returns:
        Predicted scores, [N].

    Raises:
        ConkiError: a prediction is not a finite number.
    """
    model.eval()
    parts = []
    with memory_advice(batches.batch_size):
        for batch in batches.epoch():
            parts.append(model.represent(batch.to(device)).prediction.cpu().numpy())
            on_batch(1, "")
    predictions: npt.NDArray[np.float32] = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(predictions))
    if len(bad):
        raise ConkiError(
            f"{len(bad)} of {len(predictions)} predictions are not finite (first: {batches.utterances.ids[bad[0]]}): "
            "the training diverged; lower the learning rates"
        )
    return predictions
