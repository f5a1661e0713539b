"""Untrusted HDF5 files: nothing outside the file is read, and nothing larger than the file's content.

An HDF5 file can point to any file of the machine (external links, external storage, virtual data sets), refer to a data
set many times, and declare terabytes that it does not hold. Only data in the file itself is read, only as often as it
is stored, and the memory for any object is limited to `MOST_BYTES`, independent of the file's size.

Axes: L frames of a clip, d features per frame.
"""

import contextlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.store.opening import open_hdf5 as open_to_read
from conki_cli.data.store.seal import check_seal
from conki_cli.system.errors import SourceError, names_of, one_line, reason_of
from conki_cli.system.readable import check_read, human_size

MOST_BYTES = 256 * 2**20
"""Limit of an array in memory: an hour of COVAREP (100 frames a second, 74 numbers) takes 213 MB."""
_MOST_CHUNK_BYTES = 64 * 2**20
"""Limit of a chunk, the unit of compression; h5py's chunks have at most 1 MiB."""
_MOST_SHRUNK = 1000
"""Limit of declared bytes per stored byte: gzip itself reaches at most 1,032."""
_ALWAYS_ALLOWED = 2**20
"""Data sets up to this size may be constant, or not stored at all."""
_HARMLESS_CHUNK = 256 * 2**10
"""A gzip chunk of this size on disk unpacks to at most 264 MB, whatever it declares."""
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32"}
_GZIP = 1
_POINTER_BYTES = 16
"""Bytes of one text of variable length in its data set; the text itself is elsewhere in the file."""
_TEXT_BYTES = 100
"""Memory of a text besides its letters, including its raw bytes."""


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file for reading.

    Returns:
        The `h5py.File`.

    Raises:
        SourceError: it is missing, not HDF5, truncated or damaged.
    """
    try:
        check_seal(path)
        return open_to_read(path)
    except FileNotFoundError:
        raise SourceError(f"there is no file {path}", advice="check the path") from None
    except Exception as error:  # on damaged files the library fails in many ways
        check_read(path, error)
        reason = "it ends too early" if "truncated file" in str(error) else reason_of(error)
        raise SourceError(f"cannot read {path} as HDF5 ({reason})", advice="get the complete file again") from error


@contextlib.contextmanager
def damage_in(path: Path) -> Iterator[None]:
    """Turn every error that a damaged or hostile file causes into one line."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        check_read(path, error)
        raise SourceError(f"{path} is damaged ({reason_of(error)})", advice="get the complete file again") from error


def path_of(item: Any) -> Path:
    """Return the file of a group or data set."""
    return Path(item.file.filename)


def place_of(item: Any) -> str:
    """Render file and place of a group or data set for a message."""
    return f"{path_of(item)}: {one_line(item.name or '?')[:120]}"


def _place_in(group: Any, name: str) -> str:
    return f"{place_of(group).rstrip('/')}/{one_line(name)[:80]}"


def child(group: Any, name: str) -> Any:
    """Return a member of a group that is stored in this file.

    Raises:
        SourceError: there is no such member, or it is a link to another place, which is refused.
    """
    import h5py

    with damage_in(path_of(group)):
        link = group.get(name, getlink=True)
        if link is None:
            raise SourceError(
                f"{place_of(group)} must have {name!r}, found {names_of(group)}", advice="get the file again"
            )
        if not isinstance(link, h5py.HardLink):
            raise SourceError(
                f"{_place_in(group, name)} is a link to another place, which is not followed",
                advice="save the data in the file itself",
            )
        return group[name]


def has(group: Any, name: str) -> bool:
    """Say whether a group has a member or a link of that name, without following it."""
    with damage_in(path_of(group)):
        return group.get(name, getlink=True) is not None


def group_in(group: Any, name: str) -> Any:
    """Return a member that is a group.

    Raises:
        SourceError: it is missing, a link, or a data set.
    """
    import h5py

    found = child(group, name)
    if not isinstance(found, h5py.Group):
        raise SourceError(f"{_place_in(group, name)} must be a group, found a data set")
    return found


def dataset_in(group: Any, name: str, *, texts: bool = False, in_memory: bool = False) -> Any:
    """Return a member that is a data set and safe to read; see `checked`.

    Raises:
        SourceError: it is missing, a link or a group, or `checked` refuses it.
    """
    import h5py

    found = child(group, name)
    if not isinstance(found, h5py.Dataset):
        raise SourceError(f"{_place_in(group, name)} must be a data set, found a group")
    return checked(found, texts=texts, in_memory=in_memory)


def checked(dataset: Any, *, texts: bool = False, in_memory: bool = False) -> Any:
    """Return a data set; refuse one that refers to other files or declares more than is stored.

    Args:
        dataset: an `h5py.Dataset` of one to three axes.
        texts: whether text, of fixed or variable length, is allowed in addition to numbers.
        in_memory: whether it will be read completely, and so must not exceed `MOST_BYTES`.

    Raises:
        SourceError: it is refused.
    """
    with damage_in(path_of(dataset)):
        where = place_of(dataset)
        if dataset.is_virtual or dataset.external:
            raise SourceError(
                f"{where} has its values in other files, which are not opened", advice="save them in this one"
            )
        if dataset.shape is None or not 1 <= dataset.ndim <= 3:
            raise SourceError(f"{where} must have one to three axes, found {dataset.shape}")
        value_bytes = _bytes_of_value(dataset, texts)
        declared = dataset.size * value_bytes
        stored = min(int(dataset.id.get_storage_size()), int(dataset.file.id.get_filesize()))
        if dataset.chunks:
            _check_chunks(dataset, math.prod(dataset.chunks) * value_bytes)
        elif stored != declared:
            raise SourceError(
                f"{where} declares {declared} bytes but {stored} are stored", advice="get the complete file again"
            )
        if declared > _MOST_SHRUNK * stored + _ALWAYS_ALLOWED:
            raise SourceError(
                f"{where} declares {human_size(declared)} but {human_size(stored)} are stored: real data is never "
                f"compressed below 1/{_MOST_SHRUNK}; get the file from a trustworthy source"
            )
        if in_memory:
            refuse_large(where, declared)
    return dataset


