"""The environment that a result depends on: device, versions, command, commit, data, machine."""

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conki_cli import __version__
from conki_cli.system.errors import SettingsError, one_line
from conki_cli.system.files import read_json
from conki_cli.system.findings import REMARK, Finding, attempt, fault, ordinary
from conki_cli.system.readable import status_of

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


def verify_environments(subject: Path, recorded: Mapping[int, Path], here: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare the versions, device and threads that seeds recorded with those of here.

    Args:
        subject: the run whose seeds they are.
        recorded: by seed, the file that holds what `environment` returned.
        here: what `environment` returns here.
    """
    own, others = _flat(here), defaultdict(list)
    for seed, path in recorded.items():
        found, error = attempt(_read, path)
        if found is None:
            assert error is not None
            advice = "restore it from a copy if you have one: nothing but this comparison reads it"
            one = fault(path.parent, error, path, advice)
            yield one if status_of(path) is not None else replace(one, severity=REMARK)
            continue
        if changed := [name for name in own if found.get(name) != own[name]]:
            pairs = [f"{name} {found.get(name, 'unknown')[:40]} (here {own[name]})" for name in changed]
            others[", ".join(pairs)].append(str(seed))
    for differing, seeds in others.items():
        advice = "nothing for what is stored; what is trained or predicted here may differ in its last digits"
        named = f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
        yield Finding(str(subject), REMARK, f"{named} trained with {differing}", advice)


def _read(path: Path) -> dict[str, str]:
    return _flat(read_json(ordinary(path)))


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what can change a digit of a result, as words."""
    named = {name: facts.get(name) for name in ("conki", "python", "device", "threads")} | dict(facts["packages"])
    return {str(name): one_line(str(value)) for name, value in named.items()}
