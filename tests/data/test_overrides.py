"""--text, --audio and --vision: one modality from another file of any format, matched by id and never by position."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_clip_lists import label_file, mag_bert, spoken
from test_mmsa import saved
from test_mult import columns, indexed

from conki_cli.data.sources import read_corpus
from conki_cli.data.sources.labels import CHINESE_TEXT_NOTE
from conki_cli.data.sources.request import Options
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus
from conki_cli.data.store.writing import write_store
from conki_cli.system.errors import SourceError

IDS = {"train": ["-v$_$01", "7$_$2", "w_x$_$3"], "valid": ["a$_$1"], "test": ["b$_$1", "b$_$0002"]}


def frames_of(clip: str, width: int) -> np.ndarray:
    """Draw frames that belong to one clip alone, 1 to 4 of them."""
    draw = np.random.default_rng(list(clip.encode()))
    return draw.normal(size=(int(draw.integers(1, 5)), width)).astype(np.float32)


def mmsa(*, width: int = 3, order: int = 1, keys: tuple[str, ...] = ("raw_text", "regression_labels", "audio")) -> Any:
    made: dict[str, Any] = {}
    for split, ids in IDS.items():
        names = ids[::order]
        audio = np.zeros((len(names), 4, width), dtype=np.float32)
        for row, clip in zip(audio, names, strict=True):
            row[: len(frames_of(clip, width))] = frames_of(clip, width)
        columns = {
            "raw_text": [f"text of {clip}" for clip in names],
            "regression_labels": [1.0] * len(names),
            "audio": audio,
            "audio_lengths": [len(frames_of(clip, width)) for clip in names],
        }
        made[split] = {"id": names, **{key: columns[key] for key in (*keys, "audio_lengths")}}
    return made


def read(source: Path, **overrides: Path) -> Corpus:
    options = Options(overrides=overrides)
    return read_corpus("own", workspace=source.parent, source=source, score_range=(-3, 3), options=options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path / "source.pkl", mmsa())


def audio_by_id(corpus: Corpus) -> dict[str, np.ndarray]:
    return {clip.id: np.asarray(clip.audio) for part in corpus.splits.values() for clip in part}


def test_a_pickle_with_audio_alone_replaces_it_whatever_its_order(source: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "audio.pkl", mmsa(width=5, order=-1, keys=("audio",)))
    found = audio_by_id(read(source, audio=other))
    assert found.keys() == {clip for ids in IDS.values() for clip in ids}
    for clip, frames in found.items():
        np.testing.assert_array_equal(frames, frames_of(clip, 5))


def test_torch_tensors_in_a_pickle_serve_as_arrays(source: Path, tmp_path: Path) -> None:
    other = mmsa(width=5, keys=("audio",))
    for part in other.values():
        part["audio"], part["audio_lengths"] = torch.tensor(part["audio"]), torch.tensor(part["audio_lengths"])
    found = audio_by_id(read(source, audio=saved(tmp_path / "fet.pkl", {**other, "config": {"audio": {}}})))
    np.testing.assert_array_equal(found["b$_$0002"], frames_of("b$_$0002", 5))


def test_a_folder_of_clips_adds_what_a_label_file_lacks(tmp_path: Path) -> None:
    rows = [f"{clip.replace('$_$', ',')},text of {clip},1,{split}" for split, ids in IDS.items() for clip in ids]
    labels = tmp_path / "label.csv"
    labels.write_text("\n".join(["video_id,clip_id,text,label,mode", *rows]), encoding="utf-8")
    for clip in (clip for ids in IDS.values() for clip in ids):
        video, _, number = clip.partition("$_$")
        (tmp_path / "audio" / video).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "audio" / video / f"{number}.npy", frames_of(clip, 3))
    write_store(tmp_path / "a.h5", read(labels, audio=tmp_path / "audio"))
    write_store(tmp_path / "b.h5", read(saved(tmp_path / "source.pkl", mmsa())))
    with FeatureStore(tmp_path / "a.h5") as one, FeatureStore(tmp_path / "b.h5") as other:
        assert one.content_id == other.content_id  # the same clips from two formats


def test_texts_come_from_a_label_file_or_a_pickle(source: Path, tmp_path: Path) -> None:
    labels = tmp_path / "texts.csv"
    ids = [clip for part in IDS.values() for clip in part]
    labels.write_text("\n".join(["video_id,clip_id,text", *(f"{i.replace('$_$', ',')},neu" for i in ids)]))
    assert {clip.text for clip in read(source, text=labels).splits["train"]} == {"neu"}
    other = mmsa(order=-1, keys=("raw_text",))
    other["train"]["raw_text"] = [f"other {clip}" for clip in other["train"]["id"]]
    found = read(source, text=saved(tmp_path / "texts.pkl", other)).splits["train"]
    assert [clip.text for clip in found] == [f"other {clip}" for clip in IDS["train"]]


def test_texts_of_another_file_serve_a_pickle_that_has_none(source: Path, tmp_path: Path) -> None:
    textless = saved(tmp_path / "textless.pkl", mmsa(keys=("regression_labels", "audio")))
    for other in (source, texts_csv(tmp_path / "texts.csv", "said")):
        corpus = read(textless, text=other)
        assert corpus.splits["test"][1].text == ("said" if other != source else "text of b$_$0002")


def test_an_override_that_knows_other_clips_is_refused(source: Path, tmp_path: Path) -> None:
    other = mmsa(keys=("audio", "raw_text"))
    for part in other.values():
        part["id"] = [f"{clip}x" for clip in part["id"]]
    path = saved(tmp_path / "other.pkl", other)
    with pytest.raises(SourceError, match=r"other\.pkl must have audio of the clips of source\.pkl"):
        read(source, audio=path)
    with pytest.raises(SourceError, match=r"must have a text of the clips of source\.pkl, found it for 0 of 6"):
        read(source, text=path)


def test_texts_that_some_clips_lack_are_refused(source: Path, tmp_path: Path) -> None:
    path = texts_csv(tmp_path / "texts.csv", "neu")
    path.write_text(path.read_text().rpartition("\n")[0])
    with pytest.raises(
        SourceError, match=r"a text for every clip of source\.pkl, but has none for 1 of 6, such as 'b\$_\$0002'"
    ):
        read(source, text=path)


# ---- clips counted from 0 beside clips counted from 1 ----


@pytest.fixture
def counted(tmp_path: Path) -> dict[str, Path]:
    """Write the same clips in MMSA's layout, numbered from 1, and as MAG-BERT and MultiBench, 'video[i]' from 0."""
    value = {
        split: [spoken(video, number, f"said {number} of {video}") for video in videos for number in range(4)]
        for split, videos in {"train": ("a", "b"), "valid": ("c",), "test": ("d",)}.items()
    }
    named = {
        split: {
            "id": [f"{c.video}$_${c.clip + 1}" for c in part],
            "raw_text": [" ".join(c.words) for c in part],
            "regression_labels": [c.score for c in part],
            "audio": np.nan_to_num(np.stack([c.audio for c in part]), neginf=0),
        }
        for split, part in value.items()
    }
    return {
        "mmsa": saved(tmp_path / "mmsa.pkl", named),
        "mag": mag_bert(tmp_path, value),
        "mult": saved(tmp_path / "mult.pkl", {split: columns(part, indexed(part)) for split, part in value.items()}),
        "label": label_file(tmp_path / "label.csv", value, clip_id=lambda c: c.clip + 1),
    }


