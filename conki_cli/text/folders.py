"""Folders with pretrained models: find, download, fingerprint, read safely, write atomically.

A model is a folder: config.json, tokenizer files, weights in safetensors. A hub name is first resolved to such a folder
(from the local cache, or by one download), so everything else reads only folders and works offline.
Torch and transformers are imported inside the functions: that takes seconds, and half of the commands need neither.
"""

import contextlib
import hashlib
import json
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conki_cli.system.errors import EncoderError
from conki_cli.system.files import atomic_path, disk_error
from conki_cli.system.readable import status_of, system_error_in, unread
from conki_cli.system.workspace import is_path

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_HUB_TIMEOUT = 5.0  # seconds; the libraries' own retries would wait 20-50 s without a network
_HASHED = frozenset({".json", ".txt", ".model", ".spm", ".safetensors"})

CONFIG_FILES = ("config.json",)
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


_MOST_LISTED = 10_000
"""Labels and layers of a configuration: of each, transformers lists all, however small the file."""
_SCRATCH = ".encoder."
"""Prefix of temporary folders in which encoder files are prepared."""


@dataclass(frozen=True)
class ModelKind:
    """A kind of model for messages: its noun, the option that names it, its class for converting."""

    noun: str
    option: str
    auto_class: str


def fingerprint(folder: Path, kind: ModelKind) -> str:
    """Identify the content of a folder: by names, sizes and bytes of its files, or samples of large files."""
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in _HASHED:
                digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
                _update_with_samples(digest, path)
    except OSError as error:
        raise unread(folder, error, f"{kind.noun} in") from error
    return f"folder-{digest.hexdigest()[:16]}"


