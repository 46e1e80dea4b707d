"""Operators that reduce axes or choose along one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import Inputs, axes_of, axis_of, integer, op, optional, refuse, whole


def _reduction(name: str, function: Callable[[Tensor, list[int], bool], Tensor]) -> None:
    """Axes are the second input; none means all of them, or none of them with ``noop_with_empty_axes``."""

    def body(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        value, given = inputs[0], optional(inputs, 1)
        axes = [] if given is None else axes_of(node, whole(given), value.dim())
        if not axes:
            if integer(node, "noop_with_empty_axes", 0):
                return (value,)
            axes = list(range(value.dim()))
        return (function(value, axes, integer(node, "keepdims", 1) != 0),)

    op(name, 1, 2)(body)


def _prod(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        value = value.prod(axis, keepdim=keep)
    return value


for _name, _function in {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep) if axes else x,
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep) if axes else x,
    "ReduceMax": lambda x, axes, keep: _extreme(x, axes, keep, torch.amax),
    "ReduceMin": lambda x, axes, keep: _extreme(x, axes, keep, torch.amin),
    "ReduceProd": _prod,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep) if axes else x.abs(),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt() if axes else x.abs(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep) if axes else x.square(),
    "ReduceLogSum": lambda x, axes, keep: (x.sum(axes, keepdim=keep) if axes else x).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep) if axes else x,
}.items():
    _reduction(_name, _function)


def _extreme(
    value: Tensor, axes: list[int], keep: bool, function: Callable[[Tensor, list[int], bool], Tensor]
) -> Tensor:
    return function(value, axes, keep) if axes else value


def _choice(name: str, function: Callable[..., Tensor]) -> None:
    def body(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        value = inputs[0]
        axis, keep = axis_of(node, integer(node, "axis", 0), value.dim()), integer(node, "keepdims", 1) != 0
        if integer(node, "select_last_index", 0):
            return (value.shape[axis] - 1 - function(value.flip(axis), axis, keepdim=keep),)
        return (function(value, axis, keepdim=keep),)

    op(name, 1)(body)


_choice("ArgMax", torch.argmax)
_choice("ArgMin", torch.argmin)


@op("TopK", 2)
def _top_k(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, count = inputs[0], whole(inputs[1])
    axis = axis_of(node, integer(node, "axis", -1), value.dim())
    if len(count) != 1 or not 0 <= count[0] <= value.shape[axis]:
        raise refuse(node, f"it cannot choose {count} of {value.shape[axis]}.")
    # A stable sort: of equal values the first comes first, as ONNX says; torch.topk promises no order.
    best, where = torch.sort(value, dim=axis, descending=integer(node, "largest", 1) != 0, stable=True)
    return best.narrow(axis, 0, count[0]), where.narrow(axis, 0, count[0])


@op("CumSum", 2)
def _cum_sum(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value = inputs[0]
    axis = axis_of(node, whole(inputs[1])[0], value.dim())
    backwards = integer(node, "reverse", 0) != 0
    value = value.flip(axis) if backwards else value
    total = value.cumsum(axis, dtype=value.dtype)
    total = total - value if integer(node, "exclusive", 0) else total
    return (total.flip(axis) if backwards else total,)
