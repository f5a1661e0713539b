"""Run folders: names, states, results."""

import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conki_cli import __version__
from conki_cli.config.resolving import from_toml, to_toml
from conki_cli.config.sections import NO_EXTERNAL, RunConfig
from conki_cli.config.words import run_label
from conki_cli.metrics import TWO_CLASSES, neutral_score
from conki_cli.metrics.summaries import summarize
from conki_cli.runs.differences import differences, learnt_settings
from conki_cli.system.errors import ConkiError, Kind, RunError, SettingsError, UnreadableError
from conki_cli.system.files import check_writable, read_json, size_of, write_json, write_text
from conki_cli.system.readable import check_readable, obstacle_at, status_of
from conki_cli.system.workspace import BUILT_IN_ENCODER, Workspace, is_path
from conki_cli.text import encoder_identity

RUN_SCHEMA = 1
_RESULT: dict[str, type] = {"schema": int, "stage": str, "digest": str, "dataset": str, "label": str, "data": dict}
_RESULT |= {"score_range": list, "seeds": list, "state": str}


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def config(self) -> RunConfig:
        """The resolved configuration the run was made with."""
        check_is_file(self.path / "config.toml")
        try:
            return from_toml(self.path / "config.toml")
        except UnreadableError:
            raise
        except SettingsError as error:
            raise RunError(error.fact, "restore the file, or delete the run's folder", kind=Kind.DAMAGED) from error

    @property
    def result(self) -> dict[str, Any]:
        """What result.json says: schema, stage, digest, data, finished seeds, metrics."""
        path = self.path / "result.json"
        found = read_json(path)
        known: dict[str, Any] = found if isinstance(found, dict) else {}
        schema = known.get("schema")
        if isinstance(schema, int) and schema > RUN_SCHEMA:
            raise RunError(
                f"run {self.name} has schema {schema}, this conki {__version__} knows up to {RUN_SCHEMA}",
                "install a newer conki",
                kind=Kind.NEWER,
            )
        fits = all(isinstance(known.get(key), kind) for key, kind in _RESULT.items())
        if not fits or not all(isinstance(seed, int) for seed in known["seeds"]) or len(known["score_range"]) != 2:
            raise RunError(
                f"{path} must describe a run but does not",
                "restore it or delete the run folder",
                kind=Kind.DAMAGED,
            )
        return known

    @property
    def problem(self) -> str:
        """Why the folder cannot be used, in one line; empty where nothing is wrong with it."""
        error = self._error()
        return f"the run folder {self.path} cannot be used: {error}" if error is not None else ""

    def _error(self) -> ConkiError | None:
        try:
            check_readable(self.path)
            _ = self.config, self.finished_seeds()
        except ConkiError as error:
            return error
        return None

    @property
    def state(self) -> str:
        """What the list of runs says: finished, unfinished, damaged, or unreadable where the system did not read it."""
        error = self._error()
        if error is not None:
            return "unreadable" if isinstance(error, UnreadableError) else "damaged"
        return str(self.result["state"])

    @property
    def is_finished(self) -> bool:
        """Say whether every seed asked for has been trained."""
        return bool(self.result["seeds"]) and self.result["state"] == "finished"

    def seed_folder(self, seed: int) -> Path:
        """Return the folder of one seed."""
        return self.path / f"seed-{seed}"

    def checkpoint(self, seed: int, name: str) -> Path:
        """Return the path of a checkpoint: best, last or frozen."""
        return self.seed_folder(seed) / "checkpoints" / f"{name}.safetensors"

    @property
    def frozen_encoder(self) -> Path:
        """The checkpoint of a frozen text encoder, kept once for all seeds."""
        return self.path / "encoder" / "frozen.safetensors"

    @property
    def states_folder(self) -> Path:
        """Where the states of frozen text encoders are kept for all runs beside this one."""
        return self.path.parent.parent / "frozen"

    def seed_result(self, seed: int) -> dict[str, Any] | None:
        """Return the result of a finished seed, None while it is unfinished."""
        path = self.seed_folder(seed) / "result.json"
        is_there = status_of(path) is not None and not obstacle_at(path)
        found = read_json(path) if is_there else None
        if is_there and not _describes_seed(found):
            raise RunError(
                f"{path} must describe a trained seed but does not",
                "delete that seed's folder",
                kind=Kind.DAMAGED,
            )
        result: dict[str, Any] | None = found
        return result

    def finished_seeds(self) -> list[int]:
        """Return the seeds that have been trained to the end."""
        return [seed for seed in self.result["seeds"] if self.seed_result(seed) is not None]

    def predictions_path(self, seed: int, split: str) -> Path:
        """Return where the predictions for a split lie."""
        return self.seed_folder(seed) / "predictions" / f"{split}.csv"

    def predictions_exist(self, split: str) -> bool:
        """Say whether every finished seed has stored predictions for a split.

        Raises:
            ConkiError: one must be made and could not be written; better now than after all clips are predicted.
        """
        paths = [self.predictions_path(seed, split) for seed in self.finished_seeds()]
        for path in paths:
            check_is_file(path)
        missing = [path for path in paths if status_of(path) is None]
        for path in missing:
            check_writable(path)
        return not missing


