"""Raw files: published layouts and their oddities are read, everything else is refused in one line."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conki_cli.errors import ConkiError, SettingsError, SourceError
from conki_cli.sources import parse_score_range, read_corpus
from conki_cli.sources.labels import read_labels
from conki_cli.sources.mmsa import read_mmsa
from conki_cli.store import PUBLISHED_SIZES, FeatureStore, write_store

SHARED = Path(__file__).parents[2] / "shared"
MOSI = (-3.0, 3.0)
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real data files are not on this machine")


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


def csv_file(path: Path, *rows: str, header: str = "video_id,clip_id,text,label,annotation,mode,label_by") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


ROWS = ("-v,0001,good,1.5,Positive,train,0", "00,2,bad,-2,Negative,valid,0", "w_x,3,None,0,Neutral,test,0")


# ---- MMSA feature files ----


def test_lengths_cut_the_padding_off(path: Path) -> None:
    value = features()
    corpus = read_mmsa(saved(path, value), "own", MOSI)
    train = corpus.splits["train"]
    assert [len(sample.audio) for sample in train] == [6, 2, 3]
    np.testing.assert_array_equal(train[1].vision, value["train"]["vision"][1, :1])


def test_columns_are_read_as_they_stand(path: Path) -> None:
    corpus = read_mmsa(saved(path, features()), "own", MOSI)
    sample = corpus.splits["valid"][2]
    assert (sample.id, sample.text, sample.score) == ("valid$_$0002", "valid 2", 1.0)
    assert (corpus.source, corpus.source_format, len(corpus.source_sha256)) == ("features.pkl", "MMSA pickle", 64)


def test_without_lengths_trailing_zero_frames_are_padding(path: Path) -> None:
    value = features(lengths=False)
    value["train"]["vision"][0, 1] = 0  # a zero frame between others stays
    value["train"]["audio"][2] = 0
    corpus = read_mmsa(saved(path, value), "own", MOSI)
    assert [len(sample.vision) for sample in corpus.splits["train"]] == [4, 1, 2]
    assert [len(sample.audio) for sample in corpus.splits["train"]] == [6, 2, 0]
    assert "no lengths of vision and audio in the file" in corpus.notes[0]


def test_junk_behind_the_lengths_is_dropped_and_counted(path: Path) -> None:
    value = features()
    value["train"]["audio"][1, 3:5] = 7
    value["test"]["audio"][1, 5, 0] = np.nan
    corpus = read_mmsa(saved(path, value), "own", MOSI)
    assert corpus.repaired["audio"] == {"lengths_clamped": 0, "clips_with_junk": 2, "junk_frames": 3}
    assert len(corpus.splits["train"][1].audio) == 2


def test_lengths_beyond_the_array_are_clamped_and_counted(path: Path) -> None:
    value = features()
    value["train"]["vision_lengths"] = np.array([9.0, 1, 2])
    corpus = read_mmsa(saved(path, value), "own", MOSI)
    assert len(corpus.splits["train"][0].vision) == 4
    assert corpus.repaired["vision"]["lengths_clamped"] == 1


def test_a_length_of_zero_is_a_clip_without_frames(path: Path) -> None:
    value = features()
    value["train"]["vision_lengths"] = [0, 1, 2]
    assert read_mmsa(saved(path, value), "own", MOSI).splits["train"][0].vision.shape == (0, 2)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1)])
def test_labels_of_any_squeezable_shape_are_read(path: Path, shape: tuple[int, ...]) -> None:
    value = features()
    value["train"]["regression_labels"] = value["train"]["regression_labels"].reshape(shape)
    assert [s.score for s in read_mmsa(saved(path, value), "own", MOSI).splits["train"]] == [-1, 0, 1]


def test_lists_serve_as_arrays(path: Path) -> None:
    value = features()
    for key in ("id", "raw_text", "regression_labels", "audio"):
        value["train"][key] = list(value["train"][key])
    assert read_mmsa(saved(path, value), "own", MOSI).splits["train"][2].audio.shape == (3, 5)


def test_the_valid_split_may_be_called_dev(path: Path) -> None:
    value = features()
    value["dev"] = value.pop("valid")
    assert len(read_mmsa(saved(path, value), "own", MOSI).splits["valid"]) == 3


def test_the_config_of_mmsa_fet_is_ignored_with_a_note(path: Path) -> None:
    corpus = read_mmsa(saved(path, {**features(), "config": {"audio": {}}}), "own", MOSI)
    assert corpus.notes == ("ignored beside the splits: config",)


def test_an_absent_modality_stays_absent(path: Path) -> None:
    value = features()
    for split in value.values():
        del split["vision"]
    assert read_mmsa(saved(path, value), "own", MOSI).splits["train"][0].vision is None


def test_sims_prefers_english_texts_and_keeps_unimodal_scores(path: Path) -> None:
    value = features()
    for split in value.values():
        split["text_en"] = ["hello"] * 3
        split |= {f"regression_labels_{letter}": np.full(3, 0.2) for letter in "TAV"}
    sample = read_mmsa(saved(path, value), "sims", (-1, 1)).splits["train"][0]
    assert sample.text == "hello"
    assert sample.unimodal == {"text": 0.2, "vision": 0.2, "audio": 0.2}


def test_sims_without_english_texts_warns_that_the_encoder_must_be_chinese(path: Path) -> None:
    assert "Chinese" in read_mmsa(saved(path, features()), "sims", (-1, 1)).notes[0]


def changed(split: str, key: str, value: object) -> dict[str, Any]:
    made = features()
    made[split][key] = value
    return made


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "must be a dictionary of splits"),
        ({"train": part("train")}, "valid, test missing in: train"),
        ({**features(), "dev": part("valid")}, "under two names"),
        ({"train\n\x1b[2J": part("train")}, "train, valid, test missing in: ?"),
        ({**features(), "test": [1]}, "'test' must be a dictionary of arrays"),
        ({**features(), "test": {"labels": [1.0], "vision": [1.0]}}, "must have 'id', found only labels, vision"),
        (changed("valid", "raw_text", ["one"]), "the same clips, found id 3, raw_text 1"),
        (changed("valid", "vision", np.zeros((3, 4))), r"must be [clips, frames, features], found the shape (3, 4)"),
        (changed("valid", "vision", [["a"]]), "'vision' must be an array of numbers"),
        (changed("valid", "regression_labels", np.zeros((3, 7))), "one number per clip, found the shape (3, 7)"),
        (changed("valid", "audio_lengths", [1, 2]), "one number for each of 3 clips, has 2"),
        (changed("valid", "audio_lengths", [1, -2, 3]), "must be whole numbers from 0"),
        (changed("valid", "audio_lengths", [1, 2.5, 3]), "must be whole numbers from 0"),
        (changed("valid", "id", [1, 2, 3]), "'id' must be a list of texts"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(path: Path, value: object, message: str) -> None:
    with pytest.raises(SourceError) as error:
        read_mmsa(saved(path, value), "own", MOSI)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ---- label files ----


def test_the_old_label_file_is_read(tmp_path: Path) -> None:
    corpus = read_labels(csv_file(tmp_path / "label.csv", *ROWS), "mosi", MOSI)
    assert [corpus.splits[s][0].id for s in ("train", "valid", "test")] == ["-v$_$0001", "00$_$2", "w_x$_$3"]
    assert [corpus.splits[s][0].score for s in ("train", "valid", "test")] == [1.5, -2, 0]


def test_the_word_none_is_a_word(tmp_path: Path) -> None:
    assert read_labels(csv_file(tmp_path / "label.csv", *ROWS), "mosi", MOSI).splits["test"][0].text == "None"


def test_the_new_label_file_has_unimodal_scores(tmp_path: Path) -> None:
    header = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode"
    rows = [f"v,{n},x,1,0.1,0.2,0.3,Positive,{mode}" for n, mode in enumerate(("train", "dev", "test"))]
    corpus = read_labels(csv_file(tmp_path / "label.csv", *rows, header=header), "mosi", MOSI)
    assert corpus.splits["valid"][0].unimodal == {"text": 0.1, "vision": 0.3, "audio": 0.2}


def test_unimodal_scores_with_gaps_are_left_out_with_a_note(tmp_path: Path) -> None:
    header = "video_id,clip_id,text,label,label_T,mode"
    rows = ["v,1,x,1,0.5,train", "v,2,x,1,,valid", "v,3,x,1,0.5,test"]
    corpus = read_labels(csv_file(tmp_path / "label.csv", *rows, header=header), "mosi", MOSI)
    assert corpus.splits["train"][0].unimodal == {}
    assert "label_T left out" in corpus.notes[0]


def test_byte_order_mark_crlf_and_quoted_newlines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "label.csv"
    rows = [
        "video_id,clip_id,text,label,mode",
        'v,1,"two\nlines ""quoted""\n",1,train',
        "v,2,a ,0,valid",
        "v,3,b,0,test",
    ]
    path.write_bytes(("\ufeff" + "\r\n".join(rows)).encode())
    splits = read_labels(path, "mosi", MOSI).splits
    assert splits["train"][0].text == 'two\nlines "quoted"'
    assert splits["valid"][0].text == "a"


def test_empty_texts_are_kept_and_counted(tmp_path: Path) -> None:
    corpus = read_labels(csv_file(tmp_path / "label.csv", *ROWS, "v,9,,1,x,train,0"), "mosi", MOSI)
    assert corpus.splits["train"][1].text == ""
    assert corpus.notes == ("1 clips have an empty text; they were kept",)


def test_sims_labels_prefer_the_english_text(tmp_path: Path) -> None:
    rows = [f"v,{n},好,1,{mode},good" for n, mode in enumerate(("train", "valid", "test"))]
    path = csv_file(tmp_path / "label.csv", *rows, header="video_id,clip_id,text,label,mode,text_en")
    assert read_labels(path, "sims", (-1, 1)).splits["train"][0].text == "good"
    assert read_labels(path, "own", (-1, 1)).splits["train"][0].text == "好"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("v,9,x,high,x,train,0", "row 4 ('v', '9'): label must be a number, found 'high'"),
        ("v,9,x,nan,x,train,0", "row 4 ('v', '9'): label must be a number, found 'nan'"),
        ("v,9,x,1,x,train_mix,0", "mode must be train, valid or test, found 'train_mix'"),
        ("v,9,x,1", "mode must be train, valid or test, found ''"),
        (",9,x,1,x,train,0", "video_id and clip_id must not be empty"),
        ("v,9,x,1,x,train,0,more", "must be CSV but is not"),
        ('v,9,"x,1,x,train,0', "must be CSV but is not"),
        ("v,9,x\0,1,x,train,0", "NUL characters"),
    ],
)
def test_a_senseless_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(SourceError) as error:
        read_labels(csv_file(tmp_path / "label.csv", *ROWS, row), "mosi", MOSI)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"video_id,clip_id,text,label,mode\n", "has a header but no rows"),
        (b"video_0001,0001,x,1.0,train\n", "each of the columns video_id, clip_id, text, label, mode once"),
        (b"video_id;clip_id;text;label;mode\nv;1;x;1;train\n", "separated by commas"),
        ("video_id,clip_id,text,label,mode\nv,1,好,1,train\n".encode("gbk"), "must be UTF-8"),
        ("video_id,clip_id,text,label,mode\n".encode("utf-16"), "must be UTF-8"),
    ],
)
def test_a_file_that_is_no_label_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "label.csv").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_labels(tmp_path / "label.csv", "mosi", MOSI)


# ---- finding the file ----


def test_the_format_is_recognised_from_the_content(tmp_path: Path) -> None:
    disguised = csv_file(tmp_path / "features.pkl", *ROWS)
    assert read_corpus("mosi", workspace=tmp_path, source=disguised, score_range=None).source_format == "label.csv"
    disguised = saved(tmp_path / "label.csv", features())
    assert read_corpus("mosi", workspace=tmp_path, source=disguised, score_range=None).source_format == "MMSA pickle"


def test_frames_are_preferred_to_texts_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "MOSI"
    (folder / "Processed").mkdir(parents=True)
    csv_file(folder / "label.csv", *ROWS)
    assert read_corpus("mosi", workspace=tmp_path, source=None, score_range=None).source == "label.csv"
    for name in ("aligned_50.pkl", "unaligned_50.pkl"):
        saved(folder / "Processed" / name, features())
        assert read_corpus("mosi", workspace=tmp_path, source=None, score_range=None).source == name


def test_own_data_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "data" / "talks").mkdir(parents=True)
    csv_file(tmp_path / "data" / "talks" / "label.csv", *ROWS)
    corpus = read_corpus("talks", workspace=tmp_path, source=None, score_range=(-5, 5))
    assert (corpus.dataset, corpus.score_range) == ("talks", (-5, 5))


def test_a_folder_serves_as_source(tmp_path: Path) -> None:
    csv_file(tmp_path / "label.csv", *ROWS)
    assert read_corpus("mosi", workspace=Path("nowhere"), source=tmp_path, score_range=None).source == "label.csv"


def test_finding_nothing_lists_what_was_looked_for_and_where_people_get_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        read_corpus("mosi", workspace=tmp_path, source=None, score_range=None)
    message = str(error.value)
    assert all(
        name in message for name in ("unaligned_50.pkl", "aligned_50.pkl", "label.csv", "github.com/thuiar/MMSA")
    )
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b\x08", "gzip")],
)
def test_other_formats_are_refused_by_name(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_corpus("mosi", workspace=path.parent, source=path, score_range=None)


def test_a_source_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no file .*none\.csv: check --source"):
        read_corpus("mosi", workspace=tmp_path, source=tmp_path / "none.csv", score_range=None)


@pytest.mark.parametrize(
    ("dataset", "score_range", "message"),
    [
        ("talks", None, "such as --score-range -3..3"),
        ("../talks", (-3.0, 3.0), "must be letters, digits, - and _"),
        ("", (-3.0, 3.0), "must be letters, digits, - and _"),
        ("MOSI", (-3.0, 3.0), "use --dataset mosi, not MOSI"),
        ("sims", (-3.0, 3.0), "sims has scores from -1 to 1"),
    ],
)
def test_a_name_or_range_that_cannot_be_used_is_refused(
    tmp_path: Path, dataset: str, score_range: tuple[float, float] | None, message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        read_corpus(dataset, workspace=tmp_path, source=None, score_range=score_range)
    assert message in str(error.value)


def test_the_demo_takes_no_source(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leave --source out"):
        read_corpus("demo", workspace=tmp_path, source=tmp_path, score_range=None)


@pytest.mark.parametrize(("text", "bounds"), [("-3..3", (-3, 3)), ("0..1.5", (0, 1.5)), (" -1 .. 1 ", (-1, 1))])
def test_a_score_range_is_parsed(text: str, bounds: tuple[float, float]) -> None:
    assert parse_score_range(text) == bounds


@pytest.mark.parametrize("text", ["", "3", "3..-3", "1..1", "a..b", "-inf..3", "nan..3", "1..2..3"])
def test_a_senseless_score_range_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--score-range must be two numbers"):
        parse_score_range(text)


def test_a_label_out_of_range_is_refused_before_a_store_appears(tmp_path: Path) -> None:
    source = csv_file(tmp_path / "label.csv", *ROWS, "v,9,x,3.5,x,train,0")
    corpus = read_corpus("mosi", workspace=tmp_path, source=source, score_range=None)
    with pytest.raises(ConkiError, match=r"from -3 to 3, 'v\$_\$9' has 3.5"):
        write_store(tmp_path / "mosi.h5", corpus)
    assert not (tmp_path / "mosi.h5").exists()


# ---- real files ----


@needs_shared
@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_the_real_label_files_have_the_published_sizes(tmp_path: Path, dataset: str) -> None:
    source = SHARED / "data" / dataset / "label.csv"
    corpus = read_corpus(dataset, workspace=tmp_path, source=source, score_range=None)
    assert tuple(len(corpus.splits[s]) for s in ("train", "valid", "test")) == PUBLISHED_SIZES[dataset]


@needs_shared
@pytest.mark.parametrize("dataset", ["mosi", "sims"])
def test_files_at_the_official_shapes_with_every_quirk_become_clean_stores(tmp_path: Path, dataset: str) -> None:
    raw, path = tmp_path / "made.pkl", tmp_path / "made.h5"
    command = [sys.executable, SHARED / "tools" / "make_mmsa_file.py", dataset, raw, "--quirks", "--limit"]
    subprocess.run([*command, "40", "20", "20"], check=True, capture_output=True)
    write_store(path, read_corpus(dataset, workspace=tmp_path, source=raw, score_range=None))
    with FeatureStore(path) as store:
        assert store.widths == {"mosi": {"vision": 20, "audio": 5}, "sims": {"vision": 709, "audio": 33}}[dataset]
        assert store.repaired["vision"]["nan"] > 0
        assert store.repaired["audio"]["inf"] > 0
        assert store.repaired["audio"]["clips_with_junk"] > 0
        assert np.isfinite(store.split("train").frames["audio"].values[:]).all()
