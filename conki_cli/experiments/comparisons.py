"""All models on one store: the rows of Tables 2, 3 and 6, and the size of each model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conki_cli.config.externals import NO_EXTERNAL
from conki_cli.config.models import facts
from conki_cli.config.resolving import read_by_conki_alone, resolve
from conki_cli.config.sections import BASELINES, MODELS, DataConfig, RunConfig
from conki_cli.config.switches import MODALITY_SWITCHES
from conki_cli.config.values import settings_of_file
from conki_cli.data.store.reading import FeatureStore
from conki_cli.datasets import REFERENCE, of_table
from conki_cli.experiments.opening import ready_store
from conki_cli.experiments.planning import Plan, make_plan
from conki_cli.model import zoo
from conki_cli.model.contract import Architecture
from conki_cli.model.inputs import available_modalities
from conki_cli.runs import Runs
from conki_cli.system.errors import EncoderError, SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.readable import status_of
from conki_cli.system.workspace import Workspace
from conki_cli.text import encoder_sizes
from conki_cli.training.steps import Shelf

ROWS = {
    2: MODELS,
    3: tuple(name for name in MODELS if name not in ("iccn", "hycon")),
    6: ("conki", "misa", "self-mm", "mmim"),
}
"""The models of each table; ConKI is the first and the reference."""
_BERT_BASE = (768, 12)
"""Hidden size and layers of bert-base-uncased, the default, so that they need not be downloaded."""


# ---- Tables 2, 3 and 6 ----


def table_configs(
    table: int,
    models: Sequence[str] | None = None,
    *,
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    extra_drop: Sequence[str] = (),
) -> list[RunConfig]:
    """Resolve one configuration per row of a table of the paper.

    In Tables 2 and 3 only ConKI reads external data, as in the paper; in Table 6 every model does. Table 3 uses SIMS
    unless the settings name another data set. Settings of one model go only to that model, and no row has a name.

    Args:
        table: 2, 3 or 6.
        models: the rows, None for those of the paper; ConKI comes first if it is included.
        config_file: see `config.resolving.resolve`.
        assignments: see `resolve`.
        flags: see `resolve`.
        extra_drop: see `resolve`.

    Raises:
        SettingsError: an unknown model, fewer than two, a setting of another model, Table 6 without external data.
    """
    names = chosen_models(models) if models is not None else ROWS[table]
    given = {path: value for path, value in (flags or {}).items() if value is not None}
    of_file = settings_of_file(config_file) if config_file is not None else {}
    lines = [(_owner(_path_of(line)), line) for line in assignments]
    idle = next((line for owner, line in lines if owner not in ("", *names)), None)
    if idle is not None:
        raise SettingsError(
            f"--set {idle} belongs to a model that is not compared", advice="leave it out, or add it to --models"
        )
    names_dataset = "data.dataset" in {*of_file, *map(_path_of, assignments)}
    if of_table(table) != DataConfig.dataset and not names_dataset:
        given = {"data.dataset": of_table(table), **given}

    def resolved(name: str, **changes: str) -> RunConfig:
        own = [line for owner, line in lines if owner in ("", name) and not _sets(line, changes)]
        filed, chosen = (
            {path: value for path, value in source.items() if _owner(path) in ("", name)} for source in (of_file, given)
        )
        chosen |= {"model.name": name, **{f"data.{key}": value for key, value in changes.items()}}
        config = resolve(config_file=filed, assignments=own, flags=chosen, extra_drop=extra_drop)
        return config.with_values("run", name="")

    first = resolved("conki")
    external = first.data.external if table == 6 else NO_EXTERNAL
    if table == 6 and external == NO_EXTERNAL:
        raise SettingsError(
            "in Table 6 every model is trained on external data first", advice="give --external a data set"
        )
    return [first if name == "conki" else resolved(name, external=external) for name in names]


def _sets(line: str, changes: Mapping[str, str]) -> bool:
    """Say whether a `--set` changes a setting of `[data]` that the table decides for a row."""
    return _path_of(line).removeprefix("data.") in changes


def _path_of(line: str) -> str:
    """Return the setting 'section.key' of a `--set`."""
    return line.partition("=")[0].strip()


def chosen_models(names: Sequence[str]) -> tuple[str, ...]:
    """Check the models of a comparison and put ConKI first.

    Raises:
        SettingsError: an unknown model, one twice, or fewer than two.
    """
    for name in names:
        facts(name)
    if len(set(names)) < max(2, len(names)):
        raise SettingsError(f"a comparison needs two or more different models, found {', '.join(names)}")
    return tuple(sorted(names, key=lambda name: name != "conki"))


def _owner(path: str) -> str:
    """Return the only model that reads a setting; empty if several do."""
    section = path.partition(".")[0]
    return "conki" if read_by_conki_alone(path) else section if section in BASELINES else ""


def plan_rows(
    configs: Sequence[RunConfig], runs: Runs, observer: Observer, *, shelf: Shelf, dry_run: bool = False
) -> Plan:
    """Plan the rows of a table of models; see `planning.make_plan`.

    Raises:
        SettingsError: a model needs a modality that is not in the store or was dropped.
        RunError: a run is in the way.
    """
    dataset = configs[0].data.dataset
    path = runs.workspace.store(dataset) if dry_run else ready_store(runs.workspace, dataset, observer)
    if status_of(path) is not None:
        _check_models(configs, shelf.store(path))
    return make_plan(configs, runs, observer, shelf=shelf, dry_run=dry_run)


def _check_models(configs: Sequence[RunConfig], store: FeatureStore) -> None:
    """Refuse models that the clips or the scores of a store do not fit, and name those that they fit."""
    present, (low, high) = available_modalities(store.modalities, configs[0].model.drop), store.score_range
    models = {config.model.name: zoo.model_class(config.model.name) for config in configs}
    lacking = [name for name, model in models.items() if not model.required_modalities <= set(present)]
    narrow = [name for name, model in models.items() if not model.can_predict((low, high))]
    able = [name for name in models if name not in (*lacking, *narrow)]
    advice = f"give --models {','.join(able)}" if len(able) > 1 else "prepare another store"
    if lacking:
        raise SettingsError(
            f"{', '.join(lacking)} need a modality that is missing here: {store.path.name} and the switches leave "
            f"{', '.join(present) or 'nothing'}; {advice}"
        )
    if narrow:
        raise SettingsError(
            f"{', '.join(narrow)} cannot predict the scores of {store.path.name}, {low:g} to {high:g}; {advice}"
        )


# ---- the models themselves ----


def describe_models(
    names: Sequence[str], store: FeatureStore | None, encoder: str | None, workspace: Workspace
) -> dict[str, Any]:
    """Describe each model: what it is, what its sources specify, and its number of parameters.

    Parameters are counted without the text encoder, for the feature widths and lengths of a store (None: the official
    ones of CMU-MOSI) and the hidden size of a text encoder (None: that of the data set's preset).

    Returns:
        {"dataset", "widths", "text_encoder": {"name", "width", "num_layers", "known"}, "models": [...]}; "parameters"
        is None if the store lacks a modality that the model needs, which "needs" names.
    """
    dataset = store.dataset if store is not None else REFERENCE.name
    flags = {"data.dataset": dataset, "data.external": NO_EXTERNAL, "model.text_encoder": encoder}
    config = resolve(flags=flags)
    width, num_layers, known, name = _encoder_sizes(config.model.text_encoder, workspace)
    architecture = _architecture(store, config.data.max_frames, width, num_layers)
    entries = [_describe_model(model, resolve(flags={**flags, "model.name": model}), architecture) for model in names]
    return {
        "dataset": dataset,
        "store": store.path if store is not None else None,
        "widths": dict(architecture.widths),
        "text_encoder": {"name": name, "width": width, "num_layers": num_layers, "known": known},
        "models": entries,
    }


def count_parameters(config: RunConfig, architecture: Architecture) -> int:
    """Count a model's trainable and frozen parameters, without the text encoder's."""
    import torch

    with torch.device("meta"):  # shapes without values: draws no random numbers, allocates no memory
        return sum(parameter.numel() for parameter in zoo.build(config, architecture, None).parameters())


def _describe_model(name: str, config: RunConfig, architecture: Architecture) -> dict[str, Any]:
    known = facts(name)
    needs = sorted(zoo.model_class(name).required_modalities - set(architecture.modalities))
    return {
        "name": name,
        "label": known.label,
        **{key: getattr(known, key) for key in ("title", "authors", "year", "venue", "idea", "pinned", "ours")},
        "parameters": None if needs else count_parameters(config, architecture),
        "needs": needs,
    }


def _encoder_sizes(name: str, workspace: Workspace) -> tuple[int, int, bool, str]:
    """Return hidden size and layers of a text encoder, whether they are known and not assumed, and its name."""
    try:
        return *encoder_sizes(workspace.encoder(name)), True, name
    except EncoderError:
        return *_BERT_BASE, False, name


def _architecture(store: FeatureStore | None, max_frames: int, width: int, num_layers: int) -> Architecture:
    if store is None:
        modalities: tuple[str, ...] = tuple(MODALITY_SWITCHES)
        widths, positions = dict(REFERENCE.widths), dict(REFERENCE.lengths)
    else:
        modalities, widths = store.modalities, store.widths
        positions = {name: max(1, min(max_frames, store.longest(name, store.splits[0]))) for name in widths}
    return Architecture(modalities, width, num_layers, widths=widths, positions=positions)
