"""Files made to harm: nothing in them runs, nothing is read outside them, and memory stays bounded."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spore_borg.learn import formats
from spore_borg.learn.errors import LearnError, SourceError


class Harm:
    """Unpickled carelessly, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_careless_unpickling_would_run_it(tmp_path: Path) -> None:
    """The control: the tests below would see the file if anything were executed."""
    pickle.loads(pickle.dumps(Harm(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "how", ["pickle2", "pickle4", "pickle0", "torch", "torch-old", "npz", "npy", "keras-like zip"]
)
def test_a_pickle_that_runs_a_program_is_refused_by_its_name(tmp_path: Path, how: str) -> None:
    harm, path = Harm(tmp_path / "ran"), tmp_path / "model.safetensors"
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps({"w": harm}, protocol=int(how[-1])))
    elif how.startswith("torch"):
        torch.save({"w": torch.ones(2), "x": harm}, path, _use_new_zipfile_serialization=how == "torch")
    elif how == "npz":
        with path.open("wb") as out:
            np.savez(out, w=np.array([harm], dtype=object))
    elif how == "npy":
        with path.open("wb") as out:
            np.save(out, np.array([harm], dtype=object), allow_pickle=True)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", pickle.dumps(harm))
    with pytest.raises(SourceError) as refused:
        formats.open_weights(path)
    if "keras" not in how:
        assert "would execute code when it is loaded" in str(refused.value)
    if how.startswith(("pickle", "torch")):
        assert f"{os.system.__module__}.system" in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_sklearn_model_and_a_torchscript_program_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(
        b"\x80\x04\x8c\x1asklearn.linear_model._base\x94\x8c\x10LinearRegression\x94\x93\x94."
    )
    with pytest.raises(SourceError, match=r"asks for sklearn\.linear_model\._base\.LinearRegression"):
        formats.open_weights(tmp_path / "m.pkl")
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py", "m/version"):
            archive.writestr(name, b"")
    with pytest.raises(SourceError, match="TorchScript"):
        formats.open_weights(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"GGUF\x03\x00\x00\x00", "is GGUF"),
        (b"", "is empty"),
        (b"x" * 257 + b"ustar\x00", "tar archive"),
        (b"\x1f\x8b\x08\x00", "is compressed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"hello, world", "no known format"),
        (b'{"a": 1}', "no weight_map"),
        (b"\x08\x07\x12\x07pytorch:\x0bonnx", "ONNX graph"),
    ],
)
def test_what_is_not_read_is_refused_with_the_reason(tmp_path: Path, start: bytes, reason: str) -> None:
    (tmp_path / "f.safetensors").write_bytes(start)
    with pytest.raises(SourceError, match=reason):
        formats.open_weights(tmp_path / "f.safetensors")


def test_a_missing_file_and_a_directory_are_errors_with_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(SourceError, match="cannot be read"):
            formats.open_weights(path)


def written(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: Any, *offsets: Any, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


BAD_HEADERS = {
    "overlap": ({"a": entry([4], 0, 4), "b": entry([4], 2, 6)}, 6),
    "hole": ({"a": entry([4], 0, 4), "b": entry([2], 6, 8)}, 8),
    "tail": ({"a": entry([4], 0, 4)}, 5),
    "short": ({"a": entry([4], 0, 4)}, 3),
    "backwards": ({"a": entry([4], 4, 0)}, 4),
    "negative offset": ({"a": entry([4], -4, 0)}, 4),
    "length": ({"a": entry([4], 0, 5)}, 5),
    "negative size": ({"a": entry([-1, -4], 0, 4)}, 4),
    "overflowing size": ({"a": entry([1 << 62, 4], 0, 0)}, 0),
    "huge tensor": ({"a": entry([1 << 40], 0, 1 << 40)}, 4),
    "float size": ({"a": entry([4.0], 0, 4)}, 4),
    "true as size": ({"a": entry([True], 0, 1)}, 1),
    "deep rank": ({"a": entry([1] * 99, 0, 1)}, 1),
    "unknown dtype": ({"a": entry([4], 0, 4, dtype="Q4")}, 4),
    "dtype no text": ({"a": entry([4], 0, 4, dtype=["U8"])}, 4),
    "other fields": ({"a": {"dtype": "U8"}}, 0),
    "no map": ([1, 2], 0),
    "empty name": ({"": entry([1], 0, 1)}, 1),
    "name with a control character": ({"a\x1b[2J": entry([1], 0, 1)}, 1),
    "a name twice": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        1,
    ),
    "deep JSON": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", 0),
    "no JSON": (b"{" + b"\xff" * 20, 0),
}


