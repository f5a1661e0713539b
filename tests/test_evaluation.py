"""A model and batches give predictions in stored order; what cannot be predicted is said in one line."""

import numpy as np
import pytest
import torch
from conftest import MakeConfig, OpenJob

from conki_cli.errors import ConkiError
from conki_cli.evaluation import memory_advice, predict
from conki_cli.model import ConKI
from conki_cli.stages import Job, build_model

CPU = torch.device("cpu")


@pytest.fixture
def job(tiny_config: MakeConfig, open_job: OpenJob) -> Job:
    return open_job(tiny_config("C1"))


@pytest.fixture
def model(job: Job) -> ConKI:
    return build_model(job, 1, None)


def test_predictions_come_in_stored_order(job: Job, model: ConKI) -> None:
    batches = job.inputs.batches("test", batch_size=4)
    found = predict(model, batches, CPU)
    assert (found.dtype, found.shape) == (np.float32, (6,))
    for row in range(6):
        with torch.no_grad():
            alone = float(model(batches.take(np.array([row]))).prediction)
        assert found[row] == pytest.approx(alone, abs=1e-5)


def test_the_batch_size_does_not_change_predictions(job: Job, model: ConKI) -> None:
    found = [predict(model, job.inputs.batches("train", batch_size=size), CPU) for size in (1, 4, 99)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)


def test_predicting_happens_in_evaluation_mode_and_without_gradients(job: Job, model: ConKI) -> None:
    model.train()
    once, twice = (predict(model, job.inputs.batches("test", batch_size=4), CPU) for _ in range(2))
    assert not model.training
    assert once.tolist() == twice.tolist()
    assert all(p.grad is None for p in model.parameters())


def test_progress_is_told_batch_by_batch(job: Job, model: ConKI) -> None:
    told: list[int] = []
    predict(model, job.inputs.batches("test", batch_size=4), CPU, lambda count, remark: told.append(count))
    assert told == [1, 1]


def test_a_prediction_that_is_no_number_names_the_clip(job: Job, model: ConKI) -> None:
    torch.nn.init.constant_(model.head[-1].bias, float("nan"))
    with pytest.raises(ConkiError, match=r"6 of 6 predictions are not finite \(first: test\$_\$0\): .*lower") as error:
        predict(model, job.inputs.batches("test", batch_size=4), CPU)
    assert "\n" not in str(error.value)


def test_running_out_of_gpu_memory_names_the_settings_to_change() -> None:
    with pytest.raises(ConkiError, match=r"batch size of 32: .*optimizer\.batch_size=N") as error, memory_advice(32):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
    assert "\n" not in str(error.value)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), memory_advice(32):
        raise ZeroDivisionError
