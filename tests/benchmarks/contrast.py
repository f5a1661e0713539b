"""The contrastive loss, forward and backward: its time at batch 32, growth to 1,024, memory, and against pair loops.

    python -m tests.benchmarks.contrast

The loops follow the definition of Section 3.4 pair by pair; at batch 1,024 their seconds are extrapolated from the
first samples. Memory is the growth of the largest resident set of a process of its own, in copies of the 6B x 6B
matrix.
"""

import argparse
import subprocess
import sys
import time

import torch

from conki_cli.model.losses import hierarchical_contrastive_loss
from tests.benchmarks.common import resident_peak, spread

WIDTH, TEMPERATURE = 768, 0.07


def vectors(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw O_m and A_m [B, 3, D], and scores [B]."""
    torch.manual_seed(0)
    return (*(torch.randn(batch, 3, WIDTH, requires_grad=True) for _ in range(2)), 6 * torch.rand(batch) - 3)


def seconds_of_ours(batch: int) -> float:
    """Return the seconds of one forward and backward pass."""
    pan, specific, scores = vectors(batch)
    began = time.perf_counter()
    hierarchical_contrastive_loss(pan, specific, scores).backward()
    return time.perf_counter() - began


def seconds_of_loops(batch: int, samples: int) -> float:
    """Return the seconds that pair loops take, from those of the first samples of the batch."""
    pan, specific, scores = vectors(batch)
    kept = [(i, k, m) for i in range(batch) for k in range(2) for m in range(3)]
    parts = torch.stack([pan, specific], dim=1)
    intervals = scores.round().tolist()
    began = time.perf_counter()
    terms = []
    for sample in range(samples):
        total, log_positive, count = torch.zeros(()), torch.zeros(()), 0
        for p in kept[6 * sample : 6 * sample + 6]:
            for q in kept:
                if p == q:
                    continue
                similarity = torch.cosine_similarity(parts[p], parts[q], dim=0) / TEMPERATURE
                total = total + similarity.exp()
                if p[1] == q[1] and intervals[p[0]] == intervals[q[0]]:
                    log_positive, count = log_positive + similarity, count + 1
        terms.append(total.log() - log_positive / max(1, count))
    torch.stack(terms).sum().backward()
    return (time.perf_counter() - began) * batch / samples


def growth_in_copies(batch: int) -> float:
    """Return how many copies of the pair matrix one pass adds to the largest resident set of this process (Linux)."""
    pan, specific, scores = vectors(batch)
    hierarchical_contrastive_loss(*(part[:8] for part in (pan, specific)), scores[:8]).backward()
    before = resident_peak(reset=True)
    hierarchical_contrastive_loss(pan, specific, scores).backward()
    return (resident_peak() - before) / (4 * (6 * batch) ** 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", type=int, help="only the copies at this batch size (the process of its own)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(growth_in_copies(options.memory_of))
        return
    for batch in (32, 64, 128, 256, 512, 1024):
        seconds_of_ours(batch)
        ours = [seconds_of_ours(batch) for _ in range(9)]
        command = [sys.executable, "-m", "tests.benchmarks.contrast", "--memory-of", str(batch)]
        copies = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(
            f"B = {batch}: {spread([1e3 * s for s in ours], 'ms')}; memory {copies:.2f} copies of 6B x 6B", flush=True
        )
    loops = seconds_of_loops(1024, 1)
    ours = [seconds_of_ours(1024) for _ in range(5)]
    print(f"pair loops at B = 1024: {loops:.0f} s (from 1 of 1,024 samples); ratio {loops / sorted(ours)[2]:.0f}")


if __name__ == "__main__":
    main()
