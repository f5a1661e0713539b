"""A few seconds of video made on the spot: a drawn face that moves its mouth, and a synthetic voice.

Happy clips have a high, lively voice, a wide mouth and a smile; unhappy ones the opposite. So a model can learn
something from them, and the whole way from videos to scores can be seen without any data.

Axes: N samples; H, W rows and columns of a picture.
"""

import csv
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.decode import Picture
from conki_cli.data.extraction.libraries import library
from conki_cli.data.extraction.pitch import RATE
from conki_cli.data.extraction.spectra import glottal_pulse
from conki_cli.system.files import write_text

SIZES = {"train": 20, "valid": 6, "test": 6}
"""Clips of each split."""

_SECONDS, _FPS = 1.2, 12
_WIDTH, _HEIGHT, _FINER = 320, 240, 2  # pictures are drawn larger and scaled down
_SYLLABLES = 4.0  # per second
_SKIN, _SHADE, _DARK = (222, 178, 150), (208, 162, 136), (60, 40, 32)


def write_demo_videos(folder: Path) -> None:
    """Write label.csv and Raw/<video>/<clip>.mp4; the same bits of pictures and sound each time."""
    rng = np.random.default_rng(7)
    lines = io.StringIO()
    table = csv.writer(lines)
    table.writerow(["video_id", "clip_id", "text", "label", "mode"])
    for split, count in SIZES.items():
        for number in range(count):
            score = float(np.round(-3 + 6 * (number + 0.5) / count + rng.normal(0, 0.3), 1))
            score = float(np.clip(score, -3, 3))
            name = f"{split}{number:02d}"
            write_clip(folder / "Raw" / name / "1.mp4", score, rng)
            table.writerow([name, "1", _text_of(score), f"{score:.1f}", split])
    write_text(folder / "label.csv", lines.getvalue())


def _text_of(score: float) -> str:
    words = ("awful", "bad", "dull", "fine", "good", "great", "wonderful")
    return f"the film was {words[round(score) + 3]}"


def write_clip(path: Path, score: float, rng: np.random.Generator) -> None:
    """Write one clip whose voice and face show a score from -3 to 3."""
    av = library("av")
    mood = score / 3 + float(rng.normal(0, 0.15))
    phase = float(rng.uniform(0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=_FPS)
        video.width, video.height, video.pix_fmt, video.bit_rate = _WIDTH, _HEIGHT, "yuv420p", 900_000
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for number in range(round(_SECONDS * _FPS)):
            opening = float(_opening(np.array([number / _FPS]), phase)[0])
            picture = drawn_face(opening * (0.55 + 0.25 * mood), mood, tilt=0.04 * np.sin(number / 5 + phase))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        _write_voice(container, audio, voice(mood, phase))


def _opening(seconds: npt.NDArray[np.float64], phase: float) -> npt.NDArray[np.float64]:
    """Return how far the mouth is open, from 0 to 1."""
    return np.asarray(np.maximum(0.0, np.sin(2 * np.pi * (_SYLLABLES * seconds + phase)))) ** 0.7


def voice(mood: float, phase: float) -> npt.NDArray[np.float32]:
    """Return a voice that says vowels, [N]; a good mood raises its pitch and the range of it."""
    from scipy.signal import lfilter

    seconds = np.arange(round(_SECONDS * RATE)) / RATE
    pitch = 150 + 45 * mood + (12 + 8 * mood) * np.sin(2 * np.pi * 1.3 * seconds + phase)
    cycle = np.cumsum(pitch / RATE) % 1.0
    shape = glottal_pulse(1.0, 2048)
    signal = np.interp(cycle, np.arange(2048) / 2048, shape, period=1.0)
    for formant, width in ((650.0, 90.0), (1150.0, 110.0), (2500.0, 160.0)):
        radius, angle = np.exp(-np.pi * width / RATE), 2 * np.pi * formant / RATE
        signal = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], signal)
    signal = signal / np.abs(signal).max() * _opening(seconds, phase) * (0.35 + 0.1 * mood)
    return np.asarray(signal, dtype=np.float32)


def _write_voice(container: Any, stream: Any, signal: npt.NDArray[np.float32]) -> None:
    av = library("av")
    for start in range(0, len(signal), 1024):
        part = (np.clip(signal[start : start + 1024], -1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def drawn_face(opening: float, mood: float, tilt: float = 0.0) -> Picture:
    """Draw a face, [H, W, 3]: how far the mouth is open (0 to 1), how far its corners are up (-1 to 1), its tilt."""
    image, draw_on, filters = (library(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFilter"))
    width, height = _WIDTH * _FINER, _HEIGHT * _FINER
    canvas = image.new("RGB", (width, height), (96, 120, 140))
    pen = _Pen(draw_on.Draw(canvas), width / 2, height * 0.52, height * 0.36)
    pen.oval(0, -0.2, 0.85, 1.0, _DARK)
    pen.oval(0, 0, 0.74, 1.0, _SKIN)
    for side in (-1, 1):
        pen.oval(0.3 * side, -0.14, 0.2, 0.13, (200, 150, 125))
        pen.oval(0.3 * side, -0.13, 0.155, 0.08, (245, 245, 245))
        pen.oval(0.3 * side, -0.13, 0.075, 0.078, (70, 50, 35))
        pen.oval(0.3 * side, -0.13, 0.035, 0.036, (10, 10, 10))
        pen.line(((0.12 * side, -0.33), (0.28 * side, -0.39 - 0.03 * mood), (0.5 * side, -0.33)), 0.06, _DARK)
        pen.oval(0.07 * side, 0.25, 0.045, 0.025, (120, 70, 60))
    pen.shape(((-0.05, -0.15), (0.05, -0.15), (0.12, 0.2), (-0.12, 0.2)), _SHADE)
    lift, reach = 0.05 * mood, 0.27 + 0.05 * mood
    for thick, color in ((0.06, (176, 84, 84)), (0.012, (80, 25, 30))):
        half, rows = reach if thick > 0.02 else reach - 0.07, thick + 0.3 * opening
        top = ((-half, 0.52 - lift), (-half / 2, 0.52 - rows * 0.8), (0, 0.52 - rows), (half / 2, 0.52 - rows * 0.8))
        low = ((half, 0.52 - lift), (half / 2, 0.52 + rows * 0.8), (0, 0.52 + rows), (-half / 2, 0.52 + rows * 0.8))
        pen.shape((*top, *low), color)
    canvas = canvas.rotate(np.degrees(tilt), resample=image.Resampling.BILINEAR, fillcolor=(96, 120, 140))
    canvas = canvas.filter(filters.GaussianBlur(_FINER)).resize((_WIDTH, _HEIGHT), image.Resampling.LANCZOS)
    return np.asarray(canvas, dtype=np.uint8)


class _Pen:
    """Draws around the middle of a face, in its own unit of length."""

    def __init__(self, draw: Any, x: float, y: float, unit: float) -> None:
        self._draw, self._x, self._y, self._unit = draw, x, y, unit

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self._x + x * self._unit, self._y + y * self._unit

    def oval(self, x: float, y: float, width: float, height: float, color: tuple[int, int, int]) -> None:
        self._draw.ellipse([*self._at(x - width, y - height), *self._at(x + width, y + height)], fill=color)

    def line(self, points: tuple[tuple[float, float], ...], width: float, color: tuple[int, int, int]) -> None:
        self._draw.line([self._at(*point) for point in points], fill=color, width=max(1, int(width * self._unit)))

    def shape(self, points: tuple[tuple[float, float], ...], color: tuple[int, int, int]) -> None:
        self._draw.polygon([self._at(*point) for point in points], fill=color)
