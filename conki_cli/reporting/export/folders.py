"""A run -> a portable folder that predicts, or that holds only its adapters; it never contains texts of clips.

Weights are bit-identical to the run's. Left out are paths of this machine, predictions, logs, the environment, and a
model's memory of single training clips (Self-MM's labels, MMIM's bank).
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conki_cli.config.externals import NO_EXTERNAL
from conki_cli.config.resolving import to_toml
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import run_label
from conki_cli.data.store.reading import FeatureStore
from conki_cli.reporting.export.card import Card, render_card
from conki_cli.runs import Run, digest_of, finish_run, left_out_note, write_scale
from conki_cli.runs.exported import CARD, EXPORTED, Manifest, is_exportable, new_folder, write_manifest
from conki_cli.runs.predictions import evaluate_run
from conki_cli.system.errors import ConkiError, RunError
from conki_cli.system.files import read_json, write_json, write_text
from conki_cli.system.observer import Observer
from conki_cli.system.readable import status_of
from conki_cli.system.workspace import BUILT_IN_ENCODER, Workspace
from conki_cli.text import encoder_identity

if TYPE_CHECKING:
    from torch import Tensor

_OF_RUN = ("schema", "conki", "stage", "digest", "dataset", "label", "data", "score_range")
_OF_SEED = ("seed", "best_epoch", "epochs", "cache", "threshold", "parameters", "metrics", "median")
_PLACES = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file", "special_tokens_map_file")
"""Entries of an encoder's JSON files that may name folders of this machine."""
_NORMALIZATION = "normalization.json"


@dataclass(frozen=True)
class Export:
    """What is exported, and how.

    Attributes:
        run: a run with finished seeds.
        seeds: those that are exported; None: all that are finished.
        license: identifier of the hub for the weights' licence.
    """

    run: Run
    seeds: tuple[int, ...] | None = None
    license: str = "other"


def export_model(export: Export, out: Path, workspace: Workspace, observer: Observer) -> Manifest:
    """Write a folder with which `conki predict` scores clips as the run does, to the last bit.

    Raises:
        RunError: the run is a stage-1 run, has none of the seeds, or its files are damaged.
        SettingsError: something lies at `out`.
        ConkiError: the folder cannot be written.
    """
    run = export.run
    if run.record.stage != "finetune":
        raise RunError(
            f"{run.name} is a stage-1 run, which cannot predict by itself",
            advice=("add --adapters-only, or name a fine-tuned run"),
        )
    seeds = _chosen_seeds(export, observer)
    with new_folder(out, _size_of(run, seeds)) as folder:
        about = _write_model(run, seeds, folder, workspace, observer)
        measured = _mean_prediction(run, seeds, observer)
        return _finish(folder, "model", seeds, about, Card(run, Run(folder), about, export.license, measured))


def export_adapters(export: Export, out: Path, workspace: Workspace, observer: Observer) -> Manifest:
    """Write a folder with the adapters that stage 1 trained and the encoders that they learnt on.

    Of a fine-tuned run it takes the stage-1 run that it started from: there the adapters and their encoders fit.

    Raises:
        RunError: the run has no adapters, its stage 1 is gone, it has none of the seeds, or its files are damaged.
        SettingsError: something lies at `out`.
        ConkiError: the folder cannot be written.
    """
    first = _stage_one_of(export.run)
    if first.path != export.run.path:
        observer.say(f"the adapters of {export.run.name} are those of its stage 1, {first.name}")
    if not first.config.has_adapters:
        raise RunError(
            f"{first.name} ({run_label(first.config)}) has no adapters", advice="name a run of ConKI with them"
        )
    seeds = _chosen_seeds(dataclasses.replace(export, run=first), observer)
    with new_folder(out, _size_of(first, seeds)) as folder:
        about = _write_adapters(first, seeds, folder, workspace)
        return _finish(folder, "adapters", seeds, about, Card(first, None, about, export.license))


def _mean_prediction(run: Run, seeds: Sequence[int], observer: Observer) -> Mapping[str, float]:
    """Measure the mean prediction of several seeds on the test split; without their predictions, say so."""
    if len(seeds) == 1:
        return {}
    try:
        found = evaluate_run(run, "test", "all", seeds=seeds).mean_prediction or {}
        return {name: value for name, value in found.items() if math.isfinite(value)}
    except ConkiError as error:
        observer.say(f"the card has no metrics of the mean prediction: {error}")
        return {}


def _stage_one_of(run: Run) -> Run:
    if run.record.stage == "pretrain":
        return run
    names = {result.stage_1 for result in run.results().values()} - {None}
    if not names:
        raise RunError(
            f"{run.name} has no stage 1, so it has no adapters trained on other data", advice="name a run with one"
        )
    name = str(sorted(map(str, names))[0])
    first = Run(run.path.parent / Path(name).name)
    if status_of(first.path / "result.json") is None:
        raise RunError(
            f"the stage-1 run {name} that {run.name} started from is missing", advice="restore it, or train it"
        )
    return first


