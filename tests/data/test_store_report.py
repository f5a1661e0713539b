"""What the checker finds in a corpus, what the writer does to its frames, and what the store says of both."""

import dataclasses
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import resealed
from sklearn.preprocessing import StandardScaler

from conki_cli.data.store.checking import check
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import SPLITS, Corpus, Sample
from conki_cli.data.store.writing import num_values, store_lock, write_store
from conki_cli.datasets import sizes_of
from conki_cli.system.errors import SourceError, StoreError

DRAW = np.random.default_rng(3)
SIZES = {"train": 30, "valid": 6, "test": 4}


def clip(split: str, number: int, **changes: Any) -> Sample:
    frames = {"vision": np.full((2, 3), number, "f4"), "audio": np.full((1, 2), 1.5)}
    return Sample(
        **{"id": f"{split}$_${number}", "text": f"{split} {number}", "score": number % 2, **frames, **changes}
    )


def corpus(*extra: Sample, split: str = "train", **changes: Any) -> Corpus:
    splits = {name: [clip(name, k) for k in range(size)] for name, size in SIZES.items()}
    splits[split] += extra
    return dataclasses.replace(Corpus("own", (-3.0, 3.0), splits, "own.pkl", "MMSA pickle", "0" * 64), **changes)


def changed(number: int, **changes: Any) -> Corpus:
    made = corpus()
    train = [dataclasses.replace(s, **changes) if k < number else s for k, s in enumerate(made.splits["train"])]
    return dataclasses.replace(made, splits={**made.splits, "train": train})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.h5"


# ---- the checker ----


def test_a_clean_corpus_has_no_warning_and_stays_as_it_is() -> None:
    checked = check(corpus())
    assert checked.warnings == ()
    assert checked.corpus.splits == {name: list(part) for name, part in checked.corpus.splits.items()}
    assert checked.widths == {"vision": 3, "audio": 2}
    assert [len(checked.corpus.splits[name]) for name in SPLITS] == list(SIZES.values())


@pytest.mark.parametrize("score", [7.0, float("nan"), float("-inf")])
def test_few_clips_with_impossible_scores_are_left_out_and_named(score: float) -> None:
    checked = check(corpus(clip("bad", 1, score=score)))
    assert checked.warnings == (f"1 clip left out: the score is not a number from -3 to 3 (bad$_$1 has {score:g})",)
    assert checked.report["left_out"] == {"score": {"count": 1, "ids": ["bad$_$1"]}}
    assert len(checked.corpus.splits["train"]) == 30


def test_many_impossible_scores_are_refused_with_the_range_that_was_found() -> None:
    with pytest.raises(
        SourceError, match=r"'train\$_\$0' has 4 \(3 of 40 clips, all scores are between 0 and 4\).*--score-r"
    ):
        check(changed(3, score=4.0))


def test_two_of_forty_clips_are_few_enough_to_be_left_out() -> None:
    assert len(check(changed(2, score=4.0)).corpus.splits["train"]) == 28


def test_a_split_whose_every_score_is_impossible_is_refused() -> None:
    made = corpus(*(clip("more", k) for k in range(20)))
    made = dataclasses.replace(made, splits={**made.splits, "test": [clip("test", 0, score=9.0)]})
    with pytest.raises(SourceError, match="no clip of the split 'test' is left"):
        check(made)


def test_a_clip_that_occurs_again_is_left_out() -> None:
    checked = check(corpus(clip("train", 5), clip("train", 5)))
    assert checked.warnings == (
        "2 clips left out: a clip with the same id, text and score came before (train$_$5, train$_$5)",
    )
    assert len(checked.corpus.splits["train"]) == 30


@pytest.mark.parametrize("unimodal", [{"text": 5.0}, {"text": float("nan")}, {}], ids=["outside", "nan", "absent"])
def test_a_unimodal_score_that_one_clip_lacks_is_left_out_for_all(unimodal: dict[str, float]) -> None:
    made = corpus()
    splits = {
        s: [dataclasses.replace(c, unimodal={"text": 1.0, "audio": 2.0}) for c in p] for s, p in made.splits.items()
    }
    splits["valid"][2] = dataclasses.replace(splits["valid"][2], unimodal={**unimodal, "audio": 1.0})
    checked = check(dataclasses.replace(made, splits=splits))
    assert {tuple(c.unimodal) for part in checked.corpus.splits.values() for c in part} == {("audio",)}
    assert checked.report["unimodal_left_out"] == ["text"]
    assert "the text scores left out: for 1 clip they are not numbers from -3 to 3 (valid$_$2)" in checked.warnings


