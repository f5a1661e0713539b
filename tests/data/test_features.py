"""Features of single modalities: folders of files per clip and tables in .npz are matched by id, never by position."""

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.npz import read_npy, read_npz
from conki_cli.data.sources import features
from conki_cli.data.sources.features import FeatureTable, attach, read_features
from conki_cli.data.sources.joining import POSITIONS
from conki_cli.data.sources.labels import read as read_labels
from conki_cli.data.sources.request import Request
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.system.errors import SourceError

SHARED = Path(__file__).parents[3] / "shared"
MOSI = SHARED / "data" / "mosi"
needs_shared = pytest.mark.skipif(not MOSI.is_dir(), reason="the real data files are not on this machine")

IDS = ("-a_b$_$0001", "-a_b$_$2", "7$_$0003", "7$_$4")
LABELS = """video_id,clip_id,text,label,mode
-a_b,0001,one,1,train
-a_b,2,two,-1,train
7,0003,three,0.5,valid
7,4,four,0,test
"""


def frames(length: int, width: int = 3) -> npt.NDArray[np.float32]:
    return np.arange(1, length * width + 1, dtype=np.float32).reshape(length, width)


def corpus(*ids: str, **present: Any) -> Corpus:
    samples = [Sample(clip, "text", 0.0, **present) for clip in (ids or IDS)]
    splits = {"train": samples[:2], "valid": samples[2:3], "test": samples[3:]}
    return Corpus("own", (-3, 3), splits, "label.csv", "label.csv", "0" * 64, 10)


def table(path: Path, modality: str = "audio") -> FeatureTable:
    return read_features(path, modality, Request("own", (-3, 3)))


def attached(path: Path, modality: str = "audio", target: Corpus | None = None) -> dict[str, Any]:
    made = attach(target or corpus(), {modality: table(path, modality)})
    return {clip.id: getattr(clip, modality) for clips in made.splits.values() for clip in clips}


def saved(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, value)
    return path


# ---- a file per clip ----


@pytest.mark.parametrize("names", ["{0}/{1}.npy", "{0}$_${1}.npy", "{0}_{1}.npy", "{0}/{0}$_${1}.npy"])
def test_every_layout_of_a_folder_is_matched_by_id(tmp_path: Path, names: str) -> None:
    for number, clip in enumerate(IDS, start=1):
        saved(tmp_path / names.format(*clip.split("$_$")), frames(number))
    found = attached(tmp_path)
    assert [found[clip].shape for clip in IDS] == [(1, 3), (2, 3), (3, 3), (4, 3)]
    np.testing.assert_array_equal(found[IDS[2]], frames(3))


@pytest.mark.parametrize("key", ["anything", "audio", "feature", "features"])
def test_files_per_clip_may_be_npz(tmp_path: Path, key: str) -> None:
    arrays: dict[str, Any] = {key: frames(2)} | ({} if key == "anything" else {"vision": frames(9)})
    for clip in IDS:
        np.savez_compressed(tmp_path / f"{clip}.npz", **arrays)
    np.testing.assert_array_equal(attached(tmp_path)[IDS[0]], frames(2))


def test_an_npz_of_a_clip_with_nothing_of_that_name_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "v$_$1.npz", text=frames(1), vision=frames(1))
    with pytest.raises(SourceError, match="must have an array 'audio' or 'features' or 'feature', found text, vision"):
        table(tmp_path)


def test_a_vector_is_one_frame(tmp_path: Path) -> None:
    saved(tmp_path / "v$_$1.npy", np.arange(5))
    assert np.asarray(table(tmp_path).frames["v$_$1"]).tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("value", [np.asfortranarray(frames(4)), frames(4).astype(">f8"), frames(4).astype(np.float16)])
def test_any_order_and_number_type_is_read(tmp_path: Path, value: npt.NDArray[Any]) -> None:
    saved(tmp_path / "v$_$1.npy", value)
    np.testing.assert_array_equal(np.asarray(table(tmp_path).frames["v$_$1"]), frames(4))


