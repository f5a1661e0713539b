"""The process that reads the structure of HDF5 files: used again, replaced when it ended, ended when it hangs."""

import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

from conki_cli.data.store.probing import _Reader


@pytest.fixture
def reader() -> Iterator[_Reader]:
    found = _Reader()
    yield found
    found.close()


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "sound.h5", "w") as file:
        file["numbers"] = [1, 2, 3]
    return tmp_path / "sound.h5"


def test_one_process_reads_several_files(reader: _Reader, sound: Path, tmp_path: Path) -> None:
    reader.read(sound)
    process = reader._process
    (tmp_path / "no HDF5\n").write_text("no HDF5")
    reader.read(tmp_path / "no HDF5\n")
    assert reader._process is process


def test_a_process_that_ended_is_replaced(reader: _Reader, sound: Path) -> None:
    reader.read(sound)
    assert reader._process is not None
    reader._process.kill()
    reader.read(sound)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_file_on_which_hdf5_hangs_is_refused_and_the_next_is_read(
    reader: _Reader, sound: Path, tmp_path: Path
) -> None:
    reader.read(sound)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="HDF5 cannot read its structure within 5 seconds"):
        reader.read(tmp_path / "pipe")
    reader.read(sound)
