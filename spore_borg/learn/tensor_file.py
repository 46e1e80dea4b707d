"""Safetensors files in pieces: read a run of one tensor, write float32 tensors as they are made.

The usual reader maps a file into memory, which counts as memory used; merging large models reads with ``pread`` into
one small buffer instead. Headers are read and written as :mod:`spore_borg.learn.formats.safe` has them; little-endian.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from spore_borg.learn.errors import LearnError
from spore_borg.learn.formats import safe

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class TensorFile:
    """An opened safetensors file of floating-point tensors. Raises LearnError when it is none."""

    def __init__(self, path: Path) -> None:
        self._entries = safe.entries(path)
        for name, entry in self._entries.items():
            if entry.dtype not in DTYPES:
                raise LearnError(f"{path.name}: {name[:80]!r} is of type {entry.dtype}, which is not merged.")
        self.path = path
        self._file = path.open("rb")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by name."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def read(self, name: str, start: int, stop: int, into: torch.Tensor | None = None) -> torch.Tensor:
        """Coordinates ``start`` to ``stop`` of a tensor, as float32 [n].

        Args:
            into: float32 of at least n elements; the result shares its memory.
        Raises:
            LearnError: a short file.
        """
        entry = self._entries[name]
        kind, at = entry.dtype, entry.offset + start * entry.dtype.itemsize
        found = torch.empty(stop - start) if into is None else into[: stop - start]
        raw = found if kind == torch.float32 else torch.empty(stop - start, dtype=kind)
        buffer: Any = raw.view(torch.uint8).numpy()
        if len(buffer) and os.preadv(self._file.fileno(), [buffer], at) != len(buffer):
            raise LearnError(f"{self.path.name} ends in the middle of {name[:80]!r}; fetch it again.")
        return found if raw is found else found.copy_(raw)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


class TensorWriter:
    """Writes float32 tensors in order of names, block by block; the file appears when it is complete."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
        self._head = safe.encoded({name: ("F32", shape, sizes[name]) for name, shape in shapes.items()}, {})
        self._left = sum(sizes.values())

    def __enter__(self) -> TensorWriter:
        self._file = self._part.open("wb")
        self._file.write(self._head)
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