def _describes_seed(found: object) -> bool:
    """Say whether a seed's result.json has metrics by split, each a number or null."""
    splits = found.get("metrics") if isinstance(found, dict) else None
    metrics = list(splits.values()) if isinstance(splits, dict) else [None]
    values = [value for part in metrics if isinstance(part, dict) for value in part.values()]
    return all(isinstance(part, dict) for part in metrics) and all(isinstance(v, float | int | None) for v in values)


def check_is_file(path: Path) -> None:
    """Refuse a folder, or a pipe that would be waited for, where a file of a run lies.

    Raises:
        RunError: there is one.
        ConkiError: the file may not be read.
    """
    check_readable(path)
    if what := obstacle_at(path):
        raise RunError(f"{path} must be a file but is {what}", "move it away")


def digest_of(config: RunConfig) -> str:
    """Return 8 hex digits of everything in the configuration that changes what is learnt.

    Seeds, device, name, what only decides whether a run is refused, the threshold between two classes and the
    encoder's path are left out (the encoder's content counts), and so are the `[pretraining]` settings of a run without
    stage 1.
    """
    name = config.model.text_encoder
    identity = name if name == BUILT_IN_ENCODER else encoder_identity(name, reads_text=not config.dropped("T"))
    flat = {**learnt_settings(config), "model.text_encoder": identity}
    flat |= {f"model.{key}": value for key, value in _handover_of_version_1(config).items()}
    return hashlib.sha256(repr(sorted(flat.items())).encode()).hexdigest()[:8]


def _handover_of_version_1(config: RunConfig) -> dict[str, Any]:
    """Return the switches, and `start_from` in place of the switch `handover`, so that version 1's digests stay."""
    drop = tuple(switch for switch in config.model.drop if switch != "handover")
    is_conki = not (config.is_baseline or config.dropped("plain-transfer"))
    hands_over = is_conki and config.data.external != NO_EXTERNAL and not config.dropped("handover")
    if hands_over or (config.run.recipe == "released" and not config.is_baseline and not config.dropped("handover")):
        return {"drop": drop, "start_from": "all"}
    if "C2" in drop:  # without external data, version 1 did not name C1 beside it
        drop = tuple(switch for switch in drop if switch != "C1")
    return {"drop": drop, "start_from": "adapters"}


def default_name(config: RunConfig) -> str:
    """Name a run after its data sets, model, switches and digest, so the same command finds the same run."""
    switches = f"-wo-{'+'.join(config.model.drop)}" if config.model.drop else ""
    if "plain-transfer" in config.model.drop:
        rest = [switch for switch in config.model.drop if switch != "plain-transfer"]
        switches = "-plain-transfer" + (f"-wo-{'+'.join(rest)}" if rest else "")
    data = config.data.dataset
    if config.run.stage == "pretrain":
        data = f"pretrain-{config.data.external}-for-{config.data.dataset}"
    return f"{data}-{config.model.name}{switches}-{digest_of(config)}"


