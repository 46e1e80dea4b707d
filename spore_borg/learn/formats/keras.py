"""Keras weights in HDF5 (``.h5``, ``.hdf5``, ``.weights.h5``) and Keras 3 archives (``.keras``), by h5py.

HDF5 can point outside itself: external and soft links, external and virtual datasets, filters that load a plug-in.
All of them are refused before a number is read. A Lambda layer's code in a model's configuration is text here and never
runs. Source: HDF5 file format 3.0; Keras documentation, "Model saving & serialization".
"""

from __future__ import annotations

import json
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from spore_borg.learn.errors import SourceError
from spore_borg.learn.formats.base import (
    TENSORS_MAX,
    TEXT_BYTES_MAX,
    Stamp,
    check_name,
    check_shape,
    unknown,
)

MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS_MEMBER = "model.weights.h5"
ARCHIVE_BYTES_MAX = 16 << 30
DEPTH_MAX = 32
CHUNK_BYTES_MAX = 256 << 20
# deflate, shuffle, fletcher32, szip, nbit, scale-offset, and lzf, which h5py has built in; others are plug-ins.
FILTERS = frozenset((1, 2, 3, 4, 5, 6, 32_000))
OPTIMIZERS = ("optimizer", "optimizer_weights")


class KerasWeights:
    """The datasets of a Keras file by path; ``Weights`` of the contract. Raises SourceError.

    A name is the dataset's path without a leading ``model_weights/``: ``dense/dense/kernel:0`` (Keras 2),
    ``layers/dense/vars/0`` (Keras 3). What belongs to the optimizer is left out.
    """

    def __init__(self, path: Path) -> None:
        self._stamp = Stamp(path)
        self._path = path
        self._unpacked = _unpacked(path) if zipfile.is_zipfile(path) else None
        if self._unpacked is not None:
            weakref.finalize(self, self._unpacked.close)
        with self._open() as opened:
            self._shapes, self._paths = _survey(opened, path.name)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading. Raises GraphError for an unknown name."""
        if name not in self._shapes:
            raise unknown(name, self._path.name)
        return self._shapes[name]

    def load(self, name: str) -> torch.Tensor:
        """One dataset in its own dtype. Raises GraphError, SourceError."""
        if name not in self._paths:
            raise unknown(name, self._path.name)
        self._stamp.check()
        with self._open() as opened:
            try:
                array = opened[self._paths[name]][()]
            except (OSError, KeyError, RuntimeError) as error:
                raise SourceError(
                    f"{self._path.name}: {name[:80]!r} cannot be read: {error}"[:300]
                ) from error
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(native.copy() if native.ndim == 0 else native).reshape(self._shapes[name])

    @contextmanager
    def _open(self) -> Iterator[Any]:
        with _hdf5(self._unpacked or self._path, self._path.name) as opened:
            yield opened


def metadata(path: Path) -> dict[str, Any]:
    """What a Keras file says of its model: ``model_config`` (parsed), ``keras_version``, ``layer_names``.

    Raises SourceError for texts that are no JSON or larger than the limit.
    """
    where = path.name
    found: dict[str, Any] = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            for member, key in (("config.json", "model_config"), ("metadata.json", "keras")):
                if member in opened.namelist():
                    if opened.getinfo(member).file_size > TEXT_BYTES_MAX:
                        raise SourceError(f"{where} has a {member} of more than {TEXT_BYTES_MAX >> 20} MiB.")
                    found[key] = _json(_member(opened, member, where), f"{where}:{member}")
        return found
    with _hdf5(path, where) as opened:
        for holder in (opened, _group(opened, "model_weights")):
            if holder is None:
                continue
            for key in ("model_config", "keras_version", "backend"):
                if key in holder.attrs and key not in found:
                    text = _text(holder.attrs[key])
                    found[key] = _json(text, f"{where}:{key}") if key == "model_config" else text
            if "layer_names" in holder.attrs:
                found["layer_names"] = [_text(one) for one in holder.attrs["layer_names"]]
    return found


def is_archive(names: list[str]) -> bool:
    """Whether a zip with these members is a Keras 3 archive."""
    return WEIGHTS_MEMBER in names and "config.json" in names


@contextmanager
def _hdf5(source: Path | IO[bytes], where: str) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise SourceError(
            f"{where} is HDF5, which needs h5py: install it with `pip install 'spore-borg[absorb]'`."
        ) from error
    try:
        # Blobs lie in directories that may be read-only, and nobody writes to them: no lock.
        opened = h5py.File(source, "r", locking=False) if isinstance(source, Path) else h5py.File(source, "r")
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"{where} is damaged HDF5: {error}. Fetch it again."[:300]) from error
    try:
        yield opened
    finally:
        opened.close()


def _survey(opened: Any, where: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes and paths of all numeric datasets, after everything that leads out of the file was refused."""
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}
    paths: dict[str, str] = {}
    seen: set[int] = set()
    stack: list[tuple[Any, str, int]] = [(opened, "", 0)]
    count = 0
    while stack:
        group, prefix, depth = stack.pop()
        if depth > DEPTH_MAX:
            raise SourceError(f"{where} has groups more than {DEPTH_MAX} deep.")
        for key in group:
            count += 1
            if count > TENSORS_MAX:
                raise SourceError(f"{where} has more than {TENSORS_MAX} datasets.")
            path = f"{prefix}/{key}" if prefix else str(key)
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise SourceError(
                    f"{where}: {path[:80]!r} is a link to another place or file; such files are refused."
                )
            try:
                item = group[key]
            except (OSError, KeyError, RuntimeError) as error:
                raise SourceError(f"{where}: {path[:80]!r} cannot be read: {error}"[:300]) from error
            if path in OPTIMIZERS:
                continue
            if isinstance(item, h5py.Group):
                address = int(h5py.h5o.get_info(item.id).addr)
                if address in seen:
                    raise SourceError(
                        f"{where}: the group {path[:80]!r} stands in it twice; such files are refused."
                    )
                seen.add(address)
                stack.append((item, path, depth + 1))
            elif isinstance(item, h5py.Dataset):
                name = check_name(path.removeprefix("model_weights/"), where)
                shapes[name] = _checked(item, name, where)
                paths[name] = path
    if not shapes:
        raise SourceError(f"{where} has no weights: it is HDF5 without datasets.")
    return shapes, paths


