"""Typed results: the result.json of a run and of each seed, and the metrics of a run on a split."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from conki_cli import __version__
from conki_cli.metrics.summaries import Summary
from conki_cli.system.errors import Kind, RunError

RUN_SCHEMA = 1

Metrics = Mapping[str, float]
"""Metrics by name."""


@dataclass(frozen=True)
class Constant:
    """A constant prediction and its metrics on one split."""

    score: float
    metrics: Metrics

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {"score": self.score, "metrics": dict(self.metrics)}


@dataclass(frozen=True)
class Median:
    """The best constant prediction, which is the median of the training scores, and its metrics."""

    score: float
    metrics: Mapping[str, Metrics]
    """Metrics by split."""

    def as_json(self) -> dict[str, Any]:
        """Return its entry in a result.json."""
        return {"score": self.score, "metrics": dict(self.metrics)}


@dataclass(frozen=True)
class RunRecord:
    """The content of the result.json of a run folder."""

    stage: str
    """pretrain or finetune."""
    digest: str
    """Digest of everything in the configuration that changes what is learnt."""
    dataset: str
    """The data set whose scores the run learns: in stage 1 the external one."""
    label: str
    data: Mapping[str, str]
    """Content id of every store that the run reads, by data set."""
    score_range: tuple[float, float]
    """Range of the scores that the run learns."""
    seeds: tuple[int, ...]
    """All requested seeds."""
    state: str
    """finished or unfinished."""
    metrics: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)
    """Metrics over the finished seeds, by split and name."""
    median: Median | None = None
    """Median of the training scores; runs of version 1 did not store it."""
    score_ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Score range of every store that the run trains on, by data set: content ids do not cover it; older runs did not
    store it."""
    conki: str = __version__
    rest: Mapping[str, Any] = field(default_factory=dict)
    """Keys that this version does not know; preserved when the file is written again."""

    @classmethod
    def from_json(cls, found: object, path: Path) -> Self:
        """Check and convert the content of a result.json.

        Raises:
            RunError: it has a newer schema, or does not describe a run.
        """
        known: dict[str, Any] = dict(found) if isinstance(found, dict) else {}
        schema = known.pop("schema", None)
        if isinstance(schema, int) and schema > RUN_SCHEMA:
            raise RunError(
                f"run {path.parent.name} has schema {schema}, this conki {__version__} knows up to {RUN_SCHEMA}",
                "install a newer conki",
                kind=Kind.NEWER,
            )
        if not isinstance(schema, int) or not _describes_run(known):
            raise RunError(
                f"{path} must describe a run but does not", "restore it or delete the run folder", kind=Kind.DAMAGED
            )
        own = {one.name for one in fields(cls)} - {"rest"}
        low, high = known.pop("score_range")
        known |= {"seeds": tuple(known["seeds"]), "conki": str(known.get("conki", ""))}
        known |= {"median": _median_of(known.get("median")), "score_ranges": _ranges_of(known.get("score_ranges"))}
        rest = {key: known.pop(key) for key in [*known] if key not in own}
        return cls(score_range=(low, high), rest=rest, **known)

    def as_json(self) -> dict[str, Any]:
        """Return the content of result.json."""
        listed = {
            "schema": RUN_SCHEMA,
            "conki": self.conki,
            "stage": self.stage,
            "digest": self.digest,
            "dataset": self.dataset,
            "label": self.label,
            "data": dict(self.data),
            "score_range": list(self.score_range),
            "seeds": list(self.seeds),
            "state": self.state,
        }
        ranges = {name: list(limits) for name, limits in self.score_ranges.items()}
        later = {
            "score_ranges": ranges,
            "metrics": self.metrics,
            "median": self.median and self.median.as_json(),
        }
        return {**listed, **self.rest, **{key: value for key, value in later.items() if value}}


@dataclass(frozen=True)
class SeedResult:
    """The content of the result.json of a trained seed."""

    seed: int
    best_epoch: int
    epochs: int
    """Number of epochs trained."""
    seconds: float
    """Seconds of training over all starts of the program."""
    metrics: Mapping[str, Metrics]
    """Metrics by split; null in the file is None here."""
    cache: str = "off"
    """How a frozen text encoder's states were cached: fp32, fp16 or off."""
    stage_1: str | None = None
    """Name of the stage-1 run that it started from."""
    threshold: float | None = None
    """Threshold between the two classes."""
    has_threshold: bool = True
    """False in results of older versions, which used 0 for any range of scores."""
    cut: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Sequences that were longer than the limit, by split and modality."""
    texts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Tokens, unknown ones and truncated texts, by split."""
    parameters: Mapping[str, int] = field(default_factory=dict)
    """all, trained."""
    median: Median | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)
    """Keys that this version does not know."""

    @classmethod
    def from_json(cls, found: object, path: Path) -> Self:
        """Check and convert the content of a seed's result.json.

        Raises:
            RunError: it does not describe a trained seed.
        """
        if not isinstance(found, dict) or not _has_metrics(found) or not _describes_training(found):
            raise RunError(
                f"{path} must describe a trained seed but does not",
                "restore it, or delete this file and train that seed: the file is written again from its checkpoints",
                kind=Kind.DAMAGED,
            )
        own = {one.name for one in fields(cls)} - {"rest", "has_threshold"}
        known = {key: value for key, value in found.items() if key in own}
        known |= {"has_threshold": "threshold" in found, "median": _median_of(found.get("median"))}
        for key, value in (("seed", -1), ("best_epoch", 0), ("epochs", 0), ("seconds", 0.0)):
            known[key] = value if (said := known.get(key)) is None else said
        return cls(**known, rest={key: value for key, value in found.items() if key not in own})

    def as_json(self) -> dict[str, Any]:
        """Return the content of result.json."""
        return {
            "seed": self.seed,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "cache": self.cache,
            **({"threshold": self.threshold} if self.has_threshold else {}),
            "stage_1": self.stage_1,
            "cut": self.cut,
            "texts": self.texts,
            "parameters": self.parameters,
            "metrics": self.metrics,
            **({"median": self.median.as_json()} if self.median is not None else {}),
            **self.rest,
        }

    def measured(self, metrics: Mapping[str, Metrics], threshold: float | None, median: Median | None) -> "SeedResult":
        """Return this result with metrics at another threshold."""
        return replace(self, metrics=metrics, threshold=threshold, has_threshold=True, median=median)


