"""Epochs of the local clock. Only here does time become an epoch; nothing derived depends on it."""

from __future__ import annotations

import time

import trio

SEAL_AT = 0.8  # part of an epoch after which its seal is written: what came before is in its past


class Clock:
    """Wall-clock epochs of one mesh."""

    def __init__(self, time_ms: int, epoch_ms: int) -> None:
        """Args: time_ms: start of epoch 0, milliseconds since 1970; epoch_ms: length of an epoch."""
        self.time_ms = time_ms
        self.epoch_ms = epoch_ms

    def epoch(self) -> int:
        """The present epoch; never below 0."""
        return max(0, (time.time_ns() // 1_000_000 - self.time_ms) // self.epoch_ms)

    async def until(self, epoch: int, part: float) -> None:
        """Sleep until a part (0…1) of an epoch has passed; at once if it has."""
        while True:
            due_ms = self.time_ms + epoch * self.epoch_ms + part * self.epoch_ms
            left_s = due_ms / 1000 - time.time()
            if left_s <= 0:
                return
            await trio.sleep(min(left_s, 5.0))  # wakes now and then, so that a clock that was set is noticed
