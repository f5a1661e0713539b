"""The losses against golden values, a literal reading of Section 3.4, and Figure 4."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conki_cli.model.losses import (
    Reduction,
    absolute_loss,
    equal_pairs,
    hierarchical_contrastive_loss,
    ignored_pairs,
    positive_pairs,
    sentiment_intervals,
    task_loss,
    unit_vectors,
)

Vector = tuple[int, str, int]  # sample, "O" or "A", modality


def golden_vectors() -> tuple[Tensor, Tensor]:
    i, m, k = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (3, 3, 4)), indexing="ij")
    return torch.cos(0.7 * i + 0.3 * m + 0.5 * k), torch.sin(1.1 * i - 0.3 * m + 0.9 * k + 0.2)


def random_batch(B: int, M: int, D: int = 5, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors and scores in float64, the scores on a grid that holds halves."""
    generator = torch.Generator().manual_seed(seed)
    pan, specific = torch.randn(2, B, M, D, generator=generator, dtype=torch.float64)
    scores = torch.randint(-6, 7, (B,), generator=generator).double() / 2
    return pan, specific, scores


def literal_pairs(
    scores: list[float], M: int, kinds: str, present: Tensor | None = None
) -> list[dict[str, set[tuple[Vector, Vector]]]]:
    """For each sample its P1, P2, N1 and N2 in both orders, by the set builders of Section 3.4.

    Where `present` [B, M] says what the samples have, pairs with a vector of anything else are taken out one by one.
    """
    samples, modalities, everything = range(len(scores)), range(M), []
    for i in samples:
        p1 = {((i, k, m), (i, k, n)) for k in kinds for m in modalities for n in modalities if m != n}
        p2 = {
            ((i, k, m), (j, k, n))
            for (k, m, n, j) in itertools.product(kinds, modalities, modalities, samples)
            if j != i and round(scores[i]) == round(scores[j])
        }
        own = itertools.product([i], kinds, modalities)
        other = list(itertools.product(samples, kinds, modalities))
        pairs = {(p, q) for p in own for q in other if p != q}
        n1 = {(p, q) for (p, q) in pairs if p[1] != q[1]}
        everything.append({"P1": p1, "P2": p2, "N1": n1, "N2": pairs - p1 - p2 - n1})
    if present is None:
        return everything
    return [
        {name: {pair for pair in pairs if all(present[i, m] for i, _, m in pair)} for name, pairs in sets.items()}
        for sets in everything
    ]


def literal_loss(
    pan: Tensor,
    specific: Tensor | None,
    scores: Tensor,
    *,
    temperature: float,
    inter_knowledge: bool,
    reduction: str,
    present: Tensor | None = None,
) -> Tensor:
    """The definition of L_con, pair by pair."""
    vectors = {"O": pan} if specific is None else {"O": pan, "A": specific}

    def f(p: Vector, q: Vector) -> Tensor:
        first, second = vectors[p[1]][p[0], p[2]], vectors[q[1]][q[0], q[2]]
        return torch.exp(first @ second / first.norm() / second.norm() / temperature)

    terms = []
    for sets in literal_pairs(scores.tolist(), pan.shape[1], "".join(vectors), present):
        positive = sets["P1"] | sets["P2"]
        everything = positive | sets["N2"] | (sets["N1"] if inter_knowledge else set())
        anchors = [None] if reduction == "sample-sum" else sorted({p for p, _ in positive})
        for anchor in anchors:
            mine = [pair for pair in positive if anchor in (None, pair[0])]
            if mine:
                bottom = torch.stack([f(p, q) for p, q in everything if anchor in (None, p)]).sum()
                terms.append(-torch.stack([torch.log(f(p, q) / bottom) for p, q in mine]).mean())
    total = torch.stack(terms).sum() if terms else pan.sum() * 0
    return total if reduction == "sample-sum" else total / max(len(terms), 1)


