"""Clips to be scored: no label, no split, any format; a store of them is scored and never trained on."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeConfig, Trained, make_corpus
from run_support import finetune

from conki_cli.data.preparation import Preparation, prepare
from conki_cli.data.sources.request import Options
from conki_cli.data.store.content import content_of
from conki_cli.data.store.describing import compare_stores, describe, describe_clip
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.writing import write_store
from conki_cli.doctor import examine_named
from conki_cli.experiments.prediction import open_clips, predict_new
from conki_cli.system.errors import SettingsError, SourceError, StoreError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

CLIPS = ["a$_$1", "a$_$2", "b$_$1"]


def frames(width: int) -> list[np.ndarray]:
    return [np.full((k + 2, width), k + 1.0) for k in range(3)]


def padded(width: int) -> np.ndarray:
    return np.stack([np.concatenate([clip, np.zeros((4 - len(clip), width))]) for clip in frames(width)])


def table(folder: Path) -> Path:
    rows = [f"{clip.replace('$_$', ',')},good film {k}" for k, clip in enumerate(CLIPS)]
    (folder / "clips.csv").write_text("\n".join(["video_id,clip_id,text", *rows]))
    return folder / "clips.csv"


def pickled(folder: Path, content: Any) -> Path:
    (folder / "clips.pkl").write_bytes(pickle.dumps(content))
    return folder / "clips.pkl"


def mmsa(folder: Path) -> Path:
    part = {"id": CLIPS, "raw_text": ["x", "y", "z"], "regression_labels": [np.nan] * 3}
    part |= {"audio": padded(3), "vision": padded(5), "audio_lengths": [2, 3, 4], "vision_lengths": [2, 3, 4]}
    nothing = {"id": np.array([]), "raw_text": np.array([]), "audio": np.zeros((0, 4, 3))}
    return pickled(folder, {"train": nothing, "valid": nothing, "test": part})


def mag_bert(folder: Path) -> Path:
    names = [clip.replace("$_$", "[") + "]" for clip in CLIPS]
    pairs = zip(names, frames(5), frames(3), strict=True)
    return pickled(folder, {"test": [((["good"], vision, audio), None, name) for name, vision, audio in pairs]})


def one_list(folder: Path) -> Path:
    pairs = zip(CLIPS, frames(5), frames(3), strict=True)
    return pickled(folder, [((np.arange(2), vision, audio, ["good"]), 0.0, name) for name, vision, audio in pairs])


def mult(folder: Path) -> Path:
    ids = np.array([[clip, "0", "1"] for clip in CLIPS])
    return pickled(folder, {"test": {"vision": padded(5), "audio": padded(3), "text": np.zeros((3, 4, 2)), "id": ids}})


def npz(folder: Path) -> Path:
    np.savez(folder / "clips.npz", id=np.array(CLIPS), audio=padded(3), vision=padded(5))
    return folder / "clips.npz"


def folders(folder: Path) -> Path:
    for name, width in (("audio", 3), ("vision", 5)):
        (folder / name).mkdir()
        for clip, values in zip(CLIPS, frames(width), strict=True):
            np.save(folder / name / f"{clip}.npy", values)
    return folder


def folders_of_tables(folder: Path) -> Path:
    for name, width in (("audio", 3), ("vision", 5)):
        (folder / name).mkdir()
        for clip, values in zip(CLIPS, frames(width), strict=True):
            np.savetxt(folder / name / f"{clip}.csv", values, delimiter=",")
    return folder


def folders_and_table(folder: Path) -> Path:
    table(folder).rename(folder / "label.csv")
    return folders(folder)


FORMATS: dict[str, Callable[[Path], Path]] = {
    f.__name__: f for f in (table, mmsa, mag_bert, one_list, mult, npz, folders, folders_of_tables, folders_and_table)
}


def store_of(source: Path, workspace: Workspace, **options: Any) -> Path:
    task = Preparation("new", workspace, source=source, options=Options(unlabelled=True, **options))
    return prepare(task, Observer())


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_clips_of_any_format_need_no_label_and_no_split(make: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with FeatureStore(store_of(make(tmp_path / "raw"), Workspace(tmp_path))) as store:
        clips = store.split("test")
        assert (store.is_unlabelled, store.splits, clips.scores) == (True, ("test",), None)
        assert sorted(clip.replace("[", "$_$").rstrip("]") for clip in clips.ids) == CLIPS
        if make is not table:
            assert [clips.frames["audio"][k].tolist() for k in range(3)] == [f.tolist() for f in frames(3)]
            assert clips.frames["vision"].width == 5


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("id,text\nx,good\ny,bad\n", ["x", "y"]),
        ("text\ngood\nbad\n", ["1", "2"]),
        ("video_id,clip_id,text,label,mode\na,1,good,9,\na,2,bad,none,later\n", ["a$_$1", "a$_$2"]),
        ("video_id\tclip_id\ttext\na\t1\tgood\na\t2\tbad\n", ["a$_$1", "a$_$2"]),
        ("video_id;clip_id;text;start\na;1.0;good;0,5\na;2.0;bad;1,5\n", ["a$_$1", "a$_$2"]),
    ],
)
def test_tables_need_a_name_or_a_text_and_no_more(text: str, ids: list[str], tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text(text)
    with FeatureStore(store_of(tmp_path / "clips.csv", Workspace(tmp_path))) as store:
        assert store.split("test").ids == ids
        assert store.split("test").texts == ["good", "bad"]


def test_splits_that_a_source_has_are_kept_together(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("video_id,clip_id,text,mode\na,1,x,train\nb,1,y,test\n")
    with FeatureStore(store_of(tmp_path / "c.csv", Workspace(tmp_path))) as store:
        assert store.split("test").ids == ["a$_$1", "b$_$1"]


@pytest.mark.parametrize("make", [table, mmsa, npz, mag_bert], ids=lambda f: f.__name__)
def test_without_the_option_the_refusal_names_it(make: Callable[[Path], Path], tmp_path: Path) -> None:
    task = Preparation("new", Workspace(tmp_path), source=make(tmp_path), score_range=(-3, 3))
    with pytest.raises(SourceError, match="--unlabelled") as error:
        prepare(task, Observer())
    assert "\n" not in str(error.value)


def test_a_store_of_clips_to_be_scored_is_described_compared_and_examined(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = store_of(npz(tmp_path), workspace)
    with FeatureStore(path) as store:
        about = describe(store)
        assert (about["score_range"], about["splits"]["test"]["scores"]) == (None, None)
        assert describe_clip(store, "a$_$2")["score"] is None
        assert content_of(store, lambda count, remark: None) == (store.content_id, 0)
        other = tmp_path / "scored.h5"
        write_store(other, make_corpus("tiny", (3, 3, 3), seed=0, longest=4))
        with FeatureStore(other) as scored:
            assert compare_stores(store, scored)["common"] == 0
    found = examine_named("new", path, workspace, Observer())
    assert [finding.severity for finding in found] == ["ok"]
    assert "3 clips (to be scored)" in found[0].what


def test_what_makes_no_sense_for_clips_to_be_scored_is_refused(tmp_path: Path) -> None:
    workspace, source = Workspace(tmp_path), table(tmp_path)
    options = Options(unlabelled=True)
    with pytest.raises(SettingsError, match="leave out --score-range"):
        prepare(Preparation("new", workspace, source=source, options=options, score_range=(-3, 3)), Observer())
    with pytest.raises(SourceError, match="leave out --normalize zscore"):
        prepare(Preparation("new", workspace, source=source, options=options, normalize="zscore"), Observer())
    write_store(workspace.store("tiny"), make_corpus("tiny", (3, 3, 3), seed=0, longest=4))
    with pytest.raises(SettingsError, match="would replace them"):
        prepare(Preparation("tiny", workspace, source=source, options=options), Observer())
    (tmp_path / "no.csv").write_text("video_id,clip_id,text\n")
    with pytest.raises(SourceError, match="must have a row per clip"):
        store_of(tmp_path / "no.csv", workspace)


@pytest.mark.parametrize("role", ["dataset", "external"])
def test_training_on_clips_to_be_scored_is_refused_in_one_line(
    role: str, workspace: Workspace, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    store_of(table(tmp_path), workspace)
    config = tiny_config("", f"data.{role}=new")
    with pytest.raises(StoreError, match="must have clips with scores") as error:
        finetune(config, workspace, Observer())
    assert "\n" not in str(error.value)
    assert not any(workspace.runs.glob("*/"))


def predictions(trained: Trained, path: Path, split: str | None = None) -> dict[str, float]:
    with open_clips(trained.run, path, split, trained.workspace, Observer()) as clips:
        scored = predict_new(trained.run, clips, "cpu")["clips"]
    return {clip["id"]: clip["prediction"] for clip in scored}


def test_a_raw_file_is_scored_as_its_store_is(trained: Trained, tmp_path: Path) -> None:
    source = mmsa(tmp_path)
    expected = predictions(trained, store_of(source, Workspace(tmp_path)))
    assert predictions(trained, source) == expected
    assert list(expected) == CLIPS
    assert len(set(expected.values())) == 3


class Notes(Observer):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_texts_of_a_raw_file_are_repaired_and_that_is_said(trained: Trained, tmp_path: Path) -> None:
    part = {"id": CLIPS, "raw_text": ["it&#39;s", "y", "z"], "audio": padded(3), "vision": padded(5)}
    notes = Notes()
    with open_clips(trained.run, pickled(tmp_path, {"test": part}), None, trained.workspace, notes) as clips:
        assert clips.texts == ["it's", "y", "z"]
    assert any("clips.pkl: repaired 1 text with" in line for line in notes.lines)


def test_a_split_of_clips_without_splits_is_refused(trained: Trained, tmp_path: Path) -> None:
    source = mmsa(tmp_path)
    for path in (source, store_of(source, Workspace(tmp_path))):
        with pytest.raises(SettingsError, match="leave out --split valid"):
            predictions(trained, path, "valid")


def test_clips_of_which_none_has_a_text_are_scored_without_it_and_that_is_said(
    trained: Trained, tmp_path: Path
) -> None:
    notes = Notes()
    with open_clips(trained.run, folders(tmp_path), None, trained.workspace, notes) as clips:
        scored = predict_new(trained.run, clips, "cpu", notes)["clips"]
    assert [clip["absent"] for clip in scored] == [["text"]] * len(CLIPS)
    assert any(line.startswith("warning: these clips have no text: scored without it") for line in notes.lines)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"text"])
def test_a_damaged_store_is_told_as_one(content: bytes, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(StoreError):
        predictions(trained, tmp_path / "x.h5")
