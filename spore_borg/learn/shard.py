"""The shard: one absorbed model as a safetensors file, written in a stream, read by tensors, digested by group.

Nothing in a file from a peer is believed before it is checked: header, sizes, dtypes, names, graph, groups, scales and
thresholds. Nothing in it is executed. Contract: docs/internals/absorption.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from spore_borg.learn.errors import LearnError, ShardError
from spore_borg.learn.formats import safe
from spore_borg.learn.graph import HEADS, MODALITIES, Graph, Info, Model
from spore_borg.learn.spike.codes import Code
from spore_borg.learn.spike.plan import Place, layer_names, owners, plan
from spore_borg.records.merkle import state_digest

FORMAT = "spore-borg-shard/1"
TENSOR_BYTES_MAX = 4 << 30  # one tensor as stored
RANK_MAX = 8
READ_BYTES = 1 << 20
TWO_BASES = frozenset(
    ("linear", "attention", "recurrent")
)  # families of which an input may get a second base
INNER_STEPS = 64  # inner step n draws the rows i with i mod 64 = n - 1
_DTYPES = {"I8": torch.int8, "U8": torch.uint8, "F32": torch.float32, "I64": torch.int64, "BOOL": torch.bool}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_SIZES = {"I8": 1, "U8": 1, "F32": 4, "I64": 8, "BOOL": 1}
_ALLOWED = {
    "q": ("I8",),
    "s": ("F32",),
    "d": ("F32", "I64", "BOOL", "I8", "U8"),
    "t": ("F32",),
    "f": ("F32",),  # in place of t: the threshold of an input that has two bases
    "z": ("F32",),
    "a": ("U8",),
}
_KEYS = ("adapter", "format", "graph", "info", "layers", "rule", "steps")


@dataclass(frozen=True, slots=True)
class Spec:
    """What a header says of a tensor: dtype as safetensors calls it, shape, and where its bytes begin in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * _SIZES[self.dtype]


def spec_of(tensor: torch.Tensor) -> Spec:
    """The spec of a tensor that is to be written. Raises ShardError for a dtype that no shard holds."""
    if tensor.dtype not in _NAMES:
        raise ShardError(f"A shard holds no tensors of type {tensor.dtype}.")
    return Spec(_NAMES[tensor.dtype], tuple(tensor.shape))


def raw(tensor: torch.Tensor) -> bytes | memoryview:
    """Little-endian bytes of a tensor, without a copy where it is contiguous."""
    array = tensor.detach().contiguous().numpy()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return little.reshape(-1).view("u1").data if little.size else b""


def _label(name: str, spec: Spec) -> bytes:
    head = json.dumps([name, spec.dtype, list(spec.shape)], separators=(",", ":")).encode()
    return len(head).to_bytes(4, "little") + head


class Digester:
    """sha256 over (name, dtype, shape, bytes) of tensors, which must come in order of names."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()

    def add(self, name: str, spec: Spec, chunks: Iterator[bytes | memoryview]) -> None:
        """Take in one tensor."""
        self._total.update(_label(name, spec))
        for chunk in chunks:
            self._total.update(chunk)

    def finish(self, tail: bytes = b"") -> bytes:
        """The digest: 32 bytes."""
        self._total.update(tail)
        return self._total.digest()


def canonical_metadata(metadata: Mapping[str, str]) -> bytes:
    """The metadata as the bytes that digests cover."""
    return json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def chain_start(metadata: Mapping[str, str]) -> bytes:
    """c[0]."""
    return hashlib.sha256(b"shard" + canonical_metadata(metadata)).digest()


def chain_step(before: bytes, group: bytes) -> bytes:
    """c[k + 1] from c[k] and the digest of group k's tensors."""
    return hashlib.sha256(before + group).digest()


def metadata_of(
    graph: Graph, adapter: Mapping[str, Any], info: Info, code: Code, layers: Sequence[Sequence[str]]
) -> dict[str, str]:
    """The metadata of a shard's file."""

    def text(value: object) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)

    return {
        "adapter": text(dict(adapter)), "format": FORMAT, "graph": graph.to_json(), "info": text(asdict(info)),
        "layers": text([list(group) for group in layers]), "rule": code.rule, "steps": str(code.steps),
    }  # fmt: skip


