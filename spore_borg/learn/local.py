"""A directory of shards, for Python programs: ``spore_borg.load(DIR).embed([...])``. Needs no node and no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spore_borg.learn.answers import CLASSIFIES, COMPLETES, EMBEDS, Bank, Voice
from spore_borg.learn.errors import LearnError, ShardError
from spore_borg.learn.shard import open_shard

LIST_BYTES_MAX = 4 << 20
Item = str | PathLike[str]


@dataclass(frozen=True, slots=True)
class Member:
    """One model of the directory."""

    name: str
    head: str
    modality: str
    voice: Voice


class State:
    """Absorbed models that answer.

    Args:
        directory: what ``borg state --fetch`` wrote, or any directory of shards; those weigh the same.
        device: ``auto`` (a card for models that are worth it), ``cpu``, ``cuda`` or ``mps``.
    Raises:
        LearnError: there is no shard in it; when it is asked: the device is not there.
    """

    def __init__(self, directory: str | PathLike[str], device: str = "auto") -> None:
        self.directory = Path(directory)
        self._bank = Bank(device)
        listed = self.directory / "state.json"
        self.members: list[Member] = _listed(listed) if listed.is_file() else _found(self.directory)
        if not self.members:
            raise LearnError(f"{self.directory} holds no shard. `borg state --fetch DIR` writes some.")

    def embed(
        self, items: Sequence[Item], *, model: str | None = None, modality: str = "text"
    ) -> NDArray[np.float32]:
        """Vectors: float32[n, d], each of length one; several embedders stand side by side.

        Args:
            items: texts; for other modalities paths of files.
            model: the name of the one to ask. Raises LearnError if none fits.
        """
        voices = self._voices(("embedder",), modality, model) or self._voices(EMBEDS, modality, model)
        answers = self._bank.answer("embed", voices, [_item(item, modality) for item in items], {})
        return np.asarray([said["embedding"] for said in answers], np.float32)

    def classify(
        self, items: Sequence[Item], *, model: str | None = None, modality: str = "bytes", top: int = 5
    ) -> list[dict[str, Any]]:
        """For each item ``labels`` (label, probability) and ``models``, each with its own opinion."""
        voices = self._voices(CLASSIFIES, modality, model)
        return self._bank.answer("classify", voices, [_item(item, modality) for item in items], {"top": top})

    def complete(
        self, prompt: str, *, model: str | None = None, modality: str = "text", **options: Any
    ) -> dict[str, Any]:
        """``text`` and ``models``; options are ``max_tokens temperature seed top``."""
        heads = ("masked_lm",) if "[MASK]" in prompt else ("causal_lm",)
        voices = self._voices(heads, modality, model) or self._voices(COMPLETES, modality, model)
        return self._bank.answer("complete", voices, [{"text": prompt}], options)[0]

    def _voices(self, heads: Sequence[str], modality: str, model: str | None) -> list[Voice]:
        fit = [m for m in self.members if m.head in heads and m.modality == modality]
        return [member.voice for member in fit if model in (None, member.name, member.voice.cid)]


def _item(item: Item, modality: str) -> dict[str, str]:
    return {"text": str(item)} if modality in ("text", "smiles") else {"path": str(Path(item).absolute())}


def _listed(path: Path) -> list[Member]:
    try:
        if path.stat().st_size > LIST_BYTES_MAX:
            raise ShardError(
                f"{path.name} has more than {LIST_BYTES_MAX >> 20} MiB; that is no list of models."
            )
        models = json.loads(path.read_text(encoding="utf-8"))["models"]
        return [_member(entry, path.parent) for entry in models]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ShardError(f"{path} is damaged ({error}). Write it again with `borg state --fetch`.") from error


def _member(entry: Mapping[str, Any], directory: Path) -> Member:
    file = directory / Path(str(entry["file"])).name  # a name only: a list from elsewhere must not reach out
    voice = Voice(str(entry["cid"]), file, float(max(1, int(entry["weight"]))))
    return Member(str(entry["name"]), str(entry["head"]), str(entry["modality"]), voice)


def _found(directory: Path) -> list[Member]:
    found = []
    for path in sorted(directory.rglob("*.safetensors")) if directory.is_dir() else ():
        info = open_shard(path).info
        found.append(Member(info.name, info.head, info.modality, Voice(path.stem, path, 1.0)))
    return found
