"""label.csv: every copy of it that people have is read, and what makes no sense is named by its row."""

from pathlib import Path
from typing import Any

import pytest

from conki_cli.data.raw.file import Raw
from conki_cli.data.sources import labels
from conki_cli.data.sources.labels import CHINESE_TEXT_NOTE, read_label_rows, read_texts
from conki_cli.data.sources.request import Request
from conki_cli.data.store.records import Corpus
from conki_cli.datasets import sizes_of
from conki_cli.system.errors import SourceError

SHARED = Path(__file__).parents[3] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real data files are not on this machine")

OLD = "video_id,clip_id,text,label,annotation,mode,label_by"
NEW = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode"
ROWS = ("-v,0001,good,1.5,Positive,train,0", "00,2,bad,-2,Negative,valid,0", "w_x,3,None,0,Neutral,test,0")
NEW_ROWS = (
    "v,0001,a,1,0.1,0.2,0.3,Positive,train",
    "v,0002,b,0,0.4,0.5,0.6,Neutral,valid",
    "v,0003,c,-1,0.7,0.8,0.9,Negative,test",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "label.csv"


def written(path: Path, *rows: str, header: str = OLD, encoding: str = "utf-8", newline: str = "\n") -> Path:
    path.write_bytes((newline.join([*([header] if header else []), *rows]) + newline).encode(encoding))
    return path


def read(path: Path, dataset: str = "mosi", **request: Any) -> Corpus:
    head = path.read_bytes()[:4096].decode("utf-8", "replace").splitlines()
    cells = head[0].split("\t" if "\t" in head[0] else ",") if head else []
    return labels.read(Raw(path, "table", cells), Request(dataset, (-3, 3), **request), "labels")


def raw(path: Path) -> Raw:
    return Raw(path, "table", path.read_text().splitlines()[0].split(","))


# ---- layouts ----


def test_the_old_layout_is_read(path: Path) -> None:
    corpus = read(written(path, *ROWS))
    assert [corpus.splits[s][0].id for s in ("train", "valid", "test")] == ["-v$_$0001", "00$_$2", "w_x$_$3"]
    assert [corpus.splits[s][0].score for s in ("train", "valid", "test")] == [1.5, -2, 0]
    assert (corpus.source, corpus.source_format, len(corpus.source_sha256)) == ("label.csv", "label.csv", 64)
    assert corpus.source_bytes == path.stat().st_size


def test_the_word_none_is_a_word(path: Path) -> None:
    rows = [f"v,{word},{word},0,x,{mode},0" for word, mode in (("None", "train"), ("NA", "valid"), ("nan", "test"))]
    corpus = read(written(path, *rows))
    assert [samples[0].text for samples in corpus.splits.values()] == ["None", "NA", "nan"]
    assert corpus.splits["test"][0].id == "v$_$nan"


def test_the_new_layout_has_unimodal_scores(path: Path) -> None:
    corpus = read(written(path, *NEW_ROWS, header=NEW))
    assert corpus.splits["valid"][0].unimodal == {"text": 0.4, "audio": 0.5, "vision": 0.6}


def test_unimodal_scores_with_gaps_are_left_out_with_a_note(path: Path) -> None:
    rows = ["v,1,x,1,0.5,train", "v,2,x,1,,valid", "v,3,x,1,0.5,test"]
    corpus = read(written(path, *rows, header="video_id,clip_id,text,label,label_T,mode"))
    assert corpus.splits["train"][0].unimodal == {}
    assert corpus.notes == ("label_T left out: some rows are empty there",)


@pytest.mark.parametrize("column", ["start", "text_en", "", "anything else"])
def test_further_columns_may_stand_anywhere(path: Path, column: str) -> None:
    rows = [f"x,{row}" for row in ROWS]
    assert [len(part) for part in read(written(path, *rows, header=f"{column},{OLD}")).splits.values()] == [1, 1, 1]


@pytest.mark.parametrize(("rows", "scores"), [(ROWS, {}), (NEW_ROWS, {"text": 0.1, "audio": 0.2, "vision": 0.3})])
def test_a_copy_without_header_is_read_by_the_order_of_its_columns(
    path: Path, rows: tuple[str, ...], scores: dict[str, float]
) -> None:
    corpus = read(written(path, *rows, header=""))
    assert [len(part) for part in corpus.splits.values()] == [1, 1, 1]
    assert corpus.splits["train"][0].unimodal == scores
    assert corpus.remarks[0].startswith("no header: the columns were read as video_id, clip_id, text, label, ")


EIGHT = ("a,1,x,1,Neutral,train,0.5,2", "b,1,y,1,Neutral,valid,0,1", "c,1,z,1,Neutral,test,3,4")
TEN = [f"{row},english {n}" for n, row in enumerate(NEW_ROWS)]


def test_of_eight_columns_without_header_the_last_two_are_times(path: Path) -> None:
    row = read_label_rows(written(path, *EIGHT, header=""))[0]
    assert (row.id, row.split, row.start, row.stop) == ("a$_$1", "train", 0.5, 2)


@pytest.mark.parametrize("odd", ["x,2", "2,1", "-1,2"])
def test_of_eight_columns_without_header_what_is_no_span_is_not_read(path: Path, odd: str) -> None:
    row = read_label_rows(written(path, EIGHT[0].replace("0.5,2", odd), *EIGHT[1:], header=""))[1]
    assert (row.id, row.split, row.start, row.stop) == ("b$_$1", "valid", None, None)


def test_of_ten_columns_without_header_the_last_is_the_english_text(path: Path) -> None:
    corpus = read(written(path, *TEN, header=""), "sims")
    assert corpus.splits["valid"][0].text == "english 1"
    assert corpus.splits["valid"][0].unimodal == {"text": 0.4, "audio": 0.5, "vision": 0.6}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([f"{row},train" for row in ROWS], "2 such columns"),
        ([f"{row},x" for row in EIGHT], "Neutral, train, 0.5 instead of three scores"),
        (["a,1,x,1,Neutral,train,0", "b,1,x,1,Neutral,other,0"], "0 such columns"),
        ([f"{row},a,b" for row in NEW_ROWS], "one of 11 columns"),
    ],
)
def test_a_table_without_header_that_can_be_read_in_two_ways_is_refused(
    path: Path, rows: list[str], found: str
) -> None:
    with pytest.raises(SourceError, match=f"has no header: .*; found {found}.*: add a first line such as video_id,"):
        read(written(path, *rows, header=""))


