"""What the benchmarks share: real stores and networks, the usual way of running them, alternating measurements."""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conki_cli.config.externals import NO_EXTERNAL
from conki_cli.config.resolving import resolve, stage_one
from conki_cli.data.store.reading import FeatureStore
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.contract import SentimentModel
from conki_cli.model.inputs import open_inputs
from conki_cli.runs import Run
from conki_cli.system.observer import Observer
from conki_cli.training import loop as training
from conki_cli.training.cached_states import StateCache, cached_states
from conki_cli.training.jobs import Job, build_model

FILE_LENGTHS = {
    "mosi": {"text": 50, "vision": 500, "audio": 375},
    "mosei": {"text": 50, "vision": 500, "audio": 500},
    "sims": {"text": 39, "vision": 55, "audio": 400},
}
"""Positions per clip in the files that MMSA distributes."""


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Make the parser of a benchmark that trains: the folder with the stores, the encoder, threads and rounds."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with features/mosi.h5 and mosei.h5")
    parser.add_argument("--encoder", default="bert-base-uncased")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    return parser


def open_job(
    stack: ExitStack, workspace: Path, encoder: str, *, stage: int, settings: Sequence[str] = (), model: str = "conki"
) -> Job:
    """Open the stores and configure one stage, as `conki finetune` does it; nothing is written."""
    external = "mosei" if model == "conki" else NO_EXTERNAL
    flags = {"model.name": model, "data.external": external, "model.text_encoder": encoder, "run.device": "cpu"}
    config = resolve(assignments=list(settings), flags=flags)
    config = stage_one(config) if stage == 1 else config
    stores = {
        name: stack.enter_context(FeatureStore(workspace / "features" / f"{name}.h5"))
        for name in ("mosi", external)
        if name != NO_EXTERNAL
    }
    inputs = open_inputs(config, stores["mosi"], stores.get(external), encoder)
    return Job(config, Run(workspace / "runs" / "benchmark"), inputs, encoder, torch.device("cpu"), Observer())


class Steps:
    """Takes training steps of a stage, as the loop does, and tells their seconds."""

    def __init__(self, job: Job, *, precision: str = "fp32") -> None:
        self.model: SentimentModel = build_model(job, 1, None).train()
        self.model.precision = precision
        self.progress = training.start(self.model, job.config)
        self.accumulate = training.schedule_of(job.config, 1).accumulate
        self.model.start(torch.zeros(len(job.inputs.learnt.split("train"))))
        for phase in self.model.phases:
            self.model.start_phase(1, phase)

    def take(self, batch: Batch, number: int = 0) -> float:
        """Take a step of every pass; return the seconds.

        Of a model that sums the gradients of `accumulate` batches, `number` says which of them this is; the optimiser
        steps behind the last.
        """
        began = time.perf_counter()
        first, last = number == 0, number == self.accumulate - 1
        for phase in self.model.phases:
            self.model.start_phase(1, phase)
            if first:
                self.model.zero_grad(set_to_none=True)
            output = self.model.represent(batch)
            torch.stack(list(self.model.loss(output, batch, phase).values())).sum().backward()
            self.model.after_backward(output, batch, epoch=1, phase=phase)
            if last:
                self.progress.optimizers[phase].step()
        return time.perf_counter() - began


def keep_states(job: Job, model: SentimentModel, folder: Path) -> tuple[Job, float]:
    """Keep the states of the frozen encoder for the training clips; return the seconds per clip, too."""
    assert model.layers_read is not None
    cache = StateCache(model.text_encoder, model.layers_read, "fp32", folder, job.device)
    began = time.perf_counter()
    states = cached_states(cache, job.inputs, ("train",), job.observer)
    seconds = time.perf_counter() - began
    assert states is not None
    count = len(job.inputs.learnt.split("train"))
    return dataclasses.replace(job, inputs=dataclasses.replace(job.inputs, states=states)), seconds / count


def first_batches(job: Job, count: int, batch_size: int = 32) -> list[Batch]:
    """Return the first shuffled batches of the first epoch."""
    batches = job.inputs.batches("train", batch_size=batch_size, seed=1).epoch(1)
    return [next(batches) for _ in range(count)]


def padded(batch: Batch, lengths: Mapping[str, int]) -> Batch:
    """Return the batch as files are read elsewhere: every sequence as long as the file's, all of it computed."""

    def filled(part: Padded | None, length: int) -> Padded | None:
        if part is None:
            return None
        shape = (len(part.values), length, *part.values.shape[2:])
        values = part.values.new_zeros(shape)
        kept = min(length, part.values.shape[1])
        values[:, :kept] = part.values[:, :kept]
        return Padded(values, torch.ones(shape[:2], dtype=torch.bool))

    parts = {name: filled(getattr(batch, name), length) for name, length in lengths.items()}
    return dataclasses.replace(batch, **parts, states={})


def alternate(arms: Mapping[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """Run every arm once per round, each round in the other order; the first round warms up and is not counted.

    An arm takes the round's number and returns seconds.
    """
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name in arms if number % 2 else reversed(list(arms)):
            seconds = arms[name](number)
            if number:
                found[name].append(seconds)
    return found


def spread(values: Sequence[float], unit: str = "s") -> str:
    """Render measured values: their median, lowest and highest."""
    return f"{statistics.median(values):.3g} {unit} ({min(values):.3g} to {max(values):.3g}, n = {len(values)})"


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Return the ratios of two arms, round by round."""
    return [one / other for one, other in zip(slow, fast, strict=True)]


def matmul_peak(rounds: int = 5, size: int = 2048) -> float:
    """Return the floating-point operations per second of a large product of float32 matrices, the best of some."""
    one, other = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        torch.mm(one, other)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def flops_of(steps: Steps, batch: Batch) -> int:
    """Count the operations of the products in one training step, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        steps.take(batch)
    return int(counter.get_total_flops())


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of what operations read and write, but for views, as if no cache kept anything."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [part for part in tree_leaves((args, kwargs, out)) if isinstance(part, torch.Tensor)]
            self.bytes += sum(part.numel() * part.element_size() for part in tensors)
        return out


def bytes_of(steps: Steps, batch: Batch) -> int:
    """Count the bytes that the operations of one training step read and write."""
    with _Traffic() as traffic:
        steps.take(batch)
    return traffic.bytes


def copy_peak(rounds: int = 5, size: int = 2**26) -> float:
    """Return the bytes per second, read and written, of copying a large array; the best of some."""
    one, other = torch.randn(size), torch.empty(size)
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        other.copy_(one)
        best = min(best, time.perf_counter() - began)
    return 2 * 4 * size / best


def resident_peak(*, reset: bool = False) -> int:
    """Return the largest resident set of this process in bytes; `reset` starts the count again (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
