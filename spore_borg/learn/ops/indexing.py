"""Operators that pick or place numbers by index: one out of range is an error, a negative one counts from the end."""

from __future__ import annotations

import torch
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import Inputs, axis_of, fits, integer, op, optional, refuse, text, whole
from spore_borg.learn.ops.elementwise import dtype_of


def _counted(node: Node, index: Tensor, size: int) -> Tensor:
    """Indices from the front, checked: a wild index must not read elsewhere. Raises GraphError."""
    if index.dtype != torch.int64:
        index = index.to(torch.int64)
    if index.numel():
        low, high = (int(end) for end in index.aminmax())
        if low < -size or high >= size:
            raise refuse(node, f"indices from {low} to {high} do not fit an axis of size {size}.")
        if low < 0:
            index = torch.where(index < 0, index + size, index)
    return index


@op("Gather", 2)
def _gather(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value = inputs[0]
    axis = axis_of(node, integer(node, "axis", 0), value.dim())
    index = _counted(node, inputs[1], value.shape[axis])
    shape = (*value.shape[:axis], *index.shape, *value.shape[axis + 1 :])
    fits(node, shape)
    return (value.index_select(axis, index.reshape(-1)).reshape(shape),)


@op("GatherElements", 2)
def _gather_elements(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    axis = axis_of(node, integer(node, "axis", 0), inputs[0].dim())
    return (inputs[0].gather(axis, _counted(node, inputs[1], inputs[0].shape[axis])),)


@op("GatherND", 2)
def _gather_nd(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, index, batch = inputs[0], inputs[1], integer(node, "batch_dims", 0)
    depth = index.shape[-1]
    if not 0 <= batch < min(value.dim(), index.dim()) or value.shape[:batch] != index.shape[:batch]:
        raise refuse(node, f"{batch} batch axes do not fit {list(value.shape)} and {list(index.shape)}.")
    if depth + batch > value.dim():
        raise refuse(node, f"indices of {depth} numbers do not fit a value of {value.dim()} axes.")
    fits(node, (*index.shape[:-1], *value.shape[batch + depth :]))
    picks: list[Tensor] = []
    for axis in range(batch):
        size = value.shape[axis]
        view = [1] * (index.dim() - 1)
        view[axis] = size
        picks.append(torch.arange(size, device=value.device).reshape(view))
    picks += [_counted(node, index[..., i], value.shape[batch + i]) for i in range(depth)]
    return (value[tuple(picks)],)


@op("ScatterND", 3)
def _scatter_nd(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, index, updates = inputs
    depth = index.shape[-1]
    if depth > value.dim():
        raise refuse(node, f"indices of {depth} numbers do not fit a value of {value.dim()} axes.")
    picks = tuple(_counted(node, index[..., i], value.shape[i]) for i in range(depth))
    mode = text(node, "reduction", "none")
    if mode == "none":
        return (value.index_put(picks, updates),)
    if mode == "add":
        return (value.index_put(picks, updates, accumulate=True),)
    raise refuse(node, f"reduction {mode!r} is not supported; none and add are.")


@op("ScatterElements", 3)
def _scatter_elements(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, index, updates = inputs
    axis = axis_of(node, integer(node, "axis", 0), value.dim())
    index = _counted(node, index, value.shape[axis])
    mode = {"none": "", "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}.get(
        text(node, "reduction", "none")
    )
    if mode is None:
        raise refuse(node, "reduction is one of none, add, mul, max, min.")
    return (
        value.scatter_reduce(axis, index, updates, mode) if mode else value.scatter(axis, index, updates),
    )


@op("NonZero", 1)
def _non_zero(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.nonzero(inputs[0]).t(),)


@op("OneHot", 3)
def _one_hot(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    index, depth, values = inputs[0].to(torch.int64), whole(inputs[1])[0], inputs[2]
    axis = axis_of(node, integer(node, "axis", -1), index.dim() + 1)
    shape = [*index.shape[:axis], depth, *index.shape[axis:]]
    fits(node, shape)
    off, on = values[0], values[1]
    view = [1] * len(shape)
    view[axis] = depth
    places = torch.arange(depth, device=index.device).reshape(view)
    # An index outside of [-depth, depth) gives a row without a 1.
    index = torch.where(index < 0, index + depth, index).unsqueeze(axis)
    return (torch.where(index == places, on, off),)


@op("Trilu", 1, 2)
def _trilu(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    given = optional(inputs, 1)
    k = 0 if given is None else whole(given)[0]
    return (torch.triu(inputs[0], k) if integer(node, "upper", 1) else torch.tril(inputs[0], k),)


@op("EyeLike", 1)
def _eye_like(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    if inputs[0].dim() != 2:
        raise refuse(node, f"it needs a matrix, not a value of shape {list(inputs[0].shape)}.")
    rows, columns = (torch.arange(size, device=inputs[0].device) for size in inputs[0].shape)
    one = rows.unsqueeze(1) + integer(node, "k", 0) == columns
    return (one.to(dtype_of(node, "dtype", 1) if "dtype" in node.attrs else inputs[0].dtype),)


@op("Compress", 2)
def _compress(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, keep = inputs
    if "axis" not in node.attrs:
        value = value.reshape(-1)
    axis = axis_of(node, integer(node, "axis", 0), value.dim())
    if keep.numel() > value.shape[axis]:
        raise refuse(node, f"{keep.numel()} conditions are given for an axis of size {value.shape[axis]}.")
    return (value.index_select(axis, torch.nonzero(keep).reshape(-1)),)


@op("ReverseSequence", 2)
def _reverse_sequence(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, lengths = inputs
    time, batch = integer(node, "time_axis", 0), integer(node, "batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise refuse(node, "time_axis and batch_axis are 0 and 1.")
    steps = torch.arange(value.shape[time], device=value.device)
    steps = steps.unsqueeze(1) if time == 0 else steps.unsqueeze(0)
    sizes = lengths.unsqueeze(time)
    where = torch.where(steps < sizes, sizes - 1 - steps, steps)
    where = _counted(node, where, value.shape[time])
    return (value.gather(time, where.reshape(*where.shape, *[1] * (value.dim() - 2)).expand(value.shape)),)