def test_lines_are_counted_as_an_editor_does(path: Path) -> None:
    rows = ['"v",1,"two\nlines",1,x,train,0', "", "v,2,x,1,x,train,0", "v,3,x,high,x,train,0"]
    with pytest.raises(SourceError, match=r"line 7 \('v', '3'\): label must be a number"):
        read(written(path, *rows, header=f"\n{OLD}"))


def test_blanks_at_the_ends_of_texts_are_removed_and_counted(path: Path) -> None:
    corpus = read(written(path, *ROWS, "v,8, a text,1,x,train,0", "v , 9 ,text,1,x, train ,0"))
    assert [sample.text for sample in corpus.splits["train"][1:]] == ["a text", "text"]
    assert corpus.remarks == ("removed blanks at the ends of 1 text",)


def test_without_header_the_splits_are_found_by_their_values(path: Path) -> None:
    swapped = [",".join([*row.split(",")[:7], row.split(",")[8], row.split(",")[7]]) for row in NEW_ROWS]
    assert read(written(path, *swapped, header="")).splits["test"][0].id == "v$_$0003"


def test_a_table_whose_header_is_data_of_no_layout_is_not_guessed(path: Path) -> None:
    written(path, "v,1,x,1,train", header="")
    assert labels.recognise(raw(path)) is None
    with pytest.raises(
        SourceError,
        match=r"must have the columns video_id, clip_id, text, label, mode, sep.*; its first line is v, 1, x, 1, train",
    ):
        read(path)


@pytest.mark.parametrize("header", [OLD, NEW, "text,clip_id,video_id,mode,label", "video_id,clip_id,text,label", ""])
def test_a_table_with_the_columns_is_recognised(path: Path, header: str) -> None:
    assert labels.recognise(raw(written(path, *ROWS, header=header))) == "labels"


@pytest.mark.parametrize("content", [Raw(Path("x"), "pickle", {}), Raw(Path("x"), "table", ["a", "b"])])
def test_anything_else_is_not_recognised(content: Raw) -> None:
    assert labels.recognise(content) is None


# ---- bytes ----


