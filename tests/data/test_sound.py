"""The 74 columns of sound, each on a signal whose value is known."""

import math
from pathlib import Path

import numpy as np
import pytest

from conki_cli.data.extraction.glottis import (
    creak_of,
    measure_flow,
    source_of,
    spectral_parabola,
    wavelet,
)
from conki_cli.data.extraction.pitch import RATE, track_pitch
from conki_cli.data.extraction.sound import (
    SOUND_COLUMNS,
    Loudness,
    num_sound_frames,
    sound_columns,
    sound_features,
)
from conki_cli.data.extraction.spectra import (
    NUM_CEPSTRA,
    WARP,
    cepstra_of,
    fit_rd,
    glottal_pulse,
    spectra_of,
    warped,
)

COLUMN = {name: place for place, name in enumerate(SOUND_COLUMNS)}


def pulses(pitch: float, seconds: float, rd: float = 1.0) -> np.ndarray:
    """Return glottal pulses of a constant pitch, without a vocal tract."""
    shape = glottal_pulse(rd, 4096)
    phase = (np.arange(int(seconds * RATE)) * pitch / RATE) % 1.0
    return np.interp(phase, np.arange(4096) / 4096, shape, period=1.0)


def vowel(pitch: float, seconds: float, formants: tuple[float, ...] = (700.0, 1200.0, 2600.0)) -> np.ndarray:
    """Return a vowel: glottal pulses through resonances."""
    from scipy.signal import lfilter

    signal = pulses(pitch, seconds)
    for formant in formants:
        radius, angle = math.exp(-math.pi * 80.0 / RATE), 2 * math.pi * formant / RATE
        signal = lfilter([1.0], [1.0, -2 * radius * math.cos(angle), radius**2], signal)
    return 0.3 * signal / np.abs(signal).max()


def columns_of(signal: np.ndarray) -> np.ndarray:
    loudness = Loudness()
    loudness.take(signal.astype(np.float32))
    return sound_columns(signal, loudness.level)


def test_there_are_74_columns_in_covareps_order() -> None:
    assert len(SOUND_COLUMNS) == 74
    assert SOUND_COLUMNS[:3] == ("F0", "VUV", "NAQ")
    assert (SOUND_COLUMNS[10], SOUND_COLUMNS[11], SOUND_COLUMNS[36], SOUND_COLUMNS[61]) == (
        *("creak", "MCEP_0", "HMPDM_0", "HMPDD_0"),
    )


@pytest.mark.parametrize("pitch", [75.0, 110.0, 205.0, 330.0])
def test_the_pitch_of_a_vowel_is_found_and_it_is_voiced(pitch: float) -> None:
    columns = columns_of(vowel(pitch, 0.6))[5:-5]
    assert columns[:, COLUMN["VUV"]].all()
    assert columns[:, COLUMN["F0"]] == pytest.approx(pitch, rel=0.01)


def test_a_gliding_pitch_is_followed() -> None:
    seconds = np.arange(RATE) / RATE
    signal = np.sum([np.cos(2 * np.pi * k * (120 * seconds + 60 * seconds**2)) / k for k in range(1, 12)], axis=0)
    found = track_pitch(signal, 100, 5.0)[5:-5]
    expected = (120 + 120 * (np.arange(100) + 0.5) / 100)[5:-5]
    assert np.abs(found / expected - 1).max() < 0.03


def test_offset_clipping_and_quietness_leave_the_pitch() -> None:
    clean = vowel(140.0, 0.5)
    for signal in (clean + 0.4, np.clip(clean * 8, -0.5, 0.5), clean * 0.01):
        columns = columns_of(signal)[5:-5]
        assert columns[:, 0] == pytest.approx(140.0, rel=0.02)


def test_silence_and_noise_have_no_voice_and_everything_is_finite() -> None:
    noise = np.random.default_rng(1).normal(size=RATE)
    for signal in (np.zeros(RATE), np.full(RATE, 0.7), noise * 0.1):
        columns = columns_of(signal)
        assert columns[:, COLUMN["VUV"]].mean() < 0.05
        assert np.isfinite(columns).all()


