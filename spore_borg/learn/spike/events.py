"""Event-driven layers for small batches: only the weights of inputs that spiked are read.

A layer-synchronous product reads every weight. Here the weight lies transposed, one row per input channel, and the rows
of active channels are gathered; a weight that is mostly zeros is kept as CSR. Both paths and the dense one accumulate
whole numbers, and give the same ones bit for bit: codes are split into limbs so small that every partial sum of a limb
is exact in float32, which is what fast matrix products are made for.

What pays where is measured by ``borg bench infer``. Where too many inputs are active, the dense path runs.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from spore_borg.learn.errors import ShardError
from spore_borg.learn.shard import Shard

EXACT = 1 << 24  # whole numbers up to this size are exact in float32
WEIGHT_MAX = 127
MANTISSA_BITS = 12  # of a channel's threshold in units of the layer's finest one
GATHER_ACTIVE_MAX = 0.3  # above this share of active inputs the dense product is faster; see docs/reference
CSR_SPARSE_MIN = 0.9  # share of zero weights from which CSR pays
BATCH_MAX = 4  # rows whose active inputs are gathered together


@dataclass(frozen=True, slots=True)
class Events:
    """The spikes of one row of inputs: which channels, and how much each brings in units of the layer's quantum."""

    channels: Tensor  # int64 [n]
    amounts: Tensor  # int64 [n]


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
        self.sparse = float((q == 0).float().mean()) >= CSR_SPARSE_MIN
        self.quantum, self.units = snapped(s.reshape(-1).expand(self.in_size))
        self.s = (self.units.to(torch.float64) * self.quantum).to(torch.float32).to(device)
        self.units = self.units.to(device)
        self.z = None if z is None else z.reshape(-1).expand(self.in_size).to(device)
        # float32 [in, out]: whole numbers, so that a gathered product is exact and needs no conversion.
        self.rows = q.t().to(torch.float32).contiguous().to(device)
        self.csr = _csr(q).to(device) if self.sparse else None
        self.scale = (scale.reshape(-1).to(torch.float64) * self.quantum).to(device)
        constant = torch.zeros(self.out_size, dtype=torch.float64, device=device)
        if self.z is not None:
            constant += (self.z.double() @ self.rows.double()) * scale.reshape(-1).double().to(device)
        self.constant = constant if bias is None else constant + bias.reshape(-1).double().to(device)

    def amounts(self, k: Tensor) -> Tensor:
        """Codes k [b, in] in units of the quantum, int64."""
        return k.to(torch.int64) * self.units

    def dense(self, k: Tensor) -> Tensor:
        """The accumulated whole numbers [b, out], int64, reading every weight."""
        return _exact(self.amounts(k), self.rows)

    def events(self, k: Tensor) -> Tensor:
        """The same, reading only the weights of active inputs."""
        amounts = self.amounts(k)
        if self.csr is not None:
            return self._sparse(amounts)
        if amounts.shape[0] <= BATCH_MAX:
            active = amounts.any(0).nonzero().reshape(-1)
            return _exact(amounts.index_select(1, active), self.rows.index_select(0, active))
        return torch.cat([self.events(k[start : start + BATCH_MAX]) for start in range(0, len(k), BATCH_MAX)])

    def accumulate(self, k: Tensor) -> Tensor:
        """The same by whichever path is faster for this activity."""
        few = k.shape[0] <= BATCH_MAX and float((k != 0).any(0).float().mean()) <= GATHER_ACTIVE_MAX
        return self.events(k) if few or self.csr is not None else self.dense(k)

    def _sparse(self, amounts: Tensor) -> Tensor:
        total = torch.zeros(amounts.shape[0], self.out_size, dtype=torch.int64, device=amounts.device)
        assert self.csr is not None
        for weight, limb in _limbs(amounts, self.in_size):
            total += (self.csr @ limb.t()).t().to(torch.int64) * weight
        return total

    def output(self, accumulated: Tensor) -> Tensor:
        """Whole numbers → the layer's outputs, float32 [b, out]."""
        return (accumulated.to(torch.float64) * self.scale + self.constant).to(torch.float32)


def snapped(s: Tensor) -> tuple[float, Tensor]:
    """(quantum, units): thresholds as whole multiples of one power of two, so that sums of spikes are whole numbers.

    A threshold moves by less than 2^-12 of the layer's largest.
    """
    largest = float(s.max())
    quantum = 2.0 ** (math.ceil(math.log2(largest)) - MANTISSA_BITS)
    return quantum, torch.clamp(torch.round(s.to(torch.float64) / quantum), min=1).to(torch.int64)


def _limbs(amounts: Tensor, terms: int) -> list[tuple[int, Tensor]]:
    """(weight, float32 limb) so that a sum of ``terms`` products of a limb with int8 weights is exact in float32."""
    bits = max(1, int(math.log2(EXACT / (max(terms, 1) * WEIGHT_MAX))))
    base, left, weight = 1 << bits, amounts, 1
    found: list[tuple[int, Tensor]] = []
    while True:
        high = torch.div(left, base, rounding_mode="trunc")
        found.append((weight, (left - high * base).to(torch.float32)))
        if not bool(high.any()):
            return found
        left, weight = high, weight * base


def _exact(amounts: Tensor, rows: Tensor) -> Tensor:
    """amounts [b, n] @ rows [n, out] in whole numbers; all limbs in one product, so that weights are read once."""
    limbs = _limbs(amounts, rows.shape[0])
    partial = torch.cat([limb for _, limb in limbs]) @ rows
    total = torch.zeros(amounts.shape[0], rows.shape[1], dtype=torch.int64, device=amounts.device)
    for (weight, _), part in zip(limbs, partial.split(amounts.shape[0]), strict=True):
        total += part.to(torch.int64) * weight
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
