"""A plan that is only shown (`--dry-run`) as a table."""

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from conki_cli.reporting.tables.drawing import empty_table
from conki_cli.system.errors import one_line
from conki_cli.system.readable import human_size

_STATES = {"train": "train", "continue": "continue", "reuse": "finished, reused"}


def plan_table(plan: Mapping[str, Any], *, folder: str = "", title: str = "") -> list[RenderableType]:
    """Draw a plan, as `forecast.describe_plan` returns it, by default as a dry run.

    Args:
        plan: the plan.
        folder: where its runs lie; empty: it is a part of something, and its disk in all is not shown.
        title: of the table.

    Returns:
        The table, and lines about disk, time and what is prepared first.
    """
    steps = plan["steps"]
    left = sum(entry["state"] != "reuse" for entry in steps)
    table = empty_table(title or f"dry run: {left} of {len(steps)} steps to train, nothing was changed", gap=1)
    for name in ("row", "stage", "run", "seed", "what", "epochs", "parameters", "disk", "time"):
        right = name in ("stage", "seed", "epochs", "parameters", "disk", "time")
        table.add_column(
            name, justify="right" if right else "left", overflow="fold", no_wrap=name not in ("row", "run", "what")
        )
    for entry in steps:
        table.add_row(*(Text(one_line(cell)) for cell in _cells(entry)))
    return [table, *(Text(one_line(line)) for line in _lines(plan, left, folder))]


def _cells(entry: Mapping[str, Any]) -> list[str]:
    is_left = entry["state"] != "reuse"
    return [
        entry["row"],
        str(entry["stage"]),
        entry["run"],
        str(entry["seed"]),
        _STATES[entry["state"]] + (", the existing run is deleted" if entry["discards"] else ""),
        str(entry["epochs"] - entry["epochs_done"]) if is_left else "-",
        f"{entry['trained']:,}" if entry["trained"] is not None else "-",
        human_size(entry["disk"]) if entry["disk"] is not None else "-",
        duration(entry["seconds"]) if is_left else "-",
    ]


def _lines(plan: Mapping[str, Any], left: int, folder: str) -> list[str]:
    lines = [*plan["remarks"]]
    for entry in plan["prepare"]:
        lines.append(f"first: {entry['store']} is prepared from {entry['source'] or 'what conki generates'}")
    if plan["builds_encoder"]:
        lines.append("first: the demo's small BERT is built")
    if not left:
        return [*lines, "nothing is left to train"]
    if plan["disk"] is None:
        lines.append("parameters and disk: unknown until everything is prepared")
    else:
        lines.append("parameters: trainable ones; disk: a seed's checkpoints while it trains")
    if plan["disk"] is not None and folder:
        at_once = f" while {plan['at_once']} steps train at once" if plan["at_once"] > 1 else ""
        lines.append(f"disk: at most {human_size(plan['disk'])} in all{at_once}, below {folder}")
    if plan["seconds"] is not None:
        lines.append(
            f"time: about {duration(plan['seconds'])} one step after another, from earlier runs of the same shape on "
            "this device"
        )
    else:
        lines.append("time: '-' if no run of the same shape was trained on this device")
    return lines


def duration(seconds: float | None) -> str:
    """Return a time in words that fit a column: '42 s', '8 min', '2.3 h'; '-' if it is not known."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
