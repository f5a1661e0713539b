"""Spectral columns of sound: warped cepstrum, phase distortion of the harmonics, and the fit of Rd.

The envelope is the spectrum of a frame, joined between harmonics where it is voiced. Its logarithm, on a frequency axis
that is warped as hearing is, gives the cepstrum. The phases of the harmonics, without those that the envelope implies
(minimum phase), give the phase distortion of Degottex (2010): PD_k = theta_{k+1} - theta_k - theta_1, which does not
change when the frame moves in time. Rd is the pulse of the Liljencrants-Fant model whose phase distortion comes
nearest.

Axes: T frames, H harmonics, B linear frequency bins from 0 to 8 kHz, C coefficients or warped bands, R values of Rd.
"""

import functools
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.pitch import RATE, Array, centres_of, frames_around

NUM_CEPSTRA = 25
NUM_MEANS = 25
NUM_DEVIATIONS = 13
WARP = 0.42
"""Warping of the frequency axis: at 16 kHz, 0.42 is close to the mel scale."""
RD_GRID = np.arange(0.3, 2.71, 0.1).round(2)

_BINS = 257  # of the envelope: 31.25 Hz apart
_FLOOR = 1e-7  # amplitude of the envelope, so that silence has a logarithm
_UNVOICED_WIDTH = 400  # samples of the window where there is no pitch, 25 ms
_PITCH_CLASSES = ((90.0, 60.0), (140.0, 90.0), (220.0, 140.0), (1e9, 220.0))
"""Pitch below the first number: the window holds four periods of the second."""
_AROUND = 4  # frames on either side over which phase distortion is averaged
_RD_HARMONICS = 10

Complex = npt.NDArray[np.complex128]
_Kind = TypeVar("_Kind", np.float64, np.complex128)


@dataclass(frozen=True, eq=False)
class Spectra:
    """Columns of a stretch of sound: cepstra [T, 25], means [T, 25], deviations [T, 13], rd [T], rd_confidence [T]."""

    cepstra: Array
    means: Array
    deviations: Array
    rd: Array
    rd_confidence: Array


def spectra_of(signal: Array, pitch: Array) -> Spectra:
    """Compute the spectral columns of every frame of a signal [N] whose pitch is known, [T]."""
    num_frames = len(pitch)
    log_envelope = np.full((num_frames, _BINS), np.log(_FLOOR))
    distortion = np.zeros((num_frames, _BINS), dtype=np.complex128)
    low = np.zeros((num_frames, _RD_HARMONICS), dtype=np.complex128)
    centres = centres_of(num_frames)
    unvoiced = np.flatnonzero(pitch == 0)
    if len(unvoiced):
        log_envelope[unvoiced] = _noise_envelope(signal, centres[unvoiced])
    above = 0.0
    for highest, lowest in _PITCH_CLASSES:
        rows = np.flatnonzero((pitch > above) & (pitch <= highest))
        above = highest
        if len(rows):
            width = int(4 * RATE / lowest) | 1
            spectrum = centred_spectrum(frames_around(signal, centres[rows], width))
            log_envelope[rows], distortion[rows], low[rows] = _voiced_columns(spectrum, pitch[rows])
    mean, length = _local_mean(distortion, pitch > 0)
    rd, confidence = fit_rd(low)
    return Spectra(
        cepstra=cepstra_of(log_envelope),
        means=np.where((pitch > 0)[:, None], np.angle(mean[:, _band_bins(NUM_MEANS)]), 0.0),
        deviations=np.where((pitch > 0)[:, None], _deviation(length[:, _band_bins(NUM_DEVIATIONS)]), 0.0),
        rd=rd,
        rd_confidence=confidence,
    )


def warped(frequency: Array) -> Array:
    """Return angular frequencies in [0, pi] on the warped axis."""
    return np.asarray(frequency + 2.0 * np.arctan(WARP * np.sin(frequency) / (1.0 - WARP * np.cos(frequency))))


def cepstra_of(log_envelope: Array) -> Array:
    """Return c_k = 1/pi times the integral of log E(w) cos(k W) dW over the warped axis W, [T, 25].

    Args:
        log_envelope: natural logarithm of the amplitude at B linear frequencies from 0 to half the rate, [T, B].
    """
    return np.asarray(log_envelope @ _cosines(log_envelope.shape[1]))


@functools.cache
def _cosines(num_bins: int) -> Array:
    """Return the weights [B, C] of the integral by the trapezoid rule."""
    axis = warped(np.linspace(0.0, np.pi, num_bins))  # [B]
    steps = np.diff(axis)
    weights = np.zeros(num_bins)
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    return np.asarray(np.cos(axis[:, None] * np.arange(NUM_CEPSTRA)) * weights[:, None] / np.pi)


