"""The part of ``/record/{cid}`` that only an absorption, refinement or merge has: sources, fidelity, the gate."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from explorer.db import Db
from explorer.pages.attested import Attested, Stand, attested, claim_stands, waiting_for
from explorer.pages.common import TaskBrief, filled, loads_dict, loads_list, task_briefs
from explorer.pages.state import CONFIRMED, PPM, SOLO, Shard, shard
from spore_borg.views import budget

ATTESTATIONS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of the model as it was, and its blob."""

    name: str
    blob: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One of the models that a merge joins; ``shard``: None where the views have no row of it."""

    cid: str
    income: int  # its weight
    share_ppm: int  # of all weights together
    shard: Shard | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a model costs those who verify it, as its author says; whoever verifies counts it again."""

    source_bytes: int
    shard_bytes: int
    ops: int  # of the source, for one item
    takers: str  # one sentence: who is asked to verify it


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
    declared: Declared
    weights: str
    sources: tuple[Source, ...]
    base: str | None  # of a refinement
    refines: Shard | None  # the same with what is known of it
    inputs: tuple[Input, ...]  # of a merge
    replaces: tuple[str, ...]  # of a merge: the members whose place it takes if it joins
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


def _declared(db: Db, row: sqlite3.Row) -> Declared:
    task = db.one("task", cid=row["task"])
    spec = loads_dict(None if task is None else task["body"]).get("spec")
    most = budget.limits(spec if isinstance(spec, dict) else {})
    size, ops = row["source_bytes"] + row["shard_bytes"], row["ops"]
    if budget.too_large(most, size, ops):
        takers = "That is over the limits of this mesh, so it is no claim and nobody verifies it."
    elif budget.free(most, size, ops):
        takers = "That is small: every trusted node may be asked to verify it."
    else:
        takers = (
            "That is much: only nodes whose settings verify_bytes_max and verify_ops_max take it on are asked, "
            "and they must hold half of the others' trust."
        )
    return Declared(source_bytes=row["source_bytes"], shard_bytes=row["shard_bytes"], ops=ops, takers=takers)


def _weights(text: str) -> dict[str, int]:
    """What a merge joins, with the weights, as the views wrote them; entries of another form are left out."""
    rows = [row for row in loads_list(text) if isinstance(row, list) and len(row) == 2]
    return {str(cid): weight for cid, weight in rows if isinstance(weight, int) and weight > 0}


def _inputs(db: Db, weights: dict[str, int]) -> tuple[Input, ...]:
    total = sum(weights.values())
    return tuple(
        Input(cid=cid, income=weight, share_ppm=weight * PPM // total, shard=_shard(db, cid))
        for cid, weight in weights.items()
    )


def _shard(db: Db, cid: str | None) -> Shard | None:
    row = None if cid is None else db.one("shard", cid=cid)
    return None if row is None else shard(row)


def _replaces(db: Db, row: sqlite3.Row) -> tuple[str, ...]:
    """The members that a merge takes the place of: its inputs, and merges of some of them."""
    mine, found = _weights(row["inputs"]).keys(), []
    for cid in (str(one) for one in loads_list(row["state"])) if mine else ():
        member = db.one("shard", cid=cid)
        within = {cid} if member is None else _weights(member["inputs"]).keys() or {cid}
        if within <= mine:
            found.append(cid)
    return tuple(found)


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
        declared=_declared(db, row),
        task=next((task for task in task_briefs(db) if task.cid == row["task"]), None),
        stands=(*claim_stands(row, evidence, received_ms), _last_stand(row)),
        sources=tuple(Source(name=str(name), blob=str(blob)) for name, blob in sources),
        refines=_shard(db, row["base"]),
        inputs=_inputs(db, _weights(row["inputs"])),
        replaces=_replaces(db, row),
        refined=tuple(shard(r) for r in db.all("shards_refining", cid=cid, limit=20)),
        attestations=evidence,
        waiting_for=waiting_for(queued),
    )
