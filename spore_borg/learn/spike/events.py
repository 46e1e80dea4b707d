"""Event-driven products: spikes are whole numbers, weights are int8, and what is silent is not read.

The threshold of every input channel is folded into the weight, ``w = q * s``, and w is held again as a whole number of
at most 15 bits per output: a coarse and a fine int8 limb, ``w = step * (base * coarse + fine)``. Where all channels
have one threshold the int8 weight serves as it is. So a product of codes is one int8 product of whole numbers, and all
paths count the same ones, bit for bit, whatever path a batch takes:

- ``dense`` reads every weight;
- ``events`` reads only the weights of channels that spiked for some row of the batch;
- ``sparse`` reads only weights that are not zero (kept as CSR where hardly any is).

Against the layer-synchronous product only folding rounds: an output moves by at most ``bound()`` times the sum of |k|.
Which path reads least is said by two numbers that are measured once in a process, see ``machine``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from spore_borg.learn.errors import ShardError
from spore_borg.learn.shard import Shard

INT8_MAX = 127
INT32_MAX = (1 << 31) - 1
SIZE_MIN = 16  # torch's int8 product returns unset memory for smaller matrices
BASE_MAX, BASE_MIN = 128, 16  # of the coarse limb; the sum of a row must fit int32
CSR_SPARSE_MIN = 0.9  # share of zero weights from which a CSR copy is kept
CSR_COST = 30  # of one weight in CSR, in weights of the dense product
ROWS_AT_ONCE = 128  # codes and sums of so many rows stay in a core's second cache
EVENT_ROWS_MAX = 16  # in larger batches hardly a channel is silent for all rows
EVENT_WEIGHTS_MIN = 1 << 18  # below, finding the silent channels costs more than reading their weights
FLAG_COST = 8  # of one row that is added, in flags of the dense product
MEASURED_SIZE = 1_024
PAYS_FROM = 3.0  # times faster than float32, from where two int8 products and their sums pay


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured of this processor.

    Attributes:
        int8_gain: how many times faster the int8 product is than the float32 one.
        gather_cost: reading a weight by its channel, in weights of the dense product, batch 1.
        gather_fixed: finding the active channels, in the same unit.
    """

    int8_gain: float
    gather_cost: float
    gather_fixed: float

    @property
    def int8_pays(self) -> bool:
        """Whether a product of whole numbers in two limbs is faster than one in float32 with its code."""
        return self.int8_gain >= PAYS_FROM


def _time(work: Callable[[], object], calls: int = 5) -> float:
    """The least CPU seconds of several calls: noise only adds."""
    work()
    found = []
    for _ in range(calls):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


