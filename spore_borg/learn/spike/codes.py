"""How a value becomes spikes: the few-spike code and the rate code, as neurons and as the quantisers they equal.

Both codes are signed: the sign of a spike is that of the value. With a threshold s per channel a value x is held as
``s * k``, k a whole number of at most ``levels`` in size, and k = sign(x) * min(levels, floor(|x| / s + 1/2)).

- ``few-spike/1``: T time steps; a spike at step t weighs 2^(T-1-t); levels = 2^T - 1; |k| costs as many spikes as
  it has bits set.
- ``rate/1``: T time steps of an integrate-and-fire neuron with soft reset; every spike weighs 1; levels = T; |k|
  costs |k| spikes.

Layer-synchronously a spiking layer therefore computes what the integer quantised layer computes, bit for bit:
``tests/learn/test_codes.py`` runs the neurons step by step against the quantisers.
Source: Stöckl and Maass 2021 (few-spike neurons); Bu et al. 2022 (clip-floor-shift equivalence of the rate code).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from spore_borg.learn.errors import ShardError

FEW_SPIKE = "few-spike/1"
RATE = "rate/1"
RULES = (FEW_SPIKE, RATE)
STEPS_MAX = {FEW_SPIKE: 16, RATE: 64}
FINE_LEVELS_MAX = 1 << 20  # two bases never code finer than this: whole numbers stay exact in float32
MANTISSA_BITS_MIN = 10  # of a mantissa: squares that nearly cancel (a variance as E[x²] - E[x]²) need them
MANTISSA_BITS = 20  # of a float32, what two bases may code without rounding twice
HUGE, TINY = 0x7F000000, 0x7FFFFF  # bits of 2^127, and of the largest float32 that is not normal
MEMBRANE_BITS = 16  # fraction bits of a rate neuron's membrane: its arithmetic is exact in int64
_POPCOUNT = torch.tensor([bin(value).count("1") for value in range(256)], dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class Code:
    """One code: its rule and its number of time steps T.

    Raises:
        ShardError: a rule that is not known, or a number of steps that is out of range.
    """

    rule: str
    steps: int

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ShardError(f"There is no code {self.rule[:40]!r}; choose one of {', '.join(RULES)}.")
        if not 1 <= self.steps <= STEPS_MAX[self.rule]:
            limit = STEPS_MAX[self.rule]
            raise ShardError(f"{self.rule} runs 1 to {limit} time steps, not {self.steps}.")

    @property
    def levels(self) -> int:
        """The largest |k|."""
        return int(2**self.steps - 1) if self.rule == FEW_SPIKE else self.steps

    def quantise(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The whole numbers k, as float32 of x's shape; s > 0 is broadcast to x. NaN becomes 0: no spike."""
        return _coded(x, s, self.levels)

    def value(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """What is left of x after it went through the code: ``s * k``."""
        return self.quantise(x, s).mul_(s)

    def spikes(self, k: torch.Tensor) -> torch.Tensor:
        """How many spikes each value costs, as float32 of k's shape."""
        size = k.abs()
        return size if self.rule == RATE else popcount(size)

    @property
    def fine_levels(self) -> int:
        """The largest |k| of two bases, a coarse and a fine population of neurons that spike in the same T steps."""
        return min((self.levels + 1) ** 2, FINE_LEVELS_MAX) - 1

    def fine(self, x: torch.Tensor, s: torch.Tensor | float) -> torch.Tensor:
        """As ``quantise``, by two bases: the fine one codes what the coarse one leaves."""
        return _coded(x, s, self.fine_levels)

    @property
    def mantissa_levels(self) -> int:
        """The largest |k| of a mantissa: two bases, and below five steps as many as ``MANTISSA_BITS_MIN`` bits take.

        The rate code keeps two: its bases are no powers of two.
        """
        if self.rule == RATE:
            return self.fine_levels
        bases = max(2, -(-MANTISSA_BITS_MIN // self.steps))
        return int(min((self.levels + 1) ** bases, FINE_LEVELS_MAX)) - 1

    def mantissa(self, x: torch.Tensor) -> torch.Tensor:
        """The whole numbers k of mantissas, at most 1 in size: x is held as k / (``mantissa_levels`` + 1)."""
        return _coded(x, 1.0 / (self.mantissa_levels + 1), self.mantissa_levels)

    def mantissas(self, x: torch.Tensor) -> torch.Tensor:
        """x, each value shifted by its own power of two to [1/2, 1) in size, coded as a mantissa, and shifted back.

        What is not finite stays as it is.
        """
        levels = self.mantissa_levels
        kept = (levels + 1).bit_length() - 1
        if x.dtype != torch.float32 or levels + 1 != 1 << kept or kept > MANTISSA_BITS:
            return self._shifted(x)
        # The code keeps the upper bits of the float's own mantissa: adding half of the last kept bit and cutting the
        # rest off rounds as the neuron does, and a mantissa that would grow to 1 stays at its largest.
        bits = x.contiguous().view(torch.int32)
        below = 1 << (24 - kept)
        held = torch.minimum(bits + (below >> 1), bits | 0x7FFFFF).bitwise_and_(-below).view(torch.float32)
        size = bits & 0x7FFFFFFF
        # No implied bit below 2^-126; torch.ldexp overflows from 2^127 on. Zero minus one has all bits set.
        rare = size.numel() > 0 and (int(size.amax()) >= HUGE or int(((size - 1) & 0x7FFFFFFF).amin()) < TINY)
        if rare:
            edge = ((size <= TINY) & (size > 0)) | (size >= HUGE)
            held[edge] = self._shifted(x.contiguous()[edge])
        return held

    def _shifted(self, x: torch.Tensor) -> torch.Tensor:
        finite = torch.isfinite(x)
        mantissa, exponent = torch.frexp(torch.where(finite, x, torch.zeros_like(x)))
        held = torch.ldexp(self.mantissa(mantissa).mul_(1.0 / (self.mantissa_levels + 1)), exponent)
        return torch.where(finite, held, x)

    def fine_spikes(self, k: torch.Tensor) -> torch.Tensor:
        """How many spikes each value of ``fine`` or ``mantissa`` costs in all bases together."""
        size, base = (
            k.abs(),
            self.levels + 1,
        )  # a few-spike code has its bits set, however many bases share them
        coarse = torch.floor(size / base)
        return self.spikes(coarse) + self.spikes(size - coarse * base)

    def train(self, x: torch.Tensor, s: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Run the neurons step by step: (weight of a spike at this step, events in {-1, 0, 1}) for T steps."""
        return few_spike_train(x, s, self.steps) if self.rule == FEW_SPIKE else rate_train(x, s, self.steps)


def _coded(x: torch.Tensor, s: torch.Tensor | float, levels: int) -> torch.Tensor:
    """sign(x) * min(levels, floor(|x| / s + 1/2)), in one buffer; NaN becomes 0."""
    u = (x.abs() / s).add_(0.5).floor_().clamp_(max=float(levels))
    return torch.nan_to_num_(u.copysign_(x), nan=0.0)


def popcount(k: torch.Tensor) -> torch.Tensor:
    """Bits set in whole numbers 0 <= k < 2^32, as float32."""
    whole = k.to(torch.int64)
    table = _POPCOUNT.to(k.device)
    total = table[whole & 255]
    whole = whole >> 8
    while bool(whole.any()):
        total = total + table[whole & 255]
        whole = whole >> 8
    return total


def few_spike_train(x: torch.Tensor, s: torch.Tensor, steps: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Few-spike neurons: the membrane starts at |x|/s + 1/2 and is compared with 2^(T-1), 2^(T-2), … 1.

    A neuron that reaches the threshold fires and is reset by it. The membrane saturates just below 2^T.
    All subtractions are exact in float32, since a threshold is at least half of the membrane that it is taken from.
    """
    u = torch.nan_to_num(x.abs() / s + 0.5, nan=0.0)
    u = torch.where(u >= 2.0**steps, torch.full_like(u, 2.0**steps - 1), u)
    sign = torch.sign(x).nan_to_num(0.0)
    for step in range(steps):
        threshold = 2 ** (steps - 1 - step)
        fired = (u >= threshold).to(u.dtype)
        u = u - fired * threshold
        yield threshold, fired * sign


def rate_train(x: torch.Tensor, s: torch.Tensor, steps: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Integrate-and-fire neurons with soft reset, in fixed point.

    Every step the input current |x|/s, at most T, flows in; the threshold is T; the membrane starts at T/2.
    """
    one = 1 << MEMBRANE_BITS
    # The quantiser adds its half in float32; taking it off again in fixed point leaves both with the same ties.
    u = torch.nan_to_num(x.abs() / s + 0.5, nan=0.0).clamp(max=steps + 0.5).to(torch.float64)
    flow = (torch.floor(u * one).to(torch.int64) - one // 2).clamp_(min=0, max=steps * one)
    sign = torch.sign(x).nan_to_num(0.0)
    threshold = steps * one
    membrane = torch.full_like(flow, threshold // 2)
    for _ in range(steps):
        membrane = membrane + flow
        fired = (membrane >= threshold).to(torch.int64)
        membrane = membrane - fired * threshold
        yield 1, fired.to(x.dtype) * sign
