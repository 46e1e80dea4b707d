"""The character lattice: which character follows which, as counts that join exactly and are scored exactly.

``W_τ`` holds for each pair (a, b) the sum of what members saw and how many saw it, so that the mean of any set of
members is one function of the joined sums, in any order. (A mean of means, as the Kibbutz paper has it, is not
associative.) ``W_ρ`` holds the strongest exclusion that anyone found and joins by maximum. Rows belong to radical
ranges: a member writes rows of its own radicals only. The score is the code length of a text in bits per character:
sums of logarithms rounded down once to 2^-32, so that a verifier gets the same integer.
Source: "SGS.ai Kibbutz" §§1, 3; Laplace's rule for characters never seen; Unicode 15.1, Kangxi Radicals block.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spore_borg.learn.errors import LearnError

BITS = 32  # fraction bits of a score
PAIRS_MAX = 1 << 22
COUNT_MAX = 1 << 40
RADICALS = 214
_KANGXI = 0x2F00

Pair = tuple[str, str]


def _radicals() -> dict[str, int]:
    """Characters that are radicals themselves, by the decompositions of the Kangxi block: 214 of them."""
    return {unicodedata.normalize("NFKC", chr(_KANGXI + n)): n for n in range(RADICALS)}


RADICAL_OF = _radicals()


def radical(character: str) -> int:
    """A number from 0 to 213 that says whose row a character is.

    The Kangxi radical where Unicode's own data names it (the 214 radicals and their block); for other characters,
    which only Unihan's kRSUnicode assigns, a fixed place by the character's code: every node agrees on it.
    """
    if len(character) != 1:
        raise LearnError("A row is one character.")
    known = RADICAL_OF.get(unicodedata.normalize("NFKC", character))
    if known is not None:
        return known
    digest = hashlib.sha256(b"spore-borg/radical\0" + character.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % RADICALS


@dataclass(slots=True)
class Lattice:
    """Edges of a lattice, of one member or of several together.

    Attributes:
        tau: (a, b) → {member: times that it saw b follow a}: the sum and the count of members follow from it.
        rho: (a, b) → strongest exclusion, from 0: how often a was followed by something else.
    """

    tau: dict[Pair, dict[str, int]] = field(default_factory=dict)
    rho: dict[Pair, int] = field(default_factory=dict)

    @classmethod
    def of(cls, member: str, text: str, radicals: range = range(RADICALS)) -> Lattice:
        """What a member's text says of the rows of its radicals. Raises LearnError for a text with too many pairs."""
        pairs = Counter((a, b) for a, b in itertools.pairwise(text) if radical(a) in radicals)
        if len(pairs) > PAIRS_MAX:
            raise LearnError(f"A lattice has at most {PAIRS_MAX} pairs.")
        rows: Counter[str] = Counter()
        for (a, _), times in pairs.items():
            rows[a] += times
        return cls(
            {pair: {member: times} for pair, times in pairs.items()},
            {pair: rows[pair[0]] - times for pair, times in pairs.items()},
        )

    def join(self, other: Lattice) -> Lattice:
        """Both together: of each member the larger count, of each exclusion the stronger. A CRDT."""
        tau = {pair: dict(seen) for pair, seen in self.tau.items()}
        for pair, seen in other.tau.items():
            mine = tau.setdefault(pair, {})
            for member, times in seen.items():
                mine[member] = max(mine.get(member, 0), times)
        rho = dict(self.rho)
        for pair, strength in other.rho.items():
            rho[pair] = max(rho.get(pair, 0), strength)
        return Lattice(tau, rho)

    def sums(self, pair: Pair) -> tuple[int, int]:
        """(sum, count) of a pair: the mean is sum / count."""
        seen = self.tau.get(pair, {})
        return sum(seen.values()), len(seen)

    def weighed(self, weights: Mapping[str, int]) -> dict[Pair, int]:
        """Σ weight · times of each pair; ``ownership.income`` gives weights by score. Members without one count 0."""
        found = {}
        for pair, seen in self.tau.items():
            total = sum(weights.get(member, 0) * times for member, times in seen.items())
            if total:
                found[pair] = total
        return found

    def members(self) -> frozenset[str]:
        """Everyone who saw anything."""
        return frozenset(member for seen in self.tau.values() for member in seen)

    def to_json(self) -> str:
        """Canonical JSON: equal lattices are equal texts."""
        tau = sorted([a, b, sorted(seen.items())] for (a, b), seen in self.tau.items())
        rho = sorted([a, b, strength] for (a, b), strength in self.rho.items())
        return json.dumps({"rho": rho, "tau": tau}, separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> Lattice:
        """Read ``to_json``'s text. Raises LearnError for anything else."""
        try:
            value = json.loads(text)
            tau = {_pair(a, b): {_name(m): _count(n) for m, n in seen} for a, b, seen in value["tau"]}
            rho = {_pair(a, b): _count(n) for a, b, n in value["rho"]}
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise LearnError(f"This is no lattice: {type(error).__name__} {error}"[:200]) from error
        if max(len(tau), len(rho)) > PAIRS_MAX:
            raise LearnError(f"A lattice has at most {PAIRS_MAX} pairs.")
        return cls(tau, rho)


def _pair(a: Any, b: Any) -> Pair:
    if type(a) is not str or type(b) is not str or len(a) != 1 or len(b) != 1:
        raise ValueError("a pair is two characters")
    return a, b


def _name(value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= 200:
        raise ValueError("a member has a name of 1 to 200 characters")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < COUNT_MAX:
        raise ValueError("a count is a whole number from 0")
    return value


def log2_fixed(number: int) -> int:
    """⌊log2(n) · 2^32⌋ for n ≥ 1, by squaring: exact arithmetic, the same everywhere."""
    if number < 1:
        raise LearnError("A logarithm is taken of a number from 1.")
    whole = number.bit_length() - 1
    mantissa, log = (number << 64) >> whole, whole
    for _ in range(BITS):
        mantissa = mantissa * mantissa >> 64
        log = log << 1 | mantissa >> 65
        mantissa >>= mantissa >> 65
    return log


def score(counts: Mapping[Pair, int], text: str, alphabet: int) -> int:
    """Code length of a text in 2^-32 bits, over all its characters but the first; divide by their number for a rate.

    Args:
        counts: (a, b) → weight: ``Lattice.weighed``, or the sums of ``tau``; each pair counts one more (Laplace).
        alphabet: how many different characters can occur: what a character never seen costs.
    Raises:
        LearnError: an alphabet smaller than the text's.
    """
    if len(set(text)) > alphabet:
        raise LearnError(f"The text has more than {alphabet} different characters.")
    rows: Counter[str] = Counter()
    for (a, _), weight in counts.items():
        rows[a] += weight
    total = 0
    for pair, times in sorted(Counter(itertools.pairwise(text)).items()):
        total += times * (log2_fixed(rows[pair[0]] + alphabet) - log2_fixed(counts.get(pair, 0) + 1))
    return total