def _checked(item: Any, name: str, where: str) -> tuple[int, ...]:
    """The shape of a dataset. Raises SourceError unless its numbers lie in this file and are bounded."""
    import h5py

    if item.shape is None or item.dtype.kind not in "biuf" or item.dtype.itemsize > 8:
        raise SourceError(
            f"{where}: {name[:80]!r} has dtype {item.dtype}, which is not read; weights are numbers."
        )
    if item.external or item.is_virtual:
        raise SourceError(f"{where}: {name[:80]!r} has its numbers in another file; such files are refused.")
    settings = item.id.get_create_plist()
    filters = {settings.get_filter(index)[0] for index in range(settings.get_nfilters())}
    if filters - FILTERS:
        raise SourceError(
            f"{where}: {name[:80]!r} needs the HDF5 plug-in {min(filters - FILTERS)}, which is not loaded."
        )
    shape = check_shape([int(size) for size in item.shape], item.dtype.itemsize, name, where)
    if item.chunks is not None:
        chunk = int(item.dtype.itemsize)
        for size in item.chunks:
            chunk *= int(size)
        if chunk > CHUNK_BYTES_MAX:
            raise SourceError(f"{where}: {name[:80]!r} has chunks of {chunk >> 20} MiB; they are refused.")
    if settings.get_layout() == h5py.h5d.CONTIGUOUS and item.id.get_storage_size() < item.nbytes:
        raise SourceError(f"{where}: {name[:80]!r} is described and not stored. Fetch the file again.")
    return shape


def _unpacked(path: Path) -> IO[bytes]:
    """The weights inside a ``.keras`` archive in a nameless file of their own: HDF5 needs to seek."""
    with zipfile.ZipFile(path) as opened:
        size_bytes = opened.getinfo(WEIGHTS_MEMBER).file_size
        if size_bytes > ARCHIVE_BYTES_MAX:
            raise SourceError(
                f"{path.name} unpacks to {size_bytes >> 30} GiB; at most {ARCHIVE_BYTES_MAX >> 30} are read."
            )
        if size_bytes > (256 << 20) + 400 * path.stat().st_size:
            raise SourceError(f"{path.name} unpacks to far more than its size; it is refused as a bomb.")
        out = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the weights
        try:
            with opened.open(WEIGHTS_MEMBER) as raw:
                while piece := raw.read(1 << 20):
                    out.write(piece)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            out.close()
            raise SourceError(f"{path.name} is damaged: {error}. Fetch it again."[:300]) from error
    out.seek(0)
    return out


def _member(opened: zipfile.ZipFile, member: str, where: str) -> bytes:
    try:
        return opened.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"{where} is damaged: {error}. Fetch it again."[:300]) from error


def _group(opened: Any, name: str) -> Any:
    import h5py

    if name in opened and isinstance(opened.get(name, getlink=True), h5py.HardLink):
        return opened[name]
    return None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def _json(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where} is no JSON: {error}"[:300]) from error
