"""Computational sequences of the CMU SDK: words become texts, frames are cut by time, labels and splits are found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from conki_cli.data.raw.opening import open_raw
from conki_cli.data.sources import sequences
from conki_cli.data.sources.labels import read_label_rows
from conki_cli.data.sources.request import Request
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.system.errors import SourceError

REAL = Path(__file__).parents[3] / "shared" / "data" / "mosi"
VIDEOS = ("-zeta", "007", "a_b[x")
"""Names that must survive: a dash in front, leading zeros, an underscore and a bracket."""
SPLITS = dict(zip(VIDEOS, ("train", "valid", "test"), strict=True))
WORDS = [["sp", "A", "good", "sp", "film"], ["sp", "not", "bad", "at", "all"], ["so", "sp", "so", "sp", "dull"]]
TIMES = np.array([[0.0, 0.5], [0.5, 1.0], [1.0, 2.0], [2.0, 2.4], [2.4, 3.0]])
SCORES = [[1.0, -1.0], [2.0, 0.5], [-3.0, 0.0]]
CLIPS = np.array([[0.0, 2.0], [2.0, 3.0]])
TEXTS = [["A good", "film"], ["not bad", "at all"], ["so so", "dull"]]
HEADER = "video_id,clip_id,text,label,mode,start,stop"

Content = Mapping[str, tuple[Any, Any]]


def write_sequence(group: h5py.Group, content: Content, **options: Any) -> None:
    for key, (features, intervals) in content.items():
        video = group.create_group(key)
        video.create_dataset("features", data=features, **options)
        if intervals is not None:
            video.create_dataset("intervals", data=intervals, **options)


def write_csd(path: Path, name: str, content: Content, *, is_json: bool = True, **options: Any) -> Path:
    """Write one sequence in the SDK's layout: metadata are object arrays of one text, in JSON or plain."""
    with h5py.File(path, "w") as file:
        write_sequence(file.create_group(f"{name}/data"), content, **options)
        for key in ("root name", "md5", "dimension names"):
            text = f'"{name}"' if is_json else name
            file.create_dataset(f"{name}/metadata/{key}", data=[text.encode()], dtype=h5py.string_dtype())
    return path


def words_of(texts: Sequence[Sequence[str]]) -> Content:
    """Return words as the SDK stores them: bytes of another length in every video, (n, 1)."""
    return {v: (np.array(t, dtype="S")[:, None], TIMES[: len(t)]) for v, t in zip(VIDEOS, texts, strict=True)}


def frames_of(width: int, *, rate: int = 10) -> dict[str, tuple[Any, Any]]:
    """Return three seconds of frames per video, `rate` a second."""
    generator = np.random.default_rng(width)
    starts = np.arange(3 * rate) / rate
    intervals = np.stack([starts, starts + 1 / rate], axis=1)
    return {video: (generator.normal(size=(3 * rate, width)).astype("f4"), intervals.copy()) for video in VIDEOS}


def label_sequence(width: int) -> Content:
    padded = [np.column_stack([column, *[np.full(2, 9.0)] * (width - 1)]) for column in SCORES]
    return {video: (scores, CLIPS) for video, scores in zip(VIDEOS, padded, strict=True)}


