"""Conversion without training: weights to int8 per output channel, thresholds from calibration, one tensor at a time.

Every number of a shard is elementwise arithmetic on the source, or comes from the calibration run; so a group of
layers can be made again alone, and gives the same bytes in one fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spore_borg.learn import shard as shards
from spore_borg.learn.errors import ShardError
from spore_borg.learn.graph import Graph, Model, Node
from spore_borg.learn.shard import Shard, Spec
from spore_borg.learn.spike.calibrate import Feeds, Threshold, calibrate
from spore_borg.learn.spike.codes import FEW_SPIKE, Code
from spore_borg.learn.spike.plan import LAYOUT, Place, layer_names, owners, plan
from spore_borg.records.merkle import state_digest

SEGMENTS = 8
INT8_LEVELS = 127
SCALE_MIN = 1e-30  # of a channel without weights; keeps scales above 0
BLOCK_VALUES = 1 << 22  # numbers of a weight that are quantised at once

Each = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Weight:
    """How one weight is kept: the axes over which its scale is shared; None: as it is."""

    shared: tuple[int, ...] | None


def float_weight(model: Model, name: str) -> Tensor:
    """A weight of the source as float32."""
    return model.weights.load(name).to(torch.float32)


def kept(tensor: Tensor) -> Tensor:
    """A tensor that stays dense, in a dtype that shards hold."""
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    if tensor.dtype in (torch.bool, torch.int8, torch.uint8):
        return tensor
    return tensor.to(torch.int64)


def weights_of(model: Model, places: Mapping[str, Place]) -> dict[str, Weight]:
    """What becomes of every weight of the graph; where several operators use one, the first decides."""
    made_by = {name: node for node in model.graph.nodes for name in node.outputs}
    found: dict[str, Weight] = {}
    for place in places.values():
        for number, name in place.weights:
            rank = len(model.weights.shape(name))
            if name not in found and rank >= 2 and place.family != "dense":
                shared = _shared_axes(
                    place.node, number, rank, _turned(place.node.inputs[number], name, made_by)
                )
                found[name] = Weight(shared)
    for name in model.graph.weight_names():
        found.setdefault(name, Weight(None))
        if found[name].shared is not None and not model.weights.load(name).is_floating_point():
            found[name] = Weight(None)
    return found


def _turned(name: str, root: str, made_by: Mapping[str, Node]) -> bool:
    """Whether an odd number of transpositions lies between a weight and its use."""
    turns = 0
    while name != root and name in made_by and made_by[name].op in LAYOUT:
        turns += made_by[name].op == "Transpose"
        name = made_by[name].inputs[0]
    return turns % 2 == 1


def _shared_axes(node: Node, number: int, rank: int, turned: bool) -> tuple[int, ...]:
    """Axes over which one scale is shared, so that every output channel has its own."""
    everything = range(rank)
    if node.op == "Conv":
        return tuple(axis for axis in everything if axis != 0)
    if node.op == "ConvTranspose":
        return tuple(axis for axis in everything if axis != 1)
    if node.op == "Gather":
        axis = node.attrs.get("axis", 0)
        assert isinstance(axis, int)
        return tuple(one for one in everything if one != axis % rank)
    if node.op in ("LSTM", "GRU"):
        return (rank - 1,)
    if node.op == "Gemm":
        across = bool(node.attrs.get("transB", 0)) != turned
        return (1,) if across else (0,)
    if node.op == "MatMul":
        contraction = rank - 2 if number == 1 else rank - 1
        other = rank - 1 if number == 1 else rank - 2
        return (other,) if turned else (contraction,)
    return (rank - 1,)


def scale_of(weight: Tensor, shared: Sequence[int]) -> Tensor:
    """max|w| / 127 over the shared axes, which stay with size 1."""
    if not weight.numel():
        return torch.ones([1 if axis in shared else size for axis, size in enumerate(weight.shape)])
    largest = torch.maximum(
        weight.amax(tuple(shared), keepdim=True), -weight.amin(tuple(shared), keepdim=True)
    )
    if not bool(torch.isfinite(largest).all()):
        raise ShardError("A weight holds numbers that are not finite; this model cannot be converted.")
    return torch.clamp(largest / INT8_LEVELS, min=SCALE_MIN)


def quantised(weight: Tensor, scale: Tensor) -> Tensor:
    """round(w / scale) as int8; elementwise, so the same on every machine."""
    result = torch.empty(weight.shape, dtype=torch.int8)
    rows = max(1, BLOCK_VALUES // max(1, weight[:1].numel()))
    for start in range(0, weight.shape[0], rows):
        part = scale if scale.shape[0] == 1 else scale[start : start + rows]
        held = torch.round(weight[start : start + rows] / part)
        result[start : start + rows] = held.clamp_(-INT8_LEVELS, INT8_LEVELS).to(torch.int8)
    return result


class Maker:
    """Makes any tensor of a shard from the source and the thresholds.

    Attributes:
        specs: what the shard will hold. metadata: of its file. layers: its groups.
    """

    def __init__(self, model: Model, code: Code, segments: int, thresholds: Mapping[str, Threshold]) -> None:
        self.model, self.code, self._thresholds = model, code, thresholds
        self.places = plan(model.graph)
        self._weights = weights_of(model, self.places)
        self.layers = groups(model, self.places, segments)
        self.metadata = shards.metadata_of(model.graph, model.adapter, model.info, code, self.layers)
        self.specs = self._all_specs()

    def _all_specs(self) -> dict[str, Spec]:
        specs: dict[str, Spec] = {}
        for name, weight in self._weights.items():
            shape = self.model.weights.shape(name)
            if weight.shared is None:
                specs["d:" + name] = shards.spec_of(kept(self.model.weights.load(name)))
            else:
                specs["q:" + name] = Spec("I8", shape)
                scale = tuple(1 if axis in weight.shared else size for axis, size in enumerate(shape))
                specs["s:" + name] = Spec("F32", scale)
        for key, one in self._thresholds.items():
            specs[("f:" if one.fine else "t:") + key] = Spec("F32", tuple(one.s.shape))
            if one.z is not None:
                specs["z:" + key] = Spec("F32", tuple(one.z.shape))
        for name, data in self.model.assets.items():
            specs["a:" + name] = Spec("U8", (len(data),))
        return specs

    def scale(self, name: str) -> Tensor:
        """The scale of a converted weight."""
        shared = self._weights[name].shared
        assert shared is not None
        return scale_of(float_weight(self.model, name), shared)

    def make(self, name: str) -> Tensor:
        """One tensor of the shard."""
        kind, _, rest = name.partition(":")
        if kind == "q":
            return quantised(float_weight(self.model, rest), self.scale(rest))
        if kind == "s":
            return self.scale(rest)
        if kind == "d":
            return kept(self.model.weights.load(rest))
        if kind == "a":
            return (
                torch.frombuffer(bytearray(self.model.assets[rest]), dtype=torch.uint8)
                if self.model.assets[rest]
                else torch.zeros(0, dtype=torch.uint8)
            )
        found = self._thresholds[rest].z if kind == "z" else self._thresholds[rest].s
        assert found is not None
        return found.to(torch.float32)

    def group_tensors(self, group: int) -> list[str]:
        """Names of the tensors of one group, sorted."""
        numbers = shards.group_of(self.model.graph, self.layers, self.specs)
        return sorted(name for name, number in numbers.items() if number == group)

    def group_digest(self, group: int) -> bytes:
        """Digest of one group, made from the source."""
        total = shards.Digester()
        for name in self.group_tensors(group):
            tensor = self.make(name)
            total.add(name, self.specs[name], iter((shards.raw(tensor),)))
        return total.finish()

    def residuals(self, group: int, inner_step: int) -> bytes:
        """H over source - dequantised of the rows that an inner step draws, of every converted weight of a group."""
        total = hashlib.sha256(b"residual")
        for name in self.group_tensors(group):
            if name.startswith("q:"):
                source = float_weight(self.model, name[2:])
                scale = self.scale(name[2:])
                rows = slice((inner_step - 1) % shards.INNER_STEPS, None, shards.INNER_STEPS)
                part = scale if scale.shape[0] == 1 else scale[rows]
                held = quantised(source[rows].contiguous(), part).to(torch.float32) * part
                total.update(name.encode() + b"\0")
                total.update(shards.raw(source[rows] - held))
        return total.digest()


def groups(model: Model, places: Mapping[str, Place], segments: int) -> list[list[str]]:
    """K lists of layer names in graph order, of about as many weights each; some may be empty."""
    names = layer_names(model.graph, places)
    sizes = dict.fromkeys(names, 1)
    for weight, owner in owners(model.graph).items():
        count = 1
        for size in model.weights.shape(weight):
            count *= size
        sizes[owner] += count
    total, before = sum(sizes.values()), 0
    found: list[list[str]] = [[] for _ in range(segments)]
    for name in names:
        found[min(segments - 1, (2 * before + sizes[name]) * segments // (2 * total))].append(name)
        before += sizes[name]
    return found


def convert(
    model: Model,
    calibration_feeds: Iterable[Feeds],
    *,
    rule: str = FEW_SPIKE,
    steps: int = 5,
    segments: int = SEGMENTS,
    out: Path,
    each: Each | None = None,
) -> Shard:
    """Convert a model into a shard.

    Args:
        calibration_feeds: batches as the adapter makes them; thresholds come from them.
        rule, steps: the code of activations. segments: groups of layers, K.
        out: the file. each: told (tensor, number, of how many) as tensors are written.
    Returns:
        The shard, opened from its file.
    Raises:
        LearnError: no feeds, or a model that cannot be run or converted.
    """
    code = Code(rule, steps)
    places = plan(model.graph)
    maker = Maker(model, code, segments, calibrate(model, places, calibration_feeds, code))
    return write(maker, out, each)


def write(maker: Maker, out: Path, each: Each | None = None) -> Shard:
    """Write what a maker makes, and open it."""
    done = 0

    def make(name: str) -> Tensor:
        nonlocal done
        if each is not None:
            each(name, done, len(maker.specs))
        done += 1
        return maker.make(name)

    shards.write(out, maker.metadata, maker.specs, make)
    return shards.open_shard(out)


def thresholds_again(
    model: Model,
    calibration_feeds: Iterable[Feeds],
    rule: str = FEW_SPIKE,
    steps: int = 5,
    base: Shard | None = None,
) -> dict[str, Threshold]:
    """The thresholds that a conversion, or with ``base`` a refinement, finds: what ``redo`` needs of all the model."""
    if base is None:
        return dict(calibrate(model, plan(model.graph), list(calibration_feeds), Code(rule, steps)))
    from spore_borg.learn.spike.refine import refined

    return dict(refined(model, list(calibration_feeds), base, Code(rule, steps)))


def redo(
    model: Model,
    calibration_feeds: Iterable[Feeds],
    shard: Shard,
    segment: int,
    inner_step: int,
    rule: str = FEW_SPIKE,
    steps: int = 5,
    base: Shard | None = None,
    thresholds: Mapping[str, Threshold] | None = None,
) -> tuple[bytes, bytes, bytes]:
    """Convert one group again, from the source.

    Args:
        shard: the published shard. segment: the group, from 0. inner_step: which residuals, from 1.
        base: of a refinement, the shard that was refined.
        thresholds: those of ``thresholds_again`` for the same arguments, where they are known: most of the work.
    Returns:
        (start, inner, end): c[k] from the source's own metadata (so that every replay shows an altered graph) and the
        published shard's earlier groups, the digest of the drawn residuals, and c[k + 1] (of the last group: the
        digest of the whole shard).
    Raises:
        ShardError: there is no such segment, or the model is not the shard's.
    """
    if not 0 <= segment < len(shard.layers) or inner_step < 1:
        raise ShardError(f"There is no segment {segment} with an inner step {inner_step} in this shard.")
    if thresholds is None:
        thresholds = thresholds_again(model, calibration_feeds, rule, steps, base)
    maker = Maker(model, Code(rule, steps), len(shard.layers), thresholds)
    start = shards.chain_start(maker.metadata)
    for group in range(segment):
        start = shards.chain_step(start, shard.group_digest(group))
    inner = maker.residuals(segment, inner_step)
    end = shards.chain_step(start, maker.group_digest(segment))
    if segment == len(shard.layers) - 1:
        end = state_digest(_params(maker, shard, segment), end)
    return start, inner, end


def _params(maker: Maker, shard: Shard, segment: int) -> bytes:
    """Digest of all tensors: those of one group made again, the others as published."""
    again = set(maker.group_tensors(segment))
    published = {name for name in shard.specs if name not in set(shard.group_tensors(segment))}
    total = shards.Digester()
    for name in sorted(again | published):
        if name in again:
            total.add(name, maker.specs[name], iter((shards.raw(maker.make(name)),)))
        else:
            total.add(name, shard.specs[name], shard.chunks(name))
    return total.finish(shards.canonical_metadata(shard.metadata))


def thresholds_of(shard: Shard) -> dict[str, Threshold]:
    """The thresholds of a shard, by ``NODE.INPUT``."""
    found = {}
    for name in shard.specs:
        if name.startswith(("t:", "f:")):
            z = shard.tensor("z:" + name[2:]) if "z:" + name[2:] in shard.specs else None
            found[name[2:]] = Threshold(shard.tensor(name), z, fine=name.startswith("f:"))
    return found


__all__ = ["Graph", "Maker", "convert", "groups", "redo", "thresholds_again", "thresholds_of", "write"]