@pytest.mark.parametrize("case", sorted(BAD_HEADERS))
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    header, size = BAD_HEADERS[case]
    with pytest.raises(SourceError):
        formats.open_weights(written(tmp_path / "a", header, b"\x01" * size))


def test_a_safetensors_header_longer_than_its_file_or_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        formats.open_weights(written(tmp_path / "a", {"a": entry([1], 0, 1)}, b"\x01", length=1 << 60))
    path = written(tmp_path / "b", b"{" + b" " * 4096, b"", length=40 << 20)
    with path.open("r+b") as out:
        out.truncate(64 << 20)
    with pytest.raises(SourceError, match="claims a header"):
        formats.open_weights(path)


def test_a_safetensors_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3), "b": torch.ones(2)}, tmp_path / "whole")
    raw = (tmp_path / "whole").read_bytes()
    for size in range(len(raw)):
        (tmp_path / "cut").write_bytes(raw[:size])
        with pytest.raises(SourceError):
            formats.open_weights(tmp_path / "cut")


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "a/b", "..", "", 3, "a\\b"])
def test_an_index_names_only_files_beside_it(tmp_path: Path, file: Any) -> None:
    here = tmp_path / "model"
    here.mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "secret")
    (here / "index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(SourceError):
        formats.open_weights(here / "index.json")


def repacked(path: Path, out: Path, change: Any, packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w", packing) as target:
        for info in source.infolist():
            raw = change(info.filename, source.read(info))
            if raw is not None:
                target.writestr(info.filename, raw)
    return out


def test_torch_checkpoints_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"w": torch.arange(64.0)}, path)
    cases = {
        "packed": repacked(path, tmp_path / "1", lambda n, raw: raw, zipfile.ZIP_DEFLATED),
        "big-endian": repacked(
            path, tmp_path / "2", lambda n, raw: b"big" if n.endswith("byteorder") else raw
        ),
        "storage missing": repacked(
            path, tmp_path / "3", lambda n, raw: None if n.endswith("data/0") else raw
        ),
        "pickle cut": repacked(path, tmp_path / "5", lambda n, raw: raw[:20] if n.endswith(".pkl") else raw),
    }
    (tmp_path / "6").write_bytes(path.read_bytes()[:-200])
    cases["file cut"] = tmp_path / "6"
    for case, bad in cases.items():
        print(case)
        with pytest.raises(SourceError):
            formats.open_weights(bad)


def test_a_tensor_that_claims_more_than_its_record_holds_reads_nothing_beyond_the_file(
    tmp_path: Path,
) -> None:
    torch.save({"w": torch.arange(64.0)}, tmp_path / "m.pt")
    short = repacked(
        tmp_path / "m.pt", tmp_path / "s.pt", lambda n, raw: raw[:8] if n.endswith("data/0") else raw
    )
    with pytest.raises(SourceError):
        formats.open_weights(short)


def test_views_with_repeats_or_gaps_and_sparse_tensors_are_refused(tmp_path: Path) -> None:
    for tensor in (torch.ones(1).expand(1 << 30), torch.arange(10.0)[::2], torch.eye(3).to_sparse()):
        torch.save({"w": tensor}, tmp_path / "m.pt")
        with pytest.raises(SourceError):
            formats.open_weights(tmp_path / "m.pt")


@pytest.mark.parametrize("content", [3, [1, 2], {"epoch": 3}, "text", {}])
def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(SourceError, match=r"has no tensors|not the tensors"):
        formats.open_weights(tmp_path / "m.pt")


def test_npz_that_lie_are_refused(tmp_path: Path) -> None:
    raw = io.BytesIO()
    np.save(raw, np.arange(8.0))
    whole = raw.getvalue()
    for case in (
        whole[:-1],
        whole + b"\x00",
        whole[:40],
        whole.replace(b"(8,)", b"(9,)"),
        b"\x93NUMPY\x09\x00",
    ):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("w.npy", case)
        with pytest.raises(SourceError):
            formats.open_weights(tmp_path / "a.npz")