def test_files_are_read_only_when_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "v$_$1.npy", frames(2))
    clip = table(tmp_path).frames["v$_$1"]
    path.unlink()
    assert clip.shape == (2, 3)
    with pytest.raises(SourceError, match="No such file"):
        np.asarray(clip)


def test_a_file_without_frames_and_other_files_are_counted(tmp_path: Path) -> None:
    saved(tmp_path / "v$_$1.npy", frames(2))
    saved(tmp_path / "v$_$2.npy", np.zeros((0, 3)))
    (tmp_path / "README").write_text("x")
    (tmp_path / "._v$_$1.npy").write_text("left by another system")
    found = table(tmp_path)
    assert set(found.frames) == {"v$_$1"}
    assert [remark.partition(" in ")[0] for remark in found.remarks] == ["2 other files", "1 files"]


def test_the_checksum_covers_every_file(tmp_path: Path) -> None:
    for clip in IDS:
        saved(tmp_path / f"{clip}.npy", frames(2))
    before = table(tmp_path)
    saved(tmp_path / f"{IDS[3]}.npy", frames(2) + 1)
    after = table(tmp_path)
    assert before.sha256 != after.sha256
    assert before.bytes == after.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_every_file_is_reported_as_progress(tmp_path: Path) -> None:
    seen: list[int] = []
    for clip in IDS:
        saved(tmp_path / f"{clip}.npy", frames(2))
    read_features(tmp_path, "audio", Request("own", (-3, 3), progress=lambda count, remark: seen.append(count)))
    assert sum(seen) == 4


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 3, 4)), r"found float64 of shape (2, 3, 4)"),
        (np.float64(1), r"found float64 of shape ()"),
        (np.array(["a"]), "must be numbers [frames, features], found <U1"),
        (np.zeros(2, dtype=complex), "must hold numbers or text, found complex128"),
        (np.zeros(2, dtype=[("a", "f4")]), "must hold numbers or text, found [('a', '<f4')]"),
    ],
)
def test_a_file_with_anything_else_is_refused(tmp_path: Path, value: npt.NDArray[Any], message: str) -> None:
    saved(tmp_path / "v$_$1.npy", value)
    with pytest.raises(SourceError) as error:
        table(tmp_path)
    assert message in str(error.value)


def test_two_files_of_one_clip_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "v" / "1.npy", frames(2))
    saved(tmp_path / "v$_$1.npy", frames(2))
    with pytest.raises(SourceError, match=r"are both 'v\$_\$1': remove one"):
        table(tmp_path)


def test_an_empty_folder_or_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"must hold a file with the audio of each clip \(.npy, .*\), found none"):
        table(tmp_path)
    with pytest.raises(SourceError, match=r"there is no file or folder .*: check --vision"):
        table(tmp_path / "none", "vision")


@pytest.mark.parametrize("level", ["", "v"])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path, level: str) -> None:
    secret = saved(tmp_path / "secret" / "1.npy", frames(2))
    folder = tmp_path / "audio" / level
    folder.mkdir(parents=True)
    (folder / "1.npy").symlink_to(secret)
    with pytest.raises(SourceError, match="is a link that leads out of"):
        table(tmp_path / "audio")


@pytest.mark.parametrize("target", ["../secret", "nothing", "v"])
def test_a_linked_folder_that_leads_out_or_nowhere_is_refused(tmp_path: Path, target: str) -> None:
    saved(tmp_path / "secret" / "1.npy", frames(2))
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "v").symlink_to(target)
    with pytest.raises(SourceError, match="is a link that leads out of"):
        table(tmp_path / "audio")


