"""Adapters of language models: masked tokens, next tokens, next characters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spore_borg.learn.adapters.base import (
    ANSWERS_MAX,
    FEATURES_MAX,
    Feeds,
    Outputs,
    Runner,
    bounded,
    centred,
    fold,
    output,
    text_of,
)  # fmt: skip
from spore_borg.learn.adapters.text import TextAdapter
from spore_borg.learn.errors import LearnError
from spore_borg.learn.items import Item

MASKS = 4  # places of one item that are predicted
WIDTH_MAX = 1 << 15  # numbers in one vector; above it the places are averaged
USEFUL = 384  # tokens whose log-probabilities are features
TOKENS_NEW_MAX = 1024
ROWS = 64  # rows of characters that are run at once


def useful_tokens(special: Sequence[bool], count: int) -> list[int]:
    """The first tokens that stand for text: vocabularies are sorted by frequency or begin with single characters."""
    return [place for place, skip in enumerate(special) if not skip][:count]


class LanguageModel(TextAdapter):
    """What language models share: features, top tokens, and generation."""

    def __init__(self, spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(spec, assets)
        scanned = min(self.tokens.size, 8 * USEFUL + 2048)
        self._useful = useful_tokens([self.tokens.special(place) for place in range(scanned)], USEFUL)

    def _features(self, logits: Tensor, pooled: Tensor) -> Tensor:
        """Log-probabilities of the most useful tokens, and the mean hidden state: [n, ≤ 512]."""
        width = logits.shape[1]
        shares = torch.log_softmax(logits, -1)[:, [place for place in self._useful if place < width]]
        return torch.cat([shares, fold(pooled, FEATURES_MAX - shares.shape[1])], 1)

    def _shown(self, place: int) -> str:
        """A token for people; as it stands in the vocabulary where it is no text of its own."""
        return self.tokens.decode([place]) or self.tokens.token(place)

    def _top(self, logits: Tensor, top: int) -> list[dict[str, Any]]:
        """The likeliest tokens of one row of logits [vocabulary]."""
        best = torch.softmax(logits, -1).topk(max(1, min(top, ANSWERS_MAX, logits.numel())))
        return [
            {"token": self._shown(place), "probability": share}
            for share, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


class MaskedLm(LanguageModel):
    """A model that fills masks. A text without one has four of its tokens masked, evenly spread."""

    kind = "masked_lm"

    def masked(self, item: Item) -> tuple[list[int], list[int]]:
        """Tokens with masks, and where the masks are; four places, repeated if there are fewer."""
        ids, mask = self.ids(item), self.tokens.mask
        if mask is None:
            raise LearnError("The tokenizer of this model has no mask token; it cannot fill masks.")
        places = [place for place, one in enumerate(ids) if one == mask][:MASKS]
        if not places:
            open_places = [place for place, one in enumerate(ids) if not self.tokens.special(one)]
            count = min(MASKS, max(1, len(open_places) // 2)) if open_places else 0
            places = [open_places[(2 * i + 1) * len(open_places) // (2 * count)] for i in range(count)]
            for place in places:
                ids[place] = mask
        if not places:
            places, ids = [0], ids or [mask]
        return ids, [places[i % len(places)] for i in range(MASKS)]

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The feeds of one batch; ``positions`` are four flat places per item."""
        rows, places = zip(*(self.masked(item) for item in items), strict=True)
        feeds = self.packed(rows)
        length = feeds["input_ids"].shape[1]
        flat = [row * length + place for row, four in enumerate(places) for place in four]
        return {**feeds, "positions": torch.tensor(flat, dtype=torch.int64)}

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Centred logits at the four places, one after the other, or averaged for a large vocabulary."""
        logits = centred(output(outputs, "logits"))
        each = logits.reshape(-1, MASKS, logits.shape[1])
        return each.flatten(1) if each.shape[1] * each.shape[2] <= WIDTH_MAX else each.mean(1)

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Log-probabilities of the most useful tokens, averaged over the places, and the mean hidden state."""
        logits = torch.log_softmax(output(outputs, "logits"), -1)
        return self._features(logits.reshape(-1, MASKS, logits.shape[1]).mean(1), output(outputs, "pooled"))

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"masks": [{"place", "tokens": [{"token", "probability"}, …]}, …], "text"}``, the best filled in."""
        top, length = int(options.get("top", 5)), feeds["input_ids"].shape[1]
        logits = output(outputs, "logits")
        flat = feeds["positions"].reshape(-1, MASKS).tolist()
        answers = []
        for row, (ids, four) in enumerate(zip(feeds["input_ids"].tolist(), flat, strict=True)):
            masks: dict[int, dict[str, Any]] = {}
            for number, place in enumerate(four):
                scores = logits[row * MASKS + number]
                ids[place % length] = int(scores.argmax())
                masks.setdefault(place, {"place": place % length, "tokens": self._top(scores, top)})
            answers.append({"masks": list(masks.values()), "text": self.tokens.decode(ids)})
        return answers


class CausalLm(LanguageModel):
    """A model that predicts the next token."""

    kind = "causal_lm"

    def ids(self, item: Item) -> list[int]:
        """An item's tokens, cut at the front: what stands last says most about what follows."""
        found = self.tokens.encode(text_of(item))[-self.limit :]
        return found or [self.tokens.eos or 0]

    def prompt(self, rows: Sequence[Sequence[int]]) -> Feeds:
        """Feeds that predict what follows each row of tokens."""
        feeds = self.packed(rows)
        length = feeds["input_ids"].shape[1]
        last = [place * length + len(row) - 1 for place, row in enumerate(rows)]
        return {**feeds, "positions": torch.tensor(last, dtype=torch.int64)}

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The feeds of one batch; ``positions`` are the flat places of the last tokens."""
        return self.prompt([self.ids(item) for item in items])

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Centred logits of what follows each item, [n, vocabulary]."""
        return centred(output(outputs, "logits"))

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Log-probabilities of the most useful tokens as what follows, and the mean hidden state."""
        return self._features(output(outputs, "logits"), output(outputs, "pooled"))

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"next": [{"token", "probability"}, …]}`` per item; ``complete`` writes on."""
        top = int(options.get("top", 5))
        return [{"next": self._top(row, top)} for row in output(outputs, "logits")]

    def complete(self, runner: Runner, prompt: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Write on after a prompt.

        Args:
            runner: runs the graph once; prompt: what is written on.
            options: ``max_tokens`` (default 64), ``temperature`` (0 takes the likeliest token), ``top_k`` (0 is all),
                ``seed``: the same seed writes the same.
        Returns:
            ``{"text", "tokens", "stopped"}``: what was added, how many tokens, whether the model ended by itself.
        """
        count = max(0, min(int(options.get("max_tokens", 64)), TOKENS_NEW_MAX))
        generator = torch.Generator().manual_seed(int(options.get("seed", 0)))
        ids, made, stopped = self.ids(prompt), list[int](), False
        for _ in range(count):
            logits = output(runner(self.prompt([ids[-self.limit :]])), "logits")[0]
            place = _choose(logits, options, generator)
            if place == self.tokens.eos:
                stopped = True
                break
            ids.append(place)
            made.append(place)
        return {"text": self.tokens.decode(made), "tokens": len(made), "stopped": stopped}

    def bits_per_char(self, runner: Runner, text: str) -> float:
        """How many bits the model needs per character of a text, from the second token on (nan for one token)."""
        ids = self.ids(text)
        nats = 0.0
        for start in range(1, len(ids), ROWS):
            rows = [ids[:stop] for stop in range(start, min(start + ROWS, len(ids)))]
            shares = torch.log_softmax(output(runner(self.prompt(rows)), "logits"), -1)
            nats -= sum(float(shares[place, ids[start + place]]) for place in range(len(rows)))
        chars = len(self.tokens.decode(ids[1:]))
        return nats / math.log(2) / chars if chars else math.nan


class CharLm(CausalLm):
    """A model over characters that sees a window of fixed length, zeros before the text: ``input_ids`` [b, window]."""

    kind = "char_lm"

    def __init__(self, spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(spec, assets)
        self.window = bounded(spec["window"], 1, 4_096)

    def ids(self, item: Item) -> list[int]:
        """An item's characters."""
        return self.tokens.encode(text_of(item))

    def prompt(self, rows: Sequence[Sequence[int]]) -> Feeds:
        """Feeds that predict what follows each row of characters."""
        ids = torch.zeros((len(rows), self.window), dtype=torch.int64)
        for place, row in enumerate(rows):
            seen = list(row[-self.window :])
            if seen:
                ids[place, -len(seen) :] = torch.tensor(seen, dtype=torch.int64)
        return {"input_ids": ids}

    def bits_per_char(self, runner: Runner, text: str) -> float:
        """How many bits the model needs per character, from the second on (nan for one character)."""
        ids, nats = self.ids(text), 0.0
        for start in range(1, len(ids), ROWS):
            rows = [
                ids[max(0, stop - self.window) : stop] for stop in range(start, min(start + ROWS, len(ids)))
            ]
            shares = torch.log_softmax(output(runner(self.prompt(rows)), "logits"), -1)
            nats -= sum(float(shares[place, ids[start + place]]) for place in range(len(rows)))
        return nats / math.log(2) / (len(ids) - 1) if len(ids) > 1 else math.nan


def _choose(logits: Tensor, options: Mapping[str, Any], generator: torch.Generator) -> int:
    heat, keep = float(options.get("temperature", 0.0)), int(options.get("top_k", 0))
    if heat <= 0:
        return int(logits.argmax())
    scores = logits / heat
    if 0 < keep < scores.numel():
        least = scores.topk(keep).values[-1]
        scores = scores.masked_fill(scores < least, -math.inf)
    return int(torch.multinomial(torch.softmax(scores.double(), -1), 1, generator=generator))
