"""A finished run on clips that lack modalities, or that are damaged on purpose: the conditions, and their metrics."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conki_cli import MODALITIES
from conki_cli.config.models import label_of
from conki_cli.data.store.damage import Corruption, corrupted, parse_corruptions
from conki_cli.data.store.records import Utterances
from conki_cli.experiments.prediction import opened_split
from conki_cli.model import zoo
from conki_cli.model.absence import words_of
from conki_cli.runs import Evaluation, Predictions, Run, evaluate_predictions
from conki_cli.system.environment import choose_device
from conki_cli.system.errors import RunError, SettingsError, one_line
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training.inference import modalities_of, predict_readings
from conki_cli.training.presence import Reading, check_can_leave_out


@dataclass(frozen=True)
class Condition:
    """What the clips of a split lack, or how they are damaged."""

    label: str
    without: frozenset[str] = frozenset()
    corruptions: tuple[Corruption, ...] = ()

    @property
    def damages_text(self) -> bool:
        """Whether the texts are changed."""
        return any(one.modality == "text" for one in self.corruptions)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        lacking = [name for name in MODALITIES if name in self.without]
        return {"label": self.label, "without": lacking, "corruptions": [one.spec for one in self.corruptions]}


def conditions_of(
    run: Run,
    observer: Observer,
    *,
    without: Sequence[str] = (),
    all_subsets: bool = False,
    corrupt: Sequence[str] = (),
) -> list[Condition]:
    """Return the conditions that were asked for, in their order; each once.

    Args:
        run: a finished run.
        observer: is told of subsets that the model cannot read.
        without: modalities to leave out, joined by +, one condition each.
        all_subsets: every proper subset of the run's modalities that its model can read, the large ones first.
        corrupt: damage, see `parse_corruptions`.

    Raises:
        SettingsError: a condition names something else, nothing remains, or the model needs what is to be left out.
        RunError: the run is not fine-tuned, or not finished.
    """
    modalities = _modalities(run)
    asked = [_left_out(text, modalities) for text in without]
    model = zoo.model_class(run.config.model.name)
    if all_subsets:
        sizes = range(1, len(modalities))
        smaller = (frozenset(part) for size in sizes for part in itertools.combinations(reversed(modalities), size))
        asked += [part for part in smaller if part <= model.optional_modalities]
        if needed := words_of([name for name in modalities if name not in model.optional_modalities]):
            label = label_of(run.config.model.name)
            observer.say(f"{label} needs {needed} of every clip: subsets without it are not shown")
    for part in asked:
        check_can_leave_out(run.config, model, part)
    found = [Condition(words_of([n for n in modalities if n not in part]), part) for part in dict.fromkeys(asked)]
    damages = dict.fromkeys(one for text in corrupt for one in parse_corruptions(text))
    for damage in damages:
        if missing := [one.modality for one in damage if one.modality not in modalities]:
            raise SettingsError(
                f"--corrupt damages {missing[0]}, but {run.name} reads only {', '.join(modalities)}",
                advice="leave it out",
            )
    return [*found, *(Condition(" + ".join(one.words for one in damage), corruptions=damage) for damage in damages)]


def _modalities(run: Run) -> tuple[str, ...]:
    if run.record.stage != "finetune":
        raise RunError(
            f"{run.name} is a stage-1 run, which hands over adapters and cannot predict", advice="name a fine-tuned run"
        )
    finished = run.finished_seeds()
    if not finished:
        raise RunError(f"run {run.name} has no finished seed", "run the command that started it again to resume it")
    return modalities_of(run, finished[0])


def _left_out(text: str, modalities: Sequence[str]) -> frozenset[str]:
    names = text.split("+")
    if unknown := [name for name in names if name not in modalities]:
        raise SettingsError(
            f"--without takes modalities of the run ({', '.join(modalities)}), joined by +; "
            f"found '{one_line(unknown[0])[:40]}'"
        )
    if len(set(names)) == len(modalities):
        raise SettingsError(f"--without {one_line(text)[:80]} leaves nothing to read", advice="keep one modality")
    return frozenset(names)


def measure(
    run: Run,
    conditions: Sequence[Condition],
    split: str,
    workspace: Workspace,
    observer: Observer,
    *,
    protocol: str = "all",
    threshold: float | None = None,
    seed: int = 0,
) -> list[Evaluation]:
    """Predict a split under every condition, with every finished seed, and measure the predictions.

    Args:
        run: a finished run.
        conditions: see `conditions_of`.
        split: the split.
        workspace: where the store of the run lies.
        observer: receives the progress.
        protocol: see `metrics.sentiment_metrics`.
        threshold: the score that separates two classes, instead of the run's.
        seed: of the damage.

    Raises:
        ConkiError: the run or its store is missing or damaged.
    """

    def reading(clips: Utterances, condition: Condition) -> Reading:
        damaged = corrupted(clips, condition.corruptions, seed)
        return Reading(damaged, condition.without, has_own_texts=not condition.damages_text)

    with opened_split(run, split, workspace, observer) as (store, clips):
        scores = np.asarray(clips.scores, dtype=np.float32)
        readings = [reading(clips, condition) for condition in conditions]
        split_of = (store, split, workspace.states)
        found = predict_readings(run, readings, choose_device("auto"), observer, split_of=split_of)
        stored = [{s: Predictions(clips.ids, scores, values) for s, values in one.items()} for one in found]
    return [evaluate_predictions(run, split, protocol, one, threshold=threshold) for one in stored]
