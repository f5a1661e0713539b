"""Inference with a trained run: load its seeds' weights, score utterances."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from conki_cli.config.sections import RunConfig
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Ragged, Utterances
from conki_cli.model import zoo
from conki_cli.model.batches import Batches
from conki_cli.model.contract import Architecture, SentimentModel
from conki_cli.model.inputs import open_inputs
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.runs import Run
from conki_cli.system.errors import ConkiError, RunError, reason_of
from conki_cli.system.observer import Observer
from conki_cli.system.readable import status_of
from conki_cli.text import (
    TextReport,
    TokenCounts,
    backbone_from_config,
    count_tokens,
    encoder_config,
    load_reader,
    load_tokenizer,
    tokenize,
)
from conki_cli.text.context import Context, separator_of, tokenize_with_context
from conki_cli.training import checkpoint
from conki_cli.training.cached_states import StateCache, cached_states
from conki_cli.training.evaluation import predict
from conki_cli.training.presence import Reading, fit_to

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def stored_architecture(facts: Mapping[str, Any]) -> Architecture:
    """Return the sizes that a checkpoint's facts state; damaged facts raise a KeyError or TypeError."""
    return Architecture(**{**facts["architecture"], "modalities": tuple(facts["architecture"]["modalities"])})


def modalities_of(run: Run, seed: int) -> tuple[str, ...]:
    """Return the modalities that a seed was trained on, by its checkpoint's header.

    Raises:
        RunError: the checkpoint is missing or damaged.
    """
    facts = checkpoint.load(run.checkpoint(seed, "best"), facts_only=True)[1]
    try:
        return stored_architecture(facts).modalities
    except (KeyError, TypeError) as error:
        raise RunError(
            f"the checkpoint of seed {seed} of {run.name} is damaged", advice="delete its folder, train again"
        ) from error


def stored_network(run: Run, config: RunConfig, architecture: Architecture, facts: Mapping[str, Any]) -> SentimentModel:
    """Build the network that a checkpoint's facts describe, around the configuration of the run's text encoder."""
    text = None
    if "text" in architecture.modalities:
        backbone = backbone_from_config(run.path / "encoder")
        fresh = {name.removeprefix("backbone.") for name in facts["fresh_text"] if name.startswith("backbone.")}
        separator = None
        if context := Context.of(config):
            separator = separator_of(load_tokenizer(str(run.path / "encoder")), backbone.config, context)
        text = TextEncoder(backbone, width=architecture.width, fresh=frozenset(fresh), separator=separator)
    return zoo.build(config, architecture, text)


def load_model(run: Run, seed: int, device: torch.device) -> SentimentModel:
    """Load the best weights of a fine-tuned seed; needs nothing outside the run folder.

    Raises:
        RunError: the run is a stage-1 run, unfinished or damaged.
    """
    if run.record.stage != "finetune":
        raise RunError(
            f"{run.name} is a stage-1 run, which hands over adapters and cannot predict", advice="name a fine-tuned run"
        )
    if run.seed_result(seed) is None:
        raise RunError(
            f"seed {seed} of run {run.name} is not finished", advice="run `conki finetune` again to resume it"
        )
    weights, facts = checkpoint.load_best(run, seed)
    try:
        architecture = stored_architecture(facts)
    except (KeyError, TypeError) as error:
        raise RunError(
            f"the checkpoint of seed {seed} of {run.name} is damaged", advice="delete its folder, train again"
        ) from error
    if "text" in architecture.modalities and not (run.path / "encoder" / "config.json").is_file():
        raise RunError(
            f"{run.path / 'encoder'} is missing", advice="restore it, or delete the run folder and train again"
        )
    if status_of(run.frozen_encoder) is not None:
        weights = {**checkpoint.load(run.frozen_encoder)[0], **weights}
    _check_shapes(run, architecture, facts, weights)
    model = stored_network(run, run.config, architecture, facts)
    expected = model.state_dict().keys()
    weights = {name: tensor for name, tensor in weights.items() if name in expected}
    checkpoint.restore(model, weights, str(run.path))
    return model.to(device).eval()


