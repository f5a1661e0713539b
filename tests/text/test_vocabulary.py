"""How much of the texts an encoder's vocabulary knows: counted, said, refused; tokenizers that do not fit; no text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeConfig, Notes, Trained, resealed
from run_support import finetune
from transformers import AutoTokenizer

from conki_cli import text
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Sample, Utterances
from conki_cli.data.store.verifying import KnownStores
from conki_cli.data.store.writing import write_store
from conki_cli.experiments.planning import make_plan
from conki_cli.experiments.prediction import predict_new
from conki_cli.runs import Runs, digest_of
from conki_cli.system.errors import EncoderError
from conki_cli.system.findings import Examination
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.text.verifying import verify_encoder
from conki_cli.text.vocabulary import TextReport, check_vocabulary, count_tokens, vocabulary_doubt
from conki_cli.training.steps import Shelf
from conki_cli.training.verifying import verify_run

QUICK = ("optimizer.num_epochs=1", "pretraining.num_epochs=1")
Spoken = Callable[[str], Workspace]
"""Makes a workspace whose store `spoken` has the same text in every clip."""


@pytest.fixture
def copied(encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoder, tmp_path / "bert"))


@pytest.fixture
def spoken(tmp_path: Path) -> Spoken:
    def make(words: str) -> Workspace:
        clips = [Sample(f"v$_${number}", words, float(number % 3 - 1)) for number in range(14)]
        splits = {"train": clips[:8], "valid": clips[8:11], "test": clips[11:]}
        corpus = Corpus("spoken", (-3.0, 3.0), splits, "spoken.csv", "drawn", "0" * 64)
        write_store(tmp_path / "own" / "features" / "spoken.h5", corpus)
        return Workspace(tmp_path / "own")

    return make


def with_vocabulary(folder: Path, *, added: tuple[str, ...] = (), lowercases: bool = True) -> None:
    """Add words to a tokenizer, or let it keep capitals."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(str(folder))
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["normalizer"]["lowercase"] = lowercases
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": lowercases}))


def counts_of(folder: Path, *texts: str, max_length: int = 64) -> text.TokenCounts:
    tokenizer = text.load_tokenizer(str(folder))
    return count_tokens(tokenizer, *text.tokenize(tokenizer, texts, max_length=max_length))


# --- counting ----------------------------------------------------------------------------------------------------


def test_unknown_words_are_counted_among_the_tokens_without_special_ones(encoder: Path) -> None:
    counts = counts_of(encoder, "the film was zebra", "", "zebra")
    assert (counts.num_texts, counts.num_tokens, counts.num_unknown, counts.num_truncated) == (3, 5, 2, 0)
    assert counts.unknown_share == pytest.approx(0.4)


def test_truncated_texts_are_counted_and_their_ends_are_not(encoder: Path) -> None:
    counts = counts_of(encoder, "the film was good", "the film was zebra", "bad", max_length=5)
    assert (counts.num_truncated, counts.num_tokens, counts.num_unknown) == (2, 7, 0)


def test_no_text_at_all_has_no_unknown_share(encoder: Path) -> None:
    assert counts_of(encoder).unknown_share == counts_of(encoder, "", "").unknown_share == 0.0


def test_a_tokenizer_that_names_its_start_token_as_unknown_knows_every_word(encoder: Path) -> None:
    tokenizer = text.load_tokenizer(str(encoder))
    tokenizer.unk_token = tokenizer.cls_token
    assert count_tokens(tokenizer, *text.tokenize(tokenizer, ["the film"], max_length=9)).num_unknown == 0


def test_the_mark_of_a_words_beginning_does_not_make_a_word_known() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("▁", -1.0), ("▁film", -2.0)]
    own = Tokenizer(models.Unigram(pieces, unk_id=0))
    own.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>")
    counts = count_tokens(tokenizer, *text.tokenize(tokenizer, ["жизнь film жизнь"], max_length=99))
    assert (counts.num_tokens, counts.num_unknown) == (3, 2)


# --- a tokenizer that is another encoder's -----------------------------------------------------------------------


def test_a_tokenizer_with_more_entries_than_the_embedding_is_refused_before_anything_is_made(
    copied: Path, spoken: Spoken, tiny_config: MakeConfig
) -> None:
    with_vocabulary(copied, added=("movie", "umm"))
    space = spoken("the film was good")
    config = tiny_config("", "data.dataset=spoken", "data.external=none", f"model.text_encoder={copied}")
    with pytest.raises(EncoderError, match="found 21 entries and 19 rows") as caught:
        finetune(config, space, Observer())
    assert "\n" not in str(caught.value)
    assert [path.name for path in space.root.iterdir()] == ["features"]


