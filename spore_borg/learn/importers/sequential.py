"""Convolutional and fully connected classifiers in torch whose order can be told from the names of their tensors.

``torch.nn.Sequential`` numbers its parts, and parts without weights leave gaps: after a convolution a gap of one is an
activation, a gap of two an activation and a pooling by two; before a normalisation there is none. What the names do not
say is settled by convention (ReLU, "same" padding, MaxPool 2) and checked: the convolutions must give exactly as many
numbers as the first linear layer takes, else the model is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from spore_borg.learn.graph import Model, Weights
from spore_borg.learn.importers.building import Builder
from spore_borg.learn.importers.bundle import Bundle

SIDES = (28, 32, 48, 64, 96, 128, 224)  # image sizes that are tried, the commonest first
MNIST = (0.1307, 0.3081)  # mean and deviation with which 28 × 28 grey images are customarily fed
_PART = re.compile(r"^(?:(.*)\.)?(\d+)\.(weight|running_mean)$")
LAYERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Part:
    """A part with weights: its prefix, its place, what it is, how many places to the next one follow."""

    prefix: str
    kind: str
    shape: tuple[int, ...]
    gap: int | None


def recognise(bundle: Bundle) -> Model | None:
    """The first file whose tensors are one chain of convolutions and linear layers; None if there is none."""
    for _, weights in bundle.opened():
        parts = chain(weights)
        plan = _plan(parts) if parts else None
        if plan is not None:
            return _model(bundle, weights, parts, *plan)
    return None


def chain(weights: Weights) -> list[Part]:
    """The parts in order, groups with convolutions first; empty if the names are not those of sequences."""
    names = [name for name in weights.names() if not name.endswith("num_batches_tracked")]
    groups: dict[str, dict[int, str]] = {}
    for name in names:
        found = _PART.match(name)
        if found is None:
            if not name.endswith((".bias", ".running_var")):
                return []
            continue
        if found.group(3) == "weight":
            groups.setdefault(found.group(1) or "", {})[int(found.group(2))] = name.removesuffix(".weight")
    known, parts = set(names), []
    if sum(len(group) for group in groups.values()) > LAYERS_MAX:
        return []

    def rank(group: str) -> tuple[int, str]:
        first = groups[group][min(groups[group])]
        return (-len(weights.shape(f"{first}.weight")), group)

    for group in sorted(groups, key=rank):
        places = sorted(groups[group])
        gaps = [later - earlier - 1 for earlier, later in pairwise(places)]
        for place, gap in zip(places, [*gaps, None], strict=True):
            prefix = groups[group][place]
            shape = weights.shape(f"{prefix}.weight")
            kind = {4: "conv", 2: "linear"}.get(len(shape), "")
            if len(shape) == 1 and f"{prefix}.running_mean" in known:
                kind = "norm"
            if not kind:
                return []
            parts.append(Part(prefix, kind, shape, gap))
    return parts


def _plan(parts: list[Part]) -> tuple[int, int, bool, list[bool]] | None:
    """Channels, side, "same" padding, and behind which convolution there is a pooling; None if nothing fits."""
    kinds = [part.kind for part in parts]
    if "linear" not in kinds or kinds[-1] != "linear" or "conv" in kinds[kinds.index("linear") :]:
        return None
    linear = parts[kinds.index("linear")]
    sizes = [part.shape for part in parts if part.kind == "linear"]
    if any(later[1] != earlier[0] for earlier, later in pairwise(sizes)):
        return None
    convs = [part for part in parts if part.kind == "conv"]
    if not convs:
        side = math.isqrt(linear.shape[1])
        return (1, side, True, []) if side * side == linear.shape[1] else None
    if any(later.shape[1] != earlier.shape[0] for earlier, later in pairwise(convs)):
        return None
    pools = _pools(parts)
    for same in (True, False):
        for side in SIDES:
            left = side
            for conv, pool in zip(convs, pools, strict=True):
                left = left if same else left - conv.shape[2] + 1
                left = left // 2 if pool else left
            if left > 0 and left * left * convs[-1].shape[0] == linear.shape[1]:
                return convs[0].shape[1], side, same, pools
    return None


def _pools(parts: list[Part]) -> list[bool]:
    """Behind which convolutions a pooling stands; the last of a group does what the others do."""
    pools: list[bool | None] = []
    for number, part in enumerate(parts):
        if part.kind != "conv":
            continue
        behind = parts[number + 1] if number + 1 < len(parts) else None
        gap = behind.gap if part.gap == 0 and behind is not None and behind.kind == "norm" else part.gap
        pools.append(None if gap is None else gap >= 2)
    told = [pool for pool in pools if pool is not None]
    usual = told[-1] if told else True
    return [usual if pool is None else pool for pool in pools]


def _model(
    bundle: Bundle,
    weights: Weights,
    parts: list[Part],
    channels: int,
    side: int,
    same: bool,
    pools: list[bool],
) -> Model:
    b = Builder(weights)
    value = b.port("image", "float32", None, channels, side, side)
    pooled, flat, last = iter(pools), False, parts[-1]
    waiting = ""  # a convolution whose activation comes after its normalisation
    for number, part in enumerate(parts):
        name = part.prefix
        inputs = [b.weight(f"{name}.weight")] + ([b.weight(f"{name}.bias")] if b.has(f"{name}.bias") else [])
        if part.kind == "conv":
            pads = tuple(size // 2 for size in part.shape[2:]) * 2 if same else (0, 0, 0, 0)
            value = b.op(
                "Conv", name, [value, *inputs], kernel_shape=part.shape[2:], strides=(1, 1), pads=pads
            )
            if number + 1 < len(parts) and parts[number + 1].kind == "norm":
                waiting = name
                continue
            value = _finish(b, name, value, next(pooled))
        elif part.kind == "norm":
            moments = [b.weight(f"{name}.running_mean"), b.weight(f"{name}.running_var")]
            value = b.op("BatchNormalization", name, [value, *inputs, *moments], epsilon=1e-5)
            if waiting:
                value, waiting = _finish(b, waiting, value, next(pooled)), ""
        else:
            if not flat:
                value, flat = b.op("Flatten", "flat", [value], axis=1), True
            value = b.op("Gemm", "logits" if part is last else name, [value, *inputs], transB=1)
            if part is not last:
                value = b.op("Relu", f"{name}.relu", [value])
    graph, views = b.build("logits")
    mean, deviation = MNIST if (channels, side) == (1, 28) else (0.0, 1.0)
    adapter = {
        "kind": "image-classifier", "side": [side, side], "channels": channels, "mean": [mean] * channels,
        "deviation": [deviation] * channels, "labels": [],
    }  # fmt: skip
    architecture = "cnn" if pools else "mlp"
    return bundle.model(
        graph, views, adapter, {}, head="classifier", modality="image", architecture=architecture
    )


def _finish(b: Builder, name: str, value: str, pool: bool) -> str:
    value = b.op("Relu", f"{name}.relu", [value])
    return b.op("MaxPool", f"{name}.pool", [value], kernel_shape=(2, 2), strides=(2, 2)) if pool else value
