"""The environment that a result depends on: device, versions, command, commit, data, machine."""

import contextlib
import functools
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
from conki_cli.system.errors import ConkiError, SettingsError, UnreadableError, one_line
from conki_cli.system.files import read_json
from conki_cli.system.findings import REMARK, Finding, attempt, fault, ordinary
from conki_cli.system.readable import status_of

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
        raise SettingsError(f"--device {name} needs a usable {what}, but none was found", "give --device cpu")
    if device.index is not None and device.index >= count:
        last = f"{device.type}:{count - 1}"
        raise SettingsError(
            f"{count} {device.type} device(s) here", f"give --device {last}", must=f"--device {name} must exist"
        )
    return device


def environment(
    data: Mapping[str, Mapping[str, object]], *, device: str, threads: int, ranks: int = 1
) -> dict[str, Any]:
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
        "ranks": ranks,
        "device": device,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def with_earlier(facts: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """Add to an environment those in which an unfinished seed was trained before.

    Args:
        facts: what `environment` returns here.
        path: the file with what an earlier start of the seed recorded.

    Returns:
        The environment, and in what it differs from the latest of the earlier ones, as words.

    Raises:
        UnreadableError: the system cannot read the file.
    """
    try:
        before = dict(read_json(path))
        found, own = _flat(before), _flat(facts)
        earlier = list(before.pop("earlier", []))
    except UnreadableError:
        raise
    except (ConkiError, KeyError, TypeError, ValueError, AttributeError):
        return dict(facts), ""
    pairs = {name: found.get(name, "unknown")[:40] for name in own if found.get(name) != own[name]}
    changed = [f"{name} {there} (now {own[name]})" for name, there in pairs.items()]
    if changed:
        earlier.append(before)
    return {**facts, **({"earlier": earlier} if earlier else {})}, ", ".join(changed)


@functools.cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
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
            advice = "restore it from a copy if you have one: the weights and metrics of the seed do not depend on it"
            one = fault(path.parent, error, path, advice)
            yield one if status_of(path) is not None else replace(one, severity=REMARK)
            continue
        used = {name: list(dict.fromkeys(part.get(name, "unknown")[:40] for part in found)) for name in own}
        used["ranks"] = used["ranks"] if len(used["ranks"]) > 1 else [own["ranks"]]  # this process alone is always one
        if changed := [name for name in own if used[name] != [own[name][:40]]]:
            pairs = [f"{name} {' then '.join(used[name])} (here {own[name]})" for name in changed]
            others[", ".join(pairs)].append(str(seed))
    for differing, seeds in others.items():
        advice = "nothing for what is stored; what is trained or predicted here may differ in its last digits"
        named = f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
        yield Finding(str(subject), REMARK, f"{named} trained with {differing}", advice)


def _read(path: Path) -> list[dict[str, str]]:
    """Return the environments that a seed was trained in, the latest last."""
    facts = read_json(ordinary(path))
    return [_flat(part) for part in (*facts.get("earlier", ()), facts)]


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what can change a digit of a result, as words."""
    facts = {"ranks": 1, **facts}  # older records do not name it
    named = {name: facts.get(name) for name in ("conki", "python", "device", "threads", "ranks")}
    named |= dict(facts["packages"])
    return {str(name): one_line(str(value)) for name, value in named.items()}
