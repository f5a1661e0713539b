"""One battery over all ten models: what each must do whatever it computes (their own numbers: tests/test_baselines)."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from baseline_support import (
    DIMS,
    EIGHT,
    MOSEI,
    MOSI,
    OVERRIDES,
    SIMS,
    alone,
    chosen,
    config_of,
    make,
    stirred,
    with_junk,
)
from run_support import QUICK, slowly

from conki_cli import MODALITIES
from conki_cli.config.declarations import setting_fields
from conki_cli.config.models import label_of
from conki_cli.config.sections import BASELINES, RunConfig
from conki_cli.model import zoo
from conki_cli.model.batches import Batch, Padded, pad_frames
from conki_cli.model.contract import Architecture, Output, SentimentModel
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.errors import RunError, SettingsError
from conki_cli.text import load_backbone
from conki_cli.training import checkpoint
from conki_cli.training import loop as training

WIDTHS = dict(zip(("audio", "vision"), DIMS[1:], strict=True))
D = DIMS[0]
FOUR = chosen(EIGHT, range(4))
DOCS = Path(__file__).parents[2] / "docs"

every_model = pytest.mark.parametrize("name", zoo.MODELS)


@dataclass(frozen=True)
class Built:
    """A tiny model with its configuration and the optimisers that training would give it."""

    model: SentimentModel
    config: RunConfig
    progress: training.Progress


Build = Callable[..., Built]


@pytest.fixture(scope="module")
def build(encoder: Path) -> Build:
    """Return a function that builds a model on the tiny BERT, random under a seed."""
    backbone, fresh = load_backbone(str(encoder))

    def one(
        name: str,
        settings: Mapping[str, object] | None = None,
        *,
        modalities: tuple[str, ...] = MODALITIES,
        seed: int = 1,
    ) -> Built:
        config = config_of(name, {**OVERRIDES.get(name, {}), **(settings or {})}, "tiny")
        frames = {part: WIDTHS[part] for part in modalities if part != "text"}
        architecture = Architecture(modalities, D, 4, widths=frames, positions=dict.fromkeys(frames, 12))
        torch.manual_seed(seed)
        text = TextEncoder(copy.deepcopy(backbone), width=D, fresh=fresh) if "text" in modalities else None
        model = zoo.build(config, architecture, text)
        model.start(EIGHT.scores)
        return Built(model.train(), config, training.start(model, config))

    return one


def close(one: Output, other: torch.Tensor) -> None:
    torch.testing.assert_close(one.prediction, other, atol=1e-5, rtol=1e-5)


def step(built: Built, batch: Batch, phase: str, *, epoch: int = 1) -> dict[str, torch.Tensor]:
    """Compute the terms of a batch with their gradients, and let the model look at it; no weight moves."""
    model = built.model
    model.zero_grad(set_to_none=True)
    output = model(batch)
    terms = model.loss(output, batch, phase)
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    model.after_backward(output, batch, epoch=epoch, phase=phase)
    return terms


def learn(built: Built, epochs: range, *batches: Batch) -> None:
    """Train as the loop does: every pass of every epoch over the batches."""
    for epoch in epochs:
        for phase in built.model.passes(epoch):
            built.model.train()
            built.model.start_phase(epoch, phase)
            for batch in batches:
                step(built, batch, phase, epoch=epoch)
                built.progress.optimizers[phase].step()


def members(built: Built, phase: str) -> list[torch.nn.Parameter]:
    return [p for group in built.model.parameter_groups(built.config, phase) for p in group.parameters]


# --- predictions -------------------------------------------------------------------------------------------------


@every_model
def test_predictions_are_one_finite_float_per_clip(name: str, build: Build) -> None:
    model = build(name).model
    for mode in (True, False):
        prediction = model.train(mode)(FOUR).prediction
        assert (prediction.shape, prediction.dtype) == ((4,), torch.float32)
        assert prediction.isfinite().all()


@every_model
def test_predicting_twice_gives_the_same(name: str, build: Build) -> None:
    model = build(name).model.eval()
    assert torch.equal(model(FOUR).prediction, model(FOUR).prediction)


@every_model
def test_a_seed_fixes_the_network(name: str, build: Build) -> None:
    one, same, other = (build(name, seed=seed).model.eval()(FOUR).prediction for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@every_model
@pytest.mark.parametrize("training_mode", [True, False], ids=["training", "evaluation"])
def test_scores_are_never_read_to_predict(name: str, training_mode: bool, build: Build) -> None:
    model = build(name).model.train(training_mode)
    predictions = []
    for scores in (FOUR.scores, torch.full((4,), float("nan"))):
        torch.manual_seed(0)
        predictions.append(model(replace(FOUR, scores=scores)).prediction)
    assert torch.equal(*predictions)


@every_model
def test_the_rest_of_the_batch_never_changes_a_prediction(name: str, build: Build) -> None:
    model = stirred(build(name).model)
    close(model(FOUR), alone(model, FOUR))


@every_model
def test_what_lies_behind_the_mask_never_changes_a_prediction(name: str, build: Build) -> None:
    model = stirred(build(name).model)
    close(model(with_junk(FOUR)), model(FOUR).prediction)


@every_model
@pytest.mark.parametrize("modality", MODALITIES)
def test_every_modality_counts(name: str, modality: str, build: Build) -> None:
    model = stirred(build(name).model)
    part = FOUR.modality(modality)
    other = part.values.clone()
    other[:, 0] = 9 if modality == "text" else -other[:, 0]
    changed = replace(FOUR, **{modality: Padded(other, part.mask)})
    assert (model(changed).prediction - model(FOUR).prediction).abs().max() > 1e-6


@every_model
def test_clips_without_any_frame_can_be_learnt_from(name: str, build: Build) -> None:
    built = build(name)
    nothing = {part: pad_frames([np.zeros((0, width))] * 4) for part, width in WIDTHS.items()}
    terms = step(built, replace(FOUR, **nothing), built.model.phases[-1])
    assert all(term.isfinite() for term in terms.values())
    gradients = [p.grad for p in built.model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_model
def test_a_clip_alone_can_be_learnt_from_unless_the_model_says_otherwise(name: str, build: Build) -> None:
    built = build(name)
    smallest = built.model.smallest_batch("main")
    assert smallest == {"tfn": 2, "lmf": 2}.get(name, 1)
    terms = step(built, chosen(EIGHT, range(smallest)), built.model.phases[-1])
    assert all(term.isfinite() for term in terms.values())


@every_model
def test_states_of_a_frozen_text_encoder_may_come_with_the_batch(name: str, build: Build) -> None:
    model = stirred(build(name).model)
    assert model.layers_read == ((4,) if name in ("tfn", "lmf", "mult") else None)
    if model.layers_read:
        others = Padded(torch.zeros_like(FOUR.modality("text").values), FOUR.modality("text").mask)  # are not read
        close(model(replace(FOUR, text=others, states={"layer_4": model.text_states(FOUR)})), model(FOUR).prediction)


# --- modalities --------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("modality", MODALITIES)
def test_without_a_modality_a_model_works_or_says_in_one_line_that_it_cannot(
    name: str, modality: str, build: Build
) -> None:
    left = tuple(part for part in MODALITIES if part != modality)
    if modality not in zoo.model_class(name).required_modalities:
        built = build(name, modalities=left)
        terms = step(built, replace(FOUR, **{modality: None}), built.model.phases[-1])
        assert all(term.isfinite() for term in terms.values())
        return
    with pytest.raises(SettingsError) as caught:
        build(name, modalities=left)
    said = str(caught.value)
    assert said.startswith(f"{name} needs {modality}, but this run has only {', '.join(left)}: do not drop ")
    assert "\n" not in said


def test_which_models_need_which_modalities() -> None:
    needs = {name: zoo.model_class(name).required_modalities for name in zoo.MODELS}
    assert needs.pop("conki") == frozenset()
    assert needs.pop("mag-bert") == {"text"}
    assert set(needs.values()) == {frozenset(MODALITIES)}


# --- losses, gradients, optimisers -------------------------------------------------------------------------------


@every_model
def test_every_term_of_every_pass_is_a_finite_number(name: str, build: Build) -> None:
    built = build(name)
    for phase in built.model.phases:
        built.model.start_phase(1, phase)
        terms = step(built, FOUR, phase)
        assert {term.shape for term in terms.values()} == {()}
        assert all(term.isfinite() for term in terms.values())
    assert next(iter(terms)) == "task"


@every_model
def test_the_task_term_is_the_mean_error_of_the_scores(name: str, build: Build) -> None:
    model = build(name).model.eval()
    output = model(FOUR)
    error = (output.prediction - FOUR.scores).detach()
    expected = error.square().mean() if name in ("conki", "misa") else error.abs().mean()
    torch.testing.assert_close(model.loss(output, FOUR, model.phases[-1])["task"].detach(), expected)


@every_model
def test_every_parameter_that_trains_is_in_one_group(name: str, build: Build) -> None:
    built = build(name)
    grouped = [id(p) for phase in built.model.phases for p in members(built, phase)]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in built.model.parameters() if p.requires_grad}


def silent(built: Built) -> Iterator[str]:
    """Yield the parameters that their pass steps without a gradient, or with one of zeros."""
    for phase in built.model.phases:
        built.model.start_phase(1, phase)
        step(built, chosen(EIGHT, [0, 1, 3]), phase)  # an odd number: the signs of an absolute error cannot cancel out
        stepped = {id(p) for p in members(built, phase)}
        for name, parameter in built.model.named_parameters():
            if id(parameter) in stepped and (parameter.grad is None or not parameter.grad.any()):
                yield name


SILENT = {
    **dict.fromkeys(("conki", "mag-bert", "tfn", "lmf", "mult"), ("-",)),
    # in epoch 1 the labels of the modalities are the scores, and their terms have the weight tanh(0)
    "self-mm": ("text.backbone.pooler.", "heads.t.", "heads.v.", "heads.a."),
}
"""What may go without a gradient; by default BERT's pooler, which most models do not read."""


