"""Answers from absorbed models: embed, classify, complete. Which model said what, and with what weight, stays visible.

Models of different lineages are never averaged in weight space; their answers are joined: embeddings side by side,
each scaled by the square root of its weight (so that a dot product is the weighted mean of the models' cosines), class
probabilities by weighted mean where the models know the same classes.
Source: LEARN §4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from spore_borg.learn import items as reading
from spore_borg.learn.adapters import Adapter, adapter
from spore_borg.learn.adapters.base import ANSWERS_MAX
from spore_borg.learn.adapters.lm import CausalLm
from spore_borg.learn.errors import LearnError
from spore_borg.learn.graph import HEADS
from spore_borg.learn.run import Allowance
from spore_borg.learn.shard import open_shard
from spore_borg.learn.spike.engine import Engine

OPEN_MAX = 8  # models kept open at once
KEPT_BYTES_MAX = 400_000_000  # of one model; what is beyond is read from the disk anew for each batch
ITEMS_MAX = 1_024  # items of one question
TOP = 5

Answer = dict[str, Any]
EMBEDS = ("embedder", "masked_lm", "causal_lm", "classifier", "sequence_tagger", "unknown")
CLASSIFIES = ("classifier", "sequence_tagger", "forecaster")
COMPLETES = ("causal_lm", "masked_lm")


@dataclass(frozen=True, slots=True)
class Voice:
    """One absorbed model that may answer: its record's id, its shard and its weight (any scale, above zero)."""

    cid: str
    path: Path
    weight: float


class _Open:
    """An opened shard, its adapter, and what of it stays in memory."""

    def __init__(self, path: Path, device: str) -> None:
        shard = open_shard(path)
        self.adapter: Adapter = adapter(shard.adapter, shard.model().assets)
        self.run = Engine(shard, Allowance(KEPT_BYTES_MAX), device=device)