@functools.cache
def _band_bins(count: int) -> npt.NDArray[np.int64]:
    """Return the linear bins nearest to the centres of bands that are equally wide on the warped axis, [C]."""
    axis = warped(np.linspace(0.0, np.pi, _BINS))
    return np.asarray(np.abs(axis[None] - (np.arange(count)[:, None] + 0.5) * np.pi / count).argmin(axis=1))


def _noise_envelope(signal: Array, centres: npt.NDArray[np.int64]) -> Array:
    """Return the smoothed log spectrum of frames without pitch, [T, B]."""
    window = np.hanning(_UNVOICED_WIDTH)
    frames = frames_around(signal, centres, _UNVOICED_WIDTH)
    power = np.abs(np.fft.rfft(frames * (2.0 / window.sum()) * window, 2 * (_BINS - 1), axis=1)) ** 2
    smooth = np.copy(power)
    for shift in range(1, 4):  # 7 bins: 200 Hz
        smooth += np.concatenate([power[:, shift:0:-1], power[:, :-shift]], axis=1)
        smooth += np.concatenate([power[:, shift:], power[:, -2 : -2 - shift : -1]], axis=1)
    return np.asarray(0.5 * np.log(np.maximum(smooth / 7.0, _FLOOR**2)))


def centred_spectrum(frames: Array) -> Complex:
    """Return the spectrum of windowed frames with time 0 at their centre, [T, F]; bins lie close enough to join."""
    from scipy.fft import next_fast_len

    width = frames.shape[1]
    size = 2 * int(next_fast_len(2 * width, real=True))
    window = np.blackman(width)
    windowed = frames * (2.0 / window.sum()) * window
    buffer = np.zeros((len(frames), size))
    half = width // 2
    buffer[:, : width - half] = windowed[:, half:]
    buffer[:, size - half :] = windowed[:, :half]
    return np.fft.rfft(buffer, axis=1)


def _voiced_columns(spectrum: Complex, pitch: Array) -> tuple[Array, Complex, Complex]:
    """Return log envelope [T, B], phase distortion as unit numbers [T, B], and that of the lowest harmonics."""
    count = int(RATE / 2 / pitch.min())  # H, of the lowest voice here
    numbers, last = np.arange(1, count + 1), spectrum.shape[1] - 1
    place = pitch[:, None] * numbers * (last / (RATE / 2))  # [T, H], in bins
    exists = place < last - 1
    left = np.minimum(place.astype(np.int64), last - 1)
    share = np.where(exists, place - left, 0.0)
    at = np.take_along_axis
    harmonics = (1 - share) * at(spectrum, left, axis=1) + share * at(spectrum, left + 1, axis=1)
    log_amplitude = np.log(np.maximum(np.abs(harmonics), _FLOOR))
    num_harmonics = exists.sum(axis=1)  # [T]
    bins = np.arange(_BINS) * (RATE / 2 / (_BINS - 1))  # Hz
    envelope = _between(log_amplitude, bins[None] / pitch[:, None] - 1, num_harmonics)
    theta = np.angle(harmonics) - _at_harmonics(minimum_phase(envelope), pitch, numbers)
    turn = np.exp(1j * theta)  # [T, H]
    distortion = turn[:, 1:] * np.conj(turn[:, :-1]) * np.conj(turn[:, :1])  # [T, H - 1]
    spread = _between(distortion, bins[None] / pitch[:, None] - 1.5, np.maximum(num_harmonics - 1, 1))
    low = np.zeros((len(pitch), _RD_HARMONICS), dtype=np.complex128)
    low[:, : min(count - 1, _RD_HARMONICS)] = distortion[:, :_RD_HARMONICS]
    return envelope, spread, low


def _between(values: npt.NDArray[_Kind], place: Array, counts: npt.NDArray[np.int64]) -> npt.NDArray[_Kind]:
    """Interpolate along the last axis at places [T, B]; beyond the first and the last of `counts` they stay equal."""
    place = np.clip(place, 0.0, (counts - 1)[:, None])
    left = place.astype(np.int64)
    right = np.minimum(left + 1, (counts - 1)[:, None])
    share = place - left
    at = np.take_along_axis
    return np.asarray((1 - share) * at(values, left, axis=1) + share * at(values, right, axis=1))


