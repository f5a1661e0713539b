"""Files of the field that are recognised and refused by name, each with the way to convert it.

Refused: MFN's HDF5 files (joined columns), bc-LSTM tuples, GCNet lists, MERTools label.npz, MATLAB files of a whole
data set (DeepCU) and of MATLAB 7.3, IEMOCAP (emotion classes, no score), archives and compressed files, torch.save
files, old spreadsheets, Arrow, JSON, single .npy arrays, videos and sounds, and what a failed download leaves. Two
targets fit everything:

    a pickle in MMSA's layout, {'train': {...}, 'valid': {...}, 'test': {...}} with the keys id ('video$_$clip'),
    raw_text, regression_labels, vision, audio, and vision_lengths, audio_lengths for real frames
    a label.csv (video_id, clip_id, text, label, mode), and with --vision and --audio folders of one .npy per clip
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conki_cli.data.raw.hdf5 import damage_in
from conki_cli.data.sources.clip_lists import is_clip_list
from conki_cli.data.sources.columns import plain_key, split_of
from conki_cli.data.sources.request import Raw
from conki_cli.system.errors import SourceError

AS_MMSA = (
    "write a pickle in MMSA's layout, train, valid and test with id, raw_text, regression_labels, vision and audio each"
)
AS_FILES = "write a label.csv (video_id, clip_id, text, label, mode) and one .npy per clip for --vision and --audio"

_TAIL_BYTES = 65536  # of a zip archive: the end of its table of contents
_EMOTIONS = {"happy", "sad", "angry", "neutral"}
_MERTOOLS = {"train_corpus", "val_corpus", "test_corpus"}

_UNPACK = "an archive or compressed file: unpack it and name the file in it"
_RAW_MEDIA = f"raw video or sound, which is not read yet: extract features (MMSA-FET does), or {AS_FILES}"
_TABLE = f"a table that is not read: {AS_FILES}"
_TORCH = f"a torch.save file: load it with torch in a place where you trust it, and {AS_MMSA}"
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
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": _TORCH,  # the number that older torch.save files begin with
    b"version https://git-lfs": "a Git LFS pointer, not the data: run `git lfs pull` there",
}
_HTML = re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE)
_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*(\{\s*[\"}]|\[\s*[\[{\"\]\d-])")
_ENTRY = re.compile(rb"PK\x01\x02.{42}", re.DOTALL)  # an entry of a zip archive's table of contents


def refusal_of_bytes(path: Path, head: bytes) -> str | None:
    """Say in one line why a file is not read, if its bytes show a kind that is known and not read.

    Args:
        path: the file.
        head: its first bytes, 300 or more if it has them.

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
    """Return the last names in a zip archive: a bounded piece is looked at and nothing is unpacked."""
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
    """Say why an archive is not read; None: it may be an npz, or it is damaged, which its reader says."""
    found = list(names)
    if _MERTOOLS & {name.removesuffix(".npy") for name in found}:
        return _mertools()
    if not found or any(name.endswith(".npy") for name in found):
        return None
    if any(name.endswith("data.pkl") for name in found):
        return _TORCH
    return _UNPACK


def refusal(raw: Raw) -> str | None:
    """Say in one line why an opened file is not read, if it is in a format that is known and not read."""
    if raw.kind == "pickle":
        reason = _reason_of_pickle(raw.content)
    elif raw.kind == "npz":
        reason = _mertools() if _MERTOOLS & set(raw.content) else None
    elif raw.kind == "hdf5":
        with damage_in(raw.path):
            reason = _reason_of_hdf5(raw.content)
    else:
        reason = None
    return None if reason is None else f"{raw.path} is {reason}"


def iemocap() -> str:
    """Say what IEMOCAP's files are and what to do."""
    return (
        "IEMOCAP, emotion classes and no sentiment score, which conki learns: take MOSI, MOSEI or SIMS, "
        f"or, with scores of your own, {AS_MMSA}"
    )


def is_emotion_shape(shape: tuple[int, ...]) -> bool:
    """Tell whether labels have IEMOCAP's shape: four emotions for each clip, each with a no and a yes or one number."""
    return shape[1:] in ((4, 2), (4,), (1, 4))


def _mertools() -> str:
    return (
        "MERTools' label.npz, objects that a safe reader does not open: write its names, texts and 'val' scores "
        "as a label.csv (video_id, clip_id, text, label, mode), and give its features/<name>.npy with --vision and "
        "--audio"
    )


def _reason_of_pickle(content: Any) -> str | None:
    if isinstance(content, tuple):
        return f"a tuple of dictionaries, as bc-LSTM keeps its features: {AS_MMSA}"
    if isinstance(content, list) and not is_clip_list(content):
        return f"a list without splits, as GCNet keeps its features: {AS_MMSA}"
    if not isinstance(content, dict):
        return None
    parts = {plain_key(key): value for key, value in content.items()}
    labels = [
        value
        for name, part in parts.items()
        if split_of(name) and isinstance(part, dict)
        for key, value in part.items()
        if plain_key(key) in ("labels", "label")
    ]
    shapes = [value.shape for value in labels if hasattr(value, "shape")]
    has_emotions = len(_EMOTIONS & parts.keys()) > 1 or any(is_emotion_shape(shape) for shape in shapes)
    return iemocap() if has_emotions else None


def _reason_of_hdf5(file: Any) -> str | None:
    import h5py

    for name in ("data", "d1"):
        # Links are not followed: one could lead out of the file.
        is_inside = isinstance(file.get(name, getlink=True), h5py.HardLink)
        if is_inside and isinstance(file[name], h5py.Dataset):
            return (
                "an HDF5 file of MFN, one array of joined columns (300 of words, 5 of sound and 20 of the face for "
                f"MOSI) without ids: cut the columns apart, and {AS_MMSA}"
            )
    return None
