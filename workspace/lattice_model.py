"""From counts to code lengths: what a lattice and a recipe say of a text, in whole numbers of 2^-32 bits.

The probability of b after a is a fraction of whole numbers, N / D:

    N = (c(a,b) − e(a,b)) · V + (s + E(a)) · u(b)        D = (c(a) + s) · V

c: counts in 1/256, each slice with its weight; e: what the exclusion takes, ``exclusion`` · ρ / (ρ + sum), at most c;
E(a): its sum over the row, which goes to the shorter context; u(b): ``escape`` times the sum (or kinds) of b, plus 1;
V: the sum of u over all of Unicode; s: ``smoothing``. Over all b the fractions add up to
exactly 1, so the lengths are those of a code.
Bounds: c(a) < 2^32 (4 Mi characters, weights up to 4), V < 2^31, so that D < 2^63.
Sources: Kneser and Ney 1995 (kinds of neighbours, absolute discounts); Laplace (characters never seen).
Spec: spec/53-lattice.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workspace.lattice import CODE_MAX, READABLE, Codes, Ints, Lattice

if TYPE_CHECKING:
    from workspace.recipe import Recipe

BITS = 32  # fraction bits of a code length
ALPHABET = CODE_MAX + 1  # every character can be coded
WEIGHT_ONE = 256
WEIGHT_MAX = 4 * WEIGHT_ONE
UNIFORM = 256  # of the slices' own scores: what one seen pair weighs against one never seen


def log2(numbers: Ints) -> Ints:
    """⌊2^32 log2 n⌋ to within 8 units, for 1 ≤ n < 2^63, by squaring 32-bit mantissas: the same on every machine."""
    rest, whole = numbers.astype(np.uint64), np.zeros(numbers.shape, np.uint64)
    for shift in (32, 16, 8, 4, 2, 1):
        large = rest >> np.uint64(shift) > 0
        whole += np.where(large, np.uint64(shift), np.uint64(0))
        rest = np.where(large, rest >> np.uint64(shift), rest)
    up = np.where(whole < 31, np.uint64(31) - whole, np.uint64(0))
    down = np.where(whole > 31, whole - np.uint64(31), np.uint64(0))
    mantissa = numbers.astype(np.uint64) << up >> down
    length = whole
    for _ in range(BITS):
        mantissa = mantissa * mantissa >> np.uint64(31)
        bit = mantissa >> np.uint64(32)
        length = length << np.uint64(1) | bit
        mantissa >>= bit
    return length.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Model:
    """A lattice as a model: everything in whole numbers. Look-ups are by sorted keys.

    Attributes:
        pairs: a · 2^21 + b, ascending; kept: c − e of each, in 1/256.
        rows: first characters, ascending; totals: c(a), freed: E(a).
        ends: second characters, ascending; shorter: u(b) of each; volume: V.
        smoothing: s.
    """

    pairs: Ints
    kept: Ints
    rows: Ints
    totals: Ints
    freed: Ints
    ends: Ints
    shorter: Ints
    volume: int
    smoothing: int


def model(lattice: Lattice, recipe: Recipe, weights: Ints) -> Model:
    """Build the model.

    Args:
        weights: of each slice in 1/256, [64].
    """
    slices = lattice.keys & 63
    pairs, where = np.unique(lattice.pairs, return_inverse=True)
    sums, weighed = np.zeros(len(pairs), np.int64), np.zeros(len(pairs), np.int64)
    np.add.at(sums, where, lattice.counts)
    np.add.at(weighed, where, lattice.counts * weights[slices])
    rho = np.zeros(len(pairs), np.int64)
    np.maximum.at(rho, where, _exclusions(lattice))
    taken = np.minimum(weighed, int(recipe["exclusion"]) * rho // (rho + sums)) if len(pairs) else sums
    rows, row = np.unique(pairs >> 21, return_inverse=True)
    totals, freed = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    np.add.at(totals, row, weighed)
    np.add.at(freed, row, taken)
    ends, end = np.unique(pairs & 0x1FFFFF, return_inverse=True)
    often = np.zeros(len(ends), np.int64)
    np.add.at(often, end, 1 if recipe["backoff"] == "kinds" else sums)
    escape = int(recipe["escape"])
    return Model(
        pairs, weighed - taken, rows, totals, freed, ends, often * escape + 1,
        int(often.sum()) * escape + ALPHABET, int(recipe["smoothing"]),
    )  # fmt: skip


def _exclusions(lattice: Lattice) -> Ints:
    """How often each entry's slice saw the first character followed by something else: what W_ρ is the maximum of."""
    rows, where = np.unique(lattice.firsts << 6 | lattice.keys & 63, return_inverse=True)
    totals = np.zeros(len(rows), np.int64)
    np.add.at(totals, where, lattice.counts)
    return totals[where] - lattice.counts


