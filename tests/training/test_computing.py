"""Ways to compute: cached states, shorter numbers, compiled parts, groups of attention. None changes what is learnt."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baseline_support import EIGHT, OVERRIDES, make, text_encoder
from conftest import MakeConfig, Notes, OpenJob, content, equal_bits, model_and_batch
from run_support import QUICK, finetune, pretrain, slowly

from conki_cli.config.sections import RunConfig
from conki_cli.experiments.prediction import predict_split
from conki_cli.model import zoo
from conki_cli.model.contract import SentimentModel
from conki_cli.model.layers import compile_positions
from conki_cli.model.packing import ATTENTION_SHARE
from conki_cli.runs import Run
from conki_cli.system.errors import SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace
from conki_cli.training.cached_states import StateCache, cached_states
from conki_cli.training.jobs import build_model

CPU = torch.device("cpu")
every_model = pytest.mark.parametrize("name", zoo.MODELS)
NO_DROPOUT = ("model.dropout=0", "model.adapter_dropout=0", "model.gate_dropout=0")

Space = Callable[[str], Workspace]


@pytest.fixture
def space(stores: Path, tmp_path: Path) -> Space:
    """Return a function that makes a workspace of its own with both stores."""

    def make_one(name: str) -> Workspace:
        shutil.copytree(stores, tmp_path / name / "features")
        return Workspace(tmp_path / name)

    return make_one


def losses(run: Run) -> list[float]:
    """Return the mean loss of every epoch of seed 1, and its validation MAE."""
    lines = (run.seed_folder(1) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines]
    return [value for epoch in epochs for value in (*epoch["losses"].values(), epoch["validation"]["mae"])]


def begun(config: RunConfig, workspace: Workspace) -> None:
    """Interrupt stage 1 in its second epoch."""
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, workspace, Notes(interrupt_at="epoch 2/"))


# --- cached states -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [(), pytest.param(NO_DROPOUT, marks=pytest.mark.slow)], ids=["dropout", "no dropout"]
)
@pytest.mark.parametrize(("cache", "share"), slowly([("fp32", 1e-6), ("fp16", 1e-4)], [("fp16", 1e-4)]))
def test_stage_1_learns_from_kept_states_what_it_learns_from_the_texts(
    settings: tuple[str, ...], cache: str, share: float, space: Space, tiny_config: MakeConfig
) -> None:
    plain = pretrain(tiny_config("", *settings, cache="off"), space("off"))
    kept = pretrain(tiny_config("", *settings, cache=cache), space("kept"))
    assert losses(kept) == pytest.approx(losses(plain), rel=share)
    assert [run.seed_result(1).cache for run in (plain, kept)] == ["off", cache]


def test_switched_off_nothing_is_kept(space: Space, tiny_config: MakeConfig) -> None:
    workspace = space("off")
    pretrain(tiny_config(cache="off"), workspace)
    assert not (workspace.root / "frozen").exists()


def test_kept_states_of_an_earlier_run_give_the_same_bits(space: Space, tiny_config: MakeConfig) -> None:
    fresh, again = space("fresh"), space("again")
    first = pretrain(tiny_config(), fresh)
    shutil.copytree(fresh.root / "frozen", again.root / "frozen")
    notes = Notes()
    second = pretrain(tiny_config(), again, notes)
    assert not any("reads tiny-external once" in line for line in notes.lines)
    assert losses(first) == losses(second)
    assert equal_bits(content(first.checkpoint(1, "best")), content(second.checkpoint(1, "best")))


@pytest.mark.parametrize("lost", slowly([False, True], [True]), ids=["still there", "deleted meanwhile"])
def test_an_interrupted_stage_1_with_kept_states_ends_in_the_same_bits(
    lost: bool, space: Space, tiny_config: MakeConfig
) -> None:
    whole, workspace = pretrain(tiny_config(), space("whole")), space("interrupted")
    begun(tiny_config(), workspace)
    if lost:
        shutil.rmtree(workspace.root / "frozen")
    run = pretrain(tiny_config(), workspace)
    assert losses(run) == losses(whole)
    assert equal_bits(content(run.checkpoint(1, "last")), content(whole.checkpoint(1, "last")))


@pytest.mark.parametrize(
    ("before", "after"), slowly([("off", "fp32"), ("fp32", "off"), ("fp16", "fp32")], [("fp32", "off")])
)
def test_a_seed_stays_with_the_cache_that_it_began_with_and_says_so(
    before: str, after: str, space: Space, tiny_config: MakeConfig
) -> None:
    whole, workspace, notes = pretrain(tiny_config(cache=before), space("whole")), space("changed"), Notes()
    begun(tiny_config(cache=before), workspace)
    run = pretrain(tiny_config(cache=after), workspace, notes)
    assert any(f"seed 1 started with --cache {before} and keeps it" in line for line in notes.lines)
    assert run.seed_result(1).cache == before
    assert losses(run) == losses(whole)


def test_seeds_and_ablations_share_the_files(space: Space, tiny_config: MakeConfig) -> None:
    workspace = space("shared")
    quick = ("pretraining.num_epochs=1",)
    for config in (tiny_config("", *quick, seeds=(1, 2)), tiny_config("V", *quick), tiny_config("C3", *quick)):
        pretrain(config, workspace)
    kept = sorted(path.name.rpartition("-")[0] for path in (workspace.root / "frozen").glob("*.h5"))
    assert kept == ["tiny-external-train", "tiny-external-valid"]


def test_a_finished_run_predicts_another_split_from_what_was_kept(space: Space, tiny_config: MakeConfig) -> None:
    workspace, notes = space("kept"), Notes()
    config = tiny_config("", "model.name=tfn", "data.external=none", "optimizer.num_epochs=1")
    run = finetune(config, workspace, Observer())
    kept = sorted((workspace.root / "frozen").glob("*.h5"))
    predict_split(run, "train", workspace, notes)
    assert sorted((workspace.root / "frozen").glob("*.h5")) == kept
    assert not any("reads tiny once" in line for line in notes.lines)
    assert run.predictions_path(1, "train").exists()


def test_without_text_nothing_is_kept(space: Space, tiny_config: MakeConfig) -> None:
    workspace = space("deaf")
    run = pretrain(tiny_config("T", "pretraining.num_epochs=1"), workspace)
    assert run.seed_result(1).cache == "off"
    assert not (workspace.root / "frozen").exists()


def test_a_place_where_nothing_can_be_kept_stops_no_training(space: Space, tiny_config: MakeConfig) -> None:
    workspace, notes = space("closed"), Notes()
    (workspace.root / "frozen").write_text("in the way", encoding="utf-8")
    run = pretrain(tiny_config(), workspace, notes)
    assert run.seed_result(1).cache == "off"
    assert len([line for line in notes.lines if "computed again in every epoch" in line]) == 1


def test_kept_states_change_no_batch(tiny_config: MakeConfig, open_job: OpenJob, tmp_path: Path) -> None:
    job = open_job(tiny_config(stage="pretrain"))
    model = build_model(job, 1, None)
    cache = StateCache(model.text_encoder, model.layers_read or (), "fp32", tmp_path / "kept", CPU)
    states = cached_states(cache, job.inputs, ("train",), Observer())
    plain, kept = (replace(job.inputs, states=found or {}) for found in (None, states))
    for epoch in (1, 2):
        batches = (inputs.batches("train", batch_size=4, seed=1).epoch(epoch) for inputs in (plain, kept))
        for one, other in zip(*batches, strict=True):
            assert torch.equal(one.indices, other.indices)
            assert torch.equal(one.modality("text").values, other.modality("text").values)
            assert (bool(one.states), bool(other.states)) == (False, True)


# --- shorter numbers ---------------------------------------------------------------------------------------------


@pytest.fixture
def build(encoder: Path) -> Callable[[str, str], SentimentModel]:
    """Return a function that builds a tiny model that computes in the given numbers."""

    def one(name: str, precision: str) -> SentimentModel:
        settings = {**OVERRIDES.get(name, {}), "compute.precision": precision}
        model = make(name, settings, dataset="tiny", text=text_encoder(encoder))
        model.start(EIGHT.scores)
        return model

    return one


Build = Callable[[str, str], SentimentModel]


@pytest.mark.parametrize("name", slowly(zoo.MODELS, QUICK))
def test_predictions_in_bf16_are_float32_and_near_those_in_fp32(name: str, build: Build) -> None:
    with torch.no_grad():
        whole, short = (build(name, precision).eval().represent(EIGHT).prediction for precision in ("fp32", "bf16"))
    assert short.dtype == torch.float32
    torch.testing.assert_close(short, whole, atol=0.01, rtol=0.01)  # bf16 has 8 bits
    assert not torch.equal(short, whole)


@every_model
def test_everything_that_a_loss_reads_is_float32(name: str, build: Build) -> None:
    output = build(name, "bf16").represent(EIGHT)
    parts = [output.prediction, *output.parts.values()]
    parts += [part for part in (output.pan, output.specific) if part is not None]
    assert {part.dtype for part in parts if part.is_floating_point()} == {torch.float32}


@every_model
def test_losses_in_bf16_are_at_least_float32_and_their_gradients_finite(name: str, build: Build) -> None:
    model = build(name, "bf16")
    for phase in model.phases:
        model.zero_grad(set_to_none=True)
        model.train()
        model.start_phase(1, phase)
        output = model.represent(EIGHT)
        terms = model.loss(output, EIGHT, phase)
        assert {term.dtype for term in terms.values()} <= {torch.float32, torch.float64}  # ICCN inverts matrices
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        model.after_backward(output, EIGHT, epoch=1, phase=phase)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients
        assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", slowly(zoo.MODELS, QUICK))
def test_gradients_in_bf16_point_where_those_in_fp32_do(name: str, build: Build) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        model = build(name, precision).eval()
        phase = model.phases[-1]
        torch.autograd.backward(torch.stack(list(model.loss(model.represent(EIGHT), EIGHT, phase).values())).sum())
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*found, dim=0) > 0.97  # TFN: 0.98, its products are small


@every_model
def test_tf32_changes_nothing_on_a_cpu(name: str, build: Build) -> None:
    one, other = (build(name, precision).eval().represent(EIGHT).prediction for precision in ("fp32", "tf32"))
    assert torch.equal(one, other)


def test_a_run_in_tf32_is_refused_on_a_cpu(space: Space, tiny_config: MakeConfig) -> None:
    with pytest.raises(SettingsError, match=r"^--precision tf32 needs a GPU"):
        finetune(tiny_config("C1", "compute.precision=tf32"), space("slow"), Observer())
    assert torch.get_float32_matmul_precision() == "highest"


def test_weights_learnt_in_bf16_are_float32(space: Space, tiny_config: MakeConfig) -> None:
    run = pretrain(tiny_config("", "pretraining.num_epochs=1", "compute.precision=bf16"), space("short"))
    stored = content(run.checkpoint(1, "best"))
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float32}


# --- compiled parts, groups of attention -------------------------------------------------------------------------

tracing = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch hides it itself


def learnt(model: SentimentModel, batch: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the predictions and the gradients of every weight that trains."""
    model.zero_grad(set_to_none=True)
    output = model.represent(batch)
    terms = model.loss(output, batch, "main")
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    return output.prediction.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@tracing
@pytest.mark.parametrize("stage", slowly(["pretrain", "finetune"], []))
def test_compiled_positions_change_neither_predictions_nor_gradients(
    stage: str, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, batch = model_and_batch(open_job(tiny_config("", *NO_DROPOUT, stage=stage)))
    names, expected = list(model.state_dict()), learnt(model.eval(), batch)
    compile_positions(model, backend="eager")
    assert list(model.state_dict()) == names
    torch.testing.assert_close(learnt(model, batch), expected, atol=1e-6, rtol=1e-5)


@tracing
def test_a_copy_of_a_compiled_model_computes_with_its_own_weights(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    model, batch = model_and_batch(open_job(tiny_config("C1")))
    plain = copy.deepcopy(model).eval()
    compile_positions(model, backend="eager")
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        for part in (plain, twin):
            for parameter in part.parameters():
                parameter.mul_(1.5)
        torch.testing.assert_close(twin(batch).prediction, plain(batch).prediction, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(twin(batch).prediction, model.eval()(batch).prediction, atol=1e-3)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_groups_of_attention_change_neither_the_contrast_nor_its_gradients(
    share: float, tiny_config: MakeConfig, open_job: OpenJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = model_and_batch(open_job(tiny_config("C1")))
    expected = learnt(model.eval(), batch)
    monkeypatch.setitem(ATTENTION_SHARE, "cpu", share)
    torch.testing.assert_close(learnt(model, batch), expected, atol=1e-5, rtol=1e-4)


def test_clips_may_stand_in_any_order_of_the_batch(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("C1"))
    model, batches = build_model(job, 1, None).eval(), job.inputs.batches("train", batch_size=13)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stored, mixed = (model(batches.take(rows.numpy())).prediction for rows in (torch.arange(13), order))
    torch.testing.assert_close(mixed, stored[order], atol=1e-5, rtol=1e-5)
