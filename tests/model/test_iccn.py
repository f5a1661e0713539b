"""ICCN: the correlation loss against known numbers and numpy, its two phases, the network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from baseline_support import (
    MOSEI,
    MOSI,
    SIMS,
    Dims,
    alone,
    batch_of,
    chosen,
    config_of,
    count,
    grouped,
    make,
    stirred,
    text_encoder,
    total_loss,
    with_junk,
)
from torch import Tensor
from torch.nn import functional as F

from conki_cli.model.baselines.iccn import correlation_loss
from conki_cli.model.contract import SentimentModel
from conki_cli.model.layers import masked_mean
from conki_cli.system.errors import ConkiError, SettingsError

SMALL = {"iccn.text_width": 8, "iccn.sequence_width": 8, "iccn.out_width": 2, "iccn.cca_epochs": 3}
CROSS = [(1, 0), (0, 1), (-1, 0), (0, -1)]


@pytest.fixture
def small() -> SentimentModel:
    return stirred(make("iccn", SMALL))


def views(B: int = 20, o: int = 4, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views that share some of what they hold, [B, o] each, in float64."""
    first, noise = torch.randn(2, B, o, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return first, 0.5 * first.flip(1) + noise


def canonical_by_numpy(first: np.ndarray, second: np.ndarray, ridge: float) -> tuple[np.ndarray, ...]:
    """Singular values [o] of S11^(-1/2) S12 S22^(-1/2), with roots by eigenvectors, and their directions [o, o] each.

    The columns of the directions have length 1: the ridge adds the same to a view and to its projections.
    """
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)

    def root(view: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(view.T @ view / (len(view) - 1) + ridge * np.eye(view.shape[1]))
        return vectors @ np.diag(values**-0.5) @ vectors.T

    roots = root(first), root(second)
    left, correlations, right = np.linalg.svd(roots[0] @ (first.T @ second / (len(first) - 1)) @ roots[1])
    one, two = (by @ vectors for by, vectors in zip(roots, (left, right.T), strict=True))
    return correlations, one / np.linalg.norm(one, axis=0), two / np.linalg.norm(two, axis=0)


@pytest.mark.parametrize(
    ("first", "second", "ridge", "expected"),
    [
        (CROSS, CROSS, 1e-3, -1.997004),
        (CROSS, CROSS, 0.0, -2.0),
        (CROSS, [(1, 1), (0, 1), (-1, 0), (0, -2)], 1e-3, -1.902051),
        (CROSS, [(1, 1), (0, 1), (-1, 0), (0, -2)], 0.0, -1.904534),
        ([(1, 0), (-1, 1), (1, 1), (-1, 0)], [(1, 2), (1, 0), (-1, 1), (-1, 3)], 1e-3, -0.998036),
    ],
)
def test_the_correlation_has_its_known_values(
    first: list[tuple[int, int]], second: list[tuple[int, int]], ridge: float, expected: float
) -> None:
    found = correlation_loss(torch.tensor(first).float(), torch.tensor(second).float(), ridge=ridge)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "ridge", "expected"),
    [
        (CROSS, [(1, 1), (0, 1), (-1, 0), (0, -2)], 1e-3, [0.998503, 0.903548]),
        (CROSS, [(1, 1), (0, 1), (-1, 0), (0, -2)], 0.0, [1.0, 0.904534]),
        ([(1, 0), (-1, 1), (1, 1), (-1, 0)], [(1, 2), (1, 0), (-1, 1), (-1, 3)], 1e-3, [0.998036, 0.0]),
    ],
)
def test_single_correlations_of_canonical_directions_have_their_known_values(
    first: list[tuple[int, int]], second: list[tuple[int, int]], ridge: float, expected: list[float]
) -> None:
    views = [np.array(view, dtype=float) for view in (first, second)]
    _, *directions = canonical_by_numpy(*views, ridge)
    one, two = (torch.from_numpy(view @ columns) for view, columns in zip(views, directions, strict=True))
    found = [-correlation_loss(one[:, [k]], two[:, [k]], ridge=ridge).item() for k in (0, 1)]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
def test_the_correlation_equals_the_formula_with_roots_of_matrices(ridge: float) -> None:
    first, second = views()
    expected = -canonical_by_numpy(first.numpy(), second.numpy(), ridge)[0].sum()
    assert correlation_loss(first, second, ridge=ridge).item() == pytest.approx(expected, abs=1e-10)


