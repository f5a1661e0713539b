"""Lists of clips: MAG-BERT's dictionary, the folders of MISA and MMIM, their oddities and their faults."""

import csv
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conki_cli.data.raw.opening import open_raw
from conki_cli.data.sources import clip_lists
from conki_cli.data.sources.joining import POSITIONS
from conki_cli.data.sources.request import Request
from conki_cli.data.store.arrays import FileArray
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.system.errors import SourceError

RANGE = (-3.0, 3.0)
SPLIT_FILES = {"train": "train.pkl", "valid": "dev.pkl", "test": "test.pkl"}

Features = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spoken:
    """One clip, before a format makes its own of it: words, score, frames [words, 4] and [words, 3]."""

    video: str
    clip: int
    words: list[str]
    score: float
    vision: Features
    audio: Features

    @property
    def segment(self) -> str:
        return f"{self.video}[{self.clip}]"


def spoken(video: str, clip: int, text: str) -> Spoken:
    words = text.split()
    draw = np.random.default_rng(len(text) + clip)
    vision, audio = draw.normal(size=(len(words), 4)), draw.normal(size=(len(words), 3))
    audio[-1, 0] = -np.inf  # as COVAREP has it; the store repairs it
    return Spoken(video, clip, words, round(float(draw.uniform(-3, 3)), 2), vision, audio)


def clips() -> dict[str, list[Spoken]]:
    """Draw clips whose videos begin with a dash, are numbers, or hold underscores; one has ten clips and more."""
    return {
        "train": [
            spoken("-s9qJ7ATP7w", 0, "it was sp really good"),
            spoken("-s9qJ7ATP7w", 10, "bad"),
            spoken("267466", 0, "None of it"),
        ],
        "valid": [spoken("a_b", 0, "so so")],
        "test": [spoken("_dI--eQ6qVU", 1, "sp fine"), spoken("_dI--eQ6qVU", 2, "dull plot and no end")],
    }


def text_of(clip: Spoken) -> str:
    return " ".join(word for word in clip.words if word != "sp")


def expected(value: dict[str, list[Spoken]]) -> dict[str, list[Sample]]:
    return {
        split: [Sample(f"{c.video}$_${c.clip}", text_of(c), c.score, c.vision, c.audio) for c in part]
        for split, part in value.items()
    }


def comparable(splits: Any) -> list[tuple[object, ...]]:
    """Return everything about clips in a form that == compares."""
    return [
        (split, s.id, s.text, round(s.score, 4), np.asarray(s.vision).tolist(), np.asarray(s.audio).tolist())
        for split, samples in splits.items()
        for s in samples
    ]


def label_file(path: Path, value: dict[str, list[Spoken]], **cells: Callable[[Spoken], object]) -> Path:
    """Write the label.csv of clips; `cells` replaces or adds columns."""
    columns: dict[str, Callable[[Spoken], object]] = {
        "video_id": lambda c: c.video,
        "clip_id": lambda c: c.clip,
        "text": text_of,
        "label": lambda c: c.score,
        **cells,
    }
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*columns, "mode"])
        writer.writerows(
            [*(cell(c) for cell in columns.values()), split] for split, part in value.items() for c in part
        )
    return path


def saved(path: Path, value: object) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=4))
    return path


def load(path: Path, labels: Path | None = None) -> Corpus:
    raw = open_raw(path)
    name = clip_lists.recognise(raw)
    assert name is not None
    return clip_lists.read(raw, Request("own", RANGE, labels=labels), name)


