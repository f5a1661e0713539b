"""The feature store: what is written comes back, what must not be written or opened is refused."""

import dataclasses
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import resealed
from hypothesis import given, settings
from hypothesis import strategies as st

from conki_cli.data.store.arrays import OpenFile
from conki_cli.data.store.describing import describe
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Sample, video_of
from conki_cli.data.store.writing import write_store
from conki_cli.system.errors import ConkiError, SourceError, StoreError
from conki_cli.system.files import to_json


def clip(number: int, *, video: str = "vid_1", **changes: object) -> Sample:
    made = Sample(
        id=f"{video}$_${number}",
        text=f"word number {number}",
        score=(number % 7) - 3.0,
        vision=np.full((number % 4 + 1, 2), number, dtype=np.float64),
        audio=np.arange(number % 3 * 5, dtype=np.float32).reshape(-1, 5),
    )
    return dataclasses.replace(made, **changes)


def corpus(**changes: object) -> Corpus:
    splits = {
        "train": [clip(n, video="a") for n in range(5)],
        "valid": [clip(n, video="b") for n in range(3)],
        "test": [clip(n, video="c") for n in range(2)],
    }
    made = Corpus("own", (-3.0, 3.0), splits, "own.pkl", "MMSA pickle", "0" * 64)
    return dataclasses.replace(made, **changes)


