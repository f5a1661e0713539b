"""How `conki prepare` of a feature pickle compares with copying and hashing the same bytes, and with `pickle.load`.

    python tests/benchmarks/prepare_file.py FILE.pkl --dataset mosei --rounds 3 --folder /tmp/bench

Each round runs cp, sha256sum, prepare and (where memory allows it, --load) pickle.load, every one in a process of its
own; seconds are medians, memory is the largest resident set of the process. Free as much disk as the file takes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

MEASURE = """
import json, os, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - began
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime]))
"""
LOAD = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"


def measured(*command: str) -> tuple[float, float, float]:
    """Run a command; return seconds, peak MiB resident and seconds of processor time."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True)
    seconds, peak, busy = json.loads(done.stdout)
    return seconds, peak, busy


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--dataset", default="mosei")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/conki-benchmark"))
    parser.add_argument("--load", action="store_true", help="also pickle.load, which needs the whole file in memory")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    copy, store = options.folder / "copy.pkl", options.folder / f"{options.dataset}.h5"
    prepare = [sys.executable, "-m", "conki_cli", "prepare", "--dataset", options.dataset, "--out", str(store)]
    commands = {
        "cp": ["cp", str(options.file), str(copy)],
        "sha256sum": ["sha256sum", str(options.file)],
        "conki prepare": [*prepare, "--source", str(options.file)],
    }
    if options.load:
        commands["pickle.load"] = [sys.executable, "-c", LOAD, str(options.file)]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for number in range(options.rounds):
        for name, command in commands.items():
            found[name].append(measured(*command))
            copy.unlink(missing_ok=True)
            print(f"round {number + 1}, {name}: %.1f s, peak %.0f MiB, busy %.1f s" % found[name][-1], flush=True)
            time.sleep(1)
    seconds = {name: statistics.median(row[0] for row in rows) for name, rows in found.items()}
    size, made = options.file.stat().st_size, store.stat().st_size
    both = seconds["cp"] + seconds["sha256sum"]
    print(f"{options.file.name}: {size:,} bytes; store: {made:,} bytes, {made / size:.1%} of the file")
    for name, rows in found.items():
        print(f"{name}: median {seconds[name]:.1f} s, peak {max(row[1] for row in rows):.0f} MiB")
    print(f"cp + sha256sum: {both:.1f} s; prepare runs at {both / seconds['conki prepare']:.2f} of that speed")


if __name__ == "__main__":
    main()
