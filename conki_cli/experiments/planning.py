"""The plan of a command that trains: open inputs, refuse what cannot work, merge, order and reuse runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from conki_cli.config.resolving import stage_one, version_1_stage_one
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import run_label
from conki_cli.data.store.reading import FeatureStore
from conki_cli.experiments.opening import (
    check_labelled,
    lacks_encoder,
    ready_encoder,
    ready_store,
    source_of_missing,
)
from conki_cli.metrics import neutral_score
from conki_cli.runs import Run, Runs, check_data, digest_of
from conki_cli.system.errors import SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.readable import status_of
from conki_cli.system.workspace import BUILT_IN_ENCODER
from conki_cli.training.jobs import NetworkSize, check_network
from conki_cli.training.steps import Shelf, Step, open_step


@dataclass(frozen=True)
class PlannedRun:
    """One stage of one configuration: its run folder, and a step for every seed that is not trained yet."""

    config: RunConfig
    run: Run
    first: Run | None
    """The stage-1 run that it starts from."""
    steps: tuple[Step, ...]
    discards: bool
    """Whether the existing folder is deleted before training starts."""
    data: Mapping[str, str]
    """Content id of every store that the run reads, by data set; empty if a store is not prepared yet."""
    size: NetworkSize | None
    """Size of the network; None if nothing is left to train, or a store is not prepared yet."""

    @property
    def stage(self) -> int:
        """1 pretraining, 2 fine-tuning."""
        return 1 if self.config.run.stage == "pretrain" else 2


@dataclass(frozen=True)
class Row:
    """One requested configuration and its runs: stage 1, if it needs one, before stage 2."""

    label: str
    runs: tuple[PlannedRun, ...]

    @property
    def run(self) -> Run:
        """The requested run."""
        return self.runs[-1].run


@dataclass(frozen=True)
class Plan:
    """The runs that a command trains, in order; close `shelf` afterwards."""

    rows: tuple[Row, ...]
    """The rows; equal configurations share a row."""
    remarks: tuple[str, ...]
    """Messages about merged rows."""
    runs: Runs
    shelf: Shelf
    missing: Mapping[Path, Path | None] = field(default_factory=dict)
    """Stores that are not prepared yet and their sources; only in a dry run."""
    lacks_encoder: bool = False
    """Whether the demo's text encoder is not built yet."""

    @property
    def planned(self) -> list[PlannedRun]:
        """Every run once, stage 1 before the stages 2 that start from it."""
        found = {planned.run.path: planned for row in self.rows for planned in row.runs}
        return list(found.values())

    @property
    def steps(self) -> list[Step]:
        """Every seed that is not trained yet; stage 1 comes before the steps that start from it."""
        return [step for planned in self.planned for step in planned.steps]


def make_plan(
    configs: Sequence[RunConfig] | Mapping[str, RunConfig],
    runs: Runs,
    observer: Observer,
    *,
    shelf: Shelf,
    stage: Literal["pretrain", "finetune"] = "finetune",
    discard: bool = False,
    dry_run: bool = False,
) -> Plan:
    """Open what some configurations read, refuse what cannot work, and order what is left to train.

    Missing stores are prepared if their raw files are in the workspace; nothing else is written.

    Args:
        configs: stage-2 configurations, or a mapping from the user's words to them.
        runs: the runs of the workspace.
        observer: is notified of prepared stores.
        shelf: holds the opened stores and tokenizers.
        stage: plan only stage 1, or stage 2 with the stage 1 that it needs.
        discard: delete the requested runs and start over; their stage-1 runs are kept.
        dry_run: prepare nothing; runs on missing stores are planned without checks.

    Raises:
        ConkiError: a store or an encoder is missing, settings do not fit each other or the inputs, or an existing run
            conflicts.
    """
    maker = _PlanMaker(observer, runs, shelf, discard, dry_run)
    named = configs if isinstance(configs, Mapping) else {run_label(config): config for config in configs}
    stages = {words: maker.stages(config, stage) for words, config in named.items()}
    for found in stages.values():  # refuse unusable names before opening stores
        maker.runs.locate(found[-1], discard=discard)
    rows: dict[Path, Row] = {}
    remarks = []
    for words, found in stages.items():
        row = Row(run_label(found[-1]), maker.planned_row(found))
        if (earlier := rows.get(row.run.path)) is not None:
            _refuse_shared_name(earlier, row)
            remarks.append(f"{words} equals an earlier row, {row.label}: it is shown once")
        rows[row.run.path] = row  # of two equal rows the later one has the seeds of both
    return Plan(
        tuple(rows.values()), tuple(remarks), maker.runs, shelf, maker.missing, lacks_encoder=maker.lacks_encoder
    )


def _refuse_shared_name(one: Row, other: Row) -> None:
    """Refuse two rows that have one name but are different experiments."""
    if digest_of(one.runs[-1].config) != digest_of(other.runs[-1].config):
        raise SettingsError(
            f"{one.label} and {other.label} have different settings but the same name, {one.run.name}",
            advice="leave out run.name, or give each its own",
        )