def rows_of(corpus: Corpus) -> list[tuple[str, str, list[list[float]]]]:
    return [
        (clip.id, clip.text, np.nan_to_num(np.asarray(clip.audio), neginf=0).tolist())
        for part in corpus.splits.values()
        for clip in part
    ]


@pytest.mark.parametrize("other", ["mag", "mult"])
def test_positions_beside_names_are_found_by_their_scores(counted: dict[str, Path], other: str) -> None:
    plain = rows_of(read(counted["mmsa"]))
    corpus = read(counted["mmsa"], audio=counted[other])
    assert rows_of(corpus) == plain
    assert any("counted from 0; 100.0% of the scores are equal" in remark for remark in corpus.remarks)


def test_texts_of_another_file_serve_arrays_that_have_none(counted: dict[str, Path]) -> None:
    plain = [row[1:] for row in rows_of(read(counted["mag"]))]
    assert [row[1:] for row in rows_of(read(counted["mult"], text=counted["mmsa"]))] == plain


def test_names_beside_positions_are_found_by_their_scores(counted: dict[str, Path]) -> None:
    plain = rows_of(read(counted["mag"]))
    assert rows_of(read(counted["mag"], audio=counted["mmsa"], text=counted["mmsa"])) == plain


def test_texts_of_positions_beside_names_are_found_by_their_scores(counted: dict[str, Path]) -> None:
    assert rows_of(read(counted["mmsa"], text=counted["mag"])) == rows_of(read(counted["mmsa"]))


