"""Clips -> features, each clip once: what was extracted is kept by the content of its file and the kind of features.

`<cache>/<kind>/<key>/` holds audio.npy and vision.npy, where there are any, and result.json. A folder appears whole, so
a process that is killed loses at most the clips at work.
"""

import contextlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conki_cli.data.extraction.decode import Span
from conki_cli.data.extraction.pool import Ended, Task, default_workers, run_tasks
from conki_cli.data.extraction.recipe import NONE, Recipe, kind_of, provenance_of
from conki_cli.system.errors import ConkiError, Kind, SettingsError, SourceError, UnreadableError, one_line
from conki_cli.system.files import disk_error, move_folder, remove_leftovers_below, sha256_of, write_json
from conki_cli.system.locks import lock_beside, locked
from conki_cli.system.observer import Observer
from conki_cli.system.readable import obstacle_at

EXTRACTED = "extracted"
"""The folder of the cache in a workspace."""

_RESULT = "result.json"
_NOTE = "provenance.json"
MOST_WORKERS = 256


@dataclass(frozen=True)
class Clip:
    """A clip to be extracted: its name, its file, and the part of the file that it is."""

    id: str
    path: Path
    span: Span = field(default_factory=Span)


@dataclass(frozen=True)
class Failure:
    """A clip that could not be extracted: why, and what to do."""

    id: str
    path: Path
    reason: str

    def to_json(self) -> dict[str, str]:
        """Return it for JSON."""
        return {"clip": self.id, "file": str(self.path), "reason": self.reason}


class ExtractionError(SourceError):
    """Clips could not be extracted; the others are in the cache."""

    def __init__(self, message: str, failures: Sequence[Failure]) -> None:
        """Say what to do; the failures are for a table."""
        super().__init__(message)
        self.failures = tuple(failures)


@dataclass(frozen=True)
class Extracted:
    """The features of a clip: where they lie, and what was found."""

    id: str
    folder: Path
    result: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Extraction:
    """What is extracted and how.

    Attributes:
        recipe: which features.
        cache: folder in which they are kept.
        workers: processes; None: one per core.
        skip_failed: leave clips out that fail.
        transcribe: name or folder of the model that writes down what is said; None: texts are given.
        observer: is notified of the progress.
    """

    cache: Path
    recipe: Recipe = field(default_factory=Recipe)
    workers: int | None = None
    skip_failed: bool = False
    transcribe: str | None = None
    observer: Observer = field(default_factory=Observer)

    @property
    def for_words(self) -> "Extraction":
        """The extraction that writes down words and nothing else."""
        return replace(self, recipe=Recipe(NONE, NONE, transcribe=self.transcribe))

    def provenance(self) -> dict[str, Any]:
        """Return the note that goes with the features."""
        return provenance_of(self.recipe)


def extract_clips(clips: Sequence[Clip], extraction: Extraction) -> tuple[list[Extracted], list[Failure]]:
    """Extract clips, or find them in the cache.

    Returns:
        The clips that could be extracted, in their order, and those that could not.

    Raises:
        SettingsError: an extractor cannot be used.
        ConkiError: the cache cannot be written.
    """
    workers = default_workers() if extraction.workers is None else extraction.workers
    if not 1 <= workers <= MOST_WORKERS:
        raise SettingsError(f"--workers must be from 1 to {MOST_WORKERS}, found {workers}")
    provenance = extraction.provenance()
    folder = extraction.cache / kind_of(provenance)
    with _open_cache(extraction.cache, extraction.observer.say):
        _write_note(folder, provenance)
        keys, failures = _keys_of(clips, extraction.observer)
        places = {key: folder / key for key in keys.values()}
        waiting = {key: clip for clip in clips if (key := keys.get(clip.id)) and not (places[key] / _RESULT).is_file()}
        failed: dict[str, str] = {}
        with extraction.observer.steps("extracting", len(set(keys.values()))) as advance:
            advance(len(places) - len(waiting), "were in the cache")
            for ended in _run(waiting, extraction.recipe, folder, workers, advance):
                if ended.result is None:
                    failed[ended.task.key] = ended.failure
                else:
                    _keep(ended, places[ended.task.key])
                advance(1, one_line(waiting[ended.task.key].id)[:40])
    failures += [Failure(clip.id, clip.path, failed[keys[clip.id]]) for clip in clips if keys.get(clip.id) in failed]
    lost = {failure.id for failure in failures}
    done = [_read(clip.id, places[keys[clip.id]]) for clip in clips if clip.id not in lost]
    order = {clip.id: place for place, clip in enumerate(clips)}
    return done, sorted(failures, key=lambda failure: order[failure.id])


