"""Read data pickles without executing anything in them, and without reading their arrays.

A pickle is a program. This reader knows only the instructions that build arrays of numbers and text, strings, numbers,
lists, tuples and dictionaries; everything else is refused by name before it is executed. The bytes of large arrays stay
in the file (`FileArray`). It supports protocols 0 to 5, all versions of numpy, python 2 (its strings become bytes), and
torch tensors, without torch.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from conki_cli.data.raw.rebuild import NUMPY_NAMES, Constructor
from conki_cli.data.raw.spans import Budget, Refused, Source, Span, plain
from conki_cli.data.raw.tensors import STORAGE_NAMES, Storage, read_storage, rebuild_tensor, storage_id
from conki_cli.data.raw.unpickler import ACCEPTED, Unpickler
from conki_cli.data.store.arrays import Array, FileArray, OpenFile
from conki_cli.system.errors import SourceError, one_line

_HEAD_BYTES = 4096


def _load_storage(budget: Budget, data: object) -> Storage:
    """Read the storage of a torch tensor from a byte string that `torch.save` wrote, with the same unpickler."""
    if isinstance(data, Span) and data.decode is plain:
        source, start, stop = data.source, data.offset, data.offset + data.length
    elif isinstance(data, bytes):
        source, start, stop = Source(data, budget), 0, len(data)
    else:
        raise ValueError("a tensor's storage must be bytes")
    budget.take_objects(2048)
    nested = Unpickler(source, start, stop, STORAGE_NAMES, storage_id)
    return read_storage(source, nested.stream, stop, nested.load)


def _parameter(budget: Budget, tensor: object, *_: object) -> Array:
    if not isinstance(tensor, np.ndarray | FileArray):
        raise ValueError("a parameter must be a tensor")
    return tensor


_NAMES: dict[tuple[str, str], object] = {
    **NUMPY_NAMES,
    ("torch.storage", "_load_from_bytes"): Constructor(_load_storage),
    ("torch._utils", "_rebuild_tensor"): Constructor(rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Constructor(rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Constructor(_parameter),
}


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn every error of a damaged or hostile pickle into one line."""
    try:
        yield
    except SourceError:
        raise
    except Refused as error:
        raise SourceError(f"{where} was refused: {error}") from None
    except OSError as error:
        raise SourceError(f"cannot read {where}: {error.strerror or error}") from error
    except EOFError:
        raise SourceError(f"{where} is empty or ends too early", advice="get the complete file again") from None
    except MemoryError:
        raise SourceError(
            f"{where} needs more memory than this machine has", advice="use a machine with more"
        ) from None
    except Exception as error:  # no other error may escape
        # Our own reasons are plain ValueErrors; messages of other errors would not help.
        said = str(error)[:1000] if type(error) is ValueError else "its instructions are invalid"
        reason = one_line("a text in it is damaged" if isinstance(error, UnicodeError) else said)[:200]
        raise SourceError(f"{where} is damaged or not a data pickle ({reason}): {ACCEPTED}") from error


def read_pickle(path: Path) -> Any:
    """Read a pickle of arrays and plain containers; nothing in it is executed, and its large arrays stay in the file.

    Args:
        path: a file of pickle protocol 0 to 5.

    Returns:
        Arrays (`FileArray` from 64 KiB on), str, bytes, numbers, None, and lists, tuples and dictionaries of them,
        which may contain themselves.

    Raises:
        SourceError: the file cannot be read, is empty, truncated or not a pickle, or contains more than data.
    """
    from conki_cli.data.raw.refusals import refusal_of_bytes

    with _explained(str(path)):
        file = OpenFile(path)
        head = np.empty(min(file.size, _HEAD_BYTES), dtype=np.uint8)
        file.fill(head, 0)
        if refusal := refusal_of_bytes(path, head.tobytes()):
            raise SourceError(refusal)
        source = Source(file)
        return Unpickler(source, 0, source.size, _NAMES).load()


def read_pickle_bytes(data: bytes, where: str) -> Any:
    """Read a pickle in memory, such as an object array of an .npz file, by the same rules.

    Args:
        data: the pickle; all its arrays will be in memory.
        where: its name in messages.

    Raises:
        SourceError: see `read_pickle`.
    """
    with _explained(where):
        source = Source(data)
        return Unpickler(source, 0, source.size, _NAMES).load()
