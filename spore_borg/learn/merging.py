"""Merging weights inside one lineage, in integers of 2^-24: the same bytes in any order, on any machine.

Rules: ``mean/1`` is the weighted mean; ``trimmed/1`` clips each contribution's distance from the base to the median
distance, then takes the weighted mean of what is left per coordinate when 30 % of the weight is cut off at either end.
Files are read block by block, so memory does not grow with the models. Models of different architectures or
initialisations have no common coordinates: their shards stand side by side in the state instead.
Sources: PROTOCOL §6; Yin et al. 2018, arXiv 1803.01498 (trimmed mean); Batcher 1968 (odd-even merge sort).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
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
BLOCK = {MEAN: 1 << 18, TRIMMED: 1 << 17}  # coordinates at a time: few calls, and still near the processor
_ROW = 1 << 12  # squares of 2^48 at most: 2^60 in a row
_SHIFT = 0.75  # added to |x| < 0.25 it leaves multiples of 2^-24 in the last 23 bits of a float32
_SHIFT_BITS = 0x3F400000  # the bits of 0.75
_REACH = (1 << 22) - 1  # in units of 2^-24: what can be shifted

Place = tuple[str, int, int]  # name of a tensor, start, stop


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
    """float32 → int32 in units of 2^-24, rounded to nearest even. Raises LearnError for NaN or |x| ≥ 128."""
    if x.numel() and not float(x.abs().max()) < LIMIT:
        raise LearnError(f"A weight is not a number, or not below {LIMIT:.0f}; such models are not merged.")
    return (x * float(1 << FRACTION_BITS)).round_().to(torch.int32)


def shifted(x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor | None:
    """The bits of x + 0.75: int32 [n], ``_SHIFT_BITS`` more than units of 2^-24; the addition rounds to nearest even.

    Args:
        x: float32 [n], n > 0. out: float32 [n] that is written; the result shares its memory.
    Returns:
        None where a value is no number or 0.25 or more in size.
    """
    bits = torch.add(x, _SHIFT, out=out).view(torch.int32)
    # Compared as whole numbers, which is faster: NaN and what lies below 0 are out of range too.
    low, high = torch.aminmax(bits)
    return bits if int(low) >= _SHIFT_BITS - _REACH and int(high) <= _SHIFT_BITS + _REACH else None


def floating(q: torch.Tensor) -> torch.Tensor:
    """Units of 2^-24 → float32, rounded to nearest."""
    return q.to(torch.float32).mul_(2.0**-FRACTION_BITS)


def mean_block(read: Callable[[int], torch.Tensor], weights: Sequence[int]) -> torch.Tensor:
    """⌊Σ w·q / Σ w⌋, as float64 [n] that holds integers. Raises LearnError for unusable numbers.

    The sum is taken twice in 32 bits: in whole numbers that wrap around, which says it but for a multiple of 2^32, and
    in float32, which says that multiple.

    Args:
        read: the number of a part → float32 [n]; its memory may be that of the part before.
    """
    total, share, largest = sum(weights), 0, float(_REACH)
    sums = about = spare = torch.empty(0)
    for i, weight in enumerate(weights):
        part = read(i)
        spare = spare if i else torch.empty_like(part)
        bits = shifted(part, spare)
        if bits is None:
            bits = fixed(part)
            largest = max(largest, float(part.abs().max()) * (1 << FRACTION_BITS))
        else:
            share += weight * _SHIFT_BITS
        sums = sums.add_(bits, alpha=weight) if i else bits * weight
        about = about.add_(part, alpha=weight) if i else part * weight
    # float32 loses 2^-23 of the largest partial sum at each step: that must stay below 2^31.
    if total * largest * len(weights) >= 1 << 53:
        return _wide_mean(read, weights)
    sums.sub_((share + (1 << 31)) % (1 << 32) - (1 << 31))
    low = sums.to(torch.float64)
    turns = about.to(torch.float64).mul_(float(1 << FRACTION_BITS)).sub_(low).mul_(2.0**-32).round_()
    return low.add_(turns, alpha=2.0**32).div_(total).floor_()


def _wide_mean(read: Callable[[int], torch.Tensor], weights: Sequence[int]) -> torch.Tensor:
    """The same in float64, which holds every sum."""
    sums = sum(fixed(read(i)).to(torch.float64).mul_(weight) for i, weight in enumerate(weights))
    assert isinstance(sums, torch.Tensor), "a merge has parts"
    return sums.div_(sum(weights)).floor_()


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


def _sort(rows: list[torch.Tensor], wanted: Container[int]) -> None:
    """Put the rows in ascending order, coordinate by coordinate, in place; only the ranks ``wanted`` are made."""
    steps, alive = [], {rank for rank in range(len(rows)) if rank in wanted}
    for i, j in reversed(list(comparators(len(rows)))):
        if i in alive or j in alive:
            steps.append((i, j, i in alive, j in alive))
            alive |= {i, j}
    spare = torch.empty_like(rows[0])
    for i, j, low, high in reversed(steps):
        if low:
            torch.minimum(rows[i], rows[j], out=spare)
        if high:
            torch.maximum(rows[i], rows[j], out=rows[j])
        if low:
            rows[i], spare = spare, rows[i]


def trimmed_block(deltas: list[torch.Tensor], weights: Sequence[int]) -> torch.Tensor:
    """The weighted mean of integers [n] without the lowest and highest 30 % of the weight, rounded down: float64 [n].

    The list's tensors (int32 or int64, below 2^33 in size) are used up. Equal values may stand in any order: together
    they keep the same weight.
    """
    total, count = sum(weights), len(weights)
    low = total * TRIM_NUM // TRIM_DEN
    high = total - low
    ends = [torch.aminmax(delta) for delta in deltas if len(delta)]
    largest = max((max(-int(least), int(most)) for least, most in ends), default=0)
    # Behind each value stands its weight, or its number where that is too long, or nothing where all weigh the same.
    tags: Sequence[int] = [0] * count if len(set(weights)) == 1 else weights
    bits = max(tags).bit_length()
    if (largest + 1) << bits >= 1 << 31 and bits:
        tags, bits = range(count), (count - 1).bit_length()
    narrow = torch.int32 if (largest + 1) << bits < 1 << 31 else torch.int64
    rows = [
        delta.to(narrow).mul_(1 << bits).add_(tag) if bits else delta.to(narrow)
        for delta, tag in zip(deltas, tags, strict=True)
    ]
    up, down = sorted(weights), sorted(weights, reverse=True)
    kept_ranks = [rank for rank in range(count) if sum(up[:rank]) < high and sum(down[: rank + 1]) > low]
    _sort(rows, range(0 if bits else kept_ranks[0], kept_ranks[-1] + 1))
    exact = torch.int32 if largest * (high - low) < 1 << 31 else torch.int64
    kept = torch.zeros(rows[0].shape, dtype=exact)
    if not bits:
        for rank in kept_ranks:
            share = min((rank + 1) * weights[0], high) - max(rank * weights[0], low)
            kept.add_(rows[rank], alpha=share)
        return kept.to(torch.float64).div_(high - low).floor_()
    table = None if tags is weights else torch.tensor(weights, dtype=narrow)
    passed, before = torch.zeros_like(rows[0]), torch.full_like(rows[0], low)
    tag, after = torch.empty_like(passed), torch.empty_like(passed)
    for rank, row in enumerate(rows[: kept_ranks[-1] + 1]):
        torch.bitwise_and(row, (1 << bits) - 1, out=tag)
        passed += tag if table is None else torch.index_select(table, 0, tag, out=after)
        torch.clamp(passed, low, high, out=after)
        if rank in kept_ranks:
            kept.addcmul_(torch.sub(after, before, out=tag), row.bitwise_right_shift_(bits))
        before, after = after, before
    return kept.to(torch.float64).div_(high - low).floor_()


def ratios(norms: Sequence[int]) -> tuple[int, ...]:
    """By how much each contribution is scaled down to the median of the squared norms: units of 2^-20."""
    median = sorted(norms)[len(norms) // 2]
    one = 1 << RATIO_BITS
    return tuple(
        one if norm <= median else math.isqrt((median << (2 * RATIO_BITS)) // norm) for norm in norms
    )


def _squares(delta: torch.Tensor) -> int:
    """Σ (d >> 8)², exactly. int32 must be below 2^23 in size."""
    short = delta >> 8
    if short.dtype == torch.int32:
        wide = short.to(torch.float64)  # squares of 2^30 at most: the sums over 2^23 of them are whole
        return int(torch.dot(wide, wide))
    rows = torch.split(short * short, _ROW)
    return sum(int(row.sum()) for row in rows)


def _scaled(delta: torch.Tensor, ratio: int) -> torch.Tensor:
    """(d · ratio) >> 20, exactly; int32 in place."""
    if ratio == 1 << RATIO_BITS:
        return delta
    if delta.dtype == torch.int32:  # the product has at most 53 bits, and float64 is faster than int64
        return delta.copy_(delta.to(torch.float64).mul_(ratio * 2.0**-RATIO_BITS).floor_())
    return (delta * ratio) >> RATIO_BITS


class _Reading:
    """The files of a merge, opened together; what does not fit is refused before anything is written."""

    def __init__(self, parts: Sequence[Part], base: Path | None, rule: str) -> None:
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
        # Memory that is used again for every block stays in the cache.
        self._block = block = BLOCK[rule]
        self._raw, self._spare = torch.empty(block), torch.empty(block)
        self._rows = torch.empty(len(parts) if rule == TRIMMED else 0, block, dtype=torch.int32)

    def blocks(self) -> Iterator[Place]:
        """(name, start, stop) of every block, in order of names."""
        for name in sorted(self.shapes):
            count = math.prod(self.shapes[name])
            for start in range(0, count, self._block):
                yield name, start, min(start + self._block, count)

    def part(self, i: int, place: Place) -> torch.Tensor:
        """One part's weights: float32 [n], until the next reading."""
        return self.files[i].read(*place, into=self._raw)

    def zero(self, place: Place) -> torch.Tensor:
        """The base, int32 [n] in units of 2^-24; 0 without one."""
        count = place[2] - place[1]
        if self.base is None:
            return torch.zeros(count, dtype=torch.int32)
        x = self.base.read(*place, into=self._raw)
        bits = shifted(x)
        return fixed(x) if bits is None else bits.sub_(_SHIFT_BITS)

    def deltas(self, place: Place, zero: torch.Tensor) -> Iterator[torch.Tensor]:
        """Each part's distance from the base in units of 2^-24, in turn.

        int32 [n] below 2^23 in size (valid until the next call of this method) where every weight is below 0.25 in
        size, else int64 [n].
        """
        count, shift = len(zero), zero + _SHIFT_BITS
        least, most = torch.aminmax(zero)
        near = max(-int(least), int(most)) <= _REACH
        for i, row in enumerate(self._rows):
            x = self.part(i, place)
            bits = shifted(x, self._spare[:count]) if near else None
            if bits is None:
                yield fixed(x).to(torch.int64) - zero
            else:
                yield torch.sub(bits, shift, out=row[:count])

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
    reading = _Reading(parts, base, rule)
    try:
        scale = (1 << RATIO_BITS,) * len(parts)
        if rule == TRIMMED:
            norms = [0] * len(parts)
            for place in reading.blocks():
                for i, delta in enumerate(reading.deltas(place, reading.zero(place))):
                    norms[i] += _squares(delta)
            scale = ratios(norms)
        with TensorWriter(out, reading.shapes) as writer:
            for place in reading.blocks():
                writer.write(_block(reading, place, scale, rule))
        return Merged(scale)
    finally:
        reading.close()


def _block(reading: _Reading, place: Place, scale: Sequence[int], rule: str) -> torch.Tensor:
    """One merged block: float32 [n]."""
    if rule == MEAN:
        return floating(mean_block(lambda i: reading.part(i, place), reading.weights))
    zero = reading.zero(place)
    deltas = [_scaled(delta, ratio) for delta, ratio in zip(reading.deltas(place, zero), scale, strict=True)]
    return floating(trimmed_block(deltas, reading.weights).add_(zero))
