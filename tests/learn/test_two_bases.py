"""Where one base is too coarse: inputs that get a second one, and mantissas of at least ten bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spore_borg.learn import shard as shards
from spore_borg.learn.errors import ShardError
from spore_borg.learn.graph import Graph, Info, Model, Node, Port
from spore_borg.learn.run import Allowance, MemoryWeights
from spore_borg.learn.shard import Shard, Spec, open_shard
from spore_borg.learn.spike import engine as engines
from spore_borg.learn.spike.codes import FEW_SPIKE, RATE, Code
from spore_borg.learn.spike.convert import Maker, convert, redo, thresholds_of, write
from spore_borg.learn.spike.counts import Count
from spore_borg.learn.spike.engine import Engine
from spore_borg.learn.spike.refine import refined
from spore_borg.learn.spike.run import Runner, run_spiking

torch.set_num_threads(1)
INFO = Info("toy", "file:toy", "MIT", "embedder", "text", "toy", 1)


def tailed(*shape: int, seed: int = 1) -> torch.Tensor:
    """Normal numbers, one in twenty five times as large: hard on few levels."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g)
    return torch.where(torch.rand(shape, generator=g) < 0.05, 5 * x, x)


def model_of(port: Port, weights: dict[str, torch.Tensor], *nodes: Node) -> Model:
    return Model(Graph((port,), ("y",), nodes), MemoryWeights(weights), {"kind": "none"}, {}, INFO)


