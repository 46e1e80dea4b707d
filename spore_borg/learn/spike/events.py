"""Event-driven layers for small batches: only the weights of inputs that spiked are read.

A layer-synchronous product reads every weight. Here the weight also lies transposed, one row per input channel, and
only the rows of active channels are added up; a weight that is mostly zeros is kept as CSR; where much is active the
dense int8 product runs. All paths accumulate whole numbers, and give the same ones bit for bit: codes are split into
limbs so small that every sum of a limb's products is exact in the arithmetic of its path (float32, or int32).

What pays where is measured by ``borg bench infer``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from spore_borg.learn.errors import ShardError
from spore_borg.learn.shard import Shard

EXACT = 1 << 24  # whole numbers up to this size are exact in float32
WEIGHT_MAX = 127
INT8_MAX = 127
INT8_SIZE_MIN = 16
MANTISSA_BITS = 12  # of a channel's threshold in units of the layer's finest one
CSR_SPARSE_MIN = 0.9  # share of zero weights from which a CSR copy is kept
# What it costs to read one weight on each path, in units of the dense int8 product's; measured with batch 1.
GATHER_COST, CSR_COST = 5, 30


class EventLayer:
    """One product with an int8 weight, driven by events.

    Args:
        q: int8 [out, in]. scale: float32 [out] or one. s: thresholds, float32 [in] or one. z: offsets or None.
        bias: float32 [out] or None. device: where it runs.
    Raises:
        ShardError: shapes that do not fit.
    """

    def __init__(
        self, q: Tensor, scale: Tensor, s: Tensor, *, z: Tensor | None = None, bias: Tensor | None = None,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        if q.dim() != 2 or q.dtype != torch.int8 or s.numel() not in (1, q.shape[1]):
            raise ShardError(
                "An event-driven layer takes an int8 matrix and one threshold, or one per input."
            )
        self.out_size, self.in_size = q.shape
        self.zeros = float((q == 0).float().mean())
        self.quantum, self.units = snapped(s.reshape(-1).expand(self.in_size))
        self.plain = bool((self.units == 1).all())
        self.s = (self.units.to(torch.float64) * self.quantum).to(torch.float32).to(device)
        self.units = self.units.to(torch.float32).to(device)
        self.z = None if z is None else z.reshape(-1).expand(self.in_size).to(device)
        self.q = q.contiguous().to(device)
        self.rows = q.t().to(torch.float32).contiguous().to(device)  # [in, out]: a row is what one event adds
        self._start = torch.zeros(1, dtype=torch.int64, device=device)
        self.csr = _csr(q).to(device) if self.zeros >= CSR_SPARSE_MIN else None
        self.scale = (scale.reshape(-1).to(torch.float64) * self.quantum).to(device)
        constant = torch.zeros(self.out_size, dtype=torch.float64, device=device)
        if self.z is not None:
            constant += (self.z.double() @ self.rows.double()) * scale.reshape(-1).double().to(device)
        self.constant = constant if bias is None else constant + bias.reshape(-1).double().to(device)

    def amounts(self, k: Tensor) -> Tensor:
        """Codes k [b, in] in units of the quantum: whole numbers as float32, exact below 2^24."""
        return k if self.plain else k * self.units

    def dense(self, k: Tensor) -> Tensor:
        """The accumulated whole numbers [b, out], as float64, reading every weight."""
        amounts = self.amounts(k)
        # torch's int8 product returns unset memory for the smallest shapes, and CUDA's takes only some shapes.
        if amounts.device.type != "cpu" or min(self.in_size, self.out_size) < INT8_SIZE_MIN:
            limbs = _limbs(amounts, limb_bits(self.in_size))
            return _joined((weight, limb @ self.rows) for weight, limb in limbs)
        limbs = _limbs(amounts, INT8_MAX.bit_length())
        return _joined((weight, torch._int_mm(limb.to(torch.int8), self.q.t())) for weight, limb in limbs)

    def events(self, k: Tensor) -> Tensor:
        """The same, reading only the weights of active inputs: a gathered sum for every row of k."""
        amounts = self.amounts(k)
        if len(k) == 1:
            channel = amounts[0].nonzero()[:, 0]
            most = len(channel)
            values = amounts[0].index_select(0, channel)
        else:
            batch, channel = amounts.nonzero(as_tuple=True)
            active = torch.bincount(batch, minlength=len(k))
            most = int(active.max()) if len(k) else 0
            values = amounts[batch, channel]
        if not most:
            return torch.zeros(len(k), self.out_size, dtype=torch.float64, device=amounts.device)
        starts = self._start if len(k) == 1 else active.cumsum(0) - active
        return _joined(
            (
                weight,
                torch.nn.functional.embedding_bag(
                    channel, self.rows, starts, mode="sum", per_sample_weights=limb
                ),
            )
            for weight, limb in _limbs(values, limb_bits(most))
        )

    def sparse(self, k: Tensor) -> Tensor:
        """The same, reading only weights that are not zero. Raises ShardError where no CSR copy is kept."""
        if self.csr is None:
            raise ShardError(f"Only {self.zeros:.0%} of the weights are zero; use events or dense.")
        total = torch.zeros(len(k), self.out_size, dtype=torch.float64, device=k.device)
        for weight, limb in _limbs(self.amounts(k), limb_bits(self.in_size)):
            for row, values in enumerate(limb):
                total[row] += (self.csr @ values).to(torch.float64) * weight
        return total

    def accumulate(self, k: Tensor) -> Tensor:
        """The same by the path that reads least, weighed by what reading costs there."""
        active = float((k != 0).sum()) * self.out_size * GATHER_COST
        full = float(len(k) * self.in_size * self.out_size)
        filled = full * (1 - self.zeros) * CSR_COST
        if self.csr is not None and filled < min(active, full):
            return self.sparse(k)
        return self.events(k) if active < full else self.dense(k)

    def output(self, accumulated: Tensor) -> Tensor:
        """Whole numbers → the layer's outputs, float32 [b, out]."""
        return torch.addcmul(self.constant, accumulated, self.scale).to(torch.float32)