def test_a_link_inside_the_folder_and_a_linked_folder_itself_are_read(tmp_path: Path) -> None:
    real = saved(tmp_path / "audio" / "v$_$1.npy", frames(2))
    (tmp_path / "audio" / "v$_$2.npy").symlink_to(real.name)
    (tmp_path / "link").symlink_to(tmp_path / "audio")
    assert set(table(tmp_path / "link").frames) == {"v$_$1", "v$_$2"}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v$_$1.npy")
    with pytest.raises(SourceError, match="must be a file"):
        table(tmp_path)


# ---- one file with all clips ----


def npz(path: Path, ids: Any = IDS, **arrays: Any) -> Path:
    np.savez(path / "features.npz", id=np.array(ids, dtype=object), **arrays)
    return path / "features.npz"


def test_rows_at_utterance_level_are_one_frame_each(tmp_path: Path) -> None:
    found = attached(npz(tmp_path, audio=frames(4)))
    assert [np.asarray(found[clip]).tolist() for clip in IDS] == [[row] for row in frames(4).tolist()]


def test_large_rows_stay_in_the_file(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(4, 9000))
    found = attached(npz(tmp_path, audio=values))
    assert not isinstance(found[IDS[1]], np.ndarray)
    np.testing.assert_array_equal(np.asarray(found[IDS[1]]), values[1:2])


def test_trailing_frames_of_zeros_are_padding(tmp_path: Path) -> None:
    values = np.zeros((4, 6, 2))
    values[0, :2], values[1, 3], values[3] = 1, 1, 1
    path = npz(tmp_path, vision=values)
    found = attached(path, "vision")
    assert [found[clip].shape for clip in IDS] == [(2, 2), (4, 2), (0, 2), (6, 2)]
    assert attach(corpus(), {"vision": table(path, "vision")}).padding == {"vision": "end, trailing frames of zeros"}


def test_lengths_in_the_file_decide(tmp_path: Path) -> None:
    read = table(npz(tmp_path, audio=np.zeros((4, 6, 2)), audio_lengths=[1, 0, 6, 9]))
    assert [read.frames[clip].shape[0] for clip in IDS] == [1, 0, 6, 6]
    assert (read.padding, read.repaired) == ("end, by the file's lengths", {"lengths_clamped": 1})


def test_lengths_of_the_modality_decide_whatever_the_array_is_called(tmp_path: Path) -> None:
    values = np.ones((4, 6, 2))
    values[0, 1:], values[1] = 0, 0
    read = table(npz(tmp_path, features=values, audio_lengths=[1, 0, 6, 9]))
    assert [read.frames[clip].shape[0] for clip in IDS] == [1, 0, 6, 6]


def test_arrays_that_are_not_asked_for_may_hold_anything(tmp_path: Path) -> None:
    path = npz(tmp_path, audio=frames(4), other=np.array([{"a": 1}], dtype=object))
    assert set(table(path).frames) == set(IDS)


@pytest.mark.parametrize("label", [np.array([{"a": 1}], dtype=object), np.ones((4, 7)), np.ones(3), np.float64(1)])
def test_labels_beside_features_may_be_no_scores(tmp_path: Path, label: Any) -> None:
    assert table(npz(tmp_path, audio=frames(4), label=label)).scores == {}