def product(outputs: int = 24) -> tuple[Model, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    w = {"w": torch.randn(20, outputs, generator=g), "v": torch.randn(outputs, 3, generator=g)}
    nodes = (Node("MatMul", "m", ("x", "w"), ("a",)), Node("MatMul", "n", ("a", "v"), ("y",)))
    return model_of(Port("x", "float32", (None, 20)), w, *nodes), tailed(400, 20)


def two(shard: Shard) -> set[str]:
    return {name[2:] for name in shard.specs if name.startswith("f:")}


def test_a_coarse_input_gets_a_second_base_and_a_fine_one_does_not(tmp_path: Path) -> None:
    model, x = product()
    assert "m.0" in two(convert(model, [{"x": x}], steps=4, out=tmp_path / "a"))
    assert not two(convert(model, [{"x": x}], steps=7, out=tmp_path / "b"))
    assert not two(convert(model, [{"x": x}], rule=RATE, steps=8, out=tmp_path / "c"))
    even = torch.rand(400, 20, generator=torch.Generator().manual_seed(3))
    assert "m.0" not in two(convert(model, [{"x": even}], steps=4, out=tmp_path / "d"))


def test_it_is_two_populations_of_neurons_and_both_are_counted(tmp_path: Path) -> None:
    model, x = product()
    shard, code = convert(model, [{"x": x}], steps=4, out=tmp_path / "a"), Code(FEW_SPIKE, 4)
    s = shard.tensor("f:m.0")
    k = code.fine(x, s)
    size, one = k.abs(), torch.ones(())
    coarse, accumulated, spikes = torch.floor(size / 16), torch.zeros_like(k), 0.0
    for weight, part in ((16, coarse), (1, size - 16 * coarse)):
        for step, events in code.train(part, one):
            accumulated += weight * step * events
            spikes += float(events.sum())
    assert torch.equal(accumulated.copysign(k), k) and spikes > float(code.spikes(coarse).sum())
    seen: dict[str, torch.Tensor] = {}
    count = Count()
    run_spiking(
        shard, {"x": x}, count=count, watch=lambda node, _, out: seen.update({node.name: out[0].clone()})
    )
    assert torch.equal(seen["m"], (k * s) @ shard.weights().load("w"))
    cost = count.of("m")
    assert cost.spikes == spikes and cost.values == x.numel()
    assert cost.synops == pytest.approx(spikes / x.numel() * cost.macs)


def test_every_group_can_be_made_again_and_a_refinement_leaves_it_alone(tmp_path: Path) -> None:
    model, x = product()
    feeds = [{"x": x[:200]}, {"x": x[200:]}]
    shard = convert(model, feeds, steps=4, segments=2, out=tmp_path / "a")
    assert two(shard)
    digests = shard.digests()
    for segment in range(2):
        start, _, end = redo(model, feeds, shard, segment, 3, steps=4)
        assert (start, end) == (digests[segment], digests[segment + 1])
    thresholds = refined(model, feeds, shard, shard.code)
    assert two(shard) <= {key for key, one in thresholds.items() if one.fine}
    assert all(torch.equal(thresholds[key].s, shard.tensor("f:" + key)) for key in two(shard))
    again = write(Maker(model, shard.code, 2, thresholds_of(shard)), tmp_path / "b")
    assert again.path.read_bytes() == shard.path.read_bytes()


def engine_and_simulation(model: Model, feeds: dict[str, torch.Tensor], path: Path) -> tuple[Engine, float]:
    """An engine, and by how much it differs, as a share of the largest output."""
    shard = convert(model, [feeds], steps=4, out=path)
    assert two(shard)
    engine = Engine(shard, Allowance(1 << 28), device="cpu", events=True)
    found, expected = engine(feeds)["y"], Runner(shard, Allowance(1 << 28))(feeds)["y"]
    return engine, float((found - expected).abs().max() / expected.abs().max())


def test_the_engine_takes_the_simulations_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WEIGHTS_MIN", 1)
    monkeypatch.setattr(engines, "WINDOW_WEIGHTS_MIN", 1)
    model, x = product(outputs=64)
    engine, apart = engine_and_simulation(model, {"x": x}, tmp_path / "a")
    assert "m" not in engine.layers and apart < 0.02

    g = torch.Generator().manual_seed(5)
    node = Node("Conv", "c", ("x", "w"), ("y",), {})
    conv = model_of(Port("x", "float32", (None, 20, None)), {"w": torch.randn(20, 20, 3, generator=g)}, node)
    engine, apart = engine_and_simulation(conv, {"x": tailed(8, 20, 40)}, tmp_path / "b")
    assert not engine.windows and apart < 0.02


def test_the_quick_lstm_knows_a_state_of_two_bases(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(6)
    w = {"w": torch.randn(1, 80, 9, generator=g) / 3, "r": torch.randn(1, 80, 20, generator=g) / 4}
    model = model_of(
        Port("x", "float32", (None, None, 9)), w,
        Node("LSTM", "cell", ("x", "w", "r"), ("y",), {"hidden_size": 20}),
    )  # fmt: skip
    feeds = {"x": torch.randn(12, 3, 9, generator=g)}
    base = convert(model, [feeds], steps=4, out=tmp_path / "a")
    given = thresholds_of(base)
    fine = replace(given["cell.5"], s=torch.tensor(1.0 / base.code.fine_levels), z=None, fine=True)
    shard = write(Maker(model, base.code, 8, {**given, "cell.5": fine}), tmp_path / "b")
    found, expected = Engine(shard, Allowance(1 << 20))(feeds)["y"], Runner(shard, Allowance(0))(feeds)["y"]
    assert torch.allclose(found, expected, atol=0.02)
    assert not torch.equal(expected, Runner(base, Allowance(0))(feeds)["y"])


def test_a_shard_names_one_threshold_for_an_input_and_two_bases_only_for_products(tmp_path: Path) -> None:
    model, x = product()
    shard = convert(model, [{"x": x}], steps=4, out=tmp_path / "a")

    def altered(extra: dict[str, torch.Tensor]) -> Path:
        specs = {**shard.specs, **{name: Spec("F32", tuple(value.shape)) for name, value in extra.items()}}
        shards.write(
            tmp_path / "b",
            shard.metadata,
            specs,
            lambda name: extra[name] if name in extra else shard.tensor(name),
        )
        return tmp_path / "b"

    s = shard.tensor("f:m.0")
    for wrong in ({"t:m.0": s}, {"z:m.0": s}, {"f:m.1": s}):
        with pytest.raises(ShardError, match="belongs to no coded input"):
            open_shard(altered(wrong))
    with pytest.raises(ShardError, match="above 0"):
        open_shard(altered({"f:m.0": -s})).tensor("f:m.0")


@pytest.mark.parametrize(("steps", "bits"), [(1, 10), (2, 10), (3, 12), (4, 12), (5, 10), (8, 16), (16, 20)])
def test_mantissas_have_ten_bits_or_two_bases(steps: int, bits: int) -> None:
    code = Code(FEW_SPIKE, steps)
    assert code.mantissa_levels == 2**bits - 1
    k = torch.arange(code.mantissa_levels + 1)
    spikes, left = torch.zeros(len(k)), k.clone()
    while bool(left.any()):  # what each base of T neurons fires
        spikes += code.spikes((left & code.levels).float())
        left >>= steps
    assert torch.equal(code.fine_spikes(k.float()), spikes)
    if steps >= 5:
        assert code.mantissa_levels == code.fine_levels
    assert Code(RATE, steps).mantissa_levels == Code(RATE, steps).fine_levels


def test_a_variance_of_two_squares_survives_four_steps(tmp_path: Path) -> None:
    keep = {"keepdims": 1}
    nodes = (
        Node("Mul", "square", ("x", "x"), ("xx",)),
        Node("ReduceMean", "e", ("xx", "axes"), ("exx",), keep),
        Node("ReduceMean", "mean", ("x", "axes"), ("ex",), keep),
        Node("Mul", "of", ("ex", "ex"), ("exex",)),
        Node("Sub", "var", ("exx", "exex"), ("y",)),
    )
    model = model_of(Port("x", "float32", (None, 256)), {"axes": torch.tensor([-1])}, *nodes)
    x = 3 + 0.3 * torch.randn(64, 256, generator=torch.Generator().manual_seed(9))
    shard = convert(model, [{"x": x}], steps=4, out=tmp_path / "a")
    expected = x.var(-1, unbiased=False, keepdim=True)
    assert float((run_spiking(shard, {"x": x})["y"] / expected - 1).abs().max()) < 0.05
