"""What a spiking run costs: spikes, active values, additions (SynOps) and the multiply-adds (MACs) of the dense run."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class Cost:
    """Totals of one operator.

    Attributes:
        values: numbers that went through a code. spikes: what they cost. active: values that spiked at all.
        synops: additions into membranes; macs: multiply-adds of the same operator run dense.
    """

    values: int = 0
    spikes: float = 0.0
    active: float = 0.0
    synops: float = 0.0
    macs: int = 0

    def add(self, k: torch.Tensor, spikes: torch.Tensor) -> float:
        """Take in the codes k of one input. Returns the mean of spikes per value."""
        self.values += k.numel()
        total = float(spikes.sum(dtype=torch.float64))
        self.spikes += total
        self.active += float((k != 0).sum())
        return total / max(k.numel(), 1)


@dataclass
class Count:
    """Costs by operator; hand one to ``run_spiking`` to have it filled."""

    layers: dict[str, Cost] = field(default_factory=dict)

    def of(self, name: str) -> Cost:
        """The totals of one operator."""
        return self.layers.setdefault(name, Cost())

    def total(self) -> Cost:
        """The sum over all operators."""
        whole = Cost()
        for cost in self.layers.values():
            whole.values += cost.values
            whole.spikes += cost.spikes
            whole.active += cost.active
            whole.synops += cost.synops
            whole.macs += cost.macs
        return whole
