"""A model and batches give predictions in stored order; what cannot be predicted is said in one line."""

import numpy as np
import pytest
import torch
from conftest import MakeConfig, OpenJob

from conki_cli.model.conki import ConKI
from conki_cli.system.errors import ConkiError
from conki_cli.training.evaluation import check_memory, memory_advice, predict
from conki_cli.training.jobs import Job, build_model

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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Storage size calculation overflowed with sizes=[9]"),
    ],
)
def test_running_out_of_this_machines_memory_names_what_to_lower(error: Exception) -> None:
    with pytest.raises(ConkiError, match=r"^this machine's memory is used up at a batch size of 4: "), memory_advice(4):
        raise error
    with pytest.raises(ConkiError, match="memory is too small for the network: lower its widths"), memory_advice(None):
        raise error


def test_a_tensor_without_room_is_one_line() -> None:
    for sizes in ((2**50,), (2**40, 2**40)):
        with pytest.raises(ConkiError, match="this machine's memory is too small"), memory_advice(None):
            torch.zeros(*sizes)


def test_a_network_larger_than_the_machine_is_refused_unbuilt() -> None:
    check_memory(2**20)
    with pytest.raises(ConkiError, match=r"takes 1024\.0 TiB of memory and this machine has .*iB: lower its widths"):
        check_memory(2**50)


def test_an_error_in_a_computation_passes_unchanged() -> None:
    with pytest.raises(RuntimeError, match="must match the size"), memory_advice(32):
        torch.zeros(2) + torch.zeros(3)