def test_without_a_ridge_no_affine_map_of_a_view_changes_the_correlation() -> None:
    first, second = views()
    generator = torch.Generator().manual_seed(3)
    mapped = second @ torch.randn(4, 4, generator=generator, dtype=torch.float64) + 7.0
    torch.testing.assert_close(correlation_loss(first, mapped, ridge=0.0), correlation_loss(first, second, ridge=0.0))


def test_the_two_views_may_change_places() -> None:
    first, second = views()
    torch.testing.assert_close(correlation_loss(first, second, ridge=1e-3), correlation_loss(second, first, ridge=1e-3))


def test_the_correlation_lies_between_minus_the_width_and_0() -> None:
    for seed in range(10):
        assert -4 <= correlation_loss(*views(6, seed=seed), ridge=1e-3).item() <= 0


def test_few_rows_correlate_whatever_they_hold() -> None:
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.randn(2, rows, 4, generator=generator) for rows in (4, 200))
    assert correlation_loss(*few, ridge=1e-3) < -2
    assert correlation_loss(*many, ridge=1e-3) > -1


def test_the_gradient_of_the_correlation_passes_the_numerical_check() -> None:
    first, second = (view.requires_grad_() for view in views(9, 3))
    assert torch.autograd.gradcheck(lambda a, b: correlation_loss(a, b, ridge=1e-3), (first, second))


def test_views_of_one_value_have_no_correlation_and_a_finite_gradient() -> None:
    first, second = torch.ones(5, 2, requires_grad=True), torch.zeros(5, 2)
    loss = correlation_loss(first, second, ridge=1e-3)
    (gradient,) = torch.autograd.grad(loss, first)
    assert loss.item() == 0
    assert gradient.isfinite().all()


def test_a_covariance_that_cannot_be_inverted_is_named_in_one_line() -> None:
    with pytest.raises(
        ConkiError, match=r"^iccn needs invertible covariances, but .*raise iccn.ridge, which is 0, or iccn.cca_batch"
    ):
        correlation_loss(torch.ones(5, 2), torch.zeros(5, 2), ridge=0.0)


def test_features_that_are_not_finite_give_a_loss_that_is_not_finite() -> None:
    broken = torch.full((5, 2), torch.nan)
    assert correlation_loss(broken, torch.zeros(5, 2), ridge=1e-3).isnan()


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (MOSI, 85_569),
        (MOSEI, 93_633),
        (SIMS, 154_401),
        ((384, *MOSI[1:]), 60_993),
        ((384, *MOSEI[1:]), 69_057),
        ((384, *SIMS[1:]), 129_825),
    ],
)
def test_the_network_has_the_known_number_of_parameters(dims: Dims, expected: int) -> None:
    assert count(make("iccn", dims=dims)) == expected


def test_what_lies_behind_the_mask_changes_nothing(small: SentimentModel) -> None:
    batch = batch_of()
    one, other = small(with_junk(batch)), small(batch)
    torch.testing.assert_close(one.prediction, other.prediction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dict(one.parts), dict(other.parts), atol=1e-5, rtol=1e-5)


def test_the_other_clips_change_no_score(small: SentimentModel) -> None:
    batch = batch_of()
    torch.testing.assert_close(small(batch).prediction, alone(small, batch), atol=1e-5, rtol=1e-5)


def test_the_representations_are_text_based_audio_the_text_and_text_based_vision() -> None:
    parts = make("iccn").eval()(batch_of()).parts
    sizes = {"t": (4, 64), "v": (4, 16), "a": (4, 16), "f": (4, 96)}
    assert {name: tuple(part.shape) for name, part in parts.items()} == sizes
    assert torch.equal(torch.cat([parts["a"], parts["t"], parts["v"]], dim=-1), parts["f"])


def test_text_of_zeros_leaves_the_interactions_nothing_but_their_biases(small: SentimentModel) -> None:
    torch.nn.init.zeros_(small.narrow.weight)
    torch.nn.init.zeros_(small.narrow.bias)
    parts = small(batch_of()).parts
    for name in ("a", "v"):
        torch.testing.assert_close(parts[name], parts[name][:1].expand(4, -1))


