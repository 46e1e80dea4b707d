"""Probes whose items are made here, from integers: drawn digits, tones and a formant voice.

They are synthetic and the suite says so. All arithmetic is on integers (coefficients are rounded to 2^-14 once), so
that the same seed gives the same samples everywhere.
Sources: the cascade of formant resonators after Klatt (1980); vowels after Peterson and Barney (1952); ITU-T G.711
for the μ-law in which samples are stored.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spore_borg.learn.suite_data import Raw, Triple

SAMPLE_RATE_HZ = 16_000
SAMPLES = 6_144  # of a sound with or without a voice: 0.384 s
TONE_SAMPLES = 2_048  # of a tone: 0.128 s
SEGMENT = 4_800  # samples of recorded speech whose windows stay together in one split
SPEECH_SOURCE = "pypi:pysptk==1.0.1:pysptk/example_audio_data/arctic_a0007.wav"
FRACTION = 14  # bits behind the point of filter coefficients
NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# (F1, F2, F3) in Hz of ten vowels; bandwidths 60, 90, 150 Hz.
VOWELS = (
    (270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410), (520, 1190, 2390),
    (730, 1090, 2440), (570, 840, 2410), (440, 1020, 2240), (300, 870, 2240), (490, 1350, 1690),
)  # fmt: skip
BANDWIDTHS_HZ = (60, 90, 150)
# Rows of five bits, top first: the digits of a 5 × 7 font.
FONT = (
    (14, 17, 19, 21, 25, 17, 14), (4, 12, 4, 4, 4, 4, 14), (14, 17, 1, 2, 4, 8, 31), (31, 2, 4, 2, 1, 17, 14),
    (2, 6, 10, 18, 31, 2, 2), (31, 16, 30, 1, 1, 17, 14), (6, 8, 16, 30, 17, 17, 14), (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14), (14, 17, 17, 15, 1, 2, 12),
)  # fmt: skip

Ints = NDArray[np.int64]


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def mu_law(samples: Ints) -> NDArray[np.uint8]:
    """int16 samples as 8-bit μ-law (G.711): 14-bit magnitude, 8 segments of 16 steps."""
    sign = np.where(samples < 0, 128, 0)
    size = np.minimum(np.abs(samples) >> 2, 8158) + 33
    segment = np.maximum(np.floor(np.log2(size)).astype(np.int64) - 5, 0)
    step = (size >> (segment + 1)) & 15
    code: NDArray[np.uint8] = (255 - (sign | segment << 4 | step)).astype(np.uint8)
    return code


def from_mu_law(raw: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The samples that 8-bit μ-law stands for, int16."""
    code = 255 - raw.astype(np.int64)
    segment, step = (code >> 4) & 7, code & 15
    size = (((step << 1) + 33) << segment) - 33
    samples: NDArray[np.int16] = (np.where(code & 128, -size, size) << 2).astype(np.int16)
    return samples


def _resonate(signal: Ints, frequency_hz: Ints, bandwidth_hz: int) -> Ints:
    """A two-pole resonator over [items, samples] with one frequency per item; gain 1 at 0 Hz."""
    radius = math.exp(-math.pi * bandwidth_hz / SAMPLE_RATE_HZ)
    angles = [2 * math.pi * int(hz) / SAMPLE_RATE_HZ for hz in frequency_hz]
    one = 1 << FRACTION
    first = np.array([round(2 * radius * math.cos(angle) * one) for angle in angles], np.int64)
    second = round(-radius * radius * one)
    gain = one - first - second
    made = np.zeros_like(signal)
    before, earlier = np.zeros(len(signal), np.int64), np.zeros(len(signal), np.int64)
    for t in range(signal.shape[1]):
        now = (gain * signal[:, t] + first * before + second * earlier) >> FRACTION
        made[:, t] = now
        before, earlier = now, before
    return made


def _normal(signal: Ints, peak: int) -> Ints:
    """Scaled so that the loudest sample of each item has the size ``peak``."""
    loudest = np.maximum(np.abs(signal).max(axis=1, keepdims=True), 1)
    scaled: Ints = signal * peak // loudest
    return scaled


