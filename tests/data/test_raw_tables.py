"""Tables of any kind: separators, numbers and ids as spreadsheets write them, JSON lines, Parquet and Excel."""

import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conki_cli.data.raw import tables
from conki_cli.data.raw.opening import open_raw
from conki_cli.data.sources import labels, read_corpus
from conki_cli.data.sources.joining import Clip, join
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.sources.labels import read_label_rows, read_texts
from conki_cli.data.sources.request import Options
from conki_cli.data.store.records import Corpus
from conki_cli.system.errors import SourceError

HEADER = ("video_id", "clip_id", "text", "label", "mode")
ROWS: tuple[tuple[Any, ...], ...] = (
    ("a", "01", "good, really; yes", 1.5, "train"),
    ("b", "2", "bad", -2, "valid"),
    ("c", "3", "None", 0, "test"),
)


def read(path: Path, dataset: str = "own", **options: Any) -> Corpus:
    return read_corpus(dataset, workspace=path.parent, source=path, score_range=(-3, 3), options=Options(**options))


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def refused(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        read(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def contents(corpus: Corpus) -> list[tuple[str, str, float]]:
    return [(clip.id, clip.text, clip.score) for part in corpus.splits.values() for clip in part]


EXPECTED = [("a$_$01", "good, really; yes", 1.5), ("b$_$2", "bad", -2), ("c$_$3", "None", 0)]


# ---- separators ----

SEMICOLONS = 'video_id;clip_id;text;label;mode\na;01;"good, really; yes";1,5;train\nb;2;bad;-2;valid\nc;3;None;0;test\n'


@pytest.mark.parametrize("first", ["", "sep=;\n", "SEP=;\r\n", '"sep=;"\n', "\n\nsep=;\n", "sep=;;;;\n"])
def test_a_table_of_semicolons_with_decimal_commas_is_read(tmp_path: Path, first: str) -> None:
    path = written(tmp_path / "label.csv", first + SEMICOLONS)
    assert open_raw(path).content == list(HEADER)
    assert contents(read(path)) == EXPECTED


def test_a_line_that_names_the_comma_or_the_tab_is_understood(tmp_path: Path) -> None:
    commas = "sep=,\nvideo_id,clip_id,text,label,mode\nv,1,a;b,1,train\nw,1,x,1,valid\nz,1,x,1,test\n"
    tabs = commas.replace(",", "\t")
    for text in (commas, tabs):
        assert contents(read(written(tmp_path / "label.csv", text)))[0] == ("v$_$1", "a;b", 1)


def test_a_table_of_semicolons_without_header_is_read(tmp_path: Path) -> None:
    rows = ("v;1;good, really;1,5;Positive;train;0", "w;2;bad;-2;Negative;valid;0", "x;3;so;0;Neutral;test;0")
    corpus = read(written(tmp_path / "label.csv", "\n".join(rows)))
    assert contents(corpus)[0] == ("v$_$1", "good, really", 1.5)
    assert corpus.remarks[0].startswith("no header")


def test_semicolons_in_the_texts_of_a_table_of_commas_separate_nothing(tmp_path: Path) -> None:
    rows = ("v,1,a;b;c;d;e,1,Positive,train,0", "w,2,x,0,Neutral,valid,0", "x,3,y,0,Neutral,test,0")
    for header in ("video_id,clip_id,text,label,annotation,mode,label_by\n", ""):
        assert contents(read(written(tmp_path / "label.csv", header + "\n".join(rows))))[0] == ("v$_$1", "a;b;c;d;e", 1)


def test_a_row_with_too_many_semicolons_is_told_how_to_quote_them(tmp_path: Path) -> None:
    path = written(tmp_path / "label.csv", SEMICOLONS.replace('"', ""))
    assert "row 2 has 6 cells where the first has 5: put texts with semicolons into double quotes" in refused(path)


def test_lines_below_a_separator_line_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    assert "line 4 ('b', '2'): label must be a number" in refused(
        written(tmp_path / "label.csv", "sep=;\n" + SEMICOLONS.replace("-2", "low"))
    )


def test_new_texts_to_score_may_be_a_table_of_semicolons(tmp_path: Path) -> None:
    found = read_texts(written(tmp_path / "new.csv", "sep=;\nid;text\n7;good, really\n8;bad\n"))
    assert (found.ids, found.texts) == (["7", "8"], ["good, really", "bad"])


# ---- numbers, splits and ids ----


@pytest.mark.parametrize("minus", ["-", "\u2212", "\u2013", "\ufe63", "\uff0d"])
def test_any_minus_is_a_minus(tmp_path: Path, minus: str) -> None:
    path = written(tmp_path / "label.csv", ",".join(HEADER) + f"\nv,1,x,{minus}1.5,train\n")
    assert read_label_rows(path)[0].score == -1.5


def test_a_comma_in_a_number_of_a_table_of_commas_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "label.csv", ",".join(HEADER) + '\nv,1,x,"1,5",train\n')
    assert "label must be a number, found '1,5'" in refused(path)


@pytest.mark.parametrize(
    ("mode", "split"),
    [("Training", "train"), ("VALIDATION", "valid"), ("development", "valid"), ("Dev", "valid"), ("testing", "test")],
)
def test_splits_have_many_names(tmp_path: Path, mode: str, split: str) -> None:
    path = written(tmp_path / "label.csv", ",".join(HEADER) + f"\nv,1,x,1,{mode}\n")
    assert read_label_rows(path)[0].split == split


def test_ids_that_a_spreadsheet_wrote_as_decimals_are_whole_numbers(tmp_path: Path) -> None:
    rows = [f"v,{n}.0,x,1,{mode}" for n, mode in ((11, "train"), (2, "valid"), (3, "test"))]
    corpus = read(written(tmp_path / "label.csv", "\n".join([",".join(HEADER), *rows])))
    assert [clip_id for clip_id, _, _ in contents(corpus)] == ["v$_$11", "v$_$2", "v$_$3"]
    assert corpus.remarks[0] == "clip_id: 3 ids rewritten, such as 11.0 to 11"


@pytest.mark.parametrize(("ours", "theirs"), [("11", "11.0"), ("011", "11.0"), ("11.0", "11")])
def test_decimals_join_with_whole_numbers_on_either_side(ours: str, theirs: str) -> None:
    rows = [LabelRow("v", theirs, score=1.0), LabelRow("v", "other", score=0.0)]
    found, remarks = join("x.pkl", [Clip(f"v$_${ours}", 1.0)], rows, labels=Path("label.csv"))
    assert found == rows[:1]
    assert "clip number" in remarks[0]


@pytest.mark.parametrize("name", ["v_11.0.npy", "v$_$11.0.npy", "v/11.0.npy", "v_11.npy"])
def test_features_of_clips_are_found_under_decimals_without_scores(tmp_path: Path, name: str) -> None:
    (tmp_path / "audio" / "v").mkdir(parents=True)
    np.save(tmp_path / "audio" / name, np.ones((2, 3)))
    rows = [f"v,{clip},x,1,{mode}" for clip, mode in (("11", "train"), ("b", "valid"), ("c", "test"))]
    for clip in "bc":
        np.save(tmp_path / "audio" / f"v_{clip}.npy", np.ones((2, 3)))
    path = written(tmp_path / "label.csv", "\n".join([",".join(HEADER), *rows]))
    corpus = read(path, overrides={"audio": tmp_path / "audio"})
    assert [np.asarray(part[0].audio).shape for part in corpus.splits.values()] == [(2, 3)] * 3


def test_ids_that_are_versions_stay_as_they_are(tmp_path: Path) -> None:
    rows = [f"v,{clip},x,1,{mode}" for clip, mode in (("1.0", "train"), ("1.1", "valid"), ("2.0", "test"))]
    corpus = read(written(tmp_path / "label.csv", "\n".join([",".join(HEADER), *rows])))
    assert [clip_id for clip_id, _, _ in contents(corpus)] == ["v$_$1.0", "v$_$1.1", "v$_$2.0"]


@pytest.mark.parametrize("name", ["#NAME?", "#REF!", "#N/A", "#NOM ?", "#¿NOMBRE?", "1.23E+12"])
@pytest.mark.parametrize("column", [0, 1])
def test_ids_that_excel_destroyed_are_one_line(tmp_path: Path, name: str, column: int) -> None:
    cells = ["v", "1", "x", "1", "train"]
    cells[column] = name
    message = refused(written(tmp_path / "label.csv", "\n".join([",".join(HEADER), ",".join(cells)])))
    assert f"{HEADER[column]} must be an id, found '{name}', which Excel writes instead of" in message
    assert "(1 row): use the table from before Excel" in message


# ---- JSON lines ----


def json_lines(path: Path, rows: Sequence[Sequence[Any]] = ROWS, **more: Any) -> Path:
    return written(path, "\n".join(json.dumps({**dict(zip(HEADER, row, strict=True)), **more}) for row in rows))


def test_json_lines_are_read(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "label.jsonl", start=None)
    assert open_raw(path).kind == "table"
    assert contents(read(path)) == EXPECTED


def test_json_lines_are_found_without_being_named_and_join(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "own"
    folder.mkdir(parents=True)
    json_lines(folder / "label.jsonl")
    corpus = read_corpus("own", workspace=tmp_path, source=None, score_range=(-3, 3))
    assert contents(corpus) == EXPECTED


def test_columns_of_lists_and_objects_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    corpus = read(json_lines(tmp_path / "label.jsonl", words=["good"], more={"a": 1}))
    assert corpus.remarks == ("not read, because they hold lists or objects: words, more",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"video_id": "v", "clip_id": "1"}\n[1]\n', "line 2: must be one JSON object"),
        ('{"video_id": "v", "clip_id": "1"}\n\n{"a": ' + "[" * 100_000 + "\n", "line 3: must be one JSON object"),
        ('{"video_id": "v", "clip_id": ' + "9" * 5000 + "}\n", "one JSON object|is JSON"),
        ('{"video_id": "v", "text": "x"}\n', "missing: clip_id, label, mode"),
        ("\n".join(json.dumps({"video_id": "v", f"k{n}": 1}) for n in range(1001)), "a table may have 1,000 columns"),
        ('{"train": {"id": []}}', "is JSON"),
        ('{\n  "video_id": "v"}', "is JSON"),
    ],
)
def test_what_is_no_table_of_json_lines_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    found = refused(written(tmp_path / "label.jsonl", text))
    assert any(part in found for part in message.split("|"))


