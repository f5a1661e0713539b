"""Plans of runs: stage 1 before stage 2, seeds, ablations (Tables 4 and 5), the demo."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conki_cli.config.resolving import resolve, stage_one, version_1_stage_one
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import run_label, switch_label
from conki_cli.data.preparation import Preparation, is_raw, prepare, prepare_to_score
from conki_cli.data.sources import check_dataset_name
from conki_cli.data.sources.characters import repair
from conki_cli.data.sources.labels import read_texts
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import SCORED, Utterances
from conki_cli.datasets import is_generated
from conki_cli.model.batches import open_inputs
from conki_cli.runs import Predictions, Run, check_data, in_training_scale, locate_run, write_predictions
from conki_cli.system.environment import choose_device
from conki_cli.system.errors import RunError, SettingsError, SourceError, StoreError
from conki_cli.system.files import remove_leftovers_below
from conki_cli.system.locks import lock_beside, locked
from conki_cli.system.readable import status_of
from conki_cli.system.workspace import BUILT_IN_ENCODER, Reporter, Workspace
from conki_cli.text.demo_encoder import build_demo_encoder
from conki_cli.training.inference import predict_utterances
from conki_cli.training.jobs import Job, check_network, is_finished
from conki_cli.training.stages import train_seeds

DEMO_ROWS: tuple[tuple[str, ...], ...] = (("C1",), ("C2",), ("plain-transfer",))
"""What the demo compares ConKI with."""
REAL_ENCODER_RATES = {"pretraining.learning_rate": 2e-4, "optimizer.lr_encoders": 5e-5}
"""The demo's own rates suit its small BERT; a large pretrained encoder would forget everything."""


def demo_rows(encoder: str | None, seeds: tuple[int, ...], device: str) -> dict[str, RunConfig]:
    """Return the demo's configurations by label: with its own small text encoder, or with a real one."""
    flags = {"data.dataset": "demo", "model.text_encoder": encoder, "run.seeds": seeds, "run.device": device}
    rows = {}
    for drop in ((), *DEMO_ROWS):
        rates = REAL_ENCODER_RATES if encoder is not None else {}
        if rates and "plain-transfer" in drop:
            rates = {**rates, "pretraining.lr_encoders": rates["optimizer.lr_encoders"]}
        rows[switch_label(drop)] = resolve(flags={**flags, **rates}, extra_drop=drop)
    return rows


def open_store(workspace: Workspace, dataset: str, reporter: Reporter) -> FeatureStore:
    """Open the feature store of a data set; where it is missing but its raw files are there, prepare it first.

    Raises:
        StoreError: there is no store and nothing to make it from, or its clips have no scores.
    """
    check_dataset_name(dataset)
    path = workspace.store(dataset)
    if status_of(path) is None:
        try:
            prepare(Preparation(dataset, workspace), reporter)
        except (SettingsError, SourceError) as error:
            raise StoreError(
                f"no feature store {path}: make it with `conki prepare --dataset {dataset}` ({error})"
            ) from error
        with FeatureStore(path) as made:
            reporter.say(f"{path} did not exist yet: prepared from {made.source['name']}")
    store = FeatureStore(path)
    if store.is_unlabelled:
        store.close()
        raise StoreError(
            f"{path} must have clips with scores, to train on or to measure by, and holds clips to be scored: score "
            f"them with `conki predict RUN {dataset}`, or prepare {dataset} from a source with labels"
        )
    return store


def ready_encoder(workspace: Workspace, name: str, reporter: Reporter) -> str:
    """Return the name or folder of a text encoder; the demo's own is built when it is first needed."""
    folder = workspace.built_in_encoder
    if name == BUILT_IN_ENCODER and not (folder / "config.json").exists():
        with locked(lock_beside(folder), what=str(folder), wait=True, say=reporter.say):
            if not (folder / "config.json").exists():  # or another process built it while this one waited
                _build_encoder(folder, reporter)
    return workspace.encoder(name)


