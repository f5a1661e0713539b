"""Raw files: published layouts and their oddities are read, everything else is refused in one line."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_mmsa import features, part, saved

from conki_cli.data.sources import parse_score_range, read_corpus, with_official_name
from conki_cli.data.sources.formats import families
from conki_cli.data.sources.request import Options
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus
from conki_cli.data.store.writing import write_store
from conki_cli.datasets import sizes_of
from conki_cli.system.errors import ConkiError, SettingsError, SourceError

SHARED = Path(__file__).parents[3] / "shared"
MOSI = (-3.0, 3.0)
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real data files are not on this machine")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "features.pkl"


def csv_file(path: Path, *rows: str, header: str = "video_id,clip_id,text,label,annotation,mode,label_by") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


ROWS = ("-v,0001,good,1.5,Positive,train,0", "00,2,bad,-2,Negative,valid,0", "w_x,3,None,0,Neutral,test,0")


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


def test_unaligned_frames_of_any_name_are_preferred_to_aligned_ones(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "MOSI" / "Processed"
    folder.mkdir(parents=True)
    for name in ("aligned_50.pkl", "my_unaligned.pkl", "unaligned_39.pkl", "unaligned_50.pkl"):
        saved(folder / name, features())
    for name in ("unaligned_50.pkl", "unaligned_39.pkl", "my_unaligned.pkl", "aligned_50.pkl"):
        assert read_corpus("mosi", workspace=tmp_path, source=None, score_range=None).source == name
        (folder / name).unlink()


@pytest.mark.parametrize("place", [".", "Processed"])
def test_a_label_file_is_found_beside_or_above_what_lies_below_data_and_nowhere_else(
    tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "data" / "MOSI"
    (folder / "Processed").mkdir(parents=True)
    value = features()
    for split in value.values():
        del split["raw_text"]
    source = saved(folder / "Processed" / "unaligned_50.pkl", value)
    rows = [f"{split},{n:04d},told" for split in value for n in range(3)]
    csv_file(folder / place / "label.csv", *rows, header="video_id,clip_id,text")
    corpus = read_corpus("mosi", workspace=tmp_path, source=None, score_range=None)
    assert corpus.splits["test"][2].text == "told"
    with pytest.raises(SourceError, match=r"must have 'raw_text' .* --labels label\.csv"):
        read_corpus("mosi", workspace=tmp_path, source=source, score_range=None)


def test_own_data_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "data" / "talks").mkdir(parents=True)
    csv_file(tmp_path / "data" / "talks" / "label.csv", *ROWS)
    corpus = read_corpus("talks", workspace=tmp_path, source=None, score_range=(-5, 5))
    assert (corpus.dataset, corpus.score_range) == ("talks", (-5, 5))


def test_a_folder_serves_as_source(tmp_path: Path) -> None:
    csv_file(tmp_path / "label.csv", *ROWS)
    assert read_corpus("mosi", workspace=Path("nowhere"), source=tmp_path, score_range=None).source == "label.csv"


def test_sims_v2_is_found_under_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "SIMSv2" / "Processed"
    folder.mkdir(parents=True)
    saved(folder / "sims_unaligned.pkl", {**features(), "train_mix": part("train")})
    corpus = read_corpus("simsv2", workspace=tmp_path, source=None, score_range=None)
    assert (corpus.source, corpus.score_range) == ("sims_unaligned.pkl", (-1, 1))
    assert "ignored, besides the splits: train_mix" in corpus.remarks


def test_an_official_file_is_named_by_its_checksum(path: Path) -> None:
    corpus = read_corpus("mosi", workspace=path.parent, source=saved(path, features()), score_range=None)
    assert with_official_name(corpus) == corpus
    official = replace(corpus, source_sha256="78e0f8b5" + "0" * 56)
    assert "probably MMSA's unaligned_50.pkl of MOSI" in with_official_name(official).remarks[0]
    wrong = with_official_name(replace(official, dataset="mosei")).notes[0]
    assert "probably MMSA's unaligned_50.pkl of MOSI" in wrong
    assert "prepared as mosei" in wrong


def test_a_format_can_be_forced_and_must_be_known(path: Path) -> None:
    source = saved(
        path, {split: {"id": ["a$_$1"], "audio": np.ones((1, 2, 2))} for split in ("train", "valid", "test")}
    )
    for name, message in (
        ("mmsa", "must have 'raw_text'"),
        ("mult", "words only as vectors"),
        ("pickle", "--format must be one of"),
    ):
        with pytest.raises(ConkiError, match=message):
            read_corpus("mosi", workspace=path.parent, source=source, score_range=None, options=Options(format=name))


def test_every_format_is_explained_and_has_a_name_of_its_own() -> None:
    names = [name for family in families() for name in family.FORMATS]
    assert len(names) == len(set(names)) >= 11
    for family in families():
        assert len((family.__doc__ or "").split("\n\n")) > 1


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
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"PK\x03\x04", "must be a whole .npz"),
        (b"\x1f\x8b\x08", "unpack it"),
    ],
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


def texts_of(folder: Path) -> tuple[Path, Path]:
    """Write a pickle in MMSA's layout and the label file of its clips."""
    source = saved(folder / "m.pkl", features())
    rows = [f"{split},{n:04d},x,1,{split}" for split in features() for n in range(3)]
    return source, csv_file(folder / "l.csv", *rows, header="video_id,clip_id,text,label,mode")


