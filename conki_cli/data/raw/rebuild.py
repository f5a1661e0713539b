"""The few constructors that a data pickle may call: numpy arrays, byte strings and dictionaries, by their names.

None of them is the original function of that name. Each takes the file's arguments, checks them against the existing
bytes, and makes data.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.raw.spans import Budget, Refused, Span, from_escaped_bytes, from_escaped_text, from_utf8, plain
from conki_cli.data.store.arrays import Array, FileArray, is_text_or_numbers

_DTYPE_CODE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,6}|O8?")
_LARGEST_KEY = 2**60  # smaller numbers are their own hash, so collisions cannot be provoked


@dataclass(frozen=True, eq=False)
class Constructor:
    """Our replacement for a name in a pickle: a function that makes data, or None for a class that is only named.

    The first argument is the budget; the others come from the file.
    """

    make: Callable[..., Any] | None


class Unfilled:
    """An array before its state is set: numpy's pickles create it empty, memoize it, and fill it later."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Array | None = None


class Dtype:
    """A pickle's description of the type of an array's values; numpy's dtype is made from it only after checks."""

    __slots__ = ("byte_order", "code")

    def __init__(self, code: object) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code  # python 2
        if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
            raise ValueError("only arrays of numbers and text are read, not of other dtypes")
        self.code = code
        self.byte_order = "="

    @property
    def holds_objects(self) -> bool:
        """Whether the values are a list of Python objects instead of bytes."""
        return self.code.startswith("O")

    def set_state(self, state: object) -> None:
        """Set the pickled state: version, byte order, subarray, names, fields, item size, alignment, flags."""
        if not isinstance(state, tuple) or len(state) != 8 or any(part is not None for part in state[2:5]):
            raise ValueError("structured, nested and dated dtypes are not read")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError("unknown byte order")
        self.byte_order = order

    def resolve(self) -> np.dtype[Any]:
        """Return numpy's dtype."""
        return np.dtype((self.byte_order if self.byte_order in "<>" else "") + self.code)


