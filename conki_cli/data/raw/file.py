"""A raw file as readers get it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["pickle", "npz", "hdf5", "table", "folder"]


@dataclass(frozen=True, eq=False)
class Raw:
    """A raw file or folder, opened safely; nothing in it has run.

    Attributes:
        path: the file or folder.
        kind: what it is, by its content.
        content: pickle: its value (dictionaries, lists, tuples, str, bytes, numbers, `Array`s); npz: arrays by name;
            hdf5: the open `h5py.File`; table: the columns of its header; folder: its files by name.
    """

    path: Path
    kind: Kind
    content: Any
