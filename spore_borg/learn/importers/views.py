"""Weights seen under other names and in another layout; nothing is loaded before it is asked for.

A view keeps the memory bounded: it holds names only, and a transposed tensor shares the memory of its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from spore_borg.learn.errors import GraphError
from spore_borg.learn.graph import Weights


@dataclass(frozen=True, slots=True)
class Renamed:
    """A tensor of the source as it is; ``shape`` gives it other axes of the same size."""

    source: str
    reshaped: tuple[int, ...] | None = None

    def shape(self, weights: Weights) -> tuple[int, ...]:
        """The shape, without loading."""
        return weights.shape(self.source) if self.reshaped is None else self.reshaped

    def load(self, weights: Weights) -> torch.Tensor:
        """The tensor."""
        value = weights.load(self.source)
        return value if self.reshaped is None else value.reshape(self.reshaped)


@dataclass(frozen=True, slots=True)
class Transposed:
    """A matrix [out, in] as [in, out]: how ``MatMul`` takes what ``torch.nn.Linear`` keeps."""

    source: str

    def shape(self, weights: Weights) -> tuple[int, ...]:
        """The shape, without loading."""
        return weights.shape(self.source)[::-1]

    def load(self, weights: Weights) -> torch.Tensor:
        """The tensor; it shares the memory of its source."""
        return weights.load(self.source).t()


@dataclass(frozen=True, slots=True)
class Part:
    """Rows ``start:stop`` of an axis, transposed on request: one of several matrices that a file keeps as one."""

    source: str
    start: int
    stop: int
    axis: int = 0
    transposed: bool = False

    def shape(self, weights: Weights) -> tuple[int, ...]:
        """The shape, without loading."""
        sizes = list(weights.shape(self.source))
        sizes[self.axis] = self.stop - self.start
        return tuple(reversed(sizes)) if self.transposed else tuple(sizes)

    def load(self, weights: Weights) -> torch.Tensor:
        """The tensor; it shares the memory of its source."""
        value = weights.load(self.source).narrow(self.axis, self.start, self.stop - self.start)
        return value.t() if self.transposed else value


@dataclass(frozen=True, slots=True)
class Gates:
    """The gates of a recurrent layer as ONNX wants them: [1, gates * units, in], in ONNX's order.

    Attributes:
        order: which gate of the source comes where; for an LSTM that keeps i f c o it is (0, 3, 1, 2).
        layout: ``torch`` keeps [gates * units, in]; ``keras`` [in, gates * units]; ``cudnn`` is Keras' layout whose
            blocks hold, row by row, what Keras' own layer holds transposed.
    """

    source: str
    order: tuple[int, ...]
    layout: str = "torch"

    def shape(self, weights: Weights) -> tuple[int, ...]:
        """The shape, without loading."""
        rows, columns = weights.shape(self.source)
        return (1, rows, columns) if self.layout == "torch" else (1, columns, rows)

    def load(self, weights: Weights) -> torch.Tensor:
        """The tensor: a copy."""
        value = weights.load(self.source)
        blocks = value.chunk(len(self.order), 0 if self.layout == "torch" else 1)
        if self.layout == "keras":
            blocks = tuple(block.t() for block in blocks)
        elif self.layout == "cudnn":
            blocks = tuple(block.reshape(block.shape[::-1]) for block in blocks)
        return torch.cat([blocks[place] for place in self.order]).unsqueeze(0)


@dataclass(frozen=True, slots=True)
class GateBias:
    """The biases of a recurrent layer as ONNX wants them: [1, 2 * gates * units], input half and recurrent half.

    Attributes:
        sources: one tensor with one half (the other is zero) or both halves in a row, or two tensors.
    """

    sources: tuple[str, ...]
    order: tuple[int, ...]
    units: int

    def shape(self, weights: Weights) -> tuple[int, ...]:
        """The shape, without loading."""
        return (1, 2 * len(self.order) * self.units)

    def load(self, weights: Weights) -> torch.Tensor:
        """The tensor: a copy."""
        value = torch.cat([weights.load(name).reshape(-1) for name in self.sources])
        half = len(self.order) * self.units
        if value.numel() == half:
            value = torch.cat([value, torch.zeros_like(value)])
        halves = value.reshape(2, len(self.order), self.units)
        return halves[:, list(self.order)].reshape(1, -1)


@dataclass(frozen=True, slots=True)
class Stacked:
    """Several tensors joined along an axis."""

    sources: tuple[str, ...]
    axis: int = 0

    def shape(self, weights: Weights) -> tuple[int, ...]:
        """The shape, without loading."""
        shapes = [weights.shape(name) for name in self.sources]
        sizes = list(shapes[0])
        sizes[self.axis] = sum(shape[self.axis] for shape in shapes)
        return tuple(sizes)

    def load(self, weights: Weights) -> torch.Tensor:
        """The tensor: a copy."""
        return torch.cat([weights.load(name) for name in self.sources], self.axis)


@dataclass(frozen=True, slots=True)
class Permuted:
    """A tensor with its axes in another order: a Keras kernel [h, w, in, out] as [out, in, h, w]."""

    source: str
    axes: tuple[int, ...]

    def shape(self, weights: Weights) -> tuple[int, ...]:
        """The shape, without loading."""
        sizes = weights.shape(self.source)
        return tuple(sizes[axis] for axis in self.axes)

    def load(self, weights: Weights) -> torch.Tensor:
        """The tensor; it shares the memory of its source."""
        return weights.load(self.source).permute(self.axes)


Entry = Renamed | Transposed | Permuted | Part | Stacked | Gates | GateBias | torch.Tensor


class Viewed:
    """``Weights`` made of another's: each name is an entry, or a small tensor that the graph needs."""

    def __init__(self, source: Weights | None, entries: Mapping[str, Entry]) -> None:
        self._source = source
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading. Raises GraphError for an unknown name."""
        entry = self._entry(name)
        return tuple(entry.shape) if isinstance(entry, torch.Tensor) else entry.shape(self._origin())

    def load(self, name: str) -> torch.Tensor:
        """One tensor; reals of any size as float32, which is what graphs compute in. Raises GraphError."""
        entry = self._entry(name)
        value = entry if isinstance(entry, torch.Tensor) else entry.load(self._origin())
        return value.float() if value.is_floating_point() else value

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise GraphError(f"The model has no tensor {name[:80]!r}.") from None

    def _origin(self) -> Weights:
        if self._source is None:
            raise GraphError("These weights have no file behind them.")
        return self._source


class Joined:
    """Several files as one: the parts of a checkpoint that was split. The first that has a name gives it."""

    def __init__(self, parts: list[Weights]) -> None:
        self._where: dict[str, Weights] = {}
        for part in parts:
            for name in part.names():
                self._where.setdefault(name, part)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading. Raises GraphError for an unknown name."""
        return self._part(name).shape(name)

    def load(self, name: str) -> torch.Tensor:
        """One tensor. Raises GraphError for an unknown name."""
        return self._part(name).load(name)

    def _part(self, name: str) -> Weights:
        try:
            return self._where[name]
        except KeyError:
            raise GraphError(f"The model has no tensor {name[:80]!r}.") from None