def with_first(sample: Sample) -> Corpus:
    made = corpus()
    return dataclasses.replace(made, splits={**made.splits, "train": [sample, *made.splits["train"][1:]]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.h5"


@pytest.fixture
def written(path: Path) -> Path:
    write_store(path, corpus())
    return path


def content_id(path: Path, made: Corpus) -> str:
    write_store(path, made)
    with FeatureStore(path) as store:
        return store.content_id


def assert_one_line(error: pytest.ExceptionInfo[ConkiError]) -> None:
    assert "\n" not in str(error.value)


def test_columns_come_back_as_written(written: Path) -> None:
    with FeatureStore(written) as store:
        train = store.split("train")
    assert train.ids == [f"a$_${n}" for n in range(5)]
    assert train.texts == [f"word number {n}" for n in range(5)]
    assert train.scores is not None
    assert train.scores.tolist() == [-3, -2, -1, 0, 1]


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
CLIPS = st.tuples(
    TEXTS,
    st.floats(-3, 3, width=32),
    st.lists(st.tuples(FLOATS, FLOATS), max_size=5),
    st.lists(st.tuples(FLOATS), max_size=5),
)
SPLITS = st.tuples(*[st.lists(CLIPS, min_size=1, max_size=6)] * 3)


@settings(max_examples=20)
@given(splits=SPLITS)
def test_any_clips_come_back_from_the_store_to_the_last_bit(
    splits: tuple[list[tuple[Any, ...]], ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def sample(name: str, number: int, text: str, score: float, vision: list[Any], audio: list[Any]) -> Sample:
        frames = {"vision": np.array(vision, "f4").reshape(-1, 2), "audio": np.array(audio, "f4").reshape(-1, 1)}
        return Sample(f"{name}$_${number}", text, score, **frames)

    drawn = {
        name: [sample(name, number, *values) for number, values in enumerate(clips)]
        for name, clips in zip(("train", "valid", "test"), splits, strict=True)
    }
    path = tmp_path_factory.getbasetemp() / "drawn.h5"
    write_store(path, corpus(splits=drawn))
    with FeatureStore(path) as store:
        for name, clips in drawn.items():
            part = store.split(name)
            assert (part.ids, part.texts) == ([clip.id for clip in clips], [clip.text for clip in clips])
            assert part.scores is not None
            assert part.scores.tolist() == [clip.score for clip in clips]
            for number, clip in enumerate(clips):
                for modality, frames in part.frames.items():
                    assert frames[number].tobytes() == getattr(clip, modality).tobytes()


def test_frames_come_back_ragged_and_as_float32(written: Path) -> None:
    with FeatureStore(written) as store:
        for n, sample in enumerate(corpus().splits["train"]):
            frames = store.split("train").frames["vision"][n]
            assert frames.dtype == np.float32
            np.testing.assert_array_equal(frames, sample.vision)


def test_a_clip_without_frames_is_legal(written: Path) -> None:
    with FeatureStore(written) as store:
        audio = store.split("train").frames["audio"]
        assert audio.lengths.tolist() == [0, 1, 2, 0, 1]
        assert audio[0].shape == (0, 5)


def test_frames_are_stored_without_padding_or_compression(written: Path) -> None:
    with h5py.File(written) as file:
        frames = file["train/vision/frames"]
        assert frames.shape == (1 + 2 + 3 + 4 + 1, 2)
        assert frames.chunks is None
        assert file["train/vision/offsets"][:].tolist() == [0, 1, 3, 6, 10, 11]


def test_clips_are_found_beyond_one_slice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conki_cli.data.store.writing.SLICE_VALUES", 3)
    small = content_id(path, corpus())
    monkeypatch.undo()
    assert content_id(path, corpus()) == small
    with FeatureStore(path) as store:
        assert store.split("train").frames["vision"][3].tolist() == [[3, 3]] * 4


def test_a_clip_beyond_the_last_is_an_index_error(written: Path) -> None:
    with FeatureStore(written) as store, pytest.raises(IndexError):
        store.split("test").frames["vision"][2]


def test_modalities_and_widths_follow_the_papers_order(written: Path) -> None:
    with FeatureStore(written) as store:
        assert store.modalities == ("text", "vision", "audio")
        assert list(store.widths.items()) == [("vision", 2), ("audio", 5)]


def test_a_store_of_texts_alone_has_one_modality(path: Path) -> None:
    splits = {s: [dataclasses.replace(c, vision=None, audio=None) for c in part] for s, part in corpus().splits.items()}
    write_store(path, corpus(splits=splits))
    with FeatureStore(path) as store:
        assert store.modalities == ("text",)
        assert store.split("train").frames == {}


def test_unimodal_scores_come_back(path: Path) -> None:
    splits = {
        s: [dataclasses.replace(c, unimodal={"audio": c.score / 2}) for c in part]
        for s, part in corpus().splits.items()
    }
    write_store(path, corpus(splits=splits))
    with FeatureStore(path) as store:
        assert store.split("test").unimodal["audio"].tolist() == [-1.5, -1.0]


def test_what_is_not_finite_becomes_zero_and_is_counted(path: Path) -> None:
    vision = np.array([[np.nan, 1.0], [-np.inf, np.inf], [1e300, 2.0]])
    write_store(path, with_first(clip(0, video="a", vision=vision)))
    with FeatureStore(path) as store:
        assert store.split("train").frames["vision"][0].tolist() == [[0, 1], [0, 0], [0, 2]]
        assert store.repaired["vision"] == {"nan": 1, "inf": 2, "too_large": 1}
        assert store.repaired["audio"] == {"nan": 0, "inf": 0}
    assert np.isnan(vision[0, 0])  # the caller's array is left alone


def test_what_the_reader_repaired_is_kept(path: Path) -> None:
    write_store(path, corpus(repaired={"audio": {"junk_frames": 7}}, notes=("careful",)))
    with FeatureStore(path) as store:
        assert store.repaired["audio"] == {"nan": 0, "inf": 0, "junk_frames": 7}
        assert store.notes[0] == "careful"


def test_equal_clips_have_an_equal_content_id_whatever_their_source(path: Path) -> None:
    assert content_id(path, corpus()) == content_id(path, corpus(source="other.pkl", source_sha256="1" * 64))


@pytest.mark.parametrize(
    "changes",
    [{"text": "other"}, {"score": 0.25}, {"id": "a$_$99"}, {"vision": np.ones((1, 2))}, {"vision": np.zeros((2, 2))}],
    ids=["text", "score", "id", "value", "length"],
)
def test_another_clip_gives_another_content_id(path: Path, changes: dict[str, object]) -> None:
    assert content_id(path, corpus()) != content_id(path, with_first(clip(0, video="a", **changes)))


def test_the_content_id_of_schema_1_stays_what_it_was(path: Path) -> None:
    assert content_id(path, corpus()) == "ce3049d501dbb0f7bb3101f5dd7756e8815dae3b16bfc9b3de4c84eb850c1167"


def test_the_video_stands_before_the_last_separator() -> None:
    assert [video_of(name) for name in ("-a_b$_$01", "x$_$y$_$2", "alone")] == ["-a_b", "x$_$y", "alone"]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (clip(1, video="a", text="other"), "unique, 'a$_$1' occurs twice (in train, with two texts)"),
        (clip(1, video="a", score=0.5), "'a$_$1' occurs twice (in train, with the scores 0.5 and -2)"),
        (clip(1, video="c"), "'c$_$1' occurs twice (in train and in test)"),
        (clip(0, id=""), "must have an id, clip 1"),
        (clip(0, score=3.1), "from -3 to 3, 'vid_1$_$0' has 3.1"),
        (clip(0, score=float("nan")), "'vid_1$_$0' has nan"),
        (clip(0, vision=np.zeros(2)), r"must be numbers [frames, features]"),
        (clip(0, vision=np.zeros((2, 0))), r"must be numbers [frames, features]"),
        (clip(0, vision=np.zeros((2, 3))), "must have 2 features per frame everywhere, 'vid_1$_$0' has 3"),
        (clip(0, unimodal={"smell": 1.0}), "unimodal scores must belong to text, vision, audio"),
        (clip(0, text="a\0b"), "the text of 'vid_1$_$0' has characters"),
        (clip(0, text="\ud800"), "the text of 'vid_1$_$0' has characters"),
    ],
)
def test_a_corpus_that_contradicts_itself_is_refused(path: Path, sample: Sample, message: str) -> None:
    with pytest.raises(SourceError) as error:
        write_store(path, with_first(sample))
    assert message in str(error.value)
    assert_one_line(error)
    assert not path.exists()


def test_a_score_off_by_a_float32_rounding_is_accepted(path: Path) -> None:
    write_store(path, with_first(clip(0, score=3.0000002)))
    assert path.exists()


@pytest.mark.parametrize("splits", [{}, {"valid": []}], ids=["missing", "empty"])
def test_a_missing_or_empty_split_is_refused(path: Path, splits: dict[str, list[Sample]]) -> None:
    rest = {name: part for name, part in corpus().splits.items() if name != "valid"}
    with pytest.raises(SourceError, match="'valid' must have at least one clip"):
        write_store(path, corpus(splits={**rest, **splits}))


@contextmanager
def file_size_limit(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [100, 1 << 14, 1 << 20], ids=["at once", "in the columns", "in the frames"])
def test_a_disk_that_fills_up_is_one_line_and_leaves_the_old_store(written: Path, limit: int) -> None:
    before = written.read_bytes()
    big = with_first(clip(0, video="a", text="long " * 5000, vision=np.ones((200_000, 2))))
    with file_size_limit(limit), pytest.raises(ConkiError, match=r"cannot write .*file size limit") as error:
        write_store(written, big)
    assert_one_line(error)
    assert written.read_bytes() == before
    assert not list(written.parent.glob(".*.part"))


def test_a_missing_store_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no feature store .*none\.h5: make it with `conki prepare`"):
        FeatureStore(tmp_path / "none.h5")


@pytest.mark.parametrize("content", [b"", b"video_id,text\n", b"\x89HDF\r\n\x1a\n"], ids=["empty", "csv", "cut short"])
def test_a_file_that_is_no_store_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError) as error:
        FeatureStore(path)
    assert_one_line(error)


def test_a_truncated_store_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-200])
    with pytest.raises(StoreError, match="is damaged"):
        FeatureStore(written)


