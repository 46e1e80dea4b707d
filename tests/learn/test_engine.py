"""The engine answers as the simulation does: neuron by neuron, layer by layer, and no further from the source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spore_borg.learn.adapters import adapter
from spore_borg.learn.errors import LearnError, ShardError
from spore_borg.learn.graph import Graph, Info, Model, Node, Port
from spore_borg.learn.run import Allowance, MemoryWeights, run
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike import engine as engines
from spore_borg.learn.spike.codes import FEW_SPIKE, RATE, Code
from spore_borg.learn.spike.convert import convert
from spore_borg.learn.spike.engine import Engine, pick_device
from spore_borg.learn.spike.quick import coded
from spore_borg.learn.spike.run import Runner
from tests.learn import models

torch.set_num_threads(1)
MADE = {
    "bert": (models.tiny_bert, "text"),
    "albert": (models.tiny_albert, "smiles"),
    "gpt2": (models.tiny_gpt2, "text"),
    "llama": (models.tiny_llama, "text"),
    "static": (models.tiny_static_embedder, "text"),
    "lstm": (models.tiny_lstm_lm, "text"),
    "cnn": (models.tiny_cnn, "image"),
    "audio": (models.tiny_audio, "audio"),
    "pitch": (models.tiny_pitch, "audio"),
}
Feeds = list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=sorted(MADE))
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Shard, Feeds]:
    make, modality = MADE[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    model = models.imported(make(folder), request.param)
    feeds = [dict(one) for _, one in adapter(model.adapter, model.assets).feeds(models.items(modality, 8))]
    return model, convert(model, feeds, steps=6, out=folder / "one.safetensors"), feeds


def vectors(shard: Shard, forward: object, feeds: Feeds) -> torch.Tensor:
    reader = adapter(shard.adapter, shard.model().assets)
    return torch.cat([reader.vectors(forward(one), one) for one in feeds]).double()  # type: ignore[operator]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b).mean())


@pytest.mark.parametrize("events", [False, True])
def test_answers_are_those_of_the_simulation(
    made: tuple[Model, Shard, Feeds], events: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "WEIGHTS_MIN", 256)
    model, shard, feeds = made
    engine = Engine(shard, Allowance(1 << 28), device="cpu", events=events)
    if not events:
        assert not engine.layers
    source = vectors(shard, lambda one: run(model.graph, model.weights, one), feeds)
    simulated = vectors(shard, Runner(shard, Allowance(1 << 28)), feeds)
    found = vectors(shard, engine, feeds)
    # A code is a staircase: one that falls on a tie's other side is passed on, by the layers after it too.
    assert cosine(found, simulated) > 0.995
    assert 1 - cosine(found, source) <= 1.25 * (1 - cosine(simulated, source)) + 1e-4


def test_products_share_codes_and_take_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WEIGHTS_MIN", 256)
    model = models.imported(models.tiny_bert(tmp_path), "bert")
    reader = adapter(model.adapter, model.assets)
    feeds = [one for _, one in reader.feeds(models.items("text", 4))]
    shard = convert(model, feeds, steps=5, out=tmp_path / "one.safetensors")
    engine = Engine(shard, Allowance(1 << 28), device="cpu", events=True)
    assert sorted(len(group) for group in engine.layers.values())[-2:] == [
        3,
        3,
    ]  # query, key, value of two blocks
    shares = engine.shares()
    assert (shares.event_layers, shares.float_layers, shares.float_weights) == (12, 0, 0)
    assert sum(layer.constant is not None for group in engine.layers.values() for layer in group) == 12
    none = Engine(shard, Allowance(0), device="cpu", events=True)
    assert not none.layers and none.shares().event_weights == 0
    both = [vectors(shard, one, [dict(f) for f in feeds]) for one in (engine, none)]
    assert cosine(*both) > 0.99


def test_a_shard_of_other_sizes_than_its_graph_is_refused(tmp_path: Path) -> None:
    w = {"w": torch.randn(256, 256, generator=torch.Generator().manual_seed(1))}
    graph = Graph((Port("x", "float32", (None, None)),), ("y",), (Node("MatMul", "one", ("x", "w"), ("y",)),))
    model = Model(graph, MemoryWeights(w), {}, {}, Info("a", "b", "MIT", "embedder", "text", "c", 1))
    shard = convert(model, [{"x": torch.randn(9, 256)}], out=tmp_path / "a")
    engine = Engine(shard, Allowance(1 << 20), device="cpu", events=True)
    assert engine({"x": torch.randn(9, 256)})["y"].shape == (9, 256)
    with pytest.raises(ShardError, match="256 channels"):
        engine({"x": torch.randn(256, 9)})


@pytest.mark.parametrize("code", [Code(FEW_SPIKE, 5), Code(FEW_SPIKE, 8), Code(RATE, 16)])
def test_a_code_differs_only_at_ties(code: Code) -> None:
    g = torch.Generator().manual_seed(5)
    s = torch.rand(64, generator=g) + 0.1
    x = torch.randn(4_000, 64, generator=g) * code.levels * 0.6 * s
    expected, found = code.value(x, s), coded(x, s.reciprocal(), s, code.levels)
    step = ((expected - found).abs() / s).round()
    tie = ((x.abs() / s) % 1 - 0.5).abs() < 1e-4
    assert bool((step <= 1).all()) and not bool((step[~tie] > 0).any())
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    assert torch.equal(coded(odd, 2.0, 0.5, code.levels), code.value(odd, torch.tensor(0.5)))


def test_a_row_that_is_masked_altogether_is_zeros(tmp_path: Path) -> None:
    graph = Graph(
        (Port("x", "float32", (None, 6)),), ("y",), (Node("Softmax", "p", ("x",), ("y",), {"axis": -1}),)
    )
    model = Model(graph, MemoryWeights({}), {}, {}, Info("a", "b", "MIT", "embedder", "text", "c", 1))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(2)) * 6
    shard = convert(model, [{"x": x}], out=tmp_path / "a")
    x[1], x[2, :3], x[3, 0] = -torch.inf, -torch.inf, 90.0
    found, expected = (
        one({"x": x})["y"] for one in (Engine(shard, Allowance(0)), Runner(shard, Allowance(0)))
    )
    assert not bool(found[1].any()) and torch.allclose(found, expected, atol=2e-3)


def test_an_lstm_keeps_its_states(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(6)
    w = {"w": torch.randn(1, 80, 9, generator=g) / 3, "r": torch.randn(1, 80, 20, generator=g) / 4,
         "b": torch.randn(1, 160, generator=g) / 4}  # fmt: skip
    node = Node("LSTM", "cell", ("x", "w", "r", "b", "", "h", "c"), ("y", "yh", "yc"), {"hidden_size": 20})
    ports = (
        Port("x", "float32", (None, None, 9)),
        Port("h", "float32", (1, None, 20)),
        Port("c", "float32", (1, None, 20)),
    )
    model = Model(Graph(ports, ("y", "yh", "yc"), (node,)), MemoryWeights(w), {}, {},
                  Info("a", "b", "MIT", "embedder", "text", "c", 1))  # fmt: skip
    feeds = {"x": torch.randn(12, 3, 9, generator=g), "h": torch.randn(1, 3, 20, generator=g).tanh(),
             "c": torch.randn(1, 3, 20, generator=g)}  # fmt: skip
    shard = convert(model, [feeds], steps=8, out=tmp_path / "a")
    engine, simulation = Engine(shard, Allowance(1 << 20)), Runner(shard, Allowance(1 << 20))
    before = {name: value.clone() for name, value in feeds.items()}
    for _ in range(2):
        found, expected = engine(feeds), simulation(feeds)
        for name in ("y", "yh", "yc"):
            assert found[name].shape == expected[name].shape
            assert torch.allclose(found[name], expected[name], atol=0.02), name
    assert all(torch.equal(before[name], value) for name, value in feeds.items()), (
        "an engine writes into feeds"
    )
    assert torch.equal(found["y"][-1], found["yh"])


def test_devices() -> None:
    assert pick_device("cpu", 10**9) == "cpu" and pick_device("auto", 10) == "cpu"
    with pytest.raises(LearnError, match="auto or one of"):
        pick_device("abacus", 1)
    if not torch.cuda.is_available():
        with pytest.raises(LearnError, match="cpu"):
            pick_device("cuda", 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card here")
def test_a_card_answers_as_the_processor_does(made: tuple[Model, Shard, Feeds]) -> None:
    _, shard, feeds = made
    here, there = (Engine(shard, Allowance(1 << 28), device=name) for name in ("cpu", "cuda"))
    assert cosine(vectors(shard, here, feeds), vectors(shard, there, feeds)) > 0.995


def test_every_place_of_the_graph_is_still_named(made: tuple[Model, Shard, Feeds]) -> None:
    _, shard, feeds = made
    with pytest.raises(LearnError):
        Engine(replace(shard, places={}), Allowance(0), device="abacus")
    outputs = Engine(shard, Allowance(0), events=True)(feeds[0])
    assert set(outputs) == set(shard.graph.outputs)


def one_layer(
    node: Node, w: dict[str, torch.Tensor], x: torch.Tensor, path: Path, *more: Node
) -> tuple[Shard, Engine]:
    port = Port("x", "int64" if x.dtype == torch.int64 else "float32", (None,) * x.dim())
    graph = Graph((port,), ("y",), (*more, node))
    model = Model(graph, MemoryWeights(w), {}, {}, Info("a", "b", "MIT", "embedder", "text", "c", 1))
    shard = convert(model, [{"x": x}], steps=6, out=path)
    return shard, Engine(shard, Allowance(1 << 28), device="cpu", events=True)


@pytest.mark.parametrize(
    ("shape", "kernel", "attrs"),
    [
        ((3, 40, 31), (5,), {}),
        ((2, 40, 30), (3,), {"pads": (2, 1), "strides": (2,), "dilations": (3,)}),
        ((2, 40, 9, 8), (3, 2), {"strides": (1, 3)}),
        ((2, 40, 9, 8), (3, 3), {"auto_pad": "SAME_UPPER"}),
        ((1, 40, 4, 5, 6), (2, 2, 2), {}),
    ],
)
def test_convolutions(
    shape: tuple[int, ...], kernel: tuple[int, ...], attrs: dict[str, object], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(engines, "WINDOW_WEIGHTS_MIN", 1)
    g = torch.Generator().manual_seed(len(shape))
    w = {"w": torch.randn(20, 40, *kernel, generator=g) / 9, "b": torch.randn(20, generator=g)}
    x = torch.randn(shape, generator=g) * (torch.rand(1, 40, *[1] * len(kernel), generator=g) + 0.1)
    shard, engine = one_layer(Node("Conv", "c", ("x", "w", "b"), ("y",), attrs), w, x, tmp_path / "a")  # type: ignore[arg-type]
    if "z:c.0" in shard.specs and attrs.get("pads", attrs.get("auto_pad")):
        assert not engine.windows
        return
    assert set(engine.windows) == {"c"} and engine.shares().float_layers == 0
    found, expected = engine({"x": x})["y"], Runner(shard, Allowance(0))({"x": x})["y"]
    assert found.shape == expected.shape
    layer = engine.windows["c"].layer
    most = float(layer.bound().max()) * layer.in_size * layer.levels
    assert float((found - expected).abs().max()) <= most + 1e-4 < 0.02
    with pytest.raises(LearnError):
        engine({"x": x[:, :7]})
    with pytest.raises(LearnError):
        engine({"x": x[..., :1]} if kernel[-1] > 1 and "auto_pad" not in attrs else {"x": x[0]})


def test_one_hot_rows_are_events(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(8)
    w = {"w": torch.randn(30, 8, generator=g), "all": torch.arange(30)}
    nodes = (Node("Equal", "e", ("x", "all"), ("e",)), Node("Cast", "f", ("e",), ("f",), {"to": 1}))
    x = torch.randint(0, 33, (4, 9, 1), generator=g)  # what is over 29 is a row of noes
    shard, engine = one_layer(Node("MatMul", "m", ("f", "w"), ("y",)), w, x, tmp_path / "a", *nodes)
    assert set(engine.flags) == {"m"}
    found, expected = engine({"x": x})["y"], Runner(shard, Allowance(0))({"x": x})["y"]
    assert torch.allclose(found, expected, atol=1e-5)
    layer = engine.flags["m"]
    for share in (0.0, 0.05, 0.9):
        flags = torch.rand(50, 30, generator=g) < share
        dense = layer.constant + flags.float() @ layer.rows
        assert torch.allclose(layer(flags), dense, atol=1e-4)
    with pytest.raises(LearnError):
        engine({"x": torch.zeros(2, 30, 30, dtype=torch.int64)[..., :7]})
