"""The environment: versions, threads, devices, the disk."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conki_cli.system.environment import choose_device, environment
from conki_cli.system.errors import reason_of
from conki_cli.system.files import check_writable
from conki_cli.system.findings import FAULT, OK, REMARK, Finding, attempt
from conki_cli.system.readable import human_size
from conki_cli.system.workspace import Workspace

if TYPE_CHECKING:
    import types

_LITTLE = 3 * 2**30
"""Bytes: a seed of ConKI with BERT-base takes about as many while it trains."""
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def this_machine() -> tuple[dict[str, Any], str]:
    """Return the environment as runs record it, and why torch cannot be imported, if it cannot."""
    torch, error = attempt(_torch)
    if torch is None:
        return environment({}, device="unknown", threads=0), reason_of(error) if error is not None else ""
    return environment({}, device=str(choose_device("auto")), threads=torch.get_num_threads()), ""


def _torch() -> "types.ModuleType":
    import torch

    return torch


def verify_machine(workspace: Workspace, here: Mapping[str, Any], problem: str) -> Iterator[Finding]:
    """Examine what a result depends on beside its settings, and whether there is room for it.

    Args:
        workspace: where results go.
        here: the environment, as `this_machine` returns it.
        problem: why torch cannot be imported; empty where it can.
    """
    found = {name: version for name, version in here["packages"].items() if version is not None}
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    commit = f" (commit {here['git_commit'][:8]})" if here["git_commit"] else ""
    yield Finding("environment", OK, f"conki {here['conki']}{commit}, Python {here['python']}, {listed}")
    for name in here["packages"].keys() - found.keys():
        yield Finding("environment", FAULT, f"{name} is not installed", f"pip install {name}")
    if problem:
        advice = "install it again, as PyTorch's installation page describes"
        yield Finding("environment", FAULT, f"torch cannot be imported: {problem}", advice)
    else:
        yield from _computing(here["threads"], _num_cores())
    yield from _disk(workspace.root)


def _computing(threads: int, cores: int) -> Iterator[Finding]:
    """Examine the threads and devices that torch computes with."""
    import torch

    counts = f"{threads} thread{'s' * (threads != 1)}, {cores} core{'s' * (cores != 1)}"
    if threads > cores:
        advice = f"threads that share a core wait for each other: set OMP_NUM_THREADS={cores}"
        yield Finding("environment", REMARK, counts, advice)
    else:
        yield Finding("environment", OK, counts)
    device = choose_device("auto").type
    if device == "cuda":
        for number in range(torch.cuda.device_count()):
            memory = human_size(torch.cuda.get_device_properties(number).total_memory)
            yield Finding("environment", OK, f"GPU {number}: {torch.cuda.get_device_name(number)}, {memory}")
    elif device != "cpu":
        yield Finding("environment", OK, f"computes on the {device} device")
    elif NVIDIA_DRIVER.exists():
        what = f"this machine has an NVIDIA driver, but torch {torch.__version__} finds no usable GPU"
        yield Finding(
            "environment", REMARK, what, "install a CUDA build of torch that fits the driver (see nvidia-smi)"
        )
    else:
        yield Finding("environment", OK, "computes on the CPU: there is no usable GPU")


def _num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _disk(root: Path) -> Iterator[Finding]:
    subject = str(root.absolute())
    if not root.is_dir():
        yield Finding(subject, FAULT, "there is no such folder", "check --workspace and CONKI_WORKSPACE, or make it")
        return
    _, error = attempt(check_writable, root / "runs" / "new")
    if error is not None:
        advice = "give yourself the right to write there, or choose another --workspace"
        yield Finding(subject, FAULT, "nothing can be written here: no store, no run", advice)
    usage, error = attempt(shutil.disk_usage, root)
    if usage is None:
        yield Finding(subject, REMARK, f"the free space is not known ({reason_of(error) if error else ''})")
    else:
        yield disk_finding(subject, usage.free)


def disk_finding(subject: str, free: int) -> Finding:
    """Judge the free bytes of a disk."""
    if free < _LITTLE:
        what = f"{human_size(free)} free, and one seed of BERT-base takes about {human_size(_LITTLE)} while it trains"
        return Finding(subject, REMARK, what, "free some space, or choose another --workspace")
    return Finding(subject, OK, f"{human_size(free)} free")
