"""Chance that is the same on every machine: words of Philox, addressed by (seed, stream, index).

Only the raw 64-bit words of the generator are used, and only integer arithmetic and one exact scaling follow,
so that no library version, device or instruction set changes a draw. There is no generator state to store.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STREAM_INIT = 1
STREAM_BATCH = 2
_SD_OF_FOUR = ((2**32 - 1) / 3) ** 0.5  # sd of the sum of four uniform 16-bit integers


def words(seed: int, stream: int, index: int, count: int) -> NDArray[np.uint64]:
    """``count`` words of one stream; different (stream, index) never overlap. ``seed``: 0 … 2**64-1."""
    counter = np.array([0, 0, index, 0], np.uint64)  # the low words count within a draw
    return np.random.Philox(counter=counter, key=np.array([seed, stream], np.uint64)).random_raw(count)


def bell(seed: int, index: int, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
    """Bell-shaped weights of the given standard deviation, bounded at 3.46 of it.

    Each is the sum of the four 16-bit quarters of one word: integers, hence exact, where a normal draw would
    depend on a platform's logarithm.
    """
    raw = words(seed, STREAM_INIT, index, int(np.prod(shape)))
    quarters = raw.astype("<u8").view("<u2").reshape(-1, 4).astype(np.int64)
    centred = quarters.sum(axis=1) * 2 - 4 * 65_535
    scaled = centred.astype(np.float64) * (std / (2 * _SD_OF_FOUR))
    return np.asarray(scaled.reshape(shape), np.float32)


def batch_starts(seed: int, step: int, batch: int, top: int) -> NDArray[np.int64]:
    """Start offsets of the sequences of one step, in 0 … top-1."""
    return (words(seed, STREAM_BATCH, step, batch) % np.uint64(top)).astype(np.int64)
