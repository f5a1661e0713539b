"""Whether a feature store opens, and whether every clip in it is the one that was written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conki_cli.data.store.content import content_of
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import counted
from conki_cli.data.store.writing import store_lock
from conki_cli.system.errors import one_line, quoted
from conki_cli.system.findings import (
    FAULT,
    OK,
    REMARK,
    Examination,
    Finding,
    attempt,
    fault,
    is_newer,
    is_unread,
    size_on_disk,
)
from conki_cli.system.locks import holder_of
from conki_cli.system.workspace import Workspace


@dataclass(frozen=True)
class KnownStore:
    """What runs are compared with."""

    content_id: str
    ids: Mapping[str, list[str]] = field(default_factory=dict)
    """Of the clips, by split, where the content was found to be what the store says."""


class KnownStores:
    """The stores that an examination opened, each once."""

    def __init__(self) -> None:
        self._stores: dict[Path, KnownStore | None] = {}
        self._unread: set[Path] = set()

    def at(self, path: Path) -> KnownStore | None:
        """Return what a store says of itself, None where it is missing or cannot be opened."""
        if path not in self._stores:
            self.note(path, *attempt(_opened, path))
        return self._stores[path]

    def note(self, path: Path, store: KnownStore | None, error: Exception | None = None) -> None:
        """Keep what a store said, or why it could not be opened."""
        self._stores[path] = store
        if error is not None and is_unread(error, path):
            self._unread.add(path)

    def is_unread(self, path: Path) -> bool:
        """Say whether the system could not read a store that was asked for."""
        return path in self._unread


def _opened(path: Path) -> KnownStore:
    with FeatureStore(path) as store:
        return KnownStore(store.content_id)


def stores_in(workspace: Workspace) -> list[Path]:
    """Return the feature stores in a workspace, in order."""
    return sorted(workspace.stores.glob("[!.]*.h5"))


def verify_store(path: Path, examination: Examination, stores: KnownStores) -> Iterator[Finding]:
    """Verify a feature store: its header, every text, score and frame; note in `stores` what runs are compared with."""
    subject = str(path)
    if holder := holder_of(store_lock(path)):
        yield Finding(subject, REMARK, f"{holder} is writing it again", "wait for it; until then the old one counts")
    store, error = attempt(FeatureStore, path)
    stores.note(path, KnownStore(store.content_id) if store is not None else None, error)
    if store is None:
        assert error is not None
        examination.advance(size_on_disk(path), path.name)
        make = f"make it again: {examination.command(f'prepare --dataset {quoted(path.stem)}')}"
        advice = f"install a newer conki, or {make}" if is_newer(error) else make
        yield fault(subject, error, path, advice)
        return
    with store:
        yield from _content(store, examination, stores)


def _content(store: FeatureStore, examination: Examination, stores: KnownStores) -> Iterator[Finding]:
    subject, advice = str(store.path), f"make it again: {_preparation(store, examination)}"
    read = 0

    def advance(count: int, remark: str) -> None:
        nonlocal read
        read += count
        examination.advance(count, remark)

    found, error = attempt(content_of, store, advance)
    if found is None:
        assert error is not None
        yield fault(subject, error, store.path, advice)
        return
    digest, bad = found
    examination.advance(max(0, size_on_disk(store.path) - read), store.path.name)
    if digest != store.content_id:
        what = (
            f"its clips are not those that were written: their SHA-256 is {digest[:12]}..., it says "
            f"{one_line(store.content_id[:12])}...; texts, scores or frames were changed or damaged"
        )
        yield Finding(subject, FAULT, what, f"{advice}; what was trained on it since is doubtful")
    if bad:
        yield Finding(subject, FAULT, f"{counted(bad, 'value')} of its frames are not finite", advice)
    if digest == store.content_id and not bad:
        stores.note(store.path, KnownStore(digest, {split: store.split(split).ids for split in store.splits}))
        yield Finding(subject, OK, _summary(store))


def _preparation(store: FeatureStore, examination: Examination) -> str:
    """Return the command that makes a store again, as far as it tells."""
    words = ["prepare", "--dataset", quoted(store.dataset), *(["--unlabelled"] if store.is_unlabelled else [])]
    if store.path != examination.workspace.store(store.dataset):
        words += ["--out", quoted(store.path)]
    if store.normalization["method"] != "none":
        words += ["--normalize", store.normalization["method"]]
    source = one_line(str(store.source.get("name", "")))
    return examination.command(" ".join(words)) + (f" (it came from {source})" if source else "")


def _summary(store: FeatureStore) -> str:
    counts = {split: len(store.split(split)) for split in store.splits}
    parts = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    parts = "to be scored" if store.is_unlabelled else parts
    widths = "".join(f", {modality} {width}" for modality, width in store.widths.items())
    return (
        f"{counted(sum(counts.values()), 'clip')} ({parts}), text{widths}; schema {store.schema_version}, "
        f"conki {store.conki_version}; content as written"
    )
