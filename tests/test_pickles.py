"""Pickles: data comes back as it was saved, a program does not run, damage is one line."""

import collections
import contextlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conki_cli.errors import SourceError
from conki_cli.sources import read_corpus
from conki_cli.sources.pickles import read_pickle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.pkl"


def saved(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_and_plain_containers_come_back(path: Path, protocol: int) -> None:
    value = {
        "big": np.arange(6000, dtype=np.float64).reshape(20, 300),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">i4"),
        "words": np.array(["a", "bcé", ""]),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "scalar": np.float32(0.5),
    }
    found = read_pickle(saved(path, value, protocol))
    for key, expected in value.items():
        np.testing.assert_array_equal(found[key], expected)
        assert found[key].shape == expected.shape


def test_object_arrays_of_text_come_back(path: Path) -> None:
    words = np.array(["a", "bc"], dtype=object)
    assert read_pickle(saved(path, [words, words]))[1].tolist() == ["a", "bc"]


def test_ordered_dictionaries_come_back_as_dictionaries(path: Path) -> None:
    value = collections.OrderedDict(b=1, a=(2.5, None, [True, b"x", 10**30]))
    assert read_pickle(saved(path, value)) == dict(value)


def test_old_and_new_names_of_numpy_are_read(path: Path) -> None:
    raw = pickle.dumps(np.arange(3.0), protocol=3)
    for old, new in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
        path.write_bytes(raw.replace(old, new))
        assert read_pickle(path).tolist() == [0, 1, 2]


class Hostile:
    """Would make a file when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_by_name_and_nothing_runs(tmp_path: Path, path: Path, protocol: int) -> None:
    canary = tmp_path / "ran"
    saved(path, {"train": Hostile(f"touch {canary}")}, protocol)
    with pytest.raises(SourceError, match=r"refused: it asks for (posix|nt)\.system") as error:
        read_corpus("mosi", workspace=tmp_path, source=path, score_range=None)
    assert "\n" not in str(error.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (b"(S'touch ran'\nios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.view\x93.", "numpy.ndarray.view"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct.__globals__\n.", "_reconstruct.__globals__"),
        (b"\x80\x02ccollections\ndefaultdict\n.", "collections.defaultdict"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.", "torch._utils._rebuild_tensor_v2"),
        (b"\x80\x02c_codecs\nencode\n.", "_codecs.encode"),
        (b"\x80\x04\x8c\x03a\n\x1b\x8c\x01b\x93.", r"a\n\x1b.b"),
    ],
)
def test_a_forbidden_global_is_named(path: Path, program: bytes, name: str) -> None:
    path.write_bytes(program)
    with pytest.raises(SourceError, match="nothing in it was run") as error:
        read_pickle(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


RECONSTRUCT = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"


@pytest.mark.parametrize(
    "program",
    [
        RECONSTRUCT + NDARRAY + b"J\xff\xff\xff\x7f\x85C\x01b\x87R.",  # an array of 2**31 values from nothing
        RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R}K\x01K\x02sb.",  # a state that is a dictionary
        RECONSTRUCT + b"}b.",  # a state for a function
        RECONSTRUCT + b"K\x00\x85\x81.",  # NEWOBJ
        RECONSTRUCT + b"K\x01\x85R.",  # too few arguments
        b"\x80\x02cnumpy\ndtype\nX\x05\x00\x00\x00f8,O8\x85R.",  # a structured dtype
        b"\x80\x02K\x01Q.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x05\x97.",  # an out-of-band buffer
        b"\x80\x04\x8f.",  # a set
        b"\x80\x02}" + b"K\x00\x85" + b"\x85" * 100_000 + b"K\x01s.",  # a deeply nested key
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fabc.",  # BINBYTES8 of an exabyte
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0fabc.",  # BYTEARRAY8 of an exabyte
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0f.",  # a frame of an exabyte
        b"\x80\x09.",  # a protocol that does not exist
        b"\x80\x04\xfe.",  # an instruction that does not exist
    ],
)
def test_a_trick_is_one_line(path: Path, program: bytes) -> None:
    path.write_bytes(program)
    with pytest.raises(SourceError) as error:
        read_pickle(path)
    assert "\n" not in str(error.value)


def test_an_object_array_of_anything_but_text_is_refused(path: Path) -> None:
    with pytest.raises(SourceError, match="an object array may hold text only"):
        read_pickle(saved(path, np.array([{}, None], dtype=object)))


def test_a_structured_array_is_refused(path: Path) -> None:
    with pytest.raises(SourceError, match="structured"):
        read_pickle(saved(path, np.zeros(2, dtype=[("a", "f8"), ("b", "O")])))


def test_an_array_whose_bytes_do_not_fit_its_shape_is_refused(path: Path) -> None:
    raw = pickle.dumps(np.arange(300, dtype=np.uint8), protocol=4)
    path.write_bytes(raw.replace(b"M" + struct.pack("<H", 300), b"M" + struct.pack("<H", 301)))
    with pytest.raises(SourceError, match="does not fit its 300 bytes"):
        read_pickle(path)


@pytest.mark.parametrize("length", [0, 1, 10, 500, -1])
def test_a_truncated_pickle_is_one_line(path: Path, length: int) -> None:
    raw = pickle.dumps({"x": np.arange(900.0), "ids": ["a"] * 9}, protocol=4)
    path.write_bytes(raw[:length])
    with pytest.raises(SourceError, match=r"empty|ends too early|damaged"):
        read_pickle(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 1200), byte=st.integers(0, 255))
def test_a_flipped_byte_reads_or_is_refused(path: Path, place: int, byte: int) -> None:
    raw = bytearray(pickle.dumps({"words": np.array(["a"], dtype=object), "x": np.arange(90.0)}, protocol=4))
    raw[place % len(raw)] = byte
    path.write_bytes(raw)
    with contextlib.suppress(SourceError):  # any other exception fails the test
        read_pickle(path)
