"""Read data pickles without running anything that is in them.

A pickle is a program. This reader knows the instructions that build numpy arrays of numbers and text, strings, numbers,
lists, tuples and dictionaries; everything else is refused by name before it happens. The pure-Python unpickler of the
standard library is the base, because the faster one in C has instructions that cannot be taken away from it and
allocates whatever memory a file asks for. Arrays are one instruction each, so little speed is lost.
"""

import math
import os
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from conki_cli.errors import SourceError

_ACCEPTED = "only numpy arrays, text, numbers, lists, tuples and dictionaries are read"

# Instructions that only put plain values together. Those left out call something (INST, OBJ, NEWOBJ, NEWOBJ_EX), look
# something up elsewhere (EXT, PERSID, buffers), or build sets, which no feature file needs.
_PLAIN_INSTRUCTIONS = frozenset(
    re.findall(
        r"\w+",
        """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
        FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
        STRING BINSTRING SHORT_BINSTRING EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
        EMPTY_DICT PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL""",
    )
)

_DTYPE_CODE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,6}|O8?")


class _Dtype:
    """What a pickle says about the type of an array's values; numpy's own dtype is made from it only when checked."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
            raise ValueError("arrays of numbers and text are read, not of other dtypes")
        self.code = code
        self.byte_order = "="

    def set_state(self, state: object) -> None:
        # (version, byte order, subarray, field names, fields, item size, alignment, flags)
        if not isinstance(state, tuple) or len(state) != 8 or any(part for part in state[2:5]):
            raise ValueError("structured, nested and dated dtypes are not read")
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("unknown byte order")
        self.byte_order = state[1]

    def resolve(self) -> np.dtype[Any]:
        return np.dtype((self.byte_order if self.byte_order in "<>" else "") + self.code)


_NDARRAY = "numpy.ndarray"  # stands for the class, so that nothing callable reaches the stack


def _reconstruct(cls: object, shape: object, type_code: object) -> npt.NDArray[np.int8]:
    """Make the empty array that numpy's pickles start from; a state with the real shape follows."""
    if cls is not _NDARRAY or shape != (0,) or type_code not in (b"b", "b"):
        raise ValueError("an array must start empty")
    return np.empty(0, dtype=np.int8)


def _make_dtype(code: object, align: object = False, copy: object = True) -> _Dtype:
    return _Dtype(code)


def _scalar(dtype: object, data: object) -> Any:
    return _array_of(dtype, (), data, order="C")[()]


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> npt.NDArray[Any]:
    return _array_of(dtype, shape, data, order=order)


def _ordered_dict() -> dict[object, object]:
    return {}


_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _make_dtype,
    ("collections", "OrderedDict"): _ordered_dict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}
_CONSTRUCTORS = tuple(value for value in _GLOBALS.values() if callable(value))


def _array_of(dtype: object, shape: object, data: object, *, order: object) -> npt.NDArray[Any]:
    """Make an array over bytes that are already in memory, so that a declared shape can never allocate."""
    if not isinstance(dtype, _Dtype) or dtype.code.startswith("O") or not isinstance(data, bytes | bytearray):
        raise ValueError("an array must be bytes with a plain dtype")
    real = dtype.resolve()
    shape = _checked_shape(shape)
    if math.prod(shape) * real.itemsize != len(data) or order not in ("C", "F"):
        raise ValueError(f"an array of shape {shape} and dtype {real} does not fit its {len(data)} bytes")
    return np.ndarray(shape, dtype=real, buffer=data, order="C" if order == "C" else "F")


def _checked_shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > 8 or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("an array must have a shape of whole numbers")
    if 0 in shape and max(shape) > 2**31:
        raise ValueError("an empty array must not declare a huge shape")
    return shape


def _fill_array(array: npt.NDArray[Any], state: object) -> None:
    """Give an array that `_reconstruct` made the shape, type and values of its pickled state."""
    if array.shape != (0,) or array.dtype != np.int8:
        raise ValueError("an array must be filled once")
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("an array must have a version, a shape, a dtype, an order and values")
    _, shape, dtype, is_fortran, data = state
    if isinstance(dtype, _Dtype) and dtype.code.startswith("O"):
        if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
            raise ValueError("an object array may hold text only")
        if math.prod(_checked_shape(shape)) != len(data):
            raise ValueError(f"an object array of shape {shape} does not fit its {len(data)} values")
        state = (1, shape, np.dtype(object), bool(is_fortran), data)
        array.__setstate__(state)  # type: ignore[arg-type]
        return
    if not isinstance(data, bytes):
        raise ValueError("an array must hold bytes")
    checked = _array_of(dtype, shape, data, order="F" if is_fortran else "C")
    state = (1, checked.shape, checked.dtype, bool(is_fortran), data)
    array.__setstate__(state)  # type: ignore[arg-type]  # numpy keeps these bytes, nothing is copied


