"""MulT, MultiBench and LMF pickles: front padding goes, texts come from a label file; and the round trip of formats."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from test_clip_lists import (
    RANGE,
    Spoken,
    clips,
    comparable,
    expected,
    label_file,
    mag_bert,
    misa,
    mmim,
    saved,
)

from conki_cli.data.raw.opening import open_raw
from conki_cli.data.sources import mult, read_corpus
from conki_cli.data.sources.joining import POSITIONS, Clip
from conki_cli.data.sources.request import Options, Request
from conki_cli.data.store.arrays import FileArray
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus
from conki_cli.data.store.writing import write_store
from conki_cli.system.errors import SourceError

Padded = npt.NDArray[np.float64]
Ids = Callable[[list[Spoken]], object]

NUM_FRAMES = 7


def in_front(frames: list[Padded]) -> Padded:
    return np.stack([np.pad(clip, ((NUM_FRAMES - len(clip), 0), (0, 0))) for clip in frames])


def at_end(frames: list[Padded]) -> Padded:
    return np.stack([np.pad(clip, ((0, NUM_FRAMES - len(clip)), (0, 0))) for clip in frames])


def columns(part: list[Spoken], ids: object = None, *, pad: Callable[..., Padded] = in_front) -> dict[str, Any]:
    return {
        "vision": pad([c.vision for c in part]),
        "audio": pad([c.audio for c in part]),
        "text": np.zeros((len(part), NUM_FRAMES, 300), dtype=np.float32),
        "labels": np.array([[[c.score]] for c in part]),
        **({} if ids is None else {"id": ids}),
    }


def indexed(part: list[Spoken]) -> object:
    return [c.segment for c in part]


def timed(part: list[Spoken]) -> object:
    """Write ids as MulT's file of MOSI does: bytes, 'video_clip', start and stop."""
    return np.array([[f"{c.video}_{c.clip}", f"{3 * c.clip}.5", f"{3 * c.clip + 2}.5"] for c in part]).astype("S")


def pickled(folder: Path, ids: Ids | None = None, **options: Any) -> Path:
    value = {split: columns(part, ids(part) if ids else None, **options) for split, part in clips().items()}
    return saved(folder / "mosi_data.pkl", value)


def load(path: Path, labels: Path | None) -> Corpus:
    raw = open_raw(path)
    name = mult.recognise(raw)
    assert name is not None
    return mult.read(raw, Request("own", RANGE, labels=labels), name)


def refused(path: Path, labels: Path | None) -> str:
    with pytest.raises(SourceError) as caught:
        load(path, labels)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return label_file(tmp_path / "label.csv", clips())


# ---- what is read ----


def test_mult_loses_its_front_padding_and_gets_its_texts(tmp_path: Path, labels: Path) -> None:
    corpus = load(pickled(tmp_path, timed), labels)
    assert comparable(corpus.splits) == comparable(expected(clips()))
    assert corpus.padding == dict.fromkeys(("vision", "audio"), "front, leading frames of zeros")
    assert corpus.source_format == "MulT pickle"


def test_multibench_loses_its_front_padding_and_gets_its_texts(tmp_path: Path, labels: Path) -> None:
    corpus = load(pickled(tmp_path, indexed), labels)
    assert comparable(corpus.splits) == comparable(expected(clips()))
    assert corpus.source_format == "MultiBench pickle"


def test_mult_without_ids_is_joined_by_the_order_of_the_clips(tmp_path: Path, labels: Path) -> None:
    corpus = load(pickled(tmp_path), labels)
    assert comparable(corpus.splits) == comparable(expected(clips()))
    assert any("joined by the order of the clips" in remark for remark in corpus.remarks)


def test_mult_with_videos_and_times_is_joined_by_start(tmp_path: Path) -> None:
    def ids(part: list[Spoken]) -> object:
        return np.array([[c.video, str(3.0 * c.clip), "9"] for c in part])

    labels = label_file(tmp_path / "label.csv", clips(), start=lambda c: 3.0 * c.clip + 0.01)
    corpus = load(pickled(tmp_path, ids), labels)
    assert comparable(corpus.splits) == comparable(expected(clips()))
    assert any("start time" in remark for remark in corpus.remarks)


