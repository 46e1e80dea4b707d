"""LSTM and GRU as spiking layers: input and state arrive as spikes, gates are function neurons, the cell is a membrane.

Every gate is a two-base neuron whose input is coded over a fixed range, beyond which sigmoid and tanh are flat, and
whose output is coded in [-1, 1]. The cell of an LSTM is a membrane with a leak of one coded factor a step.
Gate order and options: ONNX operators LSTM and GRU, opset 14.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spore_borg.learn.errors import GraphError
from spore_borg.learn.graph import Node
from spore_borg.learn.spike.calibrate import FLAT
from spore_borg.learn.spike.plan import STATE_INPUT, Place

if TYPE_CHECKING:
    from spore_borg.learn.spike.ops import Inputs, Spiking


class _Layer:
    """One direction: weights, biases, and the gates as neurons."""

    def __init__(self, spiking: Spiking, place: Place, inputs: Inputs, direction: int) -> None:
        self._spiking, self._place = spiking, place
        weight, recurrent = inputs[1], inputs[2]
        assert weight is not None and recurrent is not None
        self.weight, self.recurrent = weight[direction], recurrent[direction]  # [g*h, in], [g*h, h]
        bias = inputs[3] if len(inputs) > 3 else None
        rows = self.weight.shape[0]
        both = torch.zeros(2 * rows, device=weight.device) if bias is None else bias[direction]
        self.bias, self.recurrent_bias = both[:rows], both[rows:]

    def current(self, x: Tensor) -> Tensor:
        """Coded input [t, b, in] → what it adds to the gates [t, b, g*h]."""
        held, rate = self._spiking.coded(self._place, 0, x)
        macs = x.shape[0] * x.shape[1] * self.weight.numel()
        self._spiking.operations(self._place, macs, rate * macs)
        return held @ self.weight.t() + self.bias

    def state(self, h: Tensor) -> Tensor:
        """The state [b, h] after its code."""
        held, rate = self._spiking.coded(self._place, STATE_INPUT, h)
        macs = h.shape[0] * self.recurrent.numel()
        self._spiking.operations(self._place, macs, rate * macs)
        return held

    def sigmoid(self, x: Tensor) -> Tensor:
        """A gate in [0, 1]."""
        return self._gate(torch.sigmoid, x, FLAT["Sigmoid"])

    def tanh(self, x: Tensor) -> Tensor:
        """A gate in [-1, 1]."""
        return self._gate(torch.tanh, x, FLAT["Tanh"])

    def _gate(self, function: object, x: Tensor, reach: float) -> Tensor:
        levels = self._spiking.code.fine_levels
        held = self._spiking.fine(self._place, x, reach / levels)
        return self._spiking.fine(self._place, function(held), 1.0 / levels)  # type: ignore[operator]


def _prepared(node: Node, inputs: Inputs) -> tuple[Tensor, int, list[bool]]:
    """(x as [t, b, in], hidden size, whether each direction runs backwards)."""
    x, recurrent = inputs[0], inputs[2]
    assert x is not None and recurrent is not None
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    direction = str(node.attrs.get("direction", "forward"))
    if direction not in ways:
        raise GraphError(f"{node.op} {node.name[:80]!r}: there is no direction {direction[:40]!r}.")
    return (x.transpose(0, 1) if node.attrs.get("layout", 0) else x), recurrent.shape[-1], ways[direction]


def _initial(inputs: Inputs, number: int, node: Node, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """The initial state [directions, b, h]."""
    given = inputs[number] if len(inputs) > number else None
    if given is None:
        return torch.zeros(shape, device=like.device)
    return given.transpose(0, 1) if node.attrs.get("layout", 0) else given


def _lengths(inputs: Inputs, x: Tensor) -> Tensor:
    given = inputs[4] if len(inputs) > 4 else None
    return torch.full((x.shape[1],), x.shape[0], device=x.device) if given is None else given.to(torch.int64)


def _order(steps: int, lengths: Tensor, backwards: bool) -> list[tuple[Tensor, Tensor]]:
    """For every step: which time each item of the batch is at, and whether it has one."""
    found = []
    for step in range(steps):
        alive = step < lengths
        at = (lengths - 1 - step).clamp(min=0) if backwards else torch.full_like(lengths, step)
        found.append((at, alive))
    return found


def _finish(node: Node, outputs: Tensor, last: list[Tensor]) -> tuple[Tensor, ...]:
    """Outputs [t, d, b, h] and last states [d, b, h], in the node's layout."""
    if node.attrs.get("layout", 0):
        return (outputs.permute(2, 0, 1, 3), *(value.transpose(0, 1) for value in last))
    return (outputs, *last)