@pytest.mark.parametrize("frames", [None, np.empty((0, 2)), np.empty((0, 9)), np.empty(0)])
def test_clips_without_a_modality_get_no_frames_of_it_and_are_named(frames: Any) -> None:
    checked = check(changed(2, audio=frames))
    assert checked.warnings == ("2 clips without audio (train$_$0, train$_$1)",)
    assert checked.report["without_frames"] == {"audio": {"count": 2, "ids": ["train$_$0", "train$_$1"]}}
    assert checked.corpus.splits["train"][0].audio.shape == (0, 2)


def test_of_many_clips_the_first_ten_are_named() -> None:
    (warning,) = check(changed(12, audio=None)).warnings
    assert warning.count("$_$") == 10
    assert warning.startswith("12 clips without audio (")
    assert warning.endswith(", ...)")


def test_a_modality_that_no_clip_has_frames_of_is_absent(path: Path) -> None:
    made = corpus()
    splits = {s: [dataclasses.replace(c, audio=np.empty((0, 2))) for c in part] for s, part in made.splits.items()}
    write_store(path, dataclasses.replace(made, splits=splits))
    with FeatureStore(path) as store:
        assert store.modalities == ("text", "vision")
        assert store.notes == ("audio left out: no clip has a frame of it",)


def test_a_modality_that_only_other_splits_have_is_kept_without_frames_in_training(path: Path) -> None:
    write_store(path, changed(30, audio=None))
    with FeatureStore(path) as store:
        assert store.split("train").frames["audio"].lengths.sum() == 0
        assert store.split("test").frames["audio"][0].tolist() == [[1.5, 1.5]]


class Endless:
    """Frames that claim a shape and must not be read."""

    shape = (10**9, 3)

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> Any:
        raise AssertionError("read")


def test_a_file_that_declares_far_more_than_it_holds_is_refused(path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"at most 64 times the size of their file, but they declare 11\.2 GiB in a file of 1000 B"
    ):
        write_store(path, corpus(clip("big", 1, vision=Endless()), source_bytes=1000))


def test_one_text_shared_by_all_clips_counts_for_each() -> None:
    text = "x" * 4_000_000
    with pytest.raises(SourceError, match="at most 64 times"):
        check(dataclasses.replace(changed(20, text=text), source_bytes=1000))


def test_empty_and_repeated_texts_are_counted() -> None:
    checked = check(corpus(clip("a", 1, text=" "), clip("a", 2, text="test 1"), clip("a", 3, text="train 1")))
    assert checked.warnings == ("1 clip with an empty text; they were kept",)
    said = "4 clips share their text with another clip: 2 texts, 1 of them in two splits"
    assert checked.report["remarks"] == [said]
    assert checked.report["repeated_texts"] == {"count": 2, "clips": 4, "across_splits": 1}


def test_many_clips_with_the_text_of_another_are_warned_of() -> None:
    assert check(changed(8, text="the same")).warnings == ()
    (warning,) = check(changed(9, text="the same")).warnings
    assert warning.startswith("9 clips share their text with another clip: 1 text, 0 of them in two splits; check")


def test_scores_that_are_all_equal_are_warned_of() -> None:
    splits = {s: [dataclasses.replace(c, score=0.5) for c in part] for s, part in corpus().splits.items()}
    assert check(corpus(splits=splits)).warnings == (
        "all scores are 0.5, so there is nothing to learn: check that this is the right column",
    )


def test_a_split_without_a_modality_is_warned_of() -> None:
    assert check(changed(30, audio=None)).warnings[1:] == ("no clip of the split 'train' has audio",)


