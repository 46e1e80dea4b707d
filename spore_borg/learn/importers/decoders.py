"""Decoders that predict the next token, as graphs: GPT-2, GPT-NeoX, and Llama with its relatives (Mistral, Qwen).

They are fed left-aligned tokens; what stands behind a text is padding that no earlier position sees.
Source: the configuration and tensor names that the ``transformers`` library writes; RoFormer (arXiv 2104.09864) for
the rotary positions, in the half-split form of GPT-NeoX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from spore_borg.learn.errors import SourceError
from spore_borg.learn.graph import Model
from spore_borg.learn.importers.building import Builder
from spore_borg.learn.importers.bundle import Bundle
from spore_borg.learn.importers.tokenizing import tokenizer_of

TOKENS_MAX = 256
FAMILIES = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")


def recognise(bundle: Bundle) -> Model | None:
    """The first configuration of a decoder among the files, as a model; None if there is none."""
    for name in bundle.named("config.json"):
        config = bundle.config(name)
        family = config.get("model_type")
        if family in FAMILIES:
            return _model(bundle, name, str(family), config)
    return None


def _model(bundle: Bundle, name: str, family: str, config: dict[str, Any]) -> Model:
    b = Builder(bundle.weights_beside(name))
    tokenizer, assets = tokenizer_of(bundle, name)
    ids = b.port("input_ids", "int64", None, None)
    mask = b.port("attention_mask", "int64", None, None)
    places = b.port("position_ids", "int64", None, None)
    rows = b.port("positions", "int64", None)
    write = {"gpt2": _gpt2, "gpt_neox": _neox}.get(family, _llama)
    hidden, table, width = write(b, config, ids, places)
    picked = b.at_positions("lm.rows", hidden, rows, width)
    b.op("Gemm", "logits", [picked, b.weight(table)], transB=1)
    b.mean_over_time("pooled", hidden, mask)
    graph, views = b.build("logits", "pooled")
    limit = _whole(config, "max_position_embeddings", "n_positions", default=TOKENS_MAX)
    adapter = {
        "kind": "causal_lm",
        "tokenizer": tokenizer,
        "tokens_max": min(TOKENS_MAX, limit),
        "position_offset": 0,
    }
    return bundle.model(graph, views, adapter, assets, head="causal_lm", modality="text", architecture=family)


def _whole(config: dict[str, Any], *keys: str, default: int | None = None) -> int:
    value = next((config[key] for key in keys if config.get(key) is not None), default)
    if type(value) is not int or not 0 < value < 1 << 24:
        raise SourceError(f"config.json has no usable {keys[0]!r}: {value!r}.")
    return value


def _pick(b: Builder, *names: str) -> str:
    found = next((name for name in names if b.has(name)), None)
    if found is None:
        raise SourceError(f"The weights have no tensor {names[0]!r}, which this architecture needs.")
    return found


def _gpt2(b: Builder, config: dict[str, Any], ids: str, places: str) -> tuple[str, str, int]:
    width, heads = _whole(config, "n_embd", "hidden_size"), _whole(config, "n_head", "num_attention_heads")
    table = _pick(b, "transformer.wte.weight", "wte.weight")
    p = table.removesuffix("wte.weight")
    epsilon = float(config.get("layer_norm_epsilon", 1e-5))
    activation = str(config.get("activation_function", "gelu_new"))
    words = b.op("Gather", "embed.words", [b.weight(table), ids], axis=0)
    place = b.op("Gather", "embed.places", [b.weight(f"{p}wpe.weight"), places], axis=0)
    hidden = b.op("Add", "embed.sum", [words, place])
    blocked = b.causal_mask(places)
    for number in range(_whole(config, "n_layer", "num_hidden_layers")):
        name, where = f"layer.{number}", f"{p}h.{number}"

        def linear(label: str, value: str, place: str, name: str = name, where: str = where) -> str:
            return b.linear_as_is(
                f"{name}.{label}", value, f"{where}.{place}.weight", f"{where}.{place}.bias"
            )

        ready = b.layer_norm(f"{name}.norm1", hidden, f"{where}.ln_1", epsilon)
        fused = linear("qkv", ready, "attn.c_attn")
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        b.ops("Split", f"{name}.parts", [fused, b.ints(width, width, width)], parts, axis=-1)
        each = width // heads
        query, key, value = (
            b.heads(part, part, heads, each, keys=place == 1) for place, part in enumerate(parts)
        )  # fmt: skip
        mixed = b.attend(f"{name}.attention", query, key, value, blocked, each, heads)
        hidden = b.op("Add", f"{name}.seen", [linear("out", mixed, "attn.c_proj"), hidden])
        ready = b.layer_norm(f"{name}.norm2", hidden, f"{where}.ln_2", epsilon)
        wide = b.activation(f"{name}.active", linear("up", ready, "mlp.c_fc"), activation)
        hidden = b.op("Add", f"{name}.sum", [linear("down", wide, "mlp.c_proj"), hidden])
    hidden = b.layer_norm("norm", hidden, f"{p}ln_f", epsilon)
    return hidden, "lm_head.weight" if b.has("lm_head.weight") else table, width


def _frequencies(config: dict[str, Any], size: int) -> torch.Tensor:
    """How fast each pair of numbers turns with the position: [size / 2], radians per token."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(
        settings.get("rope_theta") or config.get("rope_theta") or config.get("rotary_emb_base") or 10_000
    )
    turns = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind == "linear":
        turns = turns / float(settings["factor"])
    elif kind == "llama3":
        low, high = float(settings["low_freq_factor"]), float(settings["high_freq_factor"])
        cycles = float(settings["original_max_position_embeddings"]) * turns / (2 * math.pi)
        smooth = ((cycles - low) / (high - low)).clamp(0, 1)
        turns = (1 - smooth) * turns / float(settings["factor"]) + smooth * turns
    elif kind != "default":
        raise SourceError(
            f"Rotary positions of kind {kind!r} are not supported; default, linear and llama3 are."
        )
    return turns.float()


