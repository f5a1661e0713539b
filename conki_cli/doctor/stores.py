"""Feature stores: whether they open, and whether every clip in them is the one that was written."""

from collections.abc import Iterator
from pathlib import Path

from conki_cli.data.store.content import content_of
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import counted
from conki_cli.data.store.writing import store_lock
from conki_cli.doctor.findings import Finding, KnownStore, Visit, fault, is_newer, is_unread, size_on_disk, tried
from conki_cli.system.errors import one_line, quoted
from conki_cli.system.locks import holder_of


def store_findings(path: Path, visit: Visit) -> Iterator[Finding]:
    """Examine a feature store: its header, every text, score and frame."""
    subject = str(path)
    if holder := holder_of(store_lock(path)):
        yield Finding(subject, "remark", f"{holder} is writing it again", "wait for it; until then the old one counts")
    store, error = tried(FeatureStore, path)
    visit.stores[path] = KnownStore(store.content_id) if store is not None else None
    if store is None:
        assert error is not None
        _note_unread(path, error, visit)
        visit.advance(size_on_disk(path), path.name)
        make = f"make it again: {visit.command(f'prepare --dataset {quoted(path.stem)}')}"
        advice = f"install a newer conki, or {make}" if is_newer(error) else make
        yield fault(subject, error, path, advice)
        return
    with store:
        yield from _content_findings(store, visit)


def known_store(path: Path, visit: Visit) -> KnownStore | None:
    """Return what a store says of itself, None where it is missing or cannot be opened."""
    if path not in visit.stores:
        visit.stores[path], error = tried(_open_known, path)
        _note_unread(path, error, visit)
    return visit.stores[path]


def _note_unread(path: Path, error: Exception | None, visit: Visit) -> None:
    if error is not None and is_unread(error, path):
        visit.unread.add(path)


def _open_known(path: Path) -> KnownStore:
    with FeatureStore(path) as store:
        return KnownStore(store.content_id)


def _content_findings(store: FeatureStore, visit: Visit) -> Iterator[Finding]:
    subject, advice = str(store.path), f"make it again: {_preparation(store, visit)}"
    read = 0

    def advance(count: int, remark: str) -> None:
        nonlocal read
        read += count
        visit.advance(count, remark)

    found, error = tried(content_of, store, advance)
    if found is None:
        assert error is not None
        yield fault(subject, error, store.path, advice)
        return
    digest, bad = found
    visit.advance(max(0, size_on_disk(store.path) - read), store.path.name)
    if digest != store.content_id:
        what = (
            f"its clips are not those that were written: their SHA-256 is {digest[:12]}..., it says "
            f"{one_line(store.content_id[:12])}...; texts, scores or frames were changed or damaged"
        )
        yield Finding(subject, "fault", what, f"{advice}; what was trained on it since is doubtful")
    if bad:
        yield Finding(subject, "fault", f"{counted(bad, 'value')} of its frames are no finite numbers", advice)
    if digest == store.content_id and not bad:
        visit.stores[store.path] = KnownStore(digest, {split: store.split(split).ids for split in store.splits})
        yield Finding(subject, "ok", _summary(store))


def _preparation(store: FeatureStore, visit: Visit) -> str:
    """Return the command that makes a store again, as far as it tells."""
    words = ["prepare", "--dataset", quoted(store.dataset), *(["--unlabelled"] if store.is_unlabelled else [])]
    if store.path != visit.workspace.store(store.dataset):
        words += ["--out", quoted(store.path)]
    if store.normalization["method"] != "none":
        words += ["--normalize", store.normalization["method"]]
    source = one_line(str(store.source.get("name", "")))
    return visit.command(" ".join(words)) + (f" (it came from {source})" if source else "")


def _summary(store: FeatureStore) -> str:
    counts = {split: len(store.split(split)) for split in store.splits}
    parts = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    parts = "to be scored" if store.is_unlabelled else parts
    widths = "".join(f", {modality} {width}" for modality, width in store.widths.items())
    return (
        f"{counted(sum(counts.values()), 'clip')} ({parts}), text{widths}; schema {store.schema_version}, "
        f"conki {store.conki_version}; content as written"
    )
