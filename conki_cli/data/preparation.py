"""`conki prepare`: raw data set -> feature store, including translation, checks and normalisation."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from conki_cli.data.extraction.cache import EXTRACTED, Extraction
from conki_cli.data.sources import check_dataset_name, read_corpus
from conki_cli.data.sources.labels import CHINESE_TEXT_NOTE
from conki_cli.data.sources.request import Options
from conki_cli.data.store.opening import open_hdf5
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import FORMAT, SPLITS, Corpus, counted
from conki_cli.data.store.seal import SEALED
from conki_cli.data.store.writing import num_values, store_lock, write_store
from conki_cli.system.errors import ConkiError, SettingsError, UnreadableError
from conki_cli.system.files import remove_leftovers
from conki_cli.system.locks import locked
from conki_cli.system.observer import Observer
from conki_cli.system.readable import human_size
from conki_cli.system.workspace import Workspace


@dataclass(frozen=True)
class Preparation:
    """The task of making a store.

    Attributes:
        dataset: name of the data set.
        workspace: the user's workspace.
        source: file or folder to read; None: look below data/.
        out: the store; None: features/<dataset>.h5.
        score_range: lowest and highest possible score; needed for a user's own data, if it has scores.
        options: how to read the source.
        translate: name or folder of the MarianMT model that translates the texts; None: no translation.
        normalize: normalisation of the frames' columns.
        strict: treat warnings as errors.
    """

    dataset: str
    workspace: Workspace
    source: Path | None = None
    out: Path | None = None
    score_range: tuple[float, float] | None = None
    options: Options = field(default_factory=Options)
    translate: str | None = None
    normalize: Literal["none", "zscore"] = "none"
    strict: bool = False

    @property
    def path(self) -> Path:
        """The path of the store."""
        return self.out if self.out is not None else self.workspace.store(self.dataset)


def prepare(task: Preparation, observer: Observer) -> Path:
    """Read a raw data set and write its feature store atomically.

    Returns:
        The store.

    Raises:
        SettingsError: an option cannot be used.
        SourceError: the data cannot be read, or contradicts itself.
        ConkiError: another process prepares the same store, or it cannot be written.
    """
    check_dataset_name(task.dataset)
    if task.options.unlabelled:
        _keep_labelled(task.path)
    with locked(store_lock(task.path), what=str(task.path), say=observer.say):
        remove_leftovers(task.path)  # of a killed process: we hold the lock
        with observer.steps(f"reading {task.dataset}", 0) as advance:
            corpus = read_corpus(
                task.dataset,
                workspace=task.workspace.root,
                source=task.source,
                score_range=task.score_range,
                options=replace(
                    task.options,
                    prefers_english=task.translate is None,
                    extraction=_told(task.options.extraction, task.workspace, observer),
                ),
                progress=_in_words(advance),
            )
        if task.translate is not None:
            corpus = _translated(corpus, task.translate, task.workspace, observer)
        with observer.steps(f"writing {task.path.name}", num_values(corpus, task.normalize)) as advance:
            write_store(task.path, corpus, normalize=task.normalize, strict=task.strict, progress=advance)
    return task.path


def _keep_labelled(path: Path) -> None:
    """Refuse to replace a store with scores by clips without scores, which is probably a mistake."""
    try:
        with FeatureStore(path) as store:
            is_labelled = not store.is_unlabelled
    except UnreadableError:  # it may have scores
        raise
    except ConkiError:  # there is no store, or it is unusable
        return
    if is_labelled:
        raise SettingsError(
            f"{path} holds clips with scores, and --unlabelled would replace them by clips without scores",
            "give another --dataset or --out",
        )


def is_raw(path: Path) -> bool:
    """Say whether a path is a raw file or folder and not a feature store; False if it is missing or damaged."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError:
        return False
    if head.startswith(SEALED):
        return False
    if head.startswith(b"\x89HDF"):
        return not _has_our_format(path)
    return path.suffix != ".h5"  # opening an .h5 file that is not a store gives a clear error


def _has_our_format(path: Path) -> bool:
    try:
        with open_hdf5(path) as file:
            return bool(file.attrs.get("format") == FORMAT)
    except Exception:  # damaged: opening it as a store gives a clear error
        return path.suffix == ".h5"


def prepare_to_score(source: Path, dataset: str, out: Path, observer: Observer) -> None:
    """Write a store of the clips in a raw file or folder for scoring; pass remarks and warnings to the observer.

    Raises:
        SourceError: the file cannot be read, or contradicts itself.
    """
    task = Preparation(dataset, Workspace(out.parent), source=source, out=out, options=Options(unlabelled=True))
    prepare(task, observer)
    with FeatureStore(out) as store:
        lines = [*store.report.get("remarks", []), *(f"warning: {note}" for note in store.notes)]
    for line in lines:
        observer.say(f"{source}: {line}")


def _told(extraction: Extraction | None, workspace: Workspace, observer: Observer) -> Extraction:
    """Return how features are made of videos, which takes long enough to be told of."""
    return replace(extraction or Extraction(workspace.root / EXTRACTED), observer=observer)


def _in_words(advance: Callable[[int, str], None]) -> Callable[[int, str], None]:
    """Show how much was read, for work of unknown length."""
    read = 0

    def told(count: int, remark: str) -> None:
        nonlocal read
        read += count
        advance(1, f"{human_size(read)} {remark}")

    return told


def _translated(corpus: Corpus, model: str, workspace: Workspace, observer: Observer) -> Corpus:
    from conki_cli.text.translation import translate

    texts = [sample.text for split in SPLITS for sample in corpus.splits[split]]
    cache = workspace.root / "translations.sqlite"
    with observer.steps(f"translating {corpus.dataset}", len(texts)) as advance:
        done = translate(texts, model, cache, progress=advance)
    found = iter(done.texts)
    splits = {split: [replace(sample, text=next(found)) for sample in corpus.splits[split]] for split in SPLITS}
    remarks = (*corpus.remarks, f"texts translated by {done.model}")
    notes = tuple(note for note in corpus.notes if note != CHINESE_TEXT_NOTE)
    if done.truncated:
        notes = (*notes, f"{counted(done.truncated, 'text')} truncated to what the translation model can read")
    return replace(corpus, splits=splits, remarks=remarks, notes=notes)
