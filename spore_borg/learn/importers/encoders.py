"""Encoders of the BERT family as graphs: BERT, DistilBERT, RoBERTa, ALBERT, with what stands on top of them.

Source: the configuration and tensor names that the ``transformers`` library writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from spore_borg.learn.errors import SourceError
from spore_borg.learn.graph import Model, Weights
from spore_borg.learn.importers.building import Builder
from spore_borg.learn.importers.bundle import Bundle
from spore_borg.learn.importers.tokenizing import tokenizer_of

TOKENS_MAX = 256  # longer items are cut: attention costs the square of it
LABELS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Names:
    """Where a family keeps the tensors of one layer, below the encoder's prefix."""

    layer: str
    query: str
    key: str
    value: str
    out: str
    out_norm: str
    up: str
    down: str
    norm: str


_BERT = Names(
    "encoder.layer.{}", "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
_DISTIL = Names(
    "transformer.layer.{}", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
    "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
)  # fmt: skip
_ALBERT = Names(
    "encoder.albert_layer_groups.{}.albert_layers.0", "attention.query", "attention.key", "attention.value",
    "attention.dense", "attention.LayerNorm", "ffn", "ffn_output", "full_layer_layer_norm",
)  # fmt: skip
FAMILIES = {
    "bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "camembert": _BERT, "distilbert": _DISTIL, "albert": _ALBERT,
}  # fmt: skip
SHIFTED = ("roberta", "xlm-roberta", "camembert")  # positions start behind the padding id


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers of a configuration, under one set of names."""

    family: str
    width: int
    heads: int
    layers: int
    groups: int
    activation: str
    epsilon: float
    positions: int
    pad: int

    @classmethod
    def of(cls, family: str, config: dict[str, Any]) -> Size:
        """Read a configuration. Raises SourceError for a missing or senseless number."""

        def whole(*keys: str, default: int | None = None) -> int:
            value = next((config[key] for key in keys if key in config), default)
            if type(value) is not int or not 0 <= value < 1 << 20:
                raise SourceError(f"config.json has no usable {keys[0]!r}: {value!r}.")
            return value

        if config.get("position_embedding_type", "absolute") != "absolute":
            raise SourceError(
                "Relative positions in a BERT encoder are not supported; take a model with absolute ones."
            )
        size = cls(
            family=family,
            width=whole("hidden_size", "dim"),
            heads=whole("num_attention_heads", "n_heads"),
            layers=whole("num_hidden_layers", "n_layers"),
            groups=whole("num_hidden_groups", default=1),
            activation=str(config.get("hidden_act", config.get("activation", "gelu"))),
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            positions=whole("max_position_embeddings"),
            pad=whole("pad_token_id", default=1 if family in SHIFTED else 0),
        )
        if size.heads == 0 or size.width % size.heads:
            raise SourceError(f"config.json: {size.width} numbers cannot be dealt to {size.heads} heads.")
        if config.get("inner_group_num", 1) != 1:
            raise SourceError("ALBERT with several layers per group is not supported.")
        return size


def recognise(bundle: Bundle) -> Model | None:
    """The first configuration of the family among the files, as a model; None if there is none."""
    for name in bundle.named("config.json"):
        config = bundle.config(name)
        family = config.get("model_type")
        if family in FAMILIES:
            return _model(bundle, name, family, config)
    return None


def _model(bundle: Bundle, name: str, family: str, config: dict[str, Any]) -> Model:
    weights, size = bundle.weights_beside(name), Size.of(family, config)
    tokenizer, assets = tokenizer_of(bundle, name)
    b = Builder(weights)
    ids = b.port("input_ids", "int64", None, None)
    mask = b.port("attention_mask", "int64", None, None)
    prefix = _prefix(weights, "embeddings.word_embeddings.weight")
    hidden = encode(b, prefix, size, ids, mask)
    shift = size.pad + 1 if family in SHIFTED else 0
    adapter: dict[str, Any] = {
        "tokenizer": tokenizer, "tokens_max": min(TOKENS_MAX, size.positions - shift), "position_offset": shift,
    }  # fmt: skip
    wanted = " ".join(str(item) for item in config.get("architectures") or [])
    if "ForSequenceClassification" in wanted:
        head, outputs = "classifier", _classify(b, prefix, size, hidden, mask)
    elif "ForTokenClassification" in wanted:
        head, outputs = "sequence_tagger", (_tag(b, hidden),)
    elif ("MaskedLM" in wanted or "PreTraining" in wanted) and _has_lm(b):
        head, outputs = "masked_lm", _masked(b, prefix, size, hidden, mask)
    else:
        head, outputs = "embedder", _embed(b, bundle, name, hidden, mask)
    if head in ("classifier", "sequence_tagger"):
        adapter["labels"] = labels_of(config)
    adapter["kind"] = {"classifier": "text-classifier", "embedder": "text-embedder"}.get(head, head)
    graph, views = b.build(*outputs)
    modality = "smiles" if tokenizer["kind"] == "smiles" else "text"
    return bundle.model(graph, views, adapter, assets, head=head, modality=modality, architecture=family)


def _prefix(weights: Weights, ending: str) -> str:
    found = sorted((name for name in weights.names() if name.endswith(ending)), key=len)
    if not found:
        raise SourceError(
            f"The weights have no tensor that ends with {ending!r}; this is no encoder of the BERT family."
        )
    return found[0].removesuffix(ending)


def labels_of(config: dict[str, Any]) -> list[str]:
    """Names of classes in order of their numbers; empty if the configuration has none."""
    table = config.get("id2label")
    if not isinstance(table, dict) or not all(str(key).isdigit() for key in table) or len(table) > LABELS_MAX:
        return []
    return [str(table[key]) for key in sorted(table, key=int)]


def encode(b: Builder, prefix: str, size: Size, ids: str, mask: str) -> str:
    """The hidden states of the last layer: [b, t, width]."""
    embeddings = f"{prefix}embeddings."
    total = b.op("Gather", "embed.words", [b.weight(f"{embeddings}word_embeddings.weight"), ids], axis=0)
    if b.has(f"{embeddings}token_type_embeddings.weight"):
        zero = b.constant(torch.tensor(0, dtype=torch.int64))
        kind = b.op(
            "Gather", "embed.type", [b.weight(f"{embeddings}token_type_embeddings.weight"), zero], axis=0
        )
        total = b.op("Add", "embed.typed", [total, kind])
    places = b.port("position_ids", "int64", None, None)
    place = b.op(
        "Gather", "embed.places", [b.weight(f"{embeddings}position_embeddings.weight"), places], axis=0
    )
    total = b.op("Add", "embed.sum", [total, place])
    hidden = b.layer_norm("embed.norm", total, f"{embeddings}LayerNorm", size.epsilon)
    if size.family == "albert":
        wide = f"{prefix}encoder.embedding_hidden_mapping_in"
        hidden = b.linear("embed.wide", hidden, f"{wide}.weight", f"{wide}.bias")
    blocked = b.key_mask(mask)
    names = FAMILIES[size.family]
    for number in range(size.layers):
        group = number * size.groups // size.layers if size.family == "albert" else number
        hidden = _layer(
            b, f"layer.{number}", prefix + names.layer.format(group), names, size, hidden, blocked
        )
    return hidden


def _layer(b: Builder, name: str, where: str, names: Names, size: Size, hidden: str, mask: str) -> str:
    def linear(label: str, value: str, place: str) -> str:
        return b.linear(f"{name}.{label}", value, f"{where}.{place}.weight", f"{where}.{place}.bias")

    each = size.width // size.heads
    query = b.heads(f"{name}.query", linear("query", hidden, names.query), size.heads, each)
    key = b.heads(f"{name}.key", linear("key", hidden, names.key), size.heads, each, keys=True)
    value = b.heads(f"{name}.value", linear("value", hidden, names.value), size.heads, each)
    mixed = b.attend(f"{name}.attention", query, key, value, mask, each, size.heads)
    seen = b.op("Add", f"{name}.seen", [linear("out", mixed, names.out), hidden])
    seen = b.layer_norm(f"{name}.seen.norm", seen, f"{where}.{names.out_norm}", size.epsilon)
    wide = b.activation(f"{name}.active", linear("up", seen, names.up), size.activation)
    done = b.op("Add", f"{name}.sum", [linear("down", wide, names.down), seen])
    return b.layer_norm(f"{name}.norm", done, f"{where}.{names.norm}", size.epsilon)


# Dense, norm, decoder and bias of the head that predicts masked tokens, per family.
_LM = (
    (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions",
    ),
    ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head"),
    ("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector"),
    ("predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions"),
)


def _has_lm(b: Builder) -> bool:
    return any(b.has(f"{names[0]}.weight") for names in _LM)


def _masked(b: Builder, prefix: str, size: Size, hidden: str, mask: str) -> tuple[str, ...]:
    """logits [p, vocabulary] at the flat places that are fed, and the mean of the hidden states [b, width]."""
    dense, norm, decoder, bias = next(names for names in _LM if b.has(f"{names[0]}.weight"))
    places = b.port("positions", "int64", None)
    rows = b.at_positions("lm.rows", hidden, places, size.width)
    rows = b.activation(
        "lm.active", b.linear("lm.dense", rows, f"{dense}.weight", f"{dense}.bias"), size.activation
    )
    rows = b.layer_norm("lm.norm", rows, norm, size.epsilon)
    tied = f"{prefix}embeddings.word_embeddings.weight"
    table = f"{decoder}.weight" if b.has(f"{decoder}.weight") else tied
    shift = f"{decoder}.bias" if b.has(f"{decoder}.bias") else f"{bias}.bias"
    inputs = [rows, b.weight(table)] + ([b.weight(shift)] if b.has(shift) else [])
    b.op("Gemm", "logits", inputs, transB=1)
    return "logits", b.mean_over_time("pooled", hidden, mask)


def _first(b: Builder, name: str, hidden: str) -> str:
    zero = b.constant(torch.tensor(0, dtype=torch.int64))
    return b.op("Gather", name, [hidden, zero], axis=1)


def _tag(b: Builder, hidden: str) -> str:
    """logits [b, t, classes] of every token."""
    return b.op("Identity", "logits", [b.linear("class", hidden, "classifier.weight", "classifier.bias")])


def _classify(b: Builder, prefix: str, size: Size, hidden: str, mask: str) -> tuple[str, ...]:
    """logits [b, classes] from the first token, and the mean of the hidden states [b, width]."""
    first = _first(b, "class.first", hidden)
    steps = (
        (
            f"{prefix}pooler.dense" if b.has(f"{prefix}pooler.dense.weight") else f"{prefix}pooler",
            "tanh",
            "classifier",
        ),
        ("pre_classifier", "relu", "classifier"),
        ("classifier.dense", "tanh", "classifier.out_proj"),
    )
    for dense, activation, last in steps:
        if b.has(f"{dense}.weight") and b.has(f"{last}.weight"):
            wide = b.linear("class.dense", first, f"{dense}.weight", f"{dense}.bias")
            row = b.activation("class.active", wide, activation)
            logits = b.linear("logits.rows", row, f"{last}.weight", f"{last}.bias")
            return b.op("Identity", "logits", [logits]), b.mean_over_time("pooled", hidden, mask)
    raise SourceError("config.json promises a classifier, but the weights have none (classifier.weight).")


def _embed(b: Builder, bundle: Bundle, name: str, hidden: str, mask: str) -> tuple[str, ...]:
    """embedding [b, width], pooled as the package says; without a word the mean, at unit length."""
    kinds, pooling = [], {}
    listed = bundle.beside(name, "modules.json")
    for module in bundle.json(listed) if listed is not None else []:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        kinds.append(kind)
        if kind == "Pooling":
            pooling = bundle.config(bundle.beside(name, f"{module.get('path', '')}/config.json"))
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise SourceError(
            f"The sentence encoder has a module of kind {unknown[0]!r}, which is not supported."
        )
    if pooling.get("pooling_mode_cls_token"):
        pooled = _first(b, "pooled", hidden)
    elif pooling and not pooling.get("pooling_mode_mean_tokens"):
        raise SourceError(
            "The sentence encoder pools neither by the mean nor by the first token; this is not supported."
        )
    else:
        pooled = b.mean_over_time("pooled", hidden, mask)
    return (b.unit_length("embedding", pooled) if not kinds or "Normalize" in kinds else pooled,)
