"""Hostile .npy and .npz files: nothing in them runs, they allocate nothing, and each is refused in one line."""

import contextlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conki_cli.data.raw import npz
from conki_cli.data.raw.npz import look_into_npy, look_into_npz, read_npy, read_npz
from conki_cli.data.sources.features import read_features
from conki_cli.data.sources.request import Request
from conki_cli.data.store.arrays import FileArray
from conki_cli.system.errors import SourceError

MEGABYTE = 2**20


def npy(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    """Return the start of an .npy file with any header."""
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text.encode("latin1")


def declared(shape: str, dtype: str = "<f4") -> bytes:
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n")


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "features.npz"


def refused(read: Callable[[Path], object], path: Path, limit: int = 4 * MEGABYTE) -> str:
    """Return the one line that a file is refused with, having taken no more memory than `limit`."""
    tracemalloc.start()
    try:
        with pytest.raises(SourceError) as error:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 700
    assert peak < limit
    return message


# ---- .npy headers ----


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be a whole .npy array"),
        (b"\x93NUMPY", "must be a whole .npy array"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "must be a whole .npy array"),
        (header("{}", b"\x09\x00"), "newer .npy version"),
        (header("{}", b"\x03\x00"), "newer .npy version"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", "must be a whole .npy array"),
        (header("{}"), "must be a whole .npy array"),
        (header("[" * 9000), "must be a whole .npy array"),
        (header("(" * 90 + ")" * 90), "must be a whole .npy array"),
        (header("-" * 9000 + "1"), "must be a whole .npy array"),
        (header("__import__('os').system('touch ran')"), "must be a whole .npy array"),
        (header("{'descr': " + "1" * 12000 + "}"), "must be a whole .npy array"),
        (declared("(2, 'x')"), "must be a whole .npy array"),
        (declared("(-1, 4)"), "has the impossible shape"),
        (declared("(" + "1, " * 40 + ")") + bytes(4), "has the impossible shape"),
        (declared("(10**9, 10**9)"), "must be a whole .npy array"),
        (declared("(1000000000, 1000000000)"), "declares float32 of shape (1000000000, 1000000000) but holds 0 bytes"),
        (declared(f"({2**63}, {2**63})"), "but holds 0 bytes"),
        (declared(f"(0, {2**63})"), "but holds 0 bytes"),
        (declared("(4, 2)") + bytes(31), "but holds 31 bytes"),
        (declared("(4, 2)") + bytes(33), "but holds 33 bytes"),
        (declared("(4, 2)", "|V0"), "must hold numbers or text"),
        (declared("(2,)", "<M8[s]") + bytes(16), "must hold numbers or text"),
        (declared("(2,)", "|V8") + bytes(16), "must hold numbers or text"),
        (declared("(9, 9)", "<U0"), "must hold numbers or text"),
        (declared("(2,)", "|O") + pickle.dumps([1]), "must be numbers [frames, features], found object"),
    ],
)
def test_an_npy_file_that_lies_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    clip = tmp_path / "audio" / "v$_$1.npy"
    clip.parent.mkdir()
    clip.write_bytes(data)
    said = refused(lambda path: read_features(path, "audio", Request("own", (-3, 3))), clip.parent)
    assert message in said
    assert not Path("ran").exists()


@pytest.mark.parametrize("length", [9, 40, 127, 128, 140])
def test_a_truncated_npy_file_is_refused(tmp_path: Path, length: int) -> None:
    clip = tmp_path / "x.npy"
    clip.write_bytes(npy(np.zeros((2, 3)))[:length])
    refused(read_npy, clip)


def test_a_sparse_file_with_a_huge_shape_is_looked_at_without_reading_it(tmp_path: Path) -> None:
    clip = tmp_path / "x.npy"
    start = declared(f"({2**28}, 8)")
    clip.write_bytes(start)
    os.truncate(clip, len(start) + 2**33)  # 8 GiB that take no space
    tracemalloc.start()
    assert look_into_npy(clip).shape == (2**28, 8)
    assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    tracemalloc.stop()


def test_characters_beyond_unicode_are_refused(path: Path) -> None:
    archive(path, {"id.npy": declared("(1,)", "<U1") + b"\xff\xff\xff\xff"})
    assert "characters that are not valid text" in refused(read_npz, path)
    archive(path, {"id.npy": declared("(1,)", ">U1") + b"\x00\x11\x00\x00"})
    assert "characters that are not valid text" in refused(read_npz, path)


