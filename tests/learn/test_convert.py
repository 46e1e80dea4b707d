"""Conversion of small models: fidelity rises with steps, bytes are reproducible, groups can be made again alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spore_borg.learn.graph import Graph, Info, Model, Node, Port
from spore_borg.learn.run import MemoryWeights, run
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.convert import convert, redo
from spore_borg.learn.spike.counts import Count
from spore_borg.learn.spike.run import report, run_spiking

INFO = Info("toy", "file:toy", "MIT", "embedder", "text", "toy", 1)

torch.set_num_threads(1)  # two threads on small tensors wait for each other


def model_of(
    inputs: tuple[Port, ...], nodes: list[Node], weights: dict[str, torch.Tensor], outputs=("y",)
) -> Model:
    return Model(
        Graph(inputs, outputs, tuple(nodes)), MemoryWeights(weights), {"kind": "none"}, {"v": b"ab"}, INFO
    )


def attention_model(
    seed: int = 0, d: int = 16, heads: int = 2
) -> tuple[Model, list[dict[str, torch.Tensor]]]:
    """Embedding, one block of attention with norm and GELU, in the operators that importers use."""
    g = torch.Generator().manual_seed(seed)

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g) / shape[0] ** 0.5

    w = {"table": torch.randn(50, d, generator=g), "wq": new(d, d), "wk": new(d, d), "wv": new(d, d), "wo": new(d, d),
         "up": new(d, 4 * d), "upb": new(4 * d), "down": new(4 * d, d), "g": torch.ones(d), "b": torch.zeros(d),
         "split": torch.tensor([0, 0, heads, d // heads]), "join": torch.tensor([0, 0, d]),
         "root": torch.tensor((d / heads) ** 0.5)}  # fmt: skip
    n = []

    def add(op: str, inputs: list[str], output: str, **attrs: object) -> str:
        n.append(Node(op, output, tuple(inputs), (output,), attrs))
        return output

    x = add("Gather", ["table", "ids"], "x", axis=0)
    for role in "qkv":
        add("MatMul", [x, "w" + role], role + "0")
        add("Reshape", [role + "0", "split"], role + "1")
        add("Transpose", [role + "1"], role + "2", perm=(0, 2, 3, 1) if role == "k" else (0, 2, 1, 3))
    add("MatMul", ["q2", "k2"], "scores")
    add("Div", ["scores", "root"], "scaled")
    add("Softmax", ["scaled"], "p", axis=-1)
    add("MatMul", ["p", "v2"], "mixed")
    add("Transpose", ["mixed"], "mixed1", perm=(0, 2, 1, 3))
    add("Reshape", ["mixed1", "join"], "mixed2")
    add("MatMul", ["mixed2", "wo"], "o")
    add("Add", ["o", x], "r")
    add("LayerNormalization", ["r", "g", "b"], "n1", axis=-1)
    add("MatMul", ["n1", "up"], "u")
    add("Add", ["u", "upb"], "u1")
    add("Gelu", ["u1"], "a")
    add("MatMul", ["a", "down"], "f")
    add("Add", ["f", "n1"], "r2")
    add("LayerNormalization", ["r2", "g", "b"], "y", axis=-1)
    feeds = [{"ids": torch.randint(0, 50, (4, 9 + i), generator=g)} for i in range(3)]
    return model_of((Port("ids", "int64", (None, None)),), n, w), feeds


def cosine(model: Model, shard: Shard, feeds: list[dict[str, torch.Tensor]]) -> float:
    found = []
    for one in feeds:
        a = run(model.graph, model.weights, one)["y"].flatten(0, -2)
        b = run_spiking(shard, one)["y"].flatten(0, -2)
        found.append(torch.nn.functional.cosine_similarity(a, b, dim=-1).mean())
    return float(torch.stack(found).mean())


def test_fidelity_rises_with_the_steps(tmp_path: Path) -> None:
    model, feeds = attention_model()
    found = [
        cosine(model, convert(model, feeds, steps=t, out=tmp_path / f"{t}.shard"), feeds)
        for t in (2, 4, 6, 8)
    ]
    assert found == sorted(found), found
    assert found[1] > 0.98 and found[3] > 0.9995, found


def test_the_rate_code_needs_more_steps_for_the_same(tmp_path: Path) -> None:
    model, feeds = attention_model()
    rate = cosine(model, convert(model, feeds, rule="rate/1", steps=8, out=tmp_path / "r.shard"), feeds)
    few = cosine(model, convert(model, feeds, steps=8, out=tmp_path / "f.shard"), feeds)
    assert 0.9 < rate < few


def test_conversion_is_the_same_bytes_and_every_group_can_be_made_again(tmp_path: Path) -> None:
    model, feeds = attention_model()
    shard = convert(model, feeds, steps=4, segments=4, out=tmp_path / "a.shard")
    convert(model, feeds, steps=4, segments=4, out=tmp_path / "b.shard")
    assert (tmp_path / "a.shard").read_bytes() == (tmp_path / "b.shard").read_bytes()
    digests = shard.digests()
    inners = set()
    for segment in range(4):
        start, inner, end = redo(model, feeds, shard, segment, 3, steps=4)
        assert (start, end) == (digests[segment], digests[segment + 1]), segment
        inners.add(inner)
    assert redo(model, feeds, shard, 1, 4, steps=4)[1] not in inners


def test_a_swapped_source_is_found(tmp_path: Path) -> None:
    model, feeds = attention_model()
    other, _ = attention_model(seed=1)
    shard = convert(model, feeds, steps=4, segments=4, out=tmp_path / "a.shard")
    digests = shard.digests()
    assert all(redo(other, feeds, shard, k, 1, steps=4)[2] != digests[k + 1] for k in range(4))


def test_the_report_names_every_operator_and_says_what_stays_dense(tmp_path: Path) -> None:
    model, feeds = attention_model()
    w = {name: model.weights.load(name) for name in model.weights.names()}
    nodes = [*model.graph.nodes[:-1], Node("LpNormalization", "y", ("r2",), ("y",), {"axis": -1})]
    model = model_of(model.graph.inputs, nodes, w)
    lines = {
        line["name"]: line for line in report(model, convert(model, feeds, out=tmp_path / "a.shard"), feeds)
    }
    assert not lines["y"]["coded"] and "LpNormalization" in lines["y"]["note"]
    assert all(line["coded"] for name, line in lines.items() if name != "y")
    assert {line["family"] for line in lines.values()} >= {
        "linear",
        "attention",
        "softmax",
        "norm",
        "function",
    }
    up = lines["u"]
    rows = sum(4 * one["ids"].shape[1] for one in feeds)
    assert up["macs"] == rows * 16 * 64 and up["params"] == 16 * 64
    assert up["synops"] == pytest.approx(up["spikes_per_value"] * up["macs"], rel=1e-6)
    assert up["cosine"] > 0.99 and 0 < up["active"] < 1


def test_masked_positions_stay_silent(tmp_path: Path) -> None:
    nodes = [Node("Add", "m", ("x", "mask"), ("m",)), Node("Softmax", "y", ("m",), ("y",), {"axis": -1})]
    ports = (Port("x", "float32", (None, None)), Port("mask", "float32", (None, None)))
    model = model_of(ports, nodes, {})
    mask = torch.tensor([[0.0, 0.0, float("-inf"), torch.finfo(torch.float32).min]])
    feeds = {"x": torch.tensor([[1.0, 2.0, 9.0, 9.0]]), "mask": mask}
    shard = convert(model, [feeds], steps=5, out=tmp_path / "a.shard")
    found = run_spiking(shard, feeds)["y"][0]
    assert found[2] == 0 and found[3] == 0
    assert torch.allclose(found[:2], torch.softmax(feeds["x"][0, :2], 0), atol=0.01)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layers_follow_the_dense_ones(tmp_path: Path, op: str, direction: str) -> None:
    g = torch.Generator().manual_seed(3)
    gates, ways, h, d = (4 if op == "LSTM" else 3), (2 if direction == "bidirectional" else 1), 12, 8
    w = {"w": torch.randn(ways, gates * h, d, generator=g) / 3, "r": torch.randn(ways, gates * h, h, generator=g) / 3,
         "b": torch.randn(ways, 2 * gates * h, generator=g) / 3, "n": torch.tensor([7, 4])}  # fmt: skip
    attrs = {"hidden_size": h, "direction": direction} | ({"linear_before_reset": 1} if op == "GRU" else {})
    node = Node(op, "rnn", ("x", "w", "r", "b", "n"), ("y", "last"), attrs)
    model = model_of((Port("x", "float32", (None, None, d)),), [node], w, ("y", "last"))
    feeds = {"x": torch.randn(7, 2, d, generator=g)}
    shard = convert(model, [feeds], steps=10, out=tmp_path / "a.shard")
    count = Count()
    dense, found = run(model.graph, model.weights, feeds), run_spiking(shard, feeds, count=count)
    for name in ("y", "last"):
        assert torch.allclose(dense[name], found[name], atol=0.02), (dense[name] - found[name]).abs().max()
    assert count.layers["rnn"].macs == ways * gates * h * (7 * 2 * d + 7 * 2 * h)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm"])
def test_convolutions_and_gemm(tmp_path: Path, op: str) -> None:
    g = torch.Generator().manual_seed(4)
    shapes = {"Conv": (6, 4, 3, 3), "ConvTranspose": (4, 6, 3, 3), "Gemm": (6, 20)}
    x = torch.randn(5, 20, generator=g) if op == "Gemm" else torch.randn(2, 4, 9, 9, generator=g)
    attrs = (
        {"transB": 1} if op == "Gemm" else {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1)}
    )
    w = {"w": torch.randn(shapes[op], generator=g), "b": torch.randn(6, generator=g)}
    port = Port("x", "float32", (None, *x.shape[1:]))
    model = model_of((port,), [Node(op, "layer", ("x", "w", "b"), ("y",), attrs)], w)
    shard = convert(model, [{"x": x}], steps=8, out=tmp_path / "a.shard")
    expected = {"Conv": (6, 1, 1, 1), "ConvTranspose": (1, 6, 1, 1), "Gemm": (6, 1)}[op]
    assert shard.specs["s:w"].shape == expected
    a, b = run(model.graph, model.weights, {"x": x})["y"], run_spiking(shard, {"x": x})["y"]
    assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.9995
