"""The neurons of ``spike.ops`` for answers: the same codes in fewer passes over memory, on any device.

A code is ``clamp(round(x / s))``. Here it is a multiplication by 1/s, and ties go to the even number: a value that lies
within a float's rounding of a tie may fall on its other side, by one step of its code. Nothing else differs from the
simulation, which measures; see ``tests/learn/test_engine.py`` for the bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spore_borg.learn.spike.calibrate import FLAT
from spore_borg.learn.spike.codes import MANTISSA_BITS
from spore_borg.learn.spike.ops import EXP_RANGE, Inputs, Spiking
from spore_borg.learn.spike.plan import STATE_INPUT, Place

if TYPE_CHECKING:
    from spore_borg.learn.shard import Shard

SILENT_BELOW = 1.13e-7  # a little over exp(-EXP_RANGE): the last level of a softmax's code is silence


def coded(x: Tensor, inverse: Tensor | float, s: Tensor | float, levels: int) -> Tensor:
    """x after a code: s * clamp(round(x / s)), in one buffer; NaN becomes 0."""
    return whole(x, inverse, levels).mul_(s)


def whole(x: Tensor, inverse: Tensor | float, levels: int) -> Tensor:
    """The codes clamp(round(x / s)) as float32; NaN becomes 0."""
    return torch.mul(x, inverse).nan_to_num_(nan=0.0).round_().clamp_(-levels, levels)


class Quick(Spiking):
    """As ``Spiking``; it counts nothing."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard)
        self._inverse: dict[str, Tensor] = {}
        self._fits: set[tuple[str, torch.Size]] = set()
        self._cells: dict[str, Cell | None] = {}

    def ready(self, key: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(1/s, s, z) of ``NODE.INPUT``. Raises ShardError if the shard has none that fits."""
        if (key, x.shape) in self._fits:
            s, z = self._thresholds[key]
        else:
            s, z = self.threshold(key, x)
            self._inverse[key] = s.reciprocal()
            self._fits.add((key, x.shape))
        return self._inverse[key], s, z

    def coded(self, place: Place, number: int, x: Tensor) -> tuple[Tensor, float]:
        """One input after its code."""
        inverse, s, z = self.ready(f"{place.node.name}.{number}", x)
        levels = self.levels(place, number)
        value = coded(x if z is None else x - z, inverse, s, levels)
        return (value if z is None else value.add_(z)), 0.0

    def levels(self, place: Place, number: int) -> int:
        """The largest code of one input."""
        return self.code.fine_levels if self.has_two_bases(place, number) else self.code.levels

    def mantissa(self, place: Place, x: Tensor) -> Tensor:
        """A mantissa after its bases."""
        levels = self.code.mantissa_levels
        return coded(x, levels + 1.0, 1.0 / (levels + 1), levels)

    def fine(self, place: Place, x: Tensor, s: Tensor | float) -> Tensor:
        """A value after two bases with a given threshold."""
        return coded(x, 1.0 / s, s, self.code.fine_levels)

    def fine_input(self, place: Place, number: int, x: Tensor) -> Tensor:
        """An input after two bases with the shard's threshold."""
        inverse, s, _ = self.ready(f"{place.node.name}.{number}", x)
        return coded(x, inverse, s, self.code.fine_levels)

    def scaled(self, place: Place, x: Tensor) -> Tensor:
        """Values shifted to a mantissa of [1/2, 1) in size, coded, shifted back."""
        levels = self.code.mantissa_levels
        kept = (levels + 1).bit_length() - 1
        if x.dtype != torch.float32 or levels + 1 != 1 << kept or kept > MANTISSA_BITS:
            return self.code.mantissas(x)
        # As ``Code.mantissas``; a mantissa that rounds to 1 does so here, and numbers near 0 and infinity go along.
        below = 1 << (24 - kept)
        return (x.contiguous().view(torch.int32) + (below >> 1)).bitwise_and_(-below).view(torch.float32)

    def product(self, place: Place, inputs: Inputs) -> Inputs | None:
        """The operands after their codes, one that meets itself coded once; None where one is no activation."""
        given = list(inputs)
        for number in place.scaled:
            x = inputs[number]
            if x is None or not x.is_floating_point():
                return None
            same = next((n for n in place.scaled if n < number and inputs[n] is x), None)
            given[number] = self.scaled(place, x) if same is None else given[same]
        return given

    def softmax(self, place: Place, x: Tensor, axis: int) -> Tensor:
        """Winner takes all, then one constant per spike; a row that is masked altogether is zeros."""
        levels = self.code.fine_levels
        distance = x - x.amax(axis, keepdim=True)
        k = distance.mul_(levels / EXP_RANGE).nan_to_num_(nan=-levels, neginf=-levels)
        weight = k.round_().clamp_(min=-levels).mul_(EXP_RANGE / levels).exp_()
        weight = torch.threshold_(weight, SILENT_BELOW, 0.0)
        total = weight.sum(axis, keepdim=True)
        return weight.mul_(self.reciprocal(place, torch.where(total > 0, total, torch.ones_like(total))))

    def norm(self, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
        """LayerNorm and RMSNorm over the last axis, with one output."""
        x, scale = inputs[0], inputs[1]
        assert x is not None and scale is not None
        held = self.fine_input(place, 0, x)
        shift = inputs[2] if len(inputs) > 2 else None
        if place.node.op == "LayerNormalization":
            held.sub_(held.mean(-1, keepdim=True))
        square = torch.linalg.vector_norm(held, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        epsilon = place.node.attrs.get("epsilon", 1e-5)
        assert isinstance(epsilon, (int, float))
        held.mul_(self.inverse_root(place, square.add_(float(epsilon))))
        if shift is None or place.node.op != "LayerNormalization":
            return (held.mul_(scale),)
        return (torch.addcmul(shift, held, scale),)

    def cell(self, place: Place, inputs: Inputs) -> Cell | None:
        """The quick form of an LSTM, made at its first use; None where it has options that only ``lstm`` knows."""
        name = place.node.name
        if name not in self._cells:
            self._cells[name] = Cell(self, place, inputs) if Cell.fits(place, inputs) else None
        return self._cells[name]


class Cell:
    """An LSTM that reads forwards, all items equally long: thresholds folded into weights, gates in one buffer."""

    def __init__(self, quick: Quick, place: Place, inputs: Inputs) -> None:
        weight, recurrent = inputs[1], inputs[2]
        assert weight is not None and recurrent is not None
        self._quick, self._place = quick, place
        self.levels, self.fine = quick.levels(place, STATE_INPUT), quick.code.fine_levels
        matrix, self.size = recurrent[0], recurrent.shape[-1]
        # What goes into the gates is counted in units of their codes.
        units = torch.full((4 * self.size,), FLAT["Sigmoid"] / self.fine, device=matrix.device)
        units[3 * self.size :] = FLAT["Tanh"] / self.fine
        key = f"{place.node.name}.{STATE_INPUT}"
        like = torch.zeros(1, self.size, device=matrix.device)
        self._inverse, s, self._z = quick.ready(key, like)
        self.units = units
        self.weight = (weight[0] / units[:, None]).t().contiguous()
        self.recurrent = (matrix * s.reshape(-1) / units[:, None]).t().contiguous()
        bias = inputs[3] if len(inputs) > 3 else None
        total = torch.zeros(4 * self.size, device=matrix.device)
        if bias is not None:
            total = bias[0][: 4 * self.size] + bias[0][4 * self.size :]
        if self._z is not None:
            total = total + matrix @ self._z.reshape(-1).expand(self.size)
        self.bias = total / units

    @staticmethod
    def fits(place: Place, inputs: Inputs) -> bool:
        """Whether this form can stand for ``spike.recurrent.lstm`` here."""
        node = place.node
        plain = str(node.attrs.get("direction", "forward")) == "forward" and not node.attrs.get("layout", 0)
        return node.op == "LSTM" and plain and (len(inputs) < 5 or inputs[4] is None)

    def __call__(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [t, b, in], states [b, h] → (Y [t, 1, b, h], Y_h and Y_c [1, b, h])."""
        held, _ = self._quick.coded(self._place, 0, x)
        steps, batch, size = *x.shape[:2], self.size
        currents = torch.addmm(self.bias, held.flatten(0, 1), self.weight).view(steps, batch, -1)
        outputs = torch.empty(steps, 1, batch, size, device=x.device)
        gates = torch.empty(batch, 4 * size, device=x.device)
        soft, sharp = gates[:, : 3 * size], gates[:, 3 * size :]
        gate_in, gate_out, forget = (gates[:, n * size : (n + 1) * size] for n in range(3))
        h, c, k = hidden, cell.clone(), torch.empty(batch, size, device=x.device)
        inner, fine = torch.empty_like(k), float(self.fine)
        into, back = fine / FLAT["Tanh"], FLAT["Tanh"] / fine
        for step in range(steps):
            torch.mul(h if self._z is None else h - self._z, self._inverse, out=k)
            k.round_().clamp_(-self.levels, self.levels)
            torch.addmm(currents[step], k, self.recurrent, out=gates)
            gates.round_().clamp_(-fine, fine).mul_(self.units)
            soft.sigmoid_()
            sharp.tanh_()
            gates.mul_(fine).round_().mul_(1.0 / fine)
            c.mul_(forget).addcmul_(gate_in, sharp)
            torch.mul(c, into, out=inner).round_().clamp_(-fine, fine).mul_(back).tanh_()
            inner.mul_(fine).round_().mul_(1.0 / fine)
            h = torch.mul(inner, gate_out, out=outputs[step, 0])
        return outputs, h[None].clone() if steps else hidden[None], c[None]
