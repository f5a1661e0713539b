"""Kernels of one training step of every model, counted without a GPU, and how often the host waits for the device.

    python -m tests.benchmarks.kernels
    python -m tests.benchmarks.kernels --model conki --share 0.5 --unfused   # with groups of similar length
    python -m tests.benchmarks.kernels --model conki --names                 # which operations they are

Every operation that torch dispatches on the device counts as one kernel, except views and allocations: forward, losses,
backward and the norm of the gradients, without the optimiser. On a GPU, attention is one kernel per call and direction
(scaled_dot_product_attention), and so is dropout; there they count as one. `--unfused` counts the operations of their
definitions. The training loop trains two batches of 32, and the second counts: texts of 8 to 40 tokens, audio of 20
to 60 frames, vision of 30 to 90, a text encoder of 12 narrow layers; widths do not change the number of kernels. An
LSTM is a kernel per time step and gate here, one call on a GPU. Waiting: `.item()`, `nonzero`, an index of booleans,
copies from the device. What LSTMs read of their lengths lies on the host and is not counted.
"""

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from conki_cli.config.resolving import resolve
from conki_cli.config.sections import MODELS, RunConfig
from conki_cli.data.store.records import Ragged, Utterances
from conki_cli.model import packing, zoo
from conki_cli.model.baselines.mult import Mult
from conki_cli.model.batches import Batch, Batches
from conki_cli.model.contract import Architecture, SentimentModel
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.system.observer import Observer
from conki_cli.training import loop as training

BATCH, STEPS = 32, 2
WIDTH, LAYERS = 48, 12
LENGTHS = {"text": (8, 40), "vision": (30, 90), "audio": (20, 60)}
WIDTHS = {"vision": 20, "audio": 5}
FREE = ("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "lift_fresh", "detach", "alias")
NO_KERNELS = ("_fused_adam", "_unsafe_view")
WAITING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "unique_consecutive")
COPIES = ("cpu", "numpy", "tolist")


class Kernels(TorchDispatchMode):
    """Counts operations by name, and what the host waits for, while `is_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.waits = 0
        self.is_on = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if self.is_on and not func.is_view and name not in FREE and not name.startswith(NO_KERNELS):
            waits = name in WAITING or (name in ("index", "index_put", "index_put_") and _has_booleans(args[1]))
            self.waits += waits
            self.counts[name] += name != "_local_scalar_dense"
        return func(*args, **(kwargs or {}))

    @property
    def kernels(self) -> int:
        """Return how many there were."""
        return sum(self.counts.values())


def _has_booleans(indices: Sequence[Tensor | None]) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


class _Copies(TorchFunctionMode):
    """Counts copies to the host, which dispatch does not show where the device is a CPU."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.kernels.waits += self.kernels.is_on and getattr(func, "__name__", "") in COPIES
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """Attention as a GPU computes it: one kernel forward, one backward."""

    @staticmethod
    def forward(ctx: Any, mode: Kernels, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, share: float) -> Tensor:
        mode.counts["attention"] += 1
        mode.is_on = False
        with torch.enable_grad():
            parts = [part.detach().requires_grad_() for part in (q, k, v)]
            out = _unfused(*parts, attn_mask=mask, dropout_p=share)
        mode.is_on = True
        ctx.kept = mode, parts, out
        return out.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        mode, parts, out = ctx.kept
        mode.counts["attention backward"] += 1
        mode.is_on = False
        found = torch.autograd.grad(out, parts, gradients[0])
        mode.is_on = True
        return (None, *found, None, None)


_unfused = F.scaled_dot_product_attention


@contextlib.contextmanager
def as_device(mode: Kernels, *, share: float, fused: bool) -> Iterator[None]:
    """Let the CPU take the path of a device class: its share of attention groups, its attention and dropout."""

    def attention(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False
    ) -> Any:
        if not mode.is_on or is_causal:
            return _unfused(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal)
        return _Fused.apply(mode, q, k, v, attn_mask, dropout_p)

    def dropout(values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return torch.native_dropout(values, p, True)[0] if training and p else values

    def unwaited(call: Any) -> Any:
        def called(*words: Any, **named: Any) -> Any:
            waits = mode.waits
            found = call(*words, **named)
            mode.waits = waits
            return found

        return called

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(packing.ATTENTION_SHARE, cpu=share))
        if fused:
            stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attention))
            stack.enter_context(mock.patch.object(F, "dropout", dropout))
            stack.enter_context(mock.patch.object(Mult, "_represent_in_groups", Mult._represent))  # for CPUs
        rnn = torch.nn.utils.rnn
        for owner, name in ((rnn, "pack_padded_sequence"), (rnn, "pad_packed_sequence"), (torch.nn.LSTM, "forward")):
            stack.enter_context(mock.patch.object(owner, name, unwaited(getattr(owner, name))))
        yield


