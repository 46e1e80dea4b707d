"""Operators that change shape or make values of a shape: they compute nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import (
    ELEMENTS_MAX,
    VARIADIC,
    Inputs,
    axes_of,
    axis_of,
    broadcast,
    fits,
    integer,
    ints,
    op,
    optional,
    refuse,
    text,
    whole,
)


@op("Reshape", 2)
def _reshape(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, shape = inputs[0], whole(inputs[1])
    if not integer(node, "allowzero", 0):
        if any(size == 0 and index >= value.dim() for index, size in enumerate(shape)):
            raise refuse(node, f"a 0 in {shape} copies an axis that {list(value.shape)} has not.")
        shape = [value.shape[index] if size == 0 else size for index, size in enumerate(shape)]
    return (value.reshape(shape),)


@op("Flatten", 1)
def _flatten(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, axis = inputs[0], integer(node, "axis", 1)
    axis = axis + value.dim() if axis < 0 else axis
    if not 0 <= axis <= value.dim():
        raise refuse(node, f"there is no axis {axis} in a value of {value.dim()} axes.")
    rows = math.prod(value.shape[:axis])
    return (value.reshape(rows, math.prod(value.shape[axis:])),)


@op("Transpose", 1)
def _transpose(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    order = ints(node, "perm")
    return (inputs[0].permute(order if order is not None else tuple(range(inputs[0].dim()))[::-1]),)


@op("Squeeze", 1, 2)
def _squeeze(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, given = inputs[0], optional(inputs, 1)
    if given is None:
        return (value.squeeze(),)
    axes = axes_of(node, whole(given), value.dim())
    if any(value.shape[axis] != 1 for axis in axes):
        raise refuse(node, f"axes {axes} of {list(value.shape)} are not all of size 1.")
    return (value.squeeze(axes),)


@op("Unsqueeze", 2)
def _unsqueeze(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, given = inputs[0], whole(inputs[1])
    shape = list(value.shape)
    for axis in sorted(axes_of(node, given, value.dim() + len(given))):
        shape.insert(axis, 1)
    return (value.reshape(shape),)


@op("Shape", 1)
def _shape(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    shape = list(inputs[0].shape)
    stop = integer(node, "end", len(shape))
    return (torch.tensor(shape[slice(integer(node, "start", 0), stop)], dtype=torch.int64),)


@op("Size", 1)
def _size(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.tensor(inputs[0].numel(), dtype=torch.int64),)


@op("Concat", 1, VARIADIC)
def _concat(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.cat(inputs, axis_of(node, integer(node, "axis"), inputs[0].dim())),)


@op("Split", 1, 2)
def _split(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, given = inputs[0], optional(inputs, 1)
    axis = axis_of(node, integer(node, "axis", 0), value.dim())
    size = value.shape[axis]
    if given is not None:
        return tuple(torch.split(value, whole(given), axis))
    parts = integer(node, "num_outputs", len(node.outputs))
    if not 1 <= parts <= max(size, 1):
        raise refuse(node, f"{size} cannot be split into {parts}.")
    step = -(-size // parts)
    return tuple(torch.split(value, [step] * (parts - 1) + [size - step * (parts - 1)], axis))


@op("Slice", 3, 5)
def _slice(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value: Tensor = inputs[0]
    starts, ends = whole(inputs[1]), whole(inputs[2])
    axes_in, steps_in = optional(inputs, 3), optional(inputs, 4)
    axes = axes_of(node, range(len(starts)) if axes_in is None else whole(axes_in), value.dim())
    steps = [1] * len(starts) if steps_in is None else whole(steps_in)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise refuse(node, "starts, ends, axes and steps must be of one length, and no step 0.")
    picks: list[slice] = [slice(None)] * value.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            picks[axis] = slice(start, end, step)
        else:
            index = torch.arange(*slice(start, end, step).indices(value.shape[axis]), device=value.device)
            value = value.index_select(axis, index)
    return (value[tuple(picks)],)


@op("Expand", 2)
def _expand(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    shape = broadcast(inputs[0].shape, whole(inputs[1]))
    fits(node, shape)
    return (inputs[0].expand(shape),)


@op("Tile", 2)
def _tile(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    times = whole(inputs[1])
    if len(times) != inputs[0].dim():
        raise refuse(node, f"{len(times)} repeats are given for {inputs[0].dim()} axes.")
    fits(node, [size * count for size, count in zip(inputs[0].shape, times, strict=True)])
    return (inputs[0].repeat(times),)


@op("ConstantOfShape", 1)
def _constant_of_shape(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    shape, value = whole(inputs[0]), node.attrs.get("value", 0.0)
    fits(node, shape)
    if not isinstance(value, int | float):
        raise refuse(node, "attribute 'value' must be one number.")
    kind = text(node, "dtype", "float32" if type(value) is float else "int64")
    dtypes = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
    if kind not in dtypes:
        raise refuse(node, f"attribute 'dtype' is one of {', '.join(dtypes)}, not {kind!r}.")
    return (torch.full(shape, value, dtype=dtypes[kind]),)


@op("Range", 3)
def _range(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    start, limit, delta = (value.item() for value in inputs)
    if delta == 0 or abs(limit - start) / abs(delta) > ELEMENTS_MAX:
        raise refuse(node, f"a range from {start} to {limit} by {delta} is empty of sense or too long.")
    count = max(math.ceil((limit - start) / delta), 0)
    return (start + delta * torch.arange(count, dtype=inputs[0].dtype, device=inputs[0].device),)


@op("Pad", 2, 4)
def _pad(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, pads = inputs[0], whole(inputs[1])
    fill, given = optional(inputs, 2), optional(inputs, 3)
    axes = axes_of(node, range(value.dim()) if given is None else whole(given), value.dim())
    if len(pads) != 2 * len(axes):
        raise refuse(node, f"{len(pads)} pads are given for {len(axes)} axes; two for each are needed.")
    mode = text(node, "mode", "constant")
    both = list(zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True))
    shape = list(value.shape)
    for axis, before, after in both:
        shape[axis] = max(shape[axis] + before + after, 0)
    fits(node, shape)
    if mode == "constant":
        flat = [0] * (2 * value.dim())
        for axis, before, after in both:
            flat[2 * (value.dim() - 1 - axis)], flat[2 * (value.dim() - 1 - axis) + 1] = before, after
        number = 0 if fill is None else fill.item()
        return (torch.nn.functional.pad(value, flat, value=number),)
    for axis, before, after in both:
        if before or after:
            value = value.index_select(
                axis, _padded(node, mode, value.shape[axis], before, after).to(value.device)
            )
    return (value,)


def _padded(node: Node, mode: str, size: int, before: int, after: int) -> Tensor:
    """Which index of the value stands at each place of the padded axis."""
    place = torch.arange(-before, size + after)
    if size == 0:
        raise refuse(node, f"an axis of size 0 cannot be padded by {mode}.")
    if mode == "edge":
        return place.clamp(0, size - 1)
    if mode == "wrap":
        return place.remainder(size)
    if mode == "reflect":
        if size == 1:
            return torch.zeros_like(place)
        place = place.remainder(2 * size - 2)
        return torch.minimum(place, 2 * size - 2 - place)
    raise refuse(node, f"mode {mode!r} is not supported; constant, edge, reflect and wrap are.")


@op("DepthToSpace", 1)
def _depth_to_space(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, block = inputs[0], integer(node, "blocksize")
    n, c, h, w = value.shape
    if text(node, "mode", "DCR") == "CRD":
        parts = value.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = value.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return (parts.reshape(n, c // block**2, h * block, w * block),)


@op("SpaceToDepth", 1)
def _space_to_depth(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, block = inputs[0], integer(node, "blocksize")
    n, c, h, w = value.shape
    parts = value.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return (parts.reshape(n, c * block**2, h // block, w // block),)
