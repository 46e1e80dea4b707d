"""A proposal for the gate: better means beyond the noise *and* by at least one part in a hundred.

A readout over more members, even over a scaled copy of one, can be better by a part in two hundred and steadily so:
with 16 pairs t > 2 sees that. What is worth a member's place is larger: on the probes, models that were trained for
something took 3 to 80 % of the error away, and untrained, shuffled and copied ones at most 1 %.
"""

from __future__ import annotations

from collections.abc import Sequence

LEAST = 100  # the gain is at least 1 / 100 of the error before


def word(before: Sequence[int], after: Sequence[int]) -> str:
    """better, worse or even, from the paired losses of one probe: whole numbers only."""
    differences = [a - b for a, b in zip(before, after, strict=True)]
    count, total = len(differences), sum(differences)
    spread = count * sum(d * d for d in differences) - total * total
    if not total or total * total * (count - 1) <= 4 * spread:
        return "even"
    if total < 0:
        return "worse"
    return "better" if total * LEAST >= sum(before) else "even"