@dataclass
class _PlanMaker:
    """The state that the rows of a plan share while it is made."""

    observer: Observer
    runs: Runs
    shelf: Shelf
    discard: bool
    dry_run: bool
    missing: dict[Path, Path | None] = field(default_factory=dict)
    lacks_encoder: bool = False
    _planned: dict[tuple[str, str], PlannedRun] = field(default_factory=dict)

    def stages(self, config: RunConfig, stage: str) -> list[RunConfig]:
        """Return the configurations of the stages of a configuration.

        Raises:
            SettingsError: it is the configuration of a stage 1 but stage 2 was requested, or it has no stage 1 although
                one was requested.
        """
        if stage == "finetune" and config.run.stage != stage:
            raise SettingsError(
                "run.stage must be finetune here, found pretrain (a stage-1 run's config.toml?)",
                advice="add --set run.stage=finetune and the [optimizer] and [loss] you want",
            )
        if stage == "finetune":
            return [*([self._stage_one(config)] if config.needs_pretraining else []), config]
        if not config.needs_pretraining:
            raise SettingsError(
                f"{run_label(config)} with external {config.data.external} has no stage 1, since nothing is handed "
                "over",
                advice="give --external a data set and drop neither C1 nor C2+handover, or finetune directly",
            )
        if config.run.stage == "pretrain" and digest_of(config) == digest_of(version_1_stage_one(config)):
            return [config]
        first = self._stage_one(config).with_values("run", name=config.run.name)
        return [first.with_values("data", threshold=config.data.threshold)]

    def _stage_one(self, config: RunConfig) -> RunConfig:
        """Return the stage 1 that a configuration starts from; an existing version-1 run is reused."""
        if config.dropped("handover"):
            older = version_1_stage_one(config).with_values("run", name="")
            if self.runs.locate(older).path.exists():
                return older
        return stage_one(config).with_values("run", name="")

    def planned_row(self, stages: Sequence[RunConfig]) -> tuple[PlannedRun, ...]:
        """Plan the stages of one row; rows with the same run share the object."""
        planned: list[PlannedRun] = []
        for config in stages:
            is_last = config is stages[-1]
            first = planned[0].run if planned else None
            planned.append(self._plan_run(config, first, discard=self.discard and is_last))
        return tuple(planned)

    def _plan_run(self, config: RunConfig, first: Run | None, *, discard: bool) -> PlannedRun:
        key = (digest_of(config), config.run.stage)
        known = self._planned.get(key)
        if known is not None and set(config.run.seeds) <= set(known.config.run.seeds):
            return known
        run = known.run if known is not None else self.runs.locate(config, discard=discard)
        if known is not None:
            config = config.with_values("run", seeds=(*dict.fromkeys((*known.config.run.seeds, *config.run.seeds)),))
        datasets = [config.data.dataset, *(config.externals if config.needs_pretraining else [])]
        stores = {name: self._store(name) for name in datasets}
        encoder, is_ready = self._encoder(config.model.text_encoder)
        is_there = not discard and status_of(run.path / "result.json") is not None
        left = [seed for seed in config.run.seeds if not is_there or run.seed_result(seed) is None]
        is_complete = is_ready and not any(path in self.missing for path in stores.values())
        data: dict[str, str] = {}
        if is_complete:
            opened = {name: self.shelf.store(path) for name, path in stores.items()}
            for store in opened.values():
                check_labelled(store)
            data = {name: store.content_id for name, store in opened.items()}
            self._mention_scale(list(opened.values()))
            if not discard:
                check_data(run, data, {name: store.score_range for name, store in opened.items()})
        folder = first.path if first is not None else None
        steps = tuple(Step(config, seed, run.path, folder, encoder, stores, data) for seed in left)
        size = None
        if is_complete and steps:
            size = check_network(open_step(steps[0], self.shelf, self.observer, run))
        elif is_complete:
            neutral_score(run.record.score_range, config.data.threshold)
        planned = PlannedRun(config, run, first, steps, discard, data, size)
        self._planned[key] = planned
        return planned

    def _store(self, dataset: str) -> Path:
        path = self.runs.workspace.store(dataset)
        if not self.dry_run:
            return ready_store(self.runs.workspace, dataset, self.observer)
        if status_of(path) is None:
            self.missing[path] = source_of_missing(self.runs.workspace, dataset)
        return path

    def _encoder(self, name: str) -> tuple[str, bool]:
        if self.dry_run and lacks_encoder(self.runs.workspace, name):
            self.lacks_encoder = True
            return self.runs.workspace.encoder(BUILT_IN_ENCODER), False
        return ready_encoder(self.runs.workspace, name, self.observer), True

    def _mention_scale(self, stores: Sequence[FeatureStore]) -> None:
        methods = {store.normalization["method"] for store in stores}
        if len(methods) > 1 and all(store.widths for store in stores):
            scales = [f"{store.path} has frames normalised by {store.normalization['method']}" for store in stores]
            self.observer.say(f"warning: {', '.join(scales)}: prepare all with the same --normalize")
