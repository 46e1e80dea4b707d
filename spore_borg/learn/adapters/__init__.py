"""Items → feeds, outputs → vectors, features and answers: one adapter per kind of model.

The settings are data that importers write and shards carry; ``adapter`` checks them before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spore_borg.learn.adapters import lm, reading, senses, text
from spore_borg.learn.adapters.base import FEATURES_MAX, Adapter, Feeds, Outputs, Runner
from spore_borg.learn.errors import LearnError
from spore_borg.learn.graph import HEADS, MODALITIES

__all__ = ["FEATURES_MAX", "Adapter", "Feeds", "Outputs", "Runner", "adapter"]

Make = Callable[[Mapping[str, Any], Mapping[str, bytes]], Adapter]
CLASSES: tuple[type[Adapter], ...] = (
    text.TextEmbedder,
    text.TextClassifier,
    text.TextTagger,
    lm.MaskedLm,
    lm.CausalLm,
    lm.CharLm,
    senses.ImageClassifier,
    senses.AudioTagger,
    senses.Pitch,
    senses.FileType,
    senses.Raw,
    reading.TextReader,
    reading.Notes,
)
KINDS: dict[str, Make] = {one.kind: one for one in CLASSES}


def adapter(spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> Adapter:
    """The adapter that a model's settings describe.

    Args:
        spec: ``Model.adapter``; assets: ``Model.assets``.
    Raises:
        LearnError: an unknown kind, a missing setting or file.
    """
    make = KINDS.get(str(spec.get("kind")))
    if make is None:
        raise LearnError(
            f"The adapter kind {str(spec.get('kind'))[:40]!r} is unknown; known are {', '.join(KINDS)}."
        )
    if spec.get("head") not in HEADS or spec.get("modality") not in MODALITIES:
        raise LearnError("The adapter's settings name no known head and modality; the model is damaged.")
    try:
        return make(spec, assets)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, LearnError):
            raise
        raise LearnError(
            f"The adapter's settings are damaged: {type(error).__name__} {error}"[:300]
        ) from error
