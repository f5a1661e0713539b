"""Weights & Biases; WANDB_MODE, WANDB_PROJECT, WANDB_DIR and its other variables mean what they mean there."""

import os
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from conki_cli.reporting.tracking.tracker import PROJECT, Library, Subject, environment_or
from conki_cli.system.errors import SettingsError, reason_of


def load() -> Library:
    """Import wandb and log in, where it is not offline; on a terminal wandb asks for the key if it has none.

    Raises:
        SettingsError: it has no key, and nobody could be asked.
    """
    wandb = import_module("wandb")
    if _is_online(wandb):
        try:
            has_key = wandb.login()
        except wandb.errors.Error as error:
            raise _without_login(reason_of(error)) from error
        if not has_key and _is_online(wandb):
            raise _without_login("no key was given")
    project = environment_or("WANDB_PROJECT", PROJECT)
    where = f"project {project}" if _is_online(wandb) else f"project {project}, offline; send it with `wandb sync`"
    return Library(start=lambda subject: _Record(wandb, project, subject), where=lambda _: where)


def _is_online(wandb: ModuleType) -> bool:
    return wandb.setup().settings.mode not in ("offline", "dryrun", "disabled")


def _without_login(reason: str) -> SettingsError:
    return SettingsError(
        f"--track wandb needs a login ({reason})", advice="run `wandb login`, or set WANDB_MODE=offline"
    )


class _Record:
    """A run of wandb; its own output is off, and it does not capture that of the program."""

    def __init__(self, wandb: ModuleType, project: str, subject: Subject) -> None:
        root = subject.workspace.root
        root.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=project,
            name=subject.name,
            group=subject.training.run,
            job_type=f"stage {subject.training.stage}",
            config=subject.facts,
            dir=None if os.environ.get("WANDB_DIR") else str(root),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="epoch")

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the values of an epoch."""
        self._run.log({**values, "epoch": epoch})

    def finish(self, results: Mapping[str, float], *, is_finished: bool) -> None:
        """Record the results in the summary and end the run; an interrupted one counts as failed there."""
        self._run.summary.update(dict(results))
        self._run.finish(exit_code=0 if is_finished else 1)
