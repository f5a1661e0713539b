"""Clips as a trained run reads them: some modalities left out, absent in the clips, or damaged.

Axes: N clips.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from conki_cli.config.models import label_of
from conki_cli.config.sections import RunConfig
from conki_cli.data.store.records import Ragged, Utterances
from conki_cli.model.absence import Absence, masked_when_empty, trains_absence, words_of
from conki_cli.model.contract import SentimentModel
from conki_cli.runs import Run
from conki_cli.system.errors import RunError, SettingsError
from conki_cli.system.observer import Observer


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to read some clips."""

    utterances: Utterances
    without: frozenset[str] = frozenset()
    """Modalities that are left out of every clip."""
    has_own_texts: bool = True
    """False if the texts were changed: cached states of the store's texts do not belong to them."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Clips with something for every modality that a network reads, and what is absent."""

    utterances: Utterances
    absence: Absence


def check_can_leave_out(
    config: RunConfig, model: type[SentimentModel] | SentimentModel, names: Collection[str]
) -> None:
    """Refuse to leave out modalities that a model needs of every clip.

    Raises:
        SettingsError: it needs one.
    """
    if needed := words_of([name for name in names if name not in model.optional_modalities]):
        can = words_of(list(model.optional_modalities))
        raise SettingsError(
            f"{label_of(config.model.name)} needs {needed} of every clip and cannot leave it out",
            advice=f"leave out {can.replace('+', ' or ')}" if can else "",
        )


def fit_to(run: Run, model: SentimentModel, reading: Reading, observer: Observer) -> Fitted:
    """Compare clips with what a run reads; a modality that all of them lack is absent, if the model permits it.

    Raises:
        SettingsError: the model needs a modality that is to be left out.
        RunError: the clips lack a modality that the model needs, lack all of them, or have other feature widths.
    """
    check_can_leave_out(run.config, model, reading.without)
    utterances, sizes = reading.utterances, model.architecture
    lacking = [name for name in sizes.modalities if name not in reading.without and _lacks(utterances, name)]
    for name in lacking:
        if name not in model.optional_modalities or len(lacking) + len(reading.without) >= len(sizes.modalities):
            raise _refusal(run, name, sizes.modalities)
    for name, width in sizes.widths.items():
        found = utterances.frames[name].width if name in utterances.frames else width
        if name in sizes.modalities and found != width:
            raise RunError(
                f"run {run.name} reads {name} frames of width {width}, these clips have width {found}",
                advice="extract the same features as in training",
            )
    if lacking:
        never = "" if trains_absence(run.config) else ", which this run never learnt (optimizer.modality_dropout)"
        them = "it" if len(lacking) == 1 else "them"
        observer.say(f"warning: these clips have no {' and no '.join(lacking)}: scored without {them}{never}")
    nothing = {name: _no_frames(len(utterances), sizes.widths[name]) for name in lacking if name != "text"}
    absence = Absence(reading.without | set(lacking), masked_when_empty(run.config, model.optional_modalities))
    return Fitted(replace(utterances, frames={**utterances.frames, **nothing}), absence)


def absent_by_clip(utterances: Utterances, modalities: Sequence[str]) -> list[list[str]]:
    """Return the modalities of a run that each clip lacks: no frames, or no words."""
    lists: list[list[str]] = [[] for _ in utterances.ids]
    for name in modalities:
        for row in np.flatnonzero(_empty(utterances, name)):
            lists[row].append(name)
    return lists


def _empty(utterances: Utterances, name: str) -> np.ndarray:
    """Return which clips lack a modality, [N]."""
    if name == "text":
        return np.array([not text.strip() for text in utterances.texts])
    if name not in utterances.frames:
        return np.ones(len(utterances), dtype=bool)
    empty: np.ndarray = utterances.frames[name].lengths == 0
    return empty


def _lacks(utterances: Utterances, name: str) -> bool:
    """Say whether the clips as a whole lack a modality: no text at all, or no frames in their store."""
    return name not in utterances.frames if name != "text" else bool(_empty(utterances, name).all())


def _no_frames(count: int, width: int) -> Ragged:
    return Ragged(np.zeros((0, width), dtype=np.float32), np.zeros(count + 1, dtype=np.int64))


def _refusal(run: Run, name: str, modalities: Sequence[str]) -> RunError:
    if name == "text":
        return RunError(
            f"run {run.name} reads texts, but none of these clips has a text",
            advice="add them, for example with a label.csv that has video_id, clip_id and text, or train a run without "
            "them (--drop-modality text)",
        )
    return RunError(
        f"run {run.name} was trained on {', '.join(modalities)} but these clips have no {name}",
        advice=f"give a feature store, or train a run without it (--drop-modality {name})",
    )
