"""What a readout can do without any model: simple features of the items, always among the members.

Random layers are useful features, so on an empty state even an untrained network would make a readout better. With
these in every readout, before and after, a model has to say what neither the raw item nor a random layer says.
Source: Rahimi and Recht 2008 (random features); docs/LOG.md has the measurement.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from spore_borg.learn.readout import quantise
from spore_borg.learn.suite import Item

BUCKETS = 256  # of hashed n-grams
RANDOM = 512  # random rectified features
THRESHOLD = 0.5  # of the length of a centred item: keeps random features sparse
SEED = 2008
BANDS = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 28, 37, 49, 65, 97, 145, 257)  # bins of 31.25 Hz


def members(items: Sequence[Item], modality: str) -> list[NDArray[np.int32]]:
    """The two members that are always there: raw features int32 [n, r], random ones int32 [n, 512]."""
    raw = np.stack([_raw(item, modality) for item in items])
    centred = raw - raw.mean(axis=1, keepdims=True)
    length = np.sqrt((centred * centred).sum(axis=1, keepdims=True))
    unit = centred / np.maximum(length, 1e-6)
    signs = np.random.Generator(np.random.Philox(SEED)).integers(-1, 2, (raw.shape[1], RANDOM))
    rectified = np.maximum(unit @ signs.astype(np.float64) - THRESHOLD, 0.0)
    return [quantise(torch.from_numpy(raw)), quantise(torch.from_numpy(rectified))]


def _raw(item: Item, modality: str) -> NDArray[np.float64]:
    """float64 [r]: r depends on the modality alone."""
    if modality == "image":
        assert isinstance(item, torch.Tensor)
        return _pixels(item)
    if modality == "audio":
        assert isinstance(item, torch.Tensor)
        return _spectrum(item.numpy())
    data = item if isinstance(item, bytes) else str(item).encode()
    return _bytes(data) if modality == "bytes" else _grams(data)


def _pixels(image: torch.Tensor) -> NDArray[np.float64]:
    """196 mean brightnesses, 0 to 1."""
    wide = image.to(torch.float64)[None, None] / 255.0
    pooled: NDArray[np.float64] = torch.nn.functional.adaptive_avg_pool2d(wide, (14, 14)).flatten().numpy()
    return pooled


def _spectrum(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """Logarithms of the mean power in 16 bands, each an equal share of the logarithm of frequency: 16."""
    windows = samples[: len(samples) // 512 * 512].reshape(-1, 512).astype(np.float64) / 32_768.0
    if not len(windows):
        return np.zeros(len(BANDS) - 1)
    power = (np.abs(np.fft.rfft(windows * np.hanning(512), axis=1)) ** 2).mean(axis=0)
    return np.log10(np.add.reduceat(power, BANDS[:-1])[: len(BANDS) - 1] + 1e-6)


def _bytes(data: bytes) -> NDArray[np.float64]:
    """The square root of each byte value's share: 256."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256).astype(np.float64)
    shares: NDArray[np.float64] = np.sqrt(counts / max(len(data), 1))
    return shares


def _grams(data: bytes) -> NDArray[np.float64]:
    """Square roots of the shares of hashed 1- to 3-grams of bytes: 256."""
    counts = np.zeros(BUCKETS)
    for size in (1, 2, 3):
        for start in range(len(data) - size + 1):
            counts[zlib.crc32(data[start : start + size]) % BUCKETS] += 1
    shares: NDArray[np.float64] = np.sqrt(counts / max(counts.sum(), 1.0))
    return shares
