"""What the baselines ask of the one loop: summed gradients, clipping, passes, patience, plateaus, memory."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
import torch
from conftest import MakeConfig, Notes, OpenJob, content, equal_bits, make_corpus
from run_support import finetune, slowly
from torch import Tensor, nn

from conki_cli.config.resolving import stage_one
from conki_cli.config.sections import BASELINES, RunConfig
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.writing import write_store
from conki_cli.experiments.prediction import predict_new, read_new
from conki_cli.model.batches import Batch
from conki_cli.model.contract import Architecture, Output, ParameterGroup, SentimentModel
from conki_cli.model.mixing import MixedBatches
from conki_cli.model.zoo import model_class
from conki_cli.system.errors import SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training import loop as training
from conki_cli.training.jobs import Job, check_scores
from conki_cli.training.loop import Epoch, Progress, Schedule

CPU = torch.device("cpu")
PLAN = Schedule(num_epochs=1, batch_size=4, warmup=0.0, patience=0, seed=1, schedule="constant")


class Line(SentimentModel):
    """Predicts weight * (position in the split + 1) + shift; writes down what the loop does with it."""

    phases = ("first", "second")

    def __init__(self, *, loss_scale: float = 1.0, learns: bool = True) -> None:
        super().__init__(Architecture(("audio",), width=4, text_layers=0), None)
        self.weight, self.shift = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.loss_scale, self.learns = loss_scale, learns
        self.seen: list[tuple[object, ...]] = []
        self.gradients: list[Tensor] = []

    def forward(self, batch: Batch) -> Output:
        return Output(self.weight * (batch.indices + 1) + self.shift)

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        self.seen.append(("batch", phase, len(batch)))
        return {"task": self.loss_scale * ((output.prediction - batch.scores) ** 2).mean() + 0 * self.shift.sum()}

    def parameter_groups(self, config: RunConfig, phase: str) -> list[ParameterGroup]:
        owned = self.weight if phase == "first" else self.shift
        return [ParameterGroup([owned], 0.01 if self.learns else 1e-30, 0.0)]

    def start_phase(self, epoch: int, phase: str) -> None:
        self.seen.append(("start", epoch, phase))

    def after_backward(self, output: Output, batch: Batch, *, epoch: int, phase: str) -> None:
        assert self.weight.grad is not None
        assert self.shift.grad is not None
        self.gradients.append(torch.cat([self.weight.grad, self.shift.grad]).clone())


@pytest.fixture
def job(open_job: OpenJob, tiny_config: MakeConfig) -> Job:
    """A job on the tiny corpus: 13 training clips, so batches of 4, 4, 4 and 1."""
    return open_job(tiny_config("C1", "optimizer.algorithm=adam"))


def fitted(job: Job, model: SentimentModel, **plan: object) -> tuple[Progress, list[Epoch]]:
    progress = training.start(model, job.config)
    train, valid = job.inputs.batches("train", batch_size=4, seed=1), job.inputs.batches("valid", batch_size=4)
    chosen = dataclasses.replace(PLAN, **plan)
    return progress, list(training.fit(progress, train, valid, chosen, device=CPU, observer=Observer()))


def test_phases_run_in_their_order_and_each_steps_its_own_weights(job: Job) -> None:
    model = Line()
    fitted(job, model, num_epochs=2)
    starts = [entry[1:] for entry in model.seen if entry[0] == "start"]
    assert starts == [(1, "first"), (1, "second"), (2, "first"), (2, "second")]
    assert [entry[1] for entry in model.seen if entry[0] == "batch"] == (["first"] * 4 + ["second"] * 4) * 2


def test_the_last_short_window_of_a_pass_is_stepped(job: Job) -> None:
    model = Line()
    progress, _ = fitted(job, model, accumulate=3)
    assert len(model.gradients) == 8
    for phase, parameter in (("first", model.weight), ("second", model.shift)):
        assert int(progress.optimizers[phase].state[parameter]["step"]) == 2  # windows of 3 batches and of 1


def test_a_window_of_all_batches_has_the_gradient_of_their_summed_losses(job: Job) -> None:
    model = Line()
    fitted(job, model, accumulate=4)
    scores = torch.from_numpy(job.inputs.batches("train", batch_size=4).scores())
    order = list(job.inputs.batches("train", batch_size=4, seed=1).epoch(1))
    expected = sum((-2 * (batch.indices + 1) * scores[batch.indices]).mean() for batch in order)
    assert model.gradients[3][0].item() == pytest.approx(float(expected), rel=1e-5)


def test_value_clipping_bounds_every_entry_after_every_batch(job: Job) -> None:
    model = Line(loss_scale=1e6)
    fitted(job, model, clip_value=0.25, accumulate=2)
    assert max(float(gradient.abs().max()) for gradient in model.gradients) <= 0.25


def test_norm_clipping_bounds_the_norm_of_all_gradients_together(job: Job) -> None:
    norms: list[float] = []

    class Watched(Line):
        def start_phase(self, epoch: int, phase: str) -> None:
            if self.weight.grad is not None and self.shift.grad is not None:
                norms.append(float(torch.cat([self.weight.grad, self.shift.grad]).norm()))

    fitted(job, Watched(loss_scale=1e6), clip_norm=1.0, accumulate=4)
    assert norms == pytest.approx([1.0])


def test_training_stops_after_exactly_so_many_epochs_without_a_better_one(job: Job) -> None:
    progress, epochs = fitted(job, Line(learns=False), num_epochs=50, patience=8)
    assert (progress.best_epoch, len(epochs)) == (1, 9)


def test_rates_fall_to_a_tenth_on_a_plateau_and_again_on_the_next(job: Job) -> None:
    progress, _ = fitted(job, Line(learns=False), num_epochs=14, plateau_patience=5)
    assert progress.rate_scale == pytest.approx(0.01)  # after epochs 7 and 13
    assert progress.optimizers["first"].param_groups[0]["lr"] == pytest.approx(1e-32, rel=1e-6, abs=0)


def test_constant_rates_stay_and_linear_ones_fall(job: Job) -> None:
    for schedule, rate in (("constant", 0.01), ("linear", 0.01 / 8)):
        progress, _ = fitted(job, Line(), schedule=schedule)
        assert progress.optimizers["second"].param_groups[0]["lr"] == pytest.approx(rate)


def test_a_pass_may_see_a_share_of_the_batches_of_its_own_size(job: Job) -> None:
    class Half(Line):
        def share(self, phase: str) -> float:
            return 0.5 if phase == "first" else 1.0

        def batch_size(self, phase: str) -> int | None:
            return None if phase == "first" else 10

    model = Half()
    fitted(job, model)
    assert [entry[1:] for entry in model.seen if entry[0] == "batch"] == [
        ("first", 4),
        ("first", 4),
        ("second", 10),
        ("second", 3),
    ]


def test_epochs_that_are_not_judged_are_never_the_best_and_cost_no_patience(job: Job) -> None:
    class Late(Line):
        def counts_for_selection(self, epoch: int) -> bool:
            return epoch > 3

    progress, epochs = fitted(job, Late(learns=False), num_epochs=50, patience=2)
    assert [epoch.is_best for epoch in epochs] == [False, False, False, True, False, False]
    assert progress.best_epoch == 4


def test_every_pass_begins_in_training_mode_and_keeps_what_the_model_then_changes(job: Job) -> None:
    modes: list[tuple[bool, bool]] = []

    class Partly(Line):
        def start_phase(self, epoch: int, phase: str) -> None:
            self.bridges.eval()

        def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
            modes.append((self.training, self.bridges.training))
            return super().loss(output, batch, phase)

    fitted(job, Partly(), num_epochs=2)
    assert set(modes) == {(True, False)}


def test_chance_is_another_in_every_epoch_and_the_same_in_every_run(job: Job) -> None:
    class Chancy(Line):
        def start_phase(self, epoch: int, phase: str) -> None:
            self.seen.append(("drawn", float(torch.rand(()))))

    runs = [Chancy(), Chancy()]
    for model in runs:
        fitted(job, model, num_epochs=3)
    one, other = ([entry[1] for entry in model.seen if entry[0] == "drawn"] for model in runs)
    assert one == other
    assert len(set(one[::2])) == 3


def test_an_epoch_reports_the_mean_of_a_term_over_its_batches(job: Job) -> None:
    values: list[float] = []

    class Noted(Line):
        def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
            terms = super().loss(output, batch, phase)
            values.append(float(terms["task"].detach()))
            return terms

    _, (epoch,) = fitted(job, Noted())
    assert len(values) == 8
    assert epoch.losses["task"] == pytest.approx(sum(values) / 8)


def test_epochs_that_are_not_judged_count_for_no_plateau(job: Job) -> None:
    class Late(Line):
        def counts_for_selection(self, epoch: int) -> bool:
            return epoch > 6

    progress, _ = fitted(job, Late(learns=False), num_epochs=9, plateau_patience=2)
    assert progress.rate_scale == 1.0  # epochs 8 and 9 are the only ones without a better MAE


def test_the_errors_of_several_sets_are_clipped_as_those_of_one(job: Job) -> None:
    part = dataclasses.replace(job.inputs.batches("valid", batch_size=4), score_range=(-1.0, 1.0), rescale=(1 / 3, 0.0))
    both, model = MixedBatches.of({"a": part, "b": part}, {}), Line(learns=False)
    nn.init.constant_(model.shift, 2.0)
    progress = training.start(model, job.config)
    (epoch,) = training.fit(progress, part, both, PLAN, device=CPU, observer=Observer())
    assert epoch.metrics["mae_a"] == epoch.metrics["mae"] == pytest.approx((1 - part.scores()).mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "score_range", "expected"),
    [
        (
            "tfn",
            (0.0, 10.0),
            "TFN predicts scores from -3 to 3, but those of tiny go from 0 to 10: choose another --model",
        ),
        ("hycon", (0.0, 10.0), "a part of the loss of HyCon compares scores below 0 with others, but those of tiny go"),
        ("mmim", (1.0, 5.0), "MMIM compares scores below 0 with others, but those of tiny go from 1 to 5"),
        ("self-mm", (0.0, 10.0), "Self-MM compares"),
        ("lmf", (0.0, 10.0), ""),
        ("tfn", (-1.0, 1.0), ""),
        ("mmim", (-3.0, 3.0), ""),
    ],
)
def test_scores_that_a_model_was_not_made_for_are_told_of(
    job: Job, tmp_path: Path, name: str, score_range: tuple[float, float], expected: str
) -> None:
    corpus = dataclasses.replace(make_corpus("tiny", (4, 2, 2), seed=4, longest=3), score_range=score_range)
    middle = sum(score_range) / 2
    splits = {key: [dataclasses.replace(one, score=middle) for one in found] for key, found in corpus.splits.items()}
    write_store(tmp_path / "tiny.h5", dataclasses.replace(corpus, splits=splits))
    with FeatureStore(tmp_path / "tiny.h5") as store:
        config = job.config.with_values("model", name=name)
        asked = dataclasses.replace(job, config=config, inputs=dataclasses.replace(job.inputs, target=store))
        try:
            said = check_scores(asked, cast(SentimentModel, model_class(name)))
        except SettingsError as error:
            said = str(error)
    assert expected in said if expected else not said


def test_a_plan_has_every_setting_of_the_optimiser(tiny_config: MakeConfig) -> None:
    settings = {
        "schedule": "constant",
        "accumulate": 3,
        "clip_value": 0.5,
        "clip_norm": 0.25,
        "plateau_patience": 7,
        "patience": 9,
    }
    lines = [f"optimizer.{name}={value}" for name, value in settings.items()]
    first = tiny_config("", "model.name=misa", *lines)
    for config in (first, stage_one(first)):
        plan = training.schedule_of(config, 1)
        assert {name: getattr(plan, name) for name in settings} == settings


def test_a_linear_schedule_ends_with_the_last_step_of_all_passes(job: Job) -> None:
    class Uneven(Line):
        def batch_size(self, phase: str) -> int | None:
            return 10 if phase == "second" else None

        def share(self, phase: str) -> float:
            return 0.5 if phase == "first" else 1.0

    progress, _ = fitted(job, Uneven(), num_epochs=3, schedule="linear", warmup=0.0)
    assert progress.step == 3 * (2 + 2)
    assert progress.optimizers["second"].param_groups[0]["lr"] == pytest.approx(0.01 / progress.step)


def test_the_weight_decay_of_a_group_reaches_its_optimiser(job: Job) -> None:
    class Decaying(Line):
        def parameter_groups(self, config: RunConfig, phase: str) -> list[ParameterGroup]:
            return [ParameterGroup([self.weight], 0.1, 0.5), ParameterGroup([self.shift], 0.2, 0.25)]

    optimizer = training.start(Decaying(), job.config).optimizers["first"]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.1, 0.5), (0.2, 0.25)]


# ---- a baseline as a run ----

BASELINE = ("model.name=self-mm", "optimizer.num_epochs=4", "optimizer.accumulate=2", "optimizer.patience=0")


def test_label_memories_survive_an_interruption(
    workspace: Workspace, stores: Path, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    config = tiny_config("", *BASELINE, "data.external=none")
    shutil.copytree(stores, tmp_path / "other" / "features")
    whole = finetune(config, Workspace(tmp_path / "other"), Observer())
    with pytest.raises(KeyboardInterrupt):
        finetune(config, workspace, Notes(interrupt_at="epoch 3/"))
    notes = Notes()
    run = finetune(config, workspace, notes)
    assert any("resumes after epoch 2" in line for line in notes.lines)
    one, other = content(whole.checkpoint(1, "last")), content(run.checkpoint(1, "last"))
    assert {"labels", "features"} <= one.keys()
    assert equal_bits(one, other)
    assert whole.predictions_path(1, "test").read_bytes() == run.predictions_path(1, "test").read_bytes()


@pytest.mark.parametrize("model", slowly(BASELINES, ["mmim"]))
def test_every_baseline_can_learn_from_external_data_first(
    workspace: Workspace, tiny_config: MakeConfig, model: str
) -> None:
    quick = ("pretraining.num_epochs=1", "optimizer.num_epochs=1")
    iccn = ("iccn.cca_epochs=0", "iccn.out_width=2", "iccn.cca_batch_size=13") if model == "iccn" else ()
    run = finetune(tiny_config("", f"model.name={model}", *quick, *iccn), workspace, Observer())
    assert run.is_finished
    assert run.seed_result(1).stage_1


def test_external_data_come_first_and_hand_over_all_but_bridges_and_memory(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    notes = Notes()
    run = finetune(tiny_config("", *BASELINE), workspace, notes)
    assert any("stage 1 on tiny-external, for tiny" in line for line in notes.lines)
    assert run.record.label == "Self-MM"
    assert len(content(run.checkpoint(1, "best"))["labels"]) == 13


@pytest.mark.parametrize("model", slowly(["tfn", "lmf", "mult"], ["lmf"]))
def test_a_frozen_text_encoder_reads_every_text_once(workspace: Workspace, tiny_config: MakeConfig, model: str) -> None:
    settings = (f"model.name={model}", "data.external=none")
    counted = Notes()
    run = finetune(tiny_config("", *settings, seeds=(1, 2)), workspace, counted)
    kept = sorted(path.name for path in (workspace.root / "frozen").glob("*.h5"))
    assert [name.rpartition("-")[0] for name in kept] == ["tiny-test", "tiny-train", "tiny-valid"]
    trainable = run.seed_result(1).parameters["trained"]
    assert not any(name.startswith("text.") for name in content(run.checkpoint(1, "best")))
    assert trainable < run.seed_result(1).parameters["all"]


def test_new_sentences_reach_a_frozen_text_encoder_as_the_stored_ones_did(
    workspace: Workspace, tiny_config: MakeConfig
) -> None:
    run = finetune(tiny_config("", "model.name=tfn", "data.external=none"), workspace, Observer())
    with read_new(None, None, workspace.store("tiny"), "test") as clips:
        scored = predict_new(run, clips, "cpu")
    found = [clip["prediction"] for clip in scored["clips"]]
    lines = run.predictions_path(1, "test").read_text(encoding="utf-8").splitlines()[1:]
    stored: Mapping[str, float] = {line.split(",")[0]: float(line.split(",")[2]) for line in lines}
    assert found == pytest.approx([stored[clip["id"]] for clip in scored["clips"]], abs=1e-5)
