"""The scale of a run's training frames, and the conversion of new clips to it.

`normalization.json` in the run folder holds the method (none or zscore) and, for z-scores, mean and deviation of every
column over the training split. Runs of older versions do not have this file.

Axes: T frames, L frames of a clip, d features per frame.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.config.switches import MODALITY_SWITCHES
from conki_cli.data.store.arrays import FileArray
from conki_cli.data.store.moments import standardize
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Utterances
from conki_cli.runs.folders import Run, check_is_file
from conki_cli.system.errors import RunError
from conki_cli.system.files import read_json, write_json
from conki_cli.system.findings import Finding, attempt, fault
from conki_cli.system.observer import Observer
from conki_cli.system.readable import obstacle_at, status_of
from conki_cli.system.workspace import Workspace

_Columns = npt.NDArray[np.float64]
_FILE = "normalization.json"


@dataclass(frozen=True, eq=False)
class Scale:
    """The modalities with frames of a training store and, for z-scores, mean and divisor of every column, [d] each."""

    modalities: tuple[str, ...]
    columns: Mapping[str, tuple[_Columns, _Columns]]


@dataclass(frozen=True, eq=False)
class _Standardized:
    """Frames [T, d] that are converted to z-scores when they are read."""

    values: Any
    mean: _Columns
    divisor: _Columns

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.values.shape
        return shape

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float32]:
        """Read contiguous rows, [rows, d], as `conki prepare --normalize zscore` would have written them."""
        frames = np.array(self.values[rows], dtype=np.float32)
        if isinstance(self.values, FileArray):
            self.values.file.check_unchanged()
        if np.isfinite(frames).all():  # otherwise the caller raises an error that names the clip
            standardize(frames, self.mean, self.divisor)
            np.nan_to_num(frames, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return frames


def write_scale(run: Run, store: FeatureStore) -> None:
    """Write the scale of a training store into its run, unless it is already there."""
    if status_of(run.path / _FILE) is not None:
        return
    method, constant = store.normalization["method"], store.normalization.get("constant_columns", {})
    columns = {
        modality: {"mean": mean.tolist(), "sd": sd.tolist(), "constant_columns": constant.get(modality, [])}
        for modality, (mean, sd) in store.moments.items()
    }
    write_json(run.path / _FILE, {"method": method, "modalities": list(store.widths), "columns": columns})


def read_scale(run: Run) -> Scale | None:
    """Return the scale that is stored in a run; None if an older version trained the run.

    Raises:
        RunError: the file does not describe a scale.
        ConkiError: the file cannot be read.
    """
    path = run.path / _FILE
    check_is_file(path)
    if status_of(path) is None:
        return None
    found = read_json(path)
    try:
        modalities = tuple(str(name) for name in found["modalities"])
        columns = {str(m): _columns(c["mean"], c["sd"], c["constant_columns"]) for m, c in found["columns"].items()}
        if set(columns) != {"none": set(), "zscore": set(modalities)}[found["method"]]:
            raise ValueError
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RunError(
            f"{path} must say how the training frames were normalised but does not",
            "restore it, or delete it and leave the training store where it is",
        ) from error
    return Scale(modalities, columns)


def verify_scale(run: Run) -> Iterator[Finding]:
    """Verify what says how the training frames were normalised, where a run has it."""
    error = attempt(read_scale, run)[1]
    if error is not None:
        advice = "restore it, or delete it and keep the training store at its place: new clips are scored with either"
        yield fault(run.path / _FILE, error, run.path / _FILE, advice)


def _columns(mean: Any, sd: Any, constant: Any) -> tuple[_Columns, _Columns]:
    """Return mean and divisor of every column, [d] each; constant columns are only centred."""
    centre, divisor = (np.array(values, dtype=np.float64) for values in (mean, sd))
    divisor[list(constant)] = 1.0
    if centre.ndim != 1 or centre.shape != divisor.shape or not np.isfinite([centre, divisor]).all():
        raise ValueError
    if (divisor <= 0).any():
        raise ValueError
    return centre, divisor


def _scale_of(store: FeatureStore) -> Scale:
    constant = store.normalization.get("constant_columns", {})
    columns = {m: _columns(mean, sd, constant.get(m, [])) for m, (mean, sd) in store.moments.items()}
    return Scale(tuple(store.widths), columns)


def in_training_scale(
    run: Run, store: FeatureStore, clips: Utterances, workspace: Workspace, observer: Observer
) -> Utterances:
    """Return clips of a store with their frames in a run's training scale.

    Raw frames become z-scores by the training statistics; frames of the training store itself are not changed.

    Raises:
        RunError: the store has z-scores by its own statistics, which cannot be converted to another scale.
    """
    dataset = run.config.data.dataset
    used = [name for name in clips.frames if MODALITY_SWITCHES[name] not in run.config.model.drop]
    if not used or store.content_id == run.record.data.get(dataset):
        return clips
    scale = read_scale(run) or _scale_of_training_store(run, workspace)
    if scale is None:
        _warn(run, store, observer)
        return clips
    used = [name for name in used if name in scale.modalities]
    if store.moments and used:
        own = _scale_of(store)
        if not all(_are_equal(scale.columns.get(name), own.columns[name]) for name in used):
            how = "raw frames" if not scale.columns else f"frames in the z-scores of {dataset}"
            then = "; the run converts them to its own scale" if scale.columns else ""
            raise RunError(
                f"{store.path} has z-scores by its own statistics and run {run.name} was trained on {how}",
                f"prepare the new clips without --normalize{then}",
            )
        return clips
    if not scale.columns:
        return clips
    frames = {name: ragged for name, ragged in clips.frames.items() if name not in used}
    for name in used:
        observer.say(f"{name} of {store.source['name']}: z-scores by the statistics of {dataset}, as in training")
        ragged = clips.frames[name]
        if (width := len(scale.columns[name][0])) != ragged.width:
            raise RunError(
                f"run {run.name} was trained with {width} features of {name} ({_FILE}), the clips have {ragged.width}",
                "give clips of the same extractor, or restore that file",
            )
        frames[name] = replace(ragged, values=_Standardized(ragged.values, *scale.columns[name]))
    return replace(clips, frames=frames)


def _are_equal(one: tuple[_Columns, _Columns] | None, other: tuple[_Columns, _Columns]) -> bool:
    return one is not None and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _scale_of_training_store(run: Run, workspace: Workspace) -> Scale | None:
    """Return the scale of the store that an older run was trained on, if the store still exists."""
    dataset = run.config.data.dataset
    path = workspace.store(dataset)
    if status_of(path) is None or obstacle_at(path):
        return None
    with FeatureStore(path) as store:
        return _scale_of(store) if store.content_id == run.record.data.get(dataset) else None


def _warn(run: Run, store: FeatureStore, observer: Observer) -> None:
    observer.say(
        f"warning: run {run.name}, of an older version, does not say how its training frames were normalised, and its "
        f"training store is missing; the frames of {store.path} (normalisation: {store.normalization['method']}) are "
        "used unchanged: if training used --normalize zscore, restore that store or train the run again"
    )
