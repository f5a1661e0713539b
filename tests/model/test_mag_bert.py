"""MAG-BERT: the gate, how frames meet tokens, the hook in the text encoder, and the parameter counts of the sources."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baseline_support import (
    DIMS,
    MOSEI,
    MOSI,
    SIMS,
    Dims,
    batch_of,
    config_of,
    count,
    encoded,
    grouped,
    make,
    stirred,
    text_encoder,
    total_loss,
)
from torch import Tensor, nn
from torch.nn import functional as F

from conki_cli.model import zoo
from conki_cli.model.baselines.mag_bert import AdaptationGate, MagBert, align_to_tokens, limited_shift, own_tokens
from conki_cli.model.batches import Padded
from conki_cli.model.contract import Architecture
from conki_cli.model.packing import Packing
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.errors import EncoderError

WHOLE = torch.tensor([[True] * 5])
"""Five tokens: [CLS], three inner ones, [SEP]."""


@pytest.fixture
def model(encoder: Path) -> MagBert:
    made = make("mag-bert", text=text_encoder(encoder))
    assert isinstance(made, MagBert)
    return made.eval()


def constant_gate(shift: tuple[float, float], *, beta: float = 1.0) -> AdaptationGate:
    """Return a gate of width 2 that shifts by this, whatever it hears."""
    gate = AdaptationGate({"audio": 1}, 2, beta=beta, dropout=0.0)
    for linear, bias in ((gate.gates["audio"], (1.0, 1.0)), (gate.shifts["audio"], shift)):
        assert isinstance(linear, nn.Linear)
        nn.init.zeros_(linear.weight)
        linear.bias.data = torch.tensor(bias)
    return gate


def embedded(model: MagBert, token_ids: Tensor) -> Tensor:
    """Return the embeddings of tokens without the gate."""
    assert model.text is not None
    embeddings: Tensor = model.text.backbone.embeddings(input_ids=token_ids)
    return embeddings


# --- the gate ----------------------------------------------------------------------------------------------------


def test_a_shift_is_cut_to_beta_times_the_length_of_the_embedding() -> None:
    embeddings, heard = torch.tensor([[[3.0, 4.0]]]), {"audio": torch.ones(1, 1, 1)}
    shift = limited_shift(embeddings, torch.tensor([[[0.0, 10.0]]]), 1.0)
    torch.testing.assert_close(shift, torch.tensor([[[0.0, 5.0]]]))  # alpha = 0.5
    out = constant_gate((0.0, 10.0))(embeddings, heard)
    torch.testing.assert_close(out, torch.tensor([[[-0.999999, 0.999999]]]), atol=1e-6, rtol=0)


def test_a_short_shift_is_left_as_it_is() -> None:
    shift = torch.tensor([[0.0, 2.0]])
    assert torch.equal(limited_shift(torch.tensor([[3.0, 4.0]]), shift, 1.0), shift)


@pytest.mark.parametrize("beta", [0.001, 0.5, 1.0, 3.0])
def test_no_shift_is_longer_than_beta_times_the_embedding(beta: float) -> None:
    torch.manual_seed(0)
    embeddings, shift = torch.randn(50, 6), 10 ** torch.linspace(-6, 6, 50)[:, None] * torch.randn(50, 6)
    lengths = torch.linalg.vector_norm(limited_shift(embeddings, shift, beta), dim=-1)
    assert (lengths <= beta * torch.linalg.vector_norm(embeddings, dim=-1) * (1 + 1e-6)).all()


def test_no_shift_leaves_the_layer_norm_and_finite_gradients() -> None:
    embeddings = torch.tensor([[[3.0, 4.0]]], requires_grad=True)
    gate = constant_gate((0.0, 0.0))
    out = gate(embeddings, {"audio": torch.ones(1, 1, 1)})
    torch.testing.assert_close(out, F.layer_norm(embeddings, (2,)))
    torch.autograd.backward(out[..., 0].sum())
    assert embeddings.grad is not None
    assert all(g is not None and g.isfinite().all() for g in (embeddings.grad, *(p.grad for p in gate.parameters())))


def test_with_beta_0_nothing_is_heard() -> None:
    embeddings = torch.tensor([[[3.0, 4.0]]])
    out = constant_gate((7.0, -9.0), beta=0.0)(embeddings, {"audio": torch.ones(1, 1, 1)})
    torch.testing.assert_close(out, F.layer_norm(embeddings, (2,)))


def test_the_gate_is_its_definition_written_out_for_one_token() -> None:
    torch.manual_seed(0)
    gate = AdaptationGate({"vision": 3, "audio": 2}, 4, beta=0.7, dropout=0.0).double().requires_grad_(False)
    e, parts = torch.randn(4).double(), {"vision": torch.randn(3).double(), "audio": torch.randn(2).double()}
    h = torch.zeros(4).double()
    for name, x in parts.items():
        opening, shift = gate.gates[name], gate.shifts[name]
        for k in range(4):
            g = max(0.0, float(opening.weight[k] @ torch.cat([x, e]) + opening.bias[k]))  # the feature first
            h[k] += g * float(shift.weight[k] @ x + shift.bias[k])
    alpha = min(0.7 * float(e.norm()) / (float(h.norm()) + 1e-6), 1.0)
    out = gate(e.view(1, 1, 4), {name: x.view(1, 1, -1) for name, x in parts.items()})
    torch.testing.assert_close(out.flatten(), F.layer_norm(e + alpha * h, (4,)))


def test_the_gated_embeddings_are_thinned_out_in_training() -> None:
    gate = AdaptationGate({"audio": 1}, 64, beta=1.0, dropout=0.5).train()
    out = gate(torch.randn(1, 1, 64), {"audio": torch.ones(1, 1, 1)})
    assert 10 < int((out == 0).sum()) < 54


def test_the_new_layers_start_as_those_of_bert() -> None:
    made = make("mag-bert", dims=MOSI)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" not in name:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.1)


# --- frames and tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 6, 11])
@pytest.mark.parametrize("num_tokens", [3, 4, 5, 9])
def test_alignment_is_adaptive_average_pooling_over_the_inner_tokens(num_tokens: int, num_frames: int) -> None:
    torch.manual_seed(num_frames)
    frames = torch.randn(1, num_frames, 2)
    tokens = torch.arange(12)[None, :] < num_tokens
    aligned = align_to_tokens(frames, torch.ones(1, num_frames, dtype=torch.bool), tokens)
    expected = F.adaptive_avg_pool1d(frames.mT, num_tokens - 2).mT
    torch.testing.assert_close(aligned[:, 1 : num_tokens - 1], expected)
    assert not aligned[:, 0].any()
    assert not aligned[:, num_tokens - 1 :].any()


def test_as_many_frames_as_inner_tokens_stay_and_twice_as_many_are_averaged_in_pairs() -> None:
    frames = torch.arange(6.0).view(1, 6, 1)
    seen = torch.ones(1, 6, dtype=torch.bool)
    assert align_to_tokens(frames[:, :3], seen[:, :3], WHOLE).flatten().tolist() == [0, 0, 1, 2, 0]
    assert align_to_tokens(frames, seen, WHOLE).flatten().tolist() == [0, 0.5, 2.5, 4.5, 0]


def test_the_frames_of_an_inner_token_have_weights_of_sum_1() -> None:
    tokens = torch.arange(7)[None, :] < torch.tensor([[7], [4], [3]])
    frames = torch.arange(8)[None, :] < torch.tensor([[8], [3], [1]])
    aligned = align_to_tokens(frames.unsqueeze(-1).float(), frames, tokens).squeeze(-1)
    torch.testing.assert_close(aligned.sum(dim=1), torch.tensor([5.0, 2.0, 1.0]))
    torch.testing.assert_close(aligned, aligned.round())


def test_frames_behind_the_last_real_one_and_other_clips_never_matter() -> None:
    torch.manual_seed(0)
    frames = torch.randn(2, 6, 3)
    mask = torch.arange(6)[None, :] < torch.tensor([[6], [2]])
    tokens = torch.arange(5)[None, :] < torch.tensor([[5], [4]])
    alone = align_to_tokens(frames[1:, :2], mask[1:, :2], tokens[1:])
    assert torch.equal(align_to_tokens(frames, mask, tokens)[1:], alone)


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_a_text_without_words_meets_no_frame(num_tokens: int) -> None:
    tokens = torch.arange(5)[None, :] < num_tokens
    assert not align_to_tokens(torch.ones(1, 4, 2), torch.ones(1, 4, dtype=torch.bool), tokens).any()


def test_the_frames_of_a_clip_meet_none_of_the_words_of_its_context(encoder: Path) -> None:
    ids = torch.tensor([[2, 7, 8, 3, 9, 7, 9, 3], [2, 7, 3, 0, 0, 0, 0, 0]])
    mask, own = ids > 0, [4, 3]
    assert own_tokens(ids, mask).sum(dim=1).tolist() == own
    model = make("mag-bert", {"data.context": 1}, text=text_encoder(encoder)).eval()
    assert isinstance(model, MagBert)
    met: list[Tensor] = []
    model.gate.register_forward_hook(lambda module, inputs, out: met.append(inputs[1]["audio"]))
    batch = batch_of(token_ids=True, text=(8, 3), audio=(9, 4), vision=(2, 8))
    model(replace(batch, text=Padded(ids, mask)))
    (audio,) = met
    assert audio.any(dim=1).tolist() == [False, True, True, *[False] * 5, False, True, False]


# --- the hook ----------------------------------------------------------------------------------------------------


def test_what_bert_reads_are_the_gated_embeddings(model: MagBert) -> None:
    batch = batch_of(token_ids=True)
    stirred(model)
    read: list[Tensor] = []
    assert model.text is not None
    model.text.register_forward_hook(lambda module, inputs, out: read.append(out[1][0]))
    model(batch)
    text = batch.modality("text")
    aligned = {
        name: align_to_tokens(batch.modality(name).values, batch.modality(name).mask, text.mask)
        for name in ("vision", "audio")
    }
    gated = model.gate(embedded(model, text.values), aligned)  # [B, L, D]
    torch.testing.assert_close(read[0], Packing.of(text.mask).pack(gated))


def test_without_sight_and_sound_it_is_bert_with_one_more_layer_norm(model: MagBert, encoder: Path) -> None:
    batch = batch_of(token_ids=True)
    zeros = {name: Padded(0 * batch.modality(name).values, batch.modality(name).mask) for name in ("vision", "audio")}
    text, plain = batch.modality("text"), text_encoder(encoder).eval()
    plain.backbone.embeddings.register_forward_hook(lambda module, inputs, out: F.layer_norm(out, (DIMS[0],)))
    expected = encoded(plain, text)[0]
    torch.testing.assert_close(model(type(batch)(batch.indices, batch.scores, text=text, **zeros)).parts["f"], expected)


def test_outside_of_the_model_the_encoder_is_not_gated(model: MagBert, encoder: Path) -> None:
    text = batch_of(token_ids=True).modality("text")
    model(batch_of(token_ids=True))
    assert model.text is not None
    assert torch.equal(encoded(model.text, text)[0], encoded(text_encoder(encoder).eval(), text)[0])


def test_a_batch_that_fails_leaves_nothing_behind(model: MagBert) -> None:
    batch = batch_of(token_ids=True)
    text = batch.modality("text")
    assert model.text is not None
    before = encoded(model.text, text)[0]
    broken = Padded(text.values + 1000, text.mask)  # no such tokens
    with pytest.raises(IndexError):
        model(type(batch)(batch.indices, batch.scores, broken, batch.vision, batch.audio))
    assert torch.equal(encoded(model.text, text)[0], before)


def test_a_copy_has_a_gate_of_its_own(model: MagBert) -> None:
    batch = batch_of(token_ids=True)
    before = model(batch).prediction
    other = copy.deepcopy(model)
    stirred(model)
    assert torch.equal(other(batch).prediction, before)
    assert not torch.equal(model(batch).prediction, before)


def other_encoder(kind: str) -> TextEncoder:
    """Return a tiny random encoder of another family, of width 16."""
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
    more = {"Albert": {"embedding_size": 8, "intermediate_size": 16}, "Roberta": {"intermediate_size": 16}}
    names = {"DistilBert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 30}}
    config = getattr(transformers, f"{kind}Config")(**names.get(kind, sizes), **more.get(kind, {}))
    torch.manual_seed(0)
    return TextEncoder(getattr(transformers, f"{kind}Model")(config), width=16)


@pytest.mark.parametrize("kind", ["Roberta", "DistilBert"])
def test_encoders_of_other_families_are_gated_too(kind: str) -> None:
    batch = batch_of(token_ids=True)
    heard, deaf = (
        stirred(make("mag-bert", {"mag-bert.beta": beta}, text=other_encoder(kind)))(batch).prediction
        for beta in (1.0, 0.0)
    )
    assert (heard - deaf).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("GPT2", "a sub-module `embeddings`, .*, but GPT2Model has none"),
        ("Albert", ".*16, but .*Albert.* have width 8"),
    ],
)
def test_an_encoder_that_cannot_be_gated_is_refused_in_one_line(kind: str, found: str) -> None:
    with pytest.raises(EncoderError, match=rf"^mag-bert needs .*{found}: choose another --encoder$"):
        make("mag-bert", text=other_encoder(kind))


# --- the model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "gate"),
    [
        (MOSI, 1_222_656),
        (MOSEI, 1_351_680),
        (SIMS, 2_323_968),
        ((384, *MOSI[1:]), 316_416),
        ((384, *MOSEI[1:]), 380_928),
        ((384, *SIMS[1:]), 867_072),
    ],
)
def test_parameters_are_as_many_as_in_the_sources(dims: Dims, gate: int) -> None:
    made = make("mag-bert", dims=dims)
    assert sum(p.numel() for p in made.get_submodule("gate").parameters()) == gate
    assert count(made) == gate + dims[0] + 1


@pytest.mark.parametrize("modalities", [("text",), ("text", "audio"), ("text", "vision")])
def test_an_absent_modality_has_no_term(modalities: tuple[str, ...], encoder: Path) -> None:
    widths = {name: DIMS[1 if name == "audio" else 2] for name in modalities[1:]}
    made = zoo.build(config_of("mag-bert"), Architecture(modalities, DIMS[0], 4, widths), text_encoder(encoder))
    assert isinstance(made, MagBert)
    assert set(made.gate.gates) == set(made.gate.shifts) == set(modalities[1:])
    assert made(batch_of(token_ids=True)).prediction.shape == (4,)


def test_frames_of_another_width_pass_a_bridge(encoder: Path) -> None:
    made = make("mag-bert", text=text_encoder(encoder), external_widths={"audio": 9})
    assert made(batch_of(token_ids=True, dims=(16, 9, 7))).prediction.isfinite().all()


def test_settings_reach_their_layers() -> None:
    made = make("mag-bert", {"mag-bert.dropout": 0.4, "mag-bert.head_dropout": 0.2, "mag-bert.beta": 0.5})
    assert isinstance(made, MagBert)
    assert (made.gate.dropout.p, made.dropout.p, made.gate.beta) == (0.4, 0.2, 0.5)


def test_the_pooled_output_is_thinned_out_in_training(model: MagBert) -> None:
    stirred(model).dropout.train()
    torch.manual_seed(0)
    predictions = torch.stack([model(batch_of(token_ids=True)).prediction for _ in range(20)])
    assert (predictions.std(dim=0) > 0).all()


def test_the_text_encoder_and_the_rest_have_rates_of_their_own(model: MagBert) -> None:
    config = config_of("mag-bert", {"optimizer.lr_encoders": 1e-5, "optimizer.lr_others": 1e-3})
    groups = model.parameter_groups(config, "main")
    text, others = grouped(groups, model)
    assert {name.split(".")[0] for name in text} == {"text"}
    assert {name.split(".")[0] for name in others} == {"gate", "classifier"}
    assert [(group.learning_rate, group.weight_decay) for group in groups] == [(1e-5, 0.0), (1e-3, 0.0)]


def test_the_pooler_of_bert_learns(model: MagBert) -> None:
    torch.autograd.backward(total_loss(model.train(), batch_of(token_ids=True)))
    assert all(parameter.grad is not None for parameter in model.parameters())
