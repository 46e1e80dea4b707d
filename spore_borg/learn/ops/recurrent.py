"""LSTM, GRU and RNN with ONNX's weights: gates in the order i, o, f, c and z, r, h; values are [time, batch, numbers].

Usual cells run in torch's own loops; peepholes, clipping, other activations, lengths per item and ONNX's default GRU
run step by step here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import Inputs, fits, integer, number, op, optional, refuse, text, texts

Activation = Callable[[Tensor], Tensor]

# Those without parameters; ONNX allows more, which no exporter writes.
_ACTIVATIONS: dict[str, Activation] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": F.softsign,
    "softplus": F.softplus,
    "hardsigmoid": lambda x: (x * 0.2 + 0.5).clamp(0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a layer; W [gates·hidden, input], R [gates·hidden, hidden], biases [gates·hidden].

    Attributes:
        reverse: time runs backwards; hidden, cell: initial states [batch, hidden]; peep: [3·hidden] or None.
        functions: its activations; clip: bound of what goes into them, 0 is none.
    """

    reverse: bool
    w: Tensor
    r: Tensor
    wb: Tensor
    rb: Tensor
    hidden: Tensor
    cell: Tensor
    peep: Tensor | None
    functions: tuple[Activation, ...]
    clip: float


@dataclass(frozen=True, slots=True)
class Layer:
    """What all directions share; x is [time, batch, input], lengths [batch] or None."""

    x: Tensor
    lengths: Tensor | None
    plain: bool
    directions: tuple[Direction, ...]


def _read(node: Node, inputs: Inputs, gates: int, usual: tuple[str, ...]) -> Layer:
    x, w, r, b = inputs[0], inputs[1], inputs[2], optional(inputs, 3)
    lengths, hidden = optional(inputs, 4), optional(inputs, 5)
    cell, peep = (optional(inputs, 6), optional(inputs, 7)) if gates == 4 else (None, None)
    batch_first = integer(node, "layout", 0) != 0
    if batch_first:
        x = x.transpose(0, 1)
        hidden, cell = (None if state is None else state.transpose(0, 1) for state in (hidden, cell))
    names = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    ways = names.get(text(node, "direction", "forward"))
    size = integer(node, "hidden_size", r.shape[-1])
    if ways is None or w.shape[:2] != (len(ways), gates * size) or r.shape != (len(ways), gates * size, size):
        raise refuse(node, f"weights {list(w.shape)} and {list(r.shape)} do not fit {gates} gates of {size}.")
    if x.dim() != 3 or x.shape[2] != w.shape[2]:
        raise refuse(node, f"an input of shape {list(x.shape)} does not fit weights {list(w.shape)}.")
    given = tuple(name.lower() for name in texts(node, "activations") or usual * len(ways))
    if len(given) != len(usual) * len(ways) or not set(given) <= set(_ACTIVATIONS):
        raise refuse(
            node, f"activations {given} are not supported; known: {', '.join(sorted(_ACTIVATIONS))}."
        )
    if node.attrs.get("activation_alpha") or node.attrs.get("activation_beta"):
        raise refuse(node, "activations with parameters are not supported; export with the usual ones.")
    fits(node, (x.shape[0], x.shape[1], len(ways) * gates * size))
    none = torch.zeros((len(ways), x.shape[1], size), dtype=x.dtype, device=x.device)
    bias = torch.zeros((len(ways), 2 * gates * size), dtype=x.dtype, device=x.device) if b is None else b
    directions = tuple(
        Direction(
            reverse=reverse,
            w=w[i],
            r=r[i],
            wb=bias[i, : gates * size],
            rb=bias[i, gates * size :],
            hidden=(none if hidden is None else hidden)[i],
            cell=(none if cell is None else cell)[i],
            peep=None if peep is None else peep[i],
            functions=tuple(_ACTIVATIONS[name] for name in given[i * len(usual) : (i + 1) * len(usual)]),
            clip=number(node, "clip", 0.0),
        )
        for i, reverse in enumerate(ways)
    )
    if lengths is not None and bool((lengths == x.shape[0]).all()):
        lengths = None
    usual_ones = given == tuple(name.lower() for name in usual) * len(ways)
    plain = lengths is None and peep is None and usual_ones and not directions[0].clip and x.shape[0] > 0
    return Layer(x, lengths, plain and not integer(node, "input_forget", 0), directions)


def _steps(layer: Layer, way: Direction) -> Iterator[tuple[int, Tensor | None]]:
    """Indices of time in the order in which a direction runs, each with who is still alive, [batch, 1]."""
    length = layer.x.shape[0]
    for t in reversed(range(length)) if way.reverse else range(length):
        yield t, None if layer.lengths is None else (t < layer.lengths).unsqueeze(1)


def _bounded(way: Direction, value: Tensor) -> Tensor:
    return value.clamp(-way.clip, way.clip) if way.clip else value