class _Rotary:
    """Turns the first ``size`` numbers of each head by an angle that grows with the position."""

    def __init__(self, b: Builder, places: str, config: dict[str, Any], size: int, each: int) -> None:
        self.b, self.size, self.each = b, size, each
        place = b.op(
            "Unsqueeze", "rotary.places", [b.op("Cast", "rotary.float", [places], to=1), b.ints(1, 3)]
        )
        angle = b.op("Mul", "rotary.angle", [place, b.constant(_frequencies(config, size))])
        both = b.op("Concat", "rotary.both", [angle, angle], axis=-1)
        self.cos, self.sin = b.op("Cos", "rotary.cos", [both]), b.op("Sin", "rotary.sin", [both])

    def turn(self, name: str, value: str) -> str:
        """[b, heads, t, each], turned."""
        b, rest = self.b, ""
        if self.size < self.each:
            turned, rest = f"{name}.turned_part", f"{name}.kept_part"
            sizes = b.ints(self.size, self.each - self.size)
            b.ops("Split", f"{name}.parts", [value, sizes], [turned, rest], axis=-1)
            value = turned
        first, second = f"{name}.first", f"{name}.second"
        half = b.ints(self.size // 2, self.size // 2)
        b.ops("Split", f"{name}.halves", [value, half], [first, second], axis=-1)
        other = b.op("Concat", f"{name}.other", [b.op("Neg", f"{name}.minus", [second]), first], axis=-1)
        straight = b.op("Mul", f"{name}.straight", [value, self.cos])
        across = b.op("Mul", f"{name}.across", [other, self.sin])
        done = b.op("Add", f"{name}.rotated", [straight, across])
        return b.op("Concat", f"{name}.whole", [done, rest], axis=-1) if rest else done


def _neox(b: Builder, config: dict[str, Any], ids: str, places: str) -> tuple[str, str, int]:
    width, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    table = _pick(b, "gpt_neox.embed_in.weight", "embed_in.weight")
    p, each = table.removesuffix("embed_in.weight"), width // heads
    epsilon, activation = float(config.get("layer_norm_eps", 1e-5)), str(config.get("hidden_act", "gelu"))
    share = float(
        config.get("rotary_pct", (config.get("rope_parameters") or {}).get("partial_rotary_factor", 0.25))
    )
    hidden = b.op("Gather", "embed.words", [b.weight(table), ids], axis=0)
    rotary, blocked = _Rotary(b, places, config, int(each * share), each), b.causal_mask(places)
    for number in range(_whole(config, "num_hidden_layers")):
        name, where = f"layer.{number}", f"{p}layers.{number}"

        def linear(label: str, value: str, place: str, name: str = name, where: str = where) -> str:
            return b.linear(f"{name}.{label}", value, f"{where}.{place}.weight", f"{where}.{place}.bias")

        ready = b.layer_norm(f"{name}.norm1", hidden, f"{where}.input_layernorm", epsilon)
        fused = linear("qkv", ready, "attention.query_key_value")
        turned = b.heads(f"{name}.qkv", fused, heads, 3 * each)
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        b.ops("Split", f"{name}.parts", [turned, b.ints(each, each, each)], parts, axis=-1)
        query, key = rotary.turn(parts[0], parts[0]), rotary.turn(parts[1], parts[1])
        key = b.op("Transpose", f"{name}.key.turned", [key], perm=(0, 1, 3, 2))
        mixed = b.attend(f"{name}.attention", query, key, parts[2], blocked, each, heads)
        seen = b.op("Add", f"{name}.seen", [linear("out", mixed, "attention.dense"), hidden])
        source = hidden if config.get("use_parallel_residual", True) else seen
        ready = b.layer_norm(f"{name}.norm2", source, f"{where}.post_attention_layernorm", epsilon)
        wide = b.activation(f"{name}.active", linear("up", ready, "mlp.dense_h_to_4h"), activation)
        hidden = b.op("Add", f"{name}.sum", [linear("down", wide, "mlp.dense_4h_to_h"), seen])
    hidden = b.layer_norm("norm", hidden, f"{p}final_layer_norm", epsilon)
    return hidden, "embed_out.weight" if b.has("embed_out.weight") else table, width


@dataclass(frozen=True, slots=True)
class _Llama:
    """What the layers of a Llama-like decoder share."""

    heads: int
    shared: int
    each: int
    epsilon: float
    activation: str
    rotary: _Rotary
    blocked: str


def _rms(b: Builder, name: str, value: str, weight: str, epsilon: float) -> str:
    return b.op("RMSNormalization", name, [value, b.weight(weight)], axis=-1, epsilon=epsilon)


def _llama(b: Builder, config: dict[str, Any], ids: str, places: str) -> tuple[str, str, int]:
    width, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    table = _pick(b, "model.embed_tokens.weight", "embed_tokens.weight")
    p = table.removesuffix("embed_tokens.weight")
    each = _whole(config, "head_dim", default=width // heads)
    shape = _Llama(
        heads, _whole(config, "num_key_value_heads", default=heads), each, float(config.get("rms_norm_eps", 1e-6)),
        str(config.get("hidden_act", "silu")), _Rotary(b, places, config, each, each), b.causal_mask(places),
    )  # fmt: skip
    hidden = b.op("Gather", "embed.words", [b.weight(table), ids], axis=0)
    for number in range(_whole(config, "num_hidden_layers")):
        hidden = _llama_layer(b, f"layer.{number}", f"{p}layers.{number}", shape, hidden)
    hidden = _rms(b, "norm", hidden, f"{p}norm.weight", shape.epsilon)
    return hidden, "lm_head.weight" if b.has("lm_head.weight") else table, width


def _llama_layer(b: Builder, name: str, where: str, s: _Llama, hidden: str) -> str:
    def linear(label: str, value: str, place: str) -> str:
        return b.linear(f"{name}.{label}", value, f"{where}.{place}.weight", f"{where}.{place}.bias")

    ready = _rms(b, f"{name}.norm1", hidden, f"{where}.input_layernorm.weight", s.epsilon)

    def heads(label: str, count: int) -> str:
        part = f"{name}.{label}"
        value = b.heads(part, linear(label, ready, f"self_attn.{label[0]}_proj"), count, s.each)
        norm = f"{where}.self_attn.{label[0]}_norm.weight"
        value = _rms(b, f"{part}.norm", value, norm, s.epsilon) if b.has(norm) else value
        return value if label == "value" else s.rotary.turn(part, value)

    def shared(part: str, value: str) -> str:
        times = s.heads // s.shared
        if times == 1:
            return value
        wide = b.op("Unsqueeze", f"{part}.group", [value, b.ints(2)])
        each = b.op("Expand", f"{part}.repeat", [wide, b.ints(1, 1, times, 1, 1)])
        return b.op("Reshape", f"{part}.repeated", [each, b.ints(0, s.heads, -1, s.each)])

    query, key = heads("query", s.heads), shared(f"{name}.key", heads("key", s.shared))
    value = shared(f"{name}.value", heads("value", s.shared))
    key = b.op("Transpose", f"{name}.key.turned", [key], perm=(0, 1, 3, 2))
    mixed = b.attend(f"{name}.attention", query, key, value, s.blocked, s.each, s.heads)
    seen = b.op("Add", f"{name}.seen", [linear("out", mixed, "self_attn.o_proj"), hidden])
    ready = _rms(b, f"{name}.norm2", seen, f"{where}.post_attention_layernorm.weight", s.epsilon)
    gate = b.activation(f"{name}.gate.active", linear("gate", ready, "mlp.gate_proj"), s.activation)
    wide = b.op("Mul", f"{name}.wide", [gate, linear("up", ready, "mlp.up_proj")])
    return b.op("Add", f"{name}.sum", [linear("down", wide, "mlp.down_proj"), seen])
