"""Refuse files by their first bytes: archives, media, tables of other programs, torch.save, MATLAB."""

import re
from collections.abc import Iterable
from pathlib import Path

from conki_cli.system.errors import SourceError

AS_MMSA = (
    "write a pickle in MMSA's layout, train, valid and test with id, raw_text, regression_labels, vision and audio each"
)
AS_FILES = "write a label.csv (video_id, clip_id, text, label, mode) and one .npy per clip for --vision and --audio"

_TAIL_BYTES = 65536  # of a zip archive: the end of its table of contents
MERTOOLS = {"train_corpus", "val_corpus", "test_corpus"}

_UNPACK = "an archive or compressed file: unpack it and name the file in it"
_RAW_MEDIA = f"raw video or sound, which cannot be read yet: extract features (MMSA-FET does), or {AS_FILES}"
_TABLE = f"a table in an unsupported format: {AS_FILES}"
_TORCH = f"a torch.save file: if you trust it, load it with torch, and {AS_MMSA}"
_MATLAB = (
    "a MATLAB file: a folder with one .mat per clip is read by --vision and --audio; a data set in one file, as of "
    f"DeepCU: load it with scipy or h5py, and {AS_MMSA}"
)

_MAGIC: dict[bytes, str] = {  # first bytes -> what it is and what to do
    b"MATLAB 5.0 MAT-file": _MATLAB,
    b"MATLAB 7.3 MAT-file": _MATLAB,
    b"\x1f\x8b": _UNPACK,
    b"BZh": _UNPACK,
    b"\xfd7zXZ\x00": _UNPACK,
    b"\x28\xb5\x2f\xfd": _UNPACK,
    b"Rar!\x1a\x07": _UNPACK,
    b"7z\xbc\xaf\x27\x1c": _UNPACK,
    b"PK\x05\x06": "an empty zip archive: get the file again",
    b"\x1a\x45\xdf\xa3": _RAW_MEDIA,  # Matroska, WebM
    b"FLV\x01": _RAW_MEDIA,
    b"ID3": _RAW_MEDIA,
    b"fLaC": _RAW_MEDIA,
    b"OggS": _RAW_MEDIA,
    b"ARROW1": f"Arrow, {_TABLE}",
    b"FEA1": f"Feather, {_TABLE}",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Excel or Word file: save the table as CSV in UTF-8",
    b"\x93NUMPY": f"a single array without ids and scores: {AS_FILES}",
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": _TORCH,  # the magic number of older torch.save files
    b"version https://git-lfs": "a Git LFS pointer, not the data: run `git lfs pull` there",
}
_HTML = re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE)
_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*(\{\s*[\"}]|\[\s*[\[{\"\]\d-])")
_ENTRY = re.compile(rb"PK\x01\x02.{42}", re.DOTALL)  # an entry of a zip archive's table of contents


def refusal_of_bytes(path: Path, head: bytes) -> str | None:
    """Say in one line why a file is not read, if its bytes show a known but unsupported kind.

    Args:
        path: the file.
        head: its first bytes, at least 300 if it has as many.

    Raises:
        SourceError: the file cannot be read.
    """
    reason = next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None)
    if reason is None:
        reason = _other_reason(path, head)
    return None if reason is None else f"{path} is {reason}"


def _other_reason(path: Path, head: bytes) -> str | None:
    if head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WAVE")):
        return _RAW_MEDIA
    if head[257:262] == b"ustar":
        return _UNPACK
    if _HTML.match(head):
        return "a web page, not data: the download needs a confirmation or a login; get the file in a browser"
    if _JSON.match(head):
        return f"JSON, {_TABLE}, or a .jsonl, one object per line and clip"
    return _reason_of_zip(_names_in_zip(path)) if head.startswith(b"PK\x03\x04") else None


def _names_in_zip(path: Path) -> list[str]:
    """Return the last names in a zip archive, from a bounded part of it and without unpacking."""
    try:
        with path.open("rb") as stream:
            stream.seek(-min(path.stat().st_size, _TAIL_BYTES), 2)
            tail = stream.read(_TAIL_BYTES)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    names = []
    for entry in _ENTRY.finditer(tail):
        length = int.from_bytes(tail[entry.start() + 28 : entry.start() + 30], "little")
        names.append(tail[entry.end() : entry.end() + length].decode("utf-8", "replace"))
    return names


def _reason_of_zip(names: Iterable[str]) -> str | None:
    """Say why an archive is not read; None if it may be an npz, or is damaged, which its reader reports."""
    found = list(names)
    if MERTOOLS & {name.removesuffix(".npy") for name in found}:
        return mertools()
    if not found or any(name.endswith(".npy") for name in found):
        return None
    if any(name.endswith("data.pkl") for name in found):
        return _TORCH
    return _UNPACK


def mertools() -> str:
    """Describe MERTools' label.npz and what to do."""
    return (
        "MERTools' label.npz, whose objects a safe reader cannot open: write its names, texts and 'val' scores "
        "as a label.csv (video_id, clip_id, text, label, mode), and give its features/<name>.npy with --vision and "
        "--audio"
    )
