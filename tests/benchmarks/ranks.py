"""A stage-2 training step of ConKI in two gloo ranks with one thread each, against one process with one thread.

    python -m tests.benchmarks.ranks --workspace W --encoder FOLDER

Both take the same batches by turns in the same processes. Also measured: the averaging of the gradients alone, and
gathering what the contrast reads, forward and backward, each as a share of a step in two ranks.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
import torch.distributed as dist

from conki_cli.model.batches import Batches
from conki_cli.model.contract import SentimentModel
from conki_cli.training import loop as training
from conki_cli.training.jobs import Job, build_model
from conki_cli.training.ranks import ALONE, Ranks
from tests.benchmarks.common import alternate, open_job, parser_of, ratios, spread
from tests.ranks_support import on_ranks

NUM_RANKS = 2


class Member:
    """One rank with its network, which takes steps alone or together with the others."""

    def __init__(self, job: Job, ranks: Ranks, num_batches: int) -> None:
        self.ranks = ranks
        self.model: SentimentModel = build_model(job, 1, None).train()
        self.optimizer = training.start(self.model, job.config).optimizers["main"]
        size = training.schedule_of(job.config, 1).batch_size
        self.train: Batches = job.inputs.batches("train", batch_size=size, seed=1)
        order = itertools.chain.from_iterable(map(self.train.order, itertools.count(1)))
        self.batches: list[np.ndarray] = list(itertools.islice(order, num_batches))

    def together(self, number: int) -> float:
        """Take a step with the other ranks."""
        return _seconds(lambda: self._step(self.batches[number], self.ranks))

    def alone(self, number: int) -> float:
        """Take a step on rank 0 while the others wait."""
        return _seconds(lambda: None if self.ranks.rank else self._step(self.batches[number], ALONE))

    def average(self, number: int) -> float:
        """Average the gradients of the last step again."""
        return _seconds(lambda: self.ranks.average(self.model))

    def gather(self, number: int) -> float:
        """Gather O_m and A_m of a batch [b, 3, D] and the predictions, forward and backward."""
        count = len(self._share(self.batches[number], self.ranks))
        width = self.model.architecture.width
        parts = [torch.randn(count, 3, width), torch.randn(count, 3, width), torch.randn(count)]

        def work() -> None:
            gathered = [self.ranks.gather(part.requires_grad_()) for part in parts]
            torch.stack([whole.sum() for whole in gathered]).sum().backward()

        return _seconds(work)

    def _share(self, indices: np.ndarray, ranks: Ranks) -> np.ndarray:
        return ranks.share(indices, self.train.lengths[indices])

    def _step(self, indices: np.ndarray, ranks: Ranks) -> None:
        self.model.zero_grad(set_to_none=True)
        output = ranks.whole(self.model.represent(self.train.take(self._share(indices, ranks))))
        terms = self.model.loss(output, self.train.labels(indices, {}), "main")
        torch.stack(list(terms.values())).sum().backward()
        ranks.average(self.model)
        self.optimizer.step()


def _seconds(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes until every rank is done; all begin together."""
    dist.barrier()
    began = time.perf_counter()
    work()
    dist.barrier()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        job = open_job(stack, options.workspace, options.encoder, stage=2)

        def measured(ranks: Ranks) -> dict[str, list[float]]:
            member = Member(job, ranks, options.rounds + 1)
            arms = {"alone": member.alone, "together": member.together}
            found = alternate(arms, options.rounds)
            return {**found, **alternate({"average": member.average, "gather": member.gather}, options.rounds)}

        found = on_ranks(NUM_RANKS, measured, seconds=3600.0)[0]
    step = statistics.median(found["together"])
    print(f"one process: {spread(found['alone'])} a step; {NUM_RANKS} ranks: {spread(found['together'])}")
    print(f"speed-up: {spread(ratios(found['alone'], found['together']), 'x')}")
    for name in ("average", "gather"):
        print(f"{name}: {spread([100 * seconds / step for seconds in found[name]], '% of a step')}")


if __name__ == "__main__":
    main()
