"""Folders of videos: extracted once, in processes of their own, with one table of what failed."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Notes

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")

from media_support import RATE, picture, tone, write_media
from typer.testing import CliRunner, Result

from conki_cli.cli import app
from conki_cli.data.extraction.cache import Clip, Extraction, extract_clips
from conki_cli.data.extraction.clip import Extractors, Heard
from conki_cli.data.extraction.decode import Seen, Span, opened, sound_of
from conki_cli.data.extraction.pitch import track_pitch
from conki_cli.data.extraction.pool import Task, run_tasks
from conki_cli.data.extraction.recipe import Recipe, difference, kind_of, parse_fps, provenance_of
from conki_cli.data.extraction.sound import SOUND_VERSION, Loudness
from conki_cli.data.sources.videos import frames_of
from conki_cli.data.store.reading import FeatureStore
from conki_cli.system.errors import ConkiError, SettingsError, SourceError

SOUND = Recipe(vision="none")
SPEECH = Path(__file__).parents[3] / "shared" / "data" / "speech"


def conki(space: Path, *arguments: str) -> Result:
    env = {"CONKI_WORKSPACE": str(space), "COLUMNS": "100", "FORCE_COLOR": None}
    return CliRunner().invoke(app, [str(word) for word in arguments], env=env)


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a folder of five clips, and the store that was made of it."""
    space = tmp_path_factory.mktemp("talks")
    raw, lines = space / "talks" / "Raw", ["video_id,clip_id,text,label,mode"]
    for number, mode in enumerate(["train", "train", "train", "valid", "test"]):
        folder = raw / f"v{number}"
        folder.mkdir(parents=True)
        write_media(folder / "0001.wav", sound=tone(0.4 + 0.1 * number, 110 + 30 * number))
        lines.append(f"v{number},0001,good film,{number - 2},{mode}")
    (space / "talks" / "label.csv").write_text("\n".join(lines) + "\n")
    done = prepare(space)
    assert done.exit_code == 0, done.output
    return space


def prepare(space: Path, *more: str) -> Result:
    words = ("prepare", "--dataset", "talks", "--source", space / "talks", "--score-range", "-3..3")
    return conki(space, *words, "--vision-features", "none", "--workers", "1", *more)


def test_a_folder_of_clips_becomes_a_store_with_its_provenance(talks: Path) -> None:
    with FeatureStore(talks / "features" / "talks.h5") as store:
        assert store.widths == {"audio": 74}
        assert store.split("test").ids == ["v4$_$0001"]
        pitch = store.split("test").frames["audio"][0][10:-10, 0]
        assert pitch == pytest.approx(230.0, rel=0.02)
        assert store.extraction == provenance_of(SOUND)
        assert store.extraction["audio"]["columns"][:2] == ["F0", "VUV"]


def test_what_was_extracted_is_found_in_the_cache(talks: Path) -> None:
    path = next((talks / "talks" / "Raw").rglob("*.wav"))
    notes = Notes()
    before = {file: file.stat().st_mtime_ns for file in (talks / "extracted").rglob("*.npy")}
    done, _ = extract_clips([Clip("a", path)], Extraction(talks / "extracted", SOUND, observer=notes))
    after = {file: file.stat().st_mtime_ns for file in (talks / "extracted").rglob("*.npy")}
    assert (len(done), before) == (1, after)


def test_features_in_the_cache_that_are_not_whole_are_one_line(tmp_path: Path) -> None:
    clip = Clip("a", write_media(tmp_path / "a.wav", sound=tone(0.3)))
    (whole,), _ = extract_clips([clip], Extraction(tmp_path / "cache", SOUND, 1))
    path = whole.folder / "audio.npy"
    assert frames_of(whole, "audio") is not None
    for left in (1000, 100, 0, None):
        path.unlink() if left is None else path.write_bytes(path.read_bytes()[:left])
        with pytest.raises(ConkiError, match=f"{whole.folder} is damaged: delete that folder"):
            frames_of(whole, "audio")