def test_clips_that_begin_together_are_told_by_their_stops(tmp_path: Path) -> None:
    def stop(clip: Spoken) -> float:
        return 5.0 + clip.clip

    def ids(part: list[Spoken]) -> object:
        return np.array([[c.video, "1.0", str(stop(c))] for c in part]).astype("S")

    value = {split: [replace(c, score=1.0) for c in part] for split, part in clips().items()}
    labels = label_file(tmp_path / "label.csv", value, start=lambda c: 1.0, stop=stop)
    path = saved(tmp_path / "x.pkl", {split: columns(part, ids(part)) for split, part in value.items()})
    assert comparable(load(path, labels).splits) == comparable(expected(value))


def test_starts_without_a_column_for_them_are_named_in_the_refusal(tmp_path: Path, labels: Path) -> None:
    def ids(part: list[Spoken]) -> object:
        return np.array([[c.video, str(3.0 * c.clip), "9"] for c in part])

    assert "label.csv has no column start" in refused(pickled(tmp_path, ids), labels)


def test_without_need_of_texts_no_label_file_is_asked_for(tmp_path: Path) -> None:
    corpus = mult.read(open_raw(pickled(tmp_path, indexed)), Request("own", RANGE, needs_texts=False), "multibench")
    assert [clip.id for clip in corpus.splits["test"]] == ["_dI--eQ6qVU$_$1", "_dI--eQ6qVU$_$2"]
    assert POSITIONS in corpus.remarks


def test_ids_are_those_of_the_label_file(tmp_path: Path) -> None:
    names = {
        "-s9qJ7ATP7w": {0: "0001", 10: "0002"},
        "267466": {0: "0001"},
        "a_b": {0: "0001"},
        "_dI--eQ6qVU": {1: "1", 2: "2"},
    }
    labels = label_file(tmp_path / "label.csv", clips(), clip_id=lambda c: names[c.video][c.clip])
    value = {split: columns(part) for split, part in clips().items()}
    value["train"]["id"] = ["-s9qJ7ATP7w[0]", "-s9qJ7ATP7w[1]", "267466[0]"]
    value["valid"]["id"] = ["a_b[0]"]
    value["test"]["id"] = ["_dI--eQ6qVU[0]", "_dI--eQ6qVU[1]"]
    train = load(saved(tmp_path / "x.pkl", value), labels).splits["train"]
    assert [sample.id for sample in train] == ["-s9qJ7ATP7w$_$0001", "-s9qJ7ATP7w$_$0002", "267466$_$0001"]


def test_numbers_as_ids_are_read_as_texts(tmp_path: Path) -> None:
    rows = list(mult._id_rows("x", np.array([7, 11])))
    assert rows == [Clip("7"), Clip("11")]


def test_a_clip_of_zeros_has_no_frames(tmp_path: Path, labels: Path) -> None:
    value = {split: columns(part, indexed(part)) for split, part in clips().items()}
    value["train"]["audio"][1] = 0
    sample = load(saved(tmp_path / "x.pkl", value), labels).splits["train"][1]
    assert np.asarray(sample.audio).shape == (0, 3)
    assert np.asarray(sample.vision).shape == (1, 4)


def test_padding_at_the_end_is_seen_and_said(tmp_path: Path, labels: Path) -> None:
    corpus = load(pickled(tmp_path, indexed, pad=at_end), labels)
    assert comparable(corpus.splits) == comparable(expected(clips()))
    assert corpus.padding["audio"] == "end, trailing frames of zeros"


def test_zeros_at_the_end_of_a_clip_that_is_padded_in_front_are_frames(tmp_path: Path, labels: Path) -> None:
    value = {split: columns(part, indexed(part)) for split, part in clips().items()}
    value["train"]["vision"][0, -1] = 0
    sample = load(saved(tmp_path / "x.pkl", value), labels).splits["train"][0]
    assert np.asarray(sample.vision).shape == (5, 4)
    assert not np.asarray(sample.vision)[-1].any()


