"""Fuzzing that follows the code it reaches (atheris): `python tests/guided_fuzz.py TARGET [libFuzzer options]`.

What is read here are the files of others: pickles alone (`pickle`), raw data of any kind up to the store that is made
of them (`corpus`), and stores with a valid seal and any structure below it (`store`). A finding
is whatever is neither a value of plain data nor one line of ours, and whatever reaches out of the file on the way.
The files in `fixtures/fuzz` are where it begins; `test_fuzz.py` reads them in every run, without atheris.

    pip install atheris
    python tests/guided_fuzz.py pickle -max_total_time=600
    python tests/guided_fuzz.py corpus -max_total_time=600
    python tests/guided_fuzz.py store -max_total_time=600
"""

import codecs
import contextlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "fixtures" / "fuzz"
LONGEST = 4096
"""Bytes of an input."""
LARGEST = 2**26
"""Bytes of a store: sealing the holes of a larger one takes longer than reading may."""
REACHING_OUT = (
    "builtins.input",
    "compile",
    "ctypes.",
    "exec",
    "ftplib.",
    "http.",
    "os.",
    "pty.",
    "shutil.",
    "socket.",
    "subprocess.",
    "urllib.",
    "webbrowser.",
)
"""Beginnings of the audit events that no data file may cause; `open` and `import` are told apart below."""


class Finding(Exception):  # noqa: N818 - the fuzzer's word
    """What must not happen did."""


class Watch:
    """Python's audit events while a file is read: opening other files, importing and running are findings."""

    def __init__(self) -> None:
        self.file: str | None = None
        for name in ("utf-8-sig", "utf-16", "latin-1"):  # imported when they are first used
            codecs.lookup(name)
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.file is None:
            return
        is_other = event == "open" and arguments[0] != self.file and not isinstance(arguments[0], int)
        if is_other or event == "import" or event.startswith(REACHING_OUT):
            file, self.file = self.file, None
            raise Finding(f"reading {file} caused {event} {arguments}")

    @contextlib.contextmanager
    def over(self, file: Path) -> Iterator[None]:
        """Watch while one file is read."""
        self.file = str(file)
        try:
            yield
        finally:
            self.file = None


@cache
def place() -> Path:
    """Return the folder, in memory where there is one, in which inputs become files."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))


def check_plain(value: Any) -> None:
    """Raise unless a value holds arrays, text, numbers, lists, tuples and dictionaries alone."""
    import numpy as np

    from conki_cli.data.store.arrays import FileArray

    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        kind = type(item)
        if kind in (list, tuple):
            waiting.extend(item)
        elif kind is dict:
            waiting.extend([*item, *item.values()])
        elif kind is FileArray:
            waiting.append(item[:2] if item.shape else item[()])
        elif isinstance(item, np.ndarray):
            if item.dtype.hasobject:
                waiting.extend(item.ravel().tolist())
        elif kind not in (str, bytes, int, float, complex, bool, type(None)) and not isinstance(item, np.generic):
            raise Finding(f"a {kind} came out of a pickle")


def only_lines(read: Callable[[], None]) -> None:
    """Read; errors of ours in one line are what should come of a bad file."""
    from conki_cli.system.errors import ConkiError

    try:
        read()
    except ConkiError as error:
        if "\n" in str(error) or not str(error):
            raise Finding(f"a message that is no line: {error!r}") from error


def read_pickle_of(data: bytes, watch: Watch | None = None) -> None:
    """Read bytes as a pickle, from a file and from memory."""
    from conki_cli.data.raw.pickles import read_pickle, read_pickle_bytes

    path = place() / "input.pkl"
    path.write_bytes(data)
    with watch.over(path) if watch else contextlib.nullcontext():
        only_lines(lambda: check_plain(read_pickle(path)))
        only_lines(lambda: check_plain(read_pickle_bytes(data, "bytes")))


def read_corpus_of(data: bytes, watch: Watch | None = None) -> None:
    """Prepare a store from a file that holds the bytes, and read it."""
    from fuzz_support import read_store

    from conki_cli.data.sources import read_corpus
    from conki_cli.data.store.writing import write_store

    path, store = place() / "input.raw", place() / "prepared.h5"
    path.write_bytes(data)

    def prepare() -> None:
        with watch.over(path) if watch else contextlib.nullcontext():
            corpus = read_corpus("own", workspace=place(), source=path, score_range=(-3.0, 3.0))
        write_store(store, corpus, normalize="zscore")
        read_store(store)

    only_lines(prepare)


class Draws:
    """Choices that bytes make: the n-th byte is the n-th choice, and none left is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def __bool__(self) -> bool:
        return bool(self._data)

    def take(self, count: int) -> bytes:
        """Return the next bytes as they are."""
        taken, self._data = bytes(self._data[:count]), self._data[count:]
        return taken

    def below(self, count: int) -> int:
        """Return a number below `count`, at most 256 of them."""
        return (self.take(1) or b"\0")[0] % count

    def of(self, choices: Any) -> Any:
        """Return one of a sequence; an empty one raises IndexError."""
        return choices[self.below(max(1, len(choices)))]


