"""Batches of several external data sets: each batch comes from one of them.

An epoch has as many batches as the sets have together. Each set gets a share in proportion to its number of batches
times its weight, at least one batch, and the order of the sets is drawn: with equal weights an epoch visits every clip
once. A set with a larger share is shuffled and read again; one with a smaller share is read in part, and differently in
every epoch. Everything is a function of (seed, epoch).

Axes: N clips of all sets, one set after the other; B batch.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from conki_cli.data.store.records import Utterances
from conki_cli.model.absence import Flags
from conki_cli.model.batches import Batch, Batches

_ORDER = 19
"""Separates the random stream of the order of the sets from those that shuffle their clips."""
_AGAIN = 2**64
"""Added to the epoch each time that a set is shuffled again within it: NumPy seeds by words of 32 bits, and no other
stream has four of them."""


@dataclass(frozen=True)
class MixedBatches(Batches):
    """The batches of one split of several sets; `Batch.source` names the set of a batch."""

    parts: Mapping[str, Batches] = field(default_factory=dict)
    """The batches of every set, by its name."""
    weights: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Mapping[str, Batches], weights: Mapping[str, float]) -> "MixedBatches":
        """Mix the batches of several sets, which share batch size, seed, and the range of their scores."""
        first = next(iter(parts.values()))
        return cls(
            _together(parts),
            None,
            {},
            first.batch_size,
            seed=first.seed,
            score_range=first.score_range,
            threshold=first.threshold,
            parts=parts,
            weights=weights,
        )

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts())

    @property
    def sets(self) -> Mapping[str, slice]:
        """The places of every set's clips among all."""
        ends = itertools.accumulate(len(part.utterances) for part in self.parts.values())
        sizes = [len(part.utterances) for part in self.parts.values()]
        return {name: slice(end - size, end) for name, end, size in zip(self.parts, ends, sizes, strict=True)}

    def shares(self) -> dict[str, int]:
        """Return how many batches of an epoch are of each set; they sum up to all batches."""
        total, sizes = len(self), [len(part) for part in self._parts()]
        wanted = np.array([size * self.weights.get(name, 1.0) for name, size in zip(self.parts, sizes, strict=True)])
        exact = np.maximum(1.0, total * wanted / wanted.sum())
        counts = np.floor(exact).astype(int)
        while counts.sum() != total:  # by the largest remainders, or back from the largest shares
            place = int((exact - counts).argmax()) if counts.sum() < total else int(counts.argmax())
            counts[place] += 1 if counts.sum() < total else -1
        return dict(zip(self.parts, counts.tolist(), strict=True))

    def order(self, number: int = 0, share: float = 1.0) -> Iterator[np.ndarray]:
        """Yield the indices [B] of the clips in every batch of an epoch: mixed if a seed was given."""
        starts, parts = [rows.start for rows in self.sets.values()], self._parts()
        counts = [len(part) for part in parts] if self.seed is None else list(self.shares().values())
        order = np.repeat(np.arange(len(parts)), counts)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, number, _ORDER]).permutation(order)
        streams = [_endless(part, number) for part in parts]
        for index in order[: math.ceil(len(order) * share)].tolist():
            yield next(streams[index]) + starts[index]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Count the tokens and frames of every clip of all sets together, [N]."""
        return np.concatenate([part.lengths for part in self.parts.values()])

    def absent(self, number: int = 0) -> Mapping[str, Flags]:
        """Return which clips of all sets lack which modality in an epoch, [N] by modality that any of them lacks."""
        found = {name: part.absent(number) for name, part in self.parts.items()}
        none = {name: np.zeros(len(part.utterances), dtype=bool) for name, part in self.parts.items()}
        names = dict.fromkeys(name for flags in found.values() for name in flags)
        return {name: np.concatenate([found[part].get(name, none[part]) for part in self.parts]) for name in names}

    def take(self, indices: np.ndarray, absent: Mapping[str, Flags] | None = None) -> Batch:
        """Collate clips [B] of one set; see `Batches.take`."""
        name, rows = next((name, rows) for name, rows in self.sets.items() if indices[0] < rows.stop)
        lacks = None if absent is None else {modality: flags[rows] for modality, flags in absent.items()}
        batch = self.parts[name].take(indices - rows.start, lacks)
        return replace(batch, indices=torch.from_numpy(indices), source=name)

    def scores(self, indices: "np.ndarray | slice" = slice(None)) -> np.ndarray:
        """Return the scores of all sets, or of some of their clips, in one range."""
        scores: np.ndarray = np.concatenate([part.scores() for part in self.parts.values()])[indices]
        return scores

    def _parts(self) -> list[Batches]:
        return [replace(part, batch_size=self.batch_size) for part in self.parts.values()]


def _endless(part: Batches, number: int) -> Iterator[np.ndarray]:
    """Yield the indices [B] of every batch of an epoch, and then of the same epoch shuffled again."""
    for again in itertools.count():
        yield from part.order(number + again * _AGAIN)


def _together(parts: Mapping[str, Batches]) -> Utterances:
    """Return the clips of all sets, named after their sets, without frames."""
    first = next(iter(parts.values())).utterances
    ids = [f"{name}/{clip}" for name, part in parts.items() for clip in part.utterances.ids]
    texts = [text for part in parts.values() for text in part.utterances.texts]
    return Utterances(ids, texts, None, {}, {}, split=first.split)
