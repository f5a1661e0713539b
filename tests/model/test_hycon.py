"""HyCon: the three contrasts by their definition and known numbers, the encoders, the groups."""

import itertools
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
from torch import Tensor
from torch.nn import functional as F

from conki_cli.model.baselines.hycon import contrasts, ratio_loss
from conki_cli.model.baselines.transformer import Dropouts
from conki_cli.model.batches import Padded
from conki_cli.model.contract import SentimentModel
from conki_cli.system.errors import SettingsError

E, Q, U = (1.0, 0.0), (0.0, 1.0), (0.5**0.5, 0.5**0.5)
SMALL = {"hycon.width": 6, "hycon.num_heads": 2, "hycon.num_layers": 2}


def without_positions(length: int, width: int, *, device: torch.device) -> Tensor:
    """Stand in for the position vectors, [L, D]: every position looks the same."""
    return torch.zeros(length, width, device=device)


@pytest.fixture
def small() -> SentimentModel:
    return stirred(make("hycon", SMALL))


def random_vectors(B: int = 5, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Non-negative vectors [B, 3, 4] and scores of both classes, in float64."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.rand(B, 3, 4, generator=generator, dtype=torch.float64)
    return vectors, torch.tensor([1.0, -2.0, 0.0, -0.5, 3.0, -1.0][:B], dtype=torch.float64)


def literal_ratio(vectors: Tensor, scores: Tensor, *, across: bool, target: float) -> tuple[Tensor, Tensor]:
    """The two parts of the intra- or inter-modal contrast, anchor by anchor: the ratio and the distance to a target."""
    B, M, _ = vectors.shape
    unit, ratios, distances = F.normalize(vectors, dim=-1), [], []
    for i, m in itertools.product(range(B), range(M)):
        others = [(j, n) for j, n in itertools.product(range(B), range(M)) if j != i and (n != m) == across]
        positive = [(j, n) for j, n in others if (scores[j] >= 0) == (scores[i] >= 0)]
        if positive:
            everything = torch.stack([unit[i, m] @ unit[pair] for pair in others]).sum()
            mine = torch.stack([unit[i, m] @ unit[pair] for pair in positive])
            ratios.append(-mine.sum() / everything)
            distances.append(((mine - target) ** 2).mean())
    return torch.stack(ratios).mean(), torch.stack(distances).mean()


@pytest.mark.parametrize(
    ("vectors", "scores", "expected"),
    [
        ([[E, E, E], [E, E, E], [Q, Q, Q]], [1.0, 1.0, -1.0], (-1.0, -0.96, 0.04)),
        ([[E, U, E], [E, E, U], [Q, U, Q]], [1.0, 1.0, -1.0], (-0.678511, -0.670445, 0.019086)),
        ([[E, E, E]] * 3, [1.0, 1.0, 1.0], (-1.0, -0.96, 0.04)),
    ],
)
def test_the_contrasts_have_their_known_values(
    vectors: list[list[tuple[float, float]]], scores: list[float], expected: tuple[float, float, float]
) -> None:
    found = contrasts(torch.tensor(vectors, dtype=torch.float64), torch.tensor(scores))
    assert [found[name].item() for name in ("intra", "inter", "semi")] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_contrasts_equal_their_definition_written_anchor_by_anchor(seed: int) -> None:
    vectors, scores = random_vectors(seed=seed)
    found = contrasts(vectors, scores)
    torch.testing.assert_close(found["intra"], sum(literal_ratio(vectors, scores, across=False, target=1.0)))
    torch.testing.assert_close(found["inter"], sum(literal_ratio(vectors, scores, across=True, target=0.8)))
    unit = F.normalize(vectors, dim=-1)
    pairs = [(unit[i, m] * unit[i, n]).sum() for i in range(5) for m, n in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(found["semi"], ((torch.stack(pairs) - 0.8) ** 2).mean())


def test_a_score_of_zero_belongs_to_the_positive_class() -> None:
    vectors, _ = random_vectors(3)
    zero, one, below = (contrasts(vectors, torch.tensor([y, 1.0, -1.0]))["intra"] for y in (0.0, 2.0, -0.1))
    assert zero == one
    assert zero != below


def test_without_a_positive_pair_the_ratios_are_0_and_so_is_their_gradient() -> None:
    vectors, _ = random_vectors(2)
    found = contrasts(vectors.requires_grad_(), torch.tensor([1.0, -1.0]))
    (gradient,) = torch.autograd.grad(found["intra"] + found["inter"], vectors)
    assert found["intra"] == found["inter"] == 0
    assert torch.equal(gradient, torch.zeros_like(vectors))


def test_a_clip_alone_has_a_semi_contrast_only() -> None:
    found = contrasts(random_vectors(1)[0], torch.tensor([1.0]))
    assert found["intra"] == found["inter"] == 0
    assert found["semi"] > 0


def test_no_contrast_is_below_minus_1() -> None:
    for seed in range(20):
        found = contrasts(*random_vectors(6, seed=seed))
        assert min(found["intra"], found["inter"]) >= -1
        assert found["semi"] >= 0


@pytest.mark.parametrize(("name", "across", "target"), [("intra", False, 1.0), ("inter", True, 0.8)])
def test_the_ratio_part_of_a_contrast_lies_between_minus_1_and_0(name: str, across: bool, target: float) -> None:
    vectors, _ = random_vectors()
    for num_positive in (1, 2, 3, 4):
        scores = torch.where(torch.arange(5) < num_positive, 1.0, -1.0)
        _, distance = literal_ratio(vectors, scores, across=across, target=target)
        assert -1 <= contrasts(vectors, scores)[name] - distance <= 0


@pytest.mark.parametrize(("like", "part"), [((0, 1), -1.0), ((2, 3), 0.0)])
def test_the_ratio_part_reaches_both_of_its_bounds(like: tuple[int, int], part: float) -> None:
    similarities = torch.zeros(4, 4)
    similarities[0, like] = 1.0
    candidates, positives = torch.zeros(2, 4, 4, dtype=torch.bool)
    candidates[0], positives[0, :2] = True, True
    target = float(similarities[0, 0])  # reached by every positive pair: the distance is 0
    assert ratio_loss(similarities, candidates, positives, target=target).item() == part


def test_the_length_of_a_vector_changes_no_contrast() -> None:
    vectors, scores = random_vectors()
    longer = vectors.clone()
    longer[2, 1] *= 37.0
    torch.testing.assert_close(contrasts(longer, scores), contrasts(vectors, scores))


def test_the_order_of_the_samples_changes_no_contrast() -> None:
    vectors, scores = random_vectors()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(contrasts(vectors[order], scores[order]), contrasts(vectors, scores))


def test_the_order_of_the_modalities_changes_no_contrast() -> None:
    vectors, scores = random_vectors()
    torch.testing.assert_close(contrasts(vectors[:, [2, 0, 1]], scores), contrasts(vectors, scores))


def test_the_semi_contrast_reads_no_scores() -> None:
    vectors, scores = random_vectors()
    assert contrasts(vectors, scores)["semi"] == contrasts(vectors, torch.full((5,), torch.nan))["semi"]


def test_a_vector_of_zeros_gives_no_nan() -> None:
    vectors, scores = random_vectors()
    vectors[1, 2] = 0.0
    total = torch.stack(list(contrasts(vectors.requires_grad_(), scores).values())).sum()
    (gradient,) = torch.autograd.grad(total, vectors)
    assert total.isfinite()
    assert gradient.isfinite().all()


def test_the_gradient_passes_the_numerical_check() -> None:
    vectors, scores = random_vectors(4)
    assert torch.autograd.gradcheck(lambda values: tuple(contrasts(values, scores).values()), vectors.requires_grad_())


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (MOSI, 215_321),
        (MOSEI, 225_401),
        (SIMS, 301_361),
        ((384, *MOSI[1:]), 169_241),
        ((384, *MOSEI[1:]), 179_321),
        ((384, *SIMS[1:]), 255_281),
    ],
)
def test_the_network_has_the_known_number_of_parameters(dims: Dims, expected: int) -> None:
    assert count(make("hycon", dims=dims)) == expected


