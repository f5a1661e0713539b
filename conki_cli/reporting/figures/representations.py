"""Inference of a trained seed for a figure, on chosen clips of the store that it was trained on.

Axes: B clips, K kinds of knowledge, M modalities, D width, N = B K M vectors.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from conki_cli.metrics import clipped, rules_of
from conki_cli.reporting.figures.kinds import Choices
from conki_cli.reporting.figures.stored import Floats
from conki_cli.runs import Run, clips_of
from conki_cli.system.errors import RunError, StoreError

if TYPE_CHECKING:
    from conki_cli.data.store.records import Utterances
    from conki_cli.model.batches import Batches
    from conki_cli.model.contract import SentimentModel


@contextlib.contextmanager
def training_clips(run: Run, choices: Choices) -> Iterator["Utterances"]:
    """Open a split of the store that a run was trained on.

    Raises:
        StoreError: the store is missing or damaged.
        RunError: it is another version.
    """
    from conki_cli.data.store.reading import FeatureStore

    dataset = run.config.data.dataset
    path = choices.workspace_of(run).store(dataset)
    if not path.is_file():
        raise StoreError(
            f"no feature store {path}, whose clips are drawn",
            advice=(
                f"make it with `conki prepare --dataset {dataset}`, or name the folder that it lies below with "
                "--workspace"
            ),
        )
    with FeatureStore(path) as store:
        yield clips_of(run, store, choices.split)


def network_and_batches(run: Run, seed: int, clips: "Utterances") -> tuple["SentimentModel", "Batches"]:
    """Return the network of a seed with its best weights, and clips as it reads them.

    Raises:
        RunError: the run lacks the weights, or the clips a modality.
    """
    from conki_cli.model.absence import Absence, masked_when_empty
    from conki_cli.model.batches import Batches
    from conki_cli.system.environment import choose_device
    from conki_cli.system.observer import Observer
    from conki_cli.training.inference import load_model, read_texts

    model = load_model(run, seed, choose_device("auto"))
    sizes = model.architecture
    if lacking := [name for name in sizes.modalities if name != "text" and name not in clips.frames]:
        raise RunError(
            f"run {run.name} reads {lacking[0]}, which {clips.path} lacks", advice="restore the store it was made of"
        )
    tokens = None
    if "text" in sizes.modalities:
        tokens = read_texts(run, clips, Observer())
    absence = Absence(masks_empty=masked_when_empty(run.config, model.optional_modalities))
    return model, Batches(clips, tokens, sizes.positions, run.config.optimizer.batch_size, absence=absence)


def represent(run: Run, seed: int, clips: "Utterances", rows: Sequence[int], choices: Choices) -> Floats:
    """Return the vectors of chosen clips in the order of the loss: by clip, kind, modality, [N, D] float64.

    Raises:
        RunError: the run lacks the weights, or the clips a modality.
    """
    import torch

    from conki_cli.training.evaluation import memory_advice

    model, batches = network_and_batches(run, seed, clips)
    size, device = batches.batch_size, next(model.parameters()).device
    parts: list[npt.NDArray[np.float64]] = []
    starts = range(0, len(rows), size)
    label = f"{run.name[:40]}, seed {seed}"
    with torch.no_grad(), memory_advice(size), choices.observer.steps(label, len(starts)) as advance:
        for start in starts:
            output = model.represent(batches.take(np.array(rows[start : start + size])).to(device))
            kinds = [part for part in (output.pan, output.specific) if part is not None]
            stacked = torch.stack(kinds, dim=1)  # [B, K, M, D]
            parts.append(stacked.flatten(0, 2).cpu().numpy().astype(np.float64))
            advance(1, "")
    return np.concatenate(parts)


def shuffled_errors(
    run: Run, seed: int, clips: "Utterances", num_draws: int, choices: Choices
) -> tuple[float, dict[str, list[float]]]:
    """Return the MAE of a seed, and that when a modality of every clip is taken from another clip, draw by draw.

    The order is drawn by a seed of its own, so all seeds of a run see the same clips with the same strange parts.
    """
    import torch

    from conki_cli.training.evaluation import memory_advice

    model, batches = network_and_batches(run, seed, clips)
    device = next(model.parameters()).device
    count, size = len(clips), batches.batch_size
    assert clips.scores is not None
    rules = rules_of(run.record.score_range)
    scores = clipped(np.asarray(clips.scores, dtype=np.float64), rules)
    modalities = model.architecture.modalities
    label = f"{run.name[:40]}, seed {seed}"
    steps = 1 + num_draws * len(modalities)
    with torch.no_grad(), memory_advice(size), choices.observer.steps(label, steps) as advance:

        def error(name: str, order: npt.NDArray[np.int64]) -> float:
            found = []
            for start in range(0, count, size):
                batch = batches.take(np.arange(start, min(start + size, count)))
                if name:
                    strange = batches.take(order[start : start + size])
                    batch = replace(batch, **cast("dict[str, Any]", {name: strange.modality(name)}))
                found.append(model.represent(batch.to(device)).prediction.cpu().numpy())
            advance(1, name)
            return float(np.abs(clipped(np.concatenate(found).astype(np.float64), rules) - scores).mean())

        own = error("", np.arange(count))
        orders = [strange_order(count, draw) for draw in range(num_draws)]
        return own, {name: [error(name, order) for order in orders] for name in modalities}


def strange_order(count: int, draw: int) -> npt.NDArray[np.int64]:
    """Return for each clip the number of another one, never its own: each follows the last in a ring drawn at random.

    Args:
        count: N, at least 2.
        draw: seed of the ring.
    """
    ring = np.random.default_rng(draw).permutation(count)
    order = np.empty(count, dtype=np.int64)
    order[ring] = np.roll(ring, -1)
    return order
