"""Thresholds from examples: what arrives at every coded input is watched, the threshold with the least error chosen.

Memory is bounded: of each input at most ``VALUES_MAX`` numbers are kept, rows at a fixed stride that doubles when they
are full, so that the same feeds keep the same rows. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spore_borg.learn.errors import GraphError, LearnError
from spore_borg.learn.graph import Graph, Model, Node, Port
from spore_borg.learn.run import run
from spore_borg.learn.spike.codes import FEW_SPIKE, Code
from spore_borg.learn.spike.plan import STATE_INPUT, Place

VALUES_MAX = 1 << 18  # numbers kept of one coded input: 1 MiB
CLIPS = 16  # clipping points that are tried per channel
MARGIN = 1.25  # function neurons are fine enough to reach beyond what calibration saw
OFFSET_GAIN = (
    0.8  # an offset must bring the squared error of a channel below this share to be worth its spikes
)
GROWTH = 4.0  # 64 rows: half as wide again; 10,000 rows: 4 %
QUIET = 0.25
# Beyond these inputs a function hardly changes (1 - sigmoid(12), 1 - tanh(6), 1 - erf(3.5) < 2e-5): no level is spent
# there, since a cubic inside a GELU may reach 10^5 where only what is near 0 matters.
FLAT = {"Sigmoid": 12.0, "Tanh": 6.0, "Erf": 3.5}
EXP_LEAST = 16.0  # exp(-16) < 2e-7: what lies below is silent
SMALL = 1e-8
ERROR_MAX = 0.01  # of an input's variance: where a few-spike code leaves more, the input gets a second base
FEEDS_MAX = 4_096

Feeds = Mapping[str, Tensor]


@dataclass
class Sample:
    """What was seen at one coded input.

    Attributes:
        axes: axes that keep a threshold of their own, counted from the end (negative), ascending.
        shape: the threshold's shape, which broadcasts to the input.
        low, high: extremes per channel, of everything seen. rows: [n, channels].
    """

    axes: tuple[int, ...]
    shape: tuple[int, ...]
    low: Tensor
    high: Tensor
    rows: list[Tensor] = field(default_factory=list)
    stride: int = 1
    seen: int = 0
    kept: int = 0

    def add(self, x: Tensor) -> None:
        """Take in one value."""
        flat = _rows(x, self.axes)
        if not flat.numel():
            return
        self.low = torch.minimum(self.low, flat.amin(0))
        self.high = torch.maximum(self.high, flat.amax(0))
        limit = max(64, VALUES_MAX // flat.shape[1])
        while self.kept + flat.shape[0] // self.stride + 1 > limit and self.stride < 1 << 40:
            self.stride *= 2
            rows = torch.cat(self.rows)[::2] if self.rows else flat[:0]
            self.rows, self.kept = [rows.clone()], rows.shape[0]
        chosen = flat[-self.seen % self.stride :: self.stride]
        self.rows.append(chosen.clone())
        self.kept += chosen.shape[0]
        self.seen += flat.shape[0]


def _rows(x: Tensor, axes: Sequence[int]) -> Tensor:
    """[n, channels]: the axes that keep a threshold go last."""
    kept = [axis + x.dim() for axis in axes]
    rest = [axis for axis in range(x.dim()) if axis not in kept]
    channels = 1
    for axis in kept:
        channels *= x.shape[axis]
    return x.detach().permute(*rest, *kept).reshape(-1, channels).to(torch.float32)


@dataclass(frozen=True, slots=True)
class Threshold:
    """s and the offset z (None: 0) of one coded input, in the shape in which they broadcast to it.

    ``fine``: the input has two bases though its operator does not ask for them: one was too coarse.
    """

    s: Tensor
    z: Tensor | None = None
    fine: bool = False


class Watcher:
    """Sees every operator of a dense run and keeps samples of what must be coded."""

    def __init__(self, places: Mapping[str, Place], fixed: Mapping[str, tuple[bool, ...]]) -> None:
        self._places, self._fixed = places, fixed
        self.samples: dict[str, Sample] = {}

    def __call__(self, node: Node, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> None:
        """For ``run.run``'s ``watch``."""
        place = self._places[node.name]
        for number in place.coded:
            if place.family == "recurrent" and number == STATE_INPUT:
                value: Tensor | None = outputs[0] if outputs and outputs[0] is not None else outputs[1]
            else:
                value = inputs[number] if number < len(inputs) else None
            if value is None or not value.is_floating_point():
                continue
            key = f"{node.name}.{number}"
            if key not in self.samples:
                axes = kept_axes(place, number, value.dim(), self._fixed.get(key))
                shape = tuple(
                    value.shape[axis] if axis in axes else 1 for axis in range(min(axes, default=0), 0)
                )
                channels = int(torch.tensor(shape).prod()) if shape else 1
                nothing = torch.full((channels,), float("inf"))
                self.samples[key] = Sample(axes, shape, nothing, -nothing)
            sample = self.samples[key]
            if place.family != "recurrent" or number != STATE_INPUT:
                finite = torch.where(torch.isfinite(value), value, torch.zeros_like(value))
                sample.add(finite)
            else:
                sample.add(value)


