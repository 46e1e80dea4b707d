"""``/state`` and ``/state/{digest}``: the absorbed models that the mesh answers with, and those that did not join."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from explorer import show
from explorer.db import Db
from explorer.pages.common import before_of, filled, frame, loads_list
from explorer.values import Page, Who
from spore_borg.errors import NotFound

MEMBERS_MAX = 320  # 64 of each of five modalities
APART_ROWS = 25
PPM = 1_000_000
CONFIRMED, SOLO = 1, 2  # the column ``member``


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What one probe says of a model: pairs compared, the sum of before − after (nano, positive is better)."""

    probe: str
    pairs: int
    gain: int
    word: str  # better, worse, even or unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One absorbed model. ``infidelity``: mean nano-(1 − cosine) between the source's answers and the shard's."""

    seq: int
    cid: str
    kind: str  # absorption, refinement or merge
    name: str
    head: str
    modality: str
    origin: str
    licence: str
    rule: str
    steps: int
    layers: int
    params_count: int
    sparsity_ppm: int
    infidelity: int
    author: Who
    epoch: int
    verdict: str
    stage: str
    settled: bool
    member: int  # 1: by others' evidence, 2: only its author's word, 0: not in the state
    standing: str
    gains: tuple[Gain, ...]
    share_ppm: int | None  # of the modality's verified gain; None: not a member, or nothing gained


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePage(Page):
    """Members by modality, then what is apart, newest first; ``before`` is the key of its next page."""

    name: ClassVar[str] = "state"
    digest: str  # of the set of members; empty without any
    settled_digest: bool  # false: members rest on one node's word
    members: tuple[Shard, ...]
    apart: tuple[Shard, ...]
    before: int | None
    first: bool


def gains(text: str) -> tuple[Gain, ...]:
    """The probes of a row, as the views wrote them; entries of another form are left out."""
    out = []
    for item in loads_list(text):
        if isinstance(item, dict):
            pairs, gain = item.get("pairs"), item.get("gain")
            if isinstance(pairs, int) and isinstance(gain, int):
                word = str(item.get("word", ""))
                out.append(Gain(probe=str(item.get("probe", "")), pairs=pairs, gain=gain, word=word))
    return tuple(out)


def contribution(found: tuple[Gain, ...]) -> int:
    """What a model gained, nano per pair, over the probes that say that it made the state better."""
    return sum(max(0, g.gain) // max(1, g.pairs) for g in found if g.word == "better")


def shard(row: sqlite3.Row, total: int = 0) -> Shard:
    """One row of the table ``shard``; ``total``: what the members of its modality gained together."""
    said = gains(row["gains"])
    share = contribution(said) * PPM // total if total and row["member"] else None
    return filled(Shard, row, infidelity=row["metric"], gains=said, share_ppm=share)


def state(db: Db, digest: str | None = None, *, before: str | None = None) -> StatePage:
    """Build the page of the state.

    Args:
        digest: of the set of members that is meant; None means the present one. before: key of a page of those apart.
    Raises:
        NotFound: the state has another digest now. UsageError: a key that no page gives.
    """
    meta = {row["key"]: row["value"] for row in db.all("meta")}
    said = meta.get("state_digest", "")
    present = said if show.is_digest(said) else ""
    if digest is not None and digest != present:
        now = f"The state here has the digest {present}" if present else "The state here is empty"
        raise NotFound(what="state", name=show.plain(digest, 80), hint=f"{now}; earlier ones are not kept.")
    rows = [*db.all("shard_members", member=CONFIRMED, limit=MEMBERS_MAX)]
    if not rows:
        rows = db.all("shard_members", member=SOLO, limit=MEMBERS_MAX)
    totals: Counter[str] = Counter()
    for row in rows:
        totals[row["modality"]] += contribution(gains(row["gains"]))
    seqs = db.all("shards_apart", before=before_of(before), limit=APART_ROWS + 1)
    apart = seqs[:APART_ROWS]
    return StatePage(
        frame=frame(db),
        digest=present,
        settled_digest=bool(rows) and rows[0]["member"] == CONFIRMED,
        members=tuple(shard(row, totals[row["modality"]]) for row in rows),
        apart=tuple(shard(row) for row in apart),
        before=apart[-1]["seq"] if len(seqs) > APART_ROWS else None,
        first=not before,
    )


def piece(db: Db, key: str | None, limit: int) -> tuple[tuple[Shard, ...], str | None]:
    """Some absorbed models of any standing, newest first, and the key of those after them."""
    rows = db.all("shards", before=before_of(key), limit=limit)
    return tuple(shard(row) for row in rows), str(rows[-1]["seq"]) if len(rows) == limit else None
