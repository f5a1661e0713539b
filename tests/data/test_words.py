"""What is said in videos: written down by a tiny model that is made on the spot, and cut into sentences."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")

from media_support import RATE, tone, write_media
from whisper_support import build_whisper

from conki_cli.data.extraction.cache import Clip, Extraction, extract_clips
from conki_cli.data.extraction.clip import Extractors
from conki_cli.data.extraction.decode import Span
from conki_cli.data.extraction.recipe import Recipe, kind_of
from conki_cli.data.extraction.words import WORDS_VERSION, Transcriber, Word, quietest
from conki_cli.data.sources.label_rows import LabelRow
from conki_cli.data.sources.videos import with_words, words_in
from conki_cli.experiments.videos import parse_segments, said_in, sentences_of
from conki_cli.system.errors import ConkiError


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of two layers with random weights and the bytes as its vocabulary."""
    return build_whisper(tmp_path_factory.mktemp("whisper"))


def test_words_are_written_down_once_and_kept_with_their_times(whisper: Path, tmp_path: Path) -> None:
    clip = Clip("a", write_media(tmp_path / "a.wav", sound=tone(1.0)))
    extraction = Extraction(tmp_path / "cache", workers=1, transcribe=str(whisper)).for_words
    done, failures = extract_clips([clip], extraction)
    assert failures == []
    again, _ = extract_clips([clip], extraction)
    assert [words_in(one) for one in done] == [words_in(one) for one in again]
    assert words_in(done[0])
    assert all(0 <= word.start <= word.stop <= 1.0 for word in words_in(done[0]))
    note = extraction.provenance()
    assert (note["text"]["model"], note["text"]["version"]) == (str(whisper), WORDS_VERSION)
    assert {"torch", "transformers"} <= set(note["libraries"])
    assert kind_of(extraction.provenance()) != kind_of(Extraction(tmp_path, Recipe("none", "none")).provenance())


def test_a_clip_whose_words_cannot_be_had_is_listed_and_keeps_its_text(whisper: Path, tmp_path: Path) -> None:
    row = LabelRow("v", "1", "the given text")
    extraction = Extraction(tmp_path / "cache", transcribe=str(whisper), workers=1)
    rows, heard, failures = with_words([row], [Clip(row.id, tmp_path / "gone.wav")], extraction)
    assert (rows, heard) == ([row], [])
    assert [failure.id for failure in failures] == [row.id]
    assert "No such file" in failures[0].reason


def test_a_damaged_file_whose_words_are_written_down_is_said(whisper: Path, tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.ts", sound=tone(1.5))
    path.write_bytes(path.read_bytes() * 2)  # its times start again
    extractors = Extractors(Extraction(tmp_path, transcribe=str(whisper)).for_words.recipe)
    found = extractors.extract(path, Span(), tmp_path, lambda seconds: None)
    assert [line[:18] for line in found.warnings] == ["its times go back "]
    assert found.words


def test_a_folder_that_is_no_speech_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConkiError, match="must be a Whisper-type model"):
        Transcriber(str(tmp_path))


def test_windows_are_cut_where_it_is_quiet() -> None:
    sound = np.random.default_rng(1).normal(size=30 * RATE).astype(np.float32)
    sound[27 * RATE : 27 * RATE + RATE // 4] = 0.0
    assert 27 * RATE <= quietest(sound) <= 27 * RATE + RATE // 4


def test_sentences_end_with_their_marks() -> None:
    words = [Word("I", 0.0, 0.2), Word("left.", 0.3, 0.8), Word("Why?", 1.0, 1.4), Word("well", 2.0, 2.5)]
    assert sentences_of(words) == [words[:2], words[2:3], words[3:]]
    assert sentences_of([]) == []


def test_a_word_that_takes_no_time_stays_in_its_sentence() -> None:
    agree, no = [Word("I", 0.0, 0.5), Word("agree.", 0.5, 0.5)], [Word("No.", 0.5, 0.5)]
    rest = [Word("Not", 0.5, 1.0), Word("bad.", 1.0, 1.0)]
    assert sentences_of([*agree, *no, *rest]) == [agree, [*no, *rest]]
    assert sentences_of([*rest, Word("Well.", 1.0, 1.0)]) == [[*rest, Word("Well.", 1.0, 1.0)]]


def test_every_word_is_in_one_segment_of_equal_length() -> None:
    video = Clip("v", Path("v.mp4"))
    parts = [Clip(f"v{n}", video.path, Span(n, n + 1.0)) for n in range(2)]
    words = {"v": [Word("a", 0.0, 0.4), Word("b", 1.0, 1.0), Word("c", 2.0, 2.2)]}
    assert said_in([video], parts, words, 1.0) == {"v0": "a", "v1": "b c"}
    assert said_in([video], [video], words, None) == {"v": "a b c"}


def test_segments_are_seconds_or_sentences() -> None:
    assert (parse_segments("5s"), parse_segments("2.5"), parse_segments("sentences")) == (5.0, 2.5, "sentences")
    for text in ("0s", "fast", "-1", "99999s"):
        with pytest.raises(ConkiError, match="--segments must be seconds"):
            parse_segments(text)
