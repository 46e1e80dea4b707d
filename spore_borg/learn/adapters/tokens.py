"""Tokenizers: text to numbers and back, from the files that come with models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from spore_borg.learn.errors import LearnError

TEXT_CHARS_MAX = 1 << 20
# One token of a reaction SMILES, as published with rxnmapper and the Molecular Transformer (Schwaller et al. 2019).
SMILES = re.compile(
    r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])"
)
_BRACKETS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ANGLES = {
    "pad": "<pad>",
    "unk": "<unk>",
    "cls": "<s>",
    "sep": "</s>",
    "mask": "<mask>",
    "eos": "<|endoftext|>",
}


class Tokenizer(Protocol):
    """What adapters ask of a tokenizer; a special token that it lacks is None."""

    pad: int | None
    mask: int | None
    eos: int | None
    size: int

    def encode(self, text: str) -> list[int]:
        """Numbers, with the special tokens that the model expects around a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        ...

    def token(self, place: int) -> str:
        """One token as it stands in the vocabulary."""
        ...

    def special(self, place: int) -> bool:
        """Whether a token stands for no text."""
        ...


def tokenizer(spec: Mapping[str, Any], assets: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer that settings and files describe.

    Raises:
        LearnError: a file is missing or damaged, or the kind is unknown.
    """
    kind = spec.get("kind")
    if kind == "smiles":
        return SmilesTokenizer(_lines(assets, "vocab.txt"))
    if kind == "chars":
        return CharTokenizer(_json(assets, "vocab.json"))
    if kind not in ("tokenizers", "wordpiece", "byte-bpe"):
        raise LearnError(f"The tokenizer kind {str(kind)[:40]!r} is not supported.")
    try:
        if kind == "tokenizers":
            library = tokenizers.Tokenizer.from_str(_asset(assets, "tokenizer.json").decode())
        elif kind == "wordpiece":
            library = _wordpiece(_lines(assets, "vocab.txt"), bool(spec.get("lower", True)))
        else:
            library = _byte_bpe(assets, spec)
    except LearnError:
        raise
    except Exception as error:  # the library raises Exception itself for every damaged file
        raise LearnError(f"The tokenizer cannot be read: {str(error)[:200]}") from error
    return LibraryTokenizer(library, spec)


def _asset(assets: Mapping[str, bytes], name: str) -> bytes:
    if name not in assets:
        raise LearnError(f"The model lacks its file {name}, without which it takes no text.")
    return assets[name]


def _lines(assets: Mapping[str, bytes], name: str) -> list[str]:
    return _asset(assets, name).decode("utf-8", "replace").removesuffix("\n").split("\n")


def _json(assets: Mapping[str, bytes], name: str) -> dict[str, int]:
    try:
        value = json.loads(_asset(assets, name))
    except ValueError as error:
        raise LearnError(f"{name} is no JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict) or not all(
        type(item) is int and 0 <= item < 1 << 24 for item in value.values()
    ):
        raise LearnError(f"{name} is no vocabulary: a map from tokens to whole numbers is needed.")
    return value


def _wordpiece(lines: list[str], lower: bool) -> tokenizers.Tokenizer:
    vocab = {line.rstrip("\r"): place for place, line in enumerate(lines)}
    library = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106 - no password
    library.normalizer = normalizers.BertNormalizer(lowercase=lower)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.add_special_tokens([token for token in _BRACKETS.values() if token in vocab])
    if "[CLS]" in vocab and "[SEP]" in vocab:
        around = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
        library.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return library


def _byte_bpe(assets: Mapping[str, bytes], spec: Mapping[str, Any]) -> tokenizers.Tokenizer:
    vocab = _json(assets, "vocab.json")
    pairs = []
    for line in _lines(assets, "merges.txt"):
        parts = line.split(" ")
        if len(parts) == 2 and not line.startswith("#version"):
            pairs.append((parts[0], parts[1]))
    library = tokenizers.Tokenizer(models.BPE(vocab, pairs))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([token for token in _ANGLES.values() if token in vocab])
    first, last = spec.get("cls"), spec.get("sep")
    if first in vocab and last in vocab:
        around = [(str(first), vocab[str(first)]), (str(last), vocab[str(last)])]
        library.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", special_tokens=around
        )
    return library


class LibraryTokenizer:
    """A tokenizer of the ``tokenizers`` library, without its own padding and cutting."""

    def __init__(self, library: tokenizers.Tokenizer, spec: Mapping[str, Any]) -> None:
        library.no_padding()
        library.no_truncation()
        self._library = library
        self._bare = bool(spec.get("bare", False))
        self.size = library.get_vocab_size()
        named = {key: spec.get(key) for key in ("pad", "mask", "eos")}
        self.pad, self.mask, self.eos = (self._find(key, named[key]) for key in ("pad", "mask", "eos"))
        added = library.get_added_tokens_decoder()
        self._special = {place for place, token in added.items() if token.special}

    def _find(self, key: str, named: object) -> int | None:
        for token in (named, _BRACKETS.get(key), _ANGLES.get(key)):
            place = self._library.token_to_id(token) if isinstance(token, str) else None
            if place is not None:
                return int(place)
        return None

    def encode(self, text: str) -> list[int]:
        """Numbers, with special tokens around them unless the model takes bare ones."""
        return list(self._library.encode(text[:TEXT_CHARS_MAX], add_special_tokens=not self._bare).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self._library.decode(list(ids), skip_special_tokens=True))

    def token(self, place: int) -> str:
        """One token as it stands in the vocabulary."""
        return self._library.id_to_token(place) or ""

    def special(self, place: int) -> bool:
        """Whether a token stands for no text."""
        return place in self._special or self.token(place).startswith("[unused")


class _Table:
    """What tokenizers with a plain table share."""

    def __init__(self, places: Mapping[str, int]) -> None:
        self._places = dict(places)
        self._tokens = {place: token for token, place in self._places.items()}
        self.size = max(self._tokens, default=0) + 1

    def token(self, place: int) -> str:
        """One token as it stands in the vocabulary."""
        return self._tokens.get(place, "")


class SmilesTokenizer(_Table):
    """Tokens of chemistry: atoms, bonds, rings; what fits no token is left out, as rxnmapper does."""

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__({line: place for place, line in enumerate(lines) if line})
        self._unknown = self._places.get("[UNK]", 0)
        self.pad, self.mask = self._places.get("[PAD]"), self._places.get("[MASK]")
        self.eos = self._places.get("[SEP]")
        self._first = [self._places[token] for token in ("[CLS]",) if token in self._places]
        self._last = [self._places[token] for token in ("[SEP]",) if token in self._places]
        self._names = {*_BRACKETS.values()}

    def encode(self, text: str) -> list[int]:
        """Numbers between [CLS] and [SEP]."""
        found = [self._places.get(token, self._unknown) for token in SMILES.findall(text[:TEXT_CHARS_MAX])]
        return [*self._first, *found, *self._last]

    def decode(self, ids: Sequence[int]) -> str:
        """The SMILES of tokens."""
        return "".join(self.token(place) for place in ids if not self.special(place))

    def special(self, place: int) -> bool:
        """Whether a token stands for no text."""
        token = self.token(place)
        return not token or token in self._names or token.startswith("[unused")


class CharTokenizer(_Table):
    """One number per character; an unknown one is 0, which is also what stands before a text."""

    def __init__(self, places: Mapping[str, int]) -> None:
        super().__init__(places)
        self.pad: int | None = 0
        self.mask: int | None = None
        self.eos = next((place for token, place in places.items() if token in ("<s>", "</s>", "<eos>")), None)

    def encode(self, text: str) -> list[int]:
        """Numbers of the characters."""
        return [self._places.get(char, 0) for char in text[:TEXT_CHARS_MAX]]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of characters."""
        return "".join(self.token(place) for place in ids if not self.special(place))

    def special(self, place: int) -> bool:
        """Whether a token stands for no text."""
        return len(self.token(place)) != 1