def _result(node: Node, layer: Layer, found: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Y [time, directions, batch, hidden] and each last state [directions, batch, hidden]; by item with layout 1."""
    every = torch.stack([one[0] for one in found], 1)
    last = [torch.stack([one[i] for one in found]) for i in range(1, len(found[0]))]
    if integer(node, "layout", 0):
        return every.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)
    return every, *last


def _torch_order(value: Tensor, order: tuple[int, ...]) -> Tensor:
    """Gates (the blocks of axis 0) in another order."""
    parts = value.chunk(len(order), 0)
    return torch.cat([parts[i] for i in order])


def _in_torch(layer: Layer, kind: str, order: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    found: list[tuple[Tensor, ...]] = []
    for way in layer.directions:
        x = layer.x.flip(0) if way.reverse else layer.x
        weights = [_torch_order(value, order) for value in (way.w, way.r, way.wb, way.rb)]
        hidden = way.hidden.unsqueeze(0).contiguous()
        if kind == "lstm":
            state = (hidden, way.cell.unsqueeze(0).contiguous())
            every, *last = torch.lstm(x, state, weights, True, 1, 0.0, False, False, False)
        else:
            run = torch.gru if kind == "gru" else torch.rnn_tanh
            every, *last = run(x, hidden, weights, True, 1, 0.0, False, False, False)
        found.append((every.flip(0) if way.reverse else every, *(state.squeeze(0) for state in last)))
    return found


@op("LSTM", 3, 8)
def _lstm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    layer = _read(node, inputs, 4, ("Sigmoid", "Tanh", "Tanh"))
    if layer.plain:
        return _result(node, layer, _in_torch(layer, "lstm", (0, 2, 3, 1)))
    coupled = integer(node, "input_forget", 0) != 0
    return _result(node, layer, [_lstm_steps(layer, way, coupled) for way in layer.directions])


def _lstm_steps(layer: Layer, way: Direction, coupled: bool) -> tuple[Tensor, ...]:
    f, g, h = way.functions
    hidden, cell = way.hidden, way.cell
    driven = layer.x @ way.w.t() + (way.wb + way.rb)
    every = torch.zeros((layer.x.shape[0], *hidden.shape), dtype=hidden.dtype, device=hidden.device)
    zero = torch.zeros_like(way.wb[: hidden.shape[1]])
    peep_i, peep_o, peep_f = (zero, zero, zero) if way.peep is None else way.peep.chunk(3)
    for t, alive in _steps(layer, way):
        i, o, forget, c = (driven[t] + hidden @ way.r.t()).chunk(4, 1)
        i = f(_bounded(way, i + peep_i * cell))
        forget = 1 - i if coupled else f(_bounded(way, forget + peep_f * cell))
        new_cell = forget * cell + i * g(_bounded(way, c))
        new = f(_bounded(way, o + peep_o * new_cell)) * h(new_cell)
        hidden, cell = _alive(alive, new, hidden), _alive(alive, new_cell, cell)
        every[t] = new if alive is None else new * alive
    return every, hidden, cell


def _alive(alive: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    return new if alive is None else torch.where(alive, new, old)


@op("GRU", 3, 6)
def _gru(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    layer = _read(node, inputs, 3, ("Sigmoid", "Tanh"))
    after = integer(node, "linear_before_reset", 0) != 0
    if layer.plain and after:
        return _result(node, layer, _in_torch(layer, "gru", (1, 0, 2)))
    return _result(node, layer, [_gru_steps(layer, way, after) for way in layer.directions])


def _gru_steps(layer: Layer, way: Direction, after: bool) -> tuple[Tensor, ...]:
    f, g = way.functions
    hidden = way.hidden
    driven = layer.x @ way.w.t() + way.wb
    every = torch.zeros((layer.x.shape[0], *hidden.shape), dtype=hidden.dtype, device=hidden.device)
    rz, rr, rh = way.r.chunk(3)
    bz, br, bh = way.rb.chunk(3)
    for t, alive in _steps(layer, way):
        xz, xr, xh = driven[t].chunk(3, 1)
        z = f(_bounded(way, xz + hidden @ rz.t() + bz))
        r = f(_bounded(way, xr + hidden @ rr.t() + br))
        back = r * (hidden @ rh.t() + bh) if after else (r * hidden) @ rh.t() + bh
        new = (1 - z) * g(_bounded(way, xh + back)) + z * hidden
        hidden = _alive(alive, new, hidden)
        every[t] = new if alive is None else new * alive
    return every, hidden


@op("RNN", 3, 6)
def _rnn(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    layer = _read(node, inputs, 1, ("Tanh",))
    if layer.plain:
        return _result(node, layer, _in_torch(layer, "rnn", (0,)))
    return _result(node, layer, [_rnn_steps(layer, way) for way in layer.directions])


def _rnn_steps(layer: Layer, way: Direction) -> tuple[Tensor, ...]:
    hidden = way.hidden
    driven = layer.x @ way.w.t() + (way.wb + way.rb)
    every = torch.zeros((layer.x.shape[0], *hidden.shape), dtype=hidden.dtype, device=hidden.device)
    for t, alive in _steps(layer, way):
        new = way.functions[0](_bounded(way, driven[t] + hidden @ way.r.t()))
        hidden = _alive(alive, new, hidden)
        every[t] = new if alive is None else new * alive
    return every, hidden