def _chosen_seeds(export: Export, observer: Observer) -> tuple[int, ...]:
    run, finished = export.run, export.run.finished_seeds()
    shown = ", ".join(map(str, finished)) or "none"
    if export.seeds is not None:
        if missing := sorted(set(export.seeds) - set(finished)):
            raise RunError(f"seed {missing[0]} of {run.name} must be finished but is not; finished: {shown}")
        return tuple(sorted(export.seeds))
    if not finished:
        raise RunError(
            f"run {run.name} has no finished seed", advice="run the command that started it again to resume it"
        )
    if note := left_out_note(run):
        observer.say(note)
    return tuple(finished)


def _size_of(run: Run, seeds: Sequence[int]) -> int:
    paths = [run.frozen_encoder, *(run.checkpoint(seed, name) for seed in seeds for name in ("best", "frozen"))]
    return sum(found.st_size for path in paths if (found := status_of(path)) is not None)


def _finish(folder: Path, kind: str, seeds: Sequence[int], about: Mapping[str, Any], card: Card) -> Manifest:
    """Write the list of files, and the card beside it."""
    manifest = write_manifest(folder, kind, seeds, about)
    write_text(folder / CARD, render_card(card, manifest))
    return manifest


def _write_model(
    run: Run, seeds: Sequence[int], folder: Path, workspace: Workspace, observer: Observer
) -> dict[str, Any]:
    config = _portable(run, seeds)
    write_text(folder / "config.toml", to_toml(config))
    told = run.record.as_json()
    known = {key: told[key] for key in _OF_RUN if key in told}
    write_json(folder / "result.json", {**known, "seeds": list(seeds), "state": "finished", EXPORTED: True})
    facts: dict[str, Any] = {}
    for seed in seeds:
        trained = run.seed_result(seed)
        result = trained.as_json() if trained is not None else {}
        write_json(Run(folder).seed_folder(seed) / "result.json", {k: result[k] for k in _OF_SEED if k in result})
        facts = _write_weights(run, seed, folder, config)
    finish_run(Run(folder))
    if "text" in facts["architecture"]["modalities"]:
        _write_encoder(run, folder, config)
    if set(facts["architecture"]["modalities"]) != {"text"}:
        _write_normalization(run, folder, workspace, observer)
    return _about(run, facts["architecture"], workspace)


def _write_weights(run: Run, seed: int, folder: Path, config: RunConfig) -> dict[str, Any]:
    """Write the weights of one seed, each bit as it was, and return what their file says beside them."""
    from conki_cli.model import zoo
    from conki_cli.training import checkpoint

    checkpoint.load_best(run, seed)  # refuses what is damaged, or of another seed
    memory = zoo.model_class(config.model.name).memory
    facts: dict[str, Any] = {}
    for name in ("frozen", "best"):
        path = run.checkpoint(seed, name)
        if status_of(path) is not None:
            tensors, facts = checkpoint.load(path)
            emptied = {key: tensor[:0] if key in memory else tensor for key, tensor in tensors.items()}
            facts = {**facts, "config": to_toml(config)}
            checkpoint.save(Run(folder).checkpoint(seed, name), emptied, facts)
    return facts


def _write_encoder(run: Run, folder: Path, config: RunConfig) -> None:
    """Write tokenizer and configuration of the text encoder, and its weights where the run keeps them apart."""
    from conki_cli.training import checkpoint

    source = run.path / "encoder"
    if status_of(source / "config.json") is None:
        raise RunError(f"{source} is missing", advice="restore it, or delete the run folder and train again")
    for path in sorted(source.iterdir()):
        name = f"encoder/{path.name}"
        if not path.is_file() or path.name.startswith(".") or path.suffix in (".jinja", ".safetensors"):
            continue
        if not is_exportable(name):
            raise RunError(f"{path} is not a kind of file that can be exported: tokenizers are JSON, .txt or .model")
        if path.suffix == ".json":
            _write_without_places(path, folder / name)
        else:
            (folder / "encoder").mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
    if status_of(run.frozen_encoder) is not None:
        tensors, facts = checkpoint.load(run.frozen_encoder)
        checkpoint.save(Run(folder).frozen_encoder, tensors, {**facts, "config": to_toml(config)})


def _write_without_places(source: Path, target: Path) -> None:
    """Copy a JSON file of an encoder without entries that name folders of this machine."""
    found = read_json(source)
    if isinstance(found, dict) and (named := [key for key in _PLACES if key in found]):
        write_text(target, json.dumps({k: v for k, v in found.items() if k not in named}, indent=2, ensure_ascii=False))
        return
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)


