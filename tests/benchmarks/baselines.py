"""Seconds per training epoch of the baselines at the official shapes of MOSI, against padding everything.

    python -m tests.benchmarks.baselines --workspace W --encoder FOLDER --threads 2 [--models self-mm,misa]

The other arm computes every sentence at 50 tokens and every sequence at the file's length. Both arms take the same
batches, alternating; an epoch is extrapolated from the steps, a step being as many batches as the model sums. TFN, LMF
and MulT read cached states of their frozen text encoder in our arm and run it in every step in the other.
"""

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from conki_cli.model.batches import Batch
from conki_cli.training.loop import schedule_of
from tests.benchmarks.common import (
    FILE_LENGTHS,
    Steps,
    alternate,
    first_batches,
    keep_states,
    open_job,
    padded,
    parser_of,
    ratios,
    spread,
)

MODELS = "self-mm,misa,mmim,mag-bert,tfn,lmf,mult"


def window(steps: Steps, batches: Sequence[Batch], number: int) -> float:
    """Take the batches whose gradients one step of the optimiser sums; return the seconds."""
    start = number * steps.accumulate
    return sum(steps.take(batches[start + place], place) for place in range(steps.accumulate))


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", default=MODELS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.models.split(","):
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            job = open_job(stack, options.workspace, options.encoder, stage=2, model=name)
            steps = Steps(job)
            size, count = schedule_of(job.config, 1).batch_size, (options.rounds + 1) * steps.accumulate
            plain = first_batches(job, count, size)
            ours, per_clip = plain, 0.0
            if steps.model.layers_read is not None:
                job, per_clip = keep_states(job, steps.model, Path(folder))
                ours = first_batches(job, count, size)
            theirs = [padded(batch, FILE_LENGTHS["mosi"]) for batch in plain]
            arms = {"ours": partial(window, steps, ours), "theirs": partial(window, steps, theirs)}
            seconds = alternate(arms, options.rounds)
            num_windows = len(job.inputs.learnt.split("train")) / size / steps.accumulate
            epochs = {arm: num_windows * statistics.median(values) for arm, values in seconds.items()}
        once = f", and {1e3 * per_clip:.1f} ms per clip once" if per_clip else ""
        print(
            f"{name} (batch {size}): epoch {epochs['ours']:.3g} s{once}; padded {epochs['theirs']:.3g} s; "
            f"ratio {spread(ratios(seconds['theirs'], seconds['ours']), '')}",
            flush=True,
        )


if __name__ == "__main__":
    main()