# ---- archives ----


def test_stored_arrays_stay_in_the_file_and_small_or_compressed_ones_do_not(path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(50, 400))
    np.savez(path, big=values, small=values[:2], fortran=np.asfortranarray(values), empty=values[:0])
    found = read_npz(path)
    assert [isinstance(found[key], FileArray) for key in ("big", "small", "fortran", "empty")] == [
        True,
        False,
        False,
        False,
    ]
    for key, expected in {"big": values, "small": values[:2], "fortran": values, "empty": values[:0]}.items():
        np.testing.assert_array_equal(found[key], expected)
    np.savez_compressed(path, big=values)
    np.testing.assert_array_equal(read_npz(path)["big"], values)


def test_a_large_stored_array_takes_no_memory(path: Path) -> None:
    np.savez(path, audio=np.zeros((4, 2**20), dtype=np.float32))
    tracemalloc.start()
    rows = read_npz(path)["audio"]
    assert rows.shape == (4, 2**20)
    assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    tracemalloc.stop()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(path: Path) -> None:
    archive(path, {"audio.npy": declared(f"({5 * MEGABYTE},)") + bytes(20 * MEGABYTE)})
    assert path.stat().st_size < 21_000
    assert "more than 1000 times as much: refused as a compression bomb" in refused(read_npz, path)


