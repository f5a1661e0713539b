"""The same clips under other names: a way of joining is believed only when ids and scores agree."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from conki_cli.data.sources.joining import Clip, join
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.system.errors import SourceError

LABELS = Path("label.csv")
ROWS = [  # two videos; clips are numbered from 1, one of the first video is missing; "b" lacks zeros in front nowhere
    LabelRow("a", "0001", "one", 1.0, "train", 0.0, 2.0),
    LabelRow("a", "0003", "three", -2.0, "train", 5.0, 9.5),
    LabelRow("a", "0010", "ten", 0.5, "test", 20.0, 22.0),
    LabelRow("b_c", "0002", "two", 3.0, "valid", 1.0, 2.0),
]
SCORES = [1.0, -2.0, 0.5, 3.0]


def texts_of(clips: Sequence[Clip], rows: Sequence[LabelRow] = ROWS) -> tuple[list[str | None], list[str]]:
    found, remarks = join("features.pkl", clips, rows, labels=LABELS)
    return [row.text for row in found], remarks


def clips_of(*ids: str) -> list[Clip]:
    return [Clip(name, score) for name, score in zip(ids, SCORES, strict=False)]


@pytest.mark.parametrize(
    ("ids", "way"),
    [
        (("a_0001", "a_0003", "a_0010", "b_c_0002"), "id, with _ between video and clip"),
        (("a$_$1", "a$_$3", "a$_$10", "b_c$_$2"), "clip number, without leading zeros"),
        (("a$_$0", "a$_$1", "a$_$2", "b_c$_$0"), "position in the video, counted from 0"),
        (("a$_$1", "a$_$2", "a$_$3", "b_c$_$1"), "position in the video, counted from 1"),
    ],
)
def test_clips_are_found_under_other_names_and_it_is_said_how(ids: tuple[str, ...], way: str) -> None:
    texts, remarks = texts_of(clips_of(*ids))
    assert texts == ["one", "three", "ten", "two"]
    assert remarks == [f"clips and rows of label.csv were joined by {way}; 100.0% of the scores are equal"]


def test_equal_ids_need_no_remark_and_keep_the_order_of_the_source() -> None:
    clips = [Clip("b_c$_$0002", 3.0), Clip("a$_$0001", 1.0)]
    assert texts_of(clips) == (["two", "one"], [])


def test_ids_that_match_with_other_scores_are_not_believed() -> None:
    rows = [LabelRow("v", str(n), f"clip {n}", float(n)) for n in range(1, 6)]
    clips = [Clip(f"v$_${n}", float(n + 1)) for n in range(5)]  # 'v[n]' counts from 0
    texts, remarks = texts_of(clips, rows)
    assert texts == ["clip 1", "clip 2", "clip 3", "clip 4", "clip 5"]
    assert "position in the video, counted from 0" in remarks[0]


def test_a_way_with_half_of_the_scores_equal_is_not_believed() -> None:
    rows = [LabelRow("v", str(n), f"clip {n}", float(n % 2)) for n in range(1, 6)]
    clips = [Clip(f"v$_${n}", score) for n, score in zip(range(1, 6), (1.0, 0.0, 1.0, 2.0, 2.0), strict=True)]
    with pytest.raises(SourceError, match=r"by id, 5 of 5 have one, but only 60.0% of their scores are equal"):
        texts_of(clips, rows)


def test_positions_follow_the_time_of_the_clips_and_not_their_names() -> None:
    rows = [LabelRow("v", "x", "late", 1.0, start=9.0), LabelRow("v", "y", "early", 2.0, start=1.0)]
    assert texts_of([Clip("v$_$0", 2.0), Clip("v$_$1", 1.0)], rows)[0] == ["early", "late"]


def test_positions_without_times_follow_the_numbers_of_the_clips() -> None:
    rows = [LabelRow("v", "10", "late", 1.0), LabelRow("v", "9", "early", 2.0)]
    assert texts_of([Clip("v$_$0", 2.0), Clip("v$_$1", 1.0)], rows)[0] == ["early", "late"]


def test_a_clip_without_a_known_name_is_found_by_its_start() -> None:
    clips = [Clip("a$_$x", 1.0, 0.04), Clip("a$_$y", -2.0, 4.96), Clip("b_c$_$z", 3.0, 1.0)]
    texts, remarks = texts_of(clips)
    assert texts == ["one", "three", "two"]
    assert "video and start time" in remarks[0]


def test_of_two_clips_that_start_nearby_the_nearest_is_taken_and_none_that_starts_later() -> None:
    rows = [LabelRow("v", "p", "first", start=0.0), LabelRow("v", "q", "second", start=0.04)]
    assert texts_of([Clip("v$_$x", start=0.03)], rows)[0] == ["second"]
    with pytest.raises(SourceError, match="0 of 1 have one"):
        texts_of([Clip("v$_$x", start=0.2)], rows)


TIED = [  # begin together; two have the same score as well
    LabelRow("v", "1", "first", 1.0, start=5.0, stop=7.0),
    LabelRow("v", "2", "second", 1.0, start=5.0, stop=9.0),
    LabelRow("v", "3", "third", -1.0, start=5.0, stop=9.0),
]


def test_clips_that_begin_together_are_told_by_stop_and_then_by_score() -> None:
    clips = [Clip("v", -1.0, 5.0, 9.0), Clip("v", 1.0, 5.0, 9.0), Clip("v", 1.0, 5.0, 7.0)]
    assert texts_of(clips, TIED)[0] == ["third", "second", "first"]


def test_clips_that_begin_together_without_stops_are_told_by_score() -> None:
    assert texts_of([Clip("v", -1.0, 5.0), Clip("v", 1.0, 5.0)], TIED[1:])[0] == ["third", "second"]


def test_clips_that_nothing_tells_apart_are_refused() -> None:
    with pytest.raises(SourceError, match=r"'v' at 5 s has no row: .*; rows with the same start must differ"):
        texts_of([Clip("v", 1.0, 5.0), Clip("v", 1.0, 5.0)], TIED[:2])


def test_no_row_is_given_to_two_clips() -> None:
    rows = [LabelRow("v", "1", "one", 1.0)]
    with pytest.raises(SourceError, match=r"'v\$_\$1' and 'v\$_\$01' have the same row"):
        texts_of([Clip("v$_$1", 1.0), Clip("v$_$01", 1.0)], rows)


def test_a_clip_that_a_source_repeats_whole_keeps_its_row() -> None:
    clips = [Clip("v$_$0", 1.0), Clip("v$_$0", 1.0), Clip("v$_$1", 2.0)]
    rows = [LabelRow("v", "1", "one", 1.0), LabelRow("v", "2", "two", 2.0)]
    assert texts_of(clips, rows)[0] == ["one", "one", "two"]


def test_positions_of_clips_that_begin_together_are_told_by_score() -> None:
    rows = [
        LabelRow("v", "1", "one", 0.5, start=0.0),
        *(replace(row, clip=f"{9 - n}") for n, row in enumerate(TIED[1:])),
    ]
    clips = [Clip("v$_$0", 0.5), Clip("v$_$1", 1.0), Clip("v$_$2", -1.0)]
    assert texts_of(clips, rows)[0] == ["one", "second", "third"]


def test_starts_that_the_label_file_lacks_are_named() -> None:
    with pytest.raises(SourceError, match=r"label.csv has no column start$"):
        texts_of([Clip("v", 1.0, 5.0), Clip("v", 2.0, 6.0)], [LabelRow("v", "1"), LabelRow("v", "2")])


def test_the_only_row_of_a_video_is_not_that_of_a_clip_with_another_name() -> None:
    with pytest.raises(SourceError, match=r"0 of 1 have one; 'b_c\$_\$7' has no row"):
        texts_of([Clip("b_c$_$7", 3.0)])


def test_an_id_that_is_the_video_alone_finds_the_only_clip_of_it() -> None:
    assert texts_of([Clip("b_c", 3.0)])[0] == ["two"]
    with pytest.raises(SourceError, match="0 of 1 have one; 'a' has no row"):
        texts_of([Clip("a", 1.0)])


def test_joining_without_scores_says_so() -> None:
    remarks = texts_of([Clip(f"a$_${n}") for n in range(3)])[1]
    assert remarks[0].endswith("counted from 0; no scores to compare")


def test_a_few_scores_may_differ() -> None:
    rows = [LabelRow("v", str(n), "x", n / 10) for n in range(40)]
    clips = [Clip(f"v$_${n}", n / 10 + (1 if n == 7 else 0.009)) for n in range(40)]
    assert len(texts_of(clips, rows)[0]) == 40


def test_a_clip_without_a_row_is_named() -> None:
    rows = [LabelRow("v", str(n), "x", 0.0) for n in range(99)]
    clips = [Clip(f"v$_${n}", 0.0) for n in range(100)]
    with pytest.raises(SourceError, match=r"found none for 1 of 100, the first 'v\$_\$99': add them"):
        texts_of(clips, rows)


def test_clips_of_other_data_are_refused_with_the_best_way() -> None:
    with pytest.raises(SourceError) as error:
        texts_of([Clip("a$_$0001", 1.0), Clip("q$_$1", 0.0), Clip("q\n$_$2", 0.0)])
    assert "at best, by id, 1 of 3 have one; 'q$_$1' has no row" in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_with_other_scores_throughout_are_refused() -> None:
    with pytest.raises(SourceError, match=r"by id, 4 of 4 have one, but only 0.0% of their scores are equal"):
        texts_of([Clip(row.id, 9.0) for row in ROWS])


def test_nothing_is_joined_with_nothing() -> None:
    assert texts_of([]) == ([], [])


# ---- sources without ids ----


def test_without_ids_equal_scores_in_the_same_order_join() -> None:
    texts, remarks = texts_of([Clip("", score) for score in SCORES])
    assert texts == ["one", "three", "ten", "two"]
    assert remarks == [
        "the source has no ids: joined by the order of the clips in label.csv; 100.0% of the scores are equal"
    ]


def test_without_ids_the_order_of_each_split_serves_too() -> None:
    texts, remarks = texts_of([Clip("", score) for score in (1.0, -2.0, 3.0, 0.5)])
    assert texts == ["one", "three", "two", "ten"]
    assert "order of the clips of each split" in remarks[0]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, -2.0, 0.5], "found 3 clips and 4 rows"),
        ([3.0, 0.5, -2.0, 1.0], "but only 0.0% of the scores are equal"),
        ([1.0, -2.0, 0.5, None], "but without scores nothing shows"),
    ],
)
def test_without_ids_anything_less_is_refused(scores: list[float | None], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        texts_of([Clip("", score) for score in scores])
