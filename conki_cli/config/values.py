"""Single settings: read from a TOML file or from `--set`, and checked against what is declared."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from conki_cli.config.declarations import setting_fields, setting_type
from conki_cli.system.errors import SettingsError
from conki_cli.system.readable import check_read, unreadable

_BEYOND = 2**1023


def settings_of_file(path: Path) -> dict[str, Any]:
    """Read the settings of a TOML file as 'section.key' -> value, unchecked.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or has a setting outside a section.
    """
    return flattened(_read_toml(path), str(path))


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        check_read(path, error)
        raise SettingsError(unreadable(path, error, "configuration")) from error
    except (ValueError, RecursionError) as error:  # also for 5,000 digits or brackets
        reason = " ".join(str(error).split())
        raise SettingsError(f"{path} must be TOML but is not: {reason}; correct that line") from error


def flattened(tables: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings of TOML tables as 'section.key' -> value; `where` names their place in the error.

    Raises:
        SettingsError: a setting stands outside a section.
    """
    flat: dict[str, Any] = {}
    for section, table in tables.items():
        if not isinstance(table, Mapping):
            raise SettingsError(
                f"{where}: '{section}' stands outside a section; write it below [section] as key = value"
            )
        flat.update({f"{section}.{key}": value for key, value in table.items()})
    return flat


def assigned(lines: Sequence[str]) -> dict[str, Any]:
    """Read the lines of `--set`, of which two may not give one setting two values."""
    found: dict[str, Any] = {}
    for path, value in map(_assignment, lines):
        if path in found and (one := checked_value(path, found[path])) != (other := checked_value(path, value)):
            raise SettingsError(
                f"setting {path} must have one value, found {shown(one)} and {shown(other)} by --set",
                "leave out one of them",
            )
        found[path] = value
    return found


def setting_value(text: str) -> Any:
    """Return the value that a text stands for in TOML; a bare word is a text."""
    return _assignment(f"value={text}")[1]


def _assignment(line: str) -> tuple[str, Any]:
    import tomllib

    path, equals, text = line.partition("=")
    if not equals:
        raise SettingsError(f"--set takes section.key=value, found '{line}'; for example --set loss.temperature=0.1")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a bare word is a string
    return path.strip(), value


def checked_value(path: str, value: Any) -> Any:
    """Return `value` in the type of the setting `path`, or raise an error that says what the setting takes."""
    from conki_cli.config.nearest import nearest_setting, unknown_model

    fields = setting_fields()
    if path not in fields:
        raise SettingsError(
            f"unknown setting '{path}': {nearest_setting(path, fields) or '`conki settings` lists all'}"
        )
    wanted, limits = setting_type(path), fields[path].metadata
    converted = _converted(wanted, value)
    if converted is None:
        raise SettingsError(shown(value), must=f"setting {path} must be {_type_name(wanted)}")
    if path == "model.name" and converted not in limits["choices"]:
        raise unknown_model(converted, limits["choices"])
    if not _is_unicode(converted):
        raise SettingsError(shown(value), must=f"setting {path} must be text in UTF-8")
    if "choices" in limits and converted not in limits["choices"]:
        raise SettingsError(shown(value), must=f"setting {path} must be one of {', '.join(limits['choices'])}")
    if "pattern" in limits and not re.fullmatch(limits["pattern"], converted):
        raise SettingsError(shown(value), must=f"setting {path} must be {limits['help'].partition(': ')[2]}")
    for item in converted if isinstance(converted, tuple) else (converted,):
        if isinstance(item, int | float) and not isinstance(item, bool):
            _check_bounds(path, item, limits)
    return converted


def _is_unicode(value: Any) -> bool:
    """Say whether the texts in a value can be written: names of files may have bytes that are not UTF-8."""
    items = value if isinstance(value, tuple) else (value,)
    return not any(isinstance(item, str) and re.search("[\ud800-\udfff]", item) for item in items)


def _check_bounds(path: str, value: float, limits: Mapping[str, Any]) -> None:
    low, above, high = limits.get("low"), limits.get("above"), limits.get("high")
    if not abs(value) < float("inf"):
        raise SettingsError(shown(value), must=f"setting {path} must be a finite number")
    if low is not None and value < low:
        raise SettingsError(shown(value), must=f"setting {path} must be at least {low}")
    if above is not None and value <= above:
        raise SettingsError(shown(value), must=f"setting {path} must be greater than {above}")
    if high is not None and value > high:
        raise SettingsError(shown(value), must=f"setting {path} must be at most {high}")


def shown(value: Any) -> str:
    """Return a value for a message; Python refuses to print numbers of thousands of digits."""
    try:
        return repr(value)[:120]
    except ValueError:
        return "a number of thousands of digits"


def _converted(wanted: Any, value: Any) -> Any:
    if get_origin(wanted) is tuple:
        item = get_args(wanted)[0]
        if item is float:
            return _numbers(value)
        if item is str and isinstance(value, str):
            return tuple(part for part in value.split("+") if part)
        if isinstance(value, list | tuple) and all(isinstance(v, item) and not isinstance(v, bool) for v in value):
            return tuple(value)
        return None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < _BEYOND else math.inf  # Python cannot convert a larger number to float
    return value if type(value) is wanted else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    """Return a list of numbers; one number is a list of one."""
    found = [_converted(float, one) for one in (value if isinstance(value, list | tuple) else [value])]
    return None if None in found else tuple(found)


def _type_name(wanted: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(wanted, "a number or a list of numbers" if wanted == tuple[float, ...] else "a list")
