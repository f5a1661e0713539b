"""One seed of one stage: build the network, train it, store the results."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from conki_cli.config.resolving import to_toml
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import run_label
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import SPLITS
from conki_cli.metrics import sentiment_metrics
from conki_cli.model.absence import idle_dropout
from conki_cli.model.contract import SentimentModel
from conki_cli.model.inputs import Inputs
from conki_cli.model.mixing import MixedBatches
from conki_cli.runs import (
    Median,
    MetricsLog,
    Predictions,
    Run,
    SeedResult,
    check_is_file,
    check_settings,
    finish_run,
    learning_warnings,
    measure_again,
    median_of,
    open_run,
    write_extraction,
    write_predictions,
    write_scale,
)
from conki_cli.runs.log import log_path, whole_lines
from conki_cli.runs.writing import recorded
from conki_cli.system.environment import environment, with_earlier
from conki_cli.system.errors import CheckpointError, RunError, StoreError
from conki_cli.system.files import check_room, remove_leftovers_below, remove_leftovers_in, write_json, write_text
from conki_cli.system.locks import forget_killed, lock_beside, locked
from conki_cli.system.observer import Observer, Training
from conki_cli.system.observers import Observers
from conki_cli.system.readable import human_size, status_of
from conki_cli.system.signals import postponed
from conki_cli.text import (
    encoder_config,
    save_encoder_files,
)
from conki_cli.training import checkpoint, resuming
from conki_cli.training import loop as training
from conki_cli.training.cached_states import StateCache, with_states
from conki_cli.training.evaluation import memory_advice, predict
from conki_cli.training.following import lead
from conki_cli.training.jobs import (
    READ_AT_ONCE,
    Job,
    build_model,
    check_scores,
    frozen_text,
    text_facts,
    text_reports,
    training_batches,
)
from conki_cli.training.ranks import ALONE, Ranks
from conki_cli.training.steps import Shelf, Step, open_step


def train(
    step: Step, observer: Observer, *, shelf: Shelf | None = None, run: Run | None = None, ranks: Ranks = ALONE
) -> None:
    """Train a seed to its end, starting from its stage-1 run if it has one; do nothing if it is finished.

    The folder of a run is made when its first network is ready to train, so that refused runs leave no folder.

    Args:
        step: which seed.
        observer: is notified of the progress.
        shelf: the opened stores and tokenizers; None: open them.
        run: the opened run folder, if the caller has it.
        ranks: the processes that train together; this one is rank 0, the others follow (`training/following.py`).

    Raises:
        ConkiError: another process trains this seed, or the seed cannot be trained.
    """
    what = f"seed {step.seed} of the run {step.run.name}"
    with (
        contextlib.nullcontext(shelf) if shelf is not None else Shelf() as opened,
        locked(Run(step.run).seed_lock(step.seed), what=what, say=observer.say),
    ):
        job = dataclasses.replace(open_step(step, opened, observer, run), ranks=ranks)
        if status_of(step.run / "result.json") is not None and job.run.seed_result(step.seed) is not None:
            return  # another process finished it after this step was planned
        remove_leftovers_below(job.run.seed_folder(step.seed))
        first = Run(step.first) if step.first is not None else None
        _train_seed(job, step, first)
        with _alone(job.run, observer):
            measure_again(job.run)
            finish_run(job.run)


def take_over(run: Run, config: RunConfig, data: Mapping[str, str], target: FeatureStore, observer: Observer) -> None:
    """Update the record of a run whose seeds are all trained: requested seeds, the threshold between two classes."""
    for seed in config.run.seeds:
        forget_killed(run.seed_lock(seed))
    with _alone(run, observer):
        before = run.config.data.threshold
        _begin(run, config, data, run.record.score_range, target)
        if (now := run.config.data.threshold) != before:
            observer.say(f"the run's threshold between two classes was {before} and is now {now}")
        measure_again(run)
        finish_run(run)


@contextlib.contextmanager
def _alone(run: Run, observer: Observer) -> Iterator[None]:
    """Hold the run's lock for a moment to write what its seeds share."""
    with locked(lock_beside(run.path), what=f"the run {run.name}", wait=True, say=observer.say):
        remove_leftovers_in(run.path)
        remove_leftovers_below(run.path / "encoder")
        yield


