"""Scores for splits and new clips from trained runs."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conki_cli import MODALITIES
from conki_cli.data.preparation import is_raw, prepare_to_score
from conki_cli.data.sources.characters import repair
from conki_cli.data.sources.labels import read_texts
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import SCORED, Utterances
from conki_cli.datasets import is_generated
from conki_cli.experiments.opening import open_store
from conki_cli.model.absence import trains_absence
from conki_cli.runs import Predictions, Run, clips_of, in_training_scale, write_predictions
from conki_cli.system.environment import choose_device
from conki_cli.system.errors import RunError, SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training.inference import modalities_of, predict_utterances
from conki_cli.training.presence import absent_by_clip


def predict_split(run: Run, split: str, workspace: Workspace, observer: Observer) -> None:
    """Predict a split for which a finished run has no stored predictions, such as the training split.

    Raises:
        RunError: it is a stage-1 run, which predicts only its validation split, or the store differs from the run's.
    """
    if run.record.stage != "finetune":
        raise RunError(
            f"{run.name} is a stage-1 run, which predicts only validation clips", advice="give --split valid"
        )
    with opened_split(run, split, workspace, observer) as (store, clips):
        scores = np.asarray(clips.scores, dtype=np.float32)
        split_of = (store, split, workspace.states)
        found = predict_utterances(run, clips, choose_device("auto"), observer, split_of=split_of)
        for seed, predictions in found.items():
            write_predictions(run.predictions_path(seed, split), Predictions(clips.ids, scores, predictions))


@contextlib.contextmanager
def opened_split(
    run: Run, split: str, workspace: Workspace, observer: Observer
) -> Iterator[tuple[FeatureStore, Utterances]]:
    """Open the store that a run was trained on, and the clips of a split that the run uses.

    Raises:
        RunError: the store differs from the run's.
    """
    with open_store(workspace, run.config.data.dataset, observer) as store:
        yield store, clips_of(run, store, split)


@contextlib.contextmanager
def read_new(
    texts: Sequence[str] | None,
    source: Path | None,
    store: Path | None = None,
    split: str | None = None,
    observer: Observer | None = None,
    *,
    scaled: Callable[[FeatureStore, Utterances], Utterances] = lambda store, clips: clips,
) -> Iterator[Utterances]:
    """Open utterances to score: sentences, a table with texts, or a split of a feature store, `scaled`.

    The default is the test split, or all clips of a store without scores. Texts of sentences and tables are repaired
    as by `conki prepare`; the observer is notified.
    """
    if store is not None:
        with FeatureStore(store) as opened:
            if opened.is_unlabelled and split is not None:
                raise SettingsError(
                    f"{store} holds clips without scores and splits", advice=f"leave out --split {split}"
                )
            yield scaled(opened, opened.split(split or SCORED))
    elif source is not None:
        yield _with_repaired_texts(read_texts(source), observer)
    else:
        lines = list(texts or [])
        if any("\ud800" <= character <= "\udfff" for line in lines for character in line):
            raise SettingsError("--text must be UTF-8 but is not", advice="check the terminal's encoding")
        numbers = [str(number) for number in range(1, len(lines) + 1)]
        yield _with_repaired_texts(Utterances(numbers, lines, None, {}, {}), observer)


def _with_repaired_texts(utterances: Utterances, observer: Observer | None) -> Utterances:
    done = repair(utterances.texts)
    if observer is not None:
        for line in (*done.remarks(), *(f"warning: {warning}" for warning in done.warnings())):
            observer.say(line)
    return replace(utterances, texts=done.texts)


@contextlib.contextmanager
def open_clips(
    run: Run, path: Path, split: str | None, workspace: Workspace, observer: Observer
) -> Iterator[Utterances]:
    """Open new clips in a run's training scale.

    Args:
        run: the run that scores them.
        path: a feature store, or a raw file or folder, which is prepared into a temporary store without scores.
        split: split of a store with scores; None: its test split.
        workspace: the folder of the training store, which runs of older versions need.
        observer: receives warnings.

    Raises:
        ConkiError: the file cannot be read, or its frames cannot be converted to that scale.
    """

    def scaled(store: FeatureStore, clips: Utterances) -> Utterances:
        return in_training_scale(run, store, clips, workspace, observer)

    with contextlib.ExitStack() as stack:
        place = path
        if is_raw(path):
            if split is not None:
                raise SettingsError(
                    f"{path} is read as clips without scores and splits", advice=f"leave out --split {split}"
                )
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conki-")))
            place = folder / "clips.h5"
            dataset = run.config.data.dataset
            prepare_to_score(path, "new-clips" if is_generated(dataset) else dataset, place, observer)
        yield stack.enter_context(read_new(None, None, place, split, scaled=scaled))


def predict_new(run: Run, utterances: Utterances, device: str, observer: Observer | None = None) -> dict[str, Any]:
    """Score new utterances with every finished seed of a run.

    Returns:
        {"run", "seeds", "score_range", "clips": [{"id", "text", "prediction": mean, "by_seed": {seed: score},
        "absent": modalities of the run that the clip lacks}]}.
    """
    observer = observer or Observer()
    by_seed = predict_utterances(run, utterances, choose_device(device), observer)
    absent = absent_by_clip(utterances, modalities_of(run, next(iter(by_seed))))
    if any(absent) and not trains_absence(run.config):
        _mention_zero_frames(run, utterances, absent, observer)
    means = np.mean([values.astype(np.float64) for values in by_seed.values()], axis=0)
    clips = [
        {
            "id": identity,
            "text": text,
            "prediction": float(mean),
            "by_seed": {str(seed): float(values[row]) for seed, values in by_seed.items()},
            "absent": absent[row],
        }
        for row, (identity, text, mean) in enumerate(zip(utterances.ids, utterances.texts, means, strict=True))
    ]
    return {"run": run.name, "seeds": list(by_seed), "score_range": list(run.record.score_range), "clips": clips}


def _mention_zero_frames(run: Run, utterances: Utterances, absent: Sequence[Sequence[str]], observer: Observer) -> None:
    """Say how a run that was not trained for it reads single clips without frames or words."""
    names = [name for name in MODALITIES if name == "text" or name in utterances.frames]
    counts = {name: sum(name in one for one in absent) for name in names}
    if shown := ", ".join(f"{count} without {name}" for name, count in counts.items() if 0 < count < len(utterances)):
        observer.say(
            f"warning: of these clips {shown}: {run.name} reads that as one frame of zeros, or as no word, as in its "
            "training; a run trained with --set optimizer.modality_dropout=0.3 leaves it out"
        )