@pytest.mark.parametrize(
    ("temperature", "full", "without_n1", "anchor_mean"),
    [
        (1.0, 13.111787860286864, 10.978471158019968, 2.562868899387013),
        (0.07, 19.84931210401341, 17.92385911940296, 4.739167096897564),
    ],
)
def test_golden_values_are_met_to_nine_digits(
    temperature: float, full: float, without_n1: float, anchor_mean: float
) -> None:
    pan, specific = golden_vectors()
    scores = torch.tensor([1.2, 0.8, -2.0])

    loss = partial(hierarchical_contrastive_loss, pan, specific, scores, temperature=temperature)
    assert loss().item() == pytest.approx(full, abs=1e-9)
    assert loss(inter_knowledge=False).item() == pytest.approx(without_n1, abs=1e-9)
    assert loss(reduction="anchor-mean").item() == pytest.approx(anchor_mean, abs=1e-9)


@pytest.mark.parametrize("reduction", ["sample-sum", "anchor-mean"])
@pytest.mark.parametrize("inter_knowledge", [True, False])
@pytest.mark.parametrize("with_specific", [True, False])
@pytest.mark.parametrize(("B", "M", "temperature"), [(1, 3, 0.5), (4, 1, 0.07), (3, 2, 1.0), (4, 3, 0.2)])
def test_value_and_gradient_equal_the_definition_written_pair_by_pair(
    B: int, M: int, temperature: float, with_specific: bool, inter_knowledge: bool, reduction: Reduction
) -> None:
    pan, specific, scores = random_batch(B, M, seed=B * M)
    leaves = [pan.requires_grad_(), specific.requires_grad_()][: 1 + with_specific]
    values = [
        loss(
            pan,
            specific if with_specific else None,
            scores,
            temperature=temperature,
            inter_knowledge=inter_knowledge,
            reduction=reduction,
        )
        for loss in (hierarchical_contrastive_loss, literal_loss)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    ours, theirs = (torch.autograd.grad(value, leaves) for value in values)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("reduction", ["sample-sum", "anchor-mean"])
@pytest.mark.parametrize("inter_knowledge", [True, False])
@pytest.mark.parametrize("with_specific", [True, False])
def test_vectors_of_absent_modalities_are_in_no_pair(
    with_specific: bool, inter_knowledge: bool, reduction: Reduction
) -> None:
    pan, specific, scores = random_batch(4, 3, seed=3)
    present = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 1, 0]]).bool()
    scores[1] = scores[0]
    leaves = [pan.requires_grad_(), specific.requires_grad_()][: 1 + with_specific]
    rest = {"temperature": 0.3, "inter_knowledge": inter_knowledge, "reduction": reduction, "present": present}
    one, other = (
        loss(pan, specific if with_specific else None, scores, **rest)
        for loss in (hierarchical_contrastive_loss, literal_loss)
    )
    torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    gradients = [torch.autograd.grad(value, leaves) for value in (one, other)]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)
    assert all(gradient[~present].eq(0).all() for gradient in gradients[0])


def test_a_sample_without_anything_changes_no_other_and_adds_nothing() -> None:
    pan, specific, scores = random_batch(4, 3, seed=5)
    present = torch.ones(4, 3).bool()
    present[3] = False
    whole = hierarchical_contrastive_loss(pan, specific, scores, present=present)
    torch.testing.assert_close(whole, hierarchical_contrastive_loss(pan[:3], specific[:3], scores[:3]))


def test_figure_4_pairs_samples_1_and_2_and_leaves_sample_3_to_itself() -> None:
    kinds = torch.tensor([0, 0, 0, 1, 1, 1] * 3)
    intervals = sentiment_intervals(torch.tensor([1.2, 0.8, -2.0])).repeat_interleave(6)
    both_kinds = torch.eye(2)
    own = torch.kron(both_kinds, 1 - torch.eye(3))  # P1: the cells with red borders
    shared = torch.kron(both_kinds, torch.ones(3, 3))  # P2
    apart = torch.zeros(6, 6)
    figure = torch.cat([torch.cat(row, 1) for row in ([own, shared, apart], [shared, own, apart], [apart, apart, own])])
    assert torch.equal(positive_pairs(intervals, kinds), figure.bool())