@pytest.mark.parametrize(
    ("count", "num_rows", "is_doubtful"),
    [(30522, 30522, False), (30522, 30528, False), (250101, 251000, False), (28996, 30522, True), (5, 67, True)],
)
def test_many_rows_without_an_entry_are_doubtful_and_a_few_are_not(
    count: int, num_rows: int, is_doubtful: bool
) -> None:
    assert bool(vocabulary_doubt(count, num_rows)) is is_doubtful


def test_a_tokenizer_with_as_many_entries_as_rows_fits(encoder: Path) -> None:
    check_vocabulary(text.load_tokenizer(str(encoder)), text.encoder_config(str(encoder)), "tiny")


def test_the_doctor_sees_that_a_runs_tokenizer_has_more_entries_than_its_encoder(copied: Path) -> None:
    assert list(verify_encoder(copied, weights=True, advice="")) == []
    with_vocabulary(copied, added=("movie",))
    assert "found 20 entries and 19 rows" in next(verify_encoder(copied, weights=True, advice="")).what


# --- texts that are unknown --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["conki", "tfn", "mag-bert", "self-mm"])
def test_texts_that_are_all_unknown_are_refused_and_leave_no_run(
    model: str, workspace: Workspace, tiny_config: MakeConfig
) -> None:
    with resealed(workspace.store("tiny")) as file:
        for split in ("train", "valid", "test"):
            file[split]["texts"][:] = "жизнь прекрасна"
    config = tiny_config("", "data.external=none", f"model.name={model}", *QUICK)
    with pytest.raises(EncoderError, match=r"100\.0 % of the tokens of tiny/train are unknown .*max_unknown=1"):
        finetune(config, workspace, Observer())
    assert not any(path.is_dir() for path in workspace.runs.glob("*"))