def _voice(rng: np.random.Generator, count: int) -> Ints:
    """Vowels that glide into each other over a train of pulses, with breath: [count, SAMPLES]."""
    t = np.arange(SAMPLES)
    pitch = rng.integers(85, 260, count)
    rise = rng.integers(-25, 26, count)  # per cent over the sound
    phase = np.cumsum(pitch[:, None] * 100 + pitch[:, None] * rise[:, None] * t[None, :] // SAMPLES, axis=1)
    period = SAMPLE_RATE_HZ * 100
    pulse = (np.diff(phase // period, axis=1, prepend=0) > 0).astype(np.int64) * 60_000
    breath = rng.integers(-900, 901, (count, SAMPLES))
    source = _resonate(pulse, np.zeros(count, np.int64), 200) + breath
    halves = []
    for vowel in (rng.integers(0, len(VOWELS), count), rng.integers(0, len(VOWELS), count)):
        signal = source
        for formant, width in enumerate(BANDWIDTHS_HZ):
            signal = _resonate(signal, np.array([VOWELS[v][formant] for v in vowel]), width)
        halves.append(_normal(signal, 20_000))
    turn = rng.integers(SAMPLES // 4, 3 * SAMPLES // 4, count)[:, None]
    mix = np.clip((t[None, :] - turn) + 400, 0, 800)
    glide: Ints = (halves[0] * (800 - mix) + halves[1] * mix) // 800
    return glide


def _other(rng: np.random.Generator, count: int) -> Ints:
    """White, low and band noise, hum, clicks, bowed strings and chords, in turn: [count, SAMPLES]."""
    each = -(-count // 7)
    t = np.arange(SAMPLES)[None, :]
    white = rng.integers(-8_000, 8_001, (each, SAMPLES))
    hum = _triangle(t, 50 + 10 * rng.integers(0, 2, each)[:, None])
    clicks = (rng.random((each, SAMPLES)) < 0.002).astype(np.int64) * 30_000
    # A bowed string: pulses of a steady pitch through two resonances that no mouth has together.
    turns = t * rng.integers(85, 260, each)[:, None] // SAMPLE_RATE_HZ
    pulses = (np.diff(turns, axis=1, prepend=0) > 0).astype(np.int64) * 60_000
    string = _resonate(pulses, rng.integers(1_200, 1_900, each), 200)
    chord = _triangle(t, rng.integers(110, 500, each)[:, None]) + _triangle(
        t, rng.integers(110, 500, each)[:, None]
    )
    kinds = (
        white,
        _resonate(rng.integers(-8_000, 8_001, (each, SAMPLES)), np.zeros(each, np.int64), 400),
        _resonate(rng.integers(-8_000, 8_001, (each, SAMPLES)), rng.integers(500, 6_000, each), 300),
        hum + white // 16,
        _resonate(clicks, rng.integers(800, 5_000, each), 120) + white // 40,
        _resonate(string, rng.integers(3_200, 5_000, each), 400),
        chord,
    )
    mixed: Ints = np.stack([_normal(kind, 20_000) for kind in kinds], axis=1).reshape(-1, SAMPLES)[:count]
    return mixed


def _triangle(t: Ints, hz: Ints) -> Ints:
    """Triangle waves: [n, SAMPLES] of the frequencies [n, 1]."""
    at = t * hz * 65_536 // SAMPLE_RATE_HZ % 65_536
    wave: Ints = np.abs(at - 32_768) - 16_384
    return wave


def _noisy(rng: np.random.Generator, signal: Ints, share: int) -> NDArray[np.uint8]:
    """One item's samples at a random loudness with noise of 1/share of it, as μ-law."""
    loud = int(rng.integers(2_000, 20_000))
    noise = rng.integers(-loud // share, loud // share + 1, signal.shape)
    return mu_law(np.clip(signal * loud // 20_000 + noise, -32_768, 32_767))


def _spoken(rng: np.random.Generator, speech: Ints, count: int) -> tuple[Ints, list[str]]:
    """Windows of recorded speech, up to a quarter slower or faster: [count, SAMPLES] and the segment of each."""
    segments = max((len(speech) - SAMPLES * 5 // 4) // SEGMENT, 1)
    # Places are dealt out before silence is dropped, so that windows of two segments overlap little.
    made: list[Ints] = []
    groups: list[str] = []
    while len(made) < count:
        segment = int(rng.integers(0, segments))
        speed = int(rng.integers(80, 126))  # per cent
        start = segment * SEGMENT + int(rng.integers(0, SEGMENT // 4))
        places = np.minimum(start * 100 + np.arange(SAMPLES) * speed, len(speech) * 100 - 101)
        at, part = places // 100, places % 100
        window = (speech[at] * (100 - part) + speech[at + 1] * part) // 100
        made.append(window)
        groups.append(f"speech/{segment}")
    return _normal(np.stack(made), 20_000), groups


def voice(count: int, seed: int = 11, speech: NDArray[np.int16] | None = None) -> Raw:
    """Voice or not, both in noise, hum, clicks, strings or chords.

    Args:
        speech: 16 kHz mono; without it the voice is a formant synthesis.
    """
    rng = _rng(seed)
    half = count // 2
    if speech is None:
        voices, groups = _voice(rng, half), [f"made/{i}" for i in range(half)]
    else:
        voices, groups = _spoken(rng, speech.astype(np.int64), half)
    around, alone = _other(rng, half), _other(rng, count - half)
    share = rng.integers(2, 16, half)[:, None]  # the voice is this many times as loud
    sounds = np.concatenate([_normal(voices * share + around, 20_000), alone])
    groups += [f"other/{i}" for i in range(count - half)]
    rows: list[Triple] = [
        (groups[i], _noisy(rng, sound, int(rng.integers(4, 40))).tobytes(), int(i < half))
        for i, sound in enumerate(sounds)
    ]
    source = "synthetic: formant synthesis" if speech is None else SPEECH_SOURCE + " in synthetic noise"
    licence = "CC0-1.0" if speech is None else "speech: CMU ARCTIC licence (free use); package pysptk: MIT"
    return Raw("voice", "audio", ("other", "voice"), rows, source, licence, made=speech is None)


def pitch(count: int, seed: int = 12) -> Raw:
    """Which of the twelve notes a harmonic tone has, in any of three octaves, slightly out of tune."""
    rng = _rng(seed)
    t = np.arange(TONE_SAMPLES)
    rows: list[Triple] = []
    for i in range(count):
        note, octave = i % 12, int(rng.integers(0, 3))
        cents = int(rng.integers(-20, 21))
        # Phase in 2^-16 turns per sample · 2^16; the only real number here is rounded at once.
        step = round(130.8128 * 2 ** (octave + note / 12 + cents / 1200) * 2**32 / SAMPLE_RATE_HZ)
        start = int(rng.integers(0, 1 << 32))
        signal = np.zeros(TONE_SAMPLES, np.int64)
        for harmonic in range(1, 6):
            at = ((start + t * step * harmonic) >> 16) & 65_535
            # A parabola for each half turn stands for the sine, within 6 % of it.
            half = at & 32_767
            wave = (half * (32_768 - half)) >> 14
            signal += np.where(at & 32_768, -wave, wave) * int(rng.integers(1, 9)) // (harmonic * 8)
        rows.append((f"{i}", _noisy(rng, _normal(signal[None, :], 20_000)[0], 12).tobytes(), note))
    return Raw("pitch", "audio", NOTES, rows, "synthetic: harmonic tones", "CC0-1.0", made=True)


def glyphs(count: int, seed: int = 13) -> Raw:
    """Drawn digits 28 × 28: a 5 × 7 font at two or three times its size, moved, slanted, with noise."""
    rng = _rng(seed)
    font = np.array(
        [[[row >> bit & 1 for bit in range(4, -1, -1)] for row in digit] for digit in FONT], np.int64
    )
    rows: list[Triple] = []
    for i in range(count):
        label = i % 10
        scale = int(rng.integers(2, 4))
        big = font[label].repeat(scale, 0).repeat(scale, 1) * int(rng.integers(120, 256))
        image = rng.integers(0, int(rng.integers(8, 90)), (28, 28))
        top, left = int(rng.integers(0, 28 - big.shape[0] + 1)), int(rng.integers(3, 26 - big.shape[1]))
        slant = int(rng.integers(-3, 4))
        for y, line in enumerate(big):
            at = min(max(left + slant * (y - len(big) // 2) // len(big), 0), 28 - len(line))
            image[top + y, at : at + len(line)] = np.maximum(image[top + y, at : at + len(line)], line)
        flips = rng.random((28, 28)) < 0.03
        image = np.where(flips, 255 - image, image)
        rows.append((f"{i}", image.astype(np.uint8).tobytes(), label))
    return Raw(
        "glyphs",
        "image",
        tuple("0123456789"),
        rows,
        "synthetic: a 5 x 7 font",
        "CC0-1.0",
        (28, 28),
        made=True,
    )
