"""The machine that runs a pickle's instructions, without every instruction that could call or access something else.

It is based on the pure-Python unpickler of the standard library, because instructions cannot be removed from the faster
one in C, which also allocates any memory that a file requests. Long strings are skipped and not read, and each
instruction is charged for the memory that it keeps.
"""

import itertools
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from conki_cli.data.raw.rebuild import NDARRAY, Constructor, Dtype, Unfilled, filled, update
from conki_cli.data.raw.spans import (
    LAZY_BYTES,
    Decoder,
    Refused,
    Source,
    Span,
    from_escaped_bytes,
    from_escaped_text,
    from_utf8,
    plain,
)
from conki_cli.data.raw.tensors import Storage

ACCEPTED = "only arrays, text, numbers, lists, tuples and dictionaries are read"
"""The end of a refusal's message."""

_TRUST = "use a file from a trustworthy source, saved as plain numpy arrays"
_LINE_BYTES = 1024  # a number or name in its own line
_NUMBER_BYTES = 256  # 616 digits: more than any measured number has


class _Arguments(tuple[Any, ...]):
    """A tuple that contains something other than a value, on its way into a call or an array."""

    __slots__ = ()


_PARTS = frozenset({Constructor, Unfilled, _Arguments, Span, Dtype, Storage})
"""Types that may be on the stack but never in a list or dictionary."""


