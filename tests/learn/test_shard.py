"""The shard's file: deterministic, lazy, digested; hostile files are refused with a sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spore_borg.learn import shard as shards
from spore_borg.learn.errors import ShardError
from spore_borg.learn.graph import Graph, Info, Model, Node, Port
from spore_borg.learn.run import MemoryWeights, run
from spore_borg.learn.spike.convert import convert
from spore_borg.learn.spike.run import run_spiking
from spore_borg.records.merkle import state_digest

INFO = Info("toy", "file:toy", "MIT", "classifier", "image", "toy", 60)

torch.set_num_threads(1)  # two threads on small tensors wait for each other


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> shards.Shard:
    g = torch.Generator().manual_seed(1)
    nodes = (
        Node("Gemm", "one", ("x", "w1", "b1"), ("h",), {"transB": 1}),
        Node("Relu", "act", ("h",), ("a",)),
        Node("Gemm", "two", ("a", "w2"), ("y",), {}),
    )
    weights = {
        "w1": torch.randn(6, 4, generator=g),
        "b1": torch.zeros(6),
        "w2": torch.randn(6, 3, generator=g),
    }
    graph = Graph((Port("x", "float32", (None, 4)),), ("y",), nodes)
    model = Model(graph, MemoryWeights(weights), {"kind": "raw"}, {"labels": b"abc"}, INFO)
    feeds = [{"x": torch.randn(20, 4, generator=g)}]
    return convert(model, feeds, steps=5, segments=3, out=tmp_path_factory.mktemp("s") / "a.shard")


def parts(path: Path) -> tuple[dict[str, Any], bytearray]:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])


def written(path: Path, header: dict[str, Any], body: bytes) -> Path:
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + body)
    return path


def test_what_is_in_the_file(good: shards.Shard) -> None:
    names = sorted(name for name in good.specs if name[:2] != "z:")  # offsets only where they pay
    assert names == ["a:labels", "d:b1", "q:w1", "q:w2", "s:w1", "s:w2", "t:one.0", "t:two.0"]
    assert [name for group in good.layers for name in group] == ["one", "two"] and len(good.layers) == 3
    assert good.code.steps == 5 and good.info == INFO and good.model().assets == {"labels": b"abc"}
    q, s = good.tensor("q:w1"), good.tensor("s:w1")
    assert (
        q.dtype == torch.int8 and int(q.abs().max()) == 127 and torch.equal(good.weights().load("w1"), q * s)
    )


def test_any_safetensors_reader_reads_it(good: shards.Shard) -> None:
    from safetensors.torch import load_file

    loaded = load_file(good.path)
    assert sorted(loaded) == sorted(good.specs) and torch.equal(loaded["q:w2"], good.tensor("q:w2"))


def test_the_chain_and_the_digests(good: shards.Shard) -> None:
    links = shards.chain(good.path)
    assert len(links) == 4
    assert links[0] == hashlib.sha256(b"shard" + shards.canonical_metadata(good.metadata)).digest()
    for group in range(3):
        assert links[group + 1] == hashlib.sha256(links[group] + good.group_digest(group)).digest()
    params = shards.params_digest(good.path)
    assert good.digests() == [*links[:3], state_digest(params, links[3])]


def test_one_altered_weight_changes_its_group_and_the_params_only(good: shards.Shard, tmp_path: Path) -> None:
    header, body = parts(good.path)
    body[header["q:w2"]["data_offsets"][0]] ^= 1
    other = shards.open_shard(written(tmp_path / "b", header, bytes(body)))
    same = [other.group_digest(k) == good.group_digest(k) for k in range(3)]
    group = next(k for k in range(3) if "two" in good.layers[k])
    assert same == [k != group for k in range(3)] and other.params_digest() != good.params_digest()


def _meta(key: str, value: object) -> Callable[[dict[str, Any], bytearray], None]:
    def change(header: dict[str, Any], body: bytearray) -> None:
        header["__metadata__"][key] = value

    return change


def _entry(name: str, **fields: object) -> Callable[[dict[str, Any], bytearray], None]:
    def change(header: dict[str, Any], body: bytearray) -> None:
        header[name] |= fields

    return change


def _graph(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any], bytearray], None]:
    def apply(header: dict[str, Any], body: bytearray) -> None:
        graph = json.loads(header["__metadata__"]["graph"])
        change(graph)
        header["__metadata__"]["graph"] = json.dumps(graph)

    return apply


def _renamed(old: str, new: str) -> Callable[[dict[str, Any], bytearray], None]:
    def change(header: dict[str, Any], body: bytearray) -> None:
        items = [(new if name == old else name, value) for name, value in header.items()]
        header.clear()
        header.update(items)

    return change


HOSTILE: dict[str, Callable[[dict[str, Any], bytearray], None]] = {
    "another format": _meta("format", "spore-borg-shard/9"),
    "an unknown rule": _meta("rule", "magic/1"),
    "no steps": _meta("steps", "0"),
    "steps that are no number": _meta("steps", "5e3"),
    "a key too many": _meta("extra", "x"),
    "a number among the texts": _meta("rule", 5),
    "groups that miss a layer": _meta("layers", '[["one"],[],[]]'),
    "groups out of order": _meta("layers", '[["two"],["one"]]'),
    "groups that are no lists": _meta("layers", '{"a":1}'),
    "info with another field": _meta("info", '{"name":"x"}'),
    "deep nesting": _meta("adapter", "[" * 100_000),
    "a graph that is none": _meta("graph", "{}"),
    "an operator that nobody runs": _graph(lambda g: g["nodes"][1].__setitem__(0, "System")),
    "a weight that is not there": _graph(lambda g: g["nodes"][2][2].append("w3")),
    "a wrong dtype": _entry("q:w1", dtype="F64"),
    "float weights under an int8 name": _entry("q:w1", dtype="F32"),
    "a huge shape": _entry("q:w1", shape=[1 << 39, 1 << 39]),
    "a negative size": _entry("q:w1", shape=[-6, -4]),
    "overlapping offsets": _entry("q:w2", data_offsets=[0, 18]),
    "a scale of another shape": _entry("s:w1", shape=[1, 6]),
    "a tensor of an unknown kind": _renamed("a:labels", "Z:labels"),
    "a threshold of no operator": _renamed("t:two.0", "t:two.7"),
    "tensors out of order": _renamed("a:labels", "s:zz"),
    "bytes behind the end": lambda header, body: body.extend(b"x"),
    "bytes missing": lambda header, body: body.__delitem__(slice(-4, None)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused(good: shards.Shard, tmp_path: Path, what: str) -> None:
    header, body = parts(good.path)
    HOSTILE[what](header, body)
    with pytest.raises(ShardError):
        shards.open_shard(written(tmp_path / "bad.shard", header, bytes(body)))


@pytest.mark.parametrize(
    "raw", [b"", b"x", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}", b"\2" + bytes(7) + b"[]"]
)
def test_no_shard_at_all(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw)
    with pytest.raises(ShardError):
        shards.open_shard(path)
    with pytest.raises(ShardError):
        shards.open_shard(tmp_path / "absent")


@pytest.mark.parametrize("name", ["s:w1", "t:one.0", "d:b1"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_numbers_that_are_not_usable_are_refused_when_read(
    good: shards.Shard, tmp_path: Path, name: str, value: float
) -> None:
    if name == "d:b1" and value == value:
        pytest.skip("a bias may be any number; an attention mask may be infinite")
    header, body = parts(good.path)
    at = header[name]["data_offsets"][0]
    body[at : at + 4] = bytes(torch.tensor([value]).numpy().tobytes())
    bad = shards.open_shard(written(tmp_path / "bad.shard", header, bytes(body)))
    with pytest.raises(ShardError):
        run_spiking(bad, {"x": torch.ones(1, 4)})


def test_a_shard_runs_dense_too(good: shards.Shard) -> None:
    x = {"x": torch.randn(5, 4, generator=torch.Generator().manual_seed(2))}
    model = good.model()
    dense, spiking = run(model.graph, model.weights, x)["y"], run_spiking(good, x)["y"]
    assert torch.nn.functional.cosine_similarity(dense.flatten(), spiking.flatten(), 0) > 0.99


def test_a_stopped_writer_leaves_nothing(tmp_path: Path) -> None:
    def make(name: str) -> torch.Tensor:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        shards.write(tmp_path / "x", {}, {"d:a": shards.Spec("F32", (1,))}, make)
    assert list(tmp_path.iterdir()) == []
