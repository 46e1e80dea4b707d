"""Whose row a character is: Kangxi radicals from Unicode's own data, in eight ranges.

Source: kRSUnicode of the Unicode Character Database 15.0, kept in ``radicals.txt``; ``tools/gen_lattice_data.py``.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from functools import cache
from importlib import resources

RADICALS = 214
RANGES = 8  # so many parts of the radicals, each with one writer at a time
ALL_RANGES = (1 << RANGES) - 1
_KANGXI = 0x2F00  # the block whose 214 characters are the radicals themselves


@cache
def _runs() -> tuple[list[int], list[int], list[int]]:
    """First codes, last codes and radicals (from 0) of the runs of characters that share a radical."""
    text = resources.files("workspace").joinpath("radicals.txt").read_text(encoding="ascii")
    rows = [line.split() for line in text.splitlines()]
    firsts = [int(first, 16) for first, _, _ in rows]
    return firsts, [int(last, 16) for _, last, _ in rows], [int(number) - 1 for _, _, number in rows]


@cache
def radical(code: int) -> int:
    """A number from 0 to 213: the Kangxi radical of a Han character, else a fixed place by the character's code.

    Args:
        code: a code point.
    """
    if _KANGXI <= code < _KANGXI + RADICALS:
        return code - _KANGXI
    firsts, lasts, numbers = _runs()
    at = bisect_right(firsts, code) - 1
    if at >= 0 and code <= lasts[at]:
        return numbers[at]
    # Letters have no radical: every node must find the same place, and neighbours should not all share one.
    digest = hashlib.sha256(b"spore-borg/radical\0" + code.to_bytes(4, "big")).digest()
    return int.from_bytes(digest[:8], "big") % RADICALS


def range_of(code: int) -> int:
    """The range, from 0 to 7, in which a character's row lies."""
    return radical(code) * RANGES // RADICALS