def model_of(name: str, *settings: str) -> tuple[SentimentModel, RunConfig]:
    """Build a model with a text encoder of 12 layers."""
    from transformers import BertConfig, BertModel

    flags = {"model.name": name, "data.external": "mosei" if name == "conki" else "none", "model.text_encoder": "."}
    config = resolve(flags=flags, assignments=list(settings))
    torch.manual_seed(1)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": WIDTH}
    encoder = TextEncoder(BertModel(BertConfig(**sizes)), width=WIDTH)
    shape = Architecture(("text", "vision", "audio"), WIDTH, LAYERS, WIDTHS, {"vision": 100, "audio": 100})
    return zoo.build(config, shape, encoder), config


def drawn_batches(count: int, size: int = BATCH) -> Batches:
    """Draw clips of different lengths."""
    draw = np.random.default_rng(0)
    lengths = {name: draw.integers(low, high + 1, count) for name, (low, high) in LENGTHS.items()}

    def frames(name: str) -> Ragged:
        values = draw.normal(size=(lengths[name].sum(), WIDTHS[name])).astype(np.float32)
        return Ragged(values, np.array([0, *np.cumsum(lengths[name])]))

    scores = draw.uniform(-3, 3, count).astype(np.float32)
    ids = [f"v$_${number}" for number in range(count)]
    clips = Utterances(ids, [""] * count, scores, {name: frames(name) for name in WIDTHS}, {})
    tokens = [draw.integers(5, 20_000, length) for length in lengths["text"]]
    return Batches(clips, tokens, dict.fromkeys(WIDTHS, 100), size, seed=1)


class _Enough(Exception):  # noqa: N818 (it is no error)
    """The steps that count are over."""


def counted(name: str, *, share: float, fused: bool, settings: Sequence[str] = ()) -> dict[str, Kernels]:
    """Train a model for some steps of every pass of an epoch; return what the last step of each took."""
    model, config = model_of(name, *settings)
    batches = drawn_batches(STEPS * BATCH)
    mode, found, phases = Kernels(), {}, []
    loss, move = model.loss, Batch.to

    def noted(output: Any, batch: Batch, phase: str) -> dict[str, Tensor]:
        phases.append(phase)
        return loss(output, batch, phase)

    def moved(batch: Batch, device: torch.device) -> Batch:
        mode.counts, mode.waits, mode.is_on = Counter(), 0, True
        return move(batch, device)

    def after_step() -> None:
        mode.is_on = False
        found[phases[-1]] = Kernels()
        found[phases[-1]].counts, found[phases[-1]].waits = mode.counts, mode.waits
        if len(phases) == STEPS * len(model.passes(1)):
            raise _Enough

    model.loss = noted  # type: ignore[method-assign]
    progress, schedule = training.start(model, config), training.schedule_of(config, 1)
    with as_device(mode, share=share, fused=fused), mock.patch.object(Batch, "to", moved), mode, _Copies(mode):
        device = torch.device("cpu")
        with contextlib.suppress(_Enough):
            for _ in training.fit(
                progress, batches, batches, schedule, device=device, observer=Observer(), on_step=after_step
            ):
                """One epoch is enough."""
                break
    return found


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--share", type=float, help="of attention groups; default: what each device class has")
    parser.add_argument("--unfused", action="store_true", help="count the operations of attention's definition")
    parser.add_argument("--names", action="store_true", help="list the most frequent operations")
    given = parser.parse_args()
    classes = {"cpu": (packing.share_on("cpu"), False), "cuda": (packing.share_on("cuda"), True)}
    if given.share is not None:
        classes = {f"share {given.share:g}": (given.share, not given.unfused)}
    for name in given.model or MODELS:
        for kind, (share, fused) in classes.items():
            for phase, mode in counted(name, share=share, fused=fused).items():
                print(f"{name}, pass {phase}, {kind}: {mode.kernels:,} kernels, the host waits {mode.waits} times")
                if given.names:
                    for operation, count in mode.counts.most_common(25):
                        print(f"    {count:5} {operation}")


if __name__ == "__main__":
    main()
