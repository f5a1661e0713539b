"""MMIM: its bounds of mutual information, the two passes of an epoch, and the bank between batches."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from baseline_support import MOSEI, MOSI, SIMS, Dims, batch_of, chosen, config_of, count, make, text_encoder, with_junk
from torch import Tensor, nn

from conki_cli.model.baselines.mmim import Mmim, contrastive_prediction, log_likelihood, polarity_entropy
from conki_cli.model.batches import Batch
from conki_cli.model.contract import Output

SQUARE = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])


def mmim(seed: int = 1) -> Mmim:
    model = make("mmim", {"mmim.dropout": 0}, seed=seed)
    assert isinstance(model, Mmim)
    return model


def clips(seed: int, size: int = 14) -> Batch:
    """Return clips half of which are positive, a seventh neutral."""
    scores = [1.0, -1.0, 1.0, -1.0, 0.0, 1.0, -1.0] * (1 + size // 7)
    lengths = [1 + (3 * k + seed) % 8 for k in range(size)]
    return batch_of(text=lengths, audio=lengths[::-1], vision=lengths, scores=scores[:size], seed=seed)


def backward(model: Mmim, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Output]:
    model.zero_grad()
    output = model(batch)
    terms = model.loss(output, batch, phase)
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    model.after_backward(output, batch, epoch=1, phase=phase)
    return {name: value.detach() for name, value in terms.items()}, output


def run_pass(model: Mmim, phase: str, seeds: range) -> list[dict[str, Tensor]]:
    """Make a pass over batches with the groups of its optimiser."""
    groups = model.parameter_groups(config_of("mmim"), phase)
    optimizer = torch.optim.Adam([{"params": g.parameters, "lr": g.learning_rate} for g in groups])
    model.start_phase(1, phase)
    found = []
    for seed in seeds:
        found.append(backward(model, clips(seed), phase)[0])
        optimizer.step()
    return found


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def covariance_entropy(rows: np.ndarray, scores: np.ndarray) -> float:
    """Return the entropies of both polarities by numpy's covariance."""
    sides = [np.cov(rows[side], rowvar=False, bias=True) for side in (scores > 0, scores < 0)]
    return 0.25 * sum(float(np.linalg.slogdet(side)[1]) for side in sides)


@pytest.mark.parametrize(
    ("dataset", "dims", "expected"),
    [
        ("mosi", (768, *MOSI[1:]), 281_673),
        ("mosei", (768, *MOSEI[1:]), 292_425),
        ("sims", (768, *SIMS[1:]), 373_449),
        ("mosi", (384, *MOSI[1:]), 158_409),
        ("mosei", (384, *MOSEI[1:]), 169_161),
        ("sims", (384, *SIMS[1:]), 250_185),
    ],
)
def test_with_the_fixed_projections_it_has_as_many_numbers_as_the_reference_has_parameters(
    dataset: str, dims: Dims, expected: int
) -> None:
    model = make("mmim", dims=dims, dataset=dataset)
    fixed = sum(buffer.numel() for buffer in model.projections.buffers())
    assert fixed == 136
    assert count(model) + fixed == expected


def test_the_likelihood_leaves_out_the_term_of_the_variance() -> None:
    mean, values = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    log_variance = torch.tensor([[0.0, math.log(2)], [0.0, 0.0]])
    assert float(log_likelihood(mean, log_variance, values)) == pytest.approx(-1.5)


@pytest.mark.parametrize(("rows", "value"), [((0, 1), 0.313262), ((1, 0), 1.313262)])
def test_a_prediction_is_told_from_those_of_the_other_clips(rows: tuple[int, int], value: float) -> None:
    assert float(contrastive_prediction(torch.eye(2), torch.eye(2)[list(rows)])) == pytest.approx(value, abs=1e-6)


