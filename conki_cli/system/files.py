"""Atomic writes and checksums: everything that is written to the disk goes through here."""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conki_cli.system.errors import ConkiError, Kind
from conki_cli.system.readable import NOT_OFFERED, check_read, human_size, obstacle_at, system_error_in, unreadable

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 4 * 2**20  # bytes that are read at once
_PERMIT = "give your user write permission (chmod u+w), or choose another place with --workspace"
_DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", "free some space and run the command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the command again"),
    errno.EFBIG: ("the file would exceed the allowed size", "raise the file size limit (ulimit -f)"),
    errno.EACCES: ("writing is not permitted", f"{_PERMIT}"),
    errno.EPERM: ("writing is not permitted", f"{_PERMIT}"),
    errno.ENOENT: ("its folder no longer exists", "restore it and run the command again"),
    errno.EROFS: ("the file system is read-only", "choose another place with --workspace"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another place"),
    errno.EEXIST: ("there is a file where a folder must be", "move it away"),
    errno.ENAMETOOLONG: ("the path is too long for this file system", "choose a shorter name"),
}


def disk_error(path: Path, error: OSError, otherwise: str = "check the disk and run the command again") -> ConkiError:
    """Say in one line why `path` could not be written, and what to do (`otherwise` if the cause is unknown)."""
    fact, advice = _DISK_ERRORS.get(error.errno or 0, (error.strerror or str(error), otherwise))
    return ConkiError(f"cannot write {path}: {fact}", advice)


_SUFFIX = ".part"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` when the block succeeds.

    The bytes are flushed to the disk before the rename, so a reader sees either the old file or the complete new one.
    If the block fails, nothing is left behind.

    Raises:
        ConkiError: the folder cannot be made or written to, the disk is full, or the disk fails after the rename.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_prefix_of(path), suffix=_SUFFIX, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        set_mode(temporary, 0o666 & ~umask())
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(path, error, "nothing was written") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # already renamed, or the disk fails here as well
                temporary.unlink()
    _flush_name(path)


def _prefix_of(path: Path) -> str:
    return f".{path.name[:100]}."


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote `path`; its lock must be held."""
    with contextlib.suppress(OSError):
        for entry in path.parent.iterdir():
            if entry.name.startswith(_prefix_of(path)) and entry.name.endswith(_SUFFIX):
                entry.unlink()


def temporary_files(folder: Path, *, deep: bool = False) -> Iterator[tuple[Path, Path]]:
    """Yield the temporary files in a folder, or (`deep`) below it, each with the file that it should have become."""
    for path in sorted(folder.rglob(".*") if deep else folder.glob(".*")):
        if path.name.endswith(_SUFFIX) and path.is_file():
            yield path, path.parent / path.name[1:].removesuffix(_SUFFIX).rpartition(".")[0]


def remove_leftovers_in(folder: Path) -> None:
    """Remove temporary files of killed processes in a folder, not below it; its lock must be held."""
    for path, _ in temporary_files(folder):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_leftovers_below(folder: Path) -> None:
    """Remove temporary files of killed processes in a folder and below it; its lock must be held."""
    for entry in list(folder.rglob(f".*{_SUFFIX}")):
        with contextlib.suppress(OSError):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def set_mode(path: Path, mode: int) -> None:
    """Set the permissions of a file, if the file system has them: some network shares do not."""
    with contextlib.suppress(OSError):
        path.chmod(mode)


def umask() -> int:
    """Return the permissions that new files and folders of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, if the file system supports that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
    finally:
        os.close(handle)


def _flush_name(path: Path) -> None:
    """Flush the name of a complete file; skip a folder that is writable but not readable."""
    try:
        _flush_to_disk(path.parent)
    except PermissionError:
        return
    except OSError as error:
        raise ConkiError(
            f"{path} was written, but a power failure could still undo that ({error.strerror or error})",
            "check the disk and run the command again",
        ) from error


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder of complete files to a free name; its files are flushed to the disk before, its name afterwards.

    Raises:
        OSError: the disk fails.
        ConkiError: the folder was moved, but a power failure could still undo that.
    """
    for path in (*source.iterdir(), source):
        _flush_to_disk(path)
    os.replace(source, target)
    _flush_name(target)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Render `value` as standard JSON: undefined numbers (nan, infinities) become null."""
    return json.dumps(_json_ready(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON."""
    write_text(path, to_json(value) + "\n")


def read_json(path: Path) -> Any:
    """Read one of our own JSON files.

    Raises:
        UnreadableError: the system cannot read it.
        ConkiError: the file is missing or is not JSON.
    """
    try:
        if obstacle_at(path):
            raise ConkiError(f"cannot read {path}: it must be a file", "move away what is there")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        check_read(path, error)
        raise ConkiError(unreadable(path, error), kind=Kind.MISSING) from error
    except (ValueError, RecursionError) as error:
        raise ConkiError(
            f"{path} must be JSON but is not ({error})", "restore it or delete it", kind=Kind.DAMAGED
        ) from error


def check_writable(path: Path) -> None:
    """Refuse a path that certainly cannot be written, before long work whose result goes there.

    Raises:
        ConkiError: it is a folder, is below a file, or writing is not permitted.
    """
    if path.is_dir():
        raise ConkiError(f"cannot write {path}: it is a folder", "name a file in it")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise disk_error(path, OSError(errno.ENOTDIR, ""))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise disk_error(path, OSError(errno.EACCES, ""))


def append_line(path: Path, line: str) -> None:
    """Append one line to a log, without a rename."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    except OSError as error:
        raise disk_error(path, error) from error


def read_tensors(path: Path, *, only_header: bool = False) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Read the tensors of a safetensors file (none with `only_header`), and the metadata in its header.

    The library maps the file into memory, and a failing disk would then kill the process with a signal. So every byte
    is read normally first; if the file system does not support memory maps, the library gets the bytes.

    Raises:
        OSError: the file cannot be read.
        SafetensorError: it is damaged, or the system failed (which `system_error_in` recognises).
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load

    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(block):
            """Only to check that every byte can be read."""
    try:
        with safe_open(path, framework="pt") as stored:
            names = () if only_header else stored.keys()
            return {name: stored.get_tensor(name) for name in names}, dict(stored.metadata() or {})
    except MemoryError:  # the address space may be limited
        pass
    except (SafetensorError, OSError, RuntimeError) as error:
        found = system_error_in(error)
        if found is None or found.errno not in (*NOT_OFFERED, errno.ENOMEM):
            raise
    content = path.read_bytes()
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {} if only_header else tensors, dict(header.get("__metadata__", {}))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Return the bytes that a file, or a folder with its content, takes on disk; other processes may change it."""
    below = (Path(place) / name for place, _, names in os.walk(path) for name in names)
    size = 0
    for entry in (path, *below):
        with contextlib.suppress(OSError):  # it has gone, or is a link that leads nowhere
            found = entry.stat()
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return size


def check_room(folder: Path, size: int, what: str, advice: str = "free some space or choose another place") -> None:
    """Refuse to start if the disk has less room than the files to be written take; the folder may not exist yet.

    Args:
        folder: where they will be written.
        size: their bytes.
        what: what they are, in the plural.
        advice: what to do where there is too little room.

    Raises:
        ConkiError: there is too little room.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if size > (free := shutil.disk_usage(place).free):
        raise ConkiError(
            f"{what} need {human_size(size)} and {human_size(free)} are free below {place}",
            advice,
        )
