"""Adapters of models that read a line of text in an image, and notes in music."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import resample_poly
from torch import Tensor

from spore_borg.learn.adapters.base import (
    FEATURES_MAX,
    Adapter,
    Feeds,
    Outputs,
    bounded,
    fold,
    output,
    tensor_of,
)
from spore_borg.learn.errors import LearnError
from spore_borg.learn.items import Item

SAMPLE_RATE_HZ = 16_000
SAMPLES_MAX = 120 * SAMPLE_RATE_HZ
WIDTH_MAX = 2_400  # columns of pixels in one line
STRETCHES = 16
NAMES = ("A", "A#", "B", "C", "C#", "D", "D#", "E", "F", "F#", "G", "G#")


def stretches(rows: Tensor, count: int) -> Tensor:
    """Rows [f, d] averaged over ``count`` stretches: [1, count * d]."""
    return F.adaptive_avg_pool1d(rows.t().unsqueeze(0), count).flatten(1)


class _Single(Adapter):
    """One item at a time: items have different lengths."""

    def feeds(self, items: Sequence[Item]) -> Iterator[tuple[range, Feeds]]:
        """One item per batch."""
        for place, item in enumerate(items):
            yield range(place, place + 1), self.batch([item])


class TextReader(_Single):
    """A line of text as [1, 3, height, width] between -1 and 1; probabilities [1, steps, 1 + characters] come out.

    The first class means that nothing ends here (connectionist temporal classification, Graves et al. 2006).
    """

    kind = "text-reader"

    def __init__(self, spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(spec)
        self.height, self.width = bounded(spec["size"][0], 1, 512), bounded(spec["size"][1], 1, WIDTH_MAX)
        self.characters = assets["characters.txt"].decode().split("\n")
        self._plain = [
            1 + place for place, one in enumerate(self.characters) if len(one) == 1 and " " < one <= "~"
        ]

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The feeds of one image, scaled to the model's height, with grey columns behind a short line."""
        value = tensor_of(items[0], "an image")
        if value.dim() not in (2, 3) or value.numel() == 0:
            raise LearnError(f"An image is [h, w] or [h, w, 3] of uint8, not {list(value.shape)}.")
        grey = value.float() if value.dim() == 2 else value.float().mean(2)
        wide = min(WIDTH_MAX, max(1, math.ceil(self.height * grey.shape[1] / grey.shape[0])))
        scaled = F.interpolate(grey[None, None], (self.height, wide), mode="bilinear", antialias=True)
        line = (scaled / 255.0 - 0.5) / 0.5
        line = F.pad(line, (0, max(0, self.width - wide)))
        return {str(self.spec["input"]): line.expand(-1, 3, -1, -1).contiguous()}

    def _rows(self, outputs: Outputs) -> Tensor:
        rows = output(outputs, str(self.spec["output"]))
        return rows.reshape(-1, rows.shape[-1])

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """The probability of nothing and, folded, of all characters over 16 stretches: [1, 16 * 256]."""
        rows = self._rows(outputs)
        return stretches(torch.cat([rows[:, :1], fold(rows[:, 1:], 255)], 1), STRETCHES)

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Of each ASCII character the highest and the mean probability, of all others the highest, folded."""
        rows = self._rows(outputs)
        plain = rows[:, [place for place in self._plain if place < rows.shape[1]]]
        parts = [plain.amax(0), plain.mean(0)]
        parts.append(fold(rows.amax(0, keepdim=True), FEATURES_MAX - 2 * plain.shape[1])[0])
        return torch.cat(parts).unsqueeze(0)

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"text", "probability", "frames": [{step, label, probability}]}``: each character where it is read."""
        best = self._rows(outputs).max(1)
        frames, before = list[dict[str, Any]](), 0
        for step, (place, share) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
            if place not in (0, before) and place <= len(self.characters):
                frames.append({"step": step, "label": self.characters[place - 1], "probability": share})
            before = place
        sure = sum(frame["probability"] for frame in frames) / len(frames) if frames else 0.0
        return [{"text": "".join(frame["label"] for frame in frames), "probability": sure, "frames": frames}]


