"""Several ranks compute what one process computes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from conftest import MakeConfig, OpenJob
from hypothesis import given
from hypothesis import strategies as st
from ranks_support import on_ranks
from torch import Tensor, nn

from conki_cli.model import zoo
from conki_cli.model.contract import Output, SentimentModel
from conki_cli.model.losses import hierarchical_contrastive_loss
from conki_cli.system.observer import Observer, Training
from conki_cli.training import loop as training
from conki_cli.training.following import NORMALISE_THE_PRESENT
from conki_cli.training.jobs import Job, build_model, training_batches
from conki_cli.training.ranks import ALONE, Ranks
from conki_cli.training.together import SeveralRanks

LENGTHS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5])


class Contrast(nn.Module):
    """A linear encoder with a BatchNorm before the contrast, and a weight that only the loss reads, as in MMIM."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.norm, self.of_loss = nn.Linear(5, 24), nn.BatchNorm1d(24), nn.Linear(4, 4)
        self.double()

    def terms(self, clips: Tensor, scores: Tensor, indices: np.ndarray, ranks: Ranks) -> Tensor:
        vectors = self.norm(self.encoder(clips[ranks.share(indices, LENGTHS[indices])])).view(
            -1, 2, 3, 4
        )  # [b, K, M, D]
        out = ranks.whole(Output(vectors.sum(dim=(1, 2, 3)), vectors[:, 0], vectors[:, 1], {"t": vectors[:, 1, 0]}))
        assert out.pan is not None
        scores = scores[indices]
        contrast = hierarchical_contrastive_loss(out.pan, out.specific, scores)
        return contrast + (out.prediction - scores).square().mean() + self.of_loss(out.parts["t"]).square().mean()


def learnt(ranks: Ranks, num_clips: int) -> dict[str, Tensor]:
    """Return the loss, the gradients and the moving statistics after one step."""
    torch.manual_seed(1)
    model, clips, scores = Contrast(), torch.randn(9, 5).double(), torch.randint(-3, 4, (9,)).double()
    ranks.normalise_together(model)
    loss = model.terms(clips, scores, np.arange(9)[9 - num_clips :], ranks)
    loss.backward()
    ranks.average(model)
    assert model.norm.running_mean is not None
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "mean": model.norm.running_mean, **named}


@pytest.mark.parametrize(("num_ranks", "num_clips"), [(2, 9), (3, 8), (3, 2)])
def test_contrast_norm_and_gradients_equal_those_of_one_process(num_ranks: int, num_clips: int) -> None:
    alone = learnt(ALONE, num_clips)
    for found in on_ranks(num_ranks, lambda ranks: learnt(ranks, num_clips)):
        for name, value in alone.items():
            assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-12), name


@given(
    lengths=st.lists(st.integers(0, 500), min_size=1, max_size=40).map(np.array),
    count=st.integers(2, 5),
)
def test_ranks_share_every_batch_by_length(lengths: np.ndarray, count: int) -> None:
    indices = 100 + np.arange(len(lengths))
    ranks = [SeveralRanks(rank, count) for rank in range(count)]
    parts = [rank.share(indices, lengths) for rank in ranks]
    num_busy = min(count, len(lengths))
    assert sorted(np.concatenate(parts[:num_busy])) == indices.tolist()
    assert all(part.tolist() == [100] for part in parts[num_busy:])  # computed without effect
    sums = [lengths[part - 100].sum() + len(part) for part in parts[:num_busy]]
    assert max(sums) - min(sums) <= lengths.max() + 1


SETTINGS = {
    "conki": (),
    "conki released": ("model.gate_norm=batch", "optimizer.batch_size=5"),
    "self-mm": ("optimizer.accumulate=2",),
    "misa": ("optimizer.accumulate=2", "optimizer.clip_value=0.8"),
    "mult": ("mult.width=10", "mult.num_heads=2", "mult.num_layers=1", "optimizer.clip_norm=0.8"),
    "tfn": ("tfn.audio_hidden=4", "tfn.vision_hidden=6", "tfn.text_out=3", "optimizer.batch_size=5"),
    "lmf": ("optimizer.batch_size=5",),
    "iccn": ("iccn.out_width=2", "iccn.cca_batch_size=6", "iccn.ridge=1", "iccn.cca_epochs=1"),
}
"""13 clips in batches of 4: the last batch has fewer clips than ranks. BatchNorm needs two."""
SYSTEMS = ("conki released", *zoo.MODELS)


class Terms(Observer):
    """Remembers the terms of every step."""

    def __init__(self) -> None:
        self.steps_seen: list[Mapping[str, float]] = []

    def step(self, training: Training, number: int, terms: Mapping[str, float]) -> None:
        self.steps_seen.append(terms)


def without_dropout(model: SentimentModel) -> None:
    """Keep everything but BatchNorm in evaluation mode while the model trains."""

    def calm(module: nn.Module, inputs: object) -> None:
        for part in module.modules():
            part.training = module.training and isinstance(part, nn.BatchNorm1d | SentimentModel)

    model.register_forward_pre_hook(calm)


def trained(job: Job, ranks: Ranks) -> list[Mapping[str, float]]:
    """Return the loss terms of every step and, at the end, the validation MAE after an epoch."""
    model = build_model(job, 1, None)
    without_dropout(model)
    progress, plan, terms = training.start(model, job.config), training.schedule_of(job.config, 1), Terms()
    train, valid = training_batches(job, model, 1)
    epochs = training.fit(progress, train, valid, plan, device=job.device, observer=terms, ranks=ranks)
    metrics = next(epochs).metrics
    return [*terms.steps_seen, {"mae": metrics["mae"]}]


def assert_equal_losses(names: Sequence[str], make: MakeConfig, open_job: OpenJob, *options: str) -> None:
    lines = ("data.external=none", "optimizer.num_epochs=2", "optimizer.patience=0", "optimizer.batch_size=4")
    lines = (*lines, *options)
    jobs = {n: open_job(make("", *lines, f"model.name={n.split()[0]}", *SETTINGS.get(n, ()))) for n in names}
    for found in on_ranks(2, lambda ranks: {name: trained(job, ranks) for name, job in jobs.items()}):
        for name, job in jobs.items():
            for here, alone in zip(found[name], trained(job, ALONE), strict=True):
                assert here == pytest.approx(alone, rel=1e-6, abs=1e-6), name


def test_an_epoch_on_two_ranks_has_the_losses_of_one_process(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    assert_equal_losses(["conki"], tiny_config, open_job)


def test_an_epoch_without_some_modalities_has_the_losses_of_one_process(
    tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    assert_equal_losses(["conki"], tiny_config, open_job, "optimizer.modality_dropout=0.4")


@pytest.mark.slow
def test_an_epoch_of_every_model_without_some_modalities_has_the_losses_of_one_process(
    tiny_config: MakeConfig, open_job: OpenJob
) -> None:
    names = [name for name in SYSTEMS if name not in NORMALISE_THE_PRESENT]
    assert_equal_losses(names, tiny_config, open_job, "optimizer.modality_dropout=0.4")


@pytest.mark.slow
def test_an_epoch_of_every_model_has_the_losses_of_one_process(tiny_config: MakeConfig, open_job: OpenJob) -> None:
    assert_equal_losses(SYSTEMS, tiny_config, open_job)
