"""Faces of real clips, moved by known amounts: what is read follows the movement."""

from pathlib import Path

import numpy as np
import pytest
from face_support import installed_face_reader
from scipy.ndimage import map_coordinates

from conki_cli.data.extraction.decode import opened
from conki_cli.data.extraction.face_columns import FACE_COLUMNS, face_columns
from conki_cli.data.extraction.landmarks import FaceReader

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips"),
]
WIDTH, NUM_PICTURES = 640, 60
UPPER_LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (362, 398, 384, 385, 386, 387, 388, 466, 263))
LOWER_LIDS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (362, 382, 381, 380, 374, 373, 390, 249, 263))


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    return installed_face_reader()


def still(name: str) -> np.ndarray:
    """Return a picture of a clip, about 640 pixels wide."""
    with opened(CLIPS / name) as container:
        whole = next(container.decode(video=0)).to_ndarray(format="rgb24")
    rows, columns = (np.arange(0, size, whole.shape[1] / WIDTH).astype(int) for size in whole.shape[:2])
    return whole[rows][:, columns]


def grid(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(float)
    return rows, columns


def taken_from(picture: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the picture whose pixels come from these places of another."""
    places = [map_coordinates(picture[..., k], [rows, columns], order=1, mode="nearest") for k in range(3)]
    return np.stack(places, axis=-1)


def wave(seed: int) -> np.ndarray:
    """Return a slow movement within -1..1."""
    draw, time = np.random.default_rng(seed), np.arange(NUM_PICTURES) / 10
    parts = [np.sin(2 * np.pi * speed * time + draw.uniform(0, 6)) for speed in (0.3, 0.7)]
    return (parts[0] + 0.6 * parts[1]) / 1.6


def columns_of(reader: FaceReader, pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    rows = [
        face_columns(reader.read(one, reader.detect(one)[0]), one.shape[0], one.shape[1])[-len(FACE_COLUMNS) :]
        for one in pictures
    ]
    return dict(zip(FACE_COLUMNS, np.array(rows).T, strict=True))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


@pytest.mark.parametrize("name", ["single_face.mp4", "WolfgangLanger_Pexels.mp4"])
def test_roll_and_place_follow_a_face_that_turns_and_moves(name: str, reader: FaceReader) -> None:
    picture = still(name)
    (height, width), (rows, columns) = picture.shape[:2], grid(picture)
    at_rest = columns_of(reader, [picture])
    centre = at_rest["x"][0] * width, at_rest["y"][0] * height
    angles, right, down = np.radians(15 * wave(1)), 0.08 * width * wave(2), 0.06 * height * wave(3)
    moved = []
    for angle, x, y in zip(angles, right, down, strict=True):  # the face turns around its own centre
        across, along = columns - centre[0] - x, rows - centre[1] - y
        from_columns = np.cos(angle) * across + np.sin(angle) * along + centre[0]
        moved.append(taken_from(picture, np.cos(angle) * along - np.sin(angle) * across + centre[1], from_columns))
    read = columns_of(reader, moved)
    assert correlation(read["roll"], angles) >= 0.95
    assert correlation(read["x"], right) >= 0.95
    assert correlation(read["y"], down) >= 0.95


@pytest.mark.parametrize("name", ["single_face.mp4", "WolfgangLanger_Pexels.mp4"])
def test_the_jaw_and_the_mouth_follow_a_chin_that_sinks(name: str, reader: FaceReader) -> None:
    picture = still(name)
    points, (rows, columns) = reader.read(picture, reader.detect(picture)[0]).points, grid(picture)
    lips, chin, span = points[13, 1], points[152, 1], points[152, 1] - points[10, 1]
    middle, half = points[[61, 291], 0].mean(), abs(points[291, 0] - points[61, 0]) / 2
    opening = 0.14 * span * np.clip(wave(4), 0, None)
    sinking = np.sin(np.clip(1 - np.abs(columns - middle) / (2.6 * half), 0, 1) * np.pi / 2)
    end, moved = chin + 0.35 * span, []
    for depth in opening:
        gap = depth * sinking
        stretched = lips + (rows - lips - gap) * (end - lips) / (end - lips - gap)
        one = taken_from(picture, np.where((rows > lips + gap) & (rows < end), stretched, rows), columns)
        one[(rows > lips) & (rows <= lips + gap) & (np.abs(columns - middle) < half)] = (40, 15, 15)
        moved.append(one)
    read = columns_of(reader, moved)
    assert correlation(read["AU26_jaw_drop"], opening) >= 0.7
    assert correlation(read["AU25_lips_apart"], opening) >= 0.7


def test_a_blink_follows_lids_that_sink(reader: FaceReader) -> None:
    picture = still("single_face.mp4")  # the other one has her eyes closed
    points, (rows, columns) = reader.read(picture, reader.detect(picture)[0]).points, grid(picture)
    above, closed, moved = 0.05 * (points[152, 1] - points[10, 1]), np.clip(1.6 * wave(5), 0, 1), []
    for share in closed:
        source = rows.copy()
        for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
            tops, bottoms = (
                np.interp(columns, points[list(lid), 0], points[list(lid), 1], left=np.nan, right=np.nan)
                for lid in (upper, lower)
            )
            edge = tops + share * np.clip(bottoms - tops, 0, None)
            is_lid = (rows >= tops - above) & (rows <= edge)
            source[is_lid] = (tops - above + (rows - tops + above) * above / (edge - tops + above))[is_lid]
        moved.append(taken_from(picture, source, columns))
    assert correlation(columns_of(reader, moved)["AU45_blink"], closed) >= 0.7
