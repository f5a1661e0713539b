"""The external data sets of a run: `mosei`, `mosei+sims`, or with weights `mosei:2+sims`."""

import math
from collections.abc import Mapping

from conki_cli.system.errors import SettingsError

NO_EXTERNAL = "none"
_FORM = "external data sets are written mosei, mosei+sims or mosei:2+sims"


def external_weights(text: str) -> Mapping[str, float]:
    """Return the weight of every external data set by its name; empty for `none`.

    Raises:
        SettingsError: a name is empty or given twice, `none` stands beside another, or a weight is out of bounds.
    """
    if text == NO_EXTERNAL:
        return {}
    found: dict[str, float] = {}
    for part in text.split("+"):
        name, colon, weight = part.partition(":")
        if not name.strip() or name == NO_EXTERNAL:
            what = "an empty name" if not name.strip() else "none beside another data set"
            raise SettingsError(f"{_FORM}, found {what} in '{text[:80]}'", "correct --external")
        if name in found:
            raise SettingsError(f"every external data set is given once, found {name} twice", "correct --external")
        found[name] = _weight(name, weight) if colon else 1.0
    return found


def canonical_external(text: str) -> str:
    """Bring external data sets into one spelling: ordered by name, without weights if all have the same.

    Raises:
        SettingsError: see `external_weights`.
    """
    weights = external_weights(text)
    if not weights:
        return NO_EXTERNAL
    has_weights = len(set(weights.values())) > 1
    return "+".join(f"{name}:{weights[name]:g}" if has_weights else name for name in sorted(weights))


def _weight(name: str, text: str) -> float:
    try:
        weight = float(f"{float(text):g}")  # as the canonical spelling has it
    except ValueError:
        weight = math.nan
    if not 0.001 <= weight <= 1000:
        raise SettingsError(
            f"the weight of {name} must be a number from 0.001 to 1000, found '{text[:40]}'",
            f"write --external {name}:2+OTHER to see {name} twice as often as its size says",
        )
    return weight
