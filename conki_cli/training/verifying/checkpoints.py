"""Checkpoints: whether their bytes are those that were written, and whether a finished seed has every weight it needs.

Torch is imported where a checkpoint is read, so that the rest of a run is verified where torch cannot be imported.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conki_cli.config.sections import RunConfig
from conki_cli.runs.verifying import ExaminedRun
from conki_cli.system.errors import quoted, reason_of
from conki_cli.system.files import read_tensors
from conki_cli.system.findings import (
    FAULT,
    REMARK,
    UNREAD,
    Finding,
    attempt,
    fact_of,
    fault,
    is_newer,
    is_unread,
    missing_library,
    size_on_disk,
)

_NEEDED_ALONE = "a finished seed needs `best` and `frozen` alone"
_ANOTHER_VERSION = "install the version that wrote it, or a newer one"
_NAMES = ("best", "frozen", "last", "previous")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read to its last byte."""

    path: Path
    exists: bool = True
    problem: str = ""
    """What is wrong with it; empty for a sound one, and for one that does not exist."""
    is_unread: bool = False
    """Whether the problem is the system's, which could not read it."""
    is_newer: bool = False
    """Whether the problem is that a later version wrote it."""
    names: frozenset[str] = frozenset()
    """Of the weights in it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    has_checksum: bool = True
    """Whether it has one; those of version 0.1 do not."""

    @property
    def is_sound(self) -> bool:
        """Say whether it is there and as it was written."""
        return self.exists and not self.problem

    def advice(self, otherwise: str) -> str:
        """Return what to do about its problem; `otherwise` is for one that was read, and is damaged."""
        if self.is_newer:
            return _ANOTHER_VERSION
        return UNREAD if self.is_unread else otherwise


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, each file read once."""

    examined: ExaminedRun
    has_encoder: bool
    """Whether the folder `encoder` is sound, so that networks can be built from it."""
    _files: dict[tuple[int, int], Checkpoint] = field(default_factory=dict)
    """By device and number of the file: `last` of a finished seed often is `best` under a second name."""
    _needed: dict[str, frozenset[str]] = field(default_factory=dict)
    """Weights that a finished seed has, by file; filled with the first seed."""

    def of_seed(self, seed: int) -> dict[str, Checkpoint]:
        """Read all checkpoints of a seed."""
        return {name: self._at(self.examined.run.checkpoint(seed, name)) for name in _NAMES}

    def _at(self, path: Path) -> Checkpoint:
        """Read a checkpoint and compare it with its checksum; what is known under another name is not read again."""
        found, error = attempt(path.lstat)
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return Checkpoint(path, exists=False)
        key = (found.st_dev, found.st_ino) if found is not None else (0, 0)
        if key not in self._files:
            self._files[key] = _read(path)
        self.examined.examination.advance(size_on_disk(path), f"{self.examined.run.name}: {path.name}")
        one = self._files[key]
        return replace(one, path=path, problem=one.problem.replace(one.path.name, path.name))

    def verify_finished(self, seed: int, read: Mapping[str, Checkpoint]) -> Iterator[Finding]:
        """Verify the checkpoints of a finished seed, as `of_seed` read them."""
        examined, config = self.examined, self.examined.config
        subject, again = str(examined.run.seed_folder(seed)), examined.seed_again(seed)
        for name in ("best", "frozen"):
            if read[name].problem:
                yield Finding(subject, FAULT, read[name].problem, read[name].advice(again))
        if read["best"].is_sound and (other := _of_another(examined, seed, read["best"])):
            yield Finding(subject, FAULT, f"checkpoints/best.safetensors {other}", f"restore it, or {again}")
        if not read["best"].exists:
            yield Finding(subject, FAULT, "checkpoints/best.safetensors is missing", again)
        for name in ("last", "previous"):
            if read[name].problem:
                advice = f"delete it: rm {quoted(read[name].path)}; {_NEEDED_ALONE}"
                yield Finding(subject, FAULT, read[name].problem, read[name].advice(advice))
        if not read["last"].exists:
            yield Finding(subject, REMARK, "checkpoints/last.safetensors is missing", f"nothing: {_NEEDED_ALONE}")
        if config is not None and self.has_encoder and read["best"].is_sound:
            yield from self._verify_weights(seed, config, read)

    def _verify_weights(self, seed: int, config: RunConfig, read: Mapping[str, Checkpoint]) -> Iterator[Finding]:
        """Compare the weights in the checkpoints with those that the network has."""
        run, again = self.examined.run, self.examined.seed_again(seed)
        subject = str(run.seed_folder(seed))
        if not self._needed:
            from conki_cli.training.verifying.network import needed_weights

            needed, error = attempt(needed_weights, run, config, read["best"].facts)
            if error is not None and missing_library(error):
                yield fault(subject, error, Path(subject), again)
                return
            if needed is None:
                what = f"its network cannot be built from best.safetensors ({reason_of(error) if error else ''})"
                yield Finding(subject, FAULT, what, again)
                return
            self._needed.update(needed)
        for name in ("best", "frozen"):
            lacking = sorted(self._needed[name] - read[name].names)
            if lacking and not read[name].problem:
                lost = f"lacks {len(lacking)} weights, such as {lacking[0]}" if read[name].exists else "is missing"
                yield Finding(subject, FAULT, f"checkpoints/{name}.safetensors {lost}", again)

    def verify_encoder(self) -> Iterator[Finding]:
        """Verify the weights of a frozen text encoder, where the run keeps them because it predicts with them."""
        path, again = self.examined.run.frozen_encoder, self.examined.all_again()
        weights = self._at(path)
        lacking = self._needed.get("encoder", frozenset()) - weights.names
        if weights.problem:
            yield Finding(str(path.parent), FAULT, weights.problem, weights.advice(again))
        elif lacking:
            lost = f"lacks {len(lacking)} weights" if weights.exists else "is missing, and the model predicts with it"
            yield Finding(str(path.parent), FAULT, f"{path.name} {lost}", again)


def _read(path: Path) -> Checkpoint:
    from conki_cli.training import checkpoint

    found, error = attempt(checkpoint.load, path)
    if found is None:
        assert error is not None
        return Checkpoint(
            path, problem=fact_of(error, path), is_unread=is_unread(error, path), is_newer=is_newer(error)
        )
    header = read_tensors(path, only_header=True)[1]
    return Checkpoint(path, names=frozenset(found[0]), facts=found[1], has_checksum="crc32" in header)


def _of_another(examined: ExaminedRun, seed: int, best: Checkpoint) -> str:
    from conki_cli.training.checkpoint import of_another

    return attempt(of_another, examined.run, seed, best.facts)[0] or ""