def test_byte_order_mark_crlf_and_quoted_newlines_are_read(path: Path) -> None:
    rows = ['v,1,"two\nlines ""quoted""\n",1,train', "v,2,a ,0,valid", "v,3,b,0,test"]
    written(path, *rows, header="video_id,clip_id,text,label,mode", encoding="utf-8-sig", newline="\r\n")
    splits = read(path).splits
    assert splits["train"][0].text == 'two\nlines "quoted"'
    assert splits["valid"][0].text == "a"


def test_utf_16_with_a_byte_order_mark_is_read(path: Path) -> None:
    assert read(written(path, *ROWS, "v,9,好,1,x,train,0", encoding="utf-16")).splits["train"][1].text == "好"


def tabbed(path: Path, *texts: str) -> list[str]:
    modes = ("train", "train", "train", "valid", "test")
    rows = [f"v\t{n}\t{text}\t1\t{modes[n]}" for n, text in enumerate((*texts, "x", "x"), start=3 - len(texts))]
    corpus = read(written(path, *rows, header="video_id\tclip_id\ttext\tlabel\tmode"))
    return [sample.text for sample in corpus.splits["train"]]


def test_commas_in_a_table_of_tabs_are_text(path: Path) -> None:
    assert tabbed(path, "well, yes") == ["well, yes"]


def test_quotes_in_a_table_of_tabs_that_quotes_nothing_are_text(path: Path) -> None:
    assert tabbed(path, 'he said "no', '"no" he said', '"quoted"') == ['he said "no', '"no" he said', '"quoted"']


def test_a_table_of_tabs_that_quotes_is_unquoted(path: Path) -> None:
    assert tabbed(path, '"he said ""no"""', "plain") == ['he said "no"', "plain"]
    assert tabbed(path, '"two\nlines"', "plain") == ["two\nlines", "plain"]


# ---- texts ----


def test_empty_texts_are_kept(path: Path) -> None:
    corpus = read(written(path, *ROWS, "v,9,,1,x,train,0"))
    assert corpus.splits["train"][1].text == ""


def chinese(path: Path) -> Path:
    rows = [f"v,{n},好,1,{mode},good" for n, mode in enumerate(("train", "valid", "test"))]
    return written(path, *rows, header="video_id,clip_id,text,label,mode,text_en")


def test_sims_prefers_the_english_text(path: Path) -> None:
    corpus = read(chinese(path), "sims")
    assert corpus.splits["train"][0].text == "good"
    assert (corpus.notes, corpus.remarks) == ((), ("the texts come from the column text_en",))
    assert read(path, "own").splits["train"][0].text == "好"


def test_sims_without_english_text_warns_that_the_encoder_must_be_chinese(path: Path) -> None:
    assert read(written(path, *NEW_ROWS, header=NEW), "sims").notes == (CHINESE_TEXT_NOTE,)


def test_the_text_column_can_be_chosen(path: Path) -> None:
    corpus = read(chinese(path), "sims", text_column="text")
    assert corpus.splits["train"][0].text == "好"
    assert corpus.notes == ()


def test_a_text_column_that_is_not_there_is_refused_with_those_that_are(path: Path) -> None:
    with pytest.raises(SourceError, match=r"no column 'words' for --text-column: its columns are video_id, clip_id"):
        read(chinese(path), text_column="words")


def test_new_utterances_need_texts_only(path: Path) -> None:
    found = read_texts(written(path, "one", "two", header="text"))
    assert (found.ids, found.texts, found.scores) == (["1", "2"], ["one", "two"], None)
    assert read_texts(written(path, *ROWS)).ids[0] == "-v$_$0001"


# ---- rows for joining ----


def test_rows_for_joining_say_what_the_table_says(path: Path) -> None:
    header = "video_id,clip_id,text,label,label_A,mode,start,stop"
    row, bare = read_label_rows(written(path, "v,01,hi,1,0.5,dev,0.25,2", "v,02,,,,,,", header=header))
    assert (row.id, row.text, row.score, row.split, row.start, row.stop) == ("v$_$01", "hi", 1, "valid", 0.25, 2)
    assert row.unimodal == {"audio": 0.5}
    assert (bare.text, bare.score, bare.split, bare.start, bare.unimodal) == ("", None, None, None, {})


def test_columns_that_are_not_needed_may_be_absent(path: Path) -> None:
    (row,) = read_label_rows(written(path, "v,1", header="video_id,clip_id"))
    assert (row.text, row.score, row.split) == (None, None, None)


