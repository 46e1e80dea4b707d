"""Weights of an ONNX graph: small ones in memory, large ones in their file, some worked out of others when loaded."""

from __future__ import annotations

from collections.abc import Collection

import torch

from spore_borg.learn.errors import GraphError
from spore_borg.learn.formats.base import FlatWeights
from spore_borg.learn.graph import Graph, Node
from spore_borg.learn.run import run

# Operators whose result has a shape that is known without running them.
DERIVED = ("Cast", "DequantizeLinear", "Transpose")
_NUMBER_BYTES = 4


class OnnxWeights:
    """``Weights`` of the contract, filled while a graph is read."""

    def __init__(self, file: FlatWeights) -> None:
        self._file = file
        self._in_file: dict[str, str] = {}
        self._kept: dict[str, torch.Tensor] = {}
        self._derived: dict[str, Node] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._kept or name in self._in_file or name in self._derived

    def keep(self, name: str, value: torch.Tensor) -> None:
        """A weight in memory."""
        self._kept[name] = value

    def rename(self, name: str, in_file: str) -> None:
        """A weight of the file, called ``in_file`` there."""
        self._in_file[name] = in_file

    def derive(self, node: Node) -> None:
        """A weight that an operator of ``DERIVED`` makes of others, each time it is loaded."""
        self._derived[node.outputs[0]] = node

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._kept, *self._in_file, *self._derived})

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading. Raises GraphError for an unknown name."""
        if name in self._kept:
            return tuple(self._kept[name].shape)
        if name in self._in_file:
            return self._file.shape(self._in_file[name])
        if name in self._derived:
            node = self._derived[name]
            shape = self.shape(node.inputs[0])
            if node.op != "Transpose":
                return shape
            order = node.attrs.get("perm", tuple(range(len(shape)))[::-1])
            if not isinstance(order, tuple) or sorted(order) != list(range(len(shape))):
                raise GraphError(
                    f"Transpose {node.name[:80]!r}: perm {order!r} does not fit shape {list(shape)}."
                )
            return tuple(shape[int(axis)] for axis in order)
        raise GraphError(f"There is no weight {name[:80]!r}; the graph's file is damaged.")

    def size_bytes(self, name: str) -> int:
        """About how much memory a weight takes, without loading."""
        if name in self._kept:
            return self._kept[name].nbytes
        return torch.Size(self.shape(name)).numel() * _NUMBER_BYTES

    def load(self, name: str) -> torch.Tensor:
        """One tensor; the caller must not write into it. Raises GraphError, SourceError."""
        if name in self._kept:
            return self._kept[name]
        if name in self._in_file:
            return self._file.load(self._in_file[name])
        if name not in self._derived:
            raise GraphError(f"There is no weight {name[:80]!r}; the graph's file is damaged.")
        return run(Graph((), (name,), (self._derived[name],)), self, {})[name]

    def only(self, names: Collection[str]) -> OnnxWeights:
        """The weights that a graph uses; those from which they are derived are found, and not listed."""
        return _Chosen(self, names)


class _Chosen(OnnxWeights):
    def __init__(self, all_of: OnnxWeights, names: Collection[str]) -> None:
        super().__init__(all_of._file)
        self._in_file, self._derived = all_of._in_file, all_of._derived
        needed, waiting = set(names), list(names)
        while waiting:
            node = self._derived.get(waiting.pop())
            if node is not None:
                waiting += [name for name in node.inputs if name and name not in needed]
                needed.update(node.inputs)
        self._kept = {name: value for name, value in all_of._kept.items() if name in needed}
        self._names = sorted(names)

    def names(self) -> list[str]:
        """Names that the graph uses, sorted."""
        return list(self._names)
