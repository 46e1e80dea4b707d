"""Answers from a shard, driven by events where that is faster: what the simulation computes, in less time.

The graph is rewritten once, when the shard is opened. A product with an int8 weight becomes an ``EventLayer``; a bias
that is added after it goes into it, and products of the same coded value (query, key, value) share its code. Everything
else is ``spike.quick``'s neurons. Where whole numbers do not pay (another processor, a finer code, a card) products run
in float32 with coded operands, as in the simulation.

Verification and measurement never use this module: they run the simulation, ``spike.run``, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spore_borg.learn.errors import LearnError, ShardError
from spore_borg.learn.graph import Graph, Node, Weights
from spore_borg.learn.ops import DENSE
from spore_borg.learn.ops.base import Op
from spore_borg.learn.run import Allowance, KeptWeights, run
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.events import EventLayer, FlagLayer, layer_of, machine
from spore_borg.learn.spike.ops import Inputs
from spore_borg.learn.spike.plan import Place
from spore_borg.learn.spike.quick import Quick
from spore_borg.learn.spike.windows import WindowLayer, window_layer_of

EVENTS = "SpikeProduct"  # the operator that stands for one product, or for several of one value
FLAGS = "SpikeRows"  # the operator that stands for a product of yes and no
WINDOWS = "SpikeWindows"  # the operator that stands for a convolution
YES_OR_NO = frozenset(
    ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor")
)
DEVICES = ("auto", "cpu", "cuda", "mps")
WINDOW_WEIGHTS_MIN = 1 << 17  # of a convolution, whose windows must be unfolded
WEIGHTS_MIN = 1 << 15  # of a product of whole numbers; smaller ones are over before their codes are converted
CARD_WEIGHTS_MIN = 1_000_000  # smaller models are answered sooner here than they are sent to a card


def pick_device(wanted: str, params_count: int) -> str:
    """The device for a model of so many parameters: ``auto`` takes a card for models that are worth it.

    Raises:
        LearnError: a device that is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        worth = params_count >= CARD_WEIGHTS_MIN
        return next(name for name, found in there.items() if found and (worth or name == "cpu"))
    if not there.get(wanted):
        usable = ", ".join(name for name, found in there.items() if found)
        raise LearnError(f"There is no device {wanted[:20]!r} here; use auto or one of: {usable}.")
    return wanted


@dataclass(frozen=True, slots=True)
class Shares:
    """How a shard's products are run: how many by events, how many in float32, and the weights of each.

    A weight that several operators share is counted with each.
    """

    event_layers: int
    float_layers: int
    event_weights: int
    float_weights: int