def snapped(s: Tensor) -> tuple[float, Tensor]:
    """(quantum, units): thresholds as whole multiples of one number, so that sums of spikes are whole numbers.

    A threshold moves by less than 2^-12 of the layer's largest; thresholds that are all alike become 1 unit.
    """
    largest = float(s.max())
    quantum = 2.0 ** (math.ceil(math.log2(largest)) - MANTISSA_BITS)
    units = torch.clamp(torch.round(s.to(torch.float64) / quantum), min=1).to(torch.int64)
    common = math.gcd(*set(units.tolist()))
    return quantum * common, units // common


def limb_bits(terms: int) -> int:
    """Bits of a limb so that a sum of so many products with int8 weights is exact in float32. Raises ShardError."""
    bits = int(math.log2(EXACT / (max(terms, 1) * WEIGHT_MAX)))
    if bits < 1:
        raise ShardError(f"{terms} inputs are too many for one event-driven layer.")
    return bits


def _limbs(amounts: Tensor, bits: int) -> list[tuple[int, Tensor]]:
    """(weight, limb): the amounts are the sum of weight times limb; a limb is smaller than 2^bits in size."""
    found: list[tuple[int, Tensor]] = []
    left, weight, base = amounts, 1, 1 << bits
    largest = float(left.abs().max()) if left.numel() else 0.0
    if largest >= EXACT:
        raise ShardError("Thresholds or steps of this layer differ too much to be summed as whole numbers.")
    while largest >= base:
        high = torch.trunc(left / base)
        found.append((weight, left - high * base))
        left, weight, largest = high, weight * base, math.floor(largest / base)
    found.append((weight, left))
    return found


def _joined(sums: Iterable[tuple[int, Tensor]]) -> Tensor:
    """The sum of weight times whole numbers, in float64."""
    total: Tensor | None = None
    for weight, part in sums:
        whole = part.to(torch.float64)
        total = whole if total is None else total.add_(whole, alpha=weight)
    assert total is not None
    return total


def _csr(q: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that CSR is in beta
        return q.to(torch.float32).to_sparse_csr()


def layer_of(shard: Shard, name: str, *, device: str = "cpu") -> EventLayer:
    """The event-driven form of one MatMul or Gemm of a shard.

    Raises:
        ShardError: the operator has no int8 matrix or no coded first input.
    """
    place = shard.places.get(name)
    if (
        place is None
        or place.family != "linear"
        or place.node.op not in ("MatMul", "Gemm")
        or place.coded != (0,)
    ):
        raise ShardError(f"{name[:80]!r} is no product with a weight that can be driven by events.")
    weight = place.weights[0][1] if place.weights else ""
    if "q:" + weight not in shard.specs or place.node.inputs[1] != weight:
        raise ShardError(f"{name[:80]!r} has no int8 matrix of its own.")
    q, scale = shard.tensor("q:" + weight), shard.tensor("s:" + weight)
    across = place.node.op == "Gemm" and bool(place.node.attrs.get("transB", 0))
    key = f"{name}.0"
    bias = place.node.inputs[2] if place.node.op == "Gemm" and len(place.node.inputs) > 2 else ""
    return EventLayer(
        q if across else q.t().contiguous(),
        scale,
        shard.tensor("t:" + key),
        z=shard.tensor("z:" + key) if "z:" + key in shard.specs else None,
        bias=shard.weights().load(bias) if bias else None,
        device=device,
    )
