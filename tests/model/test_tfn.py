"""TFN: the outer product, the bounded head, what trains, and the parameter counts of MMSA's class."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baseline_support import (
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

from conki_cli.model.baselines.subnets import SubNet
from conki_cli.model.baselines.tfn import bounded, outer_product
from conki_cli.model.layers import masked_mean


def test_the_outer_product_has_the_order_audio_vision_text() -> None:
    product = outer_product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]), torch.tensor([[4.0, 5.0]]))
    expected = [1, 4, 5, 3, 12, 15, 1, 4, 5, 3, 12, 15, 2, 8, 10, 6, 24, 30]
    assert product.tolist() == [[float(value) for value in expected]]
    assert product.sum() == (1 + 1 + 2) * (1 + 3) * (1 + 4 + 5)


def test_the_outer_product_is_every_product_of_one_entry_each() -> None:
    torch.manual_seed(0)
    audio, vision, text = (torch.randn(2, d, dtype=torch.float64) for d in (2, 3, 4))
    for row, found in enumerate(outer_product(audio, vision, text)):
        lists = [[1.0, *part[row].tolist()] for part in (audio, vision, text)]
        naive = [math.prod(entries) for entries in itertools.product(*lists)]
        torch.testing.assert_close(found, torch.tensor(naive, dtype=torch.float64))


def test_without_audio_only_the_products_of_vision_and_text_are_left() -> None:
    product = outer_product(torch.zeros(1, 2), torch.tensor([[3.0]]), torch.tensor([[4.0, 5.0]]))[0]
    assert product[:6].tolist() == [1, 4, 5, 3, 12, 15]
    assert not product[6:].any()


@pytest.mark.parametrize(("logit", "score"), [(0.0, 0.0), (1.0, 1.386351), (-1.0, -1.386351)])
def test_the_head_maps_a_logit_into_the_range_of_scores(logit: float, score: float) -> None:
    assert float(bounded(torch.tensor([logit]))) == pytest.approx(score, abs=1e-6)


def test_no_finite_logit_leaves_the_range_of_scores() -> None:
    assert bounded(torch.tensor([-1e30, -20.0, 20.0, 1e30])).abs().max() <= 3
    assert bounded(torch.tensor([-10.0, 10.0])).abs().max() < 3


@pytest.mark.parametrize(
    ("dataset", "dims", "counts"),
    [
        ("mosi", MOSI, (9_497_043, 9_300_435)),
        ("mosei", MOSEI, (5_042_539, 4_845_931)),
        ("sims", SIMS, (35_632_077, 35_435_469)),
    ],
)
def test_it_has_as_many_parameters_as_mmsas(dataset: str, dims: Dims, counts: tuple[int, int]) -> None:
    with torch.device("meta"):
        found = [count(make("tfn", dims=(width, *dims[1:]), dataset=dataset)) for width in (768, 384)]
    assert found == list(counts)


def test_the_representations_have_the_widths_of_mosis_preset() -> None:
    output = make("tfn", dims=MOSI).eval()(batch_of(dims=MOSI))
    assert {name: tuple(part.shape) for name, part in output.parts.items()} == {
        "t": (4, 32),
        "v": (4, 128),
        "a": (4, 32),
        "f": (4, 33 * 129 * 33),
    }
    assert output.prediction.shape == (4,)


def test_audio_and_vision_are_averaged_over_their_real_frames() -> None:
    model = stirred(make("tfn"))
    batch = batch_of()
    assert batch.audio is not None
    expected = model.clip_encoder.audio(masked_mean(batch.audio.values, batch.audio.mask))
    torch.testing.assert_close(model(with_junk(batch)).parts["a"], expected)


def test_what_stands_behind_the_mask_never_changes_a_prediction() -> None:
    model, batch = stirred(make("tfn")), batch_of()
    torch.testing.assert_close(model(with_junk(batch)).prediction, model(batch).prediction, atol=1e-6, rtol=0)


def test_the_rest_of_the_batch_never_changes_a_prediction() -> None:
    model, batch = stirred(make("tfn")), batch_of()
    torch.testing.assert_close(alone(model, batch), model(batch).prediction, atol=1e-5, rtol=0)


def test_the_loss_is_the_mean_absolute_error_alone() -> None:
    assert_absolute_error_alone(stirred(make("tfn")), batch_of())


def test_every_weight_but_the_frozen_text_encoders_gets_a_gradient(encoder: Path) -> None:
    model = make("tfn", text=text_encoder(encoder)).train()
    total_loss(model, batch_of(token_ids=True)).backward()
    assert not without_gradient(model)
    assert not any(name.startswith("text.") for name, p in model.named_parameters() if p.requires_grad)


def test_the_text_encoder_stays_in_evaluation_mode_unless_it_trains(encoder: Path) -> None:
    for trains in (False, True):
        model = make("tfn", {"tfn.train_text": trains}, text=text_encoder(encoder)).train()
        assert model.text is not None
        assert (model.text.training, model.text_is_frozen) == (trains, not trains)


def test_kept_states_of_a_frozen_text_encoder_give_the_same_prediction(encoder: Path) -> None:
    model = stirred(make("tfn", text=text_encoder(encoder)))
    batch = batch_of(token_ids=True)
    kept = replace(batch, states={"layer_4": model.text_states(batch)})
    assert torch.equal(model(kept).prediction, model(batch).prediction)


def test_a_text_encoder_that_trains_has_a_rate_of_its_own(encoder: Path) -> None:
    overrides = {"tfn.train_text": True}
    model = make("tfn", overrides, text=text_encoder(encoder))
    groups = model.parameter_groups(config_of("tfn", overrides), "main")
    assert [(group.learning_rate, group.weight_decay) for group in groups] == [(5e-5, 0.0), (1e-3, 0.0)]
    text, others = grouped(groups, model)
    assert text == text_names(model)
    assert text | others == {name for name, _ in model.named_parameters()}


def test_with_a_frozen_text_encoder_there_is_one_group(encoder: Path) -> None:
    model = make("tfn", text=text_encoder(encoder))
    groups = model.parameter_groups(config_of("tfn"), "main")
    assert [group.learning_rate for group in groups] == [1e-3]
    assert grouped(groups, model) == [{name for name, p in model.named_parameters() if p.requires_grad}]


def test_its_smallest_training_batch_is_the_one_that_batch_norm_can_train_on() -> None:
    model = make("tfn").train()
    sizes = {1: False, 2: True}
    for size, works in sizes.items():
        batch = batch_of(text=(3,) * size, audio=(2,) * size, vision=(4,) * size)
        if works:
            assert model(batch).prediction.isfinite().all()
        else:
            with pytest.raises(ValueError, match="more than 1 value"):
                model(batch)
    assert model.smallest_batch("main") == 2


def test_a_sub_network_is_batch_norm_and_three_layers_with_relu_behind_each() -> None:
    torch.manual_seed(0)
    net, vectors = SubNet(3, 4, dropout=0.5).eval(), torch.randn(6, 3)
    net.norm.running_mean, net.norm.running_var = torch.tensor([1.0, -1.0, 2.0]), torch.tensor([4.0, 0.5, 1.0])
    found = (vectors - net.norm.running_mean) / (net.norm.running_var + 1e-5).sqrt()
    for layer in (net.layers[0], net.layers[2], net.layers[4]):
        found = layer(found).relu()
    torch.testing.assert_close(net(vectors), found)


def test_a_sub_network_drops_in_training_alone() -> None:
    torch.manual_seed(0)
    net, vectors = SubNet(8, 8, dropout=0.5).train(), torch.randn(6, 8)
    assert not torch.equal(net(vectors), net(vectors))
    net.eval()
    assert torch.equal(net(vectors), net(vectors))


def test_every_dropout_reaches_its_place() -> None:
    shares = {"audio": 0.1, "vision": 0.2, "fusion": 0.4}
    model = make("tfn", {f"tfn.{name}_dropout": share for name, share in shares.items()})
    encoder, first = model.clip_encoder, model.head[0]
    assert isinstance(first, torch.nn.Dropout)
    assert (encoder.audio.dropout.p, encoder.vision.dropout.p, first.p) == (0.1, 0.2, 0.4)
