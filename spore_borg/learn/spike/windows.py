"""Convolutions driven by events: codes are int8, so the windows they are unfolded into are a quarter of the size.

A window of a convolution is one row of ``events.EventLayer``; the values are coded once, before they are unfolded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spore_borg.learn.errors import ShardError
from spore_borg.learn.graph import Node
from spore_borg.learn.ops.base import fits, refuse
from spore_borg.learn.ops.convolution import window
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.events import EventLayer
from spore_borg.learn.spike.quick import whole


class WindowLayer:
    """One convolution of values [b, c, *space] without groups.

    Args:
        node: for its window. q: int8 [out, c, *kernel]. scale: float32 [out] or one. s: thresholds, float32 [c] or one.
        z: offsets or None; bias: float32 [out] or None. levels: the largest code.
    Raises:
        ShardError: sizes or codes that do not fit whole numbers.
    """

    def __init__(
        self, node: Node, q: Tensor, scale: Tensor, s: Tensor, *, levels: int, z: Tensor | None, bias: Tensor | None
    ) -> None:  # fmt: skip
        self._node, self._levels, self._kernel = node, levels, tuple(q.shape[2:])
        self.channels = q.shape[1]
        per_channel = s.reshape(-1).expand(self.channels)
        offset = None if z is None else z.reshape(-1).expand(self.channels)
        taps = q[0, 0].numel()
        flat = q.movedim(1, -1).reshape(len(q), -1).contiguous()  # [out, kernel * c]
        self.layer = EventLayer(
            flat, scale, per_channel.repeat(taps), levels=levels,
            z=None if offset is None else offset.repeat(taps), bias=bias,
        )  # fmt: skip
        shape = (self.channels, *[1] * len(self._kernel))
        self._inverse = per_channel.reciprocal().reshape(shape)
        self._z = None if offset is None else offset.reshape(shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Values [b, c, *space] → [b, out, *space], float32; the channels lie together in memory.

        Raises:
            GraphError: an input that is smaller than a window, or of another number of channels.
        """
        if x.dim() != 2 + len(self._kernel) or x.shape[1] != self.channels:
            raise refuse(self._node, f"it takes {self.channels} channels, not a value of {list(x.shape)}.")
        win = window(self._node, x, self._kernel)
        if self._z is not None and any(win.flat):
            raise refuse(self._node, "a code with an offset cannot be padded with silence.")
        k = whole(x if self._z is None else x - self._z, self._inverse, self._levels).to(torch.int8)
        k = F.pad(k, win.flat).movedim(1, -1).contiguous()  # [b, *space, c]
        sizes = k.shape[1:-1]
        if any(size < extent for size, extent in zip(sizes, win.extent, strict=True)):
            raise refuse(self._node, f"a window of {list(win.extent)} does not fit {list(x.shape)}.")
        out = [(s - e) // step + 1 for s, e, step in zip(sizes, win.extent, win.strides, strict=True)]
        fits(self._node, (len(x), self.layer.out_size, *out))
        steps = k.stride()[1:-1]
        strides = [a * b for a, b in zip(steps, win.strides, strict=True)]
        strides += [a * b for a, b in zip(steps, win.dilations, strict=True)]
        values = torch.empty(len(x), *out, self.layer.out_size)
        for item, found in zip(k, values, strict=True):
            rows = item.as_strided((*out, *self._kernel, self.channels), (*strides, 1), item.storage_offset())
            # Windows that overlap can be a view of rows, which torch's int8 product reads wrongly.
            rows = rows.reshape(-1, self.layer.in_size).contiguous()
            found.copy_(self.layer.apply(rows).view(found.shape))
        return values.movedim(-1, 1)


def window_layer_of(shard: Shard, node: Node) -> WindowLayer:
    """The event-driven form of one Conv of a shard. Raises ShardError where it has none."""
    place = shard.places[node.name]
    weight = place.weights[0][1] if place.weights else ""
    if (
        node.op != "Conv"
        or place.coded != (0,)
        or "q:" + weight not in shard.specs
        or node.inputs[1] != weight
    ):
        raise ShardError(f"{node.name[:80]!r} is no convolution that can be driven by events.")
    key = f"{node.name}.0"
    z = shard.tensor("z:" + key) if "z:" + key in shard.specs else None
    # Borders are padded with zeros, which a code with an offset holds only nearly.
    padded = node.attrs.get("auto_pad", "NOTSET") != "NOTSET" or any(node.attrs.get("pads", ()))  # type: ignore[arg-type]
    q, s = shard.tensor("q:" + weight), shard.tensor("t:" + key)
    if node.attrs.get("group", 1) != 1 or (z is not None and padded) or s.numel() not in (1, q.shape[1]):
        raise ShardError(f"{node.name[:80]!r} has groups, or a code that silence does not pad.")
    bias = shard.weights().load(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    scale = shard.tensor("s:" + weight)
    return WindowLayer(node, q, scale, s, levels=shard.code.levels, z=z, bias=bias)