def test_a_table_of_text_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    wide = written(tmp_path / "wide.csv", "video_id,clip_id" + "," * 1000 + "\n")
    assert "a table may have 1,000 columns" in refused(wide)
    long = written(tmp_path / "long.csv", "video_id,clip_id" + "," * 900 + "\n" + "a\n" * 6000)
    assert "5,000,000 cells" in refused(long)


# ---- Parquet and Excel ----


@pytest.mark.parametrize(("package", "name"), [("pyarrow", "label.parquet"), ("openpyxl", "label.xlsx")])
def test_without_the_library_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / name
    if package == "pyarrow":
        path.write_bytes(b"PAR1\x15\x04\x15PAR1")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("xl/workbook.xml", "<workbook/>")
    message = refused(path)
    assert f"needs {package}, which is not installed: pip install {package}, or save the table as CSV" in message


def workbook(path: Path, rows: Sequence[Sequence[Any]] = (HEADER, *ROWS), *more: str) -> Path:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    book = openpyxl.Workbook()
    book.active.title = "labels"
    for row in rows:
        book.active.append(list(row))
    for name in more:
        book.create_sheet(name)
    book.save(path)
    return path


def test_an_excel_file_is_read(tmp_path: Path) -> None:
    path = workbook(tmp_path / "label.xlsx")
    assert open_raw(path).content == list(HEADER)
    assert contents(read(path)) == EXPECTED


