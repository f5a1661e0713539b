"""What a sweep found, as a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from conki_cli.reporting.tables.drawing import empty_table
from conki_cli.reporting.tables.plans import duration, plan_table
from conki_cli.system.errors import one_line, quoted
from conki_cli.system.readable import human_size

_SHOWN = 10


def sweep_table(found: Mapping[str, Any]) -> list[RenderableType]:
    """Draw the best trials of a sweep, as `describe_sweep` returns it, and lines about what mattered and comes next."""
    states = found["states"]
    counts = ", ".join(
        f"{states[name]} {word}"
        for name, word in (
            ("complete", "finished"),
            ("pruned", "pruned"),
            ("fail", "failed"),
            ("running", "unfinished"),
        )
        if states[name] or name == "complete"
    )
    table = empty_table(f"sweep {found['sweep']}: {counts}", gap=2)
    for name in ("trial", "MAE↓ (valid)", *found["over"]):
        table.add_column(name, justify="right")
    for trial in [trial for trial in found["trials"] if trial["state"] == "complete"][:_SHOWN]:
        cells = [str(trial["number"]), f"{trial['mae']:.4f}", *(_cell(trial["values"][p]) for p in found["over"])]
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return [table, *(Text(one_line(line)) for line in _lines(found))]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(found: Mapping[str, Any]) -> list[str]:
    if not found["importances"]:
        return []
    shares = ", ".join(f"{path} {share:.0%}" for path, share in found["importances"].items())
    return [f"importance for the validation MAE: {shares}"]


def foreseen(plan: Mapping[str, Any], *, folder: Path) -> list[RenderableType]:
    """Draw what a sweep would train in a workspace, as `foresee_sweep` returns it: one trial, how many, time, disk."""
    done = "as many as its database does not have" if plan["finished"] is None else f"{plan['finished']} are finished"
    lines = [f"trials: {plan['trials']} in all, {done}"]
    if (plan["finished"] or 0) >= plan["trials"]:
        title = f"dry run of the sweep {plan['sweep']}, nothing was changed"
        return [Text(one_line(line)) for line in (title, *lines, "nothing is left to train")]
    if plan["stages_1"] == 1:
        lines.append("stage 1: trained once for all trials, and kept")
    elif plan["stages_1"]:
        lines.append(f"stage 1: up to {plan['stages_1']} different ones, because the trials vary it; each is kept")
    if plan["seconds"] is not None:
        lines.append(
            f"time of all that are left: at most about {duration(plan['seconds'])} one after another; pruned trials "
            "take less"
        )
    if plan["disk"] is not None:
        during, afterwards = human_size(plan["disk"]), human_size(plan["disk_afterwards"])
        lines.append(
            f"disk: at most {during} during the sweep, {afterwards} afterwards, below {folder}; of the trials only the "
            "best one is kept"
        )
    title = f"dry run of one trial of the sweep {plan['sweep']}, nothing was changed"
    shown = plan_table(plan["trial"], title=title)
    return [*shown, *(Text(one_line(line)) for line in lines)]


def next_steps(found: Mapping[str, Any]) -> list[str]:
    """Say what to do with the best trial of a sweep."""
    if found["best"] is None:
        return []
    return [
        f"the best settings with more seeds: conki finetune --config {quoted(found['config'])} --seeds 1..5",
        f"the test split was not read; to read it for the best trial: conki evaluate {quoted(found['run'])}",
    ]
