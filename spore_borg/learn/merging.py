"""Merging weights inside one lineage, in integers of 2^-24: the same bytes in any order, on any machine.

Rules: ``mean/1`` is the weighted mean; ``trimmed/1`` clips each contribution's distance from the base to the median
distance, then takes the weighted mean of what is left per coordinate when 30 % of the weight is cut off at either end.
Files are read block by block, so memory does not grow with the models. Models of different architectures or
initialisations have no common coordinates: their shards stand side by side in the state instead.
Sources: PROTOCOL §6; Yin et al. 2018, arXiv 1803.01498 (trimmed mean); Batcher 1968 (odd-even merge sort).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

from spore_borg.learn.errors import LearnError
from spore_borg.learn.tensor_file import TensorFile, TensorWriter

MEAN, TRIMMED = "mean/1", "trimmed/1"
FRACTION_BITS = 24
LIMIT = 128.0  # of a weight's size: |q| < 2^31
PARTS_MAX = 64
WEIGHT_MAX = 1 << 18  # of all weights together: sums stay below 2^51, where float64 divides exactly
TRIM_NUM, TRIM_DEN = 3, 10
RATIO_BITS = 20
BLOCK = 1 << 16  # coordinates at a time: they fit the cache
_ROW = 1 << 12  # squares of 2^48 at most: 2^60 in a row
_SHIFT = 0.75  # added to |x| < 0.25 it leaves multiples of 2^-24 in the last 23 bits of a float32
_SHIFT_BITS = 0x3F400000  # the bits of 0.75

Parts = Sequence[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """One contribution: a safetensors file and its weight, an integer above 0."""

    path: Path
    weight: int


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge made; the bytes are in the file.

    Attributes:
        ratios: of each part, by how much its distance was scaled, in 2^-20; 2^20 is not at all.
    """

    ratios: tuple[int, ...]


def fixed(x: torch.Tensor) -> torch.Tensor:
    """float32 → int64 in units of 2^-24, rounded to nearest even. Raises LearnError for NaN or |x| ≥ 128."""
    if x.numel() and not float(x.abs().max()) < LIMIT:
        raise LearnError(f"A weight is not a number, or not below {LIMIT:.0f}; such models are not merged.")
    return (x * float(1 << FRACTION_BITS)).round_().to(torch.int64)


def floating(q: torch.Tensor) -> torch.Tensor:
    """Units of 2^-24 → float32, rounded to nearest."""
    return q.to(torch.float32).mul_(2.0**-FRACTION_BITS)


def mean_block(parts: Parts, weights: Sequence[int]) -> torch.Tensor:
    """⌊Σ w·q / Σ w⌋ of float32 [n], as float64 that holds integers. Raises LearnError for unusable numbers."""
    total = sum(weights)
    bound = min(0.25, ((1 << 31) - total) / ((1 << FRACTION_BITS) * total))
    # A NaN makes the comparison false, and the wide way refuses it.
    if all(float(high) < bound and float(low) > -bound for low, high in map(torch.aminmax, parts)):
        # The sum wraps around in 32 bits and the shift's share is taken off again: exact, in two passes.
        sums = torch.zeros(parts[0].shape, dtype=torch.int32)
        for part, weight in zip(parts, weights, strict=True):
            sums.add_((part + _SHIFT).view(torch.int32), alpha=weight)
        sums.sub_((total * _SHIFT_BITS + (1 << 31)) % (1 << 32) - (1 << 31))
        wide = sums.to(torch.float64)
    else:
        wide = torch.zeros(parts[0].shape, dtype=torch.float64)
        for part, weight in zip(parts, weights, strict=True):
            wide.add_(fixed(part).to(torch.float64), alpha=weight)
    return wide.div_(total).floor_()


