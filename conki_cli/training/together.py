"""The processes of one training: each computes its share of every batch, and all take the same step.

What a model returns for its share is gathered, so every rank computes the loss L of the whole batch. `gather` passes
back the sum of the gradients of all R ranks, and `average` divides the sum of the weights' gradients by R. So each
weight gets the gradient of (L + ... + L) / R = L, whether it lies before the gathered outputs or is read by the loss
itself (as in MMIM).

Axis letters: B clips of the whole batch, b of this rank's share.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from conki_cli.model.contract import Output
from conki_cli.training.lost import KilledRankError, LostRankError
from conki_cli.training.ranks import Ranks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

FAILED = "conki/failed"
"""Key under which a rank leaves the line that says why it ended."""
_BUCKET = 2**23  # numbers (32 MiB) of several small gradients that are summed over the ranks together


@dataclass(eq=False)
class SeveralRanks(Ranks):
    """Several processes, and how they share the batch in progress."""

    store: "Store | None" = None
    """Where ranks leave words for each other."""
    sizes: Sequence[int] = field(default=(), init=False)
    """Clips of the batch in progress, by rank."""

    def share(self, indices: np.ndarray) -> np.ndarray:
        """Return this rank's part [b] of a batch [B]; a rank without a clip computes the first one, without effect."""
        parts = np.array_split(indices, self.count)
        self.sizes = [len(part) for part in parts]
        return parts[self.rank] if len(parts[self.rank]) else indices[:1]

    def whole(self, output: Output) -> Output:
        """Return the output for the whole batch, in its order; parts are gathered when the loss reads them."""
        pan, specific = (None if part is None else self.gather(part) for part in (output.pan, output.specific))
        return replace(
            output,
            prediction=self.gather(output.prediction),
            pan=pan,
            specific=specific,
            parts=_Gathered(output.parts, self),
        )

    def gather(self, rows: Tensor) -> Tensor:
        """Gather the rows of all ranks, [b, ...] -> [B, ...]; the gradient is the sum of all ranks' gradients."""
        gathered: Tensor = _Gather.apply(rows, self, tuple(self.sizes))  # type: ignore[no-untyped-call]
        return gathered

    def own(self, rows: Tensor) -> Tensor:
        """Return this rank's rows of [B, ...]: [b, ...]."""
        start = sum(self.sizes[: self.rank])
        return rows[start : start + self.sizes[self.rank]] if self.sizes[self.rank] else rows[:1]

    def normalise_together(self, model: nn.Module) -> None:
        """Let every BatchNorm of a model use the statistics of the whole batch; SyncBatchNorm would refuse CPUs."""
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.register_forward_pre_hook(lambda norm, rows: (self.gather(rows[0]),) if norm.training else None)
                module.register_forward_hook(lambda norm, rows, out: self.own(out) if norm.training else None)

    def average(self, model: nn.Module) -> None:
        """Average the gradients over the ranks."""
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        bucket: list[Tensor] = []
        for parameter in model.parameters():
            if (gradient := parameter.grad) is None:
                continue
            if id(parameter) in tables and gradient.device.type == "cpu":  # a GPU would have to be waited for
                self._average_rows(gradient)
                continue
            if bucket and sum(map(torch.numel, bucket)) + gradient.numel() > _BUCKET:
                self._average(bucket)
                bucket = []
            bucket.append(gradient)
        self._average(bucket)

    def _average_rows(self, gradient: Tensor) -> None:
        """Average the rows of an embedding that any rank has read; the others, most of half a network, are zeros."""
        is_read = gradient.ne(0).any(dim=1).to(torch.uint8)
        with self.together():
            dist.all_reduce(is_read, op=dist.ReduceOp.MAX)
        rows = is_read.nonzero().squeeze(1)
        gradient[rows] = self.sum(gradient[rows]).div_(self.count)

    def _average(self, gradients: Sequence[Tensor]) -> None:
        if len(gradients) == 1:
            self.sum(gradients[0]).div_(self.count)
        elif gradients:
            flat = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients])).div_(self.count)
            for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place."""
        with self.together():
            dist.all_reduce(values)
        return values

    def seed(self, *numbers: int) -> None:
        """Seed the dropout of a step by these numbers and the rank."""
        torch.manual_seed(int(np.random.SeedSequence([*numbers, self.rank]).generate_state(1)[0]))

    def collect(self, own: list[Any]) -> list[Any]:
        """Return the items of all ranks in the order in which `is_mine` shares them out."""
        parts: list[list[Any]] = [[] for _ in range(self.count)]
        with self.together():
            dist.all_gather_object(parts, own)
        return [parts[number % self.count][number // self.count] for number in range(sum(map(len, parts)))]

    def from_first(self, value: Any = None) -> Any:
        """Return what rank 0 gives."""
        box = [value]
        with self.together():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def copy_from_first(self, tensor: Tensor) -> None:
        """Overwrite a CPU tensor by that of rank 0."""
        with self.together():
            dist.broadcast(tensor, src=0)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Turn the error of a library that waited in vain for another rank into one line.

        Raises:
            LostRankError: a rank ended.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            from conki_cli.system.signals import ignore_all

            ignore_all()  # torchrun now asks this process to end, which it does anyway
            reason = ""
            with contextlib.suppress(RuntimeError):
                reason = self.store.get(FAILED).decode() if self.store and self.store.check([FAILED]) else ""
            if reason:
                raise LostRankError(reason) from error
            raise KilledRankError("another process of this training ended") from error


class _Gather(torch.autograd.Function):
    """See `SeveralRanks.gather`."""

    @staticmethod
    def forward(context: Any, rows: Tensor, ranks: SeveralRanks, sizes: Sequence[int]) -> Tensor:
        context.ranks, context.sizes, context.num_rows = ranks, sizes, len(rows)
        own = rows.new_zeros(max(sizes), *rows.shape[1:])  # all ranks must send as many rows
        own[: sizes[ranks.rank]] = rows[: sizes[ranks.rank]]
        parts = [torch.empty_like(own) for _ in sizes]
        with ranks.together():
            dist.all_gather(parts, own)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ranks, sizes = context.ranks, context.sizes
        start = sum(sizes[: ranks.rank])
        own = ranks.sum(gradient.clone(memory_format=torch.contiguous_format))[start : start + sizes[ranks.rank]]
        padded = own if len(own) else own.new_zeros(context.num_rows, *own.shape[1:])
        return padded, None, None


class _Gathered(Mapping[str, Tensor]):
    """The parts of an output for the whole batch, each gathered once, when it is first read."""

    def __init__(self, parts: Mapping[str, Tensor], ranks: SeveralRanks) -> None:
        self._own, self._ranks = parts, ranks
        self._whole: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._whole:
            self._whole[name] = self._ranks.gather(self._own[name])
        return self._whole[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)
