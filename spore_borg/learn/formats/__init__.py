"""Files of weights as ``Weights``: known by content, checked before use, one tensor in memory at a time.

Reference: docs/reference/sources.md, which also says what is refused, and why.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from spore_borg.learn.errors import SourceError
from spore_borg.learn.formats import arrays, keras, pickles, safe
from spore_borg.learn.formats.base import TENSORS_MAX, read_text
from spore_borg.learn.graph import Weights

__all__ = ["kind", "metadata", "open_weights"]

_KNOWN = "safetensors, torch checkpoints, npz, npy and Keras HDF5 are read"


def open_weights(path: Path) -> Weights:
    """The tensors of a file, whatever its suffix. An ``…index.json`` opens all shards beside it.

    Args:
        path: safetensors, a torch checkpoint, ``.npz``, ``.npy``, Keras HDF5 or a ``.keras`` archive, or an index.
    Raises:
        SourceError: no such file, a format that is not read, damage, or a file that would execute code.
    """
    found = kind(path)
    if found == "safetensors":
        return safe.open_file(path)
    if found == "safetensors-index":
        return safe.open_index(path)
    if found == "torch":
        return pickles.open_zip(path)
    if found == "torch-old":
        return pickles.open_old(path)
    if found == "torch-index":
        return pickles.open_index(path)
    if found in ("npz", "npy"):
        return arrays.ArrayWeights(path)
    return keras.KerasWeights(path)


def metadata(path: Path) -> dict[str, Any]:
    """What a file says beside its tensors, with ``format``: the texts of safetensors; of Keras ``model_config``,
    ``keras_version``, ``layer_names``. Raises SourceError as ``open_weights``."""
    found = kind(path)
    said: dict[str, Any] = {}
    if found == "safetensors":
        said = dict(safe.metadata(path))
    elif found in ("hdf5", "keras"):
        said = keras.metadata(path)
    return {**said, "format": found}


def kind(path: Path) -> str:
    """``safetensors``, ``safetensors-index``, ``torch``, ``torch-old``, ``torch-index``, ``npz``, ``npy``, ``hdf5`` or
    ``keras``, by content. Raises SourceError for everything else, with the reason."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as raw:
            start = raw.read(4_096)
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read: {error.strerror}. Check the path and its rights."
        ) from error
    if start.startswith(b"PK\x03\x04") or start.startswith(b"PK\x05\x06"):
        return _kind_of_zip(path)
    if start.startswith(arrays.MAGIC):
        return "npy"
    if start.startswith(keras.MAGIC):
        return "hdf5"
    if safe.looks(start, size_bytes):
        return "safetensors"
    if start.lstrip()[:1] == b"{":
        return _kind_of_index(path)
    if pickles.is_old(start):
        return "torch-old"
    raise _refused(path, start, size_bytes)


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise SourceError(f"{path.name} is a damaged zip: {error}. Fetch it again."[:300]) from error
    if len(names) > TENSORS_MAX + 64:
        raise SourceError(f"{path.name} has more than {TENSORS_MAX} members.")
    if keras.is_archive(names):
        return "keras"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise SourceError(
            f"{path.name} would execute code when it is loaded: it is a TorchScript program, weights and code in one. "
            "It was not loaded. Take the model's safetensors or ONNX, or save its state_dict alone."
        )
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise SourceError(f"{path.name} is a zip of no known kind ({_KNOWN}); unpack it and give its files.")


def _kind_of_index(path: Path) -> str:
    try:
        value = json.loads(read_text(path))
        files = list(value["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{path.name} is JSON and no index of a checkpoint; it has no weight_map."
        ) from error
    return "safetensors-index" if all(str(file).endswith(".safetensors") for file in files) else "torch-index"


def _refused(path: Path, start: bytes, size_bytes: int) -> SourceError:
    """Why a file is not read, in a sentence that says what to do."""
    where = path.name
    if start.startswith(b"GGUF"):
        return SourceError(
            f"{where} is GGUF, whose quantised blocks are not read. Take the safetensors that it was made from."
        )
    if start[257:262] == b"ustar":
        return SourceError(
            f"{where} is a tar archive: torch's format before 0.4 or something to unpack. Unpack it and give its "
            "files, or save the checkpoint again as safetensors."
        )
    if start[:1] == b"\x80" or start[:1] in (b"c", b"("):
        with path.open("rb") as raw:
            names = pickles.pickled_globals(raw.read(64 << 20))
        if names:
            return pickles.would_run(where, _worst_first(names))
        if start[:1] == b"\x80":
            return SourceError(
                f"{where} is a pickle, which may execute code when it is loaded; pickles are not read. "
                "Save its arrays as npz or safetensors."
            )
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"x\x9c", b"\x28\xb5\x2f\xfd")):
        return SourceError(
            f"{where} is compressed (a joblib pickle or an archive). Unpack it first; {_KNOWN}."
        )
    if start[:1] == b"\x08" and b"onnx" in (start + path.suffix.encode()).lower():
        return SourceError(f"{where} is an ONNX graph: it is imported with its graph, not as bare weights.")
    if not size_bytes:
        return SourceError(f"{where} is empty. Fetch it again.")
    if start.startswith(b"version https://git-lfs"):
        return SourceError(
            f"{where} is a pointer of Git LFS, not the file. Run `git lfs pull` in its repository."
        )
    return SourceError(f"{where} has no known format: {_KNOWN}.")


def _worst_first(names: list[str]) -> list[str]:
    """Names that build arrays of a known library last: what would harm is named first."""
    return sorted(
        names, key=lambda name: name.split(".")[0] in ("numpy", "torch", "collections", "sklearn", "scipy")
    )