def refused(path: Path, labels: Path | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        load(path, labels)
    message = str(caught.value)
    assert message.isprintable()
    return message


def mag_bert(path: Path, value: dict[str, list[Spoken]]) -> Path:
    names = {"train": "train", "valid": "dev", "test": "test"}
    return saved(
        path / "mosi.pkl",
        {
            names[split]: [((c.words, c.vision, c.audio), np.array([[c.score]]), c.segment) for c in part]
            for split, part in value.items()
        },
    )


def misa(path: Path, value: dict[str, list[Spoken]]) -> Path:
    for split, part in value.items():
        items: list[Any] = []
        for c in part:
            said = [word for word in c.words if word != "sp"]
            features = (np.arange(len(said)), c.vision, c.audio, said)
            items.append((features, np.array([[c.score] + 6 * [0.5]], dtype=np.float64), c.segment))
        saved(path / SPLIT_FILES[split], items)
    (path / "embedding_and_mapping.pt").write_bytes(b"PK\x03\x04")
    return path


def mmim(path: Path, value: dict[str, list[Spoken]], *, front: bool = True) -> Path:
    def padded(frames: Features) -> Features:
        return np.pad(frames, ((2, 0) if front else (0, 2), (0, 0)))

    for split, part in value.items():
        items: list[Any] = [
            (
                ([], padded(c.vision), padded(c.audio), text_of(c).split(), len(c.words), np.int64(len(c.words))),
                np.array([[c.score]]),
                np.array([f"{c.video}_{c.clip}".encode()]),
            )
            for c in part
        ]
        saved(path / SPLIT_FILES[split], items)
    return path


# ---- what is read ----


def test_mag_bert_is_read_as_it_was_spoken(tmp_path: Path) -> None:
    corpus = load(mag_bert(tmp_path, clips()))
    assert comparable(corpus.splits) == comparable(expected(clips()))
    assert corpus.source_format == "MAG-BERT pickle"
    assert corpus.padding == {}


def test_a_misa_folder_is_read_as_it_was_spoken(tmp_path: Path) -> None:
    corpus = load(misa(tmp_path, clips()))
    assert comparable(corpus.splits) == comparable(expected(clips()))
    assert corpus.source_format == "MISA folder"


@pytest.mark.parametrize("front", [True, False])
def test_an_mmim_folder_loses_its_padding_on_either_side(tmp_path: Path, front: bool) -> None:
    corpus = load(mmim(tmp_path, clips(), front=front))
    assert comparable(corpus.splits) == comparable(expected(clips()))
    side = f"{'front' if front else 'end'}, by the file's lengths"
    assert corpus.padding == {"vision": side, "audio": side}
    assert corpus.source_format == "MMIM folder"


@pytest.mark.parametrize("front", [True, False])
def test_large_frames_of_mmim_stay_in_their_file(tmp_path: Path, front: bool) -> None:
    vision = np.arange(1.0, 30001).reshape(300, 100)
    padded = np.pad(vision, ((5, 0) if front else (0, 5), (0, 0)))
    item: Any = (([], padded, np.ones((1, 3)), ["good"], 300, 1), 1.0, "v[0]")
    sample = load(saved(tmp_path / "x.pkl", {"train": [item], "dev": [item], "test": [item]})).splits["train"][0]
    assert isinstance(sample.vision, FileArray)
    assert np.array_equal(np.asarray(sample.vision), vision)


def test_the_embeddings_of_misa_are_left_alone_and_said_to_be(tmp_path: Path) -> None:
    assert "not read: embedding_and_mapping.pt" in load(misa(tmp_path, clips())).remarks


def test_only_the_first_of_seven_labels_is_the_score(tmp_path: Path) -> None:
    corpus = load(misa(tmp_path, clips()))
    assert corpus.splits["valid"][0].score == clips()["valid"][0].score
    assert any("7 values per clip" in remark for remark in corpus.remarks)


@pytest.mark.parametrize(
    "label", [1.5, [1.5], np.float32(1.5), np.array([1.5]), np.array([[1.5]]), np.array([[1.5, 9]])]
)
def test_labels_of_every_shape_are_read(tmp_path: Path, label: object) -> None:
    item = ((["good"], np.ones((1, 4)), np.ones((1, 3))), label, "v[0]")
    corpus = load(saved(tmp_path / "x.pkl", {"train": [item], "valid": [item], "test": [item]}))
    assert [samples[0].score for samples in corpus.splits.values()] == [1.5, 1.5, 1.5]


def test_words_and_frames_may_differ_in_number(tmp_path: Path) -> None:
    item = ((["good", "plot"], np.ones((5, 4)), np.empty((0, 3))), 1.0, "v[0]")
    sample = load(saved(tmp_path / "x.pkl", {"train": [item], "dev": [item], "test": [item]})).splits["train"][0]
    assert (sample.text, np.asarray(sample.vision).shape, np.asarray(sample.audio).shape) == (
        "good plot",
        (5, 4),
        (0, 3),
    )


def test_a_clip_with_an_empty_list_of_frames_has_none(tmp_path: Path) -> None:
    item: Any = ((["good"], np.ones((1, 4)), []), 1.0, "v[0]")
    sample = load(saved(tmp_path / "x.pkl", {"train": [item], "dev": [item], "test": [item]})).splits["train"][0]
    assert sample.audio is None


def test_underscores_are_ids_only_when_every_clip_has_a_number_behind_one(tmp_path: Path) -> None:
    assert clip_lists.clip_ids(["a_b_3", "-c_11"])[0] == ["a_b$_$3", "-c$_$11"]
    assert clip_lists.clip_ids(["a_3", "b[3]"])[0] == ["a_3", "b$_$3"]
    assert clip_lists.clip_ids(["a$_$03", "b$_$1"]) == (["a$_$03", "b$_$1"], [])


def test_rewritten_ids_are_remarked_on_once(tmp_path: Path) -> None:
    corpus = load(mag_bert(tmp_path, clips()))
    assert [remark for remark in corpus.remarks if "rewritten" in remark] == [
        "6 ids rewritten, such as -s9qJ7ATP7w[0] to -s9qJ7ATP7w$_$0"
    ]


def test_numbers_of_words_are_joined_with_a_label_file(tmp_path: Path) -> None:
    value = {
        split: [((np.arange(3), c.vision, c.audio), c.score, c.segment) for c in clips()[split]] for split in clips()
    }
    path = saved(tmp_path / "ids.pkl", value)
    corpus = load(path, label_file(tmp_path / "label.csv", clips()))
    assert comparable(corpus.splits) == comparable(expected(clips()))


def test_numbers_of_words_without_a_label_file_are_refused_with_advice(tmp_path: Path) -> None:
    item = (([4, 5], np.ones((2, 4)), np.ones((2, 3))), 1.0, "v[0]")
    message = refused(saved(tmp_path / "x.pkl", {"train": [item], "dev": [item], "test": [item]}))
    assert "word ids instead of words" in message
    assert "--labels label.csv" in message


def numbered_from_1(clip: Spoken) -> int:
    """Number the clips of a video from 1, as MOSI's label file does."""
    numbers = [c.clip for part in clips().values() for c in part if c.video == clip.video]
    return numbers.index(clip.clip) + 1


@pytest.mark.parametrize("make", [mag_bert, misa, mmim])
def test_with_a_label_file_clips_have_its_ids_and_keep_their_words(
    tmp_path: Path, make: Callable[[Path, dict[str, list[Spoken]]], Path]
) -> None:
    value = {
        split: [replace(c, clip=numbered_from_1(c) - 1) for c in part] for split, part in clips().items()
    }  # 'video[i]' counts from 0
    labels = label_file(tmp_path / "label.csv", clips(), clip_id=numbered_from_1, text=lambda c: "other")
    train = load(make(tmp_path, value), labels).splits["train"]
    assert [clip.id for clip in train] == ["-s9qJ7ATP7w$_$1", "-s9qJ7ATP7w$_$2", "267466$_$1"]
    assert [clip.text for clip in train] == [text_of(c) for c in clips()["train"]]
    assert [clip.score for clip in train] == [c.score for c in clips()["train"]]


def test_a_text_column_takes_the_texts_of_the_label_file(tmp_path: Path) -> None:
    labels = label_file(tmp_path / "label.csv", clips(), german=lambda c: "gut")
    request = Request("own", RANGE, labels=labels, text_column="german")
    corpus = clip_lists.read(open_raw(mag_bert(tmp_path, clips())), request, "mag-bert")
    assert {clip.text for part in corpus.splits.values() for clip in part} == {"gut"}


def test_a_label_file_of_other_clips_is_refused_though_there_are_words(tmp_path: Path) -> None:
    labels = label_file(tmp_path / "label.csv", clips(), label=lambda c: -c.score)
    assert "scores are equal" in refused(mag_bert(tmp_path, clips()), labels)


def test_without_a_label_file_ids_are_said_to_be_positions(tmp_path: Path) -> None:
    assert POSITIONS in load(mag_bert(tmp_path, clips())).remarks
    assert POSITIONS not in load(mag_bert(tmp_path, clips()), label_file(tmp_path / "l.csv", clips())).remarks


def without_words(folder: Path) -> Path:
    value = {split: [replace(c, words=["sp"]) for c in part] for split, part in clips().items()}
    return mmim(
        folder, {split: [replace(c, vision=c.vision[:1], audio=c.audio[:1]) for c in value[split]] for split in value}
    )


def test_lists_of_words_that_are_all_empty_are_no_words(tmp_path: Path) -> None:
    assert "has no words (6 clips): give the texts with --labels label.csv" in refused(without_words(tmp_path))
    corpus = load(tmp_path, label_file(tmp_path / "label.csv", clips()))
    assert [clip.text for clip in corpus.splits["test"]] == [text_of(c) for c in clips()["test"]]


def test_some_clips_may_have_no_words(tmp_path: Path) -> None:
    value = clips()
    value["train"][1] = replace(value["train"][1], words=["sp"])
    corpus = load(mag_bert(tmp_path, value), label_file(tmp_path / "label.csv", value, text=lambda c: "other"))
    assert [clip.text for clip in corpus.splits["train"]] == ["it was really good", "", "None of it"]


def test_clips_without_words_need_no_texts_where_one_modality_is_taken(tmp_path: Path) -> None:
    request = Request("own", RANGE, needs_texts=False)
    corpus = clip_lists.read(open_raw(without_words(tmp_path)), request, "misa")
    assert np.asarray(corpus.splits["test"][0].audio).shape == (1, 3)


def test_other_keys_beside_the_splits_are_remarked_on(tmp_path: Path) -> None:
    path = mag_bert(tmp_path, clips())
    saved(path, {**pickle.loads(path.read_bytes()), "word2id": {"a": 1}})
    assert "ignored, besides the splits: word2id" in load(path).remarks


def test_the_size_of_a_folder_is_that_of_its_three_files(tmp_path: Path) -> None:
    corpus = load(misa(tmp_path, clips()))
    assert corpus.source_bytes == sum((tmp_path / name).stat().st_size for name in SPLIT_FILES.values())
    assert len(corpus.source_sha256) == 64


@pytest.mark.parametrize("value", [[], (), {}, [1], {"train": {}}, {"train": [1]}, [([], 1)], {1: []}, None, "x"])
def test_other_pickles_are_not_taken_for_lists_of_clips(tmp_path: Path, value: object) -> None:
    assert clip_lists.recognise(open_raw(saved(tmp_path / "x.pkl", value))) is None


def test_a_folder_of_other_things_is_not_taken_for_misa(tmp_path: Path) -> None:
    (tmp_path / "train.pkl").write_bytes(b"x")
    assert clip_lists.recognise(open_raw(tmp_path)) is None


# ---- what is refused ----


def test_one_file_of_a_folder_is_refused_with_the_advice_to_give_the_folder(tmp_path: Path) -> None:
    message = refused(misa(tmp_path, clips()) / "train.pkl")
    assert "give the folder with train.pkl, dev.pkl and test.pkl" in message


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    value = clips()
    del value["valid"]
    assert "valid missing in: train, test" in refused(mag_bert(tmp_path, value))


def test_a_missing_file_of_a_folder_is_named(tmp_path: Path) -> None:
    (misa(tmp_path, clips()) / "test.pkl").unlink()
    assert "test missing in: train, dev" in refused(tmp_path)


def test_a_split_under_two_names_is_refused(tmp_path: Path) -> None:
    path = mag_bert(tmp_path, clips())
    value = pickle.loads(path.read_bytes())
    assert "one split 'valid'" in refused(saved(path, {**value, "valid": value["dev"]}))


def test_a_folder_with_a_split_under_two_names_is_refused(tmp_path: Path) -> None:
    saved(misa(tmp_path, clips()) / "valid.pkl", [])
    assert "one split 'valid'" in refused(tmp_path)


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    message = refused(mag_bert(tmp_path, {**clips(), "valid": []}))
    assert "split 'valid' must be a list of clips, found an empty list" in message


def test_a_file_of_a_folder_that_holds_no_list_is_named(tmp_path: Path) -> None:
    saved(misa(tmp_path, clips()) / "dev.pkl", {"id": []})
    assert "dev.pkl, split 'valid' must be a list of clips, found a dict" in refused(tmp_path)


GOOD: tuple[Any, ...] = ((["good"], np.ones((1, 4)), np.ones((1, 3))), np.array([[1.0]]), "v[0]")
PADDED = (["good"], np.ones((3, 4)), np.ones((3, 3)), ["good"])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (GOOD[:2], "found 2 parts"),
        (3, "found a int"),
        ((GOOD[0][:2], *GOOD[1:]), "must have 3 features (MAG-BERT), 4 (MISA) or 6 (MMIM), found 2"),
        (
            (("good", np.ones(4), np.ones((1, 3))), *GOOD[1:]),
            "'visual' must be [frames, features], found the shape (4,)",
        ),
        ((("good", np.ones((1, 4)), np.ones((1, 0))), *GOOD[1:]), "'acoustic' must be [frames, features]"),
        ((("good", "frames", np.ones((1, 3))), *GOOD[1:]), "'visual' must be an array of numbers"),
        ((({"good": 1}, *GOOD[0][1:]), *GOOD[1:]), "the words must be a list of texts"),
        ((GOOD[0], "positive", "v[0]"), "the label must be a number, found a str"),
        ((GOOD[0], None, "v[0]"), "the label must be a number, found a NoneType"),
        ((GOOD[0], 10**400, "v[0]"), "the label must be a number, found a int"),
        ((GOOD[0], np.empty((1, 0)), "v[0]"), "the label must be a number, found (1, 0) of them"),
        ((GOOD[0], np.ones(65), "v[0]"), "found (65,) of them"),
        ((GOOD[0], 1.0, 7), "'segment' must be a text such as 'video[3]', found a int"),
        ((GOOD[0], [[1.0]], "v[0]"), "the label must be a number, found a list"),
        ((GOOD[0], 1.0, "v" * 1001), "'segment' must be a text such as 'video[3]', found 1001 letters"),
        (((["good", 1], *GOOD[0][1:]), *GOOD[1:]), "the words must be a list of texts"),
        ((("good", [np.ones(4)], np.ones((1, 3))), *GOOD[1:]), "'visual' must be an array of numbers"),
        ((GOOD[0], 1.0, b"\xff[0]"), "'segment' must be UTF-8"),
        (((*PADDED, 2, 3), *GOOD[1:]), "vision has 3 frames and the length 2, but neither side is 1 frames of zeros"),
        (((*PADDED, 3, -1), *GOOD[1:]), "the length of audio must be a whole number from 0"),
        (((*PADDED, 10**400, 3), *GOOD[1:]), "the length of vision must be a whole number from 0"),
        (((*PADDED, "3", 3), *GOOD[1:]), "the length of vision must be a whole number from 0"),
    ],
)
def test_a_clip_that_is_wrong_is_named_by_file_split_and_row(tmp_path: Path, item: object, said: str) -> None:
    message = refused(saved(tmp_path / "x.pkl", {"train": [GOOD], "dev": [GOOD, item], "test": [GOOD]}))
    assert f"{tmp_path / 'x.pkl'}, split 'valid', row 2" in message
    assert said in message


