"""The words of videos: written down for a store, and for a clip that is scored."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")

from media_support import picture, tone, write_media
from run_support import finetune
from whisper_support import build_whisper

from conki_cli.cli import app
from conki_cli.config.resolving import resolve
from conki_cli.data.extraction.cache import Clip, Extracted, Extraction, Failure, extract_clips
from conki_cli.data.store.reading import FeatureStore
from conki_cli.experiments import videos
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

pytestmark = pytest.mark.slow

SPLITS = ["train"] * 4 + ["valid", "test"]


def conki(space: Workspace, *arguments: object) -> Result:
    env = {"CONKI_WORKSPACE": str(space.root), "COLUMNS": "100", "FORCE_COLOR": None}
    return CliRunner().invoke(app, [str(word) for word in arguments], env=env)


def answer(space: Workspace, *arguments: object) -> dict[str, Any]:
    result = conki(space, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, whisper: Path, encoder: Path) -> Workspace:
    """A workspace with the store `talks`, whose texts a model wrote down, and the run `talks` on text and sound."""
    space = Workspace(tmp_path_factory.mktemp("talks"))
    folder, lines = space.root / "talks", ["video_id,clip_id,label,mode"]
    for number, split in enumerate(SPLITS):
        (folder / "Raw" / f"v{number}").mkdir(parents=True)
        write_media(folder / "Raw" / f"v{number}" / "1.wav", sound=tone(0.6 + 0.2 * number, 100 + 20 * number))
        lines.append(f"v{number},1,{number - 3},{split}")
    (folder / "label.csv").write_text("\n".join(lines) + "\n")
    words = ("prepare", "--dataset", "talks", "--source", folder, "--score-range", "-3..3", "--workers", 1)
    done = conki(space, *words, "--vision-features", "none", "--transcribe", whisper)
    assert done.exit_code == 0, done.output
    flags = {
        "data.dataset": "talks",
        "data.external": "none",
        "data.max_unknown": 1.0,
        "model.text_encoder": str(encoder),
        "run.device": "cpu",
        "run.seeds": (1,),
        "run.name": "talks",
        "optimizer.num_epochs": 1,
        "optimizer.batch_size": 2,
    }
    finetune(resolve(flags=flags), space, Observer())
    return space


def clip(space: Workspace) -> Path:
    return space.root / "talks" / "Raw" / "v5" / "1.wav"


def test_the_texts_of_a_store_are_what_the_model_heard(space: Workspace, whisper: Path) -> None:
    with FeatureStore(space.store("talks")) as store:
        assert all(text.strip() for split in ("train", "valid", "test") for text in store.split(split).texts)
        assert store.extraction["text"]["model"] == str(whisper)
        assert store.widths == {"audio": 74}


def test_a_clip_whose_words_are_written_down_has_the_score_of_the_store(space: Workspace, whisper: Path) -> None:
    found = answer(space, "predict", "talks", "--video", clip(space), "--transcribe", whisper, "--workers", 1)
    inside = answer(space, "predict", "talks", "talks", "--split", "test")
    one, other = found["clips"][0], inside["clips"][0]
    assert one["text"] == other["text"]
    assert one["prediction"] == pytest.approx(other["prediction"], abs=1e-5)


def test_sentences_are_scored_where_they_were_said(space: Workspace, whisper: Path) -> None:
    words = ("predict", "talks", "--video", clip(space), "--transcribe", whisper, "--segments", "sentences")
    clips = answer(space, *words, "--workers", 1)["clips"]
    assert clips
    assert all(0.0 <= one["start"] < one["stop"] <= 1.61 and one["text"] for one in clips)


def test_a_video_whose_words_cannot_be_had_is_listed_and_not_scored(
    space: Workspace, whisper: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no sound at all")
    again = write_media(tmp_path / "again.ts", sound=tone(1.5))
    again.write_bytes(again.read_bytes() * 2)  # its times start again
    words = ("predict", "talks", "--video", tmp_path / "broken.wav", "--video", again, "--transcribe", whisper)
    found = answer(space, *words, "--workers", 1, "--skip-failed")
    assert [Path(one["file"]).name for one in found["failures"]] == ["broken.wav"]
    assert [(bool(one["text"]), [line[:17] for line in one["warnings"]]) for one in found["clips"]] == [
        (True, ["its times go back"])
    ]


def test_a_video_whose_words_alone_cannot_be_had_is_no_clip_without_a_text(
    space: Workspace, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(clips: list[Clip], extraction: Extraction) -> tuple[list[Extracted], list[Failure]]:
        done, failures = extract_clips(clips, extraction)
        if extraction.recipe.transcribe is None:
            return done, failures
        return done[1:], [Failure(clips[0].id, clips[0].path, "it ran out of time"), *failures]

    monkeypatch.setattr(videos, "extract_clips", lost)
    files = [word for number in (4, 5) for word in ("--video", space.root / "talks" / "Raw" / f"v{number}" / "1.wav")]
    found = answer(space, "predict", "talks", *files, "--transcribe", whisper, "--workers", 1, "--skip-failed")
    assert [one["reason"] for one in found["failures"]] == ["it ran out of time"]
    assert len(found["clips"]) == 1


def test_words_are_given_or_written_down_not_both(space: Workspace, whisper: Path) -> None:
    result = conki(space, "predict", "talks", "--video", clip(space), "--transcribe", whisper, "--text", "good")
    assert (result.exit_code, "leave --text out" in result.stderr) == (1, True)


def test_sentences_need_a_model_that_writes_down_words(space: Workspace) -> None:
    result = conki(space, "predict", "talks", "--video", clip(space), "--segments", "sentences", "--text", "good")
    assert (result.exit_code, "name a model with --transcribe" in result.stderr) == (1, True)


def test_what_is_wrong_with_sound_that_only_the_words_are_read_from_is_told(tmp_path: Path, whisper: Path) -> None:
    folder, lines = tmp_path / "talks", ["video_id,clip_id,label,mode"]
    for number, split in enumerate(SPLITS):
        sound = None if number == 1 else tone(0.6, 100 + 20 * number)
        (folder / "Raw" / f"v{number}").mkdir(parents=True)
        write_media(folder / "Raw" / f"v{number}" / "1.mp4", sound=sound, pictures=[picture(n) for n in range(15)])
        lines.append(f"v{number},1,{number - 3},{split}")
    (folder / "label.csv").write_text("\n".join(lines) + "\n")
    words = ("prepare", "--dataset", "talks", "--source", folder, "--score-range", "-3..3", "--workers", 1)
    pictures = ("--audio-features", "none", "--vision-features", "none", "--transcribe", whisper)
    done = conki(Workspace(tmp_path), *words, *pictures)
    assert done.exit_code == 0, done.output
    assert done.output.count("v1$_$1: no sound in it, so there are no words") == 1
