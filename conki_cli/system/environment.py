"""The environment that a result depends on: device, versions, command, commit, data, machine."""

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


def choose_device(name: str) -> "torch.device":
    """Return the device of `--device auto|cpu|cuda`.

    Raises:
        SettingsError: a GPU was requested and none is usable.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device cuda needs a usable NVIDIA GPU, but none was found", "give --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def environment(data: Mapping[str, Mapping[str, object]], *, device: str, threads: int) -> dict[str, Any]:
    """Return the environment that a result depends on: versions, command, commit, data, machine."""
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
    """Return the commit of the source tree that the program runs from; None for an installed package."""
    if not ((root := Path(__file__).parents[2]) / ".git").exists():
        return None
    command = ["git", "-C", os.fspath(root), "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return None
