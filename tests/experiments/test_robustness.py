"""A finished run on clips that lack modalities or are damaged: conditions, metrics, tables, figures, new clips."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeConfig, Notes, Trained
from run_support import finetune
from typer.testing import CliRunner

from conki_cli.cli import app
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Ragged
from conki_cli.experiments.prediction import predict_new, read_new
from conki_cli.experiments.robustness import conditions_of
from conki_cli.reporting.figures.drawing import draw_figure
from conki_cli.reporting.figures.kinds import Choices
from conki_cli.runs import Run, evaluate_run, read_predictions, write_scores
from conki_cli.system.environment import choose_device
from conki_cli.system.errors import RunError, SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training.inference import predict_readings, predict_utterances
from conki_cli.training.presence import Reading

CPU = choose_device("cpu")


def without(run: Run, *words: str) -> list[frozenset[str]]:
    return [one.without for one in conditions_of(run, Observer(), without=words)]


def evaluated(trained: Trained, *words: str) -> str:
    space = ["--workspace", str(trained.workspace.root)]
    done = CliRunner().invoke(app, ["evaluate", trained.run.name, *words, *space], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_all_subsets_are_the_seven_but_the_whole_and_each_once(trained: Trained) -> None:
    found = conditions_of(trained.run, Observer(), without=["audio"], all_subsets=True)
    labels = ["text+vision", "text+audio", "vision+audio", "text", "vision", "audio"]
    assert [condition.label for condition in found] == labels


def test_the_order_of_what_is_left_out_does_not_matter(trained: Trained) -> None:
    assert without(trained.run, "vision+text", "text+vision") == [frozenset({"text", "vision"})]


@pytest.mark.parametrize("words", ["", "smell", "text+", "text+vision+audio"])
def test_what_is_no_modality_cannot_be_left_out(words: str, trained: Trained) -> None:
    with pytest.raises(SettingsError, match="--without"):
        without(trained.run, words)


def test_the_table_holds_the_run_and_every_condition(trained: Trained) -> None:
    answer = json.loads(evaluated(trained, "--without", "audio", "--corrupt", "vision:drop=0,1", "--json"))
    whole = evaluate_run(trained.run, "test", "all").as_json()
    assert answer["metrics"] == json.loads(json.dumps(whole["metrics"]))
    first, same, gone = answer["conditions"]
    assert (first["without"], first["label"], same["corruptions"]) == (["audio"], "text+vision", ["vision:drop=0"])
    assert same["metrics"]["mae"]["values"] == pytest.approx(whole["metrics"]["mae"]["values"], abs=1e-6)
    assert gone["metrics"]["mae"]["values"] != same["metrics"]["mae"]["values"]


def test_the_table_says_what_its_rows_are_and_that_the_run_never_learnt_it(trained: Trained) -> None:
    shown = " ".join(evaluated(trained, "--without", "text", "--corrupt", "audio:drop=0.5").split())
    assert "audio drop 0.5" in shown
    assert "named by damage: that was done to every clip on purpose, drawn with seed 0" in shown
    assert "this run never learnt to miss a modality" in shown


def test_what_is_left_out_does_not_count_whatever_it_holds(trained: Trained) -> None:
    with FeatureStore(trained.workspace.store("tiny")) as store:
        clips = store.split("test")
        rows = clips.frames["audio"]
        nonsense = Ragged(np.full((rows.offsets[-1], rows.width), np.nan, dtype=np.float32), rows.offsets)
        other = replace(clips, frames={**clips.frames, "audio": nonsense})
        readings = [Reading(one, frozenset({"audio"})) for one in (clips, other)]
        found, same = predict_readings(trained.run, readings, CPU, Observer())
    assert all(np.array_equal(found[seed], same[seed]) for seed in (1, 2))


def test_the_figure_shows_every_amount_from_mild_to_strong(trained: Trained) -> None:
    choices = Choices(corruptions=("audio:noise=0dB,30dB", "text:asr=0.3"), workspace=trained.workspace)
    drawn = draw_figure("robustness", [trained.run], choices=choices)
    assert [len(maes) for maes in drawn.numbers["runs"][0]["mae"]] == [2, 2, 2]
    assert drawn.numbers["corruptions"] == [["audio:noise=0dB"], ["audio:noise=30dB"], ["text:asr=0.3"]]
    assert b"<svg" in drawn.content


# --- new clips ---------------------------------------------------------------------------------------------------


def test_sentences_are_scored_without_the_frames_that_they_lack(trained: Trained, tmp_path: Path) -> None:
    notes = Notes()
    with read_new(["good film"], None) as utterances:
        scored = predict_new(trained.run, utterances, "cpu", notes)
    assert scored["clips"][0]["absent"] == ["vision", "audio"]
    assert any("these clips have no vision and no audio: scored without them, which this" in one for one in notes.lines)
    write_scores(tmp_path / "scores.csv", scored)
    assert (tmp_path / "scores.csv").read_text("utf-8").splitlines()[1].endswith(",vision+audio")


def test_clips_with_nothing_that_the_run_reads_are_refused(trained: Trained) -> None:
    with (
        read_new([" "], None) as utterances,
        pytest.raises(RunError, match="reads texts, but none of these clips has a text"),
    ):
        predict_utterances(trained.run, utterances, CPU)


def test_a_single_clip_without_frames_is_named_and_read_as_in_training(trained: Trained) -> None:
    notes = Notes()
    with FeatureStore(trained.workspace.store("tiny")) as store:
        clips = store.split("test")
        scored = predict_new(trained.run, clips, "cpu", notes)
    assert [clip["absent"] for clip in scored["clips"][:2]] == [["vision", "audio"], []]
    assert any("1 without vision, 1 without audio" in line for line in notes.lines)
    stored = read_predictions(trained.run.predictions_path(1, "test")).predictions
    assert [clip["by_seed"]["1"] for clip in scored["clips"]] == pytest.approx(stored.tolist(), abs=1e-6)


def test_a_run_trained_with_dropout_leaves_out_what_a_clip_lacks(workspace: Workspace, tiny_config: MakeConfig) -> None:
    lines = ("optimizer.modality_dropout=0.5", "optimizer.num_epochs=1", "pretraining.num_epochs=1")
    run = finetune(tiny_config("", *lines), workspace)
    with FeatureStore(workspace.store("tiny")) as store:
        clips = store.split("test")
        own, alone = predict_readings(
            run, [Reading(clips), Reading(clips, frozenset({"vision", "audio"}))], CPU, Observer()
        )
    assert own[1][0] == pytest.approx(alone[1][0], abs=1e-6)
    assert own[1][1] != pytest.approx(alone[1][1], abs=1e-6)