def _begin(
    run: Run,
    config: RunConfig,
    data: Mapping[str, str],
    score_range: tuple[float, float],
    target: FeatureStore,
    ranges: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> None:
    """Make the run folder, or add the seeds to the existing one.

    Raises:
        RunError: a run of that name has other settings, or was trained on other data or score ranges.
    """
    check_settings(run, config)
    open_run(run, config, data, score_range, ranges=ranges)
    if config.run.stage == "finetune":
        write_scale(run, target)
        write_extraction(run, target)


def _train_seed(job: Job, step: Step, first: Run | None) -> None:
    seed = step.seed
    with memory_advice(None):
        model = build_model(job, seed, first)
        progress = training.start(model, job.config)
    trained, kept = model.stored_names()
    text, own = frozen_text(model), list(kept)
    needs_text = bool(text) and status_of(job.run.frozen_encoder) is None
    sizes = checkpoint.size_while_training(model, trained, [*own, *(text if needs_text else [])])
    job, cache = _with_states(job, seed, model, spare=sizes[0])
    _announce(job, model, seed, sizes)
    facts = {
        "config": to_toml(job.config),
        "architecture": dataclasses.asdict(model.architecture),
        "fresh_text": sorted(name.removeprefix(model.text_prefix) for name in model.fresh_text),
        "seed": seed,
        "cache": cache,
    }
    frozen = {job.run.frozen_encoder: text, job.run.checkpoint(seed, "frozen"): own}
    frozen = {path: names for path, names in frozen.items() if names}
    with _alone(job.run, job.observer):
        _begin(job.run, job.config, job.data, job.inputs.score_range, job.inputs.target, job.score_ranges)
        _check_stores(job, seed)
        _write_encoder(job)
        if text and status_of(job.run.frozen_encoder) is None:
            checkpoint.save(job.run.frozen_encoder, checkpoint.select(model, text), facts)
    is_resumed = _continue(job, seed, progress)
    _write_environment(job, seed, is_resumed=is_resumed)
    if own and not (is_resumed and resuming.keeps_frozen(job.run, seed, model, own, job.observer)):
        checkpoint.save(job.run.checkpoint(seed, "frozen"), checkpoint.select(model, own), facts)
    lead(job.ranks, step, cache, progress, training.schedule_of(job.config, seed))
    _train(job, seed, progress, trained, facts)
    with _alone(job.run, job.observer):
        _rewrite_damaged_weights(job, frozen, model, facts)
    _finish_seed(job, seed, progress, cache, first)


def _train(job: Job, seed: int, progress: training.Progress, trained: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Run the remaining epochs; save after each, every `checkpoint_every` steps, and before the program ends."""
    schedule, every, saved = training.schedule_of(job.config, seed), job.config.run.checkpoint_every, progress.step
    train, valid = training_batches(job, progress.model, seed)
    named = Training(job.run.name, 1 if job.config.run.stage == "pretrain" else 2, seed, schedule.num_epochs)
    observer = Observers(MetricsLog(log_path(job.run, seed)), job.observer)

    def save() -> None:
        nonlocal saved
        resuming.save_last(job.run, seed, progress, schedule, trained=trained, facts=facts)
        saved = progress.step

    with memory_advice(schedule.batch_size), postponed() as ending:

        def on_step() -> None:
            if every and progress.step - saved >= every:
                save()
            if (asked := ending()) is not None:
                if progress.step != saved:
                    save()
                raise asked

        epochs = training.fit(
            progress,
            train,
            valid,
            schedule,
            device=job.device,
            observer=job.observer,
            training=named,
            on_step=on_step,
            ranks=job.ranks,
        )
        for epoch in epochs:
            if epoch.is_best:
                best = checkpoint.select(progress.model, trained)
                checkpoint.save(job.run.checkpoint(seed, "best"), best, {**facts, **resuming.facts_of(progress)})
            observer.epoch(named, epoch)
            save()  # last: training resumes from there


def _rewrite_damaged_weights(
    job: Job, frozen: Mapping[Path, list[str]], model: SentimentModel, facts: Mapping[str, Any]
) -> None:
    """Rewrite frozen weights that were damaged on the disk: the seed cannot be used without them."""
    for path, names in frozen.items():
        try:
            checkpoint.load(path)
        except CheckpointError as error:
            job.observer.say(f"{error.found}: written again")
            checkpoint.save(path, checkpoint.select(model, names), facts)


def _with_states(job: Job, seed: int, model: SentimentModel, *, spare: int) -> tuple[Job, str]:
    """Add cached states of a frozen text encoder to the inputs of a job; `spare` bytes stay free on the disk.

    Returns:
        The job, and how the states are cached: fp32, fp16 or off. An interrupted seed keeps the cache it started with.
    """
    found = resuming.latest(job.run, seed, job.observer, facts_only=True)
    earlier = found[1].get("cache") if found is not None else None
    how = earlier or job.config.run.cache
    if model.layers_read is None:
        return job, "off"
    if how != job.config.run.cache:
        job.observer.say(f"seed {seed} started with --cache {earlier} and keeps it")
    if how == "off":
        return job, "off"
    cache = StateCache(model.text_encoder, model.layers_read, how, job.run.states_folder, job.device, spare)
    inputs = with_states(cache, job.inputs, job.splits, job.observer)
    return (job, "off") if inputs is None else (dataclasses.replace(job, inputs=inputs), how)


def _announce(job: Job, model: SentimentModel, seed: int, sizes: tuple[int, int]) -> None:
    """Say what will be trained, and how many bytes it takes on disk during training and afterwards."""
    during, after = sizes
    count = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = job.config
    what = f"stage 1 on {config.data.external}, for" if config.run.stage == "pretrain" else "stage 2 on"
    job.observer.say(
        f"{run_label(config)}, {what} {config.data.dataset} ({', '.join(job.inputs.modalities)}), "
        f"seed {seed}: {trainable:,} of {count:,} parameters train on {job.device}"
        f"{f' in {job.ranks.count} processes' if job.ranks.count > 1 else ''}; "
        f"checkpoints take {human_size(during)} while training, {human_size(after)} afterwards"
    )
    check_room(job.run.path, during, "checkpoints", "free some space or choose another --workspace")
    known = _median_of(job, ("valid",))
    mae = known.metrics["valid"]["mae"]
    job.observer.say(f"predicting the training median ({known.score:.2f}) gives a validation MAE of {mae:.3f}")
    own = [idle_dropout(config, job.inputs.modalities, model.optional_modalities), check_scores(job, model)]
    for warning in [*filter(None, own), *(config.own.warnings if config.own is not None else ())]:
        job.observer.say(warning)
    for name, count in job.inputs.cut("train").items():
        if count:
            longest = job.inputs.limits[name]
            job.observer.say(f"{count} training clips have more than {longest} {name} frames: truncated")
    if job.inputs.parts:
        batches = job.inputs.batches("train", batch_size=training.schedule_of(config, seed).batch_size)
        assert isinstance(batches, MixedBatches)
        shares = " and ".join(f"{count:,} of {name}" for name, count in batches.shares().items())
        job.observer.say(f"every epoch has {len(batches):,} batches: {shares}")
    if job.inputs.tokenizer is not None:
        num_rows = encoder_config(job.encoder).vocab_size
        for report, part in zip(text_reports(job), job.inputs.sources, strict=True):
            for line in report.described(part.max_tokens, num_rows):
                job.observer.say(line)
            _announce_context(part, job.observer)


def _announce_context(inputs: Inputs, observer: Observer) -> None:
    """Say how many training clips have a context, and how many contexts are truncated."""
    if context := inputs.context:
        neighbours = context.neighbours(inputs.clips("train"))
        count = sum(bool(before or after) for before, after in neighbours)
        later = f" and {context.after} that follow" if context.after else ""
        observer.say(
            f"{count:,} of {len(neighbours):,} training clips of {inputs.learnt.dataset} are read with up to "
            f"{context.before} clips that precede them{later}; {inputs.contexts('train')[1]:,} contexts exceed "
            f"{inputs.max_tokens} tokens and are truncated"
        )


def _write_encoder(job: Job) -> None:
    """Write the tokenizer and the configuration of the text encoder, once per run."""
    folder = job.run.path / "encoder"
    if "text" in job.inputs.modalities and status_of(folder / "config.json") is None:
        save_encoder_files(job.encoder, folder, job.unused_tokenizer)


def _write_environment(job: Job, seed: int, *, is_resumed: bool) -> None:
    """Write environment.json of a seed; it keeps what a resumed seed was trained in before."""
    data = {
        store.dataset: {"store": store.content_id, "source": store.source["sha256"], "stamp": store.stamp}
        for store in job.stores
    }
    path = job.run.seed_folder(seed) / "environment.json"
    facts = environment(data, device=str(job.device), threads=torch.get_num_threads(), ranks=job.ranks.count)
    if is_resumed:
        facts, changed = with_earlier(facts, path)
        if changed:
            job.observer.say(
                f"seed {seed} was trained with {changed} until now: its last digits may be those of neither"
            )
    write_json(path, facts)


def _check_stores(job: Job, seed: int) -> None:
    """Compare the content of a store whose file changed after a seed started, and refuse it if the clips differ.

    Raises:
        StoreError: the clips differ although the store claims the same content.
    """
    from conki_cli.data.store.content import content_of

    known = recorded(job.run.seed_folder(seed) / "environment.json", "stamp")
    for store in job.stores:
        if known.get(store.dataset, store.stamp) == store.stamp:
            continue
        if store.splits != SPLITS:
            raise StoreError(
                f"{store.path} was written or copied since this trial began, and a sweep may not read it whole to "
                "compare it",
                advice="begin another sweep with --name",
            )
        job.observer.say(f"{store.path} was written or copied after seed {seed} started: its clips are compared")
        with job.observer.steps(f"comparing {store.dataset}", 0) as advance:
            digest, _ = content_of(store, lambda count, remark: advance(1, remark))
        if digest != store.content_id:
            raise StoreError(
                f"{store.path} must hold the clips that it was written with, but they were changed",
                advice=f"restore it, or run `conki prepare` again; seed {seed} of {job.run.name} stays as it is",
            )


def _continue(job: Job, seed: int, progress: training.Progress) -> bool:
    """Resume where an earlier start of the same run was interrupted; otherwise start a new log.

    Returns:
        Whether the seed is resumed.
    """
    log = log_path(job.run, seed)
    check_is_file(log)
    found = resuming.latest(job.run, seed, job.observer)
    has_best = found is not None and math.isfinite(found[1]["best_mae"])
    if found is None or (has_best and not resuming.best_is_sound(job.run, seed, job.observer)):
        for path in (log, *(job.run.checkpoint(seed, name) for name in ("last", "previous"))):
            path.unlink(missing_ok=True)  # the best weights of the new start do not belong to them
        return False
    resuming.restore(progress, *found, f"the checkpoint of seed {seed} of {job.run.name}")
    over = progress.epoch - (progress.within is not None)
    kept = whole_lines(log, over)
    write_text(log, "".join(line + "\n" for line in kept.values()))
    place = f"after epoch {over}" if progress.within is None else f"in epoch {over + 1}, after step {progress.step}"
    job.observer.say(f"{job.run.path} is unfinished: seed {seed} resumes {place}")
    if lost := [str(number) for number in range(1, over + 1) if number not in kept]:
        job.observer.say(f"{log} was damaged and lacks epochs {', '.join(lost)}; the weights are not affected")
    return True


def _finish_seed(job: Job, seed: int, progress: training.Progress, cache: str, first: Run | None) -> None:
    """Read the test split once, if there is one; store predictions and metrics; shrink the checkpoints."""
    run, model = job.run, progress.model
    weights, facts = checkpoint.load(run.checkpoint(seed, "best"))
    if facts.get("epoch", progress.best_epoch) != progress.best_epoch:
        raise RunError(
            f"{run.checkpoint(seed, 'best')} must be of epoch {progress.best_epoch}, found epoch {facts['epoch']}",
            advice="delete it and give the same command again: the seed then starts over",
        )
    checkpoint.restore(model, weights, str(run.path))
    splits = [split for split in job.splits if split != "train"]
    metrics = {split: store_predictions(job, seed, model, split) for split in splits}
    checkpoint.slim_last(
        run.checkpoint(seed, "last"),
        run.checkpoint(seed, "best"),
        best_is_last=progress.best_epoch == progress.epoch,
    )
    run.checkpoint(seed, "previous").unlink(missing_ok=True)
    result = SeedResult(
        seed=seed,
        best_epoch=progress.best_epoch,
        epochs=progress.epoch,
        seconds=round(_seconds_of(run, seed), 3),
        cache=cache,
        threshold=job.config.data.threshold,
        stage_1=first.name if first else None,
        cut={split: job.inputs.cut(split) for split in ("train", *splits)},
        texts=text_facts(job),
        parameters={
            "all": sum(p.numel() for p in model.parameters()),
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        },
        metrics=metrics,
        median=_median_of(job, splits),
    )
    run.write_seed_result(seed, result)
    job.observer.say(
        f"seed {seed}: best epoch {progress.best_epoch} of {progress.epoch}, validation MAE {progress.best_mae:.3f}"
    )
    for line in learning_warnings(run, [seed]):
        job.observer.say(f"warning: {line}")


def _median_of(job: Job, splits: Sequence[str]) -> Median:
    """Measure the best constant prediction, the median of the training scores, on some splits."""
    scores = {name: job.inputs.batches(name, batch_size=READ_AT_ONCE).scores() for name in ("train", *splits)}
    measured = {name: scores[name] for name in splits}
    return median_of(scores["train"], measured, job.inputs.score_range, job.config.data.threshold)


def _seconds_of(run: Run, seed: int) -> float:
    """Sum the seconds of all epochs over all starts of the program."""
    lines = whole_lines(log_path(run, seed), sys.maxsize).values()
    return math.fsum(json.loads(line).get("seconds", 0.0) for line in lines)


def store_predictions(job: Job, seed: int, model: SentimentModel, split: str) -> dict[str, float]:
    """Predict a split, store the predictions and return their metrics."""
    batches = job.inputs.batches(split, batch_size=training.schedule_of(job.config, seed).batch_size)
    with job.observer.steps(f"seed {seed}: {split} split", len(batches)) as advance:
        found = Predictions(batches.utterances.ids, batches.scores(), predict(model, batches, job.device, advance))
    write_predictions(job.run.predictions_path(seed, split), found)
    rules: dict[str, Any] = {"score_range": batches.score_range, "threshold": job.config.data.threshold}
    return sentiment_metrics(found.predictions, found.scores, ids=found.ids, **rules)
