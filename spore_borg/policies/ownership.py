"""Who may write a range of a shard in an epoch, and how much each member's work counts: whole numbers only.

Ownership is weighted rendezvous hashing: every node finds the same owner from the members alone, a range has one
writer per epoch, so concurrent writes cannot conflict, and a member that leaves moves only its own ranges.
Sources: Thaler and Ravishankar 1998 (rendezvous hashing); Schindelhauer and Schomaker 2005 (weights).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fractions import Fraction

WEIGHT_MAX = 1 << 62
LOG_BITS = 48  # fraction bits of −log2(u)
INCOME_ONE = 1 << 20


def _minus_log2(u: int) -> int:
    """⌊−log2((u + 1) / 2^64) · 2^48⌋ for 0 ≤ u < 2^64, by squaring: exact arithmetic, the same everywhere."""
    x = u + 1
    whole = x.bit_length() - 1
    # The mantissa in [1, 2) with 96 fraction bits; each squaring yields one more bit of the logarithm.
    mantissa = (x << 96) >> whole
    log = whole << LOG_BITS
    for bit in range(LOG_BITS - 1, -1, -1):
        mantissa = mantissa * mantissa >> 96
        if mantissa >> 97:
            log |= 1 << bit
            mantissa >>= 1
    return (64 << LOG_BITS) - log


def owner(shard_range: str, epoch: int, members: Mapping[str, int]) -> str:
    """The one member that may write a range in an epoch.

    Args:
        shard_range: names the range, for example ``bafy…/w1/0-70``.
        members: weight of each, a whole number above 0; the chance to own is in proportion to it.
    Raises:
        ValueError: no members, or a weight out of range.
    """
    if not members:
        raise ValueError("A range has no owner without members.")
    best: tuple[Fraction, str] | None = None
    for name, weight in members.items():
        if not 0 < weight < WEIGHT_MAX:
            raise ValueError(f"The weight of {name[:60]!r} is not a whole number from 1 to 2^62.")
        parts = (shard_range.encode(), str(epoch).encode(), name.encode())
        seed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        draw = int.from_bytes(hashlib.sha256(b"spore-borg/owner\0" + seed).digest()[:8], "big")
        # The smallest −log(u) / w wins: an exponential race, compared as fractions.
        score = (Fraction(_minus_log2(draw), weight), name)
        if best is None or score < best:
            best = score
    assert best is not None
    return best[1]


def income(scores: Mapping[str, int], *, cap: int = INCOME_ONE // 4) -> dict[str, int]:
    """Each member's share of the consensus by its score, in 2^-20, together exactly 2^20; all 0 without a score.

    Args:
        scores: whole numbers; what is below 0 counts as 0.
        cap: no member counts for more than this share, as far as the others have scores to take the rest.
    Raises:
        ValueError: a cap out of range.
    """
    if not 0 < cap <= INCOME_ONE:
        raise ValueError(f"A cap is a share from 1 to 2^20, not {cap}.")
    paid = {name: max(score, 0) for name, score in scores.items()}
    earning = sorted((name for name in paid if paid[name]), key=lambda name: (-paid[name], name))
    shares = dict.fromkeys(paid, 0)
    if not earning:
        return shares
    limit = max(cap, -(-INCOME_ONE // len(earning)))
    left, total = INCOME_ONE, sum(paid.values())
    for name in earning:  # the largest first: what a cap takes away goes to those after it
        share = min(limit, left * paid[name] // total)
        shares[name] = share
        left, total = left - share, total - paid[name]
    for name in earning:  # roundings, a few units: to the first that have room
        extra = min(left, limit - shares[name])
        shares[name] += extra
        left -= extra
    return shares
