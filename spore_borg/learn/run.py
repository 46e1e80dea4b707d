"""The dense interpreter: a graph, its weights and what is fed → its outputs, in float32, without gradients.

One pass in the order of the graph. Memory stays bounded: a weight is loaded when an operator needs it and dropped
after it, and a value after its last use. Source: docs/internals/absorption.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from spore_borg.learn.cost import METER
from spore_borg.learn.errors import GraphError, LearnError
from spore_borg.learn.graph import Graph, Node, Port, Weights
from spore_borg.learn.ops import ARITY, DENSE, ELEMENTS_MAX, Op

__all__ = ["ELEMENTS_MAX", "MemoryWeights", "Op", "Watch", "run"]

SMALL_BYTES_MAX = (
    1 << 20
)  # a weight up to this size stays until its last use; a larger one is loaded for each use

Watch = Callable[[Node, list[Tensor | None], tuple[Tensor, ...]], None]

# Inputs that are lists of sizes, axes and places: operators read them on the host, so they stay there.
HOST_INPUTS: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
}
DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


class MemoryWeights:
    """Weights that are already in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape. Raises GraphError for an unknown name."""
        return tuple(self.load(name).shape)

    def load(self, name: str) -> Tensor:
        """The tensor itself; the caller must not write into it. Raises GraphError for an unknown name."""
        if name not in self._tensors:
            raise GraphError(
                f"There is no weight {name[:80]!r}; the model's files do not belong to its graph."
            )
        return self._tensors[name]


@dataclass(slots=True)
class Allowance:
    """How many bytes of weights may still stay in memory; several models can share one."""

    left_bytes: int


class KeptWeights:
    """Weights that are loaded once and stay, as far as the allowance reaches."""

    def __init__(self, weights: Weights, allowance: Allowance) -> None:
        self._weights, self._allowance = weights, allowance
        self._kept: dict[str, Tensor] = {}

    def names(self) -> list[str]:
        """All names, sorted."""
        return self._weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading. Raises GraphError for an unknown name."""
        return self._weights.shape(name)

    def load(self, name: str) -> Tensor:
        """One tensor; the caller must not write into it. Raises GraphError for an unknown name."""
        if name not in self._kept:
            tensor = self._weights.load(name)
            size_bytes = tensor.numel() * tensor.element_size()
            if size_bytes > self._allowance.left_bytes:
                return tensor
            self._allowance.left_bytes -= size_bytes
            self._kept[name] = tensor
        return self._kept[name]


@dataclass(frozen=True, slots=True)
class Step:
    """An operator, ready to call: which inputs are weights, and what may be forgotten after it."""

    node: Node
    function: Op
    weights: tuple[str, ...]
    forget: tuple[str, ...]


def plan(graph: Graph, ops: Mapping[str, Op]) -> list[Step]:
    """Check a graph and work out the last use of every value.

    Raises:
        GraphError: an operator that ``ops`` lacks, or one with too few or too many inputs, or a value made twice.
    """
    graph.check()
    made = {port.name for port in graph.inputs}
    weights = set(graph.weight_names())
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        if node.op not in ops:
            raise GraphError(
                f"{node.op[:80]} {node.name[:80]!r}: this operator is not supported; "
                "export the model with operators of the ONNX specification."
            )
        least, most = ARITY.get(node.op, (0, len(node.inputs)))
        if not least <= len(node.inputs) <= most or not all(node.inputs[:least]):
            raise GraphError(
                f"{node.op} {node.name[:80]!r}: it takes {least} to {most} inputs, not {node.inputs!r:.200}."
            )
        for name in node.inputs:
            if name and name not in made and name not in weights:
                raise GraphError(
                    f"{node.op} {node.name[:80]!r}: {name[:80]!r} is made only later; reorder the graph."
                )
        for name in node.inputs:
            last[name] = index
        for name in node.outputs:
            if name and name in made:
                raise GraphError(
                    f"{node.op} {node.name[:80]!r}: {name[:80]!r} is made twice; names must be unique."
                )
            made.add(name)
    kept = set(graph.outputs)
    steps = []
    for index, node in enumerate(graph.nodes):
        used = dict.fromkeys(node.inputs)
        ends = [name for name in used if name and last[name] == index and name not in kept]
        ends += [name for name in node.outputs if name and name not in last and name not in kept]
        needed = tuple(name for name in used if name in weights)
        steps.append(Step(node, ops[node.op], needed, tuple(ends)))
    return steps


