"""torch tensors inside plain pickles, read without torch.

`pickle.dump` of a tensor, which MMSA-FET uses with `return_type="pt"`, writes a call of `_rebuild_tensor_v2` over a
storage, and the storage as a byte string in the layout that `torch.save` had before it wrote zip archives: four small
pickles (a magic number, the protocol, facts about the machine, the storage's type and length as a persistent id), a
pickle of the list of storages, the length as int64, and the values. Where the tensor lived (CPU, CUDA) is ignored.

Axes: those of the tensor, [size...]; `stride` and `offset` count values of the storage.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.rebuild import checked_shape
from conki_cli.data.raw.spans import Budget, Source
from conki_cli.data.store.arrays import Array

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_BFLOAT16 = "bfloat16"  # the upper half of a float32; numpy has no such type

_TYPES = {
    "Float": "<f4",
    "Double": "<f8",
    "Half": "<f2",
    "BFloat16": _BFLOAT16,
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "<i1",
    "Byte": "<u1",
    "Bool": "|b1",
    "Untyped": "<u1",
    "_Untyped": "<u1",  # torch 1.11
}


@dataclass(frozen=True)
class StorageType:
    """A storage class of torch; only the type of its values is needed."""

    code: str

    @property
    def stored(self) -> np.dtype[Any]:
        """The dtype of the bytes."""
        return np.dtype("<u2" if self.code == _BFLOAT16 else self.code)


STORAGE_NAMES: dict[tuple[str, str], object] = {
    (module, f"{name}Storage"): StorageType(code)
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, code in _TYPES.items()
}
"""The only names allowed in the pickles of a storage."""


@dataclass(frozen=True, eq=False)
class StorageId:
    """The content of a storage's persistent id."""

    type: StorageType
    count: int


@dataclass(frozen=True, eq=False)
class Storage:
    """Contiguous values of one type that exist in the source."""

    source: Source
    offset: int
    type: StorageType
    count: int


def storage_id(identity: object) -> StorageId:
    """Read a persistent id: ("storage", type, key, location, number of values, None).

    Raises:
        ValueError: it is not the id of a storage.
    """
    if not isinstance(identity, tuple) or len(identity) != 6 or identity[0] not in ("storage", b"storage"):
        raise ValueError("only storages of tensors can be looked up")
    _, kind, _, _, count, view = identity
    if not isinstance(kind, StorageType) or type(count) is not int or count < 0 or view is not None:
        raise ValueError("a tensor's storage must have a plain type and a length")
    return StorageId(kind, count)


def read_storage(source: Source, stream: io.BufferedReader, stop: int, unpickle: Callable[[], object]) -> Storage:
    """Read the layout of old `torch.save` up to the start of the values.

    Args:
        source: the source of `stream`.
        stream: positioned at the start of the layout.
        stop: end of the layout in the source.
        unpickle: reads the next pickle from `stream`; knows `STORAGE_NAMES` and `storage_id`.

    Raises:
        ValueError: it does not have that layout.
        EOFError: it has fewer values than it declares.
    """
    if unpickle() != _MAGIC or unpickle() != _PROTOCOL:
        raise ValueError("a tensor's storage must be written by torch.save in its old layout")
    machine = unpickle()
    is_little = machine.get("little_endian", machine.get(b"little_endian")) if isinstance(machine, dict) else None
    if is_little is not True:
        raise ValueError("a tensor's storage must be little-endian")
    identity, keys = unpickle(), unpickle()
    if not isinstance(identity, StorageId) or not isinstance(keys, list) or len(keys) != 1:
        raise ValueError("a tensor must have one storage")
    head = stream.read(8)
    begin = stream.tell()
    if int.from_bytes(head, "little") != identity.count:
        raise ValueError("a tensor's storage must be as long as it declares")
    if len(head) < 8 or identity.count * identity.type.stored.itemsize > stop - begin:
        raise EOFError
    return Storage(source, begin, identity.type, identity.count)


def rebuild_tensor(budget: Budget, storage: object, offset: object, size: object, stride: object, *_: object) -> Array:
    """Return a tensor as an array, without its gradient flag, hooks and metadata.

    Raises:
        ValueError: it would extend beyond its storage.
    """
    if not isinstance(storage, Storage):
        raise ValueError("a tensor must have a storage")
    shape, steps = checked_shape(size), checked_shape(stride)
    if type(offset) is not int or offset < 0 or len(shape) != len(steps):
        raise ValueError("a tensor must have a whole offset and one stride per axis")
    if 0 in shape:
        return np.empty(shape, dtype=np.float32 if storage.type.code == _BFLOAT16 else storage.type.stored)
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if last >= storage.count or math.prod(shape) > storage.count:
        raise ValueError("a tensor must be inside its storage, with every value once")
    dtype = storage.type.stored
    place = storage.offset + offset * dtype.itemsize
    if _is_contiguous(shape, steps):
        array = storage.source.array(place, dtype, shape)
    else:
        reach = np.frombuffer(storage.source.read(place, (last - offset + 1) * dtype.itemsize), dtype)
        budget.take_copies(math.prod(shape) * dtype.itemsize)
        strides = tuple(step * dtype.itemsize for step in steps)
        array = np.lib.stride_tricks.as_strided(reach, shape, strides).copy()
    return _widened(array, budget) if storage.type.code == _BFLOAT16 else array


def _is_contiguous(shape: tuple[int, ...], steps: tuple[int, ...]) -> bool:
    expected = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return all(n == 1 or step == wanted for n, step, wanted in zip(shape, steps, expected, strict=True))


def _widened(array: Array, budget: Budget) -> npt.NDArray[np.float32]:
    """Return bfloat16, read as uint16, as float32: its bits are the upper half."""
    budget.take_copies(6 * array.size)
    made = np.asarray(array).astype(np.uint32)
    return np.left_shift(made, 16, out=made).view(np.float32)
