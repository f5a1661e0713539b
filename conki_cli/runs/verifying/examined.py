"""A run while its files are verified: what could be read of it, and the commands that its findings advise."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from conki_cli.config.resolving import resolve, stage_one, version_1_stage_one
from conki_cli.config.sections import RunConfig
from conki_cli.data.store.verifying import KnownStores
from conki_cli.runs.folders import Run
from conki_cli.runs.naming import digest_of
from conki_cli.runs.records import RunRecord
from conki_cli.system.errors import quoted
from conki_cli.system.findings import Examination, attempt, ordinary
from conki_cli.system.locks import holder_of, lock_beside


@dataclass(frozen=True)
class ExaminedRun:
    """What is known of a run; None: it cannot be read."""

    run: Run
    examination: Examination
    stores: KnownStores
    config: RunConfig | None
    bad_config: Exception | None
    result: RunRecord | None
    bad_result: Exception | None
    seeds: tuple[int, ...]
    """Those asked for, and those with a folder."""
    finished: tuple[int, ...]
    command: str
    """What trains the seeds that are not finished."""
    holder: str
    """The process that is at work on the run; empty: none."""

    @classmethod
    def opened(cls, run: Run, examination: Examination, stores: KnownStores) -> Self:
        """Read what a run says of itself."""
        config, bad_config = attempt(_config, run)
        result, bad_result = attempt(_result, run)
        seeds = _seeds_of(run)
        return cls(
            run=run,
            examination=examination,
            stores=stores,
            config=config,
            bad_config=bad_config,
            result=result,
            bad_result=bad_result,
            seeds=seeds,
            finished=tuple(seed for seed in seeds if attempt(run.seed_result, seed)[0] is not None),
            command=_command(run, examination),
            holder=next(filter(None, map(holder_of, locks_of(run))), ""),
        )

    @property
    def subject(self) -> str:
        """The path of the run."""
        return str(self.run.path)

    @property
    def is_first_stage(self) -> bool:
        """Say whether it is a run of stage 1."""
        return self.result is not None and self.result.stage == "pretrain"

    @property
    def name(self) -> str:
        """How a command of this workspace names the run."""
        run = self.run
        return quoted(run.name if run.path.parent == self.examination.workspace.runs else run.path)

    def seed_again(self, seed: int) -> str:
        """Say how to train a seed once more."""
        return f"delete that seed: rm -r {quoted(self.run.seed_folder(seed))}; then {self.command}"

    def all_again(self) -> str:
        """Say how to make the whole run once more."""
        return f"delete the run: rm -r {quoted(self.run.path)}; then give the command that made it"


def locks_of(run: Run) -> list[Path]:
    """Return the locks that whoever is at work on a run, or on one of its seeds, holds."""
    return [lock_beside(run.path), *map(run.seed_lock, _seeds_of(run))]


def _seeds_of(run: Run) -> tuple[int, ...]:
    result, _ = attempt(_result, run)
    names = [path.name.removeprefix("seed-") for path in run.path.glob("seed-*")]
    folders = [int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,18}", name)]
    return tuple(sorted({*(result.seeds if result is not None else ()), *folders}))


def _config(run: Run) -> RunConfig:
    ordinary(run.path / "config.toml")
    return run.config


def _result(run: Run) -> RunRecord:
    ordinary(run.path / "result.json")
    return run.record


def _command(run: Run, examination: Examination) -> str:
    """Return the command that trains what is not finished, as its settings say; in words where they do not."""

    def command() -> str:
        _config(run)
        config = resolve(config_file=run.path / "config.toml")
        result = _result(run)
        is_first = result.stage == "pretrain"
        stages = (stage_one(config), version_1_stage_one(config)) if is_first else (config,)
        if result.digest not in map(digest_of, stages):
            return ""
        words = f"{'pretrain' if is_first else 'finetune'} --config {quoted(run.path / 'config.toml')}"
        return examination.command(words)

    is_whole = not any(attempt(read, run)[1] for read in (_config, _result))
    return attempt(command)[0] or f"the command that made the run{'' if is_whole else ' (repair the run first)'}"
