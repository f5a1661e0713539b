"""From stored utterances to batches: padding, shuffling, cutting, rescaling."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeConfig, OpenJob, make_corpus, resealed
from hypothesis import given
from hypothesis import strategies as st

from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Ragged, Utterances
from conki_cli.data.store.writing import write_store
from conki_cli.model.batches import Batches, pad_frames, pad_tokens
from conki_cli.model.inputs import available_modalities, open_inputs
from conki_cli.model.mixing import MixedBatches
from conki_cli.system.errors import SettingsError, StoreError


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[Corpus], FeatureStore]:
    def make(corpus: Corpus) -> FeatureStore:
        write_store(tmp_path / f"{corpus.dataset}.h5", corpus)
        return FeatureStore(tmp_path / f"{corpus.dataset}.h5")

    return make


def without(corpus: Corpus, *modalities: str) -> Corpus:
    splits = {
        name: [dataclasses.replace(clip, **dict.fromkeys(modalities)) for clip in clips]
        for name, clips in corpus.splits.items()
    }
    return dataclasses.replace(corpus, splits=splits)


def test_tokens_are_padded_to_the_longest_of_the_batch() -> None:
    padded = pad_tokens([np.array([5, 6, 7]), np.array([8])])
    assert padded.values.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert padded.mask.tolist() == [[True, True, True], [True, False, False]]


def test_frames_are_padded_with_zeros_behind_their_end() -> None:
    padded = pad_frames([np.ones((1, 2), np.float32), np.ones((3, 2), np.float32)])
    assert padded.values.sum(dim=(1, 2)).tolist() == [2, 6]
    assert padded.mask.tolist() == [[True, False, False], [True, True, True]]


def test_a_sequence_without_frames_counts_as_one_zero_frame() -> None:
    padded = pad_frames([np.ones((0, 2), np.float32), np.ones((0, 2), np.float32)])
    assert padded.values.tolist() == [[[0, 0]], [[0, 0]]]
    assert padded.mask.tolist() == [[True], [True]]


def test_some_sequences_of_a_batch_are_padded_to_the_longest_of_them_alone() -> None:
    part = pad_tokens([np.array([5, 6, 7]), np.array([8]), np.array([9, 4])]).take(torch.tensor([2, 1]))
    assert part.values.tolist() == [[9, 4], [8, 0]]
    assert part.mask.tolist() == [[True, True], [True, False]]


def test_every_clip_comes_once_per_epoch(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    batches = open_job(tiny_config("C1")).inputs.batches("train", batch_size=4, seed=1)
    seen = [len(batch) for batch in batches.epoch(1)]
    indices = torch.cat([batch.indices for batch in batches.epoch(1)])
    assert (seen, sorted(indices.tolist())) == ([4, 4, 4, 1], list(range(13)))
    assert len(batches) == 4


def test_the_order_is_a_function_of_seed_and_epoch(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    inputs = open_job(tiny_config("C1")).inputs

    def order(seed: int | None, epoch: int) -> list[int]:
        batches = inputs.batches("train", batch_size=4, seed=seed)
        return [int(index) for batch in batches.epoch(epoch) for index in batch.indices]

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(*key)) for key in ((1, 1), (1, 2), (2, 1), (2, 2))}) == 4
    assert order(None, 1) == order(None, 2) == list(range(13))


def test_a_batch_holds_the_clips_of_its_indices(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("C1"))
    stored = job.inputs.target.split("train")
    for batch in job.inputs.batches("train", batch_size=4, seed=1).epoch(1):
        for row, index in enumerate(batch.indices.tolist()):
            frames = batch.modality("audio").values[row][batch.modality("audio").mask[row]]
            expected = stored.frames["audio"][index] if len(stored.frames["audio"][index]) else np.zeros((1, 3))
            np.testing.assert_array_equal(frames.numpy(), expected)
            assert float(batch.scores[row]) == float(stored.scores[index])


LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=40)


def drawn(lengths: list[tuple[int, int]]) -> tuple[Utterances, list[np.ndarray]]:
    """Return clips of so many frames and tokens, in which no two numbers are the same."""
    offsets = np.cumsum([0, *(frames for frames, _ in lengths)])
    values = np.arange(1, 2 * offsets[-1] + 1, dtype=np.float32).reshape(-1, 2)
    ids = [str(number) for number in range(len(lengths))]
    scores = np.arange(len(lengths), dtype=np.float32)
    tokens = [np.arange(1, count + 1) + 100 * number for number, (_, count) in enumerate(lengths)]
    return Utterances(ids, ids, scores, {"audio": Ragged(values, offsets)}, {}), tokens


@given(
    lengths=LENGTHS,
    size=st.integers(1, 9),
    limit=st.integers(1, 9),
    seed=st.none() | st.integers(0),
    bucket=st.booleans(),
)
def test_clips_of_any_length_are_given_out_once_and_as_they_are(
    lengths: list[tuple[int, int]], size: int, limit: int, seed: int | None, bucket: bool
) -> None:
    clips, tokens = drawn(lengths)
    found = list(Batches(clips, tokens, {"audio": limit}, size, seed=seed, bucket=bucket).epoch(1))
    assert sorted(int(index) for batch in found for index in batch.indices) == list(range(len(lengths)))
    assert {len(batch) for batch in found[:-1]} <= {size}
    for batch in found:
        for row, index in enumerate(batch.indices.tolist()):
            frames = clips.frames["audio"][index][:limit]
            for part, expected in (
                (batch.modality("audio"), frames if len(frames) else np.zeros((1, 2))),
                (batch.modality("text"), tokens[index]),
            ):
                np.testing.assert_array_equal(part.values[row][: len(expected)].numpy(), expected)
                assert not part.values[row][len(expected) :].any()
                assert part.mask[row].tolist() == [n < len(expected) for n in range(part.mask.shape[1])]
            assert float(batch.scores[row]) == index


def test_a_dropped_modality_is_absent_not_zero(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    batch = next(open_job(tiny_config("C1+T+V")).inputs.batches("train", batch_size=4).epoch())
    assert (batch.text, batch.vision) == (None, None)
    assert batch.audio is not None
    with pytest.raises(KeyError, match="text"):
        batch.modality("text")


def test_modalities_keep_the_papers_order_whatever_the_store_says() -> None:
    assert available_modalities(("audio", "text", "vision"), ()) == ("text", "vision", "audio")
    assert available_modalities(("text", "audio"), ("T",)) == ("audio",)


def test_positions_fit_the_longer_training_sequences_of_both_stores(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config())
    assert job.inputs.external is None  # stage 2 learns from the target alone
    external = FeatureStore(job.inputs.target.path.parent / "tiny-external.h5")
    expected = max(job.inputs.target.longest("vision", "train"), external.longest("vision", "train"))
    assert job.inputs.limits["vision"] == expected > job.inputs.target.longest("vision", "train")


def test_max_frames_caps_the_positions(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    assert open_job(tiny_config("", "data.max_frames=2")).inputs.limits == {"vision": 2, "audio": 2}


def test_the_released_recipe_cuts_external_sequences_to_the_targets(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("", "data.cut_external=true"))
    assert job.inputs.limits["audio"] == job.inputs.target.longest("audio", "train")


def test_longer_sequences_lose_their_end_and_are_counted(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    inputs = open_job(tiny_config("C1", "data.max_frames=3")).inputs
    frames = inputs.target.split("train").frames["vision"]
    batch = next(inputs.batches("train", batch_size=13).epoch())
    assert inputs.cut("train")["vision"] == int((frames.lengths > 3).sum()) > 0
    longest = int(frames.lengths.argmax())
    np.testing.assert_array_equal(batch.modality("vision").values[longest].numpy(), frames[longest][:3])


def test_stage_1_learns_from_the_external_store(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    inputs = open_job(tiny_config(stage="pretrain")).inputs
    assert (inputs.learnt.dataset, len(inputs.batches("train", batch_size=9).utterances)) == ("tiny-external", 15)
    assert open_job(tiny_config()).inputs.learnt.dataset == "tiny"


def test_a_bridge_stands_only_where_widths_differ(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    assert open_job(tiny_config(stage="pretrain")).inputs.external_widths == {"vision": 4}
    assert open_job(tiny_config()).inputs.external_widths == {}


def test_token_ids_are_those_of_the_sentence_and_made_once(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    inputs = open_job(tiny_config("C1")).inputs
    first = inputs.batches("test", batch_size=2)
    assert inputs.batches("test", batch_size=2).token_ids is first.token_ids
    assert first.token_ids is not None
    decoded = inputs.tokenizer.decode(first.token_ids[0], skip_special_tokens=True)
    assert decoded == first.utterances.texts[0]


@pytest.mark.parametrize(
    ("drop", "crosses"),
    [("plain-transfer", True), ("", True), ("handover", False)],
)
def test_external_scores_are_rescaled_where_a_score_head_crosses_data_sets(
    drop: str,
    crosses: bool,
    tiny_config: MakeConfig,
    opened: Callable[[Corpus], FeatureStore],
    encoder: Path,
) -> None:
    corpus = make_corpus("tiny-external", (4, 2, 2), seed=3, longest=3)
    external = opened(dataclasses.replace(corpus, score_range=(-6.0, 3.0)))
    target = opened(make_corpus("tiny", (4, 2, 2), seed=4, longest=3))
    inputs = open_inputs(tiny_config(drop, stage="pretrain"), target, external, str(encoder))
    stored = external.split("train").scores
    expected = stored * (6 / 9) + 1 if crosses else stored
    np.testing.assert_allclose(inputs.batches("train", batch_size=4).scores(), expected, rtol=1e-6)
    assert inputs.score_range == ((-3.0, 3.0) if crosses else (-6.0, 3.0))


def test_clips_without_scores_have_undefined_ones(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    stored = open_job(tiny_config("C1")).inputs.target.split("test")
    batches = Batches(dataclasses.replace(stored, scores=None), None, {"audio": 5}, 4)
    assert np.isnan(batches.scores()).all()
    assert torch.isnan(next(batches.epoch()).scores).all()


def test_an_external_store_without_a_modality_of_the_target_is_refused(
    tiny_config: MakeConfig, opened: Callable[[Corpus], FeatureStore], encoder: Path
) -> None:
    target = opened(make_corpus("tiny", (4, 2, 2), seed=4, longest=3))
    external = opened(without(make_corpus("tiny-external", (4, 2, 2), seed=3, longest=3), "audio"))
    with pytest.raises(StoreError, match=r"has audio but the external store .* has none: .*--drop-modality audio"):
        open_inputs(tiny_config(), target, external, str(encoder))
    assert open_inputs(tiny_config("A"), target, external, str(encoder)).modalities == ("text", "vision")


def test_two_stores_of_one_data_set_are_refused(
    tiny_config: MakeConfig, opened: Callable[[Corpus], FeatureStore], encoder: Path, tmp_path: Path
) -> None:
    target = opened(make_corpus("tiny", (4, 2, 2), seed=4, longest=3))
    external = opened(make_corpus("tiny-external", (4, 2, 2), seed=3, longest=3))
    with FeatureStore(Path(shutil.copy(target.path, tmp_path / "copy.h5"))) as copy:
        with pytest.raises(StoreError, match=r"different data sets, but .*tiny\.h5 and .*copy\.h5 are both of tiny"):
            open_inputs(tiny_config(), target, copy, str(encoder))
        with pytest.raises(StoreError, match="are both of tiny"):
            open_inputs(tiny_config(), target, [external, copy], str(encoder))


def test_the_weight_of_an_external_set_holds_whatever_its_file_is_called(
    tiny_config: MakeConfig, opened: Callable[[Corpus], FeatureStore], encoder: Path
) -> None:
    target = opened(make_corpus("tiny", (4, 2, 2), seed=4, longest=3))
    corpus = make_corpus("tiny-external", (8, 2, 2), seed=3, longest=3)
    externals = [opened(dataclasses.replace(corpus, dataset=name)) for name in ("b", "c")]
    config = tiny_config("", "data.external=one+two:3", stage="pretrain")
    mixed = open_inputs(config, target, externals, str(encoder)).batches("train", batch_size=1, seed=1)
    assert isinstance(mixed, MixedBatches)
    assert mixed.shares() == {"b": 4, "c": 12}


def test_dropping_all_that_the_store_has_is_refused(
    tiny_config: MakeConfig, opened: Callable[[Corpus], FeatureStore], encoder: Path
) -> None:
    target = opened(without(make_corpus("tiny", (4, 2, 2), seed=4, longest=3), "audio", "vision"))
    with pytest.raises(SettingsError, match=r"tiny\.h5 has text but the run drops all of them"):
        open_inputs(tiny_config("C1+T"), target, None, str(encoder))


def test_a_store_of_texts_alone_makes_a_run_of_texts_alone(
    tiny_config: MakeConfig, opened: Callable[[Corpus], FeatureStore], encoder: Path
) -> None:
    target = opened(without(make_corpus("tiny", (4, 2, 2), seed=4, longest=3), "audio", "vision"))
    inputs = open_inputs(tiny_config("C1"), target, None, str(encoder))
    assert (inputs.modalities, inputs.limits) == (("text",), {})


def test_a_leading_position_is_a_real_one_of_zeros_in_front_of_every_sequence() -> None:
    tokens, frames = pad_tokens([np.array([7, 8]), np.array([9])]), pad_frames([np.ones((2, 3)), np.ones((1, 3))])
    for part in (tokens, frames):
        led = part.with_leading_position()
        assert led.mask.tolist() == [[True, True, True], [True, True, False]]
        assert not led.values[:, 0].any()
        assert torch.equal(led.values[:, 1:], part.values)


# --- stores that are not what they were ------------------------------------------------------------------------


def poison(path: Path, value: float, place: tuple[int, int]) -> None:
    """Put a number into the stored audio frames of the training split, as a flipped bit would."""
    with resealed(path) as file:
        file["train/audio/frames"][place] = value


@pytest.fixture
def own_batches(
    opened: Callable[[Corpus], FeatureStore], tiny_config: MakeConfig, encoder: Path
) -> Callable[..., Batches]:
    """Return a function that opens the training batches of a store of the test's own, with one bad number or none."""

    def make(*bad: float, **settings: int) -> Batches:
        store = opened(make_corpus("tiny", (7, 2, 2), seed=5, longest=6))
        if bad:
            start, stop = store.split("train").frames["audio"].offsets[3:5]
            store.close()
            poison(store.path, bad[0], (stop - 1, 2))  # the last frame of the fourth clip
            assert stop - start > 1
            store = FeatureStore(store.path)
        lines = [f"data.{key}={value}" for key, value in settings.items()]
        return open_inputs(tiny_config("C1", *lines), store, None, str(encoder)).batches("train", batch_size=5, seed=1)

    return make


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_that_is_not_finite_reaches_a_model(bad: float, own_batches: Callable[..., Batches]) -> None:
    batches = own_batches(bad)
    path = batches.utterances.path
    with pytest.raises(StoreError) as error:
        list(batches.epoch(1))
    number = int(batches.utterances.frames["audio"].lengths[3])
    assert str(error.value) == (
        f"{path} must hold only finite numbers, found {bad} in audio of the clip 'train$_$3', split train (frame "
        f"{number}, feature 3): `conki doctor {path}` says more; make it again with `conki prepare`"
    )


