"""Mutated files, most of them ours, read in a worker process: `python tests/fuzz_support.py FOLDER` reads tasks.

A task is a kind and a seed; the answer is what came out: "" where the file still reads, a one-line error of ours, or
a finding. Crashes, hangs and hunger for memory end the worker, which the tests see.
"""

import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from process_support import SECONDS as STUCK

MEMORY = 2**30
"""Bytes that reading a file may take beyond what the worker holds when it begins."""
SECONDS = 10.0
"""The longest that reading may compute; not wall time, as other processes may keep the machine busy."""
NUMBERS = (0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (b"nan", b"-1", b"1e999", b"[", b"{", b'"', b"\x00", b"null", b"../x", b"\xff\xfe", b"9" * 400, b"\n")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Change a file in one to eight places, more often where its structure lies than in its numbers."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        place = (
            draw.randrange(max(1, len(data))) if draw.random() < 0.5 else draw.randrange(max(1, min(4096, len(data))))
        )
        kind = draw.randrange(7)
        if kind == 0 and data:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            size = draw.choice((1, 2, 4, 8))
            number = draw.choice(NUMBERS) % 256**size
            data[place : place + size] = number.to_bytes(size, "little")
        elif kind == 2:
            data[place : place + draw.randrange(64)] = b""
        elif kind == 3:
            data[place:place] = draw.choice(WORDS)
        elif kind == 4:
            data[place : place + len(word)] = (word := draw.choice(WORDS))
        elif kind == 5:
            start = draw.randrange(max(1, len(data)))
            data[place : place + 32] = data[start : start + 32]
        elif draw.random() < 0.3:
            del data[place:]
    return bytes(data)


def read_store(path: Path) -> None:
    """Open a store, describe it, read every clip."""
    from conki_cli.data.store.describing import describe
    from conki_cli.data.store.reading import FeatureStore
    from conki_cli.model.batches import Batches

    with FeatureStore(path) as store:
        describe(store)
        for split in store.splits:
            part = store.split(split)
            for _ in Batches(part, None, dict.fromkeys(part.frames, 50), 4).epoch():
                pass


def read_checkpoint(path: Path) -> None:
    """Read a checkpoint."""
    from conki_cli.training import checkpoint

    checkpoint.load(path)


def read_settings(path: Path) -> None:
    """Resolve a configuration file."""
    from conki_cli.config.resolving import from_toml, resolve

    resolve(config_file=path)
    from_toml(path)


def read_predictions(path: Path) -> None:
    """Read stored predictions."""
    from conki_cli.runs import read_predictions as read

    read(path)


def read_run(path: Path) -> None:
    """List, evaluate and export a run, of which one file is mutated."""
    from conki_cli.runs import Runs, evaluate_run
    from conki_cli.system.workspace import Workspace

    space = Workspace(path)
    Runs(space).described()
    evaluate_run(Runs(space).find("run"), "test", "all")


def read_sequences(path: Path) -> None:
    """Make a store of somebody's HDF5 files, of which one is mutated, and read it."""
    from conki_cli.data.sources import read_corpus
    from conki_cli.data.store.writing import write_store

    write_store(path / "made.h5", read_corpus("mosi", workspace=path, source=path / "sequences", score_range=None))
    read_store(path / "made.h5")


READERS: dict[str, Callable[[Path], None]] = {
    "store": read_store,
    "old store": read_store,
    "checkpoint": read_checkpoint,
    "settings": read_settings,
    "predictions": read_predictions,
    "run": read_run,
    "sequences": read_sequences,
}
FILES = {
    "store": "store.h5",
    "old store": "old.h5",
    "checkpoint": "checkpoint.safetensors",
    "settings": "settings.toml",
    "predictions": "predictions.csv",
}
FOLDERS = {"run": (Path("runs/run"), {".json", ".jsonl", ".toml", ".csv"}), "sequences": (Path("sequences"), {".csd"})}
"""Where a folder lies when it is read, and which of its files are mutated."""


def sources_of(folder: Path, kind: str) -> list[Path]:
    """Return what is mutated: one file of a kind, or some of the files of a folder."""
    if kind in FILES:
        return [folder / FILES[kind]]
    return sorted(path for path in (folder / kind).rglob("*") if path.suffix in FOLDERS[kind][1])


def outcome(folder: Path, kind: str, seed: int) -> str:
    """Mutate under a seed, read, and say what came out."""
    from conki_cli.system.errors import ConkiError

    draw = random.Random(f"{kind} {seed}")
    source = draw.choice(sources_of(folder, kind))
    place = folder / "mutated"
    shutil.rmtree(place, ignore_errors=True)
    if kind in FOLDERS:
        inside = place / FOLDERS[kind][0]
        shutil.copytree(folder / kind, inside)
        changed, target = inside / source.relative_to(folder / kind), place
    else:
        place.mkdir()
        changed = target = place / FILES[kind]
    changed.write_bytes(mutated(source.read_bytes(), draw))
    began = time.process_time()
    try:
        READERS[kind](target)
    except ConkiError as error:
        return f"finding: a message of several lines: {error!r}" if "\n" in str(error) else f"error: {error}"
    except BaseException:
        return f"finding: {traceback.format_exc()}"
    seconds = time.process_time() - began
    return f"finding: {seconds:.1f} seconds of computing" if seconds > SECONDS else ""


def _serve(folder: Path) -> None:
    import torch

    import conki_cli.experiments.execution  # noqa: F401

    torch.set_num_threads(1)
    for kind in READERS:
        outcome(folder, kind, -1)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        kind, seed = json.loads(line)
        sys.stdout.write(json.dumps(outcome(folder, kind, seed)) + "\n")
        sys.stdout.flush()


@dataclass
class Worker:
    """The worker, seen from the tests; started again when it has ended."""

    folder: Path
    process: subprocess.Popen[str] | None = None
    slowest: float = 0.0

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", __file__, str(self.folder)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=env)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def outcome(self, kind: str, seed: int) -> str:
        """Return what came out of a mutated file."""
        self.process = self.process or self._started()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        began = time.monotonic()
        self.process.stdin.write(json.dumps([kind, seed]) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], STUCK)
        line = self.process.stdout.readline() if ready else ""
        self.slowest = max(self.slowest, time.monotonic() - began)
        if line:
            return str(json.loads(line))
        found = "a crash" if ready else f"no answer within {STUCK:g} seconds"
        self.close()
        return f"finding: {found}"

    def close(self) -> None:
        """End the worker."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
