"""ConKI's network: encoders, adapters, fusion (Eqs. 1-3, Figures 1-3), and what each switch takes away."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_support import encoded, mask_of
from conftest import ALL_SWITCHES, HIDDEN_SIZE, MakeConfig, OpenJob, model_and_batch
from torch import Tensor, nn
from torch.nn import functional as F

from conki_cli.model.batches import Batch, Padded
from conki_cli.model.conki import Adapter, AdapterModule, ConKI, FusionNetwork
from conki_cli.model.contract import Architecture, Output, SentimentModel
from conki_cli.model.layers import EncoderLayer, SequenceEncoder, masked_mean
from conki_cli.model.losses import hierarchical_contrastive_loss
from conki_cli.model.packing import ATTENTION_SHARE, Packing
from conki_cli.training.jobs import build_model

D = HIDDEN_SIZE
TWO = Packing.of(mask_of([2, 4]))
"""Two sequences of 6 positions together."""


def stirred(model: ConKI) -> ConKI:
    """Move every weight off its start, where positions are zero and adapters do nothing; evaluation mode."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def parts_of(batch: Batch) -> dict[str, Padded]:
    return {name: part for name in ("text", "vision", "audio") if (part := getattr(batch, name)) is not None}


def with_padding(batch: Batch, count: int, junk: float) -> Batch:
    """Append positions behind the mask: token 7, frames of `junk`."""

    def longer(name: str, part: Padded) -> Padded:
        shape = (len(batch), count, *part.values.shape[2:])
        tail = torch.full(shape, 7 if name == "text" else junk, dtype=part.values.dtype)
        return Padded(
            torch.cat([part.values, tail], dim=1), torch.cat([part.mask, part.mask.new_zeros(shape[:2])], dim=1)
        )

    return replace(batch, **{name: longer(name, part) for name, part in parts_of(batch).items()})


def in_float64(batch: Batch) -> Batch:
    frames = {
        name: replace(part, values=part.values.double()) for name, part in parts_of(batch).items() if name != "text"
    }
    return replace(batch, scores=batch.scores.double(), **frames)


