"""Settings from all sources -> `RunConfig`: presets, TOML, `--set`, flags; checked, canonical, and back to TOML."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conki_cli.config.declarations import all_sections, read_by, reset_unread, setting_fields
from conki_cli.config.externals import NO_EXTERNAL, canonical_external
from conki_cli.config.sections import (
    BASELINES,
    RECIPES,
    SECTIONS,
    DataConfig,
    ModelConfig,
    RunConfig,
    RunSection,
)
from conki_cli.config.switches import MODALITY_SWITCHES, SWITCHES
from conki_cli.config.values import assigned, checked_value, flattened, settings_of_file, shown
from conki_cli.system.errors import SettingsError

_OF_ADAPTERS = ("pretraining.batch_size", "pretraining.learning_rate", "pretraining.weight_decay", "pretraining.warmup")
"""What a stage 1 of adapters learns with; the whole network (plain transfer) learns with [optimizer]."""
_RETIRED = "model.start_from"
"""Version 1's name for the switch `handover`: "adapters" means that it is dropped, "all" that it is not."""


def resolve(
    *,
    config_file: Path | Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    extra_drop: Sequence[str] = (),
) -> RunConfig:
    """Build the configuration of a run from all its sources.

    Args:
        config_file: TOML with any of the sections, or what `settings_of_file` read from it; unknown keys are refused.
        assignments: `section.key=value` lines of `--set`.
        flags: 'section.key' -> value of command-line flags; None means "not given".
        extra_drop: switches added to those that the other sources leave out.

    Raises:
        SettingsError: an unknown setting, one that the model does not read, two values for one, a value of the wrong
            type or out of bounds, an impossible combination.
    """
    of_file = settings_of_file(config_file) if isinstance(config_file, Path) else config_file
    given = _renamed(dict(of_file or {}), ())
    lines = assigned(assignments)
    of_flags = {path: value for path, value in (flags or {}).items() if value is not None}
    _refuse_contradiction(of_flags, lines)
    typed = {**_renamed(dict(lines), given.get("model.drop", ())), **of_flags}
    checked = {path: checked_value(path, value) for path, value in {**given, **typed}.items()}
    dataset = checked.get("data.dataset", DataConfig.dataset)
    recipe = checked.get("run.recipe", RunSection.recipe)
    model = checked.get("model.name", ModelConfig.name)
    if model in BASELINES:
        is_given = [path for path in typed if (path, checked[path]) != ("run.recipe", RunSection.recipe)]
        _refuse_unread(model, [*is_given, *(path for path in lines if path == _RETIRED)])
    drop = (*checked.get("model.drop", ()), *extra_drop)
    preset = {path: checked_value(path, value) for path, value in _preset(model, dataset, recipe, drop).items()}
    config = _build({**preset, **checked})
    return canonical(config.with_values("model", drop=(*config.model.drop, *extra_drop)))


def setting_given(
    path: str,
    *,
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    extra_drop: Sequence[str] = (),
) -> Any:
    """Return one setting 'section.key' that no preset sets, from the sources of `resolve`; others are not checked.

    Raises:
        SettingsError: its value is of the wrong type or out of bounds, or the file cannot be read.
    """
    of_file = settings_of_file(config_file) if config_file is not None else {}
    of_flags = {name: value for name, value in (flags or {}).items() if value is not None}
    found = {**of_file, **assigned(assignments), **of_flags}
    return checked_value(path, found[path]) if path in found else setting_fields()[path].default