def write(
    path: Path, metadata: Mapping[str, str], specs: Mapping[str, Spec], make: Callable[[str], torch.Tensor]
) -> None:
    """Write a shard: the header first, then ``make(name)`` for one tensor after the other, in order of names.

    The file appears under its name only when it is complete. Equal tensors and metadata are equal bytes.

    Raises:
        ShardError: a made tensor is not what its spec says. OSError: the disk.
    """
    described = {name: (spec.dtype, spec.shape, spec.size_bytes) for name, spec in specs.items()}
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(safe.encoded(described, metadata))
            for name in sorted(specs):
                tensor = make(name)
                if spec_of(tensor) != Spec(specs[name].dtype, specs[name].shape):
                    raise ShardError(f"Tensor {name[:80]!r} became {spec_of(tensor)}, not {specs[name]}.")
                file.write(raw(tensor))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Shard:
    """An opened shard; tensors are read from the file when they are asked for.

    Attributes:
        layers: K groups of layer names in graph order. places: what each operator does, by name.
        specs: tensors of the file by name: ``q: s: d: t: f: z: a:``.
    """

    path: Path
    graph: Graph
    adapter: Mapping[str, Any]
    info: Info
    code: Code
    layers: tuple[tuple[str, ...], ...]
    specs: Mapping[str, Spec]
    metadata: Mapping[str, str]
    places: Mapping[str, Place]

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as stored. Raises ShardError if there is none, or if its numbers are not usable."""
        if name not in self.specs:
            raise ShardError(f"The shard has no tensor {name[:120]!r}.")
        spec = self.specs[name]
        with self.path.open("rb") as file:
            file.seek(spec.start)
            data = bytearray(spec.size_bytes)
            if file.readinto(data) != spec.size_bytes:
                raise ShardError(f"{self.path.name} ends before tensor {name[:120]!r} does; fetch it again.")
        if not data:
            return torch.empty(spec.shape, dtype=_DTYPES[spec.dtype])
        found = torch.frombuffer(data, dtype=_DTYPES[spec.dtype]).reshape(spec.shape)
        if name[:2] in ("s:", "t:", "f:") and not bool(((found > 0) & torch.isfinite(found)).all()):
            raise ShardError(
                f"{name[:120]!r} holds numbers that are not finite and above 0; the shard is refused."
            )
        if name[:2] == "z:" or (name[:2] == "d:" and spec.dtype == "F32"):
            # An attention mask may hold -inf; NaN is of no use anywhere.
            fine = ~torch.isnan(found) if name[:2] == "d:" else torch.isfinite(found)
            if not bool(fine.all()):
                raise ShardError(f"{name[:120]!r} holds numbers that are not finite; the shard is refused.")
        return found

    def weights(self) -> ShardWeights:
        """The graph's weights, dequantised one at a time."""
        return ShardWeights(self)

    def model(self) -> Model:
        """The shard as a model for the dense interpreter: int8 weights, no codes."""
        assets = {name[2:]: bytes(raw(self.tensor(name))) for name in self.specs if name.startswith("a:")}
        return Model(self.graph, self.weights(), self.adapter, assets, self.info)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of one tensor, in pieces of bounded size."""
        spec = self.specs[name]
        with self.path.open("rb") as file:
            file.seek(spec.start)
            left = spec.size_bytes
            while left:
                piece = file.read(min(left, READ_BYTES))
                if not piece:
                    raise ShardError(
                        f"{self.path.name} ends before tensor {name[:120]!r} does; fetch it again."
                    )
                left -= len(piece)
                yield piece

    def group_tensors(self, group: int) -> list[str]:
        """Names of the tensors of one group, sorted; assets belong to group 0."""
        return sorted(
            name for name, number in group_of(self.graph, self.layers, self.specs).items() if number == group
        )

    def group_digest(self, group: int) -> bytes:
        """Digest of one group's tensors."""
        total = Digester()
        for name in self.group_tensors(group):
            total.add(name, self.specs[name], iter(self.chunks(name)))
        return total.finish()

    def chain(self) -> list[bytes]:
        """c[0] … c[K]."""
        found = [chain_start(self.metadata)]
        for group in range(len(self.layers)):
            found.append(chain_step(found[-1], self.group_digest(group)))
        return found

    def params_digest(self) -> bytes:
        """sha256 over every tensor in order of names, then the metadata: 32 bytes."""
        total = Digester()
        for name in sorted(self.specs):
            total.add(name, self.specs[name], iter(self.chunks(name)))
        return total.finish(canonical_metadata(self.metadata))

    def digests(self) -> list[bytes]:
        """The K + 1 digests that a record commits to."""
        links = self.chain()
        return [*links[:-1], state_digest(self.params_digest(), links[-1])]


