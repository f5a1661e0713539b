"""The 74 columns of sound, in COVAREP's order, 100 frames a second from 16 kHz mono.

They are estimates of our own, after the papers that COVAREP follows, and not COVAREP's output. Where a frame has no
voice, the columns about the voice are 0. Sound is read from a file in pieces of fixed length with some of the sound
around them, so memory does not grow with the length of a clip and results do not depend on how it was read.

Axes: N samples, T frames.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.glottis import source_of
from conki_cli.data.extraction.pitch import HOP, RATE, Array, track_pitch
from conki_cli.data.extraction.spectra import NUM_CEPSTRA, NUM_DEVIATIONS, NUM_MEANS, spectra_of

SOUND_VERSION = 2
"""Raised whenever a number that comes out changes."""
SOUND_RATE = RATE / HOP
"""Frames per second."""
SOUND_COLUMNS = (
    *("F0", "VUV", "NAQ", "QOQ", "H1H2", "PSP", "MDQ", "peakSlope", "Rd", "Rd_conf", "creak"),
    *(f"MCEP_{number}" for number in range(NUM_CEPSTRA)),
    *(f"HMPDM_{number}" for number in range(NUM_MEANS)),
    *(f"HMPDD_{number}" for number in range(NUM_DEVIATIONS)),
)

_PIECE = 1000  # frames: 10 s
_MARGIN = 50  # frames of context on either side
_SHORTEST = 2  # frames that can be analysed: 20 ms
_LOUD_SHARE = 0.98  # of the frames' peaks; a percentile, since one pop would be the maximum
_STEPS_PER_OCTAVE = 8
_LOWEST_LEVEL = 2.0**-14  # below this a clip is silent: -84 dB


class Loudness:
    """A robust maximum of the absolute signal, from a histogram of the peaks of 10 ms; takes sound piece by piece."""

    def __init__(self) -> None:
        self._counts = np.zeros(32 * _STEPS_PER_OCTAVE, dtype=np.int64)  # of octaves below 1
        self._rest = np.zeros(0, dtype=np.float32)

    def take(self, signal: npt.NDArray[np.float32]) -> None:
        """Take further samples, [N]."""
        joined = np.concatenate([self._rest, signal])
        whole = len(joined) // HOP * HOP
        self._rest = joined[whole:]
        peaks = np.abs(joined[:whole].reshape(-1, HOP) - joined[:whole].reshape(-1, HOP).mean(axis=1, keepdims=True))
        height = np.clip(peaks.max(axis=1, initial=0.0), 2.0**-31, 1.0)
        bins = (-_STEPS_PER_OCTAVE * np.log2(height)).astype(np.int64)
        self._counts += np.bincount(bins, minlength=len(self._counts))[: len(self._counts)]

    @property
    def level(self) -> float:
        """The peak that 98 % of the stretches of 10 ms do not exceed; 0 where all is silence."""
        total = int(self._counts.sum())
        if not total:
            return 0.0
        loudest = np.cumsum(self._counts) > (1.0 - _LOUD_SHARE) * total
        level = float(2.0 ** (-(int(loudest.argmax()) + 0.5) / _STEPS_PER_OCTAVE))
        return level if level > _LOWEST_LEVEL else 0.0


def num_sound_frames(num_samples: int) -> int:
    """Return T; what is shorter than 20 ms has no frames."""
    count = num_samples // HOP
    return count if count >= _SHORTEST else 0


def sound_features(
    path: Path, level: float, progress: Callable[[float], None] = lambda seconds: None
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the columns of a file of float32 samples at 16 kHz, piece by piece, [T, 74] together.

    Args:
        path: samples in the machine's byte order, without a header.
        level: of the whole file, as `Loudness` has it.
        progress: told the seconds that were finished.
    """
    num_samples = path.stat().st_size // 4
    num_frames = num_sound_frames(num_samples)
    for start in range(0, num_frames, _PIECE):
        stop = min(start + _PIECE, num_frames)
        first, last = max(0, start - _MARGIN), min(num_frames, stop + _MARGIN)
        count = min((last - first) * HOP, num_samples - first * HOP)
        signal = np.fromfile(path, dtype="=f4", count=count, offset=4 * first * HOP).astype(np.float64)
        yield sound_columns(signal, level)[start - first : stop - first].astype(np.float32)
        progress((stop - start) / SOUND_RATE)


def sound_columns(signal: Array, level: float) -> Array:
    """Compute the columns of a signal [N] at 16 kHz, [T, 74]."""
    num_frames = num_sound_frames(len(signal))
    signal = _without_offset(np.nan_to_num(np.clip(signal, -4.0, 4.0)))
    pitch = track_pitch(signal, num_frames, level)
    source, spectra = source_of(signal, pitch), spectra_of(signal, pitch)
    single = (pitch, pitch > 0, source.naq, source.qoq, source.h1h2, source.psp, source.mdq, source.peak_slope)
    rest = (spectra.rd, spectra.rd_confidence, np.where(level > 0, source.creak, 0.0))
    columns = np.stack([*single, *rest], axis=1)
    return np.concatenate([columns, spectra.cepstra, spectra.means, spectra.deviations], axis=1)


def _without_offset(signal: Array) -> Array:
    """Remove what lies below 30 Hz, forwards and backwards, so that nothing is delayed."""
    from scipy.signal import butter, sosfiltfilt

    sections = butter(2, 30.0, "highpass", fs=RATE, output="sos")
    return np.asarray(sosfiltfilt(sections, signal, padlen=min(len(signal) - 1, RATE // 10)))
