"""How reading batches of audio and vision from a feature store compares with padded arrays in memory, and with gzip.

    python -m tests.benchmarks.read_batches STORE.h5 --padded-audio 500 --padded-vision 500

One other side is what the usual loader of this field does with a whole pickle in memory: one float32 array per
modality, padded to the file's length; one tensor per clip; clips stacked to a batch. Both read the same random batches
of 32 clips of similar length (audio), warm, alternating; medians of the seconds per batch are compared. The padded
arrays are filled from the store, for as many clips as fit into --memory GiB; both sides draw from these clips only.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Ragged, Utterances
from conki_cli.model.batches import Batches

BATCH_SIZE = 32


def padded_array(ragged: Ragged, length: int, count: int) -> np.ndarray:
    """Return the first `count` clips as [count, length, d], padded at the end."""
    made = np.zeros((count, length, ragged.width), dtype=np.float32)
    for clip in range(count):
        frames = ragged[clip][:length]
        made[clip, : len(frames)] = frames
    return made


def usual_batch(arrays: Sequence[np.ndarray], indices: np.ndarray) -> list[torch.Tensor]:
    """Make one tensor per clip and stack them, modality after modality."""
    return [torch.stack([torch.tensor(array[index]) for index in indices]) for array in arrays]


def gzip_seconds(clips: Utterances, count: int, num_batches: int) -> list[float]:
    """Return the seconds per shuffled batch from a copy of the frames as h5py stores them by default with gzip."""
    draw = np.random.default_rng(1)
    found = []
    with tempfile.TemporaryDirectory() as folder, h5py.File(Path(folder) / "copy.h5", "w") as file:
        for name, ragged in clips.frames.items():
            frames = ragged.values[: int(ragged.offsets[count])]
            file.create_dataset(name, data=frames, compression="gzip")  # chunks are chosen automatically
        for _ in range(num_batches):
            began = time.perf_counter()
            for index in draw.integers(0, count, BATCH_SIZE):
                for name, ragged in clips.frames.items():
                    torch.from_numpy(file[name][ragged.offsets[index] : ragged.offsets[index + 1]])
            found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--padded-audio", type=int, default=500)
    parser.add_argument("--padded-vision", type=int, default=500)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--gzip-batches", type=int, default=10, help="batches read from the chunked, compressed copy")
    parser.add_argument("--memory", type=float, default=4.0, help="GiB for the padded arrays")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with FeatureStore(options.store) as store:
        clips = store.split("train")
        lengths = {"audio": options.padded_audio, "vision": options.padded_vision}
        clip_bytes = sum(4 * lengths[name] * clips.frames[name].width for name in lengths)
        count = min(len(clips), int(options.memory * 2**30 / clip_bytes))
        arrays = [padded_array(clips.frames[name], lengths[name], count) for name in lengths]
        ours = Batches(clips, None, lengths, BATCH_SIZE)
        draw = np.random.default_rng(0)
        by_length = np.argsort(clips.frames["audio"].lengths[:count] + draw.uniform(0, 20, count))
        starts = draw.integers(0, count - BATCH_SIZE, options.batches)
        seconds: dict[str, list[float]] = {"store": [], "memory": [], "shuffled": []}
        for start in starts:
            indices = draw.permutation(by_length[start : start + BATCH_SIZE])
            for name in ("store", "memory") if start % 2 else ("memory", "store"):
                began = time.perf_counter()
                ours.take(indices) if name == "store" else usual_batch(arrays, indices)
                seconds[name].append(time.perf_counter() - began)
            began = time.perf_counter()
            ours.take(draw.integers(0, count, BATCH_SIZE))
            seconds["shuffled"].append(time.perf_counter() - began)
        zipped = gzip_seconds(clips, count, options.gzip_batches) if options.gzip_batches else []
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{count} clips, {options.batches} batches of {BATCH_SIZE}, audio and vision")
    print(f"store {1e3 * median['store']:.2f} ms, padded arrays in memory {1e3 * median['memory']:.2f} ms per batch")
    print(f"ratio {median['store'] / median['memory']:.2f} (below 1: the store is faster)")
    if zipped:
        store, other = statistics.median(seconds["shuffled"]), statistics.median(zipped)
        print(
            f"shuffled: store {1e3 * store:.2f} ms, h5py with automatic chunks and gzip {1e3 * other:.0f} ms per batch"
        )
        print(f"ratio {other / store:.0f} (above 1: the store is faster)")


if __name__ == "__main__":
    main()