def _check_shapes(
    run: Run, architecture: Architecture, facts: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Compare the network that a run describes with its weights, before memory is allocated for it.

    An untrusted folder may describe a network of any size; its weights are only as large as their files.

    Raises:
        RunError: they do not fit.
    """
    has_text = "text" in architecture.modalities
    if has_text and encoder_config(str(run.path / "encoder")).num_hidden_layers > len(weights):
        raise RunError(
            f"the text encoder of {run.name} must fit its weights but has more layers", advice=f"restore {run.path}"
        )
    try:
        with torch.device("meta"):
            planned = stored_network(run, run.config, architecture, facts)
        planned.resize_memory(weights)
    except (ConkiError, MemoryError):
        raise
    except Exception as error:  # wrong sizes can raise any kind of error
        raise RunError(
            f"the network of {run.name} cannot be built ({reason_of(error)})", advice=f"restore {run.path}"
        ) from error
    for name, tensor in planned.state_dict().items():
        if name not in weights:
            raise RunError(
                f"the checkpoints of {run.name} lack {name}", advice="delete that seed's folder and train again"
            )
        if (found := weights[name].shape) != tensor.shape:
            raise RunError(
                f"{run.path} does not fit the model: {name} {tuple(found)} there, shape {tuple(tensor.shape)} here"
            )


def predict_utterances(
    run: Run,
    utterances: Utterances,
    device: torch.device,
    observer: Observer | None = None,
    *,
    split_of: tuple[FeatureStore, str, Path] | None = None,
) -> dict[int, np.ndarray]:
    """Predict utterances with every finished seed of a run.

    Args:
        run: a fine-tuned run.
        utterances: what to score.
        device: where to compute.
        observer: receives the progress.
        split_of: the store and split of the utterances, if they are a split of the run's target, and the folder of
            cached states: those of a frozen text encoder are then used as in training, so that the predictions have
            the same bits.

    Returns:
        Seed -> predicted scores, [N] float32.

    Raises:
        RunError: the model needs a modality that the utterances lack, or other feature widths.
    """
    return predict_readings(run, [Reading(utterances)], device, observer or Observer(), split_of=split_of)[0]


def predict_readings(
    run: Run,
    readings: Sequence[Reading],
    device: torch.device,
    observer: Observer,
    *,
    split_of: tuple[FeatureStore, str, Path] | None = None,
) -> list[dict[int, np.ndarray]]:
    """Predict clips read in several ways with every finished seed of a run; each network is loaded once.

    Args:
        run: a fine-tuned run.
        readings: the ways.
        device: where to compute.
        observer: receives the progress.
        split_of: see `predict_utterances`.

    Returns:
        For each reading, seed -> predicted scores, [N] float32.

    Raises:
        SettingsError: the model needs a modality that is to be left out.
        RunError: the clips lack a modality that the model needs, or have other feature widths.
    """
    predicted: list[dict[int, np.ndarray]] = [{} for _ in readings]
    tokens: dict[int, list[np.ndarray]] = {}
    for seed in run.finished_seeds():
        model = load_model(run, seed, device)
        states = _states_of(run, seed, model, split_of, observer) if split_of is not None else {}
        for number, reading in enumerate(readings):
            fitted = fit_to(run, model, reading, observer)
            if "text" in model.architecture.modalities and number not in tokens:  # all seeds share the tokenizer
                tokens[number] = read_texts(run, reading.utterances, observer if not number else Observer())
            batches = Batches(
                fitted.utterances,
                tokens.get(number),
                model.architecture.positions,
                run.config.optimizer.batch_size,
                states=states if reading.has_own_texts else {},
                absence=fitted.absence,
            )
            with observer.steps(f"seed {seed}", len(batches)) as advance:
                predicted[number][seed] = predict(model, batches, device, advance)
    if not predicted or not predicted[0]:
        raise RunError(f"run {run.name} has no finished seed", advice="run `conki finetune` again to resume it")
    return predicted


def read_texts(run: Run, utterances: Utterances, observer: Observer) -> list[np.ndarray]:
    """Return the token ids of utterances as a run reads them: with their context, if it has one and they have."""
    tokenizer, limit = load_reader(str(run.path / "encoder"))
    own, num_truncated = tokenize(tokenizer, utterances.texts, max_length=limit)
    _mention_texts(tokenizer, utterances, count_tokens(tokenizer, own, num_truncated), observer)
    context = Context.of(run.config)
    if not context:
        return own
    if utterances.path is None:
        observer.say(f"run {run.name} reads clips with their context (data.context); single texts have none")
        return own
    return tokenize_with_context(tokenizer, utterances, context, max_length=limit)[0]


def _mention_texts(
    tokenizer: "PreTrainedTokenizerBase", utterances: Utterances, counts: TokenCounts, observer: Observer
) -> None:
    """Warn about texts with words that the run's encoder does not know, and about texts that it truncates."""
    report = TextReport("these clips", tokenizer, {utterances.split: counts}, lambda split: utterances.texts)
    if warning := report.warning():
        observer.say(warning)
    if counts.num_truncated:
        observer.say(f"{counts.num_truncated} of {counts.num_texts:,} texts are too long for the encoder: truncated")


def _states_of(
    run: Run, seed: int, model: SentimentModel, split_of: tuple[FeatureStore, str, Path], observer: Observer
) -> Mapping[str, Ragged]:
    """Return the cached states of a seed's frozen text encoder for a split; empty if the seed trained without a cache.

    Cached files that were deleted are computed and written again.
    """
    result = run.seed_result(seed)
    how = result.cache if result is not None else "off"
    if model.layers_read is None or how == "off":
        return {}
    store, split, folder = split_of
    inputs = open_inputs(run.config, store, None, str(run.path / "encoder"))
    device = next(model.parameters()).device
    cache = StateCache(model.text_encoder, model.layers_read, how, folder, device)
    found = cached_states(cache, inputs, (split,), observer)
    return {} if found is None else found[split]
