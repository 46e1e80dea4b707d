"""What a person gives, as what adapters take: text, images, sound, bytes.

An item is ``{"text": …}`` or ``{"path": …}``. Files are read here, in the worker, and nothing in them is executed.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spore_borg.learn.errors import LearnError

Item = str | bytes | torch.Tensor
FILE_BYTES_MAX = 64 << 20
PIXELS_MAX = 64_000_000
SAMPLE_RATE_HZ = 16_000
SECONDS_MAX = 600


def load(value: Mapping[str, Any], modality: str) -> Item:
    """One item for models of a modality.

    Returns:
        str for text and smiles, uint8[h, w] for image, int16[n] at 16 kHz for audio, bytes for bytes.
    Raises:
        LearnError: the file is missing, too large, or not of this kind.
    """
    text, path = value.get("text"), value.get("path")
    if isinstance(text, str):
        if modality in ("text", "smiles"):
            return text
        if modality == "bytes":
            return text.encode()
        raise LearnError(f"Models that take {modality} need a file; give its path.")
    if not isinstance(path, str):
        raise LearnError("An item is a text or a path.")
    raw = _read(Path(path))
    if modality == "bytes":
        return raw
    if modality == "image":
        return image(Path(path))
    if modality == "audio":
        return audio(Path(path))
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise LearnError(f"{Path(path).name} is no UTF-8 text.") from error


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise LearnError(f"{path.name} has {size >> 20} MiB; at most {FILE_BYTES_MAX >> 20} are read.")
        return path.read_bytes()
    except OSError as error:
        raise LearnError(f"{path} cannot be read: {error.strerror}.") from error


def image(path: Path) -> torch.Tensor:
    """A picture as grey levels: uint8[height, width], 0 is black. Raises LearnError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > PIXELS_MAX:
                raise LearnError(f"{path.name} has more than {PIXELS_MAX // 1_000_000} million pixels.")
            grey = picture.convert("L")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise LearnError(f"{path.name} cannot be read as a picture: {error}.") from error
    return torch.from_numpy(np.array(grey, np.uint8))


def audio(path: Path) -> torch.Tensor:
    """A WAV file as int16[n], one channel, 16 kHz. Raises LearnError."""
    try:
        with wave.open(str(path), "rb") as file:
            rate_hz, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            if not rate_hz or file.getnframes() > rate_hz * SECONDS_MAX:
                raise LearnError(f"{path.name} lasts longer than {SECONDS_MAX} s; cut it.")
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise LearnError(f"{path.name} cannot be read as a WAV file (PCM): {error}.") from error
    if width not in (1, 2, 4):
        raise LearnError(f"{path.name} has {8 * width} bits a sample; 8, 16 and 32 are read.")
    samples = _samples(raw, width)
    mono = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(axis=1)
    return torch.from_numpy(np.clip(np.rint(_resampled(mono, rate_hz)), -32768, 32767).astype(np.int16))


def _samples(raw: bytes, width: int) -> NDArray[np.float64]:
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) * 256
    if width == 2:
        return np.frombuffer(raw, "<i2").astype(np.float64)
    return np.frombuffer(raw, "<i4").astype(np.float64) / 65_536


def _resampled(mono: NDArray[np.float64], rate_hz: int) -> NDArray[np.float64]:
    if rate_hz == SAMPLE_RATE_HZ or not len(mono):
        return mono
    from scipy.signal import resample_poly

    common = gcd(rate_hz, SAMPLE_RATE_HZ)
    made: NDArray[np.float64] = resample_poly(mono, SAMPLE_RATE_HZ // common, rate_hz // common)
    return made