class ShardWeights:
    """A shard's tensors as ``graph.Weights``."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(name[2:] for name in self._shard.specs if name[:2] in ("q:", "d:"))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one weight. Raises ShardError for an unknown name."""
        for kind in ("q:", "d:"):
            if kind + name in self._shard.specs:
                return self._shard.specs[kind + name].shape
        raise ShardError(f"The shard has no weight {name[:120]!r}.")

    def load(self, name: str) -> torch.Tensor:
        """One weight as float32 (or as stored, where it stayed dense). Raises ShardError."""
        if "q:" + name in self._shard.specs:
            return self._shard.tensor("q:" + name).to(torch.float32).mul_(self._shard.tensor("s:" + name))
        return self._shard.tensor("d:" + name)


def group_of(graph: Graph, layers: Sequence[Sequence[str]], names: Mapping[str, object]) -> dict[str, int]:
    """The group of every tensor: that of the operator which uses it first. Raises ShardError if there is none."""
    first = owners(graph)
    number = {layer: index for index, group in enumerate(layers) for layer in group}
    found = {}
    for name in names:
        kind, _, rest = name.partition(":")
        owner = first.get(rest) if kind in "qsd" else rest.rpartition(".")[0]
        if kind == "a":
            found[name] = 0
        elif owner in number:
            found[name] = number[owner]
        else:
            raise ShardError(f"Tensor {name[:120]!r} belongs to no layer of the shard.")
    return found


