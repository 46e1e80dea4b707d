"""Operators that work number by number, with the broadcasting of ONNX (which is NumPy's and torch's)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import (
    VARIADIC,
    Inputs,
    fits_together,
    integer,
    number,
    op,
    optional,
    refuse,
    text,
)

# What numbers are here: floats are float32, whole numbers int64 except where a byte's range matters.
# ONNX number of a type → ours.
DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.int64,
    5: torch.int64,
    6: torch.int64,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,
    11: torch.float32,
    12: torch.int64,
    13: torch.int64,
    16: torch.float32,
}


def _unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    def body(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        return (function(inputs[0]),)

    op(name, 1)(body)


def _binary(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def body(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        left, right = inputs
        fits_together(node, left, right)
        return (function(left, right),)

    op(name, 2)(body)


def _fold(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def body(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
        fits_together(node, *inputs)
        total = inputs[0]
        for value in inputs[1:]:
            total = function(total, value)
        return (total,)

    op(name, 1, VARIADIC)(body)


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": lambda x: F.softplus(x, threshold=80.0),
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
for _name, _function in _UNARY.items():
    _unary(_name, _function)


def _div(left: Tensor, right: Tensor) -> Tensor:
    if left.is_floating_point() or right.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def _pow(base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)


def _prelu(value: Tensor, slope: Tensor) -> Tensor:
    return torch.where(value < 0, value * slope, value)


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Div": _div,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "PRelu": _prelu,
    "Pow": _pow,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
for _name, _pair in _BINARY.items():
    _binary(_name, _pair)

_FOLDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}
for _name, _pair in _FOLDED.items():
    _fold(_name, _pair)


@op("Mean", 1, VARIADIC)
def _mean(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    fits_together(node, *inputs)
    total = inputs[0]
    for value in inputs[1:]:
        total = total + value
    return (total / len(inputs),)


@op("Mod", 2)
def _mod(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    fits_together(node, *inputs)
    return ((torch.fmod if integer(node, "fmod", 0) else torch.remainder)(*inputs),)


@op("LeakyRelu", 1)
def _leaky_relu(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (F.leaky_relu(inputs[0], number(node, "alpha", 0.01)),)


@op("ThresholdedRelu", 1)
def _thresholded_relu(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (F.threshold(inputs[0], number(node, "alpha", 1.0), 0.0),)


@op("Elu", 1)
def _elu(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (F.elu(inputs[0], number(node, "alpha", 1.0)),)


@op("Selu", 1)
def _selu(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    alpha, gamma = number(node, "alpha", 1.6732632423543772), number(node, "gamma", 1.0507009873554805)
    return (gamma * F.elu(inputs[0], alpha),)


@op("Celu", 1)
def _celu(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (F.celu(inputs[0], number(node, "alpha", 1.0)),)


@op("Gelu", 1)
def _gelu(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    kind = text(node, "approximate", "none")
    if kind not in ("none", "tanh"):
        raise refuse(node, f"approximate is none or tanh, not {kind!r}.")
    return (F.gelu(inputs[0], approximate=kind),)


@op("Swish", 1)
def _swish(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs[0] * torch.sigmoid(number(node, "alpha", 1.0) * inputs[0]),)


@op("HardSigmoid", 1)
def _hard_sigmoid(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return ((inputs[0] * number(node, "alpha", 0.2) + number(node, "beta", 0.5)).clamp(0.0, 1.0),)


@op("Shrink", 1)
def _shrink(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, bias, edge = inputs[0], number(node, "bias", 0.0), number(node, "lambd", 0.5)
    zero = torch.zeros_like(value)
    return (torch.where(value < -edge, value + bias, torch.where(value > edge, value - bias, zero)),)


@op("IsInf", 1)
def _is_inf(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    up, down = integer(node, "detect_positive", 1), integer(node, "detect_negative", 1)
    none = torch.zeros_like(inputs[0], dtype=torch.bool)
    return ((torch.isposinf(inputs[0]) if up else none) | (torch.isneginf(inputs[0]) if down else none),)


@op("Clip", 1, 3)
def _clip(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    low, high = optional(inputs, 1), optional(inputs, 2)
    value = inputs[0]
    if low is not None:
        value = torch.maximum(value, low)
    if high is not None:
        value = torch.minimum(value, high)
    return (value,)


@op("Where", 3)
def _where(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    fits_together(node, *inputs)
    return (torch.where(inputs[0], inputs[1], inputs[2]),)


def dtype_of(node: Node, key: str, default: int) -> torch.dtype:
    """The dtype of an attribute that holds an ONNX type number. Raises GraphError for text and exotic types."""
    code = integer(node, key, default)
    if code not in DTYPES:
        raise refuse(node, f"type number {code} of ONNX is not supported; only numbers and booleans are.")
    return DTYPES[code]


@op("Cast", 1)
def _cast(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs[0].to(dtype_of(node, "to", 0)),)


@op("CastLike", 2)
def _cast_like(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs[0].to(inputs[1].dtype),)


@op("Softmax", 1)
def _softmax(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.softmax(inputs[0], integer(node, "axis", -1)),)


@op("LogSoftmax", 1)
def _log_softmax(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.log_softmax(inputs[0], integer(node, "axis", -1)),)


@op("Hardmax", 1)
def _hardmax(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    axis = integer(node, "axis", -1)
    best = inputs[0].argmax(axis, keepdim=True)
    return (torch.zeros_like(inputs[0]).scatter(axis, best, 1.0),)
