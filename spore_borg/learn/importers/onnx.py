"""ONNX files → ``Graph`` and ``Weights``: opsets 7 and newer, brought to the newest form of each operator.

Nothing in a file is executed. What depends on constants, bound inputs and shapes alone is worked out here, so that
branches (`If`) disappear; what is computed from weights alone becomes a weight.
Source: the ONNX specification, IR version 3 and newer; operators in ``learn.ops``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import torch
from onnx import AttributeProto, TensorProto

from spore_borg.learn.errors import GraphError, SourceError
from spore_borg.learn.formats.base import FlatWeights
from spore_borg.learn.graph import NAME_CHARS_MAX, NODES_MAX, RANK_MAX, Graph, Node, Port, Weights
from spore_borg.learn.importers.onnx_file import open_model, tensor_of
from spore_borg.learn.importers.onnx_forms import CONTRIBUTED, RULES
from spore_borg.learn.importers.onnx_weights import DERIVED, OnnxWeights
from spore_borg.learn.ops import DENSE
from spore_borg.learn.run import DTYPES, run

OPSET_MIN = 7
DEPTH_MAX = 8  # branches inside branches
FOLDED_BYTES_MAX = 1 << 20  # a constant worked out here
TRIAL_SIZES = (2, 3)  # sizes tried for axes of any size when a branch depends on shapes

TRIALS_MAX = 256  # branches that are decided by trying

_REALS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WHOLES = (
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
)
_BYTES = (TensorProto.UINT8, TensorProto.INT8)

Shapes = Mapping[str, Sequence[int | None]]
Values = Mapping[str, torch.Tensor | float | int | bool]


def read(
    path_or_bytes: Path | str | bytes, *, shapes: Shapes | None = None, values: Values | None = None
) -> tuple[Graph, Weights]:
    """Import a file.

    Args:
        path_or_bytes: the file, or its bytes; external weights are read from files beside it only.
        shapes: sizes of inputs that the file leaves open, by name; None is any size. Branches that depend on shapes
            are decided by them.
        values: inputs bound to a value, by name: they are fed no more (a sampling rate, a switch).
    Returns:
        The graph, and its weights, of which large ones stay in the file until they are loaded.
    Raises:
        SourceError: no ONNX, damage, an unsupported operator or type, a branch that depends on what is fed.
    """
    source = Path(path_or_bytes) if isinstance(path_or_bytes, str) else path_or_bytes
    where = source.name if isinstance(source, Path) else "The graph"
    model, large = open_model(source)
    opset = _opset(model, where)
    if len(model.functions):
        try:
            model = onnx.inliner.inline_local_functions(model)
        except (RuntimeError, ValueError) as error:
            raise SourceError(f"{where}: its functions cannot be inlined: {error}"[:300]) from error
    build = _Build(
        where, opset, OnnxWeights(FlatWeights(large, where)), dict(shapes or {}), dict(values or {})
    )
    try:
        return build.whole(model.graph, large)
    except GraphError as error:
        raise SourceError(f"{where}: {error}") from error


def _opset(model: Any, where: str) -> int:
    found = {item.domain: item.version for item in model.opset_import}
    version = int(found.get("", found.get("ai.onnx", 0)))
    if version < OPSET_MIN:
        raise SourceError(
            f"{where} is of opset {version}; export it with opset {OPSET_MIN} or newer (17 is a good one)."
        )
    return version


class _Build:
    """The graph as it grows. ``names`` maps a file's name of a value to ours, within the scope that is read."""

    def __init__(
        self, where: str, opset: int, weights: OnnxWeights, shapes: dict[str, Any], values: dict[str, Any]
    ):
        self.where, self.opset, self.weights = where, opset, weights
        self.shapes, self.bound = shapes, values
        self.ports: list[Port] = []
        self.nodes: list[Node] = []
        self.sized: set[str] = set()  # values that follow from constants and shapes alone
        self.ranks: dict[str, int] = {}
        self.taken: set[str] = set()
        self.names: dict[str, str] = {}
        self.made_as: dict[str, str] = {}  # our names of what the operator at hand makes → the file's
        self.names_of_nodes: set[str] = set()
        self.trials = 0
        self.label, self.prefix, self.count = "", "", 0

    # What rules may do.

    def emit(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attrs: Mapping[str, Any]) -> None:
        """Add an operator, or the constant that it makes."""
        inputs = [*inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        if op not in DENSE:
            raise SourceError(
                f"{self.where}: operator {op[:80]} ({self.label[:80]!r}) is not supported. Export the model with "
                "standard operators for inference, or name another file."
            )
        if any(isinstance(item, float) and not math.isfinite(item) for item in attrs.values()):
            raise SourceError(
                f"{self.where}: {op[:80]} {self.label[:80]!r} has an attribute that is no finite number."
            )
        node = Node(
            op, self._unique(self.label, self.names_of_nodes), tuple(inputs), tuple(outputs), dict(attrs)
        )
        if self._fold(node):
            return
        if len(self.nodes) >= NODES_MAX:
            raise SourceError(f"{self.where} has more than {NODES_MAX} operators.")
        self.nodes.append(node)
        if op in ("Shape", "Size") or all(not name or self._known(name) for name in inputs):
            self.sized.update(name for name in outputs if name)

    def constant(self, value: torch.Tensor) -> str:
        """A new weight; its name."""
        name = self._unique(f"{self.label}.constant", self.taken)
        self.weights.keep(name, value)
        return name

    def value(self) -> str:
        """A new name for a value."""
        return self._unique(f"{self.label}.value", self.taken)

    def alias(self, made: str, is_: str) -> None:
        """From here on ``made`` is another name of ``is_``."""
        self.names[self.made_as[made]] = is_

    def rank(self, name: str) -> int | None:
        """How many axes a value has, where the file says it."""
        return len(self.weights.shape(name)) if name in self.weights else self.ranks.get(name)

    # Names.

    def _unique(self, wish: str, taken: set[str]) -> str:
        """A printable name of bounded length that nothing has yet; the same file gives the same names."""
        wish = "".join(c if c.isprintable() else "_" for c in wish) or "value"
        if len(wish) > NAME_CHARS_MAX - 8:
            wish = wish[: NAME_CHARS_MAX - 26] + "~" + hashlib.sha256(wish.encode()).hexdigest()[:16]
        name, number = wish, 1
        while name in taken:
            number += 1
            name = f"{wish}~{number}"
        taken.add(name)
        return name

    def _ours(self, theirs: str, node: Any) -> str:
        if not theirs:
            return ""
        if theirs not in self.names:
            raise SourceError(
                f"{self.where}: {node.op_type} {node.name[:80]!r} takes {theirs[:80]!r}, which nothing makes."
            )
        return self.names[theirs]

    def _known(self, name: str) -> bool:
        return name in self.sized or name in self.weights

    # Reading.

    def whole(self, graph: Any, large: Iterable[str]) -> tuple[Graph, Weights]:
        """Inputs, weights, operators, outputs."""
        self._initialisers(graph, set(large))
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.tensor_type.HasField("shape"):
                self.ranks[info.name] = len(info.type.tensor_type.shape.dim)
        fed = [info for info in graph.input if info.name not in self.names]
        unknown = sorted((set(self.shapes) | set(self.bound)) - {info.name for info in fed})
        if unknown:
            raise SourceError(
                f"{self.where} has no input {unknown[0][:80]!r}; it has {[i.name for i in fed]!r:.300}."
            )
        for info in fed:
            self._input(info)
        self._body(graph.node, 0)
        outputs = []
        for info in graph.output:
            self.label = info.name
            made = self._ours(info.name, onnx.NodeProto(op_type="output", name=info.name))
            if made in outputs or made != info.name:
                wish = self._unique(info.name, self.taken)
                self.nodes.append(
                    Node("Identity", self._unique(wish, self.names_of_nodes), (made,), (wish,), {})
                )
                made = wish
            outputs.append(made)
        result = Graph(tuple(self.ports), tuple(outputs), tuple(self._alive(outputs)))
        result.check()
        return result, self.weights.only(
            set(result.weight_names()) | (set(outputs) & set(self.weights.names()))
        )

    def _initialisers(self, graph: Any, large: set[str]) -> None:
        if len(graph.sparse_initializer):
            raise SourceError(f"{self.where} has sparse weights, which are not supported; export dense ones.")
        for tensor in graph.initializer:
            if tensor.name in self.names and not self.prefix:
                raise SourceError(f"{self.where} has two weights called {tensor.name[:80]!r}.")
            name = self._unique(self.prefix + tensor.name, self.taken)
            if tensor.name in large and not self.prefix:
                self.weights.rename(name, tensor.name)
            else:
                self.weights.keep(name, tensor_of(tensor, self.where))
            self.names[tensor.name] = name

    def _input(self, info: Any) -> None:
        kind = info.type.tensor_type.elem_type
        name = self._unique(info.name, self.taken)
        self.names[info.name] = name
        if info.name in self.bound:
            dtype = (
                torch.float32 if kind in _REALS else torch.bool if kind == TensorProto.BOOL else torch.int64
            )
            dims = info.type.tensor_type.shape.dim
            value = torch.as_tensor(self.bound[info.name], dtype=dtype)
            self.weights.keep(name, value.reshape(1) if value.dim() == 0 and len(dims) == 1 else value)
            return
        if kind in _REALS or kind in _WHOLES or kind in _BYTES or kind == TensorProto.BOOL:
            ours = "float32" if kind in _REALS else "bool" if kind == TensorProto.BOOL else "int64"
        else:
            raise SourceError(
                f"{self.where}: input {info.name[:80]!r} is of type number {kind} of ONNX; only numbers can be fed."
            )
        if not info.type.tensor_type.HasField("shape"):
            if info.name not in self.shapes:
                raise SourceError(
                    f"{self.where} says no shape of input {info.name[:80]!r}; give it in shapes=."
                )
            dims = [onnx.TensorShapeProto.Dimension() for _ in self.shapes[info.name]]
        else:
            dims = list(info.type.tensor_type.shape.dim)
        said = [int(d.dim_value) if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
        shape = tuple(self.shapes.get(info.name, said))
        fits = len(shape) == len(said) and all(b in (None, a) for a, b in zip(shape, said, strict=True))
        if not fits or len(shape) > RANK_MAX:
            raise SourceError(
                f"{self.where}: input {info.name[:80]!r} has shape {said}; {list(shape)} does not fit it."
            )
        self.ports.append(Port(name, ours, shape))
        if kind in _BYTES:
            self.label = f"{info.name}.cast"
            self.names[info.name] = self.value()
            self.emit("Cast", [name], [self.names[info.name]], {"to": int(kind)})

    def _body(self, nodes: Iterable[Any], depth: int) -> None:
        for node in nodes:
            self.count += 1
            if self.count > 4 * NODES_MAX:
                raise SourceError(f"{self.where} has more than {4 * NODES_MAX} operators.")
            self.label = self.prefix + (node.name or f"{node.op_type}_{self.count}")
            if node.op_type == "If" and node.domain in ("", "ai.onnx"):
                self._branch(node, depth)
            elif node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                self._constant(node)
            else:
                self._operator(node)

    def _constant(self, node: Any) -> None:
        attr = node.attribute[0] if len(node.attribute) == 1 else None
        if attr is not None and attr.name == "value":
            value = tensor_of(attr.t, self.where)
        elif attr is not None and attr.name in ("value_float", "value_floats"):
            value = torch.tensor(
                attr.f if attr.name == "value_float" else list(attr.floats), dtype=torch.float32
            )
        elif attr is not None and attr.name in ("value_int", "value_ints"):
            value = torch.tensor(attr.i if attr.name == "value_int" else list(attr.ints), dtype=torch.int64)
        else:
            raise SourceError(f"{self.where}: constant {self.label[:80]!r} is no tensor of numbers.")
        name = self._unique(self.prefix + node.output[0], self.taken)
        self.weights.keep(name, value)
        self.names[node.output[0]] = name

    def _operator(self, node: Any) -> None:
        inputs = [self._ours(name, node) for name in node.input]
        attrs = self._attributes(node)
        outputs = []
        self.made_as = {}
        for theirs in node.output:
            ours = self._unique(self.prefix + theirs, self.taken) if theirs else ""
            outputs.append(ours)
            if theirs:
                self.names[theirs], self.made_as[ours] = ours, theirs
                if theirs in self.ranks:
                    self.ranks[ours] = self.ranks[theirs]
        while outputs and not outputs[-1]:
            outputs.pop()
        standard = node.domain in ("", "ai.onnx")
        if node.op_type == "Identity" and standard:
            self.alias(outputs[0], inputs[0])
            return
        rules = RULES if standard else CONTRIBUTED if node.domain == "com.microsoft" else {}
        rule = rules.get(node.op_type)
        if rule is not None:
            rule(self, node.op_type, inputs, outputs, attrs)
        elif standard:
            self.emit(node.op_type, inputs, outputs, attrs)
        else:
            raise SourceError(
                f"{self.where}: operator {node.op_type[:80]} of {node.domain[:80]!r} ({self.label[:80]!r}) is not "
                "supported. Export the model with standard operators, without optimisation for one runtime."
            )

    def _attributes(self, node: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for attr in node.attribute:
            if attr.type == AttributeProto.FLOAT:
                found[attr.name] = float(attr.f)
            elif attr.type == AttributeProto.INT:
                found[attr.name] = int(attr.i)
            elif attr.type == AttributeProto.STRING:
                found[attr.name] = attr.s.decode("utf-8", "replace")
            elif attr.type == AttributeProto.FLOATS:
                found[attr.name] = tuple(float(item) for item in attr.floats)
            elif attr.type == AttributeProto.INTS:
                found[attr.name] = tuple(int(item) for item in attr.ints)
            elif attr.type == AttributeProto.STRINGS:
                found[attr.name] = tuple(item.decode("utf-8", "replace") for item in attr.strings)
            elif attr.type == AttributeProto.TENSOR and node.op_type == "ConstantOfShape":
                value = tensor_of(attr.t, self.where).reshape(-1)
                kind = (
                    "bool"
                    if value.dtype == torch.bool
                    else "float32"
                    if value.is_floating_point()
                    else "int64"
                )
                found |= {"value": float(value[0]) if kind == "float32" else int(value[0]), "dtype": kind}
            else:
                raise SourceError(
                    f"{self.where}: {node.op_type[:80]} {self.label[:80]!r} has an attribute {attr.name[:40]!r} of a "
                    "kind that is not supported (a graph, or text in a tensor)."
                )
        return found

    # Working out.

    def _fold(self, node: Node) -> bool:
        """Turn an operator on weights into a weight: worked out now if small, when it is loaded if it is large."""
        if not node.inputs or any(name and name not in self.weights for name in node.inputs):
            return False
        sizes = [self.weights.size_bytes(name) for name in node.inputs if name]
        if sum(sizes) <= FOLDED_BYTES_MAX:
            alone = Graph((), tuple(name for name in node.outputs if name), (node,))
            made = run(alone, self.weights, {})
            if sum(value.nbytes for value in made.values()) > FOLDED_BYTES_MAX:
                return False
            for name, value in made.items():
                self.weights.keep(name, value.clone())
            return True
        if node.op in DERIVED and len(node.outputs) == 1:
            self.weights.derive(node)
            return True
        return False

    def _branch(self, node: Any, depth: int) -> None:
        if depth >= DEPTH_MAX:
            raise SourceError(f"{self.where} has branches more than {DEPTH_MAX} deep.")
        label = self.label
        taken = self._decide(self._ours(node.input[0], node))
        graphs = {attr.name: attr.g for attr in node.attribute}
        graph = graphs.get("then_branch" if taken else "else_branch")
        if graph is None or len(graph.output) != len(node.output):
            raise SourceError(
                f"{self.where}: If {label[:80]!r} lacks a branch. It is damaged: fetch it again."
            )
        outer, prefix = dict(self.names), self.prefix
        self.prefix = f"{label}/"
        self._initialisers(graph, set())
        self._body(graph.node, depth + 1)
        made = [self._ours(info.name, node) for info in graph.output]
        self.names, self.prefix = outer, prefix
        for theirs, ours in zip(node.output, made, strict=True):
            self.names[theirs] = ours

    def _decide(self, name: str) -> bool:
        """Which way a branch goes, where that follows from constants and shapes."""
        if name in self.weights:
            return bool(self.weights.load(name).reshape(()).item())
        if name not in self.sized:
            raise SourceError(
                f"{self.where}: If {self.label[:80]!r} depends on what is fed. Bind the input that decides it "
                f"(values={{name: value}}); inputs are {[port.name for port in self.ports]!r:.300}."
            )
        self.trials += 1
        if self.trials > TRIALS_MAX:
            raise SourceError(f"{self.where} has more than {TRIALS_MAX} branches that depend on shapes.")
        graph = Graph(tuple(self.ports), (name,), tuple(self._alive([name])))
        found = set()
        for size in TRIAL_SIZES:
            feeds = {
                port.name: torch.zeros(
                    [size if axis is None else axis for axis in port.shape], dtype=DTYPES[port.dtype]
                )
                for port in self.ports
            }
            try:
                found.add(bool(run(graph, self.weights, feeds)[name].reshape(()).item()))
            except (GraphError, RuntimeError) as error:
                raise SourceError(
                    f"{self.where}: If {self.label[:80]!r} depends on shapes, and inputs of "
                    f"{ {port.name: list(port.shape) for port in self.ports} } cannot be tried ({error}). Give shapes="
                ) from error
        if len(found) > 1:
            raise SourceError(
                f"{self.where}: If {self.label[:80]!r} goes one way for some sizes and the other way for others. "
                f"Give shapes= for {[port.name for port in self.ports]!r:.300}."
            )
        return found.pop()

    def _alive(self, outputs: Iterable[str]) -> list[Node]:
        """The operators on which outputs depend, in order."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                kept.append(node)
                wanted.update(name for name in node.inputs if name)
        return kept[::-1]
