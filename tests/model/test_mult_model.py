"""MulT, the model (its pickles: test_mult.py): convolutions, crossings, the last real positions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baseline_support import (
    DIMS,
    MOSEI,
    MOSI,
    SIMS,
    Dims,
    alone,
    assert_absolute_error_alone,
    batch_of,
    config_of,
    count,
    grouped,
    make,
    stirred,
    text_encoder,
    text_names,
    total_loss,
    with_junk,
    without_gradient,
)
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.model.baselines.mult import Mult, convolve
from conki_cli.model.baselines.transformer import SequenceTransformer
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.contract import SentimentModel
from conki_cli.system.errors import SettingsError

SMALL = {"mult.width": 6, "mult.num_heads": 2, "mult.num_layers": 2}
NO_DROPOUT = {
    f"mult.{kind}_dropout": 0.0
    for kind in ("text", "attention", "audio_attention", "vision_attention", "relu", "embedding", "residual", "output")
}


def without_positions(length: int, width: int, *, device: torch.device) -> Tensor:
    """Stand in for the position vectors, [L, D]: every position looks the same."""
    return torch.zeros(length, width, device=device)


@pytest.fixture
def small() -> SentimentModel:
    return stirred(make("mult", SMALL))


@pytest.mark.parametrize(
    ("dataset", "dims", "expected"),
    [
        ("mosi", MOSI, 2_571_551),
        ("mosei", MOSEI, 982_951),
        ("sims", SIMS, 1_870_701),
        ("mosi", (384, *MOSI[1:]), 2_475_551),
        ("mosei", (384, *MOSEI[1:]), 925_351),
        ("sims", (384, *SIMS[1:]), 1_774_701),
    ],
)
def test_the_presets_have_the_known_numbers_of_parameters(dataset: str, dims: Dims, expected: int) -> None:
    assert count(make("mult", dims=dims, dataset=dataset)) == expected


def test_the_authors_own_settings_have_the_number_of_parameters_of_their_network() -> None:
    settings = {f"mult.{name}_kernel": 1 for name in ("text", "audio", "vision")}
    settings |= {"mult.width": 30, "mult.num_layers": 5, "mult.num_heads": 5}
    assert count(make("mult", settings, dims=(300, 74, 35))) == 1_073_731


def test_the_presets_differ_in_depth_kernels_and_dropouts() -> None:
    mosi, mosei, sims = (make("mult", dataset=name) for name in ("mosi", "mosei", "sims"))
    for model, kernels, layers in ((mosi, (5, 5, 5), 4), (mosei, (5, 3, 1), 4), (sims, (5, 1, 1), 2)):
        assert isinstance(model, Mult)
        assert tuple(model.kernels[name] for name in ("text", "vision", "audio")) == kernels
        assert {len(crossing.layers) for crossing in model.crossings.values()} == {layers}
        assert {len(reader.layers) for reader in model.readers.values()} == {max(3, layers)}


def test_attention_to_a_modality_has_the_dropout_of_that_modality() -> None:
    model = make("mult")
    for name, crossing in model.crossings.items():
        expected = {"text": 0.3, "audio": 0.2, "vision": 0.0}[name.split("_from_")[1]]
        assert crossing.dropouts.attention == expected
    assert {reader.dropouts.attention for reader in model.readers.values()} == {0.3}


@pytest.mark.parametrize("kind", NO_DROPOUT)
def test_each_dropout_acts_in_training_alone(kind: str) -> None:
    model, batch = stirred(make("mult", {**SMALL, **NO_DROPOUT, kind: 0.5})), batch_of()
    assert torch.equal(model(batch).prediction, model(batch).prediction)
    model.train()
    assert not torch.equal(model(batch).prediction, model(batch).prediction)


def test_every_transformer_has_the_dropouts_of_the_settings() -> None:
    model = make("mult", {"mult.relu_dropout": 0.1, "mult.residual_dropout": 0.4, "mult.embedding_dropout": 0.6})
    for part in (*model.crossings.values(), *model.readers.values()):
        assert (part.dropouts.relu, part.dropouts.residual, part.dropouts.embedding) == (0.1, 0.4, 0.6)


def test_a_convolution_shortens_a_sequence_by_all_but_one_of_its_kernel() -> None:
    part = batch_of().modality("audio")  # lengths 9, 1, 4, 6
    out = convolve(nn.Conv1d(5, 6, 3, bias=False), 3, part)
    assert out.values.shape == (4, 7, 6)
    assert out.mask.sum(dim=1).tolist() == [7, 1, 2, 4]


def test_a_sequence_shorter_than_the_kernel_keeps_one_position() -> None:
    convolution = nn.Conv1d(5, 6, 4, bias=False)
    frame = torch.randn(1, 1, 5)
    out = convolve(convolution, 4, Padded(frame, torch.ones(1, 1, dtype=torch.bool)))
    assert out.mask.tolist() == [[True]]
    torch.testing.assert_close(out.values[0, 0], convolution.weight[:, :, 0] @ frame[0, 0])


def test_clips_of_one_frame_and_one_token_give_a_finite_score() -> None:
    model = stirred(make("mult"))  # kernels of 5
    batch = batch_of(text=(1,), audio=(1,), vision=(1,))
    assert model(batch).prediction.isfinite().all()


def test_what_lies_behind_the_mask_changes_no_score(small: SentimentModel) -> None:
    batch = batch_of()
    longer = with_junk(batch, extra=7)
    torch.testing.assert_close(small(longer).prediction, small(batch).prediction, atol=1e-5, rtol=1e-5)


def test_a_text_shorter_than_its_kernel_sees_zeros_behind_its_end(small: SentimentModel) -> None:
    batch = batch_of(audio=(9,) * 4, vision=(8,) * 4)  # one group: the texts of 3 and 4 are padded to 6
    torch.testing.assert_close(small(with_junk(batch)).prediction, small(batch).prediction, atol=1e-5, rtol=1e-5)


def test_the_other_clips_change_no_score(small: SentimentModel) -> None:
    batch = batch_of()
    torch.testing.assert_close(small(batch).prediction, alone(small, batch), atol=1e-5, rtol=1e-5)


def test_similar_lengths_together_or_all_at_once_give_the_same_scores_and_gradients(
    small: SentimentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for share in (0.7, 0.0):  # at 0 everything is one group
        monkeypatch.setattr("conki_cli.model.layers.SIMILAR_SHARE", share)
        small.zero_grad()
        total_loss(small, batch_of()).backward()
        found.append([p.grad.clone() for p in small.parameters() if p.grad is not None])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["text", "audio", "vision"])
def test_positions_tell_the_order_of_what_is_looked_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = {f"mult.{modality}_kernel": 1 for modality in MODALITIES}  # longer ones would tell of neighbours
    model = stirred(make("mult", {**SMALL, **kernels}))
    batch = batch_of(**{modality: (9 if modality == name else 1,) for modality in MODALITIES})
    part = batch.modality(name)
    turned = replace(batch, **{name: Padded(part.values.flip(1), part.mask)})
    lookers = [modality[0] for modality in MODALITIES if modality != name]  # of one frame, which sees everything

    def parts(one: Batch) -> Tensor:
        return torch.cat([model(one).parts[looker] for looker in lookers])

    assert (parts(turned) - parts(batch)).abs().max() > 1e-3
    monkeypatch.setattr("conki_cli.model.baselines.transformer.sinusoids", without_positions)
    torch.testing.assert_close(parts(turned), parts(batch), atol=1e-5, rtol=1e-5)


def test_the_score_is_that_of_the_network_written_out(small: SentimentModel) -> None:
    batch = batch_of(text=(6,), audio=(9,), vision=(8,))
    sequences = {
        name: convolve(small.convolutions[name], small.kernels[name], batch.modality(name))
        for name in ("text", "vision", "audio")
    }
    ends = []
    for target, others in (("text", "va"), ("vision", "ta"), ("audio", "tv")):
        own, names = sequences[target], {"t": "text", "v": "vision", "a": "audio"}
        found = []
        for source in (names[letter] for letter in others):
            crossing: SequenceTransformer = small.crossings[f"{target}_from_{source}"]
            found.append(crossing(own.values, own.mask, sequences[source].values, sequences[source].mask))
        ends.append(small.readers[target].last(torch.cat(found, dim=-1), own.mask))
    fused = torch.cat(ends, dim=-1)
    first, _, _, second = small.inner
    expected = small.head(fused + second(first(fused).relu()))[:, 0]
    torch.testing.assert_close(small(batch).prediction, expected)


def test_the_representations_have_twice_the_width_each(small: SentimentModel) -> None:
    parts = small(batch_of()).parts
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        "t": (4, 12),
        "v": (4, 12),
        "a": (4, 12),
        "f": (4, 36),
    }
    assert torch.equal(torch.cat([parts["t"], parts["v"], parts["a"]], dim=-1), parts["f"])


def test_an_odd_width_works() -> None:
    model = stirred(make("mult", {"mult.width": 7, "mult.num_heads": 7}))
    assert model(batch_of()).prediction.isfinite().all()


def test_heads_that_do_not_divide_the_width_are_refused_before_training() -> None:
    with pytest.raises(SettingsError, match=r"^mult.num_heads must divide mult.width, found 10 and 48: give --set "):
        make("mult", {"mult.width": 48})


def test_the_loss_is_the_mean_absolute_error(small: SentimentModel) -> None:
    assert_absolute_error_alone(small, batch_of())


def test_every_parameter_learns() -> None:
    model = make("mult", SMALL).train()
    total_loss(model, batch_of()).backward()
    assert without_gradient(model) == set()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_text_encoder_stays_as_it_is_unless_asked_otherwise(encoder: Path) -> None:
    frozen = make("mult", SMALL, text=text_encoder(encoder))
    trained = make("mult", {**SMALL, "mult.train_text": True}, text=text_encoder(encoder))
    assert frozen.text_is_frozen
    assert not trained.text_is_frozen
    total_loss(trained, batch_of(token_ids=True)).backward()
    assert any(p.grad is not None for p in trained.text.parameters())
    (others,) = grouped(frozen.parameter_groups(config_of("mult"), "main"), frozen)
    assert not any(name.startswith("text.") for name in others)


def test_a_trained_text_encoder_has_a_rate_of_its_own(encoder: Path) -> None:
    model = make("mult", {**SMALL, "mult.train_text": True}, text=text_encoder(encoder))
    text, others = model.parameter_groups(config_of("mult"), "main")
    assert (others.learning_rate, text.learning_rate) == (2e-3, 5e-5)
    names = grouped([others, text], model)
    assert names[1] == text_names(model)
    assert names[0] | names[1] == {name for name, _ in model.named_parameters()}


def test_the_widths_of_an_external_data_set_are_bridged() -> None:
    model = stirred(make("mult", SMALL, external_widths={"audio": 3}))
    batch = batch_of(dims=(DIMS[0], 3, DIMS[2]))
    assert model(batch).prediction.isfinite().all()
