"""The runs of a workspace: listed, found by name, located by configuration."""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conki_cli.config.sections import RunConfig
from conki_cli.metrics import TWO_CLASSES, neutral_score
from conki_cli.runs.differences import differences
from conki_cli.runs.folders import Run
from conki_cli.runs.naming import check_name, default_name, digest_of
from conki_cli.runs.writing import metrics_of_seeds
from conki_cli.system.errors import ConkiError, Kind, RunError, UnreadableError
from conki_cli.system.files import size_of
from conki_cli.system.readable import check_readable, status_of
from conki_cli.system.workspace import Workspace, is_path


class Runs:
    """The runs of a workspace; each folder is one `Run` object, so a command reads its files once."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._runs: dict[Path, Run] = {}

    def at(self, path: Path) -> Run:
        """Return the run in a folder, which may not exist."""
        return self._runs.setdefault(path, Run(path))

    def usable(self) -> list[Run]:
        """Return every usable run, oldest first."""
        return [run for run in self._folders() if not run.problem]

    def damaged(self, *, besides: str = "") -> list[str]:
        """Return one line per unusable run folder, except `besides`: which it is, and why."""
        return [run.problem for run in self._folders() if run.name != besides and run.problem]

    def _folders(self) -> list[Run]:
        runs = self.workspace.runs
        check_readable(runs)
        folders = [path for path in runs.glob("[!.]*") if path.is_dir()]
        closed = [path for path in folders if not os.access(path, os.R_OK | os.X_OK)]  # reported, not skipped
        found = [path for path in folders if path not in closed and (path / "result.json").exists()]
        began = {path: _changed(path / "config.toml") for path in found}
        return [self.at(path) for path in [*closed, *sorted(found, key=lambda path: (began[path], path))]]

    def find(self, name: str | None) -> Run:
        """Return the run called `name`, or at that path (./NAME); else the newest finished fine-tuning run.

        Raises:
            RunError: there is none.
        """
        runs = self.workspace.runs
        if name is None:
            finished = [run for run in self.usable() if run.record.stage == "finetune" and run.is_finished]
            if not finished:
                raise RunError(
                    f"there is no finished fine-tuning run below {runs}", advice="train one with `conki finetune`"
                )
            return max(finished, key=lambda run: _changed(run.path / "result.json"))
        place = Path(name) if is_path(name) else runs / name
        check_readable(place)
        if (place / "conki.json").is_file():
            raise RunError(
                f"{place} is an exported model, for `conki predict`", advice="name the run that it was exported from"
            )
        if (place / "result.json").is_file():
            return self.at(place)
        if is_path(name):
            raise RunError(
                f"there is no run '{name}': a run's folder has a result.json; `conki runs` lists the workspace's runs"
            )
        here = f"; ./{name} means the one in the current folder" if (Path(name) / "result.json").is_file() else ""
        raise RunError(
            f"there is no run '{name}' below {runs}", f"`conki runs` lists those that exist{here}", kind=Kind.MISSING
        )

    def locate(self, config: RunConfig, *, discard: bool = False) -> Run:
        """Return the run of a configuration: one with the same stage and digest, else a new folder's run.

        With `discard`, the folder may hold anything, because it will be deleted.

        Raises:
            RunError: the name is unusable, or the run of that name is damaged or has other settings.
        """
        digest = digest_of(config)
        if not config.run.name:
            for run in self.usable():
                if run.record.digest == digest and run.record.stage == config.run.stage:
                    return run
            if (lost := self._without_result(config, digest)) is not None:
                return lost
        run = self.at(self.workspace.runs / (check_name(config.run.name) or default_name(config)))
        if not discard:
            check_settings(run, config)
        return run

    def _without_result(self, config: RunConfig, digest: str) -> Run | None:
        """Return the run of a configuration whose result.json is lost; an older version may have named it otherwise."""
        for path in sorted(self.workspace.runs.glob(f"[!.]*-{digest}")):
            run = self.at(path)
            if status_of(path / "result.json") is None and status_of(path / "config.toml") is not None:
                with contextlib.suppress(ConkiError):
                    if run.config.run.stage == config.run.stage and digest_of(run.config) == digest:
                        return run
        return None

    def described(self) -> list[dict[str, Any]]:
        """Return an entry per run: name, stage, state, seeds, test metrics, bytes on disk, time of change, problem."""
        entries = []
        for run in self._folders():
            try:
                entries.append(_describe_run(run))
            except ConkiError:
                if status_of(run.path / "result.json") is not None:
                    raise
        return entries  # without those that another process discarded meanwhile


def check_settings(run: Run, config: RunConfig) -> None:
    """Refuse a folder that is damaged or holds a run with other settings; accept one that does not exist yet.

    Raises:
        RunError: the folder is damaged or holds other settings.
    """
    if status_of(run.path) is None:
        return
    if status_of(run.path / "result.json") is None:
        _check_without_result(run, config)
        return
    if run.problem:
        raise RunError(run.problem)
    digest = digest_of(config)
    if (found := run.record.digest) != digest or run.record.stage != config.run.stage:
        what = differences(run.config, config) or f"digest {found}, now {digest}: another text encoder"
        raise RunError(
            f"run {run.name} exists with other settings ({what})", advice="give another --name, or delete that folder"
        )


def _check_without_result(run: Run, config: RunConfig) -> None:
    """Refuse to resume a run without a result.json with other settings.

    Raises:
        RunError: the settings differ, or are unknown.
    """
    path = run.path / "config.toml"
    if status_of(path) is None and not any(run.path.glob("seed-*")):
        return
    try:
        known = run.config
    except UnreadableError:
        raise
    except ConkiError as error:
        raise RunError(
            f"run {run.name} has no result.json and no settings ({error})", advice="give --overwrite"
        ) from error
    if (found := digest_of(known)) != digest_of(config) or known.run.stage != config.run.stage:
        what = differences(run.config, config) or f"digest {found}, now {digest_of(config)}: another text encoder"
        raise RunError(
            f"run {run.name} exists with other settings ({what})", advice="give another --name, or --overwrite"
        )


def _shown_metrics(run: Run) -> Mapping[str, Any]:
    """Return the test metrics of a run, without the two classes that older versions formed from one-sided scores."""
    try:
        metrics = metrics_of_seeds(run.results().values()).get("test", {})
    except ValueError:  # the seeds have different metrics; the doctor names them
        return {}
    if not metrics or neutral_score(run.record.score_range, run.config.data.threshold) is not None:
        return metrics
    return {name: None if name in TWO_CLASSES else summary for name, summary in metrics.items()}


def _changed(path: Path) -> int:
    """Return when a file was last changed, in nanoseconds; 0 if another process has just removed it."""
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _describe_run(run: Run) -> dict[str, Any]:
    problem = run.problem
    record = None if problem else run.record
    dated = run.path / "result.json" if os.access(run.path, os.X_OK) else run.path
    return {
        "name": run.name,
        "kind": record and record.stage,
        "state": run.state,
        "dataset": record and record.dataset,
        "label": record and record.label,
        "seeds": list(record.seeds) if record else [],
        "finished_seeds": [] if problem else run.finished_seeds(),
        "metrics": _shown_metrics(run) if record else {},
        "limit": run.config.data.limit if record else 0,
        "size": size_of(run.path),
        "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(_changed(dated) / 1e9)),
        "problem": problem or None,
    }
