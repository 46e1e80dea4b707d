"""Canonical bytes: deterministic CBOR that is also valid DAG-CBOR, without floats.

Keys are text in length-first order, integers are the shortest, links are tag 42, nothing is of
indefinite length. What a record means decides what the whole mesh agrees on, so the reader below knows
these few types and nothing else. A general CBOR library also knows shared references, big numbers and
regular expressions: 40 000 bytes of text and 5 000 references to it are 55 KB, and 200 MB written out.
Source: IPLD DAG-CBOR; RFC 8949 §4.2; spec/10-records.md.
"""

from __future__ import annotations

from typing import Any

import cbor2

from spore_borg.limits import RECORD_DEPTH_MAX, RECORD_ITEMS_MAX
from spore_borg.records.cid import Cid
from spore_borg.records.reasons import Refused

Value = Any  # None, bool, int (64 bit), bytes, str, list, dict[str, Value], Cid

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
_LINK_TAG = 42
_LINK_HEAD = b"\x58\x25\x00"  # a byte string of 37 bytes that begins with the identity multibase
_CID_SIZE = 36
_UNSIGNED, _NEGATIVE, _OCTETS, _TEXT, _LIST, _MAP, _TAG, _SIMPLE = range(8)  # the major types of CBOR
_INDEFINITE = 31
_ARGUMENTS = {24: (1, 24), 25: (2, 1 << 8), 26: (4, 1 << 16), 27: (8, 1 << 32)}  # (bytes, least value)
_SIMPLES = {0xF4: False, 0xF5: True, 0xF6: None}


def _encode_cid(encoder: cbor2.CBOREncoder, cid: Cid) -> None:
    encoder.encode(cbor2.CBORTag(_LINK_TAG, b"\0" + bytes(cid)))


def _check(value: Value, budget: list[int], depth: int) -> None:
    """Refuse every type, size and depth that records may not hold."""
    budget[0] -= 1
    if budget[0] < 0 or depth > RECORD_DEPTH_MAX:
        raise Refused("not-cbor", "too many items or too deep")
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise Refused("forbidden-type", "map keys are text")
            _check(item, budget, depth + 1)
    elif kind is list or kind is tuple:
        for item in value:
            _check(item, budget, depth + 1)
    elif kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise Refused("forbidden-type", "integers have 64 bits")
    elif kind not in (bytes, str, bool, Cid, type(None)):
        raise Refused("forbidden-type", f"{kind.__name__} is not allowed")


def encode(value: Value) -> bytes:
    """The canonical bytes of a value.

    Raises:
        Refused: ``forbidden-type`` or over the depth and item limits.
    """
    _check(value, [RECORD_ITEMS_MAX], 0)
    try:
        return cbor2.dumps(value, canonical=True, encoders={Cid: _encode_cid})
    except UnicodeEncodeError as error:
        raise Refused("forbidden-type", "text must be Unicode without surrogates") from error


class _Reader:
    """Reads one value from left to right and stops at the first byte that may not stand there."""

    __slots__ = ("_items_left", "_raw", "at")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._items_left = RECORD_ITEMS_MAX
        self.at = 0

    def _take(self, size: int) -> bytes:
        start, self.at = self.at, self.at + size
        if self.at > len(self._raw):
            raise Refused("not-cbor", "the bytes end in the middle of an item")
        return self._raw[start : self.at]

    def _head(self) -> tuple[int, int]:
        """Major type and argument of the next item; for simple values the argument is the first byte."""
        at, raw = self.at, self._raw
        if at >= len(raw):
            raise Refused("not-cbor", "the bytes end in the middle of an item")
        first = raw[at]  # not through _take: half of all items are a head and nothing else
        self.at = at + 1
        major, argument = first >> 5, first & 31
        if argument < 24:
            return major, first if major == _SIMPLE else argument
        if argument > 27:
            if argument == _INDEFINITE and _OCTETS <= major <= _MAP:
                raise Refused("not-canonical", "lengths are definite")
            raise Refused("not-cbor", f"0x{first:02x} begins no item")
        if major == _SIMPLE:
            return major, first
        size, least = _ARGUMENTS[argument]
        number = int.from_bytes(self._take(size), "big")
        if number < least:
            raise Refused("not-canonical", "integers and lengths have their shortest form")
        return major, number

    def _text(self, size: int) -> str:
        try:
            return str(self._take(size), "utf-8")
        except UnicodeDecodeError as error:
            raise Refused("not-cbor", "text is UTF-8") from error

    def value(self, depth: int) -> Value:
        """The next value, at ``depth`` lists and maps below the top."""
        self._items_left -= 1
        if self._items_left < 0 or depth > RECORD_DEPTH_MAX:
            raise Refused("not-cbor", "too many items or too deep")
        major, argument = self._head()
        if major == _TEXT:
            return self._text(argument)
        if major == _OCTETS:
            return self._take(argument)
        if major in (_UNSIGNED, _NEGATIVE):
            if argument > _INT_MAX:
                raise Refused("forbidden-type", "integers have 64 bits")
            return argument if major == _UNSIGNED else -1 - argument
        if major == _LIST:
            return [self.value(depth + 1) for _ in range(argument)]
        if major == _MAP:
            return self._map(argument, depth + 1)
        if major == _TAG:
            return self._link(argument)
        if argument not in _SIMPLES:
            raise Refused("forbidden-type", "floats and other simple values are not allowed")
        return _SIMPLES[argument]

    def _map(self, size: int, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        before = b""
        for _ in range(size):
            start = self.at
            major, argument = self._head()
            if major != _TEXT:
                raise Refused("forbidden-type", "map keys are text")
            name = self._text(argument)
            encoded = self._raw[start : self.at]
            if encoded <= before:  # the head holds the length, so this is length-first order
                raise Refused("not-canonical", "map keys are in length-first order, each once")
            before = encoded
            found[name] = self.value(depth)
        return found

    def _link(self, tag: int) -> Cid:
        if tag != _LINK_TAG:
            raise Refused("forbidden-type", "the only tag is 42, a link")
        block = self._take(len(_LINK_HEAD) + _CID_SIZE)
        if not block.startswith(_LINK_HEAD):
            raise Refused("forbidden-type", "a link is tag 42 over 37 bytes: 0x00 and the CID")
        try:
            return Cid(block[len(_LINK_HEAD) :])
        except ValueError as error:
            raise Refused("forbidden-type", f"a link is a CID: {error}") from error


def decode(raw: bytes) -> Value:
    """The value of canonical bytes; ``encode`` of it gives the same bytes again.

    Raises:
        Refused: ``not-cbor``, ``forbidden-type`` or ``not-canonical``, whichever comes first from the left.
    """
    reader = _Reader(raw)
    value = reader.value(0)
    if reader.at != len(raw):
        raise Refused("not-cbor", f"{len(raw) - reader.at} bytes after the end of the item")
    return value
