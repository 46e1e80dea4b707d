"""The shapes that fields of a body may have: small checkers, composed.

Each takes a decoded value, returns it in its final type (lists become tuples) and raises ``ValueError``
with what is wrong. Bounds are part of the shape: nothing from a peer is trusted before it is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spore_borg.limits import TEXT_BYTES_MAX
from spore_borg.records.cid import Cid

Shape = Callable[[Any], Any]
U63 = (1 << 63) - 1


def integer(low: int = 0, high: int = U63) -> Shape:
    """A whole number within bounds; bool is not a number."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def octets(size: int) -> Shape:
    """Exactly ``size`` bytes."""

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) != size:
            raise ValueError(f"{size} bytes")
        return value

    return check


def text(size_max: int = TEXT_BYTES_MAX) -> Shape:
    """Text of at most ``size_max`` UTF-8 bytes."""

    def check(value: Any) -> str:
        if type(value) is not str or len(value.encode()) > size_max:
            raise ValueError(f"text of at most {size_max} bytes")
        return value

    return check


def link(value: Any) -> Cid:
    """A link to a record or blob."""
    if type(value) is not Cid:
        raise ValueError("a link")
    return value


def flag(value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise ValueError("true or false")
    return value


def maybe(shape: Shape) -> Shape:
    """The shape, or null."""
    return lambda value: None if value is None else shape(value)


def one_of(*words: str) -> Shape:
    """One of these words."""

    def check(value: Any) -> str:
        if type(value) is not str or value not in words:
            raise ValueError("one of " + ", ".join(words))
        return value

    return check


def many(shape: Shape, most: int, least: int = 0) -> Shape:
    """A list of the shape."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise ValueError(f"a list of {least} to {most}")
        return tuple(shape(item) for item in value)

    return check


def row(*shapes: Shape) -> Shape:
    """A list of fixed length, each place with a shape of its own."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) != len(shapes):
            raise ValueError(f"a list of {len(shapes)}")
        return tuple(shape(item) for shape, item in zip(shapes, value, strict=True))

    return check


def flat_map(most: int) -> Shape:
    """A map of short keys to whole numbers, truth values and short texts: a recipe, parameters."""
    scalar = integer(-U63, U63)
    word = text(256)

    def check(value: Any) -> dict[str, int | bool | str]:
        if type(value) is not dict or len(value) > most:
            raise ValueError(f"a map of at most {most} entries")
        for key, item in value.items():
            word(key)
            if type(item) is str:
                word(item)
            elif type(item) is not bool:
                scalar(item)
        return dict(value)

    return check