def test_the_first_epochs_correlate_and_are_not_judged(small: SentimentModel) -> None:
    assert [small.passes(epoch) for epoch in (1, 3, 4)] == [("cca",), ("cca",), ("main",)]
    assert [small.counts_for_selection(epoch) for epoch in (1, 3, 4)] == [False, False, True]


def test_without_epochs_of_correlation_the_scores_are_learnt_at_once() -> None:
    model = make("iccn", {**SMALL, "iccn.cca_epochs": 0})
    assert model.passes(1) == ("main",)
    assert model.counts_for_selection(1)


def test_the_correlation_has_a_batch_size_of_its_own(small: SentimentModel) -> None:
    assert small.batch_size("cca") == 128
    assert small.batch_size("main") is None


def test_the_correlation_needs_no_scores(small: SentimentModel) -> None:
    batch = batch_of()
    terms = small.loss(small(batch), batch, "cca")
    unknown = replace(batch, scores=torch.full((4,), torch.nan))
    assert list(terms) == ["cca"]
    assert small.loss(small(unknown), unknown, "cca") == terms


def test_the_term_of_the_correlation_is_that_of_the_text_based_views(small: SentimentModel) -> None:
    batch = batch_of()
    output = small(batch)
    expected = correlation_loss(output.parts["a"], output.parts["v"], ridge=1e-3)
    torch.testing.assert_close(small.loss(output, batch, "cca")["cca"], expected)


def test_a_batch_of_as_many_clips_as_features_is_not_correlated(small: SentimentModel) -> None:
    assert small.smallest_batch("cca") == 3
    assert small.smallest_batch("main") == 1
    assert make("iccn", {**SMALL, "iccn.cca_epochs": 0}).smallest_batch("cca") == 1


def test_joint_learns_both_losses_in_one_phase(encoder: Path) -> None:
    settings = {**SMALL, "iccn.joint": True, "iccn.joint_weight": 0.3}
    model, batch = make("iccn", settings, text=text_encoder(encoder)), batch_of(token_ids=True)
    assert (model.phases, model.passes(1), model.counts_for_selection(1)) == (("main",), ("main",), True)
    model.start_phase(1, "main")
    output = model.eval()(batch)
    terms = model.loss(output, batch, "main")
    correlation = correlation_loss(output.parts["a"], output.parts["v"], ridge=1e-3)
    torch.testing.assert_close(terms["cca"], 0.3 * correlation)
    torch.testing.assert_close(terms["task"], (output.prediction - batch.scores).abs().mean())
    torch.stack(list(terms.values())).sum().backward()
    pooler = {f"text.backbone.pooler.dense.{name}" for name in ("weight", "bias")}
    assert {name for name, p in model.named_parameters() if p.grad is None} == pooler
    stepped = grouped(model.parameter_groups(config_of("iccn", settings), "main"), model)
    assert set().union(*stepped) == {name for name, _ in model.named_parameters()}


def test_joint_leaves_the_correlation_of_a_batch_of_few_clips_out() -> None:
    model = make("iccn", {**SMALL, "iccn.joint": True})
    pair = chosen(batch_of(), [0, 1])
    assert list(model.loss(model(pair), pair, "main")) == ["task"]


def test_a_text_width_of_0_leaves_the_text_as_wide_as_its_states() -> None:
    model = make("iccn", {**SMALL, "iccn.text_width": 0})
    batch = batch_of()
    text = model(batch).parts["t"]
    torch.testing.assert_close(text, masked_mean(model.text_states(batch), batch.modality("text").mask))
    assert not any(name.startswith("narrow") for name, _ in model.named_parameters())
    with pytest.raises(SettingsError, match="must be 0 or at least 4, found 3"):
        make("iccn", {**SMALL, "iccn.text_width": 3})


def test_each_phase_gives_gradients_to_what_it_steps_alone(encoder: Path) -> None:
    model, batch = make("iccn", SMALL, text=text_encoder(encoder)), batch_of(token_ids=True)
    pooler = {f"text.backbone.pooler.dense.{name}" for name in ("weight", "bias")}
    for phase in model.phases:
        model.train()
        model.start_phase(1, phase)
        model.zero_grad()
        total_loss(model, batch, phase).backward()
        touched = {name for name, p in model.named_parameters() if p.grad is not None}
        stepped = set().union(*grouped(model.parameter_groups(config_of("iccn", SMALL), phase), model))
        assert touched == stepped - pooler


