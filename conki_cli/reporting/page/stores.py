"""What a report takes from feature stores: texts, sizes, the mean score, and what the splits share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import SPLITS, counted, video_of
from conki_cli.system.errors import ConkiError, StoreError
from conki_cli.system.workspace import Workspace

LEAST_WORDS = 4
"""Texts with fewer words occur twice by chance ("I liked it")."""


@dataclass(frozen=True)
class StoreFacts:
    """What a report says of a store, read while it was open."""

    dataset: str
    content: str
    """Content id of its clips."""
    sizes: Mapping[str, int]
    """Clips by split."""
    videos: Mapping[str, frozenset[str]]
    texts: Mapping[str, Mapping[str, str]]
    """Split -> id -> text."""
    mean_score: float
    """Of the training split, as is `median_score`."""
    median_score: float
    source: str
    normalization: str
    modalities: Sequence[str]
    notes: Sequence[str]
    """Warnings from when it was made."""


def read_store(workspace: Workspace, dataset: str, content_id: str) -> StoreFacts:
    """Read the store of a data set, if it is the one that a run saw.

    Raises:
        ConkiError: there is none, it is damaged, or another version.
    """
    with FeatureStore(workspace.store(dataset)) as store:
        if store.content_id != content_id or store.is_unlabelled:
            raise StoreError(f"{store.path.name} differs from the version that the run was trained on")
        splits = {name: store.split(name) for name in SPLITS}
        scores = np.asarray(splits["train"].scores, dtype=np.float64)
        return StoreFacts(
            dataset=dataset,
            content=store.content_id,
            sizes={name: len(part) for name, part in splits.items()},
            videos={name: frozenset(map(video_of, part.ids)) for name, part in splits.items()},
            texts={name: dict(zip(part.ids, part.texts, strict=True)) for name, part in splits.items()},
            mean_score=float(scores.mean()),
            median_score=float(np.median(scores)),
            source=f"{store.source.get('name', '')} ({store.source.get('format', '')})",
            normalization=str(store.normalization["method"]),
            modalities=store.modalities,
            notes=store.notes,
        )


def read_stores(
    workspace: Workspace, contents: Sequence[tuple[str, str]]
) -> tuple[dict[str, StoreFacts], dict[str, str]]:
    """Read what can be read of the stores that runs saw, given by data set and content id; and why the rest cannot."""
    found, problems = {}, {}
    for dataset, content_id in contents:
        try:
            found[dataset] = read_store(workspace, dataset, content_id)
        except ConkiError as error:
            problems[dataset] = str(error).replace(f"{workspace.root}/", "")  # a report is passed on
    return found, problems


def leaks(target: StoreFacts, external: Sequence[StoreFacts], split: str) -> list[str]:
    """Say which videos and texts the evaluated clips share with clips used in training."""
    lines = []
    for one, other in combinations(SPLITS, 2):
        if shared := target.videos[one] & target.videos[other]:
            lines.append(
                f"{one} and {other} of {target.dataset} share {counted(len(shared), 'video')}: their clips are not "
                "independent"
            )
    for one in SPLITS[: SPLITS.index(split)]:
        lines += _same_texts(target, split, target, (one,), f"the {one} split")
    for store in external:
        name = f"{store.dataset}, on which stage 1 is trained"
        if shared := target.videos[split] & frozenset().union(*store.videos.values()):
            lines.append(f"{counted(len(shared), 'video')} of the {split} split occur in {name}")
        lines += _same_texts(target, split, store, SPLITS, name)
    return lines


def _same_texts(target: StoreFacts, split: str, other: StoreFacts, splits: Sequence[str], where: str) -> list[str]:
    known = {_plain(text) for name in splits for text in other.texts[name].values()}
    long = [plain for text in target.texts[split].values() if len((plain := _plain(text)).split()) >= LEAST_WORDS]
    shared = sum(text in known for text in long)
    if not shared:
        return []
    clips = counted(shared, "clip")
    return [f"{clips} of the {split} split {'has' if shared == 1 else 'have'} a text that occurs in {where}"]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
