"""Every operator as neurons: what arrives is turned into spikes, and only sums and per-spike constants are left.

- Products with a weight: the operand is coded; a spike of channel c at step t adds 2^(T-1-t) * s_c times a weight row.
- Products of activations: both operands are coded, so that the product is sums of powers of two.
- Functions (GELU, tanh, …): neurons of two bases, a coarse and a fine few-spike population of T steps each. Their
  output is a table over the code: exact for what was coded.
- Softmax: the largest score inhibits the others (winner takes all); the distance d in [-16, 0] is coded, and exp(d) is
  the product of one constant per spike. What is further away than 16 stays silent. The sum is divided by a reciprocal
  neuron: a shift by a power of two, then a coded mantissa in [1/2, 1).
- Products, quotients and roots of activations: every value is shifted by a power of two and its mantissa coded in two
  bases, or in as many as ten bits take: a variance written as E[x²] - E[x]² keeps little of coarser squares.
- An input of a product that one base holds too coarsely (``calibrate.ERROR_MAX``) has two.
- LayerNorm and RMSNorm: coded input, squares of codes, and a reciprocal square root neuron (mantissa in [1/4, 1)).

Sums, biases and residual paths are currents into membranes and need no code. Source: arXiv 2508.07710 (multi-basis
exponential neurons), SpikeZIP-TF; the constants are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spore_borg.learn.errors import ShardError
from spore_borg.learn.graph import Node
from spore_borg.learn.ops import DENSE
from spore_borg.learn.ops.base import Op
from spore_borg.learn.spike.counts import Count
from spore_borg.learn.spike.plan import STATE_INPUT, Place

if TYPE_CHECKING:
    from spore_borg.learn.shard import Shard
    from spore_borg.learn.spike.calibrate import Threshold

EXP_RANGE = 16.0  # scores further below the largest than this stay silent: exp(-16) < 2e-7
Inputs = list[Tensor | None]


class Spiking:
    """The operators of one shard, for ``run.run``'s ``ops``.

    Args:
        count: filled with spikes and operations; None saves the time that counting takes.
        families: the families that spike; others run in fp32, so that each can be measured apart.
        thresholds: in place of the shard's own, by ``NODE.INPUT``.
    """

    def __init__(
        self,
        shard: Shard,
        count: Count | None = None,
        families: frozenset[str] | None = None,
        thresholds: Mapping[str, Threshold] | None = None,
    ) -> None:
        self.code = shard.code
        self._shard, self._count, self._families = shard, count, families
        self._thresholds = {key: (one.s, one.z) for key, one in (thresholds or {}).items()}
        self._two = {name[2:] for name in shard.specs if name.startswith("f:")}
        if thresholds is not None:
            self._two = {key for key, one in thresholds.items() if one.fine} | (self._two - set(thresholds))

    def table(self) -> Mapping[str, Op]:
        """Every operator of ``DENSE``, with codes where the shard's plan says so."""
        return {name: self.wrapped(dense) for name, dense in DENSE.items()}

    def wrapped(self, dense: Op) -> Op:
        """One operator with codes where the shard's plan says so."""

        def spiking(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
            place = self._shard.places[node.name]
            if self._families is not None and place.family not in self._families:
                return dense(node, inputs)
            handler = _HANDLERS.get(place.family)
            return dense(node, inputs) if handler is None else handler(self, dense, place, inputs)

        return spiking

    def threshold(self, key: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(s, z) of ``NODE.INPUT`` for a value x. Raises ShardError if the shard has none that fits."""
        if key not in self._thresholds:
            name = ("f:" if key in self._two else "t:") + key
            if name not in self._shard.specs:
                raise ShardError(f"The shard has no threshold for {key[:120]!r}; convert the model again.")
            z = self._shard.tensor("z:" + key).to(x.device) if "z:" + key in self._shard.specs else None
            self._thresholds[key] = self._shard.tensor(name).to(x.device), z
        s, z = self._thresholds[key]
        for one in (s, s if z is None else z):
            fits = zip(reversed(one.shape), reversed(x.shape), strict=False)
            if one.dim() > x.dim() or any(small not in (1, large) for small, large in fits):
                raise ShardError(
                    f"The threshold of {key[:120]!r} has shape {list(one.shape)}, its input {list(x.shape)}."
                )
        return s, z

    def has_two_bases(self, place: Place, number: int) -> bool:
        """Whether a coded input keeps two bases: it comes from a softmax, or one base was too coarse for it."""
        return number in place.fine or f"{place.node.name}.{number}" in self._two

    def coded(self, place: Place, number: int, x: Tensor) -> tuple[Tensor, float]:
        """One input after its code, and the mean of spikes per value (0 if nobody counts)."""
        s, z = self.threshold(f"{place.node.name}.{number}", x)
        fine = self.has_two_bases(place, number)
        given = x if z is None else x - z
        k = self.code.fine(given, s) if fine else self.code.quantise(given, s)
        rate = 0.0
        if self._count is not None:
            spikes = self.code.fine_spikes(k) if fine else self.code.spikes(k)
            rate = self._count.of(place.node.name).add(k, spikes)
        value = k.mul_(s)
        return (value if z is None else value.add_(z)), rate

    def fine(self, place: Place, x: Tensor, s: Tensor | float) -> Tensor:
        """A value after two bases with a given threshold."""
        k = self.code.fine(x, s)
        if self._count is not None:
            self._count.of(place.node.name).add(k, self.code.fine_spikes(k))
        return k.mul_(s)

    def fine_input(self, place: Place, number: int, x: Tensor) -> Tensor:
        """An input after two bases with the shard's threshold."""
        return self.fine(place, x, self.threshold(f"{place.node.name}.{number}", x)[0])

    def mantissa(self, place: Place, x: Tensor) -> Tensor:
        """A mantissa, at most 1 in size, after its bases."""
        k = self.code.mantissa(x)
        if self._count is not None:
            self._count.of(place.node.name).add(k, self.code.fine_spikes(k))
        return k.mul_(1.0 / (self.code.mantissa_levels + 1))

    def operations(self, place: Place, macs: int, synops: float) -> None:
        """Count what a layer did."""
        if self._count is not None:
            cost = self._count.of(place.node.name)
            cost.macs += macs
            cost.synops += synops

    def scaled(self, place: Place, x: Tensor) -> Tensor:
        """Values shifted to a mantissa of [1/2, 1) in size, coded, shifted back: no threshold needed."""
        held = self.code.mantissas(x)
        if self._count is not None:
            self.mantissa(place, torch.frexp(torch.where(torch.isfinite(x), x, torch.zeros_like(x)))[0])
        return held

    def reciprocal(self, place: Place, x: Tensor) -> Tensor:
        """1/x for x > 0: shifted to a mantissa in [1/2, 1), coded, looked up, shifted back."""
        mantissa, exponent = torch.frexp(x)
        held = self.mantissa(place, mantissa).clamp_(min=0.5)
        return torch.ldexp(held.reciprocal_(), -exponent)

    def inverse_root(self, place: Place, x: Tensor) -> Tensor:
        """x^(-1/2) for x > 0: shifted by an even power of two to a mantissa in [1/4, 1), coded, looked up."""
        exponent = torch.frexp(x)[1]
        even = exponent + (exponent & 1)
        held = self.mantissa(place, torch.ldexp(x, -even)).clamp_(min=0.25)
        return torch.ldexp(held.rsqrt_(), -(even >> 1))


def _linear(spiking: Spiking, dense: Op, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    given, rate = list(inputs), 0.0
    for number in place.coded:
        x = given[number]
        if x is None or not x.is_floating_point():
            return dense(place.node, inputs)
        given[number], rate = spiking.coded(place, number, x)
    outputs = dense(place.node, given)
    weight = inputs[place.weights[0][0]] if place.weights else None
    first = given[place.coded[0]] if place.coded else None
    if weight is not None and first is not None:
        macs = linear_macs(place.node, first, weight, outputs[0])
        spiking.operations(place, macs, rate * macs)
    return outputs


def linear_macs(node: Node, x: Tensor, weight: Tensor, output: Tensor) -> int:
    """Multiply-adds of a product with a weight."""
    if node.op == "Conv":
        return int(output.numel() * weight[0].numel())
    if node.op == "ConvTranspose":
        return int(x.numel() * weight[0].numel())
    return (
        int(x.numel() * weight.numel() // max(x.shape[-1], 1))
        if weight.dim() == 2
        else int(output.numel() * x.shape[-1])
    )


def _attention(spiking: Spiking, dense: Op, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    given, synops = list(inputs), 1.0
    for number in place.coded:
        x = given[number]
        if x is None or not x.is_floating_point():
            return dense(place.node, inputs)
        given[number], rate = spiking.coded(place, number, x)
        synops *= rate
    outputs = dense(place.node, given)
    left = given[0]
    if left is not None and left.dim():
        macs = int(outputs[0].numel() * left.shape[-1])
        spiking.operations(place, macs, synops * macs)
    return outputs


def _embedding(spiking: Spiking, dense: Op, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    outputs = dense(place.node, inputs)
    spiking.operations(place, 0, float(outputs[0].numel()))
    return outputs


def _function(spiking: Spiking, dense: Op, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    x = inputs[0]
    if x is None or not x.is_floating_point():
        return dense(place.node, inputs)
    return dense(place.node, [spiking.fine_input(place, 0, x), *inputs[1:]])


def _product(spiking: Spiking, dense: Op, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    given = list(inputs)
    for number in place.scaled:
        x = given[number]
        if x is None or not x.is_floating_point():
            return dense(place.node, inputs)  # whole numbers: shapes and positions, no activations
        given[number] = spiking.scaled(place, x)
    return dense(place.node, given)


def _softmax(spiking: Spiking, dense: Op, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    x, axis = inputs[0], place.node.attrs.get("axis", -1)
    if x is None or not isinstance(axis, int):
        return dense(place.node, inputs)
    distance = x - x.amax(axis, keepdim=True)
    silent = ~(distance > -EXP_RANGE)
    held = spiking.fine(place, distance.masked_fill_(silent, 0.0), EXP_RANGE / spiking.code.fine_levels)
    weight = held.exp_().masked_fill_(silent, 0.0)
    total = weight.sum(axis, keepdim=True)
    # A row that is masked altogether has no winner; like the dense operator it then gives what 0/0 gives, as zeros.
    inverse = spiking.reciprocal(place, torch.where(total > 0, total, torch.ones_like(total)))
    return (weight.mul_(inverse),)


def _norm(spiking: Spiking, dense: Op, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    x, scale = inputs[0], inputs[1]
    if x is None or scale is None:
        return dense(place.node, inputs)
    axis, epsilon = place.node.attrs.get("axis", -1), place.node.attrs.get("epsilon", 1e-5)
    assert isinstance(axis, int) and isinstance(epsilon, (int, float))
    axes = list(range(axis % x.dim(), x.dim()))
    held = spiking.fine_input(place, 0, x)
    mean = None
    if place.node.op == "LayerNormalization":
        mean = held.mean(axes, keepdim=True)
        held = held.sub_(mean)
    inverse = spiking.inverse_root(place, held.square().mean(axes, keepdim=True).add_(float(epsilon)))
    outputs = held.mul_(inverse).mul_(scale)
    shift = inputs[2] if len(inputs) > 2 else None
    if shift is not None and mean is not None:
        outputs = outputs.add_(shift)
    rest = (inverse,) if mean is None else (mean, inverse)
    return (outputs, *rest)[: max(1, len(place.node.outputs))]


def _recurrent(spiking: Spiking, dense: Op, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    from spore_borg.learn.spike.recurrent import gru, lstm

    return (lstm if place.node.op == "LSTM" else gru)(spiking, place, inputs)


_HANDLERS: dict[str, Callable[[Spiking, Op, Place, Inputs], tuple[Tensor, ...]]] = {
    "linear": _linear,
    "attention": _attention,
    "recurrent": _recurrent,
    "embedding": _embedding,
    "function": _function,
    "product": _product,
    "softmax": _softmax,
    "norm": _norm,
}
FAMILIES = frozenset(_HANDLERS)
__all__ = ["FAMILIES", "STATE_INPUT", "Spiking", "linear_macs"]
