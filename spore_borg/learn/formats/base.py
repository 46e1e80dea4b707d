"""What all readers share: one description per tensor, bounded sizes, reads that never map the file.

A tensor is read into memory of its own, not mapped: then peak memory is that of the largest tensor, whatever the size
of the file, and a file that shrinks while it is read is an error and not a crash of the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from spore_borg.learn.errors import GraphError, SourceError

TENSORS_MAX = 100_000  # tensors of one checkpoint
TENSOR_BYTES_MAX = 4 << 30  # one tensor; a larger one does not fit the memory that an absorption may use
NAME_CHARS_MAX = 512
RANK_MAX = 16
TEXT_BYTES_MAX = 64 << 20  # one JSON text or pickle that describes tensors
READ_BYTES = 1 << 28  # one system call reads at most 2 GiB - 4 KiB on Linux


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its dtype, its shape, and where its file has it (bytes)."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    path: Path
    offset: int = 0
    stride: tuple[int, ...] | None = None

    @property
    def numel(self) -> int:
        """Numbers in the tensor."""
        return prod(self.shape)


def check_name(name: object, where: str) -> str:
    """A tensor's name. Raises SourceError if it is no printable text of bounded length."""
    if type(name) is not str or not name or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise SourceError(f"{where} has a tensor with an unusable name: {str(name)[:60]!r}.")
    return name


def check_shape(shape: object, itemsize: int, name: str, where: str) -> tuple[int, ...]:
    """A tensor's shape. Raises SourceError for what is no shape, or too large."""
    if not isinstance(shape, (list, tuple)) or len(shape) > RANK_MAX:
        raise SourceError(f"{where}: tensor {name[:80]!r} has no shape of at most {RANK_MAX} sizes.")
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
        raise SourceError(f"{where}: tensor {name[:80]!r} has a size that is no whole number.")
    if prod(shape) * itemsize > TENSOR_BYTES_MAX:
        raise SourceError(
            f"{where}: tensor {name[:80]!r} has {prod(shape) * itemsize >> 20} MiB; "
            f"at most {TENSOR_BYTES_MAX >> 20} MiB fit the memory that an absorption may use."
        )
    return tuple(shape)


def unknown(name: str, where: str) -> GraphError:
    """The error for a name that no tensor has."""
    return GraphError(f"{where} has no tensor {name[:80]!r}.")


class Stamp:
    """A file as it was when it was opened: reading it later says so if it has changed meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._look()

    def _look(self) -> tuple[int, int, int]:
        try:
            found = self.path.stat()
        except OSError as error:
            raise SourceError(
                f"{self.path} cannot be read: {error.strerror}. Check the path and its rights."
            ) from error
        return found.st_ino, found.st_size, found.st_mtime_ns

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return self._seen[1]

    def check(self) -> None:
        """Raises SourceError if the file is not the one that was opened."""
        if self._look() != self._seen:
            raise SourceError(
                f"{self.path.name} changed while it was read. Leave it in place and start again."
            )


class FlatWeights:
    """Tensors that lie in files as plain little-endian numbers; ``Weights`` of the contract."""

    def __init__(self, entries: Mapping[str, Entry], where: str) -> None:
        self._entries = dict(sorted(entries.items()))
        self._where = where
        self._stamps = {path: Stamp(path) for path in {entry.path for entry in entries.values()}}

    def names(self) -> list[str]:
        """All names, sorted."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading. Raises GraphError for an unknown name."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in the file, without loading. Raises GraphError for an unknown name."""
        return self._entry(name).dtype

    def load(self, name: str) -> torch.Tensor:
        """One tensor in its own dtype, in memory of its own. Raises GraphError, SourceError."""
        entry = self._entry(name)
        self._stamps[entry.path].check()
        flat = torch.empty(entry.numel, dtype=entry.dtype)
        if entry.numel:
            read_into(flat, entry.path, entry.offset)
        if entry.stride is None:
            return flat.reshape(entry.shape)
        # A dense tensor whose axes lie in another order (a transposed weight): the same numbers, seen through strides.
        return flat.as_strided(entry.shape, entry.stride)

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise unknown(name, self._where) from None


def read_into(flat: torch.Tensor, path: Path, offset: int) -> None:
    """Fill a one-dimensional tensor with a file's bytes from ``offset``. Raises SourceError at a short file."""
    view = flat.view(torch.uint8).numpy().data
    with path.open("rb", buffering=0) as raw:
        done = 0
        raw.seek(offset)
        while done < len(view):
            count = raw.readinto(view[done : done + READ_BYTES])
            if not count:
                raise SourceError(f"{path.name} is shorter than its header says; fetch it again.")
            done += count


def read_text(path: Path, size_bytes: int = TEXT_BYTES_MAX) -> bytes:
    """A small file's bytes. Raises SourceError over the limit."""
    with path.open("rb") as raw:
        text = raw.read(size_bytes + 1)
    if len(text) > size_bytes:
        raise SourceError(f"{path.name} is larger than the {size_bytes >> 20} MiB that such a file may have.")
    return text
