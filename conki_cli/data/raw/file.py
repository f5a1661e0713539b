"""An opened raw file, as the readers receive it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["pickle", "npz", "hdf5", "table", "folder"]


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