class Notes(_Single):
    """Sound in overlapping windows [w, window, 1] at the model's own rate; probabilities of 88 keys come out."""

    kind = "notes"

    def __init__(self, spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(spec)
        self.rate, self.window = bounded(spec["rate_hz"], 8_000, 48_000), bounded(spec["window"], 2, 1 << 20)
        self.overlap = bounded(spec["overlap"], 1, self.window - 1)
        self.names = {key: str(spec["outputs"][key]) for key in ("contour", "note", "onset")}

    def batch(self, items: Sequence[Item]) -> Feeds:
        """The windows of one item; half an overlap of silence stands in front of it."""
        wave = tensor_of(items[0], "sound").flatten()
        if wave.numel() > SAMPLES_MAX:
            raise LearnError(
                f"Sound of {wave.numel() // SAMPLE_RATE_HZ} s is too long; at most 120 s are taken at once."
            )
        common = math.gcd(self.rate, SAMPLE_RATE_HZ)
        samples = wave.double().numpy() / 32768.0
        if samples.size:
            samples = resample_poly(samples, self.rate // common, SAMPLE_RATE_HZ // common)
        sound = F.pad(torch.from_numpy(np.ascontiguousarray(samples)).float(), (self.overlap // 2, 0))
        hop = self.window - self.overlap
        count = max(1, math.ceil((sound.numel() - self.overlap // 2) / hop))
        needed = (count - 1) * hop + self.window
        sound = F.pad(sound, (0, max(0, needed - sound.numel())))[:needed]
        return {str(self.spec["input"]): sound.unfold(0, self.window, hop).unsqueeze(2).contiguous()}

    def _rows(self, outputs: Outputs, name: str) -> Tensor:
        """[frames, keys] without what windows share."""
        rows = output(outputs, self.names[name])
        cut = round(rows.shape[1] * self.overlap / self.window / 2)
        return rows[:, cut : rows.shape[1] - cut].flatten(0, 1)

    def vectors(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """The probabilities of keys and of the finer contour over four stretches."""
        return stretches(torch.cat([self._rows(outputs, "note"), self._rows(outputs, "contour")], 1), 4)

    def features(self, outputs: Outputs, feeds: Feeds) -> Tensor:
        """Of each key the mean and the highest probability and its beginning's; the mean contour, folded."""
        note, onset = self._rows(outputs, "note"), self._rows(outputs, "onset")
        parts = [note.mean(0), note.amax(0), onset.amax(0)]
        rest = FEATURES_MAX - sum(part.numel() for part in parts)
        parts.append(fold(self._rows(outputs, "contour").mean(0, keepdim=True), rest)[0])
        return torch.cat(parts).unsqueeze(0)

    def answer(self, outputs: Outputs, feeds: Feeds, **options: Any) -> list[dict[str, Any]]:
        """``{"notes": [{"start_s", "end_s", "label", "probability"}]}``: stretches above ``threshold``, by time."""
        rows, least = self._rows(outputs, "note"), float(options.get("threshold", 0.5))
        step = (
            (self.window - self.overlap)
            / self.rate
            / max(1, rows.shape[0] // len(next(iter(feeds.values()))))
        )
        found: list[dict[str, Any]] = []
        for key in range(rows.shape[1]):
            edges = F.pad((rows[:, key] >= least).int(), (1, 1)).diff()
            starts, stops = (edges.eq(sign).nonzero().flatten().tolist() for sign in (1, -1))
            for start, stop in zip(starts, stops, strict=True):
                label = f"{NAMES[key % 12]}{(key + 9) // 12}"
                share = float(rows[start:stop, key].mean())
                found.append(
                    {"start_s": start * step, "end_s": stop * step, "label": label, "probability": share}
                )
        return [{"notes": sorted(found, key=lambda note: (note["start_s"], note["label"]))}]
