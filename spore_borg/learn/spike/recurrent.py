"""LSTM and GRU as spiking layers: input and state arrive as spikes, gates are function neurons, the cell is a membrane.

Every gate is a two-base neuron whose input is coded over a fixed range, beyond which sigmoid and tanh are flat, and
whose output is coded in [-1, 1]. The cell of an LSTM is a membrane with a leak of one coded factor a step.
Gate order and options: ONNX operators LSTM and GRU, opset 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def _lengths(inputs: Inputs, x: Tensor) -> Tensor | None:
    """How many steps each item has, int64 [b]; None: all of them, every one."""
    given = inputs[4] if len(inputs) > 4 else None
    return None if given is None else given.to(torch.int64)


def _walk(
    current: Tensor, outputs: Tensor, lengths: Tensor | None, backwards: bool
) -> Iterator[tuple[Tensor, Tensor | None, Callable[[Tensor], object]]]:
    """For every step: its input currents [b, g*h], which items have that step (None: all), and where states go.

    Args:
        current: [t, b, g*h]. outputs: [t, b, h], zeros; filled by what the step is handed.
    """
    steps, batch = current.shape[:2]
    if lengths is None:
        # Views of one step: indexing by items costs more than the step itself where items are few.
        for at in reversed(range(steps)) if backwards else range(steps):
            yield current[at], None, outputs[at].copy_
        return
    items = torch.arange(batch, device=current.device)
    for step in range(steps):
        alive = step < lengths
        places = (lengths - 1 - step).clamp(min=0) if backwards else torch.full_like(lengths, step)

        def put(h: Tensor, alive: Tensor = alive, places: Tensor = places) -> None:
            outputs[places[alive], items[alive]] = h[alive]

        yield current[places, items], alive, put


def _kept(alive: Tensor | None, fresh: Tensor, before: Tensor) -> Tensor:
    """The fresh state where an item is alive, else the one before."""
    return fresh if alive is None else torch.where(alive[:, None], fresh, before)


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
    last_h, last_c = [], []
    for direction, backwards in enumerate(ways):
        layer = _Layer(spiking, place, inputs, direction)
        current, matrix = layer.current(x), layer.recurrent.t()
        h, c = start_h[direction], start_c[direction]
        for now, alive, put in _walk(current, outputs[:, direction], lengths, backwards):
            gates = (now + layer.state(h) @ matrix).add_(layer.recurrent_bias)
            gate_in, gate_out, forget = layer.sigmoid(gates[:, : 3 * hidden]).chunk(3, -1)
            fresh_c = (forget * c).add_(gate_in * layer.tanh(gates[:, 3 * hidden :]))
            fresh_h = gate_out * layer.tanh(fresh_c)
            c, h = _kept(alive, fresh_c, c), _kept(alive, fresh_h, h)
            put(h)
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
    last = []
    after = bool(node.attrs.get("linear_before_reset", 0))
    for direction, backwards in enumerate(ways):
        layer = _Layer(spiking, place, inputs, direction)
        current, h = layer.current(x), start[direction]
        matrix, bias = layer.recurrent, layer.recurrent_bias
        inner, inner_bias = matrix[2 * hidden :], bias[2 * hidden :]
        for now, alive, put in _walk(current, outputs[:, direction], lengths, backwards):
            held = layer.state(h)
            both = (now[:, : 2 * hidden] + held @ matrix[: 2 * hidden].t()).add_(bias[: 2 * hidden])
            update, reset = layer.sigmoid(both).chunk(2, -1)
            drive = (
                reset * (held @ inner.t() + inner_bias)
                if after
                else layer.state(reset * held) @ inner.t() + inner_bias
            )
            fresh = (1 - update) * layer.tanh(now[:, 2 * hidden :] + drive) + update * held
            h = _kept(alive, fresh, h)
            put(h)
        last.append(h)
    return _finish(node, outputs, [torch.stack(last)])