def with_settings(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return a configuration with settings 'section.key' changed; presets are not asked again.

    Raises:
        SettingsError: an unknown setting, one of another model, a value that it cannot have, alone or with the others.
    """
    model = config.model.name
    for path, value in values.items():
        checked = checked_value(path, value)
        section, key = path.split(".")
        if section in BASELINES and section != model:
            raise SettingsError(f"setting {path} belongs to --model {section}, this is {model}", "leave it out")
        config = config.with_values(section if section in SECTIONS else "own", **{key: checked})
    if config.is_baseline:
        _refuse_unread(model, list(values))
    refuse_unread_by_transfer(config, list(values))
    return canonical(config)


def refuse_unread_by_transfer(config: RunConfig, paths: Sequence[str]) -> None:
    """Refuse settings 'section.key' that have no effect on plain transfer, although they count in its digest.

    Raises:
        SettingsError: the configuration is of plain transfer, and one of the settings is of adapters alone.
    """
    if config.dropped("plain-transfer") and (idle := next((path for path in paths if path in _OF_ADAPTERS), None)):
        raise SettingsError(
            f"setting {idle} has no effect on plain transfer, whose stage 1 learns with [optimizer]",
            "leave it out; pretraining.lr_encoders and pretraining.lr_others are rates of that stage 1",
        )


def read_by_conki_alone(path: str) -> bool:
    """Say whether no baseline reads the setting 'section.key'."""
    is_shared = path.partition(".")[0] in SECTIONS and path in setting_fields()
    # A table often gets [pretraining] settings that its baselines take from [optimizer]: reset, not refused.
    is_reset = path.startswith("pretraining.") or path in read_by("baselines")
    return path == _RETIRED or (is_shared and not is_reset)


def _refuse_contradiction(flags: Mapping[str, Any], lines: Mapping[str, Any]) -> None:
    """Refuse a flag and a `--set` that give one setting two values: neither may win silently."""
    if "model.drop" in flags and _RETIRED in lines:
        raise SettingsError(f"--drop and {_RETIRED} say the same", "give --drop alone; handover is one of its switches")
    for path in flags.keys() & lines.keys():
        if (wanted := checked_value(path, flags[path])) != (other := checked_value(path, lines[path])):
            option = setting_fields()[path].metadata["flag"] or "a flag"
            raise SettingsError(
                f"setting {path} must have one value, found {shown(wanted)} by {option} and {shown(other)} by --set",
                "leave out one of them",
            )


def _refuse_unread(model: str, paths: Sequence[str]) -> None:
    if idle := next(filter(read_by_conki_alone, paths), None):
        raise SettingsError(f"setting {idle} is read by conki alone and has no effect on {model}", "leave it out")


def _build(values: Mapping[str, Any]) -> RunConfig:
    sections: dict[str, dict[str, Any]] = {name: {} for name in (*SECTIONS, *BASELINES)}
    for path, value in values.items():
        section, key = path.split(".")
        sections[section][key] = value
    model = sections["model"].get("name", ModelConfig.name)
    if idle := next((name for name in BASELINES if sections[name] and name != model), None):
        key = next(iter(sections[idle]))
        raise SettingsError(f"setting {idle}.{key} belongs to --model {idle}, this is {model}", "leave it out")
    own = all_sections()[model](**sections[model]) if model in BASELINES else None
    return RunConfig(**{name: make(**sections[name]) for name, make in SECTIONS.items()}, own=own)


def _preset(model: str, dataset: str, recipe: str, drop: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a model's preset: for all data sets, the recipe, this data set, and these switches."""
    import tomllib

    from conki_cli.config.words import switch_label

    text = (Path(__file__).parent / "presets" / f"{model}.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    merged: dict[str, Any] = {}
    own = () if dataset in ("default", *RECIPES) else (dataset, f"{dataset} {switch_label(drop)}")
    for name in ("default", recipe, *own):
        merged.update(flattened(tables.get(name, {}), f"preset {model}.toml [{name}]"))
    return merged


def _renamed(values: dict[str, Any], drop: Sequence[str]) -> dict[str, Any]:
    """Translate version 1's `model.start_from` into a switch beside those of `model.drop`, else beside `drop`."""
    if _RETIRED not in values:
        return values
    start = values.pop(_RETIRED)
    if values.get("model.name") in BASELINES:  # it never read the setting
        return values
    if start not in ("adapters", "all"):
        raise SettingsError(f"setting {_RETIRED} must be one of adapters, all, found {shown(start)}")
    others = [switch for switch in checked_value("model.drop", values.get("model.drop", drop)) if switch != "handover"]
    return {**values, "model.drop": (*others, "handover") if start == "adapters" else tuple(others)}


def canonical(config: RunConfig) -> RunConfig:
    """Bring switches into one order and one spelling, so that equal experiments are equal configurations.

    `w/o C1` and `external = none` are the same experiment. So are `w/o C2+handover` and `w/o C1+C2`: nothing is handed
    over, so no external data is read.

    Raises:
        SettingsError: an unknown switch or a combination that leaves nothing to train.
    """
    drop, shares = set(config.model.drop), config.optimizer.modality_dropout
    if config.model.drop:
        parse_switches("+".join(config.model.drop))
    if shares:
        config = config.with_values("optimizer", modality_dropout=_canonical_shares(shares))
    transfer = "plain-transfer" in drop
    config = config.with_values("data", external=canonical_external(config.data.external))
    _refuse_impossible(drop, config)
    _refuse_idle_adapters(drop, config)
    if "T" in drop:  # nothing reads a text
        config = config.with_values("data", context=0, context_after=0)
    if config.is_baseline:
        config = reset_unread(config, "baselines")
        return config.with_values("model", drop=tuple(switch for switch in SWITCHES if switch in drop))
    if transfer or "C2" in drop:
        drop -= {"N1"} | ({"C2", "handover"} if transfer else set())
    external, given = config.data.external, bool(config.model.adapters_checksum)
    if "C1" in drop or {"C2", "handover"} <= drop or given:
        external = NO_EXTERNAL
    if external == NO_EXTERNAL:
        drop = drop - {"handover"} | (set() if given else {"C1"})
    ordered = tuple(switch for switch in SWITCHES if switch in drop)
    if not transfer:
        config = config.with_values("pretraining", lr_others=0.0)
    if transfer or drop & {"C1", "C2"}:  # no adapters that stage 1 trained
        config = config.with_values("optimizer", lr_adapters=0.0)
    return config.with_values("model", drop=ordered).with_values("data", external=external)


def _canonical_shares(shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return one share per modality, or one number for all of them; nothing if nothing is dropped.

    Raises:
        SettingsError: it is another number of shares.
    """
    if len(shares) not in (1, len(MODALITY_SWITCHES)):
        names = ", ".join(MODALITY_SWITCHES)
        raise SettingsError(
            f"optimizer.modality_dropout must be one number, or one each for {names}, found {len(shares)} numbers",
            advice="give, for example, --set optimizer.modality_dropout=0.3",
        )
    if len(set(shares)) == 1:
        return shares[:1] if shares[0] else ()
    return shares


def _refuse_impossible(drop: set[str], config: RunConfig) -> None:
    if config.is_baseline and (parts := sorted(drop - set(MODALITY_SWITCHES.values()))):
        raise SettingsError(
            f"{config.model.name} has no {parts[0]} to drop: that is a part of ConKI; only T, V and A can be dropped"
        )
    if {"C2", "C3"} <= drop or {"plain-transfer", "C3"} <= drop:
        raise SettingsError("without C2 and C3 there is no representation to fuse", "drop only one of them")
    if {"T", "V", "A"} <= drop:
        raise SettingsError("without T, V and A there is no modality", "keep at least one")
    if "plain-transfer" in drop and ("C1" in drop or config.data.external == NO_EXTERNAL):
        raise SettingsError("plain-transfer trains on the external set first", "give --external and do not drop C1")
    if config.data.dataset in config.externals:
        raise SettingsError(
            f"the external data set must differ from the target, found '{config.data.dataset}' as both",
            "give another --external, or --external none",
        )
    if config.pretraining.lr_audio_vision and not config.pretraining.lr_encoders:
        raise SettingsError(
            "pretraining.lr_audio_vision needs pretraining.lr_encoders, which is 0",
            "set both, or neither",
        )
    if len(set(config.run.seeds)) != len(config.run.seeds) or not config.run.seeds:
        raise SettingsError(f"seeds must be different whole numbers, found {list(config.run.seeds)}")
    if min(config.run.seeds) < 0 or max(config.run.seeds) >= 2**31:
        raise SettingsError(f"seeds must lie between 0 and {2**31 - 1}, found {list(config.run.seeds)}")
    _refuse_epochs_without_scores(config)


def _refuse_idle_adapters(drop: set[str], config: RunConfig) -> None:
    """Refuse a folder of adapters that would not be used, or one without its checksum."""
    if not (config.model.adapters or config.model.adapters_checksum):
        return
    if idle := sorted(drop & {"C1", "C2", "plain-transfer"}):
        raise SettingsError(
            f"{idle[0]} drops the adapters that --adapters gives", advice="leave out that switch or --adapters"
        )
    if not config.model.adapters_checksum:
        raise SettingsError("model.adapters needs model.adapters_checksum", advice="give --adapters FOLDER instead")


def _refuse_epochs_without_scores(config: RunConfig) -> None:
    without = config.own.epochs_without_scores if config.own is not None else 0
    epochs = {"optimizer.num_epochs": config.optimizer.num_epochs}
    if config.data.external != NO_EXTERNAL:
        epochs["pretraining.num_epochs"] = config.pretraining.num_epochs
    short = next((path for path, count in epochs.items() if count <= without), None)
    if short is not None:
        raise SettingsError(
            f"{config.model.name} learns without scores in its first {without} epochs (cca_epochs): setting {short} "
            f"must be greater, found {epochs[short]}; raise it, or lower {config.model.name}.cca_epochs"
        )


def stage_one(config: RunConfig) -> RunConfig:
    """Return the configuration of the stage 1 that stage 2 of `config` starts from.

    Settings that stage 1 does not read are reset to their defaults, so that ConKI and w/o C4, N1 and handover share it.
    A stage 1 of the whole network (plain transfer, baselines) trains with `[optimizer]`, except for the rates that
    `[pretraining]` sets.
    """
    kept = {"C2", "C3", "T", "V", "A", "plain-transfer"}
    model = dataclasses.replace(config.model, drop=tuple(s for s in config.model.drop if s in kept))
    run = dataclasses.replace(config.run, stage="pretrain", name="")
    first = dataclasses.replace(config, model=model, run=run)
    if not config.transfers_whole:
        return reset_unread(first, "adapters")
    first = reset_unread(first, "whole")
    own, rates = config.pretraining, first.optimizer
    optimizer = dataclasses.replace(
        rates,
        lr_encoders=own.lr_encoders or rates.lr_encoders,
        lr_audio_vision=own.lr_audio_vision or (0.0 if own.lr_encoders else rates.lr_audio_vision),
        lr_others=own.lr_others or rates.lr_others,
    )
    pretraining = dataclasses.replace(own, lr_encoders=0.0, lr_audio_vision=0.0, lr_others=0.0)
    return dataclasses.replace(first, optimizer=optimizer, pretraining=pretraining)


def version_1_stage_one(config: RunConfig) -> RunConfig:
    """Return the stage 1 that version 1 would have trained without handover: external scores keep their range."""
    first = stage_one(config).with_values("data", threshold=None)  # a threshold is in the units of the target's scores
    return first.with_values("model", drop=tuple(s for s in SWITCHES if s in (*first.model.drop, "handover")))


def to_toml(config: RunConfig) -> str:
    """Render the resolved configuration; `--config` on it reproduces the run."""
    import tomli_w

    tables = as_tables(config)
    given = {name: {k: v for k, v in table.items() if v is not None} for name, table in tables.items()}
    return tomli_w.dumps(given)  # TOML has no null for a setting without a value


def as_tables(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return the sections of a configuration by name; a baseline's section has the model's name."""
    tables: dict[str, Any] = dataclasses.asdict(config)
    own = tables.pop("own")
    return tables | ({config.model.name: own} if own is not None else {})


def from_toml(path: Path) -> RunConfig:
    """Read a resolved configuration back, without presets.

    Raises:
        SettingsError: the file is not TOML, or has settings that this version does not know.
    """
    values = _renamed(settings_of_file(path), ())
    return canonical(_build({key: checked_value(key, value) for key, value in values.items()}))


def parse_switches(text: str) -> tuple[str, ...]:
    """Read 'C4' or 'C1+C4'.

    Raises:
        SettingsError: a switch does not exist.
    """
    switches = tuple(text.split("+"))
    for switch in switches:
        if switch not in SWITCHES:
            raise SettingsError(f"unknown switch '{switch}': known are {', '.join(SWITCHES)}, combined as C1+C4")
    return switches
