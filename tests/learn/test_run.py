"""The interpreter: order, memory, feeds, limits, wrapped operators and what watches see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from spore_borg.learn.errors import GraphError
from spore_borg.learn.graph import Graph, Node, Port
from spore_borg.learn.ops import DENSE
from spore_borg.learn.run import SMALL_BYTES_MAX, MemoryWeights, run

SIDE = 600  # a matrix of this side is larger than SMALL_BYTES_MAX


class CountingWeights(MemoryWeights):
    """Weights in memory that are copied at every load, and counted."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.loads: list[str] = []

    def load(self, name: str) -> Tensor:
        self.loads.append(name)
        return super().load(name).clone()


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> Node:
    return Node(op, f"{op} {outputs}", tuple(inputs.split()), tuple(outputs.split()), attrs)


def graph(
    *nodes: Node, outputs: tuple[str, ...] = ("y",), shape: tuple[int | None, ...] = (None, SIDE)
) -> Graph:
    return Graph((Port("x", "float32", shape),), outputs, nodes)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, SIDE, generator=torch.Generator().manual_seed(7))


def test_a_large_weight_is_loaded_for_each_use_and_a_small_one_once(x: Tensor) -> None:
    large, small = torch.eye(SIDE), torch.ones(SIDE)
    assert large.nbytes > SMALL_BYTES_MAX >= small.nbytes
    weights = CountingWeights({"large": large, "small": small})
    chain = graph(
        node("MatMul", "x large", "a"),
        node("Add", "a small", "b"),
        node("MatMul", "b large", "c"),
        node("Add", "c small", "y"),
    )
    assert torch.allclose(run(chain, weights, {"x": x})["y"], x + 2)
    assert weights.loads == ["large", "small", "large"]


def test_memory_holds_one_large_weight_and_no_dead_value(x: Tensor) -> None:
    import gc
    import weakref

    alive: list[int] = []
    born: list[weakref.ref[Tensor]] = []

    class Fresh(CountingWeights):
        def load(self, name: str) -> Tensor:
            value = super().load(name)
            born.append(weakref.ref(value))
            return value

    def watch(at: Node, inputs: list[Tensor | None], outputs: tuple[Tensor, ...]) -> None:
        born.extend(weakref.ref(value) for value in outputs)
        gc.collect()
        alive.append(sum(ref() is not None for ref in born))

    weights = Fresh({f"w{n}": torch.eye(SIDE) for n in range(6)})
    names = ["x", *(f"h{n}" for n in range(5)), "y"]
    chain = graph(*(node("MatMul", f"{names[n]} w{n}", names[n + 1]) for n in range(6)))
    run(chain, weights, {"x": x}, watch=watch)
    # What the operator takes, its weight, and what it makes.
    assert alive == [2, 3, 3, 3, 3, 3]


def test_watch_sees_every_operator_in_order(x: Tensor) -> None:
    seen: list[tuple[str, int, int]] = []
    chain = graph(node("Relu", "x", "a"), Node("Clip", "clip", ("a", "", "top"), ("y",)))

    def watch(at: Node, inputs: list[Tensor | None], outputs: tuple[Tensor, ...]) -> None:
        seen.append((at.op, sum(value is None for value in inputs), len(outputs)))

    found = run(chain, MemoryWeights({"top": torch.tensor(0.5)}), {"x": x}, watch=watch)["y"]
    assert seen == [("Relu", 0, 1), ("Clip", 1, 1)]
    assert torch.equal(found, x.clamp(0, 0.5))


def test_an_operator_can_be_replaced(x: Tensor) -> None:
    def twice(at: Node, inputs: list[Tensor | None]) -> tuple[Tensor, ...]:
        return tuple(2 * value for value in DENSE["Relu"](at, inputs))

    chain = graph(node("Relu", "x", "a"), node("Neg", "a", "y"))
    found = run(chain, MemoryWeights({}), {"x": x}, ops={**DENSE, "Relu": twice})["y"]
    assert torch.equal(found, -2 * x.relu())
    assert "Relu" in DENSE and not isinstance(DENSE, dict)


