"""MediaPipe's `face_landmarker.task`: a zip of model files, read into memory and never unpacked to the disk.

Only files of known names count. How much is read is limited, whatever the archive declares.
"""

import zipfile
import zlib
from pathlib import Path
from typing import IO

from conki_cli.system.errors import SettingsError, one_line, reason_of
from conki_cli.system.readable import human_size

DETECTOR, MESH, BLENDSHAPES = "face_detector.tflite", "face_landmarks_detector.tflite", "face_blendshapes.tflite"
"""The models in it, as MediaPipe names them."""

_MOST_BYTES = 64 * 2**20  # of a model, and of the archive; MediaPipe's has 3.6 MiB
_MOST_FILES = 64
_CHUNK = 2**20
_ADVICE = "download face_landmarker.task again"


def names_in_task(path: Path) -> list[str]:
    """Return the names of the files in a .task, in their order.

    Raises:
        SettingsError: it is not an archive, or one that nobody would make.
    """
    with _opened(path) as archive:
        return [one.filename for one in _members(path, archive)]


def read_from_task(path: Path, name: str) -> bytes:
    """Return the bytes of a file in a .task.

    Raises:
        SettingsError: it is missing or damaged, or is larger than a model can be.
    """
    with _opened(path) as archive:
        member = next((one for one in _members(path, archive) if one.filename == name), None)
        if member is None:
            raise SettingsError(f"{path} must hold {name}, which is missing: {_ADVICE}")
        try:
            with archive.open(member) as stream:
                return _bounded(path, name, stream)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise SettingsError(f"{name} in {path} cannot be read ({reason_of(error)}): {_ADVICE}") from error


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        if not path.is_file():
            raise SettingsError(f"there is no file {path}", advice="check --face-models")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise SettingsError(
                f"{path} must have {human_size(_MOST_BYTES)} at most, found {human_size(size)}: {_ADVICE}"
            )
        return zipfile.ZipFile(path)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise SettingsError(f"{path} must be a zip of models ({reason_of(error)}): {_ADVICE}") from error


def _members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > _MOST_FILES:
        raise SettingsError(f"{path} must hold {_MOST_FILES} files at most, found {len(members)}: {_ADVICE}")
    names = [member.filename for member in members]
    for member in members:
        name = one_line(member.filename)[:60]
        if "/" in member.filename or "\\" in member.filename or member.filename.startswith("."):
            raise SettingsError(f"{path} must hold plain files, found {name!r}: {_ADVICE}")
        if names.count(member.filename) > 1:
            raise SettingsError(f"{path} must hold every file once, found {name!r} twice: {_ADVICE}")
        if member.flag_bits & 1:
            raise SettingsError(f"{path} must not be encrypted, but {name!r} is: {_ADVICE}")
        if member.file_size > _MOST_BYTES:
            raise SettingsError(
                f"{name!r} in {path} must have {human_size(_MOST_BYTES)} at most, declared are "
                f"{human_size(member.file_size)}: {_ADVICE}"
            )
    return members


def _bounded(path: Path, name: str, stream: IO[bytes]) -> bytes:
    """Read a member to its end, or as far as a model can reach."""
    parts, total = [], 0
    while part := stream.read(_CHUNK):
        parts.append(part)
        total += len(part)
        if total > _MOST_BYTES:
            raise SettingsError(f"{name} in {path} unpacks to more than {human_size(_MOST_BYTES)}: {_ADVICE}")
    return b"".join(parts)
