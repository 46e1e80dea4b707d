"""Points of edwards25519 in plain integers: slow, for making test vectors that no library would sign.

Never for real keys: nothing here runs in constant time. Source: RFC 8032 §5.1, §6.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

P = 2**255 - 19  # the field
L = 2**252 + 27742317777372353535851937790883648493  # the prime order of the base point
_D = -121665 * pow(121666, -1, P) % P
_ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)


class Point(NamedTuple):
    """Affine coordinates."""

    x: int
    y: int


NEUTRAL = Point(0, 1)


def add(a: Point, b: Point) -> Point:
    """The sum of two points; complete, so it also doubles."""
    product = _D * a.x * b.x * a.y * b.y % P
    x = (a.x * b.y + b.x * a.y) * pow(1 + product, -1, P) % P
    return Point(x, (a.y * b.y + a.x * b.x) * pow(1 - product, -1, P) % P)


def times(scalar: int, point: Point) -> Point:
    """The point added ``scalar`` times."""
    found = NEUTRAL
    while scalar:
        if scalar & 1:
            found = add(found, point)
        point, scalar = add(point, point), scalar >> 1
    return found


def pack(point: Point) -> bytes:
    """The canonical 32 bytes."""
    return (point.y | (point.x & 1) << 255).to_bytes(32, "little")


def with_y(y: int, odd: int = 0) -> Point | None:
    """The point with this y and parity of x, if there is one."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * _ROOT_OF_MINUS_1 % P
    if (x * x - square) % P:
        return None
    return Point(P - x if x and x & 1 != odd else x, y)


def _known(y: int, odd: int = 0) -> Point:
    point = with_y(y, odd)
    if point is None:
        raise ValueError("no point has this y")
    return point


BASE = _known(4 * pow(5, -1, P) % P)


def order_eight() -> Point:
    """A point of order 8: L times any point that is not in a smaller subgroup."""
    y = 2
    while True:
        point = with_y(y)
        if point is not None and times(4, times(L, point)) != NEUTRAL:
            return times(L, point)
        y += 1


def hash_scalar(*parts: bytes) -> int:
    """SHA-512 of the parts as a scalar."""
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % L


def secret_scalar(seed: bytes) -> int:
    """The secret scalar of a 32-byte seed."""
    raw = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    return raw & ((1 << 254) - 8) | 1 << 254