def test_other_hdf5_files_are_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["COVAREP"] = [1.0]
    with pytest.raises(StoreError, match="not a conki feature store"):
        FeatureStore(path)


@pytest.mark.parametrize("strange", [[1, 1], "one", h5py.Empty("<i4")], ids=str)
def test_a_schema_version_that_is_no_number_is_damage(strange: object, written: Path) -> None:
    with resealed(written) as file:
        file.attrs["schema_version"] = strange
    with pytest.raises(StoreError, match="is damaged"):
        FeatureStore(written)


def test_another_schema_version_is_refused_clearly(written: Path) -> None:
    with resealed(written) as file:
        file.attrs["schema_version"] = 2
    with pytest.raises(StoreError, match="store schema 2, this conki reads 1"):
        FeatureStore(written)


def damage(path: Path, name: str, value: object, **options: object) -> None:
    with resealed(path) as file:
        del file[name]
        if value is not None:
            file.create_dataset(name, data=value, **options)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("test", None, "/test is missing"),
        ("train/texts", None, "/train/texts is missing"),
        ("train/vision", None, "/train/vision is missing"),
        ("train/texts", ["too", "few"], "/train/texts is"),
        ("train/ids", np.arange(5), "/train/ids is int64"),
        ("train/scores", np.zeros(5), "/train/scores is float64"),
        ("train/scores", np.full(5, 9, "<f4"), "is outside the score range"),
        ("train/scores", np.full(5, np.nan, "<f4"), "is outside the score range"),
        ("train/vision/frames", np.zeros((11, 3), "<f4"), "/train/vision/frames is"),
        ("train/vision/frames", np.zeros((10, 2), "<f4"), "do not cover the frames"),
        ("train/vision/offsets", np.array([0, 1, 6, 3, 10, 11]), "do not cover the frames"),
        ("train/vision/offsets", np.array([1, 1, 3, 6, 10, 11]), "do not cover the frames"),
    ],
)
def test_a_damaged_store_is_refused_by_the_name_of_the_part(
    written: Path, name: str, value: object, message: str
) -> None:
    damage(written, name, value)
    with pytest.raises(StoreError) as error:
        FeatureStore(written)
    assert message in str(error.value)
    assert_one_line(error)