@cache
def machine() -> Machine:
    """Measure once in a process; takes some milliseconds."""
    size = MEASURED_SIZE
    order = torch.arange(size, dtype=torch.int16)
    weight = ((order[:, None] + order) % 251 - 125).to(torch.int8)
    k = weight[:64] >> 2
    with torch.inference_mode():
        dense, x = weight.float(), k.float()
        gain = _time(lambda: x @ dense.t()) / _time(lambda: torch._int_mm(k, weight.t()))
        layer = EventLayer(weight, torch.ones(1), torch.ones(1), levels=31)
        one = k[:1].clone()
        few, many = one.clone(), one.clone()
        few[:, size // 16 :], many[:, size // 2 :] = 0, 0
        full = _time(lambda: layer.dense(one)) / size
        low, high = _time(lambda: layer.events(few)), _time(lambda: layer.events(many))
    slope = max(high - low, 1e-9) / (size // 2 - size // 16)
    fixed = max(low - slope * (size // 16), 0.0)
    return Machine(gain, slope / full, fixed / full * size)


class EventLayer:
    """One product with an int8 weight, driven by events.

    Args:
        q: int8 [out, in]. scale: float32 [out] or one. s: thresholds, float32 [in] or one. z: offsets or None.
        bias: float32 [out] or None. levels: the largest code.
    Raises:
        ShardError: shapes that do not fit, or codes and sums that fit no int8 and int32.
    """

    def __init__(
        self, q: Tensor, scale: Tensor, s: Tensor, *, levels: int, z: Tensor | None = None, bias: Tensor | None = None,
    ) -> None:  # fmt: skip
        if q.dim() != 2 or q.dtype != torch.int8 or s.numel() not in (1, q.shape[1]):
            raise ShardError(
                "An event-driven layer takes an int8 matrix and one threshold, or one per input."
            )
        self.out_size, self.in_size = q.shape
        if levels > INT8_MAX or min(q.shape) < SIZE_MIN:
            raise ShardError(
                f"An event-driven layer takes codes up to {INT8_MAX} and at least {SIZE_MIN} channels."
            )
        self.levels = levels
        self.s = s.reshape(-1).expand(self.in_size).contiguous()
        self.inverse = self.s.reciprocal()
        self.z = None if z is None else z.reshape(-1).expand(self.in_size).contiguous()
        self.zeros = float((q == 0).float().mean())
        per_out = scale.reshape(-1).to(torch.float64).expand(self.out_size)
        self.base, limbs, step = _folded(q, self.s, levels)
        self.weight = torch.cat(limbs)  # [limbs * out, in]
        self.step = (step * per_out).to(torch.float32)
        self._by_channel: Tensor | None = None
        self.csr = _csr(self.base, limbs) if self.zeros >= CSR_SPARSE_MIN else None
        constant = torch.zeros(self.out_size, dtype=torch.float64)
        if self.z is not None:
            constant = (q.double() @ self.z.double()) * per_out
        constant = constant if bias is None else constant + bias.reshape(-1).double()
        self.constant = None if z is None and bias is None else constant.to(torch.float32)

    @property
    def size_bytes(self) -> int:
        """What the weights take in memory."""
        return self.weight.numel()

    def bound(self) -> Tensor:
        """By how much folding moves an output for each unit of |k|, at most: float32 [out]."""
        return self.step / 2 if self.base > 1 else torch.zeros_like(self.step)

    def code(self, x: Tensor) -> Tensor:
        """Values [b, in] → codes int8 [b, in]; NaN becomes 0."""
        k = torch.mul(x if self.z is None else x - self.z, self.inverse)
        return k.nan_to_num_(nan=0.0).round_().clamp_(-self.levels, self.levels).to(torch.int8)

    def dense(self, k: Tensor) -> Tensor:
        """The accumulated whole numbers, int32 [b, out], reading every weight."""
        return self._joined(torch._int_mm(k, self.weight.t()))

    def events(self, k: Tensor) -> Tensor:
        """The same, reading only the weights of channels that spiked."""
        return self._gathered(k, k.any(0).nonzero()[:, 0])

    def sparse(self, k: Tensor) -> Tensor:
        """The same, reading only weights that are not zero. Raises ShardError where no CSR copy is kept."""
        if self.csr is None:
            raise ShardError(f"Only {self.zeros:.0%} of the weights are zero; use events or dense.")
        return torch.stack([self.csr @ row for row in k.double()]).to(torch.int32)

    def accumulate(self, k: Tensor) -> Tensor:
        """The same by the path that reads least, weighed by what reading costs there."""
        if len(k) <= EVENT_ROWS_MAX and self.weight.numel() >= EVENT_WEIGHTS_MIN:
            found, full = machine(), float(self.weight.numel())
            filled = len(k) * full * (1 - self.zeros) * CSR_COST
            if self.csr is not None and filled < full:
                return self.sparse(k)
            if found.gather_fixed < full:
                active = k.any(0).nonzero()[:, 0]
                cost = found.gather_fixed + found.gather_cost * len(active) * full / self.in_size
                if cost < full:
                    return self._gathered(k, active)
        return self.dense(k)

    def output(self, accumulated: Tensor, out: Tensor | None = None) -> Tensor:
        """Whole numbers → the layer's outputs, float32 [b, out]."""
        values = torch.mul(accumulated, self.step, out=out)
        return values if self.constant is None else values.add_(self.constant)

    def __call__(self, x: Tensor) -> Tensor:
        """Values [b, in] → outputs [b, out], float32, in blocks of rows that stay in the cache."""
        return self.apply(self.code(x))

    def apply(self, k: Tensor) -> Tensor:
        """Codes int8 [b, in] → outputs [b, out], float32."""
        if len(k) <= ROWS_AT_ONCE:
            return self.output(self.accumulate(k))
        values = torch.empty(len(k), self.out_size)
        for at in range(0, len(k), ROWS_AT_ONCE):
            part, out = k[at : at + ROWS_AT_ONCE], values[at : at + ROWS_AT_ONCE]
            self.output(self.dense(part), out)
        return values

    def _gathered(self, k: Tensor, active: Tensor) -> Tensor:
        if self._by_channel is None:
            self._by_channel = self.weight.t().contiguous()  # [in, limbs * out]: a row is what one event adds
        if len(active) < SIZE_MIN:
            silent = (k == 0).all(0).nonzero()[: SIZE_MIN - len(active), 0]
            active = torch.cat([active, silent])
        return self._joined(
            torch._int_mm(k.index_select(1, active), self._by_channel.index_select(0, active))
        )

    def _joined(self, sums: Tensor) -> Tensor:
        """Sums of both limbs, int32 [b, limbs * out] → [b, out]."""
        if self.base == 1:
            return sums
        coarse, fine = sums[:, : self.out_size], sums[:, self.out_size :]
        return torch.add(fine, coarse, alpha=self.base)


class FlagLayer:
    """One product whose inputs are yes or no (one-hot rows, say): every yes is an event that adds a weight row.

    Args:
        weight: float32 [in, out]. s: thresholds, float32 [in] or one. z: offsets or None. bias: float32 [out] or None.
        levels: the largest code.
    """

    def __init__(
        self, weight: Tensor, s: Tensor, *, levels: int, z: Tensor | None, bias: Tensor | None
    ) -> None:
        self.in_size, self.out_size = weight.shape
        s = s.reshape(-1).double()
        offset = torch.zeros(1, dtype=torch.float64) if z is None else z.reshape(-1).double()
        no, yes = (((value - offset) / s).round().clamp(-levels, levels) * s + offset for value in (0.0, 1.0))
        whole = weight.double()
        self.rows = (whole * (yes - no).expand(self.in_size)[:, None]).to(torch.float32)
        constant = (no.expand(self.in_size)[:, None] * whole).sum(0)
        self.constant = (constant if bias is None else constant + bias.reshape(-1).double()).to(torch.float32)

    def __call__(self, flags: Tensor) -> Tensor:
        """bool [b, in] → outputs [b, out], float32."""
        batch, channel = flags.nonzero(as_tuple=True)
        if len(channel) * FLAG_COST > flags.numel():
            return torch.addmm(self.constant, flags.to(torch.float32), self.rows)
        counts = torch.bincount(batch, minlength=len(flags))
        sums = torch.nn.functional.embedding_bag(channel, self.rows, counts.cumsum(0) - counts, mode="sum")
        return sums.add_(self.constant)


def _folded(q: Tensor, s: Tensor, levels: int) -> tuple[int, list[Tensor], Tensor]:
    """(base, limbs int8 [out, in], step float64 [out]): q * s = step * (base * limbs[0] + limbs[1]), rounded.

    Raises ShardError: sums of this layer fit no int32.
    """
    if bool((s == s[0]).all()):
        if levels * INT8_MAX * q.shape[1] > INT32_MAX:
            raise ShardError(f"{q.shape[1]} inputs are too many for one event-driven layer.")
        return 1, [q], s[:1].double().expand(len(q))
    base = BASE_MAX
    while levels * q.shape[1] * (INT8_MAX * base + base // 2) > INT32_MAX:
        base //= 2
        if base < BASE_MIN:
            raise ShardError(f"{q.shape[1]} inputs are too many for one event-driven layer.")
    w = q.double() * s.double()
    step = w.abs().amax(1).clamp_min(1e-300) / (INT8_MAX * base)
    whole = torch.round(w / step[:, None])
    coarse = torch.floor(whole / base + 0.5).clamp_(-INT8_MAX, INT8_MAX)
    return base, [coarse.to(torch.int8), (whole - coarse * base).to(torch.int8)], step


def _csr(base: int, limbs: list[Tensor]) -> Tensor:
    """Float64, in which these sums are exact."""
    whole = limbs[0].double()
    if len(limbs) > 1:
        whole = whole * base + limbs[1].double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that CSR is in beta
        return whole.to_sparse_csr()


def layer_of(shard: Shard, name: str, *, bias: Tensor | None = None) -> EventLayer:
    """The event-driven form of one MatMul or Gemm of a shard.

    Args:
        bias: float32 [out] that something after the layer adds.
    Raises:
        ShardError: the operator has no int8 matrix or no coded first input, or its codes or sums do not fit.
    """
    place = shard.places.get(name)
    if (
        place is None
        or place.family != "linear"
        or place.node.op not in ("MatMul", "Gemm")
        or place.coded != (0,)
    ):
        raise ShardError(f"{name[:80]!r} is no product with a weight that can be driven by events.")
    node, weight = place.node, place.weights[0][1] if place.weights else ""
    plain = all(node.attrs.get(key, default) == default for key, default in (("transA", 0), ("alpha", 1.0)))
    if "q:" + weight not in shard.specs or node.inputs[1] != weight or not plain:
        raise ShardError(f"{name[:80]!r} has no int8 matrix of its own.")
    q, scale = shard.tensor("q:" + weight), shard.tensor("s:" + weight)
    across = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
    if q.dim() != 2 or (scale.numel() > 1 and scale.shape[0 if across else 1] == 1):
        raise ShardError(f"{name[:80]!r} has no int8 matrix with a scale per output.")
    key = f"{name}.0"
    own = node.inputs[2] if node.op == "Gemm" and len(node.inputs) > 2 else ""
    if own:
        added = shard.weights().load(own) * float(node.attrs.get("beta", 1.0))  # type: ignore[arg-type]  # a number
        if added.numel() not in (1, q.shape[0 if across else 1]):
            raise ShardError(f"{name[:80]!r} adds a matrix, not one number per output.")
        added = added.reshape(-1).expand(q.shape[0 if across else 1])
        bias = added if bias is None else bias + added
    return EventLayer(
        q if across else q.t().contiguous(),
        scale,
        shard.tensor("t:" + key),
        levels=shard.code.levels,
        z=shard.tensor("z:" + key) if "z:" + key in shard.specs else None,
        bias=bias,
    )
