"""Every format gives the same tensors as the library that wrote the file, one at a time, in their own dtype."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spore_borg.learn import formats
from spore_borg.learn.errors import GraphError, SourceError

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
]


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    made = {}
    for dtype in DTYPES:
        values = torch.randint(0, 100, (3, 5), generator=generator)
        made[f"layer.{str(dtype).removeprefix('torch.')}"] = values.to(dtype)
    made["scalar"] = torch.tensor(2.5)
    made["empty"] = torch.zeros(0, 4)
    return made


def same(path: Path, expected: dict[str, torch.Tensor]) -> None:
    opened = formats.open_weights(path)
    assert opened.names() == sorted(expected)
    for name, tensor in expected.items():
        assert opened.shape(name) == tuple(tensor.shape)
        loaded = opened.load(name)
        assert loaded.dtype == tensor.dtype
        assert torch.equal(loaded, tensor)
    with pytest.raises(GraphError, match="no tensor 'absent'"):
        opened.load("absent")
    with pytest.raises(GraphError, match="no tensor 'absent'"):
        opened.shape("absent")


def test_safetensors(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "a.bin", metadata={"format": "pt", "note": "kept"})
    same(tmp_path / "a.bin", tensors())
    assert formats.kind(tmp_path / "a.bin") == "safetensors"
    assert formats.metadata(tmp_path / "a.bin")["note"] == "kept"


def test_safetensors_in_shards(tmp_path: Path) -> None:
    every = tensors()
    names = sorted(every)
    parts = {"one.safetensors": names[:5], "two.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: every[name] for name in part}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}})
    )
    same(index, every)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(SourceError, match=r"names two\.safetensors, which is not beside it"):
        formats.open_weights(index)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"m": torch.ones(9)}}}},
        lambda state: {"checkpoint": 1, "model": {"state_dict": state}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["plain", "trainer", "nested", "parallel"],
)
def test_torch_checkpoints(tmp_path: Path, wrap: Any, old: bool) -> None:
    torch.save(wrap(tensors()), tmp_path / "c.safetensors", _use_new_zipfile_serialization=not old)
    same(tmp_path / "c.safetensors", tensors())
    assert formats.kind(tmp_path / "c.safetensors") == ("torch-old" if old else "torch")


def test_a_real_modules_state_dict_with_shared_and_transposed_weights(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Embedding(10, 4), nn.LSTM(4, 3), nn.Linear(3, 2))
    state: dict[str, Any] = dict(module.state_dict())
    state["tied"] = state["0.weight"]
    state["part"] = state["0.weight"][2:5]
    state["turned"] = state["2.weight"].t()
    state["parameter"] = nn.Parameter(torch.ones(2, 2))
    torch.save(state, tmp_path / "m.pth")
    expected = {name: tensor.detach() for name, tensor in state.items()}
    same(tmp_path / "m.pth", expected)


def test_torch_checkpoint_in_shards(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "1.bin")
    torch.save({"b": torch.zeros(3)}, tmp_path / "2.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.bin", "b": "2.bin"}}))
    same(index, {"a": torch.ones(2), "b": torch.zeros(3)})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "packed"])
def test_npz(tmp_path: Path, save: Any) -> None:
    arrays = {name: t.numpy() for name, t in tensors().items() if t.dtype != torch.bfloat16}
    arrays["columns"] = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    arrays["big-endian"] = np.arange(5, dtype=">i4")
    save(tmp_path / "w.npz", **arrays)
    expected = {name: torch.from_numpy(np.array(a, a.dtype.newbyteorder("="))) for name, a in arrays.items()}
    same(tmp_path / "w.npz", expected)


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    same(tmp_path / "w.npy", {"array": torch.arange(6.0).reshape(2, 3)})


CONFIG = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense"}]}}


def keras2(path: Path, holder: str) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(3)
    kernel, bias = rng.normal(size=(4, 3)).astype(np.float32), np.zeros(3, np.float16)
    with h5py.File(path, "w") as out:
        out.attrs["keras_version"] = "2.2.4"
        top = out.create_group(holder) if holder else out
        if holder:
            out.attrs["model_config"] = json.dumps(CONFIG)
            out.create_dataset("optimizer_weights/momentum", data=kernel)
        top.attrs["layer_names"] = [b"dense"]
        top.create_dataset("dense/dense/kernel:0", data=kernel, compression="gzip", chunks=(2, 3))
        top.create_dataset("dense/dense/bias:0", data=bias)
    return {"dense/dense/kernel:0": torch.from_numpy(kernel), "dense/dense/bias:0": torch.from_numpy(bias)}


@pytest.mark.parametrize("holder", ["", "model_weights"], ids=["weights", "whole model"])
def test_keras_hdf5(tmp_path: Path, holder: str) -> None:
    expected = keras2(tmp_path / "k.h5", holder)
    same(tmp_path / "k.h5", expected)
    said = formats.metadata(tmp_path / "k.h5")
    assert said["format"] == "hdf5" and said["keras_version"] == "2.2.4" and said["layer_names"] == ["dense"]
    assert said.get("model_config") == (CONFIG if holder else None)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "packed"])
def test_keras_archive(tmp_path: Path, packing: int) -> None:
    with h5py.File(tmp_path / "model.weights.h5", "w") as out:
        out["layers/dense/vars/0"] = np.ones((2, 2), np.float32)
        out["optimizer/vars/0"] = np.ones(9, np.float32)
    with zipfile.ZipFile(tmp_path / "m.keras", "w", packing) as archive:
        archive.writestr("config.json", json.dumps(CONFIG))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.5.0"}))
        archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
    same(tmp_path / "m.keras", {"layers/dense/vars/0": torch.ones(2, 2)})
    said = formats.metadata(tmp_path / "m.keras")
    assert said["model_config"] == CONFIG and said["keras"]["keras_version"] == "3.5.0"


def test_a_file_that_changes_after_it_was_opened_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(1000)}, path)
    opened = formats.open_weights(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SourceError, match="changed while it was read"):
        opened.load("w")


def test_tensors_are_read_one_at_a_time(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4), "b": torch.ones(4)}, tmp_path / "a.safetensors")
    opened = formats.open_weights(tmp_path / "a.safetensors")
    first, again = opened.load("a"), opened.load("a")
    assert first.data_ptr() != again.data_ptr()  # memory of its own: dropping it frees it
