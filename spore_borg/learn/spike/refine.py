"""Refinement: a variational free-energy step on the thresholds and bases of a shard, in closed form over a grid.

For a coded input with samples x the free energy of a threshold s is

    F(s) = E[(x - x̂_s)²] / Var[x] + beta * E[spikes_s]

(the error in units of the noise that the layer tolerates, and what the spikes cost). Per channel the s of least F among
a grid around the base's is chosen. Then an input may get a second base, a fine population beside the coarse one, as
those that calibration found too coarse have: it takes an input's error away, and costs up to twice its spikes; less
where it stands in for an offset, under which zeros spike.

A group of inputs keeps its change only if on calibration items that were held out the error of the shard's answers
falls, and the free energy of the whole shard too: ln(error) + ln(spikes). So the error must fall by a larger factor
than the spikes rise. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from spore_borg.learn.errors import ShardError
from spore_borg.learn.graph import Model
from spore_borg.learn.run import run
from spore_borg.learn.shard import TWO_BASES, Shard
from spore_borg.learn.spike.calibrate import Feeds, Sample, Threshold, collect, expected, wide
from spore_borg.learn.spike.codes import FEW_SPIKE, Code
from spore_borg.learn.spike.convert import Maker, thresholds_of, write
from spore_borg.learn.spike.counts import Count
from spore_borg.learn.spike.ops import Spiking
from spore_borg.learn.spike.plan import Place

BETA = 1e-5  # of the variance, for one spike
GRID = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.35, 1.5)
HELD_OUT = 2  # every second batch judges, the others are fitted to
GROUPS = 16  # groups of inputs that are judged together, in either step
ERROR_LEAST = 1e-9  # of the answers: what is less is float's noise, for which no spike is paid

Each = Callable[[str, int, int], None]


def refined(
    model: Model, calibration_feeds: Sequence[Feeds], base: Shard, code: Code
) -> dict[str, Threshold]:
    """The thresholds of a refined shard, by ``NODE.INPUT``.

    Args:
        calibration_feeds: at least two batches: the even ones are fitted to, the odd ones judge.
        base: the shard that is refined. code: that of the base.
    Raises:
        ShardError: another code than the base's. LearnError: as ``collect``.
    """
    if code != base.code:
        raise ShardError(
            f"The base has {base.code.steps} steps of {base.code.rule}; refine it with the same."
        )
    feeds = split(calibration_feeds)
    fitted, judged = feeds[::HELD_OUT], feeds[1::HELD_OUT]
    samples = collect(model, base.places, fitted)
    wanted = [run(model.graph, model.weights, one) for one in judged]
    best = thresholds_of(base)
    error, spikes = _judged(base, best, judged, wanted)
    steps: list[Callable[[str, Threshold], Threshold]] = [lambda key, one: least(samples[key], one, code)]
    if code.rule == FEW_SPIKE:  # the bases of the rate code are no powers of two
        steps.append(lambda key, _: two_bases(samples[key], code))
    for step in steps:
        for keys in _groups(key for key in samples if key in best and _tunable(base.places, key, best[key])):
            trial = {**best, **{key: step(key, best[key]) for key in keys}}
            found, cost = _judged(base, trial, judged, wanted)
            if found < error and found * cost < error * spikes:  # the logarithms say the same
                best, error, spikes = trial, found, cost
    return best


def _groups(keys: Iterable[str]) -> list[list[str]]:
    """At most ``GROUPS`` lists of neighbours in the graph."""
    found = list(keys)
    size = max(1, -(-len(found) // GROUPS))
    return [found[start : start + size] for start in range(0, len(found), size)]


def split(feeds: Sequence[Feeds]) -> list[Feeds]:
    """At least two batches; a single one is halved along its first axis, where all feeds have the same size."""
    if len(feeds) != 1:
        return list(feeds)
    sizes = {value.shape[0] for value in feeds[0].values() if value.dim()}
    if len(sizes) != 1 or (half := sizes.pop() // 2) < 1:
        raise ShardError("A refinement needs two batches of calibration items; give more items.")
    return [
        {name: value[:half] for name, value in feeds[0].items()},
        {name: value[half:] for name, value in feeds[0].items()},
    ]


def _tunable(places: Mapping[str, Place], key: str, one: Threshold) -> bool:
    """Whether an input has one base and a threshold from calibration; two bases leave next to nothing to gain."""
    name, _, number = key.rpartition(".")
    place = places[name]
    return place.family in TWO_BASES and int(number) not in place.fine and not one.fine


def two_bases(sample: Sample, code: Code) -> Threshold:
    """A second base for an input: both reach beyond the largest value that is expected."""
    low, high = expected(sample)
    return Threshold(wide(torch.maximum(low.abs(), high.abs()), code).reshape(sample.shape), fine=True)


def least(sample: Sample, before: Threshold, code: Code, beta: float = BETA) -> Threshold:
    """The threshold of least free energy on the grid around the one before, per channel."""
    low, high = expected(sample)
    rows = torch.cat([*sample.rows, low[None], high[None]])
    z = before.z.reshape(-1) if before.z is not None else torch.zeros(rows.shape[1])
    s = before.s.reshape(-1)
    median = rows.median(0).values
    variance = torch.clamp(rows.var(0, unbiased=False), min=1e-12)
    best, offset, lowest = s, z, torch.full_like(s, float("inf"))
    for factor in GRID:
        trial = s * factor
        # An offset stays where the median of the channel lies on the grid, as calibration put it.
        shift = torch.where(z == 0, z, median - trial * torch.round((median - z) / trial))
        k = code.quantise(rows - shift, trial)
        energy = (k * trial + shift - rows).square().mean(0) / variance + beta * code.spikes(k).mean(0)
        better = energy < lowest
        best, lowest = torch.where(better, trial, best), torch.where(better, energy, lowest)
        offset = torch.where(better, shift, offset)
    found = None if before.z is None else offset.reshape(before.z.shape)
    return Threshold(best.reshape(before.s.shape), found)


def _judged(
    base: Shard,
    thresholds: Mapping[str, Threshold],
    feeds: Sequence[Feeds],
    wanted: Sequence[Mapping[str, Tensor]],
) -> tuple[float, float]:
    """(mean of 1 - cosine between the source's and the shard's outputs, spikes they cost) on items held out."""
    total, items, count = 0.0, 0, Count()
    for one, dense in zip(feeds, wanted, strict=True):
        spiking = Spiking(base, count, thresholds=thresholds)
        outputs = run(base.graph, base.weights(), one, ops=spiking.table())
        for name, wanted_output in dense.items():
            if wanted_output.is_floating_point() and wanted_output.dim():
                width = wanted_output.shape[-1]
                a, b = wanted_output.reshape(-1, width), outputs[name].reshape(-1, width)
                similar = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)
                if a.shape[-1] == 1:  # the cosine of single numbers says nothing of their size
                    similar = 1 - (a - b).abs().double().reshape(-1)
                total += float((1 - similar).sum())
                items += similar.numel()
    return max(total / max(items, 1), ERROR_LEAST), max(count.total().spikes, 1.0)


def refine(
    model: Model, calibration_feeds: Sequence[Feeds], base: Shard, out: Path, *, each: Each | None = None
) -> Shard:
    """Refine a shard's thresholds and bases against its source.

    Args:
        model: the source. calibration_feeds: as for ``convert``, at least two batches or one that can be halved.
        base: the shard. out: the file of the refined one; rule, steps, groups and weights are the base's.
    Raises:
        ShardError: too few items. LearnError: as ``convert``.
    """
    thresholds = refined(model, list(calibration_feeds), base, base.code)
    return write(Maker(model, base.code, len(base.layers), thresholds), out, each)