@contextlib.contextmanager
def _open_cache(cache: Path, say: Callable[[str], None]) -> Iterator[None]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(cache, error) from error
    with locked(lock_beside(cache), what=str(cache), wait=True, say=say):
        remove_leftovers_below(cache)
        yield


def _write_note(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Say beside the features what they are; for people, since the folder's name tells kinds apart."""
    if not (folder / _NOTE).is_file():
        write_json(folder / _NOTE, dict(provenance))


def _keys_of(clips: Sequence[Clip], observer: Observer) -> tuple[dict[str, str], list[Failure]]:
    """Return the key of every clip by its id: the content of its file, and the part of it."""
    hashes: dict[Path, str] = {}
    keys, failures = {}, []
    with observer.steps("looking at files", len({clip.path for clip in clips})) as advance:
        for clip in clips:
            try:
                if what := obstacle_at(clip.path):  # reading a pipe would wait for ever
                    failures.append(Failure(clip.id, clip.path, f"it must be a file but is {what}: name a file"))
                    continue
                if clip.path not in hashes:
                    hashes[clip.path] = sha256_of(clip.path)
                    advance(1, one_line(clip.path.name)[:40])
            except OSError as error:
                reason = f"it cannot be read ({error.strerror or error}): check the path and who may read it"
                failures.append(Failure(clip.id, clip.path, reason))
                continue
            except UnreadableError as error:
                failures.append(Failure(clip.id, clip.path, str(error)))
                continue
            span = clip.span
            part = "" if span.is_whole else f"-{span.start:.3f}-{span.stop:.3f}"
            keys[clip.id] = hashes[clip.path][:32] + part
    return keys, failures


def _run(
    waiting: Mapping[str, Clip], recipe: Recipe, folder: Path, workers: int, advance: Callable[[int, str], None]
) -> Iterator[Ended]:
    """Extract clips into temporary folders beside the cache's own, and yield each as it ends."""
    if not waiting:
        return
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder, ignore_cleanup_errors=True) as place:
        tasks = []
        for number, (key, clip) in enumerate(waiting.items()):
            into = Path(place) / str(number)
            into.mkdir()
            stop = None if math.isinf(clip.span.stop) else clip.span.stop
            tasks.append(Task(key, clip.path.absolute(), clip.span.start, stop, into))
        minutes = 0.0

        def told(seconds: float) -> None:
            nonlocal minutes
            minutes += seconds / 60
            advance(0, f"{minutes:.1f} min of sound and pictures done")

        for ended in run_tasks(recipe, tasks, workers, progress=told):
            yield ended
            shutil.rmtree(ended.task.folder, ignore_errors=True)


def _keep(ended: Ended, place: Path) -> None:
    """Move a complete clip to its place in the cache."""
    try:
        write_json(ended.task.folder / _RESULT, ended.result)
        if place.exists():  # without a result: of a file system that lost it
            shutil.rmtree(place)
        move_folder(ended.task.folder, place)
    except OSError as error:
        raise disk_error(place, error) from error


def _read(identity: str, place: Path) -> Extracted:
    try:
        found = json.loads((place / _RESULT).read_text(encoding="utf-8"))
        return Extracted(identity, place, dict(found))
    except (OSError, ValueError) as error:
        raise damaged(place) from error


def damaged(place: Path) -> ConkiError:
    """Return the error of a clip in the cache that has lost a part."""
    return ConkiError(f"{place} is damaged", "delete that folder and run the command again", kind=Kind.DAMAGED)