class _Unpickler(pickle._Unpickler):
    """The standard unpickler with every instruction taken away that could call or reach something."""

    stack: list[Any]  # these three are the base's, which typeshed does not list
    pop_mark: Callable[[], list[Any]]
    readline: Callable[[], bytes]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            asked = ascii(f"{module}.{name}")[1:-1]  # one line, whatever the file calls it
            raise SourceError(
                f"refused: it asks for {asked[:120]}, and {_ACCEPTED}; nothing in it was run: "
                "use a file from a source you trust, saved as plain numpy arrays"
            ) from None

    def _call(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if not any(function is constructor for constructor in _CONSTRUCTORS) or not isinstance(arguments, tuple):
            raise ValueError("only array constructors may be called")
        self.stack.append(function(*arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is np.ndarray:
            _fill_array(target, state)
        elif type(target) is _Dtype:
            target.set_state(state)
        else:
            raise ValueError(f"a {type(target).__name__} takes no state")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._update(self.stack[-1], items)

    def _make_dict(self) -> None:
        items = self.pop_mark()
        made: dict[object, object] = {}
        self._update(made, items)
        self.stack.append(made)

    @staticmethod
    def _update(target: object, items: list[object]) -> None:
        # Keys are plain, because hashing a deeply nested tuple would exhaust the C stack.
        if type(target) is not dict or not all(isinstance(key, str | bytes | int | float) for key in items[::2]):
            raise ValueError("dictionaries must have text or numbers as keys")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _instance(self) -> None:
        module, name = self.readline()[:-1].decode("ascii"), self.readline()[:-1].decode("ascii")
        self.find_class(module, name)
        raise ValueError(f"an instance of {module}.{name} is not read")

    def _refuse(self) -> None:
        raise ValueError("it makes objects, sets or outside references")


def _dispatch() -> dict[int, Any]:
    own = {
        "REDUCE": _Unpickler._call,
        "BUILD": _Unpickler._build,
        "SETITEM": _Unpickler._set_item,
        "SETITEMS": _Unpickler._set_items,
        "DICT": _Unpickler._make_dict,
    }
    table: dict[int, Any] = {}
    for instruction in pickletools.opcodes:
        code = ord(instruction.code)
        if instruction.name in own:
            table[code] = own[instruction.name]
        elif instruction.name in _PLAIN_INSTRUCTIONS:
            table[code] = pickle._Unpickler.dispatch[code]
        else:
            table[code] = _Unpickler._instance if instruction.name == "INST" else _Unpickler._refuse
    return table


_Unpickler.dispatch = _dispatch()


class _Bounded:
    """A file that never reads more than it holds: a declared size of a terabyte must not be allocated."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = os.fstat(stream.fileno()).st_size
        self.readline = stream.readline

    def _check(self, count: int) -> None:
        if count > self._size - self._stream.tell():
            raise EOFError

    def read(self, count: int) -> bytes:
        self._check(count)
        return self._stream.read(count)

    def readinto(self, buffer: bytearray) -> int:
        self._check(len(buffer))
        return self._stream.readinto(buffer)  # type: ignore[attr-defined, no-any-return]


def read_pickle(path: Path) -> Any:
    """Read a pickle of numpy arrays and plain containers; nothing in it runs.

    Args:
        path: a file of pickle protocol 0 to 5.

    Returns:
        Arrays, str, bytes, numbers, None, and lists, tuples and dictionaries of them.

    Raises:
        SourceError: the file cannot be read, is empty, truncated or no pickle, or asks for anything but data.
    """
    try:
        with path.open("rb") as stream:
            return _Unpickler(_Bounded(stream)).load()
    except SourceError as error:
        raise SourceError(f"{path} was {error}") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except EOFError:
        raise SourceError(f"{path} is empty or ends too early: get the file again, whole") from None
    except MemoryError:
        raise SourceError(f"{path} needs more memory than this machine has: use a machine with more") from None
    except Exception as error:  # a damaged or hostile pickle can fail in any way; none of them may pass
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{path} is damaged or not a data pickle ({reason}): {_ACCEPTED}") from error
