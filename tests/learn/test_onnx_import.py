"""ONNX files: old opsets, branches, large weights, damage; compared with the reference of the onnx package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from spore_borg.learn.errors import GraphError, LearnError, SourceError
from spore_borg.learn.graph import Graph, Weights
from spore_borg.learn.importers.onnx import read
from spore_borg.learn.run import run
from tests.learn.op_oracle import generator

F, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def port(name: str, shape: list[Any] | None, kind: int = F) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[str],
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    functions: list[Any] | None = None,
    domains: tuple[str, ...] = (),
) -> Any:
    made = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], made)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=functions or [], ir_version=8)


def answer(graph: Graph, weights: Weights, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    # Through text, as a graph travels.
    graph = Graph.from_json(graph.to_json())
    found = run(graph, weights, {name: torch.from_numpy(value) for name, value in feeds.items()})
    return [found[name].numpy() for name in graph.outputs]


def same(proto: Any, feeds: Mapping[str, np.ndarray], **settings: Any) -> Graph:
    graph, weights = read(proto.SerializeToString(), **settings)
    for mine, want in zip(
        answer(graph, weights, feeds), ReferenceEvaluator(proto).run(None, dict(feeds)), strict=True
    ):
        assert mine.shape == want.shape
        np.testing.assert_allclose(mine, want, rtol=1e-5, atol=1e-5)
    return graph


node = helper.make_node
OLD: list[tuple[str, int, list[Any], list[int], dict[str, np.ndarray]]] = [
    ("squeeze", 11, [node("Squeeze", ["x"], ["y"], axes=[0, -1])], [1, 3, 4, 1], {}),
    ("unsqueeze", 11, [node("Unsqueeze", ["x"], ["y"], axes=[0, 2])], [3, 4], {}),
    ("reduce", 13, [node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)], [3, 4], {}),
    ("reduce-all", 11, [node("ReduceSum", ["x"], ["y"])], [3, 4], {}),
    ("split", 11, [node("Split", ["x"], ["a", "y"], split=[1, 3], axis=1)], [3, 4], {}),
    ("slice", 9, [node("Slice", ["x"], ["y"], starts=[1, 0], ends=[3, -1], axes=[0, 1])], [4, 5], {}),
    ("pad", 8, [node("Pad", ["x"], ["y"], pads=[1, 0, 0, 2], value=0.5)], [2, 3], {}),
    ("clip", 9, [node("Clip", ["x"], ["y"], min=-0.5, max=0.4)], [3, 4], {}),
    ("clip-one", 9, [node("Clip", ["x"], ["y"], max=0.4)], [3, 4], {}),
    ("top-k", 9, [node("TopK", ["x"], ["y", "i"], k=2)], [3, 4], {}),
    (
        "dropout",
        11,
        [node("Relu", ["x"], ["h"]), node("Dropout", ["h"], ["d"]), node("Neg", ["d"], ["y"])],
        [3, 4],
        {},
    ),
    ("dropout-end", 11, [node("Relu", ["x"], ["h"]), node("Dropout", ["h"], ["y"])], [3, 4], {}),
    ("softmax-matrix", 11, [node("Softmax", ["x"], ["y"], axis=1)], [2, 3, 4], {}),
    ("log-softmax-default", 9, [node("LogSoftmax", ["x"], ["y"])], [2, 3, 4], {}),
    ("softmax-last", 11, [node("Softmax", ["x"], ["y"], axis=2)], [2, 3, 4], {}),
    (
        "upsample",
        9,
        [node("Upsample", ["x", "s"], ["y"])],
        [1, 1, 2, 3],
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    ("identity-end", 13, [node("Identity", ["x"], ["y"])], [2], {}),
    ("weight-end", 13, [node("Identity", ["w"], ["y"])], [2], {"w": np.ones(3, np.float32)}),
]


def by_hand(name: str, x: np.ndarray) -> np.ndarray | None:
    """What the reference of onnx 1.23 does not do as the old opset says."""
    if name in ("softmax-matrix", "log-softmax-default"):
        flat = x.reshape(x.shape[0], -1)
        soft = np.exp(flat) / np.exp(flat).sum(1, keepdims=True)
        return (np.log(soft) if name.startswith("log") else soft).reshape(x.shape)
    return x.repeat(2, 2).repeat(2, 3) if name == "upsample" else None


@pytest.mark.parametrize(("name", "opset", "nodes", "shape", "weights"), OLD, ids=[item[0] for item in OLD])
def test_old_opsets_take_the_newest_form(
    name: str, opset: int, nodes: list[Any], shape: list[int], weights: dict[str, np.ndarray], seed: int
) -> None:
    x = generator(seed).normal(size=shape).astype(np.float32)
    proto = model(nodes, [port("x", shape)], ["y"], weights, opset)
    want = by_hand(name, x)
    if want is None:
        same(proto, {"x": x})
        return
    (mine,) = answer(*read(proto.SerializeToString()), {"x": x})
    np.testing.assert_allclose(mine, want, rtol=1e-5, atol=1e-5)


def test_softmax_of_unknown_rank_works_on_a_matrix(seed: int) -> None:
    x = generator(seed).normal(size=(2, 3, 4)).astype(np.float32)
    nodes = [node("Relu", ["x"], ["h"]), node("Softmax", ["h"], ["y"], axis=-2)]
    (mine,) = answer(
        *read(model(nodes, [port("x", [2, 3, 4])], ["y"], opset=11).SerializeToString()), {"x": x}
    )
    flat = np.maximum(x, 0).reshape(2, 12)
    np.testing.assert_allclose(
        mine.reshape(2, 12), np.exp(flat) / np.exp(flat).sum(1, keepdims=True), rtol=1e-5
    )


def test_group_norm_of_opset_18_has_a_scale_per_group(seed: int) -> None:
    rng = generator(seed)
    x, scale, bias = (rng.normal(size=s).astype(np.float32) for s in ((2, 6, 5), 3, 3))
    nodes = [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=3)]
    proto = model(nodes, [port("x", [None, 6, 5])], ["y"], {"s": scale, "b": bias}, 18)
    (mine,) = answer(*read(proto.SerializeToString()), {"x": x})
    each = torch.from_numpy(scale.repeat(2)), torch.from_numpy(bias.repeat(2))
    np.testing.assert_allclose(
        mine, torch.group_norm(torch.from_numpy(x), 3, *each).numpy(), rtol=1e-4, atol=1e-5
    )


CONTRIBUTED: list[tuple[str, list[str], int, Callable[..., Any]]] = [
    ("Gelu", ["x"], 1, lambda x, a, b, c: torch.nn.functional.gelu(x)),
    ("FastGelu", ["x", "a"], 1, lambda x, a, b, c: torch.nn.functional.gelu(x + a, approximate="tanh")),
    ("BiasGelu", ["x", "a"], 1, lambda x, a, b, c: torch.nn.functional.gelu(x + a)),
    ("QuickGelu", ["x"], 1, lambda x, a, b, c: x * torch.sigmoid(1.702 * x)),
    (
        "SkipLayerNormalization",
        ["x", "x", "a", "b", "c"],
        1,
        lambda x, a, b, c: torch.layer_norm(2 * x + c, (4,), a, b, 1e-12),
    ),
    (
        "SkipSimplifiedLayerNormalization",
        ["x", "x", "a"],
        4,
        lambda x, a, b, c: torch.rms_norm(2 * x, (4,), a, 1e-12),
    ),
]


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "want"), CONTRIBUTED, ids=[item[0] for item in CONTRIBUTED]
)
def test_operators_of_onnx_runtime(
    op: str, inputs: list[str], outputs: int, want: Callable[..., Any], seed: int
) -> None:
    rng = generator(seed)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    weights = {name: rng.normal(size=4).astype(np.float32) for name in "abc"}
    made = ["y", "", "", "sum"][:outputs]
    nodes = [node(op, inputs, made, domain="com.microsoft")]
    proto = model(
        nodes, [port("x", [None, 4])], [name for name in made if name], weights, domains=("com.microsoft",)
    )
    mine = answer(*read(proto.SerializeToString()), {"x": x})
    expected = want(torch.from_numpy(x), *(torch.from_numpy(weights[name]) for name in "abc"))
    np.testing.assert_allclose(mine[0], expected.numpy(), rtol=1e-4, atol=1e-5)
    assert outputs == 1 or np.array_equal(mine[1], x + x)


def branch(condition: list[Any], **settings: Any) -> Any:
    yes = helper.make_graph([node("Mul", ["x", "two"], ["t"])], "yes", [], [port("t", None)])
    no = helper.make_graph(
        [node("Add", ["x", "shift"], ["t"])], "no", [], [port("t", None)],
        [numpy_helper.from_array(np.array(5.0, np.float32), "shift")],
    )  # fmt: skip
    nodes = [*condition, node("If", ["c"], ["h"], then_branch=yes, else_branch=no), node("Neg", ["h"], ["y"])]
    weights = {
        "two": np.array(2.0, np.float32),
        "rate": np.array(16000),
        "two_axes": np.array(2),
        "zero": np.array(0),
    }
    return model(nodes, settings.pop("inputs"), ["y"], weights)


def test_a_bound_input_decides_a_branch() -> None:
    proto = branch([node("Equal", ["sr", "rate"], ["c"])], inputs=[port("x", ["n", 3]), port("sr", [], I64)])
    x = np.ones((2, 3), np.float32)
    for rate, want in ((16000, -2.0), (8000, -6.0)):
        graph, weights = read(proto.SerializeToString(), values={"sr": rate})
        assert [item.name for item in graph.inputs] == ["x"] and "If" not in {item.op for item in graph.nodes}
        assert (answer(graph, weights, {"x": x})[0] == want).all()
    with pytest.raises(SourceError, match=r"depends on what is fed.*values="):
        read(proto.SerializeToString())


def test_shapes_decide_a_branch_that_depends_on_them() -> None:
    rows = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["rows"]),
        node("Equal", ["rows", "two_axes"], ["c"]),
    ]
    proto = branch(rows, inputs=[port("x", ["n", 3])])
    with pytest.raises(SourceError, match="one way for some sizes and the other way for others"):
        read(proto.SerializeToString())
    for n, want in ((2, -2.0), (4, -6.0)):
        graph, weights = read(proto.SerializeToString(), shapes={"x": (n, 3)})
        assert (answer(graph, weights, {"x": np.ones((n, 3), np.float32)})[0] == want).all()
    rank = [
        node("Shape", ["x"], ["s"]),
        node("Size", ["s"], ["rank"]),
        node("Equal", ["rank", "two_axes"], ["c"]),
    ]
    graph, weights = read(branch(rank, inputs=[port("x", ["n", 3])]).SerializeToString())
    assert [item.op for item in graph.nodes] == ["Mul", "Neg"]


def test_functions_are_inlined() -> None:
    body = [node("Add", ["a", "a"], ["t"]), node("Relu", ["t"], ["b"])]
    twice = helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [node("Twice", ["x"], ["h"], domain="mine"), node("Twice", ["h"], ["y"], domain="mine")]
    proto = model(nodes, [port("x", [2])], ["y"], functions=[twice], domains=("mine",))
    graph = same(proto, {"x": np.array([1.0, -1.0], np.float32)})
    assert [item.op for item in graph.nodes] == ["Add", "Relu", "Add", "Relu"]


def test_constants_fold_and_dead_operators_go() -> None:
    nodes = [
        node("Constant", [], ["k"], value_floats=[1.0, 2.0]),
        node("Add", ["k", "k"], ["kk"]),
        node("Exp", ["x"], ["unused"]),
        node("Mul", ["x", "kk"], ["y"]),
    ]
    graph = same(model(nodes, [port("x", [2])], ["y"]), {"x": np.array([1.0, -1.0], np.float32)})
    assert [item.op for item in graph.nodes] == ["Mul"] and list(graph.weight_names()) == ["kk"]


def test_a_mask_of_minus_infinity_travels_as_text() -> None:
    fill = helper.make_tensor("v", F, [1], [float("-inf")])
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["s"], ["m"], value=fill),
        node("Max", ["x", "m"], ["y"]),
    ]
    same(model(nodes, [port("x", ["n"])], ["y"]), {"x": np.array([1.0, -1.0], np.float32)})


def test_inputs_of_other_types_are_fed_as_ours() -> None:
    nodes = [
        node("Cast", ["p"], ["f"], to=F),
        node("Cast", ["h"], ["g"], to=F),
        node("Add", ["f", "g"], ["y"]),
    ]
    kinds = [port("p", [3], TensorProto.UINT8), port("h", [3], TensorProto.FLOAT16)]
    graph, weights = read(model(nodes, kinds, ["y"]).SerializeToString())
    assert [item.dtype for item in graph.inputs] == ["int64", "float32"]
    feeds = {"p": np.array([0, 7, 255]), "h": np.array([0.5, 1.5, 2.5], np.float32)}
    assert answer(graph, weights, feeds)[0].tolist() == [0.5, 8.5, 257.5]


@pytest.fixture
def large(seed: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Weights above the size that stays in the file: plain, half, transposed, quantised."""
    rng = generator(seed)
    weights = {
        "plain": rng.normal(size=(600, 500)).astype(np.float32),
        "half": rng.normal(size=(500, 600)).astype(np.float16),
        "turned": rng.normal(size=(500, 600)).astype(np.float32),
        "bytes": rng.integers(-127, 127, (1200, 1100)).astype(np.int8),
        "scale": np.array(0.01, np.float32),
        "zero": np.array(3, np.int8),
    }
    nodes = [
        node("MatMul", ["x", "plain"], ["a"]),
        node("Cast", ["half"], ["whole"], to=F),
        node("MatMul", ["a", "whole"], ["b"]),
        node("Transpose", ["turned"], ["t"], perm=[1, 0]),
        node("MatMul", ["b", "t"], ["c"]),
        node("DequantizeLinear", ["bytes", "scale", "zero"], ["q"]),
        node("ReduceSum", ["q"], ["r"]),
        node("Mul", ["c", "r"], ["y"]),
    ]
    proto = model(nodes, [port("x", [None, 600])], ["y"], weights, opset=21)
    return proto, {"x": rng.normal(size=(2, 600)).astype(np.float32) * 1e-3}