def read(source: Path | None, **options: Any) -> Corpus:
    folder = source.parent if source is not None else Path()
    return read_corpus("mosi", workspace=folder, source=source, score_range=None, options=Options(**options))


def test_labels_that_were_not_needed_are_said_to_be_so(tmp_path: Path) -> None:
    source, labels = texts_of(tmp_path)
    assert any(remark.startswith("--labels was not needed") for remark in read(source, labels=labels).remarks)
    assert any(remark.startswith("--labels was not needed") for remark in read(labels, labels=labels).remarks)


@pytest.mark.parametrize("given", [{}, {"overrides": True}, {"overrides": True, "labels": True}])
def test_labels_that_nobody_gave_or_an_override_uses_are_not_said_to_be_unneeded(
    tmp_path: Path, given: dict[str, bool]
) -> None:
    source, labels = texts_of(tmp_path)
    options: dict[str, Any] = {"labels": labels} if "labels" in given else {}
    options |= {"overrides": {"text": labels}} if "overrides" in given else {}
    remarks = [*read(source, **options).remarks, *read(labels, **options).remarks]
    assert not any("not needed" in remark for remark in remarks)


def test_labels_that_are_not_needed_must_still_be_there_and_a_table(tmp_path: Path) -> None:
    source, _ = texts_of(tmp_path)
    with pytest.raises(SourceError, match=r"cannot read .*none.csv: No such file"):
        read(source, labels=tmp_path / "none.csv")
    with pytest.raises(SourceError, match=r"--labels must be a table such as label.csv, .*m.pkl is a pickle"):
        read(source, labels=source)


@pytest.mark.parametrize("place", [0, 1])
def test_aligning_to_words_needs_the_times_of_words(tmp_path: Path, place: int) -> None:
    with pytest.raises(
        SourceError, match=r"--align words needs the times of words, .* has the format (mmsa|labels): leave it"
    ):
        read(texts_of(tmp_path)[place], align_words=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
@pytest.mark.parametrize("option", ["source", "labels", "text"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, option: str) -> None:
    source, _ = texts_of(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    given = {"source": {}, "labels": {"labels": pipe}, "text": {"overrides": {"text": pipe}}}[option]
    with pytest.raises(SourceError, match="pipe must be a file or a folder, found a pipe, device or socket"):
        read(pipe if option == "source" else source, **given)


def test_of_several_files_in_a_folder_those_that_were_not_read_are_named(tmp_path: Path) -> None:
    for name in ("b.pkl", "a.pkl"):
        saved(tmp_path / name, features())
    assert "read: a.pkl; not read, although in the same folder: b.pkl" in read(tmp_path).remarks
    assert not any("not read, although" in remark for remark in read(tmp_path / "a.pkl").remarks)


def test_of_two_label_files_in_a_folder_the_one_that_was_not_read_is_named(tmp_path: Path) -> None:
    for name in ("label.csv", "meta.csv"):
        csv_file(tmp_path / name, *ROWS)
    assert read(tmp_path).remarks == ("read: label.csv; not read, although in the same folder: meta.csv",)


def test_a_pointer_in_a_folder_of_lists_is_named(tmp_path: Path) -> None:
    for name in ("train.pkl", "dev.pkl", "test.pkl"):
        (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    with pytest.raises(SourceError, match=r"train.pkl is a Git LFS pointer"):
        read(tmp_path)


@pytest.mark.parametrize("data", [bytes(3000), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"%PDF-1.4\0", b"\x89"])
def test_what_is_no_text_is_not_called_a_table(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(SourceError, match="is binary and not in a supported format"):
        read(path)


def test_an_old_pickle_that_ends_too_early_is_called_so(path: Path) -> None:
    path.write_bytes(pickle.dumps(features(), protocol=0)[:-50])
    with pytest.raises(SourceError, match=r"is empty or ends too early|is damaged"):
        read(path)


def test_the_demo_takes_no_source(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leave out --source"):
        read_corpus("demo", workspace=tmp_path, source=tmp_path, score_range=None)


@pytest.mark.parametrize(("text", "bounds"), [("-3..3", (-3, 3)), ("0..1.5", (0, 1.5)), (" -1 .. 1 ", (-1, 1))])
def test_a_score_range_is_parsed(text: str, bounds: tuple[float, float]) -> None:
    assert parse_score_range(text) == bounds


@pytest.mark.parametrize("text", ["", "3", "3..-3", "1..1", "a..b", "-inf..3", "nan..3", "1..2..3", "-3...3"])
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
    assert tuple(len(corpus.splits[s]) for s in ("train", "valid", "test")) == sizes_of(dataset)


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
