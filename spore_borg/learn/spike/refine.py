"""Refinement: a variational free-energy step on the thresholds of a shard, layer by layer, in closed form over a grid.

For a coded input with samples x the free energy of a threshold s is

    F(s) = E[(x - x̂_s)²] / Var[x] + beta * E[spikes_s]

(the error in units of the noise that the layer tolerates, and what the spikes cost). Per channel the s of least F among
a grid around the base's is chosen. A layer keeps its new thresholds only if the answers of the whole shard to the
calibration items that were held out get no worse; else it keeps the old ones. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from spore_borg.learn.errors import ShardError
from spore_borg.learn.graph import Model
from spore_borg.learn.run import run
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.calibrate import Feeds, Sample, Threshold, collect, expected
from spore_borg.learn.spike.codes import Code
from spore_borg.learn.spike.convert import Maker, thresholds_of, write
from spore_borg.learn.spike.ops import Spiking
from spore_borg.learn.spike.plan import Place

BETA = 1e-5  # of the variance, for one spike
GRID = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.35, 1.5)
HELD_OUT = 2  # every second batch judges, the others are fitted to
GROUPS = 8  # groups of layers that are judged together

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
    error = _error(base, best, judged, wanted)
    keys = [key for key in samples if key in best and _tunable(base.places[key.rpartition(".")[0]], key)]
    for start in range(0, len(keys), max(1, -(-len(keys) // GROUPS))):
        group = keys[start : start + max(1, -(-len(keys) // GROUPS))]
        trial = {**best, **{key: least(samples[key], best[key], code) for key in group}}
        found = _error(base, trial, judged, wanted)
        if found < error:
            best, error = trial, found
    return best


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


def _tunable(place: Place, key: str) -> bool:
    number = int(key.rpartition(".")[2])
    return place.family in ("linear", "attention", "recurrent") and number not in place.fine


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


def _error(
    base: Shard,
    thresholds: Mapping[str, Threshold],
    feeds: Sequence[Feeds],
    wanted: Sequence[Mapping[str, Tensor]],
) -> float:
    """Mean of 1 - cosine between the source's and the shard's outputs on items that were held out."""
    total, count = 0.0, 0
    for one, dense in zip(feeds, wanted, strict=True):
        spiking = Spiking(base, thresholds=thresholds)
        outputs = run(base.graph, base.weights(), one, ops=spiking.table())
        for name, wanted_output in dense.items():
            if wanted_output.is_floating_point() and wanted_output.dim():
                width = wanted_output.shape[-1]
                a, b = wanted_output.reshape(-1, width), outputs[name].reshape(-1, width)
                similar = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)
                if a.shape[-1] == 1:  # the cosine of single numbers says nothing of their size
                    similar = 1 - (a - b).abs().double().reshape(-1)
                total += float((1 - similar).sum())
                count += similar.numel()
    return total / max(count, 1)


def refine(
    model: Model, calibration_feeds: Sequence[Feeds], base: Shard, out: Path, *, each: Each | None = None
) -> Shard:
    """Refine a shard's thresholds against its source.

    Args:
        model: the source. calibration_feeds: as for ``convert``, at least two batches or one that can be halved.
        base: the shard. out: the file of the refined one; rule, steps, groups and weights are the base's.
    Raises:
        ShardError: too few items. LearnError: as ``convert``.
    """
    thresholds = refined(model, list(calibration_feeds), base, base.code)
    return write(Maker(model, base.code, len(base.layers), thresholds), out, each)
