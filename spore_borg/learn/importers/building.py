"""How importers write graphs: one call per operator, names that tell the place, constants that are shared.

Weights are named as in the source; what was turned for ``MatMul`` has ``.T`` behind its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spore_borg.learn.errors import SourceError
from spore_borg.learn.graph import Attr, Graph, Node, Port, Weights
from spore_borg.learn.importers.views import Entry, Renamed, Transposed, Viewed

BLOCKED = (
    30_000.0  # what is taken off a logit of attention that must not be seen; exp(-30000) is 0 in float32
)


class Builder:
    """A graph under construction over the weights of a source."""

    def __init__(self, source: Weights) -> None:
        self.source = source
        self._known = set(source.names())
        self._nodes: list[Node] = []
        self._ports: list[Port] = []
        self._entries: dict[str, Entry] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken: set[str] = set()

    def port(self, name: str, dtype: str, *shape: int | None) -> str:
        """A value that is fed."""
        self._ports.append(Port(name, dtype, shape))
        return name

    def has(self, name: str) -> bool:
        """Whether the source has this tensor."""
        return name in self._known

    def weight(self, name: str) -> str:
        """A tensor of the source as it is. Raises SourceError if the file lacks it."""
        return self.view(name, Renamed(name))

    def turned(self, name: str) -> str:
        """A matrix [out, in] of the source as [in, out]."""
        return self.view(name + ".T", Transposed(name), needs=name)

    def view(self, name: str, entry: Entry, needs: str = "") -> str:
        """A tensor made of the source's; asked for again under the same name it is the same."""
        needed = needs or getattr(entry, "source", "")
        if needed and needed not in self._known:
            raise SourceError(
                f"The weights have no tensor {needed!r}, which this architecture needs; the file may be incomplete."
            )
        self._entries[name] = entry
        return name

    def constant(self, value: torch.Tensor) -> str:
        """A small tensor that belongs to the graph; equal ones are one."""
        value = value.contiguous()
        key = (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant.{len(self._constants)}"
            self._entries[self._constants[key]] = value
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A constant int64 vector: axes, shapes, bounds."""
        return self.constant(torch.tensor(values, dtype=torch.int64))

    def number(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.constant(torch.tensor(value, dtype=torch.float32))

    def op(self, kind: str, name: str, inputs: Sequence[str], **attrs: Attr) -> str:
        """Add an operator with one output, which has the operator's name."""
        return self.ops(kind, name, inputs, [name], **attrs)

    def ops(self, kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str], **attrs: Attr) -> str:
        """Add an operator; returns its first output."""
        if name in self._taken:
            raise SourceError(f"Two parts of the model are called {name!r}.")
        self._taken.add(name)
        self._nodes.append(Node(kind, name, tuple(inputs), tuple(outputs), attrs))
        return next(output for output in outputs if output)

    def linear(self, name: str, value: str, weight: str, bias: str = "") -> str:
        """value @ weight.T + bias, for a weight [out, in] as torch keeps it; value has any leading axes."""
        product = self.op("MatMul", name, [value, self.turned(weight)])
        if not bias or not self.has(bias):
            return product
        return self.op("Add", f"{name}.bias", [product, self.weight(bias)])

    def linear_as_is(self, name: str, value: str, weight: str, bias: str = "") -> str:
        """value @ weight + bias, for a weight [in, out] as Keras and GPT-2 keep it."""
        product = self.op("MatMul", name, [value, self.weight(weight)])
        return self.op("Add", f"{name}.bias", [product, self.weight(bias)]) if bias else product

    def layer_norm(self, name: str, value: str, prefix: str, epsilon: float) -> str:
        """Layer normalisation over the last axis; ``prefix`` names weight and, where there is one, bias."""
        old = self.has(f"{prefix}.gamma")  # the names of the first BERT checkpoints
        inputs = [value, self.weight(f"{prefix}.gamma" if old else f"{prefix}.weight")]
        shift = f"{prefix}.beta" if old else f"{prefix}.bias"
        if self.has(shift):
            inputs.append(self.weight(shift))
        return self.op("LayerNormalization", name, inputs, axis=-1, epsilon=epsilon)

    def activation(self, name: str, value: str, kind: str) -> str:
        """An activation by the name that configurations give it. Raises SourceError for an unknown one."""
        if kind in ("linear", "identity"):
            return value
        if kind in ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python"):
            exact = kind in ("gelu", "gelu_python")
            return self.op("Gelu", name, [value], approximate="none" if exact else "tanh")
        if kind in ("silu", "swish"):
            gate = self.op("Sigmoid", f"{name}.gate", [value])
            return self.op("Mul", name, [value, gate])
        plain = {
            "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "elu": "Elu", "selu": "Selu", "softplus": "Softplus",
            "softsign": "Softsign", "exponential": "Exp", "mish": "Mish",
        }  # fmt: skip
        if kind == "softmax":
            return self.op("Softmax", name, [value], axis=-1)
        if kind not in plain:
            raise SourceError(
                f"The activation {kind!r} is not supported; supported are gelu, silu, {', '.join(plain)}."
            )
        return self.op(plain[kind], name, [value])

    def heads(self, name: str, value: str, count: int, size: int, *, keys: bool = False) -> str:
        """[b, t, count * size] as [b, count, t, size], or for keys [b, count, size, t]."""
        split = self.op("Reshape", f"{name}.split", [value, self.ints(0, 0, count, size)])
        return self.op("Transpose", f"{name}.heads", [split], perm=(0, 2, 3, 1) if keys else (0, 2, 1, 3))

    def attend(self, name: str, query: str, key: str, value: str, mask: str, size: int, count: int) -> str:
        """softmax(query · key / sqrt(size) + mask) · value, heads joined: [b, t, count * size].

        ``query`` and ``value`` are [b, count, t, size], ``key`` [b, count, size, t]; ``mask`` broadcasts to
        [b, count, t, t].
        """
        logits = self.op("MatMul", f"{name}.logits", [query, key])
        scaled = self.op("Mul", f"{name}.scaled", [logits, self.number(size**-0.5)])
        masked = self.op("Add", f"{name}.masked", [scaled, mask])
        shares = self.op("Softmax", f"{name}.shares", [masked], axis=-1)
        mixed = self.op("MatMul", f"{name}.mixed", [shares, value])
        turned = self.op("Transpose", f"{name}.turned", [mixed], perm=(0, 2, 1, 3))
        return self.op("Reshape", f"{name}.joined", [turned, self.ints(0, 0, count * size)])

    def key_mask(self, attention_mask: str) -> str:
        """int64 [b, t] of ones and zeros as what is added to logits: [b, 1, 1, t], 0 or -30000."""
        real = self.op("Cast", "mask.float", [attention_mask], to=1)
        less = self.op("Sub", "mask.less", [real, self.number(1.0)])
        scaled = self.op("Mul", "mask.blocked", [less, self.number(BLOCKED)])
        return self.op("Unsqueeze", "mask", [scaled, self.ints(1, 2)])

    def causal_mask(self, position_ids: str) -> str:
        """What is added to logits so that no position sees a later one: [b, 1, t, t]."""
        keys = self.op("Unsqueeze", "mask.keys", [position_ids, self.ints(1)])
        queries = self.op("Unsqueeze", "mask.queries", [position_ids, self.ints(2)])
        seen = self.op("LessOrEqual", "mask.seen", [keys, queries])
        real = self.op("Cast", "mask.float", [seen], to=1)
        less = self.op("Sub", "mask.less", [real, self.number(1.0)])
        scaled = self.op("Mul", "mask.blocked", [less, self.number(BLOCKED)])
        return self.op("Unsqueeze", "mask", [scaled, self.ints(1)])

    def mean_over_time(self, name: str, hidden: str, attention_mask: str) -> str:
        """The mean of [b, t, d] over the positions that the mask [b, t] keeps: [b, d]."""
        real = self.op("Cast", f"{name}.float", [attention_mask], to=1)
        wide = self.op("Unsqueeze", f"{name}.wide", [real, self.ints(2)])
        kept = self.op("Mul", f"{name}.kept", [hidden, wide])
        total = self.op("ReduceSum", f"{name}.total", [kept, self.ints(1)], keepdims=0)
        count = self.op("ReduceSum", f"{name}.count", [wide, self.ints(1)], keepdims=0)
        least = self.op("Max", f"{name}.least", [count, self.number(1.0)])
        return self.op("Div", name, [total, least])

    def unit_length(self, name: str, value: str) -> str:
        """Rows [b, d] divided by their length."""
        square = self.op("Mul", f"{name}.square", [value, value])
        total = self.op("ReduceSum", f"{name}.total", [square, self.ints(1)], keepdims=1)
        length = self.op("Sqrt", f"{name}.length", [total])
        least = self.op("Max", f"{name}.least", [length, self.number(1e-12)])
        return self.op("Div", name, [value, least])

    def at_positions(self, name: str, hidden: str, positions: str, width: int) -> str:
        """Rows of [b, t, width] at flat places b * t_count + t: [p, width]."""
        flat = self.op("Reshape", f"{name}.flat", [hidden, self.ints(-1, width)])
        return self.op("Gather", name, [flat, positions], axis=0)

    def build(self, *outputs: str) -> tuple[Graph, Viewed]:
        """The finished graph and its weights. Raises GraphError if names are not unique."""
        graph = Graph(tuple(self._ports), outputs, tuple(self._nodes))
        graph.check()
        used = set(graph.weight_names())
        return graph, Viewed(
            self.source, {name: entry for name, entry in self._entries.items() if name in used}
        )
