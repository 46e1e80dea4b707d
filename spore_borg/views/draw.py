"""Sortition: who verifies a claim, and which blocks and segments, from values that nobody could foresee.

Source: PROTOCOL §4; spec/40-verification.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spore_borg.views import gate

K1 = 8  # expected verifiers of the outcome probe, in units of average trust
K2 = 4  # … of the replay probe
SMALL_CLASS = 6  # up to this many trusted nodes everyone is drawn


@dataclass(frozen=True, slots=True)
class Probe:
    """What one node is asked to recompute.

    Attributes:
        blocks: validation blocks for the outcome probe; empty if not drawn for it.
        segments: (segment, inner step) pairs for the replay probe.
    """

    blocks: tuple[int, ...]
    segments: tuple[tuple[int, int], ...]


def lot(value: bytes, claim: bytes, purpose: str, number: int = 0) -> int:
    """A 256-bit number fixed by a node's onion value and the claim."""
    seed = b"spore-borg/draw/" + purpose.encode() + b"\0" + value + claim + number.to_bytes(4, "big")
    return int.from_bytes(hashlib.sha256(seed).digest(), "big")


def drawn(
    value: bytes, claim: bytes, purpose: str, factor: int, trust: int, total: int, class_size: int
) -> bool:
    """Whether a node with this trust, of a class with ``total`` trust, is drawn."""
    if class_size <= SMALL_CLASS:
        return True
    return lot(value, claim, purpose) * total < min(total, factor * trust) << 256


def bounds(segment: int, segments: int, steps: int) -> tuple[int, int]:
    """First step and the step after the last of a segment."""
    return segment * steps // segments, (segment + 1) * steps // segments


def pick_blocks(value: bytes, claim: bytes, blocks: int) -> tuple[int, ...]:
    """Half of the blocks, rounded up, in ascending order."""
    ranked = sorted(range(blocks), key=lambda block: lot(value, claim, "block", block))
    return tuple(sorted(ranked[: (blocks + 1) // 2]))


def pick_units(value: bytes, claim: bytes) -> tuple[int, ...]:
    """Of each group of an absorption's blocks half of the units, in ascending order of blocks."""
    chosen: list[int] = []
    for group in range(gate.GROUPS):
        first = group * gate.UNITS
        ranked = sorted(range(gate.UNITS), key=lambda i: lot(value, claim, "block", first + i))
        for index in ranked[: gate.UNITS // 2]:
            chosen += gate.unit_blocks(group, index)
    return tuple(sorted(chosen))


def pick_inner(value: bytes, claim: bytes, segment: int, segments: int, steps: int) -> int:
    """A step inside a segment (1 … its length): its digest is known to nobody who did not replay."""
    first, last = bounds(segment, segments, steps)
    return 1 + lot(value, claim, "inner", segment) % max(1, last - first - 1)


def probe(
    value: bytes,
    claim: bytes,
    *,
    blocks: int,
    segments: int,
    steps: int,
    outcome: bool,
    replay: tuple[int, ...] | None,
    parts: Sequence[int],
    grouped: bool = False,
) -> Probe:
    """The probe of one node.

    Args:
        grouped: the blocks are those of an absorption, drawn by units.
        outcome: drawn for the outcome probe.
        replay: segments to replay; None: one of ``parts``, chosen by the node's value; empty: not drawn for it.
    """
    if replay is None:
        replay = (parts[lot(value, claim, "segment") % len(parts)],)
    picked = pick_units(value, claim) if grouped else pick_blocks(value, claim, blocks)
    return Probe(
        picked if outcome else (),
        tuple((segment, pick_inner(value, claim, segment, segments, steps)) for segment in replay),
    )


def share_out(names: list[bytes], parts: Sequence[int]) -> Mapping[bytes, tuple[int, ...]]:
    """All segments of a new key's run, dealt out to the drawn verifiers in order of their keys."""
    names = sorted(names)
    return {name: tuple(parts[rank :: len(names)]) for rank, name in enumerate(names)}