def test_every_parameter_is_stepped_in_one_phase(encoder: Path) -> None:
    model = make("iccn", SMALL, text=text_encoder(encoder), external_widths={"audio": 3})
    names = [
        name
        for phase in model.phases
        for group in grouped(model.parameter_groups(config_of("iccn", SMALL), phase), model)
        for name in group
    ]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_correlation_head_and_text_have_rates_of_their_own(encoder: Path) -> None:
    settings = {**SMALL, "iccn.lr_cca": 3e-3}
    model, config = make("iccn", settings, text=text_encoder(encoder)), config_of("iccn", settings)
    assert [group.learning_rate for group in model.parameter_groups(config, "cca")] == [3e-3]
    assert [group.learning_rate for group in model.parameter_groups(config, "main")] == [1e-3, 5e-5]


def test_while_it_correlates_the_text_encoder_neither_learns_nor_drops(encoder: Path) -> None:
    model = make("iccn", SMALL, text=text_encoder(encoder)).train()
    model.start_phase(1, "cca")
    assert not any(module.training for module in model.text.modules())
    assert model.interactions.training
    model.train()
    model.start_phase(4, "main")
    assert model.text.training
    total_loss(model, batch_of(token_ids=True)).backward()
    assert any(p.grad is not None for p in model.text.parameters())


def test_correlating_brings_the_views_together() -> None:
    model, batch = make("iccn", SMALL).train(), batch_of(text=(3, 4) * 8, audio=(5, 6) * 8, vision=(4, 6) * 8)
    optimizer = torch.optim.Adam([*model.vectors.parameters(), *model.interactions.parameters()], lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = total_loss(model, batch, "cca")
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2


def test_a_batch_too_small_to_correlate_is_refused_before_training() -> None:
    message = r"^iccn.cca_batch_size must exceed iccn.out_width, found 16 and 16: raise it to 64 or more$"
    with pytest.raises(SettingsError, match=message):
        make("iccn", {"iccn.cca_batch_size": 16})


def test_clips_of_one_frame_can_be_scored_alone(small: SentimentModel) -> None:
    batch = batch_of(text=(2,), audio=(1,), vision=(1,))
    assert small(batch).prediction.isfinite().all()


def test_while_it_correlates_the_text_encoder_keeps_nothing_for_a_gradient(encoder: Path) -> None:
    model, kept = make("iccn", SMALL, text=text_encoder(encoder)).train(), []
    model.text.register_forward_hook(lambda module, inputs, out: kept.append(out[1][-1].requires_grad))
    for epoch, phase in ((1, "cca"), (4, "main")):
        model.start_phase(epoch, phase)
        model(batch_of(token_ids=True))
    assert kept == [False, True]


def test_both_phases_decay_by_the_setting() -> None:
    model, config = make("iccn", SMALL), config_of("iccn", {**SMALL, "optimizer.weight_decay": 0.25})
    decays = {phase: [g.weight_decay for g in model.parameter_groups(config, phase)] for phase in model.phases}
    assert decays == {"cca": [0.25], "main": [0.25, 0.25]}  # of `main` one for the text encoder


def test_the_score_is_that_of_the_network_written_out(small: SentimentModel) -> None:
    batch = batch_of(text=(4,), audio=(7,), vision=(5,))
    text = small.narrow(batch.modality("text").values.mean(dim=1)).tanh()
    based = {}
    for name in ("audio", "vision"):
        reader, layers = small.vectors[name], small.interactions[name].layers
        sequence = reader.convolution(batch.modality(name).values.mT).relu().mT
        vector = reader.lstm(sequence)[0][:, -1]
        product = text.unsqueeze(-1) * vector.unsqueeze(-2)
        maps = F.max_pool2d(layers[0](product.unsqueeze(1)).relu(), 2)
        grid = F.adaptive_avg_pool2d(layers[3](maps).relu(), 4)
        based[name] = layers[7](grid.flatten(1))
    fused = torch.cat([based["audio"], text, based["vision"]], dim=-1)
    expected = small.head[2](small.head[0](fused).relu())[:, 0]
    torch.testing.assert_close(small(batch).prediction, expected)