def test_a_column_that_is_needed_must_be_there_and_filled(path: Path) -> None:
    needed = ("video_id", "clip_id", "start")
    with pytest.raises(SourceError, match="missing: start; its first line is video_id"):
        read_label_rows(written(path, *ROWS), needed=needed)
    with pytest.raises(SourceError, match=r"line 2 \('v', '1'\): start must be a number, found ''"):
        read_label_rows(written(path, "v,1,", header=",".join(needed)), needed=needed)


def test_rows_of_sims_for_joining_have_english_texts(path: Path) -> None:
    assert read_label_rows(chinese(path), takes_english=True)[0].text == "good"
    assert read_label_rows(path, takes_english=True, text_column="text")[0].text == "好"


def test_times_that_are_no_numbers_matter_only_where_times_are_needed(path: Path) -> None:
    written(path, "v,1,00:01", header="video_id,clip_id,start")
    assert read_label_rows(path)[0].start is None
    with pytest.raises(SourceError, match="start must be a number, found '00:01'"):
        read_label_rows(path, needed=("start",))


# ---- refusals ----


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("v,9,x,high,x,train,0", "line 5 ('v', '9'): label must be a number, found 'high'"),
        ("v,9,x,nan,x,train,0", "line 5 ('v', '9'): label must be a number, found 'nan'"),
        ("v,9,x,-inf,x,train,0", "line 5 ('v', '9'): label must be a number, found '-inf'"),
        ("v,9,x,1,x,train_mix,0", "mode must be train, valid or test, found 'train_mix'"),
        ("v,9,x,1", "mode must be train, valid or test, found ''"),
        (",9,x,1,x,train,0", "video_id and clip_id must not be empty"),
        ("v,9,x,1,x,train,0,more", "must be CSV but row 5 has 8 cells where the first has 7"),
        ('v,9,"x,1,x,train,0', "must be CSV but a double quote that is opened in row 5 is never closed"),
        ("v,9,x\0,1,x,train,0", "NUL characters"),
    ],
)
def test_a_senseless_row_is_named(path: Path, row: str, message: str) -> None:
    with pytest.raises(SourceError) as error:
        read(written(path, *ROWS, row))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"\xff\xfe", "is empty"),
        (b"video_id,clip_id,text,label,mode\n", "has a header but no rows"),
        (
            b"video_id,clip_id,text,label\nv,1,x,1\n",
            "has no column 'mode', which must be train, valid or test in every row",
        ),
        (
            b"video_id,clip_id,text,mode,mode\nv,1,x,train,test\n",
            "missing: label; repeated: mode; its first line is video_id, clip_id, text, mode, mode",
        ),
        (b"video_id|clip_id|text|label|mode\nv|1|x|1|train\n", "separated by commas, tabs or semicolons"),
        ("video_id,clip_id,text,label,mode\nv,1,好,1,train\n".encode("gbk"), "must be UTF-8"),
        ("video_id,clip_id,text,label,mode\n".encode("utf-16"), "has a header but no rows"),
        ("video_id,clip_id\n".encode("utf-16-le"), "holds NUL characters"),
        (b"\xff\xfev", "must be UTF-8"),
    ],
)
def test_a_file_that_is_no_label_file_is_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_what_is_no_table_is_not_read_as_one(path: Path) -> None:
    with pytest.raises(SourceError, match="must be a table to be read as labels, but is not text: leave out --format"):
        labels.read(Raw(path, "pickle", {}), Request("mosi", (-3, 3)), "labels")


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="must be a file"):
        read_label_rows(tmp_path)
    with pytest.raises(SourceError, match=r"cannot read .*none\.csv: No such file"):
        read_label_rows(tmp_path / "none.csv")


# ---- real files ----


@needs_shared
@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_the_real_label_files_have_the_published_sizes(dataset: str) -> None:
    corpus = read(SHARED / "data" / dataset / "label.csv", dataset)
    assert tuple(len(corpus.splits[s]) for s in ("train", "valid", "test")) == sizes_of(dataset)
    assert corpus.notes == ()


@needs_shared
def test_the_real_mosei_labels_keep_numeric_ids_and_double_quotes() -> None:
    rows = read_label_rows(SHARED / "data" / "mosei" / "label.csv")
    assert sum(row.video.isdigit() for row in rows) == 6920
    assert sum('"' in (row.text or "") for row in rows) == 608
    assert all(row.start is not None and row.stop is not None for row in rows)
