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
from spore_borg.learn.spike.events import EventLayer, layer_of, snapped
from spore_borg.learn.spike.run import run_spiking

torch.set_num_threads(1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 300), st.sampled_from((0.0, 0.02, 0.3, 1.0)),
    st.sampled_from((0.0, 0.95)), st.sampled_from((3, 8, 11)), st.booleans(), st.sampled_from((5, 24)),
)  # fmt: skip
def test_all_paths_count_the_same(
    seed: int, batch: int, size: int, active: float, zeros: float, steps: int, wide: bool, out: int
) -> None:
    print("seed", seed)
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(-127, 128, (out, size), generator=g).to(torch.int8)
    q[torch.rand(q.shape, generator=g) < zeros] = 0
    s = torch.exp(torch.randn(size, generator=g) * (3 if wide else 0.1))
    layer = EventLayer(q, torch.rand(out, generator=g) + 0.1, s)
    x = torch.randn(batch, size, generator=g) * 40 * s
    x[torch.rand(x.shape, generator=g) >= active] = 0
    k = Code(FEW_SPIKE, steps).quantise(x, layer.s)
    expected = ((k.to(torch.int64) * layer.units.to(torch.int64)) @ q.t().to(torch.int64)).double()
    assert torch.equal(layer.dense(k), expected)
    assert torch.equal(layer.events(k), expected)
    assert torch.equal(layer.accumulate(k), expected)
    if layer.csr is None:
        with pytest.raises(ShardError):
            layer.sparse(k)
    else:
        assert torch.equal(layer.sparse(k), expected)


def test_every_spike_brings_its_weight_row() -> None:
    g = torch.Generator().manual_seed(3)
    q = torch.randint(-127, 128, (5, 20), generator=g).to(torch.int8)
    layer = EventLayer(q, torch.ones(5), torch.rand(20, generator=g) + 0.5)
    x, code = torch.randn(2, 20, generator=g) * 5, Code(FEW_SPIKE, 4)
    total = torch.zeros(2, 5, dtype=torch.float64)
    for weight, spikes in code.train(x, layer.s):
        total += weight * layer.events(spikes)
    assert torch.equal(total, layer.dense(code.quantise(x, layer.s)))


def test_snapping_moves_thresholds_little() -> None:
    s = torch.tensor([1.0, 0.3, 0.017, 1e-9])
    quantum, units = snapped(s)
    assert snapped(torch.full((9,), 0.3))[1].unique().tolist() == [1]
    assert torch.allclose(units.double() * quantum, s.double(), atol=2.0**-12) and int(units.min()) == 1


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_a_layer_of_a_shard_answers_as_the_interpreter(tmp_path: Path, op: str) -> None:
    g = torch.Generator().manual_seed(4)
    w = {
        "w": torch.randn((7, 30) if op == "Gemm" else (30, 7), generator=g),
        "b": torch.randn(7, generator=g),
    }
    node = Node(
        op,
        "one",
        ("x", "w", "b") if op == "Gemm" else ("x", "w"),
        ("y",),
        {"transB": 1} if op == "Gemm" else {},
    )
    info = Info("toy", "file:toy", "MIT", "embedder", "text", "toy", 1)
    graph = Graph((Port("x", "float32", (None, 30)),), ("y",), (node,))
    x = torch.randn(3, 30, generator=g) + torch.tensor([4.0] * 5 + [0.0] * 25)
    shard = convert(Model(graph, MemoryWeights(w), {}, {}, info), [{"x": x}], steps=6, out=tmp_path / "a")
    layer = layer_of(shard, "one")
    k = shard.code.quantise(x if layer.z is None else x - layer.z, layer.s)
    found = layer.output(layer.accumulate(k))
    # Thresholds are snapped to 12 bits, so the interpreter's float32 result is close and not equal.
    assert torch.allclose(found, run_spiking(shard, {"x": x})["y"], atol=0.05, rtol=0.02)
    with pytest.raises(ShardError):
        layer_of(shard, "two")


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ShardError):
        EventLayer(torch.zeros(3, 4, dtype=torch.int8), torch.ones(3), torch.ones(5))