def test_external_texts_that_are_unknown_are_refused_before_stage_1(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    with resealed(workspace.store("tiny-external")) as file:
        file["train"]["texts"][:] = "жизнь прекрасна"
    with pytest.raises(EncoderError, match="of the tokens of tiny-external/train are unknown"):
        finetune(tiny_config("", *QUICK), workspace, Observer())
    assert not any(path.is_dir() for path in workspace.runs.glob("*"))


def test_capitals_that_a_tokenizer_keeps_are_recognised_as_the_cause(
    copied: Path, spoken: Spoken, tiny_config: MakeConfig
) -> None:
    with_vocabulary(copied, lowercases=False)
    config = tiny_config("", "data.dataset=spoken", "data.external=none", f"model.text_encoder={copied}")
    with pytest.raises(EncoderError, match="in lowercase most are known"):
        finetune(config, spoken("THE FILM WAS GOOD"), Observer())


def test_a_share_from_20_percent_on_is_a_warning_that_the_run_keeps_and_the_doctor_repeats(
    spoken: Spoken, tiny_config: MakeConfig
) -> None:
    space, notes = spoken("the film was zebra"), Notes()
    config = tiny_config("", "data.dataset=spoken", "data.external=none", *QUICK)
    run = finetune(config, space, notes)
    assert any(line.startswith("warning: unknown to the text encoder's tokenizer are 25.0 %") for line in notes.lines)
    kept = json.loads((run.seed_folder(1) / "result.json").read_text())["texts"]
    assert kept["train"] == {"texts": 8, "truncated": 0, "tokens": 32, "unknown": 8, "unknown_share": 0.25}
    said = [
        finding.what for finding in verify_run(run, Examination(space), KnownStores()) if finding.severity == "remark"
    ]
    assert any("25.0 % in train, 25.0 % in valid, 25.0 % in test" in what for what in said)


def test_below_20_percent_the_share_is_said_without_a_warning(spoken: Spoken, tiny_config: MakeConfig) -> None:
    notes = Notes()
    config = tiny_config("", "data.dataset=spoken", "data.external=none", *QUICK)
    finetune(config, spoken("the film was very very zebra"), notes)
    assert any(line.startswith("texts of spoken: unknown tokens are 16.7 % of 48 in train") for line in notes.lines)
    assert not any("warning" in line and "token" in line for line in notes.lines)


@pytest.mark.parametrize(("limit", "is_refused"), [("0.2", True), ("0.25", True), ("0.3", False), ("1", False)])
def test_the_share_that_is_refused_is_a_setting(
    limit: str, is_refused: bool, spoken: Spoken, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    space = spoken("the film was zebra")
    config = tiny_config("", "data.dataset=spoken", "data.external=none", f"data.max_unknown={limit}", *QUICK)
    if is_refused:
        with pytest.raises(EncoderError, match=r"25\.0 % of the tokens"):
            finetune(config, space, Observer())
    else:
        assert finetune(config, space, Observer()).is_finished


def test_1_allows_texts_that_are_all_unknown() -> None:
    counts = text.TokenCounts(num_texts=1, num_truncated=0, num_tokens=3, num_unknown=3)
    TextReport("clips", None, {"train": counts}, lambda split: []).check(1.0)


def test_what_decides_of_a_refusal_alone_does_not_change_the_name_of_a_run(tiny_config: MakeConfig) -> None:
    assert digest_of(tiny_config("", "data.max_unknown=1")) == digest_of(tiny_config())


def test_new_texts_that_are_unknown_or_too_long_are_scored_with_a_warning(trained: Trained) -> None:
    notes, lines = Notes(), ["жизнь прекрасна", "the film " * 90]
    with FeatureStore(trained.workspace.store("tiny")) as store:
        frames = store.split("test").frames
        predict_new(trained.run, Utterances(["1"], lines[:1], None, frames, {}), "cpu", notes)
        predict_new(trained.run, Utterances(["2"], lines[1:], None, frames, {}), "cpu", notes)
    unknown, truncated = notes.lines  # once each, though there are two seeds
    assert unknown.startswith("warning: unknown to the text encoder's tokenizer are 100.0 % of the tokens of these")
    assert truncated == "1 of 1 texts are too long for the encoder: truncated"


# --- texts that are too long -------------------------------------------------------------------------------------


def test_truncated_texts_are_counted_before_training_and_in_the_seeds_result(
    spoken: Spoken, tiny_config: MakeConfig
) -> None:
    notes = Notes()
    config = tiny_config("", "data.dataset=spoken", "data.external=none", *QUICK)
    run = finetune(config, spoken("the film " * 40), notes)
    shares = "8 of 8 in train, 3 of 3 in valid, 3 of 3 in test"
    assert f"texts of spoken with more than 64 tokens, which are truncated: {shares}" in notes.lines
    kept = json.loads((run.seed_folder(1) / "result.json").read_text())["texts"]
    assert {split: counts["truncated"] for split, counts in kept.items()} == {"train": 8, "valid": 3, "test": 3}


# --- no text -----------------------------------------------------------------------------------------------------


def test_a_run_without_text_needs_no_encoder_whose_width_is_known(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config = tiny_config("T", "data.external=none", "model.text_encoder=bert-base-uncased")
    with Shelf() as shelf:
        assert make_plan([config], Runs(workspace), Observer(), shelf=shelf).steps
    config = tiny_config("T", "model.text_encoder=google-bert/bert-base-uncased")
    with Shelf() as shelf:
        assert make_plan([config], Runs(workspace), Observer(), shelf=shelf).steps


def test_a_run_without_text_counts_no_tokens_and_keeps_no_tokenizer(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    run = finetune(tiny_config("T", "data.external=none", *QUICK), workspace, Observer())
    assert run.seed_result(1).texts == {}
    assert not (run.path / "encoder").exists()


@pytest.mark.parametrize(
    ("name", "sizes"), [("bert-base-uncased", (768, 12)), ("google-bert/bert-large-cased", (1024, 24))]
)
def test_the_sizes_of_well_known_encoders_need_no_file(name: str, sizes: tuple[int, int]) -> None:
    assert text.encoder_sizes(name) == sizes


def test_a_folder_that_is_called_like_a_well_known_encoder_has_its_own_sizes(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(encoder, tmp_path / "bert-base-uncased")
    monkeypatch.chdir(tmp_path)
    assert text.encoder_sizes("bert-base-uncased") == (16, 4)


def test_without_text_an_encoder_that_is_not_there_is_a_line_that_says_what_is_needed(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    config = tiny_config("T", "data.external=none", "model.text_encoder=./nowhere", *QUICK)
    with pytest.raises(EncoderError, match=r"which is unknown .*bert-base-uncased, or a folder with"):
        finetune(config, workspace, Observer())
