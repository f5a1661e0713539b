"""Memory of extraction for a short and a long clip: `python -m tests.benchmarks.video_memory [SECONDS ...]`.

Clips of 10 and 600 seconds, or as given, with the same content again and again (a drawn face, a synthetic voice), are
extracted as a worker does, sound and faces. Prints the highest resident memory of each process, and how long it took.
Needs the extra `video` and the model files of faces.
"""

import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from conki_cli.data.sources.demo_videos import drawn_face, voice

_ONE = """
import sys
from pathlib import Path
from conki_cli.data.extraction.clip import Extractors
from conki_cli.data.extraction.decode import Span
from conki_cli.data.extraction.recipe import Recipe
found = Extractors(Recipe()).extract(Path(sys.argv[1]), Span(), Path(sys.argv[2]), lambda seconds: None)
print(found.audio_frames, found.vision_frames, found.face_frames)
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
_FPS, _RATE = 10, 16_000


def main() -> None:
    """Measure, and print."""
    for seconds in [int(word) for word in sys.argv[1:]] or [10, 600]:
        with tempfile.TemporaryDirectory() as folder:
            clip = _write(Path(folder) / "clip.mkv", seconds)
            began = time.monotonic()
            command = [sys.executable, "-c", _ONE, str(clip), folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            *counts, peak = done.stdout.split()
            spent = time.monotonic() - began
        print(f"{seconds:5d} s: {float(peak):6.1f} MiB at most, {spent:.0f} s; sound, pictures, faces: {counts}")


def _write(path: Path, seconds: int) -> Path:
    """Write a clip that repeats a second of pictures and sound."""
    faces = [drawn_face(0.4 * abs(np.sin(np.pi * n / _FPS)), 0.3, 0.03 * np.sin(n)) for n in range(_FPS)]
    said = (np.clip(np.resize(voice(0.2, 0.1), _RATE), -1, 1) * 32767).astype(np.int16)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=_FPS)
        video.height, video.width = faces[0].shape[:2]
        video.pix_fmt, video.bit_rate = "yuv420p", 900_000
        audio = container.add_stream("pcm_s16le", rate=_RATE, layout="mono")
        for second in range(seconds):
            for number, face in enumerate(faces):
                frame = av.VideoFrame.from_ndarray(face, format="rgb24")
                frame.pts, frame.time_base = second * _FPS + number, Fraction(1, _FPS)
                container.mux(video.encode(frame))
            part = av.AudioFrame.from_ndarray(said[None], format="s16", layout="mono")
            part.sample_rate, part.pts, part.time_base = _RATE, second * _RATE, Fraction(1, _RATE)
            container.mux(audio.encode(part))
        container.mux(video.encode())
        container.mux(audio.encode(None))
    return path


if __name__ == "__main__":
    main()