@pytest.mark.parametrize(
    "ids",
    [
        [clip.replace("$_$", "_") for clip in IDS],
        [f"{clip.replace('$_$', '[')}]" for clip in IDS],
        [clip.encode() for clip in IDS],
    ],
)
def test_ids_may_be_written_otherwise(tmp_path: Path, ids: list[str] | list[bytes]) -> None:
    found = attached(npz(tmp_path, ids[::-1], audio=frames(4)[::-1]))
    assert np.asarray(found[IDS[0]]).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "must have an array 'audio', found id"),
        ({"audio": frames(3)}, "must have one row for each of 4 ids, found the shape (3, 3)"),
        ({"audio": np.float32(1)}, "must have one row for each of 4 ids, found the shape ()"),
        ({"audio": np.zeros(4)}, "must be [clips, frames, features], found the shape (4,)"),
        ({"audio": np.array(["a"] * 4)}, "must be an array of numbers"),
        ({"audio": np.array(["a"] * 4, dtype=object)}, "must be an array of numbers"),
        ({"audio": np.array([{}] * 4)}, "object arrays of an .npz may only hold texts or arrays of numbers"),
        ({"audio": np.ones((4, 0, 3))}, "has the shape (4, 0, 3), which has no frames"),
        ({"audio": np.ones((4, 2, 3)), "audio_lengths": [1, 2]}, "must be one whole number from 0 for each of 4 clips"),
        ({"audio": np.ones((4, 2, 3)), "audio_lengths": [1, 2, -1, np.nan]}, "must be one whole number from 0"),
        ({"audio": frames(4), "mode": ["train"]}, "'mode' must have one split per clip, found 1 of 4"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError) as error:
        table(npz(tmp_path, **arrays))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_without_ids_or_with_equal_ones_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", audio=frames(4))
    with pytest.raises(SourceError, match="must have the clips' ids as 'id', found audio"):
        table(tmp_path / "x.npz")
    with pytest.raises(SourceError, match="ids must be unique, 'b' occurs twice"):
        table(npz(tmp_path, ["a", "b", "b", "c"], audio=frames(4)))


# ---- matching ----


def test_clips_that_the_table_lacks_have_no_frames_and_its_others_are_a_remark(tmp_path: Path) -> None:
    path = npz(tmp_path, [*IDS[:3], "other$_$1"], audio=frames(4))
    made = attach(corpus(audio=frames(9)), {"audio": table(path)})
    assert made.splits["test"][0].audio is None
    assert made.remarks == (
        "audio of 3 of 4 clips from features.npz instead of those of label.csv",
        "1 clips in features.npz are not in label.csv",
    )


def test_the_other_modality_stays(tmp_path: Path) -> None:
    vision = frames(2)
    made = attach(corpus(vision=vision), {"audio": table(npz(tmp_path, audio=frames(4)))})
    assert all(clip.vision is vision for clips in made.splits.values() for clip in clips)


def test_the_checksum_and_size_of_a_corpus_cover_what_was_attached(tmp_path: Path) -> None:
    read = table(npz(tmp_path, audio=frames(4)))
    made = attach(corpus(), {"audio": read})
    assert made.source_sha256 != corpus().source_sha256
    assert made.source_bytes == 10 + read.bytes
    assert attach(corpus(), {}).source_sha256 == corpus().source_sha256


def test_features_of_other_clips_are_refused_with_three_ids_of_each(tmp_path: Path) -> None:
    path = npz(tmp_path, ["w", "x", "y", IDS[0]], audio=frames(4))
    with pytest.raises(SourceError) as error:
        attached(path)
    assert "its ids are w, x, y, ..., the clips' -a_b$_$0001, -a_b$_$2, 7$_$0003, ..." in str(error.value)
    assert "found it for 1 of 4; at least half of the clips must be found" in str(error.value)


def test_a_name_that_fits_two_clips_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, ["a_b_c", "x", "y", "z"], audio=frames(4))
    with pytest.raises(SourceError, match=r"'a_b_c' may be 'a_b\$_\$c' or 'a\$_\$b_c'"):
        attached(path, target=corpus("a_b$_$c", "a$_$b_c", "x", "y"))


def scored(*scores: float) -> Corpus:
    """Return a corpus of the five clips that are called by numbers."""
    target, waiting = corpus(*NUMBERED), iter(scores)
    splits = {name: [replace(clip, score=next(waiting)) for clip in clips] for name, clips in target.splits.items()}
    return replace(target, splits=splits)


NUMBERED = tuple(f"v$_${number}" for number in range(1, 6))  # from 1, as in label.csv
POSITIONED = tuple(f"v[{number}]" for number in range(5))  # from 0, as in the SDK


