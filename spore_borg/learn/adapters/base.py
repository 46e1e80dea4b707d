"""What every adapter offers, and the arithmetic that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from spore_borg.learn.errors import LearnError
from spore_borg.learn.items import Item

FEATURES_MAX = 512
BATCH = 16  # items fed at once
ANSWERS_MAX = 100  # classes in one answer

Feeds = dict[str, Tensor]
Outputs = Mapping[str, Tensor]
Runner = Callable[[Feeds], Outputs]


class Adapter:
    """Turns items into a graph's feeds, and its outputs into vectors, features and answers.

    Attributes:
        head, modality: as in ``graph.Info``.
    """

    kind: ClassVar[str] = ""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.head = str(spec.get("head", "unknown"))
        self.modality = str(spec.get("modality", "bytes"))

    def feeds(self, items: Sequence[Item]) -> Iterator[tuple[range, Feeds]]:
        """Batches in order: which items, and what the graph is fed. Raises LearnError for an item of another kind."""
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            yield range(start, start + len(part)), self.batch(part)

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The feeds of one batch."""
        raise NotImplementedError

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """float32 [n, d], one row per item: what a conversion must keep the direction of."""
        raise NotImplementedError

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """float32 [n, f] with f ≤ 512, one row per item: what the readout sees."""
        raise NotImplementedError

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """One JSON-able answer per item, for people. ``top`` bounds lists of classes or tokens."""
        raise NotImplementedError


def bounded(value: Any, least: int, most: int) -> int:
    """A whole number of the settings within bounds. Raises ValueError: settings may come from a peer."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]} is no whole number from {least} to {most}")
    return value


def text_of(item: Item) -> str:
    """An item that must be text. Raises LearnError."""
    if not isinstance(item, str):
        raise LearnError(f"This model takes text, not {type(item).__name__}.")
    return item


def tensor_of(item: Item, what: str) -> Tensor:
    """An item that must be a tensor. Raises LearnError."""
    if not isinstance(item, Tensor):
        raise LearnError(f"This model takes {what}, not {type(item).__name__}.")
    return item


def output(outputs: Outputs, name: str) -> Tensor:
    """An output as float32. Raises LearnError if the graph has none of this name."""
    if name not in outputs:
        raise LearnError(
            f"The graph has no output {name[:80]!r}, which its adapter reads; the model is damaged."
        )
    return outputs[name].float()


def centred(logits: Tensor) -> Tensor:
    """Logits less their mean: log-probabilities without what is the same for all classes."""
    return logits - logits.mean(-1, keepdim=True)


def log_probabilities(values: Tensor, form: str) -> Tensor:
    """Log-probabilities of classes on the last axis, from ``logits`` or from ``probabilities``."""
    if form == "probabilities":
        return values.clamp_min(1e-6).log()
    return torch.log_softmax(values, -1)


def class_logits(values: Tensor, form: object) -> Tensor:
    """What a graph of unknown end puts out, as logits: probabilities (rows that add up to 1) become logarithms."""
    if form != "unknown" or values.shape[-1] == 1 or bool((values < 0).any()):
        return values
    likely = bool(((values.sum(-1) - 1.0).abs() < 1e-3).all())
    return values.clamp_min(1e-6).log() if likely else values


def fold(values: Tensor, width: int) -> Tensor:
    """[n, d] as [n, min(d, width)]: numbers beyond the width are added, with fixed signs, to those before.

    A signed sum keeps inner products on average, and needs no matrix (Weinberger et al., arXiv 0902.2206).
    """
    count = values.shape[1]
    if count <= width:
        return values
    rows = -(-count // width)
    padded = torch.nn.functional.pad(values, (0, rows * width - count))
    place = torch.arange(rows * width, dtype=torch.int64)
    signs = 1.0 - 2.0 * ((place * 2654435761 >> 13) & 1).float()
    return (padded * signs).reshape(-1, rows, width).sum(1)


def top_classes(values: Tensor, form: str, labels: Sequence[str], top: int) -> list[list[dict[str, Any]]]:
    """The likeliest classes of each row, likeliest first: ``{label, probability}``."""
    shares = log_probabilities(values, form).exp()
    chosen = shares.topk(max(1, min(top, ANSWERS_MAX, shares.shape[1])), -1)
    return [
        [{"label": label_of(labels, place), "probability": share} for share, place in zip(*pair, strict=True)]
        for pair in zip(chosen.values.tolist(), chosen.indices.tolist(), strict=True)
    ]


def label_of(labels: Sequence[str], place: int) -> str:
    """The name of a class, or its number where the package names none."""
    return labels[place] if place < len(labels) else str(place)
