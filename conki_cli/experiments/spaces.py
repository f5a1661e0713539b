"""What a sweep varies: `--over loss.temperature=0.03,0.07` and `--over loss.contrast_weight=1e-4..1e-1:log`."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conki_cli.config.declarations import setting_fields, setting_type
from conki_cli.config.resolving import with_settings
from conki_cli.config.sections import RunConfig
from conki_cli.config.values import setting_value
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_FORM = "--over takes section.key=LOW..HIGH, LOW..HIGH:log or A,B,C"
_FIXED = ("data", "run")
"""Sections that a sweep does not vary: it compares settings on the same data."""
_MOST_BESIDE = 50  # combinations of a grid beside which a value is tried
_FIXED_SETTINGS = ("model.name", "model.text_encoder", "model.drop", "model.adapters", "model.adapters_checksum")


@dataclass(frozen=True)
class Dimension:
    """One setting that a sweep varies: between two bounds, or among some values."""

    path: str
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    choices: tuple[Any, ...] = ()
    """Empty for a range."""

    def distribution(self) -> "BaseDistribution":
        """Return what Optuna draws from."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if setting_type(self.path) is int:
            return IntDistribution(int(self.low), int(self.high), log=self.is_log)
        return FloatDistribution(self.low, self.high, log=self.is_log)

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values of a list; the bounds of a range."""
        return self.choices or (self.low, self.high)


def parse_over(lines: Sequence[str], base: RunConfig) -> tuple[Dimension, ...]:
    """Read the `--over` of a sweep, and refuse what could not work in any trial.

    Raises:
        SettingsError: another form, a setting that does not exist, is fixed or changes nothing, a value out of bounds.
    """
    if not lines:
        raise SettingsError("a sweep needs something to vary", f"give --over; {_FORM}")
    space = tuple(_dimension(line) for line in lines)
    if len({dimension.path for dimension in space}) < len(space):
        raise SettingsError("--over must name each setting once", "put its values into one --over")
    corners = [{}, *({one.path: one.ends[end] for one in space} for end in (0, -1))]
    others = [*corners, *combinations(space)[:_MOST_BESIDE]]
    for dimension in space:
        changed = [_with_each(base, dimension, beside) for beside in others]
        for tried in zip(*changed, strict=True):  # one value beside all others
            errors = [one for one in tried if isinstance(one, SettingsError)]
            if len(errors) == len(tried):
                raise errors[0]
        whole = [configs for configs in changed if not any(isinstance(one, SettingsError) for one in configs)]
        if whole and all(any(a == b for a, b in itertools.combinations(configs, 2)) for configs in whole):
            raise SettingsError(f"--over {dimension.path} changes nothing in this configuration", "leave it out")
    return space


def _with_each(base: RunConfig, dimension: Dimension, beside: Mapping[str, Any]) -> list[RunConfig | SettingsError]:
    """Return the configurations with each end of a dimension beside values of the others, or why there is none."""
    found: list[RunConfig | SettingsError] = []
    for value in dimension.ends:
        try:
            found.append(with_settings(base, {**beside, dimension.path: value}))
        except SettingsError as error:
            found.append(error)
    return found


def _dimension(line: str) -> Dimension:
    path, equals, text = (part.strip() for part in line.partition("="))
    if not equals or not text:
        raise SettingsError(f"{_FORM}, found {line[:80]!r}")
    if path.partition(".")[0] in _FIXED or path in _FIXED_SETTINGS:
        raise SettingsError(f"a sweep compares settings on the same data and model: {path} is fixed", "leave it out")
    if "[" in text:
        raise SettingsError(text[:80], must=f"--over {path} must have single values: a sweep does not vary lists")
    if ".." not in text:
        values = tuple(setting_value(part) for part in text.split(","))
        if len(values) > len(set(map(repr, values))):
            raise SettingsError(text[:80], must=f"--over {path} must have each value once")
        if len(values) < 2:
            raise SettingsError(text[:80], must=f"--over {path} must have two or more different values")
        return Dimension(path, choices=values)
    bounds, _, scale = text.partition(":")
    low, _, high = (setting_value(part) for part in bounds.partition(".."))
    if path in setting_fields() and setting_type(path) not in (int, float):
        raise SettingsError(f"setting {path} has no range", f"list its values: --over {path}=A,B")
    is_number = all(type(end) in (int, float) and math.isfinite(end) for end in (low, high))
    if not is_number or not low < high or scale not in ("", "log") or (scale == "log" and low <= 0):
        raise SettingsError(
            text[:80], must=f"--over {path} must be LOW..HIGH with LOW < HIGH, and 0 < LOW where :log follows"
        )
    return Dimension(path, low, high, scale == "log")


def combinations(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Return every combination where all settings have lists of values (a grid search); else nothing."""
    if not all(dimension.choices for dimension in space):
        return []
    values: Iterator[tuple[Any, ...]] = itertools.product(*(dimension.choices for dimension in space))
    return [dict(zip([dimension.path for dimension in space], found, strict=True)) for found in values]
