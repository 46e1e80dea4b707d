"""What a conversion may look at: a suite's calibration items as feeds, the same for whoever converts or redoes."""

from __future__ import annotations

from collections.abc import Sequence

from spore_borg.learn.adapters import adapter
from spore_borg.learn.adapters.base import Feeds
from spore_borg.learn.adapters.lm import CausalLm
from spore_borg.learn.graph import Model
from spore_borg.learn.items import Item

STOPS = ".!?…"  # what ends a sentence; quotation marks and brackets may follow
CLOSING = "\"'”’»)]"
STRIDE, WHOLE = 40_503, 1 << 16  # 2^16 over the golden ratio: places of consecutive items lie evenly apart


def calibration_feeds(model: Model, items: Sequence[Item]) -> list[Feeds]:
    """The batches from which a model's thresholds come, in order.

    A causal model predicts what follows its last token, so items that end a sentence would show it nothing but ends:
    of each of those a beginning is fed too, cut in the middle of the text.

    Args:
        items: a suite's calibration items of the model's modality.
    Raises:
        LearnError: an item that the model does not take.
    """
    one = adapter(model.adapter, model.assets)
    found = [*items, *beginnings(items)] if isinstance(one, CausalLm) else items
    return [feeds for _, feeds in one.feeds(found)]


def beginnings(items: Sequence[Item]) -> list[Item]:
    """Of each text that ends a sentence its first part, cut at a place that follows from its number alone."""
    found: list[Item] = []
    for number, item in enumerate(items):
        if isinstance(item, str) and item.rstrip().rstrip(CLOSING)[-1:] in tuple(STOPS) and len(item) > 1:
            found.append(item[: 1 + (number * STRIDE % WHOLE) * (len(item) - 1) // WHOLE])
    return found
