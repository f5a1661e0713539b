"""An opened raw file, as the readers receive it, and the encoding of one that is text."""

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["pickle", "npz", "hdf5", "table", "folder"]
_TEXT_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, eq=False)
class Raw:
    """A raw file or folder, opened safely; nothing in it was executed.

    Attributes:
        path: the file or folder.
        kind: its kind, by its content.
        content: pickle: its value (dictionaries, lists, tuples, str, bytes, numbers, `Array`s); npz: arrays by name;
            hdf5: the open `h5py.File`; table: the columns of its header; folder: its files by name.
    """

    path: Path
    kind: Kind
    content: Any


def encoding_by_mark(head: bytes) -> str | None:
    """Return the encoding of a text by the byte order mark in its first bytes; None without one."""
    return next((name for mark, name in _TEXT_MARKS if head.startswith(mark)), None)
