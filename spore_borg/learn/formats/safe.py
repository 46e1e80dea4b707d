"""safetensors: a length, a JSON header, then the numbers. Also checkpoints in shards with an ``…index.json``.

Source: the format's description of safetensors 0.4: no overlaps, no holes, the header at most 100 MB (here less).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from spore_borg.learn.errors import SourceError
from spore_borg.learn.formats.base import (
    RANK_MAX,
    TENSORS_MAX,
    Entry,
    FlatWeights,
    check_name,
    check_shape,
    read_text,
)

HEADER_BYTES_MAX = 32 << 20
SHARDS_MAX = 1_024

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def looks(start: bytes, size_bytes: int) -> bool:
    """Whether a file that starts so is safetensors: a header length that fits, then an object."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size_bytes - 8


def header(path: Path) -> tuple[dict[str, Any], int]:
    """The header as a map, and where the numbers begin. Raises SourceError."""
    where = path.name
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        if length > min(HEADER_BYTES_MAX, os.fstat(raw.fileno()).st_size - 8):
            raise SourceError(
                f"{where} claims a header of {length} bytes; headers have at most {HEADER_BYTES_MAX} and fit the file. "
                "It is damaged: fetch it again."
            )
        text = raw.read(length)
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where} has a header that is no JSON object: {error}"[:300]) from error
    if type(value) is not dict or len(value) > TENSORS_MAX + 1:
        raise SourceError(f"{where} has a header that is no map of at most {TENSORS_MAX} tensors.")
    return value, 8 + length


def encoded(tensors: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """What a file begins with: length and header, padded to 8 bytes. Equal tensors and metadata are equal bytes.

    Args:
        tensors: dtype as the format calls it, shape and bytes by name; they follow in order of names, without a hole.
    """
    described: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, (dtype, shape, size_bytes) in sorted(tensors.items()):
        end = offset + size_bytes
        described[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def entries(path: Path) -> dict[str, Entry]:
    """Every tensor of one file, after all of the header was checked against the file. Raises SourceError."""
    where = path.name
    value, start = header(path)
    value.pop("__metadata__", None)
    found: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for key, item in value.items():
        name = check_name(key, where)
        if type(item) is not dict or set(item) != {"dtype", "shape", "data_offsets"}:
            raise SourceError(
                f"{where}: tensor {name[:80]!r} is described by other fields than the format's three."
            )
        dtype = DTYPES.get(item["dtype"]) if type(item["dtype"]) is str else None
        if dtype is None:
            raise SourceError(
                f"{where}: tensor {name[:80]!r} has dtype {str(item['dtype'])[:40]!r}, which is not read."
            )
        shape = check_shape(item["shape"], dtype.itemsize, name, where)
        span = item["data_offsets"]
        if type(span) is not list or len(span) != 2 or not all(type(at) is int and at >= 0 for at in span):
            raise SourceError(f"{where}: tensor {name[:80]!r} has no two offsets.")
        entry = Entry(dtype, shape, path, start + span[0])
        if span[1] - span[0] != entry.numel * dtype.itemsize:
            raise SourceError(f"{where}: tensor {name[:80]!r} has another length than its shape needs.")
        found[name] = entry
        spans.append((span[0], span[1], name))
    end = 0
    for begin, stop, name in sorted(spans):
        if begin != end:
            raise SourceError(f"{where}: tensor {name[:80]!r} overlaps another, or leaves a hole before it.")
        end = stop
    if start + end != path.stat().st_size:
        raise SourceError(
            f"{where} has {path.stat().st_size} bytes and its header describes {start + end}; "
            "it is cut short or has a tail. Fetch it again."
        )
    return found


def open_file(path: Path) -> FlatWeights:
    """One safetensors file as ``Weights``."""
    return FlatWeights(entries(path), path.name)


def open_index(path: Path) -> FlatWeights:
    """A checkpoint in shards: ``{"weight_map": {tensor: file}}`` beside its files. Raises SourceError."""
    where = path.name
    listed = weight_map(path)
    shards: dict[str, dict[str, Entry]] = {}
    for file in sorted(set(listed.values())):
        shards[file] = entries(shard(path, file))
    found = {}
    for name, file in listed.items():
        if name not in shards[file]:
            raise SourceError(
                f"{where} says that {file} has a tensor {name[:80]!r}, and it has not. Fetch it again."
            )
        found[name] = shards[file][name]
    return FlatWeights(found, where)


def weight_map(path: Path) -> dict[str, str]:
    """Tensor → file name of an index. Raises SourceError for anything but names in the same directory."""
    where = path.name
    try:
        listed = json.loads(read_text(path), object_pairs_hook=_once)["weight_map"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SourceError(f"{where} is no index of a checkpoint in shards: it has no weight_map.") from error
    if type(listed) is not dict or not listed or len(listed) > TENSORS_MAX:
        raise SourceError(f"{where} has no weight_map of 1 to {TENSORS_MAX} tensors.")
    for name, file in listed.items():
        check_name(name, where)
        if (
            type(file) is not str
            or PurePosixPath(file).name != file
            or "\\" in file
            or file in ("", ".", "..")
        ):
            raise SourceError(f"{where} names the file {str(file)[:80]!r}; shards lie beside their index.")
    if len(set(listed.values())) > SHARDS_MAX:
        raise SourceError(f"{where} names more than {SHARDS_MAX} files.")
    return listed


def shard(index: Path, file: str) -> Path:
    """The path of one file of an index. Raises SourceError if it is not there."""
    path = index.with_name(file)
    if not path.is_file():
        raise SourceError(
            f"{index.name} names {file}, which is not beside it. Fetch all files of the checkpoint."
        )
    return path


def metadata(path: Path) -> dict[str, str]:
    """The texts under ``__metadata__``."""
    value, _ = header(path)
    found = value.get("__metadata__", {})
    if type(found) is not dict or not all(type(text) is str for text in found.values()):
        raise SourceError(f"{path.name} has metadata that are no texts.")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands in it twice")
    if len(value) == 3 and isinstance(value.get("shape"), list) and len(value["shape"]) > RANK_MAX:
        raise ValueError("a shape has too many sizes")
    return value