def test_a_number_that_is_cut_off_does_no_harm(own_batches: Callable[..., Batches]) -> None:
    assert len(list(own_batches(np.nan, max_frames=1).epoch(1))) == 2


@pytest.mark.parametrize("length", [0, 1000], ids=["emptied", "cut short"])
def test_a_store_that_is_cut_short_between_two_batches_is_one_line(
    length: int, own_batches: Callable[..., Batches]
) -> None:
    batches = own_batches()
    read = batches.epoch(1)
    next(read)
    assert batches.utterances.path is not None
    os.truncate(batches.utterances.path, length)
    with pytest.raises(StoreError, match=r"tiny\.h5 (was changed while it was in use|ends too early)") as error:
        next(read)
    assert "\n" not in str(error.value)


def test_a_store_that_is_replaced_between_two_batches_stays_the_old_one(own_batches: Callable[..., Batches]) -> None:
    batches = own_batches()
    expected = [batch.modality("vision").values for batch in batches.epoch(1)]
    read = batches.epoch(1)
    found = [next(read).modality("vision").values]
    own_batches(np.nan)  # the same name, another file
    found += [batch.modality("vision").values for batch in read]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


# --- batches of clips of similar length --------------------------------------------------------------------------


@pytest.fixture
def bucketed(opened: Callable[[Corpus], FeatureStore], tiny_config: MakeConfig, encoder: Path) -> Batches:
    """61 clips in batches of 4 of similar length: 15 full ones and a clip."""
    store = opened(make_corpus("tiny", (61, 2, 2), seed=5, longest=30))
    config = tiny_config("C1", "compute.bucket=true", "data.external=none")
    return open_inputs(config, store, None, str(encoder)).batches("train", batch_size=4, seed=1)


