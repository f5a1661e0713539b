"""Checkpoints: whether their bytes are those that were written."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conki_cli.doctor.findings import UNREAD, Visit, fact_of, is_newer, is_unread, size_on_disk, tried
from conki_cli.system.files import read_tensors

Key = tuple[int, int]
"""Device and number of a file: `last` of a finished seed often is `best` under a second name."""


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
        return UNREAD if self.is_unread else otherwise


def read_checkpoint(path: Path, visit: Visit, known: dict[Key, Checkpoint]) -> Checkpoint:
    """Read a checkpoint and compare it with its checksum; what is `known` under another name is not read again."""
    found, error = tried(path.lstat)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Checkpoint(path, exists=False)
    key = (found.st_dev, found.st_ino) if found is not None else (0, 0)
    if key not in known:
        known[key] = _read(path)
    visit.advance(size_on_disk(path), f"{path.parents[1].parent.name}: {path.name}")
    one = known[key]
    problem = one.problem.replace(one.path.name, path.name)
    return replace(one, path=path, problem=problem)


def _read(path: Path) -> Checkpoint:
    from conki_cli.training import checkpoint

    found, error = tried(checkpoint.load, path)
    if found is None:
        assert error is not None
        return Checkpoint(
            path, problem=fact_of(error, path), is_unread=is_unread(error, path), is_newer=is_newer(error)
        )
    header = read_tensors(path, only_header=True)[1]
    return Checkpoint(path, names=frozenset(found[0]), facts=found[1], has_checksum="crc32" in header)
