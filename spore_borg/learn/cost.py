"""What running a model costs, counted: operations that follow from shapes, the same on every machine.

An operation is a multiply-add of a product, or a number that goes into or out of any other operator. A claim declares
the operations of its source for one item; whoever recomputes it counts them again, and nothing that it runs of the
claim may need many times as much. Source: spec/51-absorption-and-state.md §4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from spore_borg.learn.errors import LearnError
from spore_borg.learn.graph import Node

LOOKUPS = frozenset(
    ("Gather", "GatherElements", "GatherND", "Shape", "Size", "Slice")
)  # read a part of what goes in


class CostError(LearnError):
    """A model that needs more operations than it may."""


class Meter:
    """Operations counted so far, and how many there may be."""

    def __init__(self, most: int | None) -> None:
        self.used, self.most = 0, most

    def take(self, node: Node, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
        """Count one operator. Raises CostError above the limit."""
        self.used += operations(node, inputs, outputs)
        if self.most is not None and self.used > self.most:
            raise CostError(f"It needs more than the {self.most} operations that it may take here.")


METER: ContextVar[Meter | None] = ContextVar("meter", default=None)  # what ``learn.run.run`` counts into


@contextmanager
def metered(most: int | None = None) -> Iterator[Meter]:
    """Count every run within this block, on this thread; above ``most`` operations it raises CostError."""
    token = METER.set(meter := Meter(most))
    try:
        yield meter
    finally:
        METER.reset(token)


def operations(node: Node, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
    """Operations of one operator that has run."""
    made = sum(value.numel() for value in outputs)
    given = [value for value in inputs if value is not None]
    if node.op in LOOKUPS or not given:
        return made
    first, second = given[0], given[1] if len(given) > 1 else given[0]
    match node.op:
        case "MatMul" | "MatMulInteger":
            return made * (first.shape[-1] if first.dim() else 1)
        case "Gemm":
            return made * first.shape[0 if node.attrs.get("transA") else 1]
        case "Conv":
            return made * math.prod(second.shape[1:])
        case "ConvTranspose":
            return first.numel() * math.prod(second.shape[1:])
        case "LSTM" | "GRU" | "RNN":
            return math.prod(first.shape[:2]) * sum(value.numel() for value in given[1:3])
        case "Einsum":
            return made * _summed(str(node.attrs.get("equation", "")), given)
        case _:
            return made + sum(value.numel() for value in given)


def _summed(equation: str, given: Sequence[Tensor]) -> int:
    """The product of the sizes over which an Einsum adds up: labels that its output lacks."""
    sources, arrow, target = equation.replace(" ", "").partition("->")
    if not arrow:  # what occurs once is kept
        target = "".join(letter for letter in sources if sources.count(letter) == 1)
    sizes: dict[str, int] = {}
    for labels, value in zip(sources.split(","), given, strict=False):
        front, _, back = labels.partition("...")
        known = [
            *zip(front, value.shape, strict=False),
            *zip(back[::-1], reversed(value.shape), strict=False),
        ]
        for letter, size in known:
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(size for letter, size in sizes.items() if letter not in target)