def order_of(batches: Batches, epoch: int = 1) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches.epoch(epoch)]


def lengths_of(batches: Batches) -> np.ndarray:
    """Count the tokens and frames of every clip."""
    assert batches.token_ids is not None
    frames = [np.minimum(batches.utterances.frames[name].lengths, limit) for name, limit in batches.limits.items()]
    return np.sum([[len(ids) for ids in batches.token_ids], *frames], axis=0)


def spread(batches: Batches, lengths: np.ndarray) -> int:
    """Sum up how far the shortest and the longest clip of every batch are apart."""
    return sum(int(np.ptp(lengths[batch])) for batch in order_of(batches))


def computed(batches: Batches) -> int:
    """Count the positions of an epoch, padding and all."""
    return sum(batch.modality(name).mask.numel() for batch in batches.epoch(1) for name in ("text", "vision", "audio"))


@pytest.mark.parametrize("pool", [1, 2, 50])
@pytest.mark.parametrize("batch_size", [1, 4, 60, 61, 99])
def test_in_buckets_too_every_clip_comes_once_and_the_short_batch_last(
    pool: int, batch_size: int, bucketed: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conki_cli.model.batches._POOL", pool)
    order = order_of(dataclasses.replace(bucketed, batch_size=batch_size))
    assert sorted(index for batch in order for index in batch) == list(range(61))
    sizes = [batch_size] * (61 // batch_size) + [61 % batch_size] * (61 % batch_size > 0)
    assert [len(batch) for batch in order] == sizes


def test_the_order_of_buckets_is_a_function_of_seed_and_epoch(bucketed: Batches) -> None:
    other = dataclasses.replace(bucketed, seed=2)
    orders = [order_of(bucketed, 1), order_of(bucketed, 2), order_of(other, 1), order_of(other, 2)]
    assert order_of(bucketed, 1) == orders[0]
    assert all(one != other for k, one in enumerate(orders) for other in orders[:k])


def test_other_clips_meet_in_every_epoch(bucketed: Batches) -> None:
    first, second = ({frozenset(batch) for batch in order_of(bucketed, epoch)} for epoch in (1, 2))
    assert len(first & second) < 3


def test_clips_of_a_bucket_are_of_similar_length(bucketed: Batches) -> None:
    plain = dataclasses.replace(bucketed, bucket=False)
    assert spread(bucketed, lengths_of(bucketed)) < 0.6 * spread(plain, lengths_of(bucketed))
    assert computed(bucketed) < 0.85 * computed(plain)


def test_short_and_long_buckets_come_in_no_order(bucketed: Batches) -> None:
    longest = [int(lengths_of(bucketed)[batch].max()) for batch in order_of(bucketed)]
    assert longest != sorted(longest)


def test_frames_that_are_cut_count_for_no_length(bucketed: Batches) -> None:
    assert bucketed.token_ids is not None
    tokens = np.array([len(ids) for ids in bucketed.token_ids])
    short = dataclasses.replace(bucketed, limits={"vision": 1, "audio": 1})
    assert spread(short, tokens) < 0.6 * spread(bucketed, tokens)


def test_a_share_of_an_epoch_is_its_first_buckets(bucketed: Batches) -> None:
    assert [batch.indices.tolist() for batch in bucketed.epoch(1, 0.5)] == order_of(bucketed)[:8]


def test_without_buckets_the_order_is_the_shuffled_one(bucketed: Batches) -> None:
    plain = dataclasses.replace(bucketed, bucket=False)
    shuffled = np.random.default_rng([1, 3]).permutation(61).tolist()
    assert [index for batch in order_of(plain, 3) for index in batch] == shuffled


def test_buckets_are_no_default_and_never_reorder_what_is_predicted(
    bucketed: Batches, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    assert not open_job(tiny_config("C1")).inputs.batches("train", batch_size=4, seed=1).bucket
    stored = order_of(dataclasses.replace(bucketed, seed=None))
    assert [index for batch in stored for index in batch] == list(range(61))
