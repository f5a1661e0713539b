"""Columns about the voice source: glottal flow by inverse filtering, wavelets, and slow pulses.

The flow comes from iterative adaptive inverse filtering (Alku 1992), frame by frame; what is measured on it are NAQ
(Alku 2002), QOQ, H1H2 and PSP (Alku 1997) of the period that ends nearest to the middle of the frame. MDQ and peak
slope (Kane and Gobl 2011, 2013) come from wavelets of one octave each. All are estimates from one microphone.

Axes: N samples, T frames, W samples of a frame, S octaves of wavelets.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.pitch import HOP, RATE, Array, autocorrelation, centres_of, frames_around

_WIDTH = 640  # W: 40 ms, two periods of the lowest voice and what the filters need before them
_TRACT_ORDER = 18
_SOURCE_ORDER = 4
_LEAK = 0.99  # of the integration
_OCTAVES = 6  # 8 kHz, 4 kHz, ... 250 Hz
_PSP_SIZE, _PSP_BINS = 2048, 60
_PSP_ERROR = 0.01
_ENVELOPE_RATE = 1000  # Hz
_CREAK_WINDOW = 128  # ms
_SHORT_LAGS, _LONG_LAGS = slice(2, 15), slice(16, 51)  # ms: usual voices, and 20 to 63 pulses a second


@dataclass(frozen=True, eq=False)
class Source:
    """Columns of a stretch of sound, [T] each; 0 where there is no voice (not `peak_slope` and `creak`)."""

    naq: Array
    qoq: Array
    h1h2: Array
    psp: Array
    mdq: Array
    peak_slope: Array
    creak: Array


def source_of(signal: Array, pitch: Array) -> Source:
    """Compute the columns of every frame of a signal [N] whose pitch is known, [T]."""
    num_frames, centres = len(pitch), centres_of(len(pitch))
    columns = {name: np.zeros(num_frames) for name in ("naq", "qoq", "h1h2", "psp", "mdq")}
    bands = _wavelet_bands(signal)
    voiced = np.flatnonzero(pitch > 0)
    residual = _residual(signal, num_frames)
    if len(voiced):
        frames = frames_around(signal, centres[voiced], _WIDTH)
        derivative = inverse_filter(frames - frames.mean(axis=1, keepdims=True))
        period = RATE / pitch[voiced]
        found = measure_flow(derivative, period)
        for name, values in found.items():
            columns[name][voiced] = values
        columns["mdq"][voiced] = _dispersion(residual, centres[voiced], period)
    return Source(**columns, peak_slope=_peak_slope(bands, centres), creak=np.asarray(creak_of(residual, num_frames)))


# ---- inverse filtering ----


def inverse_filter(frames: Array) -> Array:
    """Estimate the derivative of the glottal flow in frames, [T, W]."""
    window = np.hanning(frames.shape[1])
    first = _whitened(frames, predictor(frames * window, 1))
    flow = _integrated(_whitened(frames, predictor(first * window, _TRACT_ORDER)))
    source = predictor((flow - flow.mean(axis=1, keepdims=True)) * window, _SOURCE_ORDER)
    second = _integrated(_whitened(frames, source))
    tract = predictor((second - second.mean(axis=1, keepdims=True)) * window, _TRACT_ORDER)
    return _whitened(frames, tract)


def predictor(frames: Array, order: int) -> Array:
    """Return the prediction-error filters of frames by the autocorrelation method, [T, order + 1], the first is 1."""
    size = _fast_size(frames.shape[1] + order)
    spectrum = np.fft.rfft(frames, size, axis=1)
    correlation = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, size, axis=1)[:, : order + 1]
    error = correlation[:, 0] * (1.0 + 1e-9) + 1e-12  # [T]
    filters = np.zeros((len(frames), order + 1))
    filters[:, 0] = 1.0
    for step in range(1, order + 1):  # Levinson and Durbin, all frames at once
        reflection = -(filters[:, :step] * correlation[:, step:0:-1]).sum(axis=1) / error
        filters[:, 1 : step + 1] += reflection[:, None] * filters[:, step - 1 :: -1][:, :step]
        error *= np.maximum(1.0 - reflection**2, 1e-9)
    return filters


def _fast_size(least: int) -> int:
    from scipy.fft import next_fast_len

    return int(next_fast_len(least, real=True))


def _whitened(frames: Array, filters: Array) -> Array:
    result = np.copy(frames)
    for lag in range(1, filters.shape[1]):
        result[:, lag:] += filters[:, lag : lag + 1] * frames[:, :-lag]
    return result


def _integrated(frames: Array) -> Array:
    from scipy.signal import lfilter

    return np.asarray(lfilter([1.0], [1.0, -_LEAK], frames, axis=1))


def _residual(signal: Array, num_frames: int) -> Array:
    """Return the error of linear prediction of a signal [N], frame by frame."""
    frames = frames_around(signal, centres_of(num_frames), _WIDTH)
    filters = predictor(frames * np.hanning(_WIDTH), _TRACT_ORDER)
    first = _WIDTH // 2 - HOP // 2
    errors = _whitened(frames[:, first - _TRACT_ORDER : first + HOP], filters)[:, _TRACT_ORDER:]
    return np.ascontiguousarray(errors).reshape(-1)  # [T * HOP]


# ---- what is measured on the flow ----


def measure_flow(derivative: Array, period: Array) -> dict[str, Array]:
    """Measure the last whole period before the middle of frames.

    Args:
        derivative: of the glottal flow, [T, W].
        period: samples, [T].

    Returns:
        naq, qoq, h1h2 (dB) and psp, [T] each.
    """
    first, last = closures(derivative, period)
    flow = np.cumsum(derivative, axis=1)
    place = np.arange(derivative.shape[1])[None]
    inside = (place >= first[:, None]) & (place < last[:, None])
    length = (last - first).astype(np.float64)
    # A period begins and ends closed: what is left of a slope is taken out.
    start, stop = (np.take_along_axis(flow, where[:, None], axis=1) for where in (first, last))
    flow = flow - start - (stop - start) * (place - first[:, None]) / length[:, None]
    highest = np.where(inside, flow, -np.inf).max(axis=1)
    lowest = np.where(inside, flow, np.inf).min(axis=1)
    swing = np.maximum(highest - lowest, 1e-12)
    strongest = np.maximum(-np.where(inside, derivative, np.inf).min(axis=1), 1e-12)
    is_open = inside & (flow >= (lowest + 0.5 * swing)[:, None])
    pulse = np.where(inside, flow - lowest[:, None], 0.0)
    return {
        "naq": np.clip(swing / (strongest * length), 0.0, 1.0),
        "qoq": is_open.sum(axis=1) / length,
        "h1h2": _first_two_harmonics(derivative, period),
        "psp": spectral_parabola(pulse, length),
    }


def closures(derivative: Array, period: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where a period at the middle of each frame begins and ends, [T] each: two closures of the glottis."""
    size = derivative.shape[1]
    place, half = np.arange(size)[None], period[:, None] / 2.0
    one = np.where(np.abs(place - size // 2) <= half, derivative, np.inf).argmin(axis=1)
    direction = np.where(one >= 1.2 * period, -1, 1)  # of a slow voice, the period before may begin before the frame
    distance = (place - one[:, None]) * direction[:, None]
    near = (distance >= 1.6 * half) & (distance <= 2.4 * half)
    found = np.where(near, derivative, np.inf).argmin(axis=1)
    usual = np.clip(one + direction * period.round().astype(np.int64), 0, size - 1)
    other = np.where(near.any(axis=1), found, usual)
    return np.minimum(one, other), np.maximum(np.maximum(one, other), np.minimum(one, other) + 1)


def _first_two_harmonics(derivative: Array, period: Array) -> Array:
    """Return the level of the first harmonic of the flow over the second, in dB."""
    window = np.hanning(derivative.shape[1])
    time = np.arange(derivative.shape[1])[None]
    wave = np.exp(-2j * np.pi * time / period[:, None])  # [T, W]
    windowed = derivative * window
    first = (windowed * wave).sum(axis=1)
    second = (windowed * wave * wave).sum(axis=1)
    levels = (np.abs(first), np.abs(second) / 2.0)  # of the flow: divided by frequency
    return np.asarray(20.0 * np.log10(np.maximum(levels[0], 1e-12) / np.maximum(levels[1], 1e-12)))


def spectral_parabola(pulse: Array, length: Array) -> Array:
    """Fit a parabola to the low spectrum of one flow pulse, divided by that of a constant flow as long.

    Args:
        pulse: flow, 0 outside of its period, [T, W].
        length: of the period, [T].
    """
    bins = np.pi * np.arange(1, _PSP_BINS)[None] / _PSP_SIZE
    constant = np.concatenate([length[:, None], np.sin(bins * length[:, None]) / np.sin(bins)], axis=1)
    curve = _fitted_curvature(np.fft.rfft(pulse, _PSP_SIZE, axis=1)[:, :_PSP_BINS])
    steepest = _fitted_curvature(constant)
    return np.asarray(curve / np.where(steepest < 0, steepest, -1.0))


def _fitted_curvature(values: npt.NDArray[Any]) -> Array:
    """Return the curvature a of a k^2 + b fitted to the level in dB of the lowest bins, as far as a parabola fits."""
    count, spectrum = values.shape[1], np.abs(values)
    level = 20.0 * np.log10(np.maximum(spectrum / np.maximum(spectrum[:, :1], 1e-12), 1e-6))
    square = np.arange(count, dtype=np.float64) ** 2
    curvature = np.zeros(len(values))
    fits = np.ones(len(values), dtype=bool)
    for size in range(3, count + 1):
        x, y = square[:size], level[:, :size]
        centred = x - x.mean()
        slope = (y * centred).sum(axis=1) / (centred**2).sum()
        error = y - y.mean(axis=1, keepdims=True) - slope[:, None] * centred
        share = (error**2).sum(axis=1) / np.maximum((y**2).sum(axis=1), 1e-12)
        fits &= share < _PSP_ERROR
        curvature = np.where(fits | (size == 3), slope, curvature)
    return curvature


# ---- wavelets ----


def wavelet(octave: int) -> Array:
    """Return -cos(2 pi f t) exp(-t^2 / (2 tau^2)) with tau = 1 / (2 f), f = 8 kHz / 2^octave, of unit gain at f."""
    frequency = RATE / 2.0 / 2**octave
    tau = 1.0 / (2.0 * frequency)
    half = int(np.ceil(5 * tau * RATE))
    time = np.arange(-half, half + 1) / RATE
    shape = -np.cos(2 * np.pi * frequency * time) * np.exp(-(time**2) / (2 * tau**2))
    return np.asarray(shape / np.abs((shape * np.exp(-2j * np.pi * frequency * time)).sum()))


def _wavelet_bands(signal: Array) -> Array:
    """Return a signal [N] in octave bands, [S, N]."""
    shapes = [wavelet(octave) for octave in range(_OCTAVES)]
    size = _fast_size(len(signal) + max(map(len, shapes)))
    spectrum = np.fft.rfft(signal, size)
    bands = np.fft.irfft(spectrum * np.array([np.fft.rfft(shape, size) for shape in shapes]), size, axis=1)
    return np.array([band[len(shape) // 2 :][: len(signal)] for band, shape in zip(bands, shapes, strict=True)])


def _peak_slope(bands: Array, centres: npt.NDArray[np.int64]) -> Array:
    """Return the slope of log10 of a frame's maximum in each band over the octaves, from low to high, [T]."""
    from scipy.ndimage import maximum_filter1d

    width = 2 * HOP
    peaks = np.array([maximum_filter1d(np.abs(band), width, mode="constant") for band in bands])
    inside = np.minimum(centres, bands.shape[1] - 1)
    level = np.log10(np.maximum(peaks[:, inside], 1e-9))[::-1]  # [S, T], lowest octave first
    place = np.arange(_OCTAVES) - (_OCTAVES - 1) / 2
    return np.asarray((place[:, None] * level).sum(axis=0) / (place**2).sum())


def _dispersion(residual: Array, centres: npt.NDArray[np.int64], period: Array) -> Array:
    """Return how far the maxima of octave bands of the residual lie from its strongest pulse, per period, [T]."""
    bands = _wavelet_bands(residual)
    width = int(period.max()) | 1
    reach = np.abs(np.arange(width) - width // 2)[None] <= period[:, None] / 2
    pulses = frames_around(np.abs(residual), centres, width)
    closure = np.where(reach, pulses, -1.0).argmax(axis=1)  # [T]
    offset = np.zeros(len(centres))
    around = np.abs(np.arange(width)[None] - width // 2) <= period[:, None] / 2
    middle = centres + closure - width // 2
    for band in bands:
        near = frames_around(np.abs(band), np.clip(middle, 0, len(band) - 1), width)
        offset += np.abs(np.where(around, near, -1.0).argmax(axis=1) - width // 2)
    return np.asarray(offset / len(bands) / period)


# ---- slow pulses ----


def creak_of(residual: Array, num_frames: int) -> Array:
    """Say how much a frame's pulses come slowly, 20 to 63 a second, and not faster: from 0 to 1, [T].

    It is the highest autocorrelation of the residual's envelope at these lags, less that at shorter ones.
    """
    step = RATE // _ENVELOPE_RATE
    energy = np.sqrt((residual[: len(residual) // step * step].reshape(-1, step) ** 2).mean(axis=1))  # [N / 16]
    smooth = np.convolve(energy, np.hanning(7)[1:-1], mode="same")
    centres = np.arange(num_frames, dtype=np.int64) * (HOP // step) + HOP // step // 2
    frames = frames_around(smooth, centres, _CREAK_WINDOW)
    frames = frames - frames.mean(axis=1, keepdims=True)
    window: Any = np.hanning(_CREAK_WINDOW)
    correlation, shape = (autocorrelation(values, 256, 64) for values in (frames * window, window[None]))
    values = correlation / shape
    difference = values[:, _LONG_LAGS].max(axis=1) - np.maximum(values[:, _SHORT_LAGS].max(axis=1), 0.0)
    return np.asarray(np.clip(difference, 0.0, 1.0))
