"""A small classifier of digits, trained in seconds, for tests of what a state takes."""

from __future__ import annotations

import torch

from spore_borg.learn.graph import Graph, Info, Model, Node, Port
from spore_borg.learn.run import MemoryWeights
from spore_borg.learn.suite_made import glyphs

GRAPH = Graph(
    (Port("image", "float32", (None, 1, 28, 28)),),
    ("logits",),
    (
        Node("Flatten", "flat", ("image",), ("flat",), {"axis": 1}),
        Node("Gemm", "first", ("flat", "w1", "b1"), ("h",), {"transB": 1}),
        Node("Relu", "relu", ("h",), ("r",)),
        Node("Gemm", "second", ("r", "w2", "b2"), ("logits",), {"transB": 1}),
    ),
)
ADAPTER = {
    "kind": "image-classifier", "head": "classifier", "modality": "image", "input": "image", "output": "logits",
    "side": [28, 28], "channels": 1, "mean": [0.0], "deviation": [1.0], "labels": list("0123456789"),
}  # fmt: skip


def net(seed: int, classes: range | None, *, shuffled: bool = False) -> Model:
    """784-64-10 trained on drawn digits of some classes; None leaves it untrained."""
    g = torch.Generator().manual_seed(seed)
    w = {
        "w1": torch.randn(64, 784, generator=g) / 28, "b1": torch.zeros(64),
        "w2": torch.randn(10, 64, generator=g) / 8, "b2": torch.zeros(10),
    }  # fmt: skip
    if classes is not None:
        rows = [row for row in glyphs(12_000, seed=900 + seed).rows if row[2] in classes]
        x = (
            torch.stack([torch.frombuffer(bytearray(row[1]), dtype=torch.uint8) for row in rows]).float()
            / 255
        )
        y = torch.tensor([row[2] for row in rows])
        if shuffled:
            y = y[torch.randperm(len(y), generator=g)]
        for tensor in w.values():
            tensor.requires_grad_(True)
        optimizer = torch.optim.Adam(list(w.values()), 3e-3)
        for _ in range(5):
            for mine in torch.randperm(len(y), generator=g).split(100):
                out = torch.relu(x[mine] @ w["w1"].T + w["b1"]) @ w["w2"].T + w["b2"]
                loss = torch.nn.functional.cross_entropy(out, y[mine])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        w = {name: tensor.detach() for name, tensor in w.items()}
    info = Info(f"net{seed}", "test", "CC0-1.0", "classifier", "image", "mlp", 50_890)
    return Model(GRAPH, MemoryWeights(w), ADAPTER, {}, info)
