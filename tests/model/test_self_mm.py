"""Self-MM: its four heads, the labels it makes itself, and the memory that must survive a pause."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baseline_support import MOSEI, MOSI, SIMS, Dims, batch_of, chosen, config_of, count, make, text_encoder, with_junk
from torch import Tensor, nn

from conki_cli.model.baselines.self_mm import HEADS, SelfMm, polarity_ratio, shifted_label, weighted_error
from conki_cli.model.batches import Batch
from conki_cli.model.contract import Output

SMALL = {"fusion_width": 4, "text_width": 3, "vision_width": 3, "audio_width": 2, "text_dropout": 0, "audio_dropout": 0}
PAIRS = {"fusion_width": 2, "text_width": 2, "vision_width": 2, "audio_width": 2}
SCORES = torch.tensor([2.0, -1.0, 0.0, 3.0, -2.4, 0.6, 1.2, -0.2])


def self_mm(**own: float) -> SelfMm:
    model = make("self-mm", {f"self-mm.{key}": value for key, value in (own or SMALL).items()})
    assert isinstance(model, SelfMm)
    return model


def clips(*indices: int) -> Batch:
    """Return the same inputs for a clip whatever batch it comes in, with its score."""
    lengths = range(1, 1 + len(SCORES))
    return chosen(batch_of(text=lengths, audio=lengths[::-1], vision=lengths, scores=SCORES.tolist()), indices)


def step(model: SelfMm, optimizer: torch.optim.Optimizer, batch: Batch, epoch: int) -> dict[str, Tensor]:
    model.zero_grad()
    output = model(batch)
    terms = model.loss(output, batch, "main")
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    model.after_backward(output, batch, epoch=epoch, phase="main")
    optimizer.step()
    return {name: value.detach() for name, value in terms.items()}


def shuffled(epoch: int) -> Iterator[Batch]:
    order = torch.randperm(len(SCORES), generator=torch.Generator().manual_seed(epoch))
    return (clips(*rows.tolist()) for rows in order.split(3))


def trained(num_epochs: int) -> tuple[SelfMm, torch.optim.Optimizer]:
    model = self_mm().train()
    model.start(SCORES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(1, num_epochs + 1):
        for batch in shuffled(epoch):
            step(model, optimizer, batch, epoch)
    return model, optimizer


def seen(features: Tensor) -> Output:
    """Return an output whose heads all have the features [B, d]."""
    return Output(torch.zeros(len(features)), parts=dict.fromkeys(HEADS, features))


def on_a_line() -> SelfMm:
    """Return a model with features of width 2, the centres (1, 0) and (-1, 0), and bound 3."""
    model = self_mm(**PAIRS)
    model.start(torch.tensor([2.0, 3.0, -3.0]))
    model.centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(1, len(HEADS))
    return model


@pytest.mark.parametrize(
    ("dataset", "dims", "expected"),
    [
        ("mosi", (768, *MOSI[1:]), 159_332),
        ("mosei", (768, *MOSEI[1:]), 165_668),
        ("sims", (768, *SIMS[1:]), 381_380),
        ("mosi", (384, *MOSI[1:]), 97_892),
        ("mosei", (384, *MOSEI[1:]), 104_228),
        ("sims", (384, *SIMS[1:]), 307_652),
    ],
)
def test_without_the_text_encoder_it_has_as_many_parameters_as_the_reference(
    dataset: str, dims: Dims, expected: int
) -> None:
    model = make("self-mm", dims=dims, dataset=dataset)
    assert count(model) == expected


def test_at_the_sizes_of_the_authors_it_has_as_many_parameters_as_theirs() -> None:
    sizes = {"self-mm.audio_hidden": 32, "self-mm.vision_hidden": 64, "self-mm.text_width": 64}
    assert count(make("self-mm", sizes, dims=MOSI)) == 206_980


@pytest.mark.parametrize(
    ("own", "label"),
    [((0.0, 1.0), 0.666667), ((0.5, 0.0), 2.0), ((-0.5, 0.0), 0.222222), ((0.75, 0.0), 2.666667)],
)
def test_a_label_moves_as_the_reference_moves_it(own: tuple[float, float], label: float) -> None:
    model = on_a_line()
    fusion, feature = torch.tensor([[0.5, 0.0]]), torch.tensor([own])
    output = Output(torch.zeros(1), parts={"f": fusion, "t": feature, "v": feature, "a": feature})
    model.after_backward(output, replace(clips(0), scores=torch.tensor([2.0])), epoch=2, phase="main")
    torch.testing.assert_close(model.labels[0], torch.tensor([2.0, label, label, label]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("feature", "ratio"),
    [((0.0, 1.0), 0.0), ((0.5, 0.0), 2.0), ((-0.5, 0.0), -0.666667), ((0.75, 0.0), 6.0)],
)
def test_the_ratio_says_how_much_nearer_the_positive_centre_is(feature: tuple[float, float], ratio: float) -> None:
    found = polarity_ratio(torch.tensor([feature]), torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([ratio]), atol=1e-6, rtol=0)


def test_the_ratios_suggest_the_labels_of_the_reference_within_the_bound() -> None:
    ratios, fusion, scores = torch.tensor([0.0, 2.0, -2 / 3, 6.0]), torch.full((4,), 2.0), torch.full((4,), 2.0)
    new = shifted_label(ratios, fusion, scores, torch.tensor(3.0))
    torch.testing.assert_close(new, torch.tensor([0.0, 2.0, -0.666667, 3.0]), atol=1e-6, rtol=0)


def test_the_later_the_epoch_the_less_a_label_moves() -> None:
    found = []
    for epoch in (2, 3, 9):
        model = on_a_line()
        parts = dict.fromkeys(HEADS, torch.tensor([[0.0, 1.0]])) | {"f": torch.tensor([[0.5, 0.0]])}
        model.after_backward(Output(torch.zeros(1), parts=parts), clips(0), epoch=epoch, phase="main")
        found.append(float(model.labels[0, 1]))
    assert found == pytest.approx([2 / 3, 1.0, 1.6])  # the new label is 0, the old one 2


def test_equal_ratios_suggest_the_given_score() -> None:
    ratios, scores = torch.tensor([0.5, 2.0, -0.3]), torch.tensor([1.0, -2.0, 0.4])
    torch.testing.assert_close(shifted_label(ratios, ratios, scores, torch.tensor(3.0)), scores)


def test_an_undefined_new_label_is_the_given_score() -> None:
    new = shifted_label(torch.tensor([1.0]), torch.tensor([-1e-8]), torch.tensor([0.0]), torch.tensor(3.0))
    assert new.tolist() == [0.0]


def test_an_error_counts_by_how_far_its_label_left_the_score() -> None:
    error = weighted_error(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 0.0]), torch.tensor([1.0, -2.0]))
    assert float(error) == pytest.approx(0.862811, abs=1e-6)


def test_no_label_exceeds_the_largest_absolute_score() -> None:
    model = self_mm(**PAIRS)
    model.start(SCORES / 3)
    draw = torch.Generator().manual_seed(1)
    for epoch in range(2, 12):
        features = [torch.randn(8, 2, generator=draw) for _ in HEADS]
        batch = replace(clips(*range(8)), scores=SCORES / 3)
        parts = dict(zip(HEADS, features, strict=True))
        model.after_backward(Output(torch.zeros(8), parts=parts), batch, epoch=epoch, phase="main")
        assert float(model.labels.abs().max()) <= 1.0


def test_in_the_first_epoch_the_task_alone_counts() -> None:
    model = self_mm().train()
    model.start(SCORES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for batch in shuffled(1):
        terms = step(model, optimizer, batch, 1)
        assert [float(terms[name]) for name in ("text", "vision", "audio")] == [0.0, 0.0, 0.0]
        gradients = [p.grad for name in "tva" for p in model.heads[name].parameters()]
        assert all(g is not None and not g.any() for g in gradients)
    assert torch.equal(model.labels, SCORES[:, None].expand(-1, 4))


def test_in_the_second_epoch_labels_leave_the_scores_and_those_of_the_fusion_stay() -> None:
    model, _ = trained(2)
    assert torch.equal(model.labels[:, 0], SCORES)
    assert (model.labels[:, 1:] != SCORES[:, None]).any(dim=0).all()


def test_clips_outside_the_batch_keep_their_labels_and_features() -> None:
    model, optimizer = trained(2)
    labels, features = model.labels.clone(), model.features.clone()
    step(model, optimizer, clips(1, 4), 3)
    others = [0, 2, 3, 5, 6, 7]
    assert torch.equal(model.labels[others], labels[others])
    assert torch.equal(model.features[others], features[others])
    assert not torch.equal(model.features[[1, 4]], features[[1, 4]])


class Reference:
    """The memory as the definition has it, clip by clip in float64, all centres computed again after every batch."""

    def __init__(self) -> None:
        self.labels = {name: SCORES.double().clone() for name in HEADS}
        self.features: dict[str, Tensor] = {}
        self.centres: dict[str, list[Tensor]] = {}

    def observe(self, batch: Batch, output: Output, epoch: int) -> None:
        rows = batch.indices.tolist()
        if epoch > 1:
            for place, row in enumerate(rows):
                m, ratios = float(SCORES[row]), {}
                for name in HEADS:
                    near, far = (float((output.parts[name][place].double() - c).norm()) for c in self.centres[name])
                    ratios[name] = (far - near) / (near + 1e-8)
                for name in "tva":
                    own, fusion = ratios[name], ratios["f"]
                    new = min(3.0, max(-3.0, 0.5 * own / (fusion + 1e-8) * m + 0.5 * (m + own - fusion)))
                    old = float(self.labels[name][row])
                    self.labels[name][row] = (epoch - 1) / (epoch + 1) * old + 2 / (epoch + 1) * new
        for name in HEADS:
            stored = self.features.setdefault(name, torch.zeros(8, output.parts[name].shape[1], dtype=torch.float64))
            stored[rows] = output.parts[name].detach().double()
            labels = self.labels[name]
            self.centres[name] = [stored[labels > 0].mean(dim=0), stored[labels < 0].mean(dim=0)]


def test_labels_features_and_centres_follow_the_definition_batch_by_batch() -> None:
    model, reference = self_mm().eval(), Reference()
    model.start(SCORES)
    draw = torch.Generator().manual_seed(2)
    for epoch in (1, 2, 3, 4):
        for batch in shuffled(epoch):
            sizes = zip(HEADS, model.sizes, strict=True)
            parts = {name: torch.rand(len(batch), size, generator=draw) for name, size in sizes}
            output = Output(torch.zeros(len(batch)), parts=parts)
            model.after_backward(output, batch, epoch=epoch, phase="main")
            reference.observe(batch, output, epoch)
    assert (torch.sign(model.labels[:, 1:]) != torch.sign(SCORES)[:, None]).any()  # some changed sides
    expected = {
        "labels": torch.stack([reference.labels[name] for name in HEADS], dim=1),
        "features": torch.cat([reference.features[name] for name in HEADS], dim=1),
        "centres": torch.stack([torch.cat([reference.centres[name][side] for name in HEADS]) for side in (0, 1)]),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(model, name), value.float(), atol=2e-5, rtol=2e-5)


def test_running_sums_do_not_drift() -> None:
    model = self_mm(**PAIRS)
    model.start(SCORES)
    draw = torch.Generator().manual_seed(5)
    for _ in range(500):
        rows = torch.randperm(8, generator=draw)[:3]
        model.after_backward(seen(100 * torch.rand(3, 2, generator=draw)), clips(*rows.tolist()), epoch=1, phase="main")
    exact = torch.stack([model.features[side].double().sum(dim=0) for side in (SCORES > 0, SCORES < 0)])
    torch.testing.assert_close(model.sums, exact, atol=1e-9, rtol=0)


def test_a_label_of_zero_belongs_to_no_centre() -> None:
    model = self_mm(**PAIRS)
    model.start(torch.tensor([1.0, 0.0, -1.0]))
    features = torch.tensor([[1.0, 2.0], [50.0, 50.0], [3.0, 4.0]])
    model.after_backward(seen(features), clips(0, 1, 2), epoch=1, phase="main")
    assert model.counts.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert model.centres[:, :2].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_class_without_clips_keeps_its_centre() -> None:
    model = on_a_line()
    model.start(torch.tensor([2.0, 3.0, 1.0]))
    model.centres[1] = 7.0
    for epoch in (1, 2):
        model.after_backward(seen(torch.full((2, 2), 1.0 + epoch)), clips(0, 1), epoch=epoch, phase="main")
    assert (model.centres[1] == 7.0).all()
    assert bool(model.labels.isfinite().all())


def test_a_pause_in_the_middle_of_an_epoch_changes_no_bit() -> None:
    model, optimizer = trained(2)
    step(model, optimizer, clips(0, 1, 2), 3)
    other = self_mm().train()  # its memory has no rows yet
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    again = torch.optim.SGD(other.parameters(), lr=0.05)
    for rows in ((3, 4, 5), (6, 7, 0)):
        terms, repeated = (step(m, o, clips(*rows), 3) for m, o in ((model, optimizer), (other, again)))
        assert all(torch.equal(value, repeated[name]) for name, value in terms.items())
    assert float(terms["text"]) > 0
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_starting_anew_empties_the_memory() -> None:
    model, _ = trained(2)
    model.start(SCORES[:3])
    fresh = self_mm()
    fresh.start(SCORES[:3])
    for name in ("labels", "features", "sums", "counts", "centres", "bound"):
        assert torch.equal(getattr(model, name), getattr(fresh, name))


def test_the_memory_stays_behind_when_another_data_set_takes_over() -> None:
    assert not {"labels", "features"} & set(self_mm().handed_over())


def test_every_parameter_is_in_one_of_five_groups(encoder: Path) -> None:
    model = self_mm()
    config = config_of("self-mm")
    model.text = text_encoder(encoder)
    model.bridges["audio"] = nn.Linear(3, 5)
    groups = model.parameter_groups(config, "main")
    grouped = [id(p) for group in groups for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    rates = [(group.learning_rate, group.weight_decay) for group in groups]
    assert rates == [(5e-5, 1e-3), (5e-5, 0.0), (5e-3, 1e-3), (5e-3, 1e-3), (1e-3, 1e-3)]
    assert all((p.dim() > 1) == (group.weight_decay > 0) for group in groups[:2] for p in group.parameters)


def test_each_head_reads_what_it_is_named_after() -> None:
    model, batch = self_mm(audio_width=16).eval(), clips(0, 1, 2)
    moved = replace(batch, audio=replace(batch.audio, values=batch.audio.values + 1))
    before, after = model(batch), model(moved)
    changed = {name for name, part in before.parts.items() if not torch.equal(part, after.parts[name])}
    assert changed == {"f", "a", "score_a"}
    assert not torch.equal(before.prediction, after.prediction)


def test_a_batch_of_one_trains_and_predicts_as_it_does_among_others() -> None:
    model = self_mm().eval()
    model.start(SCORES)
    whole = model(clips(*range(8))).prediction
    torch.testing.assert_close(model(clips(5)).prediction, whole[5:6], atol=1e-6, rtol=0)
    step(model.train(), torch.optim.SGD(model.parameters(), lr=0.1), clips(5), 2)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_junk_behind_the_mask_changes_nothing() -> None:
    model, batch = self_mm().eval(), clips(*range(8))
    found, expected = model(with_junk(batch)), model(batch)
    for name, part in expected.parts.items():
        torch.testing.assert_close(found.parts[name], part, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.prediction, expected.prediction, atol=1e-6, rtol=0)


def test_every_score_is_that_of_its_head_written_out() -> None:
    model, batch = self_mm().eval(), clips(0, 1, 2)
    text = batch.modality("text").values[:, 0]
    vision, audio = (batch.modality(name) for name in ("vision", "audio"))
    v, a = model.vision(vision.values, vision.mask), model.audio(audio.values, audio.mask)
    output = model(batch)
    for name, read in {"f": torch.cat([text, a, v], dim=1), "t": text, "v": v, "a": a}.items():
        head = model.heads[name]
        feature = head.inner[-1](read).relu()
        expected = head.score[2](head.score[0](feature).relu())[:, 0]
        torch.testing.assert_close(output.parts[name], feature)
        torch.testing.assert_close(output.prediction if name == "f" else output.parts[f"score_{name}"], expected)


def test_every_head_has_the_dropout_of_the_settings() -> None:
    shares = {"fusion_dropout": 0.1, "text_dropout": 0.2, "vision_dropout": 0.3, "audio_dropout": 0.4}
    heads = self_mm(**shares).heads
    assert [heads[name].inner[0].p for name in HEADS] == [0.1, 0.2, 0.3, 0.4]


def test_audio_vision_and_heads_have_rates_and_decays_of_their_own() -> None:
    own = {"lr_audio": 0.1, "lr_vision": 0.2, "decay_audio": 0.3, "decay_vision": 0.4, "decay_others": 0.5}
    config = config_of("self-mm", {f"self-mm.{key}": value for key, value in own.items()})
    groups = self_mm(**own).parameter_groups(config, "main")
    assert [(g.learning_rate, g.weight_decay) for g in groups] == [(0.1, 0.3), (0.2, 0.4), (1e-3, 0.5)]


def test_labels_may_reach_as_far_as_the_most_negative_score() -> None:
    model = self_mm(**PAIRS)
    model.start(torch.tensor([1.0, -2.5, 0.0]))
    assert float(model.bound) == 2.5
