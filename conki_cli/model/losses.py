"""The losses: the task's squared error (Eq. 4) and the hierarchical contrastive loss of Section 3.4.

Axis letters: B samples, K kinds of knowledge (1 or 2), M modalities, D width, N = B K M vectors of a batch.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Reduction = Literal["sample-sum", "anchor-mean"]


def task_loss(predictions: Tensor, scores: Tensor) -> Tensor:
    """Return the mean squared error of the scores (Eq. 4), in float32 or better.

    Args:
        predictions: y-hat, [B].
        scores: y, [B].
    """
    return F.mse_loss(*_paired(predictions, scores))


def absolute_loss(predictions: Tensor, scores: Tensor) -> Tensor:
    """Return the mean absolute error of the scores, the task loss of most baselines, in float32 or better.

    Args:
        predictions: y-hat, [B].
        scores: y, [B].
    """
    return F.l1_loss(*_paired(predictions, scores))


def _paired(predictions: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    if predictions.shape != scores.shape:  # [B, 1] against [B] would broadcast to B x B differences
        raise ValueError(f"predictions {list(predictions.shape)} and scores {list(scores.shape)} must have one shape")
    return full_precision(predictions), full_precision(scores)


def hierarchical_contrastive_loss(
    pan: Tensor,
    specific: Tensor | None,
    scores: Tensor,
    *,
    temperature: float = 0.07,
    inter_knowledge: bool = True,
    reduction: Reduction = "sample-sum",
    present: Tensor | None = None,
) -> Tensor:
    """Return L_con of Section 3.4: attract equal knowledge of equal sentiment, repel all other pairs.

    An *anchor* p is any of the N vectors, its pairs (p, q) run over all other vectors q. Written out,
    L_con = sum_i [ log sum_{pairs of i} f - mean_{positive pairs of i} log f ], f(p, q) = exp(cos(p, q) / temperature),
    where the pairs of sample i are those of all its anchors: one denominator per sample.

    Similarities and logarithms are computed in float32 even under autocast (float64 stays float64). Rows without a
    positive pair contribute 0 with gradient 0. The cosine with a vector of zeros is 0 and passes no gradient.

    Args:
        pan: O_m, [B, M, D].
        specific: A_m, [B, M, D]; None contrasts only the pan-knowledge.
        scores: y as stored, [B].
        temperature: the paper's tau.
        inter_knowledge: False is the ablation "w/o N1" (Table 5).
        reduction: "sample-sum" as printed in the paper; "anchor-mean" as in the authors' released code, with one
            denominator per anchor and the mean over the anchors that have a positive pair.
        present: which modalities a sample has, [B, M]; a vector of another is in no pair, positive or negative. None:
            all.
    """
    _check_shapes(pan, specific, scores)
    if reduction not in ("sample-sum", "anchor-mean"):
        raise ValueError(f"reduction must be 'sample-sum' or 'anchor-mean', not {reduction!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    parts = [pan] if specific is None else [pan, specific]
    stacked = torch.stack([full_precision(part) for part in parts], dim=1)  # [B, K, M, D]
    num_samples, num_kinds, num_modalities, width = stacked.shape
    per_sample = num_kinds * num_modalities
    kinds = torch.arange(num_kinds, device=pan.device).repeat_interleave(num_modalities).repeat(num_samples)  # [N]
    intervals = sentiment_intervals(scores).repeat_interleave(per_sample)  # [N]
    positives = positive_pairs(intervals, kinds)  # [N, N]
    ignored = ignored_pairs(kinds, inter_knowledge=inter_knowledge)  # [N, N]
    if present is not None:
        lacking = lacking_pairs(present.unsqueeze(1).expand(-1, num_kinds, -1).flatten())
        positives, ignored = positives & ~lacking, ignored | lacking
    num_rows = num_samples if reduction == "sample-sum" else len(kinds)  # one denominator per row
    num_positives = positives.reshape(num_rows, -1).count_nonzero(dim=1)  # [num_rows]
    with torch.autocast(pan.device.type, enabled=False):
        vectors = unit_vectors(stacked.reshape(-1, width))  # [N, D]
        similarities = vectors @ (vectors / temperature).T  # [N, N], log f
        # torch.where saves only its mask for backward, which permits the overwriting below.
        attraction = torch.where(positives, similarities, 0).sum(dim=1).reshape(num_rows, -1).sum(dim=1)
        # A finite filling instead of -inf: a row without any pair then has a zero gradient, not nan.
        similarities.masked_fill_(ignored, torch.finfo(similarities.dtype).min)
        repulsion = _log_sum_exp_(similarities, num_rows)
        terms = (repulsion - attraction / num_positives.clamp_min(1)).where(num_positives > 0, 0)
        return terms.sum() if reduction == "sample-sum" else terms.sum() / (num_positives > 0).sum().clamp_min(1)


def sentiment_intervals(scores: Tensor) -> Tensor:
    """Return r(y) of Section 3.4: scores rounded to the nearest integer, halves to the even one."""
    return full_precision(scores).round()


def equal_pairs(labels: Tensor) -> Tensor:
    """Return which ordered pairs of vectors share a label: sample, class, modality or kind of knowledge.

    All pair masks of ConKI and HyCon are combinations of these.

    Args:
        labels: one per vector, [N]; nan equals nothing.

    Returns:
        Mask [N, N]; row p, column q.
    """
    return labels[:, None] == labels[None, :]


def positive_pairs(intervals: Tensor, kinds: Tensor) -> Tensor:
    """Return which ordered pairs of vectors attract each other: P1 and P2 of Section 3.4.

    P1 joins two modalities of one sample, P2 any modalities of two samples of one sentiment interval, both
    within one kind of knowledge. As a sample shares its interval with itself, their union is: same interval, same
    kind, not the same vector. Everything else is negative: N1 where the kinds differ, N2 the rest.

    Args:
        intervals: sentiment interval (or class) of each vector's sample, [N].
        kinds: the group of each vector within which pairs may attract (knowledge kind in ConKI), [N].

    Returns:
        Mask [N, N]; row p, column q; False on the diagonal.
    """
    pairs = equal_pairs(intervals)
    pairs &= equal_pairs(kinds)
    return pairs.fill_diagonal_(False)


def ignored_pairs(kinds: Tensor, *, inter_knowledge: bool = True) -> Tensor:
    """Return which ordered pairs are left out of the denominator: a vector with itself and, "w/o N1", those of N1.

    Args:
        kinds: knowledge kind of each vector, [N].
        inter_knowledge: False leaves out the pairs of different kinds, in both orders.

    Returns:
        Mask [N, N], symmetric, True on the diagonal.
    """
    if inter_knowledge:
        return torch.eye(len(kinds), dtype=torch.bool, device=kinds.device)
    return equal_pairs(kinds).logical_not_().fill_diagonal_(True)


def lacking_pairs(present: Tensor) -> Tensor:
    """Return which ordered pairs have a vector of a modality that its sample lacks; `present` [N], the mask [N, N]."""
    return ~(present[:, None] & present[None, :])


def full_precision(values: Tensor) -> Tensor:
    """Convert lower precisions to float32; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def unit_vectors(vectors: Tensor) -> Tensor:
    """Divide each row by its length; a zero row stays zero and passes no gradient (a small eps would pass 1/eps)."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    unit: Tensor = vectors / lengths.masked_fill(lengths == 0, float("inf"))
    return unit


def _log_sum_exp_(values: Tensor, num_rows: int) -> Tensor:
    """Return log sum exp over `num_rows` equal groups of consecutive rows of [N, N], overwriting the values.

    In place because this matrix is the largest of a training step: torch.logsumexp needs three more of its size.
    """
    peaks = values.detach().amax(dim=1).reshape(num_rows, -1).amax(dim=1)  # [num_rows]
    powers = values.sub_(peaks.repeat_interleave(len(values) // num_rows)[:, None]).exp_()
    return powers.sum(dim=1).reshape(num_rows, -1).sum(dim=1).log() + peaks


def _check_shapes(pan: Tensor, specific: Tensor | None, scores: Tensor) -> None:
    if pan.dim() != 3 or 0 in pan.shape:
        raise ValueError(f"pan must be [B, M, D] with at least one sample and modality, not {list(pan.shape)}")
    if specific is not None and specific.shape != pan.shape:
        raise ValueError(f"specific must have the shape of pan {list(pan.shape)}, not {list(specific.shape)}")
    if scores.shape != pan.shape[:1]:
        raise ValueError(f"scores must be [{pan.shape[0]}], one per sample, not {list(scores.shape)}")
