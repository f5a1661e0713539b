"""How many kernels a step launches on a GPU and how often it waits for it, counted on a CPU."""

import pytest
import torch
from baseline_support import mask_of
from benchmarks.kernels import counted

from conki_cli.config.sections import MODELS
from conki_cli.model.batches import pad_frames
from conki_cli.model.packing import ATTENTION_SHARE, Packing, share_on

BEFORE = 5062
"""Kernels of a step of ConKI with attention groups of similar length."""


def test_a_step_of_conki_on_a_gpu_has_a_third_of_the_kernels_and_waits_once() -> None:
    [step] = counted("conki", share=share_on("cuda"), fused=True).values()
    assert 500 < step.kernels <= BEFORE / 3
    assert step.waits == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "conki"])
def test_a_step_of_every_other_model_is_counted_and_waits_once(name: str) -> None:
    for phase, step in counted(name, share=share_on("cuda"), fused=True).items():
        assert step.kernels > 500
        assert step.waits == (2 if phase == "cca" else 1)  # ICCN asks whether its covariances can be inverted


def test_on_a_gpu_all_sequences_are_one_group() -> None:
    assert (share_on("cpu"), share_on("cuda"), share_on("xpu")) == (1.0, 0.0, 0.0)


def test_a_batch_knows_its_lengths_so_that_nobody_counts_its_mask() -> None:
    frames = [torch.ones(length, 2).numpy() for length in (2, 0, 5)]
    part = pad_frames(frames)
    assert part.lengths == (2, 1, 5)
    assert part.with_leading_position().lengths == (3, 2, 6)
    assert part.to(torch.device("cpu")).lengths == part.lengths


def test_a_packing_of_known_lengths_is_that_of_the_mask() -> None:
    lengths = [3, 7, 1, 5, 7, 2]
    counted_, known = Packing.of(mask_of(lengths)), Packing.of(torch.zeros(6, 7, dtype=torch.bool), lengths)
    for name in ("order", "positions", "rows", "places", "first"):
        assert torch.equal(getattr(counted_, name), getattr(known, name))
        assert getattr(known, name).dtype == torch.int64
    assert torch.equal(counted_._shares, known._shares)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_of_a_group_is_added_in_the_precision_of_attention(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTENTION_SHARE, "cpu", 0.0)
    [group] = Packing.of(mask_of([3, 1])).groups
    added = group.added(dtype)
    assert added is not None
    assert (added.dtype, added.shape, added.stride(0) % 16) == (dtype, (2, 1, 1, 3), 0)
    assert added[:, 0, 0].tolist() == [[0, 0, 0], [0, float("-inf"), float("-inf")]]
    assert group.added(dtype) is added
