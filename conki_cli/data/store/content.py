"""The content id of a store, computed again from the file: the SHA-256 over every column and frame."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.store.describing import blocks_of
from conki_cli.data.store.reading import FeatureStore

_Column = list[str] | npt.NDArray[Any]


def content_of(store: FeatureStore, advance: Callable[[int, str], None]) -> tuple[str, int]:
    """Return the SHA-256 of all columns and frames, in the order of writing, and the number of bad values.

    Args:
        store: an open store; its `content_id` is the digest from when it was written.
        advance: is called with the number of bytes read and a label.

    Raises:
        StoreError: the file was changed while it was read.
    """
    digest, bad = hashlib.sha256(), 0
    for split in store.splits:
        part = store.split(split)
        columns: dict[str, _Column] = {"ids": part.ids, "texts": part.texts}
        columns |= {"scores": part.scores} if part.scores is not None else {}
        columns |= {f"scores_{name}": part.unimodal[name] for name in sorted(part.unimodal)}
        columns |= {"order": part.order} if part.order is not None else {}
        for name, column in columns.items():
            _feed(digest, f"/{split}/{name}", column)
        for modality, ragged in part.frames.items():
            _feed(digest, f"/{split}/{modality}/offsets", ragged.offsets)
            _announce(digest, f"/{split}/{modality}/frames", (int(ragged.offsets[-1]), ragged.width))
            for block in blocks_of(ragged):
                digest.update(np.ascontiguousarray(block).data)
                bad += block.size - int(np.count_nonzero(np.isfinite(block)))
                advance(block.nbytes, f"{store.path.name}: {split}")
    return digest.hexdigest(), bad


def _announce(digest: "hashlib._Hash", name: str, shape: tuple[int, ...]) -> None:
    digest.update(f"{name} {shape}\n".encode())


def _feed(digest: "hashlib._Hash", name: str, column: _Column) -> None:
    """Add one column, [N], as `writing` does."""
    _announce(digest, name, (len(column),))
    if not isinstance(column, list):
        digest.update(column.tobytes())
        return
    for text in column:
        digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