@pytest.mark.parametrize(
    ("dataset", "advice"),
    [("own", "give the right --score-range"), ("sims", "if this is not sims, give another --da")],
)
def test_scores_of_another_range_are_refused_with_advice_that_can_be_followed(dataset: str, advice: str) -> None:
    with pytest.raises(SourceError, match=advice):
        check(dataclasses.replace(changed(30, score=4.0), dataset=dataset))


@pytest.mark.parametrize("field", ["id", "text"])
@pytest.mark.parametrize("character", [0x200000, 0xD800])
def test_numbers_that_are_no_characters_are_refused_and_the_old_store_stays(
    path: Path, field: str, character: int
) -> None:
    write_store(path, corpus())
    before = path.read_bytes()
    text = np.array([character] * 8, "u4").view("U8").item()
    with pytest.raises(SourceError, match=f"the {field} of .* has characters that are not valid text"):
        write_store(path, changed(1, **{field: text}))
    assert path.read_bytes() == before


@pytest.mark.parametrize("character", ["\x07", "\x1b", "\n", "\u2028", "\x85"])
def test_an_id_that_steers_a_terminal_is_refused_by_the_name_of_its_character(character: str) -> None:
    with pytest.raises(SourceError, match=f"must be printable, found the control character U.{ord(character):04X} in"):
        check(changed(1, id=f"a{character}b$_$1"))


def test_a_store_that_cannot_be_opened_replaces_no_other(path: Path) -> None:
    write_store(path, corpus())
    before = path.read_bytes()
    splits = {s: [dataclasses.replace(c, score=1.0) for c in part] for s, part in corpus().splits.items()}
    with pytest.raises(SourceError, match="the store made from it cannot be opened and was deleted"):
        write_store(path, corpus(splits=splits, score_range=(1.0, 1.0)))
    assert [path.read_bytes(), list(path.parent.iterdir())] == [before, [path]]


def test_a_modality_of_zeros_is_warned_of_and_one_with_a_number_is_not(path: Path) -> None:
    splits = {s: [dataclasses.replace(c, audio=np.zeros((2, 2))) for c in p] for s, p in corpus().splits.items()}
    write_store(path, corpus(splits=splits), normalize="zscore")
    with FeatureStore(path) as store:
        assert store.notes == ("audio is all zeros in every clip: check that this is the right file",)
    with pytest.raises(SourceError, match="--strict allows no warning, found 1: audio is all zeros"):
        write_store(path, corpus(splits=splits), strict=True)


def test_numbers_beyond_float32_are_counted_apart_from_infinite_ones(path: Path) -> None:
    write_store(path, changed(1, vision=np.array([[1e39, np.inf, -1e300]])))
    with FeatureStore(path) as store:
        assert store.repaired["vision"] == {"nan": 0, "inf": 1, "too_large": 2}
        assert store.split("train").frames["vision"][0].tolist() == [[0, 0, 0]]


def test_videos_in_two_splits_are_warned_of() -> None:
    assert check(corpus(clip("test", 77))).warnings == (
        "train and test share 1 video: they are not independent of each other",
    )


def test_videos_in_two_splits_of_the_published_sizes_are_a_remark() -> None:
    sizes = dict(zip(SPLITS, sizes_of("sims") or (), strict=True))
    splits = {s: [Sample(f"v$_${s}{k}", f"{s} {k}", k % 2) for k in range(size)] for s, size in sizes.items()}
    checked = check(corpus(splits=splits, dataset="sims"))
    assert checked.warnings == ()
    assert "train and test share 1 video: they are not independent of each other" in checked.report["remarks"]


def test_sizes_other_than_the_published_ones_are_warned_of() -> None:
    (warning,) = check(corpus(dataset="sims")).warnings
    assert warning.startswith("30/6/4 clips in train/valid/test, published are 1368/456/457")


def test_the_readers_notes_come_first() -> None:
    assert check(dataclasses.replace(changed(1, audio=None), notes=("careful",))).warnings[0] == "careful"


def test_an_id_of_any_length_makes_no_endless_message() -> None:
    checked = check(corpus(clip("x" * 10_000, 1, score=9.0)))
    assert len(checked.warnings[0]) < 200


# ---- the report in the store ----