def _update_with_samples(digest: "hashlib._Hash", path: Path) -> None:
    """Hash a file of up to 8 MiB completely, a larger one as 32 evenly spaced blocks, including its head and tail."""
    whole, block, num_blocks = 8 << 20, 64 << 10, 32
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= whole:
            digest.update(stream.read())
            return
        for index in range(num_blocks):
            stream.seek((size - block) * index // (num_blocks - 1))
            digest.update(stream.read(block))


def local_folder(name_or_path: str, kind: ModelKind) -> Path | None:
    """Return the folder that the name means, or None for a hub name.

    Raises:
        UnreadableError: the system cannot read it.
        EncoderError: it is a file, or neither a folder nor a possible hub name.
    """
    if not name_or_path.strip() or "\0" in name_or_path:
        raise EncoderError(f"a {kind.noun} must be a folder or a hub name, found {name_or_path!r}")
    path = Path(name_or_path)
    with contextlib.suppress(RuntimeError):  # ~ of an unknown user
        path = path.expanduser()
    found = status_of(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        if not _only_shares_a_name(name_or_path, path):
            return path
    elif found is not None and (is_path(name_or_path) or not _HUB_NAME.fullmatch(name_or_path)):
        raise EncoderError(f"a {kind.noun} must be a folder, but {path} is a file", "pass the folder that holds it")
    if not _HUB_NAME.fullmatch(name_or_path):
        raise EncoderError(
            f"there is no folder {name_or_path}, and it is not a hub name either", f"check {kind.option}"
        )
    return None


def _only_shares_a_name(name: str, folder: Path) -> bool:
    """Say whether a local folder only has the name of a model on the hub but holds no model: then use the hub's."""
    return not is_path(name) and _HUB_NAME.fullmatch(name) is not None and not has(folder, CONFIG_FILES)


def hub_folder(
    name: str, needed: Sequence[Sequence[str]], fetched: Sequence[str], kind: ModelKind, *, revision: str | None = None
) -> Path:
    """Return a folder with the files of a hub name, from the local cache or by a download.

    Args:
        name: a hub name.
        needed: a cached folder suffices if it holds a file of each of these groups of patterns.
        fetched: patterns of the files to download.
        kind: the kind of model, for messages.
        revision: a branch, tag or commit; None is the main branch.

    Raises:
        EncoderError: it is not in the cache, and the hub cannot be reached or does not have it.
    """
    from huggingface_hub import snapshot_download

    with contextlib.suppress(Exception):  # not in the cache, for whatever reason: ask the hub next
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if all(has(cached, patterns) for patterns in needed):
            return cached
    return _download(name, list(fetched), kind, revision)


def _download(name: str, patterns: list[str], kind: ModelKind, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with quiet():
            HfApi().model_info(
                name, revision=revision, timeout=_HUB_TIMEOUT
            )  # one attempt, which fails without a network
            return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except HfHubHTTPError as error:
        reason = f"the hub answered: {first_line(error)}"
    except Exception as error:  # the client's own transport errors share no base class across its versions
        reason = f"{type(error).__name__}: {first_line(error)}"
    at = f" --revision {revision}" if revision else ""
    raise EncoderError(
        f"{kind.noun} {name!r} is not a folder with a model and could not be fetched from the hub ({reason}): on a "
        f"machine with network run `hf download {name}{at} --local-dir {name.rpartition('/')[2]}` once, copy that "
        f"folder and pass {kind.option} FOLDER"
    )


def has(folder: Path, patterns: Sequence[str]) -> bool:
    """Say whether a folder holds a file that matches one of the patterns."""
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def require(folder: Path, patterns: Sequence[str], what: str, kind: ModelKind) -> None:
    """Refuse a folder without a file that matches one of the patterns; the message calls it `what`."""
    if not has(folder, patterns):
        raise EncoderError(
            f"a {kind.noun}'s folder must hold {what}, but {folder} does not",
            "pass the folder that save_pretrained or `hf download` made",
        )


def require_safetensors(folder: Path, kind: ModelKind) -> None:
    """Refuse a folder without weights in safetensors; if there are pickled ones, say how to convert them."""
    if not has(folder, WEIGHT_FILES) and has(folder, ("*.bin", "*.pt", "*.pth", "*.ckpt")):
        raise EncoderError(
            f"{folder} holds its weights as a pickle, which could run code and is not read: if you trust it, convert "
            f'it with `python -c "from transformers import {kind.auto_class} as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}')\"`"
        )
    require(folder, WEIGHT_FILES, "weights in safetensors (model.safetensors)", kind)


def read_configuration(folder: Path, kind: ModelKind) -> "PretrainedConfig":
    """Read the configuration of a model.

    Raises:
        EncoderError: it is missing, cannot be read, or names a number for which transformers would make a long list.
    """
    require(folder, CONFIG_FILES, "config.json", kind)
    with explained(folder, "configuration (config.json)"):
        from transformers import AutoConfig

        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for name in ("num_labels", "num_hidden_layers"):
            if isinstance(count := facts.get(name, 0), int) and count > _MOST_LISTED:
                raise EncoderError(
                    f"{name} in {folder / 'config.json'} must be at most {_MOST_LISTED:,}, found {count:,}",
                    f"pass another folder to {kind.option}",
                )
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)


def scratch_folders(folder: Path, *, deep: bool = False) -> Iterator[tuple[Path, Path]]:
    """Yield the folders in which encoder files were prepared, each with its destination."""
    for path in sorted(folder.rglob(f"{_SCRATCH}*") if deep else folder.glob(f"{_SCRATCH}*")):
        if path.is_dir():
            yield path, path.parent / _SCRATCH.strip(".")


def first_line(error: BaseException) -> str:
    """Return the first line of an error, truncated."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


@contextlib.contextmanager
def explained(folder: Path, what: str) -> Iterator[None]:
    """Turn every error of the libraries about a user's folder into one line; silence their output meanwhile."""
    try:
        with quiet():
            yield
    except (EncoderError, MemoryError):
        raise
    except Exception as error:  # a damaged file can raise any of a dozen classes of three libraries
        if (found := system_error_in(error)) is not None and not isinstance(error, FileNotFoundError):
            raise unread(folder, found, f"{what} in") from error
        raise EncoderError(
            f"the {what} in {folder} cannot be loaded ({first_line(error)})", "fetch or save it again"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' and the hub client's logs, warnings and progress bars during the block."""
    from huggingface_hub import logging as hub_logging
    from transformers.utils import logging

    level, hub_level = logging.get_verbosity(), hub_logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.ERROR)
        hub_logging.set_verbosity(logging.ERROR)
        logging.disable_progress_bar()  # the hub client's bars too
        try:
            yield
        finally:
            logging.set_verbosity(level)
            hub_logging.set_verbosity(hub_level)
            if had_bars:
                logging.enable_progress_bar()


@contextlib.contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder; if the block succeeds, move its files into `folder`, config.json last.

    Every reader refuses a folder without config.json, so an interrupted write cannot be mistaken for an encoder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, suffix=".part", dir=folder) as name:
            yield Path(name)
            for path in sorted(Path(name).iterdir(), key=lambda path: (path.name == "config.json", path.name)):
                with atomic_path(folder / path.name) as temporary:
                    shutil.copyfile(path, temporary)
    except OSError as error:
        raise disk_error(folder, error) from error
    except Exception as error:  # the tokenizers library has no error type for a full disk
        if (found := system_error_in(error)) is None:
            raise
        raise disk_error(folder, found) from error
