"""The one loop: learning rates, selection by validation MAE, patience, and what stops it."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from conftest import ALL_SWITCHES, FOURS, MakeConfig, Notes, OpenJob, model_and_batch

from conki_cli.model.batches import Batch
from conki_cli.model.conki import ConKI
from conki_cli.model.contract import Output
from conki_cli.system.errors import ConkiError
from conki_cli.system.observer import Observer
from conki_cli.training import loop as training
from conki_cli.training.jobs import Job, build_model
from conki_cli.training.loop import Epoch, Progress, Schedule, rate_factor, schedule_of

CPU = torch.device("cpu")


def trained(
    job: Job, model: ConKI | None = None, observer: Observer | None = None, **changes: int
) -> tuple[Progress, list[Epoch]]:
    """Fit a job's network and return where it ended and what every epoch gave."""
    progress = training.start(model or build_model(job, 1, None), job.config)
    return progress, list(epochs_of(job, progress, observer, **changes))


def epochs_of(job: Job, progress: Progress, observer: Observer | None = None, **changes: int) -> Iterator[Epoch]:
    plan = dataclasses.replace(schedule_of(job.config, 1), **changes)
    train = job.inputs.batches("train", batch_size=plan.batch_size, seed=1)
    valid = job.inputs.batches("valid", batch_size=plan.batch_size)
    return training.fit(progress, train, valid, plan, device=CPU, observer=observer or Observer())


def logged(epochs: list[Epoch]) -> list[tuple[int, Mapping[str, float], Mapping[str, float], bool]]:
    return [(epoch.number, epoch.losses, epoch.metrics, epoch.is_best) for epoch in epochs]


def weights(model: ConKI) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_rate_grows_to_its_peak_during_the_warm_up_share() -> None:
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert max(factors) == 1.0


def test_the_rate_falls_linearly_to_the_end() -> None:
    factors = [rate_factor(step, 100, 0.1) for step in range(10, 100)]
    assert factors == pytest.approx([k / 90 for k in range(90, 0, -1)])


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.0), (1, 0.05), (2, 0.05), (7, 1.0), (3, 0.5)])
def test_the_shortest_runs_still_reach_their_rate(total: int, warmup: float) -> None:
    factors = [rate_factor(step, total, warmup) for step in range(total)]
    assert max(factors) == 1.0
    assert min(factors) > 0


def test_every_step_uses_the_rate_of_its_group_times_the_factor(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("C1+T", "optimizer.warmup=0.5", *FOURS))
    progress = training.start(build_model(job, 1, None), job.config)
    groups, peaks = progress.optimizers["main"].param_groups, progress.peak_rates["main"]
    used = [[g["lr"] / peak for g, peak in zip(groups, peaks, strict=True)] for _ in epochs_of(job, progress)]
    last_steps = [rate_factor(3, 8, 0.5), rate_factor(7, 8, 0.5)]
    assert set(peaks) == {1e-3, 2e-3}
    assert used == [pytest.approx([factor] * len(peaks)) for factor in last_steps]


def test_the_schedule_of_each_stage_is_its_own(tiny_config: MakeConfig) -> None:
    lines = ("pretraining.num_epochs=7", "optimizer.num_epochs=9", "optimizer.patience=3", "pretraining.batch_size=2")
    assert schedule_of(tiny_config("", *lines), 5) == Schedule(9, 8, 0.05, 3, 5)
    assert schedule_of(tiny_config("", *lines, stage="pretrain"), 5) == Schedule(7, 2, 0.1, 0, 5)


def test_the_first_pass_of_plain_transfer_has_stage_2s_steps_and_stage_1s_epochs(tiny_config: MakeConfig) -> None:
    config = tiny_config("plain-transfer", "pretraining.num_epochs=7", "optimizer.batch_size=3", stage="pretrain")
    assert schedule_of(config, 5) == Schedule(7, 3, 0.05, 0, 5)