@pytest.mark.parametrize("external", [False, True])
def test_large_weights_stay_in_the_file(
    external: bool, large: tuple[Any, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    proto, feeds = large
    want = ReferenceEvaluator(proto).run(None, feeds)[0]
    path = tmp_path / "model.onnx"
    if external:
        onnx.save_model(
            proto, path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024
        )
    else:
        onnx.save(proto, path)
    graph, weights = read(path)
    held = sum(value.nbytes for value in weights._kept.values())  # type: ignore[attr-defined]  # what is in memory
    assert held < 100
    assert set(weights.names()) == {"plain", "whole", "t", "q"} == set(graph.weight_names())
    assert weights.shape("t") == (600, 500) and weights.load("whole").dtype == torch.float32
    np.testing.assert_allclose(
        answer(graph, weights, feeds)[0], want, rtol=1e-3, atol=1e-3 * np.abs(want).max()
    )


def test_external_weights_come_from_beside_the_file_only(
    large: tuple[Any, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    proto, _ = large
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "model.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="w.data", size_threshold=1024)
    saved = onnx.load(path, load_external_data=False)
    (tmp_path / "w.data").write_bytes((path.parent / "w.data").read_bytes())

    def located(name: str) -> bytes:
        for tensor in saved.graph.initializer:
            for item in tensor.external_data:
                if item.key == "location":
                    item.value = name
        return bytes(saved.SerializeToString())

    for name in ("../w.data", str(tmp_path / "w.data"), "..", "sub/w.data", ""):
        path.write_bytes(located(name))
        with pytest.raises(SourceError, match="only files beside it"):
            read(path)
    (path.parent / "link.data").symlink_to(tmp_path / "w.data")
    path.write_bytes(located("link.data"))
    with pytest.raises(SourceError, match="leads elsewhere"):
        read(path)
    path.write_bytes(located("absent.data"))
    with pytest.raises(SourceError, match="not beside it"):
        read(path)
    (path.parent / "short.data").write_bytes(b"short")
    path.write_bytes(located("short.data"))
    with pytest.raises(SourceError, match="ends before"):
        read(path)


def test_damage_is_a_sentence_and_never_a_crash(
    large: tuple[Any, dict[str, np.ndarray]], tmp_path: Path, seed: int
) -> None:
    proto, _ = large
    data = proto.SerializeToString()
    rng = generator(seed)
    path = tmp_path / "model.onnx"
    for length in (0, 1, 7, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(SourceError):
            read(path)
    small = model([node("Relu", ["x"], ["y"])], [port("x", [2])], ["y"]).SerializeToString()
    read_well = 0
    for _ in range(300):
        broken = bytearray(small)
        broken[rng.integers(len(broken))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(broken))
        try:
            graph, weights = read(path)
            run(graph, weights, {"x": torch.zeros(2)})
            read_well += 1
        except LearnError:
            pass  # a sentence; anything else fails the test
    assert read_well < 300


WRONG: list[tuple[str, Any, str]] = [
    ("opset", model([node("Relu", ["x"], ["y"])], [port("x", [2])], ["y"], opset=6), "opset 6"),
    ("operator", model([node("Magic", ["x"], ["y"])], [port("x", [2])], ["y"]), "Magic"),
    ("random", model([node("RandomNormalLike", ["x"], ["y"])], [port("x", [2])], ["y"]), "RandomNormalLike"),
    ("domain", model([node("Gelu", ["x"], ["y"], domain="evil")], [port("x", [2])], ["y"], domains=("evil2",)), "Gelu"),
    ("text", model([node("Relu", ["x"], ["y"])], [port("x", [2], TensorProto.STRING)], ["y"]), "only numbers"),
    ("missing", model([node("Add", ["x", "z"], ["y"])], [port("x", [2])], ["y"]), "nothing makes"),
    ("no output", model([node("Relu", ["x"], ["h"])], [port("x", [2])], ["y"]), "nothing makes"),
    ("deep", model([node("Relu", ["x"], ["y"])], [port("x", [1] * 9)], ["y"]), "does not fit"),
    ("fold", model([node("MatMul", ["a", "a"], ["y"])], [], ["y"], {"a": np.zeros((2, 3), np.float32)}), "cannot work"),
    ("loop", model([node("Loop", [], ["y"], body=helper.make_graph([], "b", [], []))], [], ["y"]), "not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("proto", "match"), [item[1:] for item in WRONG], ids=[item[0] for item in WRONG])
def test_what_is_not_supported_is_named(proto: Any, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        read(proto.SerializeToString())


def test_shapes_and_values_name_inputs_that_exist() -> None:
    data = model([node("Relu", ["x"], ["y"])], [port("x", ["n", 2])], ["y"]).SerializeToString()
    with pytest.raises(SourceError, match="has no input 'z'"):
        read(data, shapes={"z": (1,)})
    with pytest.raises(SourceError, match="does not fit"):
        read(data, shapes={"x": (1, 3)})
    graph, weights = read(data, shapes={"x": (4, 2)})
    with pytest.raises(GraphError, match=r"shape \[3, 2\]; feed shape \[4, 2\]"):
        run(graph, weights, {"x": torch.zeros(3, 2)})


def test_long_and_odd_names_are_bounded_and_unique() -> None:
    long = "n" * 5000
    nodes = [
        node("Relu", ["x"], [long + "1"], name="same"),
        node("Neg", [long + "1"], [long + "2"], name="same"),
    ]
    nodes.append(node("Abs", [long + "2"], ["y"], name="a\nb"))
    graph = same(model(nodes, [port("x", [2])], ["y"]), {"x": np.array([1.0, -1.0], np.float32)})
    assert len({item.name for item in graph.nodes}) == 3