def trainable(model: ConKI) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def families(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("drop", ALL_SWITCHES)
def test_extra_positions_behind_the_mask_never_change_a_prediction(
    drop: str, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    job = open_job(tiny_config(drop))
    model = stirred(build_model(job, 1, None))
    batch = job.inputs.batches("train", batch_size=2).take(np.arange(2))  # clips of one frame at most
    padded = with_padding(batch, min(model.architecture.positions.values()) - 1, 50.0)
    torch.testing.assert_close(model(padded).prediction, model(batch).prediction, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("drop", "norm"), [*((drop, "layer") for drop in ALL_SWITCHES), ("", "batch")])
def test_the_rest_of_the_batch_never_changes_a_prediction(
    drop: str, norm: str, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    job = open_job(tiny_config(drop, f"model.gate_norm={norm}"))
    model, batch = model_and_batch(job)
    stirred(model)
    singles = [model(one).prediction for one in job.inputs.batches("train", batch_size=1).epoch()]
    torch.testing.assert_close(torch.cat(singles), model(batch).prediction, atol=1e-5, rtol=0)


# --- the same network computed on padded sequences, in float64 --------------------------------------------------


def padded_layer(layer: EncoderLayer, states: Tensor, mask: Tensor) -> Tensor:
    """Write out a layer for padded states [B, L, D]: whole matrices of scores, -inf where a key is padding."""
    parts = layer.qkv(states).chunk(3, dim=-1)
    query, key, value = (part.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for part in parts)  # [B, H, L, D/H]
    scores = (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(~mask[:, None, None], -torch.inf)
    mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)  # [B, L, D]
    states = layer.norm_attention(states + layer.out(mixed))
    return layer.norm_ffn(states + layer.ffn_out(F.gelu(layer.ffn_in(states))))


def padded_encoder(encoder: SequenceEncoder, frames: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Write out an encoder for padded frames [B, L, d]; `mask` [B, 1 + L] counts [CLS]."""
    cls = encoder.cls.expand(len(frames), 1, D)
    hidden = [torch.cat([cls, encoder.projection(frames)], dim=1) + encoder.positions[: mask.shape[1]]]
    for layer in encoder.layers:
        hidden.append(padded_layer(layer, hidden[-1], mask))
    return masked_mean(encoder.norm(hidden[-1]), mask), hidden


def padded_adapter(adapter: Adapter, hidden: Sequence[Tensor], mask: Tensor) -> Tensor:
    carried = torch.zeros_like(hidden[0])
    for index, module in zip(adapter.indices, adapter.chain, strict=True):
        inner = module.down(hidden[index] + carried)
        for layer in module.layers:
            inner = padded_layer(layer, inner, mask)
        carried = hidden[index] + carried + module.up(inner)
    if adapter.pool == "first":
        return torch.tanh(adapter.pooler(carried[:, 0]))
    return masked_mean(adapter.pooler(carried), mask)


def padded_conki(model: ConKI, batch: Batch) -> Output:
    """Write out ConKI for padded sequences, with transformers' own attention in the text encoder."""
    pan, specific = [], []
    for name, part in parts_of(batch).items():
        if name == "text":
            mask = part.mask
            out = model.encoders["text"].backbone(part.values, mask.long(), output_hidden_states=True)
            own, hidden = out.pooler_output, out.hidden_states
        else:
            mask = F.pad(part.mask, (1, 0), value=True)
            frames = model.bridges[name](part.values) if name in model.bridges else part.values
            own, hidden = padded_encoder(model.encoders[name], frames, mask)
        pan.append(own)
        specific.append(padded_adapter(model.adapters[name], hidden, mask))
    fused = [model.inner[name](torch.cat([pan[k], specific[k]], dim=-1)) for k, name in enumerate(parts_of(batch))]
    prediction = model.head(model.fusion(torch.cat(fused, dim=-1))).squeeze(-1)
    return Output(prediction, torch.stack(pan, dim=1), torch.stack(specific, dim=1))


def gradients_of(model: ConKI, output: Output, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    torch.stack(list(model.loss(output, batch, "main").values())).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(("drop", "stage"), [("C1", "finetune"), ("", "finetune"), ("", "pretrain")])
def test_padded_computation_gives_the_same_predictions_and_gradients(
    drop: str, stage: str, share: float, tiny_config: MakeConfig, open_job: OpenJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = model_and_batch(open_job(tiny_config(drop, "loss.contrast_weight=1", stage=stage)))
    stirred(model).double()
    batch = in_float64(batch)
    padded = copy.deepcopy(model)
    padded.encoders["text"].backbone.set_attn_implementation("eager")
    monkeypatch.setitem(ATTENTION_SHARE, "cpu", share)  # 1: no attention is padded; 0: all sequences are one group
    output, expected = model(batch), padded_conki(padded, batch)
    for found, plain in (
        (getattr(output, name), getattr(expected, name)) for name in ("prediction", "pan", "specific")
    ):
        torch.testing.assert_close(found, plain, atol=1e-6, rtol=0)
    gradients = gradients_of(model, output, batch)
    assert gradients.keys() == trainable(model)
    torch.testing.assert_close(gradients, gradients_of(padded, expected, batch), atol=1e-9, rtol=1e-6)


def test_the_order_of_the_clips_changes_neither_loss_nor_gradients(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    job = open_job(tiny_config("C1"))
    model, rows = stirred(build_model(job, 1, None)).double(), np.random.default_rng(0).permutation(13)
    batches = job.inputs.batches("train", batch_size=99)
    one, other = (in_float64(batches.take(chosen)) for chosen in (np.arange(13), rows))
    torch.testing.assert_close(model(other).prediction, model(one).prediction[rows], atol=1e-9, rtol=0)
    expected = gradients_of(model, model(one), one)
    torch.testing.assert_close(gradients_of(model, model(other), other), expected, atol=1e-9, rtol=1e-6)


# --- the parts --------------------------------------------------------------------------------------------------


def test_a_sequence_without_frames_is_predicted_as_one_zero_frame(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    model, batch = model_and_batch(open_job(tiny_config("C1+T")))
    assert batch.vision is not None
    assert batch.vision.mask[0].sum() == 1  # clip 0 has no frames
    assert not batch.vision.values[0].any()
    assert torch.isfinite(stirred(model)(batch).prediction).all()


def test_a_fresh_adapter_module_is_nearly_the_identity() -> None:
    torch.manual_seed(0)
    module, states = AdapterModule(D, D, dropout=0.1).eval(), torch.randn(6, D)
    assert float((module(states, TWO) - states).detach().abs().max()) < 0.01


def test_an_adapter_module_has_a_projection_two_layers_a_projection_and_a_residual() -> None:
    torch.manual_seed(0)
    module, states = AdapterModule(D, 8, dropout=0.0), torch.randn(6, D)
    nn.init.normal_(module.up.weight)
    inner = module.layers[1](module.layers[0](module.down(states), TWO), TWO)
    torch.testing.assert_close(module(states, TWO), states + module.up(inner))
    assert [layer.ffn_in.out_features for layer in module.layers] == [32, 32]


def test_the_chain_adds_what_it_carries_to_the_next_chosen_hidden_state() -> None:
    torch.manual_seed(0)
    adapter = Adapter([0, 2], D, 8, dropout=0.0, pool="first")
    hidden = [torch.randn(6, D) for _ in range(4)]
    first = adapter.chain[0](hidden[0], TWO)
    second = adapter.chain[1](hidden[2] + first, TWO)
    torch.testing.assert_close(adapter(hidden, TWO), torch.tanh(adapter.pooler(TWO.unpack(second)[:, 0])))


def test_text_is_pooled_at_its_first_position_and_frames_by_their_masked_mean() -> None:
    torch.manual_seed(0)
    states = torch.randn(2, 4, D)
    text = Adapter([0], D, 8, dropout=0.0, pool="first")
    audio = Adapter([0], D, 8, dropout=0.0, pool="mean")
    for adapter in (text, audio):
        nn.init.zeros_(adapter.chain[0].up.weight)  # the module is the identity then
    assert isinstance(audio.pooler, nn.LayerNorm)
    normalised = audio.pooler(states)
    expected = torch.stack([normalised[0, :2].mean(dim=0), normalised[1].mean(dim=0)])
    torch.testing.assert_close(text([TWO.pack(states)], TWO), torch.tanh(text.pooler(states[:, 0])))
    torch.testing.assert_close(audio([TWO.pack(states)], TWO), expected)


@pytest.mark.parametrize(
    ("depth", "indices"), [(12, (0, 5, 10)), (6, (0, 2, 5)), (4, (0, 1, 3)), (2, (0, 0, 1)), (24, (0, 10, 20))]
)
def test_the_text_adapter_sits_before_the_first_sixth_and_eleventh_of_twelve_layers(
    depth: int, indices: tuple[int, ...], tiny_config: MakeConfig
) -> None:
    sizes = Architecture(("text", "audio"), D, depth, {"audio": 3}, {"audio": 5})
    model = ConKI(tiny_config(), sizes, None)
    assert model.adapters["text"].indices == indices
    assert model.adapters["audio"].indices == (1,)


def test_the_fusion_network_weighs_every_feature_with_a_gate() -> None:
    torch.manual_seed(0)
    fusion, fused = FusionNetwork(48, norm="layer", dropout=0.1).eval(), torch.randn(2, 48)
    gate = torch.sigmoid(fusion.expand(torch.relu(fusion.norm(fusion.squeeze(fused)))))
    torch.testing.assert_close(fusion(fused), gate * fused)


def test_the_gate_and_the_head_narrow_as_the_spec_says(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    model, _ = model_and_batch(open_job(tiny_config()))
    widths = [(layer.in_features, layer.out_features) for layer in model.head[::2]]
    assert widths == [(3 * D, D), (D, D // 2), (D // 2, D // 4), (D // 4, D // 8), (D // 8, 1)]
    assert model.fusion.squeeze.weight.shape == (3 * D // 8, 3 * D)
    assert model.fusion.expand.weight.shape == (3 * D, 3 * D // 8)
    assert [tuple(layer.weight.shape) for layer in model.inner.values()] == [(D, 2 * D)] * 3


@pytest.mark.parametrize(("norm", "kind", "smallest"), [("layer", nn.LayerNorm, 1), ("batch", nn.BatchNorm1d, 2)])
def test_the_recipes_differ_in_the_gates_normalisation(
    norm: str, kind: type[nn.Module], smallest: int, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, _ = model_and_batch(open_job(tiny_config("", f"model.gate_norm={norm}")))
    assert isinstance(model.fusion.norm, kind)
    assert model.smallest_batch("main") == smallest


def test_the_text_representation_is_the_backbones_pooled_output(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    model, batch = model_and_batch(open_job(tiny_config()))
    model.eval()
    assert batch.text is not None
    backbone = copy.deepcopy(model.encoders["text"].backbone)
    backbone.set_attn_implementation("eager")
    out = backbone(input_ids=batch.text.values, attention_mask=batch.text.mask.long(), output_hidden_states=True)
    pan, hidden = encoded(model.encoders["text"], batch.text)
    torch.testing.assert_close(pan, out.pooler_output)
    assert len(hidden) == 1 + 4
    real = batch.text.mask
    torch.testing.assert_close(hidden[0][real], backbone.embeddings(batch.text.values)[real])


@pytest.mark.parametrize(
    ("drop", "pan", "specific"),
    [("", 3, 3), ("C2", 3, None), ("C3", None, 3), ("plain-transfer", 3, None), ("V", 2, 2), ("T+A", 1, 1)],
)
def test_the_output_holds_one_vector_per_kind_and_modality(
    drop: str, pan: int | None, specific: int | None, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, batch = model_and_batch(open_job(tiny_config(drop)))
    output = model(batch)
    for vectors, count in ((output.pan, pan), (output.specific, specific)):
        assert (vectors is None) if count is None else (vectors.shape == (13, count, D))
    assert output.prediction.shape == (13,)


# --- what trains, and what the loss is made of -----------------------------------------------------------------

_STAGE_2 = {
    "": {"encoders", "inner", "fusion", "head"},
    "C1": {"encoders", "adapters", "inner", "fusion", "head"},
    "C2": {"encoders", "inner", "fusion", "head"},
    "C3": {"encoders", "inner", "fusion", "head"},
    "plain-transfer": {"encoders", "inner", "fusion", "head"},
}
_STAGE_1 = {
    "": {"adapters", "bridges", "inner", "fusion", "head"},
    "C3": {"adapters", "bridges", "inner", "fusion", "head"},
    "V": {"adapters", "inner", "fusion", "head"},  # audio is as wide in both sets
    "plain-transfer": {"encoders", "bridges", "inner", "fusion", "head"},
}


@pytest.mark.parametrize("drop", _STAGE_2)
def test_stage_2_trains_everything_but_pretrained_adapters(
    drop: str, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, _ = model_and_batch(open_job(tiny_config(drop)))
    assert families(trainable(model)) == _STAGE_2[drop]
    frozen = {name for name, _ in model.named_parameters()} - trainable(model)
    assert families(frozen) == ({"adapters"} if drop in ("", "C3") else set())


@pytest.mark.parametrize("drop", _STAGE_1)
def test_stage_1_trains_adapters_bridges_and_fusion_and_no_encoder(
    drop: str, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, _ = model_and_batch(open_job(tiny_config(drop, stage="pretrain")))
    assert families(trainable(model)) == _STAGE_1[drop]
    frozen = {name for name, _ in model.named_parameters()} - trainable(model)
    assert families(frozen) == (set() if drop == "plain-transfer" else {"encoders"})


@pytest.mark.parametrize(("stage", "frozen"), [("pretrain", "encoders"), ("finetune", "adapters")])
def test_frozen_parts_stay_in_evaluation_mode(
    stage: str, frozen: str, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, _ = model_and_batch(open_job(tiny_config(stage=stage)))
    model.train()
    assert model.training
    assert model.fusion.training
    assert not any(module.training for part in getattr(model, frozen).values() for module in part.modules())


def unused(drop: str, tiny_config: MakeConfig, open_job: OpenJob, stage: str = "finetune") -> set[str]:
    """Return the trainable weights that a training step leaves without any gradient."""
    model, batch = model_and_batch(open_job(tiny_config(drop, stage=stage)))
    model.train()
    torch.stack(list(model.loss(model(batch), batch, "main").values())).sum().backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trainable(model))
    # A softmax ignores what all its scores share: BERT's key biases have gradient 0 but for rounding.
    dead = {n for n, p in model.named_parameters() if p.grad is None or not (p.grad.any() or n.endswith("key.bias"))}
    return dead & trainable(model)


@pytest.mark.parametrize("drop", [drop for drop in ALL_SWITCHES if "C3" not in drop])
def test_every_weight_gets_a_gradient_in_stage_2(drop: str, tiny_config: MakeConfig, open_job: OpenJob) -> None:
    assert unused(drop, tiny_config, open_job) == set()


@pytest.mark.parametrize("drop", ["", "C3", "T", "V", "A", "plain-transfer"])
def test_every_weight_that_trains_gets_a_gradient_in_stage_1(
    drop: str, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    assert unused(drop, tiny_config, open_job, stage="pretrain") == set()


def test_without_pan_knowledge_what_no_adapter_reads_is_unused(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    # Adapters read the states 0, 1 and 3 of the four text layers and state 1 of the two frame layers.
    names = unused("C3", tiny_config, open_job)
    prefixes = {".".join(name.split(".")[: 6 if "text" in name else 4]) for name in names if "layer" in name}
    assert prefixes == {
        "encoders.text.backbone.encoder.layer.3",
        "encoders.vision.layers.1",
        "encoders.audio.layers.1",
    }
    rest = {name.rpartition(".")[0] for name in names if "layer" not in name}
    assert rest == {"encoders.text.backbone.pooler.dense", "encoders.vision.norm", "encoders.audio.norm"}


def test_gradients_flow_through_the_frozen_adapters_into_the_encoders(
    tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, batch = model_and_batch(open_job(tiny_config()))
    specific = model.train()(batch).specific
    assert specific is not None
    specific.square().sum().backward()
    for name in ("encoders.vision.projection.weight", "encoders.audio.cls"):
        grad = model.get_parameter(name).grad
        assert grad is not None
        assert grad.any()
    assert model.get_parameter("adapters.audio.chain.0.up.weight").grad is None


@torch.no_grad()
def terms_of(
    drop: str, tiny_config: MakeConfig, open_job: OpenJob, *settings: str
) -> tuple[ConKI, Batch, Output, dict[str, float]]:
    model, batch = model_and_batch(open_job(tiny_config(drop, *settings)))
    output = stirred(model)(batch)
    return model, batch, output, {name: float(value) for name, value in model.loss(output, batch, "main").items()}


def test_the_loss_is_the_squared_error_and_the_weighted_contrast(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    _, batch, output, terms = terms_of("", tiny_config, open_job)
    assert output.pan is not None
    contrast = hierarchical_contrastive_loss(output.pan, output.specific, batch.scores, temperature=0.07)
    assert terms["task"] == pytest.approx(float((output.prediction - batch.scores).square().mean()))
    assert terms["contrast"] == pytest.approx(0.01 * float(contrast))
    assert terms.keys() == {"task", "contrast"}


@pytest.mark.parametrize("drop", ["C4", "C1+C4", "C4+V"])
def test_without_the_contrast_only_the_task_is_minimised(drop: str, tiny_config: MakeConfig, open_job: OpenJob) -> None:
    assert terms_of(drop, tiny_config, open_job)[3].keys() == {"task"}


@pytest.mark.parametrize("drop", ["", "C3", "V", "plain-transfer"])
def test_stage_1_minimises_the_task_alone(drop: str, tiny_config: MakeConfig, open_job: OpenJob) -> None:
    model, batch = model_and_batch(open_job(tiny_config(drop, stage="pretrain")))
    assert model.loss(model(batch), batch, "main").keys() == {"task"}


def test_without_n1_the_inter_knowledge_pairs_leave_the_denominator(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    _, batch, output, terms = terms_of("N1", tiny_config, open_job)
    assert output.pan is not None
    values = [
        0.01 * float(hierarchical_contrastive_loss(output.pan, output.specific, batch.scores, inter_knowledge=flag))
        for flag in (False, True)
    ]
    assert terms["contrast"] == pytest.approx(values[0])
    assert values[0] < values[1]


def test_without_adapters_the_contrast_runs_over_the_pan_knowledge(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    model, batch, output, terms = terms_of("C2", tiny_config, open_job)
    assert output.pan is not None
    expected = hierarchical_contrastive_loss(output.pan, None, batch.scores)
    assert terms["contrast"] == pytest.approx(0.01 * float(expected))
    assert not model.adapters
    assert all(layer.in_features == D for layer in model.inner.values())


def test_without_pan_knowledge_fusion_and_contrast_read_the_specific_alone(
    tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, batch, output, terms = terms_of("C3", tiny_config, open_job)
    assert output.specific is not None
    expected = hierarchical_contrastive_loss(output.specific, None, batch.scores)
    assert terms["contrast"] == pytest.approx(0.01 * float(expected))
    fused = [layer(output.specific[:, k]) for k, layer in enumerate(model.inner.values())]
    prediction = model.head(model.fusion(torch.cat(fused, dim=-1))).squeeze(-1)
    torch.testing.assert_close(output.prediction, prediction.detach())


def test_temperature_and_reduction_reach_the_contrast(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    settings = ("loss.temperature=0.5", "loss.reduction=anchor-mean", "loss.contrast_weight=3")
    _, batch, output, terms = terms_of("", tiny_config, open_job, *settings)
    assert output.pan is not None
    expected = hierarchical_contrastive_loss(
        output.pan, output.specific, batch.scores, temperature=0.5, reduction="anchor-mean"
    )
    assert terms["contrast"] == pytest.approx(3 * float(expected))


@pytest.mark.parametrize(("drop", "name"), [("T", "text"), ("V", "vision"), ("A", "audio")])
def test_a_dropped_modality_takes_all_its_parts_along(
    drop: str, name: str, tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    model, batch, output, _ = terms_of(drop, tiny_config, open_job)
    assert not [weight for weight in model.state_dict() if name in weight.split(".")]
    assert getattr(batch, name) is None
    assert model.head[0].in_features == 2 * D
    assert output.pan is not None
    assert output.pan.shape[1] == 2


def test_without_text_the_width_is_still_the_encoders_hidden_size(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    model, _ = model_and_batch(open_job(tiny_config("T")))
    assert model.architecture.width == D
    assert not any("backbone" in name for name in model.state_dict())


def test_the_log_shows_the_unweighted_contrast_per_sample(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    model, batch, output, terms = terms_of("", tiny_config, open_job)
    assert output.pan is not None
    shown = model.report({name: torch.tensor(value) for name, value in terms.items()}, batch)
    contrast = hierarchical_contrastive_loss(output.pan, output.specific, batch.scores)
    assert float(shown["contrast_per_sample"]) == pytest.approx(float(contrast) / 13, rel=1e-5)
    model, batch, _, terms = terms_of("", tiny_config, open_job, "loss.reduction=anchor-mean")
    shown = model.report({name: torch.tensor(value) for name, value in terms.items()}, batch)
    assert float(shown["contrast_per_sample"]) == pytest.approx(terms["contrast"] / 0.01, rel=1e-5)


def test_a_model_without_a_loss_says_so() -> None:
    with pytest.raises(TypeError, match=r"SentimentModel must define loss\(\)"):
        SentimentModel(Architecture((), 4, 0), None).loss(
            Output(torch.zeros(1)), Batch(torch.zeros(1), torch.zeros(1)), "main"
        )