@every_model
def test_every_parameter_that_trains_gets_a_gradient(name: str, build: Build) -> None:
    built = build(name)
    prefixes = SILENT.get(name, ("text.backbone.pooler.",))
    expected = {part for part, _ in built.model.named_parameters() if part.startswith(prefixes)}
    # a constant added to one view changes no correlation: these gradients are 0 but for rounding
    rounding = {f"interactions.{modality}.layers.7.bias" for modality in ("vision", "audio")}
    assert set(silent(built)) - rounding == expected


@every_model
def test_a_frozen_part_stays_in_evaluation_mode(name: str, build: Build) -> None:
    model = build(name).model.train()
    frozen = {id(module) for part in model.frozen for module in part.modules()}
    assert all(module.training is (id(module) not in frozen) for module in model.modules())


# --- weights on disk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slowly(zoo.MODELS, QUICK))
def test_a_stored_model_goes_on_as_if_it_had_never_stopped(name: str, build: Build, tmp_path: Path) -> None:
    one, other = build(name), build(name, seed=2)
    learn(one, range(1, 4), FOUR, chosen(EIGHT, [0, 3]))
    checkpoint.save(tmp_path / "model.safetensors", one.model.state_dict(), {})
    other.model.start(EIGHT.scores[:4])  # what is remembered per clip takes its size from the file
    checkpoint.restore(other.model, checkpoint.load(tmp_path / "model.safetensors")[0], "the file")
    assert torch.equal(one.model.eval()(FOUR).prediction, other.model.eval()(FOUR).prediction)
    for phase in one.model.phases:
        terms = []
        for built in (one, other):
            built.model.train()
            torch.manual_seed(4)
            terms.append(step(built, FOUR, phase, epoch=4))
        assert [term.tolist() for term in terms[0].values()] == [term.tolist() for term in terms[1].values()]


