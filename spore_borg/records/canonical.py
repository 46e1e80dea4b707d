"""Canonical bytes: deterministic CBOR that is also valid DAG-CBOR, without floats.

Keys are text in length-first order, integers are the shortest, links are tag 42, nothing is of
indefinite length. Decoding refuses whatever does not encode to the same bytes again.
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


def _encode_cid(encoder: cbor2.CBOREncoder, cid: Cid) -> None:
    encoder.encode(cbor2.CBORTag(_LINK_TAG, b"\0" + bytes(cid)))


def _decode_tag(tag: cbor2.CBORTag, _immutable: bool) -> Cid:
    if tag.tag != _LINK_TAG or type(tag.value) is not bytes or tag.value[:1] != b"\0":
        raise ValueError("only links (tag 42) are allowed")
    return Cid(tag.value[1:])


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


def decode(raw: bytes) -> Value:
    """The value of canonical bytes.

    Raises:
        Refused: ``not-cbor``, ``forbidden-type`` or ``not-canonical``.
    """
    try:
        value = cbor2.loads(
            raw,
            tag_hook=_decode_tag,
            max_depth=RECORD_DEPTH_MAX + 2,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORError, ValueError, OverflowError, TypeError, RecursionError, MemoryError) as error:
        raise Refused("not-cbor", f"not decodable: {type(error).__name__}") from error
    if encode(value) != raw:
        raise Refused("not-canonical")
    return value
