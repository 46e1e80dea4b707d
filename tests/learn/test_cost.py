"""Operations are counted from shapes: the same by hand, in the dense run and in the spiking one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spore_borg.learn.cost import CostError, metered, operations
from spore_borg.learn.graph import Graph, Node, Port
from spore_borg.learn.run import MemoryWeights, run

ONE = {"equation": "bhqd,bhkd->bhqk"}


def t(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("op", "attrs", "inputs", "output", "count"),
    [
        ("MatMul", {}, [t(2, 3, 5), t(5, 7)], t(2, 3, 7), 2 * 3 * 7 * 5),
        ("MatMul", {}, [t(2, 3, 5), t(2, 5, 4)], t(2, 3, 4), 2 * 3 * 4 * 5),
        ("Gemm", {}, [t(3, 5), t(5, 7)], t(3, 7), 3 * 5 * 7),
        ("Gemm", {"transA": 1}, [t(5, 3), t(5, 7)], t(3, 7), 3 * 5 * 7),
        ("Conv", {}, [t(1, 4, 8, 8), t(6, 2, 3, 3)], t(1, 6, 6, 6), 6 * 6 * 6 * 2 * 9),
        ("ConvTranspose", {}, [t(1, 4, 5), t(4, 6, 3)], t(1, 6, 7), 4 * 5 * 6 * 3),
        ("LSTM", {}, [t(9, 2, 5), t(1, 12, 5), t(1, 12, 3)], t(9, 1, 2, 3), 9 * 2 * (12 * 5 + 12 * 3)),
        ("Einsum", ONE, [t(2, 3, 4, 5), t(2, 3, 6, 5)], t(2, 3, 4, 6), 2 * 3 * 4 * 6 * 5),
        ("Einsum", {"equation": "ij,jk"}, [t(2, 3), t(3, 4)], t(2, 4), 2 * 3 * 4),
        ("Einsum", {"equation": "...d,hd->...h"}, [t(2, 7, 5), t(3, 5)], t(2, 7, 3), 2 * 7 * 3 * 5),
        ("Gather", {}, [t(30_000, 8), torch.zeros(4, dtype=torch.int64)], t(4, 8), 32),
        ("ReduceSum", {}, [t(4, 8)], t(4), 36),
        ("Expand", {}, [t(1), torch.tensor([100])], t(100), 102),
    ],
)
def test_an_operator_costs_what_its_shapes_say(
    op: str, attrs: dict[str, str | int], inputs: list[torch.Tensor], output: torch.Tensor, count: int
) -> None:
    names = tuple(f"i{number}" for number in range(len(inputs)))
    assert operations(Node(op, "n", names, ("o",), attrs), inputs, (output,)) == count


def graph() -> tuple[Graph, MemoryWeights]:
    nodes = (Node("MatMul", "m", ("x", "w"), ("y",)), Node("Relu", "r", ("y",), ("z",)))
    weights = MemoryWeights({"w": torch.from_numpy(np.ones((4, 6), np.float32))})
    return Graph((Port("x", "float32", (None, 4)),), ("z",), nodes), weights


def test_a_run_is_counted_where_it_is_asked_for_and_stopped_above_its_limit() -> None:
    built, weights = graph()
    feeds = {"x": torch.ones(3, 4)}
    with metered() as meter:
        run(built, weights, feeds)
        run(built, weights, feeds)
    assert meter.used == 2 * (3 * 4 * 6 + 2 * 18)
    run(built, weights, feeds)
    assert meter.used == 2 * (3 * 4 * 6 + 2 * 18), "outside nothing is counted"
    with metered(100), pytest.raises(CostError, match="more than the 100 operations"):
        run(built, weights, feeds)
    with metered(108):
        run(built, weights, feeds)
