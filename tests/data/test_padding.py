"""Padding: its side is found from the values, per modality, in every format; what contradicts itself is refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conki_cli.data.sources import read_corpus
from conki_cli.data.sources.padding import find_sides, look_at, repairs_of, without_padding
from conki_cli.data.sources.request import Options
from conki_cli.data.store.records import SPLITS, Corpus
from conki_cli.system.errors import SourceError

Values = npt.NDArray[np.float64]

LONGEST = 9
LENGTHS = {"audio": [4, 9, 2, 5, 7, 3], "vision": [8, 1, 6, 3, 9, 5]}
WIDTHS = {"audio": 3, "vision": 2}


def clip(split: str, modality: str, number: int) -> Values:
    """Return the real frames of a clip; none of them is zeros."""
    return np.random.default_rng([len(split), len(modality), number]).uniform(
        1, 2, size=(LENGTHS[modality][number], WIDTHS[modality])
    )


def padded(frames: Values, side: str) -> Values:
    room = LONGEST - len(frames)
    return np.pad(frames, ((room, 0) if side == "front" else (0, room), (0, 0)))


def mmsa(sides: dict[str, str], *, lengths: bool = True) -> dict[str, dict[str, Any]]:
    """Return the columns of an MMSA pickle whose modalities are padded on these sides."""
    made: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        made[split] = {
            "id": [f"{split}$_${n}" for n in range(6)],
            "raw_text": [f"{split} {n}" for n in range(6)],
            "regression_labels": np.linspace(-1, 1, 6),
        }
        for modality, side in sides.items():
            made[split][modality] = np.stack([padded(clip(split, modality, n), side) for n in range(6)])
            if lengths:
                made[split][f"{modality}_lengths"] = LENGTHS[modality]
    return made


def saved(path: Path, value: object) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def read(path: Path, **options: Any) -> Corpus:
    return read_corpus("own", workspace=path.parent, source=path, score_range=(-3, 3), options=Options(**options))


def labels(path: Path) -> Path:
    rows = [f"{s},{n},{s} {n},{y},{s}" for s in SPLITS for n, y in enumerate(np.linspace(-1, 1, 6))]
    path.write_text("\n".join(["video_id,clip_id,text,label,mode", *rows]))
    return path


def assert_real_frames(corpus: Corpus, *modalities: str) -> None:
    for split in SPLITS:
        for number, sample in enumerate(corpus.splits[split]):
            for modality in modalities:
                assert np.array_equal(np.asarray(getattr(sample, modality)), clip(split, modality, number))


@pytest.mark.parametrize("audio", ["front", "end"])
@pytest.mark.parametrize("vision", ["front", "end"])
@pytest.mark.parametrize("lengths", [True, False])
def test_an_mmsa_pickle_loses_its_padding_per_modality(tmp_path: Path, audio: str, vision: str, lengths: bool) -> None:
    corpus = read(saved(tmp_path / "x.pkl", mmsa({"audio": audio, "vision": vision}, lengths=lengths)))
    assert_real_frames(corpus, "audio", "vision")
    how = "by the file's lengths" if lengths else "{} frames of zeros"
    named = {"front": "leading", "end": "trailing"}
    assert corpus.padding == {m: f"{s}, {how.format(named[s])}" for m, s in (("audio", audio), ("vision", vision))}
    assert (corpus.notes, sum(sum(counts.values()) for counts in corpus.repaired.values())) == ((), 0)


@pytest.mark.parametrize("side", ["front", "end"])
@pytest.mark.parametrize("lengths", [True, False])
def test_an_archive_as_source_and_for_one_modality_loses_it_too(tmp_path: Path, side: str, lengths: bool) -> None:
    parts = mmsa({"audio": side, "vision": "end"}, lengths=lengths).values()
    keys = [key for key in next(iter(parts.__iter__())) if key not in ("raw_text", "regression_labels")]
    arrays = {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in keys}
    np.savez(tmp_path / "x.npz", **arrays)
    table = labels(tmp_path / "label.csv")
    assert_real_frames(read(tmp_path / "x.npz", labels=table), "audio", "vision")
    other = read(table, overrides={"audio": tmp_path / "x.npz"})
    assert_real_frames(other, "audio")
    assert other.padding["audio"].startswith(f"{side}, ")


@pytest.mark.parametrize("side", ["front", "end"])
def test_a_pickle_given_for_one_modality_loses_it_too(tmp_path: Path, side: str) -> None:
    path = saved(tmp_path / "feature_A.pkl", mmsa({"audio": side}))
    corpus = read(labels(tmp_path / "label.csv"), overrides={"audio": path})
    assert_real_frames(corpus, "audio")
    assert corpus.padding == {"audio": f"{side}, by the file's lengths"}


@pytest.mark.parametrize("side", ["front", "end"])
def test_a_few_clips_with_values_outside_their_length_lose_them_and_are_counted(tmp_path: Path, side: str) -> None:
    value = mmsa({"audio": side})
    outside = {"front": slice(3, 5), "end": slice(4, 6)}[side]
    value["valid"]["audio"][0, outside] = 7  # the length is 4 of 9
    corpus = read(saved(tmp_path / "x.pkl", value))
    assert_real_frames(corpus, "audio")
    assert corpus.repaired == {"audio": {"lengths_clamped": 0, "clips_with_junk": 1, "junk_frames": 2}}


def test_a_file_that_contradicts_its_lengths_on_both_sides_is_refused(tmp_path: Path) -> None:
    value = mmsa({"vision": "front"})
    for part in value.values():
        part["vision_lengths"] = [length - 1 for length in part["vision_lengths"]]
    with pytest.raises(SourceError, match=r"row 1: vision has 9 frames and the length 7, but neither side is 2 frames"):
        read(saved(tmp_path / "x.pkl", value))


@pytest.mark.parametrize("num_in_front", [1, 3, 5])
def test_clips_that_are_padded_on_both_sides_are_not_mixed(tmp_path: Path, num_in_front: int) -> None:
    value = mmsa({"audio": "end"})
    for split, part in value.items():
        for number in range(num_in_front):
            part["audio"][number] = padded(clip(split, "audio", number), "front")
    with pytest.raises(SourceError, match="must be padded on one side, but zeros are in front in"):
        read(saved(tmp_path / "x.pkl", value))


def test_a_face_that_was_lost_in_the_first_frames_turns_no_side() -> None:
    frames = np.ones((100, 10, 2))
    frames[:, 8:] = 0
    frames[3, :3] = 0  # the face was lost ...
    frames[3, 9] = 1  # ... and there is a value behind the length
    part = look_at("x.pkl", frames, np.full(100, 8.0))
    sides, _, _ = find_sides({"vision": [part]}, "end")
    assert sides == {"vision": "end"}
    assert repairs_of([part], "end") == {"lengths_clamped": 0, "clips_with_junk": 1, "junk_frames": 1}


def test_clips_of_zeros_and_clips_without_padding_tell_no_side() -> None:
    frames = np.ones((3, 4, 2))
    frames[1] = 0
    part = look_at("x.pkl", frames, np.array([4.0, 2.0, 0.0]))
    sides, said, notes = find_sides({"audio": [part]}, "end")
    assert (sides, notes) == ({"audio": "end"}, [])
    assert [clip.shape for clip in without_padding(part, sides["audio"])] == [(4, 2), (2, 2), (0, 2)]
    assert said == {"audio": "end, by the file's lengths"}


def test_one_frame_of_zeros_in_front_of_every_clip_is_a_frame() -> None:
    """Aligned files of MMSA begin with the frame of [CLS]."""
    frames = np.zeros((40, 50, 2))
    for number in range(40):
        frames[number, 1 : 5 + number // 4] = 1
    part = look_at("aligned.pkl", frames)
    sides, said, notes = find_sides({"audio": [part]}, "end")
    assert (sides, notes) == ({"audio": "end"}, [])
    assert len(without_padding(part, "end")[0]) == 5
    assert said == {"audio": "end, trailing frames of zeros"}


def test_splits_without_lengths_follow_those_that_have_them(tmp_path: Path) -> None:
    value = mmsa({"audio": "front"})
    del value["test"]["audio_lengths"]
    assert_real_frames(read(saved(tmp_path / "x.pkl", value)), "audio")


def test_a_clip_that_is_padded_on_the_other_side_is_cut_there_and_named() -> None:
    frames = np.zeros((40, 6, 2), dtype=np.float32)
    frames[:, :4] = 1.0
    frames[7] = 0.0
    frames[7, 2:] = 2.0
    part = look_at("file, split 'train'", frames, np.full(40, 4.0))
    sides, _, notes = find_sides({"vision": [part]}, "end")
    clips = without_padding(part, sides["vision"])
    assert [len(clip) for clip in clips] == [4] * 40
    assert (np.asarray(clips[7][:]) == 2.0).all()
    assert notes == [
        "vision: 1 of 40 clips are padded on the other side than the rest and "
        "were truncated there (the first: file, split "
        "'train', row 8)"
    ]
    assert repairs_of([part], "end") == {"lengths_clamped": 0}


def test_lengths_that_are_greater_than_most_arrays_are_a_warning() -> None:
    part = look_at("file", np.ones((4, 3, 2), dtype=np.float32), np.array([9.0, 9.0, 9.0, 3.0]))
    _, _, notes = find_sides({"audio": [part]}, "end")
    assert notes == ["audio: 3 of 4 lengths are greater than the array: they belong to other data"]
