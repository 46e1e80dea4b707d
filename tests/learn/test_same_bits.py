"""What codes and neurons compute, written out step by step: the quick forms give the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spore_borg.learn.graph import Graph, Info, Model, Node, Port
from spore_borg.learn.run import MemoryWeights
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.calibrate import FLAT
from spore_borg.learn.spike.codes import FEW_SPIKE, RATE, Code
from spore_borg.learn.spike.convert import convert
from spore_borg.learn.spike.run import run_spiking

torch.set_num_threads(1)
EDGES = [
    0.0,
    -0.0,
    1e-45,
    -3e-39,
    1.17549435e-38,
    1.7e38,
    3.4e38,
    -2e38,
    float("inf"),
    float("-inf"),
    float("nan"),
]
CODES = st.sampled_from(
    [(FEW_SPIKE, 1), (FEW_SPIKE, 5), (FEW_SPIKE, 8), (FEW_SPIKE, 16), (RATE, 7), (RATE, 64)]
)


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.int32)


def level(x: torch.Tensor, s: torch.Tensor | float, most: int) -> torch.Tensor:
    """sign(x) * min(most, floor(|x| / s + 1/2)); NaN is no spike."""
    return torch.nan_to_num(torch.copysign(torch.floor(x.abs() / s + 0.5).clamp(max=float(most)), x), nan=0.0)


def shifted(code: Code, x: torch.Tensor) -> torch.Tensor:
    finite = torch.isfinite(x)
    mantissa, exponent = torch.frexp(torch.where(finite, x, torch.zeros_like(x)))
    s = 1.0 / (code.mantissa_levels + 1)
    return torch.where(finite, torch.ldexp(level(mantissa, s, code.mantissa_levels) * s, exponent), x)


def numbers(seed: int, count: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=g) * torch.exp(torch.randn(count, generator=g) * 9)
    near = torch.randint(1, 9_999, (count,), generator=g).float() + 0.5  # ties and their neighbours
    return torch.cat([x, near, torch.nextafter(near, near * 0), torch.tensor(EDGES)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), CODES, st.booleans())
def test_codes(seed: int, code: tuple[str, int], edges: bool) -> None:
    print("seed", seed)
    one = Code(*code)
    x = numbers(seed, 500)
    x = x if edges else x[: -len(EDGES)]
    before, s = x.clone(), torch.rand(len(x), generator=torch.Generator().manual_seed(seed)) + 0.01
    assert torch.equal(bits(one.quantise(x, s)), bits(level(x, s, one.levels)))
    assert torch.equal(bits(one.fine(x, 0.3)), bits(level(x, 0.3, one.fine_levels)))
    assert torch.equal(bits(one.mantissas(x)), bits(shifted(one, x)))
    assert torch.equal(bits(one.mantissas(x[::3])), bits(shifted(one, x[::3])))
    assert torch.equal(bits(x), bits(before)), "a code writes into what it is given"
    assert one.mantissas(x[:0]).numel() == 0


def test_every_mantissa_is_rounded_as_the_neuron_rounds_it() -> None:
    every = torch.arange(0x3F000000, 0x3F800000, dtype=torch.int32).view(torch.float32)  # [1/2, 1)
    for steps in (1, 2, 3, 4, 5, 9, 10, 16):
        code = Code(FEW_SPIKE, steps)
        assert torch.equal(bits(code.mantissas(every)), bits(shifted(code, every))), steps


def cell(
    op: str, tmp_path: Path, hidden: int, direction: str, after: int
) -> tuple[Shard, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(hidden)
    ways, gates = (2 if direction == "bidirectional" else 1), (4 if op == "LSTM" else 3)
    w = {
        "w": torch.randn(ways, gates * hidden, 6, generator=g) / 2,
        "r": torch.randn(ways, gates * hidden, hidden, generator=g) / 2,
        "b": torch.randn(ways, 2 * gates * hidden, generator=g) / 4,
    }
    attrs: dict[str, int | str] = {"hidden_size": hidden, "direction": direction}
    if op == "GRU":
        attrs["linear_before_reset"] = after
    node = Node(op, "cell", ("x", "w", "r", "b", "n"), ("y",), attrs)
    graph = Graph((Port("x", "float32", (None, None, 6)), Port("n", "int64", (None,))), ("y",), (node,))
    info = Info("toy", "file:toy", "MIT", "embedder", "text", "toy", 1)
    feeds = {"x": torch.randn(9, 5, 6, generator=g), "n": torch.tensor([9, 1, 4, 9, 6])}
    return convert(Model(graph, MemoryWeights(w), {}, {}, info), [feeds], out=tmp_path / "a"), feeds


def slowly(
    op: str, shard: Shard, feeds: dict[str, torch.Tensor], direction: int, backwards: bool, after: int
) -> torch.Tensor:
    """One direction, item by item and gate by gate: [t, b, h]."""
    code, w = shard.code, {name: shard.weights().load(name)[direction] for name in "wrb"}
    hidden = w["r"].shape[-1]
    rows = w["w"].shape[0]

    def coded(key: str, x: torch.Tensor) -> torch.Tensor:
        s, z = shard.tensor(f"t:cell.{key}"), 0.0
        if f"z:cell.{key}" in shard.specs:
            z = shard.tensor(f"z:cell.{key}")
            return level(x - z, s, code.levels) * s + z
        return level(x, s, code.levels) * s

    def gate(name: str, x: torch.Tensor) -> torch.Tensor:
        most = code.fine_levels
        s = FLAT[name] / most
        return level(getattr(torch, name.lower())(level(x, s, most) * s), 1.0 / most, most) * (1.0 / most)

    current = coded("0", feeds["x"]) @ w["w"].t() + w["b"][:rows]
    out = torch.zeros(*feeds["x"].shape[:2], hidden)
    h, c = torch.zeros(feeds["x"].shape[1], hidden), torch.zeros(feeds["x"].shape[1], hidden)
    for step in range(len(out)):
        alive = step < feeds["n"]
        at = (feeds["n"] - 1 - step).clamp(min=0) if backwards else torch.full_like(feeds["n"], step)
        now = torch.stack([current[int(t), i] for i, t in enumerate(at)])
        if op == "LSTM":
            gates = now + coded("5", h) @ w["r"].t() + w["b"][rows:]
            i, o, f, z = (part.contiguous() for part in gates.chunk(4, -1))
            fresh_c = gate("Sigmoid", f) * c + gate("Sigmoid", i) * gate("Tanh", z)
            fresh = gate("Sigmoid", o) * gate("Tanh", fresh_c)
            c = torch.where(alive[:, None], fresh_c, c)
        else:
            held, bias = coded("5", h), w["b"][rows:]
            both = now[:, : 2 * hidden] + held @ w["r"][: 2 * hidden].t() + bias[: 2 * hidden]
            update, reset = (gate("Sigmoid", part.contiguous()) for part in both.chunk(2, -1))
            inner = w["r"][2 * hidden :]
            if after:
                drive = reset * (held @ inner.t() + bias[2 * hidden :])
            else:
                drive = coded("5", reset * held) @ inner.t() + bias[2 * hidden :]
            fresh = (1 - update) * gate("Tanh", now[:, 2 * hidden :] + drive) + update * held
        h = torch.where(alive[:, None], fresh, h)
        for i, t in enumerate(at):
            if alive[i]:
                out[int(t), i] = h[i]
    return out


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "after"), [("LSTM", 0), ("GRU", 0), ("GRU", 1)])
@pytest.mark.parametrize("hidden", [5, 32])
def test_recurrent_layers(op: str, after: int, direction: str, hidden: int, tmp_path: Path) -> None:
    shard, feeds = cell(op, tmp_path, hidden, direction, after)
    whole = {"x": feeds["x"], "n": torch.full((5,), 9)}
    graph = replace(shard.graph, inputs=shard.graph.inputs[:1])
    node = graph.nodes[0]
    graph = replace(graph, nodes=(replace(node, inputs=node.inputs[:4]),))
    for form, given_feeds in ((shard, feeds), (shard, whole), (replace(shard, graph=graph), whole)):
        taken = {port.name: given_feeds[port.name] for port in form.graph.inputs}
        found = run_spiking(form, taken)["y"]
        backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
        for way, backwards in enumerate(backward):
            expected = slowly(op, shard, given_feeds, way, backwards, after)
            assert torch.equal(bits(found[:, way]), bits(expected))
