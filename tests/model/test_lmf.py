"""LMF: the low-rank fusion against the tensor it stands for, its factors, and the parameter counts."""

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
    total_loss,
    with_junk,
    without_gradient,
)

from conki_cli.model.baselines.lmf import LowRankFusion
from conki_cli.model.baselines.tfn import outer_product

VECTORS = {"a": torch.tensor([[1.0, 2.0]]), "v": torch.tensor([[3.0]]), "t": torch.tensor([[4.0, 5.0]])}


def fusion_by_hand() -> LowRankFusion:
    fusion = LowRankFusion({"t": 2, "v": 1, "a": 2}, 2)
    with torch.no_grad():
        fusion.factors["a"].copy_(torch.tensor([[0.1, 0.2, 0.3], [1.0, 0.0, -1.0]]))
        fusion.factors["v"].copy_(torch.tensor([[0.5, 0.5], [1.0, -1.0]]))
        fusion.factors["t"].copy_(torch.tensor([[1.0, 0.0, 0.1], [0.0, 1.0, 0.0]]))
        fusion.combination.weight.copy_(torch.tensor([[2.0, -1.0]]))
        fusion.combination.bias.fill_(0.5)
    return fusion


def dense_weights(fusion: LowRankFusion) -> torch.Tensor:
    """Rebuild the full tensor of weights, flat in the order of TFN's outer product."""
    factors = [fusion.factors[name] for name in "avt"]
    return torch.einsum("k,ki,kj,kl->ijl", fusion.combination.weight[0], *factors).flatten()


def test_two_ranks_by_hand() -> None:
    scores, products = fusion_by_hand()(VECTORS)
    torch.testing.assert_close(products, torch.tensor([[2.7, 8.0]]))
    torch.testing.assert_close(scores, torch.tensor([-2.1]))


def test_the_tensor_by_hand_gives_the_same_score() -> None:
    fusion = fusion_by_hand()
    product = outer_product(VECTORS["a"], VECTORS["v"], VECTORS["t"])
    torch.testing.assert_close(product @ dense_weights(fusion) + 0.5, torch.tensor([-2.1]))


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_it_is_tfns_tensor_read_through_weights_of_low_rank(rank: int) -> None:
    torch.manual_seed(rank)
    fusion = LowRankFusion({"t": 6, "v": 5, "a": 3}, rank).double()
    torch.nn.init.normal_(fusion.combination.bias)
    vectors = {name: torch.randn(4, d, dtype=torch.float64) for name, d in (("t", 6), ("v", 5), ("a", 3))}
    product = outer_product(vectors["a"], vectors["v"], vectors["t"])
    expected = product @ dense_weights(fusion) + fusion.combination.bias
    torch.testing.assert_close(fusion(vectors)[0], expected)


def test_the_order_of_the_ranks_does_not_matter() -> None:
    fusion = fusion_by_hand()
    with torch.no_grad():
        for weights in (*fusion.factors.values(), fusion.combination.weight.T):
            weights.copy_(weights.flip(0).clone())
    torch.testing.assert_close(fusion(VECTORS)[0], torch.tensor([-2.1]))


def test_the_factors_start_as_the_authors() -> None:
    torch.manual_seed(0)
    fusion = LowRankFusion({"t": 5000, "v": 5000, "a": 5000}, 4)
    for factor in fusion.factors.values():
        assert float(factor.detach().std()) == pytest.approx((2 / (5001 + 4)) ** 0.5, rel=0.03)
        assert float(factor.detach().abs().max()) > (6 / (5001 + 4)) ** 0.5  # Xavier's uniform start ends there
    assert float(fusion.combination.bias.detach()) == 0


@pytest.mark.parametrize(
    ("dataset", "dims", "counts"),
    [
        ("mosi", MOSI, (505_071, 308_463)),
        ("mosei", MOSEI, (508_475, 311_867)),
        ("sims", SIMS, (272_381, 174_077)),
    ],
)
def test_it_has_as_many_parameters_as_mmsas(dataset: str, dims: Dims, counts: tuple[int, int]) -> None:
    found = [count(make("lmf", dims=(width, *dims[1:]), dataset=dataset)) for width in (768, 384)]
    assert found == list(counts)


def test_the_fusion_of_mosi_has_633_weights_in_factors_and_four_more() -> None:
    fusion = make("lmf", dims=MOSI).fusion
    assert sum(factor.numel() for factor in fusion.factors.values()) == 3 * (17 + 129 + 65) == 633
    assert sum(weights.numel() for weights in fusion.combination.parameters()) == 4


def test_the_representations_have_the_widths_of_mosis_preset() -> None:
    output = make("lmf", dims=MOSI).eval()(batch_of(dims=MOSI))
    widths = {name: part.shape[1] for name, part in output.parts.items()}
    assert widths == {"t": 64, "v": 128, "a": 16, "f": 3}
    assert output.prediction.shape == (4,)


def test_rank_weights_and_bias_train() -> None:
    model, batch = make("lmf").train(), batch_of()
    groups = model.parameter_groups(config_of("lmf"), "main")
    optimizer = torch.optim.Adam([{"params": group.parameters, "lr": group.learning_rate} for group in groups])
    before = [weights.detach().clone() for weights in model.fusion.combination.parameters()]
    total_loss(model, batch).backward()
    optimizer.step()
    assert not without_gradient(model)
    for old, new in zip(before, model.fusion.combination.parameters(), strict=True):
        assert (old != new).all()


def test_the_factors_have_a_rate_of_their_own_and_everything_decays(encoder: Path) -> None:
    overrides = {"lmf.train_text": True, "lmf.lr_factors": 0.5}
    model = make("lmf", overrides, text=text_encoder(encoder))
    groups = model.parameter_groups(config_of("lmf", overrides), "main")
    assert [(group.learning_rate, group.weight_decay) for group in groups] == [(5e-5, 5e-3), (0.5, 5e-3), (1e-3, 5e-3)]
    text, factors, others = grouped(groups, model)
    assert factors == {"fusion.factors.t", "fusion.factors.v", "fusion.factors.a"}
    assert all(name.startswith("text.") for name in text)
    assert sum(map(len, (text, factors, others))) == len(list(model.parameters()))


def test_a_frozen_text_encoder_is_in_no_group_and_stays_in_evaluation_mode(encoder: Path) -> None:
    model = make("lmf", text=text_encoder(encoder)).train()
    names = set().union(*grouped(model.parameter_groups(config_of("lmf"), "main"), model))
    assert names == {name for name, _ in model.named_parameters() if not name.startswith("text.")}
    assert model.text_is_frozen
    assert not any(module.training for name, module in model.named_modules() if name.startswith("text"))


def test_what_stands_behind_the_mask_never_changes_a_prediction() -> None:
    model, batch = stirred(make("lmf")), batch_of()
    torch.testing.assert_close(model(with_junk(batch)).prediction, model(batch).prediction, atol=1e-5, rtol=0)


def test_the_rest_of_the_batch_never_changes_a_prediction() -> None:
    model, batch = stirred(make("lmf")), batch_of()
    torch.testing.assert_close(alone(model, batch), model(batch).prediction, atol=1e-5, rtol=0)


def test_the_loss_is_the_mean_absolute_error_alone() -> None:
    assert_absolute_error_alone(stirred(make("lmf")), batch_of())
