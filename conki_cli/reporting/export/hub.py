"""Exported folders to the Hugging Face hub and back, through huggingface_hub; the endpoint is the library's.

The hub's answers are not trusted: the list of files decides what is fetched, and it can only name files of an exported
folder; sizes are compared and announced before anything is fetched, checksums afterwards.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any

from conki_cli.runs import Run, Runs
from conki_cli.runs.exported import (
    CARD,
    LARGEST_MANIFEST,
    MANIFEST,
    Manifest,
    is_exported,
    new_folder,
    open_exported,
    parse_manifest,
    read_manifest,
    verify_export,
)
from conki_cli.system.errors import ConkiError, RunError, SettingsError, one_line, reason_of
from conki_cli.system.files import check_room, disk_error
from conki_cli.system.observer import Observer
from conki_cli.system.readable import human_size, status_of, system_error_in
from conki_cli.system.workspace import Workspace, is_path

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPO = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,99}}))?")
_TIMEOUT = 10.0  # seconds until the hub must have begun to answer
_STALE = ["seed-*/*", "encoder/*", "config.toml", "result.json", "normalization.json"]
"""What an earlier push may have left in a repository; it goes where the new folder lacks it."""


@dataclass(frozen=True)
class Repo:
    """A model on the hub: OWNER/NAME, and a branch, tag or commit; None: the main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return it as it is typed."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


@dataclass(frozen=True)
class _Listing:
    """What the hub has under a revision."""

    commit: str
    manifest: Manifest
    has_card: bool


def parse_repo(word: str) -> Repo:
    """Read OWNER/NAME or OWNER/NAME@REVISION.

    Raises:
        SettingsError: anything else.
    """
    if (repo := _repo_of(word)) is None:
        raise SettingsError(
            f"a model on the hub must have the form OWNER/NAME or OWNER/NAME@REVISION, found {word[:80]!r}"
        )
    return repo


def _repo_of(word: str) -> Repo | None:
    found = _REPO.fullmatch(word)
    return Repo(found[1], found[2]) if found and ".." not in word and "--" not in found[1] else None


def find_model(workspace: Workspace, word: str, observer: Observer) -> tuple[Run, str]:
    """Find what predicts: a run of the workspace, an exported folder, or a model on the hub, and what it is called.

    A folder that is there is meant before a model of the hub that is written alike.

    Raises:
        RunError: there is none, or an exported one is incomplete or was changed.
    """
    found = exported_model(workspace, word)
    if isinstance(found, Path):
        return open_exported(found), found.name
    if found is not None:
        return fetch(found, observer)
    run = Runs(workspace).find(word)
    return run, run.name


def exported_model(workspace: Workspace, word: str) -> Path | Repo | None:
    """Return the exported folder or the model on the hub that a word means; None: it means a run."""
    place = Path(word) if is_path(word) else workspace.runs / word
    if status_of(place) is None:
        return _repo_of(word)
    return place if is_exported(place) else None


def fetch(repo: Repo, observer: Observer) -> tuple[Run, str]:
    """Fetch a model of the hub into the hub's cache, or take the cached one where the hub cannot be reached.

    Returns:
        The model, verified, and its name with the commit.

    Raises:
        RunError: the hub does not have it, it is not an exported model, or it does not match its checksums.
    """
    try:
        listing = _list(repo)
    except UnreachableError as error:
        folder = _cached(repo)
        if folder is None:
            raise
        observer.say(f"{error}; the cached {folder.name[:12]} is used")
    else:
        _announce(repo, listing, observer)
        folder = _download(repo, listing, None, observer)
        _check_same(read_manifest(folder), listing, repo)
    run = open_exported(folder, linked=folder.parents[2])
    return run, f"{repo.name}@{folder.name[:12]}"


def _check_same(found: Manifest, listing: _Listing, repo: Repo) -> None:
    """Refuse a list of files that is another than the one that was announced."""
    if found.checksum != listing.manifest.checksum:
        raise RunError(f"{MANIFEST} of {repo} changed while it was fetched", advice="fetch it again")


