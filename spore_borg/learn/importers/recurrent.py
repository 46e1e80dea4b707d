"""Language models over characters as Keras keeps them: embedding, LSTM or GRU layers, attention, softmax.

The layout is told from the names and shapes of the tensors: ``embedding``, ``rnn_1`` …, ``attention``, ``output``,
as the package textgenrnn writes them. Beside the weights stands a vocabulary: a JSON map from characters to numbers.
"""

from __future__ import annotations

from typing import Any

from spore_borg.learn.errors import SourceError
from spore_borg.learn.graph import Model, Weights
from spore_borg.learn.importers.building import Builder
from spore_borg.learn.importers.bundle import Bundle
from spore_borg.learn.importers.views import GateBias, Gates

WINDOW = 40  # characters that the model sees; a file of settings may say otherwise
LAYERS_MAX = 8
_LSTM_ORDER = (0, 3, 1, 2)  # Keras keeps i f c o, ONNX wants i o f c
_GRU_ORDER = (0, 1, 2)  # z r h in both


def recognise(bundle: Bundle) -> Model | None:
    """A character model with its vocabulary among the files; None if there is none."""
    vocabulary = _vocabulary(bundle)
    if vocabulary is None:
        return None
    for name, weights in bundle.opened():
        table = _short(weights)
        if table is not None:
            return _model(bundle, name, weights, table, vocabulary)
    return None


def _vocabulary(bundle: Bundle) -> str | None:
    for name in bundle.named(".json"):
        if bundle.files[name].stat().st_size > 1 << 20:
            continue
        value = bundle.json(name)
        if not isinstance(value, dict) or not all(type(item) is int for item in value.values()):
            continue
        if len(value) > 1 and sum(len(key) == 1 for key in value) > len(value) // 2:
            return name
    return None


def _short(weights: Weights) -> dict[str, str] | None:
    """``layer/tensor`` to the file's name: Keras repeats the layer and adds ``:0``."""
    table: dict[str, str] = {}
    for name in weights.names():
        parts = [part for part in name.removesuffix(":0").split("/") if part != "model_weights"]
        table[f"{parts[0]}/{parts[-1]}"] = name
    needed = {
        "embedding/embeddings",
        "rnn_1/kernel",
        "rnn_1/recurrent_kernel",
        "output/kernel",
        "output/bias",
    }
    return table if needed <= set(table) else None


def _window(bundle: Bundle) -> int:
    for name in bundle.named(".json"):
        if bundle.files[name].stat().st_size < 1 << 16:
            value = bundle.config(name).get("max_length")
            if type(value) is int and 0 < value <= 1024:
                return value
    return WINDOW


def _model(bundle: Bundle, name: str, weights: Weights, table: dict[str, str], vocabulary: str) -> Model:
    b = Builder(weights)
    window = _window(bundle)
    ids = b.port("input_ids", "int64", None, window)
    b.op("Gather", "embed", [b.weight(table["embedding/embeddings"]), ids], axis=0)
    layers = [number for number in range(1, LAYERS_MAX + 1) if f"rnn_{number}/kernel" in table]
    value, parts, kinds = "embed", ["embed"], set()
    for number in layers:
        value, kind = _layer(b, table, f"rnn_{number}", value)
        parts.append(value)
        kinds.add(kind)
    joined = b.op("Concat", "joined", parts, axis=-1)
    if "attention/attention_W" in table:
        logits = b.op("MatMul", "attention", [joined, b.weight(table["attention/attention_W"])])
        shares = b.op("Softmax", "attention.shares", [logits], axis=1)
        mixed = b.op("Mul", "attention.mixed", [joined, shares])
        pooled = b.op("ReduceSum", "pooled", [mixed, b.ints(1)], keepdims=0)
    else:
        raise SourceError(
            f"{name} has no attention over its states (attention_W); other readouts are not supported."
        )
    b.op("Gemm", "logits", [pooled, b.weight(table["output/kernel"]), b.weight(table["output/bias"])])
    graph, views = b.build("logits", "pooled")
    adapter: dict[str, Any] = {"kind": "char_lm", "window": window, "tokenizer": {"kind": "chars"}}
    return bundle.model(
        graph, views, adapter, {"vocab.json": bundle.read(vocabulary)}, head="causal_lm", modality="text",
        architecture=f"keras-{sorted(kinds)[0]}",
    )  # fmt: skip


def _layer(b: Builder, table: dict[str, str], layer: str, value: str) -> tuple[str, str]:
    """One recurrent layer over [b, t, in]: the name of its states [b, t, units], and its kind."""
    kernel, recurrent = table[f"{layer}/kernel"], table[f"{layer}/recurrent_kernel"]
    bias = table.get(f"{layer}/bias", "")
    units, columns = b.source.shape(recurrent)
    gates = columns // units
    if gates not in (3, 4) or columns != gates * units:
        raise SourceError(
            f"The layer {layer} is neither an LSTM nor a GRU: its recurrent kernel is [{units}, {columns}]."
        )
    numbers = 0
    for size in b.source.shape(bias) if bias else ():
        numbers = max(numbers, 1) * size
    order = _LSTM_ORDER if gates == 4 else _GRU_ORDER
    # Only Keras' CuDNN layers give an LSTM two biases; their kernels are kept in CuDNN's layout.
    layout = "cudnn" if gates == 4 and numbers == 2 * columns else "keras"
    inputs = [
        b.op("Transpose", f"{layer}.steps", [value], perm=(1, 0, 2)),
        b.view(f"{layer}.W", Gates(kernel, order, layout)),
        b.view(f"{layer}.R", Gates(recurrent, order, layout)),
        b.view(f"{layer}.B", GateBias((bias,), order, units)) if bias else "",
    ]
    kind = "LSTM" if gates == 4 else "GRU"
    extra = {"linear_before_reset": int(numbers == 2 * columns)} if kind == "GRU" else {}
    b.ops(kind, layer, inputs, [f"{layer}.all"], hidden_size=units, direction="forward", **extra)
    states = b.op("Squeeze", f"{layer}.states", [f"{layer}.all", b.ints(1)])
    return b.op("Transpose", f"{layer}.back", [states], perm=(1, 0, 2)), kind.lower()
