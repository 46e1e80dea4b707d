"""What every operator shares: the registry, checked attributes, and the limit on the size of results.

An operator is a function of its node and its inputs. It never writes into an input, since values may share memory
(Reshape, Expand and Identity give views), and it draws no random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from spore_borg.learn.errors import GraphError
from spore_borg.learn.graph import RANK_MAX, Node

ELEMENTS_MAX = 1 << 28  # numbers in one value; 1 GiB as float32

Op = Callable[[Node, list[Tensor | None]], tuple[Tensor, ...]]
# Inside an operator an input that the registry demands is never None, so that inputs are not narrowed one by one.
Inputs = list[Any]
Body = Callable[[Node, Inputs], tuple[Tensor, ...]]

VARIADIC = 1 << 16
REGISTRY: dict[str, Op] = {}
ARITY: dict[str, tuple[int, int]] = {}


def op(name: str, least: int, most: int | None = None) -> Callable[[Body], Body]:
    """Register an operator of ``least`` required inputs and at most ``most`` (as many as ``least`` if not given)."""

    def register(body: Body) -> Body:
        REGISTRY[name] = body
        ARITY[name] = (least, least if most is None else most)
        return body

    return register


def refuse(node: Node, why: str) -> GraphError:
    """An error that names the operator; ``why`` is a sentence that says what to do."""
    return GraphError(f"{node.op} {node.name[:80]!r}: {why}")


def fits(node: Node, shape: Sequence[int]) -> None:
    """Refuse a result of this shape before it is made. Raises GraphError."""
    count = math.prod(shape)
    if count > ELEMENTS_MAX:
        raise refuse(
            node,
            f"it would make {count} numbers, and at most {ELEMENTS_MAX} are made; feed fewer or shorter items.",
        )
    if len(shape) > RANK_MAX:
        raise refuse(node, f"it would make a value of {len(shape)} axes; at most {RANK_MAX} are supported.")


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape to which shapes broadcast. Raises ValueError if they do not."""
    # torch.broadcast_shapes takes 20 times as long, more than many an operator that is checked.
    rank = max(len(shape) for shape in shapes)
    sizes = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size != 1 and size != sizes[axis]:
                if sizes[axis] != 1:
                    raise ValueError(f"shapes {[list(item) for item in shapes]} do not broadcast to one")
                sizes[axis] = size
    return tuple(sizes)


def fits_together(node: Node, *values: Tensor) -> None:
    """Refuse values that would broadcast to a result that is too large. Raises GraphError."""
    # The product of the sizes is an upper bound that costs nothing; shapes are only compared where it is exceeded.
    count = 1
    for value in values:
        count *= max(value.numel(), 1)
    if count > ELEMENTS_MAX:
        fits(node, broadcast(*(value.shape for value in values)))


def integer(node: Node, key: str, default: int | None = None) -> int:
    """A whole-number attribute. Raises GraphError for another type, or if it is absent and has no default."""
    value = node.attrs.get(key, default)
    if type(value) is not int:
        raise refuse(node, f"attribute {key!r} must be a whole number, not {value!r}.")
    return value


def number(node: Node, key: str, default: float) -> float:
    """A real attribute. Raises GraphError for another type."""
    value = node.attrs.get(key, default)
    if type(value) not in (int, float):
        raise refuse(node, f"attribute {key!r} must be a number, not {value!r}.")
    return float(value)  # type: ignore[arg-type]  # just checked


def text(node: Node, key: str, default: str) -> str:
    """A text attribute. Raises GraphError for another type."""
    value = node.attrs.get(key, default)
    if type(value) is not str:
        raise refuse(node, f"attribute {key!r} must be a text, not {value!r}.")
    return value


def ints(node: Node, key: str) -> tuple[int, ...] | None:
    """An attribute that lists whole numbers; None if absent. Raises GraphError for another type."""
    value = node.attrs.get(key)
    if value is None:
        return None
    if type(value) is not tuple or not all(type(item) is int for item in value):
        raise refuse(node, f"attribute {key!r} must be a list of whole numbers, not {value!r}.")
    return value  # type: ignore[return-value]  # just checked


def texts(node: Node, key: str) -> tuple[str, ...] | None:
    """An attribute that lists texts; None if absent. Raises GraphError for another type."""
    value = node.attrs.get(key)
    if value is None:
        return None
    if type(value) is not tuple or not all(type(item) is str for item in value):
        raise refuse(node, f"attribute {key!r} must be a list of texts, not {value!r}.")
    return value  # type: ignore[return-value]  # just checked


def axis_of(node: Node, axis: int, rank: int) -> int:
    """An axis counted from the front. Raises GraphError if there is no such axis."""
    if not -rank <= axis < rank:
        raise refuse(node, f"there is no axis {axis} in a value of {rank} axes.")
    return axis + rank if axis < 0 else axis


def axes_of(node: Node, axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front, each named once. Raises GraphError."""
    found = [axis_of(node, axis, rank) for axis in axes]
    if len(set(found)) != len(found):
        raise refuse(node, f"an axis is named twice in {list(axes)}.")
    return found


def whole(value: Tensor) -> list[int]:
    """A tensor of whole numbers as a list, read on the host."""
    return [int(item) for item in value.reshape(-1).tolist()]


def optional(inputs: Inputs, index: int) -> Any:
    """An input, or None where it is absent or was left off at the end."""
    return inputs[index] if index < len(inputs) else None
