"""Tensors as files and as digests, the same bytes on every platform.

A file is safetensors with sorted names and sorted metadata, so that equal tensors are equal files and a blob's
id says something about its content. (The safetensors writer leaves the order of metadata to a hash map.)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

Array = NDArray[np.generic]


class TensorError(ValueError):
    """A file that holds no tensors, or is damaged; the message names it."""


_DTYPES = {"float32": "F32", "int64": "I64", "int32": "I32", "uint16": "U16", "uint8": "U8"}


def _raw(array: Array) -> bytes:
    little = array.dtype.newbyteorder("<")
    return np.ascontiguousarray(array, dtype=little).tobytes()


def tensors_digest(tensors: Mapping[str, Array]) -> bytes:
    """sha256 over (name, dtype, shape, raw little-endian bytes) of every tensor in order of names: 32 bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        head = json.dumps([name, _DTYPES[array.dtype.name], list(array.shape)], separators=(",", ":"))
        total.update(len(head).to_bytes(4, "little") + head.encode())
        total.update(_raw(array))
    return total.digest()


def save(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file; it appears under its name only when it is complete."""
    header: dict[str, object] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    offset = 0
    for name in sorted(tensors):
        array = tensors[name]
        end = offset + array.nbytes
        header[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    head += b" " * (-len(head) % 8)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name in sorted(tensors):
                file.write(_raw(tensors[name]))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Array]:
    """Read a safetensors file. Raises TensorError when it is missing or damaged."""
    try:
        loaded: dict[str, Array] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TensorError(f"{path.name} cannot be read as tensors: {error}") from error
    return loaded


def read_metadata(path: Path, size_bytes_max: int = 1 << 20) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it has none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > size_bytes_max:
            raise TensorError(f"{path.name} has a header of {size} bytes; at most {size_bytes_max} are read")
        found = json.loads(file.read(size)).get("__metadata__", {})
    return {str(name): str(value) for name, value in found.items()}
