"""A forecast of a plan: steps, parameters, disk space, and time if earlier runs allow an estimate."""

import statistics
import sys
from pathlib import Path
from typing import Any

from conki_cli.config.sections import RunConfig
from conki_cli.experiments.planning import Plan, PlannedRun
from conki_cli.runs import Run, Runs
from conki_cli.runs.differences import learnt_settings
from conki_cli.runs.log import log_path, logged_epochs, whole_lines
from conki_cli.system.environment import choose_device
from conki_cli.system.errors import ConkiError
from conki_cli.system.files import read_json
from conki_cli.training.loop import schedule_of

_SHAPING = frozenset({"optimizer.batch_size", "optimizer.accumulate", "pretraining.batch_size"})
"""The settings of training that change the duration of an epoch."""


def describe_plan(plan: Plan, *, num_jobs: int = 1) -> dict[str, Any]:
    """Describe a plan as `--dry-run --json` prints it.

    Args:
        plan: what to train.
        num_jobs: steps that train at the same time.

    Returns:
        {"prepare": stores to be made, "builds_encoder", "steps": one entry per row, stage and seed, "at_once": steps
        that train at the same time, "disk": bytes needed at most, "seconds": sum of all steps, as one after another
        takes them, None if the time of one is unknown, "remarks"}.
    """
    steps: list[dict[str, Any]] = []
    labels: dict[Path, str] = {}
    for row in plan.rows:
        for planned in row.runs:
            labels.setdefault(planned.run.path, row.label)
    for planned in plan.planned:
        steps += _entries(plan.runs, planned, labels[planned.run.path])
    left = [entry for entry in steps if entry["state"] != "reuse"]
    times, sizes = [entry["seconds"] for entry in left], [entry["disk"] for entry in left]
    return {
        "prepare": [{"store": str(path), "source": source and str(source)} for path, source in plan.missing.items()],
        "builds_encoder": plan.lacks_encoder,
        "steps": steps,
        "at_once": min(num_jobs, len(left)),
        "disk": None if None in sizes else peak_of(left, num_jobs),
        "seconds": None if None in times else sum(times),
        "remarks": list(plan.remarks),
    }


def peak_of(entries: list[dict[str, Any]], at_once: int = 1) -> int:
    """Return the largest number of bytes on disk: all finished seeds, plus the extra space of those in training."""
    extras = sorted((int(entry["disk"]) - int(entry["disk_afterwards"]) for entry in entries), reverse=True)
    return sum(int(entry["disk_afterwards"]) for entry in entries) + sum(extras[:at_once])


def _entries(runs: Runs, planned: PlannedRun, label: str) -> list[dict[str, Any]]:
    left = {step.seed for step in planned.steps}
    pace = (seconds_per_epoch(runs, planned.config) or _own_pace(planned)) if left else None
    size = planned.size
    entries = []
    for seed in planned.config.run.seeds:
        num_epochs = schedule_of(planned.config, seed).num_epochs
        done = 0 if planned.discards or seed not in left else _epochs_done(planned.run, seed)
        state = "reuse" if seed not in left else "continue" if done else "train"
        entry = {
            "row": label,
            "stage": planned.stage,
            "seed": seed,
            "state": state,
            "discards": planned.discards and planned.run.path.exists(),
            "run": planned.run.name,
            "starts_from": planned.first.name if planned.first is not None else None,
            "epochs": num_epochs,
            "epochs_done": done,
            "parameters": size and size.num_parameters,
            "trained": size and size.num_trained,
            "disk": size and size.while_training,
            "disk_afterwards": size and size.afterwards,
            "seconds": None if pace is None else pace * (num_epochs - done),
        }
        entries.append(entry)
    return entries


def _own_pace(planned: PlannedRun) -> float | None:
    """Return the median time of an epoch that the run itself has trained on this device; None: it has none."""
    device, found = str(choose_device(planned.config.run.device)), []
    for seed in planned.config.run.seeds:
        if _device_of(planned.run, seed) == device:
            found += [epoch.seconds for epoch in logged_epochs(log_path(planned.run, seed))]
    return statistics.median(found) if found else None


def _epochs_done(run: Run, seed: int) -> int:
    """Count the finished epochs of an unfinished seed."""
    if not run.checkpoint(seed, "last").is_file():
        return 0
    return max(whole_lines(log_path(run, seed), sys.maxsize), default=0)


def seconds_per_epoch(runs: Runs, config: RunConfig) -> float | None:
    """Return the median time of an epoch in finished runs of the same shape on the same device; None without any."""
    device, shape, found = str(choose_device(config.run.device)), _shape(config), []
    for run in runs.usable():
        if _shape(run.config) != shape:
            continue
        for seed, result in run.results().items():
            if result.epochs and _device_of(run, seed) == device:
                found.append(result.seconds / result.epochs)
    return statistics.median(found) if found else None


def _shape(config: RunConfig) -> dict[str, Any]:
    """Return the settings that decide the duration of an epoch: data, network, batches, number format."""
    schedules = ("optimizer", "pretraining", "loss")
    return {
        path: value
        for path, value in learnt_settings(config).items()
        if path in _SHAPING or (path.partition(".")[0] not in schedules and path != "run.recipe")
    }


def _device_of(run: Run, seed: int) -> str:
    try:
        found = read_json(run.seed_folder(seed) / "environment.json")
    except ConkiError:
        return ""
    return str(found.get("device", "")) if isinstance(found, dict) else ""
