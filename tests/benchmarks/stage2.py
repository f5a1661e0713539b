"""A stage-2 step of ConKI on MOSI, packed, in fp32 and in bf16, against the same step padded to the file's shape.

    python -m tests.benchmarks.stage2 --workspace W --encoder FOLDER --threads 2

All arms take the same batches of 32 clips in the same order, alternating.
"""

from contextlib import ExitStack

import torch

from tests.benchmarks.common import (
    FILE_LENGTHS,
    Steps,
    alternate,
    first_batches,
    open_job,
    padded,
    parser_of,
    ratios,
    spread,
)


def main() -> None:
    """Measure and print."""
    options = parser_of(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    with ExitStack() as stack:
        job = open_job(stack, options.workspace, options.encoder, stage=2)
        steps = Steps(job)
        ours = first_batches(job, options.rounds + 1)
        theirs = [padded(batch, FILE_LENGTHS["mosi"]) for batch in ours]

        def step(batch: object, precision: str) -> float:
            steps.model.precision = precision
            return steps.take(batch)  # type: ignore[arg-type]

        seconds = alternate(
            {
                "packed fp32": lambda n: step(ours[n], "fp32"),
                "packed bf16": lambda n: step(ours[n], "bf16"),
                "padded fp32": lambda n: step(theirs[n], "fp32"),
            },
            options.rounds,
        )
    for name, values in seconds.items():
        print(f"{name}: {spread(values)}")
    for name in ("packed fp32", "packed bf16"):
        print(f"padded fp32 / {name}: ratio {spread(ratios(seconds['padded fp32'], seconds[name]), '')}")


if __name__ == "__main__":
    main()
