"""Normalisation by mean and variance, in the forms that models use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import Inputs, axes_of, axis_of, integer, ints, number, op, optional, refuse


@op("LayerNormalization", 2, 3)
def _layer_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, scale, shift = inputs[0], inputs[1], optional(inputs, 2)
    axis = axis_of(node, integer(node, "axis", -1), value.dim())
    epsilon, shape = number(node, "epsilon", 1e-5), value.shape[axis:]
    if len(node.outputs) == 1 and scale.shape == shape and (shift is None or shift.shape == shape):
        return (F.layer_norm(value, shape, scale, shift, epsilon),)
    axes = list(range(axis, value.dim()))
    mean = value.mean(axes, keepdim=True)
    inverse = (value - mean).square().mean(axes, keepdim=True).add(epsilon).rsqrt()
    out = (value - mean) * inverse * scale
    return out if shift is None else out + shift, mean, inverse


def _rms_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, scale = inputs
    axis = axis_of(node, integer(node, "axis", -1), value.dim())
    axes = list(range(axis, value.dim()))
    inverse = value.square().mean(axes, keepdim=True).add(number(node, "epsilon", 1e-5)).rsqrt()
    return (value * inverse * scale, inverse) if len(node.outputs) > 1 else (value * inverse * scale,)


op("RMSNormalization", 2)(_rms_norm)
# The name that ONNX Runtime gave it before the specification had it.
op("SimplifiedLayerNormalization", 2)(_rms_norm)


def _per_channel(value: Tensor, rank: int) -> Tensor:
    return value.reshape(1, -1, *[1] * (rank - 2))


@op("BatchNormalization", 5)
def _batch_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    if integer(node, "training_mode", 0):
        raise refuse(node, "it is in training mode; export the model for inference.")
    value, scale, shift, mean, variance = inputs
    return (F.batch_norm(value, mean, variance, scale, shift, False, 0.0, number(node, "epsilon", 1e-5)),)


@op("InstanceNormalization", 3)
def _instance_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, scale, shift = inputs
    axes = list(range(2, value.dim()))
    mean = value.mean(axes, keepdim=True)
    inverse = (value - mean).square().mean(axes, keepdim=True).add(number(node, "epsilon", 1e-5)).rsqrt()
    return ((value - mean) * inverse * _per_channel(scale, value.dim()) + _per_channel(shift, value.dim()),)


@op("GroupNormalization", 3)
def _group_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (
        F.group_norm(
            inputs[0], integer(node, "num_groups"), inputs[1], inputs[2], number(node, "epsilon", 1e-5)
        ),
    )


@op("MeanVarianceNormalization", 1)
def _mean_variance(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value = inputs[0]
    axes = axes_of(node, ints(node, "axes") or (0, 2, 3), value.dim())
    centred = value - value.mean(axes, keepdim=True)
    return (centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9),)


@op("LpNormalization", 1)
def _lp_norm(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    axis, p = integer(node, "axis", -1), integer(node, "p", 2)
    if p not in (1, 2):
        raise refuse(node, f"p is 1 or 2, not {p}.")
    size = torch.linalg.vector_norm(inputs[0], p, axis, keepdim=True)
    return (torch.where(size == 0, torch.zeros_like(inputs[0]), inputs[0] / size),)


@op("LRN", 1)
def _lrn(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, size = inputs[0], integer(node, "size")
    if not 1 <= size <= 2 * value.shape[1]:
        raise refuse(node, f"a window of {size} channels does not fit {value.shape[1]}.")
    before = (size - 1) // 2
    square = F.pad(value.square().transpose(1, -1), (before, size - 1 - before)).unfold(-1, size, 1).sum(-1)
    divisor = number(node, "bias", 1.0) + number(node, "alpha", 1e-4) / size * square.transpose(1, -1)
    return (value / divisor.pow(number(node, "beta", 0.75)),)
