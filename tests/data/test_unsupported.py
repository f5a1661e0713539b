"""What is recognised and refused by name: one line that says what it is and how to convert it."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from conki_cli.data.raw.file import Raw
from conki_cli.data.raw.opening import open_raw
from conki_cli.data.raw.refusals import refusal_of_bytes
from conki_cli.data.sources import clip_lists, mult
from conki_cli.data.sources.formats import read_raw
from conki_cli.data.sources.request import Request
from conki_cli.data.sources.unsupported import refusal
from conki_cli.system.errors import SourceError


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("mosi.pkl"))
    return stream.getvalue()


def npz(*names: str) -> bytes:
    return zipped(**{f"{name}_dot_npy": npy() for name in names})


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


KINDS = {
    "a MATLAB file": b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(200),
    "load it with scipy or h5py": b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n",
    "compressed file: unpack it": gzip.compress(b"data"),
    "an archive or compressed file": tarred(),
    "name the file in it": zipped(mosi_dot_pkl=b"x", label_dot_csv=b"y"),
    "unpack it and": b"Rar!\x1a\x07\x01\x00",
    "unpack it and name": b"7z\xbc\xaf\x27\x1c\x00\x04",
    "an empty zip archive": zipped(),
    "a torch.save file": zipped(archive__data_dot_pkl=b"x", archive__data__0=b"x"),
    "if you trust it, load it with torch": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
    "an old Excel or Word file": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
    "whose objects a safe reader cannot open": npz("train_corpus", "val_corpus", "test_corpus"),
    "raw video or sound": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00",
    "which cannot be read yet": b"RIFF\x00\x00\x01\x00AVI LIST",
    "extract features": b"\x1a\x45\xdf\xa3\x01\x00\x00\x00",
    "raw video or sound, which": b"RIFF\x00\x00\x01\x00WAVEfmt ",
    "Arrow, a table": b"ARROW1\x00\x00",
    "JSON, a table": json.dumps([{"id": 1}]).encode(),
    "JSON": b'\xef\xbb\xbf{\n  "train": []}',
    "a single array": npy(),
    "a web page": b"\n<!DOCTYPE html><html><title>Google Drive</title>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
}


@pytest.mark.parametrize("said", KINDS, ids=list(KINDS))
def test_a_kind_of_file_is_refused_by_its_first_bytes(tmp_path: Path, said: str) -> None:
    path = tmp_path / "mosi.pkl"
    path.write_bytes(KINDS[said])
    with pytest.raises(SourceError) as caught:
        open_raw(path)
    assert str(caught.value).startswith(f"{path} is ")
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"train": {}}, protocol=0),
        pickle.dumps({"train": {}}, protocol=1),
        pickle.dumps([1, 2], protocol=1),
        pickle.dumps({"train": {}}, protocol=2),
        pickle.dumps({"train": {}}, protocol=5),
        npz("features"),
        b"video_id,clip_id,text,label,mode\n",
        b"PK\x03\x04 and then nothing that an archive has",
        b"x",
    ],
)
def test_files_that_are_read_or_damaged_are_left_to_their_readers(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert refusal_of_bytes(path, data[:4096]) is None


def test_an_archive_with_very_many_names_is_told_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    path.write_bytes(zipped(**{f"clip_{n}_dot_npy": b"" for n in range(2000)}))
    assert path.stat().st_size > 2 * 65536
    assert refusal_of_bytes(path, path.read_bytes()[:4096]) is None


def test_a_file_that_has_gone_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        refusal_of_bytes(tmp_path / "gone.zip", b"PK\x03\x04")


def pickled(path: Path, value: object) -> Raw:
    path.write_bytes(pickle.dumps(value, protocol=4))
    return open_raw(path)


EMOTIONS = {"labels": np.zeros((2, 4, 2)), "text": np.zeros((2, 3, 4)), "audio": 0, "vision": 0}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (({"a": 1}, {"b": 2}), "bc-LSTM"),
        ([{"video": 1}, {"video": 2}], "GCNet"),
        ([], "GCNet"),
        ({"train": EMOTIONS, "valid": EMOTIONS, "test": EMOTIONS}, "IEMOCAP"),
        ({"happy": {"train": {}}, "sad": {"train": {}}}, "IEMOCAP"),
        ({b"train": {b"label": np.zeros((2, 4))}}, "IEMOCAP"),
    ],
)
def test_a_pickle_of_the_field_is_refused_by_name(tmp_path: Path, value: object, said: str) -> None:
    message = refusal(pickled(tmp_path / "x.pkl", value))
    assert message is not None
    assert message.startswith(f"{tmp_path / 'x.pkl'} is ")
    assert said in message
    assert "write a pickle in MMSA's layout" in message
    assert message.isprintable()


@pytest.mark.parametrize("name", ["data", "d1"])
def test_mfn_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "X_train.h5", "w") as file:
        file[name] = np.zeros((2, 20, 325))
    message = refusal(open_raw(tmp_path / "X_train.h5"))
    assert message is not None
    assert "MFN" in message
    assert "split the columns" in message


def test_a_group_called_data_is_not_mfn(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_group("data")
    assert refusal(open_raw(tmp_path / "other.h5")) is None


def test_a_damaged_hdf5_file_is_one_line_wherever_the_damage_shows(tmp_path: Path) -> None:
    path = tmp_path / "x.csd"
    with h5py.File(path, "w") as file:
        file["COVAREP/data/v/features"] = np.zeros((2, 74))
    path.write_bytes(path.read_bytes().replace(b"TREE", b"XREE"))
    with pytest.raises(SourceError, match=r"x.csd is damaged .*: get the complete file again"):
        read_raw(open_raw(path), Request("mosi", (-3, 3)))


def test_a_link_called_data_is_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file["secret"] = np.zeros(3)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = h5py.ExternalLink(str(tmp_path / "outside.h5"), "/secret")
        assert refusal(Raw(tmp_path / "x.h5", "hdf5", file)) is None


def test_mertools_labels_that_were_opened_are_refused_too(tmp_path: Path) -> None:
    message = refusal(Raw(tmp_path / "label.npz", "npz", {"train_corpus": np.zeros(1)}))
    assert message is not None
    assert "MERTools" in message
    assert "label.csv" in message


@pytest.mark.parametrize(
    "value",
    [{}, {"train": 1}, {"train": {"labels": np.zeros((2, 1, 1))}}, "text", 3, None, [((["w"], 0, 0), 1.0, "v[0]")]],
)
def test_what_is_of_no_known_kind_is_not_refused_by_name(tmp_path: Path, value: object) -> None:
    assert refusal(pickled(tmp_path / "x.pkl", value)) is None


def test_tables_and_folders_are_not_refused_by_name(tmp_path: Path) -> None:
    assert refusal(Raw(tmp_path, "folder", {})) is None
    assert refusal(Raw(tmp_path, "table", ["a", "b"])) is None


def test_what_is_refused_is_read_by_no_list_or_array_reader(tmp_path: Path) -> None:
    values: list[object] = [({"a": 1}, {"b": 2}), [{"video": 1}], {"happy": {"train": {}}}]
    for value in values:
        raw = pickled(tmp_path / "x.pkl", value)
        assert clip_lists.recognise(raw) is mult.recognise(raw) is None
