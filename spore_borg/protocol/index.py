"""The sorted keys of all stored records, for reconciliation.

A key is 40 bytes: the epoch (8 bytes, big-endian) followed by the 32-byte digest of the record's cid, so
keys sort by age and parents come before or beside their children. Keys lie in sorted blocks of bytes: an
insertion moves at most one block, and a fingerprint streams over blocks without building the slice.
Spec: ``spec/32-reconciliation.md``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from blake3 import blake3

from spore_borg.records.cid import Cid

KEY_BYTES = 40
FINGERPRINT_BYTES = 16
EPOCH_MAX = (1 << 63) - 1
_BLOCK_KEYS_MAX = 1024  # 40 KiB: an insertion moves 20 KiB on average
_BLOCK_KEYS_LOADED = 768  # blocks of a bulk load leave room


def key_of(epoch: int, cid: Cid) -> bytes:
    """The 40-byte key of a record."""
    return epoch.to_bytes(8, "big") + cid.digest


def cid_of(key: bytes) -> Cid:
    """The cid (dag-cbor) of a key."""
    return Cid.from_digest(key[8:])


class KeyIndex:
    """A sorted set of 40-byte keys with positions. Memory: 40 bytes a key."""

    __slots__ = ("_blocks", "_firsts", "_starts")

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        ordered = sorted(set(keys))
        self._blocks: list[bytearray] = [
            bytearray(b"".join(ordered[at : at + _BLOCK_KEYS_LOADED]))
            for at in range(0, len(ordered), _BLOCK_KEYS_LOADED)
        ]
        self._firsts: list[bytes] = ordered[::_BLOCK_KEYS_LOADED]
        self._starts: list[int] | None = None  # position of each block's first key; None: to be counted

    def _positions(self) -> list[int]:
        if self._starts is None:
            self._starts = [0, *accumulate(len(block) // KEY_BYTES for block in self._blocks)]
        return self._starts

    def __len__(self) -> int:
        """How many keys."""
        return self._positions()[-1]

    def add(self, key: bytes) -> bool:
        """Insert a key; False when it is there already. O(log n + block)."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        if not self._blocks:
            self._blocks, self._firsts, self._starts = [bytearray(key)], [bytes(key)], None
            return True
        at = max(0, bisect_right(self._firsts, key) - 1)
        block = self._blocks[at]
        place = _lower(block, key) * KEY_BYTES
        if block[place : place + KEY_BYTES] == key:
            return False
        block[place:place] = key
        if place == 0:
            self._firsts[at] = bytes(key)
        if len(block) > _BLOCK_KEYS_MAX * KEY_BYTES:
            half = len(block) // KEY_BYTES // 2 * KEY_BYTES
            self._blocks.insert(at + 1, block[half:])
            del block[half:]
            self._firsts.insert(at + 1, bytes(self._blocks[at + 1][:KEY_BYTES]))
        self._starts = None
        return True

    def __contains__(self, key: bytes) -> bool:
        """Whether the key is in the set."""
        if not self._blocks:
            return False
        block = self._blocks[max(0, bisect_right(self._firsts, key) - 1)]
        place = _lower(block, key) * KEY_BYTES
        return block[place : place + KEY_BYTES] == key

    def lower(self, bound: bytes | None) -> int:
        """Position of the first key ≥ ``bound`` (a key or a prefix of one); None means the end."""
        starts = self._positions()
        if bound is None or not self._blocks:
            return starts[-1]
        at = max(0, bisect_right(self._firsts, bound) - 1)
        return starts[at] + _lower(self._blocks[at], bound)

    def at(self, position: int) -> bytes:
        """The key at a position, 0 ≤ position < len."""
        starts = self._positions()
        block = bisect_right(starts, position) - 1
        offset = (position - starts[block]) * KEY_BYTES
        return bytes(self._blocks[block][offset : offset + KEY_BYTES])

    def _pieces(self, start: int, end: int) -> Iterator[memoryview]:
        starts = self._positions()
        at = max(0, bisect_right(starts, start) - 1)
        while start < end:
            stop = min(end, starts[at + 1])
            first = starts[at]
            yield memoryview(self._blocks[at])[(start - first) * KEY_BYTES : (stop - first) * KEY_BYTES]
            start, at = stop, at + 1

    def keys(self, start: int = 0, end: int | None = None) -> list[bytes]:
        """The keys at positions ``start`` to ``end`` (exclusive)."""
        found: list[bytes] = []
        for piece in self._pieces(start, len(self) if end is None else end):
            raw = bytes(piece)
            found.extend(raw[at : at + KEY_BYTES] for at in range(0, len(raw), KEY_BYTES))
        return found

    def fingerprint(self, start: int, end: int, key: bytes) -> bytes:
        """16 bytes of BLAKE3, keyed with the session's 32-byte key, over the keys of a range."""
        hasher = blake3(key=key)
        for piece in self._pieces(start, end):
            hasher.update(piece)
        return hasher.digest(length=FINGERPRINT_BYTES)


def _lower(block: bytearray, bound: bytes) -> int:
    """Position in a block of the first key ≥ bound."""
    low, high = 0, len(block) // KEY_BYTES
    while low < high:
        middle = (low + high) // 2
        if block[middle * KEY_BYTES : (middle + 1) * KEY_BYTES] < bound:
            low = middle + 1
        else:
            high = middle
    return low
