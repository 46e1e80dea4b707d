"""Event-driven products give the same whole numbers as the layer-synchronous one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spore_borg.learn.errors import ShardError
from spore_borg.learn.graph import Graph, Info, Model, Node, Port
from spore_borg.learn.run import MemoryWeights
from spore_borg.learn.spike.codes import FEW_SPIKE, Code
from spore_borg.learn.spike.convert import convert
from spore_borg.learn.spike.events import EVENT_WEIGHTS_MIN, EventLayer, layer_of, machine
from spore_borg.learn.spike.run import run_spiking

torch.set_num_threads(1)


def drawn(
    seed: int, size: int, out: int, zeros: float, wide: float, steps: int
) -> tuple[EventLayer, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(-127, 128, (out, size), generator=g).to(torch.int8)
    q[torch.rand(q.shape, generator=g) < zeros] = 0
    s = torch.exp(torch.randn(size, generator=g) * wide)
    return EventLayer(q, torch.rand(out, generator=g) + 0.1, s, levels=2**steps - 1), g


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from((1, 2, 7, 16, 17, 150)), st.integers(16, 600),
    st.sampled_from((0.0, 0.02, 0.3, 1.0)), st.sampled_from((0.0, 0.95)), st.sampled_from((3, 5, 7)),
    st.sampled_from((0.0, 0.1, 3.0)), st.sampled_from((16, 24, 513)),
)  # fmt: skip
def test_all_paths_count_the_same(
    seed: int, batch: int, size: int, active: float, zeros: float, steps: int, wide: float, out: int
) -> None:
    print("seed", seed)
    layer, g = drawn(seed, size, out, zeros, wide, steps)
    x = torch.randn(batch, size, generator=g) * 40 * layer.s
    x[torch.rand(x.shape, generator=g) >= active] = 0
    k = layer.code(x)
    whole = layer.weight.to(torch.int64)
    weight = whole if layer.base == 1 else whole[:out] * layer.base + whole[out:]
    expected = k.to(torch.int64) @ weight.t()
    assert (layer.base == 1) == bool((layer.s == layer.s[0]).all())
    assert torch.equal(layer.dense(k).to(torch.int64), expected)
    assert torch.equal(layer.events(k).to(torch.int64), expected)
    assert torch.equal(layer.accumulate(k).to(torch.int64), expected)
    assert torch.equal(layer.apply(k), layer.output(expected.to(torch.int32)))
    if layer.csr is None:
        with pytest.raises(ShardError):
            layer.sparse(k)
    else:
        assert torch.equal(layer.sparse(k).to(torch.int64), expected)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from((0.0, 0.5, 4.0)), st.sampled_from((4, 7)), st.integers(16, 3_000)
)
def test_folding_thresholds_moves_an_output_by_less_than_its_bound(
    seed: int, wide: float, steps: int, size: int
) -> None:
    print("seed", seed)
    layer, g = drawn(seed, size, 20, 0.0, wide, steps)
    q = torch.randint(-127, 128, (20, size), generator=g).to(torch.int8)
    scale = torch.rand(20, generator=g) + 0.1
    layer = EventLayer(q, scale, layer.s, levels=layer.levels)
    k = layer.code(torch.randn(3, size, generator=g) * 9 * layer.s)
    exact = (k.double() * layer.s.double()) @ (q.double() * scale.double()[:, None]).t()
    allowed = layer.bound().double() * k.double().abs().sum(1, keepdim=True)
    rounding = 1e-6 * (
        (k.double().abs() * layer.s.double()) @ (q.double().abs() * scale.double()[:, None]).t()
    )
    assert bool(((layer.apply(k).double() - exact).abs() <= allowed + rounding).all())


def test_sums_of_large_layers_stay_whole() -> None:
    layer = EventLayer(
        torch.full((16, 9_000), 127, dtype=torch.int8), torch.ones(1), torch.rand(9_000) + 1, levels=31
    )
    assert layer.base < 128
    k = torch.full((2, 9_000), 31, dtype=torch.int8)
    weight = layer.weight.to(torch.int64)
    assert torch.equal(layer.dense(k).long(), k.long() @ (weight[:16] * layer.base + weight[16:]).t())
    with pytest.raises(ShardError, match="too many"):
        EventLayer(
            torch.zeros(16, 200_000, dtype=torch.int8), torch.ones(1), torch.rand(200_000) + 1, levels=127
        )


def test_every_spike_brings_its_weight_row() -> None:
    layer, g = drawn(3, 20, 16, 0.0, 0.3, 4)
    x, code, total = (
        torch.randn(2, 20, generator=g) * 5,
        Code(FEW_SPIKE, 4),
        torch.zeros(2, 16, dtype=torch.int64),
    )
    for weight, spikes in code.train(x, layer.s):
        total += weight * layer.events(spikes.to(torch.int8))
    assert torch.equal(total, layer.dense(code.quantise(x, layer.s).to(torch.int8)).long())


def test_nothing_is_no_spike() -> None:
    layer, _ = drawn(5, 32, 16, 0.0, 1.0, 5)
    x = torch.full((2, 32), float("nan"))
    assert not bool(layer.code(x).any()) and not bool(layer(x).any())
    assert layer(torch.zeros(0, 32)).shape == (0, 16)
    assert int(layer.code(torch.full((1, 32), float("inf"))).min()) == 31


def test_a_large_silent_layer_is_gathered() -> None:
    size = 2_048
    layer = EventLayer(torch.ones(size, size, dtype=torch.int8), torch.ones(1), torch.ones(1), levels=31)
    k = torch.zeros(1, size, dtype=torch.int8)
    k[0, 5] = 3
    assert layer.weight.numel() >= EVENT_WEIGHTS_MIN and machine().gather_cost > 0
    assert torch.equal(layer.accumulate(k), torch.full((1, size), 3, dtype=torch.int32))


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_a_layer_of_a_shard_answers_as_the_interpreter(tmp_path: Path, op: str) -> None:
    g = torch.Generator().manual_seed(4)
    w = {
        "w": torch.randn((17, 30) if op == "Gemm" else (30, 17), generator=g),
        "b": torch.randn(17, generator=g),
    }
    inputs = ("x", "w", "b") if op == "Gemm" else ("x", "w")
    node = Node(op, "one", inputs, ("y",), {"transB": 1, "beta": 0.5} if op == "Gemm" else {})
    info = Info("toy", "file:toy", "MIT", "embedder", "text", "toy", 1)
    graph = Graph((Port("x", "float32", (None, 30)),), ("y",), (node,))
    x = torch.randn(300, 30, generator=g) + torch.tensor([4.0] * 5 + [0.0] * 25)
    shard = convert(Model(graph, MemoryWeights(w), {}, {}, info), [{"x": x}], steps=6, out=tmp_path / "a")
    layer = layer_of(shard, "one")
    expected = run_spiking(shard, {"x": x})["y"]
    allowed = layer.bound() * layer.code(x).float().abs().sum(1, keepdim=True) + 1e-4
    assert bool(((layer(x) - expected).abs() <= allowed).all()) and float(allowed.max()) < 0.01
    with pytest.raises(ShardError):
        layer_of(shard, "two")


def test_shapes_that_do_not_fit() -> None:
    for out, size, thresholds, levels in ((16, 16, 5, 31), (3, 16, 16, 31), (16, 16, 16, 255)):
        with pytest.raises(ShardError):
            EventLayer(
                torch.zeros(out, size, dtype=torch.int8), torch.ones(1), torch.ones(thresholds), levels=levels
            )
