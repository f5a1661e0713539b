"""MMSA feature pickles and MMSA-FET output: published layouts and their oddities are read, the rest is refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conki_cli.data.sources import read_corpus
from conki_cli.data.sources.request import Options
from conki_cli.data.store.records import Corpus
from conki_cli.system.errors import SourceError

MOSI = (-3.0, 3.0)
SCORES = (0.2, -0.4, 0.6)  # of text, audio and vision alone


def read(path: Path, dataset: str, score_range: tuple[float, float], **options: Any) -> Corpus:
    bounds = score_range if dataset == "own" else None
    return read_corpus(dataset, workspace=path.parent, source=path, score_range=bounds, options=Options(**options))


def part(split: str, *, lengths: bool = True, count: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(len(split))
    made: dict[str, Any] = {
        "raw_text": np.array([f"{split} {n}\n" for n in range(count)]),
        "id": np.array([f"{split}$_${n:04d}" for n in range(count)]),
        "regression_labels": np.linspace(-1, 1, count),
        "audio": rng.normal(size=(count, 6, 5)),
        "vision": rng.normal(size=(count, 4, 2)).astype(np.float32),
        "text": np.zeros((count, 5, 3), dtype=np.float32),
        "annotations": ["Neutral"] * count,
    }
    ends = {"audio": [6, 2, 3], "vision": [4, 1, 2]}
    for modality, end in ends.items():
        for n in range(count):
            made[modality][n, end[n % 3] :] = 0
        if lengths:
            made[f"{modality}_lengths"] = end[:count]
    return made


def features(**options: Any) -> dict[str, Any]:
    return {split: part(split, **options) for split in ("train", "valid", "test")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "features.pkl"


def saved(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def test_lengths_cut_the_padding_off(path: Path) -> None:
    value = features()
    corpus = read(saved(path, value), "own", MOSI)
    train = corpus.splits["train"]
    assert [len(sample.audio) for sample in train] == [6, 2, 3]
    np.testing.assert_array_equal(train[1].vision, value["train"]["vision"][1, :1])


def test_columns_are_read_as_they_stand(path: Path) -> None:
    corpus = read(saved(path, features()), "own", MOSI)
    sample = corpus.splits["valid"][2]
    assert (sample.id, sample.text, sample.score) == ("valid$_$0002", "valid 2", 1.0)
    assert (corpus.source, corpus.source_format, len(corpus.source_sha256)) == ("features.pkl", "MMSA pickle", 64)


def test_without_lengths_trailing_zero_frames_are_padding(path: Path) -> None:
    value = features(lengths=False)
    value["train"]["vision"][0, 1] = 0  # a zero frame between others stays
    value["train"]["audio"][2] = 0
    corpus = read(saved(path, value), "own", MOSI)
    assert [len(sample.vision) for sample in corpus.splits["train"]] == [4, 1, 2]
    assert [len(sample.audio) for sample in corpus.splits["train"]] == [6, 2, 0]
    assert corpus.padding == dict.fromkeys(("vision", "audio"), "end, trailing frames of zeros")


def test_junk_behind_the_lengths_is_dropped_and_counted(path: Path) -> None:
    value = features()
    value["train"]["audio"][1, 2:4] = 7  # the length is 2
    value["test"]["audio"][1, 5, 0] = np.nan
    corpus = read(saved(path, value), "own", MOSI)
    assert corpus.repaired["audio"] == {"lengths_clamped": 0, "clips_with_junk": 2, "junk_frames": 3}
    assert len(corpus.splits["train"][1].audio) == 2


def test_lengths_beyond_the_array_are_clamped_and_counted(path: Path) -> None:
    value = features()
    value["train"]["vision_lengths"] = np.array([9.0, 1, 2])
    corpus = read(saved(path, value), "own", MOSI)
    assert len(corpus.splits["train"][0].vision) == 4
    assert corpus.repaired["vision"]["lengths_clamped"] == 1


def test_a_length_of_zero_is_a_clip_without_frames(path: Path) -> None:
    value = features()
    value["train"]["vision_lengths"] = [0, 1, 2]
    assert read(saved(path, value), "own", MOSI).splits["train"][0].vision.shape == (0, 2)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1)])
def test_labels_of_any_squeezable_shape_are_read(path: Path, shape: tuple[int, ...]) -> None:
    value = features()
    value["train"]["regression_labels"] = value["train"]["regression_labels"].reshape(shape)
    assert [s.score for s in read(saved(path, value), "own", MOSI).splits["train"]] == [-1, 0, 1]


def test_lists_serve_as_arrays(path: Path) -> None:
    value = features()
    for key in ("id", "raw_text", "regression_labels", "audio"):
        value["train"][key] = list(value["train"][key])
    assert read(saved(path, value), "own", MOSI).splits["train"][2].audio.shape == (3, 5)


def test_a_list_of_large_arrays_serves_as_an_array(path: Path) -> None:
    value = features()
    clips = [np.full((30, 709), n, dtype=np.float32) for n in range(1, 4)]  # 85 KB each: they stay in the file
    value["train"] |= {"vision": clips, "vision_lengths": [30, 2, 3]}
    found = read(saved(path, value), "own", MOSI).splits["train"]
    assert [np.asarray(clip.vision).shape for clip in found] == [(30, 709), (2, 709), (3, 709)]
    assert float(np.asarray(found[2].vision)[0, 0]) == 3.0


def test_the_valid_split_may_be_called_dev(path: Path) -> None:
    value = features()
    value["dev"] = value.pop("valid")
    assert len(read(saved(path, value), "own", MOSI).splits["valid"]) == 3


def test_the_config_of_mmsa_fet_is_ignored_with_a_remark(path: Path) -> None:
    corpus = read(saved(path, {**features(), "config": {"audio": {}}}), "own", MOSI)
    assert corpus.source_format == "MMSA-FET pickle"
    assert "ignored, besides the splits: config" in corpus.remarks


def test_an_absent_modality_stays_absent(path: Path) -> None:
    value = features()
    for split in value.values():
        del split["vision"]
    assert read(saved(path, value), "own", MOSI).splits["train"][0].vision is None


def test_sims_prefers_english_texts_and_keeps_unimodal_scores(path: Path) -> None:
    value = features()
    for split in value.values():
        split["text_en"] = ["hello"] * 3
        split |= {f"regression_labels_{letter}": np.full(3, score) for letter, score in zip("TAV", SCORES, strict=True)}
    sample = read(saved(path, value), "sims", (-1, 1)).splits["train"][0]
    assert sample.text == "hello"
    assert sample.unimodal == dict(zip(("text", "audio", "vision"), SCORES, strict=True))


def test_other_data_keeps_its_texts_though_there_are_english_ones(path: Path) -> None:
    value = {split: {**columns, "text_en": ["hello"] * 3} for split, columns in features().items()}
    assert read(saved(path, value), "own", MOSI).splits["train"][0].text == "train 0"


def test_of_seven_scores_the_first_is_the_sentiment(path: Path) -> None:
    value = features()
    for columns in value.values():
        rest = np.full((3, 1, 6), 9.0)
        columns["regression_labels"] = np.concatenate([np.array([[[1.0]], [[2.0]], [[-1.0]]]), rest], axis=2)
    corpus = read(saved(path, value), "own", MOSI)
    assert [sample.score for sample in corpus.splits["test"]] == [1, 2, -1]
    assert (
        corpus.remarks.count("regression_labels have 7 values per clip: only the first, the sentiment, was read") == 1
    )


def test_blanks_at_the_ends_of_texts_are_removed_and_counted(path: Path) -> None:
    corpus = read(saved(path, changed("valid", "raw_text", [" a", "b", "c\n"])), "own", MOSI)
    assert [sample.text for sample in corpus.splits["valid"]] == ["a", "b", "c"]
    assert "removed blanks at the ends of 8 texts" in corpus.remarks


def test_only_texts_that_are_missing_may_be_in_another_column(path: Path) -> None:
    for key, advice in (("raw_text", True), ("regression_labels", False)):
        value = features()
        del value["valid"][key]
        with pytest.raises(SourceError, match=f"must have '{key}' in every split") as error:
            read(saved(path, value), "own", MOSI)
        assert ("--text-column" in str(error.value)) is advice


@pytest.mark.parametrize("count", [1, 20_000])
def test_an_array_of_text_with_what_is_no_character_is_refused(path: Path, count: int) -> None:
    texts = np.full((3, 4 * count), ord("a"), "u4")
    texts[1, 2] = 0x200000
    with pytest.raises(SourceError, match=r"invalid characters|characters that are not valid text"):
        read(saved(path, changed("train", "raw_text", texts.view(f"U{4 * count}").ravel())), "own", MOSI)


def test_what_a_file_lacks_comes_from_the_row_of_each_clip_in_the_label_file(path: Path) -> None:
    value = features()
    for columns in value.values():
        del columns["raw_text"]
    labels = path.with_name("label.csv")
    rows = [f"{split},{n:04d},said in {split} {n}" for split in ("test", "train", "valid") for n in range(3)]
    labels.write_text("\n".join(["video_id,clip_id,text", *rows]))
    splits = read(saved(path, value), "own", MOSI, labels=labels).splits
    assert [sample.text for sample in splits["valid"]] == [f"said in valid {n}" for n in range(3)]
    assert [sample.text for sample in splits["test"]] == [f"said in test {n}" for n in range(3)]


def test_the_text_column_named_is_taken_from_the_label_file_too(path: Path) -> None:
    value = features()
    for columns in value.values():
        del columns["raw_text"]
    labels = path.with_name("label.csv")
    rows = [f"{split},{n:04d},no,said in {split} {n}" for split in ("test", "train", "valid") for n in range(3)]
    labels.write_text("\n".join(["video_id,clip_id,text,words", *rows]))
    splits = read(saved(path, value), "own", MOSI, labels=labels, text_column="words").splits
    assert [sample.text for sample in splits["valid"]] == [f"said in valid {n}" for n in range(3)]
    with pytest.raises(SourceError, match="no column 'heard' for --text-column"):
        read(saved(path, value), "own", MOSI, labels=labels, text_column="heard")


def test_sims_without_english_texts_warns_that_the_encoder_must_be_chinese(path: Path) -> None:
    assert "Chinese" in read(saved(path, features()), "sims", (-1, 1)).notes[0]


def changed(split: str, key: str, value: object) -> dict[str, Any]:
    made = features()
    made[split][key] = value
    return made


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"train": part("train")}, "valid, test missing in: train"),
        ({**features(), "dev": part("valid")}, "under two names"),
        ({"train": part("train"), "valid\n\x1b[2J": part("valid")}, "valid, test missing in: train, ?"),
        ({**features(), "test": [1]}, "'test' must be a dictionary of arrays"),
        ({**features(), "test": {"labels": [1.0], "vision": [1.0]}}, "must have 'id', found only labels, vision"),
        (changed("valid", "raw_text", ["one"]), "the same number of clips, found id 3, raw_text 1"),
        (changed("valid", "vision", np.zeros((3, 4))), r"must be [clips, frames, features], found the shape (3, 4)"),
        (changed("valid", "vision", [np.ones((10, 100))] * 3000), "repeats the same rows many times"),
        (changed("valid", "vision", [["a"]]), "'vision' must be an array of numbers"),
        (changed("valid", "regression_labels", np.zeros((3, 4))), "one number per clip, found the shape (3, 4)"),
        (changed("valid", "audio", [[[1.0, 2.0]]] * 3), "found lists in a list: save them as one array, numpy.asarray"),
        (changed("valid", "audio_lengths", [1, 2]), "must be one whole number from 0 for each of 3 clips, has 2"),
        (changed("valid", "audio_lengths", [1, -2, 3]), "must be one whole number from 0 for each of 3 clips, found"),
        (changed("valid", "audio_lengths", [1, 2.5, 3]), "must be one whole number from 0 for each of 3 clips, found"),
        (changed("valid", "id", [1, 2, 3]), "'id' must be a list of texts"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(path: Path, value: object, message: str) -> None:
    with pytest.raises(SourceError) as error:
        read(saved(path, value), "own", MOSI)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