def test_the_pair_masks_are_the_sets_p1_p2_and_n1_of_the_paper() -> None:
    scores = [0.4, 1.5, 2.4, -0.3, -1.0]
    order = list(itertools.product(range(5), "OA", range(3)))
    sets = literal_pairs(scores, 3, "OA")
    kinds = torch.tensor([kind == "A" for _, kind, _ in order])
    intervals = sentiment_intervals(torch.tensor(scores)).repeat_interleave(6)
    positive, ignored = positive_pairs(intervals, kinds), ignored_pairs(kinds, inter_knowledge=False)
    for (a, p), (b, q) in itertools.product(enumerate(order), repeat=2):
        assert positive[a, b] == ((p, q) in sets[p[0]]["P1"] | sets[p[0]]["P2"])
        assert ignored[a, b] == (p == q or (p, q) in sets[p[0]]["N1"])


def test_pairs_are_equal_where_their_labels_are_and_nan_equals_nothing() -> None:
    found = equal_pairs(torch.tensor([1.0, -2.0, 1.0, float("nan")]))
    assert found.tolist() == [
        [True, False, True, False],
        [False, True, False, False],
        [True, False, True, False],
        [False] * 4,
    ]


def test_unit_vectors_have_length_1_and_zeros_stay_zeros() -> None:
    found = unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_only_a_vector_with_itself_is_ignored_when_n1_is_kept() -> None:
    assert torch.equal(ignored_pairs(torch.tensor([0, 1, 0])), torch.eye(3, dtype=torch.bool))


def test_halves_are_rounded_to_the_even_integer() -> None:
    scores = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert sentiment_intervals(scores).tolist() == [-2, -2, 0, 0, 2, 2]


def test_the_order_of_the_batch_does_not_matter() -> None:
    pan, specific, scores = random_batch(6, 3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    value = hierarchical_contrastive_loss(pan, specific, scores)
    torch.testing.assert_close(hierarchical_contrastive_loss(pan[order], specific[order], scores[order]), value)


def test_the_length_of_a_vector_does_not_matter() -> None:
    pan, specific, scores = random_batch(4, 3)
    lengths = torch.tensor([1e-6, 0.3, 7.0, 1e6], dtype=torch.float64)[:, None, None]
    value = hierarchical_contrastive_loss(pan, specific, scores)
    torch.testing.assert_close(hierarchical_contrastive_loss(pan * lengths, specific, scores), value)


def test_the_printed_formula_weighs_about_a_batch_times_the_released_one() -> None:
    pan, specific, scores = random_batch(8, 3, 64)
    printed = hierarchical_contrastive_loss(pan, specific, scores, temperature=10.0)
    released = hierarchical_contrastive_loss(pan, specific, scores, temperature=10.0, reduction="anchor-mean")
    # At a high temperature every f is nearly equal: 8 log(6 * 47) against log(47).
    assert printed.item() == pytest.approx(8 * math.log(6 * 47), rel=0.01)
    assert released.item() == pytest.approx(math.log(47), rel=0.01)


@pytest.mark.parametrize("reduction", ["sample-sum", "anchor-mean"])
@pytest.mark.parametrize("inter_knowledge", [True, False])
@pytest.mark.parametrize("with_specific", [True, False])
def test_a_batch_without_positive_pairs_gives_zero_and_a_zero_gradient(
    reduction: Reduction, inter_knowledge: bool, with_specific: bool
) -> None:
    pan = torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = hierarchical_contrastive_loss(
        pan,
        pan.flip(-1) if with_specific else None,
        torch.tensor([1.0]),
        inter_knowledge=inter_knowledge,
        reduction=reduction,
    )
    (gradient,) = torch.autograd.grad(loss, pan)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros_like(pan))