def patched(path: Path, *, size: int | None = None, packed: int | None = None, count: int = 1) -> Path:
    """Let the central directory of an archive lie about the sizes of its first members."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    for _ in range(count):
        if packed is not None:
            data[at + 20 : at + 24] = struct.pack("<I", packed)
        if size is not None:
            data[at + 24 : at + 28] = struct.pack("<I", size)
        at = data.find(b"PK\x01\x02", at + 46)
    path.write_bytes(data)
    return path


def test_a_member_that_unpacks_to_more_than_it_declares_is_cut_off(path: Path) -> None:
    start = declared("(1000,)")
    archive(path, {"audio.npy": start + bytes(20 * MEGABYTE)})
    said = refused(read_npz, patched(path, size=len(start) + 4000))
    assert "do not match the archive's checksum" in said


@pytest.mark.parametrize("size", [2**30 + 1, 2**32 - 2])
def test_a_member_that_declares_gigabytes_is_refused(path: Path, size: int) -> None:
    archive(path, {"audio.npy": npy(np.zeros(100))})
    patched(path, size=size)
    refused(read_npz, path)


def test_members_that_need_too_much_memory_together_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAX_IN_MEMORY", 10_000)
    np.savez_compressed(path, part0=np.arange(500), part1=np.arange(500), part2=np.arange(500))
    assert "when unpacked, more than 9.8 KiB: save numbers in C order with numpy.savez" in refused(read_npz, path)
    assert len(read_npz(path, only={"part0", "part1"})["part1"]) == 500


def test_members_that_share_bytes_are_refused(path: Path) -> None:
    data = npy(np.zeros(200))
    archive(path, {"a.npy": data, "b.npy": data})
    raw = bytearray(path.read_bytes())
    second = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 4)
    raw[second + 42 : second + 46] = bytes(4)  # the second entry points to the first member
    path.write_bytes(raw)
    assert "overlaps the next member" in refused(read_npz, path)


def test_a_member_that_reaches_into_the_directory_is_refused(path: Path) -> None:
    archive(path, {"a.npy": npy(np.zeros(20000))}, zipfile.ZIP_STORED)
    size = path.stat().st_size - 60
    patched(path, size=size, packed=size)
    refused(read_npz, path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"features.txt": b"x"}, "must be an .npz archive of .npy arrays, found 'features.txt'"),
        ({"folder/": b""}, "found 'folder/'"),
        ({".npy": npy(1)}, "found '.npy'"),
        ({"\x1b[2J\n.npy": npy(1)}, "found '?[2J .npy'"),
        ({"a" * 300 + ".npy": npy(1)}, "must be an .npz archive of .npy arrays"),
        ({"a.npy": b"no array"}, "'a' must be a whole .npy array"),
        ({"a.npy": b""}, "'a' must be a whole .npy array"),
        ({"a.npy": declared("(1000000,)")}, "declares float32 of shape (1000000,) but holds 0 bytes"),
        ({"a.npy": declared("(3,)", "|O") + pickle.dumps(["a"])}, "declares objects of shape (3,)"),
        (
            {"a.npy": declared("(3,)", "|O") + pickle.dumps(np.array(["a"], dtype=object))},
            "declares objects of shape (3,)",
        ),
        ({"a.npy": declared("(1,)", "|O") + b"cos\nsystem\n(S'touch ran'\ntR."}, "asks for os.system"),
        ({"a.npy": declared("(1,)", "|O")}, "ends too early"),
    ],
)
def test_an_archive_with_anything_but_arrays_is_refused(path: Path, members: dict[str, bytes], message: str) -> None:
    assert message in refused(read_npz, archive(path, members))
    assert not Path("ran").exists()


def test_names_are_never_paths(path: Path) -> None:
    found = read_npz(archive(path, {"../../etc/passwd.npy": npy(7), "/abs.npy": npy(8)}))
    assert {key: int(np.asarray(value)) for key, value in found.items()} == {"../../etc/passwd": 7, "/abs": 8}
    assert list(path.parent.iterdir()) == [path]


def test_a_name_that_occurs_twice_is_refused(path: Path) -> None:
    archive(path, {"a.npy": npy(1), "b.npy": npy(2)})
    path.write_bytes(path.read_bytes().replace(b"b.npy", b"a.npy"))
    assert "holds 'a' twice" in refused(read_npz, path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(path: Path, method: int) -> None:
    said = refused(read_npz, archive(path, {"a.npy": npy(np.zeros(9))}, method))
    assert f"is compressed by method {method}: save it with numpy.savez" in said


def test_an_encrypted_archive_is_refused(path: Path) -> None:
    archive(path, {"a.npy": npy(1)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "is encrypted: save it without a password" in refused(read_npz, path)


def test_a_checksum_that_does_not_fit_is_damage(path: Path) -> None:
    archive(path, {"a.npy": npy(np.arange(100))}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    assert "do not match the archive's checksum" in refused(read_npz, path)


def test_bytes_that_do_not_inflate_are_damage(path: Path) -> None:
    archive(path, {"a.npy": npy(np.random.default_rng(1).normal(size=90000))})
    data = bytearray(path.read_bytes())
    data[2000:2100] = bytes(100)
    path.write_bytes(data)
    assert "damaged" in refused(read_npz, path)


def test_an_archive_with_a_huge_directory_is_refused(path: Path) -> None:
    archive(path, {"a.npy": npy(1)})
    data = bytearray(path.read_bytes())
    end = data.index(b"PK\x05\x06")
    filler = bytes(9 * MEGABYTE)
    data[end + 12 : end + 16] = struct.pack("<I", len(data) - end + 9 * MEGABYTE)
    path.write_bytes(data[:end] + filler + data[end:])
    assert "must be a whole .npz archive but is not (its directory has 9.0 MiB)" in refused(read_npz, path)


def test_an_archive_of_more_than_32_bits_is_read(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file, file.open("a.npy", "w", force_zip64=True) as member:
        member.write(npy(np.arange(20000.0)))
    np.testing.assert_array_equal(read_npz(path)["a"], np.arange(20000.0))


def test_what_stands_before_an_archive_is_skipped(path: Path) -> None:
    archive(path, {"a.npy": npy(np.arange(20000.0))}, zipfile.ZIP_STORED)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    np.testing.assert_array_equal(read_npz(path)["a"], np.arange(20000.0))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(17), b"no zip at all" * 100])
def test_what_is_no_archive_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert "must be a whole .npz archive but is not (its list of contents is missing or damaged)" in refused(
        read_npz, path
    )


def test_an_archive_that_shrinks_while_it_is_read_is_refused(path: Path) -> None:
    np.savez(path, audio=np.zeros((4, 2**16)))
    rows = read_npz(path)["audio"]
    os.truncate(path, 1000)
    with pytest.raises(SourceError, match="ends too early"):
        rows[2:3]


def test_a_folder_or_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        assert "must be a file" in refused(read_npz, path)
    assert "No such file" in refused(read_npz, tmp_path / "none")


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_is_one_line(path: Path, compressed: bool) -> None:
    (np.savez_compressed if compressed else np.savez)(
        path, id=np.array(["a", "b"], dtype=object), audio=np.zeros((2, 3))
    )
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        refused(read_npz, path)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_raises_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "damaged.npz"
    np.savez_compressed(path, id=np.array(["a", "b"], dtype=object), audio=np.ones((2, 3)), mode=np.array(["x", "y"]))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    for read in (read_npz, look_into_npz):
        with contextlib.suppress(SourceError):
            read(path)
