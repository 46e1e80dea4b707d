"""A tiny model for the demo: the embeddings of a few hundred words, written without torch and without a download.

What it says is worth nothing; it is there to be converted, claimed and checked like any other.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WORDS, WIDTH = 600, 48


def write(folder: Path, seed: int) -> Path:
    """Write the model's files into a new directory; another seed is another model."""
    folder.mkdir(parents=True)
    table = np.random.default_rng(seed).standard_normal((WORDS, WIDTH)).astype(np.float32)
    save_file({"embeddings": table}, folder / "model.safetensors")
    letters = [chr(code) for code in range(32, 127)]
    pairs = [a + b for a in "etaoinshrdlu" for b in "etaoinshrdlucmfwypvbg"]
    known = ["[UNK]", *letters, *pairs]
    vocabulary = {word: number for number, word in enumerate(known[:WORDS])}
    merges = [[pair[0], pair[1]] for pair in pairs if pair in vocabulary]
    tokenizer: dict[str, object] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder
