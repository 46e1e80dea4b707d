"""Range-based set reconciliation: which records does one side have that the other lacks?

The initiator sends ranges of the key space with a fingerprint or a list of keys each; the responder
answers from its own set and keeps nothing between messages. Every answer is bounded: what does not fit is
left as one ``MORE`` range, and the next round goes on there.
Source: A. Meyer, "Range-Based Set Reconciliation" (2023). Spec: ``spec/32-reconciliation.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from blake3 import blake3

from spore_borg.errors import RemoteProtocolError
from spore_borg.limits import RECON_IDS_MAX, RECON_RANGES_MAX
from spore_borg.protocol.index import EPOCH_MAX, FINGERPRINT_BYTES, KEY_BYTES, KeyIndex

FAN_OUT = 16  # sub-ranges of a range that differs
LIST_MAX = 32  # a range with at most this many keys is listed
PAGE_KEYS = 2_048  # keys in one answer of ours, and keys one answer may make us act on

SKIP, PRINT, KEYS, GIVE, MORE = range(5)
_EPOCH_BYTES = 8
_DIGEST_BYTES = 32
_END = 255  # length byte of the bound "to the end"
_VARINT_BYTES_MAX = 9
_CONTEXT = "spore-borg 2026 reconciliation session key"


class Range(NamedTuple):
    """One range: from the previous range's bound up to ``bound`` (exclusive; None: the end).

    ``mode``: SKIP equal or done · PRINT ``print`` is the sender's fingerprint · KEYS ``keys`` is all the
    sender holds there · GIVE (responder only) ``keys`` are those that the initiator's list lacked ·
    MORE unresolved, ask again.
    """

    bound: bytes | None
    mode: int
    print: bytes = b""
    keys: tuple[bytes, ...] = ()


def session_key(nonce_initiator: bytes, nonce_responder: bytes, mesh: bytes, session: int) -> bytes:
    """The 32-byte fingerprint key of one session. Both sides' fresh nonces are in it.

    Neither side alone, nor anybody who writes records before the connection exists, knows the key under
    which crafted keys would have to collide.
    """
    hasher = blake3(derive_key_context=_CONTEXT)
    hasher.update(nonce_initiator + nonce_responder + mesh + session.to_bytes(8, "big"))
    return hasher.digest()


# --- bytes ------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_ranges(ranges: list[Range]) -> bytes:
    """Ranges as bytes: mode, payload, bound; epochs as differences from the last epoch written."""
    out = bytearray()
    epoch = 0
    for item in ranges:
        out.append(item.mode)
        if item.mode == PRINT:
            out += item.print
        elif item.mode in (KEYS, GIVE):
            out += _varint(len(item.keys))
            for key in item.keys:
                now = int.from_bytes(key[:_EPOCH_BYTES], "big")
                out += _varint(now - epoch) + key[_EPOCH_BYTES:]
                epoch = now
        if item.bound is None:
            out.append(_END)
        else:
            now = int.from_bytes(item.bound[:_EPOCH_BYTES], "big")
            out.append(len(item.bound) - _EPOCH_BYTES)
            out += _varint(now - epoch) + item.bound[_EPOCH_BYTES:]
            epoch = now
    return bytes(out)


class _Reader:
    """Reads the bytes of ranges; every fault is the peer's."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0
        self.epoch = 0

    def take(self, size: int) -> bytes:
        piece = self.raw[self.at : self.at + size]
        if len(piece) != size:
            raise RemoteProtocolError(detail="reconciliation message ends early")
        self.at += size
        return piece

    def varint(self) -> int:
        value = 0
        for count in range(_VARINT_BYTES_MAX):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * count)
            if byte < 0x80:
                if byte == 0 and count:
                    break
                return value
        raise RemoteProtocolError(detail="reconciliation number is not minimal or too large")

    def next_epoch(self) -> bytes:
        self.epoch += self.varint()
        if self.epoch > EPOCH_MAX:
            raise RemoteProtocolError(detail="reconciliation epoch is over 63 bits")
        return self.epoch.to_bytes(_EPOCH_BYTES, "big")

    def keys(self, budget: int) -> tuple[bytes, ...]:
        count = self.varint()
        if count > budget:
            raise RemoteProtocolError(detail=f"over {RECON_IDS_MAX} keys in one reconciliation message")
        return tuple(self.next_epoch() + self.take(_DIGEST_BYTES) for _ in range(count))

    def bound(self) -> bytes | None:
        size = self.take(1)[0]
        if size == _END:
            return None
        if size > _DIGEST_BYTES:
            raise RemoteProtocolError(detail="reconciliation bound is longer than a key")
        return self.next_epoch() + self.take(size)


def decode_ranges(raw: bytes) -> list[Range]:
    """Read ranges; keys and bounds must ascend strictly and the last range must reach the end.

    Raises:
        RemoteProtocolError: over ``RECON_RANGES_MAX`` ranges or ``RECON_IDS_MAX`` keys, out of order, cut off.
    """
    reader = _Reader(raw)
    ranges: list[Range] = []
    last = b""  # everything later must be ≥ this: the last bound, or just above the last key
    ids = 0
    ended = False
    while reader.at < len(raw):
        if ended or len(ranges) >= RECON_RANGES_MAX:
            raise RemoteProtocolError(detail="too many reconciliation ranges")
        mode = reader.take(1)[0]
        print_ = b""
        keys: tuple[bytes, ...] = ()
        if mode == PRINT:
            print_ = reader.take(FINGERPRINT_BYTES)
        elif mode in (KEYS, GIVE):
            keys = reader.keys(RECON_IDS_MAX - ids)
            ids += len(keys)
        elif mode not in (SKIP, MORE):
            raise RemoteProtocolError(detail=f"reconciliation mode {mode} is unknown")
        bound = reader.bound()
        ended = bound is None
        for place, key in enumerate(keys):
            if key < last or (place and key == last) or (bound is not None and key >= bound):
                raise RemoteProtocolError(detail="reconciliation keys are out of order")
            last = key
        if bound is not None:
            if bound <= last:
                raise RemoteProtocolError(detail="reconciliation bounds do not ascend")
            last = bound
        ranges.append(Range(bound, mode, print_, keys))
    if ranges and not ended:
        raise RemoteProtocolError(detail="reconciliation ranges do not reach the end")
    return ranges


# --- the exchange -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Answer:
    """What one message leads to.

    ``ranges``: the next message, empty when the session is done. ``have``: keys the peer lacks.
    ``need``: keys we lack. ``hashed_bytes``: work done, for the peer's budget.
    """

    ranges: list[Range] = field(default_factory=list)
    have: list[bytes] = field(default_factory=list)
    need: list[bytes] = field(default_factory=list)
    hashed_bytes: int = 0


class _Builder:
    """Builds one answer over an index, within its page."""

    def __init__(self, index: KeyIndex, key: bytes) -> None:
        self.index = index
        self.key = key
        self.answer = Answer()
        self.listed = 0
        self.skip: bytes | None = None  # bound of equal ranges not written yet

    def full(self) -> bool:
        done = self.listed + len(self.answer.have) + len(self.answer.need)
        return done >= PAGE_KEYS or len(self.answer.ranges) >= RECON_RANGES_MAX - FAN_OUT - 2

    def put(self, item: Range) -> None:
        if self.skip is not None:
            self.answer.ranges.append(Range(self.skip, SKIP))
            self.skip = None
        self.answer.ranges.append(item)

    def print(self, start: int, end: int) -> bytes:
        self.answer.hashed_bytes += (end - start) * KEY_BYTES
        return self.index.fingerprint(start, end, self.key)

    def split(self, start: int, end: int, bound: bytes | None) -> None:
        """Describe our keys of a range that differs: list a few, else cut by count."""
        count = end - start
        if count <= LIST_MAX:
            self.listed += count
            self.put(Range(bound, KEYS, keys=tuple(self.index.keys(start, end))))
            return
        cuts = [start + count * part // FAN_OUT for part in range(FAN_OUT + 1)]
        for low, high in pairwise(cuts):
            edge = bound if high == end else split_bound(self.index.at(high - 1), self.index.at(high))
            self.put(Range(edge, PRINT, self.print(low, high)))

    def give(self, keys: list[bytes], bound: bytes | None) -> bool:
        """List keys that the initiator lacks; False when the page ended before the range did."""
        room = max(1, PAGE_KEYS - self.listed)
        if len(keys) <= room:
            self.listed += len(keys)
            self.put(Range(bound, GIVE, keys=tuple(keys)))
            return True
        self.listed += room
        self.put(Range(split_bound(keys[room - 1], keys[room]), GIVE, keys=tuple(keys[:room])))
        return False


def split_bound(below: bytes, above: bytes) -> bytes:
    """The shortest bound (epoch and a prefix of the digest) that is > ``below`` and ≤ ``above``."""
    size = _EPOCH_BYTES
    while above[:size] <= below:
        size += 1
    return above[:size]


def begin(index: KeyIndex, key: bytes) -> list[Range]:
    """The initiator's first message: the whole set, split once."""
    builder = _Builder(index, key)
    builder.split(0, len(index), None)
    return builder.answer.ranges


def respond(index: KeyIndex, key: bytes, ranges: list[Range], *, initiator: bool) -> Answer:
    """Answer one message from our own set.

    Args:
        index: our keys.
        key: the session's fingerprint key.
        ranges: the peer's message, decoded.
        initiator: we began this session (only then may the peer GIVE).

    Raises:
        RemoteProtocolError: an initiator sent GIVE.
    """
    builder = _Builder(index, key)
    start = 0
    for item in ranges:
        if builder.full():
            builder.put(Range(None, MORE))
            return _finish(builder)
        end = index.lower(item.bound)
        if item.mode == MORE or (item.mode == PRINT and builder.print(start, end) != item.print):
            builder.split(start, end, item.bound)
        elif item.mode == GIVE:
            if not initiator:
                raise RemoteProtocolError(detail="only the responder of a reconciliation may give")
            builder.answer.need += [found for found in item.keys if found not in index]
            builder.skip = item.bound
        elif item.mode == KEYS:
            if not _compare(builder, item, start, end, initiator=initiator):
                builder.put(Range(None, MORE))
                return _finish(builder)
        else:
            builder.skip = item.bound
        start = end
    return _finish(builder)


def _compare(builder: _Builder, item: Range, start: int, end: int, *, initiator: bool) -> bool:
    """Take the peer's list of a range; False when the rest must wait for the next round."""
    theirs = set(item.keys)
    # One page at a time: a range of ours may hold the whole set where the peer's list is empty.
    stop = min(end, start + PAGE_KEYS + len(theirs))
    whole = stop == end
    mine = builder.index.keys(start, stop)
    upto = None if whole else builder.index.at(stop)
    lacks = [found for found in mine if found not in theirs]
    builder.answer.need += [
        found for found in item.keys if (upto is None or found < upto) and found not in builder.index
    ]
    if initiator:
        builder.answer.have += lacks
        if whole:
            builder.skip = item.bound
            return True
        builder.put(Range(split_bound(mine[-1], builder.index.at(stop)), SKIP))
        return False
    bound = item.bound if whole else split_bound(mine[-1], builder.index.at(stop))
    if not lacks:
        builder.skip = bound
        return whole
    return builder.give(lacks, bound) and whole


def _finish(builder: _Builder) -> Answer:
    if builder.answer.ranges and builder.answer.ranges[-1].bound is not None:
        builder.answer.ranges.append(Range(None, SKIP))
    return builder.answer
