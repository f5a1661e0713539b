"""Facts derived from the declarations of the settings: flags, what changes a digest, what a stage reads."""

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

from conki_cli.config.sections import SECTIONS, RunConfig
from conki_cli.config.setting import FIRST_VERSION, Reader

Field = dataclasses.Field[Any]


@cache
def setting_fields(*, of_baselines: bool = True) -> Mapping[str, Field]:
    """Return every setting as 'section.key' -> its field, in the order of the resolved TOML."""
    sections = all_sections() if of_baselines else SECTIONS
    found = {f"{name}.{f.name}": f for name, section in sections.items() for f in dataclasses.fields(section)}
    return types.MappingProxyType(found)


def all_sections() -> dict[str, Any]:
    """Return the sections that every run has, and those of the baselines, by name."""
    from conki_cli.config.baselines import BASELINE_SECTIONS

    return {**SECTIONS, **BASELINE_SECTIONS}


@cache
def setting_type(path: str) -> Any:
    """Return the annotated type of the setting 'section.key', without the None of an optional one."""
    section, key = path.split(".")
    annotated = get_type_hints(all_sections()[section] if section not in SECTIONS else SECTIONS[section])[key]
    return get_args(annotated)[0] if isinstance(annotated, types.UnionType) else annotated


def flagged() -> dict[str, Field]:
    """Return the settings that have their own option; fast, because the help pages need it."""
    return {path: field for path, field in setting_fields(of_baselines=False).items() if field.metadata["flag"]}


@cache
def added_later() -> Mapping[str, Any]:
    """Return the settings that version 1 of runs did not have: at these defaults they do not change a digest."""
    fields = setting_fields().items()
    return {path: f.default for path, f in fields if f.metadata["since"] != FIRST_VERSION}


@cache
def never_learnt() -> frozenset[str]:
    """Return the settings that decide whether and how a run is computed or measured, not what it learns."""
    return frozenset(path for path, field in setting_fields().items() if not field.metadata["learnt"])


@cache
def read_by(reader: Reader) -> frozenset[str]:
    """Return the settings that a reader reads, apart from those of the baselines' own sections."""
    fields = setting_fields(of_baselines=False).items()
    return frozenset(path for path, field in fields if reader in field.metadata["read_by"])


def reset_unread(config: RunConfig, reader: Reader) -> RunConfig:
    """Reset the settings that a reader does not read, so that equal experiments get equal digests."""
    for path, field in setting_fields(of_baselines=False).items():
        section, key = path.split(".")
        if path not in read_by(reader) and getattr(getattr(config, section), key) != field.default:
            config = config.with_values(section, **{key: field.default})
    return config