def open_run(workspace: Workspace, config: RunConfig, data: Mapping[str, str], score_range: tuple[float, float]) -> Run:
    """Find or make the run of a configuration.

    Args:
        workspace: where the runs lie.
        config: the resolved configuration; its seeds are added to the run's, and its threshold, if it has one,
            replaces the run's.
        data: content id of every store the run reads, by data set.
        score_range: of the scores the run learns; it decides which metrics apply.

    Raises:
        RunError: a run of that name has other settings or saw other data.
        SettingsError: the threshold lies outside the range of the scores.
    """
    neutral_score(score_range, config.data.threshold)
    run = locate_run(workspace, config)
    if status_of(run.path / "result.json") is None:
        _start_run(run, config, data, score_range)
        return run
    check_data(run, data)
    result = run.result
    merged = sorted({*result["seeds"], *config.run.seeds})
    known = run.config
    threshold = known.data.threshold if config.data.threshold is None else config.data.threshold
    named = known.with_values("run", seeds=tuple(merged)).with_values("data", threshold=threshold)
    if merged != result["seeds"] or threshold != known.data.threshold:
        write_text(run.path / "config.toml", to_toml(named))
    if merged != result["seeds"]:
        write_json(run.path / "result.json", {**result, "seeds": merged, "state": "unfinished"})
    return run


def check_data(run: Run, data: Mapping[str, str]) -> None:
    """Refuse stores, given by data set and content id, that are not those a run was begun with.

    Raises:
        RunError: one of them is another version.
    """
    if status_of(run.path / "result.json") is None:
        return
    known = run.result["data"]
    if changed := [name for name, content in data.items() if known.get(name, content) != content]:
        raise RunError(
            f"run {run.name} was trained on another version of the store {changed[0]}",
            "restore that version, give --name a new name, or delete the run's folder",
        )


def _start_run(run: Run, config: RunConfig, data: Mapping[str, str], score_range: tuple[float, float]) -> None:
    named = config.with_values("run", seeds=tuple(sorted(config.run.seeds)))
    write_text(run.path / "config.toml", to_toml(named))
    write_json(
        run.path / "result.json",
        {
            "schema": RUN_SCHEMA,
            "conki": __version__,
            "stage": config.run.stage,
            "digest": digest_of(config),
            "dataset": config.data.external if config.run.stage == "pretrain" else config.data.dataset,
            "label": run_label(config),
            "data": dict(data),
            "score_range": list(score_range),
            "seeds": sorted(config.run.seeds),
            "state": "unfinished",
        },
    )


def locate_run(workspace: Workspace, config: RunConfig, *, replaces: bool = False) -> Run:
    """Return the run of a configuration: one of the same stage and digest whatever its name, else where it will lie.

    With `replaces`, what stands there may be anything: it is going to be discarded.

    Raises:
        RunError: the name is unusable, or the run of that name is damaged or has other settings.
    """
    digest = digest_of(config)
    if not config.run.name:
        for run in list_runs(workspace):
            if run.result["digest"] == digest and run.result["stage"] == config.run.stage:
                return run
    run = Run(workspace.runs / (check_name(config.run.name) or default_name(config)))
    if replaces or status_of(run.path) is None:
        return run
    if status_of(run.path / "result.json") is None:
        _check_without_result(run, config)
        return run
    if run.problem:
        raise RunError(run.problem)
    if (found := run.result["digest"]) != digest or run.result["stage"] != config.run.stage:
        what = differences(run.config, config) or f"digest {found}, now {digest_of(config)}: another text encoder"
        raise RunError(
            f"run {run.name} exists with other settings ({what})", "give another --name, or delete that folder"
        )
    return run


def _check_without_result(run: Run, config: RunConfig) -> None:
    """Refuse to continue a run whose result.json is gone, or was never written, with other settings.

    Raises:
        RunError: they are others, or nothing tells what they were.
    """
    path = run.path / "config.toml"
    if status_of(path) is None and not any(run.path.glob("seed-*")):
        return
    try:
        known = run.config
    except UnreadableError:
        raise
    except ConkiError as error:
        raise RunError(f"run {run.name} has no result.json and no settings ({error})", "give --overwrite") from error
    if (found := digest_of(known)) != digest_of(config) or known.run.stage != config.run.stage:
        what = differences(run.config, config) or f"digest {found}, now {digest_of(config)}: another text encoder"
        raise RunError(f"run {run.name} exists with other settings ({what})", "give another --name, or --overwrite")


def list_runs(workspace: Workspace) -> list[Run]:
    """Return every run of the workspace that can be used, oldest first."""
    return [run for run in _run_folders(workspace) if not run.problem]


def damaged_runs(workspace: Workspace, *, besides: str = "") -> list[str]:
    """Return one line per run folder, but for one, that cannot be used: which it is, and why."""
    return [run.problem for run in _run_folders(workspace) if run.name != besides and run.problem]


