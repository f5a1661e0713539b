"""MISA: the losses on its spaces, the six vectors, frozen blocks, and the parameter counts of MMSA's class."""

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
    chosen,
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
from torch import Tensor

from conki_cli import MODALITIES
from conki_cli.model.baselines.misa import SequenceReader, dependence, moment_discrepancy
from conki_cli.model.batches import Padded
from conki_cli.system.errors import SettingsError

SQUARE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
DIAGONAL = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
OTHER = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, -1.0], [-1.0, 0.0]], dtype=torch.float64)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("other", "expected", "tolerance"),
    [(DIAGONAL, 0.2209708691, 1e-10), (OTHER, 23.20942, 1e-5), (SQUARE, 0.0, 0.0)],
    ids=["diagonal", "other", "itself"],
)
def test_the_moment_discrepancy_by_hand(other: Tensor, expected: float, tolerance: float) -> None:
    assert float(moment_discrepancy(SQUARE, other)) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("other", "expected", "tolerance"),
    [(DIAGONAL, 0.999994, 1e-6), (SQUARE, 1.999989, 1e-6), (OTHER, 0.9345994075, 1e-10)],
    ids=["diagonal", "itself", "other"],
)
def test_the_dependence_by_hand(other: Tensor, expected: float, tolerance: float) -> None:
    assert float(dependence(SQUARE, other)) == pytest.approx(expected, abs=tolerance)


def test_the_moment_discrepancy_is_its_definition() -> None:
    one, other = drawn(5, 3, seed=1), drawn(5, 3, seed=2)
    total = 0.0
    for power in range(1, 6):
        squares = 0.0
        for column in range(3):
            moments = []
            for values in (one[:, column], other[:, column]):
                centre = 0.0 if power == 1 else float(values.mean())
                moments.append(sum((float(value) - centre) ** power for value in values) / 5)
            squares += (moments[0] - moments[1]) ** 2
        total += squares**0.5
    assert float(moment_discrepancy(one, other)) == pytest.approx(total, abs=1e-12)


def test_the_dependence_is_its_definition() -> None:
    one, other = drawn(5, 3, seed=1), drawn(5, 3, seed=2)
    total = 0.0
    for i in range(3):
        for j in range(3):
            entry = 0.0
            for x, y in zip(one - one.mean(dim=0), other - other.mean(dim=0), strict=True):
                entry += float(x[i] / (x.norm() + 1e-6) * y[j] / (y.norm() + 1e-6))
            total += entry**2
    assert float(dependence(one, other)) == pytest.approx(total / 9, abs=1e-12)


def test_the_order_of_the_clips_of_one_side_does_not_change_the_moment_discrepancy() -> None:
    one, other = drawn(5, 3, seed=1), drawn(5, 3, seed=2)
    expected = moment_discrepancy(one, other)
    torch.testing.assert_close(moment_discrepancy(one.flip(0), other), expected)
    torch.testing.assert_close(moment_discrepancy(one, other.roll(2, 0)), expected)


