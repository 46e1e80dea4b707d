"""Static embedders: a table of token embeddings whose mean is the embedding of a text (wordllama, model2vec)."""

from __future__ import annotations

from spore_borg.learn.graph import Model, Weights
from spore_borg.learn.importers.building import Builder
from spore_borg.learn.importers.bundle import Bundle
from spore_borg.learn.importers.tokenizing import is_tokenizer

TOKENS_MAX = 512
TABLES = ("embedding.weight", "embeddings", "embeddings.weight", "embedding")
WIDTH_MAX = 4096


def recognise(bundle: Bundle) -> Model | None:
    """A file with one table of embeddings, and a tokenizer whose numbers are its rows; None if there is none."""
    tokenizer = next((name for name in bundle.named(".json") if is_tokenizer(bundle.read(name))), None)
    if tokenizer is None:
        return None
    for _, weights in bundle.opened():
        table = _table(weights)
        if table is not None:
            return _model(bundle, weights, table, tokenizer)
    return None


def _table(weights: Weights) -> str | None:
    names = [name for name in weights.names() if len(weights.shape(name)) == 2]
    if len(names) != 1 or names[0] not in TABLES:
        return None
    rows, columns = weights.shape(names[0])
    return names[0] if rows > columns and columns <= WIDTH_MAX else None


def _model(bundle: Bundle, weights: Weights, table: str, tokenizer: str) -> Model:
    b = Builder(weights)
    ids = b.port("input_ids", "int64", None, None)
    mask = b.port("attention_mask", "int64", None, None)
    hidden = b.op("Gather", "embed.words", [b.weight(table), ids], axis=0)
    pooled = b.mean_over_time("pooled", hidden, mask)
    b.unit_length("embedding", pooled)
    graph, views = b.build("embedding")
    settings = {"kind": "tokenizers", "bare": True}
    adapter = {
        "kind": "text-embedder", "tokenizer": settings, "tokens_max": TOKENS_MAX, "rows": weights.shape(table)[0],
    }  # fmt: skip
    assets = {"tokenizer.json": bundle.read(tokenizer)}
    return bundle.model(
        graph, views, adapter, assets, head="embedder", modality="text", architecture="static"
    )