def test_positions_are_told_from_names_by_the_scores(tmp_path: Path) -> None:
    target = scored(1, 2, 3, 2.5, 0)
    path = npz(tmp_path, POSITIONED, audio=frames(5), label=[1, 2, 3, 2.5, 0])
    made = attach(target, {"audio": table(path)})
    found = [np.asarray(clip.audio)[0, 0] for part in made.splits.values() for clip in part]
    assert found == [1, 4, 7, 10, 13]
    assert made.remarks[1] == (
        "clips of features.npz were found by position in the video, counted from 0; 100.0% of the scores are equal"
    )


def test_positions_without_scores_are_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, POSITIONED, audio=frames(5))
    with pytest.raises(SourceError, match=r"ids are counted differently: .* scores are needed to tell"):
        attach(corpus(*NUMBERED), {"audio": table(path)})
    for name in POSITIONED:
        saved(tmp_path / "audio" / f"{name}.npy", frames(1))
    with pytest.raises(SourceError, match="ids are counted differently"):
        attach(corpus(*NUMBERED), {"audio": table(tmp_path / "audio")})


def test_names_beside_a_corpus_of_positions_are_refused_without_scores(tmp_path: Path) -> None:
    target = replace(corpus(*(f"v$_${n}" for n in range(5))), remarks=(POSITIONS,))
    path = npz(tmp_path, NUMBERED, audio=frames(5))
    with pytest.raises(SourceError, match=r"give a file with scores, or --labels label.csv"):
        attach(target, {"audio": table(path)})


def test_clips_with_other_scores_are_refused_unless_the_ids_are_the_very_same(tmp_path: Path) -> None:
    target, wrong = scored(1, 2, 3, 2.5, 0), [-1, -2, -3, -2.5, 1]
    same = npz(tmp_path, NUMBERED, audio=frames(5), label=wrong)
    assert (
        "of 5 scores only 0 are equal: check that it is the same data"
        in attach(target, {"audio": table(same)}).notes[0]
    )
    fewer = npz(tmp_path, NUMBERED[:4], audio=frames(4), label=wrong[:4])
    with pytest.raises(SourceError, match=r"4 of 5 have the same id, but only 0 of 4 of them the same score"):
        attach(target, {"audio": table(fewer)})


def test_a_table_of_some_clips_is_found_by_id_and_score(tmp_path: Path) -> None:
    path = npz(tmp_path, NUMBERED[1:4], audio=frames(3), label=[2, 3, 2.5])
    made = attach(scored(1, 2, 3, 2.5, 0), {"audio": table(path)})
    found = [clip.audio is not None for part in made.splits.values() for clip in part]
    assert found == [False, True, True, True, False]


def test_texts_have_no_features(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="only features of vision and audio can be read, not of text"):
        table(npz(tmp_path, text=frames(4)), "text")


def test_an_id_never_leads_to_a_file(tmp_path: Path) -> None:
    saved(tmp_path / "secret.npy", frames(1))
    for clip in IDS[:2]:
        saved(tmp_path / "audio" / f"{clip}.npy", frames(2))
    found = attached(tmp_path / "audio", target=corpus(*IDS[:2], "../secret", str(tmp_path / "secret")))
    assert found["../secret"] is None
    assert found[str(tmp_path / "secret")] is None


# ---- the format "npz" ----


