"""Importers: the same files give the same graph, and what is said of files that are none or do not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spore_borg.learn.adapters import adapter
from spore_borg.learn.errors import LearnError, SourceError
from spore_borg.learn.graph import Graph
from spore_borg.learn.importers import import_model
from spore_borg.learn.importers.bundle import Bundle
from spore_borg.learn.importers.sequential import chain
from tests.learn import models
from tests.learn.models import close, forward

TEXTS = ["the king said", "water and bread in the house of the lord", "x"]
Tensors = dict[str, Tensor]


@pytest.mark.parametrize("kind", sorted(models.TINY))
def test_the_same_files_give_the_same_graph(tmp_path: Path, kind: str) -> None:
    first = models.imported(models.TINY[kind](tmp_path / "one"))
    second = models.imported(dict(reversed(models.TINY[kind](tmp_path / "two").items())))
    assert first.graph.to_json() == second.graph.to_json()
    assert first.adapter == second.adapter
    assert Graph.from_json(first.graph.to_json()) == first.graph
    names = list(first.graph.weight_names())
    assert first.weights.names() == sorted(names)
    for name in names:
        assert first.weights.shape(name) == tuple(first.weights.load(name).shape), name


def test_a_checkpoint_of_several_files_is_one(tmp_path: Path) -> None:
    files = models.tiny_gpt2(tmp_path)
    whole = models.imported(files)
    want = forward(whole, list(TEXTS))[1]
    tensors = load_file(files["model.safetensors"])
    parts: dict[str, Tensors] = {
        "model-00001-of-00002.safetensors": {},
        "model-00002-of-00002.safetensors": {},
    }
    where = {name: sorted(parts)[place % 2] for place, name in enumerate(sorted(tensors))}
    for name, part in where.items():
        parts[part][name] = tensors[name]
    for part, some in parts.items():
        save_file(some, tmp_path / part)
    files["model.safetensors"].unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    found = {path.name: path for path in tmp_path.iterdir()}
    split = models.imported(found)
    assert split.graph.to_json() == whole.graph.to_json()
    close(forward(split, list(TEXTS))[1]["logits"], want["logits"])


def test_importing_loads_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def opened(self: Bundle, name: str) -> object:
        weights = original(self, name)
        load = weights.load
        object.__setattr__(weights, "load", lambda tensor: (loaded.append(tensor), load(tensor))[1])
        return weights

    original = Bundle.weights
    monkeypatch.setattr(Bundle, "weights", opened)
    model = models.imported(models.tiny_bert(tmp_path))
    assert loaded == []
    model.weights.load("encoder.layer.0.output.dense.weight.T")
    assert loaded == ["encoder.layer.0.output.dense.weight"]


def test_nothing_known_lists_what_was_found_and_what_is_supported(tmp_path: Path) -> None:
    save_file({"mystery": torch.zeros(3, 4)}, tmp_path / "w.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError) as error:
        import_model(
            {"w.safetensors": tmp_path / "w.safetensors", "notes.txt": tmp_path / "notes.txt"},
            origin="file:x", licence="unknown", name="x",
        )  # fmt: skip
    said = str(error.value)
    assert "mystery [3, 4]" in said
    assert "notes.txt" in said
    assert "GPT-2" in said
    with pytest.raises(SourceError, match="among 0 files: none"):
        import_model({}, origin="file:x", licence="unknown", name="x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 5}, "cannot be dealt"),
        ({"hidden_size": "many"}, "no usable 'hidden_size'"),
        ({"num_hidden_layers": 3}, "no tensor 'encoder.layer.2.attention.self.query.weight'"),
        ({"position_embedding_type": "relative_key"}, "Relative positions"),
        ({"hidden_act": "snake"}, "activation 'snake' is not supported"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    files = models.tiny_bert(tmp_path)
    config = json.loads(files["config.json"].read_text()) | change
    files["config.json"].write_text(json.dumps(config))
    with pytest.raises(SourceError, match=said):
        models.imported(files)


@pytest.mark.parametrize("gone", ["vocab.txt", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, gone: str) -> None:
    files = models.tiny_bert(tmp_path)
    del files[gone]
    with pytest.raises(SourceError, match=r"Beside config\.json there is no"):
        models.imported(files)


def test_names_that_are_no_sequence_are_no_chain(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    bundle = Bundle({"w.safetensors": tmp_path / "w.safetensors"}, origin="", licence="", name="")
    assert chain(bundle.weights("w.safetensors")) == []


def test_broken_json_among_the_files_is_an_error_that_names_it(tmp_path: Path) -> None:
    files = models.tiny_bert(tmp_path)
    files["config.json"].write_text("{")
    with pytest.raises(LearnError, match=r"config\.json is no JSON"):
        models.imported(files)
    assert math.isfinite(models.imported(models.tiny_bert(tmp_path / "again")).info.params_count)


@pytest.mark.parametrize(
    ("shape", "end", "head", "modality"),
    [
        (("n", 12), "Softmax", "classifier", "bytes"),
        (("n", 12), "", "unknown", "bytes"),
        (("n", 1, 28, 28), "", "classifier", "image"),
        (("n", 3, 10, 8), "Softmax", "classifier", "image"),
        (("n", 10, 8, 3), "", "unknown", "image"),
    ],
)
def test_any_onnx_graph_with_one_input_runs(
    tmp_path: Path, shape: tuple[int | str, ...], end: str, head: str, modality: str
) -> None:
    files = models.tiny_onnx(tmp_path, shape, end)
    model = models.imported(files)
    assert (model.info.head, model.info.modality, model.info.architecture) == (head, modality, "onnx")
    feeds, outputs = forward(model, list(models.items(modality, 3)))
    assert feeds["x"].shape == (3, *shape[1:])
    import onnx
    from onnx.reference import ReferenceEvaluator

    want = ReferenceEvaluator(onnx.load(files["tiny.onnx"])).run(None, {"x": feeds["x"].numpy()})[0]
    close(outputs[model.graph.outputs[0]], torch.from_numpy(want))
    one = adapter(model.adapter, model.assets)
    shares = one.answer(outputs, feeds, top=3)
    if end:
        best = {row["label"]: row["probability"] for row in shares[0]["classes"]}
        assert all(math.isclose(best[str(place)], want[0, place], abs_tol=1e-5) for place in range(3))
    if head == "unknown":
        assert torch.allclose(torch.tensor(shares[0]["output"]), torch.from_numpy(want[0]), atol=1e-5)


def test_an_onnx_graph_with_other_inputs_is_refused_with_its_inputs(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("left", "right", "sum")
    ]
    graph = helper.make_graph(
        [helper.make_node("Add", ["left", "right"], ["sum"])], "two", ports[:2], ports[2:]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "two.onnx",
    )
    with pytest.raises(SourceError, match="left float32"):
        models.imported({"two.onnx": tmp_path / "two.onnx"})
