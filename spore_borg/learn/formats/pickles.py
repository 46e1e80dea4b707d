"""torch checkpoints, which are pickles: read only through torch's ``weights_only`` and named where they would run code.

The zip format is read without its numbers (torch loads it with fake tensors that know their offset in the file), then
one tensor at a time from the file. The old format, one pickle after another, has no offsets and is loaded whole.
Source: torch documentation, "Serialization semantics" (layout of the zip format, loading under FakeTensorMode).
"""

from __future__ import annotations

import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from spore_borg.learn.errors import SourceError
from spore_borg.learn.formats import safe
from spore_borg.learn.formats.base import (
    TENSORS_MAX,
    TEXT_BYTES_MAX,
    Entry,
    FlatWeights,
    check_name,
    check_shape,
    unknown,
)

OLD_BYTES_MAX = 1 << 30  # the old format is loaded whole
DEPTH_MAX = 6
# Where trainers put the parameters, in the order in which they are looked for.
STATE_KEYS = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "generator", "encoder", "weights", "params",
    "ema", "student", "teacher",
)  # fmt: skip
# Prefixes that wrappers of a module put before every name (DataParallel, torch.compile).
WRAPPERS = ("module.", "_orig_mod.")
OLD_MAGIC = 0x1950A86A20F9469CFC6C

_SAFE_MODULES = ("torch", "collections", "_codecs")


