"""Folders with a file per clip: tables of OpenFace, openSMILE, pandas and numpy, MATLAB files, transposed arrays."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import scipy.io

from conki_cli.data.raw import clip_tables, mat
from conki_cli.data.sources.clip_files import ClipFiles, look_into_folder
from conki_cli.data.sources.request import no_progress
from conki_cli.system.errors import SourceError

VALUES = np.array([[0.25, -1.5, 3e-7], [1 / 3, 2.0, 1e5]])
ROWS = "0.25,-1.5,3e-07\n0.3333333333333333,2.0,100000.0\n"


def looked(folder: Path, modality: str = "vision") -> ClipFiles:
    return look_into_folder(folder, modality, no_progress)


def table(folder: Path, text: str | bytes, name: str = "v$_$1.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def values(folder: Path, text: str | bytes, name: str = "v$_$1.csv") -> npt.NDArray[Any]:
    table(folder, text, name)
    file = looked(folder).frames["v$_$1"]
    found = np.asarray(file)
    assert found.shape == file.shape
    return found


# ---- how tables are written ----


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        "a,b,c\n" + ROWS,
        '"a","b","c"\n' + ROWS,
        "0,1,2\n" + ROWS,
        ",0,1,2\n0,0.25,-1.5,3e-07\n1,0.3333333333333333,2.0,100000.0\n",
        ROWS.replace(",", ", "),
        ROWS.replace(",", ";"),
        ROWS.replace(",", "\t"),
        ROWS.replace(",", " "),
        "   " + ROWS.replace(",", "   "),
        ROWS.replace("\n", "\r\n") + "\r\n\r\n",
        ROWS.rstrip("\n"),
        "sep=;\n" + ROWS.replace(",", ";"),
        "sep=|\na|b|c\n" + ROWS.replace(",", "|"),
        "# 2 frames\n# a b c\n" + ROWS.replace(",", " "),
        ROWS.replace(",", ";").replace(".", ","),
        "a;b;c\n" + ROWS.replace(",", ";").replace(".", ","),
        ROWS.replace(",", " ").replace(".", ","),
        b"\xef\xbb\xbf" + ROWS.encode(),
        ("a\tb\tc\n" + ROWS.replace(",", "\t")).encode("utf-16"),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".txt", ".TSV"])
def test_a_table_is_read_however_it_is_written(tmp_path: Path, text: str | bytes, ending: str) -> None:
    np.testing.assert_array_equal(values(tmp_path, text, f"v$_$1{ending}"), VALUES)


def test_what_numpy_and_pandas_write_is_read(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).normal(size=(7, 4))
    for name in ("numpy", "numbers", "names"):
        (tmp_path / name).mkdir()
    np.savetxt(tmp_path / "numpy" / "1.csv", frames, delimiter=",", fmt="%.18e", header="four columns")
    pd.DataFrame(frames).to_csv(tmp_path / "numbers" / "1.csv")
    pd.DataFrame(frames, columns=list("abcd")).to_csv(tmp_path / "names" / "1.csv", index=False)
    for name in ("numpy", "numbers", "names"):
        np.testing.assert_array_equal(np.asarray(looked(tmp_path / name).frames["1"]), frames)


def test_a_single_row_is_one_frame_with_and_without_names(tmp_path: Path) -> None:
    assert values(tmp_path, "1.5;2.5\n").tolist() == [[1.5, 2.5]]
    assert values(tmp_path, "a;b\n1.5;2.5\n").tolist() == [[1.5, 2.5]]


def test_two_columns_of_zero_and_one_are_a_frame_not_column_numbers(tmp_path: Path) -> None:
    assert values(tmp_path, "0,1\n1,1\n").tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "NA", "-nan", "1.#QNAN"])
def test_a_missing_cell_is_not_a_number_as_everywhere(tmp_path: Path, cell: str) -> None:
    np.testing.assert_array_equal(values(tmp_path, f"a,b,c\n1,{cell},3\n4,5,6\n"), [[1, np.nan, 3], [4, 5, 6]])


# ---- columns that are no features ----


@pytest.mark.parametrize(
    "text",
    [
        "name;frameTime;F0;jitter\n'unknown';0.00;1.5;2.5\n'unknown';0.01;3.5;4.5\n",
        "name;frameIndex;frameTime;F0;jitter\n'a;b';0;0;1.5;2.5\n'c';1;0.01;3.5;4.5\n".replace("'a;b'", '"a;b"'),
        "file,start,end,F0,jitter\na.wav,0 days 00:00:00,0 days 00:00:01,1.5,2.5\na.wav,0 days,0 days,3.5,4.5\n",
    ],
)
def test_the_bookkeeping_of_opensmile_is_left_out(tmp_path: Path, text: str) -> None:
    assert values(tmp_path, text).tolist() == [[1.5, 2.5], [3.5, 4.5]]


def test_without_column_names_the_name_and_what_rises_as_times_do_are_left_out(tmp_path: Path) -> None:
    assert values(tmp_path, "'unknown';0.00;1.5\n'unknown';0.01;3.5\n").tolist() == [[1.5], [3.5]]
    assert "which rises from 0 in every clip as times do, were left out" in looked(tmp_path).notes[0]


def test_without_column_names_what_does_not_rise_in_every_clip_is_a_feature(tmp_path: Path) -> None:
    table(tmp_path, "'unknown';0.5;3\n'unknown';0.25;4\n", "v$_$2.csv")
    assert values(tmp_path, "'unknown';0.0;1.5\n'unknown';0.25;3.5\n").tolist() == [[0, 1.5], [0.25, 3.5]]
    assert "if the next one is a time it counts as a feature" in looked(tmp_path).notes[0]


def test_confidence_is_a_feature_where_openface_did_not_write_it(tmp_path: Path) -> None:
    assert values(tmp_path, "frame,confidence,x\n1,0.5,2\n").tolist() == [[0.5, 2]]


def test_the_details_of_openface_and_a_label_file_are_no_clips(tmp_path: Path) -> None:
    for name in ("v$_$1_of_details.txt", "label.csv", "v$_$1.avi"):
        table(tmp_path, "something else", name)
    assert values(tmp_path, ROWS).shape == (2, 3)
    assert looked(tmp_path).remarks == (f"3 other files in {tmp_path.name} were not read (1 .csv, 1 .avi, 1 .txt)",)


# ---- tables that are refused ----


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("1,2,3\n4,5", "line 2 must have 3 cells like the first line, found 2: it may be truncated"),
        ("a,b\n1,2\n3,4,5\n", "line 3 must have 2 cells"),
        ("1 2 3\n4 5\n", "line 2 must have 3 cells"),
        ("182\nabc 4\n", "line 2 must have 1 cells"),
        ("frame,timestamp\n1,2\n", "must have columns of features, found only frame, timestamp"),
        (b"\0\1\2\3", "bytes that are not text"),
        ("1," * 70_000, "more than 65536 cells"),
    ],
)
def test_a_table_that_is_cut_off_or_none_is_refused_by_its_file(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(SourceError) as error:
        looked(tmp_path)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cell", ["abc", "1_000", "0x10", "1.2.3", "\x1b[31m", "--"])
def test_a_cell_that_is_no_number_is_named_with_its_line(tmp_path: Path, cell: str) -> None:
    with pytest.raises(SourceError, match=r"v\$_\$1.csv, line 3, column 2 must be a number, found") as error:
        values(tmp_path, f"a,b\n1,2\n3,{cell}\n")
    assert "\x1b" not in str(error.value)


def test_a_cell_that_is_no_number_in_the_first_line_is_no_column_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="line 1, column 2 must be a number, found 'abc'"):
        values(tmp_path, "0.5,abc,0.7\n0.5,0.6,0.7\n")


def test_clips_with_other_columns_are_refused_though_they_are_as_many(tmp_path: Path) -> None:
    table(tmp_path, "a,b\n1,2\n")
    table(tmp_path, "b,a\n1,2\n", "v$_$2.csv")
    with pytest.raises(
        SourceError, match=r"2.csv must have the same columns as .*1.csv, found 'b' in the one and 'a' in"
    ):
        looked(tmp_path)


def test_the_odd_file_is_named_where_columns_differ_and_not_the_first_one(tmp_path: Path) -> None:
    for name, columns in (("1", "a,c"), ("2", "a,b"), ("3", "a,b"), ("4", "a"), ("5", "a,b")):
        table(tmp_path, f"{columns}\n{columns.translate({97: 49, 98: 50, 99: 51})}\n", f"v$_${name}.csv")
    said = r"v\$_\$1.csv and 1 more must have the same columns as the other 3 of 5 files, found 'c' instead of 'b': ext"
    with pytest.raises(SourceError, match=said):
        looked(tmp_path)


@pytest.mark.parametrize(
    ("names", "clip"),
    [(("v1_1.csv", "v1/1.csv"), "v1$_$1"), (("v$_$7.csv", "v$_$7.0.csv"), "v$_$7.0"), (("a_b_1.csv", "a_b/1.csv"), "")],
)
def test_two_files_that_may_be_one_clip_are_refused_by_their_names(
    tmp_path: Path, names: tuple[str, str], clip: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        table(tmp_path, "1,2\n", name)
    with pytest.raises(SourceError) as error:
        looked(tmp_path)
    assert all(str(tmp_path / name) in str(error.value) for name in names)
    assert f"may both be the clip '{clip or 'a_b$_$1'}': remove one of them" in str(error.value)


def test_two_clips_that_are_one_name_only_in_short_are_both_read(tmp_path: Path) -> None:
    for name in ("a_b/1.csv", "a/b_1.csv"):
        (tmp_path / name).parent.mkdir()
        table(tmp_path, "1,2\n", name)
    assert set(looked(tmp_path).frames) == {"a_b$_$1", "a$_$b_1"}


def test_a_column_that_is_twice_and_a_last_row_without_a_line_break_are_warnings(tmp_path: Path) -> None:
    for number in range(3):
        table(tmp_path, "x,X,x\n1,2,3\n" + ("" if number else "4,5,0.6"), f"v$_${number}.csv")
    doubled, unended = looked(tmp_path).notes
    assert "a column is twice in 3 tables in" in doubled
    assert "(such as 'x' in v$_$0.csv): both are features; remove one of them" in doubled
    assert "there is no line break at the end of 1 of 3 tables in" in unended
    assert "(such as v$_$0.csv): the last number there may be truncated; extract these clips again" in unended


def test_a_table_with_column_names_is_not_doubted_to_be_transposed(tmp_path: Path) -> None:
    for number in range(2):
        table(tmp_path, "x,y,z\n1,2,3\n4,5,6\n", f"v$_${number}.csv")
    assert looked(tmp_path).notes == ()


def test_tables_that_all_end_without_a_line_break_are_as_their_program_writes_them(tmp_path: Path) -> None:
    for number in range(2):
        table(tmp_path, "x,y\n1,2\n4,0.6", f"v$_${number}.csv")
    assert looked(tmp_path).notes == ()


@pytest.mark.parametrize("limit", ["MOST_BYTES", "_MOST_LETTERS"])
def test_a_table_beyond_the_limits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(clip_tables, limit, 40)
    table(tmp_path, "1,2,3\n" * 4 + "4,5," + "6" * 60)
    with pytest.raises(SourceError, match=r"the limit for a clip is|is longer than any row"):
        looked(tmp_path)


def test_a_table_changed_anywhere_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    starts = [b"frame, face_id, timestamp, confidence, success, x\n1, 0, 0.0, 0.98, 1, 0.5\n2, 0, 0.1, 0.9, 1, 0.5\n"]
    starts += [b"'u';0.0;1.5\n'u';0.01;2.5\n", b"# a b\n1 2\n3 4\n", b"sep=;\na;b\n1,5;2\n3;4\n"]
    letters = np.frombuffer(b"019.,;\t\n\r\" '#=-+eE\x00\xff\xfeans", dtype=np.uint8)
    said = []
    for number in range(400):
        text = np.frombuffer(starts[number % 4], dtype=np.uint8).copy()
        places = draw.integers(len(text), size=int(draw.integers(1, 5)))
        text[places] = draw.choice(letters, size=len(places))
        table(tmp_path, text.tobytes())
        try:
            for file in looked(tmp_path).frames.values():
                assert np.asarray(file).shape == file.shape
        except SourceError as error:
            said.append(str(error))
    assert 100 < len(said) < 400
    assert all("v$_$1.csv" in line and "\n" not in line for line in said)


def test_names_without_rows_are_a_clip_without_frames(tmp_path: Path) -> None:
    table(tmp_path, "a,b\n")
    table(tmp_path, "a,b\n1,2\n", "v$_$2.csv")
    found = looked(tmp_path)
    assert set(found.frames) == {"v$_$2"}
    assert found.remarks == (f"1 files in {tmp_path.name} hold no frames",)


@pytest.mark.parametrize("gap", [0, 1])
def test_a_row_of_empty_cells_between_tabs_is_a_frame_without_values(tmp_path: Path, gap: int) -> None:
    rows = ["1\t2", "3\t4"]
    table(tmp_path, "\n".join(["a\tb", *rows[:gap], "\t", *rows[gap:], ""]))
    found = np.asarray(looked(tmp_path).frames["v$_$1"])
    assert np.isnan(found).all(axis=1).tolist() == [number == gap for number in range(3)]


def test_a_table_that_changes_before_it_is_read_is_refused(tmp_path: Path) -> None:
    table(tmp_path, ROWS)
    file = looked(tmp_path).frames["v$_$1"]
    table(tmp_path, ROWS + ROWS)
    with pytest.raises(SourceError, match="was changed"):
        np.asarray(file)


# ---- MATLAB ----


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(4, 3) + 0.5,
        np.arange(3000, dtype=np.float32).reshape(1000, 3),
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.ones((2, 3), dtype=bool),
        np.full((2, 3), 200, dtype=np.uint8),
        np.array([[1.5]]),
    ],
)
def test_a_matrix_comes_back_as_matlab_wrote_it(tmp_path: Path, array: npt.NDArray[Any], compressed: bool) -> None:
    scipy.io.savemat(tmp_path / "v$_$1.mat", {"features": array, "names": "ab"}, do_compression=compressed)
    file = looked(tmp_path).frames["v$_$1"]
    assert file.shape == array.shape
    np.testing.assert_array_equal(np.asarray(file), array)


def test_of_several_matrices_that_of_the_modality_is_read(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "v$_$1.mat", {"audio": np.ones((2, 3)), "vision": np.ones((4, 5))})
    assert looked(tmp_path).frames["v$_$1"].shape == (4, 5)
    scipy.io.savemat(tmp_path / "v$_$1.mat", {"a": np.ones((2, 3)), "b": np.ones((4, 5))})
    with pytest.raises(SourceError, match="must have an array 'vision' or 'features' or 'feature', found a, b"):
        looked(tmp_path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": {"b": np.ones((2, 2))}}, r"found a \(a structure\)"),
        ({"a": "words"}, r"found a \(text\)"),
        ({"a": np.ones((2, 2)) * 1j}, r"found a \(complex numbers\)"),
        ({"a": np.ones((2, 2, 2))}, r"found the shape \(2, 2, 2\)"),
        ({}, "found nothing"),
    ],
)
def test_a_file_without_a_matrix_of_numbers_is_refused(tmp_path: Path, value: dict[str, Any], said: str) -> None:
    scipy.io.savemat(tmp_path / "v$_$1.mat", value)
    with pytest.raises(SourceError, match=rf"v\$_\$1.mat must .*{said}"):
        looked(tmp_path)


def mat_bytes(array: npt.NDArray[Any], *, compressed: bool = False) -> bytearray:
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"x": array}, do_compression=compressed)
    return bytearray(stream.getvalue())


def test_a_shape_that_the_bytes_do_not_hold_is_refused(tmp_path: Path) -> None:
    raw = mat_bytes(np.zeros((3, 4)))
    place = raw.index(struct.pack("<ii", 3, 4))
    raw[place : place + 8] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    table(tmp_path, bytes(raw), "v$_$1.mat")
    with pytest.raises(SourceError, match=r"declares 'x' of shape \(2147483647, 2147483647\) but holds 96 bytes"):
        looked(tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    raw = mat_bytes(np.zeros((3, 4)))
    size = mat.MOST_BYTES + 2**20
    bomb = zlib.compress(struct.pack("<II", 14, size) + bytes(raw[136:]))
    table(tmp_path, bytes(raw[:128]) + struct.pack("<II", 15, len(bomb)) + bomb, "v$_$1.mat")
    with pytest.raises(SourceError, match="refused as a compression bomb"):
        looked(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_mat_file_cut_off_or_changed_anywhere_is_read_or_refused_in_one_line(
    tmp_path: Path, compressed: bool
) -> None:
    raw = mat_bytes(np.arange(12.0).reshape(3, 4), compressed=compressed)
    draw = np.random.default_rng(0)
    damaged = [raw[:length] for length in range(0, len(raw), 3)]
    for _ in range(300):
        other = bytearray(raw)
        other[int(draw.integers(128, len(raw)))] = int(draw.integers(256))
        damaged.append(other)
    said = []
    for bad in damaged:
        table(tmp_path, bytes(bad), "v$_$1.mat")
        try:
            np.asarray(looked(tmp_path).frames.get("v$_$1"))
        except SourceError as error:
            said.append(str(error))
    assert len(said) > len(damaged) // 4
    assert all("v$_$1.mat" in line and "\n" not in line for line in said)


def test_a_file_of_matlab_7_3_says_how_to_save_it(tmp_path: Path) -> None:
    table(tmp_path, b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n", "v$_$1.mat")
    with pytest.raises(SourceError, match=r"is a MATLAB 7.3 file: save it with save\(..., '-v7'\)"):
        looked(tmp_path)


# ---- arrays that lie the wrong way ----


def test_clips_of_one_shape_that_is_wider_than_long_are_doubted(tmp_path: Path) -> None:
    for name in ("a_1", "a_2"):
        np.save(tmp_path / f"{name}.npy", np.ones((5, 50)))
    assert "has 5 rows and 50 columns, read as 5 frames of 50 features" in looked(tmp_path).notes[0]


def test_columns_of_one_length_are_doubted(tmp_path: Path) -> None:
    for name in ("a_1", "a_2"):
        np.savetxt(tmp_path / f"{name}.txt", np.ones(20))
    assert "a column of 20 numbers, read as 20 frames of one feature" in looked(tmp_path).notes[0]


@pytest.mark.parametrize("shapes", [[(30, 300), (20, 300)], [(1, 300), (1, 300)], [(50, 5), (50, 5)]])
def test_what_can_be_frames_by_features_is_not_doubted(tmp_path: Path, shapes: list[tuple[int, int]]) -> None:
    for number, shape in enumerate(shapes):
        np.save(tmp_path / f"a_{number}.npy", np.ones(shape))
    assert looked(tmp_path).notes == ()