def _run_folders(workspace: Workspace) -> list[Run]:
    check_readable(workspace.runs)
    folders = [path for path in workspace.runs.glob("[!.]*") if path.is_dir()]
    closed = [path for path in folders if not os.access(path, os.R_OK | os.X_OK)]  # they are told of, not passed over
    found = [path for path in folders if path not in closed and (path / "result.json").exists()]
    began = {path: config.stat().st_mtime if (config := path / "config.toml").exists() else 0.0 for path in found}
    return [Run(path) for path in [*closed, *sorted(found, key=lambda path: (began[path], path))]]


def find_run(workspace: Workspace, name: str | None) -> Run:
    """Return the run called `name`, or at that path (./NAME); without a name, the newest finished fine-tuning run.

    Raises:
        RunError: there is none.
    """
    if name is None:
        check_readable(workspace.runs)
        finished = [run for run in list_runs(workspace) if run.result["stage"] == "finetune" and run.is_finished]
        if not finished:
            raise RunError(
                f"no finished fine-tuning run lies below {workspace.runs}", "train one with `conki finetune`"
            )
        return max(finished, key=lambda run: (run.path / "result.json").stat().st_mtime_ns)
    place = Path(name) if is_path(name) else workspace.runs / name
    check_readable(place)
    if (place / "result.json").is_file():
        return Run(place)
    if is_path(name):
        raise RunError(
            f"no run '{name}' is there: a run's folder has a result.json; `conki runs` lists the workspace's"
        )
    here = f"; ./{name} means the one in the current folder" if (Path(name) / "result.json").is_file() else ""
    raise RunError(
        f"no run '{name}' lies below {workspace.runs}",
        f"`conki runs` lists those that exist{here}",
        kind=Kind.MISSING,
    )


def check_name(name: str) -> str:
    """Return a run name that is safe as a folder name.

    Raises:
        RunError: it could leave the folder of runs, or is too long.
    """
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        raise RunError(f"a run name holds letters, digits, '.', '_', '+' and '-' (100 at most), found '{name[:120]}'")
    return name


def finish_run(run: Run) -> None:
    """Write the run's result: metrics per split as mean, sd and values over its finished seeds."""
    result = run.result
    seeds = run.finished_seeds()
    by_split: dict[str, Any] = {}
    for split in ("valid", "test"):
        per_seed = [found["metrics"].get(split, {}) for seed in seeds if (found := run.seed_result(seed))]
        if per_seed and all(per_seed):  # null in JSON is nan
            by_split[split] = summarize([{k: np.nan if v is None else v for k, v in m.items()} for m in per_seed])
    known = {"metrics": by_split, "state": "finished" if seeds == result["seeds"] else "unfinished"}
    medians = [found["median"] for seed in seeds if (found := run.seed_result(seed)) and "median" in found]
    if medians:  # that of the training split, so the same for every seed
        known["median"] = medians[0]
    write_json(run.path / "result.json", {**result, **known})


def describe_runs(workspace: Workspace) -> list[dict[str, Any]]:
    """Return one entry per run: name, stage, state, seeds, test metrics, bytes on disk, when it changed, problem."""
    return [_describe_run(run) for run in _run_folders(workspace)]


def _shown_metrics(run: Run, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the test metrics of a run, without two classes that older versions made of scores on one side of 0."""
    metrics: dict[str, Any] = result.get("metrics", {}).get("test", {})
    if not metrics:
        return {}
    low, high = result["score_range"]
    if neutral_score((low, high), run.config.data.threshold) is not None:
        return metrics
    return {name: None if name in TWO_CLASSES else summary for name, summary in metrics.items()}


def _describe_run(run: Run) -> dict[str, Any]:
    problem = run.problem
    result: dict[str, Any] = {"state": run.state, "seeds": []} if problem else run.result
    dated = run.path / "result.json" if os.access(run.path, os.X_OK) else run.path
    return {
        "name": run.name,
        "kind": result.get("stage"),
        **{key: result.get(key) for key in ("state", "dataset", "label", "seeds")},
        "finished_seeds": [] if problem else run.finished_seeds(),
        "metrics": _shown_metrics(run, result),
        "size": size_of(run.path),
        "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(dated.stat().st_mtime)),
        "problem": problem or None,
    }
