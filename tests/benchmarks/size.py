"""What a clip costs: bytes of a store, time to write, open and read it, memory, cached states, communication.

    python -m tests.benchmarks.size
    python -m tests.benchmarks.size --clips 1000 8000

Drawn clips with the widths of CMU-MOSEI (vision 35, audio 74), 100 frames each and sentences of 20 words. Everything is
measured with two numbers of clips in processes of their own; the difference gives the cost per clip, the rest is what
a store costs anyway. Communication is counted from the shapes of ConKI with BERT-base: gradients of what trains in
stage 2, and the vectors of the contrast.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.common import resident_peak

WORDS, FRAMES, WIDTHS = 20, 100, {"vision": 35, "audio": 74}
TARGETS = (100_000, 10_000_000)


def written(path: Path, count: int) -> dict[str, float]:
    """Write a store of so many clips; return seconds of this process and bytes."""
    import numpy as np

    from conki_cli.data.store.records import Corpus, Sample
    from conki_cli.data.store.writing import write_store

    draw = np.random.default_rng(0)
    frames = {name: draw.normal(size=(FRAMES, width)).astype(np.float32) for name, width in WIDTHS.items()}

    def clip(split: str, number: int) -> Sample:
        words = " ".join(f"w{word}" for word in draw.integers(0, 20_000, WORDS))
        changed = {name: values + np.float32(number % 97) for name, values in frames.items()}
        return Sample(
            f"{split}{number // 20}$_${number}", f"{split} {number} {words}", float(number % 7) - 3, **changed
        )

    sizes = {"train": count * 8 // 10, "valid": count // 10, "test": count // 10}
    splits = {name: [clip(name, number) for number in range(size)] for name, size in sizes.items()}
    corpus = Corpus("drawn", (-3.0, 3.0), splits, "drawn", "drawn", "0" * 64)
    began = time.process_time()
    write_store(path, corpus)
    return {"seconds to write": time.process_time() - began, "bytes on disk": path.stat().st_size}


def opened(path: Path) -> dict[str, float]:
    """Open a store, tokenise its texts, read an epoch of shuffled batches; return seconds and memory."""
    import numpy as np

    from conki_cli.data.store.reading import FeatureStore
    from conki_cli.model.batches import Batches

    before = resident_peak(reset=True)
    began = time.process_time()
    with FeatureStore(path) as store:
        clips = store.split("train")
        seconds = {"seconds to open": time.process_time() - began}
        tokens = [np.zeros(WORDS, dtype=np.int32) for _ in clips.ids]
        batches = Batches(clips, tokens, dict.fromkeys(WIDTHS, 500), 32, seed=1)
        began, number = time.process_time(), 0
        for number, _ in enumerate(batches.epoch(1), start=1):
            if number == 100:
                break
        seconds["seconds per batch"] = (time.process_time() - began) / number
        return {**seconds, "bytes of memory": resident_peak() - before}


def communication() -> dict[str, float]:
    """Count what ranks of one GPU each tell each other in a step of stage 2, with 32 clips per rank."""
    from transformers import BertConfig, BertModel

    from conki_cli.config.resolving import resolve
    from conki_cli.model import zoo
    from conki_cli.model.contract import Architecture
    from conki_cli.model.text_encoder import TextEncoder

    config = resolve(flags={"data.external": "mosei", "model.text_encoder": "."})
    shape = Architecture(("text", "vision", "audio"), 768, 12, WIDTHS, {"vision": 500, "audio": 500})
    model = zoo.build(config, shape, TextEncoder(BertModel(BertConfig()), width=768))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"gradients, bytes": 4 * trained, "contrast, bytes": 32 * 2 * 3 * 768 * 4}


def of_process(*words: str) -> dict[str, Any]:
    """Run this script in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.size", *words]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs=2, default=(1000, 6000))
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "WORD"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, word = given.one
        path, _, count = word.partition(":")
        print(json.dumps(written(Path(path), int(count)) if what == "write" else opened(Path(path))))
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="conki-size-") as folder:
        for count in given.clips:
            path = Path(folder) / f"{count}.h5"
            found.append(of_process("--one", "write", f"{path}:{count}") | of_process("--one", "open", str(path)))
    few, many = found
    for name in few:
        slope = (many[name] - few[name]) / (given.clips[1] - given.clips[0])
        rest = ", ".join(f"{count:,} clips: {few[name] + slope * (count - given.clips[0]):.4g}" for count in TARGETS)
        measured = " and ".join(f"{one[name]:.4g}" for one in found)
        print(f"{name}: {measured} with {given.clips[0]:,} and {given.clips[1]:,} clips, {slope:.4g} per clip; {rest}")
    for name, value in communication().items():
        print(f"{name}: {value:,}")


if __name__ == "__main__":
    main()
