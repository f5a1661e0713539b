"""Open a raw file safely; its kind is detected from its first bytes, not from its name."""

import re
import stat
from pathlib import Path

from conki_cli.data.raw.file import Raw, encoding_by_mark
from conki_cli.data.store.seal import SEALED
from conki_cli.system.errors import SourceError

_HEAD_BYTES = 4096
_OLD_PICKLES = (b"(dp", b"(lp", b"}q", b"]q")  # starts of dictionaries and lists in protocols 0 and 1
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def open_raw(path: Path) -> Raw:
    """Open a file or folder; nothing in it is executed.

    Raises:
        SourceError: it cannot be read, is empty, damaged or hostile, or has a known but unsupported format.
    """
    if path.is_dir():
        return Raw(path, "folder", _files_in(path))
    head, last = _ends_of(path)
    if head.startswith((b"\x89HDF", SEALED)):
        from conki_cli.data.raw.hdf5 import open_hdf5

        return Raw(path, "hdf5", open_hdf5(path))
    from conki_cli.data.raw.refusals import refusal_of_bytes
    from conki_cli.data.raw.tables import columns_of, first_cells

    if (columns := columns_of(path, head)) is not None:
        return Raw(path, "table", columns)

    if refusal := refusal_of_bytes(path, head):
        raise SourceError(refusal)
    if head.startswith(b"PK\x03\x04"):
        from conki_cli.data.raw.npz import read_npz

        return Raw(path, "npz", read_npz(path))
    cells = first_cells(head)
    # Pickles from protocol 2 on start with 0x80; all end with a full stop; older ones do not start with column names.
    if head[0] == 0x80 or head.startswith(_OLD_PICKLES) or (last == b"." and len(cells) < 2):
        from conki_cli.data.raw.pickles import read_pickle

        return Raw(path, "pickle", read_pickle(path))
    if _is_binary(head) and len(cells) < 2:
        raise SourceError(
            f"{path} is binary and not in a supported format: `conki prepare --list-formats` explains the formats; "
            "a table of text must be UTF-8, or UTF-16 with a byte order mark"
        )
    return Raw(path, "table", cells)


def _is_binary(head: bytes) -> bool:
    """Say whether a file's first bytes are not text: control characters, or a first line that is not UTF-8."""
    if encoding_by_mark(head) is not None:
        return False
    try:
        head.splitlines()[0].decode()
    except UnicodeDecodeError:
        return True
    return _CONTROL.search(head) is not None


def _files_in(folder: Path) -> dict[str, Path]:
    try:
        return {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        raise SourceError(f"cannot read {folder}: {error.strerror or error}") from error


def _ends_of(path: Path) -> tuple[bytes, bytes]:
    """Return the first bytes of a file, and its last byte."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could block forever
            raise SourceError(
                f"{path} must be a file or a folder, found a pipe, device or socket", advice="save it as a file"
            )
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            stream.seek(-min(len(head), 1), 2)
            last = stream.read(1)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise SourceError(f"{path} is empty", advice="get the complete file again")
    return head, last
