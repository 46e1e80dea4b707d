"""Adapters of text models that give one vector, one class, or a class per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spore_borg.learn.adapters.base import (
    FEATURES_MAX,
    Adapter,
    Feeds,
    Outputs,
    bounded,
    centred,
    fold,
    label_of,
    output,
    text_of,
    top_classes,
)  # fmt: skip
from spore_borg.learn.adapters.tokens import tokenizer
from spore_borg.learn.items import Item

TOKENS_MAX = 4_096  # what settings may ask for
ROUND = 8  # batches are padded to a multiple of this many tokens


class TextAdapter(Adapter):
    """Feeds tokens: ``input_ids``, ``attention_mask`` and, where the model has them, ``position_ids``; [b, t] int64."""

    def __init__(self, spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(spec)
        self.tokens = tokenizer(spec["tokenizer"], assets)
        self.limit = bounded(spec.get("tokens_max", 256), 1, TOKENS_MAX)
        offset = spec.get("position_offset")
        self._offset = None if offset is None else bounded(offset, 0, TOKENS_MAX)

    def ids(self, item: Item) -> list[int]:
        """An item's tokens, cut to the model's limit; the last one, which closes a text, stays."""
        found = self.tokens.encode(text_of(item))
        rows = self.spec.get("rows")
        if rows is not None:
            found = [min(place, bounded(rows, 1, 1 << 24) - 1) for place in found]
        if len(found) > self.limit:
            found = [*found[: self.limit - 1], found[-1]]
        return found

    def packed(self, rows: Sequence[Sequence[int]]) -> Feeds:
        """Rows of tokens as feeds, padded on the right."""
        longest = max((len(row) for row in rows), default=0)
        length = min(-(-max(longest, 1) // ROUND) * ROUND, max(self.limit, longest, 1))
        ids = torch.full((len(rows), length), self.tokens.pad or 0, dtype=torch.int64)
        mask = torch.zeros((len(rows), length), dtype=torch.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[place, : len(row)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask}
        if self._offset is not None:
            feeds["position_ids"] = (torch.arange(length) + self._offset).expand(len(rows), -1)
        return feeds

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The feeds of one batch."""
        return self.packed([self.ids(item) for item in items])


class TextEmbedder(TextAdapter):
    """The embedding of a text."""

    kind = "text-embedder"

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """The embeddings."""
        return output(outputs, "embedding")

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """The embeddings, at most 512 numbers."""
        return fold(output(outputs, "embedding"), FEATURES_MAX)

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"embedding": […]}`` per text."""
        return [{"embedding": row} for row in output(outputs, "embedding").tolist()]


class TextClassifier(TextAdapter):
    """The class of a text."""

    kind = "text-classifier"

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Logits less their mean, [n, classes]; the logit itself of a model with one output."""
        logits = output(outputs, "logits")
        return logits if logits.shape[1] == 1 else centred(logits)

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Log-probabilities and the mean hidden state."""
        classes = fold(torch.log_softmax(output(outputs, "logits"), -1), FEATURES_MAX // 2)
        return torch.cat([classes, fold(output(outputs, "pooled"), FEATURES_MAX - classes.shape[1])], 1)

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"classes": [{"label", "probability"}, …]}`` per text."""
        labels, top = self.spec.get("labels", []), int(options.get("top", 5))
        return [{"classes": row} for row in top_classes(output(outputs, "logits"), "logits", labels, top)]


class TextTagger(TextAdapter):
    """A class per token of a text."""

    kind = "sequence_tagger"

    def _mean(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        real = feeds["attention_mask"].unsqueeze(2).float()
        shares = torch.log_softmax(output(outputs, "logits"), -1)
        return (shares * real).sum(1) / real.sum(1).clamp_min(1.0)

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Log-probabilities over the text's tokens, averaged, less their mean: [n, classes]."""
        return centred(self._mean(outputs, feeds))

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """The same, at most 512 numbers."""
        return fold(self._mean(outputs, feeds), FEATURES_MAX)

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"tokens": [{"token", "label", "probability"}, …]}`` per text."""
        best = torch.softmax(output(outputs, "logits"), -1).max(-1)
        labels, rows = self.spec.get("labels", []), []
        for ids, mask, shares, places in zip(
            feeds["input_ids"].tolist(), feeds["attention_mask"].tolist(), best.values.tolist(), best.indices.tolist(),
            strict=True,
        ):  # fmt: skip
            tagged = [
                {"token": self.tokens.token(one), "label": label_of(labels, place), "probability": share}
                for one, real, share, place in zip(ids, mask, shares, places, strict=True)
                if real and not self.tokens.special(one)
            ]
            rows.append({"tokens": tagged})
        return rows
