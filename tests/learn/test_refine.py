"""Refinement lowers the error on items that it was not fitted to, or changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spore_borg.learn.errors import ShardError
from spore_borg.learn.graph import Graph, Info, Model, Node, Port
from spore_borg.learn.run import Allowance, MemoryWeights, run
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.calibrate import Threshold
from spore_borg.learn.spike.codes import FEW_SPIKE, Code
from spore_borg.learn.spike.convert import Maker, convert, redo, thresholds_of, write
from spore_borg.learn.spike.counts import Count
from spore_borg.learn.spike.engine import Engine
from spore_borg.learn.spike.refine import refine, refined
from spore_borg.learn.spike.run import run_spiking

torch.set_num_threads(1)  # two threads on small tensors wait for each other


def network(seed: int) -> tuple[Model, list[dict[str, torch.Tensor]]]:
    """Two layers, and activations of which a few are large, as in trained networks."""
    print("seed", seed)
    g = torch.Generator().manual_seed(seed)
    w = {"a": torch.randn(24, 32, generator=g), "b": torch.randn(32, 12, generator=g)}
    nodes = (
        Node("MatMul", "one", ("x", "a"), ("h",)),
        Node("Tanh", "act", ("h",), ("t",)),
        Node("MatMul", "two", ("t", "b"), ("y",)),
    )
    info = Info("toy", "file:toy", "MIT", "embedder", "text", "toy", 1)
    model = Model(Graph((Port("x", "float32", (None, 24)),), ("y",), nodes), MemoryWeights(w), {}, {}, info)
    feeds = [{"x": torch.randn(40, 24, generator=g) ** 3} for _ in range(6)]
    return model, feeds


def error(model: Model, shard: Shard, feeds: list[dict[str, torch.Tensor]]) -> float:
    a = torch.cat([run(model.graph, model.weights, one)["y"] for one in feeds])
    b = torch.cat([run_spiking(shard, one)["y"] for one in feeds])
    return float(1 - torch.nn.functional.cosine_similarity(a, b, dim=-1).mean())


def spikes(shard: Shard, feeds: list[dict[str, torch.Tensor]]) -> float:
    count = Count()
    for one in feeds:
        run_spiking(shard, one, count=count)
    return count.total().spikes


def spoilt(model: Model, shard: Shard, out: Path) -> Shard:
    """The same shard with thresholds that are 1.6 times too wide."""
    wide = {key: Threshold(one.s * 1.6, one.z) for key, one in thresholds_of(shard).items()}
    return write(Maker(model, shard.code, len(shard.layers), wide), out)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bad_thresholds_get_better_on_other_items(tmp_path: Path, seed: int) -> None:
    model, feeds = network(seed)
    good = convert(model, feeds[:4], steps=4, segments=2, out=tmp_path / "good")
    base = spoilt(model, good, tmp_path / "base")
    better = refine(model, feeds[:4], base, tmp_path / "better")
    assert error(model, better, feeds[4:]) < 0.8 * error(model, base, feeds[4:])
    assert better.code == base.code and better.layers == base.layers


def test_it_never_gets_worse_on_what_was_held_out(tmp_path: Path) -> None:
    model, feeds = network(5)
    base = convert(model, feeds[:4], steps=3, segments=2, out=tmp_path / "base")
    better = refine(model, feeds[:4], base, tmp_path / "better")
    assert error(model, better, feeds[1:4:2]) <= error(model, base, feeds[1:4:2]) + 1e-7


def test_every_group_can_be_made_again(tmp_path: Path) -> None:
    model, feeds = network(7)
    base = spoilt(model, convert(model, feeds, steps=4, segments=2, out=tmp_path / "good"), tmp_path / "base")
    better = refine(model, feeds, base, tmp_path / "better")
    digests = better.digests()
    assert digests[-1] != base.digests()[-1]
    for segment in range(2):
        start, _, end = redo(model, feeds, better, segment, 1, steps=4, base=base)
        assert (start, end) == (digests[segment], digests[segment + 1])


@pytest.mark.parametrize("seed", [3, 4])
def test_second_bases_pay_for_their_spikes_and_everything_reads_them(tmp_path: Path, seed: int) -> None:
    model, feeds = network(seed)
    base = convert(model, feeds[:4], steps=5, segments=2, out=tmp_path / "base")
    better = refine(model, feeds[:4], base, tmp_path / "better")
    fresh = {name for name in better.specs if name.startswith("f:")} - set(base.specs)
    assert fresh, "an input that one base holds coarsely gets a second one"
    before, after = error(model, base, feeds[4:]), error(model, better, feeds[4:])
    assert after * spikes(better, feeds[4:]) < before * spikes(base, feeds[4:]), "on other items too"
    for segment in range(2):
        _, _, end = redo(model, feeds[:4], better, segment, 1, steps=5, base=base)
        assert end == better.digests()[segment + 1]
    answers = Engine(better, Allowance(1 << 20), device="cpu", events=True)(feeds[4])["y"]
    torch.testing.assert_close(answers, run_spiking(better, feeds[4])["y"], rtol=1e-3, atol=1e-2)


def test_a_refined_shard_can_be_refined_again(tmp_path: Path) -> None:
    model, feeds = network(3)
    base = convert(model, feeds[:4], steps=5, segments=2, out=tmp_path / "base")
    once = refine(model, feeds[:4], base, tmp_path / "once")
    twice = refine(model, feeds[:4], once, tmp_path / "twice")
    assert {name for name in once.specs if name[:2] == "f:"} <= set(twice.specs), "a second base stays"
    assert error(model, twice, feeds[1:4:2]) <= error(model, once, feeds[1:4:2]) + 1e-7


def test_one_batch_is_halved_and_another_code_refused(tmp_path: Path) -> None:
    model, feeds = network(9)
    base = convert(model, feeds, steps=4, segments=2, out=tmp_path / "base")
    assert set(refined(model, feeds[:1], base, base.code)) == set(thresholds_of(base))
    with pytest.raises(ShardError):
        refined(model, feeds, base, Code(FEW_SPIKE, 5))
    with pytest.raises(ShardError):
        refined(model, [{"x": torch.ones(1, 24)}], base, base.code)
