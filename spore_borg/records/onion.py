"""The hash onion: one secret value an epoch that everyone can check and nobody can foresee.

``value(i) = H^(length - i)(secret)``; the anchor is ``value(0)``. Revealing value(i) proves itself by
hashing it i times back to the anchor, and says nothing about value(i + 1). Unlike an Ed25519
signature its holder cannot choose among several. Source: Lamport 1981; spec/40-verification.md.
"""

from __future__ import annotations

import hashlib

LENGTH = 1 << 17  # epochs of one onion: 22 days of 15 s epochs; a new join gives a new one
_STRIDE = 1 << 9


def step(value: bytes) -> bytes:
    """One layer: value(i) from value(i + 1). 32 bytes."""
    return hashlib.sha256(b"spore-borg/onion\0" + value).digest()


def peel(value: bytes, times: int) -> bytes:
    """Hash ``times`` layers."""
    for _ in range(times):
        value = step(value)
    return value


class Onion:
    """The owner's side: values by index in at most ``_STRIDE`` hashes each."""

    def __init__(self, secret: bytes, length: int = LENGTH) -> None:
        self.length = length
        self._marks: dict[int, bytes] = {}
        value = secret
        for index in range(length, -1, -1):
            if index % _STRIDE == 0 or index == length:
                self._marks[index] = value
            if index:
                value = step(value)
        self.anchor = self._marks[0]

    def value(self, index: int) -> bytes:
        """The value of an epoch, counted from the join's.

        Raises:
            ValueError: the onion has no such layer; join again with a new one.
        """
        if not 0 <= index <= self.length:
            raise ValueError(f"the onion has {self.length} layers; join again")
        mark = min(-(-index // _STRIDE) * _STRIDE, self.length)
        return peel(self._marks[mark], mark - index)


def check(anchor: bytes, value: bytes, index: int, known: tuple[int, bytes] | None = None) -> bool:
    """Whether a revealed value is the anchor's, using a known one to save hashes.

    Args:
        anchor: 32 bytes, value(0).
        value: 32 bytes, said to be value(index).
        index: epochs since the join.
        known: (index, value) checked before, if any.
    """
    if not 0 <= index <= LENGTH:
        return False
    if known is not None and known[0] <= index:
        return peel(value, index - known[0]) == known[1]
    if known is not None:  # a layer has one value only
        return peel(known[1], known[0] - index) == value
    return peel(value, index) == anchor