def test_zeros_at_the_end_of_one_modality_do_not_turn_the_side(tmp_path: Path, labels: Path) -> None:
    value = {split: columns(part, indexed(part)) for split, part in clips().items()}
    for part in value.values():
        part["vision"] = np.ones((len(part["labels"]), NUM_FRAMES, 4))
        part["vision"][:, -1] = 0  # the face was lost in the last frame
    value["train"]["vision"][0, :3] = 0
    corpus = load(saved(tmp_path / "x.pkl", value), labels)
    assert np.asarray(corpus.splits["train"][0].vision).shape == (4, 4)
    assert np.asarray(corpus.splits["test"][0].vision).shape == (NUM_FRAMES, 4)
    assert corpus.notes == (
        "the side of the padding is not clear: frames of zeros are in front and at the end, vision in 1 clips and 6, "
        "audio in 6 clips and 0; assumed to be in front, where 27 of 33 such frames are",
    )


def test_a_clip_that_ends_with_zeros_like_few_others_is_no_reason_to_warn(tmp_path: Path) -> None:
    value = {split: [replace(c, clip=i) for i, c in enumerate(part * 4)] for split, part in clips().items()}
    labels = label_file(tmp_path / "label.csv", value)
    made = {split: columns(part, indexed(part)) for split, part in value.items()}
    made["train"]["vision"][0, -1] = 0
    assert load(saved(tmp_path / "x.pkl", made), labels).notes == ()


def test_a_file_without_padding_says_nothing_of_it(tmp_path: Path, labels: Path) -> None:
    value = {split: columns(part, indexed(part)) for split, part in clips().items()}
    for part in value.values():
        part["audio"] = np.ones((len(part["labels"]), 2, 3))
    corpus = load(saved(tmp_path / "x.pkl", value), labels)
    assert "audio" not in corpus.padding
    assert np.asarray(corpus.splits["train"][0].audio).shape == (2, 3)


def test_the_first_of_seven_labels_is_the_score(tmp_path: Path, labels: Path) -> None:
    value = {split: columns(part, indexed(part)) for split, part in clips().items()}
    for part in value.values():
        part["labels"] = np.concatenate([part["labels"], np.ones((len(part["labels"]), 1, 6))], axis=2)
    corpus = load(saved(tmp_path / "x.pkl", value), labels)
    assert comparable(corpus.splits) == comparable(expected(clips()))
    assert "labels have 7 values per clip: only the first, the sentiment, was read" in corpus.remarks


def test_the_splits_of_the_file_win_and_the_disagreement_is_counted(tmp_path: Path) -> None:
    moved = {"train": clips()["test"], "valid": clips()["valid"], "test": clips()["train"]}
    corpus = load(pickled(tmp_path, indexed), label_file(tmp_path / "label.csv", moved))
    assert comparable(corpus.splits) == comparable(expected(clips()))
    assert corpus.notes == ("5 clips are in another split in label.csv: the splits of mosi_data.pkl were kept",)


def test_what_is_not_read_is_remarked_on(tmp_path: Path, labels: Path) -> None:
    value = {split: columns(part, indexed(part)) for split, part in clips().items()}
    corpus = load(saved(tmp_path / "x.pkl", {**value, "note": "mine"}), labels)
    assert corpus.remarks[:2] == ("ignored, besides the splits: note", "not read: text")


def test_frames_of_a_large_file_stay_in_it(tmp_path: Path, labels: Path) -> None:
    def wide(frames: list[Padded]) -> Padded:
        return in_front([np.tile(clip, 1000) for clip in frames])

    train = load(pickled(tmp_path, indexed, pad=wide), labels).splits["train"]
    assert isinstance(train[0].vision, FileArray)
    assert np.array_equal(np.asarray(train[0].vision), np.tile(clips()["train"][0].vision, 1000))


# ---- python 2 ----


