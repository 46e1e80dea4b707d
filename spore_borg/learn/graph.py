"""A model as a graph of named operators, with the meaning that the ONNX specification gives to them.

Every format and architecture is imported into this one form; the dense interpreter, the conversion and the spiking
interpreter know nothing else. A graph from a peer is data: operators come from a closed list, names and sizes are
bounded, and nothing in it is ever executed as code.
Source: the ONNX operator specification, opset 20; docs/internals/absorption.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from spore_borg.learn.errors import GraphError

NODES_MAX = 20_000
NAME_CHARS_MAX = 200
RANK_MAX = 8

Attr = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator.

    Attributes:
        op: its ONNX name, for example ``MatMul``.
        name: unique in the graph; what reports call the layer.
        inputs: names of values or weights in ONNX order; an absent optional input is empty.
        outputs: names of the values it makes; an unwanted one is empty.
        attrs: the operator's attributes.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Port:
    """A value that is fed: its name, its dtype (``float32``, ``int64``, ``bool``) and its shape; None is any size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Operators in an order in which they can run."""

    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]

    def to_json(self) -> str:
        """Canonical JSON: the same graph is the same text."""
        ports = [[port.name, port.dtype, list(port.shape)] for port in self.inputs]
        nodes = [[n.op, n.name, list(n.inputs), list(n.outputs), dict(n.attrs)] for n in self.nodes]
        value = {"inputs": ports, "outputs": list(self.outputs), "nodes": nodes}
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """Read ``to_json``'s text. Raises GraphError for anything else."""
        try:
            value = json.loads(text)
            ports = tuple(Port(_name(n), _name(d), _shape(s)) for n, d, s in value["inputs"])
            nodes = tuple(
                Node(_name(op), _name(name), _names(ins), _names(outs), _attrs(attrs))
                for op, name, ins, outs, attrs in value["nodes"]
            )
            graph = cls(ports, _names(value["outputs"]), nodes)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise GraphError(f"This is no graph: {type(error).__name__} {error}"[:300]) from error
        graph.check()
        return graph

    def check(self) -> None:
        """Names are unique, and the number of nodes is bounded. Raises GraphError."""
        if len(self.nodes) > NODES_MAX:
            raise GraphError(f"The graph has {len(self.nodes)} operators; at most {NODES_MAX} are run.")
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise GraphError(f"Two operators are called {node.name[:80]!r}; names must be unique.")
            seen.add(node.name)

    def weight_names(self) -> Iterator[str]:
        """Inputs that no operator makes and nobody feeds: the weights, each once, in order of first use."""
        made = {port.name for port in self.inputs} | {name for node in self.nodes for name in node.outputs}
        seen: set[str] = set()
        for node in self.nodes:
            for name in node.inputs:
                if name and name not in made and name not in seen:
                    seen.add(name)
                    yield name


class Weights(Protocol):
    """Tensors by name, loaded one at a time so that memory stays bounded."""

    def names(self) -> list[str]:
        """All names, sorted."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without loading. Raises GraphError for an unknown name."""
        ...

    def load(self, name: str) -> torch.Tensor:
        """One tensor in its own dtype, on the CPU; the caller must not write into it. Raises GraphError."""
        ...


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a model: presentation, and what its record says.

    Attributes:
        name: short; origin: the source as the user gave it, with the version that was found.
        licence: SPDX expression or the words of the package; "unknown" if it says nothing.
        head: one of ``HEADS``; modality: one of ``MODALITIES``; params_count: numbers in all weights.
        architecture: for example ``bert``, ``onnx``, ``keras-lstm``.
    """

    name: str
    origin: str
    licence: str
    head: str
    modality: str
    architecture: str
    params_count: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model ready to run: what importers return.

    Attributes:
        adapter: JSON-able settings by which ``learn.adapters`` turns items into feeds and outputs into answers.
        assets: files that the adapter needs (a tokenizer, a vocabulary), by name.
    """

    graph: Graph
    weights: Weights
    adapter: Mapping[str, Any]
    assets: Mapping[str, bytes]
    info: Info


HEADS = ("causal_lm", "masked_lm", "embedder", "classifier", "sequence_tagger", "forecaster", "unknown")
MODALITIES = ("text", "smiles", "image", "audio", "bytes")


def _name(value: Any) -> str:
    if type(value) is not str or len(value) > NAME_CHARS_MAX:
        raise ValueError(f"a name is a text of at most {NAME_CHARS_MAX} characters")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if type(value) is not list:
        raise ValueError("names are a list")
    return tuple(_name(item) for item in value)


def _shape(value: Any) -> tuple[int | None, ...]:
    if type(value) is not list or len(value) > RANK_MAX:
        raise ValueError(f"a shape is a list of at most {RANK_MAX} sizes")
    if not all(item is None or (type(item) is int and 0 <= item < 1 << 31) for item in value):
        raise ValueError("a size is a whole number, or null")
    return tuple(value)


def _attrs(value: Any) -> dict[str, Attr]:
    if type(value) is not dict:
        raise ValueError("attributes are a map")
    read: dict[str, Attr] = {}
    for key, item in value.items():
        one = tuple(item) if type(item) is list else item
        flat = one if isinstance(one, tuple) else (one,)
        if not all(type(part) in (int, float, str) for part in flat):
            raise ValueError(f"attribute {key[:40]!r} is no number, text or list of them")
        read[_name(key)] = one
    return read
