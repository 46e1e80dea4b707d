"""Safetensors files in pieces: read a run of one tensor, write float32 tensors as they are made.

The usual reader maps a file into memory, which counts as memory used; merging large models reads with ``pread`` into
one small buffer instead. Headers are bounded and checked. Format: safetensors, little-endian.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from spore_borg.learn.errors import LearnError

HEADER_BYTES_MAX = 16 << 20
TENSORS_MAX = 100_000
_DTYPES = {"F32": (torch.float32, 4), "F16": (torch.float16, 2), "BF16": (torch.bfloat16, 2)}


class TensorFile:
    """An opened safetensors file of floating-point tensors. Raises LearnError when it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            self._specs = self._header()
        except BaseException:
            self.close()
            raise

    def _header(self) -> dict[str, tuple[str, tuple[int, ...], int]]:
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._file.read(8), "little")
        if not 2 <= length <= min(HEADER_BYTES_MAX, size - 8):
            raise LearnError(f"{self.path.name} is no safetensors file.")
        try:
            header = json.loads(self._file.read(length))
            specs = {
                str(name): _spec(value, 8 + length, size)
                for name, value in header.items()
                if name != "__metadata__"
            }
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise LearnError(f"{self.path.name} has a header that cannot be read: {error}") from error
        if len(specs) > TENSORS_MAX:
            raise LearnError(f"{self.path.name} has more than {TENSORS_MAX} tensors.")
        return specs

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by name."""
        return {name: shape for name, (_, shape, _) in self._specs.items()}

    def read(self, name: str, start: int, stop: int, into: torch.Tensor | None = None) -> torch.Tensor:
        """Coordinates ``start`` to ``stop`` of a tensor, as float32 [n].

        Args:
            into: float32 of at least n elements; the result shares its memory.
        Raises:
            LearnError: a short file.
        """
        dtype, _, begin = self._specs[name]
        kind, width = _DTYPES[dtype]
        found = torch.empty(stop - start) if into is None else into[: stop - start]
        raw = found if kind == torch.float32 else torch.empty(stop - start, dtype=kind)
        buffer: Any = raw.view(torch.uint8).numpy()
        if len(buffer) and os.preadv(self._file.fileno(), [buffer], begin + start * width) != len(buffer):
            raise LearnError(f"{self.path.name} ends in the middle of {name[:80]!r}; fetch it again.")
        return found if raw is found else found.copy_(raw)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _spec(value: Mapping[str, object], begin: int, size: int) -> tuple[str, tuple[int, ...], int]:
    """dtype, shape and place of a tensor. Raises KeyError, TypeError or ValueError."""
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"tensors of type {dtype} are not merged")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(shape) > 8 or len(offsets) != 2:
        raise ValueError("shape and offsets are lists")
    if not all(type(number) is int and number >= 0 for number in [*shape, *offsets]):
        raise ValueError("sizes are whole numbers")
    first, last = offsets
    if last - first != math.prod(shape) * _DTYPES[dtype][1] or begin + last > size:
        raise ValueError("offsets do not fit the shape")
    return dtype, tuple(shape), begin + first


class TensorWriter:
    """Writes float32 tensors in order of names, block by block; the file appears when it is complete."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        header, offset = {}, 0
        for name in sorted(shapes):
            end = offset + 4 * math.prod(shapes[name])
            header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [offset, end]}
            offset = end
        head = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
        self._head = head + b" " * (-len(head) % 8)
        self._left = offset

    def __enter__(self) -> TensorWriter:
        self._file = self._part.open("wb")
        self._file.write(len(self._head).to_bytes(8, "little") + self._head)
        return self

    def write(self, block: torch.Tensor) -> None:
        """The next float32 [n]."""
        little: Any = block.contiguous().numpy().astype("<f4", copy=False)
        raw = memoryview(little).cast("B")
        self._file.write(raw)
        self._left -= len(raw)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._left:
                    raise LearnError(f"{self._path.name} was not written to its end.")
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
            if kind is None and not self._left:
                os.replace(self._part, self._path)
            else:
                self._part.unlink(missing_ok=True)
