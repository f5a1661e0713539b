"""Pickles: data comes back as it was saved, a program does not run, damage is one line."""

import collections
import contextlib
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conki_cli.data.raw.pickles import read_pickle, read_pickle_bytes
from conki_cli.data.store.arrays import FileArray
from conki_cli.system.errors import SourceError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.pkl"


def saved(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_plain_containers_come_back(path: Path, protocol: int) -> None:
    value: dict[str, Any] = {
        "small": np.arange(600, dtype=np.float64).reshape(2, 300),
        "large": np.arange(20000, dtype=np.float64).reshape(20, 10, 100),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "large fortran": np.asfortranarray(np.arange(20000.0).reshape(20, 1000)),
        "exchanged": np.arange(20000.0).reshape(20, 10, 100).transpose(2, 0, 1),
        "large big endian": np.arange(20000, dtype=">i4"),
        "many words": np.array(["word" * 8] * 900),
        "big endian": np.arange(3, dtype=">i4"),
        "words": np.array(["a", "bcé", ""]),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "scalar": np.float32(0.5),
    }
    found = read_pickle(saved(path, value, protocol))
    for key, expected in value.items():
        np.testing.assert_array_equal(found[key], expected)
        assert found[key].shape == expected.shape


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_large_arrays_stay_in_the_file_and_small_ones_do_not(path: Path, protocol: int) -> None:
    large, small = np.arange(20000.0).reshape(20, 1000), np.arange(8000.0)
    found = read_pickle(saved(path, [large, small], protocol))
    assert isinstance(found[0], FileArray)
    assert isinstance(found[1], np.ndarray)
    np.testing.assert_array_equal(found[0][3:5], large[3:5])


def test_small_arrays_can_be_written_to(path: Path) -> None:
    found = read_pickle(saved(path, np.arange(3000.0)))
    found[:] = 1
    assert found.sum() == 3000


def test_an_array_larger_than_memory_is_read_in_slices(path: Path) -> None:
    rows = 2**38 // 8000  # 256 GiB, a hole in the file
    begin, end = pickle.dumps(np.zeros((3, 1000)), protocol=4).split(b"B" + struct.pack("<I", 24000) + bytes(24000))
    with path.open("wb") as stream:
        stream.write(begin.replace(b"K\x03M\xe8\x03\x86", b"J" + struct.pack("<i", rows) + b"M\xe8\x03\x86"))
        stream.write(b"\x8e" + struct.pack("<Q", rows * 8000))
        stream.seek(rows * 8000, io.SEEK_CUR)
        stream.write(end)
    found = read_pickle(path)
    assert found.shape == (rows, 1000)
    assert not found[rows // 2 : rows // 2 + 2].any()


@pytest.mark.parametrize("protocol", range(6))
def test_long_texts_and_bytes_come_back(path: Path, protocol: int) -> None:
    value = {"text": "aé\u4e2d\n" * 40_000, "nested": ("b" * 70_000, [b"\x00\xff" * 40_000]), "number": 10**30}
    assert read_pickle(saved(path, value, protocol)) == value


@pytest.mark.parametrize("place", [lambda text: [text], lambda text: {"a": text}, lambda text: (1, (text,)), str])
def test_a_text_of_more_than_16_mib_is_refused(path: Path, place: Any) -> None:
    with pytest.raises(SourceError, match="a string outside an array has 17 MiB, and the limit is 16 MiB"):
        read_pickle(saved(path, place("a" * 17 * 2**20)))


PYTHON_2 = (  # cPickle of python 2.7 and numpy 1.16, protocol 2
    b"\x80\x02}q\x01U\x05trainq\x02}q\x03(U\x07covarepq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\n"
    b"q\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x03K\x02\x86cnumpy\ndtype\nq\x08U\x02f8K\x00K\x01\x87Rq\t(K\x03U\x01<NNNJ"
    b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U0" + struct.pack("<6d", *range(6)) + b"tbU\x02idq\n]q\x0b(U\x02a1q"
    b"\x0cX\x02\x00\x00\x00b2q\reus."
)


def test_a_pickle_of_python_2_has_keys_of_bytes(path: Path) -> None:
    path.write_bytes(PYTHON_2)
    found = read_pickle(path)[b"train"]
    assert found[b"covarep"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found[b"id"] == [b"a1", "b2"]


def test_a_large_array_of_python_2_stays_in_the_file(path: Path) -> None:
    values = np.arange(30_000.0)
    large = PYTHON_2.replace(b"K\x03K\x02\x86", b"M" + struct.pack("<H", 15_000) + b"K\x02\x86")
    raw = b"T" + struct.pack("<I", values.nbytes) + values.tobytes()
    path.write_bytes(large.replace(b"U0" + struct.pack("<6d", *range(6)), raw))
    found = read_pickle(path)[b"train"][b"covarep"]
    assert isinstance(found, FileArray)
    np.testing.assert_array_equal(np.asarray(found), values.reshape(15_000, 2))


def test_strings_of_python_2_in_protocol_0_are_unescaped_bytes(path: Path) -> None:
    path.write_bytes(b"(S'a\\x00\\'b'\nS\"c\"\nS'" + b"d" * 70_000 + b"'\nt.")
    assert read_pickle(path) == (b"a\x00'b", b"c", b"d" * 70_000)


def test_a_pickle_in_memory_is_read_by_the_same_rules() -> None:
    words = np.array(["a", "b"], dtype=object)
    assert read_pickle_bytes(pickle.dumps(words), "words.npy")[1] == "b"
    assert read_pickle_bytes(pickle.dumps(np.arange(20000.0)), "x")[19999] == 19999
    with pytest.raises(SourceError, match=r"words\.npy was refused: it asks for (posix|nt)\.system"):
        read_pickle_bytes(pickle.dumps(Hostile("true")), "words.npy")


# ---- torch ----


TORCH_TYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


def as_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    plain = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    return plain.numpy()


@pytest.mark.parametrize("dtype", TORCH_TYPES, ids=str)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_come_back_as_arrays(path: Path, dtype: torch.dtype, protocol: int) -> None:
    small = (torch.arange(24) % 7).reshape(2, 3, 4).to(dtype)
    large = (torch.arange(80_000) % 7).reshape(40, 2000).to(dtype)
    scalar = torch.tensor(1, dtype=dtype)
    values = [
        small,
        large,
        large.t(),
        large[3:5],
        large[:, ::3],
        large[:, :1],
        scalar,
        small[:0],
        small.transpose(0, 2),
    ]
    for found, tensor in zip(read_pickle(saved(path, values, protocol)), values, strict=True):
        expected = as_array(tensor)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_large_contiguous_tensors_stay_in_the_file(path: Path) -> None:
    tensor = torch.arange(90_000.0).reshape(300, 300)
    whole, part, turned = read_pickle(saved(path, [tensor, tensor[20:280], tensor.t()]))
    assert isinstance(whole, FileArray)
    assert isinstance(part, FileArray)
    assert isinstance(turned, np.ndarray)
    np.testing.assert_array_equal(part[5:6], tensor[25:26].numpy())


def test_parameters_are_their_tensors(path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    assert read_pickle(saved(path, {"w": parameter}))["w"].tolist() == [1, 1, 1]


def test_a_tensor_that_repeats_its_values_is_refused(path: Path) -> None:
    with pytest.raises(SourceError, match="a tensor must be inside its storage, with every value once"):
        read_pickle(saved(path, torch.ones(1).expand(10**9)))


def test_a_bare_storage_is_refused(path: Path) -> None:
    saved(path, [torch.ones(3).untyped_storage()])
    with pytest.raises(SourceError, match="is in the place of a value"):
        read_pickle(path)


# ---- what is refused ----


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
        read_pickle(path)
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
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v3\n.", "torch._utils._rebuild_tensor_v3"),
        (b"\x80\x02c_codecs\nlookup\n.", "_codecs.lookup"),
        (b"\x80\x04\x8c\x03a\n\x1b\x8c\x01b\x93.", r"a\n\x1b.b"),
    ],
)
def test_a_forbidden_global_is_named(path: Path, program: bytes, name: str) -> None:
    path.write_bytes(program)
    with pytest.raises(SourceError, match="nothing in it was executed") as error:
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


@pytest.mark.parametrize("code", [b"o", b"\x81", b"\x92", b"\x82\x01", b"\x83\x01\x00", b"P1\n", b"\x8f", b"\x97"])
def test_an_instruction_that_makes_objects_is_refused_before_it_looks_at_anything(path: Path, code: bytes) -> None:
    path.write_bytes(b"\x80\x05" + code + b".")  # of which some would complain of an empty stack otherwise
    with pytest.raises(SourceError, match="it creates objects, sets or outside references"):
        read_pickle(path)


def test_an_object_array_of_anything_but_text_is_refused(path: Path) -> None:
    with pytest.raises(SourceError, match="an object array may only hold text or arrays of numbers"):
        read_pickle(saved(path, np.array([{}, None], dtype=object)))


def test_an_object_array_of_numbers_says_what_to_save_instead(path: Path) -> None:
    with pytest.raises(SourceError, match="an object array of numbers: save it with a numeric dtype"):
        read_pickle(saved(path, np.array([1, 2.5], dtype=object)))


def test_an_object_array_of_arrays_comes_back_and_its_large_arrays_stay_in_the_file(path: Path) -> None:
    array = np.empty(2, dtype=object)
    array[:] = [np.ones((2, 3)), np.ones((9000, 3))]
    small, large = read_pickle(saved(path, array))
    assert isinstance(large, FileArray)
    assert (small.shape, large.shape) == ((2, 3), (9000, 3))
    array[0] = array.copy()
    with pytest.raises(SourceError, match="an object array may only hold text or arrays of numbers"):
        read_pickle(saved(path, array))


def test_a_dictionary_with_a_factory_is_refused_with_what_to_save(path: Path) -> None:
    with pytest.raises(SourceError, match=r"asks for collections.defaultdict, .*: save plain dictionaries"):
        read_pickle(saved(path, collections.defaultdict(list)))


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
