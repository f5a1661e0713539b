"""From stored utterances to batches of tensors: ragged reading, padding to the batch, masks, shuffling.

Axis letters: B batch, L longest sequence of the batch, d feature width.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conki_cli import MODALITIES
from conki_cli.data.store.records import Ragged, Utterances
from conki_cli.model.packing import moved
from conki_cli.system.errors import StoreError

if TYPE_CHECKING:
    from conki_cli.model.absence import Absence, Flags

_POOL = 50  # most batches of shuffled clips that are sorted by length together
_POOLS = 4  # fewest pools of an epoch: with one pool, the same clips would share a batch in every epoch


@dataclass(frozen=True)
class Padded:
    """Sequences of one modality, padded at the end to the longest of the batch."""

    values: Tensor
    """Token ids [B, L] int64, or frames [B, L, d] float32; 0 on padding."""
    mask: Tensor
    """[B, L] bool, True on real positions; every row has at least one."""
    lengths: tuple[int, ...] | None = None
    """Real positions of every row, if the host knows them: reading them from a GPU would wait for it."""

    def to(self, device: torch.device) -> "Padded":
        """Copy to a device; the host does not wait for it."""
        return Padded(moved(self.values, device), moved(self.mask, device), self.lengths)

    def with_leading_position(self) -> "Padded":
        """Return the sequences with one more real position in front, of zeros."""
        pad = (1, 0) if self.values.dim() == 2 else (0, 0, 1, 0)
        lengths = None if self.lengths is None else tuple(length + 1 for length in self.lengths)
        return Padded(F.pad(self.values, pad), F.pad(self.mask, (1, 0), value=True), lengths)

    def take(self, indices: Tensor) -> "Padded":
        """Return some of the sequences [G], padded only to their longest."""
        mask = self.mask[indices]
        longest = int(mask.sum(dim=1).max())
        return Padded(self.values[indices, :longest], mask[:, :longest])


@dataclass(frozen=True)
class Batch:
    """The inputs of a model for B utterances; a modality that the run leaves out is None."""

    indices: Tensor
    """Positions in the split, [B] int64."""
    scores: Tensor
    """[B] float32; nan if the score is unknown (prediction)."""
    text: Padded | None = None
    vision: Padded | None = None
    audio: Padded | None = None
    states: Mapping[str, Tensor] = field(default_factory=dict)
    """Cached states of a frozen text encoder, by name (training/cached_states.py): [B, L, D], and `first` [B, D]."""
    absent: Mapping[str, Tensor] = field(default_factory=dict)
    """Which clips lack a modality, [B] bool, by modality that any of them lacks; their sequences have no content."""
    source: str = ""
    """The set that the utterances are of, if a stage learns from several."""

    def __len__(self) -> int:
        return len(self.indices)

    def modality(self, name: str) -> Padded:
        """Return the sequences of a modality that this batch has."""
        found: Padded | None = {"text": self.text, "vision": self.vision, "audio": self.audio}[name]
        if found is None:
            raise KeyError(name)
        return found

    def present(self, name: str) -> Tensor | None:
        """Return which clips have a modality, [B]; None: all."""
        return ~self.absent[name] if name in self.absent else None

    def presence(self, names: Sequence[str]) -> Tensor | None:
        """Return which clips have which of some modalities, [B, M]; None: all have all."""
        if not any(name in self.absent for name in names):
            return None
        have = torch.ones_like(self.indices, dtype=torch.bool)
        return torch.stack([~self.absent[name] if name in self.absent else have for name in names], dim=1)

    def masked(self, name: str, values: Tensor) -> Tensor:
        """Return what a model made of a modality, [B, ...], with 0 for the clips that lack it: no sum counts them."""
        if name not in self.absent:
            return values
        return values.masked_fill(self.absent[name].view(-1, *[1] * (values.dim() - 1)), 0)

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device; the host does not wait for it."""
        parts = {name: part.to(device) for name in MODALITIES if (part := getattr(self, name)) is not None}
        states, absent = ({k: moved(v, device) for k, v in part.items()} for part in (self.states, self.absent))
        indices, scores = moved(self.indices, device), moved(self.scores, device)
        return replace(self, indices=indices, scores=scores, states=states, absent=absent, **parts)


