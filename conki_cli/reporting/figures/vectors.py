"""The vectors O_m and A_m of clips: their labels, which pairs of them are of which kind, and their mean cosines.

Axes: B clips, K kinds of knowledge, M modalities, D width, N = B K M vectors, clip by clip as in the loss.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conki_cli.reporting.figures.canvas import LETTERS, signed
from conki_cli.reporting.figures.stored import Floats
from conki_cli.runs import Run
from conki_cli.system.errors import RunError, SettingsError

Masks = dict[str, npt.NDArray[np.bool_]]
_WANTED = (-2, 1)
"""The intervals of Figure 5's clips, where both have some."""
MEASURES = {
    "within_sample": "within a sample",
    "within_interval": "within an interval",
    "between_intervals": "between intervals",
    "between_knowledge": "between knowledge types",
}
"""The kinds of pairs whose mean cosine is shown: P1, P2, the pairs of N2 across intervals, N1."""


@dataclass(frozen=True, eq=False)
class Labels:
    """What each of the N vectors is of."""

    ids: list[str]
    """Clips, [B]."""
    intervals: npt.NDArray[np.int64]
    """Of the clips, [B]."""
    kinds: tuple[str, ...]
    """O, A, or one of them, [K]."""
    modalities: tuple[str, ...]
    """[M]."""

    @classmethod
    def of_run(cls, run: Run, seed: int, ids: list[str], intervals: npt.NDArray[np.int64]) -> "Labels":
        """Return the labels of clips' vectors as the network of a run has them, by its checkpoint's header."""
        from conki_cli.training.inference import modalities_of

        modalities = modalities_of(run, seed)
        config = run.config
        present = (("O", not config.dropped("C3")), ("A", config.has_adapters))
        return cls(ids, intervals, tuple(name for name, is_used in present if is_used), modalities)

    @property
    def per_clip(self) -> int:
        """Vectors of one clip, K M."""
        return len(self.kinds) * len(self.modalities)

    @property
    def names(self) -> list[str]:
        """The names of all vectors, such as Oₜ, [N]."""
        return [f"{kind}{LETTERS[name]}" for kind in self.kinds for name in self.modalities] * len(self.ids)

    def per_vector(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return clip, interval and kind of every vector, each [N]."""
        clips = np.arange(len(self.ids))
        kinds = np.repeat(np.arange(len(self.kinds)), len(self.modalities))
        return (
            np.repeat(clips, self.per_clip),
            np.repeat(self.intervals, self.per_clip),
            np.tile(kinds, len(self.ids)),
        )


def masks_of(labels: Labels, *, inter_knowledge: bool = True) -> Masks:
    """Return kinds of pairs as masks [N, N], made by the functions that the loss is made of."""
    import torch

    from conki_cli.model.losses import equal_pairs, ignored_pairs, positive_pairs

    clips, intervals, kinds = map(torch.as_tensor, labels.per_vector())
    found = {
        "positive": positive_pairs(intervals, kinds),
        "same_clip": equal_pairs(clips),
        "same_interval": equal_pairs(intervals),
        "between_knowledge": ~equal_pairs(kinds),
        "ignored": ignored_pairs(kinds, inter_knowledge=inter_knowledge),
    }
    return {name: mask.numpy() for name, mask in found.items()}


def mean_cosines(vectors: Floats, labels: Labels) -> dict[str, float]:
    """Return the mean cosine of every kind of pair in `MEASURES`; nan where there is no such pair.

    Args:
        vectors: [N, D]; the cosine with a vector of zeros counts as 0, as in the loss.
        labels: what they are of.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    cosines = unit @ unit.T  # [N, N]
    masks = masks_of(labels)
    same_kind = ~masks["between_knowledge"]
    pairs = {
        "within_sample": masks["positive"] & masks["same_clip"],
        "within_interval": masks["positive"] & ~masks["same_clip"],
        "between_intervals": same_kind & ~masks["same_interval"],
        "between_knowledge": masks["between_knowledge"],
    }
    return {name: float(cosines[mask].mean()) if mask.any() else float("nan") for name, mask in pairs.items()}


def rounded_scores(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the sentiment interval r(y) of scores, as the loss rounds them, [B]."""
    import torch

    from conki_cli.model.losses import sentiment_intervals

    rounded: npt.NDArray[np.int64] = sentiment_intervals(torch.as_tensor(np.asarray(scores))).numpy().astype(np.int64)
    return rounded


def chosen_intervals(
    rounded: npt.NDArray[np.int64], wanted: tuple[int, int] | None, where: str, *, num_clips: int = 0
) -> tuple[int, int]:
    """Return the two intervals that are drawn.

    Args:
        rounded: interval of every clip, [B].
        wanted: those asked for; None: -2 and 1 where both have clips, else the lowest and the highest that have.
        where: names the clips, for a message.
        num_clips: so many are needed from both together; where -2 and 1 have fewer, the two fullest are taken.

    Raises:
        SettingsError: twice the same.
        RunError: one has no clips, or all clips are of one interval.
    """
    counts = Counter(rounded.tolist())
    shown = ", ".join(f"{interval} ({counts[interval]})" for interval in sorted(counts)[:20])
    if wanted is not None and wanted[0] == wanted[1]:
        raise SettingsError(f"the two intervals must differ, found {wanted[0]} twice", advice=f"choose two of {shown}")
    if wanted is None and len(counts) < 2:
        raise RunError(f"clips of two intervals are needed, but all of {where} are in interval {shown}")
    outermost = _WANTED if all(counts[one] for one in _WANTED) else (min(counts), max(counts))
    chosen = wanted or outermost
    if wanted is None and sum(counts[one] for one in chosen) < num_clips:
        fullest = sorted(counts, key=lambda interval: (-counts[interval], interval))
        chosen = (fullest[0], fullest[1])
    if empty := [interval for interval in chosen if not counts[interval]]:
        raise RunError(f"interval {empty[0]} has no clips in {where}", advice=f"choose two of {shown} with --intervals")
    return chosen


def interval_words(intervals: Sequence[int]) -> str:
    """Render intervals for a caption."""
    return " and ".join(signed(interval) for interval in intervals)
