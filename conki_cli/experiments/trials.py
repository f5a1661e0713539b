"""The trials of a sweep, which Optuna chooses and remembers: claimed by one process each, trained, compared, tidied.

A trial trains like any run, in a folder of its own below trials/. The validation MAE of its best epoch compares it with
the others. The stores are opened without their test splits: no part of a sweep can read them.
"""

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conki_cli.config.resolving import with_settings
from conki_cli.config.sections import RunConfig
from conki_cli.experiments.planning import Plan, PlannedRun, make_plan
from conki_cli.experiments.spaces import Dimension, combinations
from conki_cli.runs import Run, Runs, digest_of, discard_run
from conki_cli.system.errors import ConkiError, SettingsError, reason_of
from conki_cli.system.files import write_text
from conki_cli.system.locks import lock_beside, locked
from conki_cli.system.observer import Epoch, Observer, Training
from conki_cli.system.observers import Observers
from conki_cli.system.signals import ANY_ENDING, postponed
from conki_cli.system.workspace import Workspace
from conki_cli.training.loop import schedule_of
from conki_cli.training.stages import train
from conki_cli.training.steps import Shelf

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

SPLITS_READ = ("train", "valid")
_STARTS = 3  # a trial whose process was killed so often is given up
_PLACE, _NUM_STARTS, _FAILURE, _WHAT = "place", "starts", "failure", "sweep"


@dataclass(frozen=True)
class Sweep:
    """What a sweep is; plain data, for any process."""

    name: str
    base: RunConfig
    space: tuple[Dimension, ...]
    num_trials: int
    """In all, over all processes."""
    workspace: Workspace
    storage: str = ""
    """A file, or the URL of a database; empty: a file in the sweep's folder."""

    @property
    def limit(self) -> int:
        """The number of trials in all: those asked for, but no more than a grid has."""
        grid = combinations(self.space)
        return min(self.num_trials, len(grid)) if grid else self.num_trials

    @property
    def place(self) -> str:
        """Where its trials are kept: a file, or the URL of a database."""
        return self.storage or str(self.folder / "journal.log")

    @property
    def folder(self) -> Path:
        """Where the sweep's own files lie."""
        return self.workspace.root / "sweeps" / self.name

    @property
    def lock(self) -> Path:
        """The lock of whoever claims or tidies trials, for a moment."""
        return lock_beside(self.folder)

    def trial_run(self, number: int) -> Run:
        """Return the run folder of a trial."""
        return Run(self.workspace.trials / f"{self.name}-{number:04d}")

    def trial_lock(self, number: int) -> Path:
        """Return the lock of whoever has a trial; those of its run are taken while it trains."""
        path = self.trial_run(number).path
        return lock_beside(path.with_name(f"{path.name}.trial"))


class PrunedError(Exception):
    """A trial is worse than the others were at this epoch."""


class _Judge(Observer):
    """Reports the validation MAE of every epoch of the first seed, and ends a trial that is not worth more epochs."""

    def __init__(self, trial: "Trial", seed: int) -> None:
        self._trial, self._seed = trial, seed
        self._known = set(trial.study._storage.get_trial(trial._trial_id).intermediate_values)

    def epoch(self, training: Training, epoch: Epoch) -> None:
        """Report an epoch.

        Raises:
            PrunedError: the trial ends here.
        """
        if training.stage != 2 or training.seed != self._seed:
            return
        if epoch.number not in self._known:
            self._trial.report(epoch.metrics["mae"], epoch.number)
        if self._trial.should_prune():
            raise PrunedError