def pull(repo: Repo, out: Path, observer: Observer) -> dict[str, Any]:
    """Fetch an exported folder of the hub; it appears at `out` once every file is verified.

    Raises:
        SettingsError: something lies at `out`.
        RunError: the hub does not have it, it is not an exported folder, or it does not match its checksums.
    """
    listing = _list(repo)
    with new_folder(out, listing.manifest.size) as folder:
        _announce(repo, listing, observer)
        _download(repo, listing, folder, observer)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's own notes
        _check_same(verify_export(folder), listing, repo)
    manifest = listing.manifest
    return {
        "folder": out.resolve(),
        "repository": repo.name,
        "commit": listing.commit,
        "kind": manifest.kind,
        "seeds": manifest.seeds,
        "size": manifest.size,
        "checksum": manifest.checksum,
    }


def push(folder: Path, repo: Repo, observer: Observer, *, private: bool, message: str) -> dict[str, Any]:
    """Upload an exported folder, verified; files of an earlier push that it lacks are deleted there.

    Raises:
        RunError: the folder is not an exported one or does not match its checksums, or the hub refuses.
        SettingsError: a private repository is asked for, and a public one is there.
    """
    from huggingface_hub import HfApi

    manifest = verify_export(folder)
    names = [MANIFEST, *manifest.files]
    if status_of(folder / CARD) is not None:
        _check_card(folder / CARD)
        names.append(CARD)
    observer.say(f"pushing {len(names)} files, {human_size(manifest.size)}, to {repo}")
    api = HfApi()
    with _answered(repo, "be pushed to"):
        api.create_repo(repo.name, private=private or None, exist_ok=True)
        is_public = private and not api.model_info(repo.name, timeout=_TIMEOUT).private
    if is_public:
        raise SettingsError(
            f"{repo.name} exists and is public", advice="leave out --private, or name another repository"
        )
    with _answered(repo, "be pushed to"):
        if repo.revision is not None:
            api.create_branch(repo.name, branch=repo.revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo.name,
            folder_path=folder,
            revision=repo.revision,
            allow_patterns=names,
            delete_patterns=_STALE,
            commit_message=message or "Upload with conki",
        )
    url = f"{api.endpoint}/{repo.name}"
    return {"repository": repo.name, "commit": done.oid, "url": url, "files": sorted(names), "size": manifest.size}


def _check_card(path: Path) -> None:
    """Refuse a card that is a link, or whose metadata the hub could not read."""
    from huggingface_hub import ModelCard

    if path.is_symlink() or not path.is_file():
        raise RunError(f"{path} must be a file of this folder but is not", advice="export the folder again")
    try:
        ModelCard(path.read_bytes().decode("utf-8"))
    except Exception as error:  # YAML's and the library's errors share no base class
        raise RunError(
            f"the metadata at the top of {path} cannot be read ({reason_of(error)})", advice="correct them"
        ) from error


class UnreachableError(RunError):
    """The hub did not answer; what is cached may be used."""


@contextlib.contextmanager
def _answered(repo: Repo, verb: str) -> Iterator[None]:
    """Turn what the library raises into one line; keep its logs and bars off the screen meanwhile."""
    from huggingface_hub import logging
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    level, had_bars = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity(CRITICAL)
    disable_progress_bars()
    try:
        yield
    except (ConkiError, MemoryError):
        raise
    except OfflineModeIsEnabled as error:
        raise UnreachableError(f"{repo} cannot {verb}: HF_HUB_OFFLINE is set", advice="unset it") from error
    except HfHubHTTPError as error:
        raise RunError(f"{repo} cannot {verb}: {_refusal(error)}") from error
    except Exception as error:  # the client's own transport errors share no base class across its versions
        if isinstance(error, OSError) and (found := system_error_in(error)) is not None and found.filename:
            raise disk_error(Path(os.fsdecode(found.filename)), found) from error
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise UnreachableError(
            f"{repo} cannot {verb}, because the hub could not be reached or understood ({reason})",
            advice="try again with a network, or copy a folder of `conki pull` from another machine",
        ) from error
    finally:
        logging.set_verbosity(level)
        if had_bars:
            enable_progress_bars()


