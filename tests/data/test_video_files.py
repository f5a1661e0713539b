"""Which file of a folder is which clip."""

import os
from pathlib import Path

import pytest

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")

from conki_cli.data.extraction.cache import Clip, Extraction, extract_clips
from conki_cli.data.extraction.recipe import Recipe
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.sources.loose_videos import clips_of
from conki_cli.data.sources.videos import _clips_of, _index, media_in
from conki_cli.system.errors import SettingsError


def read_from(folder: Path, names: str, *rows: tuple[str, str]) -> list[str]:
    """Return the file of every row, all from 1 to 2 seconds of their video, or the reason why it has none."""
    for name in names.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    found = _index(folder)
    told: dict[str, str] = {}
    labels = [LabelRow(video, clip, start=1.0, stop=2.0) for video, clip in rows]
    clips, failures = _clips_of(labels, found, folder)
    told |= {clip.id: f"{clip.path.relative_to(folder)}{'' if clip.span.is_whole else ' from 1'}" for clip in clips}
    told |= {failure.id: failure.reason for failure in failures}
    return [told[row.id] for row in labels]


def test_a_clip_whose_file_is_missing_is_not_read_from_another_video(tmp_path: Path) -> None:
    rows = [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2"), ("1", "3")]
    found = read_from(tmp_path, "Raw/1/1.mp4 Raw/1/2.mp4 Raw/2/1.mp4", *rows)
    assert found[:3] == ["Raw/1/1.mp4", "Raw/1/2.mp4", "Raw/2/1.mp4"]
    assert [reason[:38] for reason in found[3:]] == [
        "there is no file Raw/2/2.mp4 or Raw/2.",
        "there is no file Raw/1/3.mp4 or Raw/1.",
    ]


def test_a_missing_clip_is_not_the_only_clip_of_a_video_of_one_clip(tmp_path: Path) -> None:
    found = read_from(tmp_path, "Raw/a/2.mp4 Raw/2/1.mp4", ("a", "2"), ("2", "3"))
    assert found[0] == "Raw/a/2.mp4"
    assert found[1].startswith("there is no file Raw/2/3.mp4")


def test_whole_videos_are_found_in_a_folder_of_a_day_and_in_one_of_their_own(tmp_path: Path) -> None:
    names = "Raw/day1/talk.mp4 Raw/other/other.mp4 Raw/top.mp4"
    found = read_from(tmp_path, names, ("talk", "1"), ("other", "1"), ("top", "1"), ("talk", "2"))
    assert found == [f"{name} from 1" for name in (*names.split(), "Raw/day1/talk.mp4")]


def test_a_name_without_a_video_is_that_of_one_file_or_cannot_be_told(tmp_path: Path) -> None:
    found = read_from(tmp_path, "Raw/a/1.mp4 Raw/b/1.mp4 Raw/b/2.mp4", ("", "1"), ("", "2"), ("", "3"))
    assert found[0] == "which file 1 is cannot be told: add a column video_id"
    assert found[1] == "Raw/b/2.mp4"
    assert found[2].startswith("there is no file 3.mp4")


def test_a_file_that_is_called_by_video_and_clip_is_found_in_any_folder(tmp_path: Path) -> None:
    assert read_from(tmp_path, "Raw/day1/v$_$7.mp4 Raw/w$_$8.mp4", ("v", "7"), ("w", "8")) == [
        "Raw/day1/v$_$7.mp4",
        "Raw/w$_$8.mp4",
    ]


def test_a_clip_whose_name_has_the_separator_of_ids_is_found_in_the_folder_of_its_video(tmp_path: Path) -> None:
    found = read_from(tmp_path, "Raw/a/x$_$1.mp4", ("a", "x$_$1"), ("b", "x$_$1"))
    assert found[0] == "Raw/a/x$_$1.mp4"
    assert found[1].startswith("there is no file Raw/b/x$_$1.mp4")


def test_a_pipe_is_passed_over_in_a_folder_and_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mp4")  # whoever reads it waits for ever
    (tmp_path / "y.mp4").write_bytes(b"y")
    assert [path.name for path in media_in(tmp_path)] == ["y.mp4"]
    with pytest.raises(SettingsError, match=r"x\.mp4 must be a video or a folder but is a pipe or device: name a file"):
        clips_of([tmp_path / "x.mp4"])
    extraction = Extraction(tmp_path / "cache", Recipe("none", "none"), 1)
    _, failures = extract_clips([Clip("x", tmp_path / "x.mp4")], extraction)
    assert [failure.reason for failure in failures] == ["it must be a file but is a pipe or device: name a file"]