class Unpickler(pickle._Unpickler):
    """The standard unpickler without its dangerous instructions.

    Args:
        source: the bytes.
        start: start of the pickle in the source.
        stop: its latest end.
        names: the allowed names and their replacements; all other names are refused.
        look_up: resolves persistent ids; without it they are refused.
    """

    stack: list[Any]  # these are the base's, which typeshed does not list
    metastack: list[list[Any]]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    proto: int
    encoding: str

    def __init__(
        self,
        source: Source,
        start: int,
        stop: int,
        names: Mapping[tuple[str, str], object],
        look_up: Callable[[object], object] | None = None,
    ) -> None:
        self.stream = source.stream(start, stop)
        super().__init__(self.stream, encoding="bytes")
        self._source, self._stop, self._names, self._look_up = source, stop, names, look_up
        self.budget = source.budget
        self.read = self.stream.read

    def load(self) -> Any:
        """Read one pickle; the next may follow."""
        self.metastack, self.stack, self.proto = [], [], 0
        self.append = self.stack.append
        self._memo: list[Any] = []
        read, budget = self.read, self.budget
        try:
            while True:
                code = read(1)[0]
                budget.objects -= _PRICES[code]
                if budget.objects < 0:
                    budget.take_objects(0)
                _HANDLERS[code](self)
        except _Finished:
            return self._as_value(self.stack.pop())
        except (IndexError, struct.error):
            if len(self.stream.peek(1)):
                raise
            raise EOFError from None

    def readline(self) -> bytes:
        """Read a line of protocol 0 that holds a number or a name."""
        line = self.stream.readline(_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise ValueError("a number or name does not end")
        return line

    def _as_value(self, value: Any) -> Any:
        """Return a proper value; unread text is read here."""
        kind = type(value)
        if kind not in _PARTS:
            return value
        if kind is Span:
            return value.value()
        if kind is _Arguments:
            self.budget.take_objects(8 * len(value))
            return tuple(self._as_value(item) for item in value)
        if kind is Unfilled and value.array is not None:
            return value.array
        raise ValueError("a function, type or unfinished array is in the place of a value")

    def _as_values(self, values: list[Any]) -> list[Any]:
        return values if _PARTS.isdisjoint(map(type, values)) else [self._as_value(value) for value in values]

    def push_string(self, length: int, decode: Decoder) -> None:
        """Push the next string, or its place if it is long."""
        if length >= LAZY_BYTES:
            place = self.stream.tell()
            if length > self._stop - place:
                raise EOFError
            self.stream.seek(place + length)
            self.append(Span(self._source, place, length, decode))
            return
        raw = self.read(length)
        if len(raw) < length:
            raise EOFError
        self._push_small(decode(raw), length)

    def push_line(self, decode: Decoder) -> None:
        """Push the string in the rest of the line, or its place if it is long."""
        place = self.stream.tell()
        line = last = self.stream.readline(LAZY_BYTES)
        length = len(line)
        while not last.endswith(b"\n"):
            if not last:
                raise EOFError
            last = self.stream.readline(LAZY_BYTES)
            length += len(last)
        quotes = int(decode is from_escaped_bytes)
        if quotes and line[:1] not in (b"'", b'"'):
            raise ValueError("a byte string must be quoted")
        if length == len(line) and (not quotes or (length > 2 and line[-2:-1] == line[:1])):
            self._push_small(decode(line[quotes : length - quotes - 1]), length)
        else:
            self.append(Span(self._source, place + quotes, length - 2 * quotes - 1, decode))

    def _push_small(self, value: str | bytes, length: int) -> None:
        # Its bytes in the file are free: a file of 100 MB may become 100 MB.
        self.budget.objects -= max(0, value.__sizeof__() - length + 8)
        self.append(value)

    def push_number(self, length: int) -> None:
        """Push the whole number in the next bytes."""
        if length > _NUMBER_BYTES:
            raise ValueError(f"a number of {length} bytes is not read")
        self.append(pickle.decode_long(self.read(length)))

    def remember(self, index: int) -> None:
        """Memoize the top of the stack under a number; the numbers of real files have no gaps."""
        memo = self._memo
        if index >= len(memo):
            missing = index - len(memo)
            self.budget.take_objects(9 * missing)
            memo.extend(itertools.repeat(NDARRAY, missing + 1))  # a list of them would double the memory
        memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push the memoized value of a number."""
        value = self._memo[index]
        is_filled = type(value) is Unfilled and value.array is not None
        self.append(value.array if is_filled else value)

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a name.

        Raises:
            Refused: the name is not allowed.
        """
        try:
            return self._names[module, name]
        except KeyError:
            asked = ascii(f"{module}.{name}")[1:-1]  # one line, whatever the name contains
            is_dict = (module, name) == ("collections", "defaultdict")
            advice = "save plain dictionaries, dict(...)" if is_dict else _TRUST
            raise Refused(f"it asks for {asked[:120]}, and {ACCEPTED}; nothing in it was executed: {advice}") from None

    def push_tuple(self, items: list[Any]) -> None:
        """Push a tuple; only arguments may contain something other than values."""
        if _PARTS.isdisjoint(map(type, items)):
            self.append(tuple(items))
        else:
            self.append(_Arguments(self._as_value(item) if type(item) is _Arguments else item for item in items))

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Constructor or function.make is None or not isinstance(arguments, tuple):
            raise ValueError("only array constructors may be called")
        self.append(function.make(self.budget, *arguments))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Unfilled and target.array is None:
            self.stack[-1] = target.array = filled(state, self.budget)
        elif type(target) is Dtype:
            target.set_state(state)
        else:
            raise ValueError("only arrays and dtypes take a state")

    def extend(self, items: list[Any]) -> None:
        """Append to the list on top of the stack."""
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("items can only be added to lists")
        self.budget.take_objects(16 * len(items) + 32)
        target.extend(self._as_values(items))

    def fill_dict(self, items: list[Any]) -> None:
        """Put keys and values into the dictionary on top of the stack."""
        items = self._as_values(items)
        update(self.stack[-1], items[::2], items[1::2], self.budget)

    def pop_last(self, count: int) -> list[Any]:
        """Take the last values from the stack."""
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError("the stack is empty")
        del self.stack[-count:]
        return items

    def _make_list(self) -> None:
        items = self.pop_mark()
        self.append([])
        self.extend(items)

    def _make_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self.fill_dict(items)

    def _skip_frame(self) -> None:
        self.read(8)  # frames only announce how much may be read at once

    def _instance(self) -> None:
        module, name = self.readline()[:-1].decode("ascii"), self.readline()[:-1].decode("ascii")
        self.find_class(module, name)
        raise ValueError(f"an instance of {module}.{name} is not read")

    def _look_up_storage(self) -> None:
        if self._look_up is None:
            self._refuse()
        else:
            self.append(self._look_up(self.stack.pop()))

    def _refuse(self) -> None:
        raise ValueError("it creates objects, sets or outside references")

    def _finish(self) -> None:
        raise _Finished


class _Finished(Exception):  # noqa: N818 - the end of a pickle is not an error
    """STOP was reached."""


_Handler = Callable[[Unpickler], None]


def _number_reader(code: str) -> Callable[[Unpickler], int]:
    """Return a reader of a number with a `struct` code, or in its own line without a code."""
    if not code:
        return lambda machine: int(machine.readline())
    if code == "B":
        return lambda machine: machine.read(1)[0]
    layout = struct.Struct(code)
    return lambda machine: int(layout.unpack(machine.read(layout.size))[0])


def _string(code: str, decode: Decoder) -> _Handler:
    read_number = _number_reader(code)
    return lambda machine: machine.push_string(read_number(machine), decode)


def _whole_number(code: str) -> _Handler:
    read_number = _number_reader(code)
    return lambda machine: machine.push_number(read_number(machine))


def _put(code: str) -> _Handler:
    read_number = _number_reader(code)
    return lambda machine: machine.remember(_natural(read_number(machine)))


def _get(code: str) -> _Handler:
    read_number = _number_reader(code)
    return lambda machine: machine.recall(_natural(read_number(machine)))


def _natural(index: int) -> int:
    if index < 0:
        raise ValueError("memo indices must not be negative")
    return index


# Memory that each instruction may keep, in bytes: its object, the object's garbage-collector header, and a place on
# the stack. All others keep at most a place on the stack.
_PLACE = 16
_LARGER = {
    "MARK": 112,
    "INT": 64,
    "BININT": 48,
    "BININT2": 48,
    "LONG": 64,
    "LONG1": 320,
    "LONG4": 320,
    "FLOAT": 48,
    "BINFLOAT": 48,
    "EMPTY_LIST": 80,
    "LIST": 80,
    "EMPTY_DICT": 96,
    "DICT": 96,
    "TUPLE": 80,
    "TUPLE1": 80,
    "TUPLE2": 80,
    "TUPLE3": 80,
    "REDUCE": 128,
    "BUILD": 384,
}

# The base's instructions that put plain values on the stack, or take them off it.
_BASE = re.findall(
    r"\w+",
    """PROTO MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG FLOAT BINFLOAT EMPTY_LIST
    EMPTY_TUPLE EMPTY_DICT GLOBAL STACK_GLOBAL""",
)
# The others call something (OBJ, NEWOBJ, NEWOBJ_EX), look something up elsewhere (EXT, PERSID, buffers), or build sets,
# which no feature file needs.
_OWN: dict[str, _Handler] = {
    "FRAME": Unpickler._skip_frame,
    "STOP": Unpickler._finish,
    "LONG1": _whole_number("B"),
    "LONG4": _whole_number("<I"),
    "BINBYTES": _string("<I", plain),
    "SHORT_BINBYTES": _string("B", plain),
    "BINBYTES8": _string("<Q", plain),
    "BYTEARRAY8": _string("<Q", plain),
    "BINSTRING": _string("<I", plain),
    "SHORT_BINSTRING": _string("B", plain),
    "BINUNICODE": _string("<I", from_utf8),
    "SHORT_BINUNICODE": _string("B", from_utf8),
    "BINUNICODE8": _string("<Q", from_utf8),
    "UNICODE": lambda machine: machine.push_line(from_escaped_text),
    "STRING": lambda machine: machine.push_line(from_escaped_bytes),
    "LIST": Unpickler._make_list,
    "APPEND": lambda machine: machine.extend(machine.pop_last(1)),
    "APPENDS": lambda machine: machine.extend(machine.pop_mark()),
    "TUPLE": lambda machine: machine.push_tuple(machine.pop_mark()),
    "TUPLE1": lambda machine: machine.push_tuple(machine.pop_last(1)),
    "TUPLE2": lambda machine: machine.push_tuple(machine.pop_last(2)),
    "TUPLE3": lambda machine: machine.push_tuple(machine.pop_last(3)),
    "DICT": Unpickler._make_dict,
    "SETITEM": lambda machine: machine.fill_dict(machine.pop_last(2)),
    "SETITEMS": lambda machine: machine.fill_dict(machine.pop_mark()),
    "PUT": _put(""),
    "BINPUT": _put("B"),
    "LONG_BINPUT": _put("<I"),
    "MEMOIZE": lambda machine: machine._memo.append(machine.stack[-1]),
    "GET": _get(""),
    "BINGET": _get("B"),
    "LONG_BINGET": _get("<I"),
    "REDUCE": Unpickler._call,
    "BUILD": Unpickler._build,
    "INST": Unpickler._instance,
    "BINPERSID": Unpickler._look_up_storage,
}


def _unknown(machine: Unpickler) -> None:
    raise ValueError("an invalid instruction")


def _handlers() -> list[_Handler]:
    table: list[_Handler] = [_unknown] * 256
    for instruction in pickletools.opcodes:
        code = ord(instruction.code)
        if instruction.name in _BASE:
            table[code] = pickle._Unpickler.dispatch[code]  # type: ignore[assignment]
        else:
            table[code] = _OWN.get(instruction.name, Unpickler._refuse)
    return table


_HANDLERS = _handlers()
_PRICES = [_PLACE] * 256
for _instruction in pickletools.opcodes:
    _PRICES[ord(_instruction.code)] = _LARGER.get(_instruction.name, _PLACE)
