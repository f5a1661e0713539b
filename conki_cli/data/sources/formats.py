"""The supported formats: which module recognises a file and reads it.

To add a format, write a module with `FORMATS`, `recognise` and `read` beside this one, and name it in `_FAMILIES`.
"""

import importlib
from collections.abc import Iterator
from typing import Protocol, cast

from conki_cli.data.raw.file import Raw
from conki_cli.data.sources.request import Request
from conki_cli.data.store.records import Corpus
from conki_cli.system.errors import SourceError, names_of

_FAMILIES = ("mmsa", "clip_lists", "mult", "sequences", "features", "labels", "videos")
"""The modules with readers; the first that recognises a file reads it."""

KINDS = {"pickle": "a pickle", "npz": "an npz archive", "hdf5": "HDF5", "folder": "a folder", "table": "text"}
"""The kinds of opened files, for messages."""


class Family(Protocol):
    """A module that reads one family of formats; its docstring describes them to users."""

    __doc__: str | None
    FORMATS: dict[str, str]

    def recognise(self, raw: Raw) -> str | None:
        """Return the name of the format, or None."""
        ...

    def read(self, raw: Raw, request: Request, name: str) -> Corpus:
        """Read a corpus."""
        ...


def families() -> Iterator[Family]:
    """Yield the modules that read raw data, in the order in which they are tried."""
    for name in _FAMILIES:
        yield cast(Family, importlib.import_module(f"conki_cli.data.sources.{name}"))


def recognise(raw: Raw) -> tuple[str, Family] | tuple[None, None]:
    """Return the name of the format of an opened file, and its reader; None and None if it is unknown."""
    for family in families():
        name = family.recognise(raw)
        if name is not None:
            return name, family
    return None, None


def read_raw(raw: Raw, request: Request) -> Corpus:
    """Read an opened file of any known format.

    Raises:
        SourceError: its format is unknown, or the reader refuses it.
    """
    name, family = recognise(raw)
    if name is not None and family is not None:
        return family.read(raw, request, name)
    from conki_cli.data.sources.unsupported import refusal

    if raw.kind == "table" and not refusal(raw):
        from conki_cli.data.sources import labels

        return labels.read(raw, request)  # its message names the missing columns
    known = ", ".join(name for family in families() for name in family.FORMATS)
    raise SourceError(
        refusal(raw)
        or f"{raw.path} is {_described(raw)}, which is not a supported format ({known}); "
        "`conki prepare --list-formats` explains them"
    )


def _described(raw: Raw) -> str:
    if raw.kind == "pickle" and not isinstance(raw.content, dict):
        return f"a pickle of a {type(raw.content).__name__}"
    from conki_cli.data.raw.hdf5 import damage_in

    with damage_in(raw.path):
        return f"{KINDS[raw.kind]} with {names_of(raw.content)}"
