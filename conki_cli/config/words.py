"""Seeds and names as users type them, and labels of runs in messages and tables."""

from collections.abc import Sequence
from typing import Any

from conki_cli.config.models import label_of
from conki_cli.config.sections import RunConfig
from conki_cli.system.errors import SettingsError


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read '7', '1,4,9' or '1..5' (both ends included).

    Raises:
        SettingsError: the text has another form.
    """
    first, dots, last = text.partition("..")
    try:
        span = range(int(first), int(last) + 1) if dots else [int(part) for part in text.split(",")]
        seeds = tuple(span[:1001])  # a slice: 1..999999999999 is refused, not built
    except ValueError:
        seeds = ()
    if not seeds or len(seeds) > 1000:
        raise SettingsError(f"seeds are written 3, 1..5 or 1,4,9; found '{text}'")
    return seeds


def run_label(config: RunConfig) -> str:
    """Name a run in a table: the switches of ConKI, or the model and the parts that it leaves out."""
    if not config.is_baseline:
        return switch_label(config.model.drop) + (", given adapters" if config.model.adapters_checksum else "")
    without = f", w/o {'+'.join(config.model.drop)}" if config.model.drop else ""
    return f"{label_of(config.model.name)}{without}"


def switch_label(drop: Sequence[str]) -> str:
    """Name a row of an ablation table: () -> 'ConKI', ('C1', 'C4') -> 'w/o C1+C4'."""
    if not drop:
        return "ConKI"
    if "plain-transfer" in drop:
        rest = [switch for switch in drop if switch != "plain-transfer"]
        return "plain transfer" + (f", w/o {'+'.join(rest)}" if rest else "")
    return f"w/o {'+'.join(drop)}"


def as_typed(value: Any) -> str:
    """Write the value of a setting as after `--set section.key=`; an empty one is 'nothing'."""
    if isinstance(value, list | tuple):
        if all(isinstance(one, str) for one in value):
            return "+".join(value) or "nothing"
        return as_typed(value[0]) if len(value) == 1 else f"[{', '.join(map(as_typed, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None or value == "" else str(value)
