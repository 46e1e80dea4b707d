"""NumPy's ``.npy`` and ``.npz``: headers first, then one array at a time, never a pickled object.

Source: NumPy's description of the npy format, versions 1.0 to 3.0.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from spore_borg.learn.errors import SourceError
from spore_borg.learn.formats.base import TENSORS_MAX, Stamp, check_name, check_shape, unknown

MAGIC = b"\x93NUMPY"
HEADER_BYTES_MAX = 65_536
READ_ITEMS = 1 << 22


class ArrayWeights:
    """The arrays of one ``.npy`` (called ``array``) or ``.npz``; ``Weights`` of the contract. Raises SourceError."""

    def __init__(self, path: Path) -> None:
        self._stamp = Stamp(path)
        self._path = path
        self._heads: dict[str, tuple[tuple[int, ...], bool, np.dtype[Any], str]] = {}
        self._zip = zipfile.is_zipfile(path)
        for name, member, size_bytes in self._members():
            with self._stream(member) as raw:
                shape, fortran, dtype, start = _head(raw, name, path.name)
            if size_bytes - start != int(np.prod(shape, dtype=object)) * dtype.itemsize:
                raise SourceError(
                    f"{path.name}: array {name[:80]!r} has another length than its shape needs."
                )
            self._heads[name] = (shape, fortran, dtype, member)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._heads)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading. Raises GraphError for an unknown name."""
        return self._head_of(name)[0]

    def dtype(self, name: str) -> torch.dtype:
        """The dtype, without loading. Raises GraphError for an unknown name."""
        return torch.from_numpy(np.empty(0, self._head_of(name)[2].newbyteorder("="))).dtype

    def load(self, name: str) -> torch.Tensor:
        """One array in its own dtype. Raises GraphError, SourceError."""
        shape, fortran, dtype, member = self._head_of(name)
        self._stamp.check()
        native = dtype.newbyteorder("=")
        flat = np.empty(int(np.prod(shape)), native)
        with self._stream(member) as raw:
            _head(raw, name, self._path.name)
            for at in range(0, len(flat), READ_ITEMS):
                piece = flat[at : at + READ_ITEMS]
                data = _read(raw, piece.size * dtype.itemsize, name, self._path.name)
                piece[:] = np.frombuffer(data, dtype)
        tensor = torch.from_numpy(flat)
        return (
            tensor.reshape(shape[::-1]).permute(*reversed(range(len(shape))))
            if fortran
            else tensor.reshape(shape)
        )

    def _head_of(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], str]:
        try:
            return self._heads[name]
        except KeyError:
            raise unknown(name, self._path.name) from None

    def _members(self) -> Iterator[tuple[str, str, int]]:
        """Name, member and unpacked size of each array."""
        if not self._zip:
            yield "array", "", self._stamp.size_bytes
            return
        seen = set()
        with zipfile.ZipFile(self._path) as opened:
            infos = opened.infolist()
        if len(infos) > TENSORS_MAX:
            raise SourceError(f"{self._path.name} has more than {TENSORS_MAX} arrays.")
        for info in infos:
            name = check_name(info.filename.removesuffix(".npy"), self._path.name)
            if not info.filename.endswith(".npy") or name in seen or info.flag_bits & 1:
                raise SourceError(
                    f"{self._path.name} has a member {info.filename[:80]!r} that is no array of its own."
                )
            seen.add(name)
            yield name, info.filename, info.file_size

    @contextmanager
    def _stream(self, member: str) -> Iterator[IO[bytes]]:
        try:
            if not self._zip:
                with self._path.open("rb") as raw:
                    yield raw
                return
            with zipfile.ZipFile(self._path) as opened, opened.open(member) as raw:
                yield raw
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise SourceError(f"{self._path.name} is damaged: {error}. Fetch it again."[:300]) from error


def _head(raw: IO[bytes], name: str, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, dtype and the length of the header. Raises SourceError, and for object arrays before any byte of
    them is read."""
    try:
        version = np.lib.format.read_magic(raw)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(raw, max_header_size=HEADER_BYTES_MAX)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(raw, max_header_size=HEADER_BYTES_MAX)
        else:
            raise ValueError(f"version {version} is for arrays with named fields")
    except (ValueError, SyntaxError, RecursionError, TypeError, MemoryError) as error:
        raise SourceError(f"{where}: array {name[:80]!r} has an unreadable header: {error}"[:300]) from error
    if dtype.hasobject:
        raise SourceError(
            f"{where} would execute code when it is loaded: array {name[:80]!r} holds pickled Python objects. "
            "It was not loaded. Save it as numbers."
        )
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise SourceError(f"{where}: array {name[:80]!r} has dtype {dtype}, which is not read.")
    return check_shape(list(shape), dtype.itemsize, name, where), bool(fortran), dtype, raw.tell()


def _read(raw: IO[bytes], size_bytes: int, name: str, where: str) -> bytes:
    parts = []
    left = size_bytes
    while left:
        part = raw.read(left)
        if not part:
            raise SourceError(f"{where}: array {name[:80]!r} is cut short. Fetch it again.")
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
