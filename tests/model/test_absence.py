"""A modality that a clip lacks is masked: nothing of it reaches a prediction, a loss or a memory, in all ten models."""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from baseline_support import DIMS, EIGHT, FIRST_WORD, OVERRIDES, config_of
from run_support import QUICK, slowly

from conki_cli import MODALITIES
from conki_cli.config.sections import RunConfig
from conki_cli.data.store.records import Ragged, Utterances
from conki_cli.model import zoo
from conki_cli.model.absence import Absence, drawn, dropout_shares, idle_dropout
from conki_cli.model.batches import Batch, Batches, Padded
from conki_cli.model.contract import Architecture, SentimentModel
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.errors import SettingsError
from conki_cli.text import load_backbone
from conki_cli.training.presence import check_can_leave_out

WIDTHS = dict(zip(("audio", "vision"), DIMS[1:], strict=True))
SUBSETS = [frozenset(part) for size in (1, 2) for part in itertools.combinations(MODALITIES, size)]
every_model = pytest.mark.parametrize("name", zoo.MODELS)
Build = Callable[[str], SentimentModel]


@pytest.fixture(scope="module")
def build(encoder: Path) -> Build:
    """Return a function that builds a model on the tiny BERT."""
    backbone, fresh = load_backbone(str(encoder))

    def one(name: str) -> SentimentModel:
        config = config_of(name, OVERRIDES.get(name), "tiny")
        sizes = Architecture(MODALITIES, DIMS[0], 4, widths=WIDTHS, positions=dict.fromkeys(WIDTHS, 12))
        torch.manual_seed(1)
        model = zoo.build(config, sizes, TextEncoder(copy.deepcopy(backbone), width=DIMS[0], fresh=fresh))
        model.start(EIGHT.scores)
        return model

    return one


def lacking(batch: Batch, names: frozenset[str], rows: slice = slice(None)) -> Batch:
    """Mark modalities of some clips as absent; their content stays."""
    flags = {name: torch.zeros(len(batch), dtype=torch.bool) for name in names}
    for flag in flags.values():
        flag[rows] = True
    return replace(batch, absent=flags)


def with_other_content(batch: Batch) -> Batch:
    """Change everything that the marked modalities of the marked clips hold."""

    def other(name: str) -> Padded:
        part, gone = batch.modality(name), batch.absent[name][:, None]
        if name == "text":
            words = (part.values - FIRST_WORD + 1).remainder(9) + FIRST_WORD
            return Padded(torch.where(gone & part.mask, words, part.values), part.mask)
        return Padded(torch.where((gone & part.mask)[..., None], 7 - 3 * part.values, part.values), part.mask)

    return replace(batch, **{name: other(name) for name in batch.absent})


def able(model: SentimentModel) -> Iterator[frozenset[str]]:
    return (names for names in SUBSETS if names <= model.optional_modalities)


@every_model
def test_a_prediction_without_a_modality_does_not_depend_on_it(name: str, build: Build) -> None:
    model = build(name).eval()
    for names in able(model):
        batch = lacking(EIGHT, names)
        found, other = (model(one).prediction for one in (batch, with_other_content(batch)))
        assert torch.equal(found, other), names
        assert found.isfinite().all()
        assert not torch.equal(found, model(EIGHT).prediction)


