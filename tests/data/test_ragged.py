"""A modality as one array per clip, and data sets whose arrays all are [features, frames]."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from test_mmsa import MOSI, features, read, saved

from conki_cli.data.sources import ragged
from conki_cli.data.sources.features import read_features
from conki_cli.data.sources.request import Request
from conki_cli.data.store.orientation import is_transposed
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.data.store.writing import write_store
from conki_cli.system.errors import SourceError

LENGTHS = (6, 2, 3)


def objects(arrays: list[Any]) -> npt.NDArray[Any]:
    made = np.empty(len(arrays), dtype=object)
    for number, array in enumerate(arrays):
        made[number] = array
    return made


def clips(scale: float = 1.0, width: int = 5, lengths: tuple[int, ...] = LENGTHS) -> list[npt.NDArray[np.float64]]:
    return [scale * np.arange(1.0, length * width + 1).reshape(length, width) for length in lengths]


def ragged_features(kind: Any = list, **changed: Any) -> dict[str, Any]:
    value = features(lengths=False)
    for part in value.values():
        part["audio"] = kind(clips())
        part.update(changed)
    return value


def audio_of(corpus: Corpus, split: str = "train") -> list[npt.NDArray[Any]]:
    return [np.asarray(sample.audio) for sample in corpus.splits[split]]


# ---- one array per clip ----


@pytest.mark.parametrize("kind", [list, tuple, objects])
def test_a_modality_may_be_one_array_per_clip(tmp_path: Path, kind: Any) -> None:
    corpus = read(saved(tmp_path / "x.pkl", ragged_features(kind)), "own", MOSI)
    for found, array in zip(audio_of(corpus), clips(), strict=True):
        np.testing.assert_array_equal(found, array)
    assert corpus.padding["audio"] == "none, every clip has its own array"


def test_frames_of_zeros_in_an_array_of_its_own_are_no_padding(tmp_path: Path) -> None:
    arrays = clips()
    arrays[0][-2:] = 0
    corpus = read(saved(tmp_path / "x.pkl", ragged_features(audio=arrays)), "own", MOSI)
    assert [len(found) for found in audio_of(corpus)] == [6, 2, 3]


def test_lengths_cut_arrays_of_their_own_and_what_lies_behind_is_counted(tmp_path: Path) -> None:
    value = ragged_features(audio_lengths=[4, 9, 3])
    corpus = read(saved(tmp_path / "x.pkl", value), "own", MOSI)
    assert [len(found) for found in audio_of(corpus)] == [4, 2, 3]
    assert corpus.repaired["audio"] == {"lengths_clamped": 3, "clips_with_junk": 3, "junk_frames": 6}  # in 3 splits


def test_none_and_an_array_without_values_are_clips_without_frames(tmp_path: Path) -> None:
    value = ragged_features(audio=[None, clips()[1], np.empty(0)])
    write_store(tmp_path / "x.h5", read(saved(tmp_path / "x.pkl", value), "own", MOSI))
    with FeatureStore(tmp_path / "x.h5") as store:
        assert store.split("train").frames["audio"].lengths.tolist() == [0, 2, 0]


def test_large_arrays_of_their_own_stay_in_the_file(tmp_path: Path) -> None:
    arrays = clips(lengths=(9000, 2, 3))
    corpus = read(saved(tmp_path / "x.pkl", ragged_features(audio=arrays)), "own", MOSI)
    assert not isinstance(corpus.splits["train"][0].audio, np.ndarray)
    np.testing.assert_array_equal(audio_of(corpus)[0], arrays[0])


def test_an_array_of_another_width_is_refused_by_its_clip(tmp_path: Path) -> None:
    value = ragged_features()
    value["valid"]["audio"][1] = np.ones((2, 4))
    corpus = read(saved(tmp_path / "x.pkl", value), "own", MOSI)
    with pytest.raises(SourceError, match=r"x.pkl: audio must have 5 features .* 'valid\$_\$0001' has 4"):
        write_store(tmp_path / "x.h5", corpus)


@pytest.mark.parametrize(
    "bad",
    [[np.ones((2, 3, 4)), np.ones((2, 3))], [np.ones(3), np.ones(4)], [np.array(["a"]), np.ones((2, 2))], [[[1]]]],
)
def test_a_list_of_anything_else_is_left_to_others(bad: list[Any]) -> None:
    assert ragged.clips_in(bad) is None


def test_as_many_arrays_as_clips_are_needed(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"must have the same number of clips, found id 3, .*audio 2"):
        read(saved(tmp_path / "x.pkl", ragged_features(audio=clips()[:2])), "own", MOSI)


def test_an_npz_may_hold_one_array_per_clip(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", id=np.array(["a", "b", "c"]), audio=objects(clips()), audio_lengths=[5, 2, 3])
    found = read_features(tmp_path / "x.npz", "audio", Request("own", MOSI))
    assert [found.frames[clip].shape for clip in "abc"] == [(5, 5), (2, 5), (3, 5)]
    assert found.repaired["junk_frames"] == 1


# ---- [features, frames] ----


def corpus_of(arrays: list[npt.NDArray[Any]]) -> Corpus:
    samples = [Sample(f"v{n}$_$1", f"text {n}", n / 10, audio=array) for n, array in enumerate(arrays)]
    splits = {"train": samples[2:], "valid": samples[:1], "test": samples[1:2]}
    return Corpus("own", (-3, 3), splits, "own.pkl", "drawn", "0" * 64)


def test_clips_that_can_only_be_features_by_frames_are_transposed_with_a_warning(tmp_path: Path) -> None:
    arrays = clips(lengths=(7, 9, 8, 12, 30))
    write_store(tmp_path / "x.h5", corpus_of([array.T for array in arrays]))
    with FeatureStore(tmp_path / "x.h5") as store:
        np.testing.assert_array_equal(store.split("train").frames["audio"][2], arrays[4])
        assert any("audio was transposed: every clip has 5 rows and 7 to 30 columns" in note for note in store.notes)


def test_features_by_frames_in_a_pickle_are_transposed_whatever_its_lengths_say(tmp_path: Path) -> None:
    value = features(lengths=False)
    lengths = {"train": (7, 9, 8), "valid": (4, 12, 30), "test": (6, 3, 5)}
    for split, part in value.items():
        part["audio"] = [array.T for array in clips(lengths=lengths[split])]
        part["audio_lengths"] = list(lengths[split])
    write_store(tmp_path / "x.h5", read(saved(tmp_path / "x.pkl", value), "own", MOSI))
    with FeatureStore(tmp_path / "x.h5") as store:
        assert store.split("test").frames["audio"].lengths.tolist() == [6, 3, 5]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(5, 7), (5, 8), (5, 9)], True),
        ([(5, 7), (5, 8), (5, 0), (5, 9)], True),
        ([(5, 7), (5, 7), (5, 8), (5, 9)], True),
        ([(5, 7), (5, 7), (5, 7), (5, 9)], False),  # one clip of another width
        ([(5, 7), (5, 8)], False),  # too few to know
        ([(5, 7), (5, 8), (6, 9)], False),
        ([(1, 7), (1, 8), (1, 9)], False),  # vectors of unequal length
        ([(7, 5), (8, 5), (9, 5)], False),
        ([(7,), (8,), (9,)], False),
        ([], False),
    ],
)
def test_only_equal_rows_and_unequal_columns_prove_it(shapes: list[tuple[int, ...]], expected: bool) -> None:
    assert is_transposed(shapes) is expected


def test_where_it_is_only_likely_the_refusal_says_how_to_transpose(tmp_path: Path) -> None:
    arrays = [np.ones((5, columns)) for columns in (7, 8, 9, 10)] + [np.ones((6, 11))]
    with pytest.raises(SourceError, match=r"if rows are features and columns are frames, save .* \(array.T\)"):
        write_store(tmp_path / "x.h5", corpus_of(arrays))


def test_a_clip_of_another_width_is_named_not_all_the_others(tmp_path: Path) -> None:
    arrays = [np.ones((3, 4)), *clips(lengths=(7, 9, 8))]
    with pytest.raises(SourceError, match=r"must have 5 features per frame everywhere, 'v0\$_\$1' has 4$"):
        write_store(tmp_path / "x.h5", corpus_of(arrays))