@pytest.fixture(scope="module")
def all_weights(build: Build) -> dict[str, dict[str, torch.Tensor]]:
    return {name: build(name).model.state_dict() for name in zoo.MODELS}


@every_model
def test_the_weights_of_every_other_model_are_refused(
    name: str, build: Build, all_weights: dict[str, dict[str, torch.Tensor]]
) -> None:
    model = build(name).model
    for stranger in zoo.MODELS.keys() - {name}:
        with pytest.raises(RunError, match=r"^elsewhere does not fit the model: .* there, .* here$"):
            checkpoint.restore(model, all_weights[stranger], "elsewhere")


# --- sizes -------------------------------------------------------------------------------------------------------


PARTS = {
    "conki": {},
    "tfn": {"t": 3, "a": 4, "v": 6, "f": 4 * 5 * 7},
    "lmf": {"t": 64, "a": 16, "v": 128, "f": 3},
    "mult": {"t": 20, "a": 20, "v": 20, "f": 60},
    "iccn": {"t": 64, "a": 2, "v": 2, "f": 68},
    "misa": {"t": 128, "a": 128, "v": 128, "f": 768},
    "mag-bert": {"f": D},
    "self-mm": {"t": 32, "a": 16, "v": 32, "f": 128},
    "hycon": {"t": 40, "a": 40, "v": 40, "f": 40},
    "mmim": {"t": D, "a": 16, "v": 16, "f": 128},
}


