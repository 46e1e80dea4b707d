"""One operator run by us and by the reference implementation of the onnx package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from spore_borg.learn.graph import Graph, Node
from spore_borg.learn.run import MemoryWeights, run

OPSET = 23


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def reference(
    op: str, arrays: list[np.ndarray | None], attrs: Mapping[str, Any], outputs: int
) -> list[np.ndarray]:
    names = [f"x{n}" if array is not None else "" for n, array in enumerate(arrays)]
    made = [f"y{n}" for n in range(outputs)]
    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    ]
    node = helper.make_node(op, names, made, **attrs)
    graph = helper.make_graph([node], "one", ports, [onnx.ValueInfoProto(name=name) for name in made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    return ReferenceEvaluator(model).run(
        made, {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    )


def ours(
    op: str, arrays: list[np.ndarray | None], attrs: Mapping[str, Any], outputs: int
) -> list[np.ndarray]:
    names = tuple(f"x{n}" if array is not None else "" for n, array in enumerate(arrays))
    made = tuple(f"y{n}" for n in range(outputs))
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in attrs.items()}
    graph = Graph((), made, (Node(op, "one", names, made, plain),))
    weights = {
        name: torch.from_numpy(array.copy())
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    }
    before = {name: value.clone() for name, value in weights.items()}
    found = run(graph, MemoryWeights(weights), {})
    assert all(torch.equal(before[n], weights[n]) or torch.isnan(before[n]).any() for n in weights), (
        "an input was changed"
    )
    return [found[name].numpy() for name in made]
