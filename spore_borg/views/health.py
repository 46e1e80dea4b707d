"""Ψ: is the collective getting smarter? Four parts and their geometric mean, in parts per million.

    V  verified    claims that others confirmed / all claims old enough to have a verdict
    S  synchrony   of what each live node published lately, the share that every other live node has seen (mean)
    D  diversity   ln(1 + e^H) / ln(1 + N): H is the entropy of verified gain over directions, N = max(8, directions)
    L  learning    g1 / (g1 + g0): verified gain per FLOP in this span against the span before it
    Ψ = (V · S · D · L)^¼: one dead part makes it zero.

A direction is a recipe field that a frontier step changed. A value is a function of the set up to a settled round;
None means that there is nothing to measure yet, 0 that there is and it is nothing. Integers only: logarithms are fixed
point, 2^-32. Source: ANCHORS (colony); spec/20-views.md, "Health".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from spore_borg.views import verdicts
from spore_borg.views.failures import changes
from spore_borg.views.frontier import Step
from spore_borg.views.reduce import LIVE_ROUNDS, View

PPM = 1_000_000
STRIDE = 16  # rounds from one point to the next
SPAN = 128  # rounds that V and L look back; L compares with as many before
SPANS_DIVERSITY = 4  # spans that D looks back
RECENT = 16  # rounds of records that S asks for
LAG = 8  # rounds that a claim has for its verdict
POINTS_MAX = 48  # newest points kept
DIRECTIONS_MIN = 8
MILLI = 1_000
PETA = 10**15
PARTS = ("verified", "synchrony", "diversity", "learning")
_BITS = 32  # of a fixed-point logarithm


@dataclass(frozen=True, slots=True)
class Part:
    """One part at one round: its value, and the two numbers of which it is made (see :func:`health`)."""

    value: int | None  # ppm
    a: int = 0
    b: int = 0


def log2(number: int) -> int:
    """log2 of a positive integer, in 2^-32, rounded down."""
    whole = number.bit_length() - 1
    part = number << (64 - whole) if whole <= 64 else number >> (whole - 64)  # in [1, 2), 2^-64
    out = whole << _BITS
    for bit in range(_BITS - 1, -1, -1):
        part = part * part >> 64
        if part >> 65:
            part >>= 1
            out |= 1 << bit
    return out


def _roots() -> tuple[int, ...]:
    """2^(2^-i) for i from 1, in 2^-64."""
    out = [2 << 64]
    for _ in range(_BITS):
        out.append(isqrt(out[-1] << 64))
    return tuple(out[1:])


_ROOTS = _roots()


def exp2(exponent: int) -> int:
    """2 to an exponent in 2^-32 (not negative), in 2^-32."""
    out = 1 << 64
    for index, root in enumerate(_ROOTS):
        if exponent >> (_BITS - 1 - index) & 1:
            out = out * root >> 64
    return out << (exponent >> _BITS) >> 32


def diversity(gains: Mapping[str, int]) -> int:
    """D of verified gains by direction, in ppm; every gain is positive."""
    total = sum(gains.values())
    entropy = log2(total) - sum(gain * log2(gain) for gain in gains.values()) // total  # bits, 2^-32
    spread = (1 << _BITS) + exp2(max(0, entropy))  # 1 + e^H, 2^-32
    most = log2(1 + max(DIRECTIONS_MIN, len(gains)))
    return min(PPM, (log2(spread) - (_BITS << _BITS)) * PPM // most)


def psi(parts: Iterable[int | None]) -> int | None:
    """The geometric mean of the four parts, in ppm: 0 if one is 0, None if one cannot be measured yet."""
    product = 1
    unknown = False
    for value in parts:
        if value is None:
            unknown = True
        else:
            product *= value
    return 0 if product == 0 else None if unknown else isqrt(isqrt(product))


class Health:
    """What the parts need of a view, read once."""

    def __init__(self, view: View) -> None:
        self.view = view
        rounds = len(view.rounds)
        self.claims = [0] * rounds  # by the round that acknowledged them
        self.accepted: list[list[int]] = [[] for _ in range(rounds)]  # rounds in which those were settled so
        self.cost = [0] * rounds  # FLOPs of the runs that a round acknowledged
        for claim in view.claims.values():
            at = view.ack.get(claim.target.cid)
            if at is not None:
                self.claims[at] += 1
                if claim.verdict == verdicts.ACCEPTED and claim.round_settled is not None:
                    self.accepted[at].append(claim.round_settled)
        self.by_epoch: dict[int, list[int]] = defaultdict(list)
        for position, record in enumerate(view.dag.records):
            self.by_epoch[record.epoch].append(position)
            if record.kind == "experiment" and (at := view.ack.get(record.cid)) is not None:
                self.cost[at] += record.body.flops
        self.steps: list[tuple[int, int, Step]] = []  # (round, gain in thousandths of σ, step)
        for (task, _), frontier in view.frontiers.items():
            sigma = max(1, view.tasks[task].sigma or view.tasks[task].gain_min)
            self.steps += [(s.round, s.gain * MILLI // sigma, s) for s in frontier.steps if s.gain]

    def verified(self, at: int) -> Part:
        """V: ``a`` confirmed of ``b`` claims."""
        span = range(max(0, at - LAG - SPAN + 1), at - LAG + 1)
        claims = sum(self.claims[r] for r in span)
        accepted = sum(sum(1 for when in self.accepted[r] if when <= at) for r in span)
        return Part(accepted * PPM // claims if claims else None, accepted, claims)

    def learning(self, at: int) -> Part:
        """L: ``a`` now, ``b`` before: verified gain in thousandths of σ per 10^15 FLOP."""
        now = self._gain_and_cost(at - SPAN + 1, at)
        before = self._gain_and_cost(at - 2 * SPAN + 1, at - SPAN)
        a, b = (gain * PETA // max(1, cost) for gain, cost in (now, before))
        if not before[1] or not now[1]:
            return Part(None, a, b)
        up, down = now[0] * before[1], before[0] * now[1]
        return Part(up * PPM // (up + down) if up + down else 0, a, b)

    def _gain_and_cost(self, first: int, last: int) -> tuple[int, int]:
        gain = sum(gain for when, gain, _ in self.steps if first <= when <= last)
        return gain, sum(self.cost[max(0, first) : max(0, last + 1)])

    def diverse(self, at: int) -> Part:
        """D: ``a`` directions that carried gain, ``b`` frontier steps."""
        gains: dict[str, int] = defaultdict(int)
        steps = 0
        for when, gain, step in self.steps:
            if at - SPANS_DIVERSITY * SPAN < when <= at and gain > 0:
                steps += 1
                for name, share in self._directions(step, gain):
                    gains[name] += share
        return Part(diversity(gains) if gains else None, len(gains), steps)

    def _directions(self, step: Step, gain: int) -> list[tuple[str, int]]:
        """The fields that a step changed, each with an equal share; without a known base, its operator."""
        record = self.view.dag.records[self.view.dag.index[step.cid]]
        names = sorted(changes(self.view, record)) or [record.body.operator]
        return [(name, max(1, gain // len(names))) for name in names]

    def synchrony(self, at: int) -> Part:
        """S: mean over ordered pairs of live nodes; ``a`` live nodes, ``b`` records that were asked for.

        One pass over the recent records from the newest down hands every record the set of nodes whose last seal
        rests on it, so the cost does not grow with the number of pairs.
        """
        view, rounds = self.view, self.view.rounds
        last = rounds[at].epoch
        live_from = rounds[max(0, at - LIVE_ROUNDS + 1)].epoch
        seals: dict[bytes, int] = {}
        for epoch in range(live_from, last + 1):
            if epoch in view.dag.seals:
                seals.update(view.dag.seals[epoch])
        if len(seals) < 2:
            return Part(0 if at >= LIVE_ROUNDS else None, len(seals), 0)
        first = rounds[max(0, at - RECENT)].epoch
        until = min(view.dag.records[position].epoch for position in seals.values())
        region = [p for epoch in range(first, last + 1) for p in self.by_epoch.get(epoch, ())]
        seen: dict[int, int] = dict.fromkeys(region, 0)
        numbers = {who: number for number, who in enumerate(sorted(seals))}
        for who, position in seals.items():
            seen[position] |= 1 << numbers[who]
        asked: dict[bytes, list[int]] = {who: [0, 0] for who in seals}
        for position in sorted(region, reverse=True):
            mask = seen[position]
            for past in view.dag.past[position]:
                if past in seen:
                    seen[past] |= mask
            record = view.dag.records[position]
            if record.epoch < until and record.author in asked:
                asked[record.author][0] += (mask & ~(1 << numbers[record.author])).bit_count()
                asked[record.author][1] += 1
        shares = [s * PPM // (n * (len(seals) - 1)) for s, n in asked.values() if n]
        return Part(
            sum(shares) // len(shares) if shares else None, len(seals), sum(n for _, n in asked.values())
        )

    def at(self, round_: int) -> dict[str, Part]:
        """All parts and Ψ at a round."""
        found = (self.verified(round_), self.synchrony(round_), self.diverse(round_), self.learning(round_))
        return {"psi": Part(psi(part.value for part in found)), **dict(zip(PARTS, found, strict=True))}


def points(view: View) -> list[int]:
    """The rounds at which health is told: every ``STRIDE``-th settled one, and the newest settled one."""
    settled = view.round_settled
    if settled < 0:
        return []
    regular = list(range(STRIDE - 1, settled + 1, STRIDE))
    return sorted({*regular, settled})[-POINTS_MAX:]


def tables(view: View) -> list[dict[str, Any]]:
    """Rows of the table ``health``, oldest first."""
    wanted = points(view)
    if not wanted:
        return []
    health = Health(view)
    return [
        {"round": round_, "part": name, "value": part.value, "a": part.a, "b": part.b}
        for round_ in wanted
        for name, part in health.at(round_).items()
    ]


__all__ = ["PARTS", "Health", "Part", "diversity", "psi", "tables"]
