"""Exported folders: their list of files with sizes and checksums, and its verification. No tensors here.

An exported model has the layout of a run folder, so it is read as a run. `conki.json` lists every file except itself
and `README.md`, which people may edit. Everything from a folder or the hub is untrusted until it is checked: only file
names of a fixed form are allowed, so none can point outside the folder.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conki_cli import __version__
from conki_cli.runs.folders import Run
from conki_cli.system.errors import ConkiError, RunError, SettingsError, UnreadableError, one_line, reason_of
from conki_cli.system.files import check_room, disk_error, set_mode, sha256_of, umask, write_json
from conki_cli.system.readable import check_readable, human_size, status_of

EXPORT_SCHEMA = 1
MANIFEST, CARD = "conki.json", "README.md"
LARGEST_MANIFEST = 1 << 20
"""Bytes; a list of a thousand seeds takes half of this."""
KINDS = ("model", "adapters")
EXPORTED = "exported"
"""The key in result.json that distinguishes an exported model from a run folder."""

_NAMES = re.compile(
    r"config\.toml|result\.json|normalization\.json"
    r"|encoder/[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(?:json|txt|model|spm|safetensors)"
    r"|seed-\d{1,10}/(?:result\.json|adapters\.safetensors|checkpoints/(?:best|frozen)\.safetensors)"
)
_READ = frozenset({".json", ".toml", ".safetensors"})
"""Endings of top-level files that a reader could mistake for parts of the export."""
_AGAIN = "export it again, or fetch it again with `conki pull`"


@dataclass(frozen=True)
class FileEntry:
    """One file of an exported folder."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of `conki.json`: the kind of the folder, its seeds, its files, and their origin."""

    kind: str
    seeds: tuple[int, ...]
    files: Mapping[str, FileEntry]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Return the bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    @property
    def checksum(self) -> str:
        """Return the SHA-256 over names, sizes and checksums of all files: equal for equal content."""
        lines = (f"{name} {entry.size} {entry.sha256}\n" for name, entry in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_exportable(name: str) -> bool:
    """Say whether a file of that name, relative to the folder, may be part of an exported folder."""
    return _NAMES.fullmatch(name) is not None


def write_manifest(folder: Path, kind: str, seeds: Sequence[int], about: Mapping[str, Any]) -> Manifest:
    """Write the list of files of a folder that is complete except for its card; return the list."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = {name: FileEntry((folder / name).stat().st_size, sha256_of(folder / name)) for name in names}
    manifest = Manifest(kind, tuple(seeds), files, about)
    listed = {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in files.items()}
    facts = {"schema": EXPORT_SCHEMA, "conki": __version__, "kind": kind, "seeds": list(seeds)}
    write_json(folder / MANIFEST, {**facts, "about": about, "files": listed})
    return manifest


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Read the bytes of a `conki.json`; `where` names it in messages.

    Raises:
        RunError: it is not a list, has a newer schema, or names files that no exported folder has.
    """
    try:
        if len(content) > LARGEST_MANIFEST:
            raise ValueError(f"it has {human_size(len(content))}, and the limit is {human_size(LARGEST_MANIFEST)}")
        found = json.loads(content.decode("utf-8"))
        schema = found["schema"]
        if type(schema) is int and schema > EXPORT_SCHEMA:
            raise RunError(
                f"{where} has schema {str(schema)[:9]}, this conki {__version__} knows up to {EXPORT_SCHEMA}",
                advice="install a newer conki",
            )
        manifest = _manifest_of(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else reason_of(error)
        raise RunError(f"{where} must list an exported folder's files but does not ({said}): {_AGAIN}") from error
    missing = [name for name in _needed(manifest) if name not in manifest.files]
    if missing:
        raise RunError(f"{where} must list {missing[0]} but does not: {_AGAIN}")
    return manifest


def _manifest_of(found: Mapping[str, Any]) -> Manifest:
    """Check every part of a list; a problem raises a ValueError, TypeError or KeyError."""
    seeds, about = found["seeds"], found["about"]
    if found["schema"] != EXPORT_SCHEMA or found["kind"] not in KINDS or not isinstance(about, dict):
        raise ValueError("schema, kind or about is invalid")
    if not seeds or any(type(seed) is not int or not 0 <= seed < 2**31 for seed in seeds):
        raise ValueError("seeds must be whole numbers")
    files = {}
    for name, entry in found["files"].items():
        if not is_exportable(name):
            raise ValueError(f"{one_line(name)[:60]!r} is not a file of an exported folder")
        size, digest = entry["size"], entry["sha256"]
        if type(size) is not int or not 0 <= size < 2**50 or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"size or checksum of {name} is invalid")
        files[name] = FileEntry(size, digest)
    if len({name.casefold() for name in files}) != len(files):
        raise ValueError("two names differ only in upper and lower case")
    return Manifest(found["kind"], tuple(seeds), files, about)


def _needed(manifest: Manifest) -> list[str]:
    if manifest.kind == "adapters":
        return ["config.toml", *(f"seed-{seed}/adapters.safetensors" for seed in manifest.seeds)]
    per_seed = ("result.json", "checkpoints/best.safetensors")
    return ["config.toml", "result.json", *(f"seed-{seed}/{name}" for seed in manifest.seeds for name in per_seed)]


def read_manifest(folder: Path) -> Manifest:
    """Read the list of an exported folder without comparing it with the files.

    Raises:
        RunError: there is no list, or it is invalid.
        UnreadableError: the system cannot read it.
    """
    path = folder / MANIFEST
    check_readable(folder)
    check_readable(path)
    if not path.is_file() or path.stat().st_size > LARGEST_MANIFEST:
        raise RunError(f"{folder} must be an exported folder with a {MANIFEST}, but has no such file: {_AGAIN}")
    return parse_manifest(path.read_bytes(), str(path))


def verify_export(folder: Path, *, linked: Path | None = None) -> Manifest:
    """Compare every file of an exported folder with its list.

    Args:
        folder: a folder that `conki export` or `conki pull` wrote.
        linked: the folder that links may point into, as in the hub's cache; None: links are refused.

    Raises:
        RunError: a file is missing, truncated, changed, a link, or not in the list.
        UnreadableError: the system cannot read a file.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        _refuse_links(path, folder, linked)
        found = status_of(path)
        if found is None or not path.is_file():
            raise RunError(f"{path} must exist but does not: {_AGAIN}")
        check_readable(path)
        if found.st_size != entry.size:
            raise RunError(
                f"{path} must have {human_size(entry.size)} but has {human_size(found.st_size)} "
                f"({found.st_size - entry.size:+} bytes): {_AGAIN}"
            )
        if sha256_of(path) != entry.sha256:
            raise RunError(f"{path} was changed (its content does not fit its checksum): {_AGAIN}")
    for name in _present(folder):
        if name not in manifest.files:
            raise RunError(f"{folder / name} is not in the list of this exported folder", advice="move it away")
    return manifest


def _refuse_links(path: Path, folder: Path, linked: Path | None) -> None:
    """Refuse a file that is a link, or is below one."""
    parts = [path, *(parent for parent in path.parents if parent.is_relative_to(folder) and parent != folder)]
    for part in parts:
        if part.is_symlink() and (linked is None or not part.resolve().is_relative_to(linked.resolve())):
            raise RunError(f"{part} must be a file of this folder but is a link: {_AGAIN}")


def _present(folder: Path) -> Iterator[str]:
    """Yield the files that a reader could take for parts of the folder; hidden folders belong to other programs."""
    for place, folders, names in os.walk(folder):
        top = Path(place) == folder
        folders[:] = [name for name in folders if not (top and name.startswith("."))]
        for name in folders:
            if (Path(place) / name).is_symlink():  # a reader would follow it
                yield str((Path(place) / name).relative_to(folder))
        for name in names:
            if not top or (Path(name).suffix in _READ and name != MANIFEST):
                yield str((Path(place) / name).relative_to(folder))


@contextlib.contextmanager
def new_folder(out: Path, size: int) -> Iterator[Path]:
    """Yield a scratch folder beside `out` that becomes `out` if the block succeeds, and is deleted otherwise.

    Args:
        out: a path that does not exist, or an empty folder.
        size: bytes that will be written.

    Raises:
        SettingsError: `out` is not empty.
        ConkiError: the disk lacks room, or the folder cannot be written.
    """
    parent, scratch = out.absolute().parent, None
    if (status_of(out) is not None or out.is_symlink()) and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"--out must be a new or empty folder, but {out} is not", advice="name another one")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        check_room(parent, size, "the files")
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.absolute().name[:100]}.", suffix=".part", dir=parent))
        yield scratch
        mode = stat.S_IMODE(out.stat().st_mode) if out.exists() else 0o777 & ~umask()
        set_mode(scratch, mode)  # mkdtemp gives only the owner access
        os.replace(scratch, out)
    except OSError as error:
        raise disk_error(out, error) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def is_exported(folder: Path) -> bool:
    """Say whether a folder is an exported one, complete or not."""
    if status_of(folder / MANIFEST) is not None:
        return True
    try:
        return bool(Run(folder).record.rest.get(EXPORTED))
    except UnreadableError:
        raise
    except ConkiError:
        return False


def open_exported(folder: Path, *, linked: Path | None = None) -> Run:
    """Verify every file of an exported model and return it as a run.

    Raises:
        RunError: see `verify_export`; or it holds only adapters, or does not describe a trained model.
    """
    manifest = verify_export(folder, linked=linked)
    if manifest.kind != "model":
        raise RunError(
            f"{folder} holds adapters, which cannot predict without a trained model",
            advice=(f"train with `conki finetune --adapters {folder}`, or name an exported model"),
        )
    run = Run(folder)
    if run.problem:
        raise RunError(run.problem)
    low, high = run.record.score_range
    is_range = all(isinstance(bound, int | float) and math.isfinite(bound) for bound in (low, high)) and low < high
    if not is_range or run.record.stage != "finetune" or tuple(run.finished_seeds()) != manifest.seeds:
        raise RunError(f"{folder / 'result.json'} must describe a trained model with the seeds listed: {_AGAIN}")
    return run


def adapters_at(folder: Path) -> Manifest:
    """Verify every file of a folder of exported adapters and return its list.

    Raises:
        RunError: see `verify_export`; or it holds a whole model.
    """
    manifest = verify_export(folder)
    if manifest.kind != "adapters":
        raise RunError(
            f"{folder} must hold adapters but holds a trained model", advice="export its run again with --adapters-only"
        )
    return manifest