def write_labels(path: Path, *, first_clip: int = 5) -> Path:
    lines = [HEADER]
    for video, texts, scores in zip(VIDEOS, TEXTS, SCORES, strict=True):
        for k, (text, score, (start, stop)) in enumerate(zip(texts, scores, CLIPS, strict=True)):
            lines.append(f"{video},{first_clip + k:02d},{text.upper()},{score},{SPLITS[video]},{start},{stop}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "CMU_MOSI")


def write_folder(made: Path) -> Path:
    """Write words, COVAREP, FACET and other sequences, contiguous and compressed, without a label file."""
    made.mkdir()
    write_csd(made / "CMU_MOSI_TimestampedWords.csd", "words", words_of(WORDS), is_json=False)
    write_csd(made / "CMU_MOSI_COVAREP.csd", "COVAREP", frames_of(4), chunks=True, compression="gzip", shuffle=True)
    write_csd(made / "CMU_MOSI_VisualFacet_4.1.csd", "FACET 4.1", frames_of(3))
    write_csd(made / "CMU_MOSI_TimestampedWordVectors.csd", "glove_vectors", frames_of(300))
    phones = {video: (np.array([[b"ah"]]), TIMES[:1]) for video in VIDEOS}
    write_csd(made / "CMU_MOSI_TimestampedPhones.csd", "phones", phones)
    return made


@pytest.fixture
def labelled(folder: Path) -> Path:
    write_labels(folder / "label.csv")
    return folder


def prepared(path: Path, **settings: Any) -> Corpus:
    raw = open_raw(path)
    name = sequences.recognise(raw)
    assert name is not None
    return sequences.read(raw, Request("own", (-3, 3), **settings), name)


def clips_of(corpus: Corpus) -> list[Sample]:
    return [sample for split in ("train", "valid", "test") for sample in corpus.splits[split]]


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(SourceError) as caught:
        prepared(path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- a label file with times ----


def test_a_label_file_cuts_words_into_texts_without_pauses(labelled: Path) -> None:
    clips = clips_of(prepared(labelled))
    assert [clip.text for clip in clips] == [text for texts in TEXTS for text in texts]
    assert [clip.score for clip in clips] == [score for scores in SCORES for score in scores]


def test_ids_keep_dashes_zeros_and_brackets(labelled: Path) -> None:
    ids = [clip.id for clip in clips_of(prepared(labelled))]
    assert ids == [f"{video}$_${clip}" for video in VIDEOS for clip in ("05", "06")]


def test_a_frame_belongs_to_the_clip_its_middle_lies_in(labelled: Path) -> None:
    sample = prepared(labelled).splits["valid"][1]
    values, intervals = frames_of(4)["007"]
    expected = [row for row, (start, stop) in zip(values, intervals, strict=True) if 2 <= (start + stop) / 2 < 3]
    assert sample.audio is not None
    assert sample.audio.shape == (10, 4)
    np.testing.assert_array_equal(np.asarray(sample.audio), expected)


def test_rows_across_the_edge_of_two_clips_go_where_their_middle_lies(labelled: Path) -> None:
    times = np.array([[0.0, 1.0], [1.5, 2.3], [1.9, 2.1], [1.8, 2.6]])  # the middles: 0.5, 1.9, 2.0, 2.2; the edge: 2
    rows = np.arange(16.0).reshape(4, 4)
    write_csd(labelled / "CMU_MOSI_COVAREP.csd", "COVAREP", dict.fromkeys(VIDEOS, (rows, times)))
    words = np.array([[b"a"], [b"b"], [b"c"], [b"d"]])
    write_csd(labelled / "CMU_MOSI_TimestampedWords.csd", "words", dict.fromkeys(VIDEOS, (words, times)))
    first, second = prepared(labelled).splits["valid"]
    np.testing.assert_array_equal(np.asarray(first.audio), rows[:2])
    np.testing.assert_array_equal(np.asarray(second.audio), rows[2:])
    assert (first.text, second.text) == ("a b", "c d")


def test_other_sequences_are_left_out_with_a_remark(labelled: Path) -> None:
    (remark,) = (line for line in prepared(labelled).remarks if line.startswith("left out"))
    assert "glove_vectors" in remark
    assert "phones" in remark


def test_transcripts_are_compared_with_the_label_file(labelled: Path) -> None:
    text = (labelled / "label.csv").read_text()
    (labelled / "label.csv").write_text(text.replace("NOT BAD", "not good").replace("SO SO", "So so."))
    remarks = prepared(labelled).remarks
    assert "5 of 6 transcripts equal the label file's; others: 007$_$05" in remarks


def test_a_clip_without_words_takes_the_label_files_text_and_no_frames(labelled: Path) -> None:
    text = (labelled / "label.csv").read_text()
    (labelled / "label.csv").write_text(text + "\n007,07,UNHEARD,1,valid,1.5,1.5")
    corpus = prepared(labelled)
    assert corpus.splits["valid"][2].text == "UNHEARD"
    assert corpus.splits["valid"][2].audio is None
    assert "without words, with the label file's text: 1 clip: 007$_$07" in corpus.remarks


def test_an_asked_text_column_replaces_the_words(labelled: Path) -> None:
    assert prepared(labelled, text_column="text").splits["train"][0].text == "A GOOD"


def test_one_file_alone_is_a_corpus_of_texts(folder: Path, tmp_path: Path) -> None:
    corpus = prepared(folder / "CMU_MOSI_TimestampedWords.csd", labels=write_labels(tmp_path / "mine.csv"))
    assert [clip.text for clip in clips_of(corpus)] == [text for texts in TEXTS for text in texts]
    assert all(clip.audio is None and clip.vision is None for clip in clips_of(corpus))


def test_words_and_frames_out_of_order_are_put_in_order(labelled: Path) -> None:
    order = np.array([4, 2, 0, 3, 1])
    shuffled = {key: (words[order], times[order]) for key, (words, times) in words_of(WORDS).items()}
    expected = np.asarray(prepared(labelled).splits["test"][0].audio)
    write_csd(labelled / "CMU_MOSI_TimestampedWords.csd", "words", shuffled)
    turned = {key: (values[::-1], times[::-1]) for key, (values, times) in frames_of(4).items()}
    write_csd(labelled / "CMU_MOSI_COVAREP.csd", "COVAREP", turned)
    sample = prepared(labelled).splits["test"][0]
    assert sample.text == "so so"
    np.testing.assert_array_equal(np.asarray(sample.audio), expected)


def test_rows_without_a_usable_interval_are_ignored_and_counted(labelled: Path) -> None:
    content = frames_of(4)
    content["-zeta"][1][3] = np.nan
    content["-zeta"][1][5] = [4.0, 1.0]
    write_csd(labelled / "CMU_MOSI_COVAREP.csd", "COVAREP", content)
    corpus = prepared(labelled)
    assert corpus.splits["train"][0].audio is not None
    assert corpus.splits["train"][0].audio.shape == (18, 4)
    assert any("2 of 90 rows ignored, without a usable interval" in note for note in corpus.notes)


def test_videos_that_a_sequence_lacks_are_noted_and_have_no_frames(labelled: Path) -> None:
    content = frames_of(4)
    del content["007"]
    content["-zeta"] = (np.empty((0, 4), dtype="f4"), np.empty((0, 2)))
    write_csd(labelled / "CMU_MOSI_COVAREP.csd", "COVAREP", content)
    corpus = prepared(labelled)
    assert corpus.splits["valid"][0].audio is None
    assert any("without 1 of 3 videos, first '007'" in note for note in corpus.notes)
    assert any("1 video without data" in note for note in corpus.notes)


def test_words_of_variable_length_are_read(labelled: Path) -> None:
    content = {key: (words.astype(str).astype(object), times) for key, (words, times) in words_of(WORDS).items()}
    write_csd(labelled / "CMU_MOSI_TimestampedWords.csd", "words", content, dtype=None)
    assert prepared(labelled).splits["valid"][0].text == "not bad"


def test_progress_counts_every_clip_once(labelled: Path) -> None:
    counts: list[int] = []
    prepared(labelled, progress=lambda count, remark: counts.append(count))
    assert counts == [2, 2, 2]


# ---- the SDK's label sequence ----


@pytest.fixture
def splits_only(tmp_path: Path) -> Path:
    path = tmp_path / "splits.csv"
    path.write_text("video_id,mode\n" + "\n".join(f"{video},{split}" for video, split in SPLITS.items()))
    return path


@pytest.mark.parametrize("width", [1, 7])
def test_the_label_sequence_cuts_and_scores(folder: Path, splits_only: Path, width: int) -> None:
    write_csd(folder / "labels.csd", "Opinion Segment Labels", label_sequence(width))
    clips = clips_of(prepared(folder, labels=splits_only))
    assert [clip.id for clip in clips] == [f"{video}$_${clip}" for video in VIDEOS for clip in (0, 1)]
    assert [clip.score for clip in clips] == [score for scores in SCORES for score in scores]
    assert [clip.text for clip in clips] == [text for texts in TEXTS for text in texts]


def test_labels_out_of_order_keep_their_number_and_their_time(folder: Path, splits_only: Path) -> None:
    turned = {video: (scores[::-1], times[::-1]) for video, (scores, times) in label_sequence(1).items()}
    write_csd(folder / "labels.csd", "Opinion Labels", turned)
    first, second = prepared(folder, labels=splits_only).splits["valid"]
    assert (first.id, first.text, first.score) == ("007$_$0", "at all", 0.5)
    assert (second.id, second.text, second.score) == ("007$_$1", "not bad", 2.0)


def test_a_label_file_of_ids_alone_takes_times_and_scores_of_the_label_sequence(folder: Path, tmp_path: Path) -> None:
    write_csd(folder / "labels.csd", "Opinion Labels", label_sequence(1))
    lines = [line.split(",") for line in write_labels(tmp_path / "label.csv").read_text().splitlines()]
    (tmp_path / "label.csv").write_text("\n".join(",".join([*cells[:3], cells[4]]) for cells in lines))
    corpus = prepared(folder, labels=tmp_path / "label.csv")
    assert [(c.id, c.score) for c in corpus.splits["valid"]] == [("007$_$05", 2.0), ("007$_$06", 0.5)]


def test_the_label_sequence_needs_splits(folder: Path) -> None:
    write_csd(folder / "labels.csd", "Opinion Labels", label_sequence(1))
    assert "give --labels with video_id, mode" in refusal(folder)


def test_both_sources_of_segments_give_the_same_clips(folder: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "label.csv")
    timed = clips_of(prepared(folder, labels=labels))
    write_csd(folder / "labels.csd", "Opinion Labels", label_sequence(1))
    lines = [",".join(line.split(",")[:5]) for line in labels.read_text().splitlines()]
    labels.write_text("\n".join(lines))
    cut = clips_of(prepared(folder, labels=labels))
    assert [(c.id, c.text, c.score) for c in cut] == [(c.id, c.text, c.score) for c in timed]
    for one, other in zip(cut, timed, strict=True):
        np.testing.assert_array_equal(np.asarray(one.vision), np.asarray(other.vision))


def test_times_of_the_label_file_win_and_the_label_sequence_is_compared(labelled: Path) -> None:
    write_csd(labelled / "labels.csd", "Opinion Labels", label_sequence(1))
    text = (labelled / "label.csv").read_text()
    (labelled / "label.csv").write_text(text.replace(",2.0,valid", ",1.5,valid"))
    corpus = prepared(labelled)
    assert corpus.splits["valid"][0].score == 1.5
    assert any("start and score of 5 of 6 clips are the same" in remark for remark in corpus.remarks)


def test_a_label_file_without_scores_takes_those_of_the_label_sequence(labelled: Path) -> None:
    lines = [line.split(",") for line in (labelled / "label.csv").read_text().splitlines()]
    (labelled / "label.csv").write_text("\n".join(",".join(cells[:3] + cells[4:]) for cells in lines))
    assert "column label" in refusal(labelled)
    write_csd(labelled / "labels.csd", "Opinion Labels", label_sequence(1))
    assert [clip.score for clip in clips_of(prepared(labelled))] == [score for pair in SCORES for score in pair]


# ---- files that are cut already ----


@pytest.fixture
def cut_file(tmp_path: Path) -> Path:
    """MultiBench's layout: several sequences in one file, one key per clip."""
    path = tmp_path / "mosi.hdf5"
    with h5py.File(path, "w") as file:
        for number, name in enumerate(("words", "COVAREP", "OpenFace_2", "Opinion Segment Labels")):
            content: dict[str, tuple[Any, Any]] = {}
            for video, texts, scores in zip(VIDEOS, TEXTS, SCORES, strict=True):
                for k, text in enumerate(texts):
                    words = np.array(["sp", *text.split()], dtype="S")[:, None]
                    frames = np.full((3, 2), k + number, dtype="f4")
                    features = (words, frames, frames, np.array([[scores[k]]]))[number]
                    content[f"{video}[{k}]"] = (features, TIMES[: len(features)])
            write_sequence(file.create_group(name), content)
    return path


def test_multibench_files_are_taken_clip_by_clip(cut_file: Path, splits_only: Path) -> None:
    corpus = prepared(cut_file, labels=splits_only)
    clips = {clip.id: clip for clip in clips_of(corpus)}
    assert corpus.source_format == "MultiBench HDF5"
    assert set(clips) == {f"{video}$_${clip}" for video in VIDEOS for clip in (0, 1)}
    assert (clips["007$_$1"].text, clips["007$_$1"].score) == ("at all", 0.5)
    np.testing.assert_array_equal(np.asarray(clips["007$_$1"].audio), np.full((3, 2), 2.0))


def test_clips_of_multibench_find_their_rows_by_position(cut_file: Path, tmp_path: Path) -> None:
    corpus = prepared(cut_file, labels=write_labels(tmp_path / "label.csv"))
    assert [clip.id for clip in corpus.splits["valid"]] == ["007$_$05", "007$_$06"]


# ---- word alignment ----


def test_aligned_frames_are_the_mean_over_each_word(labelled: Path) -> None:
    content = frames_of(4)
    content["007"][0][7, 2] = -np.inf
    write_csd(labelled / "CMU_MOSI_COVAREP.csd", "COVAREP", content)
    sample = prepared(labelled, align_words=True).splits["valid"][0]
    values, intervals = content["007"]
    expected = np.zeros((2, 4))
    for word, (start, stop) in enumerate([TIMES[1], TIMES[2]]):  # "not bad", behind a pause
        for column in range(4):
            inside = [v[column] for v, (a, b) in zip(values, intervals, strict=True) if start <= (a + b) / 2 < stop]
            finite = [float(v) for v in inside if np.isfinite(v)]
            expected[word, column] = sum(finite) / len(finite)
    assert sample.audio is not None
    assert sample.audio.shape == (2, 4)
    np.testing.assert_allclose(np.asarray(sample.audio), expected, rtol=1e-6)
    assert sample.text == "not bad"


def test_a_word_without_frames_gets_zeros(labelled: Path) -> None:
    content = {key: (values[:12], times[:12]) for key, (values, times) in frames_of(4).items()}
    write_csd(labelled / "CMU_MOSI_COVAREP.csd", "COVAREP", content)
    corpus = prepared(labelled, align_words=True)
    assert np.asarray(corpus.splits["train"][0].audio).any(axis=1).tolist() == [True, True]
    assert np.asarray(corpus.splits["train"][1].audio).tolist() == [[0.0] * 4]


def test_alignment_needs_words(labelled: Path) -> None:
    (labelled / "CMU_MOSI_TimestampedWords.csd").unlink()
    assert "must hold words for --align words" in refusal(labelled, align_words=True)


# ---- one file for one modality ----


def test_one_file_is_cut_for_rows_of_a_label_file(labelled: Path) -> None:
    rows = read_label_rows(labelled / "label.csv")
    frames, notes = sequences.cut(labelled / "CMU_MOSI_TimestampedWordVectors.csd", rows, "audio")
    assert [part.shape for part in frames if part is not None] == [(20, 300), (10, 300)] * 3
    assert notes == []


def test_one_file_is_averaged_over_the_words_of_another(labelled: Path) -> None:
    rows = read_label_rows(labelled / "label.csv")
    words = labelled / "CMU_MOSI_TimestampedWords.csd"
    frames, _ = sequences.cut(labelled / "CMU_MOSI_COVAREP.csd", rows, "audio", words=words)
    expected = clips_of(prepared(labelled, align_words=True))
    for part, clip in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(part), np.asarray(clip.audio))


# ---- refusals ----


def test_two_sequences_of_one_modality_are_both_named(labelled: Path) -> None:
    write_csd(labelled / "CMU_MOSI_openSMILE.csd", "OpenSMILE", frames_of(5))
    message = refusal(labelled)
    assert "CMU_MOSI_COVAREP.csd" in message
    assert "CMU_MOSI_openSMILE.csd" in message
    assert "move one away" in message


def test_without_any_times_the_advice_is_a_label_file(folder: Path) -> None:
    assert "give --labels with video_id, clip_id, start, stop, label and mode" in refusal(folder)


def test_a_label_file_of_other_videos_is_refused(folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "other.csv"
    labels.write_text(f"{HEADER}\nelsewhere,1,x,0,train,0,1")
    assert "must have the videos of its labels, but has none of 1, such as 'elsewhere'" in refusal(
        folder, labels=labels
    )


@pytest.mark.parametrize(
    ("features", "intervals", "expected"),
    [
        (np.ones((3, 4)), TIMES[:2], "must have the shape (3, 2)"),
        (np.ones((3, 4)), TIMES[:3, :1], "must have the shape (3, 2)"),
        (np.ones((3, 4)), np.full((3, 2), np.nan), "none of the 9 intervals of COVAREP"),
        (np.ones((3, 4)), None, "needs intervals"),
    ],
)
def test_contradictions_are_one_line(labelled: Path, features: Any, intervals: Any, expected: str) -> None:
    content = dict.fromkeys(VIDEOS, (features, intervals))
    write_csd(labelled / "CMU_MOSI_COVAREP.csd", "COVAREP", content)
    assert expected in refusal(labelled)


def test_a_sequence_without_any_data_is_left_out(labelled: Path) -> None:
    nothing = (np.empty((0, 4)), np.empty((0, 2)))
    write_csd(labelled / "CMU_MOSI_COVAREP.csd", "COVAREP", dict.fromkeys(VIDEOS, nothing))
    corpus = prepared(labelled)
    assert any("COVAREP" in remark for remark in corpus.remarks if remark.startswith("left out"))
    assert all(clip.audio is None for clip in clips_of(corpus))


def test_a_sequence_without_videos_is_refused(labelled: Path) -> None:
    write_csd(labelled / "CMU_MOSI_COVAREP.csd", "COVAREP", {})
    assert "holds no videos" in refusal(labelled)


def test_a_video_in_two_splits_is_refused(folder: Path, splits_only: Path) -> None:
    write_csd(folder / "labels.csd", "Opinion Labels", label_sequence(1))
    splits_only.write_text(splits_only.read_text() + "\n007,test")
    assert "'007' into two splits" in refusal(folder, labels=splits_only)


# ---- the real file ----


@pytest.mark.skipif(not REAL.is_dir(), reason="the real MOSI files are not beside this repository")
def test_the_real_words_give_the_published_transcripts() -> None:
    corpus = prepared(REAL / "CMU_MOSI_ModifiedTimestampedWords.csd", labels=REAL / "label.csv")
    assert {name: len(clips) for name, clips in corpus.splits.items()} == {"train": 1284, "valid": 229, "test": 686}
    told = {row.id: (row.text or "").lower() for row in read_label_rows(REAL / "label.csv")}
    equal = sum(clip.text == told[clip.id] for clip in clips_of(corpus))
    assert equal >= 1966
    assert any(f"{equal:,} of 2,199 transcripts equal" in remark for remark in corpus.remarks)