def python2(value: Any) -> bytes:
    """Pickle as python 2 did, protocol 2: texts are byte strings, arrays are rebuilt from byte strings."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    match value:
        case str() | bytes():
            data = value if isinstance(value, bytes) else value.encode()
            return b"T" + struct.pack("<i", len(data)) + data
        case bool():
            return b"\x89" if not value else b"\x88"
        case int():
            return b"J" + struct.pack("<i", value)
        case None:
            return b"N"
        case tuple() | list():
            return b"(" + b"".join(map(_python2, value)) + (b"t" if isinstance(value, tuple) else b"l")
        case dict():
            return b"}(" + b"".join(_python2(item) for pair in value.items() for item in pair) + b"u"
        case np.ndarray():
            kind = b"cnumpy\ndtype\n" + _python2((value.dtype.str[1:], 0, 1)) + b"R"
            kind += _python2((3, "<", None, None, None, -1, -1, 0)) + b"b"
            empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _python2((0,)) + _python2("b") + b"tR"
            state = _python2(1) + _python2(value.shape) + kind + _python2(False) + _python2(value.tobytes())
            return empty + b"(" + state + b"tb"
    raise TypeError(value)


def lmf(folder: Path, **changes: Any) -> Path:
    value = {
        split: {
            "covarep": np.stack([c.audio[0] for c in part]),
            "facet": np.stack([c.vision[0] for c in part]).astype(np.float32),
            "glove": np.zeros((len(part), 20, 300), dtype=np.float32),
            "label": np.array([[c.score] for c in part]),
            **changes,
        }
        for split, part in clips().items()
    }
    path = folder / "mosi.pkl"
    path.write_bytes(python2(value))
    return path


def test_lmf_of_python_2_has_one_frame_per_clip_and_is_joined_by_order(tmp_path: Path, labels: Path) -> None:
    corpus = load(lmf(tmp_path), labels)
    assert corpus.source_format == "LMF pickle"
    sample = corpus.splits["train"][1]
    assert (sample.id, sample.text) == ("-s9qJ7ATP7w$_$10", "bad")
    assert np.array_equal(np.asarray(sample.audio), clips()["train"][1].audio[:1])
    assert corpus.padding == {}


def test_lmf_with_other_scores_than_the_label_file_is_refused(tmp_path: Path) -> None:
    labels = label_file(tmp_path / "label.csv", clips(), label=lambda c: -c.score)
    message = refused(lmf(tmp_path), labels)
    assert "has no ids" in message
    assert "scores are equal" in message


# ---- what is refused ----


@pytest.mark.parametrize("ids", [None, indexed, timed])
def test_a_file_without_a_label_file_is_refused_with_advice(tmp_path: Path, ids: Ids | None) -> None:
    assert "give them with --labels label.csv" in refused(pickled(tmp_path, ids), None)


@pytest.mark.parametrize("shape", [(4, 2), (4,)])
def test_iemocap_is_refused_by_name(tmp_path: Path, labels: Path, shape: tuple[int, ...]) -> None:
    value = {split: columns(part, indexed(part)) for split, part in clips().items()}
    for part in value.values():
        part["labels"] = np.zeros((len(part["vision"]), *shape))
    message = refused(saved(tmp_path / "x.pkl", value), labels)
    assert "IEMOCAP" in message
    assert "not the sentiment scores" in message


def test_a_missing_split_is_named(tmp_path: Path, labels: Path) -> None:
    value = {split: columns(part) for split, part in clips().items() if split != "test"}
    assert "test missing in: train, valid" in refused(saved(tmp_path / "x.pkl", value), labels)


def test_a_split_under_two_names_is_refused(tmp_path: Path, labels: Path) -> None:
    value: dict[Any, Any] = {split: columns(part) for split, part in clips().items()}
    path = saved(tmp_path / "x.pkl", {**value, b"valid": value["valid"]})
    assert "one split 'valid', found it under two names" in refused(path, labels)


TWO: dict[str, Any] = {
    "vision": np.ones((2, 3, 4)),
    "audio": np.ones((2, 3, 3)),
    "text": 0,
    "labels": np.ones((2, 1, 1)),
}


NONE: dict[str, Any] = {key: TWO[key][:0] for key in ("vision", "audio", "labels")}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ([], "must be a dictionary of arrays, found a list"),
        ({"text": 0, "id": []}, "must have vision, audio, labels, found only text, id"),
        ({**TWO, "vision": np.ones((2, 3))}, "'vision' must be [clips, frames, features], found the shape (2, 3)"),
        (
            {**TWO, "audio": np.ones((3, 3, 3))},
            "must have the same number of clips, at least one, found labels 2, id 2, vision 2, audio 3",
        ),
        ({**TWO, "id": ["v[0]"]}, "found labels 2, id 1, vision 2, audio 2"),
        ({**TWO, "id": [["v"] * 4] * 2}, "row 1: 'id' must be an id, or id, start and stop, found 4 parts"),
        ({**TWO, "id": ["v[0]", 1.5]}, "row 2: 'id' must be a text such as 'video[3]'"),
        ({**TWO, "id": ["v[0]", 10**400]}, "row 2: 'id' must be a text such as 'video[3]'"),
        ({**TWO, "id": np.ones((2, 3))}, "'id' must hold one id, or id, start and stop, per clip"),
        ({**TWO, "id": 3}, "'id' must hold one id, or id, start and stop, per clip"),
        ({**TWO, "labels": ["good", "bad"]}, "'labels' must be an array of numbers"),
        ({**TWO, "labels": np.ones((2, 2, 2))}, "'labels' must hold one score per clip, found the shape (2, 2, 2)"),
        ({**TWO, "labels": np.ones((2, 0))}, "'labels' must hold one score per clip, found the shape (2, 0)"),
        ({**TWO, "labels": np.array(1.0)}, "'labels' must hold one score per clip, found the shape ()"),
        ({**TWO, "id": np.array("v[0]")}, "'id' must hold one id, or id, start and stop, per clip"),
        (NONE, "at least one, found labels 0"),
    ],
)
def test_a_split_that_is_wrong_is_named_by_file(tmp_path: Path, labels: Path, part: object, said: str) -> None:
    message = refused(saved(tmp_path / "x.pkl", {"train": TWO, "valid": part, "test": TWO}), labels)
    assert f"{tmp_path / 'x.pkl'}, split 'valid'" in message
    assert said in message


def test_clips_that_the_label_file_lacks_are_refused(tmp_path: Path) -> None:
    fewer = {**clips(), "test": clips()["test"][:1]}
    assert "must have rows in" in refused(pickled(tmp_path, indexed), label_file(tmp_path / "label.csv", fewer))


@pytest.mark.parametrize(
    "value",
    [
        {"train": {"id": [], "raw_text": [], "vision": 0, "audio": 0, "text": 0}},
        {"train": {"vision": 0, "audio": 0}},
        {"train": []},
        {7: {"vision": 0, "audio": 0, "labels": 0}},
        [],
    ],
)
def test_other_pickles_are_not_taken_for_these(tmp_path: Path, value: object) -> None:
    assert mult.recognise(open_raw(saved(tmp_path / "x.pkl", value))) is None


def test_another_pickle_forced_into_this_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="must be a dictionary of splits, found a list"):
        mult.read(open_raw(saved(tmp_path / "x.pkl", [])), Request("own", RANGE), "mult")


# ---- the same clips from every format ----


def prepared(source: Path, **options: Any) -> Corpus:
    options = {"labels": None, **options}
    return read_corpus("own", workspace=source, source=source, score_range=RANGE, options=Options(**options))


def as_mag_bert(folder: Path, labels: Path) -> Corpus:
    return prepared(mag_bert(folder, clips()), labels=labels)


def as_misa(folder: Path, labels: Path) -> Corpus:
    return prepared(misa(folder, clips()), labels=labels)


def as_mmim(folder: Path, labels: Path) -> Corpus:
    return prepared(mmim(folder, clips()), labels=labels)


def as_mult(folder: Path, labels: Path) -> Corpus:
    return prepared(pickled(folder, timed), labels=labels)


def as_multibench(folder: Path, labels: Path) -> Corpus:
    return prepared(pickled(folder, indexed), labels=labels)


def as_label_file_with_features(folder: Path, labels: Path) -> Corpus:
    for clip in (clip for part in clips().values() for clip in part):
        for modality, frames in (("vision", clip.vision), ("audio", clip.audio)):
            place = folder / modality / clip.video
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{clip.clip}.npy", frames)
    return prepared(labels, overrides={"vision": folder / "vision", "audio": folder / "audio"})


FORMATS = (as_mag_bert, as_misa, as_mmim, as_mult, as_multibench, as_label_file_with_features)


@pytest.mark.parametrize("make", FORMATS)
def test_every_format_gives_the_same_store(tmp_path: Path, labels: Path, make: Callable[[Path, Path], Corpus]) -> None:
    corpus = make(tmp_path, labels)
    assert comparable(corpus.splits) == comparable(expected(clips()))
    write_store(tmp_path / "one.h5", corpus)
    write_store(tmp_path / "other.h5", Corpus("own", RANGE, expected(clips()), "x", "x", "0" * 64))
    with FeatureStore(tmp_path / "one.h5") as one, FeatureStore(tmp_path / "other.h5") as other:
        assert one.content_id == other.content_id