def test_features_are_on_the_disk_before_they_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}")))
    clip = Clip("a", write_media(tmp_path / "a.wav", sound=tone(0.3)))
    (done,), _ = extract_clips([clip], Extraction(tmp_path / "cache", SOUND, 1))
    names = [Path(path).name for path in flushed]
    assert names.index("audio.npy") < names.index(done.folder.parent.name, names.index("audio.npy"))


def test_features_are_the_same_bits_for_any_number_of_workers(tmp_path: Path) -> None:
    clips = [Clip(f"{n}", write_media(tmp_path / f"{n}.wav", sound=tone(0.3, 100 + n))) for n in range(3)]
    bits = []
    for workers in (1, 3):
        done, _ = extract_clips(clips, Extraction(tmp_path / f"cache{workers}", SOUND, workers))
        bits.append([(one.folder / "audio.npy").read_bytes() for one in done])
    assert bits[0] == bits[1]


def test_whole_videos_are_cut_at_start_and_stop(tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    write_media(folder / "v.wav", sound=np.concatenate([tone(1.0, 100), tone(1.0, 200), tone(1.0, 300)]))
    rows = [
        "video_id,clip_id,text,label,mode,start,stop",
        "v,1,a,1,train,0,1",
        "v,2,b,1,valid,1,2",
        "v,3,c,0,test,2,30",
    ]
    (folder / "label.csv").write_text("\n".join(rows) + "\n")
    assert prepare(tmp_path).exit_code == 0
    with FeatureStore(tmp_path / "features" / "talks.h5") as store:
        for split, pitch in (("train", 100), ("valid", 200), ("test", 300)):
            assert store.split(split).frames["audio"][0][10:-10, 0] == pytest.approx(pitch, rel=0.02)
        assert store.notes[0] == (
            "1 clip ends after the video does: v$_$3 (stop 30 s, the video lasts 3.0 s, 1.0 of 28.0 s were read); "
            "check start and stop in the label file"
        )


def test_a_time_that_no_video_reaches_is_refused_with_its_row(tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    write_media(folder / "v.wav", sound=tone(0.3))
    (folder / "label.csv").write_text(
        "video_id,clip_id,text,label,mode,start,stop\nv,1,a,1,train,0,1\nv,2,b,1,test,1e308,1.5e308\n"
    )
    result = prepare(tmp_path)
    assert result.exit_code == 1
    assert "such as 'v$_$2' (stop must be at most 10,000,000 s, is 1.5e+308: correct the row" in result.stderr


def test_a_part_of_a_video_counts_with_its_own_length_where_nothing_is_extracted(tmp_path: Path) -> None:
    path, nothing = write_media(tmp_path / "v.wav", sound=tone(3.0)), Extractors(Recipe("none", "none"))
    for span, seconds in ((Span(), 3.0), (Span(1.0, 1.5), 0.5), (Span(2.0, 9.0), 1.0)):
        found = nothing.extract(path, span, tmp_path, lambda seconds: None)
        assert (found.seconds, found.length) == pytest.approx((seconds, 3.0), abs=0.01)
    with pytest.raises(SourceError, match=r"start 5 s is after the end of the file, which lasts 3\.0 s"):
        nothing.extract(path, Span(5.0, 6.0), tmp_path, lambda seconds: None)


def test_a_clip_that_starts_after_the_end_of_its_video_is_one_line(tmp_path: Path) -> None:
    for name in ("v.wav", "v.mkv"):
        path = write_media(tmp_path / name, sound=tone(0.3))
        for start, text in ((5.0, "5"), (1e18, r"1e\+18")):
            with pytest.raises(
                SourceError, match=rf"start {text} s is after the end .* lasts 0\.[34] s: correct the row"
            ):
                Extractors(SOUND).extract(path, Span(start, start * 1.5), tmp_path, lambda seconds: None)


def test_a_part_of_a_video_after_its_sound_has_ended_has_no_sound_and_a_warning(tmp_path: Path) -> None:
    path = write_media(tmp_path / "v.mp4", sound=tone(1.0), pictures=[picture(1)] * 100)
    found = Extractors(SOUND).extract(path, Span(2.5, 3.5), tmp_path, lambda seconds: None)
    assert (found.audio_frames, found.warnings) == (0, ["no sound in this part"])
    with pytest.raises(SourceError, match=r"start 5 s is after the end of the file, which lasts 4\.0 s"):
        Extractors(SOUND).extract(path, Span(5.0, 6.0), tmp_path, lambda seconds: None)


def test_the_loudness_of_a_row_is_that_in_the_middle_of_its_time() -> None:
    sound = Heard(samples=RATE)
    sound.loudness.take(tone(1.0).astype(np.float32))
    sound.levels.extend(range(10))  # of every 100 ms
    assert sound.in_rows(np.arange(10) / 10, 10.0) == pytest.approx(np.arange(10))
    assert sound.in_rows(np.array([0.15, 0.25]), None) == pytest.approx([1, 2])


def test_two_files_that_are_one_clip_are_refused_and_both_named(tmp_path: Path) -> None:
    (tmp_path / "talks" / "v").mkdir(parents=True)
    for name in ("v/1.wav", "v$_$1.wav"):
        (tmp_path / "talks" / name).write_bytes(b"x")
    result = prepare(tmp_path)
    assert result.exit_code == 1
    assert all(str(tmp_path / "talks" / name) in result.stderr for name in ("v/1.wav", "v$_$1.wav"))
    assert "are both the clip '1' of one video: remove one" in result.stderr


def test_failed_clips_stand_in_one_table_and_the_others_are_kept(talks: Path, tmp_path: Path) -> None:
    shutil.copytree(talks, tmp_path, dirs_exist_ok=True)
    (tmp_path / "features" / "talks.h5").unlink()
    (tmp_path / "talks" / "Raw" / "v0" / "0001.wav").write_bytes(b"")
    (tmp_path / "talks" / "Raw" / "v1" / "0001.wav").unlink()
    failed = prepare(tmp_path)
    assert failed.exit_code == 1
    assert "the file is empty" in failed.stderr
    assert "there is no file Raw/v1/0001.mp4" in " ".join(failed.stderr.split())
    assert failed.stderr.splitlines()[-1].startswith("error: 2 of 5 clips could not be extracted, such as 'v0$_$0001'")
    assert not (tmp_path / "features" / "talks.h5").exists()
    kept = prepare(tmp_path, "--skip-failed")
    assert kept.exit_code == 0
    with FeatureStore(tmp_path / "features" / "talks.h5") as store:
        assert store.split("train").ids == ["v2$_$0001"]
        assert any("2 clips left out" in note for note in store.notes)


def test_ids_never_lead_out_of_the_folder(talks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    write_media(tmp_path / "secret.wav", sound=tone(0.3))
    write_media(folder / "a.wav", sound=tone(0.3))
    (folder / "label.csv").write_text(
        "video_id,clip_id,text,label,mode\n..,secret,x,1,train\n../..,../secret,x,1,test\n"
    )
    result = prepare(tmp_path)
    assert result.exit_code == 1
    assert "error: none of the 2 clips could be extracted; the first is" in result.stderr
    assert "the others" not in result.stderr
    (folder / "b.wav").symlink_to(tmp_path / "secret.wav")
    assert "is a link that leads out of" in prepare(tmp_path).stderr


def test_no_label_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "talks").mkdir()
    write_media(tmp_path / "talks" / "a.wav", sound=tone(0.3))
    assert "holds videos and no label.csv" in prepare(tmp_path).stderr


def test_extract_writes_an_archive_per_clip(tmp_path: Path) -> None:
    write_media(tmp_path / "a.wav", sound=tone(0.5, 140))
    (tmp_path / "b.wav").write_bytes(b"no sound")
    words = ("extract", tmp_path / "a.wav", tmp_path / "b.wav", "--out", tmp_path / "out", "--vision-features", "none")
    result = conki(tmp_path, *words, "--workers", "1", "--json")
    assert result.exit_code == 1
    found: dict[str, Any] = json.loads(result.stdout)
    assert [one["clip"] for one in found["failures"]] == ["b"]
    with np.load(tmp_path / "out" / "a.npz") as archive:
        assert archive["audio"].shape == (50, 74)
        assert list(archive["audio_columns"][:2]) == ["F0", "VUV"]
        assert json.loads(str(archive["provenance"]))["audio"]["extractor"] == "covarep"


def test_silence_no_sound_one_picture_and_80_ms_are_no_crash(tmp_path: Path) -> None:
    paths = [
        write_media(tmp_path / "silent.wav", sound=np.zeros(RATE)),
        write_media(tmp_path / "mute.mp4", pictures=[picture(n) for n in range(10)]),
        write_media(tmp_path / "short.wav", sound=tone(0.08)),
        write_media(tmp_path / "shorter.wav", sound=tone(0.01)),
    ]
    clips = [Clip(path.stem, path) for path in paths]
    done, failures = extract_clips(clips, Extraction(tmp_path / "cache", SOUND, 1))
    assert failures == []
    results = {one.id: one.result for one in done}
    assert (results["silent"]["voiced_frames"], results["silent"]["warnings"]) == (0, ["its sound is silence"])
    assert (results["mute"]["audio_frames"], results["mute"]["warnings"]) == (0, ["no sound in it"])
    assert results["short"]["audio_frames"] == 8
    assert results["shorter"]["audio_frames"] == 0


@pytest.mark.slow
def test_a_decoder_that_hangs_is_stopped_and_the_others_go_on(tmp_path: Path) -> None:
    pipe, good = tmp_path / "pipe.wav", write_media(tmp_path / "good.wav", sound=tone(0.3))
    os.mkfifo(pipe)  # whoever opens it waits for ever
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    tasks = [Task("bad", pipe, 0.0, None, folders[0]), Task("good", good, 0.0, None, folders[1])]
    ended = {one.task.key: one for one in run_tasks(SOUND, tasks, 1, grace=8.0)}
    assert "came no further for 8 seconds" in ended["bad"].failure
    assert ended["good"].result is not None


def decoders() -> list[int]:
    """Return the processes that decode for this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            number, _, rest = entry.read_text().partition(" ")
            is_child = rest.rpartition(") ")[2].split()[1] == str(os.getpid())
            if is_child and b"conki_cli.data.extraction.worker" in (entry.parent / "cmdline").read_bytes():
                found.append(int(number))
    return found


def test_a_decoder_that_stops_in_the_middle_is_stopped_after_the_same_time_as_one_at_the_start(tmp_path: Path) -> None:
    path = write_media(tmp_path / "long.wav", sound=np.zeros(200 * RATE, dtype=np.float32))
    folder = tmp_path / "one"
    folder.mkdir()
    heard: list[float] = []

    def stop_it(seconds: float) -> None:
        heard.append(seconds)
        if sum(heard) > 1:
            for number in decoders():
                os.kill(number, signal.SIGSTOP)

    (ended,) = run_tasks(SOUND, [Task("long", path, 0.0, None, folder)], 1, progress=stop_it, grace=3.0)
    assert "came no further for 3 seconds and was stopped" in ended.failure


def test_loading_the_extractors_is_no_time_of_the_first_clip_and_has_a_limit_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"")
    tasks = [Task("a", path, 0.0, None, tmp_path)]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(1.5)\n")  # as if a large model were loaded
    (ended,) = run_tasks(SOUND, tasks, 1, grace=1.0)
    assert ended.failure.startswith("the file is empty")
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(999)\n")
    with pytest.raises(SettingsError, match="must be loaded within 0 minutes but were not: use fewer --workers"):
        list(run_tasks(SOUND, tasks, 1, loading=0.1))


def test_a_library_in_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "av.py").write_text("open('imported', 'w').close()")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.wav"
    path.write_bytes(b"")
    (ended,) = run_tasks(SOUND, [Task("a", path, 0.0, None, tmp_path)], 1)
    assert ended.failure.startswith("the file is empty")
    assert not (tmp_path / "imported").exists()


def test_a_decoder_that_is_killed_takes_only_its_clip_with_it(tmp_path: Path) -> None:
    pipe, good = tmp_path / "pipe.wav", write_media(tmp_path / "good.wav", sound=tone(0.3))
    os.mkfifo(pipe)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    tasks = [Task("bad", pipe, 0.0, None, folders[0]), Task("good", good, 0.0, None, folders[1])]

    def kill_the_waiting(seconds: float) -> None:
        for number in decoders():
            if not killed:
                killed.append(number)
                os.kill(number, signal.SIGKILL)

    killed: list[int] = []
    ended = {one.task.key: one for one in run_tasks(SOUND, tasks, 1, progress=kill_the_waiting)}
    assert ended["bad"].failure.startswith("the decoder crashed (SIGKILL)")
    assert ended["good"].result is not None


def test_kinds_of_features_differ_by_extractor_and_rate() -> None:
    one = provenance_of(SOUND)
    assert kind_of(one) == kind_of({**one, "libraries": {}})
    assert kind_of(one) != kind_of({**one, "audio": {**one["audio"], "version": 99}})
    older = {**one, "audio": {key: value for key, value in one["audio"].items() if key != "version"}}
    assert difference(older, one, "audio") == f"version of audio: none there, {SOUND_VERSION} here"


@pytest.mark.parametrize("text", ["0", "-3", "nan", "many", "1000", ""])
def test_a_rate_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--fps must be a number"):
        parse_fps(text)
    assert (parse_fps("own"), parse_fps("12.5")) == (None, 12.5)


def pitch_in(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the sound of a file, [N], and the pitch of its frames, [T]."""
    with opened(path) as container:
        signal = np.concatenate(list(sound_of(container, Span(), Seen()))).astype(np.float64)
    loudness = Loudness()
    loudness.take(signal.astype(np.float32))
    return signal, track_pitch(signal - signal.mean(), len(signal) // 160, loudness.level)


@pytest.mark.slow
@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs the real recordings")
@pytest.mark.parametrize("path", sorted(SPEECH.glob("*.ogg")), ids=lambda path: path.stem)
def test_pitch_and_voicing_of_real_speech_agree_with_an_independent_estimate(path: Path) -> None:
    pyworld = pytest.importorskip("pyworld", reason="needs pyworld as a reference")
    signal, found = pitch_in(path)
    other, times = pyworld.dio(signal, RATE, f0_floor=60, f0_ceil=500, frame_period=10.0)
    other = pyworld.stonemask(signal, other, times, RATE)[: len(found)]
    both = (found > 0) & (other > 0)
    assert ((found > 0) == (other > 0)).mean() >= 0.85
    assert (np.abs(found[both] / other[both] - 1) > 0.2).mean() <= 0.05


@pytest.mark.slow
@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs the real recordings")
@pytest.mark.parametrize("path", sorted(SPEECH.glob("*.ogg")), ids=lambda path: path.stem)
def test_pitch_and_voicing_of_real_speech_agree_with_praat(path: Path) -> None:
    parselmouth = pytest.importorskip("parselmouth", reason="needs Praat as a reference")
    signal, found = pitch_in(path)
    praat = parselmouth.Sound(signal, RATE).to_pitch_ac(time_step=0.01, pitch_floor=60, pitch_ceiling=500)
    nearest = np.round(np.arange(len(found)) + 0.5 - 100 * praat.x1).astype(int)
    is_inside = (nearest >= 0) & (nearest < praat.nx)
    other = np.where(is_inside, praat.selected_array["frequency"][np.clip(nearest, 0, praat.nx - 1)], 0.0)
    both = (found > 0) & (other > 0)
    assert ((found > 0) == (other > 0)).mean() >= 0.95
    assert (np.abs(found[both] / other[both] - 1) > 0.2).mean() <= 0.05
