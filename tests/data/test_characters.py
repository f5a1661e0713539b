"""Characters that were lost or disguised: repaired where one reading is possible, counted, warned of where not."""

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Notes

from conki_cli.data.sources import read_corpus
from conki_cli.data.sources.characters import repair
from conki_cli.data.sources.request import Options
from conki_cli.data.store.records import SPLITS, Corpus
from conki_cli.data.store.writing import write_store
from conki_cli.experiments.prediction import read_new
from conki_cli.system.errors import SourceError

SHARED = Path(__file__).parents[3] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real data files are not on this machine")

APOSTROPHE = "the company\x92s film"
REPAIRED = "the company’s film"


def read(path: Path, dataset: str = "own", **options: Any) -> Corpus:
    bounds = (-3.0, 3.0) if dataset == "own" else None
    return read_corpus(dataset, workspace=path.parent, source=path, score_range=bounds, options=Options(**options))


def table(path: Path, *texts: str) -> Path:
    rows = [f'{split}{n},1,"{text}",{n % 3 - 1},{split}' for split in SPLITS for n, text in enumerate(texts)]
    path.write_text("\n".join(["video_id,clip_id,text,label,mode", *rows]), encoding="utf-8", newline="")
    return path


def texts_of(corpus: Corpus) -> list[str]:
    return [clip.text for clip in corpus.splits["train"]]


@pytest.mark.parametrize(
    ("text", "better"),
    [
        (APOSTROPHE, REPAIRED),
        ("\x93well\x94 \x96 so\x85", "“well” – so…"),
        ("\x80 5, c\x9cur, \x8aibenik", "€ 5, cœur, Šibenik"),
        ("don\xe2\x80\x99t", "don’t"),
        ("donâ€™t â€œgoâ€\x9d", "don’t “go”"),
        ("cafÃ© cost Â£5", "café cost £5"),
        ("\xc3\x89tat, voil\xc3\xa0", "État, voilà"),
        ("好的。".encode().decode("latin-1"), "好的。"),
        ("great \xf0\x9f\x98\x80", "great 😀"),
        ("Adrian Hill &amp; Jacob", "Adrian Hill & Jacob"),
        ("&amp;amp;#39;s &lt;3 &quot;x&quot; a&nbsp;b", '\'s <3 "x" a b'),
        ("don&#146;t, don&#x2019;t", "don’t, don’t"),
        ("don&acirc;&#128;&#153;t", "don’t"),
    ],
)
def test_what_can_be_read_in_one_way_is_repaired(text: str, better: str) -> None:
    done = repair([text, "plain"])
    assert done.texts == [better, "plain"]
    assert done.warnings() == []
    assert sum(done.counts.values()) >= 1


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "AT&T; R&D, fish &chips; a & b;",
        "São João, naïve café, Çà et là, «ÉTÉ»",
        "中文，真的吗？",
        "IRMÃ” “NÃO”",
        "“don’t” – so…",
        "smile 😀 ♪",
    ],
)
def test_sound_texts_stay_as_they_are(text: str) -> None:
    done = repair([text])
    assert (done.texts, done.counts) == ([text], {})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("it\ufffds", "lost"),
        ("x \x81 y", "controls"),
        ("caf\x8e", "controls"),  # é of Mac Roman: no word has a capital Ž inside
        ("caf\xe9\x94\x85", "controls"),  # a quotation mark and dots, or a letter of Chinese
        ("bell \x07", "controls"),
        ("&#0; &#xD800;", ""),
        ("#NAME?", "excel"),
    ],
)
def test_what_can_be_read_in_many_ways_stays_and_is_counted(text: str, name: str) -> None:
    done = repair([text])
    assert done.texts == [text]
    assert done.counts == ({name: 1} if name else {})
    assert len(done.warnings()) == len(done.counts)


def test_one_long_text_that_is_named_often_is_repaired_once() -> None:
    long = "\x92" * 1000
    done = repair([long] * 1000)
    assert len({id(text) for text in done.texts}) == 1
    assert done.counts == {"cp1252": 1000}


def test_a_label_file_is_repaired_and_the_report_counts(tmp_path: Path) -> None:
    corpus = read(table(tmp_path / "label.csv", APOSTROPHE, "a &amp; b", "wait\x85", "it\ufffds", "x\x81"))
    assert texts_of(corpus) == [REPAIRED, "a & b", "wait…", "it\ufffds", "x\x81"]
    assert corpus.remarks == (
        "repaired 3 texts with entities of HTML",
        "repaired 6 texts with characters of Windows-1252 that were read as Latin-1",
    )
    assert [note.partition(":")[0] for note in corpus.notes] == [
        "3 texts with lost characters (U+FFFD)",
        "3 texts with control characters that tokenizers drop",
    ]
    write_store(tmp_path / "own.h5", corpus)
    with h5py.File(tmp_path / "own.h5") as file:
        counts = json.loads(file.attrs["report"])["texts"]
    assert counts == {"cp1252": 6, "entities": 3, "lost": 3, "controls": 3}


def test_strict_refuses_texts_that_lost_characters(tmp_path: Path) -> None:
    corpus = read(table(tmp_path / "label.csv", "it\ufffds"))
    with pytest.raises(SourceError, match="U"):
        write_store(tmp_path / "own.h5", corpus, strict=True)


def test_a_pickle_is_repaired_whether_source_or_given_for_the_texts(tmp_path: Path) -> None:
    value = {
        split: {"id": [f"{split}0$_$1"], "raw_text": [APOSTROPHE + "\x85"], "regression_labels": np.array([-1.0])}
        for split in SPLITS
    }
    path = tmp_path / "own.pkl"
    path.write_bytes(pickle.dumps(value))
    assert texts_of(read(path)) == [REPAIRED + "…"]
    other = read(table(tmp_path / "label.csv", "other"), overrides={"text": path})
    assert texts_of(other) == [REPAIRED + "…"]


def test_texts_of_a_label_file_beside_an_archive_are_repaired(tmp_path: Path) -> None:
    ids = [f"{split}0$_$1" for split in SPLITS]
    np.savez(tmp_path / "x.npz", id=ids, audio=np.ones((3, 2)))
    corpus = read(tmp_path / "x.npz", labels=table(tmp_path / "label.csv", APOSTROPHE))
    assert texts_of(corpus) == [REPAIRED]


def test_new_texts_to_score_are_repaired_and_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(f"text\n{APOSTROPHE}\nit\ufffds\n", encoding="utf-8")
    notes = Notes()
    with read_new(None, tmp_path / "new.csv", None, "test", notes) as found:
        assert found.texts == [REPAIRED, "it\ufffds"]
    assert notes.lines[0] == "repaired 1 text with characters of Windows-1252 that were read as Latin-1"
    assert notes.lines[1].startswith("warning: 1 text with lost characters")
    with read_new([APOSTROPHE], None, None, "test", notes) as found:
        assert found.texts == [REPAIRED]


@needs_shared
def test_published_texts_have_no_warning_and_no_entity() -> None:
    for name in ("mosi", "mosei", "sims"):
        corpus = read(SHARED / "data" / name / "label.csv", name)
        assert corpus.notes == ()
        assert ("as published: 28 texts with" in " ".join(corpus.remarks)) is (name == "mosei")
        assert not any("&amp;" in clip.text for part in corpus.splits.values() for clip in part)


def test_a_text_that_was_damaged_twice_is_repaired_whole() -> None:
    twice = "don’t".encode().decode("cp1252").encode().decode("cp1252")
    done = repair([twice, "a &amp;amp;amp;amp; b"])
    assert done.texts == ["don’t", "a & b"]