@pytest.mark.parametrize("other", ["mag", "mult", "mmsa"])
def test_any_of_them_gives_audio_to_a_label_file(counted: dict[str, Path], other: str) -> None:
    assert rows_of(read(counted["label"], audio=counted[other])) == rows_of(read(counted["mmsa"]))


def test_warnings_about_the_file_of_an_override_are_kept_but_those_about_its_splits(tmp_path: Path) -> None:
    def made(one: Any) -> object:
        pad = ((2, 0), (0, 0)) if (one.video, one.clip) != ("c", 7) else ((0, 2), (0, 0))
        vision, audio = np.pad(one.vision, pad), np.pad(one.audio, pad)
        return ([], vision, audio, one.words, len(one.words), len(one.words)), np.array([[one.score]]), one.segment

    value = {
        split: [spoken(video, n, f"said {n} of {video}") for n in range(8)]
        for split, video in zip(("train", "valid", "test"), "abc", strict=True)
    }
    labels = label_file(tmp_path / "label.csv", value)
    swapped = {"train": value["valid"], "valid": value["train"], "test": value["test"]}
    other = saved(tmp_path / "other.pkl", {split: [made(one) for one in part] for split, part in swapped.items()})
    (note,) = read(labels, audio=other).notes
    assert note.startswith("audio: 1 of 24 clips are padded on the other side than the rest and were truncated there")


def test_an_override_whose_clips_the_label_file_lacks_is_matched_by_its_own_ids(
    counted: dict[str, Path], tmp_path: Path
) -> None:
    lines = counted["label"].read_text().splitlines()
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("\n".join(line for line in lines if not line.startswith("a,")))
    plain = [row for row in rows_of(read(counted["mmsa"])) if not row[0].startswith("a$")]
    assert rows_of(read(fewer, audio=counted["mag"])) == plain


def test_an_override_whose_ids_do_not_tell_its_clips_apart_is_refused(counted: dict[str, Path], tmp_path: Path) -> None:
    value = {"train": columns([spoken("a", 0, "x"), spoken("a", 1, "y")], ["a", "a"])}
    path = saved(tmp_path / "x.pkl", {**value, "valid": value["train"], "test": value["train"]})
    with pytest.raises(SourceError, match=r"an id must name one clip, 'a' names 6: give --labels label.csv"):
        read(counted["mmsa"], audio=path)


def texts_csv(path: Path, text: str, column: str = "text") -> Path:
    ids = [clip.replace("$_$", ",") for part in IDS.values() for clip in part]
    path.write_text("\n".join([f"video_id,clip_id,{column}", *(f"{clip},{text}" for clip in ids)]), encoding="utf-8")
    return path


@pytest.mark.parametrize(("text", "count"), [("好", 1), ("good", 0)])
def test_texts_that_replace_those_of_sims_are_called_chinese_only_if_they_are(
    source: Path, tmp_path: Path, text: str, count: int
) -> None:
    options = Options(overrides={"text": texts_csv(tmp_path / "texts.csv", text)})
    corpus = read_corpus("sims", workspace=tmp_path, source=source, score_range=None, options=options)
    assert [note for note in corpus.notes if "Chinese" in note] == [CHINESE_TEXT_NOTE] * count


