"""Open a raw file safely, whatever it is called: what it is, its first bytes tell."""

import codecs
import csv
from pathlib import Path

from conki_cli.errors import SourceError
from conki_cli.sources.request import Raw

_HEAD_BYTES = 4096
_TEXT_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def open_raw(path: Path) -> Raw:
    """Open a file or folder; nothing in it runs.

    Raises:
        SourceError: it cannot be read, is empty, damaged or hostile, or is of a kind that is known but not read.
    """
    if path.is_dir():
        return Raw(path, "folder", _files_in(path))
    head, last = _ends_of(path)
    if head.startswith(b"\x89HDF"):
        from conki_cli.sources.raw.hdf5 import open_hdf5

        return Raw(path, "hdf5", open_hdf5(path))
    from conki_cli.sources.unsupported import refusal_of_bytes

    if refusal := refusal_of_bytes(path, head):
        raise SourceError(refusal)
    if head.startswith(b"PK\x03\x04"):
        from conki_cli.sources.raw.npz import read_npz

        return Raw(path, "npz", read_npz(path))
    cells = _first_cells(head)
    # Pickles since protocol 2 start with 0x80, all end with a full stop, and older ones have no line of columns.
    if head[0] == 0x80 or (last == b"." and len(cells) < 2):
        from conki_cli.sources.raw.pickles import read_pickle

        return Raw(path, "pickle", read_pickle(path))
    return Raw(path, "table", cells)


def _files_in(folder: Path) -> dict[str, Path]:
    try:
        return {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        raise SourceError(f"cannot read {folder}: {error.strerror or error}") from error


def _ends_of(path: Path) -> tuple[bytes, bytes]:
    """Return the first bytes of a file, and the last one."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            stream.seek(-min(len(head), 1), 2)
            last = stream.read(1)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise SourceError(f"{path} is empty: get the file again, whole")
    return head, last


def _first_cells(head: bytes) -> list[str]:
    """Return the cells of the first line, separated by tabs or commas; none if this is no text."""
    encoding = next((name for mark, name in _TEXT_MARKS if head.startswith(mark)), "utf-8")
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    if "\0" in text or not text.strip():
        return []
    line = text.lstrip().splitlines()[0]
    return [cell.strip() for cell in next(csv.reader([line], delimiter="\t" if "\t" in line else ","))]