def pad_tokens(token_ids: Sequence[np.ndarray]) -> Padded:
    """Pad token id sequences to the longest."""
    lengths = [len(ids) for ids in token_ids]
    width = max(lengths)
    values = np.zeros((len(token_ids), width), dtype=np.int64)
    for row, ids in zip(values, token_ids, strict=True):
        row[: len(ids)] = ids
    return Padded(torch.from_numpy(values), _prefix_mask(lengths, width), tuple(lengths))


def pad_frames(sequences: Sequence[np.ndarray]) -> Padded:
    """Pad frame sequences [L_i, d] to the longest; an empty one counts as one zero frame."""
    lengths = [max(1, len(frames)) for frames in sequences]
    values = np.zeros((len(sequences), max(lengths), sequences[0].shape[1]), dtype=np.float32)
    for row, frames in zip(values, sequences, strict=True):
        row[: len(frames)] = frames
    return Padded(torch.from_numpy(values), _prefix_mask(lengths, max(lengths)), tuple(lengths))


def _prefix_mask(lengths: Sequence[int], width: int) -> Tensor:
    return torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]


def _rows(
    sequences: Ragged, indices: np.ndarray, lacks: "Flags | None" = None, limit: int | None = None
) -> list[np.ndarray]:
    """Read some sequences up to a limit, [L, d] each; nothing of those that are lacking, [B]."""
    if lacks is None:
        return [sequences[int(i)][:limit] for i in indices]
    nothing = np.zeros((0, sequences.width), dtype=np.float32)
    return [nothing if gone else sequences[int(i)][:limit] for i, gone in zip(indices, lacks, strict=True)]