def check_feeds(ports: tuple[Port, ...], feeds: Mapping[str, Tensor]) -> None:
    """Every port is fed with its dtype and a shape that fits. Raises GraphError."""
    unknown = sorted(set(feeds) - {port.name for port in ports})
    if unknown:
        raise GraphError(
            f"The model takes no {unknown[0][:80]!r}; it takes {[port.name for port in ports]!r:.300}."
        )
    for port in ports:
        value = feeds.get(port.name)
        if value is None:
            raise GraphError(
                f"The input {port.name[:80]!r} is missing; feed {port.dtype} of shape {_sizes(port)}."
            )
        if value.dtype != DTYPES.get(port.dtype):
            raise GraphError(f"The input {port.name[:80]!r} is {value.dtype}; feed {port.dtype}.")
        fits = len(value.shape) == len(port.shape) and all(
            want is None or want == size for want, size in zip(port.shape, value.shape, strict=True)
        )
        if not fits:
            raise GraphError(
                f"The input {port.name[:80]!r} has shape {list(value.shape)}; feed shape {_sizes(port)} (? is any)."
            )


def _sizes(port: Port) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in port.shape) + "]"


def _ready(value: Tensor) -> Tensor:
    """A weight as operators want it: floats are float32, whole numbers int64 except bytes."""
    if value.is_floating_point():
        return value if value.dtype == torch.float32 else value.to(torch.float32)
    if value.dtype in (torch.int64, torch.bool, torch.uint8, torch.int8):
        return value
    return value.to(torch.int64)


def _together(node: Node, inputs: list[Tensor | None], device: torch.device) -> list[Tensor | None]:
    """Inputs on one device. What Shape makes lies on the host; it follows where it meets other values."""
    stay = HOST_INPUTS.get(node.op, ())
    moving = [value for index, value in enumerate(inputs) if value is not None and index not in stay]
    if all(value.device == device for value in moving) or all(value.device.type == "cpu" for value in moving):
        return inputs
    return [
        value if value is None or index in stay else value.to(device, non_blocking=True)
        for index, value in enumerate(inputs)
    ]


def run(
    graph: Graph,
    weights: Weights,
    feeds: Mapping[str, Tensor],
    *,
    ops: Mapping[str, Op] = DENSE,
    watch: Watch | None = None,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Run a graph once.

    Args:
        feeds: a tensor for every port, of its dtype and shape.
        ops: what each operator does; ``{**DENSE, …}`` replaces some.
        watch: sees every operator with its inputs and outputs, in order; it must not write into them.
        device: where floats are computed; shapes are computed on the host.
    Returns:
        The graph's outputs by name, on ``device``; they may share memory with feeds and weights.
    Raises:
        GraphError: what cannot be run, with the operator's name and what to do.
    """
    steps = plan(graph, ops)
    check_feeds(graph.inputs, feeds)
    home = torch.device(device)
    away, meter = home.type != "cpu", METER.get()
    values: dict[str, Tensor] = {name: value.to(home) for name, value in feeds.items()}
    with torch.inference_mode():
        for step in steps:
            node = step.node
            large = _load(step, weights, values, home)
            inputs: list[Tensor | None] = [values[name] if name else None for name in node.inputs]
            if away:
                inputs = _together(node, inputs, home)
            outputs = _call(step, inputs)
            if meter is not None:
                meter.take(node, inputs, outputs)
            if watch is not None:
                watch(node, inputs, outputs)
            for name, value in zip(node.outputs, outputs, strict=False):
                if name:
                    values[name] = value
            del inputs, outputs
            for name in (*step.forget, *large):
                values.pop(name, None)
        return {name: _output(graph, weights, values, name).to(home) for name in graph.outputs}


def _load(step: Step, weights: Weights, values: dict[str, Tensor], home: torch.device) -> list[str]:
    """Load what an operator needs and is not there. Returns those too large to be kept for a later use."""
    large = []
    for name in step.weights:
        if name not in values:
            value = _ready(weights.load(name))
            # Whole numbers of few axes are sizes and axes far more often than data: they stay on the host.
            if home.type != "cpu" and (value.dim() > 1 or value.is_floating_point()):
                value = value.to(home)
            values[name] = value
        if values[name].nbytes > SMALL_BYTES_MAX:
            large.append(name)
    return large


def _call(step: Step, inputs: list[Tensor | None]) -> tuple[Tensor, ...]:
    node = step.node
    try:
        outputs = step.function(node, inputs)
    except LearnError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError) as error:
        shapes = [None if value is None else list(value.shape) for value in inputs]
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise GraphError(
            f"{node.op} {node.name[:80]!r} cannot work on shapes {shapes!r:.300}: {reason}"
        ) from error
    if len(outputs) < len(node.outputs) and any(node.outputs[len(outputs) :]):
        raise GraphError(
            f"{node.op} {node.name[:80]!r}: it makes {len(outputs)} values, not {len(node.outputs)}."
        )
    for value in outputs:
        if value.numel() > ELEMENTS_MAX:
            raise GraphError(
                f"{node.op} {node.name[:80]!r}: it made {value.numel()} numbers, and at most {ELEMENTS_MAX} are "
                "kept; feed fewer or shorter items."
            )
    return outputs


def _output(graph: Graph, weights: Weights, values: dict[str, Tensor], name: str) -> Tensor:
    """An output is a value, something fed, or a weight that passes through."""
    return values[name] if name in values else _ready(weights.load(name))