def open_study(sweep: Sweep) -> "Study":
    """Open the study of a sweep in its storage, or begin it.

    Raises:
        SettingsError: Optuna is not installed, the storage cannot be opened, or it holds another sweep of this name.
    """
    try:
        import optuna
    except ImportError as error:
        raise SettingsError("a sweep needs Optuna, which is not installed", "pip install 'conki[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    where = sweep.place
    warmup = max(1, schedule_of(sweep.base, sweep.base.run.seeds[0]).num_epochs // 10)
    with locked(sweep.lock, what=f"the sweep {sweep.name}", wait=True):
        try:
            if "://" not in where:
                Path(where).parent.mkdir(parents=True, exist_ok=True)
            study = optuna.create_study(
                storage=_storage(where),
                study_name=sweep.name,
                direction="minimize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=warmup),
            )
            known = study.user_attrs.get(_WHAT)
            if known is None:
                study.set_user_attr(_WHAT, _description(sweep))
        except ConkiError:
            raise
        except Exception as error:  # of Optuna, SQLAlchemy, a database's driver, or the disk
            raise _unusable(where, error) from error
        if not (place := sweep.folder / "place").exists():
            write_text(place, uuid.uuid4().hex)
    _check_same(sweep, known)
    return study


def _check_same(sweep: Sweep, known: str | None) -> None:
    if known not in (None, _description(sweep)):
        raise SettingsError(
            f"the sweep {sweep.name} in {sweep.place} has other settings", "give --name another name, or its settings"
        )


def _unusable(place: str, error: Exception) -> SettingsError:
    return SettingsError(
        f"the storage {place} cannot be used: {reason_of(error)}", "give --storage a file or a database's URL"
    )


def num_finished(sweep: Sweep) -> int | None:
    """Count the trials that are finished, pruned or failed, without a change; None if a database knows it.

    Raises:
        SettingsError: as `open_study`.
    """
    if "://" in sweep.place:
        return None
    if not Path(sweep.place).exists():
        return 0
    import optuna

    try:
        study = optuna.load_study(study_name=sweep.name, storage=_storage(sweep.place))
    except KeyError:
        return 0
    except Exception as error:  # of Optuna or the disk
        raise _unusable(sweep.place, error) from error
    _check_same(sweep, study.user_attrs.get(_WHAT))
    return len([trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()])


def _storage(where: str) -> Any:
    import optuna

    if "://" in where:
        return optuna.storages.RDBStorage(where)
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(where))


def _description(sweep: Sweep) -> str:
    seeds = ",".join(map(str, sweep.base.run.seeds))
    return f"{digest_of(sweep.base)} seeds {seeds} over {' '.join(map(repr, sweep.space))}"


def try_all(sweep: Sweep, observer: Observer) -> None:
    """Claim and train trials until there are as many as asked for.

    Raises:
        ConkiError: the first three trials have all failed, or the storage cannot be used.
    """
    study = open_study(sweep)
    with Shelf(splits=SPLITS_READ) as shelf, observer.steps("trials", sweep.limit) as advance:
        make_plan([sweep.base], Runs(sweep.workspace), observer, shelf=shelf, dry_run=False)
        while True:
            with _claimed(sweep, study) as trial:
                if trial is None:
                    return
                _carry_out(sweep, trial, observer, shelf)
                _tidy(sweep, study)
            advance(1, f"trial {trial.number}")
            _refuse_if_all_fail(study)


@contextlib.contextmanager
def _claimed(sweep: Sweep, study: "Study") -> Iterator["Trial | None"]:
    """Hold a trial that no other process has: one whose process is gone, else a new one; None: there are enough."""
    with contextlib.ExitStack() as stack:
        with locked(sweep.lock, what=f"the sweep {sweep.name}", wait=True):
            trial = _abandoned(sweep, study, stack) or _new(sweep, study, stack)
        yield trial


def _abandoned(sweep: Sweep, study: "Study", stack: contextlib.ExitStack) -> "Trial | None":
    from optuna import Trial
    from optuna.trial import TrialState

    place = (sweep.folder / "place").read_text(encoding="utf-8")
    for found in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if found.user_attrs.get(_PLACE) != place:  # on another machine, without these folders
            continue
        attempt = contextlib.ExitStack()
        try:
            attempt.enter_context(locked(sweep.trial_lock(found.number), what="the trial"))
        except ConkiError:
            continue  # another process trains it
        if study.get_trials(deepcopy=False)[found.number].state != TrialState.RUNNING:
            attempt.close()
            continue
        stack.enter_context(attempt)
        return Trial(study, found._trial_id)
    return None


def _new(sweep: Sweep, study: "Study", stack: contextlib.ExitStack) -> "Trial | None":
    import optuna
    from optuna.trial import TrialState

    known, grid = study.get_trials(deepcopy=False), combinations(sweep.space)
    num_waiting = sum(trial.state == TrialState.WAITING for trial in known)  # of a process that was killed here
    count = len(known) - num_waiting
    untried = _untried(known, grid[: sweep.limit])
    if (untried is None and not num_waiting) if grid else count >= sweep.limit:
        return None
    study.sampler = optuna.samplers.TPESampler(seed=count, constant_liar=True)  # of no two trials the same
    with postponed():
        if untried is not None and not num_waiting:
            study.enqueue_trial(untried)
        trial = study.ask({dimension.path: dimension.distribution() for dimension in sweep.space})
        trial.set_user_attr(_PLACE, (sweep.folder / "place").read_text(encoding="utf-8"))
    stack.enter_context(locked(sweep.trial_lock(trial.number), what="the trial"))
    return trial


def _untried(known: Sequence["FrozenTrial"], grid: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first combination of a grid that no trial has: two machines may have begun the same one."""
    tried = [trial.params or trial.system_attrs.get("fixed_params") for trial in known]
    return next((values for values in grid if values not in tried), None)


def _carry_out(sweep: Sweep, trial: "Trial", observer: Observer, shelf: Shelf) -> None:
    """Train a trial and tell the study how good it is, that it was pruned, or why it failed."""
    from optuna.trial import TrialState

    study, number = trial.study, trial.number
    values = ", ".join(f"{path}={_short(value)}" for path, value in trial.params.items())
    num_killed = trial.user_attrs.get(_NUM_STARTS, 0)  # of starts that did not end otherwise
    try:
        if num_killed >= _STARTS:
            raise ConkiError(f"its process was killed {_STARTS} times")
        trial.set_user_attr(_NUM_STARTS, num_killed + 1)
        value = _train(sweep, trial, observer, shelf)
    except ANY_ENDING:
        trial.set_user_attr(_NUM_STARTS, num_killed)
        raise
    except PrunedError:
        study.tell(trial, state=TrialState.PRUNED)
        observer.say(f"trial {number} ({values}): pruned, worse than half of the others at this epoch")
    except (ConkiError, MemoryError) as error:
        trial.set_user_attr(_FAILURE, reason_of(error, 400))
        study.tell(trial, state=TrialState.FAIL)
        observer.say(f"trial {number} ({values}): failed: {reason_of(error, 400)}")
    else:
        study.tell(trial, value)
        observer.say(f"trial {number} ({values}): validation MAE {value:.4f}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _train(sweep: Sweep, trial: "Trial", observer: Observer, shelf: Shelf) -> float:
    """Train the seeds of a trial and return their mean validation MAE."""
    config = with_settings(sweep.base, trial.params)
    run = sweep.trial_run(trial.number)
    plan = plan_of_trial(sweep, run.name, config, observer, shelf=shelf)
    for planned in plan.planned:
        if planned.stage == 1:
            _share_stage_one(planned, observer, shelf)
    judge = _Judge(trial, config.run.seeds[0])
    for step in plan.planned[-1].steps:
        train(replace(step, config=config, run=run.path), Observers(judge, observer), shelf=shelf)
    found = [run.seed_result(seed) for seed in config.run.seeds]
    return sum(result.metrics["valid"]["mae"] for result in found if result is not None) / len(found)


def plan_of_trial(
    sweep: Sweep, name: str, config: RunConfig, observer: Observer, *, shelf: Shelf, dry_run: bool = False
) -> Plan:
    """Return the plan of one trial, under a name that no run has: its stage 2 is to be trained."""
    named = config.with_values("run", name=f"trial-{name}")
    return make_plan([named], Runs(sweep.workspace), observer, shelf=shelf, dry_run=dry_run)


def _share_stage_one(planned: PlannedRun, observer: Observer, shelf: Shelf) -> None:
    """Train the stage 1 that trials start from, once: whoever comes second waits for it."""
    for step in planned.steps:
        run = Run(step.run)
        mine = lock_beside(run.path.with_name(f"{run.name}.for-sweeps-{step.seed}"))
        what = f"seed {step.seed} of the run {run.name}"
        with locked(mine, what=what, wait=True, say=observer.say):
            with locked(run.seed_lock(step.seed), what=what, wait=True, say=observer.say):
                """Another command may train it."""
            train(step, observer, shelf=shelf)


def _tidy(sweep: Sweep, study: "Study") -> None:
    """Delete what finished trials left on the disk, but for the best one."""
    from optuna.trial import TrialState

    with locked(sweep.lock, what=f"the sweep {sweep.name}", wait=True):
        finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        done = [trial for trial in finished if trial.state == TrialState.COMPLETE]
        best = min(done, key=lambda trial: (trial.value, trial.number)).number if done else None
        for trial in finished:
            run = sweep.trial_run(trial.number)
            if trial.number != best and run.path.exists():
                discard_run(run)


def _refuse_if_all_fail(study: "Study") -> None:
    from optuna.trial import TrialState

    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    failed = [trial for trial in finished if trial.state == TrialState.FAIL]
    if len(failed) == len(finished) >= _STARTS:
        raise ConkiError(
            f"all {len(failed)} trials failed, the last because: {failed[-1].user_attrs.get(_FAILURE, 'unknown')}",
            "fix that, and give --name a new name",
        )
