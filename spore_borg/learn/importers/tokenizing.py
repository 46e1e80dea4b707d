"""Which tokenizer a text model has: settings for the adapter, and the files that it needs."""

from __future__ import annotations

import json
from typing import Any

from spore_borg.learn.errors import SourceError
from spore_borg.learn.importers.bundle import Bundle

SPECIAL = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


def tokenizer_of(bundle: Bundle, config: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The tokenizer beside a configuration file.

    Returns:
        ``{"kind": …, …}`` for ``adapters.tokens``, and assets by name.
    Raises:
        SourceError: there is none of a supported kind.
    """
    found = bundle.beside(config, "tokenizer.json")
    special = _special(bundle, config)
    if found is not None:
        return {"kind": "tokenizers", **special}, {"tokenizer.json": bundle.read(found)}
    vocab = bundle.beside(config, "vocab.txt")
    if vocab is not None:
        raw = bundle.read(vocab)
        lines = raw.decode("utf-8", "replace").splitlines()
        pieces = any(line.startswith("##") for line in lines)
        if not pieces and {"c", "C", "(", ")", "=", "[MASK]"} <= set(lines):
            return {"kind": "smiles", **special}, {"vocab.txt": raw}
        settings = bundle.config(bundle.beside(config, "tokenizer_config.json"))
        lower = bool(settings.get("do_lower_case", True))
        return {"kind": "wordpiece", "lower": lower, **special}, {"vocab.txt": raw}
    words, merges = bundle.beside(config, "vocab.json"), bundle.beside(config, "merges.txt")
    if words is not None and merges is not None:
        assets = {"vocab.json": bundle.read(words), "merges.txt": bundle.read(merges)}
        return {"kind": "byte-bpe", **special}, assets
    raise SourceError(
        f"Beside {config} there is no tokenizer: tokenizer.json, vocab.txt, or vocab.json with merges.txt is needed."
    )


def _special(bundle: Bundle, config: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = bundle.config(bundle.beside(config, file))
        for key in SPECIAL:
            value = settings.get(f"{key}_token")
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                found.setdefault(key, value)
    return found


def is_tokenizer(raw: bytes) -> bool:
    """Whether a JSON text is a file of the ``tokenizers`` library, whatever its name."""
    try:
        value = json.loads(raw)
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get("model"), dict) and "vocab" in value["model"]