def _build_encoder(folder: Path, reporter: Reporter) -> None:
    from conki_cli.data.sources.demo import encoder_sentences

    remove_leftovers_below(folder)
    reporter.say(f"building a small BERT with its own vocabulary in {folder}")
    with reporter.steps("masked-word pretraining", 0) as advance:
        build_demo_encoder(folder, encoder_sentences(), progress=lambda done, total: advance(1, f"step {done}/{total}"))


@contextlib.contextmanager
def _open_job(
    config: RunConfig, workspace: Workspace, reporter: Reporter, *, to_train: bool = True, overwrites: bool = False
) -> Iterator[Job]:
    """Open what a run reads and find where it lies or will lie; to train it, no other process may."""
    encoder = ready_encoder(workspace, config.model.text_encoder, reporter)
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(open_store(workspace, config.data.dataset, reporter))
        external = None
        if config.needs_pretraining:
            external = stack.enter_context(open_store(workspace, config.data.external, reporter))
        if external is not None and to_train:
            _mention_scale(target, external, reporter)
        inputs = open_inputs(config, target, external, encoder)
        data = {config.data.dataset: target.content_id}
        if external is not None:
            data[config.data.external] = external.content_id
        run = locate_run(workspace, config, replaces=overwrites)
        if to_train:
            stack.enter_context(locked(lock_beside(run.path), what=f"the run {run.name}", say=reporter.say))
            run = locate_run(workspace, config, replaces=overwrites)
        if not overwrites:
            check_data(run, data)
        yield Job(config, run, inputs, encoder, choose_device(config.run.device), reporter, data, overwrites)


def check_trainable(
    configs: Sequence[RunConfig], workspace: Workspace, reporter: Reporter, *, overwrites: bool = False
) -> None:
    """Refuse whatever of some runs cannot be trained, in either stage, before hours go into the first of them.

    Raises:
        ConkiError: a store or an encoder is missing, settings do not fit each other or the inputs.
    """
    tokens: dict[str, dict[str, tuple[list[np.ndarray], int]]] = {}  # an encoder reads the texts of a split once
    for config in configs:
        stages = [_stage_one_for(config, workspace), config] if config.needs_pretraining else [config]
        for stage in stages:
            again = overwrites and stage is config
            with _open_job(stage, workspace, reporter, to_train=False, overwrites=again) as job:
                if again or not is_finished(job):
                    inputs = dataclasses.replace(job.inputs, _tokens=tokens.setdefault(job.encoder, {}))
                    check_network(dataclasses.replace(job, inputs=inputs))


def _stage_one_for(config: RunConfig, workspace: Workspace) -> RunConfig:
    """Return the stage 1 that a configuration starts from; a run of version 1 keeps its own, if that is still there."""
    if config.dropped("handover"):
        older = version_1_stage_one(config)
        if locate_run(workspace, older).path.exists():
            return older
    return stage_one(config)


def pretrain(
    config: RunConfig, workspace: Workspace, reporter: Reporter, *, checked: bool = False, overwrites: bool = False
) -> Run:
    """Run stage 1 (Algorithm 1) of a stage-2 configuration for all its seeds; finished seeds are reused.

    What `check_trainable` has `checked` is not checked again. With `overwrites` the run is begun anew, but a stage 2
    takes the stage 1 that is there.

    Raises:
        SettingsError: the configuration has no stage 1.
    """
    if not config.needs_pretraining:
        raise SettingsError(
            f"{run_label(config)} with external {config.data.external} has no stage 1, since nothing is handed over: "
            "give --external a data set and drop neither C1 nor C2+handover, or finetune directly"
        )
    first = _stage_one_for(config, workspace).with_values("run", name=config.run.name)
    first = first.with_values("data", threshold=config.data.threshold)
    with _open_job(first, workspace, reporter, overwrites=overwrites) as job:
        train_seeds(job, None, checked=checked)
        return job.run