@cache
def sound_store() -> bytes:
    """Return a small sealed store, with z-scores."""
    from conftest import make_corpus

    from conki_cli.data.store.writing import write_store

    path = place() / "sound.h5"
    write_store(path, make_corpus("tiny", (3, 2, 2), seed=1, longest=4), normalize="zscore")
    return path.read_bytes()


SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (3,), (4,), (2, 0), (3, 5), (10, 3), (2, 2, 2), (1 << 40,))
TYPES = ("<f4", "<f8", ">f4", "<i8", "<u8", "<i4", "|b1", "|S3", "<c16", "|V7", "<f2")
NUMBERS = (0, 1, -1, 2, 127, 2**31, -(2**31), 2**62, float("nan"), float("inf"), 1e300, 0.5)


def _value_of(draws: Draws) -> Any:
    """Return something for an attribute or data set."""
    import h5py
    import numpy as np

    kind = draws.below(7)
    if kind == 0:
        return draws.of(NUMBERS)
    if kind == 1:
        return draws.take(draws.below(64)).decode("utf-8", "surrogateescape").replace("\0", "0")
    if kind == 2:
        return h5py.Empty(draws.of(("<f4", "|S3")))
    if kind == 3:
        return np.full(draws.of(SHAPES[:-1]), draws.of((0, 1, 5)), dtype=draws.of(TYPES[:9]))
    if kind == 4:
        return json.dumps(draws.of(([], {}, None, {"a": 1}, [1, [2]], "x", {"vision": -1}, {"method": "zscore"})))
    if kind == 5:
        return np.array([draws.take(3), draws.take(5)], dtype=h5py.string_dtype("utf-8"))
    return np.frombuffer(draws.take(8).ljust(8, b"\1"), dtype="<i2").copy()


def _new_dataset(draws: Draws, group: Any, name: str) -> None:
    import h5py

    kind = draws.below(4)
    shape, dtype = draws.of(SHAPES), draws.of(TYPES)
    if kind == 0:
        group.create_dataset(name, shape, dtype)
    elif kind == 1:
        group.create_dataset(
            name, shape, dtype, chunks=tuple(1 for _ in shape) or None, compression=draws.of((None, 4))
        )
    elif kind == 2:
        layout = h5py.VirtualLayout(shape or (1,), dtype)
        layout[...] = h5py.VirtualSource(draws.of((".", "/etc/passwd", "sound.h5")), "x", shape or (1,))
        group.create_virtual_dataset(name, layout)
    else:
        group[name] = _value_of(draws)


def _link(draws: Draws, file: Any, name: str) -> None:
    import h5py

    del file[name]
    links = (h5py.SoftLink("/"), h5py.SoftLink(f"/{name}"), h5py.ExternalLink("sound.h5", name))
    file[name] = draws.of((*links, file, h5py.ExternalLink("/etc/passwd", "/")))


