"""New clips in the scale of training: the moments are those of the run, whatever the store of the clips says."""

from pathlib import Path

import numpy as np
import pytest
from conftest import MakeConfig, Notes, make_corpus
from run_support import finetune

from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.writing import write_store
from conki_cli.doctor import examine_named
from conki_cli.experiments.prediction import open_clips, predict_new, predict_split
from conki_cli.runs import Run, read_predictions, read_scale
from conki_cli.system.errors import ConkiError, RunError
from conki_cli.system.files import read_json, write_json
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

QUICK = ("data.external=none", "optimizer.num_epochs=1", "run.cache=off")
SIZES = (13, 6, 6)


@pytest.fixture
def scaled(workspace: Workspace, tiny_config: MakeConfig) -> tuple[Workspace, Run]:
    """A run that was trained on z-scores, with its training store."""
    write_store(workspace.store("tiny"), make_corpus("tiny", SIZES, seed=1, longest=6), normalize="zscore")
    return workspace, finetune(tiny_config("C1+T", *QUICK), workspace, Observer())


def scores(run: Run, store: Path, workspace: Workspace, notes: Observer | None = None) -> list[float]:
    with open_clips(run, store, None, workspace, notes or Observer()) as clips:
        return [clip["prediction"] for clip in predict_new(run, clips, "cpu")["clips"]]


def test_raw_clips_get_the_moments_of_training_and_so_the_same_scores(scaled: tuple[Workspace, Run]) -> None:
    workspace, run = scaled
    raw = workspace.root / "raw.h5"
    write_store(raw, make_corpus("tiny", SIZES, seed=1, longest=6))
    workspace.store("tiny").unlink()  # the run alone knows the moments
    assert scores(run, raw, workspace) == [
        float(p) for p in read_predictions(run.predictions_path(1, "test")).predictions
    ]


def test_a_scale_of_other_columns_is_refused(scaled: tuple[Workspace, Run]) -> None:
    workspace, run = scaled
    raw = workspace.root / "raw.h5"
    write_store(raw, make_corpus("tiny", SIZES, seed=1, longest=6))
    path = run.path / "normalization.json"
    found = read_json(path)
    one = {"mean": [0.0], "sd": [1.0], "constant_columns": []}
    write_json(path, {**found, "columns": {**found["columns"], "vision": one}})
    with pytest.raises(RunError, match="was trained with 1 features of vision"):
        scores(run, raw, workspace)


def test_the_training_store_itself_stays_as_it_is(scaled: tuple[Workspace, Run]) -> None:
    workspace, run = scaled
    stored = read_predictions(run.predictions_path(1, "test")).predictions
    assert scores(run, workspace.store("tiny"), workspace) == [float(p) for p in stored]
    predict_split(run, "train", workspace, Observer())
    assert run.predictions_exist("train")


def test_z_scores_of_another_store_are_refused(scaled: tuple[Workspace, Run]) -> None:
    workspace, run = scaled
    other = workspace.root / "room.h5"
    write_store(other, make_corpus("tiny", SIZES, seed=9, longest=6), normalize="zscore")
    with pytest.raises(RunError, match=r"z-scores by its own statistics.*without --normalize") as error:
        scores(run, other, workspace)
    assert "\n" not in str(error.value)


def test_z_scores_are_refused_by_a_run_of_raw_frames_too(workspace: Workspace, tiny_config: MakeConfig) -> None:
    run = finetune(tiny_config("C1+T", *QUICK), workspace, Observer())
    other = workspace.root / "room.h5"
    write_store(other, make_corpus("tiny", SIZES, seed=1, longest=6), normalize="zscore")
    with pytest.raises(RunError, match="trained on raw frames"):
        scores(run, other, workspace)
    write_store(other, make_corpus("tiny", SIZES, seed=1, longest=6))
    assert scores(run, other, workspace)


def test_a_run_that_reads_no_frames_takes_any_store(workspace: Workspace, tiny_config: MakeConfig) -> None:
    run = finetune(tiny_config("C1+V+A", *QUICK), workspace, Observer())
    other = workspace.root / "room.h5"
    write_store(other, make_corpus("tiny", SIZES, seed=9, longest=6), normalize="zscore")
    assert len(scores(run, other, workspace)) == 6


def test_an_older_run_takes_the_moments_of_its_store_or_warns(scaled: tuple[Workspace, Run]) -> None:
    workspace, run = scaled
    expected = [float(p) for p in read_predictions(run.predictions_path(1, "test")).predictions]
    (run.path / "normalization.json").unlink()
    raw, notes = workspace.root / "raw.h5", Notes()
    write_store(raw, make_corpus("tiny", SIZES, seed=1, longest=6))
    assert scores(run, raw, workspace, notes) == expected
    assert not any(line.startswith("warning") for line in notes.lines)
    workspace.store("tiny").unlink()
    scores(run, raw, workspace, notes)
    assert "restore that store or train the run again" in notes.lines[-1]


def test_the_moments_in_a_run_are_those_of_its_store_to_the_last_bit(scaled: tuple[Workspace, Run]) -> None:
    workspace, run = scaled
    scale = read_scale(run)
    assert scale is not None
    with FeatureStore(workspace.store("tiny")) as store:
        for modality, (mean, sd) in store.moments.items():
            np.testing.assert_array_equal(scale.columns[modality][0], mean)
            np.testing.assert_array_equal(scale.columns[modality][1], np.where(sd == 0, 1, sd))


@pytest.mark.parametrize("text", ["{}", '{"method": "zscore", "modalities": ["audio"], "columns": {}}', "x"])
def test_a_damaged_scale_is_one_line(text: str, scaled: tuple[Workspace, Run]) -> None:
    _, run = scaled
    assert read_json(run.path / "normalization.json")["method"] == "zscore"
    (run.path / "normalization.json").write_text(text)
    with pytest.raises(ConkiError, match="normalization") as error:
        read_scale(run)
    assert "\n" not in str(error.value)


def test_the_doctor_finds_a_damaged_scale(scaled: tuple[Workspace, Run]) -> None:
    workspace, run = scaled
    (run.path / "normalization.json").write_text("{}")
    found = examine_named(run.name, workspace.store("x"), workspace, Observer())
    assert [f.severity for f in found if f.subject.endswith("normalization.json")] == ["fault"]