def finetune(
    config: RunConfig, workspace: Workspace, reporter: Reporter, *, checked: bool = False, overwrites: bool = False
) -> Run:
    """Run stage 2 for all seeds, after the stage 1 it starts from; whatever is finished is reused.

    What `check_trainable` has `checked` is not checked again. With `overwrites` the run is begun anew, but a stage 2
    takes the stage 1 that is there.

    Raises:
        SettingsError: the configuration is that of a stage 1.
    """
    if config.run.stage != "finetune":
        raise SettingsError(
            "run.stage must be finetune here, found pretrain (a stage-1 run's config.toml?): "
            "add --set run.stage=finetune and the [optimizer] and [loss] you want"
        )
    locate_run(workspace, config, replaces=overwrites)  # a name that cannot be used is refused before hours of stage 1
    first = None
    if config.needs_pretraining:
        if not checked:
            check_trainable([config], workspace, reporter, overwrites=overwrites)
            checked = True
        threshold = _stage_one_for(config, workspace).data.threshold  # version 1's learns in the external range
        alike = config.with_values("run", name="").with_values("data", threshold=threshold)
        first = pretrain(alike, workspace, reporter, checked=True)
    with _open_job(config, workspace, reporter, overwrites=overwrites) as job:
        train_seeds(job, first, checked=checked)
        return job.run


def ablate(
    rows: Mapping[str, RunConfig], workspace: Workspace, reporter: Reporter, *, overwrites: bool = False
) -> list[tuple[str, Run]]:
    """Train the rows of an ablation table; only the first, the full model, takes the configured name.

    Args:
        rows: a configuration by the words in which its switches were given.
        workspace: where everything lies.
        reporter: is told the progress.
        overwrites: begin the runs anew.

    Returns:
        Label and run of every row.
    """
    first = next(iter(rows.values()))
    configs = [row.with_values("run", name=first.run.name if row == first else "") for row in rows.values()]
    # All of them first: an impossible row, or a run in its way, is refused before hours go into the others.
    for row in configs:
        locate_run(workspace, row, replaces=overwrites)
    check_trainable(configs, workspace, reporter, overwrites=overwrites)
    done: list[tuple[str, Run]] = []
    for number, (words, row) in enumerate(zip(rows, configs, strict=True)):
        label = run_label(row)
        if row in configs[:number]:
            reporter.say(f"{words} equals an earlier row, {label}: it is shown once")
            continue
        reporter.say(f"row {number + 1} of {len(configs)}: {label}")
        done.append((label, finetune(row, workspace, reporter, checked=True, overwrites=overwrites)))
    return done


def predict_split(run: Run, split: str, workspace: Workspace, reporter: Reporter) -> None:
    """Predict a split that a finished run has no stored predictions for, such as the training split.

    Raises:
        RunError: a stage-1 run, which predicts its validation split only, or the store is not that of the run.
    """
    if run.result["stage"] != "finetune":
        raise RunError(f"{run.name} is a stage-1 run, judged on validation clips only: give --split valid")
    with open_store(workspace, run.config.data.dataset, reporter) as store:
        if run.result["data"].get(run.config.data.dataset) != store.content_id:
            raise RunError(f"run {run.name} was trained on another version of {store.path}: restore that one")
        clips = store.split(split)
        scores = np.asarray(clips.scores, dtype=np.float32)
        found = predict_utterances(run, clips, choose_device("auto"), reporter, split_of=(store, split))
        for seed, predictions in found.items():
            write_predictions(run.predictions_path(seed, split), Predictions(clips.ids, scores, predictions))