def test_words_that_are_named_over_and_over_do_not_fill_the_memory(tmp_path: Path) -> None:
    words = ["x" * 30_000] * 1000
    item = ((words, *GOOD[0][1:]), *GOOD[1:])
    path = saved(tmp_path / "x.pkl", {"train": [item] * 5000, "dev": [item], "test": [item]})
    assert path.stat().st_size < 100_000
    assert "letters at most" in refused(path)


def test_another_pickle_forced_into_this_format_is_refused(tmp_path: Path) -> None:
    raw = open_raw(saved(tmp_path / "x.pkl", "text"))
    with pytest.raises(SourceError, match="holds a str"):
        clip_lists.read(raw, Request("own", RANGE), "misa")


# ---- joining texts ----


def test_joined_clips_keep_their_split_and_the_disagreement_is_counted(tmp_path: Path) -> None:
    value = clips()
    labels = label_file(
        tmp_path / "label.csv", {"test": value["train"], "valid": value["valid"], "train": value["test"]}
    )
    request = Request("own", RANGE, labels=labels)
    joined, notes, _ = clip_lists.with_labels(Path("x.pkl"), expected(value), request)
    assert comparable(joined) == comparable(expected(value))
    assert notes == ["5 clips are in another split in label.csv: the splits of x.pkl were kept"]


def test_joined_clips_keep_their_scores(tmp_path: Path) -> None:
    value = clips()
    moved = {split: [replace(c, score=c.score + 0.005) for c in part] for split, part in value.items()}
    request = Request("own", RANGE, labels=label_file(tmp_path / "label.csv", moved))
    joined, _, _ = clip_lists.with_labels(Path("x.pkl"), expected(value), request)
    assert [s.score for s in joined["train"]] == [c.score for c in value["train"]]


def test_a_label_file_without_texts_is_refused(tmp_path: Path) -> None:
    labels = tmp_path / "label.csv"
    labels.write_text("video_id,clip_id,label,mode\nv,0,1.0,train\n")
    with pytest.raises(SourceError, match="columns video_id, clip_id, text"):
        clip_lists.with_labels(Path("x.pkl"), expected(clips()), Request("own", RANGE, labels=labels))