class _OnDevice:
    """Weights where they are needed: numbers on the device, lists of sizes and axes on the host."""

    def __init__(self, weights: Weights, device: str) -> None:
        self._weights, self._device = weights, device

    def names(self) -> list[str]:
        """All names, sorted."""
        return self._weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading."""
        return self._weights.shape(name)

    def load(self, name: str) -> Tensor:
        """One tensor; the caller must not write into it."""
        value = self._weights.load(name)
        return value.to(self._device) if value.dim() > 1 or value.is_floating_point() else value


class Engine:
    """Runs one shard many times.

    Args:
        allowance: bytes of weights that may stay in memory; what is beyond is read from the file for each batch.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        events: whether products run on whole numbers; None: where that was measured to pay.
    Raises:
        LearnError: no such device. ShardError: a tensor that is not usable.
    """

    def __init__(
        self, shard: Shard, allowance: Allowance, *, device: str = "auto", events: bool | None = None
    ) -> None:
        self.device = pick_device(device, shard.info.params_count)
        self._shard, self._quick = shard, Quick(shard)
        self.layers: dict[str, tuple[EventLayer, ...]] = {}
        if events is None:
            events = self.device == "cpu" and shard.code.levels <= 127 and machine().int8_pays
        self.flags: dict[str, FlagLayer] = {}
        self.windows: dict[str, WindowLayer] = {}
        graph = _by_flags(shard, shard.graph, self.flags) if self.device == "cpu" else shard.graph
        self._graph = graph
        if events:
            graph = _by_windows(shard, graph, self.windows, allowance)
            self._graph = _driven(shard, graph, self.layers, allowance)
        weights: Weights = shard.weights()
        if self.device != "cpu":
            weights = _OnDevice(weights, self.device)
        self._weights = KeptWeights(weights, allowance)
        self._ops = {name: self._handled(dense) for name, dense in DENSE.items()}
        self._ops |= {EVENTS: self._products, FLAGS: self._rows, WINDOWS: self._unfolded}

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A tensor for every port of the graph → the graph's outputs by name, on the host.

        Raises:
            GraphError: what cannot be run. ShardError: a tensor that is missing or not usable.
        """
        outputs = run(self._graph, self._weights, feeds, ops=self._ops, device=self.device)
        return {name: value.to("cpu") for name, value in outputs.items()}

    def shares(self) -> Shares:
        """How many products run by events."""
        events = [layer for group in self.layers.values() for layer in group]
        events += [layer.layer for layer in self.windows.values()]
        driven = [layer.in_size * layer.out_size for layer in events]
        driven += [layer.rows.numel() for layer in self.flags.values()]
        products = [
            self._shard.specs["q:" + weight].size_bytes
            for place in self._shard.places.values()
            if place.family in ("linear", "recurrent")
            for _, weight in place.weights
            if "q:" + weight in self._shard.specs
        ]
        return Shares(len(driven), len(products) - len(driven), sum(driven), sum(products) - sum(driven))

    def _handled(self, dense: Op) -> Op:
        places, quick = self._shard.places, self._quick
        simulated = quick.wrapped(dense)

        def answer(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
            place = places[node.name]
            if place.family == "product":
                given = quick.product(place, inputs)
                return dense(node, inputs if given is None else given)
            handler = _HANDLERS.get(place.family)
            found = None if handler is None else handler(quick, place, inputs)
            return simulated(node, inputs) if found is None else found

        return answer

    def _products(self, node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        x, layers = inputs[0], self.layers[node.name]
        assert x is not None
        if x.shape[-1] != layers[0].in_size or not x.is_floating_point():
            raise ShardError(f"{node.name[:80]!r} takes {layers[0].in_size} channels, not {list(x.shape)}.")
        rows = x.reshape(-1, layers[0].in_size)
        k = layers[0].code(rows)
        return tuple(layer.apply(k).view(*x.shape[:-1], layer.out_size) for layer in layers)

    def _unfolded(self, node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        x = inputs[0]
        assert x is not None
        return (self.windows[node.name](x),)

    def _rows(self, node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        x, layer = inputs[0], self.flags[node.name]
        assert x is not None
        if x.shape[-1] != layer.in_size or x.dtype != torch.bool:
            raise ShardError(
                f"{node.name[:80]!r} takes {layer.in_size} flags, not {list(x.shape)} {x.dtype}."
            )
        return (layer(x.reshape(-1, layer.in_size)).view(*x.shape[:-1], layer.out_size),)


def _softmax(quick: Quick, place: Place, inputs: Inputs) -> tuple[Tensor, ...] | None:
    x, axis = inputs[0], place.node.attrs.get("axis", -1)
    return None if x is None or not isinstance(axis, int) else (quick.softmax(place, x, axis),)


def _norm(quick: Quick, place: Place, inputs: Inputs) -> tuple[Tensor, ...] | None:
    x, axis = inputs[0], place.node.attrs.get("axis", -1)
    if x is None or len(place.node.outputs) > 1 or axis not in (-1, x.dim() - 1):
        return None
    return quick.norm(place, inputs)


def _recurrent(quick: Quick, place: Place, inputs: Inputs) -> tuple[Tensor, ...] | None:
    cell, x = quick.cell(place, inputs), inputs[0]
    if cell is None or x is None:
        return None
    zeros = torch.zeros(x.shape[1], cell.size, device=x.device)
    first, second = (inputs[n] if len(inputs) > n else None for n in (5, 6))
    return cell(x, zeros if first is None else first[0], zeros if second is None else second[0])


_HANDLERS: Mapping[str, Callable[[Quick, Place, Inputs], tuple[Tensor, ...] | None]] = {
    "softmax": _softmax,
    "norm": _norm,
    "recurrent": _recurrent,
}


# ---- rewriting the graph


def _by_flags(shard: Shard, graph: Graph, layers: dict[str, FlagLayer]) -> Graph:
    """The graph with products of yes and no, which are put into ``layers``, without the numbers made of them."""
    maker = {name: node for node in graph.nodes for name in node.outputs}
    users, nodes = _users(graph), {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        place, cast = shard.places[node.name], maker.get(node.inputs[0]) if node.inputs else None
        if node.op != "MatMul" or place.family != "linear" or place.coded != (0,) or cast is None:
            continue
        flags = maker.get(cast.inputs[0]) if cast.op == "Cast" and cast.attrs.get("to") == 1 else None
        key, weight = f"{node.name}.0", place.weights[0][1] if place.weights else ""
        if flags is None or flags.op not in YES_OR_NO or node.inputs[1] != weight:
            continue
        if "t:" + key not in shard.specs:
            continue  # two bases: as in the simulation
        matrix, s = shard.weights().load(weight), shard.tensor("t:" + key)
        if matrix.dim() != 2 or s.numel() not in (1, len(matrix)):
            continue
        z = shard.tensor("z:" + key) if "z:" + key in shard.specs else None
        layers[node.name] = FlagLayer(matrix, s, levels=shard.code.levels, z=z, bias=None)
        nodes[node.name] = Node(FLAGS, node.name, (cast.inputs[0],), node.outputs)
        if users[node.inputs[0]] == [node] and node.inputs[0] not in graph.outputs:
            del nodes[cast.name]
    return replace(graph, nodes=tuple(nodes.values()))


def _by_windows(shard: Shard, graph: Graph, layers: dict[str, WindowLayer], allowance: Allowance) -> Graph:
    """The graph with event-driven convolutions, which are put into ``layers`` by the name of their operator."""
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        weight = shard.places[node.name].weights
        spec = shard.specs.get("q:" + weight[0][1]) if weight else None
        if node.op != "Conv" or spec is None or spec.size_bytes < WINDOW_WEIGHTS_MIN:
            continue
        try:
            layer = window_layer_of(shard, node)
        except ShardError:
            continue  # this convolution has no event-driven form; it stays as it is
        if layer.layer.size_bytes <= allowance.left_bytes:
            allowance.left_bytes -= layer.layer.size_bytes
            layers[node.name] = layer
            nodes[-1] = Node(WINDOWS, node.name, (node.inputs[0],), node.outputs)
    return replace(graph, nodes=tuple(nodes))


def _driven(
    shard: Shard, graph: Graph, layers: dict[str, tuple[EventLayer, ...]], allowance: Allowance
) -> Graph:
    """The graph with event-driven products, which are put into ``layers`` by the name of their operator."""
    weights = set(shard.graph.weight_names())
    users = _users(graph)
    nodes: list[Node | None] = list(graph.nodes)
    number = {node.name: index for index, node in enumerate(graph.nodes)}
    for index, node in enumerate(graph.nodes):
        if node.op in (FLAGS, WINDOWS) or not _eligible(shard, node):
            continue
        added = _bias_after(shard, node, users, weights)
        try:
            layer = layer_of(shard, node.name, bias=None if added is None else added[1])
        except ShardError:
            continue  # this product has no event-driven form; it stays as it is
        if layer.size_bytes > allowance.left_bytes:
            continue
        allowance.left_bytes -= layer.size_bytes
        output = node.outputs[0]
        if added is not None:
            nodes[number[added[0].name]] = None
            output = added[0].outputs[0]
        layers[node.name] = (layer,)
        nodes[index] = Node(EVENTS, node.name, (node.inputs[0],), (output,))
    return replace(graph, nodes=tuple(_shared([node for node in nodes if node is not None], layers)))


def _eligible(shard: Shard, node: Node) -> bool:
    place = shard.places[node.name]
    if place.family != "linear" or place.coded != (0,) or not place.weights:
        return False
    spec = shard.specs.get("q:" + place.weights[0][1])
    return spec is not None and spec.size_bytes >= WEIGHTS_MIN


def _users(graph: Graph) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in set(node.inputs):
            found.setdefault(name, []).append(node)
    return found


def _bias_after(
    shard: Shard, node: Node, users: Mapping[str, list[Node]], weights: set[str]
) -> tuple[Node, Tensor] | None:
    """The addition of one number per output that alone uses a product, and its numbers."""
    output, width = node.outputs[0], shard.weights().shape(shard.places[node.name].weights[0][1])
    after = users.get(output, [])
    if len(after) != 1 or after[0].op != "Add" or output in shard.graph.outputs:
        return None
    other = [name for name in after[0].inputs if name != output]
    across = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
    if len(other) != 1 or other[0] not in weights or len(width) != 2:
        return None
    if shard.weights().shape(other[0]) != (width[0 if across else 1],):
        return None
    return after[0], shard.weights().load(other[0]).to(torch.float32)


def _shared(nodes: list[Node], layers: dict[str, tuple[EventLayer, ...]]) -> list[Node]:
    """Products of one value with the same thresholds become one operator, which codes the value once."""
    first: dict[str, list[int]] = {}
    found: list[Node] = []
    for node in nodes:
        if node.op != EVENTS:
            found.append(node)
            continue
        one = layers[node.name][0]
        for at in first.get(node.inputs[0], ()):
            lead = found[at]
            if _same(layers[lead.name][0], one):
                layers[lead.name] += layers.pop(node.name)
                found[at] = replace(lead, outputs=lead.outputs + node.outputs)
                break
        else:
            first.setdefault(node.inputs[0], []).append(len(found))
            found.append(node)
    return found


def _same(a: EventLayer, b: EventLayer) -> bool:
    if not torch.equal(a.s, b.s) or (a.z is None) != (b.z is None):
        return False
    return a.z is None or b.z is None or torch.equal(a.z, b.z)
