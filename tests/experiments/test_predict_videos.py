"""A video gets the score that the same clip has inside a store, and other kinds of features are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Trained
from typer.testing import CliRunner, Result

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")

from media_support import tone, write_media
from run_support import finetune

from conki_cli.cli import app
from conki_cli.config.resolving import resolve
from conki_cli.data.extraction.cache import Extraction
from conki_cli.data.extraction.recipe import Recipe, provenance_of
from conki_cli.data.extraction.sound import SOUND_VERSION
from conki_cli.data.preparation import Preparation, prepare
from conki_cli.data.sources.loose_videos import clips_of
from conki_cli.data.sources.request import Options
from conki_cli.data.store.reading import FeatureStore
from conki_cli.experiments.videos import _segments
from conki_cli.runs import Run, read_extraction
from conki_cli.runs.extraction import write_extraction
from conki_cli.system.files import read_json, write_json
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

TEXTS = ["good film", "bad plot", "the film was great", "not very good", "dull", "fair"]


def conki(space: Path, *arguments: object) -> Result:
    env = {"CONKI_WORKSPACE": str(space), "COLUMNS": "100", "FORCE_COLOR": None}
    return CliRunner().invoke(app, [str(word) for word in arguments], env=env)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Run:
    """A run on text and the sound of six clips, as z-scores."""
    space = Workspace(tmp_path_factory.mktemp("talks"))
    folder, lines = space.root / "talks", ["video_id,clip_id,text,label,mode"]
    for number, text in enumerate(TEXTS):
        (folder / "Raw" / f"v{number}").mkdir(parents=True)
        sound = tone(0.3 + 0.1 * number, 100 + 20 * number)
        write_media(folder / "Raw" / f"v{number}" / "1.wav", sound=sound)
        lines.append(f"v{number},1,{text},{number - 3},{'train' if number < 4 else 'valid' if number == 4 else 'test'}")
    (folder / "label.csv").write_text("\n".join(lines) + "\n")
    options = Options(extraction=Extraction(space.root / "extracted", Recipe(vision="none"), 1))
    task = Preparation("talks", space, folder, score_range=(-3, 3), options=options, normalize="zscore")
    prepare(task, Observer())
    flags = {
        "data.dataset": "talks",
        "data.external": "none",
        "model.text_encoder": str(encoder),
        "run.device": "cpu",
        "optimizer.num_epochs": 1,
        "optimizer.batch_size": 2,
        "run.name": "talks",
    }
    return finetune(resolve(flags=flags), space, Observer())


def test_a_run_keeps_how_its_features_were_made(run: Run) -> None:
    assert read_extraction(run) == provenance_of(Recipe(vision="none"))


def test_a_run_takes_the_newer_note_of_a_store_with_the_same_numbers(run: Run, tmp_path: Path) -> None:
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "talks")))
    note = provenance_of(Recipe(vision="none"))
    write_json(copy.path / "extraction.json", {"audio": {**note["audio"], "version": 0}})
    with FeatureStore(run.path.parents[1] / "features" / "talks.h5") as store:
        write_extraction(copy, store)
    assert read_extraction(copy) == note


def test_a_video_has_the_score_of_the_same_clip_in_the_store(run: Run) -> None:
    space = run.path.parents[1]
    clip = space / "talks" / "Raw" / "v5" / "1.wav"
    result = conki(space, "predict", "talks", "--video", clip, "--text", TEXTS[5], "--workers", 1, "--json")
    assert result.exit_code == 0, result.output
    inside = conki(space, "predict", "talks", "talks", "--split", "test", "--json")
    one, other = (json.loads(found.stdout)["clips"][0] for found in (result, inside))
    assert one["prediction"] == pytest.approx(other["prediction"], abs=1e-5)
    assert one["text"] == other["text"] == TEXTS[5]


def test_segments_give_a_time_line(run: Run, tmp_path: Path) -> None:
    space = run.path.parents[1]
    clip = write_media(tmp_path / "long.wav", sound=tone(2.6))
    words = ("--segments", "1s", "--text", "good", "--workers", 1, "--export", tmp_path / "s.csv", "--json")
    result = conki(space, "predict", "talks", "--video", clip, *words)
    assert result.exit_code == 0, result.output
    spans = [(one["start"], one["stop"]) for one in json.loads(result.stdout)["clips"]]
    assert spans == [(0.0, 1.0), (1.0, 2.0), (2.0, pytest.approx(2.6, abs=0.01))]
    assert (tmp_path / "s.csv").read_text().splitlines()[0] == "id,text,start,stop,prediction,seed_1"


@pytest.mark.parametrize(("seconds", "stops"), [(2.4, (1.0, 2.4)), (2.5, (1.0, 2.0, 2.5)), (0.7, (0.7,))])
def test_a_rest_of_half_a_segment_is_a_segment_of_its_own_and_a_shorter_one_is_not(
    seconds: float, stops: tuple[float, ...], tmp_path: Path
) -> None:
    whole = clips_of([write_media(tmp_path / "talk.wav", sound=tone(seconds))])
    clips, failures = _segments(whole, 1.0, Extraction(tmp_path / "cache", Recipe(vision="none"), 1))
    assert failures == []
    assert [clip.span.stop for clip in clips] == pytest.approx(stops, abs=0.01)
    assert [clip.span.start for clip in clips] == pytest.approx((0.0, *stops[:-1]), abs=0.01)


def test_a_time_line_is_drawn(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra: pip install 'conki[video]'")
    clip = write_media(tmp_path / "a$_$b.wav", sound=tone(1.2))  # dollar signs are no formula
    words = ("--segments", "0.5s", "--text", "good", "--workers", 1, "--plot", tmp_path / "s.png")
    assert conki(run.path.parents[1], "predict", "talks", "--video", clip, *words).exit_code == 0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_a_video_without_its_text_is_refused(run: Run) -> None:
    clip = run.path.parents[1] / "talks" / "Raw" / "v5" / "1.wav"
    result = conki(run.path.parents[1], "predict", "talks", "--video", clip)
    assert (result.exit_code, "reads what is said" in result.stderr) == (1, True)


def test_a_run_with_features_of_another_kind_refuses_videos(run: Run) -> None:
    path, space = run.path / "extraction.json", run.path.parents[1]
    kept = read_json(path)
    try:
        write_json(path, {**kept, "audio": {**kept["audio"], "version": 99}})
        clip = space / "talks" / "Raw" / "v5" / "1.wav"
        result = conki(space, "predict", "talks", "--video", clip, "--text", "good")
        assert f"of another kind (version of audio: 99 there, {SOUND_VERSION} here)" in result.stderr
    finally:
        write_json(path, kept)


def test_a_run_on_features_from_files_refuses_videos(trained: Trained, tmp_path: Path) -> None:
    clip = write_media(tmp_path / "a.wav", sound=tone(0.3))
    space = trained.workspace.root
    result = conki(space, "predict", trained.run.name, "--video", clip, "--text", "good")
    assert (result.exit_code, "features that came in files" in result.stderr) == (1, True)


def test_a_clip_without_sound_gets_a_score_and_a_warning(run: Run, tmp_path: Path) -> None:
    clip = write_media(tmp_path / "a.mp4", pictures=[np.zeros((48, 64, 3), dtype=np.uint8)] * 10)
    words = ("--text", "good", "--workers", 1)
    result = conki(run.path.parents[1], "predict", "talks", "--video", clip, *words)
    assert (result.exit_code, "no sound in it" in result.stderr) == (0, True)
