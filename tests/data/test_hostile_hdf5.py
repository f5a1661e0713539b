"""Hostile HDF5: nothing outside the file is read, nothing large is made of something small, every refusal is a line."""

import contextlib
import resource
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from conki_cli.data.raw import hdf5
from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.hdf5 import MOST_BYTES, H5Frames, checked, child, dataset_in, open_hdf5, rows_of, texts_of
from conki_cli.data.raw.opening import open_raw
from conki_cli.data.sources import sequences
from conki_cli.data.sources.request import Request
from conki_cli.system.errors import SourceError

MOST_GROWTH = 300 * 2**20
"""How much the process may grow while a file is refused: one chunk and what numpy and HDF5 need beside it."""
SECRET = b"a secret beside the file"
ONE = np.ones((1, 1))

Make = Callable[[Path, h5py.Group], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for the file, beside one that nobody may read."""
    (tmp_path / "secret.bin").write_bytes(SECRET)
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["features"] = np.frombuffer(SECRET, dtype=np.uint8).reshape(-1, 1)
    return tmp_path / "hostile.csd"


def external_link(path: Path, video: h5py.Group) -> None:
    video["features"] = h5py.ExternalLink("secret.hdf5", "/features")


def soft_link(path: Path, video: h5py.Group) -> None:
    video.file["words/elsewhere"] = ONE
    video["features"] = h5py.SoftLink("/words/elsewhere")


def virtual_data_set(path: Path, video: h5py.Group) -> None:
    layout = h5py.VirtualLayout(shape=(len(SECRET), 1), dtype=np.uint8)
    layout[:] = h5py.VirtualSource("secret.hdf5", "features", shape=(len(SECRET), 1))
    video.create_virtual_dataset("features", layout)


def external_storage(path: Path, video: h5py.Group) -> None:
    where = [(str(path.parent / "secret.bin"), 0, len(SECRET))]
    video.create_dataset("features", shape=(len(SECRET), 1), dtype=np.uint8, external=where)


def terabytes_declared(path: Path, video: h5py.Group) -> None:
    video.create_dataset("features", shape=(10**10, 74), dtype="f4", chunks=(1000, 74))


def contiguous_but_not_stored(path: Path, video: h5py.Group) -> None:
    video.create_dataset("features", shape=(1000, 74), dtype="f4")


def endless_fill_value(path: Path, video: h5py.Group) -> None:
    video.create_dataset("features", shape=(10**9, 1), dtype="S1", chunks=(1000, 1), fillvalue=b"a")


def gzip_twice(path: Path, video: h5py.Group) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((1000, 1))
    settings.set_deflate(9)
    settings.set_deflate(9)
    space = h5py.h5s.create_simple((1000, 1))
    h5py.h5d.create(video.id, b"features", h5py.h5t.IEEE_F64LE, space, settings)


def gzip_chunk_beyond_its_size(path: Path, video: h5py.Group) -> None:
    dataset = video.create_dataset("features", shape=(10**6, 1), dtype="u1", chunks=(10**6, 1), compression="gzip")
    squeezer = zlib.compressobj(9)
    packed = b"".join(squeezer.compress(bytes(2**24)) for _ in range(28)) + squeezer.flush()  # 448 MiB of zeros
    dataset.id.write_direct_chunk((0, 0), packed)


def enormous_chunk(path: Path, video: h5py.Group) -> None:
    video.create_dataset("features", shape=(1, 1), maxshape=(None, 1), chunks=(2**28, 1), dtype="u1")


def foreign_compression(path: Path, video: h5py.Group) -> None:
    video.create_dataset("features", data=np.ones((100, 1)), compression="lzf")


def group_for_data_set(path: Path, video: h5py.Group) -> None:
    video.create_group("features")


def cycle_of_links(path: Path, video: h5py.Group) -> None:
    video["features"] = video.parent


def numbers_of_variable_length(path: Path, video: h5py.Group) -> None:
    dataset = video.create_dataset("features", shape=(2, 1), dtype=h5py.vlen_dtype(np.int32))
    dataset[0, 0] = [1, 2, 3]


def references(path: Path, video: h5py.Group) -> None:
    dataset = video.create_dataset("features", shape=(1, 1), dtype=h5py.ref_dtype)
    dataset[0, 0] = video.ref


def compound(path: Path, video: h5py.Group) -> None:
    video["features"] = np.zeros((2, 1), dtype=[("a", "f4"), ("b", "i4")])


def five_axes(path: Path, video: h5py.Group) -> None:
    video["features"] = np.zeros((1, 1, 1, 1, 1))


def no_value(path: Path, video: h5py.Group) -> None:
    video["features"] = h5py.Empty("f4")


def named_type(path: Path, video: h5py.Group) -> None:
    video["features"] = np.dtype("f8")


HOSTILE: dict[Make, str] = {
    external_link: "is a link to another place",
    soft_link: "is a link to another place",
    virtual_data_set: "has its values in other files",
    external_storage: "has its values in other files",
    terabytes_declared: "declares 2.7 TiB",
    contiguous_but_not_stored: "but 0 are stored",
    endless_fill_value: "declares 953.7 MiB",
    gzip_twice: "is compressed with filters [1, 1]",
    gzip_chunk_beyond_its_size: "unpacks beyond its size",
    enormous_chunk: "has chunks of 256.0 MiB",
    foreign_compression: "is compressed with filters [32000]",
    group_for_data_set: "must be a data set, found a group",
    cycle_of_links: "must be a data set, found a group",
    numbers_of_variable_length: "must hold numbers or texts, found objects",
    references: "must hold numbers or texts, found objects",
    compound: "must hold numbers or texts, found [",
    five_axes: "must have one to three axes",
    no_value: "must have one to three axes, found None",
    named_type: "must be a data set",
}


def peak() -> int:
    """Return the largest memory that this process had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def growth_below(most: int) -> Iterator[None]:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peaks of earlier tests
    before = peak()
    yield
    assert peak() - before < most


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        sequences.read(open_raw(path), Request("own", (-3, 3)), "csd")
    message = str(caught.value)
    assert message.isprintable()
    assert SECRET.decode() not in message
    return message


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_hostile_features_are_one_line_and_take_no_memory(path: Path, make: Make) -> None:
    with h5py.File(path, "w") as file:
        make(path, file.create_group("words/data/video"))
    with growth_below(MOST_GROWTH):
        assert HOSTILE[make] in refusal(path)


@pytest.mark.parametrize("name", ["words", "data", "video"])
@pytest.mark.parametrize("link", [h5py.ExternalLink("secret.hdf5", "/"), h5py.SoftLink("/")], ids=["external", "soft"])
def test_links_are_refused_at_every_level(path: Path, name: str, link: object) -> None:
    levels = ["words", "data", "video"]
    with h5py.File(path, "w") as file:
        parents = levels[: levels.index(name)]
        group = file.require_group("/".join(parents)) if parents else file
        group[name] = link
    assert "is a link to another place" in refusal(path)


def test_one_data_set_under_many_names_is_read_once(path: Path, tmp_path: Path) -> None:
    with h5py.File(path, "w") as file:
        videos = file.create_group("words/data")
        first = videos.create_group("a")
        first["features"] = np.array([[b"x"]])
        first["intervals"] = [[0.0, 1.0]]
        videos["b"] = first
    labels = tmp_path / "label.csv"
    rows = [f"{video},1,x,0,train,0,1" for video in "ab"]
    labels.write_text("\n".join(["video_id,clip_id,text,label,mode,start,stop", *rows]))
    with pytest.raises(SourceError, match="under a second name"):
        sequences.read(open_raw(path), Request("own", (-3, 3), labels=labels), "csd")


def test_a_long_text_named_by_every_row_is_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        words = file.create_dataset("words", shape=(200,), dtype=h5py.string_dtype())
        words[0] = "a" * 2**20
    raw = path.read_bytes()
    with h5py.File(path) as file:
        offset = file["words"].id.get_offset()
    path.write_bytes(raw[:offset] + raw[offset : offset + 16] * 200 + raw[offset + 3200 :])
    with growth_below(2 * MOST_BYTES), open_hdf5(path) as file, pytest.raises(SourceError, match="at once"):
        texts_of(dataset_in(file, "words", texts=True, in_memory=True))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_one_line(path: Path, share: float) -> None:
    with h5py.File(path, "w") as file:
        file["words/data/video/features"] = np.ones((1000, 3))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert f"cannot read {path}" in refusal(path)


def test_a_damaged_file_is_one_line(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["words/data/video/features"] = np.ones((10, 3))
        file["words/data/video/intervals"] = np.ones((10, 2))
    whole = path.read_bytes()
    for start in range(96, 3000, 96):
        path.write_bytes(whole[:start] + b"\xff" * 48 + whole[start + 48 :])
        refusal(path)


def test_a_file_that_becomes_damaged_after_it_was_opened_is_one_line(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(60.0).reshape(20, 3), chunks=(5, 3), compression="gzip")
    file = open_hdf5(path)
    frames = rows_of(file, checked(file["x"]), 2, 9)
    with path.open("r+b") as stream:
        stream.seek(-400, 2)
        stream.write(b"\xff" * 400)
    with pytest.raises(SourceError, match="is damaged"):
        np.asarray(frames)


def test_frames_larger_than_memory_allows_are_refused(path: Path) -> None:
    with h5py.File(path, "w") as file, pytest.raises(SourceError, match="and the limit is"):
        H5Frames(file, "/x", np.dtype("f8"), (10**6, 74), 0)


def test_what_is_read_as_a_whole_must_fit_into_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "MOST_BYTES", 100)
    with h5py.File(path, "w") as file:
        file["intervals"] = np.zeros((10, 2))
    with open_hdf5(path) as file:
        assert dataset_in(file, "intervals").shape == (10, 2)
        with pytest.raises(SourceError, match="takes 160 B at once"):
            dataset_in(file, "intervals", in_memory=True)


def test_names_in_a_file_cannot_steer_the_terminal(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("words\x1b[2J/data/video\nname")["features"] = h5py.SoftLink("/")
    assert "\x1b" not in refusal(path)


def test_strange_content_is_not_recognised(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["words"] = h5py.ExternalLink("secret.hdf5", "/")
    assert sequences.recognise(open_raw(path)) is None
    assert sequences.recognise(Raw(path, "hdf5", None)) is None


# ---- what is allowed ----


def test_constant_data_compress_as_far_as_they_like(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((3000, 35)), compression="gzip", shuffle=True, fletcher32=True)
    with open_hdf5(path) as file:
        np.testing.assert_array_equal(np.asarray(rows_of(file, dataset_in(file, "x"), 5, 8)), np.zeros((3, 35)))


def test_large_gzip_chunks_of_real_data_are_read(path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20000, 20))
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, chunks=values.shape, compression="gzip", fletcher32=True)
    with open_hdf5(path) as file:
        np.testing.assert_array_equal(np.asarray(rows_of(file, dataset_in(file, "x"), 0, 20000)), values)


def test_frames_keep_their_file_open(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(12.0).reshape(4, 3)
    file = open_hdf5(path)
    frames = rows_of(file, checked(child(file, "x")), 1, 3)
    del file
    assert frames.shape == (2, 3)
    np.testing.assert_array_equal(np.asarray(frames, dtype="f4"), [[3, 4, 5], [6, 7, 8]])
