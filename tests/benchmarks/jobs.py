"""Two jobs against one after another: the demo's four rows, with as many threads in each job as alone.

    python -m tests.benchmarks.jobs                  # 7 trainings, twice; minutes on two cores
    python -m tests.benchmarks.jobs --epochs 3       # shorter: what is the same in both then weighs more

The stores and the text encoder are made first and count for neither. Each run is a command of its own, as a user would
give it, so the start of the program and of each job's process counts. Threads: the cores shared out among the jobs,
and the same number for the run one after another, so both train to the same bits, which is checked.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conki_cli.experiments.opening import ready_encoder, ready_store
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import BUILT_IN_ENCODER, Workspace


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20, help="of stage 2; stage 1 has half of them")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="conki-jobs-") as folder:
        prepared = Workspace(Path(folder) / "prepared")
        for dataset in ("demo", "demo-external"):
            ready_store(prepared, dataset, Observer())
        ready_encoder(prepared, BUILT_IN_ENCODER, Observer())
        for number in range(given.rounds):
            seconds = {}
            for jobs in (1, given.jobs) if number % 2 == 0 else (given.jobs, 1):
                seconds[jobs] = timed(prepared.root, Path(folder) / f"{number}-{jobs}", jobs, given)
            check_equal(Path(folder) / f"{number}-1", Path(folder) / f"{number}-{given.jobs}")
            alone, beside = seconds[1], seconds[given.jobs]
            print(
                f"one after another {alone:.1f} s, {given.jobs} jobs {beside:.1f} s: {alone / beside:.2f}x, same bits "
                f"({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})"
            )


def timed(prepared: Path, space: Path, jobs: int, given: argparse.Namespace) -> float:
    """Train the four rows in a fresh copy of the workspace; return the seconds of the command."""
    shutil.copytree(prepared, space)
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads * jobs)}  # of which each job gets its share
    words = ["--dataset", "demo", "--drop", "C1", "--drop", "C2", "--drop", "plain-transfer", "--device", "cpu", "-q"]
    words += ["--epochs", str(given.epochs), "--set", f"pretraining.num_epochs={max(1, given.epochs // 2)}"]
    command = [sys.executable, "-m", "conki_cli", "ablate", *words, "--jobs", str(jobs), "--workspace", str(space)]
    began = time.monotonic()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def check_equal(one: Path, other: Path) -> None:
    """Stop if two workspaces hold other predictions."""
    found = sorted(path.relative_to(one) for path in one.glob("runs/*/seed-*/predictions/*.csv"))
    if not found or any((one / path).read_bytes() != (other / path).read_bytes() for path in found):
        raise SystemExit("the two differ: they had other numbers of threads, or something is wrong")


if __name__ == "__main__":
    main()