@every_model
def test_representations_have_the_sizes_of_the_settings(name: str, build: Build) -> None:
    parts = build(name).model.eval()(FOUR).parts
    assert {key: tuple(parts[key].shape) for key in PARTS[name]} == {k: (4, d) for k, d in PARTS[name].items()}


DATA = {"mosi": MOSI, "mosei": MOSEI, "sims": SIMS}


def count(name: str, dataset: str, width: int) -> int:
    """Count the parameters of a baseline beside the text encoder, with the settings of its preset."""
    with torch.device("cpu" if name == "self-mm" else "meta"):  # it sizes its memory by values
        model = make(name, dims=(width, *DATA[dataset][1:]), dataset=dataset)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", BASELINES)
def test_the_documented_numbers_of_parameters_are_those_of_the_presets(name: str) -> None:
    lines = (DOCS / "baselines.md").read_text(encoding="utf-8").splitlines()
    label = re.escape(label_of(name))
    found = [line for line in lines if re.match(rf"\| {label} (\| [\d,]+ ){{6}}\|$", line)]
    counts = [count(name, dataset, width) for width in (768, 384) for dataset in DATA]
    assert found == [f"| {label_of(name)} | {' | '.join(f'{number:,}' for number in counts)} |"]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("dataset", DATA)
def test_the_width_of_the_text_encoder_enters_linearly(name: str, dataset: str) -> None:
    counts = [count(name, dataset, width) for width in (16, 48, 80)]
    degree = 2 if name == "mag-bert" else 1  # its gate maps D to D
    assert (counts[2] - counts[1] == counts[1] - counts[0]) is (degree == 1)


# --- learning ----------------------------------------------------------------------------------------------------

PULLING_ELSEWHERE = {
    "conki": ("loss.contrast_weight",),
    "misa": ("misa.difference_weight", "misa.similarity_weight", "misa.reconstruction_weight"),
    "hycon": ("hycon.intra_weight", "hycon.inter_weight", "hycon.semi_weight"),
    "mmim": ("mmim.nce_weight", "mmim.mi_weight"),
}
"""The weights of terms that do not ask for the scores."""
STEADY = {"mag-bert": {"optimizer.lr_encoders": 1e-3}, "misa": {"misa.width": 32}}
"""What goes astray at a rate of 1e-2: the gate in front of BERT's blocks, and a wide layer that normalises late."""


@pytest.mark.parametrize("name", slowly(zoo.MODELS, ("conki",)))
def test_eight_clips_can_be_learnt_by_heart_in_200_steps(name: str, build: Build) -> None:
    section = "model" if name == "conki" else name
    idle = [path for path in setting_fields() if re.match(rf"{section}\.\w*dropout$", path)]
    idle += PULLING_ELSEWHERE.get(name, ())
    rates = {"optimizer.lr_encoders": 1e-2, "optimizer.lr_others": 1e-2}
    built = build(name, {**rates, **dict.fromkeys(idle, 0.0), **STEADY.get(name, {})})
    for module in built.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for first in range(1, 201, 5):
        learn(built, range(first, first + 5), EIGHT)
        with torch.no_grad():
            error = (built.model(EIGHT).prediction - EIGHT.scores).abs().mean()
        if error < 0.2:
            break
    assert error < 0.2