def test_speech_after_silence_is_voiced_where_it_is() -> None:
    signal = np.concatenate([np.zeros(RATE // 2), vowel(120.0, 0.5)])
    voiced = columns_of(signal)[:, 1]
    assert voiced[:45].sum() == 0
    assert voiced[55:95].all()


def test_what_is_shorter_than_20_ms_has_no_frames() -> None:
    assert [num_sound_frames(count) for count in (0, 319, 320, 16_000)] == [0, 0, 2, 100]


def test_loudness_ignores_a_single_pop() -> None:
    loudness = Loudness()
    signal = np.full(RATE * 4, 0.1, dtype=np.float32) * np.sign(np.sin(np.arange(RATE * 4))).astype(np.float32)
    signal[1000] = 1.0
    loudness.take(signal)
    assert loudness.level == pytest.approx(0.1, rel=0.1)


def test_a_file_read_in_pieces_gives_the_same_as_in_one(tmp_path: Path) -> None:
    signal = np.tile(vowel(130.0, 0.5), 22).astype(np.float32)
    signal.tofile(tmp_path / "sound")
    pieces = np.concatenate(list(sound_features(tmp_path / "sound", 0.3)))
    whole = sound_columns(signal.astype(np.float64), 0.3)
    assert pieces.shape == (1100, 74)
    assert np.abs(pieces[:, 0] - whole[:, 0]).max() < 0.5
    assert np.abs(pieces[990:1010, 11:36] - whole[990:1010, 11:36]).max() < 1e-3


# ---- the voice source ----


def two_periods(shape: np.ndarray, length: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Return the derivative of flow [1, 640] that repeats a period, and the period's length."""
    return np.resize(shape, 640)[None], np.array([float(length)])


@pytest.mark.parametrize("rd", [0.5, 0.8, 1.2, 1.8])
def test_naq_of_the_models_pulses_is_rd_times_0_11(rd: float) -> None:
    derivative, period = two_periods(glottal_pulse(rd, 300), 300)
    assert measure_flow(derivative, period)["naq"] == pytest.approx(0.11 * rd, rel=0.1)


def test_qoq_of_half_a_sine_is_two_thirds_of_the_open_time() -> None:
    flow = np.where(np.arange(160) < 96, np.sin(np.pi * np.arange(160) / 96), 0.0)
    derivative, period = two_periods(np.diff(flow, append=flow[:1]))
    assert measure_flow(derivative, period)["qoq"] == pytest.approx(0.6 * 2 / 3, abs=0.02)


def test_h1h2_is_the_level_of_the_first_harmonic_of_the_flow_over_the_second() -> None:
    time = 2 * np.pi * np.arange(160) / 160
    derivative, period = two_periods(np.cos(time) + 2 * 0.25 * np.cos(2 * time))  # flow: sin t + 0.25 sin 2t
    assert measure_flow(derivative, period)["h1h2"] == pytest.approx(20 * math.log10(4), abs=0.05)


def test_psp_is_1_for_constant_flow_and_less_for_a_rounded_pulse() -> None:
    constant = np.zeros((2, 640))
    constant[0, 100:260] = 1.0
    constant[1, 100:260] = np.hanning(160)
    found = spectral_parabola(constant, np.array([160.0, 160.0]))
    assert found[0] == pytest.approx(1.0, rel=0.02)
    assert found[1] < 0.6


def test_mdq_is_near_0_for_single_pulses_and_larger_for_noise() -> None:
    train = np.zeros(RATE // 2)
    train[::160] = 1.0
    noise = np.random.default_rng(2).normal(size=RATE // 2)
    pitch = np.full(50, 100.0)
    sharp, spread = (source_of(signal, pitch).mdq[10:40].mean() for signal in (train, noise))
    assert sharp < 0.03
    assert spread > 3 * sharp


def test_peak_slope_is_the_slope_of_octave_maxima() -> None:
    seconds = np.arange(RATE) / RATE
    tones = [0.5**octave * np.cos(2 * np.pi * 250 * 2**octave * seconds) for octave in range(5)]
    found = source_of(np.sum(tones, axis=0), np.zeros(100)).peak_slope[20:80].mean()
    assert found == pytest.approx(-math.log10(2), abs=0.06)


def test_wavelets_have_unit_gain_at_their_frequency() -> None:
    for octave in range(1, 6):
        shape = wavelet(octave)
        time = (np.arange(len(shape)) - len(shape) // 2) / RATE
        assert abs((shape * np.exp(-2j * np.pi * 8000 / 2**octave * time)).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(("rate", "low", "high"), [(35.0, 0.4, 1.0), (120.0, 0.0, 0.15)])
def test_creak_is_high_for_slow_pulses_only(rate: float, low: float, high: float) -> None:
    train = np.zeros(RATE)
    train[(np.arange(0, 1, 1 / rate) * RATE).astype(int)] = 1.0
    assert low <= np.median(creak_of(train, 100)[20:80]) <= high


# ---- spectra ----


def test_cepstra_are_the_integral_over_the_warped_axis() -> None:
    log_envelope = np.random.default_rng(3).normal(size=257)
    expected = np.zeros(NUM_CEPSTRA)
    for k in range(NUM_CEPSTRA):
        for i in range(256):
            ends = []
            for j in (i, i + 1):
                w = math.pi * j / 256
                w = w + 2 * math.atan(WARP * math.sin(w) / (1 - WARP * math.cos(w)))
                ends.append((w, log_envelope[j] * math.cos(k * w)))
            expected[k] += (ends[1][0] - ends[0][0]) * (ends[0][1] + ends[1][1]) / 2 / math.pi
    assert cepstra_of(log_envelope[None])[0] == pytest.approx(expected)


def test_a_constant_spectrum_has_its_logarithm_as_only_cepstrum() -> None:
    found = cepstra_of(np.full((1, 257), math.log(0.2)))[0]
    assert found[0] == pytest.approx(math.log(0.2))
    assert np.abs(found[1:]).max() < 0.02


def test_louder_sound_raises_only_the_first_cepstrum() -> None:
    breath = 1e-3 * np.random.default_rng(5).normal(size=int(0.4 * RATE))
    quiet, loud = (columns_of((vowel(150.0, 0.4) + breath) * gain)[10:30, 11:36] for gain in (0.1, 0.2))
    assert loud[:, 0] - quiet[:, 0] == pytest.approx(math.log(2), abs=1e-3)
    assert np.abs(loud[:, 1:] - quiet[:, 1:]).max() < 1e-3


def harmonics(phases: np.ndarray, pitch: float = 100.0, seconds: float = 0.6) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    numbers = np.arange(1, len(phases) + 1)
    return np.cos(2 * np.pi * pitch * numbers[:, None] * time + phases[:, None]).sum(axis=0)


def test_phase_distortion_of_cosines_in_phase_is_0() -> None:
    found = spectra_of(harmonics(np.zeros(78)), np.full(60, 100.0))
    assert np.abs(found.means[15:45, :20]).max() < 0.05
    assert np.abs(found.deviations[15:45, :10]).max() < 0.06


def test_the_mean_of_phase_distortion_is_the_second_difference_of_phases() -> None:
    phases = 0.01 * np.arange(1, 79.0) ** 2  # theta_{k+1} - theta_k - theta_1 = 0.02 k + 0.01 - 0.01
    found = spectra_of(harmonics(phases), np.full(60, 100.0)).means[15:45].mean(axis=0)
    places = warped(np.linspace(0, np.pi, 257))
    for band in range(2, 18):
        hertz = np.abs(places - (band + 0.5) * np.pi / 25).argmin() * 31.25
        assert found[band] == pytest.approx(0.02 * (hertz / 100 - 0.5), abs=0.08)


def test_the_deviation_of_phase_distortion_is_large_for_noise() -> None:
    noise = np.random.default_rng(4).normal(size=RATE)
    found = spectra_of(noise, np.full(100, 100.0)).deviations
    assert np.median(found) > 0.8


@pytest.mark.parametrize("rd", [0.6, 1.0, 1.6, 2.2])
def test_rd_of_the_models_pulses_is_found(rd: float) -> None:
    signal = pulses(110.0, 0.5, rd)
    found = spectra_of(signal, np.full(50, 110.0))
    assert np.median(found.rd[10:40]) == pytest.approx(rd, abs=0.21)
    assert np.median(found.rd_confidence[10:40]) > 0.9


def test_frames_without_voice_have_no_rd() -> None:
    rd, confidence = fit_rd(np.zeros((3, 10), dtype=complex))
    assert (rd.tolist(), confidence.tolist()) == ([0, 0, 0], [0, 0, 0])