def test_mosei_has_a_common_width_of_50() -> None:
    assert make("hycon", dataset="mosei")(batch_of()).parts["f"].shape == (4, 50)


def test_what_lies_behind_the_mask_changes_no_score(small: SentimentModel) -> None:
    batch = batch_of()
    torch.testing.assert_close(small(with_junk(batch)).prediction, small(batch).prediction, atol=1e-5, rtol=1e-5)


def test_the_other_clips_change_no_score(small: SentimentModel) -> None:
    batch = batch_of()
    torch.testing.assert_close(small(batch).prediction, alone(small, batch), atol=1e-5, rtol=1e-5)


def test_to_predict_no_pairs_are_built_and_no_scores_read(
    small: SentimentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of()
    expected = small(batch).prediction
    monkeypatch.delattr("conki_cli.model.baselines.hycon.contrasts")
    assert torch.equal(small(replace(batch, scores=torch.full((4,), torch.nan))).prediction, expected)


def test_a_text_is_read_at_its_sep_and_the_token_before(small: SentimentModel) -> None:
    batch = batch_of(text=(6,), audio=(2,), vision=(2,))
    part = batch.modality("text")
    expected = F.softplus(torch.einsum("bld,kdl->bk", part.values[:, 4:6], small.convolutions["text"].weight[:, :, :2]))
    torch.testing.assert_close(small(batch).parts["t"], expected)


@pytest.mark.parametrize("name", ["audio", "vision"])
def test_frames_may_look_ahead_and_their_positions_tell_their_order(
    small: SentimentModel, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        small.convolutions[name].weight[:, :, [0, 2]] = 0.0  # it would tell of neighbours
    batch = batch_of(text=(4,), audio=(7,), vision=(7,))
    part = batch.modality(name)
    moved = replace(batch, **{name: Padded(part.values[:, [5, 4, 3, 2, 1, 0, 6]], part.mask)})
    assert (small(moved).prediction - small(batch).prediction).abs().item() > 1e-3
    monkeypatch.setattr("conki_cli.model.baselines.transformer.sinusoids", without_positions)
    torch.testing.assert_close(small(moved).prediction, small(batch).prediction, atol=1e-5, rtol=1e-5)


def test_the_representations_are_positive_and_add_up(small: SentimentModel) -> None:
    parts = small(batch_of()).parts
    assert {name: tuple(part.shape) for name, part in parts.items()} == dict.fromkeys("tvaf", (4, 6))
    assert all((parts[name] > 0).all() for name in "tva")
    torch.testing.assert_close(parts["t"] + parts["v"] + parts["a"], parts["f"])


def test_the_loss_is_the_absolute_error_and_the_weighted_contrasts() -> None:
    weights = {"hycon.intra_weight": 0.3, "hycon.inter_weight": 0.2, "hycon.semi_weight": 0.7}
    model, batch = stirred(make("hycon", {**SMALL, **weights})), batch_of()
    output = model(batch)
    terms = model.loss(output, batch, "main")
    bare = contrasts(torch.stack([output.parts[name] for name in "tva"], dim=1), batch.scores)
    assert list(terms) == ["task", "intra", "inter", "semi"]
    assert terms["task"].item() == pytest.approx((output.prediction - batch.scores).abs().mean().item())
    for name, weight in (("intra", 0.3), ("inter", 0.2), ("semi", 0.7)):
        assert terms[name].item() == pytest.approx(weight * bare[name].item())


def test_every_parameter_learns_but_the_unused_pooler_of_the_text_encoder(encoder: Path) -> None:
    model = make("hycon", SMALL, text=text_encoder(encoder)).train()
    total_loss(model, batch_of(token_ids=True)).backward()
    assert without_gradient(model) == {f"text.backbone.pooler.dense.{name}" for name in ("weight", "bias")}


def test_weight_decay_leaves_out_biases_and_norms_and_text_has_its_own_rate(encoder: Path) -> None:
    model = make("hycon", SMALL, text=text_encoder(encoder))
    groups = model.parameter_groups(config_of("hycon"), "main")
    names = grouped(groups, model)
    for group, members in zip(groups, names, strict=True):
        assert {name.startswith("text.") for name in members} == {group.learning_rate == 2e-5}
        assert {"norm" in name.lower() or name.endswith("bias") for name in members} == {group.weight_decay == 0.0}
    assert {(group.learning_rate, group.weight_decay) for group in groups} == {
        (2e-5, 1e-2),
        (2e-5, 0.0),
        (1e-3, 1e-2),
        (1e-3, 0.0),
    }
    assert sorted(itertools.chain(*names)) == sorted(name for name, _ in model.named_parameters())


def test_heads_that_do_not_divide_the_width_are_refused_before_training() -> None:
    with pytest.raises(SettingsError, match=r"^hycon.num_heads must divide hycon.width, found 5 and 41: give --set "):
        make("hycon", {"hycon.width": 41})


def test_contrasts_of_half_precision_are_computed_in_float32() -> None:
    vectors, scores = random_vectors()
    short = vectors.bfloat16()
    torch.testing.assert_close(contrasts(short, scores), contrasts(short.float(), scores), atol=0, rtol=0)


def test_frames_are_convolved_encoded_and_read_at_their_last_position(small: SentimentModel) -> None:
    batch = batch_of(text=(4,), audio=(7,), vision=(5,))
    for name in ("audio", "vision"):
        part = batch.modality(name)
        sequence = small.convolutions[name](part.values.mT).mT
        expected = F.softplus(small.encoders[name].last(sequence, part.mask))
        torch.testing.assert_close(small(batch).parts[name[0]], expected)


def test_attention_has_a_dropout_of_its_own() -> None:
    model = make("hycon", {"hycon.attention_dropout": 0.4, "hycon.dropout": 0.1})
    for encoder in model.encoders.values():
        assert encoder.dropouts == Dropouts(attention=0.4, relu=0.1, residual=0.1, embedding=0.1)
