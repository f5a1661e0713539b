"""Looking into stores: columns, one clip, what differs between two; as data and as tables."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from rich.console import Console, RenderableType

from conki_cli.data.store.describing import compare_stores, describe, describe_clip, describe_features
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.data.store.writing import write_store
from conki_cli.reporting.tables.formats import format_list
from conki_cli.reporting.tables.stores import clip_tables, comparison_tables, feature_tables, store_tables
from conki_cli.system.errors import StoreError
from conki_cli.system.files import to_json


def clip(split: str, number: int) -> Sample:
    vision = np.array([[number, 5, 0], [-number, 5, 1]], "f4")
    return Sample(
        f"-{split}_1$_$0{number}", f"good film {number}", number / 2, vision, np.ones((number, 2)), {"text": 0.5}
    )


def corpus() -> Corpus:
    splits = {name: [clip(name, k) for k in range(count)] for name, count in (("train", 5), ("valid", 2), ("test", 3))}
    remarks = ("probably MMSA's unaligned_50.pkl",)
    padding = {"vision": "end, by the lengths in the file"}
    return Corpus("own", (-3.0, 3.0), splits, "own.pkl", "MMSA pickle", "0" * 64, remarks=remarks, padding=padding)


def with_first(**changes: Any) -> Corpus:
    made = corpus()
    first = dataclasses.replace(made.splits["train"][0], **changes)
    return dataclasses.replace(made, splits={**made.splits, "train": [first, *made.splits["train"][1:]]})


def compared(folder: Path, one: Corpus, other: Corpus, **options: Any) -> dict[str, Any]:
    write_store(folder / "one.h5", one)
    write_store(folder / "other.h5", other, **options)
    with FeatureStore(folder / "one.h5") as first, FeatureStore(folder / "other.h5") as second:
        found = compare_stores(first, second)
    json.loads(to_json(found))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_store(tmp_path / "own.h5", corpus())
    return tmp_path / "own.h5"


def drawn(parts: list[RenderableType], width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(*parts, sep="\n")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    return " ".join(text.split())


# ---- columns ----


def test_columns_are_described_over_all_splits(path: Path) -> None:
    with FeatureStore(path) as store:
        vision = describe_features(store)["modalities"]["vision"]
        values = np.concatenate([store.split(s).frames["vision"].values[:] for s in store.splits]).astype("f8")
    assert vision["frames"] == 20
    for name, expected in (
        ("mean", values.mean(0)),
        ("sd", values.std(0)),
        ("min", values.min(0)),
        ("max", values.max(0)),
    ):
        np.testing.assert_allclose([column[name] for column in vision["columns"]], expected, atol=1e-12)
    assert [column["zero_share"] for column in vision["columns"]] == [0.3, 0.0, 0.5]
    assert [column["constant"] for column in vision["columns"]] == [False, True, False]


def test_columns_are_the_same_in_small_slices(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FeatureStore(path) as store:
        whole = describe_features(store)
        monkeypatch.setattr("conki_cli.data.store.describing.SLICE_VALUES", 6)
        sliced = describe_features(store)
    assert to_json(whole) == to_json(sliced)


def test_constant_columns_are_named_below_the_table(path: Path) -> None:
    with FeatureStore(path) as store:
        text = drawn(feature_tables(describe_features(store)))
    assert "vision: 3 features, 20 frames of all splits" in text
    assert "1 5 0 5 5 0.00% constant" in text
    assert "1 of 3 are constant: 1" in text
    assert "2 of 2 are constant: 0-1" in text


def test_many_constant_columns_are_named_by_ranges() -> None:
    column = {"mean": 0.0, "sd": 0.0, "min": 0.0, "max": 0.0, "zero_share": 1.0}
    columns = [{**column, "constant": k in (0, 1, 2, 4, 6, 7)} for k in range(8)]
    found = {"dataset": "own", "path": "own.h5", "modalities": {"vision": {"frames": 3, "columns": columns}}}
    assert "6 of 8 are constant: 0-2, 4, 6-7" in drawn(feature_tables(found))


def test_a_store_of_texts_has_no_columns(tmp_path: Path) -> None:
    splits = {s: [dataclasses.replace(c, vision=None, audio=None) for c in p] for s, p in corpus().splits.items()}
    write_store(tmp_path / "t.h5", dataclasses.replace(corpus(), splits=splits))
    with FeatureStore(tmp_path / "t.h5") as store:
        assert describe_features(store)["modalities"] == {}
        assert "no features" in drawn(feature_tables(describe_features(store)))


# ---- scores ----


@pytest.mark.parametrize(
    ("low", "scores", "counts"),
    [
        (-3.0, [-3, -2.6, -2.4, 0.4, 0.6, 2.6, 3], {-3: 2, -2: 1, 0: 1, 1: 1, 3: 2}),
        (-1.0, [-1, -0.92, -0.88, 0.08, 0.12, 0.92, 1], {-1: 2, -0.8: 1, 0: 1, 0.2: 1, 1: 2}),
    ],
)
def test_scores_are_counted_around_the_nearest_centre(
    tmp_path: Path, low: float, scores: list[float], counts: dict[float, int]
) -> None:
    splits = {s: [Sample(f"{s}$_${k}", "x", float(y)) for k, y in enumerate(scores)] for s in corpus().splits}
    write_store(tmp_path / "s.h5", Corpus("own", (low, -low), splits, "own.pkl", "drawn", "0" * 64))
    with FeatureStore(tmp_path / "s.h5") as store:
        found = describe(store)["splits"]["train"]["scores"]["histogram"]
    assert {c: n for c, n in zip(found["centres"], found["counts"], strict=True) if n} == counts


# ---- a clip ----


def test_a_clip_is_described(path: Path) -> None:
    with FeatureStore(path) as store:
        found = describe_clip(store, "-valid_1$_$01")
    assert (found["split"], found["position"], found["text"], found["score"]) == ("valid", 1, "good film 1", 0.5)
    assert found["unimodal"] == {"text": 0.5}
    vision = found["modalities"]["vision"]
    assert (vision["frames"], vision["width"], vision["mean"]) == (2, 3, pytest.approx(11 / 6))
    assert vision["first"] == [[1, 5, 0], [-1, 5, 1]]


def test_a_clip_is_drawn_with_its_first_frames(path: Path) -> None:
    with FeatureStore(path) as store:
        text = drawn(clip_tables(describe_clip(store, "-valid_1$_$01")))
    assert "clip -valid_1$_$01" in text
    assert "split valid, position 1" in text
    assert "unimodal scores text 0.5" in text
    assert "vision: the first 2 of 2 frames and 3 of 3 features" in text


def test_a_clip_without_frames_has_no_numbers(path: Path) -> None:
    with FeatureStore(path) as store:
        found = describe_clip(store, "-train_1$_$00")
    assert found["modalities"]["audio"]["mean"] is None
    assert "audio 0 2 - - -" in drawn(clip_tables(found))


@pytest.mark.parametrize("name", ["-train_1_00", "-train_1", "-train_1$_$0", "train_1$_$00"])
def test_an_unknown_clip_names_similar_ones(path: Path, name: str) -> None:
    with FeatureStore(path) as store, pytest.raises(StoreError, match=r"similar are .*'-train_1\$_\$0") as error:
        describe_clip(store, name)
    assert "single quotes" in str(error.value)
    assert "\n" not in str(error.value)


# ---- two stores ----


def test_equal_stores_are_equal_whatever_their_source(tmp_path: Path) -> None:
    found = compared(tmp_path, corpus(), dataclasses.replace(corpus(), source="other.pkl"))
    assert found["equal"] is True
    assert "Every column and frame is the same" in drawn(comparison_tables(found))


def test_texts_scores_and_frames_that_differ_are_counted(tmp_path: Path) -> None:
    changes = {"text": "other", "score": -1.0, "unimodal": {"text": 0.25}, "vision": np.full((2, 3), 7.0)}
    found = compared(tmp_path, corpus(), with_first(**changes))
    assert found["texts"] == {"count": 1, "first": [{"id": "-train_1$_$00", "texts": ["good film 0", "other"]}]}
    assert (found["scores"]["count"], found["scores"]["max_difference"]) == (1, 1.0)
    assert found["unimodal"]["text"]["max_difference"] == 0.25
    assert found["frames"]["vision"]["values"] == {"count": 1, "first": ["-train_1$_$00"], "max_difference": 7.0}
    assert found["frames"]["audio"]["values"]["count"] == 0
    text = drawn(comparison_tables(found))
    assert "text 1 -train_1$_$00: good film 0 / other" in text
    assert "vision, values 1 7 -train_1$_$00" in text


def test_clips_of_another_length_are_no_differing_values(tmp_path: Path) -> None:
    vision = compared(tmp_path, corpus(), with_first(vision=np.zeros((4, 3))))["frames"]["vision"]
    assert vision["lengths"] == {"count": 1, "first": [{"id": "-train_1$_$00", "frames": [2, 4]}]}
    assert vision["values"]["count"] == 0


def test_clips_in_one_store_only_and_moved_clips_are_named(tmp_path: Path) -> None:
    splits = {name: list(part) for name, part in corpus().splits.items()}
    splits["test"].append(splits["train"].pop())
    splits["valid"].pop()
    found = compared(tmp_path, corpus(), dataclasses.replace(corpus(), splits=splits))
    assert [part["first"] for part in found["only_in"]] == [["-valid_1$_$01"], []]
    assert found["moved"]["first"] == [{"id": "-train_1$_$04", "splits": ["train", "test"]}]
    assert "split 1 -train_1$_$04: train / test" in drawn(comparison_tables(found))


def test_another_order_alone_is_said(tmp_path: Path) -> None:
    splits = {name: list(reversed(part)) for name, part in corpus().splits.items()}
    found = compared(tmp_path, corpus(), dataclasses.replace(corpus(), splits=splits))
    assert (found["equal"], found["reordered"], found["texts"]["count"]) == (False, True, 0)
    assert "No clip differs: the stores differ in the order of their clips." in drawn(comparison_tables(found))


def test_a_clip_in_one_store_only_is_no_other_order(tmp_path: Path) -> None:
    splits = {name: list(part) for name, part in corpus().splits.items()}
    splits["train"].insert(1, clip("train", 6))
    assert compared(tmp_path, corpus(), dataclasses.replace(corpus(), splits=splits))["reordered"] is False


@pytest.mark.parametrize(("score", "count"), [(1e-6, 0), (0.01, 1)])
def test_scores_that_differ_by_rounding_are_the_same(tmp_path: Path, score: float, count: int) -> None:
    found = compared(tmp_path, corpus(), with_first(score=score, text="so that the stores differ"))
    assert found["scores"]["count"] == count


def test_widths_ranges_and_normalisation_are_compared(tmp_path: Path) -> None:
    splits = {s: [dataclasses.replace(c, audio=np.ones((1, 4))) for c in p] for s, p in corpus().splits.items()}
    other = dataclasses.replace(corpus(), splits=splits, score_range=(-5.0, 5.0))
    found = compared(tmp_path, corpus(), other, normalize="zscore")
    assert list(found["frames"]) == ["vision"]
    text = drawn(comparison_tables(found), width=120)
    for line in ("vision 3, audio 2 vision 3, audio 4", "-3 to 3 -5 to 5", "none zscore"):
        assert line in text


def test_stores_without_a_common_clip_can_be_compared(tmp_path: Path) -> None:
    splits = {s: [dataclasses.replace(c, id="x" + c.id) for c in p] for s, p in corpus().splits.items()}
    found = compared(tmp_path, corpus(), dataclasses.replace(corpus(), splits=splits))
    assert found["common"] == 0
    assert "only in the second 10" in drawn(comparison_tables(found))


# ---- the report on the screen ----


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_of_a_store_is_drawn(path: Path, width: int) -> None:
    with FeatureStore(path) as store:
        text = drawn(store_tables(describe(store)), width=width)
    assert "source own.pkl (MMSA pickle)" in text
    assert "padding of vision removed at the end, by the lengths in the file" in text
    assert "normalisation none" in text
    assert "- probably MMSA's unaligned_50.pkl" in text
    assert "! 3 clips without audio (-train_1$_$00, -valid_1$_$00, -test_1$_$00)" in text


def test_a_warning_is_drawn_once(tmp_path: Path) -> None:
    made = dataclasses.replace(corpus(), dataset="mosi")
    made.splits["train"].append(clip("test", 6))
    write_store(tmp_path / "m.h5", made)
    with FeatureStore(tmp_path / "m.h5") as store:
        text = drawn(store_tables(describe(store)))
    assert text.count("share 1 video") == 1
    assert text.count("not comparable") == 1


def test_z_scores_and_their_constant_columns_are_drawn(tmp_path: Path) -> None:
    write_store(tmp_path / "z.h5", corpus(), normalize="zscore")
    with FeatureStore(tmp_path / "z.h5") as store:
        text = drawn(store_tables(describe(store)))
    assert "z-scores, by mean and deviation of the training split" in text
    assert "they are constant: 1 of vision, 2 of audio" in text


def test_nothing_from_a_file_steers_the_terminal(tmp_path: Path) -> None:
    hostile = "\x1b[31m\n[red]x[/]"
    made = with_first(id="[red]x[/]$_$0", text=hostile)  # an id with control characters is refused
    made = dataclasses.replace(made, source=hostile, remarks=(hostile,), notes=(hostile,), padding={"vision": hostile})
    write_store(tmp_path / "h.h5", made)
    with FeatureStore(tmp_path / "h.h5") as store, h5py.File(tmp_path / "h.h5") as file:
        assert hostile in file.attrs["notes"] or "\\u001b" in file.attrs["notes"]
        parts = [
            *store_tables(describe(store)),
            *clip_tables(describe_clip(store, "[red]x[/]$_$0")),
            *comparison_tables(compare_stores(store, store)),
        ]
    text = drawn(parts)
    assert "\x1b" not in text
    assert "[red]x[/]" in text


def test_formats_are_listed_with_their_description() -> None:
    text = drawn(
        format_list([{"formats": {"mmsa": "the pickles [of] MMSA"}, "description": "T.\n\nWhat\nthey are.\n"}])
    )
    assert text == "mmsa the pickles [of] MMSA What they are."