def test_a_sample_without_partner_adds_nothing_to_the_others_mean() -> None:
    pan, _, _ = random_batch(3, 1)
    scores = torch.tensor([1.0, 1.0, -3.0])
    loss = hierarchical_contrastive_loss(pan, None, scores, temperature=1.0, reduction="anchor-mean")
    unit = F.normalize(pan[:, 0], dim=-1)
    cosines = unit @ unit.T
    first = torch.logsumexp(cosines[0, [1, 2]], 0) - cosines[0, 1]
    second = torch.logsumexp(cosines[1, [0, 2]], 0) - cosines[1, 0]
    torch.testing.assert_close(loss, (first + second) / 2)


def test_vectors_of_zeros_stay_finite_and_pass_no_gradient() -> None:
    pan, specific, scores = (part.float() for part in random_batch(4, 3))
    pan[0] = 0
    loss = hierarchical_contrastive_loss(pan.requires_grad_(), specific, scores)
    (gradient,) = torch.autograd.grad(loss, pan)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[0], torch.zeros(3, 5))
    assert gradient[1].abs().max() < 1e3


def test_a_tiny_temperature_overflows_nowhere() -> None:
    pan, specific, scores = (part.float() for part in random_batch(4, 3))
    loss = hierarchical_contrastive_loss(pan.requires_grad_(), specific, scores, temperature=1e-4)
    (gradient,) = torch.autograd.grad(loss, pan)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_autocast_to_bfloat16_does_not_reach_the_loss() -> None:
    pan, specific, scores = (part.float() for part in random_batch(8, 3, 64))
    exact = hierarchical_contrastive_loss(pan, specific, scores)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hierarchical_contrastive_loss(pan, specific, scores), exact)


def test_bfloat16_vectors_are_contrasted_in_float32() -> None:
    pan, specific = (part.bfloat16() for part in random_batch(8, 3, 64)[:2])
    scores = torch.arange(8.0) % 3
    loss = hierarchical_contrastive_loss(pan, specific, scores)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, hierarchical_contrastive_loss(pan.float(), specific.float(), scores))


def test_two_precisions_may_meet_in_one_batch() -> None:
    pan, specific, scores = (part.float() for part in random_batch(4, 3))
    mixed = hierarchical_contrastive_loss(pan.bfloat16(), specific, scores)
    torch.testing.assert_close(mixed, hierarchical_contrastive_loss(pan.bfloat16().float(), specific, scores))


@pytest.mark.parametrize("reduction", ["sample-sum", "anchor-mean"])
def test_the_gradient_passes_the_numerical_check(reduction: Reduction) -> None:
    pan, specific, scores = random_batch(3, 2)

    def loss(pan: Tensor, specific: Tensor) -> Tensor:
        return hierarchical_contrastive_loss(pan, specific, scores, reduction=reduction, inter_knowledge=False)

    assert torch.autograd.gradcheck(loss, (pan.requires_grad_(), specific.requires_grad_()))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3), (2, 3), (2,)), "pan must be"),
        (((0, 3, 4), (0, 3, 4), (0,)), "at least one sample"),
        (((2, 3, 4), (2, 2, 4), (2,)), "specific must have the shape of pan"),
        (((2, 3, 4), (2, 3, 4), (2, 1)), "scores must be"),
    ],
)
def test_wrong_shapes_are_named(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hierarchical_contrastive_loss(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("setting", [{"reduction": "mean"}, {"temperature": 0.0}])
def test_impossible_settings_are_named(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        hierarchical_contrastive_loss(torch.ones(2, 3, 4), None, torch.ones(2), **setting)  # type: ignore[arg-type]


def test_the_task_loss_is_the_mean_squared_error() -> None:
    assert task_loss(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])).item() == 5.0


def test_the_task_loss_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        task_loss(torch.zeros(4, 1), torch.zeros(4))


def test_the_absolute_loss_is_the_mean_absolute_error() -> None:
    assert absolute_loss(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])).item() == 2.0


def test_the_absolute_loss_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        absolute_loss(torch.zeros(4, 1), torch.zeros(4))
