"""MLflow: MLFLOW_TRACKING_URI, or a database in the workspace."""

import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from conki_cli.reporting.tracking.tracker import PROJECT, Library, Subject, environment_or
from conki_cli.system.errors import quoted
from conki_cli.system.workspace import Workspace

_MOST_PARAMETERS = 100  # in one request
_LONGEST = 500  # characters of a parameter that every version takes


def load() -> Library:
    """Import MLflow."""
    mlflow = import_module("mlflow")
    return Library(
        start=lambda subject: _Record(mlflow, subject),
        where=lambda workspace: f"mlflow ui --backend-store-uri {quoted(_address(workspace))}",
    )


def _address(workspace: Workspace) -> str:
    return environment_or("MLFLOW_TRACKING_URI", f"sqlite:///{workspace.root.resolve() / 'mlflow.db'}")


class _Record:
    """A run of MLflow, through its client: the active run of the process stays what it is."""

    def __init__(self, mlflow: Any, subject: Subject) -> None:
        subject.workspace.root.mkdir(parents=True, exist_ok=True)
        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient(tracking_uri=_address(subject.workspace))
        name = environment_or("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(name)
        self._run = str(self._client.create_run(experiment, run_name=subject.name).info.run_id)
        facts = [self._entities.Param(key, value[:_LONGEST]) for key, value in subject.facts.items()]
        for first in range(0, len(facts), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=facts[first : first + _MOST_PARAMETERS])
        self._last = 0

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the values of an epoch."""
        self._last, now = epoch, int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self, results: Mapping[str, float], *, is_finished: bool) -> None:
        """Record the results at the last epoch and end the run."""
        self.log(self._last, results)
        self._client.set_terminated(self._run, "FINISHED" if is_finished else "KILLED")
