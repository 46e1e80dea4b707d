"""HyperLogLog: how many different tokens a contribution saw, and how much two of them overlap, in a few kilobytes.

Sketches join by the maximum of each register: in any order, any number of times. Registers are a function of the set
of tokens; estimates are for display and are computed in float64.
Sources: Flajolet et al. 2007; Heule, Nunkesser and Hall 2013 (64-bit hashes); Ertl 2017, arXiv 1702.01284 (estimate).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

from spore_borg.learn.errors import LearnError

P_MIN, P_MAX = 4, 16


class HyperLogLog:
    """A sketch of a set with 2^p registers; the relative standard error is 1.04 / √2^p."""

    def __init__(self, p: int = 12, registers: bytes | None = None) -> None:
        if not P_MIN <= p <= P_MAX:
            raise LearnError(f"A sketch has 2^{P_MIN} to 2^{P_MAX} registers, not 2^{p}.")
        if registers is not None and (len(registers) != 1 << p or max(registers) > 65 - p):
            raise LearnError(f"These are no registers of a sketch with p = {p}.")
        self.p = p
        self._registers = bytearray(registers or bytes(1 << p))

    @property
    def registers(self) -> bytes:
        """2^p bytes: what travels."""
        return bytes(self._registers)

    def add(self, token: bytes) -> None:
        """Take in one token."""
        value = int.from_bytes(hashlib.sha256(b"spore-borg/sketch\0" + token).digest()[:8], "big")
        place, rest = value >> (64 - self.p), value & ((1 << (64 - self.p)) - 1)
        rank = 64 - self.p - rest.bit_length() + 1
        self._registers[place] = max(self._registers[place], rank)

    def update(self, tokens: Iterable[bytes]) -> HyperLogLog:
        """Take in many tokens; returns itself."""
        for token in set(tokens):
            self.add(token)
        return self

    def join(self, other: HyperLogLog) -> HyperLogLog:
        """The sketch of the union. Raises LearnError for another p."""
        if other.p != self.p:
            raise LearnError("Sketches of different sizes cannot be joined.")
        return HyperLogLog(self.p, bytes(map(max, self._registers, other._registers)))

    def count(self) -> float:
        """About how many different tokens were seen."""
        m, q = 1 << self.p, 64 - self.p
        counts = [0] * (q + 2)
        for rank in self._registers:
            counts[rank] += 1
        z = m * _tau(1 - counts[q + 1] / m)
        for rank in range(q, 0, -1):
            z = 0.5 * (z + counts[rank])
        z += m * _sigma(counts[0] / m)
        return m * m / (2 * math.log(2) * z) if math.isfinite(z) else 0.0

    def overlap(self, other: HyperLogLog) -> float:
        """About how many tokens both saw: |a| + |b| − |a ∪ b|, at least 0."""
        return max(self.count() + other.count() - self.join(other).count(), 0.0)


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z = 1.0, x
    while True:
        x *= x
        before, z = z, z + x * y
        y += y
        if z == before:
            return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z = 1.0, 1 - x
    while True:
        x = math.sqrt(x)
        before, y = z, 0.5 * y
        z -= (1 - x) ** 2 * y
        if z == before:
            return z / 3