def test_a_store_holds_what_was_reported(path: Path) -> None:
    made = dataclasses.replace(changed(1, audio=None), remarks=("2 ids rewritten",), padding={"vision": "end"})
    write_store(path, made)
    with FeatureStore(path) as store:
        report = store.report
    assert report["format"] == "MMSA pickle"
    assert report["padding"] == {"vision": "end"}
    assert report["remarks"] == ["2 ids rewritten"]
    assert report["warnings"] == ["1 clip without audio (train$_$0)"]
    assert report["repaired"] == {"vision": {"nan": 0, "inf": 0}, "audio": {"nan": 0, "inf": 0}}


def test_the_share_of_padding_is_that_of_clips_padded_to_the_longest() -> None:
    report = check(changed(10, vision=np.zeros((4, 3)))).report
    assert report["padding_share"]["vision"] == pytest.approx(1 - (10 * 4 + 30 * 2) / (40 * 4))


def test_a_long_report_is_kept_whole(path: Path) -> None:
    remarks = tuple(f"remark {k} " + "ä" * 1000 for k in range(200))
    write_store(path, corpus(remarks=remarks))
    with FeatureStore(path) as store:
        assert store.report["remarks"] == list(remarks)


def test_a_store_from_before_reports_has_an_empty_one(path: Path) -> None:
    write_store(path, corpus())
    with resealed(path) as file:
        del file.attrs["report"], file.attrs["normalization"]
    with FeatureStore(path) as store:
        assert store.report == {}
        assert store.normalization == {"method": "none"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("report", "[1]"),
        ("report", '{"padding": 3}'),
        ("report", '{"padding_share": {"vision": "x"}}'),
        ("report", '{"remarks": 3}'),
        ("repaired", '{"audio": {"nan": "many"}}'),
        ("repaired", '{"audio": {"nan": 1.5}}'),
        ("repaired", '{"audio": 3}'),
        ("normalization", '{"method": "other"}'),
        ("normalization", "{}"),
        ("normalization", '{"method": "zscore", "epsilon": 1, "constant_columns": {}}'),
    ],
)
def test_a_senseless_report_or_count_is_damage(path: Path, name: str, value: str) -> None:
    write_store(path, corpus())
    with resealed(path) as file:
        file.attrs[name] = value
    with pytest.raises(StoreError, match="is damaged"):
        FeatureStore(path)


# ---- strict ----


def test_strict_refuses_warnings_in_one_line_and_writes_nothing(path: Path) -> None:
    made = dataclasses.replace(changed(1, audio=None), notes=("a", "b", "c"))
    with pytest.raises(SourceError, match=r"^own.pkl: --strict allows no warning, found 4: a; b; c; \.\.\.: repair"):
        write_store(path, made, strict=True)
    assert not list(path.parent.iterdir())