def test_frames_declared_but_not_held_are_refused(written: Path) -> None:
    with resealed(written) as file:
        del file["train/vision/frames"], file["train/vision/offsets"]
        file["train/vision"].create_dataset("frames", shape=(10**12, 2), dtype="<f4")
        file["train/vision/offsets"] = np.array([0, 0, 0, 0, 0, 10**12])
    with pytest.raises(StoreError, match="not stored as declared"):
        FeatureStore(written)


def test_texts_that_are_one_long_text_in_the_file_are_refused(path: Path) -> None:
    write_store(path, with_first(clip(0, video="a", text="x" * 20_000)))
    with h5py.File(path) as file:
        place = file["train/texts"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 5 * 16] = content[place : place + 16] * 5  # every clip has the text of the first
    path.write_bytes(content)
    with resealed(path) as file:
        assert {len(text) for text in file["train/texts"]} == {20_000}
    with pytest.raises(StoreError, match=r"texts declares 100000 bytes of texts in a file of \d{5}\)"):
        FeatureStore(path)


@pytest.mark.parametrize("link", [h5py.ExternalLink("/etc/passwd", "/"), h5py.SoftLink("/test")], ids=["file", "soft"])
def test_links_out_of_the_store_are_refused(written: Path, link: object) -> None:
    with resealed(written) as file:
        del file["train"]
        file["train"] = link
    with pytest.raises(StoreError, match="/train is missing or not stored in the file itself"):
        FeatureStore(written)


