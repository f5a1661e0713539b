"""What the data of a store add to the memory of training, and how long opening it takes, beside a pickle loaded whole.

    python -m tests.benchmarks.data_memory STORE.h5 --pickle FILE.pkl

Ours: a process goes once over all shuffled batches of the training split; another does so with 64 clips; the difference
of their largest resident sets counts (Linux). The pickle, of the same clips, is loaded three times less often than
frameworks do: once. Without --pickle only ours is measured; the published figures for MOSEI are 13.5 GB and 122 s.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

OURS = """
import json, sys, time
from pathlib import Path
import numpy as np, torch, h5py
from conki_cli.model.batches import Batches
from conki_cli.data.store.reading import FeatureStore
from tests.benchmarks.common import resident_peak
path, count = Path(sys.argv[1]), int(sys.argv[2])
began = time.perf_counter()
store = FeatureStore(path)
clips = store.split("train")
opened = time.perf_counter() - began
batches = Batches(clips, None, {name: 500 for name in clips.frames}, 32, seed=1)
order = np.random.default_rng(0).permutation(len(clips))[: count or None]
for start in range(0, len(order), 32):
    batches.take(order[start : start + 32])
print(json.dumps({"seconds": opened, "peak": resident_peak(), "clips": len(order)}))
"""
PICKLE = """
import json, pickle, sys, time
import numpy as np
from tests.benchmarks.common import resident_peak
before = resident_peak()
began = time.perf_counter()
with open(sys.argv[1], "rb") as file:
    data = pickle.load(file)
print(json.dumps({"seconds": time.perf_counter() - began, "peak": resident_peak() - before}))
"""


def measured(program: str, *given: str) -> dict[str, float]:
    """Run a program in a process of its own and read what it measured."""
    done = subprocess.run([sys.executable, "-c", program, *given], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--pickle", type=Path)
    options = parser.parse_args()
    whole, part = measured(OURS, str(options.store), "0"), measured(OURS, str(options.store), "64")
    added = whole["peak"] - part["peak"]
    print(f"{whole['clips']:,} clips: opened in {1e3 * whole['seconds']:.1f} ms; they add {added / 2**20:.1f} MiB")
    if options.pickle is not None:
        other = measured(PICKLE, str(options.pickle))
        print(f"the pickle: loaded in {other['seconds']:.1f} s; it adds {other['peak'] / 2**20:.0f} MiB")
        print(
            f"ratios: memory 1/{other['peak'] / max(added, 1):.0f}, opening 1/{other['seconds'] / whole['seconds']:.0f}"
        )


if __name__ == "__main__":
    main()
