"""The context of a clip: which neighbours are read, in which order, how they become tokens and token types."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeConfig, Notes, OpenJob, Trained
from run_support import finetune

from conki_cli.config.sections import MODELS
from conki_cli.data.store.content import content_of
from conki_cli.data.store.order import order_of, videos_in_order
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Sample, Utterances
from conki_cli.data.store.writing import write_store
from conki_cli.experiments.opening import open_store
from conki_cli.model.batches import pad_tokens
from conki_cli.model.packing import Packing
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.runs import digest_of
from conki_cli.system.errors import StoreError
from conki_cli.system.workspace import Workspace
from conki_cli.text import load_backbone, load_tokenizer
from conki_cli.text.context import Context, tokenize_with_context
from conki_cli.training.inference import predict_utterances, read_texts


def clips_of(*named: tuple[str, str], order: Sequence[int] | None = None) -> Utterances:
    """Return clips as (id, text)."""
    ids, texts = zip(*named, strict=True)
    places = None if order is None else np.array(order)
    return Utterances(list(ids), list(texts), None, {}, {}, Path("some.h5"), "train", places)


TALK = clips_of(
    ("a$_$10", "the film was great"),
    ("b$_$1", "poor plot"),
    ("a$_$9", "dull"),
    ("a$_$2", "very good"),
    ("a$_$11", "bad"),
)


def read(folder: Path, clips: Utterances, context: Context, max_length: int = 64) -> list[str]:
    """Return the tokens that the encoder reads of every clip."""
    tokenizer = load_tokenizer(str(folder))
    ids, _ = tokenize_with_context(tokenizer, clips, context, max_length=max_length)
    return [" ".join(tokenizer.convert_ids_to_tokens(row.tolist())) for row in ids]


# --- the order of a video ----------------------------------------------------------------------------------------


def test_the_numbers_in_the_ids_order_the_clips_of_a_video() -> None:
    assert videos_in_order(TALK) == [[3, 2, 0, 4], [1]]
    named = clips_of(("v$_$part-10", ""), ("v$_$part-9", ""), ("v$_$part-9.5", ""))
    assert videos_in_order(named) == [[1, 2, 0]]


def test_ids_that_tell_no_order_leave_it_to_the_stored_places_or_else_to_the_rows() -> None:
    named = [("v$_$outro", ""), ("v$_$intro", ""), ("v$_$song 1", "")]
    assert videos_in_order(clips_of(*named)) == [[0, 1, 2]]
    assert videos_in_order(clips_of(*named, order=[2, 0, 1])) == [[1, 2, 0]]


def test_start_times_decide_only_where_ids_do_not_tell() -> None:
    def samples(*named: tuple[str, float | None]) -> list[Sample]:
        return [Sample(name, "", 0.0, start=start) for name, start in named]

    timed = order_of(samples(("v$_$outro", 9.0), ("w$_$1", 5.0), ("v$_$intro", 0.0), ("w$_$0", 7.0)))
    assert timed is not None
    assert timed.tolist() == [2, 1, 0, 3]
    assert order_of(samples(("v$_$outro", 9.0), ("v$_$intro", None))) is None
    assert order_of(samples(("v$_$2", 1.0), ("v$_$1", 9.0))) is None


def test_a_store_keeps_the_order_and_its_content_covers_it(tmp_path: Path) -> None:
    def corpus(starts: tuple[float, float]) -> Corpus:
        clips = [Sample(f"v$_${name}", name, 1.0, start=start) for name, start in zip("xy", starts, strict=True)]
        others = {"valid": [Sample("w$_$z", "z", 1.0)], "test": [Sample("u$_$z", "z", 1.0)]}
        return Corpus("timed", (-3.0, 3.0), {"train": clips, **others}, "t", "t", "0" * 64)

    write_store(tmp_path / "late.h5", corpus((5.0, 1.0)))
    write_store(tmp_path / "early.h5", corpus((1.0, 5.0)))
    with FeatureStore(tmp_path / "late.h5") as late, FeatureStore(tmp_path / "early.h5") as early:
        assert videos_in_order(late.split("train")) == [[1, 0]]
        assert early.split("train").order is None
        assert content_of(late, lambda count, remark: None)[0] == late.content_id != early.content_id


# --- tokens ------------------------------------------------------------------------------------------------------


def test_preceding_clips_of_the_same_video_stand_behind_the_clips_own_text(encoder: Path) -> None:
    assert read(encoder, TALK, Context(2)) == [
        "[CLS] the film was great [SEP] very good dull [SEP]",
        "[CLS] poor plot [SEP]",
        "[CLS] dull [SEP] very good [SEP]",
        "[CLS] very good [SEP]",
        "[CLS] bad [SEP] dull the film was great [SEP]",
    ]


def test_the_future_is_read_only_if_it_is_asked_for(encoder: Path) -> None:
    assert read(encoder, TALK, Context(1, 1))[2] == "[CLS] dull [SEP] very good the film was great [SEP]"
    assert read(encoder, TALK, Context(0, 1))[4] == "[CLS] bad [SEP]"


def test_long_contexts_lose_the_words_farthest_from_the_clip(encoder: Path) -> None:
    assert read(encoder, TALK, Context(3), max_length=7)[4] == "[CLS] bad [SEP] film was great [SEP]"
    assert read(encoder, TALK, Context(2, 1), max_length=9)[0] == "[CLS] the film was great [SEP] dull bad [SEP]"
    assert read(encoder, TALK, Context(2), max_length=5)[0] == "[CLS] the film was [SEP]"
    assert tokenize_with_context(load_tokenizer(str(encoder)), TALK, Context(3), max_length=7)[1] == 2


def test_a_quick_look_at_some_clips_reads_the_contexts_that_all_clips_have(encoder: Path) -> None:
    everything = read(encoder, TALK, Context(2))
    assert read(encoder, TALK.limited(2), Context(2)) == [everything[0], everything[4]]


def test_a_separator_that_a_text_writes_divides_nothing(encoder: Path) -> None:
    written = clips_of(("v$_$0", "bad [SEP] film"), ("v$_$1", "good [SEP] plot"))
    assert read(encoder, written, Context(1)) == ["[CLS] bad film [SEP]", "[CLS] good plot [SEP] bad film [SEP]"]


def test_without_several_clips_of_a_video_a_context_is_refused() -> None:
    lone = clips_of(("a$_$1", "good"), ("b$_$2", "bad"), ("no video", "dull"))
    Context().check(lone)
    with pytest.raises(StoreError, match=r"train split of some\.h5 has one clip of every video"):
        Context(1).check(lone)


def test_the_second_segment_has_the_second_token_type(encoder: Path) -> None:
    tokenizer = load_tokenizer(str(encoder))
    backbone, _ = load_backbone(str(encoder))
    texts = pad_tokens(tokenize_with_context(tokenizer, TALK, Context(2), max_length=64)[0])
    pairs = [("the film was great", "very good dull"), ("poor plot", None), ("dull", "very good"), ("very good", None)]
    expected = []
    with torch.no_grad():
        for one, other in [*pairs, ("bad", "dull the film was great")]:
            expected.append(backbone.eval()(**tokenizer(one, other, return_tensors="pt")).last_hidden_state[0])
        packing = Packing.of(texts.mask)
        made = TextEncoder(load_backbone(str(encoder))[0], width=16, separator=tokenizer.sep_token_id).eval()
        token_ids = packing.pack(texts.values)
        hidden = made(token_ids, packing)[1]
    assert torch.equal(made.embed(token_ids, packing), hidden[0])
    torch.testing.assert_close(packing.unpack(hidden[-1])[texts.mask], torch.cat(expected), atol=1e-5, rtol=0)


# --- runs --------------------------------------------------------------------------------------------------------


def test_the_default_keeps_the_digest_and_a_run_without_text_has_no_context(tiny_config: MakeConfig) -> None:
    plain = tiny_config()
    assert digest_of(tiny_config("", "data.context=0")) == digest_of(plain)
    assert digest_of(tiny_config("", "data.context=2")) != digest_of(plain)
    assert tiny_config("T", "data.context=2") == tiny_config("T")


def test_every_model_reads_the_context(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    for name in MODELS:
        settings = () if name == "conki" else (f"model.name={name}",)
        config = tiny_config("", *settings, "data.context=1", "data.external=none", "optimizer.num_epochs=12")
        batches = open_job(config).inputs.batches("train", batch_size=99)
        lengths = next(batches.epoch()).modality("text").mask.sum(dim=1)
        words = [len(text.split()) for text in batches.utterances.texts]
        assert lengths.tolist() == [words[0] + 2, *(a + b + 3 for a, b in itertools.pairwise(words))]


@pytest.fixture(scope="module")
def with_context(stores: Path, tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> Trained:
    """ConKI trained with a context of two clips."""
    root = tmp_path_factory.mktemp("context")
    (root / "features").symlink_to(stores)
    space, notes = Workspace(root), Notes()
    config = tiny_config("", "data.context=2", "pretraining.num_epochs=1", "optimizer.num_epochs=1")
    run = finetune(config, space, notes)
    return Trained(space, config, run, run, notes.lines)


def test_training_says_how_many_clips_have_a_context(with_context: Trained) -> None:
    line = next(line for line in with_context.lines if "clips that precede them" in line)
    assert line.startswith("14 of 15 training clips of tiny-external are read with up to 2 clips that precede them; 0")


def test_a_run_predicts_a_store_with_the_context_that_it_learnt_with(with_context: Trained) -> None:
    run, space = with_context.run, with_context.workspace
    stored = [float(line.split(",")[2]) for line in run.predictions_path(1, "test").read_text().splitlines()[1:]]
    with open_store(space, "tiny", Notes()) as store:
        clips = store.split("test")
        found = predict_utterances(run, clips, torch.device("cpu"))[1]
        alone = predict_utterances(run, replace(clips, path=None), torch.device("cpu"))[1]
        first = replace(clips, texts=["great film", *clips.texts[1:]])
        changed = predict_utterances(run, first, torch.device("cpu"))[1]
        last = replace(clips, texts=[*clips.texts[:-1], "great film"])
        later = predict_utterances(run, last, torch.device("cpu"))[1]
    np.testing.assert_allclose(found, stored, atol=1e-6)
    assert (found[1:] != alone[1:]).all()
    assert [bool(a != b) for a, b in zip(found, changed, strict=True)] == [True, True, True, False, False, False]
    assert np.array_equal(found[:-1], later[:-1])


def test_single_texts_have_no_context_which_is_said(with_context: Trained) -> None:
    notes, clips = Notes(), Utterances(["1", "2"], ["great film", "bad"], None, {}, {})
    assert [len(row) for row in read_texts(with_context.run, clips, notes)] == [4, 3]
    assert any("single texts have none" in line for line in notes.lines)
