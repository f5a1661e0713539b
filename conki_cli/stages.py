"""One stage of one configuration: build the network, train its seeds, keep what they learnt, load it back."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conki_cli import checkpoint, training, zoo
from conki_cli.batches import Batches, Inputs
from conki_cli.config import RunConfig, to_toml
from conki_cli.config.words import run_label
from conki_cli.contract import Architecture, SentimentModel
from conki_cli.environment import environment
from conki_cli.errors import ConkiError, RunError, SettingsError
from conki_cli.evaluation import predict
from conki_cli.files import append_line, human_size, to_json, write_json, write_text
from conki_cli.layers import compile_positions
from conki_cli.metrics import sentiment_metrics
from conki_cli.runs import Predictions, Reporter, Run, finish_run, write_predictions
from conki_cli.store import SPLITS, Utterances
from conki_cli.text import (
    backbone_from_config,
    encoder_config,
    load_backbone,
    load_tokenizer,
    max_tokens,
    save_encoder_files,
    tokenize,
)
from conki_cli.text_encoder import TextEncoder


@dataclass(frozen=True)
class Job:
    """One stage of one configuration, ready to train its seeds."""

    config: RunConfig
    run: Run
    inputs: Inputs
    encoder: str
    device: torch.device
    reporter: Reporter


def train_seeds(job: Job, first: Run | None) -> None:
    """Train the seeds of a run that are not finished, each from what the stage-1 run `first` hands over."""
    stage = 1 if job.config.run.stage == "pretrain" else 2
    missing = [seed for seed in job.config.run.seeds if job.run.seed_result(seed) is None]
    if not missing:
        job.reporter.say(f"stage {stage}: {job.run.path} is finished, reused")
    for seed in missing:
        _train_seed(job, seed, first)
    finish_run(job.run)


def build_model(job: Job, seed: int, first: Run | None) -> SentimentModel:
    """Build the network of a run, random under its seed, with what the stage-1 run `first` hands over."""
    torch.manual_seed(seed)
    sizes = encoder_config(job.encoder)
    text = None
    if "text" in job.inputs.modalities:
        backbone, fresh = load_backbone(job.encoder)
        text = TextEncoder(backbone, width=sizes.hidden_size, fresh=fresh)
    names = [name for name in job.inputs.modalities if name != "text"]
    architecture = Architecture(
        modalities=job.inputs.modalities,
        width=sizes.hidden_size,
        text_layers=sizes.num_hidden_layers,
        widths={name: job.inputs.target.widths[name] for name in names},
        positions={name: job.inputs.limits[name] for name in names},
        external_widths=job.inputs.external_widths,
    )
    config = job.config
    model = zoo.build(config, architecture, text)
    if first is not None:
        stored = _stored_weights(first, seed)
        checkpoint.restore(model, {name: stored[name] for name in model.handed_over()}, f"stage 1 in {first.path}")
    on_gpu = job.device.type == "cuda"
    if config.compute.precision == "tf32" and not on_gpu:
        raise SettingsError("--precision tf32 is a kind of number that GPUs have, and this run computes on the CPU")
    torch.set_float32_matmul_precision("high" if config.compute.precision == "tf32" else "highest")
    if config.run.compile:
        compile_positions(model)
    return model.to(job.device)


def _stored_weights(run: Run, seed: int) -> dict[str, torch.Tensor]:
    """Return the best weights of a seed together with those its stage left frozen."""
    weights = checkpoint.load(run.checkpoint(seed, "best"))[0]
    frozen = run.checkpoint(seed, "frozen")
    return {**weights, **checkpoint.load(frozen)[0]} if frozen.exists() else weights


def _train_seed(job: Job, seed: int, first: Run | None) -> None:
    model = build_model(job, seed, first)
    job, kept_as = _with_states(job, seed, model)
    trained, kept = model.stored_names()
    _announce(job, model, seed, checkpoint.size_while_training(model, trained, kept))
    facts = {
        "config": to_toml(job.config),
        "architecture": dataclasses.asdict(model.architecture),
        "fresh_text": sorted(name.removeprefix(model.text_prefix) for name in model.fresh_text),
        "seed": seed,
        "cache": kept_as,
    }
    _write_setting(job, seed)
    if model.text_is_frozen and not _frozen_encoder(job.run).exists():
        encoder = [name for name in model.state_dict() if name.startswith(model.text_prefix)]
        checkpoint.save(_frozen_encoder(job.run), checkpoint.select(model, encoder), facts)
    if kept:
        checkpoint.save(job.run.checkpoint(seed, "frozen"), checkpoint.select(model, kept), facts)
    progress = training.start(model, job.config)
    _continue(job, seed, progress)
    plan = training.plan_of(job.config, seed)
    train = job.inputs.batches("train", batch_size=plan.batch_size, seed=seed)
    valid = job.inputs.batches("valid", batch_size=plan.batch_size)
    seconds = 0.0
    for epoch in training.fit(progress, train, valid, plan, device=job.device, reporter=job.reporter):
        seconds += epoch.seconds
        _save_epoch(job, seed, progress, epoch, trained, facts)
    _finish_seed(job, seed, progress, {"seconds": round(seconds, 3), "cache": kept_as}, first)


def _frozen_encoder(run: Run) -> Path:
    """Return where a run keeps a frozen text encoder, once for all its seeds."""
    return run.path / "encoder" / "frozen.safetensors"


def _with_states(job: Job, seed: int, model: SentimentModel) -> tuple[Job, str]:
    """Let a frozen text encoder read the texts of the store once, for all epochs and seeds.

    Returns:
        The job, and how the states are kept: fp32, fp16 or off. A seed that was interrupted stays with what it began.
    """
    from conki_cli.frozen import Keeping, kept_states

    last = job.run.checkpoint(seed, "last")
    begun = checkpoint.load(last, facts_only=True)[1].get("cache") if last.exists() else None
    how = begun or job.config.run.cache
    if model.layers_read is None or how == "off":
        return job, "off"
    if begun not in (None, job.config.run.cache):
        job.reporter.say(f"seed {seed} began with --cache {begun} and continues so")
    folder = job.run.path.parent.parent / "frozen"
    keeping = Keeping(model.text_encoder, model.layers_read, how, folder, job.device)
    splits = ("train", "valid") if job.config.run.stage == "pretrain" else SPLITS
    states = kept_states(keeping, job.inputs, splits, job.reporter)
    if states is None:
        return job, "off"
    return dataclasses.replace(job, inputs=dataclasses.replace(job.inputs, states=states)), how


def _announce(job: Job, model: SentimentModel, seed: int, sizes: tuple[int, int]) -> None:
    """Say what is trained and the bytes it takes on disk, while training and afterwards, before any is written."""
    during, after = sizes
    free = shutil.disk_usage(job.run.path).free
    count = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = job.config
    what = f"stage 1 on {config.data.external}, for" if config.run.stage == "pretrain" else "stage 2 on"
    job.reporter.say(
        f"{run_label(config)}, {what} {config.data.dataset} ({', '.join(job.inputs.modalities)}), "
        f"seed {seed}: {trainable:,} of {count:,} parameters train on {job.device}; "
        f"checkpoints take {human_size(during)} while training, {human_size(after)} afterwards"
    )
    if during > free:
        raise ConkiError(
            f"checkpoints need {human_size(during)} and {human_size(free)} are free below {job.run.path}: "
            "free some space or choose another --workspace"
        )
    for warning in config.own.warnings if config.own is not None else ():
        job.reporter.say(warning)
    for name, count in job.inputs.cut("train").items():
        if count:
            job.reporter.say(f"{count} training clips have more than {job.inputs.limits[name]} {name} frames: cut")


def _write_setting(job: Job, seed: int) -> None:
    """Write environment.json of a seed and, once per run, the tokenizer and configuration of the text encoder."""
    stores = [store for store in (job.inputs.target, job.inputs.external) if store is not None]
    data = {store.dataset: {"store": store.content_id, "source": store.source["sha256"]} for store in stores}
    facts = environment(data, device=str(job.device), threads=torch.get_num_threads())
    write_json(job.run.seed_folder(seed) / "environment.json", facts)
    folder = job.run.path / "encoder"
    if "text" in job.inputs.modalities and not (folder / "config.json").exists():
        save_encoder_files(job.encoder, folder)


def _continue(job: Job, seed: int, progress: training.Progress) -> None:
    """Continue from `last` where an earlier start of the same run was interrupted; else begin a fresh log."""
    last, log = job.run.checkpoint(seed, "last"), job.run.seed_folder(seed) / "metrics.jsonl"
    if not last.exists():
        log.unlink(missing_ok=True)
        return
    tensors, facts = checkpoint.load(last)
    checkpoint.restore(progress.model, checkpoint.without_optimizer(tensors), str(last))
    checkpoint.restore_optimizers(progress.optimizers, tensors)
    progress.epoch, progress.step = facts["epoch"], facts["step"]
    progress.best_mae, progress.best_epoch = facts["best_mae"], facts["best_epoch"]
    progress.rate_scale, progress.reduced_epoch = facts.get("rate_scale", 1.0), facts.get("reduced_epoch", 0)
    kept = log.read_text(encoding="utf-8").splitlines()[: progress.epoch] if log.exists() else []
    write_text(log, "".join(line + "\n" for line in kept))
    job.reporter.say(f"{job.run.path} is unfinished: seed {seed} continues after epoch {progress.epoch}")


def _save_epoch(
    job: Job,
    seed: int,
    progress: training.Progress,
    epoch: training.Epoch,
    trained: Sequence[str],
    facts: dict[str, Any],
) -> None:
    state = {
        "epoch": progress.epoch,
        "step": progress.step,
        "best_mae": progress.best_mae,
        "best_epoch": progress.best_epoch,
        "rate_scale": progress.rate_scale,
        "reduced_epoch": progress.reduced_epoch,
    }
    weights = checkpoint.select(progress.model, trained)
    if epoch.is_best:
        checkpoint.save(job.run.checkpoint(seed, "best"), weights, {**facts, **state})
    line = {
        "epoch": epoch.number,
        "losses": epoch.losses,
        "validation": epoch.metrics,
        "best": epoch.is_best,
        "seconds": round(epoch.seconds, 3),
    }
    append_line(job.run.seed_folder(seed) / "metrics.jsonl", to_json(line, indent=None))
    moments = checkpoint.optimizers_tensors(progress.optimizers)
    checkpoint.save(job.run.checkpoint(seed, "last"), {**weights, **moments}, {**facts, **state})


def _finish_seed(job: Job, seed: int, progress: training.Progress, spent: Mapping[str, Any], first: Run | None) -> None:
    """Read the test split, once; store predictions and metrics of the best epoch; slim the checkpoints."""
    run, model = job.run, progress.model
    checkpoint.restore(model, checkpoint.load(run.checkpoint(seed, "best"))[0], str(run.path))
    splits = ("valid",) if job.config.run.stage == "pretrain" else ("valid", "test")
    metrics = {split: store_predictions(job, seed, model, split) for split in splits}
    checkpoint.slim_last(
        run.checkpoint(seed, "last"),
        run.checkpoint(seed, "best"),
        best_is_last=progress.best_epoch == progress.epoch,
    )
    result = {
        "seed": seed,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        **spent,
        "stage_1": first.name if first else None,
        "cut": {split: job.inputs.cut(split) for split in ("train", *splits)},
        "parameters": {
            "all": sum(p.numel() for p in model.parameters()),
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        },
        "metrics": metrics,
    }
    write_json(run.seed_folder(seed) / "result.json", result)
    job.reporter.say(
        f"seed {seed}: best epoch {progress.best_epoch} of {progress.epoch}, validation MAE {progress.best_mae:.3f}"
    )


def store_predictions(job: Job, seed: int, model: SentimentModel, split: str) -> dict[str, float]:
    """Predict a split, store the predictions and return their metrics."""
    batches = job.inputs.batches(split, batch_size=training.plan_of(job.config, seed).batch_size)
    with job.reporter.steps(f"seed {seed}: {split} split", len(batches)) as advance:
        found = Predictions(batches.utterances.ids, batches.scores(), predict(model, batches, job.device, advance))
    write_predictions(job.run.predictions_path(seed, split), found)
    return sentiment_metrics(found.predictions, found.scores, score_range=batches.score_range, ids=found.ids)


def load_model(run: Run, seed: int, device: torch.device) -> SentimentModel:
    """Load the best weights of a fine-tuned seed; needs nothing outside the run folder.

    Raises:
        RunError: the run is a stage-1 run, unfinished or damaged.
    """
    if run.result["stage"] != "finetune":
        raise RunError(
            f"{run.name} is a stage-1 run: it hands over adapters and predicts nothing; name a fine-tuned run"
        )
    if run.seed_result(seed) is None:
        raise RunError(f"seed {seed} of run {run.name} is not finished: run `conki finetune` again to continue it")
    facts = checkpoint.load(run.checkpoint(seed, "best"))[1]
    try:
        sizes = {**facts["architecture"], "modalities": tuple(facts["architecture"]["modalities"])}
        architecture = Architecture(**sizes)
    except (KeyError, TypeError) as error:
        raise RunError(
            f"the checkpoint of seed {seed} of {run.name} is damaged: delete its folder, train again"
        ) from error
    text = None
    if "text" in architecture.modalities:
        if not (run.path / "encoder" / "config.json").is_file():
            raise RunError(f"{run.path / 'encoder'} is missing: restore it, or delete the run folder and train again")
        backbone = backbone_from_config(run.path / "encoder")
        fresh = {name.removeprefix("backbone.") for name in facts["fresh_text"] if name.startswith("backbone.")}
        text = TextEncoder(backbone, width=architecture.width, fresh=frozenset(fresh))
    model = zoo.build(run.config, architecture, text)
    weights = _stored_weights(run, seed)
    if model.text_is_frozen:
        weights |= checkpoint.load(_frozen_encoder(run))[0]
    if missing := sorted(set(model.state_dict()) - set(weights)):
        raise RunError(f"the checkpoints of {run.name} lack {missing[0]}: delete that seed's folder and train again")
    checkpoint.restore(model, weights, str(run.path))
    return model.to(device).eval()


def predict_utterances(
    run: Run, utterances: Utterances, device: torch.device, reporter: Reporter | None = None
) -> dict[int, np.ndarray]:
    """Predict new utterances with every finished seed of a run.

    Returns:
        Seed -> predicted scores, [N] float32.

    Raises:
        RunError: the run needs a modality that the utterances lack, or other feature widths.
    """
    predicted = {}
    for seed in run.finished_seeds():
        model = load_model(run, seed, device)
        sizes = model.architecture
        token_ids = None
        for name in sizes.modalities:
            _check_fit(run, name, utterances, sizes)
        if "text" in sizes.modalities:
            folder = str(run.path / "encoder")
            tokenizer = load_tokenizer(folder)
            limit = max_tokens(tokenizer, encoder_config(folder))
            token_ids = tokenize(tokenizer, utterances.texts, max_length=limit)[0]
        batches = Batches(utterances, token_ids, sizes.positions, run.config.optimizer.batch_size)
        with (reporter or Reporter()).steps(f"seed {seed}", len(batches)) as advance:
            predicted[seed] = predict(model, batches, device, advance)
    if not predicted:
        raise RunError(f"run {run.name} has no finished seed: run `conki finetune` again to continue it")
    return predicted


def _check_fit(run: Run, name: str, utterances: Utterances, sizes: Architecture) -> None:
    if name == "text":
        return
    if name not in utterances.frames:
        raise RunError(
            f"run {run.name} was trained on {', '.join(sizes.modalities)} and these clips have no {name}: give a "
            f"feature store, or train a run without it (--drop-modality {name})"
        )
    if utterances.frames[name].width != sizes.widths[name]:
        raise RunError(
            f"run {run.name} reads {name} frames of width {sizes.widths[name]}, these clips have width "
            f"{utterances.frames[name].width}: extract the same features as in training"
        )