def test_npy_that_claims_terabytes_is_refused_without_the_memory(tmp_path: Path) -> None:
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    with pytest.raises(SourceError, match="MiB"):
        formats.open_weights(tmp_path / "a.npy")


def secret(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "secret.h5", "w") as out:
        out["w"] = np.ones(4, np.float32)
    (tmp_path / "secret.raw").write_bytes(np.ones(4, np.float32).tobytes())
    return tmp_path / "secret.h5"


def hostile_hdf5(tmp_path: Path, case: str) -> Path:
    path, other = tmp_path / "k.h5", secret(tmp_path)
    with h5py.File(path, "w") as out:
        out["fine"] = np.ones(2, np.float32)
        if case == "external link":
            out["x"] = h5py.ExternalLink(str(other), "/w")
        elif case == "soft link":
            out["x"] = h5py.SoftLink("/fine")
        elif case == "external data":
            out.create_dataset("x", (4,), "f4", external=[(str(tmp_path / "secret.raw"), 0, 16)])
        elif case == "virtual":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(str(other), "w", (4,))
            out.create_virtual_dataset("x", layout)
        elif case == "loop":
            out["a/b"] = out.create_group("g")
            out["g/back"] = out["a"]
        elif case == "huge":
            out.create_dataset("x", (1 << 40,), "f4", chunks=(1024,))
        elif case == "huge chunk":
            out.create_dataset("x", (1 << 28,), "f4", chunks=(1 << 28,))
        elif case == "objects":
            out.create_dataset("x", data=[b"abc", b"d"], dtype=h5py.string_dtype())
        elif case == "references":
            out.create_dataset("x", data=[out["fine"].ref], dtype=h5py.ref_dtype)
        elif case == "plug-in":
            settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            settings.set_chunk((4,))
            settings.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL, (1,))
            h5py.h5d.create(out.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), settings)
    return path


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("external link", "link to another place"),
        ("soft link", "link to another place"),
        ("external data", "another file"),
        ("virtual", "another file"),
        ("loop", "stands in it twice"),
        ("huge", "MiB"),
        ("huge chunk", "chunks of"),
        ("objects", "not read"),
        ("references", "not read"),
        ("plug-in", "plug-in 32015"),
    ],
)
def test_hdf5_that_leads_elsewhere_is_refused(tmp_path: Path, case: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        formats.open_weights(hostile_hdf5(tmp_path, case))


def test_damaged_hdf5_is_an_error_and_no_crash(tmp_path: Path) -> None:
    whole = secret(tmp_path).read_bytes()
    for size in range(8, len(whole), 97):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        with pytest.raises(LearnError):
            formats.open_weights(tmp_path / "cut.h5").load("w")


def test_a_keras_archive_that_unpacks_to_far_more_is_refused_as_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w", force_zip64=True) as out:
            for _ in range(700):
                out.write(bytes(1 << 20))
    assert path.stat().st_size < 2 << 20
    with pytest.raises(SourceError, match="bomb"):
        formats.open_weights(path)


def test_reading_is_bounded_by_the_largest_tensor(tmp_path: Path) -> None:
    """400 MB of tensors through an address space that has room for a few of them beyond what torch itself takes."""
    if sys.platform != "linux" or shutil.disk_usage(tmp_path).free < 2 << 30:
        pytest.skip("needs Linux and 2 GiB of disk")
    path = tmp_path / "big.safetensors"
    count, size = 40, 10 << 20
    header = {f"t{i:02}": entry([size], i * size, (i + 1) * size) for i in range(count)}
    written(path, header, b"")
    with path.open("r+b") as out:
        out.truncate(path.stat().st_size + count * size)
    code = (
        "import sys; from pathlib import Path; from spore_borg.learn import formats\n"
        "def peak(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) >> 10\n"
        "before = peak(); w = formats.open_weights(Path(sys.argv[1]))\n"
        "total = sum(w.load(n).numel() for n in w.names()); print(total, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    total, grown_mib = map(int, done.stdout.split())
    assert total == count * size
    assert grown_mib < 100, f"{grown_mib} MiB for tensors of 10 MiB"
