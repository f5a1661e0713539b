"""A training step of each stage of ConKI: necessary operations per second against the peak of this machine's matmul.

    python -m tests.benchmarks.steps --workspace W --encoder FOLDER --threads 2

Counted are the products of real tokens and frames, forward and backward, nothing frozen twice (stage 1 reads kept
states). The bytes are those of what operations read and write, beside the speed of copying. Each part alone (text;
audio and vision) and the whole; the peak is measured between the rounds.
"""

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from tests.benchmarks.common import (
    Steps,
    alternate,
    bytes_of,
    copy_peak,
    first_batches,
    flops_of,
    keep_states,
    matmul_peak,
    open_job,
    parser_of,
    spread,
)

PARTS = {"text": "V+A", "audio and vision": "T", "all": ""}


def main() -> None:
    """Measure and print."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for stage in (1, 2):
            for part, drop in PARTS.items():
                settings = [f'model.drop="{drop}"'] if drop else []
                job = open_job(stack, options.workspace, options.encoder, stage=stage, settings=settings)
                steps = Steps(job)
                if stage == 1 and "text" in job.inputs.modalities:
                    job, _ = keep_states(job, steps.model, Path(folder))
                batches = first_batches(job, options.rounds + 1)
                work = [flops_of(steps, batch) for batch in batches]
                peaks: list[float] = []

                def step(number: int, steps: Steps = steps, batches: list = batches, peaks: list = peaks) -> float:
                    peaks.append(matmul_peak(3))
                    return steps.take(batches[number])

                seconds = alternate({"step": step}, options.rounds)["step"]
                shares = [w / s / p for w, s, p in zip(work[1:], seconds, peaks[1:], strict=True)]
                share = spread([100 * share for share in shares], "% of it")
                print(
                    f"stage {stage}, {part}: {statistics.median(work) / 1e9:.0f} GFLOP, "
                    f"{bytes_of(steps, batches[0]) / 1e9:.0f} GB at {copy_peak() / 1e9:.0f} GB/s, {spread(seconds)}, "
                    f"peak {statistics.median(peaks) / 1e9:.0f} GFLOP/s, {share}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