def open_shard(path: Path) -> Shard:
    """Open a shard and check everything but the numbers, which are checked as they are read.

    Raises:
        ShardError: the file is no shard, is damaged, or asks for more than a node gives.
    """
    try:
        return _opened(path, *_header(path))
    except OSError as error:
        raise ShardError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    except ShardError:
        raise
    except (LearnError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ShardError(f"{path.name} is no shard: {type(error).__name__} {error}"[:300]) from error


def _header(path: Path) -> tuple[dict[str, str], dict[str, Spec]]:
    title, file_bytes = path.name, path.stat().st_size
    header, start = safe.header(path)
    metadata = header.pop("__metadata__", None)
    if type(metadata) is not dict or sorted(metadata) != sorted(_KEYS) or metadata["format"] != FORMAT:
        raise ShardError(f"{title} is no shard of this format ({FORMAT}).")
    if not all(type(value) is str for value in metadata.values()):
        raise ShardError(f"{title} is no shard: its metadata are no texts.")
    specs, end = {}, 0
    if list(header) != sorted(header):
        raise ShardError(f"{title} is no shard: its tensors are not in order.")
    for name, entry in header.items():
        specs[name] = _spec(name, entry, start, end, title)
        end += specs[name].size_bytes
    if start + end != file_bytes:
        raise ShardError(
            f"{title} has {file_bytes} bytes and not the {start + end} of its header; fetch it again."
        )
    return metadata, specs


def _spec(name: str, entry: Any, base: int, offset: int, title: str) -> Spec:
    kind = name[:1] if name[1:2] == ":" else ""
    dtype, shape = entry["dtype"], entry["shape"]
    if kind not in _ALLOWED or dtype not in _ALLOWED[kind]:
        raise ShardError(
            f"{title} holds a tensor {name[:80]!r} of type {str(dtype)[:20]}, which no shard does."
        )
    sizes_fit = type(shape) is list and len(shape) <= RANK_MAX
    if not sizes_fit or not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise ShardError(f"{title}: the shape of {name[:80]!r} is not usable.")
    spec = Spec(dtype, tuple(shape), base + offset)
    if spec.size_bytes > TENSOR_BYTES_MAX:
        raise ShardError(
            f"{title}: {name[:80]!r} has {spec.size_bytes} bytes; at most {TENSOR_BYTES_MAX} are read."
        )
    if entry["data_offsets"] != [offset, offset + spec.size_bytes] or set(entry) != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise ShardError(f"{title}: the tensors do not lie one after the other at {name[:80]!r}.")
    return spec


def _opened(path: Path, metadata: dict[str, str], specs: dict[str, Spec]) -> Shard:
    graph = Graph.from_json(metadata["graph"])
    if not metadata["steps"].isdecimal() or len(metadata["steps"]) > 3:
        raise ShardError(f"{path.name}: the number of time steps is not usable.")
    code = Code(metadata["rule"], int(metadata["steps"]))
    adapter, info = json.loads(metadata["adapter"]), Info(**json.loads(metadata["info"]))
    if type(adapter) is not dict or info.head not in HEADS or info.modality not in MODALITIES:
        raise ShardError(f"{path.name}: head {str(info.head)[:20]!r} or modality is not known.")
    texts = (info.name, info.origin, info.licence, info.architecture)
    if (
        not all(type(text) is str and len(text) <= 4096 for text in texts)
        or type(info.params_count) is not int
    ):
        raise ShardError(f"{path.name}: its info is not usable.")
    places = plan(graph)
    layers = tuple(tuple(group) for group in json.loads(metadata["layers"]))
    if [name for group in layers for name in group] != layer_names(graph, places) or not 1 <= len(
        layers
    ) <= 32:
        raise ShardError(f"{path.name}: its layer groups do not cover the graph in order.")
    shard = Shard(path, graph, adapter, info, code, layers, specs, metadata, places)
    _check_tensors(shard)
    return shard


def _check_tensors(shard: Shard) -> None:
    """Every weight is there once, every int8 tensor has a scale, every threshold a place. Raises ShardError."""
    specs, title = shard.specs, shard.path.name
    group_of(shard.graph, shard.layers, specs)
    unknown = sorted({place.node.op for place in shard.places.values()} - known_operators())
    if unknown:
        raise ShardError(f"{title} needs operators that are not run here: {', '.join(unknown)[:200]}.")
    for name in shard.graph.weight_names():
        if ("q:" + name in specs) == ("d:" + name in specs):
            raise ShardError(f"{title}: weight {name[:80]!r} must be there once, as int8 or dense.")
    for name, spec in specs.items():
        kind, rest = name[0], name[2:]
        if kind in "qs" and not ("q:" + rest in specs and "s:" + rest in specs):
            raise ShardError(f"{title}: {name[:80]!r} has no scale or no weight beside it.")
        if kind == "s" and not _broadcasts(spec.shape, specs["q:" + rest].shape):
            raise ShardError(f"{title}: the scale of {rest[:80]!r} does not fit its weight.")
        if kind in "tfz":
            node, _, number = rest.rpartition(".")
            place = shard.places.get(node)
            if (
                place is None
                or number not in map(str, place.coded)
                or (kind == "z" and "t:" + rest not in specs)
                or (kind == "f" and ("t:" + rest in specs or place.family not in TWO_BASES))
            ):
                raise ShardError(f"{title}: threshold {name[:80]!r} belongs to no coded input.")


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) == len(large) and all(a in (1, b) for a, b in zip(small, large, strict=True))


def known_operators() -> frozenset[str]:
    """Names of the operators that the interpreter runs."""
    from spore_borg.learn.ops import DENSE

    return frozenset(DENSE)


def params_digest(path: Path) -> bytes:
    """``Shard.params_digest`` of a file. Raises ShardError."""
    return open_shard(path).params_digest()


def chain(path: Path) -> list[bytes]:
    """``Shard.chain`` of a file: c[0] … c[K]. Raises ShardError."""
    return open_shard(path).chain()