def checked_shape(shape: object) -> tuple[int, ...]:
    """Return a shape that is a tuple of at most 8 whole numbers.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(shape, tuple) or len(shape) > 8 or any(type(n) is not int or not 0 <= n < 2**62 for n in shape):
        raise ValueError("an array must have a shape of whole numbers")
    if 0 in shape and max(shape) > 2**31:
        raise ValueError("an empty array must not declare a huge shape")
    return shape


def array_of(dtype: object, shape: object, data: object, *, is_fortran: bool = False) -> Array:
    """Make an array over existing bytes, so that a declared shape never allocates memory.

    Args:
        dtype: a `Dtype` of numbers or text.
        shape: the declared shape.
        data: bytes, or their place.
        is_fortran: whether the first index runs fastest.

    Raises:
        ValueError: these do not fit each other.
    """
    if isinstance(data, Span) and data.decode is from_escaped_bytes:
        data.source.budget.take_copies(data.length)
        data = from_escaped_bytes(data.source.read(data.offset, data.length))
    is_span = isinstance(data, Span) and data.decode is plain
    if not isinstance(dtype, Dtype) or dtype.holds_objects or not (is_span or isinstance(data, bytes)):
        raise ValueError("an array must be bytes with a plain dtype")
    real, shape = dtype.resolve(), checked_shape(shape)
    length = data.length if isinstance(data, Span) else len(data)  # type: ignore[arg-type]
    if math.prod(shape) * real.itemsize != length:
        raise ValueError(f"an array of shape {shape} and dtype {real} does not fit its {length} bytes")
    if isinstance(data, Span):
        array = data.source.array(data.offset, real, shape, is_fortran=is_fortran)
        return _checked_text(array) if isinstance(array, np.ndarray) else array
    return _from_state(shape, real, data, is_fortran)


def object_array(shape: object, items: object, budget: Budget, *, is_fortran: bool = False) -> npt.NDArray[Any]:
    """Make an object array of texts, or of arrays of numbers.

    Raises:
        ValueError: it would hold something else, or `shape` does not fit.
    """
    if not isinstance(items, list):
        raise ValueError("an object array may only hold text or arrays of numbers")
    budget.take_objects(8 * len(items))
    are_arrays = all(isinstance(item, np.ndarray | FileArray) and item.dtype.kind in "biuf" for item in items)
    if not are_arrays and not all(isinstance(item, str | bytes) for item in items):
        raise Refused(_reason_of_objects(items))
    shape = checked_shape(shape)
    if math.prod(shape) != len(items):
        raise ValueError(f"an object array of shape {shape} does not fit its {len(items)} values")
    return _from_state(shape, np.dtype(object), items, is_fortran)


def _reason_of_objects(items: list[object]) -> str:
    if all(isinstance(item, int | float | np.generic) for item in items):
        return "it holds an object array of numbers: save it with a numeric dtype, such as float32"
    return "an object array may only hold text or arrays of numbers: save numbers with a numeric dtype"


def _from_state(shape: tuple[int, ...], dtype: np.dtype[Any], data: object, is_fortran: bool) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.empty(0, dtype=np.int8)
    state = (1, shape, dtype, is_fortran, data)
    array.__setstate__(state)  # type: ignore[arg-type]  # numpy keeps these bytes; the array can be written to
    return _checked_text(array)


def _checked_text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not is_text_or_numbers(array):
        raise ValueError("an array of text has invalid characters")
    return array


NDARRAY = Constructor(None)


def _reconstruct(budget: Budget, cls: object, shape: object, type_code: object) -> Unfilled:
    """Create an array; a state with the real shape follows."""
    if cls is not NDARRAY or shape != (0,) or type_code not in (b"b", "b"):
        raise ValueError("an array must start empty")
    return Unfilled()


def filled(state: object, budget: Budget) -> Array:
    """Return an array from the state that numpy pickles: version, shape, dtype, order, values.

    Raises:
        ValueError: these do not fit each other.
    """
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("an array must have a version, a shape, a dtype, an order and values")
    _, shape, dtype, is_fortran, data = state
    if isinstance(dtype, Dtype) and dtype.holds_objects:
        return object_array(shape, data, budget, is_fortran=bool(is_fortran))
    return array_of(dtype, shape, data, is_fortran=bool(is_fortran))


def _make_dtype(budget: Budget, code: object, align: object = False, copy: object = True) -> Dtype:
    return Dtype(code)


def _scalar(budget: Budget, dtype: object, data: object) -> Any:
    return np.asarray(array_of(dtype, (), data))[()]


def _from_buffer(
    budget: Budget, data: object, dtype: object, shape: object, order: object, axes: object = None
) -> Array:
    if order not in ("C", "F", "K"):
        raise ValueError("an array must be in C or Fortran order")
    array = array_of(dtype, shape, data, is_fortran=order == "F")
    if order != "K":
        return array
    axes = checked_shape(axes)  # "K": the axes of an array in C order were exchanged
    return np.asarray(array).transpose(axes)


def _ordered_dict(budget: Budget, items: object = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    if items != ():  # a list of pairs in python 2
        if not isinstance(items, list) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in items):
            raise ValueError("an ordered dictionary must be made of pairs")
        update(made, [pair[0] for pair in items], [pair[1] for pair in items], budget)
    return made


def _encode(budget: Budget, text: object, encoding: object) -> bytes:
    """Make a byte string that protocols 0 to 2 of python 3 write as text."""
    if encoding == "latin1" and isinstance(text, str):
        budget.take_copies(len(text))
        return text.encode("latin1")
    if encoding == "latin1" and isinstance(text, Span) and text.decode in (from_utf8, from_escaped_text):
        return text.latin1()
    raise ValueError("bytes must be latin1 text")


def _no_bytes(budget: Budget) -> bytes:
    return b""


def update(target: object, keys: Sequence[object], values: Sequence[object], budget: Budget) -> None:
    """Put items into a dictionary.

    Raises:
        ValueError: it is not a dictionary, or a key is neither text nor a plain number.
    """
    # Keys must be plain, because hashing a deeply nested tuple would exhaust the C stack.
    if type(target) is not dict or not all(isinstance(key, str | bytes | int | float) for key in keys):
        raise ValueError("dictionaries must have text or numbers as keys")
    if any(isinstance(key, int) and not -_LARGEST_KEY < key < _LARGEST_KEY for key in keys):
        raise ValueError("dictionaries must not have huge numbers as keys")
    budget.take_objects(160 * len(keys))
    target.update(zip(keys, values, strict=True))


NUMPY_NAMES: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): Constructor(_make_dtype),
    ("collections", "OrderedDict"): Constructor(_ordered_dict),
    ("_codecs", "encode"): Constructor(_encode),
    ("__builtin__", "bytes"): Constructor(_no_bytes),  # empty ones, in protocols 0 to 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Constructor(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Constructor(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Constructor(_from_buffer) for core in ("core", "_core")},
}
"""All names except those of torch."""