class Loaded:
    """Tensors that are in memory already; ``Weights`` of the contract."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], where: str) -> None:
        self._tensors = dict(sorted(tensors.items()))
        self._where = where

    def names(self) -> list[str]:
        """All names, sorted."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape. Raises GraphError for an unknown name."""
        return tuple(self.load(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype. Raises GraphError for an unknown name."""
        return self.load(name).dtype

    def load(self, name: str) -> torch.Tensor:
        """One tensor in its own dtype. Raises GraphError for an unknown name."""
        try:
            return self._tensors[name]
        except KeyError:
            raise unknown(name, self._where) from None


def open_zip(path: Path) -> FlatWeights:
    """A checkpoint in torch's zip format. Raises SourceError; runs nothing."""
    return FlatWeights(zip_entries(path), path.name)


def open_index(path: Path) -> FlatWeights:
    """A checkpoint in shards (``pytorch_model.bin.index.json``), each in the zip format."""
    listed = safe.weight_map(path)
    shards = {file: zip_entries(safe.shard(path, file)) for file in sorted(set(listed.values()))}
    missing = [name for name, file in listed.items() if name not in shards[file]]
    if missing:
        raise SourceError(
            f"{path.name} names the tensor {missing[0][:80]!r}, which its file has not. Fetch it again."
        )
    return FlatWeights({name: shards[file][name] for name, file in listed.items()}, path.name)


@contextmanager
def _the_files_fault(path: Path) -> Iterator[None]:
    """Any error of unpickling as a SourceError: the unpickler applies what the file says to torch's own functions."""
    try:
        yield
    except SourceError:
        raise
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except Exception as error:
        raise SourceError(
            f"{path.name} is no checkpoint that torch can read: {type(error).__name__} {error}"[:300]
        ) from error


def zip_entries(path: Path) -> dict[str, Entry]:
    """Every tensor with its offset in the file."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    records = _check_zip(path)
    with _the_files_fault(path), FakeTensorMode():
        tensors = state_of(_load(path), path.name)
        return {name: _entry(name, tensor, path, records) for name, tensor in tensors.items()}


def open_old(path: Path) -> Loaded:
    """A checkpoint of torch before 1.6, or saved with ``_use_new_zipfile_serialization=False``. Raises SourceError."""
    where = path.name
    size_bytes = path.stat().st_size
    if size_bytes > OLD_BYTES_MAX:
        raise SourceError(
            f"{where} has torch's old format, which must be loaded whole, and {size_bytes >> 20} MiB; at most "
            f"{OLD_BYTES_MAX >> 20} MiB are read so. Save it again with a recent torch, or as safetensors."
        )
    forbidden = unsafe_globals(path)
    if forbidden:
        raise would_run(where, forbidden)
    with _the_files_fault(path):
        tensors = state_of(_load(path), where)
    for name, tensor in tensors.items():
        _check_dense(name, tensor, where)
    return Loaded({name: tensor.detach() for name, tensor in tensors.items()}, where)


def is_old(start: bytes) -> bool:
    """Whether a file that starts so is a checkpoint in torch's old format: a pickle of its magic number."""
    try:
        for op, value, _ in pickletools.genops(start[:64]):
            if op.name in ("LONG1", "LONG"):
                return bool(value == OLD_MAGIC)
            if op.name not in ("PROTO", "FRAME"):
                return False
    except (ValueError, struct.error):
        return False
    return False


def pickled_globals(raw: bytes) -> list[str]:
    """The names that a pickle would look up, in order; found by reading its opcodes, never by running them."""
    names: list[str] = []
    texts: list[str] = []
    try:
        for op, value, _ in pickletools.genops(raw):
            if op.name in ("GLOBAL", "INST"):
                names.append(str(value).replace(" ", "."))
            elif op.name == "STACK_GLOBAL":
                names.append(".".join(texts[-2:]) if len(texts) > 1 else "a computed name")
            elif isinstance(value, str):
                texts.append(value)
    except (ValueError, struct.error, IndexError):
        # Cut or damaged: what was found before counts.
        pass
    return list(dict.fromkeys(names))


def would_run(where: str, names: Iterable[str]) -> SourceError:
    """The refusal of a pickle that names code."""
    some = ", ".join(list(names)[:3])
    return SourceError(
        f"{where} would execute code when it is loaded: its pickle asks for {some[:200]}. It was not loaded. "
        "Take the model's safetensors, or save its state_dict alone."
    )


def unsafe_globals(path: Path) -> list[str]:
    """Names outside torch that a stream of pickles in torch's old format asks for."""
    with path.open("rb") as raw:
        # The numbers follow the pickles; the pickles come first and are small.
        start = raw.read(TEXT_BYTES_MAX)
    found: list[str] = []
    at = 0
    for _ in range(5):  # magic, version, system, the objects, the keys of storages
        stop = _pickle_end(start, at)
        found += pickled_globals(start[at:stop])
        if stop >= len(start) or stop == at:
            break
        at = stop
    return [name for name in dict.fromkeys(found) if name.split(".")[0] not in _SAFE_MODULES]


def _pickle_end(raw: bytes, at: int) -> int:
    end = at
    try:
        for _, _, position in pickletools.genops(raw[at:]):
            end = at + (position or 0) + 1
    except (ValueError, struct.error, IndexError):
        # What does not end is unreadable; torch will say so.
        pass
    return end


def state_of(loaded: Any, where: str) -> dict[str, torch.Tensor]:
    """The tensors of a loaded checkpoint by name: of the checkpoint itself, or of the map where trainers keep them.

    Maps inside are joined with dots; wrappers' prefixes are taken off. Raises SourceError if there are none.
    """
    if isinstance(loaded, torch.Tensor):
        return {"tensor": loaded}
    if not isinstance(loaded, Mapping):
        raise SourceError(
            f"{where} holds a {type(loaded).__name__}, not the tensors of a model. Save its state_dict."
        )
    chosen: Mapping[Any, Any] = loaded
    for _ in range(3):  # {"checkpoint": {"state_dict": {…}}}
        if any(isinstance(value, torch.Tensor) for value in chosen.values()):
            break
        inner = next(
            (chosen[k] for k in STATE_KEYS if isinstance(chosen.get(k), Mapping) and _flat(chosen[k], where)),
            None,
        )
        if inner is None:
            break
        chosen = inner
    tensors = _flat(chosen, where)
    if not tensors:
        keys = ", ".join(repr(str(key)[:40]) for key in list(loaded)[:8]) or "nothing"
        raise SourceError(f"{where} has no tensors where checkpoints keep them. It has {keys}.")
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) and len(name) > len(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _flat(value: Mapping[Any, Any], where: str, depth: int = 0) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for key, item in value.items():
        if isinstance(item, torch.Tensor):
            found[check_name(str(key), where)] = item
        elif isinstance(item, Mapping) and depth < DEPTH_MAX:
            found.update(
                {check_name(f"{key}.{n}", where): t for n, t in _flat(item, where, depth + 1).items()}
            )
        if len(found) > TENSORS_MAX:
            raise SourceError(f"{where} has more than {TENSORS_MAX} tensors.")
    return found


def _load(path: Path) -> Any:
    with warnings.catch_warnings():
        # torch warns of storages that its own old files are made of.
        warnings.simplefilter("ignore")
        # A stream, not a path: torch would go by the path's suffix, and only the content counts here.
        with path.open("rb") as raw:
            return torch.load(raw, map_location="cpu", weights_only=True)


def _check_zip(path: Path) -> dict[int, int]:
    """Where each record's bytes begin, and how many there are. Raises SourceError unless the records lie in the zip as
    they are, little-endian, and the pickle is small and asks for no code."""
    where = path.name
    try:
        with zipfile.ZipFile(path) as opened:
            infos = opened.infolist()
            if len(infos) > TENSORS_MAX + 64:
                raise SourceError(f"{where} has more than {TENSORS_MAX} records.")
            for info in infos:
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise SourceError(
                        f"{where} has a packed record; torch writes none. Save the checkpoint again."
                    )
                if info.filename.endswith("/byteorder") and opened.read(info)[:16] != b"little":
                    raise SourceError(
                        f"{where} was written big-endian, which is not read. Save it again as safetensors."
                    )
            pickles = [info for info in infos if info.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > TEXT_BYTES_MAX:
                raise SourceError(f"{where} has no single data.pkl of at most {TEXT_BYTES_MAX >> 20} MiB.")
    except zipfile.BadZipFile as error:
        raise SourceError(f"{where} is a damaged zip: {error}. Fetch it again."[:300]) from error
    try:
        with path.open("rb") as raw:
            forbidden = torch.serialization.get_unsafe_globals_in_checkpoint(raw)
    except Exception as error:
        # torch's scanner meets a damaged pickle with errors of every kind.
        raise SourceError(f"{where} has a damaged pickle: {type(error).__name__} {error}"[:300]) from error
    if forbidden:
        raise would_run(where, forbidden)
    return _records(path, infos)


def _records(path: Path, infos: list[zipfile.ZipInfo]) -> dict[int, int]:
    """Offset of the bytes of each record → their number, from the local headers: torch goes by these."""
    found = {}
    with path.open("rb") as raw:
        for info in infos:
            raw.seek(info.header_offset)
            local = raw.read(30)
            if len(local) == 30:
                name_size, extra_size = struct.unpack_from("<HH", local, 26)
                found[info.header_offset + 30 + name_size + extra_size] = info.file_size
    return found


def _entry(name: str, tensor: torch.Tensor, path: Path, records: Mapping[int, int]) -> Entry:
    where = path.name
    _check_dense(name, tensor, where)
    storage = tensor.untyped_storage()
    offset = getattr(storage, "_checkpoint_offset", None)
    itemsize = tensor.dtype.itemsize
    begin = int(tensor.storage_offset()) * itemsize
    count = tensor.numel()
    if count == 0:
        return Entry(tensor.dtype, tuple(tensor.shape), path)
    if type(offset) is not int or begin + count * itemsize > storage.nbytes():
        raise SourceError(f"{where}: tensor {name[:80]!r} lies outside its storage; the file is damaged.")
    if records.get(offset, -1) < storage.nbytes():
        raise SourceError(
            f"{where}: tensor {name[:80]!r} is longer than its record in the file. Fetch it again."
        )
    stride = None if tensor.is_contiguous() else tuple(tensor.stride())
    return Entry(tensor.dtype, tuple(tensor.shape), path, offset + begin, stride)


def _check_dense(name: str, tensor: torch.Tensor, where: str) -> None:
    """Raises SourceError unless every number of the tensor lies once, one beside the other."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise SourceError(
            f"{where}: tensor {name[:80]!r} is sparse or quantised, which is not read. Save it dense."
        )
    check_shape(list(tensor.shape), tensor.dtype.itemsize, name, where)
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            raise SourceError(
                f"{where}: tensor {name[:80]!r} is a view with gaps or repeats. Save it again with .contiguous()."
            )
        expected *= size


def _refusal(path: Path, error: Exception) -> SourceError:
    first = " ".join(str(error).split())
    return SourceError(f"{path.name} was refused by torch's safe loader: {first[:240]}")
