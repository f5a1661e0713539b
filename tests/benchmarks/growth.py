"""How a training step of ConKI grows with the batch and with the length of the audio, and an epoch with the clips.

    python -m tests.benchmarks.growth --threads 2

Simulated clips: 16 tokens, vision of 32 frames of 20 features, audio of 5 features, a text encoder of 4 layers and
width 128 with random weights. Seconds per clip and the largest resident set (Linux), each size in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time

from tests.benchmarks.common import resident_peak


def measured(clips: int, batch_size: int, audio: int) -> dict[str, float]:
    """Take the steps of an epoch over simulated clips in this process."""
    import numpy as np
    import torch
    from transformers import BertConfig, BertModel

    from conki_cli.config.resolving import resolve
    from conki_cli.data.store.records import Ragged, Utterances
    from conki_cli.model import zoo
    from conki_cli.model.batches import Batches
    from conki_cli.model.contract import Architecture
    from conki_cli.model.text_encoder import TextEncoder
    from conki_cli.training import loop as training

    draw = np.random.default_rng(0)

    def frames(length: int, width: int) -> Ragged:
        one = draw.normal(size=(length, width)).astype(np.float32)
        return Ragged(np.tile(one, (clips, 1)), np.arange(clips + 1) * length)

    ids = [f"v$_${n}" for n in range(clips)]
    split = Utterances(ids, [""] * clips, draw.normal(size=clips).astype(np.float32),
                       {"vision": frames(32, 20), "audio": frames(audio, 5)}, {})  # fmt: skip
    tokens = [draw.integers(5, 20_000, 16) for _ in range(clips)]
    config = resolve(flags={"data.external": "none", "model.text_encoder": "."}, assignments=["model.adapter_width=64"])
    sizes = BertConfig(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512)
    torch.manual_seed(1)
    limits = {"vision": 32, "audio": audio}
    shape = Architecture(("text", "vision", "audio"), 128, 4, widths={"vision": 20, "audio": 5}, positions=limits)
    model = zoo.build(config, shape, TextEncoder(BertModel(sizes), width=128)).train()
    progress = training.start(model, config)
    batches = Batches(split, tokens, limits, batch_size, seed=1)
    seconds = []
    for batch in batches.epoch(1):
        began = time.perf_counter()
        model.zero_grad(set_to_none=True)
        output = model.represent(batch)
        torch.stack(list(model.loss(output, batch, "main").values())).sum().backward()
        progress.optimizers["main"].step()
        seconds.append(time.perf_counter() - began)
    return {"step": sorted(seconds)[len(seconds) // 2], "epoch": sum(seconds), "peak": resident_peak()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", type=int, nargs=3, metavar=("CLIPS", "BATCH", "AUDIO"), help="only this size")
    options = parser.parse_args()
    if options.one:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(measured(*options.one)))
        return
    rows = {
        "clips": [(count, 32, 52) for count in (1024, 4096, 16384)],
        "batch": [(4 * size, size, 52) for size in (8, 32, 128, 256)],
        "audio frames": [(32, 8, length) for length in (50, 200, 500, 1000, 2000)],
    }
    for name, sizes in rows.items():
        for clips, batch, audio in sizes:
            command = [sys.executable, "-m", "tests.benchmarks.growth", "--threads", str(options.threads)]
            command += ["--one", str(clips), str(batch), str(audio)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            print(
                f"{name}: {clips} clips, batch {batch}, {audio} audio frames: {1e3 * found['step'] / batch:.1f} ms per "
                f"clip, epoch {found['epoch']:.3g} s, peak {found['peak'] / 2**20:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