def _refusal(error: Any) -> str:
    """Say what the hub's answer means, and what to do."""
    from huggingface_hub import errors

    login = "log in with `hf auth login`"
    if isinstance(error, errors.GatedRepoError):
        return f"its owner must grant access first: ask on its page, then {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such branch, tag or commit: check the part after @"
    if isinstance(error, errors.EntryNotFoundError):
        return "the hub lacks a file that it listed: try again"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no such model, or it is private: check the name, or {login}"
    status = getattr(error.response, "status_code", 0)
    rest = login if status in (401, 403) else "try again later"
    return f"the hub answered {status} ({reason_of(error)}): {rest}"


def _list(repo: Repo) -> _Listing:
    """Ask the hub what it has, and compare that with the list of files of the folder, before anything is fetched."""
    from huggingface_hub import HfApi, hf_hub_download

    with _answered(repo, "be fetched"):
        info = HfApi().model_info(repo.name, revision=repo.revision, files_metadata=True, timeout=_TIMEOUT)
        sizes = {str(file.rfilename): file.size for file in info.siblings or []}
        commit = str(info.sha)
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise RunError(
            f"the hub must name a commit of {repo}, found {one_line(commit)[:60]!r}", advice="check HF_ENDPOINT"
        )
    if MANIFEST not in sizes:
        raise RunError(f"{repo} is on the hub but was not made by `conki export`: it has no {MANIFEST}")
    if (sizes[MANIFEST] or 0) > LARGEST_MANIFEST:
        raise RunError(f"{MANIFEST} of {repo} has {human_size(sizes[MANIFEST] or 0)}, so it is not a list of files")
    with tempfile.TemporaryDirectory(prefix="conki-") as folder:
        with _answered(repo, "be fetched"):
            path = hf_hub_download(repo.name, MANIFEST, revision=commit, local_dir=folder, etag_timeout=_TIMEOUT)
        manifest = parse_manifest(Path(path).read_bytes(), f"{MANIFEST} of {repo}")
    for name, entry in manifest.files.items():
        if sizes.get(name) != entry.size:
            found = "lacks it" if name not in sizes else f"has {sizes[name]} bytes"
            raise RunError(
                f"{repo} must have {name} with {entry.size} bytes, but {found}: its owner must push it again"
            )
    return _Listing(commit, manifest, has_card=0 < (sizes.get(CARD) or 0) <= LARGEST_MANIFEST)


def _announce(repo: Repo, listing: _Listing, observer: Observer) -> None:
    """Say what is fetched, and the bytes it takes, before it is."""
    manifest = listing.manifest
    what = "a trained model" if manifest.kind == "model" else "adapters"
    observer.say(f"{repo} at {listing.commit[:12]}: {what}, {len(manifest.files)} files, {human_size(manifest.size)}")


def _download(repo: Repo, listing: _Listing, folder: Path | None, observer: Observer) -> Path:
    """Fetch every listed file into a folder, or into the hub's cache; return where they lie."""
    from huggingface_hub import constants, hf_hub_download

    if folder is None:
        check_room(Path(constants.HF_HUB_CACHE), listing.manifest.size, "the files")
    names = [MANIFEST, *listing.manifest.files, *([CARD] if listing.has_card else [])]
    place = Path()
    with observer.steps(f"fetching {repo}", len(names)) as advance:
        for name in names:
            # By its branch, the cache learns which commit that is, for when the hub cannot be reached.
            revision = repo.revision if folder is None and name == MANIFEST else listing.commit
            with _answered(repo, "be fetched"):
                found = hf_hub_download(repo.name, name, revision=revision, local_dir=folder, etag_timeout=_TIMEOUT)
            place = place if place.parts else Path(found).parent
            advance(1, name)
    return place


def _cached(repo: Repo) -> Path | None:
    """Return the folder of a model that was fetched before; None: it was not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo.name, MANIFEST, revision=repo.revision)
    return Path(found).parent if isinstance(found, str) else None