def comparators(count: int) -> Iterator[tuple[int, int]]:
    """Batcher's odd-even merge sort for any count: pairs (i, j), i < j, to be put in order."""
    p = 1
    while p < count:
        k = p
        while k >= 1:
            for j in range(k % p, count - k, 2 * k):
                for i in range(min(k, count - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        yield i + j, i + j + k
            k //= 2
        p *= 2


def _sort(rows: list[torch.Tensor]) -> None:
    """Put the rows in ascending order, coordinate by coordinate, in place."""
    spare = torch.empty_like(rows[0])
    for i, j in comparators(len(rows)):
        torch.minimum(rows[i], rows[j], out=spare)
        torch.maximum(rows[i], rows[j], out=rows[j])
        rows[i], spare = spare, rows[i]


def trimmed_block(deltas: list[torch.Tensor], weights: Sequence[int]) -> torch.Tensor:
    """The weighted mean of int64 [n] without the lowest and highest 30 % of the weight, rounded down: float64 [n].

    The list's tensors are used up. Equal values may stand in any order: together they keep the same weight.
    """
    total = sum(weights)
    low = total * TRIM_NUM // TRIM_DEN
    high = total - low
    equal = len(set(weights)) == 1
    bits = 0 if equal else max(len(weights) - 1, 1).bit_length()
    largest = max(int(torch.maximum(-delta.min(), delta.max())) for delta in deltas) if len(deltas[0]) else 0
    narrow = torch.int32 if (largest + 1) << bits < 1 << 31 else torch.int64
    rows = [((delta << bits) | i if bits else delta).to(narrow) for i, delta in enumerate(deltas)]
    _sort(rows)
    kept = torch.zeros(deltas[0].shape, dtype=torch.float64)
    if equal:
        for rank, row in enumerate(rows):
            share = min((rank + 1) * weights[0], high) - max(rank * weights[0], low)
            if share > 0:
                kept.add_(row.to(torch.float64), alpha=share)
    else:
        table = torch.tensor(weights, dtype=torch.int32)
        passed = torch.zeros(deltas[0].shape, dtype=torch.int32)
        for row in rows:
            mine = table[(row & ((1 << bits) - 1)).to(torch.int64)]
            after = passed + mine
            share_of = (after.clamp(max=high) - passed.clamp(min=low)).clamp_(min=0)
            kept.addcmul_(share_of.to(torch.float64), (row >> bits).to(torch.float64))
            passed = after
    return kept.div_(high - low).floor_()


def ratios(norms: Sequence[int]) -> tuple[int, ...]:
    """By how much each contribution is scaled down to the median of the squared norms: units of 2^-20."""
    median = sorted(norms)[len(norms) // 2]
    one = 1 << RATIO_BITS
    return tuple(
        one if norm <= median else math.isqrt((median << (2 * RATIO_BITS)) // norm) for norm in norms
    )


def _squares(delta: torch.Tensor) -> int:
    """Σ (d >> 8)², exactly."""
    short = delta >> 8
    rows = torch.split(short * short, _ROW)
    return sum(int(row.sum()) for row in rows)


class _Reading:
    """The files of a merge, opened together; what does not fit is refused before anything is written."""

    def __init__(self, parts: Sequence[Part], base: Path | None) -> None:
        if not 1 <= len(parts) <= PARTS_MAX:
            raise LearnError(f"A merge has 1 to {PARTS_MAX} parts, not {len(parts)}.")
        self.weights = [part.weight for part in parts]
        if any(weight < 1 for weight in self.weights) or sum(self.weights) >= WEIGHT_MAX:
            raise LearnError(f"Weights are whole numbers from 1, together below {WEIGHT_MAX}.")
        with ExitStack() as opened:
            self.files = [opened.enter_context(closing(TensorFile(part.path))) for part in parts]
            self.base = None if base is None else opened.enter_context(closing(TensorFile(base)))
            self.shapes: Mapping[str, tuple[int, ...]] = self.files[0].shapes()
            for file in [*self.files[1:], *([] if self.base is None else [self.base])]:
                if file.shapes() != self.shapes:
                    raise LearnError(
                        f"{file.path.name} has other tensors than {parts[0].path.name}: another lineage."
                    )
            self._opened = opened.pop_all()

    def blocks(self) -> Iterator[tuple[str, int, int]]:
        """(name, start, stop) of every block, in order of names."""
        for name in sorted(self.shapes):
            count = math.prod(self.shapes[name])
            for start in range(0, count, BLOCK):
                yield name, start, min(start + BLOCK, count)

    def deltas(self, name: str, start: int, stop: int) -> tuple[list[torch.Tensor], torch.Tensor | int]:
        """Each part's distance from the base, and the base: int64 [n] in units of 2^-24."""
        zero = 0 if self.base is None else fixed(self.base.read(name, start, stop))
        return [fixed(file.read(name, start, stop)) - zero for file in self.files], zero

    def close(self) -> None:
        """Let the files go."""
        self._opened.close()


def merge(parts: Sequence[Part], out: Path, *, base: Path | None = None, rule: str = TRIMMED) -> Merged:
    """Merge models of one lineage into ``out``, a safetensors file of float32 tensors.

    Args:
        parts: in any order: the result is the same.
        base: the model from which the parts come; distances are measured from it (``trimmed/1``), or from zero.
        rule: ``mean/1`` or ``trimmed/1``.
    Raises:
        LearnError: files that do not fit each other, weights out of range, numbers that cannot be merged.
        OSError: the disk.
    """
    if rule not in (MEAN, TRIMMED):
        raise LearnError(f"There is no merge rule {rule[:40]!r}; there are {MEAN} and {TRIMMED}.")
    reading = _Reading(parts, base)
    try:
        scale = (1 << RATIO_BITS,) * len(parts)
        if rule == TRIMMED:
            norms = [0] * len(parts)
            for name, start, stop in reading.blocks():
                for i, delta in enumerate(reading.deltas(name, start, stop)[0]):
                    norms[i] += _squares(delta)
            scale = ratios(norms)
        with TensorWriter(out, reading.shapes) as writer:
            for name, start, stop in reading.blocks():
                block = _block(reading, name, start, stop, scale, rule)
                writer.write(block)
        return Merged(scale)
    finally:
        reading.close()


def _block(
    reading: _Reading, name: str, start: int, stop: int, scale: Sequence[int], rule: str
) -> torch.Tensor:
    """One merged block: float32 [n]."""
    if rule == MEAN:
        parts = [file.read(name, start, stop) for file in reading.files]
        return floating(mean_block(parts, reading.weights))
    deltas, zero = reading.deltas(name, start, stop)
    for i, ratio in enumerate(scale):
        if ratio != 1 << RATIO_BITS:
            deltas[i] = (deltas[i] * ratio) >> RATIO_BITS
    return floating(trimmed_block(deltas, reading.weights).add_(zero))