def test_training_lowers_the_loss(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    _, epochs = trained(open_job(tiny_config("C1+C4+T", "optimizer.lr_others=0.01", *FOURS)), num_epochs=6)
    assert epochs[-1].losses["task"] < 0.8 * epochs[0].losses["task"]


def test_every_epoch_reports_terms_and_validation_metrics(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    progress, epochs = trained(open_job(tiny_config("", *FOURS)))
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert epochs[0].losses.keys() == {"task", "contrast", "contrast_per_sample"}
    assert epochs[0].metrics["n"] == 6
    assert (progress.epoch, progress.step) == (2, 8)


def test_the_best_epoch_is_that_of_the_lowest_validation_mae(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    progress, epochs = trained(open_job(tiny_config("C1+T", "optimizer.lr_others=0.05")), num_epochs=6)
    errors = [epoch.metrics["mae"] for epoch in epochs]
    assert progress.best_mae == min(errors)
    assert progress.best_epoch == errors.index(min(errors)) + 1
    assert [e.is_best for e in epochs] == [mae < min([math.inf, *errors[:k]]) for k, mae in enumerate(errors)]


def test_patience_stops_after_so_many_epochs_without_a_better_one(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("C1+T"))
    progress = training.start(build_model(job, 1, None), job.config)
    progress.best_mae = 0.0  # nothing can be better
    assert [epoch.number for epoch in epochs_of(job, progress, num_epochs=9, patience=2)] == [1, 2]


def test_a_run_out_of_patience_does_not_begin_again(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("C1"))
    progress = training.start(build_model(job, 1, None), job.config)
    progress.epoch, progress.best_epoch = 5, 3
    assert list(epochs_of(job, progress, num_epochs=9, patience=2)) == []


def test_the_same_seed_gives_the_same_bits(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config())
    (one, first), (other, second) = trained(job), trained(job)
    assert logged(first) == logged(second)
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in one.model.state_dict().items())


def test_another_seed_gives_another_run(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("T"))
    assert logged(trained(job, num_epochs=1)[1]) != logged(trained(job, num_epochs=1, seed=2)[1])


def test_stage_1_changes_no_encoder_weight(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config(stage="pretrain"))
    model = build_model(job, 1, None)
    before = weights(model)
    trained(job, model, num_epochs=1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"adapters", "bridges", "inner", "fusion", "head"}


def test_stage_2_changes_no_adapter_weight(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config())
    model = build_model(job, 1, None)
    before = weights(model)
    trained(job, model, num_epochs=1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"encoders", "inner", "fusion", "head"}
    assert {name.split(".")[1] for name in changed if name.startswith("encoders")} == {"text", "vision", "audio"}


def test_a_batch_of_one_trains(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config())
    model = build_model(job, 1, None)
    before = weights(model)
    progress, epochs = trained(job, model, batch_size=1, num_epochs=1)
    assert progress.step == 13
    assert math.isfinite(epochs[0].losses["contrast"])
    assert not torch.equal(model.state_dict()["head.0.weight"], before["head.0.weight"])


def test_a_last_batch_of_one_is_skipped_under_batchnorm_and_said_so(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job, notes = open_job(tiny_config("", "model.gate_norm=batch", *FOURS)), Notes()
    seen: list[int] = []

    class Counting(ConKI):
        def after_backward(self, output: object, batch: Batch, *, epoch: int, phase: str) -> None:
            seen.append(len(batch))

    model = build_model(job, 1, None)
    model.__class__ = Counting
    progress, _ = trained(job, model, notes, num_epochs=1)
    assert (seen, progress.step) == ([4, 4, 4], 4)
    skipped = "the last batch of every epoch has 1 of 13 training clips and is skipped: this model needs at least 2"
    assert notes.lines == [skipped]


def test_batches_too_small_for_batchnorm_are_refused(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("", "model.gate_norm=batch"))
    with pytest.raises(ConkiError, match="batches of at least 2 clips, found batch_size 1 for 13 clips"):
        trained(job, batch_size=1)


def test_a_loss_that_is_no_number_stops_before_the_weights_are_damaged(
    tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    job = open_job(tiny_config("C1", *FOURS))
    model = build_model(job, 1, None)
    torch.nn.init.constant_(model.head[-1].bias, float("inf"))
    before = weights(model)
    said = r"the loss term 'task' is inf in epoch 1, batch 1 \(clips (train\$_\$\d+(, )?){4}\): .*`conki inspect`"
    with pytest.raises(ConkiError, match=said) as error:
        trained(job, model)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_clips_whose_predictions_are_no_numbers_are_named(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("C1"))
    model = build_model(job, 1, None)

    def spoil(module: object, inputs: tuple[Batch], output: Output) -> Output:
        spoilt = torch.where(inputs[0].indices == 6, torch.nan, output.prediction)
        return dataclasses.replace(output, prediction=spoilt)

    model.register_forward_hook(spoil)
    with pytest.raises(ConkiError, match=r"in epoch 1, batch 1 \(clips train\$_\$6\): training stopped"):
        trained(job, model)


def test_a_gradient_that_is_no_number_stops_before_the_weights_are_damaged(
    tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    job = open_job(tiny_config("C1"))
    model = build_model(job, 1, None)
    model.head[-1].bias.register_hook(lambda gradient: gradient * torch.inf)
    before = weights(model)
    said = r"the gradient of head\.\d+\.bias is not finite in epoch 1, batch 1 \(clips .*\), with the loss terms task "
    with pytest.raises(ConkiError, match=said):
        trained(job, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_progress_counts_every_step_of_the_whole_training(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    notes = Notes()
    trained(open_job(tiny_config("C1+T", *FOURS)), None, notes, num_epochs=3)
    assert notes.num_steps == 3 * 4


def test_a_continued_training_tells_how_far_it_was(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job, notes = open_job(tiny_config("C1+T", *FOURS)), Notes()
    progress, _ = trained(job, num_epochs=1)
    list(epochs_of(job, progress, notes, num_epochs=3))
    assert notes.num_steps == 3 * 4


# --- learning rates --------------------------------------------------------------------------------------------


def rates(model: ConKI, config_rates: MakeConfig, drop: str, *settings: str, **run: object) -> dict[str, set[object]]:
    """Return family (text, audio and vision apart) -> (learning rate, weight decay) pairs."""
    groups = model.parameter_groups(config_rates(drop, *settings, **run), "main")
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, set[object]] = {}
    for group in groups:
        for parameter in group.parameters:
            name = names[id(parameter)].split(".")
            key = name[1] if name[0] == "encoders" else name[0]
            found.setdefault(key, set()).add((group.learning_rate, group.weight_decay))
    return found


_RATES = ("optimizer.lr_encoders=0.1", "optimizer.lr_audio_vision=0.2", "optimizer.lr_others=0.3")


@pytest.mark.parametrize("drop", ["", "C1", "plain-transfer"])
def test_text_frames_and_everything_else_have_their_own_rates(
    drop: str, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, _ = model_and_batch(open_job(tiny_config(drop)))
    found = rates(model, tiny_config, drop, *_RATES)
    expected = {"text": 0.1, "vision": 0.2, "audio": 0.2, "inner": 0.3, "fusion": 0.3, "head": 0.3}
    if drop == "C1":
        expected["adapters"] = 0.3
    assert found == {family: {(rate, 1e-3), (rate, 0.0)} for family, rate in expected.items()}


def test_frames_learn_as_fast_as_text_unless_told_otherwise(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    model, _ = model_and_batch(open_job(tiny_config()))
    assert rates(model, tiny_config, "", "optimizer.lr_encoders=0.1")["audio"] == {(0.1, 1e-3), (0.1, 0.0)}


def test_biases_and_normalisation_do_not_decay(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    config = tiny_config("C1")
    model, _ = model_and_batch(open_job(config))
    names = {id(p): name for name, p in model.named_parameters()}
    free = {names[id(p)] for g in model.parameter_groups(config, "main") if not g.weight_decay for p in g.parameters}
    expected = {name for name in names.values() if name.endswith("bias") or "norm" in name.lower()}
    expected |= {f"adapters.{name}.pooler.weight" for name in ("vision", "audio")}  # LayerNorm
    assert free == expected


def test_stage_1_has_one_rate_and_plain_transfer_those_of_stage_2(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    for drop, pairs in (("", {(0.4, 0.0)}), ("plain-transfer", {(0.3, 1e-3), (0.3, 0.0)})):
        model, _ = model_and_batch(open_job(tiny_config(drop, stage="pretrain")))
        found = rates(model, tiny_config, drop, *_RATES, "pretraining.learning_rate=0.4", stage="pretrain")
        assert found["head"] == pairs


def test_every_trainable_weight_is_in_exactly_one_group(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    for drop in ALL_SWITCHES:
        config = tiny_config(drop)
        model, _ = model_and_batch(open_job(config))
        grouped = [id(p) for group in model.parameter_groups(config, "main") for p in group.parameters]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
