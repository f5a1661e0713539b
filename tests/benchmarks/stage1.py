"""Stage 1 of ConKI against the usual way: frozen encoder run again in every epoch, everything padded to the file.

    python -m tests.benchmarks.stage1 --workspace W --encoder FOLDER --threads 2 [--text-only]

W has MOSI and MOSEI (or a part of it) at the official shapes. Arms alternate, step by step, on the same batches; ten
epochs over MOSEI's 16,326 training clips are extrapolated from these steps and from the seconds that keeping the states
of W's clips takes. With --text-only the other arm runs the encoder again as well, but trimmed and packed like ours.
"""

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from tests.benchmarks.common import (
    FILE_LENGTHS,
    Steps,
    alternate,
    first_batches,
    keep_states,
    open_job,
    padded,
    parser_of,
    spread,
)

CLIPS, EPOCHS, BATCH_SIZE = 16_326, 10, 32


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--text-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = ['model.drop="V+A"'] if options.text_only else []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        job = open_job(stack, options.workspace, options.encoder, stage=1, settings=settings)
        steps = Steps(job)
        kept, per_clip = keep_states(job, steps.model, Path(folder))
        ours, plain = (first_batches(made, options.rounds + 1) for made in (kept, job))
        lengths = FILE_LENGTHS["mosei"]
        theirs = plain if options.text_only else [padded(batch, lengths) for batch in plain]
        arms = {"ours": lambda n: steps.take(ours[n]), "theirs": lambda n: steps.take(theirs[n])}
        seconds = alternate(arms, options.rounds)
    name = "recomputed, trimmed and packed" if options.text_only else "recomputed and padded"
    num_steps = EPOCHS * CLIPS / BATCH_SIZE
    whole = {arm: num_steps * statistics.median(values) for arm, values in seconds.items()}
    whole["ours"] += CLIPS * per_clip
    print(f"cached states: {1e3 * per_clip:.1f} ms per clip, once: {CLIPS * per_clip:.0f} s for {CLIPS:,} clips")
    print(f"step, cached states and packed: {spread(seconds['ours'])}")
    print(f"step, {name}: {spread(seconds['theirs'])}")
    print(f"{EPOCHS} epochs, extrapolated: {whole['theirs']:.0f} s / {whole['ours']:.0f} s")
    print(f"ratio {whole['theirs'] / whole['ours']:.2f} (above 1: ours is faster)")


if __name__ == "__main__":
    main()
