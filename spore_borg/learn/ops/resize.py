"""Resize: samples at fractional places along each axis, nearest, linear or cubic."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import (
    Inputs,
    axes_of,
    fits,
    integer,
    ints,
    number,
    op,
    optional,
    refuse,
    text,
    whole,
)

Places = Callable[[Tensor, int, int, float], Tensor]

# Place in the result, its size, the value's size, the scale → place in the value.
_PLACES: dict[str, Places] = {
    "half_pixel": lambda x, new, old, scale: (x + 0.5) / scale - 0.5,
    "asymmetric": lambda x, new, old, scale: x / scale,
    "align_corners": lambda x, new, old, scale: x * (old - 1) / (new - 1) if new > 1 else x * 0,
    "pytorch_half_pixel": lambda x, new, old, scale: (x + 0.5) / scale - 0.5 if new > 1 else x * 0,
    "half_pixel_symmetric": lambda x, new, old, scale: (
        old / 2 * (1 - new / (scale * old)) + (x + 0.5) / scale - 0.5
    ),
}


@op("Resize", 1, 4)
def _resize(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, scales_in, sizes_in = inputs[0], optional(inputs, 2), optional(inputs, 3)
    given = ints(node, "axes")
    axes = axes_of(node, range(value.dim()) if given is None else given, value.dim())
    old = [value.shape[axis] for axis in axes]
    if integer(node, "antialias", 0) or text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise refuse(node, "antialias and keep_aspect_ratio_policy are not supported.")
    if sizes_in is not None and sizes_in.numel():
        new = whole(sizes_in)
        scales = [to / of for to, of in zip(new, old, strict=True)]
    elif scales_in is not None and scales_in.numel():
        scales = [float(item) for item in scales_in.tolist()]
        new = [math.floor(of * scale) for of, scale in zip(old, scales, strict=True)]
    else:
        raise refuse(node, "it needs scales or sizes.")
    if min(scales, default=1.0) <= 0.0 or min(old, default=1) < 1:
        raise refuse(node, f"{old} cannot be scaled by {scales}.")
    shape = list(value.shape)
    for axis, size in zip(axes, new, strict=True):
        shape[axis] = max(size, shape[axis])
    fits(node, shape)
    rule = text(node, "coordinate_transformation_mode", "half_pixel")
    if rule not in _PLACES:
        raise refuse(node, f"coordinate_transformation_mode {rule!r} is not supported.")
    for axis, size, of, scale in zip(axes, new, old, scales, strict=True):
        if size != of or scale != 1.0:
            # float64 keeps floor() on the right side of whole numbers
            place = _PLACES[rule](torch.arange(size, dtype=torch.float64), size, of, scale)
            value = _sample(node, value, axis, place.to(value.device))
    return (value,)


def _sample(node: Node, value: Tensor, axis: int, place: Tensor) -> Tensor:
    mode = text(node, "mode", "nearest")
    if mode == "nearest":
        return _take(value, axis, _nearest(node, place))
    low = place.floor()
    part = place - low
    if mode == "linear":
        weights = [1 - part, part]
        first = 0
    elif mode == "cubic":
        weights = _cubic(part, number(node, "cubic_coeff_a", -0.75))
        first = -1
    else:
        raise refuse(node, f"mode {mode!r} is not supported; nearest, linear and cubic are.")
    index = low.to(torch.int64)
    if integer(node, "exclude_outside", 0):
        size = value.shape[axis]
        inside = [(index + first + i >= 0) & (index + first + i < size) for i in range(len(weights))]
        weights = [weight * ok for weight, ok in zip(weights, inside, strict=True)]
        total = torch.stack(weights).sum(0)
        weights = [weight / total for weight in weights]
    view = [1] * value.dim()
    view[axis] = -1
    parts = [
        _take(value, axis, index + first + i) * weight.to(torch.float32).reshape(view)
        for i, weight in enumerate(weights)
    ]
    return sum(parts[1:], parts[0])


def _take(value: Tensor, axis: int, index: Tensor) -> Tensor:
    """Numbers along an axis; a place outside is the nearest inside."""
    return value.index_select(axis, index.clamp(0, value.shape[axis] - 1))


def _nearest(node: Node, place: Tensor) -> Tensor:
    mode = text(node, "nearest_mode", "round_prefer_floor")
    if mode == "round_prefer_floor":
        return (place - 0.5).ceil().to(torch.int64)
    if mode == "round_prefer_ceil":
        return (place + 0.5).floor().to(torch.int64)
    if mode in ("floor", "ceil"):
        return (place.floor() if mode == "floor" else place.ceil()).to(torch.int64)
    raise refuse(node, f"nearest_mode {mode!r} is not supported.")


def _cubic(part: Tensor, a: float) -> list[Tensor]:
    """Keys' kernel at distances 1 + t, t, 1 - t and 2 - t."""
    near = [((a + 2) * t - (a + 3)) * t * t + 1 for t in (part, 1 - part)]
    far = [((a * t - 5 * a) * t + 8 * a) * t - 4 * a for t in (1 + part, 2 - part)]
    return [far[0], near[0], near[1], far[1]]