def test_neither_a_shift_nor_the_lengths_of_centred_rows_change_the_dependence() -> None:
    other = drawn(4, 3, seed=2) + 1
    half = drawn(2, 3, seed=1) + 1
    centred = torch.cat([half, -half])  # its mean is 0, and stays 0 when opposite rows grow alike
    grown = centred * torch.tensor([[2.0], [5.0], [2.0], [5.0]])
    expected = dependence(centred, other)
    torch.testing.assert_close(dependence(grown, other), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(dependence(centred + torch.tensor([3.0, -1.0, 2.0]), other + 7), expected)


def test_no_gradient_flows_through_the_lengths() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    dependence(rows, torch.tensor([[1.0], [-1.0]], dtype=torch.float64)).backward()
    assert rows.grad is not None
    assert rows.grad[0, 0] > 0.5  # 0 if growing along itself left the normalised row as it is


def test_of_a_single_clip_only_the_distance_of_the_vectors_is_left() -> None:
    one, other = drawn(1, 3, seed=1), drawn(1, 3, seed=2)
    assert float(dependence(one, other)) == 0
    torch.testing.assert_close(moment_discrepancy(one, other), torch.linalg.vector_norm(one - other))


def test_equal_sets_have_a_finite_gradient() -> None:
    one = drawn(4, 3, seed=1).requires_grad_()
    (moment_discrepancy(one, one.detach().clone()) + dependence(one, one.detach().clone())).backward()
    assert one.grad is not None
    assert one.grad.isfinite().all()


@pytest.mark.parametrize(
    ("dataset", "dims", "counts"),
    [
        ("mosi", MOSI, (1_134_445, 1_085_293)),
        ("mosei", MOSEI, (1_431_517, 1_382_365)),
        ("sims", SIMS, (21_661_161, 21_612_009)),
    ],
)
def test_it_has_as_many_parameters_as_mmsas_without_the_dead_ones(
    dataset: str, dims: Dims, counts: tuple[int, int]
) -> None:
    with torch.device("meta"):
        found = [count(make("misa", dims=(width, *dims[1:]), dataset=dataset)) for width in (768, 384)]
    assert found == list(counts)


def test_every_modality_has_a_vector_of_its_own_and_a_shared_one() -> None:
    output = make("misa").eval()(batch_of())
    assert {name: tuple(part.shape) for name, part in output.parts.items()} == {
        **dict.fromkeys(("original", "private", "shared", "restored"), (4, 3, 128)),
        **dict.fromkeys("tva", (4, 128)),
        "f": (4, 768),
    }
    assert output.prediction.shape == (4,)


def test_the_losses_are_those_of_the_paper_with_their_weights() -> None:
    weights = {"difference": 0.5, "similarity": 0.25, "reconstruction": 2.0}
    model = stirred(make("misa", {f"misa.{name}_weight": weight for name, weight in weights.items()}))
    batch = batch_of()
    output = model(batch)
    (pt, pv, pa), (st, sv, sa) = (output.parts[kind].unbind(1) for kind in ("private", "shared"))
    pairs = [(pt, st), (pv, sv), (pa, sa), (pa, pt), (pa, pv), (pt, pv)]
    restored, original = output.parts["restored"], output.parts["original"]
    discrepancies = [moment_discrepancy(*pair) for pair in ((st, sv), (st, sa), (sa, sv))]
    expected = {
        "task": (output.prediction - batch.scores).square().mean(),
        "difference": 0.5 * sum(dependence(*pair) for pair in pairs),
        "similarity": 0.25 * sum(discrepancies) / 3,
        "reconstruction": 2.0 * sum((restored[:, m] - original[:, m]).square().mean() for m in range(3)) / 3,
    }
    found = model.loss(output, batch, "main")
    assert list(found) == list(expected)
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term)


def test_the_restored_vectors_pull_at_the_originals_too() -> None:
    model, batch = make("misa").train(), batch_of()
    output = model(batch)
    output.parts["original"].retain_grad()
    constant = replace(output, parts={**output.parts, "restored": output.parts["restored"].detach()})
    model.loss(constant, batch, "main")["reconstruction"].backward()
    gradient = output.parts["original"].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_sequence_becomes_forward_of_both_lstms_then_backward_of_both() -> None:
    torch.manual_seed(0)
    reader, frames = SequenceReader(3), torch.randn(1, 4, 3)
    states, _ = reader.first(frames)
    deeper, _ = reader.second(reader.norm(states))
    expected = torch.cat([states[:, -1, :3], deeper[:, -1, :3], states[:, 0, 3:], deeper[:, 0, 3:]], dim=1)
    found = reader(Padded(frames, torch.ones(1, 4, dtype=torch.bool)))
    torch.testing.assert_close(found, expected)


def test_attention_runs_over_the_six_vectors_and_not_over_the_clips() -> None:
    model, batch = stirred(make("misa")), batch_of()
    torch.testing.assert_close(alone(model, batch), model(batch).prediction, atol=1e-5, rtol=1e-5)


def test_what_stands_behind_the_mask_never_changes_a_prediction() -> None:
    model, batch = stirred(make("misa")), batch_of()
    torch.testing.assert_close(model(with_junk(batch)).prediction, model(batch).prediction, atol=1e-5, rtol=1e-5)