def minimum_phase(log_envelope: Array) -> Array:
    """Return the phase of the minimum-phase filter with a given log amplitude, [T, B]."""
    full = np.concatenate([log_envelope, log_envelope[:, -2:0:-1]], axis=1)
    cepstrum = np.fft.ifft(full, axis=1).real
    size = full.shape[1]
    cepstrum[:, 1 : size // 2] *= 2.0
    cepstrum[:, size // 2 + 1 :] = 0.0
    return np.asarray(np.fft.fft(cepstrum, axis=1).imag[:, : log_envelope.shape[1]])


def _at_harmonics(phase: Array, pitch: Array, numbers: npt.NDArray[np.int64]) -> Array:
    place = pitch[:, None] * numbers * ((_BINS - 1) / (RATE / 2))
    return np.asarray(_between(phase, place, np.full(len(pitch), _BINS)))


def _local_mean(distortion: Complex, is_voiced: npt.NDArray[np.bool_]) -> tuple[Complex, Array]:
    """Average unit numbers over neighbouring voiced frames; return the means and their lengths, [T, B]."""
    total, count = np.zeros_like(distortion), np.zeros(len(distortion))
    weights = is_voiced.astype(np.float64)
    for shift in range(-_AROUND, _AROUND + 1):
        into = slice(max(0, shift), len(distortion) + min(0, shift))
        of = slice(max(0, -shift), len(distortion) + min(0, -shift))
        if into.start < into.stop:
            total[into] += distortion[of] * weights[of, None]
            count[into] += weights[of]
    mean = total / np.maximum(count, 1.0)[:, None]
    return mean, np.abs(mean)


def _deviation(length: Array) -> Array:
    """Return the circular standard deviation of phases whose mean vector has a length, in radians."""
    return np.sqrt(-2.0 * np.log(np.clip(length, 1e-3, 1.0)))


def fit_rd(distortion: Complex) -> tuple[Array, Array]:
    """Find the glottal pulse whose phase distortion is nearest, [T, H] of the lowest harmonics; 0 where there is none.

    Returns:
        Rd [T], and the mean cosine of what differs, from 0 (nothing in common) to 1.
    """
    size = np.abs(distortion)
    unit = np.where(size > 0, distortion / np.maximum(size, 1e-12), 0.0)
    likeness = (unit @ np.conj(_pulse_distortion()).T).real / np.maximum((size > 0).sum(axis=1), 1)[:, None]  # [T, R]
    best = likeness.argmax(axis=1)
    is_voiced = (size > 0).any(axis=1)
    confidence = np.clip(likeness[np.arange(len(best)), best], 0.0, 1.0)
    return np.where(is_voiced, RD_GRID[best], 0.0), np.where(is_voiced, confidence, 0.0)


@functools.cache
def _pulse_distortion() -> Complex:
    """Return the phase distortion of the model's pulses as unit numbers, [R, H]."""
    rows = []
    for rd in RD_GRID:
        size = 512
        harmonics = np.fft.rfft(glottal_pulse(float(rd), size))[1 : size // 4 + 1]  # [H]
        log_amplitude = np.log(np.abs(harmonics))
        envelope = np.interp(np.arange(_BINS) / 2.0, np.arange(1, len(harmonics) + 1), log_amplitude)[None]
        theta = np.angle(harmonics) - minimum_phase(envelope)[0, 2 : 2 * len(harmonics) + 1 : 2][: len(harmonics)]
        turn = np.exp(1j * theta)
        rows.append((turn[1:] * np.conj(turn[:-1]) * np.conj(turn[0]))[:_RD_HARMONICS])
    return np.array(rows)


def glottal_pulse(rd: float, size: int) -> Array:
    """Return one period of the derivative of glottal flow of the Liljencrants-Fant model, [size].

    The shape follows from Rd by the regressions of Fant (1995); the strongest excitation has the value -1.
    """
    ra, rk = (-1.0 + 4.8 * rd) / 100.0, (22.4 + 11.8 * rd) / 100.0
    rg = rk * (0.5 + 1.2 * rk) / (4.0 * (0.11 * rd - ra * (0.5 + 1.2 * rk)))
    te, ta = (1.0 + rk) / (2.0 * rg), max(ra, 1e-3)
    omega = 2.0 * np.pi * rg  # period 1; the flow peaks at 1 / (2 rg)
    epsilon = 1.0 / ta
    for _ in range(60):  # epsilon ta = 1 - exp(-epsilon (1 - te))
        epsilon = (1.0 - np.exp(-epsilon * (1.0 - te))) / ta
    time = np.arange(size) / size
    closing = -(np.exp(-epsilon * (time - te)) - np.exp(-epsilon * (1.0 - te))) / (epsilon * ta)

    def pulse(alpha: float) -> Array:
        opening = -np.exp(alpha * (time - te)) * np.sin(omega * time) / np.sin(omega * te)
        return np.asarray(np.where(time <= te, opening, closing))

    low, high = -50.0, 200.0
    for _ in range(80):  # alpha: the flow of a period comes back to where it began
        middle = (low + high) / 2.0
        low, high = (low, middle) if pulse(middle).sum() < 0 else (middle, high)
    return pulse((low + high) / 2.0)
