"""Running a shard with spikes, and comparing every operator with the dense source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spore_borg.learn.graph import Model, Node
from spore_borg.learn.run import Allowance, KeptWeights, Watch, run
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.counts import Count
from spore_borg.learn.spike.ops import Spiking

COMPARED_MAX = 4_096  # numbers of one output that a report compares, per batch


def run_spiking(
    shard: Shard,
    feeds: Mapping[str, Tensor],
    *,
    watch: Watch | None = None,
    count: Count | None = None,
    device: str = "cpu",
    families: frozenset[str] | None = None,
) -> dict[str, Tensor]:
    """Run a shard once, layer by layer: all T steps of a layer before those of the next.

    Args:
        feeds: a tensor for every port of the graph.
        watch: sees every operator with its inputs before and its outputs after the codes.
        count: is filled with spikes and operations.
        families: the families of ``spike.plan`` that spike; None is all. The others run in fp32 with int8 weights.
    Returns:
        The graph's outputs by name.
    Raises:
        GraphError: what cannot be run. ShardError: a tensor that is missing or not usable.
    """
    ops = Spiking(shard, count, families).table()
    return run(shard.graph, shard.weights(), feeds, ops=ops, watch=watch, device=device)


class Runner:
    """Runs one shard many times: thresholds stay in memory, and weights as far as the allowance reaches."""

    def __init__(self, shard: Shard, allowance: Allowance) -> None:
        self._graph, self._ops = shard.graph, Spiking(shard).table()
        self._weights = KeptWeights(shard.weights(), allowance)

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As ``run_spiking``."""
        return run(self._graph, self._weights, feeds, ops=self._ops)


@dataclass
class _Moments:
    """Sums over compared numbers of one operator."""

    dense: list[Tensor] = field(default_factory=list)
    spiking: list[Tensor] = field(default_factory=list)

    def line(self) -> dict[str, float]:
        """Cosine, Pearson and Spearman of everything that was seen."""
        a, b = torch.cat(self.dense).double(), torch.cat(self.spiking).double()
        return {
            "cosine": _cosine(a, b),
            "pearson": _cosine(a - a.mean(), b - b.mean()),
            "spearman": _cosine(_ranks(a), _ranks(b)),
        }


def _cosine(a: Tensor, b: Tensor) -> float:
    """Cosine; two vectors of zeros agree, one does not."""
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else float(torch.equal(a, b))


def _ranks(x: Tensor) -> Tensor:
    """Centred ranks; equal numbers share the mean of theirs."""
    _, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks = (ends - (counts.double() - 1) / 2)[inverse]
    centred: Tensor = ranks - ranks.mean()
    return centred


def _picked(x: Tensor) -> Tensor:
    """A bounded number of an output's values at a fixed stride."""
    flat = x.detach().reshape(-1).to(torch.float32)
    return flat[:: max(1, -(-flat.numel() // COMPARED_MAX))].clone()


def report(model: Model, shard: Shard, feeds: Iterable[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """One line for every operator that spikes or has none: dense source against spiking shard over the same feeds.

    Each line: ``name op family params coded note cosine pearson spearman active spikes_per_value spikes synops macs``;
    spikes, synops and macs are totals over the feeds. ``coded`` is false where an operator stayed dense; ``note``
    says why.
    """
    count, seen = (
        Count(),
        {name: _Moments() for name, place in shard.places.items() if place.family != "current"},
    )
    for one in feeds:

        def dense(node: Node, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
            if node.name in seen and outputs[0].is_floating_point():
                seen[node.name].dense.append(_picked(outputs[0]))

        def spiking(node: Node, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
            if node.name in seen and outputs[0].is_floating_point():
                seen[node.name].spiking.append(_picked(outputs[0]))

        run(model.graph, model.weights, one, watch=dense)
        run_spiking(shard, one, watch=spiking, count=count)
    return [_line(shard, name, moments, count) for name, moments in seen.items() if moments.dense]


def _line(shard: Shard, name: str, moments: _Moments, count: Count) -> dict[str, Any]:
    place, cost = shard.places[name], count.of(name)
    tensors = ["q:" + weight for _, weight in place.weights if "q:" + weight in shard.specs]
    coded = place.family != "dense" and (cost.values > 0 or bool(tensors))
    note = place.note
    if not coded and not note:
        note = "it works on whole numbers (shapes, positions), not on activations"
    return {
        "name": name, "op": place.node.op, "family": place.family,
        "params": sum(shard.specs[tensor].size_bytes for tensor in tensors),
        "coded": coded, "note": note, **moments.line(),
        "active": cost.active / max(cost.values, 1), "spikes_per_value": cost.spikes / max(cost.values, 1),
        "spikes": int(cost.spikes), "synops": int(cost.synops), "macs": cost.macs,
    }  # fmt: skip
