"""Which operators of a graph spike, and how: a function of the graph alone.

Every operator belongs to one family:

- ``linear``: a product with a weight; its other operand arrives as spikes.
- ``attention``: a product of two activations, both coded.
- ``recurrent``: LSTM and GRU; input and state are coded, gates are function neurons, the cell is a membrane.
- ``embedding``: rows of a table; an index is one event that selects a row.
- ``softmax``, ``norm``, ``function``, ``product``: neurons with two bases, see ``spike.ops``.
- ``current``: sums, scalings by constants, rectifiers, maxima and moves: what membranes and wires do. Nothing to code.
- ``dense``: an operator of which no spiking form is known here; it runs as it is, and reports say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from spore_borg.learn.graph import Graph, Node

LINEAR = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose"))
RECURRENT = frozenset(("LSTM", "GRU"))
SOFTMAX = frozenset(("Softmax",))
NORM = frozenset(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"))
FUNCTION = frozenset(
    """Gelu Erf Exp Tanh Sigmoid Silu Swish QuickGelu Softplus Elu Selu Celu Mish HardSwish Softsign
    Sin Cos BiasGelu FastGelu""".split()  # noqa: SIM905 - a list of texts would be four times as long
)
PRODUCT = frozenset(("Mul", "Div", "Pow", "Square", "Reciprocal", "Sqrt", "Log"))
CURRENT = frozenset(
    """Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Clip Compress Concat Constant
    ConstantOfShape CumSum DepthToSpace Dropout Equal Expand EyeLike Flatten Floor Gather GatherElements GatherND
    GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity IsInf IsNaN LeakyRelu Less LessOrEqual
    Max MaxPool Mean Min Neg NonZero Not OneHot Or PRelu Pad Range ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape
    Resize Round Scatter ScatterElements ScatterND Shape Sign Size Slice SpaceToDepth Split Squeeze Sub Sum
    ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor BitShift Mod""".split()  # noqa: SIM905 - as above
)
LAYOUT = frozenset(("Transpose", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"))
STATE_INPUT = 5  # ONNX: input 5 of LSTM and GRU is the initial state; the state's threshold has its number


@dataclass(frozen=True, slots=True)
class Place:
    """What the conversion does with one operator.

    Attributes:
        family: see the module.
        coded: inputs that arrive as spikes and have a threshold of their own, by number.
        fine: those of them that come from a softmax and keep its two bases.
        scaled: inputs that are shifted by a power of two, each value by its own, and then coded: no threshold.
        weights: inputs whose weight is kept as int8: number → name of the tensor in the graph.
    """

    node: Node
    family: str
    coded: tuple[int, ...] = ()
    fine: tuple[int, ...] = ()
    scaled: tuple[int, ...] = ()
    weights: tuple[tuple[int, str], ...] = ()
    note: str = ""


def plan(graph: Graph) -> dict[str, Place]:
    """The place of every operator, by name, in graph order."""
    roots = {
        name: name for name in graph.weight_names()
    }  # weights, and what only moves or derives from weights
    shares: set[str] = set()  # values that softmax made, and what only moves them
    found: dict[str, Place] = {}
    for node in graph.nodes:
        given = [name for name in node.inputs if name]
        if (given and all(name in roots for name in given)) or node.op in ("Constant", "ConstantOfShape"):
            origin = roots[given[0]] if given and node.op in LAYOUT else ""
            roots |= dict.fromkeys((name for name in node.outputs if name), origin)
            found[node.name] = Place(node, "current")
            continue
        if node.op in SOFTMAX or (node.op in LAYOUT and node.inputs[0] in shares):
            shares |= set(node.outputs)
        place = _place(node, roots)
        if place.family == "attention":
            place = replace(place, fine=tuple(i for i in place.coded if node.inputs[i] in shares))
        found[node.name] = place
    return found


def _place(node: Node, roots: Mapping[str, str]) -> Place:
    constant = [not name or name in roots for name in node.inputs]
    weights = tuple((i, roots[n]) for i, n in enumerate(node.inputs) if n and roots.get(n))
    by_number = dict(weights)
    if node.op in LINEAR:
        if len(node.inputs) > 1 and 1 in by_number and not constant[0]:
            return Place(node, "linear", (0,), weights=((1, by_number[1]),))
        if 0 in by_number and node.op == "MatMul":
            return Place(node, "linear", (1,), weights=((0, by_number[0]),))
        active = tuple(i for i in (0, 1) if not constant[i])
        fixed = "" if len(active) == 2 else "its weight is computed in the graph and stays as it is"
        return Place(node, "linear" if fixed else "attention", active, note=fixed)
    if node.op == "Einsum":
        active = tuple(i for i, fixed in enumerate(constant) if not fixed)
        return Place(node, "linear" if weights else "attention", active, weights=weights)
    if node.op in RECURRENT:
        return _recurrent(node, by_number)
    if node.op == "Gather" and 0 in by_number:
        return Place(node, "embedding", weights=((0, by_number[0]),))
    if node.op in SOFTMAX:
        return Place(node, "softmax")
    if node.op in NORM:
        return Place(node, "norm", (0,))
    if node.op in FUNCTION:
        return Place(node, "function", (0,))
    if node.op in PRODUCT:
        return _product(node, constant)
    if node.op in CURRENT:
        return Place(node, "current")
    return Place(node, "dense", note=f"no spiking form of {node.op} is known; it runs in fp32")


def _recurrent(node: Node, weights: Mapping[int, str]) -> Place:
    plain = {"activations", "clip", "activation_alpha", "activation_beta", "input_forget"}.isdisjoint(
        name for name, value in node.attrs.items() if value not in (0, 0.0, ())
    )
    if {1, 2} <= set(weights) and plain and not any(node.inputs[7:8]):
        return Place(node, "recurrent", (0, STATE_INPUT), weights=((1, weights[1]), (2, weights[2])))
    return Place(
        node, "dense", note="peepholes, clipping or other activations have no spiking form here; runs in fp32"
    )


def _product(node: Node, constant: list[bool]) -> Place:
    """A scaling by a constant is the weight of a wire; two activations that meet are both coded, by their own scale."""
    if node.op in ("Mul", "Div") and (constant[-1] or (node.op == "Mul" and constant[0])):
        return Place(node, "current")
    return Place(node, "product", scaled=tuple(i for i, fixed in enumerate(constant) if not fixed))


def layer_names(graph: Graph, places: Mapping[str, Place]) -> list[str]:
    """Operators that own a tensor of the shard (a weight of their own, or a threshold), in graph order."""
    owned: set[str] = set()
    known = set(graph.weight_names())
    names = []
    for node in graph.nodes:
        fresh = {name for name in node.inputs if name in known and name not in owned}
        owned |= fresh
        if fresh or places[node.name].coded:
            names.append(node.name)
    return names


def owners(graph: Graph) -> dict[str, str]:
    """For every weight, the operator that uses it first."""
    known = set(graph.weight_names())
    first: dict[str, str] = {}
    for node in graph.nodes:
        for name in node.inputs:
            if name in known:
                first.setdefault(name, node.name)
    return first