class Bank:
    """Opened shards; the most recently used stay in memory.

    Args:
        device: ``auto`` (a card for models that are worth it), ``cpu``, ``cuda`` or ``mps``.
    """

    def __init__(self, device: str = "auto") -> None:
        self._device = device
        self._open: OrderedDict[Path, _Open] = OrderedDict()

    def open(self, path: Path) -> _Open:
        """An opened shard. Raises ShardError; LearnError if the device is not there."""
        found = self._open.pop(path, None)
        if found is None:
            found = _Open(path, self._device)
        self._open[path] = found
        while len(self._open) > OPEN_MAX:
            self._open.popitem(last=False)
        return found

    def answer(
        self,
        what: str,
        voices: Sequence[Voice],
        items: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
    ) -> list[Answer]:
        """Answers in the order of the items.

        Args:
            what: ``embed``, ``classify`` or ``complete``.
            items: ``{"text": …}`` or ``{"path": …}`` each.
            options: ``top``; for complete ``max_tokens temperature seed``.
        Raises:
            LearnError: no model fits, or an item cannot be read.
        """
        if not voices:
            raise LearnError("No absorbed model answers this. `borg state` lists what there is.")
        if len(items) > ITEMS_MAX:
            raise LearnError(f"{len(items)} items at once; at most {ITEMS_MAX}.")
        ways: Mapping[str, Callable[..., list[Answer]]] = {
            "embed": self._embed,
            "classify": self._classify,
            "complete": self._complete,
        }
        if what not in ways:
            raise LearnError(f"{what[:40]!r} is no question; ask to {', '.join(ways)}.")
        return ways[what](voices, items, options)

    # ---- the three questions

    def _embed(
        self, voices: Sequence[Voice], items: Sequence[Mapping[str, Any]], _options: object
    ) -> list[Answer]:
        total = sum(voice.weight for voice in voices)
        parts: list[list[float]] = [[] for _ in items]
        for voice in voices:
            model = self.open(voice.path)
            loaded = [reading.load(item, model.adapter.modality) for item in items]
            rows = torch.cat(
                [model.adapter.vectors(model.run(feeds), feeds) for _, feeds in model.adapter.feeds(loaded)]
            )
            unit = torch.nn.functional.normalize(rows.float(), dim=1) * sqrt(voice.weight / total)
            for part, row in zip(parts, unit.tolist(), strict=True):
                part.extend(row)
        said = [_said(voice, total) for voice in voices]
        return [{"embedding": part, "models": said} for part in parts]

    def _classify(
        self, voices: Sequence[Voice], items: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> list[Answer]:
        total, top = sum(voice.weight for voice in voices), int(options.get("top", TOP))
        opinions: list[list[Answer]] = [[] for _ in items]
        for voice in voices:
            model = self.open(voice.path)
            loaded = [reading.load(item, model.adapter.modality) for item in items]
            at = 0
            for _, feeds in model.adapter.feeds(loaded):
                for said in model.adapter.answer(model.run(feeds), feeds, top=ANSWERS_MAX):
                    opinions[at].append({**_said(voice, total), **_labelled(said)})
                    at += 1
        return [_consensus(opinion, top) for opinion in opinions]

    def _complete(
        self, voices: Sequence[Voice], items: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> list[Answer]:
        total = sum(voice.weight for voice in voices)
        answers = []
        for item in items:
            models = []
            for voice in voices:
                model = self.open(voice.path)
                prompt = str(reading.load(item, model.adapter.modality))
                models.append({**_said(voice, total), **_continued(model, prompt, options)})
            best = max(models, key=lambda said: said["weight"])
            answers.append({"text": best.get("text", ""), "models": models})
        return answers


def _said(voice: Voice, total: float) -> Answer:
    return {"cid": voice.cid, "weight": voice.weight / total}


def _labelled(said: Answer) -> Answer:
    """An adapter's answer with ``labels``; what frames say stays beside it."""
    if "classes" in said:
        return {"labels": said["classes"]}
    rest = {key: value for key, value in said.items() if key != "labels"}
    if "share" in said:
        label = next(
            (frame["label"] for frame in said.get("frames", ()) if frame["label"] != "none"), "active"
        )
        return {**rest, "labels": [{"label": label, "probability": said["share"]}]}
    if "hz" in said:
        sure = [frame["probability"] for frame in said["frames"] if frame["label"] == "voiced"]
        label = "unvoiced" if said["hz"] is None else f"{said['hz']:.1f} Hz"
        return {**rest, "labels": [{"label": label, "probability": sum(sure) / len(sure) if sure else 0.0}]}
    return {**rest, "labels": said.get("labels", [])}


def _continued(model: _Open, prompt: str, options: Mapping[str, Any]) -> Answer:
    """A causal model writes on; a masked one fills its masks."""
    if isinstance(model.adapter, CausalLm):
        said = model.adapter.complete(model.run, prompt, options)
        return {**said, "text": prompt + str(said["text"])}
    _, feeds = next(iter(model.adapter.feeds([prompt])))
    said = model.adapter.answer(model.run(feeds), feeds, top=int(options.get("top", TOP)))[0]
    return {"text": said.get("text", ""), "masks": [mask["tokens"] for mask in said.get("masks", ())]}


def _consensus(opinions: list[Answer], top: int) -> Answer:
    """The weighted mean of the models that know the same classes as the weightiest one; the others stand apart."""
    first = max(opinions, key=lambda opinion: opinion["weight"])
    known = frozenset(entry["label"] for entry in first.get("labels", ()))
    agree = [o for o in opinions if frozenset(entry["label"] for entry in o.get("labels", ())) == known]
    weight = sum(opinion["weight"] for opinion in agree)
    merged = dict.fromkeys(known, 0.0)
    for opinion in agree:
        for entry in opinion["labels"]:
            merged[entry["label"]] += entry["probability"] * opinion["weight"] / weight
    ranked = sorted(merged.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    for opinion in opinions:
        opinion["labels"] = opinion.get("labels", [])[:top]
    return {"labels": [{"label": label, "probability": p} for label, p in ranked], "models": opinions}


assert set(EMBEDS) | set(CLASSIFIES) | set(COMPLETES) <= set(HEADS)