def test_it_trains_on_a_single_clip() -> None:
    model = make("misa").train()
    terms = model.loss(model(one := chosen(batch_of(), [1])), one, "main")
    assert float(terms["difference"].detach()) == 0
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_weight_but_the_pooler_gets_a_gradient(encoder: Path) -> None:
    model = make("misa", text=text_encoder(encoder)).train()
    total_loss(model, batch_of(token_ids=True)).backward()
    assert without_gradient(model) == {"text.backbone.pooler.dense.weight", "text.backbone.pooler.dense.bias"}


def test_text_encoder_and_rest_are_two_groups(encoder: Path) -> None:
    model = make("misa", text=text_encoder(encoder))
    config = config_of("misa", {"optimizer.lr_encoders": 1e-5})
    groups = model.parameter_groups(config, "main")
    assert [(group.learning_rate, group.weight_decay) for group in groups] == [(1e-5, 0.0), (1e-4, 0.0)]
    text, others = grouped(groups, model)
    assert text == text_names(model)
    assert text | others == {name for name, _ in model.named_parameters()}


def test_frozen_blocks_are_the_lowest_and_are_stored_with_the_rest(encoder: Path) -> None:
    model = make("misa", {"misa.freeze_layers": 3}, text=text_encoder(encoder)).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.partition(".layer.")[2][0] for name in frozen} == {"0", "1", "2"}
    total_loss(model, batch_of(token_ids=True)).backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name in frozen)
    assert frozen <= set(model.stored_names()[0])
    in_groups = set().union(*grouped(model.parameter_groups(config_of("misa"), "main"), model))
    assert not frozen & in_groups


@pytest.mark.parametrize("orthogonal", [True, False])
def test_recurrent_matrices_start_orthogonal_when_asked(orthogonal: bool) -> None:
    model = make("misa", {"misa.orthogonal": orthogonal})
    for name, matrix in model.readers.named_parameters():
        if "weight_hh" in name:
            identity = torch.eye(matrix.shape[1])
            assert torch.allclose(matrix.T @ matrix, identity, atol=1e-5) == orthogonal


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"misa.width": 7}, "misa.width must be even, found 7"),
        ({"misa.freeze_layers": 5}, "misa.freeze_layers must be at most 4, the text encoder's, found 5"),
    ],
)
def test_impossible_sizes_are_refused(overrides: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make("misa", overrides)


def test_the_score_is_that_of_the_network_written_out() -> None:
    model, batch = stirred(make("misa")), batch_of(text=(3,), audio=(5,), vision=(4,))
    clips = {name: model.readers[name](batch.modality(name)) for name in ("vision", "audio")}
    clips["text"] = batch.modality("text").values.mean(dim=1)
    private, shared, restored = [], [], []
    for name in MODALITIES:
        linear, norm = model.projections[name][0], model.projections[name][2]
        original = norm(linear(clips[name]).relu())
        private.append(model.private[name](original).sigmoid())
        shared.append(model.shared(original).sigmoid())
        restored.append(model.restorers[name](private[-1] + shared[-1]))
    fused = model.fusion(torch.stack([*private, *shared], dim=1)).flatten(1)
    output = model(batch)
    torch.testing.assert_close(output.prediction, model.head[3](model.head[0](fused).relu())[:, 0])
    torch.testing.assert_close(output.parts["restored"], torch.stack(restored, dim=1))


def test_the_head_has_the_dropout_of_the_settings_and_the_fusion_a_fixed_one() -> None:
    model = make("misa", {"misa.dropout": 0.4})
    assert (model.head[1].p, model.fusion.dropout.p, model.fusion.self_attn.dropout) == (0.4, 0.1, 0.1)


def test_the_bridge_of_an_external_data_set_is_not_handed_over() -> None:
    model = make("misa", external_widths={"audio": 3})
    assert set(model.handed_over()) == {name for name in model.state_dict() if not name.startswith("bridges.")}
    assert "bridges.audio.weight" in model.state_dict()
