"""Fundamental frequency and voicing: autocorrelation candidates, then the cheapest path through them.

The candidates are those of Boersma (1993), "Accurate short-term analysis of the fundamental frequency": maxima of the
autocorrelation of the windowed signal divided by that of the window. The path is found by dynamic programming.

Axes: N samples, T frames, L lags, K candidates of a frame; candidate 0 is "unvoiced".
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

RATE = 16_000
"""Samples per second of everything that is analysed."""
HOP = 160
"""Samples between frames: 100 frames a second."""
LOWEST, HIGHEST = 60.0, 500.0  # Hz

_WINDOW = 3 * RATE // int(LOWEST)  # three periods of the lowest pitch
_SIZE = 1080  # of the Fourier transforms: at least the window and the longest lag
_LAGS = int(RATE / LOWEST) + 3  # L
_CANDIDATES = 8
_VOICING = 0.45  # autocorrelation above which a frame is voiced
_SILENCE = 0.03  # peak of a frame, relative to the clip's level, below which it is silent
_OCTAVE = 0.01  # prefers the higher of two equal candidates
_JUMP = 0.35  # per octave, between neighbouring frames
_CHANGE = 0.14  # between voiced and unvoiced


def frames_around(signal: Array, centres: npt.NDArray[np.int64], width: int) -> Array:
    """Cut windows out of a signal, with zeros beyond its ends.

    Returns:
        [len(centres), width]; the centre lies at column `width // 2`.
    """
    padded = np.pad(signal, (width, width))
    views = np.lib.stride_tricks.sliding_window_view(padded, width)
    return np.ascontiguousarray(views[centres + width - width // 2])


def centres_of(num_frames: int) -> npt.NDArray[np.int64]:
    """Return the sample at the centre of every frame, [T]."""
    return np.arange(num_frames, dtype=np.int64) * HOP + HOP // 2


def track_pitch(signal: Array, num_frames: int, level: float) -> Array:
    """Estimate the fundamental frequency of every frame.

    Args:
        signal: [N] at `RATE`, without offset.
        num_frames: T.
        level: a robust maximum of the absolute signal over the whole clip.

    Returns:
        Hertz, [T]; 0 where a frame is unvoiced.
    """
    if level <= 0.0 or not num_frames:
        return np.zeros(num_frames)
    frequencies, strengths = _candidates(signal, num_frames, level)
    path = _cheapest_path(frequencies, strengths)
    return np.asarray(frequencies[np.arange(num_frames), path])


def _candidates(signal: Array, num_frames: int, level: float) -> tuple[Array, Array]:
    """Return frequency and strength of the candidates of every frame, [T, K]; column 0 is "unvoiced"."""
    window = np.hanning(_WINDOW)
    frames = frames_around(signal, centres_of(num_frames), _WINDOW)  # [T, window]
    frames -= frames.mean(axis=1, keepdims=True)
    peaks = np.abs(frames).max(axis=1)  # [T]
    correlation, shape = (autocorrelation(values, _SIZE, _LAGS) for values in (frames * window, window[None]))
    correlation = correlation / shape  # [T, L]
    first, last = int(RATE / HIGHEST), int(RATE / LOWEST) + 1
    middle = correlation[:, first : last + 1]
    left, right = correlation[:, first - 1 : last], correlation[:, first + 1 : last + 2]
    is_peak = (middle > left) & (middle >= right)
    curve = left - 2 * middle + right
    shift = np.where(is_peak, 0.5 * (left - right) / np.where(curve < 0, curve, -1.0), 0.0)  # parabola through three
    height = np.where(is_peak, middle - 0.25 * (left - right) * shift, -np.inf)
    found = RATE / (np.arange(first, last + 1) + shift)  # Hz, [T, L]
    strength = np.minimum(height, 1.0) - _OCTAVE * np.log2(HIGHEST / found)
    best = np.argsort(-strength, axis=1, kind="stable")[:, : _CANDIDATES - 1]
    frequencies = np.zeros((num_frames, _CANDIDATES))
    strengths = np.full((num_frames, _CANDIDATES), -1e3)
    frequencies[:, 1:] = np.take_along_axis(found, best, axis=1)
    strengths[:, 1:] = np.maximum(np.take_along_axis(strength, best, axis=1), -1e3)
    quiet = np.maximum(0.0, 2.0 - (peaks / level) * (1.0 + _VOICING) / _SILENCE)
    strengths[:, 0] = _VOICING + quiet
    return frequencies, strengths


def autocorrelation(frames: Array, size: int, num_lags: int) -> Array:
    """Return the autocorrelation of every row divided by its value at lag 0, [T, L].

    Args:
        frames: [T, N].
        size: of the Fourier transforms.
        num_lags: L.
    """
    spectrum = np.fft.rfft(frames, size, axis=1)
    values = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, size, axis=1)[:, :num_lags]
    return np.asarray(values / np.maximum(values[:, :1], 1e-12))


def _cheapest_path(frequencies: Array, strengths: Array) -> npt.NDArray[np.int64]:
    """Choose one candidate per frame, [T], so that strengths are high and neighbours similar."""
    num_frames, count = frequencies.shape
    is_voiced = frequencies > 0
    octaves = np.log2(np.where(is_voiced, frequencies, 1.0))
    total = -strengths[0]
    origin = np.zeros((num_frames, count), dtype=np.int64)
    columns = np.arange(count)
    for t in range(1, num_frames):
        both = is_voiced[t - 1][:, None] & is_voiced[t][None]
        cost = np.where(both, _JUMP * np.abs(octaves[t - 1][:, None] - octaves[t][None]), 0.0)
        cost += _CHANGE * (is_voiced[t - 1][:, None] != is_voiced[t][None])
        reached = total[:, None] + cost  # [K before, K now]
        origin[t] = reached.argmin(axis=0)
        total = reached[origin[t], columns] - strengths[t]
    path = np.zeros(num_frames, dtype=np.int64)
    path[-1] = total.argmin()
    for t in range(num_frames - 1, 0, -1):
        path[t - 1] = origin[t, path[t]]
    return path