def source(tmp_path: Path, *, compressed: bool = False, **arrays: Any) -> tuple[Raw, Request]:
    (tmp_path / "label.csv").write_text(LABELS)
    ids = np.array([clip.replace("$_$", "_") for clip in IDS[::-1]], dtype=object)
    values: dict[str, Any] = {"label": [0, 0.5, -1, 1], "audio": frames(4), "text": np.zeros((4, 2)), **arrays}
    (np.savez_compressed if compressed else np.savez)(tmp_path / "all.npz", id=ids, **values)
    raw = Raw(tmp_path / "all.npz", "npz", read_npz(tmp_path / "all.npz"))
    return raw, Request("own", (-3, 3), labels=tmp_path / "label.csv")


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_is_joined_with_its_label_file(tmp_path: Path, compressed: bool) -> None:
    raw, request = source(tmp_path, compressed=compressed)
    assert features.recognise(raw) == "npz"
    made = features.read(raw, request, "npz")
    clips = {clip.id: clip for part in made.splits.values() for clip in part}
    assert [(clips[key].text, clips[key].score) for key in IDS] == [
        ("one", 1),
        ("two", -1),
        ("three", 0.5),
        ("four", 0),
    ]
    assert np.asarray(clips[IDS[0]].audio).tolist() == [[10, 11, 12]]
    assert [len(made.splits[name]) for name in ("train", "valid", "test")] == [2, 1, 1]


def test_what_an_archive_has_besides_is_named(tmp_path: Path) -> None:
    raw, request = source(tmp_path, other=np.zeros(3))
    made = features.read(raw, request, "npz")
    assert made.remarks[1:] == (
        "text vectors (4, 2) were not read: the model encodes the texts itself",
        "not read: other",
    )
    assert (made.source, made.source_format, made.notes) == ("all.npz", "npz", ())
    assert made.source_bytes == raw.path.stat().st_size + len(LABELS)


def test_scores_come_from_the_archive_where_the_label_file_has_none(tmp_path: Path) -> None:
    raw, request = source(tmp_path)
    lines = [",".join(line.split(",")[:3] + line.split(",")[4:]) for line in LABELS.splitlines()]
    (tmp_path / "label.csv").write_text("\n".join(lines))
    assert features.read(raw, request, "npz").splits["train"][0].score == -1


def test_an_archive_without_scores_has_those_of_the_label_file(tmp_path: Path) -> None:
    _, request = source(tmp_path)
    path = npz(tmp_path, IDS, audio=frames(4))
    made = features.read(Raw(path, "npz", read_npz(path)), request, "npz")
    assert [clip.score for part in made.splits.values() for clip in part] == [1, -1, 0.5, 0]


def test_an_archive_of_positions_without_scores_is_refused(tmp_path: Path) -> None:
    _, request = source(tmp_path)
    path = npz(tmp_path, POSITIONED[:4], audio=frames(4))
    with pytest.raises(SourceError, match=r"by position from 0, 'video\[3\]', and .*label.csv may count differently"):
        features.read(Raw(path, "npz", read_npz(path)), request, "npz")


def test_a_split_of_its_own_that_trains_on_test_clips_is_a_warning(tmp_path: Path) -> None:
    raw, request = source(
        tmp_path, bc_split=["train", "test", "train", "train"], mode=["test", "dev", "train", "train"]
    )
    made = features.read(raw, request, "npz")
    assert made.notes == (
        "'bc_split' in all.npz puts 2 clips into other splits than label.csv, 1 of the valid and test clips into "
        "train: features that were trained with that split have seen their scores",
    )


def test_the_warning_is_given_for_attached_features_too(tmp_path: Path) -> None:
    path = npz(tmp_path, audio=frames(4), vision=frames(4), split=["train"] * 4)
    made = attach(corpus(), {name: table(path, name) for name in ("vision", "audio")})
    assert len(made.notes) == 1
    assert "'split' in features.npz puts 2 clips into other splits" in made.notes[0]


def test_a_split_of_its_own_that_only_tests_on_training_clips_is_a_remark(tmp_path: Path) -> None:
    raw, request = source(tmp_path, split=["test", "dev", "test", "train"])
    made = features.read(raw, request, "npz")
    assert made.notes == ()
    assert "'split' in all.npz puts 1 clips into other splits than label.csv" in made.remarks


