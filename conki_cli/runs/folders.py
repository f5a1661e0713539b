"""A run folder: the paths and contents of its files."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from conki_cli.config.resolving import from_toml
from conki_cli.config.sections import RunConfig
from conki_cli.runs.records import RunRecord, SeedResult
from conki_cli.system.errors import ConkiError, Kind, RunError, SettingsError, UnreadableError
from conki_cli.system.files import check_writable, read_json, to_json, write_json
from conki_cli.system.locks import lock_beside
from conki_cli.system.readable import check_readable, obstacle_at, status_of

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A run folder; its files are read again only after a change."""

    path: Path
    _known: dict[Path, tuple[object, Any]] = field(default_factory=dict, compare=False, repr=False)
    """Contents read so far, by file, with the file's stamp at that time."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def config(self) -> RunConfig:
        """The resolved configuration of the run."""
        check_is_file(self.path / "config.toml")
        try:
            return self._once(self.path / "config.toml", from_toml)
        except UnreadableError:
            raise
        except SettingsError as error:
            raise RunError(error.fact, "restore the file, or delete the run's folder", kind=Kind.DAMAGED) from error

    @property
    def record(self) -> RunRecord:
        """The content of result.json.

        Raises:
            RunError: it has a newer schema, or does not describe a run.
            ConkiError: it is missing or is not JSON.
        """
        return self._once(self.path / "result.json", lambda path: RunRecord.from_json(read_json(path), path))

    def write_record(self, record: RunRecord) -> None:
        """Write result.json."""
        self._write(self.path / "result.json", record)

    @property
    def problem(self) -> str:
        """Why the folder cannot be used, in one line; empty if it can."""
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
        """The state in the list of runs: finished, unfinished, damaged, or unreadable by the system."""
        error = self._error()
        if error is not None:
            return "unreadable" if isinstance(error, UnreadableError) else "damaged"
        return self.record.state if self.is_finished else "unfinished"

    @property
    def is_finished(self) -> bool:
        """Say whether every seed asked for has been trained."""
        record = self.record
        return bool(record.seeds) and record.state == "finished" and self.finished_seeds() == list(record.seeds)

    def seed_folder(self, seed: int) -> Path:
        """Return the folder of one seed."""
        return self.path / f"seed-{seed}"

    def seed_lock(self, seed: int | str) -> Path:
        """Return the lock that a process holds while it trains a seed; it is beside the folder, which may not exist."""
        return lock_beside(self.path.with_name(f"{self.name}.seed-{seed}"))

    def checkpoint(self, seed: int, name: str) -> Path:
        """Return the path of a checkpoint: best, last or frozen."""
        return self.seed_folder(seed) / "checkpoints" / f"{name}.safetensors"

    @property
    def frozen_encoder(self) -> Path:
        """The checkpoint of a frozen text encoder, stored once for all seeds."""
        return self.path / "encoder" / "frozen.safetensors"

    @property
    def states_folder(self) -> Path:
        """The folder of the cached states of frozen text encoders, shared by all runs of the workspace."""
        return self.path.parent.parent / "frozen"

    def seed_result(self, seed: int) -> SeedResult | None:
        """Return the result of a finished seed; None while it is unfinished.

        Raises:
            RunError: the file does not describe a trained seed.
        """
        path = self.seed_folder(seed) / "result.json"
        if status_of(path) is None or obstacle_at(path):
            return None
        return self._once(path, lambda path: SeedResult.from_json(read_json(path), path))

    def write_seed_result(self, seed: int, result: SeedResult) -> None:
        """Write a seed's result.json, which marks the seed as finished."""
        self._write(self.seed_folder(seed) / "result.json", result)

    def finished_seeds(self) -> list[int]:
        """Return the finished seeds."""
        return [seed for seed in self.record.seeds if self.seed_result(seed) is not None]

    def results(self) -> dict[int, SeedResult]:
        """Return the results of the finished seeds."""
        found = {seed: self.seed_result(seed) for seed in self.record.seeds}
        return {seed: result for seed, result in found.items() if result is not None}

    def _once(self, path: Path, read: Callable[[Path], T]) -> T:
        stamp = _stamp(path)
        if stamp is None or self._known.get(path, (None,))[0] != stamp:
            self._known[path] = stamp, read(path)
        known: T = self._known[path][1]
        return known

    def _write(self, path: Path, value: RunRecord | SeedResult) -> None:
        write_json(path, value.as_json())
        read_back = json.loads(to_json(value.as_json()))  # JSON has no nan: a reader sees null
        self._known[path] = _stamp(path), type(value).from_json(read_back, path)

    def predictions_path(self, seed: int, split: str) -> Path:
        """Return the path of the predictions for a split."""
        return self.seed_folder(seed) / "predictions" / f"{split}.csv"

    def predictions_exist(self, split: str) -> bool:
        """Say whether every finished seed has stored predictions for a split.

        Raises:
            ConkiError: a missing file could not be written; better now than after all clips are predicted.
        """
        paths = [self.predictions_path(seed, split) for seed in self.finished_seeds()]
        for path in paths:
            check_is_file(path)
        missing = [path for path in paths if status_of(path) is None]
        for path in missing:
            check_writable(path)
        return not missing


def is_run_folder(path: Path) -> bool:
    """Say whether a folder is a run, or what is left of one."""
    return any((path / name).exists() for name in ("config.toml", "result.json")) or any(path.glob("seed-*"))


def _stamp(path: Path) -> object:
    """Return a value that changes with a file's content; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def check_is_file(path: Path) -> None:
    """Refuse a folder, or a pipe that would block, in the place of a file of a run.

    Raises:
        RunError: the path is not a file.
        ConkiError: the file cannot be read.
    """
    check_readable(path)
    if what := obstacle_at(path):
        raise RunError(f"{path} must be a file but is {what}", "move it away")