def _change_text(draws: Draws, file: Any) -> None:
    key = draws.of(sorted(file.attrs))
    text = file.attrs[key]
    if isinstance(text, str):
        start = draws.below(len(text) + 1)
        put = draws.take(draws.below(8)).decode("latin-1").replace("\0", "0")
        file.attrs[key] = text[:start] + put + text[start + draws.below(8) :]


def _change_value(draws: Draws, item: Any) -> None:
    import h5py

    if isinstance(item, h5py.Dataset) and item.size:
        # h5py itself crashes when it is given arrays and empty values for a text.
        value = draws.of(NUMBERS) if item.dtype.kind in "fiu" else draws.take(draws.below(9))
        item[(draws.below(item.shape[0]), *(0 for _ in item.shape[1:]))] = value


def _edit(draws: Draws, file: Any) -> None:
    """Make one change that HDF5 itself allows."""
    names: list[str] = []
    file.visit(names.append)
    name = draws.of(sorted(names) or ["nothing"])
    kind = draws.below(9)
    if kind == 0:
        del file[name]
    elif kind == 1:
        file.move(name, draws.of(["test/other", "ids", name + "2", *sorted(names)]))
    elif kind == 2:
        del file[name]
        _new_dataset(draws, file, name)
    elif kind == 3:
        _link(draws, file, name)
    elif kind == 4:
        file.attrs[draws.of([*sorted(file.attrs), "new"])] = _value_of(draws)
    elif kind == 5:
        del file.attrs[draws.of(sorted(file.attrs))]
    elif kind == 6:
        _change_text(draws, file)
    elif kind == 7:
        _change_value(draws, file[name])
    else:
        file[name].attrs[draws.of(("a", "CLASS"))] = _value_of(draws)


def read_store_of(data: bytes, watch: Watch | None = None) -> None:
    """Change a store as the bytes say, seal it, read it."""
    import h5py
    from fuzz_support import read_store

    from conki_cli.data.store.seal import BLOCK, seal

    path = place() / "input.h5"
    path.write_bytes(sound_store())
    draws = Draws(data)
    ending = draws.below(4)
    with warnings.catch_warnings(action="ignore"), h5py.File(path, "r+") as file:
        while draws:
            # HDF5 refuses many changes by itself: those cannot be in a file.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError, OverflowError):
                _edit(draws, file)
    if path.stat().st_size > LARGEST:
        return
    seal(path)
    if ending == 1:  # a seal that is damaged itself
        with path.open("r+b") as stream:
            stream.seek(len(data) * 7 % BLOCK)
            stream.write(data[-9:])
    elif ending == 2:
        with path.open("r+b") as stream:
            stream.truncate(max(0, path.stat().st_size - len(data)))
    with watch.over(path) if watch else contextlib.nullcontext():
        only_lines(lambda: read_store(path))


TARGETS: dict[str, Callable[..., None]] = {"pickle": read_pickle_of, "corpus": read_corpus_of, "store": read_store_of}


def inputs(kind: str) -> list[Path]:
    """Return the kept inputs of a target."""
    return sorted((CORPUS / kind).iterdir())


def main() -> None:
    """Fuzz one target, beginning from the kept inputs; what is new stays in a folder beside them for this call."""
    import atheris

    kind, *options = sys.argv[1:]
    with atheris.instrument_imports(
        include=["conki_cli.data.sources", "conki_cli.data.store", "conki_cli.model.batches", "pickle"]
    ):
        from conki_cli.data.sources.formats import families

        list(families())
    for path in inputs(kind):  # what is imported on the way is imported before anything is watched
        TARGETS[kind](path.read_bytes())
    watch = Watch()
    grown = tempfile.mkdtemp(prefix=f"conki-{kind}-")
    limits = [f"-max_len={LONGEST}", "-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={grown}/finding-"]
    atheris.Setup([sys.argv[0], *limits, *options, grown, str(CORPUS / kind)], lambda data: TARGETS[kind](data, watch))
    warnings.simplefilter("error")
    atheris.Fuzz()


if __name__ == "__main__":
    main()