def lstm(spiking: Spiking, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    """ONNX LSTM: (Y, Y_h, Y_c); gates in the order input, output, forget, cell."""
    node = place.node
    x, hidden, ways = _prepared(node, inputs)
    steps, batch = x.shape[:2]
    shape = (len(ways), batch, hidden)
    start_h, start_c = _initial(inputs, 5, node, shape, x), _initial(inputs, 6, node, shape, x)
    outputs, lengths = torch.zeros(steps, len(ways), batch, hidden, device=x.device), _lengths(inputs, x)
    items, last_h, last_c = torch.arange(batch, device=x.device), [], []
    for direction, backwards in enumerate(ways):
        layer = _Layer(spiking, place, inputs, direction)
        current = layer.current(x)
        h, c = start_h[direction], start_c[direction]
        for at, alive in _order(steps, lengths, backwards):
            gates = current[at, items] + layer.state(h) @ layer.recurrent.t() + layer.recurrent_bias
            gate_in, gate_out, forget, cell = gates.chunk(4, -1)
            fresh_c = layer.sigmoid(forget) * c + layer.sigmoid(gate_in) * layer.tanh(cell)
            fresh_h = layer.sigmoid(gate_out) * layer.tanh(fresh_c)
            c, h = torch.where(alive[:, None], fresh_c, c), torch.where(alive[:, None], fresh_h, h)
            live = items[alive]
            outputs[at[alive], direction, live] = h[alive]
        last_h.append(h)
        last_c.append(c)
    return _finish(node, outputs, [torch.stack(last_h), torch.stack(last_c)])


def gru(spiking: Spiking, place: Place, inputs: Inputs) -> tuple[Tensor, ...]:
    """ONNX GRU: (Y, Y_h); gates in the order update, reset, hidden."""
    node = place.node
    x, hidden, ways = _prepared(node, inputs)
    steps, batch = x.shape[:2]
    start = _initial(inputs, 5, node, (len(ways), batch, hidden), x)
    outputs, lengths = torch.zeros(steps, len(ways), batch, hidden, device=x.device), _lengths(inputs, x)
    items, last = torch.arange(batch, device=x.device), []
    after = bool(node.attrs.get("linear_before_reset", 0))
    for direction, backwards in enumerate(ways):
        layer = _Layer(spiking, place, inputs, direction)
        current, h = layer.current(x), start[direction]
        matrix, bias = layer.recurrent, layer.recurrent_bias
        for at, alive in _order(steps, lengths, backwards):
            held = layer.state(h)
            now = current[at, items]
            both = now[:, : 2 * hidden] + held @ matrix[: 2 * hidden].t() + bias[: 2 * hidden]
            update, reset = layer.sigmoid(both).chunk(2, -1)
            inner, inner_bias = matrix[2 * hidden :], bias[2 * hidden :]
            drive = (
                reset * (held @ inner.t() + inner_bias)
                if after
                else layer.state(reset * held) @ inner.t() + inner_bias
            )
            fresh = (1 - update) * layer.tanh(now[:, 2 * hidden :] + drive) + update * held
            h = torch.where(alive[:, None], fresh, h)
            outputs[at[alive], direction, items[alive]] = h[alive]
        last.append(h)
    return _finish(node, outputs, [torch.stack(last)])
