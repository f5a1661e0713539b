"""The checksum in front of our HDF5 files: whatever HDF5 would interpret is compared before it sees the file."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import make_corpus
from hypothesis import given
from hypothesis import strategies as st

from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.seal import BLOCK, check_seal, seal
from conki_cli.data.store.writing import write_store
from conki_cli.system.errors import StoreError

PLAIN = 1 << 18


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one large data set of plain numbers between small ones."""
    path = tmp_path_factory.mktemp("sealed") / "one.h5"
    with h5py.File(path, "w", userblock_size=BLOCK) as file:
        file["before"] = np.arange(5.0)
        file["frames"] = np.arange(PLAIN // 4, dtype="<f4")
        file["after"] = ["text", "more text"]
    seal(path)
    return path


def test_a_file_full_of_holes_is_not_read_to_its_end(sealed: Path, tmp_path: Path) -> None:
    path = tmp_path / "sparse.h5"
    path.write_bytes(sealed.read_bytes()[:BLOCK])
    facts = {**said(sealed), "size": 1 << 42, "plain": []}
    with path.open("r+b") as stream:
        stream.write(json.dumps(facts).encode().ljust(BLOCK, b"\n"))
        stream.truncate(1 << 42)
    with pytest.raises(ValueError, match="declares more than 1024 MiB"):
        check_seal(path)


def said(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_bytes()[:BLOCK]))


def test_hdf5_reads_a_sealed_file_as_it_was(sealed: Path) -> None:
    with h5py.File(sealed) as file:
        assert file["frames"][-1] == PLAIN // 4 - 1
    check_seal(sealed)


def test_only_large_data_sets_of_numbers_are_left_out(sealed: Path) -> None:
    with h5py.File(sealed) as file:
        assert said(sealed)["plain"] == [[file["frames"].id.get_offset(), PLAIN]]


@given(place=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_every_bit_counts_but_those_of_the_plain_numbers(sealed: Path, place: int, bit: int) -> None:
    content = bytearray(sealed.read_bytes())
    place %= len(content)
    content[place] ^= 1 << bit
    changed = sealed.with_name("changed.h5")
    changed.write_bytes(content)
    ((start, length),) = said(sealed)["plain"]  # type: ignore[misc]
    is_padding = len(json.dumps(said(sealed))) <= place < BLOCK
    if start <= place < start + length:
        check_seal(changed)
    elif not is_padding:
        with pytest.raises(
            ValueError, match=r"structure was|not a file of conki|cannot be|another version|was written"
        ):
            check_seal(changed)


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_is_refused(sealed: Path, share: float) -> None:
    content = sealed.read_bytes()
    changed = sealed.with_name("cut.h5")
    changed.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"not a file of conki|cannot be read|was written with"):
        check_seal(changed)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("plain", [[0, 10**6]]),
        ("plain", [[5000, -4]]),
        ("plain", [[5000, 100], [5050, 100]]),
        ("plain", [[10**30, 1]]),
        ("plain", "all"),
        ("plain", None),
        ("crc32", 5),
        ("size", None),
        ("name", ["conki seal 1"]),
    ],
)
def test_a_seal_that_makes_no_sense_is_refused(sealed: Path, key: str, value: object) -> None:
    changed = sealed.with_name("odd.h5")
    block = json.dumps({**said(sealed), key: value}).encode().ljust(BLOCK)
    changed.write_bytes(block + sealed.read_bytes()[BLOCK:])
    with pytest.raises(ValueError, match=r"was|cannot be read|another version|not a file of conki"):
        check_seal(changed)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 9999, b"\xff" * 9999, b"null", b'{"name": "conki"}'])
def test_what_has_no_seal_and_is_no_hdf5_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.h5").write_bytes(content)
    with pytest.raises(ValueError, match="it is not a file of conki"):
        check_seal(tmp_path / "other.h5")


def test_files_of_earlier_versions_need_no_seal() -> None:
    store = Path(__file__).parents[1] / "fixtures" / "version_1" / "features" / "tiny.h5"
    check_seal(store)


def test_a_damaged_store_is_refused_before_hdf5_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.h5"
    write_store(path, make_corpus("tiny", (3, 3, 3), seed=1, longest=4))
    content = bytearray(path.read_bytes())
    content[BLOCK + 600] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"tiny.h5 is damaged \(its structure was changed after it was written\)"):
        FeatureStore(path)