def _write_normalization(run: Run, folder: Path, workspace: Workspace, observer: Observer) -> None:
    """Write the scale of the training frames: the run's, or for a run of an older version its store's."""
    if status_of(run.path / _NORMALIZATION) is not None:
        shutil.copyfile(run.path / _NORMALIZATION, folder / _NORMALIZATION)
        return
    if (store := _training_store(run, run.config.data.dataset, workspace)) is not None:
        with store:
            write_scale(Run(folder), store)
    else:
        observer.say(
            f"warning: run {run.name}, of an older version, does not say how its training frames were normalised, and "
            "its store is missing: clips must be prepared exactly as in training"
        )


def _write_adapters(first: Run, seeds: Sequence[int], folder: Path, workspace: Workspace) -> dict[str, Any]:
    from conki_cli.training import checkpoint

    config = _portable(first, seeds)
    write_text(folder / "config.toml", to_toml(config))
    facts: dict[str, Any] = {}
    for seed in seeds:
        tensors, facts = checkpoint.load_best(first, seed)
        facts = {key: facts[key] for key in ("architecture", "fresh_text", "seed", "epoch")}
        kept: dict[str, Tensor] = {k: v for k, v in tensors.items() if k.startswith(("adapters.", "encoders."))}
        path = folder / f"seed-{seed}" / "adapters.safetensors"
        checkpoint.save(path, kept, {**facts, "config": to_toml(config)})
    return _about(first, facts["architecture"], workspace)


def _portable(run: Run, seeds: Sequence[int]) -> RunConfig:
    """Return a run's configuration without paths of this machine."""
    config = run.config.with_values("run", seeds=tuple(seeds), name="", device="auto")
    return config.with_values("model", text_encoder=_hub_name(run) or _short_name(run), adapters="")


def _hub_name(run: Run) -> str | None:
    """Return the text encoder's name on the hub; None: it was a folder, the demo's own, or nobody can tell.

    The digest of a run has a folder's content in place of its name, so a path that looks like OWNER/NAME is not a name.
    """
    name = run.config.model.text_encoder
    try:
        identity = encoder_identity(name)
        return name if identity == name != BUILT_IN_ENCODER and digest_of(run.config) == run.record.digest else None
    except ConkiError:  # the folder has gone since
        return None


def _short_name(run: Run) -> str:
    return Path(run.config.model.text_encoder).name


def _about(run: Run, architecture: Mapping[str, Any], workspace: Workspace) -> dict[str, Any]:
    """Say where the weights come from, and what they read."""
    config, modalities, hub = run.config, architecture["modalities"], _hub_name(run)
    return {
        "run": run.name,
        "label": run_label(config),
        "model": config.model.name,
        "dataset": config.data.dataset,
        "external": None if config.data.external == NO_EXTERNAL else config.data.external,
        "modalities": list(modalities),
        "widths": dict(architecture["widths"]),
        "positions": dict(architecture["positions"]),
        "width": architecture["width"],
        "score_range": list(run.record.score_range),
        "sources": _sources(run, workspace),
        "text_encoder": {
            "name": hub or _short_name(run),
            "hub": hub if "text" in modalities else None,
            "identity": _identity(run, workspace),
        },
    }


def _identity(run: Run, workspace: Workspace) -> str:
    """Return the content of the text encoder as runs know it; empty: its folder has gone or was changed since."""
    try:
        found = encoder_identity(workspace.encoder(run.config.model.text_encoder))
    except ConkiError:
        return ""
    is_built_in = run.config.model.text_encoder == BUILT_IN_ENCODER
    return found if is_built_in or digest_of(run.config) == run.record.digest else ""


def _training_store(run: Run, dataset: str, workspace: Workspace) -> FeatureStore | None:
    """Open a store that a run was trained on, if it is still there with the same content."""
    path = workspace.store(dataset)
    if status_of(path) is None:
        return None
    try:
        store = FeatureStore(path)
    except ConkiError:
        return None
    if store.content_id == run.record.data.get(dataset):
        return store
    store.close()
    return None


def _sources(run: Run, workspace: Workspace) -> dict[str, Any]:
    """Say which features were learnt from: content ids, and where the stores are still there their files."""
    sources = {}
    for dataset, content in run.record.data.items():
        known: dict[str, Any] = {"content": content}
        if (store := _training_store(run, dataset, workspace)) is not None:
            with store:
                source = store.source
                known |= {"file": Path(source["name"]).name, "format": source["format"], "sha256": source["sha256"]}
                known |= {"normalization": store.normalization["method"], "widths": dict(store.widths)}
        sources[dataset] = known
    return sources