def test_there_is_nothing_to_tell_apart_in_a_batch_of_one() -> None:
    assert float(contrastive_prediction(torch.tensor([[3.0, 4.0]]), torch.tensor([[-1.0, 0.0]]))) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_contrastive_prediction_is_bounded_by_the_batch(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    values, predicted = torch.randn(2, 9, 4, generator=draw)
    assert 0 <= float(contrastive_prediction(values, predicted)) <= 2 + math.log(9)


def test_the_entropy_of_a_square_and_its_half_is_the_known_one() -> None:
    rows, scores = torch.cat([SQUARE, SQUARE / 2]), torch.tensor([1.0] * 4 + [-0.4] * 4)
    assert float(polarity_entropy(rows, scores, ridge=0.0)) == pytest.approx(-0.693147, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_entropies_are_those_of_the_biased_covariance(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows, scores = draw.normal(size=(30, 4)), draw.normal(size=30)
    found = polarity_entropy(torch.from_numpy(rows), torch.from_numpy(scores), ridge=0.0)
    assert float(found) == pytest.approx(covariance_entropy(rows, scores), abs=1e-12)


def test_a_score_of_zero_belongs_to_neither_polarity() -> None:
    rows, scores = torch.cat([SQUARE, SQUARE / 2]), torch.tensor([1.0] * 4 + [-0.4] * 4)
    found = polarity_entropy(torch.cat([rows, 9 * SQUARE]), torch.cat([scores, torch.zeros(4)]), ridge=0.0)
    torch.testing.assert_close(found, polarity_entropy(rows, scores, ridge=0.0))


@pytest.mark.parametrize("scores", [[1.0] * 6, [1.0] * 5 + [-1.0] * 4, [0.2] * 4 + [-1.0] * 6, [0.0] * 6])
def test_a_polarity_with_too_few_clips_has_no_entropy_and_no_gradient(scores: list[float]) -> None:
    rows = torch.rand(len(scores), 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    entropy = polarity_entropy(rows, torch.tensor(scores), ridge=1e-6)
    torch.autograd.backward(entropy)
    assert float(entropy.detach()) == 0.0
    assert rows.grad is not None
    assert not rows.grad.any()


def test_clips_that_all_look_alike_leave_entropy_and_gradient_finite() -> None:
    rows = torch.ones(12, 4, requires_grad=True)
    entropy = polarity_entropy(rows, torch.tensor([1.0, -1.0]).repeat(6), ridge=1e-6)
    torch.autograd.backward(entropy)
    assert rows.grad is not None
    assert bool(entropy.isfinite())
    assert bool(rows.grad.isfinite().all())


def test_an_epoch_trains_the_likelihoods_and_then_the_rest() -> None:
    model = mmim().train()
    assert model.passes(1) == ("lld", "main")
    start = weights(model)
    run_pass(model, "lld", range(3))
    likelihoods = {name for name in start if name.startswith("mi_")}
    assert changed(model, start) == likelihoods
    middle = weights(model)
    run_pass(model, "main", range(4))
    assert changed(model, middle) == set(start) - likelihoods


def test_the_pass_lld_gives_a_gradient_to_the_likelihoods_alone() -> None:
    model = mmim().train()
    terms, _ = backward(model, clips(1), "lld")
    assert list(terms) == ["lld"]
    assert float(terms["lld"]) >= 0
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, _ in model.named_parameters() if name.startswith("mi_")
    }


def test_in_the_pass_main_everything_has_a_gradient() -> None:
    model = mmim().train()
    backward(model, clips(1), "main")
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_the_bounds_are_weighted_by_the_settings() -> None:
    model, batch = mmim().eval(), clips(1)
    output = model(batch)
    likelihood = -model.loss(output, batch, "lld")["lld"]
    terms = model.loss(output, batch, "main")
    torch.testing.assert_close(terms["mi"], -0.1 * likelihood)
    nce = sum(contrastive_prediction(output.parts[m], model.predictors[m](output.parts["f"])) for m in "tva")
    torch.testing.assert_close(terms["nce"], 0.1 * nce)


def test_entropies_begin_with_the_third_batch_of_every_epoch() -> None:
    model = mmim().train()
    for _ in range(2):
        assert all(list(terms) == ["lld"] for terms in run_pass(model, "lld", range(4)))
        present = ["entropy" in terms for terms in run_pass(model, "main", range(4))]
        assert present == [False, False, True, True]


def test_the_bank_holds_the_previous_batch_of_the_pass() -> None:
    model = mmim().train()
    model.start_phase(1, "main")
    assert len(model.bank) == 0
    for size in (14, 9, 3):
        backward(model, clips(seed=1, size=size), "main")
        assert (model.bank.shape, model.bank_scores.shape) == ((size, 8), (size,))
        assert not model.bank.requires_grad
    backward(model, clips(5), "lld")
    assert (len(model.bank), int(model.num_batches)) == (3, 3)
    model.start_phase(2, "main")
    assert (len(model.bank), len(model.bank_scores), int(model.num_batches)) == (0, 0, 0)


def test_entropies_run_over_the_bank_and_the_batch() -> None:
    model = mmim().eval()
    batches = [clips(seed) for seed in range(3)]
    for batch in batches[:2]:
        backward(model, batch, "main")
    outputs = [model(batch) for batch in batches]
    term = model.loss(outputs[2], batches[2], "main")["entropy"]
    scores = torch.cat([batch.scores for batch in batches[1:]]).double().numpy()
    expected = 0.0
    for name in ("v", "a"):
        projected = [model.projections[name](output.parts[name]).detach().double() for output in outputs[1:]]
        rows = torch.cat(projected).numpy()
        sides = [np.cov(rows[side], rowvar=False, bias=True) + 1e-6 * np.eye(4) for side in (scores > 0, scores < 0)]
        expected += 0.25 * sum(float(np.linalg.slogdet(side)[1]) for side in sides)
    assert float(term.detach()) == pytest.approx(-0.1 * expected, rel=1e-4)


def test_clips_that_all_look_alike_leave_the_term_of_the_entropies_finite() -> None:
    alike = torch.ones(12, 8)  # both projections, [B, 2 k]
    assert bool(mmim()._entropy(alike, torch.tensor([1.0, -1.0]).repeat(6)).isfinite())


def test_entropies_pull_at_this_batch() -> None:
    model = mmim().train()
    run_pass(model, "main", range(2))
    batch = clips(7)
    output = model(batch)
    term = model.loss(output, batch, "main")["entropy"]
    gradients = torch.autograd.grad(term, [output.parts["v"], output.parts["a"]])
    assert all(bool(gradient.any()) for gradient in gradients)


def test_the_projections_of_the_entropies_never_change() -> None:
    model = mmim().train()
    before = {name: value.clone() for name, value in model.projections.state_dict().items()}
    run_pass(model, "lld", range(2))
    run_pass(model, "main", range(4))
    assert list(model.projections.parameters()) == []
    assert all(torch.equal(value, before[name]) for name, value in model.projections.state_dict().items())


def test_a_pause_in_the_middle_of_a_pass_changes_no_bit() -> None:
    model = mmim().train()
    run_pass(model, "main", range(3))
    other = mmim(seed=2).train()  # other weights, other projections, no bank
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    for seed in (7, 8):
        terms, repeated = (backward(m, clips(seed), "main")[0] for m in (model, other))
        assert "entropy" in terms
        assert all(torch.equal(value, repeated[name]) for name, value in terms.items())
        assert torch.equal(model.bank, other.bank)


def test_the_bank_stays_behind_when_another_data_set_takes_over() -> None:
    model = mmim()
    assert not {"bank", "bank_scores"} & set(model.handed_over())
    assert {f"projections.{name}" for name in model.projections.state_dict()} <= set(model.handed_over())


def test_predictions_need_neither_scores_nor_bank() -> None:
    model, batch = mmim(), clips(1)
    run_pass(model.train(), "main", range(3))
    model.eval()
    before = model(batch).prediction
    model.start_phase(2, "main")
    assert torch.equal(model(replace(batch, scores=torch.full((14,), torch.nan))).prediction, before)


def test_names_tell_what_belongs_to_the_likelihoods() -> None:
    names = [name for name, _ in mmim().named_parameters()]
    assert not [name for name in names if "bert" in name]
    assert {name.split(".")[0] for name in names if name.startswith("mi_")} == {"mi_likelihoods"}


def test_the_optimisers_of_both_passes_share_the_parameters_out(encoder: Path) -> None:
    model, config = mmim(), config_of("mmim")
    model.text = text_encoder(encoder)
    groups = [group for phase in model.phases for group in model.parameter_groups(config, phase)]
    grouped = [id(p) for group in groups for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert [(group.learning_rate, group.weight_decay) for group in groups] == [(1e-3, 1e-4), (5e-5, 1e-4), (1e-3, 1e-4)]


def test_on_mosei_the_pass_lld_sees_half_of_the_batches() -> None:
    model = make("mmim", dataset="mosei")
    assert (model.share("lld"), model.share("main")) == (0.5, 1.0)


def test_matrices_start_normal_those_of_the_lstms_included() -> None:
    matrix = mmim().audio.lstm.weight_hh_l0.detach()
    assert float(matrix.abs().max()) > 1 / math.sqrt(16)  # torch's own start is uniform up to this
    assert float(matrix.std()) == pytest.approx(math.sqrt(2 / (64 + 16)), rel=0.1)


def test_a_batch_of_one_trains_and_predicts_as_it_does_among_others() -> None:
    model, whole = mmim().eval(), clips(1)
    one = chosen(whole, [3])
    torch.testing.assert_close(model(one).prediction, model(whole).prediction[3:4], atol=1e-6, rtol=0)
    for _ in range(4):
        terms, _ = backward(model, one, "main")
        assert all(bool(value.isfinite()) for value in terms.values())


def test_junk_behind_the_mask_changes_nothing() -> None:
    model, batch = mmim().eval(), clips(1)
    found, expected = model(with_junk(batch)), model(batch)
    for name, part in expected.parts.items():
        torch.testing.assert_close(found.parts[name], part, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.prediction, expected.prediction, atol=1e-6, rtol=0)


def test_contrastive_prediction_is_its_definition_written_with_loops() -> None:
    draw = torch.Generator().manual_seed(3)
    values, predicted = torch.randn(2, 5, 4, generator=draw, dtype=torch.float64)
    total = 0.0
    for i in range(5):
        cosines = [float(values[i] @ row / (values[i].norm() * row.norm())) for row in predicted]
        total -= cosines[i] - math.log(sum(math.exp(cosine) for cosine in cosines))
    assert float(contrastive_prediction(values, predicted)) == pytest.approx(total / 5)


def test_the_score_is_that_of_the_network_written_out() -> None:
    model, batch = mmim().eval(), clips(1)
    text = batch.modality("text").values[:, 0]
    vision, audio = (batch.modality(name) for name in ("vision", "audio"))
    v, a = model.vision(vision.values, vision.mask), model.audio(audio.values, audio.mask)
    first, second = model.fusion[0], model.fusion[2]
    fused = second(first(torch.cat([text, a, v], dim=1)).tanh()).tanh()
    torch.testing.assert_close(model(batch).prediction, model.score(fused)[:, 0])


def test_the_fusion_is_thinned_out_in_training() -> None:
    model, batch = make("mmim", {"mmim.dropout": 0.5}).train(), clips(1)
    assert not torch.equal(model(batch).prediction, model(batch).prediction)


def test_a_fixed_projection_is_bounded() -> None:
    model = mmim()
    projection, vectors = model.projections["v"], torch.randn(9, 16)
    expected = torch.tanh(vectors @ projection.weight.T + projection.bias)
    torch.testing.assert_close(projection(vectors), expected)


def test_a_pretrained_text_encoder_keeps_its_weights(encoder: Path) -> None:
    model, fresh = make("mmim", text=text_encoder(encoder)), text_encoder(encoder)
    assert model.text is not None
    for name, weights in fresh.state_dict().items():
        assert torch.equal(model.text.state_dict()[name], weights), name


def test_the_likelihoods_have_a_rate_of_their_own_and_decay() -> None:
    config = config_of("mmim", {"mmim.lr_mi": 0.5, "optimizer.weight_decay": 0.25})
    model = make("mmim", {"mmim.lr_mi": 0.5})
    (group,) = model.parameter_groups(config, "lld")
    assert (group.learning_rate, group.weight_decay) == (0.5, 0.25)


def test_the_pass_lld_keeps_nothing_of_the_text_encoder_for_a_gradient(encoder: Path) -> None:
    model, kept = make("mmim", text=text_encoder(encoder)).train(), []
    assert model.text is not None
    model.text.register_forward_hook(lambda module, inputs, out: kept.append(out[1][-1].requires_grad))
    for phase in model.phases:
        model.start_phase(1, phase)
        model(batch_of(token_ids=True))
    assert kept == [False, True]