@every_model
def test_what_one_clip_lacks_changes_no_other_clip(name: str, build: Build) -> None:
    model = build(name).eval()
    whole = model(EIGHT).prediction
    for names in able(model):
        found = model(lacking(EIGHT, names, slice(3))).prediction
        torch.testing.assert_close(found[3:], whole[3:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[:3], model(lacking(EIGHT, names)).prediction[:3], atol=1e-5, rtol=1e-5)


def learnt(model: SentimentModel, batch: Batch, phase: str) -> list[torch.Tensor]:
    """Return what two epochs of a pass over one batch leave: terms, gradients, buffers and memory; no weight moves."""
    own = copy.deepcopy(model).train()
    for epoch in (1, 2):
        torch.manual_seed(0)
        own.zero_grad()
        own.start_phase(epoch, phase)
        output = own(batch)
        terms = own.loss(output, batch, phase)
        torch.stack(list(terms.values())).sum().backward()
        own.after_backward(output, batch, epoch=epoch, phase=phase)
    gradients = [p.grad for p in own.parameters() if p.grad is not None]
    return [*terms.values(), *gradients, *own.state_dict().values()]


ONE_IS_LEFT = [("tfn", slice(1, None)), ("lmf", slice(1, None))]
"""BatchNorm cannot train on one clip."""
CASES = [*((name, rows) for name in zoo.MODELS for rows in (slice(3), slice(None))), *ONE_IS_LEFT]


@pytest.mark.parametrize(
    ("name", "rows"),
    slowly(CASES, [case for case in CASES if case in ONE_IS_LEFT or case[0] in QUICK]),
    ids=[f"{name}-{rows.start}-{rows.stop}" for name, rows in CASES],
)
def test_training_learns_nothing_from_what_is_absent(name: str, rows: slice, build: Build) -> None:
    model = build(name)
    batch = lacking(EIGHT, model.optional_modalities & {"text", "audio"}, rows)
    for phase in model.phases:
        found, same = (learnt(model, one, phase) for one in (batch, with_other_content(batch)))
        assert all(torch.equal(a, b) for a, b in zip(found, same, strict=True))
        assert all(bool(value.isfinite().all()) for value in found)


def test_a_text_that_is_needed_cannot_be_left_out() -> None:
    needing = {name for name in zoo.MODELS if "text" not in zoo.model_class(name).optional_modalities}
    assert needing == {"iccn", "mag-bert"}


# --- batches -----------------------------------------------------------------------------------------------------


def clips(*, audio: float = 1.0) -> Utterances:
    """Six clips; the first has no vision, the second no words; `audio` fills the audio frames."""
    lengths = {"vision": [0, 2, 3, 1, 2, 2], "audio": [2, 1, 4, 2, 3, 1]}
    frames = {}
    for name, counts in lengths.items():
        values = np.random.default_rng(0).normal(size=(sum(counts), WIDTHS[name])).astype(np.float32)
        values = np.full_like(values, audio) if name == "audio" else values
        frames[name] = Ragged(values, np.concatenate([[0], np.cumsum(counts)]))
    texts = ["good", " ", "bad film", "fair", "great", "dull"]
    return Utterances([f"c{k}" for k in range(6)], texts, np.zeros(6, dtype=np.float32), frames, {})


def batches(absence: Absence, *, audio: float = 1.0, seed: int | None = None) -> Batches:
    tokens = [np.arange(5, 8 + k % 3) for k in range(6)]
    return Batches(clips(audio=audio), tokens, {"vision": 4, "audio": 4}, 6, seed=seed, absence=absence)


def test_what_is_left_out_is_not_even_read() -> None:
    [batch] = batches(Absence(frozenset({"audio", "text"})), audio=np.nan).epoch()
    assert batch.absent["audio"].all()
    assert (batch.audio.values.shape, batch.text.values.shape) == ((6, 1, 5), (6, 1))
    assert not batch.audio.values.any()


@pytest.mark.parametrize("masks_empty", [set(MODALITIES), {"vision"}, set()])
def test_clips_without_frames_or_words_lack_them_where_the_run_says_so(masks_empty: set[str]) -> None:
    [batch] = batches(Absence(masks_empty=frozenset(masks_empty))).epoch()
    found = {name: flags.nonzero().flatten().tolist() for name, flags in batch.absent.items()}
    assert found == {name: rows for name, rows in {"text": [1], "vision": [0]}.items() if name in masks_empty}


def test_dropout_is_a_function_of_seed_epoch_and_clip() -> None:
    shares = dict.fromkeys(MODALITIES, 0.5)

    def absent(epoch: int, size: int) -> dict[str, list[int]]:
        made = replace(batches(Absence(shares=shares), seed=3), batch_size=size)
        found: dict[str, list[int]] = {name: [] for name in MODALITIES}
        for batch in made.epoch(epoch):
            for name, flags in batch.absent.items():
                found[name] += batch.indices[flags].tolist()
        return {name: sorted(rows) for name, rows in found.items()}

    assert absent(1, 6) == absent(1, 4)
    assert absent(1, 6) != absent(2, 6)
    assert not any(batch.absent for batch in batches(Absence(shares=shares)).epoch())  # not without a seed


def test_dropout_takes_its_share_and_never_the_last_modality() -> None:
    have = np.zeros((20_000, 3), dtype=bool)
    have[:5000, 0] = True
    lost = drawn(have, np.array([0.2, 0.5, 0.0]), np.random.default_rng(0))
    assert np.allclose(lost[5000:].mean(axis=0), [0.2, 0.5, 0], atol=0.02)
    assert not (have | drawn(have, np.full(3, 0.9), np.random.default_rng(0))).all(axis=1).any()
    have[:, 1:] = True
    assert not drawn(have, np.full(3, 0.9), np.random.default_rng(0)).any()


def test_dropout_leaves_the_order_of_the_clips() -> None:
    plain = [batch.indices.tolist() for batch in batches(Absence(), seed=3).epoch(1)]
    dropped = [batch.indices.tolist() for batch in batches(Absence(shares={"text": 0.5}), seed=3).epoch(1)]
    assert plain == dropped


def test_one_share_holds_for_what_the_model_can_leave_out() -> None:
    def shares(name: str, *given: float) -> dict[str, float]:
        config: RunConfig = config_of(name, {"optimizer.modality_dropout": given})
        return dropout_shares(config, MODALITIES, zoo.model_class(name).optional_modalities)

    assert shares("tfn", 0.3) == dict.fromkeys(MODALITIES, 0.3)
    assert shares("mag-bert", 0.3) == {"vision": 0.3, "audio": 0.3}
    assert shares("mag-bert", 0, 0.1, 0) == {"vision": 0.1}
    with pytest.raises(SettingsError, match=r"MAG-BERT needs text of every clip, found .* 0\.2 for it: give 0"):
        shares("mag-bert", 0.2, 0.1, 0)


@pytest.mark.parametrize(
    ("name", "given", "modalities", "reason"),
    [
        ("conki", (0.3,), ("text",), "this run reads only text"),
        ("mag-bert", (0.0, 0.3, 0.0), ("text", "audio"), "its share for audio is 0"),
        ("conki", (0.3,), ("text", "audio"), ""),
        ("conki", (), ("text",), ""),
    ],
)
def test_dropout_that_can_drop_nothing_is_told_of(
    name: str, given: tuple[float, ...], modalities: tuple[str, ...], reason: str
) -> None:
    config: RunConfig = config_of(name, {"optimizer.modality_dropout": given})
    warning = idle_dropout(config, modalities, zoo.model_class(name).optional_modalities)
    assert warning == (f"warning: optimizer.modality_dropout has no effect: {reason}" if reason else "")


def test_what_a_model_needs_is_refused_in_one_sentence_with_what_can_be_left_out() -> None:
    with pytest.raises(SettingsError) as error:
        check_can_leave_out(config_of("mag-bert"), zoo.model_class("mag-bert"), ["text", "audio"])
    assert str(error.value) == "MAG-BERT needs text of every clip and cannot leave it out: leave out vision or audio"