def kept_axes(place: Place, number: int, rank: int, fixed: tuple[bool, ...] | None) -> tuple[int, ...]:
    """Axes of a coded input that keep thresholds of their own, counted from the end."""
    node, family = place.node, place.family
    if rank == 0 or family == "function":
        return ()
    if family == "recurrent":
        return (-1,) if number == 0 else ()
    if family == "norm":
        return (-1,)
    if family == "linear" and node.op in ("Conv", "ConvTranspose"):
        return (1 - rank,)
    if family == "linear" and node.op == "Gemm":
        return (-2,) if node.attrs.get("transA", 0) else (-1,)
    if family == "linear" and node.op == "MatMul":
        return (-1,) if number == 0 or rank == 1 else (-2,)
    if family == "attention" and node.op == "MatMul" and fixed is not None and rank >= 3:
        if number in place.fine:
            return ()
        # By channel of the contraction where its size is fixed, else by channel of the result.
        channel = next((axis for axis in ((-1,) if number == 0 else (-2, -1)) if fixed[axis]), -3)
        return tuple(axis for axis in sorted({-3, channel}) if fixed[axis] and -axis < rank)
    return ()


def fixed_axes(model: Model, places: Mapping[str, Place], feeds: Feeds) -> dict[str, tuple[bool, ...]]:
    """For the operands of attention: which axes keep their size when items are fewer and shorter.

    Found by two runs, of the feeds and of their first halves. Empty where the half cannot be run.
    """
    wanted = {name for name, place in places.items() if place.family == "attention"}
    if not wanted:
        return {}
    shapes: list[dict[str, tuple[int, ...]]] = [{}, {}]
    for index, given in enumerate((feeds, _halved(model.graph.inputs, feeds))):

        def watch(node: Node, inputs: Sequence[Tensor | None], outputs: object, at: int = index) -> None:
            if node.name in wanted:
                for number in places[node.name].coded:
                    value = inputs[number]
                    assert value is not None
                    shapes[at][f"{node.name}.{number}"] = tuple(value.shape)

        try:
            run(model.graph, model.weights, given, watch=watch)
        except (GraphError, RuntimeError):
            return {}  # a graph that takes one size only; its attention gets one threshold an operand
    return {
        key: tuple(a == b for a, b in zip(shape, shapes[1][key], strict=True))
        for key, shape in shapes[0].items()
        if len(shapes[1].get(key, ())) == len(shape)
    }


