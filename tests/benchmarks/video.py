"""Speed and memory of extraction: `python -m tests.benchmarks.video [CLIP]`.

Prints how many times faster than real time sound and faces are on one core, how much longer a face takes than the bare
calls of its models, and the highest memory of a worker for a short and a long clip. Needs the extra `video`; faces need
a clip that shows one.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from conki_cli.data.extraction.decode import Picture, Seen, Span, opened, pictures_of
from conki_cli.data.extraction.face_models import IRIS, MESH, find_face_models
from conki_cli.data.extraction.landmarks import FaceReader, Region, _Network
from conki_cli.data.extraction.pitch import RATE
from conki_cli.data.extraction.sound import sound_columns
from conki_cli.data.extraction.tracking import FaceTracker

_ONE = """
import sys
from pathlib import Path
from conki_cli.data.extraction.clip import Extractors
from conki_cli.data.extraction.decode import Span
from conki_cli.data.extraction.recipe import Recipe
Extractors(Recipe(vision="none")).extract(Path(sys.argv[1]), Span(), Path(sys.argv[2]), lambda seconds: None)
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def main() -> None:
    """Measure, and print."""
    noise = np.random.default_rng(1).normal(size=20 * RATE) * 0.01
    buzz = sum(np.cos(2 * np.pi * 130 * k * np.arange(20 * RATE) / RATE) / k for k in range(1, 20)) * 0.1
    sound_columns(noise[:RATE], 0.3)
    began = time.process_time()
    sound_columns(buzz + noise, 0.3)
    print(f"sound: {20 / (time.process_time() - began):.1f} times real time")
    if len(sys.argv) > 1:
        _faces(Path(sys.argv[1]))
    for seconds in (10, 600):
        print(f"memory of {seconds} s of sound: {_memory(seconds)} MiB")


def _faces(path: Path) -> None:
    reader = FaceReader(find_face_models())
    seen, began, rows = Seen(), time.process_time(), 0
    tracker = FaceTracker(reader)
    with opened(path) as container:
        for moment, picture in pictures_of(container, Span(), 10.0, seen):
            tracker.take(moment, picture)
            rows += 1
    spent = time.process_time() - began
    print(f"decoding and faces: {rows / 10 / spent:.1f} times real time, {1000 * spent / rows:.1f} ms a row")
    region = next(region for region in tracker.finished().regions if region is not None)
    _read_against_bare(reader, picture, region)


def _read_against_bare(reader: FaceReader, picture: Picture, region: Region) -> None:
    """Print how long reading a face takes, and the bare calls: the mesh once, the eye's model for each eye."""
    models = find_face_models()
    networks = [_Network(models, MESH), _Network(models, IRIS), _Network(models, IRIS)]
    blanks = [np.zeros((1, network.side, network.side, 3), dtype=np.float32) for network in networks]
    bare, read = [], []
    for _ in range(200):  # by turns, so that what else runs on the machine slows both
        began = time.process_time()
        for network, blank in zip(networks, blanks, strict=True):
            network.run(blank)
        bare.append(time.process_time() - began)
        began = time.process_time()
        reader.read(picture, region)
        read.append(time.process_time() - began)
    one, other = (1000 * float(np.median(times)) for times in (read, bare))
    print(f"one face: {one:.2f} ms, the bare calls of its models {other:.2f} ms: {one / other:.2f} times as long")


def _memory(seconds: int) -> int:
    import wave

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            time_ = np.arange(RATE) / RATE
            second = (8000 * np.sin(2 * np.pi * 120 * time_) + 4000 * np.sin(2 * np.pi * 240 * time_)).astype("<i2")
            for _ in range(seconds):
                file.writeframes(second.tobytes())
        command = [sys.executable, "-c", _ONE, str(path), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