def _describes_run(found: Mapping[str, Any]) -> bool:
    """Say whether a run's result.json has what every run has, and metrics over seeds by split and name, if any."""
    kinds: dict[str, type] = {"stage": str, "digest": str, "dataset": str, "label": str, "data": dict}
    kinds |= {"score_range": list, "seeds": list, "state": str}
    if not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        return False
    splits, ends = found.get("metrics", {}), found["score_range"]
    parts = [*splits.values()] if isinstance(splits, dict) else [None]
    return (
        all(isinstance(seed, int) for seed in found["seeds"])
        and len(ends) == 2
        and all(isinstance(end, float | int) for end in ends)
        and all(isinstance(part, dict) and all(map(_is_summary, part.values())) for part in parts)
    )


def _describes_training(found: Mapping[str, Any]) -> bool:
    """Say whether what a seed's result.json says of its training is of the right kind, where it says it."""
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys(("seed", "best_epoch", "epochs"), (int,))
    kinds |= {"seconds": (float, int), "threshold": (float, int), "cache": (str,), "stage_1": (str,)}
    kinds |= dict.fromkeys(("cut", "texts", "parameters"), (dict,))
    if not all(found.get(key) is None or isinstance(found[key], kind) for key, kind in kinds.items()):
        return False
    counts = [found.get("parameters") or {}, *(found.get("cut") or {}).values(), *(found.get("texts") or {}).values()]
    return all(isinstance(part, dict) and all(isinstance(v, float | int) for v in part.values()) for part in counts)


def _is_summary(found: object) -> bool:
    """Say whether this is a metric over seeds: numbers, or null where it is undefined."""
    values = found.get("values") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(values, list) or not {"mean", "std"} <= found.keys():
        return False
    return all(isinstance(value, float | int | None) for value in (found["mean"], found["std"], *values))


def _has_metrics(found: Mapping[str, Any]) -> bool:
    """Say whether a seed's result.json, or the median in it, has metrics by split, each a number or null."""
    splits = found.get("metrics")
    metrics = list(splits.values()) if isinstance(splits, dict) else [None]
    values = [value for part in metrics if isinstance(part, dict) for value in part.values()]
    return all(isinstance(part, dict) for part in metrics) and all(isinstance(v, float | int | None) for v in values)


def _ranges_of(found: object) -> dict[str, list[float]]:
    """Return the score ranges of stores; what is not a range is ignored."""
    pairs = found.items() if isinstance(found, Mapping) else ()
    lists = {name: limits for name, limits in pairs if isinstance(limits, list) and len(limits) == 2}
    return {name: limits for name, limits in lists.items() if all(isinstance(end, float | int) for end in limits)}


def _median_of(found: object) -> Median | None:
    if not isinstance(found, Mapping) or not _has_metrics(found):
        return None
    score = found.get("score")
    return Median(float(score) if isinstance(score, float | int) else math.nan, found["metrics"])


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a run on a split, over some of its finished seeds; `conki evaluate --json` prints this."""

    run: str
    dataset: str
    split: str
    protocol: str
    threshold: float | None
    """The score that separates two classes; None if the scores do not have two classes."""
    n: int
    """Clips."""
    seeds: Sequence[int]
    metrics: Mapping[str, Summary]
    """Metrics by name; undefined values are nan."""
    undefined: Mapping[str, str]
    """Why a metric is undefined, by its name."""
    median: Constant | None
    """The best constant on this split; None for runs of version 1."""
    warnings: Sequence[str]
    predictions: Sequence[str]
    """Paths of the stored predictions, by seed."""
    n_nonzero: int | None = None
    """Clips whose score is not neutral, where the protocol counts them."""
    mean_prediction: Mapping[str, float] | None = None
    """Metrics of each clip's mean prediction over the seeds, which `conki predict` gives; None with one seed."""

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        counts = {"n": self.n} | ({} if self.n_nonzero is None else {"n_nonzero": self.n_nonzero})
        listed = {key: getattr(self, key) for key in ("run", "dataset", "split", "protocol", "threshold")}
        rest = {key: getattr(self, key) for key in ("seeds", "metrics", "undefined", "warnings", "predictions")}
        rest["mean_prediction"] = self.mean_prediction
        return {**listed, **counts, **rest, "median": self.median and self.median.as_json()}