def test_an_archive_without_its_label_file_is_refused_with_that_advice(tmp_path: Path) -> None:
    raw, _ = source(tmp_path)
    with pytest.raises(SourceError, match=r"has no texts: give them, and the splits, with --labels label.csv"):
        features.read(raw, Request("own", (-3, 3)), "npz")


def test_an_archive_with_other_labels_is_refused(tmp_path: Path) -> None:
    raw, request = source(tmp_path, label=[3, 3, 3, 3])
    with pytest.raises(SourceError, match=r"only 0.0% of their scores are equal"):
        features.read(raw, request, "npz")
    raw, request = source(tmp_path, label=[3, 3])
    with pytest.raises(SourceError, match=r"'label' must have one score for each of 4 ids, found 2"):
        features.read(raw, request, "npz")


@pytest.mark.parametrize("content", [{}, {"id": 1, "label": 1}, {"label": 1, "audio": 1}])
def test_another_archive_is_not_recognised(content: dict[str, Any]) -> None:
    raw = Raw(Path("x.npz"), "npz", content)
    assert features.recognise(raw) is None
    with pytest.raises(SourceError, match=r"must be an .npz with 'id', and 'audio' or 'vision'"):
        features.read(raw, Request("own", (-3, 3)), "npz")
    assert features.recognise(Raw(Path("x"), "pickle", {"id": 1, "label": 1, "audio": 1})) is None


def test_frames_from_an_archive_and_from_files_are_the_same(tmp_path: Path) -> None:
    raw, request = source(tmp_path)
    one = features.read(raw, request, "npz")
    for clip, row in zip(IDS[::-1], frames(4), strict=True):
        saved(tmp_path / "audio" / f"{clip}.npy", row)
    texts = read_labels(Raw(tmp_path / "label.csv", "table", []), request, "labels")
    other = attach(texts, {"audio": table(tmp_path / "audio")})
    for split, clips in other.splits.items():
        mine = {clip.id: clip for clip in one.splits[split]}
        assert [(c.text, c.score) for c in clips] == [(mine[c.id].text, mine[c.id].score) for c in clips]
        assert all(np.array_equal(np.asarray(c.audio), np.asarray(mine[c.id].audio)) for c in clips)


# ---- .npy ----


def test_an_array_of_python_2_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy", frames(2))
    path.write_bytes(path.read_bytes().replace(b"(2, 3), }", b"(2L,3L),}"))
    np.testing.assert_array_equal(read_npy(path), frames(2))


def test_a_pickle_in_a_file_of_a_clip_is_not_even_opened(tmp_path: Path) -> None:
    saved(tmp_path / "v$_$1.npy", np.array([frames(1), None], dtype=object))
    with pytest.raises(SourceError, match="must be numbers"):
        table(tmp_path)
    (tmp_path / "v$_$1.npy").write_bytes(pickle.dumps(frames(1)))
    with pytest.raises(SourceError, match=r"must be a whole .npy array but is not"):
        table(tmp_path)


# ---- real files ----


@needs_shared
def test_the_real_archive_joins_all_clips_of_mosi() -> None:
    path = MOSI / "utterance_features.npz"
    made = features.read(Raw(path, "npz", read_npz(path)), Request("mosi", (-3, 3), labels=MOSI / "label.csv"), "npz")
    clips = [clip for part in made.splits.values() for clip in part]
    assert [len(made.splits[name]) for name in ("train", "valid", "test")] == [1284, 229, 686]
    assert {np.asarray(clip.audio).shape for clip in clips} == {(1, 73)}
    assert {np.asarray(clip.vision).shape for clip in clips} == {(1, 100)}
    vision = np.concatenate([np.asarray(clip.vision) for clip in clips])
    assert int((np.ptp(vision, axis=0) == 0).sum()) == 32
    assert len(made.notes) == 1
    assert "'bc_split' in utterance_features.npz puts 1377 clips" in made.notes[0]
