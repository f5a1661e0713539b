"""Hostile and mutated pickles, read in a process of their own that is watched: nothing runs, memory stays bounded."""

import functools
import json
import pickle
import random
import re
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")

MEBIBYTE = 2**20
DEEP = 200_000
"""Enough to overflow any stack that is used for it."""
MUTATIONS = 120  # of each of the seeds
MANY = 1000  # in a slow test
SECONDS = 10.0  # for one case

# ---- the worker: this file as a program -----------------------------------------------------------------------------

DANGEROUS = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "tempfile.", "urllib.", "marshal.", "mmap.")
ALSO_DANGEROUS = (
    "exec",
    "compile",
    "import",
    "pickle.find_class",
    "code.__new__",
    "object.__setattr__",
    "builtins.input",
)


def watch(events: list[str]) -> None:
    """Record from now on whatever could do harm; reading a file cannot."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            if (isinstance(mode, str) and set(mode) & set("wax+")) or flags & 0o3:
                events.append(f"open for writing: {arguments[0]}")
        elif event.startswith(DANGEROUS) or event in ALSO_DANGEROUS:
            events.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(hook)


def use(value: Any) -> None:
    """Use what was read as the readers do: look one level deep, take arrays in slices."""
    items = list(value.items())[:1000] if isinstance(value, dict) else [(None, value)]
    if isinstance(value, list | tuple):
        items = [(None, item) for item in value[:1000]]
    for key, item in items:
        repr(key), isinstance(item, dict | list | tuple), type(item).__name__
        if hasattr(item, "row_bytes"):
            rows = item[: max(1, MEBIBYTE // max(1, item.row_bytes))]
            assert rows.dtype == item.dtype
            assert item.ndim < 2 or np.asarray(item.row(0, 0, 1)).size <= rows.size
        elif isinstance(item, np.ndarray | np.generic):
            assert np.asarray(item).astype(item.dtype).shape == item.shape
            assert item.dtype != object or all(isinstance(text, str | bytes) for text in item.ravel().tolist())
        elif isinstance(item, str | bytes):
            item.strip()
        else:
            assert item is None or type(item) in (bool, int, float, dict, list, tuple)


def work(folder: Path) -> None:
    """Read every case; print as JSON what became of it, what happened meanwhile, and how much memory it took."""
    from conki_cli.data.raw import spans, unpickler
    from conki_cli.data.raw.pickles import read_pickle
    from conki_cli.system.errors import SourceError

    def outcome(path: Path) -> str:
        long = spans.LAZY_BYTES if path.suffix == ".pkl" else 64  # then tiny arrays stay in the file too
        kept = spans.LAZY_BYTES
        vars(unpickler)["LAZY_BYTES"] = spans.LAZY_BYTES = long
        try:
            use(read_pickle(path))
        except SourceError as error:
            return str(error).replace(str(path), "FILE")
        finally:
            vars(unpickler)["LAZY_BYTES"] = spans.LAZY_BYTES = kept
        return "value"

    for path in sorted((folder / "warm").iterdir()):
        outcome(path)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 1024 * MEBIBYTE,) * 2)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    events: list[str] = []
    outcomes: dict[str, tuple[str, float, list[str]]] = {}
    cases = sorted((folder / "cases").iterdir())
    watch(events)
    for path in cases:
        begin = time.process_time()  # not wall time: other processes may keep the machine busy
        found = outcome(path)
        outcomes[path.stem] = (found, time.process_time() - begin, list(events))
        events.clear()
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    sys.stdout.write(json.dumps({"growth": growth, "outcomes": outcomes}))


# ---- hand-made pickles ----------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def data(raw: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def shape(*sizes: int) -> bytes:
    return b"(" + b"".join(map(number, sizes)) + b"t"


def name(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def call(module: str, function: str, *arguments: bytes) -> bytes:
    return name(module, function) + b"(" + b"".join(arguments) + b"tR"


def dtype(
    code: str = "f4", state: bytes = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
) -> bytes:
    return call("numpy", "dtype", text(code), b"\x89", b"\x88") + state


def array(sizes: bytes, raw: bytes = data(bytes(8)), kind: bytes = dtype(), order: bytes = b"\x89") -> bytes:
    empty = call("numpy._core.multiarray", "_reconstruct", name("numpy", "ndarray"), shape(0), data(b"b"))
    return empty + b"(K\x01" + sizes + kind + order + raw + b"tb"


STORAGE_ID = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("1") + text("cpu") + b"%sNtQ"


def storage(count: int = 6, **parts: bytes) -> bytes:
    """Build the bytes that torch.save wrote for a storage, any part of which may be another."""
    layout = {
        "magic": number(0x1950A86A20F9469CFC6C),
        "protocol": number(1001),
        "machine": b"}" + text("little_endian") + b"\x88s",
        "identity": STORAGE_ID % number(count),
        "keys": b"]" + text("1") + b"a",
    } | {key: part for key, part in parts.items() if key != "values"}
    pickles = b"".join(b"\x80\x02" + part + b"." for part in layout.values())
    return pickles + (parts["values"] if "values" in parts else struct.pack("<q", count) + bytes(4 * count))


def tensor(raw: bytes, offset: bytes = b"K\x00", size: bytes = shape(2, 3), stride: bytes = shape(3, 1)) -> bytes:
    loaded = call("torch.storage", "_load_from_bytes", data(raw))
    return call("torch._utils", "_rebuild_tensor_v2", loaded, offset, size, stride, b"\x89", b"}")


FORBIDDEN = re.findall(
    r"\S+",
    """os.system posix.system nt.system os.execv os.popen subprocess.Popen subprocess.check_output builtins.eval
    builtins.exec builtins.getattr builtins.__import__ builtins.open builtins.compile builtins.breakpoint builtins.type
    builtins.bytearray builtins.set __builtin__.eval __builtin__.apply importlib.import_module runpy.run_path pty.spawn
    shutil.rmtree ctypes.CDLL socket.socket operator.attrgetter functools.partial functools.reduce types.FunctionType
    types.CodeType marshal.loads pickle.loads _pickle.loads code.interact timeit.timeit webbrowser.open
    copyreg._reconstructor copyreg.__newobj__ copy_reg._reconstructor collections.defaultdict pandas.read_pickle
    joblib.load numpy.load numpy.fromfile numpy.memmap numpy.loadtxt numpy.frombuffer numpy.ndarray.tofile
    numpy.core.multiarray.fromstring numpy._core.multiarray.fromfile numpy._core.multiarray._reconstruct.__globals__
    numpy.testing._private.utils.runstring numpy.f2py.compile numpy.core._internal._ctypes torch.load torch.hub.load
    torch._utils._rebuild_parameter_with_state torch._utils._rebuild_wrapper_subclass torch.FloatStorage
    torch.serialization.load torch.jit.load torch.storage.UntypedStorage torch._tensor._rebuild_from_type_v2
    _codecs.lookup codecs.encode collections.OrderedDict.__init__ conki_cli.system.files.sha256_of""",
)

ORDERED_DICT = name("collections", "OrderedDict")
RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
SYSTEM = text("posix") + text("system") + b"\x93(" + text("touch ran") + b"tR"
BIG = bytes(256 * 256 * 4)

TRICKS: dict[str, bytes] = {
    "inst": b"(S'touch ran'\nios\nsystem\n.",
    "inst of an allowed name": b"(icollections\nOrderedDict\n.",
    "obj": b"(" + ORDERED_DICT + b"o.",
    "newobj": ORDERED_DICT + b")\x81.",
    "newobj_ex": ORDERED_DICT + b")}\x92.",
    "build on a function": RECONSTRUCT + b"}" + text("__code__") + b"Nsb.",
    "build on a dictionary": b"}}" + text("__class__") + b"K\x01sb.",
    "build on text": text("a") + b"}b.",
    "build on the array class": name("numpy", "ndarray") + b"}b.",
    "a call of text": text("os.system") + b"(" + text("touch ran") + b"tR.",
    "a call of the array class": call("numpy", "ndarray", shape(10**6)) + b".",
    "a call of a result": call("collections", "OrderedDict") + b")R.",
    "a call with a list": ORDERED_DICT + b"]R.",
    "a call with too much": call("collections", "OrderedDict", b"]", b"N", b"N") + b".",
    "a function as a value": b"]" + RECONSTRUCT + b"a.",
    "a function as the result": RECONSTRUCT + b".",
    "a class in a dictionary": b"}" + text("a") + name("numpy", "ndarray") + b"s.",
    "a function inside a tuple in a list": b"](" + RECONSTRUCT + b"K\x01ta.",
    "a chain of calls": call("collections", "OrderedDict", SYSTEM) + b".",
    "a name of numbers": b"K\x01K\x02\x93.",
    "a name of bytes": data(b"os") + data(b"system") + b"\x93.",
    "a name of lists": b"]]\x93.",
    "a name that is long": text("o" * 10**5) + text("system") + b"\x93.",
    "a name without an end": b"c" + b"o" * 10**5,
    "an empty name": text("") + text("") + b"\x93.",
    "a name of one part": text("os.system") + b"2\x93.",
    "a name with a line break": b"\x80\x04" + text("os\n\x1b[2J") + text("system") + b"\x93.",
    "extension 1": b"\x82\x01.",
    "extension 2": b"\x83\x01\x00.",
    "extension 4": b"\x84\x01\x00\x00\x00.",
    "persistent id": b"Pstorage\n.",
    "binary persistent id": b"(" + text("storage") + b"tQ.",
    "next buffer": b"\x80\x05\x97.",
    "read-only buffer": b"\x80\x05K\x01\x98.",
    "set": b"\x80\x04\x8f(K\x01\x90.",
    "frozen set": b"\x80\x04(K\x01\x91.",
    "protocol 200": b"\x80\xc8.",
    "memo of 4 billion": b"Nr\xff\xff\xff\xff.",
    "memo of a quintillion": b"Np1000000000000000000\n.",
    "memo of 58 million": b"Nr\x00\x00\x75\x03\xff",
    "memo below zero": b"]Np-1\n.",
    "memory that was never kept": b"h\x05.",
    "memory in a gap": b"Nq\x09h\x05.",
    "nothing on the stack": b"\x94\x87.",
    "no mark": b"Nt.",
    "odd number of items": b"(K\x01d.",
    "append to a tuple": b")Na.",
    "append to an array": array(shape(2)) + b"Na.",
    "exabyte of bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fabc.",
    "exabyte of text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0fabc.",
    "exabyte of buffer": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\xffabc.",
    "negative string": b"T\xff\xff\xff\xffabc.",
    "number of 2 gigabytes": b"\x8b\xff\xff\xff\x7f\x01.",
    "number of negative size": b"\x8b\xff\xff\xff\xff\x01.",
    "number of a million digits": b"I" + b"9" * 10**6 + b"\n.",
    "long of a million digits": b"L" + b"9" * 10**6 + b"L\n.",
    "float of a million digits": b"F" + b"9" * 10**6 + b"\n.",
    "huge key": b"}" + number(2**61 - 1) + b"Ns.",
    "colliding keys": b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(2, 3000)) + b"u.",
    "tuple key": b"})Ns.",
    "nested key": b"})" + b"\x85" * DEEP + b"Ns.",
    "key that is a function": b"}" + RECONSTRUCT + b"Ns.",
    "text of 17 MiB": b"]" + text("a" * 17 * MEBIBYTE) + b"a.",
    "text of 1 MiB a thousand times": b"]" + text("a" * MEBIBYTE) + b"q\x000" + b"h\x00a" * 1000 + b".",
    "ordered dictionary of itself": b"]q\x00h\x00a0" + ORDERED_DICT + b"(h\x00tR.",
    "ordered dictionary of text": call("collections", "OrderedDict", text("ab")) + b".",
    "another codec": call("_codecs", "encode", text("a"), text("utf-8")) + b".",
    "encoded bytes": call("_codecs", "encode", data(b"a"), text("latin1")) + b".",
    "encoded odd text": call("_codecs", "encode", text("a" * 10**5 + "\u4e2d"), text("latin1")) + b".",
    "bytes of a size": call("__builtin__", "bytes", number(10**12)) + b".",
}

ARRAYS: dict[str, bytes] = {
    "shape that overflows": array(shape(2**62, 4), data(BIG)),
    "shape whose product wraps to the size": array(shape(2**61, 8, 2), data(BIG)),
    "shape of a huge number": array(shape(2**600), data(BIG)),
    "shape below zero": array(shape(-1, -2)),
    "shape of booleans": array(b"(\x88K\x02t"),
    "shape of floats": array(b"(G@\x00\x00\x00\x00\x00\x00\x00t"),
    "shape of text": array(b"(" + text("2") + b"t"),
    "shape that is a list": array(b"]K\x02a"),
    "shape that is None": array(b"N"),
    "shape of 9 axes": array(shape(2, *[1] * 8)),
    "shape of no values but huge": array(shape(0, 2**50), data(b"")),
    "shape of no axes over many bytes": array(shape(), data(BIG)),
    "huge Fortran order": array(shape(2**31, 2**31), data(BIG), order=b"\x88"),
    "bytes that are text": array(shape(2), text("12345678")),
    "bytes that are a list": array(shape(2), b"](K\x01K\x02e"),
    "bytes that are missing": array(shape(2), b"N"),
    "long text as bytes": array(shape(25000), text("a" * 10**5)),
    "dtype of objects over bytes": array(shape(1), kind=dtype("O8")),
    "dtype that is structured": array(shape(1), kind=dtype("f4,O8")),
    "dtype of void": array(shape(1), kind=dtype("V8")),
    "dtype of dates": array(shape(1), kind=dtype("M8[s]")),
    "dtype with a shape": array(shape(1), kind=dtype("(2)f4")),
    "dtype of text without end": array(shape(2), kind=dtype("U99999999999")),
    "dtype of no width": array(shape(2), kind=dtype("S0")),
    "dtype that is the class": array(shape(2), kind=name("numpy", "ndarray")),
    "dtype that is text": array(shape(2), kind=text("f4")),
    "dtype with fields": array(shape(2), kind=dtype("f4", b"(K\x03X\x01\x00\x00\x00<N)}K\x08K\x01K\x00tb")),
    "dtype with another state": array(shape(2), kind=dtype("f4", b"}b")),
    "dtype of an odd byte order": array(shape(2), kind=dtype("f4", b"(K\x03" + text("?") + b"NNNNNNtb")),
    "dtype as a value": b"]" + dtype() + b"a.",
    "objects that are dictionaries": array(shape(2), b"](}}e", dtype("O8")),
    "objects that are numbers": array(shape(1), b"]K\x01a", dtype("O8")),
    "objects that are too few": array(shape(2**40), b"]" + text("a") + b"a", dtype("O8")),
    "objects that are themselves": array(shape(1), b"]q\x00h\x00a", dtype("O8")),
    "array without a state": call(
        "numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), shape(0), data(b"b")
    ),
    "array that starts huge": call(
        "numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), shape(2**40), data(b"b")
    ),
    "array that is filled twice": array(shape(2)) + b"(K\x01" + shape(2) + dtype() + b"\x89" + data(bytes(8)) + b"tb",
    "array of another class": call("numpy._core.multiarray", "_reconstruct", text("os.system"), shape(0), data(b"b")),
    "scalar of an object": call("numpy._core.multiarray", "scalar", dtype("O8"), data(b"\x80\x02K\x01.")),
    "scalar of a gigabyte": call("numpy._core.multiarray", "scalar", dtype("S1000000"), data(b"a")),
    "buffer in another order": call("numpy._core.numeric", "_frombuffer", data(bytes(8)), dtype(), shape(2), text("A")),
    "buffer with wrong axes": call(
        "numpy._core.numeric", "_frombuffer", data(bytes(8)), dtype(), shape(2, 1), text("K"), shape(1, 1)
    ),
    "buffer with far axes": call(
        "numpy._core.numeric", "_frombuffer", data(bytes(8)), dtype(), shape(2, 1), text("K"), shape(0, 7)
    ),
    "Fortran order a thousand times": b"]"
    + data(BIG)
    + b"q\x000"
    + (array(shape(256, 256), b"h\x00", order=b"\x88") + b"a") * 1000,
}

TENSORS: dict[str, bytes] = {
    "hostile magic": tensor(storage(magic=SYSTEM)),
    "hostile machine": tensor(storage(machine=SYSTEM)),
    "hostile identity": tensor(storage(identity=b"(" + text("storage") + SYSTEM + b"tQ")),
    "hostile keys": tensor(storage(keys=SYSTEM)),
    "storage inside a storage": tensor(storage(machine=tensor(storage()))),
    "numpy inside a storage": tensor(storage(machine=array(shape(2)))),
    "module instead of a storage": tensor(storage(identity=b"(" + text("module") + b"NNNtQ")),
    "identity that is text": tensor(storage(identity=text("1") + b"Q")),
    "storage class of text": tensor(storage(identity=b"(" + text("storage") * 4 + b"K\x06NtQ")),
    "unknown storage class": tensor(storage(identity=STORAGE_ID.replace(b"Float", b"Evil") % number(6))),
    "storage of another length": tensor(storage(values=struct.pack("<q", 7) + bytes(28))),
    "storage of negative length": tensor(storage(count=-1, values=struct.pack("<q", -1))),
    "storage of an exabyte": tensor(storage(count=2**60, values=struct.pack("<q", 2**60))),
    "storage of fewer values than it says": tensor(
        storage(20000, values=struct.pack("<q", 20000) + bytes(4 * 19999)), size=shape(20000), stride=shape(1)
    ),
    "storage that ends": tensor(storage(values=b"\x06\x00")),
    "storage of two keys": tensor(storage(keys=b"](" + text("1") * 2 + b"e")),
    "storage of big-endian values": tensor(storage(machine=b"}" + text("little_endian") + b"\x89s")),
    "storage that is a zip archive": tensor(b"PK\x03\x04" + bytes(400)),
    "storage that is a view": tensor(
        storage(identity=b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("1") * 2 + b"K\x06)tQ")
    ),
    "storage that is text": call("torch.storage", "_load_from_bytes", text("a" * 10**5)),
    "storage as a value": b"]" + call("torch.storage", "_load_from_bytes", data(storage())) + b"a",
    "storage of nested lists": tensor(storage(keys=b"]" * 10**5)),
    "tensor without a storage": call("torch._utils", "_rebuild_tensor_v2", b"N", b"K\x00", shape(2), shape(1)),
    "tensor beyond its storage": tensor(storage(), size=shape(2, 4), stride=shape(4, 1)),
    "tensor that ends one value behind its storage": tensor(
        storage(20000), offset=number(1), size=shape(20000), stride=shape(1)
    ),
    "tensor behind its storage": tensor(storage(), offset=number(2**62), size=shape(1), stride=shape(1)),
    "tensor before its storage": tensor(storage(), offset=number(-1)),
    "tensor of negative strides": tensor(storage(), stride=shape(3, -1)),
    "tensor of boolean offset": tensor(storage(), offset=b"\x88"),
    "tensor that repeats a value": tensor(storage(), size=shape(2**31), stride=shape(0)),
    "tensor of far strides": tensor(storage(), stride=shape(2**61, 2**61)),
    "tensor of fewer strides": tensor(storage(), stride=shape(1)),
    "empty tensor of a huge shape": tensor(storage(), size=shape(0, 2**60), stride=shape(1, 1)),
    "parameter of nothing": call("torch._utils", "_rebuild_parameter", b"N", b"\x88", b"}"),
    "parameter of a function": call("torch._utils", "_rebuild_parameter", RECONSTRUCT, b"\x88", b"}"),
    "transposed a thousand times": b"]"
    + call("torch.storage", "_load_from_bytes", data(storage(65536)))
    + b"q\x000"
    + (call("torch._utils", "_rebuild_tensor_v2", b"h\x00K\x00", shape(256, 256), shape(1, 256)) + b"a") * 1000,
}

LAUGHS = b"".join(b"(" + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 9 + b"lq" + bytes([i + 1]) for i in range(60))
HARMLESS: dict[str, bytes] = {
    "a billion laughs of lists": b"]q\x00" + LAUGHS + b".",
    "a billion laughs of tuples": b")q\x00" + LAUGHS.replace(b"l", b"t") + b".",
    "a billion laughs of dictionaries": b"}q\x00" + b"}(K\x01h\x00K\x02h\x00uq\x00" * 1000 + b".",
    "tuples in each other": b")" + b"\x85" * DEEP + b".",
    "lists in each other": b"]" * DEEP + b"a" * (DEEP - 1) + b".",
    "nested dictionaries": (b"}K\x01" * 10**5) + b"N" + b"s" * 10**5 + b".",
    "a million copies": b"N" + b"2" * 10**6 + b".",
    "a million marks": b"(" * 10**6 + b"N.",
    "a list in itself": b"]q\x00h\x00a.",
    "a list in a tuple in itself": b"]q\x00h\x00\x85a.",
    "a dictionary in itself": b"}q\x00K\x01h\x00s.",
    "a frame of an exabyte": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffK\x01.",
    "a tensor on a far device": tensor(storage(identity=STORAGE_ID.replace(b"torch", b"torch.cuda") % number(6)))
    + b".",
    "a parameter": call("torch._utils", "_rebuild_parameter", tensor(storage()), b"\x88", b"}") + b".",
}
FLOOD = b"]" * (9 * MEBIBYTE)  # one object a byte; the real limit stops it

REFUSED = {f"call of {asked}": call(*asked.rsplit(".", 1), text("touch ran")) + b"." for asked in FORBIDDEN} | {
    f"old call of {asked}": "\n".join(("c" + asked.rpartition(".")[0], asked.rpartition(".")[2], "")).encode()
    + b"(S'touch ran'\ntR."
    for asked in FORBIDDEN[::3]
}
WRONG = TRICKS | {key: program + b"." for key, program in (ARRAYS | TENSORS).items()}


# ---- mutations ------------------------------------------------------------------------------------------------------

PYTHON_2 = (  # cPickle of python 2.7 and numpy 1.16, protocol 2
    b"\x80\x02}q\x01U\x05trainq\x02}q\x03(U\x07covarepq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\n"
    b"q\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x03K\x02\x86cnumpy\ndtype\nq\x08U\x02f8K\x00K\x01\x87Rq\t(K\x03U\x01<NNNJ"
    b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U0" + struct.pack("<6d", *range(6)) + b"tbU\x02idq\n]q\x0b(U\x02a1q"
    b"\x0cX\x02\x00\x00\x00b2q\reus."
)


@functools.cache
def seeds() -> dict[str, bytes]:
    """Build small pickles of every layout that is read."""
    random_numbers = np.random.default_rng(0)
    part = {
        "raw_text": np.array(["good film", "no"]),
        "id": ["v$_$1", "v$_$2"],
        "audio": random_numbers.normal(size=(2, 4, 3)),
        "vision": np.asfortranarray(random_numbers.normal(size=(2, 3))),
        "audio_lengths": [3, 4],
        "annotations": np.array(["a", "b"], dtype=object),
        "regression_labels": np.array([0.5, -1.0], dtype=">f4"),
    }
    clip = ((["a", "film"], np.ones((2, 5), np.float32), np.zeros((2, 7))), np.array([[0.5]]), "v[1]")
    torch_tensor = (
        b"}" + text("audio") + tensor(storage()) + b"s" + text("t") + tensor(storage(), stride=shape(1, 2)) + b"s"
    )
    return {
        "mmsa": pickle.dumps({"train": part, "test": part}, protocol=4),
        "python2": PYTHON_2,
        "torch": torch_tensor + b".",
        "tuples": pickle.dumps({"train": [clip, clip]}, protocol=4),
        "protocol5": pickle.dumps([part, clip, np.float32(1.5)], protocol=5),
        "protocol0": pickle.dumps(part, protocol=0),
        "protocol2": pickle.dumps([part, 10**30, 1.5, b"ab", None, True], protocol=2),
    }


def somewhere(raw: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(raw) + 1)


def flip(raw: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 3)):
        raw[chance.randrange(len(raw))] = chance.randrange(256)


def nudge(raw: bytearray, chance: random.Random) -> None:
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def delete(raw: bytearray, chance: random.Random) -> None:
    begin = somewhere(raw, chance)
    del raw[begin : begin + chance.randint(1, 12)]


def insert(raw: bytearray, chance: random.Random) -> None:
    begin = somewhere(raw, chance)
    instructions = [b"R", b"b", b"\x93", b"\x81", b"2", b"0"]
    raw[begin:begin] = chance.choice([chance.randbytes(chance.randint(1, 9)), *instructions])


def splice(raw: bytearray, chance: random.Random) -> None:
    other = chance.choice(list(seeds().values()))
    begin, place = chance.randrange(len(other)), somewhere(raw, chance)
    raw[place : place + chance.randint(0, 40)] = other[begin : begin + chance.randint(1, 80)]


def truncate(raw: bytearray, chance: random.Random) -> None:
    del raw[max(1, somewhere(raw, chance)) :]


WAYS: list[Callable[[bytearray, random.Random], None]] = [flip, nudge, delete, insert, splice, truncate]


def mutations(count: int) -> Iterator[tuple[str, bytes]]:
    chance = random.Random(1905)
    for seed, original in seeds().items():
        for index in range(count):
            raw = bytearray(original)
            for _ in range(chance.choice([1, 1, 1, 1, 2])):
                WAYS[index % len(WAYS)](raw, chance)
            # Those of the second ending have their arrays left in the file, however small.
            yield f"mutation {seed} {index}{('.pkl', '.lazy')[index // len(WAYS) % 2]}", bytes(raw)


# ---- the tests ------------------------------------------------------------------------------------------------------


def watched(folder: Path, cases: Iterator[tuple[str, bytes]]) -> dict[str, Any]:
    """Read cases in a process that is watched, and return what it found."""
    (folder / "warm").mkdir()
    (folder / "cases").mkdir()
    for key, raw in seeds().items():
        (folder / "warm" / f"{key}.pkl").write_bytes(raw)
        (folder / "warm" / f"{key}.lazy").write_bytes(raw)
    (folder / "warm" / "damaged.pkl").write_bytes(b"\x80\x04\x8c\x02os\x8c\x06system\x93.")
    for key, raw in cases:
        (folder / "cases" / (key if key.endswith((".pkl", ".lazy")) else f"{key}.pkl")).write_bytes(raw)
    done = subprocess.run([sys.executable, __file__, str(folder)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    found["made"] = sorted(path.name for path in folder.iterdir())
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    def cases() -> Iterator[tuple[str, bytes]]:
        yield from (REFUSED | WRONG | HARMLESS).items()
        yield from mutations(MUTATIONS)

    return watched(tmp_path_factory.mktemp("hostile"), cases())


def test_nothing_ran(report: dict[str, Any]) -> None:
    assert {key: events for key, (_, _, events) in report["outcomes"].items() if events} == {}
    assert report["made"] == ["cases", "warm"]


def test_the_watch_would_notice() -> None:
    program = f"import runpy\nspace = runpy.run_path({__file__!r})\nevents = []\nspace['watch'](events)\n"
    deeds = "import os\nos.system('true')\nopen('/dev/null', 'w').close()\nexec('1')\nimport this\n"
    done = subprocess.run(
        [sys.executable, "-c", program + deeds + "print(*events, sep=chr(10))"],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = {line.split()[0] for line in done.stdout.splitlines() if line}
    assert {"os.system", "open", "exec", "import"} <= seen


def test_memory_stays_bounded(report: dict[str, Any]) -> None:
    assert report["growth"] < 700  # MiB


def test_no_case_takes_long(report: dict[str, Any]) -> None:
    assert {key: seconds for key, (_, seconds, _) in report["outcomes"].items() if seconds > SECONDS} == {}


@pytest.mark.parametrize("key", REFUSED)
def test_a_forbidden_name_is_refused_by_name(report: dict[str, Any], key: str) -> None:
    message = report["outcomes"][key][0]
    assert message.startswith(f"FILE was refused: it asks for {key.split(' of ')[1]}, and ")
    assert "nothing in it was executed" in message
    assert "\n" not in message


@pytest.mark.parametrize("key", WRONG)
def test_a_hostile_pickle_is_refused_in_one_line(report: dict[str, Any], key: str) -> None:
    message = report["outcomes"][key][0]
    assert message.startswith(("FILE was refused: ", "FILE is damaged or not a data pickle (", "FILE is empty or ends"))
    assert message.isprintable()


@pytest.mark.slow
def test_a_flood_of_objects_is_stopped_by_what_they_cost(tmp_path: Path) -> None:
    found = watched(tmp_path, iter([("flood", FLOOD)]))
    message, seconds, events = found["outcomes"]["flood"]
    assert message.startswith("FILE was refused: ")
    assert "would take more than 512 MiB besides its arrays" in message
    assert found["growth"] < 700  # 460 to 560 MiB
    assert seconds < SECONDS
    assert events == []


@pytest.mark.parametrize("key", HARMLESS)
def test_a_strange_but_harmless_pickle_is_a_value(report: dict[str, Any], key: str) -> None:
    assert report["outcomes"][key][0] == "value"


def test_mutated_pickles_are_values_or_one_line(report: dict[str, Any]) -> None:
    found = [message for key, (message, _, _) in report["outcomes"].items() if key.startswith("mutation")]
    assert len(found) == MUTATIONS * len(seeds())
    assert all(message == "value" or message.startswith("FILE ") for message in found)
    assert all(message.isprintable() for message in found)
    assert found.count("value") > len(found) / 20  # otherwise the mutations test nothing but the first instruction
    assert sum("refused" in message for message in found) > len(found) / 40


@pytest.mark.slow
def test_thousands_of_mutated_pickles_are_values_or_one_line(tmp_path: Path) -> None:
    found = watched(tmp_path, mutations(MANY))["outcomes"]
    assert len(found) == MANY * len(seeds())
    assert all(message == "value" or message.startswith("FILE ") for message, _, _ in found.values())
    assert not [events for _, _, events in found.values() if events]


def test_at_least_fifty_are_made_by_hand() -> None:
    assert len(REFUSED | WRONG) >= 50


STORM: dict[str, tuple[bytes, bytes]] = {
    "lists": (b"", b"]"),
    "dictionaries of one": (b"", b"}K\x01Ns"),
    "marks": (b"", b"("),
    "copies": (b"N", b"2"),
    "tuples": (b")", b"\x85"),
    "memories": (b"N", b"\x94"),
    "texts": (b"\x80\x04", b"\x8c\x02ab"),
    "wide texts": (b"\x80\x04", b"\x8c\xfc" + b"a" * 248 + "\U0001f600".encode()),
    "lines": (b"", b"S'ab'\n"),
    "numbers": (b"", b"M\xff\xff"),
    "lists of one": (b"", b"]Na"),
    "ordered dictionaries": (ORDERED_DICT + b"q\x00", b"h\x00)R"),
}


@pytest.mark.slow
@pytest.mark.parametrize("key", STORM)
def test_100_mb_of_one_instruction_stay_below_1_gb(tmp_path: Path, key: str) -> None:
    begin, body = STORM[key]
    found = watched(tmp_path, iter([("storm", begin + body * (10**8 // len(body)) + b".")]))
    assert found["growth"] < 700
    assert found["outcomes"]["storm"][2] == []


if __name__ == "__main__":
    work(Path(sys.argv[1]))
