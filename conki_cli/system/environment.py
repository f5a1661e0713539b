"""What a result depends on beside its configuration: device, versions, command, commit, data, machine."""

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conki_cli import __version__
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    import torch


_NEEDS = {"cuda": "NVIDIA GPU", "mps": "Apple GPU", "xpu": "Intel GPU"}


def choose_device(name: str) -> "torch.device":
    """Return the device of `--device`: auto takes the accelerator that is there, else the CPU.

    Raises:
        SettingsError: torch knows no such device, or none is usable.
    """
    import torch

    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device(found.type if found is not None else "cpu")
    try:
        device = torch.device(name)
        count = int(torch.get_device_module(device).device_count())
    except (RuntimeError, AttributeError) as error:  # no word of torch's, or a device that cannot compute, like meta
        raise SettingsError(
            repr(name[:80]),
            "leave it out for auto",
            must="--device must be auto, cpu, cuda, cuda:1, mps, xpu or the like",
        ) from error
    if not count:
        what = _NEEDS.get(device.type, f"{device.type} device")
        raise SettingsError(f"--device {name} needs a usable {what} and none was found", "give --device cpu")
    if device.index is not None and device.index >= count:
        last = f"{device.type}:{count - 1}"
        raise SettingsError(
            f"{count} {device.type} device(s) here", f"give --device {last}", must=f"--device {name} must exist"
        )
    return device


def environment(data: Mapping[str, Mapping[str, object]], *, device: str, threads: int) -> dict[str, Any]:
    """Return what a result depends on beside the configuration: versions, command, commit, data, machine."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "h5py", "safetensors", "scikit-learn")
    return {
        "conki": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in packages},
        "command": sys.argv,
        "git_commit": _git_commit(),
        "data": {name: dict(entry) for name, entry in data.items()},
        "threads": threads,
        "device": device,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the source tree the program runs from, None for an installed package."""
    if not ((root := Path(__file__).parents[2]) / ".git").exists():
        return None
    command = ["git", "-C", os.fspath(root), "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return None
