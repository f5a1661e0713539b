"""Which features are made of a clip, and what is noted of them: extractor, version, columns, rate, model files.

The note (provenance) goes with a store and with the runs that are trained on it. Two sets of features are of one kind
if their notes are equal but for the versions of libraries.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conki_cli.data.extraction.encoders import ENCODER_RATE, encoder_note
from conki_cli.data.extraction.face_columns import FACE_VERSION, columns_with
from conki_cli.data.extraction.face_models import find_face_models
from conki_cli.data.extraction.libraries import library
from conki_cli.data.extraction.sound import SOUND_COLUMNS, SOUND_RATE, SOUND_VERSION
from conki_cli.system.errors import SettingsError

COVAREP, MESH, NONE = "covarep", "mesh", "none"
DEFAULT_FPS = 10.0
_HIGHEST_FPS = 240.0
_LIBRARIES = ("av", "ai-edge-litert", "numpy", "scipy", "pillow")
_OF_ENCODERS = ("torch", "transformers")


@dataclass(frozen=True)
class Recipe:
    """What is asked for.

    Attributes:
        audio: covarep, none, or name or folder of an encoder.
        vision: mesh, none, or name or folder of an encoder.
        fps: rows of vision per second; None: one per picture of the video.
        face_models: folder with the model files of faces, or a .task; None: the installed ones.
        transcribe: name or folder of the model that writes down what is said; None: nothing is.
    """

    audio: str = COVAREP
    vision: str = MESH
    fps: float | None = DEFAULT_FPS
    face_models: Path | None = None
    transcribe: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, for another process."""
        return {**vars(self), "face_models": None if self.face_models is None else str(self.face_models)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Recipe":
        """Return what `to_json` made."""
        folder = value["face_models"]
        return Recipe(**{**value, "face_models": None if folder is None else Path(folder)})


def parse_fps(text: str) -> float | None:
    """Read a number of pictures per second, or "own" for the video's own rate.

    Raises:
        SettingsError: it is neither.
    """
    if text == "own":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= _HIGHEST_FPS:
        raise SettingsError(f"--fps must be a number from 0.1 to {_HIGHEST_FPS:g}, or own, found {text[:40]!r}")
    return value


def provenance_of(recipe: Recipe) -> dict[str, Any]:
    """Return the note of a recipe, ready for JSON: by modality, and the versions of the libraries.

    Raises:
        SettingsError: an extractor is unknown, or something that it needs is missing.
    """
    library("av")
    found: dict[str, Any] = {}
    if recipe.audio == COVAREP:
        found["audio"] = {
            "extractor": COVAREP,
            "version": SOUND_VERSION,
            "rate": SOUND_RATE,
            "columns": list(SOUND_COLUMNS),
        }
    elif recipe.audio != NONE:
        found["audio"] = encoder_note(recipe.audio, "audio", ENCODER_RATE)
    if recipe.vision != NONE:
        library("ai_edge_litert.interpreter")
        library("PIL.Image")
        models, rate = find_face_models(recipe.face_models), recipe.fps or "own"
        if recipe.vision == MESH:
            note = {"extractor": MESH, "version": FACE_VERSION, "rate": rate, "columns": list(columns_with(models))}
        else:  # on crops of the face that the mesh finds
            note = {**encoder_note(recipe.vision, "vision", rate), "face_version": FACE_VERSION}
        found["vision"] = {**note, "models": models.sha256}
    if recipe.transcribe is not None:
        from conki_cli.data.extraction.words import transcriber_note

        found["text"] = transcriber_note(recipe.transcribe)
    has_encoder = {recipe.audio, recipe.vision} - {COVAREP, MESH, NONE} or recipe.transcribe is not None
    return {**found, "libraries": _versions(*_LIBRARIES, *(_OF_ENCODERS if has_encoder else ()))}


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def kind_of(provenance: Mapping[str, Any]) -> str:
    """Name the kind of features that a note describes, by 16 hexadecimal digits; libraries do not count."""
    counted = {key: value for key, value in provenance.items() if key != "libraries"}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]


def difference(wanted: Mapping[str, Any], found: Mapping[str, Any], modality: str) -> str:
    """Say in what two notes differ about a modality; empty where they are of one kind."""
    one, other = (notes.get(modality) for notes in (wanted, found))
    if one == other:
        return ""
    if not one or not other:
        return (
            f"{modality} {'is extracted' if one else 'is not extracted'} there, and here it is{'' if other else ' not'}"
        )
    key = next(key for key in (*one, *other) if one.get(key) != other.get(key))
    values = (json.dumps(note[key])[:60] if key in note else "none" for note in (one, other))
    return f"{key} of {modality}: {next(values)} there, {next(values)} here"
