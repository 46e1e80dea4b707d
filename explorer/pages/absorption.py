"""The part of ``/record/{cid}`` that only an absorption or refinement has: sources, fidelity, the gate."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from explorer.db import Db
from explorer.pages.attested import Attested, Stand, attested, claim_stands, waiting_for
from explorer.pages.common import TaskBrief, filled, loads_list, task_briefs
from explorer.pages.state import CONFIRMED, SOLO, Shard, shard

ATTESTATIONS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of the model as it was, and its blob."""

    name: str
    blob: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Absorption:
    """What only an absorbed model has."""

    shard: Shard
    task: TaskBrief | None
    stands: tuple[Stand, ...]
    reason: str
    operator: str
    why: str
    outcome: str
    hardware_class: str
    fingerprint: str
    cpu_ms: int
    weights: str
    sources: tuple[Source, ...]
    base: str | None  # of a refinement
    refined: tuple[Shard, ...]  # refinements of it
    state: tuple[str, ...]  # members of its modality when it was measured
    attestations: tuple[Attested, ...]
    waiting_for: tuple[str, ...]


def _last_stand(row: sqlite3.Row) -> Stand:
    if row["member"] == CONFIRMED:
        return Stand(name="in the state", state="done", sentence=row["standing"])
    if row["member"] == SOLO:
        return Stand(name="in the state, unverified", state="done", sentence=row["standing"])
    waits = row["verdict"] == "unverified" and row["stage"] != "settled"
    return Stand(name="state", state="todo" if waits else "skipped", sentence=row["standing"])


def absorption(db: Db, cid: str, received_ms: int | None) -> Absorption | None:
    """The details of an absorption; None if the views have no row of it."""
    row = db.one("shard", cid=cid)
    if row is None:
        return None
    found = db.all("attestations_target", cid=cid, limit=ATTESTATIONS_MAX)
    evidence = tuple(attested(a, row["fingerprint"]) for a in found)
    queued = db.one("queue_claim", claim=cid)
    sources = [s for s in loads_list(row["sources"]) if isinstance(s, list) and len(s) == 2]
    return filled(
        Absorption,
        row,
        shard=shard(row),
        task=next((task for task in task_briefs(db) if task.cid == row["task"]), None),
        stands=(*claim_stands(row, evidence, received_ms), _last_stand(row)),
        sources=tuple(Source(name=str(name), blob=str(blob)) for name, blob in sources),
        refined=tuple(shard(r) for r in db.all("shards_refining", cid=cid, limit=20)),
        attestations=evidence,
        waiting_for=waiting_for(queued),
    )
