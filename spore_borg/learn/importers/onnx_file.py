"""An ONNX file taken apart: the graph without its large tensors, and where those lie in the file.

A file may have gigabytes of weights inside one message. Only their places are noted here, so that each is read alone
when it is needed; what is left is small and is decoded by the ``onnx`` package.
Source: the wire format of protocol buffers; ``onnx.proto`` for the numbers of fields.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import onnx
import torch
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, numpy_helper

from spore_borg.learn.errors import SourceError
from spore_borg.learn.formats.base import Entry, check_shape

LARGE_BYTES = 1 << 16  # a tensor of the graph larger than this stays in the file
REST_BYTES_MAX = 512 << 20  # the graph without its large tensors
INITIALISERS_MAX = 100_000

# Fields of ModelProto, GraphProto and TensorProto.
_GRAPH, _INITIALISER, _RAW = 7, 5, 9  # as keys of a field with bytes: 0x3a, 0x2a, 0x4a
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5

DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BFLOAT16: torch.bfloat16,
}


def open_model(source: Path | bytes) -> tuple[Any, dict[str, Entry]]:
    """Decode a file.

    Returns:
        The ``ModelProto``, in which tensors that stay in the file have no numbers; and those by name.
    Raises:
        SourceError: no ONNX, damage, or more than the limits.
    """
    if isinstance(source, bytes):
        return _decode(source, "The graph"), {}
    try:
        with source.open("rb") as raw:
            rest, places = _take_apart(raw, source.stat().st_size)
    except (OSError, EOFError) as error:
        raise SourceError(f"{source.name} cannot be read as ONNX ({error}). Fetch it again.") from error
    model = _decode(rest, source.name)
    found: dict[str, Entry] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            found[tensor.name] = _external(tensor, source)
    for head, offset, length in places:
        tensor = TensorProto()
        tensor.ParseFromString(head)
        entry = _entry(tensor, source, offset, length)
        if entry is not None:
            found[tensor.name] = entry
    return model, found


def _decode(data: bytes, where: str) -> Any:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise SourceError(f"{where} is no ONNX file, or is damaged ({error}). Fetch it again.") from error
    if not model.graph.node and not model.graph.initializer:
        raise SourceError(f"{where} holds no ONNX graph. Name a file that ends in .onnx.")
    if not _texts_are_texts(model):
        raise SourceError(f"{where} has names that are no UTF-8. It is damaged: fetch it again.")
    return model


def _texts_are_texts(message: Any) -> bool:
    """Whether every text of a message is one: broken ones are decoded as bytes. Depth is bounded by the decoder."""
    for field, value in message.ListFields():
        items = (value,) if isinstance(value, str | bytes | Message) else value
        if field.type == field.TYPE_STRING and not all(isinstance(item, str) for item in items):
            return False
        if field.type == field.TYPE_MESSAGE and not all(_texts_are_texts(item) for item in items):
            return False
    return True


def _varint(raw: BinaryIO) -> tuple[int, bytes]:
    value, taken = 0, b""
    while len(taken) < 10:
        byte = raw.read(1)
        if not byte:
            raise EOFError("it ends in the middle of a number")
        taken += byte
        value |= (byte[0] & 0x7F) << (7 * (len(taken) - 1))
        if byte[0] < 0x80:
            return value, taken
    raise EOFError("a number in it is too long")


def _fields(raw: BinaryIO, end: int) -> Iterator[tuple[int, int, bytes, int]]:
    """Fields until ``end``: number, kind, the bytes of key and length, and how many bytes follow."""
    while raw.tell() < end:
        key, head = _varint(raw)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            head += _varint(raw)[1]
            length = 0
        elif kind == _BYTES:
            length, more = _varint(raw)
            head += more
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise EOFError("it has a field of an unknown kind")
        if raw.tell() + length > end:
            raise EOFError("it is cut short")
        yield number, kind, head, length


def _number(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


class _Rest:
    """What is kept in memory, bounded."""

    def __init__(self) -> None:
        self.size_bytes = 0

    def read(self, raw: BinaryIO, length: int) -> bytes:
        self.size_bytes += length
        if self.size_bytes > REST_BYTES_MAX:
            raise EOFError(f"its graph without large weights is over {REST_BYTES_MAX >> 20} MiB")
        return raw.read(length)


def _take_apart(raw: BinaryIO, size: int) -> tuple[bytes, list[tuple[bytes, int, int]]]:
    """The message without large raw tensors; and of each its other fields, offset and length in the file."""
    rest, places = _Rest(), list[tuple[bytes, int, int]]()
    model = io.BytesIO()
    for number, kind, head, length in _fields(raw, size):
        if number != _GRAPH or kind != _BYTES:
            model.write(head + rest.read(raw, length))
            continue
        graph, end = io.BytesIO(), raw.tell() + length
        for inner, inner_kind, inner_head, inner_length in _fields(raw, end):
            if inner == _INITIALISER and inner_kind == _BYTES and inner_length > LARGE_BYTES:
                tensor = _tensor(raw, inner_length, rest, places)
                graph.write(b"\x2a" + _number(len(tensor)) + tensor)
            else:
                graph.write(inner_head + rest.read(raw, inner_length))
        model.write(b"\x3a" + _number(graph.tell()) + graph.getvalue())
    return model.getvalue(), places


def _tensor(raw: BinaryIO, length: int, rest: _Rest, places: list[tuple[bytes, int, int]]) -> bytes:
    """A TensorProto without its raw numbers, whose place is noted."""
    head, at, end = io.BytesIO(), None, raw.tell() + length
    for number, kind, key, size in _fields(raw, end):
        if number == _RAW and kind == _BYTES:
            at = (raw.tell(), size)
            raw.seek(size, io.SEEK_CUR)
        else:
            head.write(key + rest.read(raw, size))
    if at is not None:
        places.append((head.getvalue(), *at))
        if len(places) > INITIALISERS_MAX:
            raise EOFError(f"it has more than {INITIALISERS_MAX} large weights")
    return head.getvalue()


def _entry(tensor: Any, path: Path, offset: int, length: int) -> Entry | None:
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        raise SourceError(
            f"{path.name}: tensor {tensor.name[:80]!r} has type number {tensor.data_type} of ONNX, which is not read."
        )
    shape = check_shape(tuple(tensor.dims), dtype.itemsize, tensor.name, path.name)
    entry = Entry(dtype, shape, path, offset)
    if entry.numel * dtype.itemsize != length:
        raise SourceError(
            f"{path.name}: tensor {tensor.name[:80]!r} has {length} bytes and its shape needs "
            f"{entry.numel * dtype.itemsize}. It is damaged: fetch it again."
        )
    return entry


def _external(tensor: Any, source: Path) -> Entry:
    """A tensor in a file beside the graph; files anywhere else are never opened. Raises SourceError."""
    said = {item.key: item.value for item in tensor.external_data}
    name = said.get("location", "")
    if not name or PurePosixPath(name).name != name or "\\" in name or name in (".", ".."):
        raise SourceError(f"{source.name} keeps weights in {name[:80]!r}; only files beside it are opened.")
    path = source.parent / name
    if path.is_symlink() and path.resolve().parent != source.resolve().parent and not source.is_symlink():
        raise SourceError(f"{source.name} keeps weights in a link {name[:80]!r} that leads elsewhere.")
    if not path.is_file():
        raise SourceError(
            f"{source.name} keeps weights in {name[:80]!r}, which is not beside it. Fetch it too."
        )
    dtype = DTYPES.get(tensor.data_type, torch.uint8)
    try:
        offset = int(said.get("offset", "0"))
        shape = check_shape(tuple(tensor.dims), dtype.itemsize, tensor.name, source.name)
        length = int(said["length"]) if "length" in said else Entry(dtype, shape, path).numel * dtype.itemsize
    except ValueError as error:
        raise SourceError(f"{source.name}: tensor {tensor.name[:80]!r} has no usable place.") from error
    if offset < 0 or length < 0 or offset + length > path.stat().st_size:
        raise SourceError(f"{name} ends before tensor {tensor.name[:80]!r} of {source.name}. Fetch it again.")
    entry = _entry(tensor, path, offset, length)
    assert entry is not None
    return entry


def tensor_of(tensor: Any, where: str) -> torch.Tensor:
    """A tensor that is inside the graph. Raises SourceError for text, and for damage."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise SourceError(f"{where}: tensor {tensor.name[:80]!r} lies outside of the file; only weights may.")
    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        raise SourceError(f"{where}: tensor {tensor.name[:80]!r} holds text, which no operator here takes.")
    dtype = DTYPES.get(tensor.data_type)
    try:
        if dtype is not None and tensor.HasField("raw_data"):
            if not tensor.raw_data:
                return torch.zeros(tuple(tensor.dims), dtype=dtype)
            return torch.frombuffer(bytearray(tensor.raw_data), dtype=dtype).reshape(tuple(tensor.dims))
        array = numpy_helper.to_array(tensor)
        if dtype is None:
            # Four-bit and eight-bit kinds that torch lacks.
            array = array.astype("float32" if tensor.data_type >= TensorProto.FLOAT8E4M3FN else "int8")
            wide = tensor.data_type in (TensorProto.UINT4, TensorProto.INT4)
            return torch.from_numpy(array.astype("int8").copy() if wide else array.copy())
        if dtype == torch.bfloat16:
            return torch.from_numpy(array.astype("float32")).to(dtype)
        return torch.from_numpy(array.copy())
    except (ValueError, TypeError, RuntimeError) as error:
        raise SourceError(f"{where}: tensor {tensor.name[:80]!r} is damaged: {error}"[:300]) from error
