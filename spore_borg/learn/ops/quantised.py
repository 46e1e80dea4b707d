"""Whole numbers that stand for real ones: a scale and a zero point per tensor, per axis or per block."""

from __future__ import annotations

import torch
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import Inputs, axis_of, integer, op, optional, refuse


def _along(node: Node, scale: Tensor, value: Tensor) -> Tensor:
    """A scale or zero point, shaped so that it broadcasts over ``value``."""
    if scale.dim() == 0 or scale.numel() == 1:
        return scale.reshape(())
    axis = axis_of(node, integer(node, "axis", 1), value.dim())
    block = integer(node, "block_size", 0)
    if block:
        return scale.repeat_interleave(block, axis).narrow(axis, 0, value.shape[axis])
    if scale.dim() != 1 or scale.shape[0] != value.shape[axis]:
        raise refuse(
            node, f"a scale of shape {list(scale.shape)} does not fit axis {axis} of {list(value.shape)}."
        )
    view = [1] * value.dim()
    view[axis] = -1
    return scale.reshape(view)


@op("DequantizeLinear", 2, 3)
def _dequantise(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, zero = inputs[0], optional(inputs, 2)
    real = value.to(torch.float32)
    if zero is not None:
        real = real - _along(node, zero.to(torch.float32), value)
    return (real * _along(node, inputs[1].to(torch.float32), value),)


@op("QuantizeLinear", 2, 3)
def _quantise(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, zero = inputs[0], optional(inputs, 2)
    kinds = {0: torch.uint8, 2: torch.uint8, 3: torch.int8}
    code = integer(node, "output_dtype", 0)
    kind = kinds.get(code) if zero is None else zero.dtype
    if kind not in (torch.uint8, torch.int8):
        raise refuse(node, "it makes int8 or uint8; other types are not supported.")
    low, high = (0, 255) if kind == torch.uint8 else (-128, 127)
    steps = torch.round(value.to(torch.float32) / _along(node, inputs[1].to(torch.float32), value))
    if zero is not None:
        steps = steps + _along(node, zero.to(torch.float32), value)
    return (steps.clamp(low, high).to(kind),)


@op("DynamicQuantizeLinear", 1)
def _dynamic(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value = inputs[0]
    low, high = value.amin().clamp(max=0.0), value.amax().clamp(min=0.0)
    scale = (high - low) / 255.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((0.0 - low) / scale).clamp(0, 255)
    return torch.round(value / scale).add(zero).clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


@op("MatMulInteger", 2, 4)
def _matmul_integer(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    left, right = inputs[0].to(torch.int64), inputs[1].to(torch.int64)
    zero_left, zero_right = optional(inputs, 2), optional(inputs, 3)
    if zero_left is not None:
        left = left - (
            zero_left.unsqueeze(-1) if zero_left.dim() == 1 and zero_left.numel() > 1 else zero_left
        )
    if zero_right is not None:
        right = right - zero_right
    # Sums of up to 2**37 products of bytes are exact in float64, and far faster than torch's integer product.
    return (torch.matmul(left.to(torch.float64), right.to(torch.float64)).to(torch.int64),)