@dataclass(frozen=True)
class Batches:
    """The batches of one split, in order or shuffled as a function of only (seed, epoch).

    `token_ids` is None if the run has no text. `limits` maps each audio/vision modality of the run to its longest
    sequence in frames; longer ones are truncated.
    """

    utterances: Utterances
    token_ids: Sequence[np.ndarray] | None
    limits: Mapping[str, int]
    batch_size: int
    seed: int | None = None
    states: Mapping[str, Ragged] = field(default_factory=dict)
    """Cached states of a frozen text encoder, by name; batches hold them in addition to the token ids."""
    bucket: bool = False
    """Whether clips of similar length share a batch."""
    score_range: tuple[float, float] = (-3.0, 3.0)
    """Range of the scores in the batches."""
    rescale: tuple[float, float] = (1.0, 0.0)
    """Scores in the batches are factor * score + shift, for a score head that moves between ranges of data sets."""
    threshold: float | None = None
    """The score that separates two classes; None: 0, if that is inside the range."""
    absence: "Absence | None" = None
    """Which clips lack which modality."""

    def __len__(self) -> int:
        return -(-len(self.utterances.ids) // self.batch_size)

    @property
    def sets(self) -> Mapping[str, slice]:
        """The places of every set's clips, if there are several sets (`model/mixing.py`)."""
        return {}

    def epoch(self, number: int = 0, share: float = 1.0) -> Iterator[Batch]:
        """Yield the batches of epoch `number`, or the first share of them: shuffled if a seed was given."""
        absent = self.absent(number)
        for indices in self.order(number, share):
            yield self.take(indices, absent)

    def order(self, number: int = 0, share: float = 1.0) -> Iterator[np.ndarray]:
        """Yield the indices [B] of the clips in every batch that `epoch` yields."""
        order = np.arange(len(self.utterances.ids))
        if self.seed is not None:
            generator = np.random.default_rng([self.seed, number])
            order = generator.permutation(order)
            if self.bucket:
                order = self._bucketed(order, generator)
        for start in range(0, math.ceil(len(self) * share) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]

    def _bucketed(self, order: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Sort shuffled clips by length within pools of several batches, then shuffle the full batches."""
        pool = self.batch_size * max(1, min(_POOL, len(order) // self.batch_size // _POOLS))
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        found = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in pools])
        full = len(found) // self.batch_size * self.batch_size  # the short batch stays the last
        batches = generator.permutation(found[:full].reshape(-1, self.batch_size))
        return np.concatenate([batches.reshape(-1), found[full:]])

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Count the tokens and frames of every clip of the split together, [N]."""
        lengths = np.zeros(len(self.utterances.ids), dtype=np.int64)
        if self.token_ids is not None:
            lengths += [len(ids) for ids in self.token_ids]
        for name, limit in self.limits.items():
            lengths += np.minimum(self.utterances.frames[name].lengths, limit)
        return lengths

    def absent(self, number: int = 0) -> "Mapping[str, Flags]":
        """Return which clips of the split lack which modality in an epoch, [N] by modality that any of them lacks."""
        if not self.absence:
            return {}
        empty = {name: self.utterances.frames[name].lengths == 0 for name in self.limits}
        if self.token_ids is not None:
            empty["text"] = np.array([not text.strip() for text in self.utterances.texts])
        return self.absence.absent(empty, self.seed, number)

    def take(self, indices: np.ndarray, absent: "Mapping[str, Flags] | None" = None) -> Batch:
        """Collate the utterances at `indices` [B]; of a modality that a clip lacks, [N] by name, nothing is read.

        Raises:
            StoreError: a file was changed after it was opened, or holds frames that are not finite.
        """
        absent = self.absent() if absent is None else absent
        lacks = {name: flags[indices] for name, flags in absent.items() if flags[indices].any()}
        parts: dict[str, Padded] = {}
        silent = lacks.get("text", np.zeros(len(indices), dtype=bool))
        if self.token_ids is not None:  # no clip can have no token
            parts["text"] = pad_tokens(
                [self.token_ids[i][: 1 if s else None] for i, s in zip(indices, silent, strict=True)]
            )
        for name, limit in self.limits.items():
            parts[name] = pad_frames(_rows(self.utterances.frames[name], indices, lacks.get(name), limit))
        states = {
            name: pad_frames(_rows(rows, indices, lacks.get("text"))).values for name, rows in self.states.items()
        }
        if states:
            states["first"] = states["first"].squeeze(1)  # [B, D]
        for rows in (*(self.utterances.frames[name] for name in self.limits), *self.states.values()):
            rows.check_unchanged()  # states were checked completely when they were opened
        for name in self.limits:
            self._check_finite(name, parts[name].values.numpy(), indices)
        flags = {name: torch.from_numpy(rows) for name, rows in lacks.items()}
        scores = torch.from_numpy(self.scores(indices))
        text, vision, audio = (parts.get(name) for name in MODALITIES)
        return Batch(torch.from_numpy(indices), scores, text, vision, audio, states=states, absent=flags)

    def labels(self, indices: np.ndarray, absent: "Mapping[str, Flags]") -> Batch:
        """Return a batch without inputs, all that a loss reads of it; `absent`: which clips lack a modality, [N]."""
        lacks = {name: torch.from_numpy(flags[indices]) for name, flags in absent.items() if flags[indices].any()}
        return Batch(torch.from_numpy(indices), torch.from_numpy(self.scores(indices)), absent=lacks)

    def _check_finite(self, modality: str, values: np.ndarray, indices: np.ndarray) -> None:
        """Refuse frames [B, L, d] with a NaN or an infinity: one would turn every weight into NaN."""
        if np.isfinite(values).all():
            return
        clip, frame, column = np.argwhere(~np.isfinite(values))[0]
        utterances = self.utterances
        path = utterances.path or "the store"
        raise StoreError(
            f"{path} must hold only finite numbers, found {values[clip, frame, column]} in {modality} of the clip "
            f"{utterances.ids[int(indices[clip])][:80]!r}, split {utterances.split or 'unknown'} (frame {frame + 1}, "
            f"feature {column + 1})",
            advice=f"`conki doctor {path}` says more; make it again with `conki prepare`",
        )

    def scores(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the scores of the split, or of some of its clips, as in the batches, float32; nan if unknown."""
        if self.utterances.scores is None:
            return np.full(len(self.utterances.ids), np.nan, dtype=np.float32)[indices]
        known: np.ndarray = self.utterances.scores[indices]
        if self.rescale == (1.0, 0.0):
            return known
        return (known * self.rescale[0] + self.rescale[1]).astype(np.float32)