def _halved(ports: Sequence[Port], feeds: Feeds) -> dict[str, Tensor]:
    found = {}
    for port in ports:
        value = feeds[port.name]
        for axis, size in enumerate(port.shape):
            if size is None and value.shape[axis] > 1:
                value = value.narrow(axis, 0, value.shape[axis] // 2)
        found[port.name] = value
    return found


def collect(model: Model, places: Mapping[str, Place], feeds: Iterable[Feeds]) -> dict[str, Sample]:
    """Run the dense model over the calibration feeds and sample every coded input.

    Raises:
        LearnError: there are no feeds. GraphError: the model cannot be run.
    """
    watcher: Watcher | None = None
    for count, one in enumerate(feeds):
        if count >= FEEDS_MAX:
            break
        if watcher is None:
            watcher = Watcher(places, fixed_axes(model, places, one))
        run(model.graph, model.weights, one, watch=watcher)
    if watcher is None:
        raise LearnError("There is nothing to calibrate with: give at least one batch of items.")
    return watcher.samples


def threshold(place: Place, number: int, sample: Sample, code: Code) -> Threshold:
    """The threshold of one coded input: of the clipping points in ``shares`` that with the least squared error.

    Two-base inputs (norms, functions) take the largest value with a margin instead. So does an input of which one
    base of a few-spike code leaves more than ``ERROR_MAX`` of the variance: it gets a second one.
    """
    low, high = expected(sample)
    largest = torch.maximum(low.abs(), high.abs())
    if place.family == "function":
        largest = bounded_reach(place.node.op, sample.high, largest)
    if place.family in ("norm", "function"):
        return Threshold(wide(largest, code).reshape(sample.shape))
    if number in place.fine:
        return Threshold((torch.clamp(largest, min=1.0) / code.fine_levels).reshape(sample.shape))
    found = one_base(place, sample, low, high, code)
    if code.rule == FEW_SPIKE and share_lost(sample, found, code) > ERROR_MAX:
        return Threshold(wide(largest, code).reshape(sample.shape), fine=True)
    return found


def wide(largest: Tensor, code: Code) -> Tensor:
    """s of two bases that reach beyond the largest value, [c]."""
    return torch.clamp(largest * (MARGIN / code.fine_levels), min=SMALL)


def share_lost(sample: Sample, found: Threshold, code: Code) -> float:
    """The squared error that one base leaves of everything seen, as a share of the variance in all channels."""
    rows, s = torch.cat(sample.rows), found.s.reshape(-1)
    z = torch.zeros_like(s) if found.z is None else found.z.reshape(-1)
    error = (code.value(rows - z, s) + z - rows).square().sum(dtype=torch.float64)
    return float(error / (rows - rows.mean(0)).square().sum(dtype=torch.float64).clamp_min(SMALL))


def one_base(place: Place, sample: Sample, low: Tensor, high: Tensor, code: Code) -> Threshold:
    """The threshold and offset of least squared error; low and high [c] as ``expected`` gives them."""
    largest = torch.maximum(low.abs(), high.abs())
    # The extremes stand among the rows: what is rare and large moves a model's output most.
    rows = torch.cat([*sample.rows, low[None], high[None]])
    s, error, _ = best_scale(rows, torch.clamp(largest, min=SMALL * code.levels), code)
    if place.family != "linear":
        return Threshold(s.reshape(sample.shape))
    middle, half = (high + low) / 2, torch.clamp((high - low) / 2, min=SMALL * code.levels)
    s_off, error_off, z = best_scale(rows, half, code, middle)
    chosen = error_off < OFFSET_GAIN * error
    if not bool(chosen.any()):
        return Threshold(s.reshape(sample.shape))
    z = torch.where(chosen, z, torch.zeros_like(z))
    return Threshold(torch.where(chosen, s_off, s).reshape(sample.shape), z.reshape(sample.shape))


def bounded_reach(op: str, high: Tensor, largest: Tensor) -> Tensor:
    """How far the code of a function's input must reach: no further than the function still changes."""
    if op in FLAT:
        return largest.clamp(max=FLAT[op] / MARGIN)
    if op == "Exp":
        return torch.minimum(largest, torch.clamp(high, min=EXP_LEAST / MARGIN))
    return largest


def expected(sample: Sample) -> tuple[Tensor, Tensor]:
    """(low, high) per channel that other items may reach: what was seen, wider the fewer rows were seen.

    A channel that was quiet in calibration is not taken to stay so: it gets a quarter of the middle channel's reach.
    """
    middle = (sample.high + sample.low) / 2
    half = (sample.high - sample.low) / 2 * (1 + GROWTH / max(sample.seen, 1) ** 0.5)
    half = torch.maximum(half, QUIET * half.median())
    return middle - half, middle + half


def shares(code: Code) -> list[float]:
    """Clipping points to try, as shares of the largest value that calibration saw, from the widest down.

    Other items go further than those of calibration, and a fine code can afford to be ready for that: at 31 levels
    1.12 to 0.44, at 255 levels 2 to 1.84.
    """
    widest, narrowest = 1 + min(1.0, code.levels / 255), 0.25 + min(1.59, code.levels / 160)
    return [widest + (narrowest - widest) * step / (CLIPS - 1) for step in range(CLIPS)]


def best_scale(
    rows: Tensor, reach: Tensor, code: Code, middle: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(s, squared error, offset) per channel: the clipping point with the least error; rows [n, c], reach [c].

    With a middle, the offset is as near to it as leaves the median of the rows exactly on the code's grid: where most
    values of a channel are alike and a few are huge, those that are alike must come through unchanged.
    """
    best, offset = reach / code.levels, torch.zeros_like(reach)
    least = torch.full_like(reach, float("inf"))
    median = None if middle is None else rows.median(0).values
    for share in shares(code):
        s = reach * (share / code.levels)
        z = offset
        if middle is not None and median is not None:
            z = median - s * torch.round((median - middle) / s)
        error = (code.value(rows - z, s) + z - rows).square().sum(0)
        better = error < least
        best, least = torch.where(better, s, best), torch.where(better, error, least)
        offset = offset if middle is None else torch.where(better, z, offset)
    return best, least, offset


def calibrate(
    model: Model, places: Mapping[str, Place], feeds: Iterable[Feeds], code: Code
) -> dict[str, Threshold]:
    """Thresholds of every coded input, by ``NODE.INPUT``. Raises LearnError and GraphError as ``collect``."""
    found = {}
    for key, sample in collect(model, places, feeds).items():
        node, _, number = key.rpartition(".")
        found[key] = threshold(places[node], int(number), sample, code)
    return found


def coded_inputs(graph: Graph, places: Mapping[str, Place]) -> list[str]:
    """``NODE.INPUT`` of every coded input, in graph order."""
    return [f"{node.name}.{number}" for node in graph.nodes for number in places[node.name].coded]