def refuse_large(where: str, count: int) -> None:
    """Refuse an array of `count` bytes that exceeds the memory limit for reading.

    Raises:
        SourceError: it has more than `MOST_BYTES`.
    """
    if count > MOST_BYTES:
        raise SourceError(
            f"{where} takes {human_size(count)} at once, and the limit is {human_size(MOST_BYTES)}",
            advice="split it into shorter videos or clips",
        )


def _bytes_of_value(dataset: Any, texts: bool) -> int:
    import h5py

    kind = dataset.dtype.kind
    if kind in "iuf":
        return int(dataset.dtype.itemsize)
    if texts and h5py.check_string_dtype(dataset.dtype) is not None:
        return int(dataset.dtype.itemsize) if kind == "S" else _POINTER_BYTES
    wanted = "numbers or texts" if texts else "numbers"
    found = "objects" if kind == "O" else one_line(str(dataset.dtype))[:60]
    raise SourceError(f"{place_of(dataset)} must hold {wanted}, found {found}", advice="save it as a plain array")


def _check_chunks(dataset: Any, chunk_bytes: int) -> None:
    """Refuse chunks that are large, are compressed with anything but gzip, or unpack beyond their size."""
    where = place_of(dataset)
    if chunk_bytes > _MOST_CHUNK_BYTES:
        raise SourceError(f"{where} has chunks of {human_size(chunk_bytes)}; save it with chunks of up to 64 MiB")
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(k)[0] for k in range(settings.get_nfilters())]
    if not set(filters) <= set(_FILTERS) or filters.count(_GZIP) > 1:
        raise SourceError(f"{where} is compressed with filters {filters}; save it with gzip, once, or uncompressed")
    if _GZIP not in filters:
        return
    large: list[tuple[int, ...]] = []
    # Keep only the places of the large chunks.
    dataset.id.chunk_iter(lambda info: large.append(info.chunk_offset) if info.size > _HARMLESS_CHUNK else None)
    for place in large:
        most = chunk_bytes + 64  # there may be a checksum in addition
        _, stored = dataset.id.read_direct_chunk(place)
        if len(zlib.decompressobj().decompress(stored, most + 1)) > most:
            raise SourceError(f"{where} has a gzip chunk that unpacks beyond its size", advice="use a trustworthy file")


def texts_of(dataset: Any) -> list[str]:
    """Read the texts of a checked data set, (n,) or (n, 1), of fixed or variable length.

    Raises:
        SourceError: it has another shape, or its texts do not fit into memory.
    """
    with damage_in(path_of(dataset)):
        if dataset.size != len(dataset):
            raise SourceError(f"{place_of(dataset)} must hold one text per row, found the shape {dataset.shape}")
        refuse_large(place_of(dataset), dataset.size * (dataset.dtype.itemsize + _TEXT_BYTES))
        if dataset.dtype.kind == "S":
            return [_decoded(item) for item in dataset[()].ravel().tolist()]
        # Every row may refer to the same long text: read so few rows at a time that they fit into memory even then.
        step = max(1, min(4096, MOST_BYTES // int(dataset.file.id.get_filesize())))
        found: list[str] = []
        held = 0
        for start in range(0, len(dataset), step):
            items = [_decoded(item) for item in dataset[start : start + step].ravel().tolist()]
            held += sum(map(len, items))
            refuse_large(place_of(dataset), 4 * held)
            found += items
        return found


def _decoded(item: bytes | str) -> str:
    if isinstance(item, str):
        return item
    try:
        return item.decode()
    except UnicodeDecodeError:
        return item.decode("latin-1")


def address_of(item: Any) -> int:
    """Return the address of a group or data set in its file, which is the same for two names of one object."""
    import h5py

    with damage_in(path_of(item)):
        return int(h5py.h5o.get_info(item.id).addr)


@dataclass(frozen=True, eq=False)
class H5Frames:
    """Contiguous rows of a checked data set, [L, d], read on demand.

    The data set is opened for every read, because an open one keeps its last chunks in memory; the file stays open
    by reference.

    Raises:
        SourceError: they would take more than `MOST_BYTES`.
    """

    file: Any  # h5py.File
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    start: int

    def __post_init__(self) -> None:
        refuse_large(f"{self.file.filename}: {one_line(self.name)[:120]}", math.prod(self.shape) * self.dtype.itemsize)

    @property
    def ndim(self) -> int:
        """Number of axes, 2."""
        return 2

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> npt.NDArray[Any]:
        with damage_in(Path(self.file.filename)):
            rows = self.file[self.name][self.start : self.start + self.shape[0]]
            return np.asarray(rows, dtype=dtype)


def rows_of(file: Any, dataset: Any, start: int, stop: int) -> H5Frames:
    """Return rows [start:stop] of a checked data set of numbers [n, d], without reading them.

    Args:
        file: the open `h5py.File` of the data set; one for all clips.
        dataset: numbers [n, d].
        start: the first row.
        stop: the row after the last.
    """
    shape = (max(0, stop - start), int(dataset.shape[1]))
    return H5Frames(file, dataset.name, dataset.dtype, shape, start)
