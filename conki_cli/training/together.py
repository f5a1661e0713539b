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
from conki_cli.model.packing import moved_array
from conki_cli.training.lost import KilledRankError, LostRankError
from conki_cli.training.ranks import Ranks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

FAILED = "conki/failed"
"""Key under which a rank leaves the line that says why it ended."""
_SMALL = 2**16  # numbers of a gradient that is summed over the ranks together with others


@dataclass(eq=False)
class SeveralRanks(Ranks):
    """Several processes, and how they share the batch in progress."""

    store: "Store | None" = None
    """Where ranks leave words for each other."""
    places: Sequence[np.ndarray] = field(default=(), init=False)
    """The places in the batch in progress of every rank's clips, [b] each."""

    def share(self, indices: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return this rank's part [b] of a batch [B], whose clips have these lengths [B]."""
        parts: list[list[int]] = [[] for _ in range(self.count)]
        loads = np.zeros(self.count)
        for place in np.argsort(-lengths, kind="stable").tolist():  # the longest first, each to the idlest rank
            idlest = int(loads.argmin())
            parts[idlest].append(place)
            loads[idlest] += lengths[place] + 1
        self.places = [np.array(sorted(part), dtype=np.int64) for part in parts]
        own = self.places[self.rank]
        return indices[own] if len(own) else indices[:1]

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
        gathered: Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return gathered

    def own(self, rows: Tensor) -> Tensor:
        """Return this rank's rows of [B, ...]: [b, ...]."""
        own = self.places[self.rank]
        return rows[moved_array(own, rows.device)] if len(own) else rows[:1]

    def normalise_together(self, model: nn.Module) -> None:
        """Let every BatchNorm of a model use the statistics of the whole batch; SyncBatchNorm would refuse CPUs."""
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.register_forward_pre_hook(lambda norm, rows: (self.gather(rows[0]),) if norm.training else None)
                module.register_forward_hook(lambda norm, rows, out: self.own(out) if norm.training else None)

    def average(self, model: nn.Module) -> None:
        """Average the gradients over the ranks."""
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        sums: list[Tensor] = []
        packed: list[tuple[Tensor, Tensor | slice]] = []
        for parameter in model.parameters():
            if (gradient := parameter.grad) is None:
                continue
            if id(parameter) in tables and gradient.device.type == "cpu":  # a GPU would have to be waited for
                packed.append((gradient, self._rows_read(gradient)))
            elif gradient.numel() < _SMALL:
                packed.append((gradient, slice(None)))
            else:
                sums.append(gradient)
        pieces = [gradient[rows] for gradient, rows in packed]
        if pieces:
            sums.append(torch.cat([piece.reshape(-1) for piece in pieces]))
        with self.together():
            for work in [dist.all_reduce(gradient, async_op=True) for gradient in sums]:
                work.wait()
        torch._foreach_div_(sums, self.count)
        means = torch.split(sums[-1], [piece.numel() for piece in pieces]) if pieces else ()
        for (gradient, rows), piece, mean in zip(packed, pieces, means, strict=True):
            gradient[rows] = mean.view_as(piece)

    def _rows_read(self, gradient: Tensor) -> Tensor:
        """Return the rows of an embedding that any rank has read; the others, most of half a network, are zeros."""
        is_read = torch.from_numpy(gradient.numpy().any(axis=1).astype(np.uint8))
        with self.together():
            dist.all_reduce(is_read, op=dist.ReduceOp.MAX)
        return is_read.nonzero().squeeze(1)

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
    def forward(context: Any, rows: Tensor, ranks: SeveralRanks) -> Tensor:
        own, sizes = moved_array(ranks.places[ranks.rank], rows.device), [len(places) for places in ranks.places]
        context.ranks, context.own, context.num_rows = ranks, own, len(rows)
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # all ranks must send as many rows
        padded[: len(own)] = rows[: len(own)]
        parts = [torch.empty_like(padded) for _ in sizes]
        with ranks.together():
            dist.all_gather(parts, padded)
        by_rank = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return by_rank[moved_array(np.argsort(np.concatenate(ranks.places)), rows.device)]

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own = context.ranks.sum(gradient.clone(memory_format=torch.contiguous_format))[context.own]
        return own if len(own) else own.new_zeros(context.num_rows, *own.shape[1:]), None


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
