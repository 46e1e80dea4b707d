"""Operators of older opsets in their newest form, so that the interpreter knows one form of each.

A rule takes an operator as the file has it and emits what replaces it. Attributes that became inputs turn into
weights; what inference does not need (Dropout) disappears.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from spore_borg.learn.errors import SourceError

Attrs = dict[str, Any]


class Site(Protocol):
    """What a rule may do where an operator stands."""

    opset: int

    def emit(self, op: str, inputs: Sequence[str], outputs: Sequence[str], attrs: Mapping[str, Any]) -> None:
        """Add an operator."""

    def constant(self, value: torch.Tensor) -> str:
        """A new weight; its name."""

    def value(self) -> str:
        """A new name for a value."""

    def alias(self, made: str, is_: str) -> None:
        """From here on ``made`` is another name of ``is_``."""

    def rank(self, name: str) -> int | None:
        """How many axes a value has, where the file says it."""


Rule = Callable[[Site, str, list[str], list[str], Attrs], None]


def _list(site: Site, attrs: Attrs, key: str) -> str:
    """An attribute that became an input; the empty name if it is absent."""
    value = attrs.pop(key, None)
    return "" if value is None else site.constant(torch.tensor(list(value), dtype=torch.int64))


def _axes_to_input(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    if "axes" in attrs:
        inputs = [inputs[0], _list(site, attrs, "axes")]
    site.emit(op, inputs, outputs, attrs)


def _split(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    if "split" in attrs:
        inputs = [inputs[0], _list(site, attrs, "split")]
    site.emit(op, inputs, outputs, attrs)


def _slice(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    if "starts" in attrs:
        inputs = [inputs[0], *(_list(site, attrs, key) for key in ("starts", "ends", "axes"))]
    site.emit(op, inputs, outputs, attrs)


def _pad(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    if "pads" in attrs:
        fill = float(attrs.pop("value", 0.0))
        inputs = [inputs[0], _list(site, attrs, "pads"), site.constant(torch.tensor(fill))]
    site.emit(op, inputs, outputs, attrs)


def _clip(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    if site.opset < 11:
        ends = [
            site.constant(torch.tensor(float(attrs.pop(key)))) if key in attrs else ""
            for key in ("min", "max")
        ]
        inputs = [inputs[0], *ends]
    site.emit(op, inputs, outputs, attrs)


def _top_k(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    if "k" in attrs:
        inputs = [inputs[0], site.constant(torch.tensor([attrs.pop("k")], dtype=torch.int64))]
    site.emit(op, inputs, outputs, attrs)


def _dropout(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    site.alias(outputs[0], inputs[0])


def _batch_norm(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    if attrs.pop("spatial", 1) != 1:
        raise SourceError(
            "BatchNormalization with spatial = 0 is not supported; export with opset 9 or newer."
        )
    attrs.pop("momentum", None)
    site.emit(op, inputs, outputs[:1], attrs)


def _softmax(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    """Before opset 13 it worked on a matrix: axes from ``axis`` on were one."""
    rank = site.rank(inputs[0])
    axis = attrs.get("axis", 1)
    if site.opset >= 13 or axis == -1 or (rank is not None and axis % rank == rank - 1):
        site.emit(op, inputs, outputs, attrs if site.opset >= 13 else {"axis": -1})
        return
    shape, flat, soft = site.value(), site.value(), site.value()
    site.emit("Shape", inputs, [shape], {})
    site.emit("Flatten", inputs, [flat], {"axis": axis})
    site.emit(op, [flat], [soft], {"axis": -1})
    site.emit("Reshape", [soft, shape], outputs, {"allowzero": 1})


def _upsample(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    mode = attrs.get("mode", "nearest")
    if "scales" in attrs:
        inputs = [inputs[0], site.constant(torch.tensor([float(item) for item in attrs["scales"]]))]
    settings = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    site.emit("Resize", [inputs[0], "", inputs[1]], outputs, settings)


def _resize(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    if site.opset < 11:
        _upsample(site, op, inputs, outputs, attrs)
        return
    if len(inputs) > 1:
        # The region of interest matters to tf_crop_and_resize only, which is refused.
        inputs = [inputs[0], "", *inputs[2:]]
    site.emit(op, inputs, outputs, attrs)


def _group_norm(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    attrs.pop("stash_type", None)
    if site.opset >= 21:
        site.emit(op, inputs, outputs, attrs)
        return
    # Before opset 21 scale and bias had one number per group: an instance norm over groups.
    shape, flat, normal = site.value(), site.value(), site.value()
    site.emit("Shape", inputs[:1], [shape], {})
    by_group = site.constant(torch.tensor([0, attrs["num_groups"], -1], dtype=torch.int64))
    site.emit("Reshape", [inputs[0], by_group], [flat], {})
    epsilon = {"epsilon": attrs.get("epsilon", 1e-5)}
    site.emit("InstanceNormalization", [flat, *inputs[1:]], [normal], epsilon)
    site.emit("Reshape", [normal, shape], outputs, {})


def _constant_of_shape(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    value = attrs.get("value", 0.0)
    if math.isfinite(value):
        site.emit(op, inputs, outputs, attrs)
    else:  # a mask of minus infinity: no attribute of a graph may be one, a weight may
        site.emit("Expand", [site.constant(torch.tensor(float(value))), inputs[0]], outputs, {})


def _without(*keys: str) -> Rule:
    """Attributes that change nothing in float32."""

    def rule(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
        for key in keys:
            attrs.pop(key, None)
        site.emit(op, inputs, outputs, attrs)

    return rule


def _renamed(new: str) -> Rule:
    def rule(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
        site.emit(new, inputs, outputs, attrs)

    return rule


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

RULES: Mapping[str, Rule] = {
    **{f"Reduce{name}": _axes_to_input for name in _REDUCTIONS},
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "ConstantOfShape": _constant_of_shape,
    "Dropout": _dropout,
    "GroupNormalization": _group_norm,
    "Hardmax": _softmax,
    "LayerNormalization": _without("stash_type"),
    "LogSoftmax": _softmax,
    "Pad": _pad,
    "RMSNormalization": _without("stash_type"),
    "Resize": _resize,
    "Scatter": _renamed("ScatterElements"),
    "SimplifiedLayerNormalization": _without("stash_type"),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _axes_to_input,
    "TopK": _top_k,
    "Unsqueeze": _axes_to_input,
    "Upsample": _upsample,
}


def _biased(site: Site, inputs: list[str]) -> str:
    """The first input, plus the second where there is one."""
    if len(inputs) < 2 or not inputs[1]:
        return inputs[0]
    total = site.value()
    site.emit("Add", inputs[:2], [total], {})
    return total


def _gelu(approximate: str) -> Rule:
    def rule(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
        site.emit("Gelu", [_biased(site, inputs)], outputs, {"approximate": approximate})

    return rule


def _quick_gelu(site: Site, op: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
    site.emit("Swish", inputs, outputs, {"alpha": attrs.get("alpha", 1.702)})


def _skip_norm(op: str, gains: int) -> Rule:
    """value + skip (+ bias), normalised; the sum is the fourth output."""

    def rule(site: Site, name: str, inputs: list[str], outputs: list[str], attrs: Attrs) -> None:
        if any(outputs[1:3]):
            raise SourceError(f"{name} gives mean and variance too, which is not supported.")
        bias = inputs[2 + gains] if len(inputs) > 2 + gains else ""
        total = outputs[3] if len(outputs) > 3 and outputs[3] else site.value()
        first = site.value() if bias else total
        site.emit("Add", inputs[:2], [first], {})
        if bias:
            site.emit("Add", [first, bias], [total], {})
        weights = [item for item in inputs[2 : 2 + gains] if item]
        site.emit(op, [total, *weights], outputs[:1], {"epsilon": attrs.get("epsilon", 1e-12)})

    return rule


# Operators of ONNX Runtime (domain com.microsoft) that exporters of language models write.
CONTRIBUTED: Mapping[str, Rule] = {
    "BiasGelu": _gelu("none"),
    "FastGelu": _gelu("tanh"),
    "Gelu": _gelu("none"),
    "QuickGelu": _quick_gelu,
    "SimplifiedLayerNormalization": _without("stash_type"),
    "SkipLayerNormalization": _skip_norm("LayerNormalization", 2),
    "SkipSimplifiedLayerNormalization": _skip_norm("RMSNormalization", 1),
}