def test_strict_refuses_repairs_and_keeps_the_old_store(path: Path) -> None:
    write_store(path, corpus(), strict=True)
    before = path.read_bytes()
    with pytest.raises(SourceError, match="found 1: vision: 2 NaN and 1 infinite values became 0"):
        write_store(path, changed(1, vision=np.array([[np.nan, np.inf, np.nan]])), strict=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["own.h5"]


# ---- frames that are read late, of any kind of number ----


class Late:
    """Frames that are read when they are asked for."""

    def __init__(self, values: Any, shape: tuple[int, ...] | None = None) -> None:
        self.values = values
        self.shape = shape or values.shape

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> Any:
        if self.values is None:
            raise OSError("gone")
        return np.asarray(self.values, dtype=dtype)


@pytest.mark.parametrize("kind", ["?", "i1", "u2", ">i4", "i8", "f2", ">f4", "f8", ">f8"])
def test_every_kind_of_number_becomes_float32(path: Path, kind: str) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    write_store(path, changed(1, vision=Late(values)))
    with FeatureStore(path) as store:
        frames = store.split("train").frames["vision"][0]
    assert frames.dtype == np.float32
    assert frames.tolist() == [[0, 1, 1], [1, 0, 1]]


@pytest.mark.parametrize(
    "frames",
    [
        Late(np.zeros((2, 3), "c8")),
        Late(np.array([["a"] * 3] * 2)),
        Late(np.zeros((3, 3)), (2, 3)),
        Late(np.zeros((2, 4)), (2, 3)),
        Late(None, (2, 3)),
    ],
    ids=["complex", "text", "longer", "wider", "unreadable"],
)
def test_frames_that_are_not_what_they_claim_are_the_sources_fault(path: Path, frames: Late) -> None:
    with pytest.raises(SourceError, match=r"own.pkl: vision of 'train\$_\$0' (must be numbers|cannot be read)"):
        write_store(path, changed(1, vision=frames))
    assert not list(path.parent.iterdir())


def test_a_huge_clip_is_read_in_pieces(path: Path) -> None:
    class Huge:
        shape = (4_000_000, 3)  # 48 MB
        largest = 0

        def __getitem__(self, rows: slice) -> Any:
            Huge.largest = max(Huge.largest, rows.stop - rows.start)
            return np.ones((rows.stop - rows.start, 3), "f4")

    tracemalloc.start()
    write_store(path, changed(1, vision=Huge()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Huge.largest <= 2**22 // 3
    assert peak < 60 * 2**20


def test_progress_counts_every_value_once(path: Path) -> None:
    told: list[tuple[int, str]] = []
    write_store(path, corpus(), progress=lambda count, remark: told.append((count, remark)))
    assert sum(count for count, _ in told) == num_values(corpus()) == 40 * (2 * 3 + 1 * 2)
    assert [remark for _, remark in told][:2] == ["train vision", "train audio"]


def test_the_lock_file_lies_beside_the_store(path: Path) -> None:
    assert store_lock(path) == path.parent / ".own.h5.lock"


# ---- z-scores ----


def drawn(**changes: Any) -> Corpus:
    """Columns of very different size; the last is constant in training, and there is a NaN."""

    def frames(count: int, last: float) -> Any:
        values = DRAW.normal(size=(count, 4)) * [1, 1e-9, 1e5, 0] + [0, 1e-8, 1e7, last]
        return values.astype("f4")

    splits = {s: [clip(s, k, vision=frames(k % 5, 7.0), audio=None) for k in range(n)] for s, n in SIZES.items()}
    splits["test"][1] = clip("test", 1, vision=frames(3, 9.0), audio=None)
    splits["train"][3].vision[0, 0] = np.nan
    return corpus(splits=splits, **changes)


def test_z_scores_are_those_of_a_second_library(path: Path) -> None:
    made = drawn()
    write_store(path, made, normalize="zscore")
    train, test = (np.concatenate([c.vision for c in made.splits[s]]).astype("f8") for s in ("train", "test"))
    scaler = StandardScaler().fit(np.nan_to_num(train))
    with FeatureStore(path) as store:
        np.testing.assert_allclose(store.split("test").frames["vision"].values[:], scaler.transform(test), atol=1e-4)
        np.testing.assert_allclose(store.moments["vision"][0], scaler.mean_, rtol=1e-12)
        np.testing.assert_allclose(store.moments["vision"][1][:3], np.sqrt(scaler.var_)[:3], rtol=1e-9)


def test_constant_columns_are_only_centred_and_are_named(path: Path) -> None:
    write_store(path, drawn(), normalize="zscore")
    with FeatureStore(path) as store:
        assert store.normalization == {"method": "zscore", "epsilon": 1e-6, "constant_columns": {"vision": [3]}}
        assert not store.split("train").frames["vision"].values[:][:, 3].any()
        assert store.split("test").frames["vision"][1][:, 3].tolist() == [2, 2, 2]


def test_a_column_that_is_constant_up_to_rounding_is_only_centred(path: Path) -> None:
    made = corpus()
    for part in made.splits.values():
        for k, sample in enumerate(part):
            sample.vision[:, 0] = np.nextafter(np.float32(7), np.float32(7 + k % 2))
            sample.vision[:, 1] = 7 + 0.001 * (k % 2)
    write_store(path, made, normalize="zscore")
    with FeatureStore(path) as store:
        assert store.normalization["constant_columns"]["vision"] == [0]
        values = store.split("train").frames["vision"].values[:]
    assert np.abs(values[:, 0]).max() < 1e-6
    np.testing.assert_allclose(np.abs(values[:, 1]), 1, rtol=1e-3)


def test_z_scores_do_not_depend_on_the_slices(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = drawn()
    write_store(path, made, normalize="zscore")
    with FeatureStore(path) as store:
        whole = store.split("train").frames["vision"].values[:]
    monkeypatch.setattr("conki_cli.data.store.writing.SLICE_VALUES", 8)
    write_store(path, made, normalize="zscore")
    with FeatureStore(path) as store:
        np.testing.assert_allclose(store.split("train").frames["vision"].values[:], whole, rtol=1e-5, atol=1e-6)


def test_repairs_are_counted_once_though_training_is_read_twice(path: Path) -> None:
    told: list[int] = []
    made = drawn()
    write_store(path, made, normalize="zscore", progress=lambda count, remark: told.append(count))
    with FeatureStore(path) as store:
        assert store.repaired == {"vision": {"nan": 1, "inf": 0}}
    assert sum(told) == num_values(made, "zscore")


def test_z_scores_change_the_content_id_and_none_does_not(path: Path) -> None:
    found = set()
    for method in ("none", "zscore", "none"):
        write_store(path, corpus(), normalize=method)
        with FeatureStore(path) as store:
            found.add(store.content_id)
    assert len(found) == 2


def test_z_scores_beyond_float32_become_zero_and_are_counted(path: Path) -> None:
    made = changed(1, vision=np.array([[1e-3, 1, 1]]))
    splits = {**made.splits, "test": [clip("test", 0, vision=np.array([[3e38, 1, 1]]))]}
    for part in splits.values():
        part[:] = [dataclasses.replace(c, vision=np.asarray(c.vision) * [1e-3, 1, 1]) for c in part[:-1]] + part[-1:]
    write_store(path, dataclasses.replace(made, splits=splits), normalize="zscore")
    with FeatureStore(path) as store:
        assert np.isfinite(store.split("test").frames["vision"].values[:]).all()


def test_z_scores_need_frames_in_training(path: Path) -> None:
    with pytest.raises(SourceError, match="no clip of it has audio: prepare without --normalize"):
        write_store(path, changed(30, audio=None), normalize="zscore")


# ---- reading frames where they lie ----


def test_frames_are_read_without_hdf5_and_equal_what_it_reads(path: Path) -> None:
    write_store(path, drawn())
    with FeatureStore(path) as store, h5py.File(path) as file:
        ragged = store.split("train").frames["vision"]
        assert not isinstance(ragged.values, h5py.Dataset)
        np.testing.assert_array_equal(ragged.values[:], file["train/vision/frames"][:])
        np.testing.assert_array_equal(ragged[4], file["train/vision/frames"][6:10])


def test_a_clip_is_the_readers_own_array(path: Path) -> None:
    write_store(path, corpus())
    with FeatureStore(path) as store:
        ragged = store.split("train").frames["vision"]
        ragged[3][:] = 99
        assert ragged[3].tolist() == [[3, 3, 3]] * 2


def test_a_store_that_is_cut_while_it_is_open_is_one_line(path: Path) -> None:
    write_store(path, corpus())
    with FeatureStore(path) as store:
        os.truncate(path, 1000)
        with pytest.raises(StoreError, match=r"own\.h5 ends too early: .*`conki prepare`"):
            store.split("train").frames["vision"][3]


def test_a_closed_store_gives_no_frames(path: Path) -> None:
    write_store(path, corpus())
    with FeatureStore(path) as store:
        frames = store.split("train").frames["vision"]
    with pytest.raises(StoreError, match="is closed"):
        frames[3]


def test_an_open_store_is_read_on_when_another_takes_its_name(path: Path) -> None:
    write_store(path, corpus())
    with FeatureStore(path) as store:
        write_store(path, changed(30, vision=np.zeros((1, 3))))
        assert store.split("train").frames["vision"][3].tolist() == [[3, 3, 3]] * 2


def test_attributes_stay_those_of_schema_1_and_two_more(path: Path) -> None:
    write_store(path, corpus())
    with h5py.File(path) as file:
        assert set(file.attrs) >= {"report", "normalization", "notes", "repaired", "content_id"}
        assert file.attrs["schema_version"] == 1
        assert json.loads(file.attrs["normalization"]) == {"method": "none"}
        assert set(file) == set(SPLITS)