def _find(keys: Ints, values: Ints, wanted: Ints, default: int) -> Ints:
    """The value of each wanted key in an ascending list; the default where it is not there."""
    if not len(keys):
        return np.full(wanted.shape, default, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], default)


def lengths(one: Model, pairs: Ints) -> Ints:
    """The code length of each pair's second character after its first, in 2^-32 bits; pairs are a · 2^21 + b."""
    before, after = pairs >> 21, pairs & 0x1FFFFF
    total = _find(one.rows, one.totals, before, 0) + one.smoothing
    spread = _find(one.rows, one.freed, before, 0) + one.smoothing
    kept, shorter = _find(one.pairs, one.kept, pairs, 0), _find(one.ends, one.shorter, after, 1)
    return log2(total * one.volume) - log2(kept * one.volume + spread * shorter)


def pairs_of(text: Codes) -> Ints:
    """The pairs of neighbours in a text, [n - 1]."""
    return text[:-1] << 21 | text[1:]


def length(one: Model, text: Codes) -> int:
    """The code length of a text but its first character, in 2^-32 bits."""
    pairs, times = np.unique(pairs_of(text), return_counts=True)
    return sum(int(a) * int(n) for a, n in zip(lengths(one, pairs), times, strict=True))


def weights(lattice: Lattice, kind: str, held: Codes) -> Ints:
    """What each slice counts, in 1/256, [64]: all the same, or in proportion to what it saves on a held-out text.

    A slice's score is the code length that it alone saves on the text against a lattice that saw nothing; who saves
    nothing gets no weight, who saves the mean gets 256, and nobody more than four times that.
    """
    if kind == "equal":
        return np.full(64, WEIGHT_ONE, np.int64)
    pairs, times = np.unique(pairs_of(held), return_counts=True)
    rows, where = np.unique(lattice.firsts << 6 | lattice.keys & 63, return_inverse=True)
    totals = np.zeros(len(rows), np.int64)
    np.add.at(totals, where, lattice.counts)
    nothing = int(log2(np.array([ALPHABET]))[0])
    present = [n for n in range(READABLE) if lattice.read[n]]
    scores = dict.fromkeys(range(64), 0)
    for n in present:
        seen = _find(lattice.keys, lattice.counts, pairs << 6 | n, 0) * UNIFORM + 1
        row = _find(rows, totals, (pairs >> 21) << 6 | n, 0) * UNIFORM + ALPHABET
        saved = nothing - (log2(row) - log2(seen))
        scores[n] = max(0, sum(int(a) * int(b) for a, b in zip(saved, times, strict=True)))
    total = sum(scores.values())
    if not total:
        return np.full(64, WEIGHT_ONE, np.int64)
    shares = [min(WEIGHT_MAX, WEIGHT_ONE * len(present) * scores[n] // total) for n in range(64)]
    return np.array(shares, np.int64)


def to_nano(length_: int) -> int:
    """2^-32 bits as nano-bits, rounded down; a code length near 0 may be a few units below 0 and counts as 0."""
    return max(0, length_ * 1_000_000_000 >> BITS)