def test_frames_kept_in_another_file_are_refused(written: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(bytes(88))
    with resealed(written) as file:
        del file["train/vision/frames"]
        outside = [(str(tmp_path / "outside"), 0, 88)]
        file["train/vision"].create_dataset("frames", shape=(11, 2), dtype="<f4", external=outside)
    with pytest.raises(StoreError, match="not stored as declared"):
        FeatureStore(written)


@pytest.mark.parametrize("attribute", ["widths", "source", "repaired", "score_range", "content_id"])
def test_a_missing_or_senseless_attribute_is_refused(written: Path, attribute: str) -> None:
    with resealed(written) as file:
        del file.attrs[attribute]
    with pytest.raises(StoreError, match="is damaged"):
        FeatureStore(written)


def test_an_unknown_split_is_a_store_error(written: Path) -> None:
    with FeatureStore(written) as store, pytest.raises(StoreError, match="train, valid, test, not 'dev'"):
        store.split("dev")


def test_the_longest_sequence_is_found_per_modality_and_split(written: Path) -> None:
    with FeatureStore(written) as store:
        assert [store.longest(m, "train") for m in store.modalities] == [3, 4, 2]
        assert store.longest("vision", "test") == 2


def test_a_description_is_ready_for_json(written: Path) -> None:
    with FeatureStore(written) as store:
        described = describe(store)
    assert json.loads(to_json(described)) == json.loads(json.dumps(described))
    assert {"path", "dataset", "splits", "widths", "repaired"} <= set(described)
    assert [described["splits"][name]["n"] for name in ("train", "valid", "test")] == [5, 3, 2]


def test_a_description_counts_scores_around_their_centres(written: Path) -> None:
    with FeatureStore(written) as store:
        histogram = describe(store)["splits"]["train"]["scores"]["histogram"]
    assert histogram == {"centres": [-3, -2, -1, 0, 1, 2, 3], "counts": [1, 1, 1, 1, 1, 0, 0]}


def test_a_description_gives_length_quantiles_and_zero_shares(written: Path) -> None:
    with FeatureStore(written) as store:
        train = describe(store)["splits"]["train"]
    assert train["lengths"]["vision"] == {"min": 1, "q25": 1, "median": 2, "q75": 3, "q95": 3.8, "max": 4, "mean": 2.2}
    assert train["values"]["vision"] == {"zero_share": 2 / 22, "non_finite_share": 0}


def test_a_description_compares_with_the_published_sizes(path: Path) -> None:
    write_store(path, corpus(dataset="mosi"))
    with FeatureStore(path) as store:
        assert describe(store)["published_sizes"]["train"] == {"n": 1284, "equal": False}


def test_a_description_of_other_data_has_no_published_sizes(written: Path) -> None:
    with FeatureStore(written) as store:
        assert describe(store)["published_sizes"] is None


def test_videos_shared_between_splits_are_reported_not_refused(path: Path) -> None:
    write_store(path, with_first(clip(90, video="c")))
    with FeatureStore(path) as store:
        assert describe(store)["shared_videos"] == {"train/valid": 0, "train/test": 1, "valid/test": 0}


# --- stores that change while they are read ----------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change a byte of the frames in place; the file keeps its size."""
    with h5py.File(path) as file:
        place = file["train/vision/frames"].id.get_offset() + 1
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\x55")


def replace_by_rename(path: Path) -> None:
    other = path.with_name("other.h5")
    write_store(other, with_first(clip(0, video="a", vision=np.full((1, 2), 9.0))))
    other.rename(path)


@pytest.mark.parametrize(
    "change", [replace_by_rename, Path.unlink, lambda path: None], ids=["replaced", "gone", "none"]
)
def test_a_store_that_loses_its_name_stays_whole_for_its_reader(written: Path, change: Callable[[Path], None]) -> None:
    with FeatureStore(written) as store:
        change(written)
        frames = store.split("train").frames["vision"]
        assert frames[3].tolist() == [[3, 3]] * 4
        frames.check_unchanged()


@pytest.mark.parametrize(
    "change",
    [flip, lambda path: os.truncate(path, path.stat().st_size - 1), lambda path: path.write_bytes(b""), Path.touch],
    ids=["a byte", "shorter", "emptied", "touched"],
)
def test_a_store_that_was_written_into_is_not_trusted(written: Path, change: Callable[[Path], None]) -> None:
    os.utime(written, (1, 1))  # long ago: the clock of a file system may tick slowly
    with FeatureStore(written) as store:
        change(written)
        with pytest.raises(StoreError, match=r"own\.h5 was changed while it was in use, .* run the same") as error:
            store.split("train").frames["vision"].check_unchanged()
    assert_one_line(error)


def test_frames_that_end_too_early_are_one_line(written: Path) -> None:
    with FeatureStore(written) as store:
        written.write_bytes(b"")
        with pytest.raises(StoreError, match=r"own\.h5 ends too early: it must not change while it is read") as error:
            store.split("train").frames["vision"][0]
    assert_one_line(error)


def test_a_file_that_a_server_lost_is_one_line(written: Path, tmp_path: Path) -> None:
    file = OpenFile(written, failure=StoreError)
    lost = os.open(tmp_path, os.O_RDONLY)
    os.dup2(lost, file._handle)  # reading a folder fails, as reading what an NFS server has forgotten does
    os.close(lost)
    with pytest.raises(
        StoreError, match=r"cannot read .*own\.h5 \(Is a directory\): check that it still exists"
    ) as error:
        file.fill(np.empty(3), 0)
    assert_one_line(error)


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (np.nan, 3), (-3, np.inf)])
def test_a_score_range_without_end_is_refused(written: Path, bounds: tuple[float, float]) -> None:
    with resealed(written) as file:
        file.attrs["score_range"] = bounds
    with pytest.raises(StoreError, match="score range or widths are invalid"):
        FeatureStore(written)