def test_a_text_column_is_one_of_the_file_with_the_texts_and_not_of_the_source(source: Path, tmp_path: Path) -> None:
    texts = texts_csv(tmp_path / "texts.csv", "neu", column="german")
    options = Options(overrides={"text": texts}, text_column="german")
    corpus = read_corpus("own", workspace=tmp_path, source=source, score_range=(-3, 3), options=options)
    assert {clip.text for part in corpus.splits.values() for clip in part} == {"neu"}


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_an_override_without_the_modality_or_the_file_is_one_line(source: Path, tmp_path: Path, modality: str) -> None:
    empty = saved(tmp_path / "empty.pkl", mmsa(keys=()))
    for path in (empty, tmp_path / "missing.pkl"):
        with pytest.raises(SourceError) as error:
            read(source, **{modality: path})
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [None, [1.0], "good", np.ones((3, 7))])
def test_an_override_whose_labels_are_no_scores_is_matched_by_id(source: Path, tmp_path: Path, labels: Any) -> None:
    other = mmsa(width=5, keys=("audio",))
    for part in other.values():
        part["regression_labels"] = labels
    found = audio_by_id(read(source, audio=saved(tmp_path / "audio.pkl", other)))
    np.testing.assert_array_equal(found["b$_$0002"], frames_of("b$_$0002", 5))


def test_an_id_with_two_texts_in_a_table_of_texts_is_refused(source: Path, tmp_path: Path) -> None:
    rows = [f"{clip.replace('$_$', ',')},text of {clip}" for ids in IDS.values() for clip in ids]
    texts = tmp_path / "texts.csv"
    texts.write_text("\n".join(["video_id,clip_id,text", *rows, rows[0]]), encoding="utf-8")
    assert read(source, text=texts).splits["train"][0].text == "text of -v$_$01"  # the same row again
    texts.write_text("\n".join(["video_id,clip_id,text", *rows, "-v,01,something else"]), encoding="utf-8")
    with pytest.raises(SourceError, match=r"texts.csv, line 8 .* '-v\$_\$01' is already in .*texts.csv, line 2"):
        read(source, text=texts)


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_an_id_with_two_contents_in_a_pickle_is_refused(source: Path, tmp_path: Path, modality: str) -> None:
    other = mmsa()
    other["valid"]["id"] = [IDS["train"][1]]
    with pytest.raises(SourceError, match=r"split 'valid', clip 1: .* '7\$_\$2' is already in .*split 'train', clip 2"):
        read(source, **{modality: saved(tmp_path / "other.pkl", other)})


def test_an_id_that_comes_again_with_the_same_content_is_no_fault(source: Path, tmp_path: Path) -> None:
    other = mmsa()
    other["train"]["id"] = [*IDS["train"][:2], IDS["train"][1]]
    for key in ("raw_text", "regression_labels", "audio_lengths"):
        other["train"][key] = [*other["train"][key][:2], other["train"][key][1]]
    other["train"]["audio"][2] = other["train"]["audio"][1]
    found = audio_by_id(read(source, audio=saved(tmp_path / "other.pkl", other)))
    np.testing.assert_array_equal(found["7$_$2"], frames_of("7$_$2", 3))


def test_the_digest_of_a_source_covers_the_files_of_its_texts(source: Path, tmp_path: Path) -> None:
    plain = read(source)
    texts = texts_csv(tmp_path / "texts.csv", "one")
    one, size = read(source, text=texts), texts.stat().st_size
    other = read(source, text=texts_csv(texts, "other"))
    assert len({plain.source_sha256, one.source_sha256, other.source_sha256}) == 3
    assert one.source_bytes == plain.source_bytes + size


@pytest.mark.parametrize("kind", ["mult", "mag", "mmsa"])
def test_the_digest_of_a_source_covers_the_label_file_that_it_needs(
    counted: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    if kind == "mmsa":
        data = pickle.loads(counted["mmsa"].read_bytes())
        for part in data.values():
            del part["raw_text"]
        saved(counted["mmsa"], data)
    digests = set()
    for text in ("said", "told"):
        counted["label"].write_text(counted["label"].read_text().replace("said", text))
        options = Options(labels=counted["label"])
        corpus = read_corpus("own", workspace=tmp_path, source=counted[kind], score_range=(-3, 3), options=options)
        digests.add(corpus.source_sha256)
    assert len(digests) == 2