@contextlib.contextmanager
def read_new(
    texts: Sequence[str] | None,
    source: Path | None,
    store: Path | None = None,
    split: str | None = None,
    reporter: Reporter | None = None,
    *,
    scaled: Callable[[FeatureStore, Utterances], Utterances] = lambda store, clips: clips,
) -> Iterator[Utterances]:
    """Open utterances to score: sentences, a table with texts, or a split of a feature store, `scaled`.

    Without a split it is the test split, or all clips of a store without scores. Texts of sentences and tables are
    repaired as `conki prepare` does; the reporter is told.
    """
    if store is not None:
        with FeatureStore(store) as opened:
            if opened.is_unlabelled and split is not None:
                raise SettingsError(f"{store} holds clips to be scored, in no split: leave --split {split} out")
            yield scaled(opened, opened.split(split or SCORED))
    elif source is not None:
        yield _with_repaired_texts(read_texts(source), reporter)
    else:
        lines = list(texts or [])
        if any("\ud800" <= character <= "\udfff" for line in lines for character in line):
            raise SettingsError("--text must be UTF-8 and is not: check the terminal's encoding")
        numbers = [str(number) for number in range(1, len(lines) + 1)]
        yield _with_repaired_texts(Utterances(numbers, lines, None, {}, {}), reporter)


def _with_repaired_texts(utterances: Utterances, reporter: Reporter | None) -> Utterances:
    done = repair(utterances.texts)
    if reporter is not None:
        for line in (*done.remarks(), *(f"warning: {warning}" for warning in done.warnings())):
            reporter.say(line)
    return replace(utterances, texts=done.texts)


@contextlib.contextmanager
def open_clips(
    run: Run, path: Path, split: str | None, workspace: Workspace, reporter: Reporter
) -> Iterator[Utterances]:
    """Open new clips in the scale that a run was trained on.

    Args:
        run: scores them.
        path: a feature store; or a raw file or folder, whose clips are prepared aside, without scores and splits.
        split: of a store with scores; None: its test split.
        workspace: where the run's training store lies, which older runs need.
        reporter: is told what is worth a warning.

    Raises:
        ConkiError: the file cannot be read, or its frames cannot be brought to that scale.
    """

    def scaled(store: FeatureStore, clips: Utterances) -> Utterances:
        return in_training_scale(run, store, clips, workspace, reporter)

    with contextlib.ExitStack() as stack:
        place = path
        if is_raw(path):
            if split is not None:
                raise SettingsError(f"{path} is read as clips to be scored, in no split: leave --split {split} out")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conki-")))
            place = folder / "clips.h5"
            dataset = run.config.data.dataset
            prepare_to_score(path, "new-clips" if is_generated(dataset) else dataset, place, reporter)
        yield stack.enter_context(read_new(None, None, place, split, scaled=scaled))


def _mention_scale(one: FeatureStore, other: FeatureStore, reporter: Reporter) -> None:
    methods = [store.normalization["method"] for store in (one, other)]
    if methods[0] != methods[1] and one.widths and other.widths:
        reporter.say(
            f"warning: {one.path} has frames normalised by {methods[0]}, {other.path} by {methods[1]}: "
            "prepare both with the same --normalize"
        )


def predict_new(run: Run, utterances: Utterances, device: str, reporter: Reporter | None = None) -> dict[str, Any]:
    """Score new utterances with every finished seed of a run.

    Returns:
        {"run", "seeds", "score_range", "clips": [{"id", "text", "prediction": mean, "by_seed": {seed: score}}]}.
    """
    by_seed = predict_utterances(run, utterances, choose_device(device), reporter)
    means = np.mean([values.astype(np.float64) for values in by_seed.values()], axis=0)
    clips = [
        {
            "id": identity,
            "text": text,
            "prediction": float(mean),
            "by_seed": {str(seed): float(values[row]) for seed, values in by_seed.items()},
        }
        for row, (identity, text, mean) in enumerate(zip(utterances.ids, utterances.texts, means, strict=True))
    ]
    return {"run": run.name, "seeds": list(by_seed), "score_range": run.result["score_range"], "clips": clips}
