"""The vectors of spec/vectors/lattice/: what the code gives, and what a naive program of the chapter's words gives."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from tests.vectors import lattice_vectors

VECTORS: dict[str, Any] = json.loads(lattice_vectors.FILE.read_text(encoding="utf-8"))


def test_the_vectors_are_what_the_code_gives() -> None:
    assert lattice_vectors.text() == lattice_vectors.FILE.read_text(encoding="utf-8")


def range_of(char: str) -> int:
    """By the words of the chapter; of the vectors' letters, none of which has a radical."""
    digest = hashlib.sha256(b"spore-borg/radical\0" + ord(char).to_bytes(4, "big")).digest()
    return int.from_bytes(digest[:8], "big") % 214 * 8 // 214


def test_letters_lie_where_the_chapter_says() -> None:
    for char, radical, range_ in VECTORS["radicals"]:
        assert range_ == radical * 8 // 214
        if char.isascii():
            assert range_ == range_of(char)


def test_entries_are_the_pairs_of_the_rows_that_were_read() -> None:
    ranges = {char: range_ for char, _, range_ in VECTORS["radicals"]}
    wanted: dict[tuple[str, str, int], int] = {}
    for number, (text, rows) in enumerate(zip(VECTORS["texts"], VECTORS["rows"], strict=True)):
        for a, b in pairwise(text):
            if not (a.isascii() or rows == 255):
                continue
            if rows >> ranges.get(a, range_of(a)) & 1:
                wanted[a, b, number] = wanted.get((a, b, number), 0) + 1
    found = {(a, b, number): count for a, b, number, count in VECTORS["entries"]}
    assert {key: count for key, count in found.items() if key[0].isascii() or key[2] == 0} == wanted


@pytest.mark.parametrize("which", [0, 1, 2])
def test_code_lengths_are_those_of_the_fractions(which: int) -> None:
    code = VECTORS["codes"][which]
    recipe, weights = code["recipe"], dict(enumerate(code["weights"]))
    sums: dict[tuple[str, str], int] = {}
    weighed: dict[tuple[str, str], int] = {}
    rows: dict[tuple[str, int], int] = {}
    for a, b, number, count in VECTORS["entries"]:
        sums[a, b] = sums.get((a, b), 0) + count
        weighed[a, b] = weighed.get((a, b), 0) + count * weights[number]
        rows[a, number] = rows.get((a, number), 0) + count
    rho: dict[tuple[str, str], int] = {}
    for a, b, number, count in VECTORS["entries"]:
        rho[a, b] = max(rho.get((a, b), 0), rows[a, number] - count)
    taken = {
        pair: min(weighed[pair], recipe["exclusion"] * rho[pair] // (rho[pair] + sums[pair])) for pair in sums
    }
    often: dict[str, int] = {}
    for (_, b), count in sums.items():
        often[b] = often.get(b, 0) + (1 if recipe["backoff"] == "kinds" else count)
    volume = sum(often.values()) * recipe["escape"] + 0x110000
    bits = 0.0
    for a, b in pairwise(VECTORS["held"]):
        total = sum(count for (first, _), count in weighed.items() if first == a) + recipe["smoothing"]
        spread = sum(count for (first, _), count in taken.items() if first == a) + recipe["smoothing"]
        kept = weighed.get((a, b), 0) - taken.get((a, b), 0)
        share = Fraction(kept * volume + spread * (often.get(b, 0) * recipe["escape"] + 1), total * volume)
        bits -= math.log2(share)
    assert code["length"] / 2**32 == pytest.approx(bits, abs=1e-6)
    assert code["nano_bits"] == code["length"] * 10**9 >> 32


def test_logarithms_are_true() -> None:
    for number, length in VECTORS["log2"]:
        assert length / 2**32 == pytest.approx(math.log2(int(number)), abs=2e-9)
