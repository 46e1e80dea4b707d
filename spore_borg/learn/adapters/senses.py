"""Adapters of models that take images, sound or bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spore_borg.learn.adapters.base import (
    FEATURES_MAX,
    Adapter,
    Feeds,
    Outputs,
    bounded,
    centred,
    class_logits,
    fold,
    log_probabilities,
    output,
    tensor_of,
    top_classes,
)  # fmt: skip
from spore_borg.learn.errors import LearnError
from spore_borg.learn.items import Item

SAMPLE_RATE_HZ = 16_000
SAMPLES_MAX = 600 * SAMPLE_RATE_HZ
SIDE_MAX = 2_048  # pixels; this and the next two bound what settings may ask for
FRAME_MAX = 1 << 16  # samples
NUMBERS_MAX = 1 << 22  # of one raw item
BINS = 16  # stretches of time into which what is compared is averaged
ROWS_MAX = 4_000  # frames in one answer
SILENT = 0.5  # below this share a pitch is called unvoiced


class ImageClassifier(Adapter):
    """Feeds grey or three-channel images [b, c, h, w], scaled to 0 … 1 and normalised."""

    kind = "image-classifier"

    def __init__(self, spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(spec)
        self.side = (bounded(spec["side"][0], 1, SIDE_MAX), bounded(spec["side"][1], 1, SIDE_MAX))
        self.channels = bounded(spec["channels"], 1, 4)
        self._mean = torch.tensor([float(one) for one in spec["mean"]]).reshape(-1, 1, 1)
        self._deviation = torch.tensor([float(one) for one in spec["deviation"]]).reshape(-1, 1, 1)

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The feeds of one batch."""
        return {str(self.spec.get("input", "image")): torch.stack([self._image(item) for item in items])}

    def _image(self, item: Item) -> Tensor:
        value = tensor_of(item, "an image")
        if value.dim() not in (2, 3) or value.numel() == 0:
            raise LearnError(f"An image is [h, w] or [h, w, 3] of uint8, not {list(value.shape)}.")
        grey = value.float() if value.dim() == 2 else value.float().mean(2)
        if self.side == (28, 28) and self.channels == 1 and _border(grey) > 128:
            # Digits are fed white on black; ink on paper is turned.
            grey = 255.0 - grey
            value = value if value.dim() == 2 else 255 - value
        if self.channels == 1 or value.dim() == 2:
            planes = grey.expand(self.channels, -1, -1)
        else:
            planes = value.float().permute(2, 0, 1)[: self.channels]
        if tuple(planes.shape[1:]) != self.side:
            planes = F.interpolate(planes.unsqueeze(0), self.side, mode="bilinear", antialias=True)[0]
        scaled = planes if self.spec.get("bytes_scale") else planes / 255.0
        scaled = scaled.flip(0) if self.spec.get("reversed") else scaled
        ready = (scaled - self._mean) / self._deviation
        return ready.permute(1, 2, 0) if self.spec.get("channels_last") else ready

    def _logits(self, outputs: Outputs) -> Tensor:
        values = output(outputs, str(self.spec.get("output", "logits"))).flatten(1)
        return class_logits(values, self.spec.get("form")) if self.head == "classifier" else values

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Logits less their mean; what a model of unknown kind puts out, as it is."""
        logits = self._logits(outputs)
        return centred(logits) if self.head == "classifier" else logits

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Log-probabilities, or the output of a model of unknown kind; no hidden layer.

        Hidden units of an untrained network are random features: as such they help any readout, and say nothing.
        """
        logits = self._logits(outputs)
        return fold(torch.log_softmax(logits, -1) if self.head == "classifier" else logits, FEATURES_MAX)

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"classes": [{"label", "probability"}, …]}``, or ``{"output": […]}`` of a model of unknown kind."""
        logits = self._logits(outputs)
        if self.head != "classifier":
            return [{"output": row} for row in logits.tolist()]
        labels, top = self.spec.get("labels", []), int(options.get("top", 5))
        return [{"classes": row} for row in top_classes(logits, "logits", labels, top)]


def _border(grey: Tensor) -> float:
    """The mean of the outermost twentieth on each side, 0 … 255."""
    high, wide = max(1, grey.shape[0] // 20), max(1, grey.shape[1] // 20)
    edges = (grey[:high], grey[-high:], grey[:, :wide], grey[:, -wide:])
    return float(torch.cat([edge.flatten() for edge in edges]).mean())


class _Framed(Adapter):
    """Feeds ``frames`` [f, samples] of one item at a time: a stateful model sees them in order."""

    def __init__(self, spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(spec)
        self.frame, self.hop = bounded(spec["frame"], 1, FRAME_MAX), bounded(spec["hop"], 64, FRAME_MAX)
        self.before, self.bins = bounded(spec["before"], 0, FRAME_MAX), bounded(spec.get("bins", 1), 1, 4_096)

    def feeds(self, items: Sequence[Item]) -> Iterator[tuple[range, Feeds]]:
        """One item per batch."""
        for place, item in enumerate(items):
            yield range(place, place + 1), self.batch([item])

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The frames of one item; ``before`` samples of silence stand in front of it."""
        wave = tensor_of(items[0], "sound").flatten()
        if wave.numel() > SAMPLES_MAX:
            raise LearnError(
                f"Sound of {wave.numel() // SAMPLE_RATE_HZ} s is too long; at most 600 s are taken at once."
            )
        wave = wave.float() / 32768.0
        count = max(1, -(-wave.numel() // self.hop))
        needed = (count - 1) * self.hop + self.frame
        wave = F.pad(wave, (self.before, 0))
        wave = F.pad(wave, (0, max(0, needed - wave.numel())))[:needed]
        frames = wave.unfold(0, self.frame, self.hop)
        if self.spec.get("scale") == "standard":
            frames = frames - frames.mean(1, keepdim=True)
            frames = frames / frames.std(1, keepdim=True).clamp_min(1e-10)
        return {str(self.spec.get("input", "frames")): frames.contiguous()}

    def _rows(self, outputs: Outputs) -> Tensor:
        return output(outputs, str(self.spec.get("output", "probability"))).reshape(-1, self.bins)

    def _pooled(self, rows: Tensor, bins: int) -> Tensor:
        """Rows [f, d] averaged over ``bins`` stretches of time: [1, bins * d]."""
        return F.adaptive_avg_pool1d(rows.t().unsqueeze(0), bins).flatten(1)


class AudioTagger(_Framed):
    """One probability per frame: voice activity."""

    kind = "audio-tagger"

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """The probability and its complement over 16 stretches of time: [1, 32]."""
        rows = self._rows(outputs)
        return self._pooled(torch.cat([rows, 1.0 - rows], 1), BINS)

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Mean, extremes and spread of the probability, its course, and mean and maximum of the hidden state."""
        rows, parts = self._rows(outputs), list[Tensor]()
        spread = rows.std(0, correction=0) if rows.shape[0] > 1 else torch.zeros(rows.shape[1])
        parts += [rows.mean(0), rows.amax(0), rows.amin(0), spread, self._pooled(rows, BINS)[0]]
        if self.spec.get("hidden"):
            hidden = output(outputs, str(self.spec["hidden"])).reshape(rows.shape[0], -1)
            parts += [hidden.mean(0), hidden.amax(0)]
        return fold(torch.cat(parts).unsqueeze(0), FEATURES_MAX)

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"share", "segments": [{start_s, end_s, label}], "frames": [{time_s, label, probability}]}``."""
        label = str((self.spec.get("labels") or ["active"])[0])
        least, step = float(options.get("threshold", 0.5)), self.hop / SAMPLE_RATE_HZ
        shares = self._rows(outputs)[:, 0].tolist()
        active = [share >= least for share in shares]
        segments, start = list[dict[str, Any]](), None
        for place, on in enumerate([*active, False]):
            if on and start is None:
                start = place
            elif not on and start is not None:
                segments.append({"start_s": start * step, "end_s": place * step, "label": label})
                start = None
        frames = [
            {"time_s": place * step, "label": label if on else "none", "probability": share}
            for place, (share, on) in enumerate(zip(shares, active, strict=True))
        ]
        return [{"share": sum(active) / len(active), "segments": segments, "frames": frames[:ROWS_MAX]}]


class Pitch(_Framed):
    """The pitch of each frame as probabilities of bins of 20 cents."""

    kind = "pitch"

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """The probabilities of the bins over four stretches of time: [1, 4 * bins]."""
        return self._pooled(self._rows(outputs), 4)

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """The probabilities of the bins, averaged over time."""
        return fold(self._rows(outputs).mean(0, keepdim=True), FEATURES_MAX)

    def hertz(self, rows: Tensor) -> Tensor:
        """The pitch of each row of probabilities [f, bins], Hz: the mean of the bins around the likeliest, weighted."""
        first, step = self.spec["cents"]
        bins = torch.arange(rows.shape[1])
        near = (bins - rows.argmax(1, keepdim=True)).abs() <= 4
        weight = torch.where(near, rows, 0.0)
        cents = (weight * (bins * step + first)).sum(1) / weight.sum(1).clamp_min(1e-12)
        return torch.as_tensor(10.0 * 2.0 ** (cents / 1200.0))

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"hz", "frames": [{"time_s", "label", "hz", "probability"}]}``; ``hz`` is the median of voiced frames."""
        rows = self._rows(outputs)
        hertz, sure = self.hertz(rows), rows.amax(1)
        voiced = sure >= float(options.get("threshold", SILENT))
        frames = [
            {
                "time_s": place * self.hop / SAMPLE_RATE_HZ, "label": "voiced" if on else "unvoiced", "hz": hz,
                "probability": share,
            }
            for place, (hz, share, on) in enumerate(zip(hertz.tolist(), sure.tolist(), voiced.tolist(), strict=True))
        ]  # fmt: skip
        middle = float(hertz[voiced].median()) if bool(voiced.any()) else None
        return [{"hz": middle, "frames": frames[:ROWS_MAX]}]


class FileType(Adapter):
    """The first and last bytes of a file: [b, beginning + end] of numbers 0 … 256, as Magika takes them."""

    kind = "file-type"

    def __init__(self, spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(spec)
        keys = ("beg_size", "end_size", "block_size", "padding_token")
        self.first, self.last, self.block, self.pad = (bounded(spec[key], 0, 1 << 16) for key in keys)
        if not self.first or not self.last or not self.block:
            raise ValueError("beginning, end and block have a size")

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The feeds of one batch."""
        kinds = {"float32": torch.float32, "int32": torch.int32}
        rows = torch.tensor([self._row(item) for item in items], dtype=torch.int64)
        return {str(self.spec["input"]): rows.to(kinds.get(str(self.spec.get("dtype")), torch.int64))}

    def _row(self, item: Item) -> list[int]:
        if not isinstance(item, bytes):
            raise LearnError(f"This model takes the bytes of a file, not {type(item).__name__}.")
        begin = list(item[: self.block].lstrip()[: self.first])
        tail = item[-self.block :].rstrip() if item else b""
        end = list(tail[-self.last :])
        return [*begin, *[self.pad] * (self.first - len(begin)), *[self.pad] * (self.last - len(end)), *end]

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Log-probabilities less their mean, [n, classes]."""
        return centred(self._shares(outputs))

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Log-probabilities."""
        return fold(self._shares(outputs), FEATURES_MAX)

    def _shares(self, outputs: Outputs) -> Tensor:
        form = "logits" if self.spec.get("form") == "logits" else "probabilities"
        return log_probabilities(output(outputs, str(self.spec["output"])), form)

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"classes": [{"label", "probability"}, …]}`` per file."""
        labels, top = self.spec.get("labels", []), int(options.get("top", 5))
        return [{"classes": row} for row in top_classes(self._shares(outputs), "logits", labels, top)]


class Raw(Adapter):
    """Numbers as they are, for a graph of which only the size of its input is known: bytes of float32, or bytes."""

    kind = "raw"

    def __init__(self, spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(spec)
        self.sizes = [bounded(side, 1, NUMBERS_MAX) for side in spec["sizes"]]
        if len(self.sizes) > 7 or math.prod(self.sizes) > NUMBERS_MAX:
            raise ValueError(f"an item of more than {NUMBERS_MAX} numbers")

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The feeds of one batch: [b, …]; fewer numbers are filled with zeros, more are cut."""
        return {str(self.spec["input"]): torch.stack([self._row(item) for item in items])}

    def _row(self, item: Item) -> Tensor:
        count = math.prod(self.sizes)
        if isinstance(item, Tensor):
            value = item.float().flatten()
        elif isinstance(item, bytes) and len(item) == 4 * count:
            value = torch.from_numpy(np.frombuffer(item, dtype="<f4").copy())
        else:
            raw = item.encode() if isinstance(item, str) else item
            if not isinstance(raw, bytes):
                raise LearnError(f"This model takes numbers or bytes, not {type(item).__name__}.")
            value = torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).astype(np.float32)) / 255.0
        return F.pad(value[:count], (0, max(0, count - value.numel()))).nan_to_num().reshape(self.sizes)

    def _flat(self, outputs: Outputs) -> Tensor:
        values = output(outputs, str(self.spec["output"])).flatten(1)
        return class_logits(values, self.spec.get("form")) if self.head == "classifier" else values

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """What the graph puts out, as it is; centred for a classifier."""
        return centred(self._flat(outputs)) if self.head == "classifier" else self._flat(outputs)

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """The same, at most 512 numbers."""
        return fold(self._flat(outputs), FEATURES_MAX)

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"classes": …}`` of a classifier, else ``{"output": […]}``."""
        if self.head != "classifier":
            return [{"output": row} for row in self._flat(outputs).tolist()]
        labels, top = self.spec.get("labels", []), int(options.get("top", 5))
        return [{"classes": row} for row in top_classes(self._flat(outputs), "logits", labels, top)]
