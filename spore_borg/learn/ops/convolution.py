"""Convolution and pooling over one, two or three axes of space: values are [batch, channels, *space]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import Inputs, fits, integer, ints, op, optional, refuse, text

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True, slots=True)
class Window:
    """How a window moves: one number per axis of space in each; ``before`` and ``after`` are pads."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Numbers from a window's first to its last, per axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def flat(self) -> list[int]:
        """The pads as ``torch.nn.functional.pad`` wants them: the last axis first."""
        pairs = zip(reversed(self.before), reversed(self.after), strict=True)
        return [pad for pair in pairs for pad in pair]


def _per_axis(node: Node, key: str, axes: int, least: int = 1) -> tuple[int, ...]:
    value = ints(node, key) or (1,) * axes
    if len(value) != axes or min(value) < least:
        raise refuse(node, f"{key} {list(value)} must be {axes} numbers of at least {least}.")
    return value


def window(node: Node, value: Tensor, kernel: tuple[int, ...]) -> Window:
    """Read strides, dilations and pads (or auto_pad) for a value and a kernel. Raises GraphError."""
    axes = value.dim() - 2
    if not 1 <= axes <= 3 or len(kernel) != axes or min(kernel) < 1:
        raise refuse(node, f"a kernel of {list(kernel)} does not fit a value of shape {list(value.shape)}.")
    strides, dilations = _per_axis(node, "strides", axes), _per_axis(node, "dilations", axes)
    mode = text(node, "auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = (ints(node, "pads") if mode == "NOTSET" else None) or (0,) * (2 * axes)
        if len(pads) != 2 * axes or min(pads) < 0:
            raise refuse(node, f"pads {list(pads)} must be {2 * axes} numbers of at least 0.")
        return Window(kernel, strides, dilations, pads[:axes], pads[axes:])
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise refuse(node, f"auto_pad {mode!r} is not supported.")
    before, after = [], []
    for size, k, stride, d in zip(value.shape[2:], kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + (k - 1) * d + 1 - size, 0)
        less = total // 2
        before.append(less if mode == "SAME_UPPER" else total - less)
        after.append(total - less if mode == "SAME_UPPER" else less)
    return Window(kernel, strides, dilations, tuple(before), tuple(after))


@op("Conv", 2, 3)
def _conv(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, weight, bias = inputs[0], inputs[1], optional(inputs, 2)
    win = window(node, value, tuple(weight.shape[2:]))
    padded = [s + b + a for s, b, a in zip(value.shape[2:], win.before, win.after, strict=True)]
    if any(size < extent for size, extent in zip(padded, win.extent, strict=True)):
        raise refuse(
            node, f"a window of {list(win.extent)} does not fit {list(value.shape)}; feed a longer item."
        )
    out = [(s - e) // stride + 1 for s, e, stride in zip(padded, win.extent, win.strides, strict=True)]
    fits(node, (*value.shape[:2], *padded))
    fits(node, (value.shape[0], weight.shape[0], *out))
    padding: tuple[int, ...] = win.before
    if win.before != win.after:
        value, padding = F.pad(value, win.flat), (0,) * len(win.kernel)
    groups = integer(node, "group", 1)
    return (_CONV[len(win.kernel)](value, weight, bias, win.strides, padding, win.dilations, groups),)


@op("ConvTranspose", 2, 3)
def _conv_transpose(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value, weight, bias = inputs[0], inputs[1], optional(inputs, 2)
    axes = value.dim() - 2
    if not 1 <= axes <= 3 or weight.dim() != value.dim():
        raise refuse(
            node, f"a kernel of {list(weight.shape)} does not fit a value of shape {list(value.shape)}."
        )
    strides, dilations = _per_axis(node, "strides", axes), _per_axis(node, "dilations", axes)
    extra = ints(node, "output_padding") or (0,) * axes
    extent = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    full = [(s - 1) * st + e for s, st, e in zip(value.shape[2:], strides, extent, strict=True)]
    groups = integer(node, "group", 1)
    target, pads = ints(node, "output_shape"), ints(node, "pads") or (0,) * (2 * axes)
    mode = text(node, "auto_pad", "NOTSET")
    if target is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        target = tuple(s * st for s, st in zip(value.shape[2:], strides, strict=True))
    if target is not None:
        total = [f + x - t for f, x, t in zip(full, extra, target[-axes:], strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if mode == "SAME_UPPER" else (*more, *less)
    if len(pads) != 2 * axes or len(extra) != axes or min(extra) < 0:
        raise refuse(node, f"pads {list(pads)} and output_padding {list(extra)} do not fit {axes} axes.")
    fits(node, (value.shape[0], weight.shape[1] * groups, *(f + x for f, x in zip(full, extra, strict=True))))
    out = _TRANSPOSED[axes](value, weight, None, strides, 0, 0, groups, dilations)
    # Negative pads crop; what output_padding adds lies at the end.
    crop = [(-pads[i], extra[i] - pads[axes + i]) for i in reversed(range(axes))]
    out = F.pad(out, [pad for pair in crop for pad in pair])
    return (out if bias is None else out + bias.reshape(1, -1, *[1] * axes),)


def _whole_windows(node: Node, value: Tensor, win: Window) -> tuple[int, ...]:
    """The pads after the value with which every window of the result is whole, ceil_mode heeded."""
    if not integer(node, "ceil_mode", 0):
        return win.after
    after = []
    for size, b, a, e, stride in zip(
        value.shape[2:], win.before, win.after, win.extent, win.strides, strict=True
    ):
        out = math.ceil((size + b + a - e) / stride) + 1
        # A window that would begin in the pad after the value is left out.
        out -= (out - 1) * stride >= size + b
        after.append(max((out - 1) * stride + e - size - b, 0))
    return tuple(after)


def _pool_window(node: Node, value: Tensor) -> Window:
    win = window(node, value, ints(node, "kernel_shape") or ())
    grown = [
        s + b + a + e for s, b, a, e in zip(value.shape[2:], win.before, win.after, win.extent, strict=True)
    ]
    fits(node, (*value.shape[:2], *grown))
    return win


@op("MaxPool", 1)
def _max_pool(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value = inputs[0]
    win = _pool_window(node, value)
    pool, after = _MAX[len(win.kernel)], _whole_windows(node, value, win)
    if len(node.outputs) == 1:
        if any(win.before) or any(after):
            value = F.pad(value, Window(win.kernel, (), (), win.before, after).flat, value=float("-inf"))
        return (pool(value, win.kernel, win.strides, 0, win.dilations),)
    if integer(node, "storage_order", 0) or any(
        2 * b > k for b, k in zip(win.before, win.kernel, strict=True)
    ):
        raise refuse(node, "indices are given in row-major order and for pads of at most half a window only.")
    if after != win.before:
        raise refuse(node, "indices are given for the same pads before and after only.")
    best, where = pool(value, win.kernel, win.strides, win.before, win.dilations, False, True)
    planes = torch.arange(value.shape[0] * value.shape[1], device=value.device) * math.prod(value.shape[2:])
    return best, where + planes.reshape(*value.shape[:2], *[1] * len(win.kernel))


@op("AveragePool", 1)
def _average_pool(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    value = inputs[0]
    win = _pool_window(node, value)
    if any(step != 1 for step in win.dilations):
        raise refuse(node, "dilations other than 1 are not supported.")
    pool, after = _AVERAGE[len(win.kernel)], _whole_windows(node, value, win)
    if not any(win.before) and not any(after):
        return (pool(value, win.kernel, win.strides),)
    ones = torch.ones((1, 1, *value.shape[2:]), dtype=value.dtype, device=value.device)
    if integer(node, "count_include_pad", 0):
        ones = F.pad(ones, win.flat, value=1.0)
        over = Window(win.kernel, (), (), (0,) * len(after), tuple(map(int.__sub__, after, win.after)))
        ones = F.pad(ones, over.flat)
    else:
        ones = F.pad(ones, Window(win.kernel, (), (), win.before, after).flat)
    value = F.pad(value, Window(win.kernel, (), (), win.before, after).flat)
    return (pool(value, win.kernel, win.strides) / pool(ones, win.kernel, win.strides),)


@op("GlobalAveragePool", 1)
def _global_average(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs[0].mean(list(range(2, inputs[0].dim())), keepdim=True),)


@op("GlobalMaxPool", 1)
def _global_max(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs[0].amax(list(range(2, inputs[0].dim())), keepdim=True),)