def test_numbers_and_dates_in_the_cells_of_excel_are_texts_again(tmp_path: Path) -> None:
    rows = [("v", 11, 7, "\u22121,5", "Training"), ("v", 12, "x", 1, "dev"), ("v", 13, None, 0, "test")]
    corpus = read(workbook(tmp_path / "label.xlsx", (HEADER, *rows), "notes"))
    assert contents(corpus) == [("v$_$11", "7", -1.5), ("v$_$12", "x", 1), ("v$_$13", "", 0)]
    assert corpus.remarks[0] == "read: the sheet labels; not read: notes"


def test_the_row_of_a_sheet_is_named(tmp_path: Path) -> None:
    path = workbook(tmp_path / "label.xlsx", (HEADER, ROWS[0], (), ("b", "2", "bad", "low", "valid")))
    assert "line 4 ('b', '2'): label must be a number" in refused(path)


def test_ids_that_excel_shows_as_errors_are_named(tmp_path: Path) -> None:
    path = workbook(tmp_path / "label.xlsx", (HEADER, ("#NAME?", "1", "x", 1, "train")))
    assert "video_id must be an id, found '#NAME?'" in refused(path)


@pytest.mark.parametrize(
    ("member", "data", "message"),
    [
        ("xl/sharedStrings.xml", b'<!DOCTYPE x [<!ENTITY a "b">]><sst/>', "defines XML entities"),
        ("xl/big.xml", b"0" * 2**20, "the limit is 512 MiB"),
        ("xl/worksheets/sheet1.xml", b"<not xml", "must be a whole Excel file"),
    ],
)
def test_a_hostile_workbook_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str, data: bytes, message: str
) -> None:
    monkeypatch.setattr(tables, "_MAX_BYTES", 2**20)
    sound = workbook(tmp_path / "sound.xlsx")
    with (
        zipfile.ZipFile(sound) as old,
        zipfile.ZipFile(tmp_path / "label.xlsx", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            if name != member:
                new.writestr(name, old.read(name))
        new.writestr(member, data)
    assert message in refused(tmp_path / "label.xlsx")


def parquet(path: Path, columns: dict[str, list[Any]] | None = None, **options: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet as writer

    table = columns or {name: [row[k] for row in ROWS] for k, name in enumerate(HEADER)}
    writer.write_table(pyarrow.table(table), path, **options)
    return path


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "label.parquet", row_group_size=2)
    assert open_raw(path).content == list(HEADER)
    assert contents(read(path)) == EXPECTED


def test_numbers_gaps_and_lists_of_parquet_are_read_as_those_of_other_tables(tmp_path: Path) -> None:
    columns = {
        "video_id": [b"v"] * 3,
        "clip_id": [11.0, 12.0, 13.0],
        "text": ["a", None, "c"],
        "label": [1, 0, -1],
        "mode": ["train", "val", "testing"],
        "words": [["a"], [], ["c"]],
    }
    corpus = read(parquet(tmp_path / "label.parquet", columns))
    assert contents(corpus) == [("v$_$11", "a", 1), ("v$_$12", "", 0), ("v$_$13", "c", -1)]
    assert corpus.remarks[0] == "not read, because they hold lists or objects: words"


def test_a_parquet_file_that_declares_too_much_or_is_damaged_is_refused(tmp_path: Path) -> None:
    big = parquet(tmp_path / "big.parquet", {name: ["x" * 100] * 1_500_000 for name in HEADER})
    assert big.stat().st_size < 2**20
    assert "5,000,000 cells" in refused(big)
    whole = parquet(tmp_path / "label.parquet").read_bytes()
    (tmp_path / "label.parquet").write_bytes(whole[:-40] + whole[-8:])
    assert "must be a whole Parquet file" in refused(tmp_path / "label.parquet")


def test_any_table_serves_as_labels(tmp_path: Path) -> None:
    csv_rows = read_label_rows(written(tmp_path / "label.csv", SEMICOLONS))
    assert read_label_rows(json_lines(tmp_path / "label.jsonl")) == csv_rows
    assert labels.recognise(open_raw(tmp_path / "label.jsonl")) == "labels"