def test_outputs_may_be_fed_values_weights_and_values_used_again(x: Tensor) -> None:
    weights = MemoryWeights({"w": torch.ones(2)})
    found = run(
        graph(node("Neg", "x", "a"), node("Neg", "a", "y"), outputs=("a", "y", "x", "w")), weights, {"x": x}
    )
    assert list(found) == ["a", "y", "x", "w"] and torch.equal(found["a"], -x) and torch.equal(found["y"], x)
    assert torch.equal(found["x"], x) and found["w"].tolist() == [1.0, 1.0]


def test_the_result_is_float32_without_gradients_and_the_same_each_time(x: Tensor) -> None:
    matrix = (
        torch.randn(SIDE, 5, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16).requires_grad_()
    )
    weights = MemoryWeights({"w": matrix})
    one, two = (run(graph(node("MatMul", "x w", "y")), weights, {"x": x})["y"] for _ in range(2))
    assert one.dtype == torch.float32 and not one.requires_grad and torch.equal(one, two)


ASKED = [
    ({}, r"'x' is missing; feed float32 of shape \[\?, 600\]"),
    ({"x": torch.zeros(1, 3)}, r"shape \[1, 3\]; feed shape \[\?, 600\]"),
    ({"x": torch.zeros(SIDE)}, r"feed shape"),
    ({"x": torch.zeros(1, SIDE, dtype=torch.float64)}, "feed float32"),
    ({"x": torch.zeros(1, SIDE), "z": torch.zeros(1)}, "takes no 'z'"),
]


@pytest.mark.parametrize(("feeds", "match"), ASKED)
def test_feeds_are_checked(feeds: dict[str, Tensor], match: str) -> None:
    with pytest.raises(GraphError, match=match):
        run(graph(node("Relu", "x", "y")), MemoryWeights({}), feeds)


BROKEN: list[tuple[Graph, str]] = [
    (graph(node("Magic", "x", "y")), "Magic 'Magic y': this operator is not supported"),
    (graph(node("Add", "x", "y")), "takes 2 to 2 inputs"),
    (graph(Node("Add", "add", ("x", ""), ("y",))), "takes 2 to 2 inputs"),
    (graph(node("Relu", "x x", "y")), "takes 1 to 1 inputs"),
    (graph(node("Relu", "a", "y"), node("Relu", "x", "a")), "made only later"),
    (graph(node("Relu", "x", "y"), node("Neg", "x", "y")), "made twice"),
    (graph(node("Relu", "x", "x"), outputs=("x",)), "made twice"),
    (graph(node("Relu", "x", "y z")), "it makes 1 values, not 2"),
    (graph(node("Relu", "x", "a")), "no weight 'y'"),
    (graph(node("Add", "x w", "y")), "no weight 'w'"),
]


@pytest.mark.parametrize(("broken", "match"), BROKEN)
def test_a_graph_that_cannot_run_says_why(broken: Graph, match: str, x: Tensor) -> None:
    with pytest.raises(GraphError, match=match):
        run(broken, MemoryWeights({}), {"x": x})


def test_a_failure_names_the_operator_and_its_shapes(x: Tensor) -> None:
    with pytest.raises(GraphError, match=r"^Add 'Add y' cannot work on shapes \[\[2, 600\], \[3\]\]"):
        run(graph(node("Add", "x w", "y")), MemoryWeights({"w": torch.ones(3)}), {"x": x})


def test_an_operator_of_another_interpreter_is_bounded_too(x: Tensor) -> None:
    def huge(at: Node, inputs: list[Tensor | None]) -> tuple[Tensor, ...]:
        return (torch.zeros(1).expand(1 << 30),)

    with pytest.raises(GraphError, match="at most 268435456 are kept; feed fewer or shorter items"):
        run(graph(node("Relu", "x", "y")), MemoryWeights({}), {"x": x}, ops={"Relu": huge})
