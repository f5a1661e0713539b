"""A sweep from its beginning to its answer: trials in one or several processes, the best of them, what mattered."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conki_cli.config.resolving import stage_one, to_toml, with_settings
from conki_cli.config.sections import RunConfig
from conki_cli.experiments.forecast import describe_plan, peak_of
from conki_cli.experiments.spaces import combinations, parse_over
from conki_cli.experiments.trials import SPLITS_READ, Sweep, num_finished, open_study, plan_of_trial, try_all
from conki_cli.experiments.workers import (
    Advanced,
    Carry,
    Done,
    Failed,
    Gone,
    Message,
    Said,
    Workers,
    relay,
    threads_each,
)
from conki_cli.runs import check_name, digest_of
from conki_cli.system.errors import ConkiError, SettingsError
from conki_cli.system.files import write_text
from conki_cli.system.observer import Observer
from conki_cli.system.torchrun import seat
from conki_cli.system.workspace import Workspace
from conki_cli.training.steps import Shelf

Entries = list[dict[str, Any]]
"""Steps, as `forecast.describe_plan` describes them."""

__all__ = ["Sweep", "describe_sweep", "foresee_sweep", "make_sweep", "sweep_all"]


def make_sweep(
    base: RunConfig, over: list[str], workspace: Workspace, *, num_trials: int, storage: str = "", name: str = ""
) -> Sweep:
    """Return a sweep over some settings of a configuration.

    Args:
        base: everything else, and the seeds that each trial trains.
        over: lines of `--over`.
        workspace: where everything lies.
        num_trials: in all.
        storage: a file, or the URL of a database; empty: a file in the sweep's folder.
        name: of the sweep; empty: made from the settings, so the same command finds the same sweep.

    Raises:
        SettingsError: see `spaces.parse_over`; or torchrun started several processes.
        RunError: the name is not usable.
    """
    if seat() is not None:
        raise SettingsError(
            "each trial of a sweep trains in one process",
            advice="start it without torchrun; --jobs trains several trials",
        )
    space = parse_over(over, base)
    given = check_name(name) or f"{base.data.dataset}-{base.model.name}-{digest_of(base)}-{_digest(space)}"
    return Sweep(given, base.with_values("run", name=""), space, num_trials, workspace, storage)


def _digest(space: Any) -> str:
    import hashlib

    return hashlib.sha256(repr(space).encode()).hexdigest()[:4]


def foresee_sweep(sweep: Sweep, observer: Observer, *, num_jobs: int = 1) -> dict[str, Any]:
    """Describe a sweep as `--dry-run --json` prints it; nothing is changed.

    Returns:
        {"sweep", "storage", "trials": in all, "finished": None if a database knows it, "trial": the plan of one as
        `forecast.describe_plan` gives it, "stages_1": runs of stage 1 that the trials start from, at most, "seconds":
        of all that are left at most, "disk": bytes needed at most, "disk_afterwards": bytes that are kept; None if
        unknown}.

    Raises:
        ConkiError: nothing can work, as `planning.make_plan` says it.
    """
    with Shelf(splits=SPLITS_READ) as shelf:
        plan = plan_of_trial(sweep, sweep.name, sweep.base, observer, shelf=shelf, dry_run=True)
        trial = describe_plan(plan)
    done = num_finished(sweep)
    left = max(0, sweep.limit - (done or 0))
    first, second = ([entry for entry in trial["steps"] if entry["stage"] == stage] for stage in (1, 2))
    num_first = _num_first(sweep) if first else 0
    return {
        "sweep": sweep.name,
        "storage": sweep.place,
        "trials": sweep.limit,
        "finished": done,
        "trial": trial,
        "stages_1": num_first,
        "seconds": _seconds(first, second, min(num_first, left), left),
        **disk_of(first, second, num_first, min(num_jobs, left), has_best=sweep.limit > 1),
    }


def _num_first(sweep: Sweep) -> int:
    """Count the runs of stage 1 that differ between the trials, at most."""
    grid = combinations(sweep.space)[: sweep.limit]
    if grid:
        return len({digest_of(stage_one(with_settings(sweep.base, values))) for values in grid})
    first = {dimension.path: dimension.ends[0] for dimension in sweep.space}
    ends = [{**first, dimension.path: end} for dimension in sweep.space for end in dimension.ends]
    is_shared = len({digest_of(stage_one(with_settings(sweep.base, values))) for values in ends}) == 1
    return 1 if is_shared else sweep.limit


def disk_of(first: Entries, second: Entries, num_first: int, num_jobs: int, *, has_best: bool) -> dict[str, int | None]:
    """Return what a sweep needs at most and what it keeps: every stage 1, and the best trial alone.

    Args:
        first: stage 1 of a trial.
        second: stage 2 of a trial.
        num_first: runs of stage 1 that differ between the trials.
        num_jobs: trials that train at the same time.
        has_best: whether a trial trains while the best one before it is kept.
    """
    first = [entry for entry in first if entry["state"] != "reuse"]
    if any(entry["disk"] is None for entry in (*first, *second)):
        return {"disk": None, "disk_afterwards": None}
    kept_first, best = (sum(int(entry["disk_afterwards"]) for entry in entries) for entries in (first, second))
    extra_first, trial = peak_of(first) - kept_first, peak_of(second)
    at_once = min(num_first, num_jobs)  # runs of stage 1, beside which the other jobs may train their trials
    trained = max(num_jobs * trial, at_once * extra_first + (num_jobs - at_once) * trial)
    kept_first *= num_first
    return {"disk": kept_first + trained + (best if has_best else 0), "disk_afterwards": kept_first + best}


def _seconds(first: Entries, second: Entries, num_first: int, num_left: int) -> float | None:
    """Return the time of what is left: of each different stage 1, and of stage 2 in each trial; None: unknown."""
    times = [(entry["seconds"], num_first) for entry in first if entry["state"] != "reuse"]
    times += [(entry["seconds"], num_left) for entry in second]
    return None if any(time is None for time, _ in times) else sum(time * count for time, count in times)


def sweep_all(sweep: Sweep, observer: Observer, *, num_jobs: int = 1) -> None:
    """Train the trials that are left, in this process or in several.

    Raises:
        ConkiError: nothing can work, or a process was killed; finished trials are kept, others continue.
    """
    if num_jobs == 1:
        try_all(sweep, observer)
        return
    open_study(sweep)  # what cannot work is refused here, once
    threads, doing = threads_each(num_jobs), {}
    with observer.steps("trials", sweep.limit) as advance, Workers(num_jobs, _opened, threads=threads) as workers:
        for worker in workers.idle:
            worker.give(sweep)
            doing[id(worker)] = True
        while doing:
            for worker, message, _ in workers.hear():
                match message:
                    case Advanced("trials", count, _, remark):
                        advance(count, remark)
                    case Done():
                        doing.pop(id(worker))
                    case _:
                        _heed(message, observer)


def _heed(message: Message, observer: Observer) -> None:
    match message:
        case Gone():
            raise ConkiError(
                f"a process of the sweep {message.words}; finished trials are kept and the others are saved",
                advice="give the same command again to continue, with fewer --jobs if the memory was used up",
            )
        case Failed(error):
            raise error
        case Said(line):
            observer.say(line)
        case _:
            relay(message, observer)


@contextlib.contextmanager
def _opened() -> Iterator[Carry]:
    yield try_all


def describe_sweep(sweep: Sweep) -> dict[str, Any]:
    """Return what a sweep found, and write the settings of its best trial to best.toml.

    Returns:
        {"sweep", "storage", "over", "states": counts, "trials": best first, "importances", "best": None without a
        finished trial, "config": path of best.toml, "run": folder of the best trial}.
    """
    study = open_study(sweep)
    trials = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "mae": trial.value,
            "values": dict(trial.params),
            "epochs": len(trial.intermediate_values),
            "failure": trial.user_attrs.get("failure"),
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    states = {name: sum(t["state"] == name for t in trials) for name in ("complete", "pruned", "fail", "running")}
    ranked = sorted((t for t in trials if t["state"] == "complete"), key=lambda t: (t["mae"], t["number"]))
    best: dict[str, Any] | None = ranked[0] if ranked else None
    path: Path | None = None
    if best is not None:
        path = sweep.folder / "best.toml"
        write_text(path, to_toml(with_settings(sweep.base, best["values"])))
    return {
        "sweep": sweep.name,
        "storage": sweep.place,
        "over": [dimension.path for dimension in sweep.space],
        "states": states,
        "trials": ranked + [t for t in trials if t["state"] != "complete"],
        "importances": _importances(study, len(ranked)),
        "best": best,
        "config": path and str(path),
        "run": best and str(sweep.trial_run(best["number"]).path),
    }


def _importances(study: Any, num_complete: int) -> dict[str, float]:
    """Return how much of the differences between trials each setting explains; nothing where too few tell it."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if num_complete < 4:
        return {}
    try:
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    except (RuntimeError, ValueError):  # all trials are equally good
        return {}
    return {path: float(value) for path, value in found.items()}
