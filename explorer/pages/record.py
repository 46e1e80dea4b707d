"""``/record/{cid}``: where one record stands, what it came from, who checked it, and its signed bytes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import ClassVar

from explorer.db import Db
from explorer.pages.absorption import Absorption, absorption
from explorer.pages.attested import DONE, SKIPPED, TODO, Attested, Stand, attested, claim_stands, waiting_for
from explorer.pages.body import Signed, signed
from explorer.pages.common import TaskBrief, filled, frame, loads_dict, loads_list, record_row, task_briefs
from explorer.pages.reading import Reading, reading
from explorer.values import Page, RecordRow, Who
from spore_borg.errors import NotFound

ANCESTORS_MAX = 260
CHILDREN_MAX = 20
ATTESTATIONS_MAX = 100
LEDGER_MAX = 50
TARGETING_MAX = 20
ABSORBED = ("absorption", "refinement", "merge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """An ancestor or child."""

    cid: str
    title: str
    changed: tuple[object, ...]
    metric: int | None
    gain: int | None
    outcome: str
    verdict: str
    hardware_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field of the recipe against the base: None where a side lacks it."""

    field: str
    before: object
    after: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One ledger entry."""

    id: int
    node: Who
    round: int
    rule: str
    amount: int  # 2^-20
    total: int
    cause: str | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The failure signature of a crashed run."""

    signature: str
    runs: int
    fixed_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What only an experiment has."""

    task: TaskBrief | None
    stands: tuple[Stand, ...]
    reason: str
    frontier: int
    frontier_why: str
    base: str | None
    base2: str | None
    best: str | None  # the best of its task and class
    depth: int
    operator: str
    why: str
    changed: tuple[Change, ...]
    recipe: dict[str, object]
    recipe_digest: str
    seed: str
    intent: str | None  # that declared the run before it had a seed
    witnesses: int | None  # seals that the seed is mixed of; None while that is not checked
    steps: int
    flops: int
    cpu_ms: int
    params_count: int
    weights: str | None
    fingerprint: str
    reading: Reading | None  # of a lattice, where its file is here
    curve: tuple[int, ...]  # train loss, micro-nats, evenly spaced over the steps
    error: str | None
    failure: Failed | None  # what other runs crashed in the same way
    lineage: tuple[Relative, ...]  # this record first, then its base, and so on
    lineage_cut: bool
    children: tuple[Relative, ...]
    children_cut: bool
    attestations: tuple[Attested, ...]
    waiting_for: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPage(Page):
    """One record of any kind."""

    name: ClassVar[str] = "record"
    record: RecordRow
    experiment: Experiment | None
    absorption: Absorption | None  # also of a refinement or merge
    ledger: tuple[Entry, ...]
    targeting: tuple[RecordRow, ...]  # records that name this one as their target
    signed: Signed | None  # None: the log is not here
    check: tuple[str, ...]  # commands by which anyone can check it


def entry(row: sqlite3.Row) -> Entry:
    """One ledger row as a value."""
    return filled(Entry, row)


def _changes(text: str) -> tuple[Change, ...]:
    out = []
    for item in loads_list(text):
        if isinstance(item, list) and len(item) == 3:
            out.append(Change(field=str(item[0]), before=item[1], after=item[2]))
    return tuple(out)


def stands(row: sqlite3.Row, evidence: tuple[Attested, ...], received_ms: int | None) -> tuple[Stand, ...]:
    """Where an experiment stands, from arrival to the frontier, each step with its state."""
    out = claim_stands(row, evidence, received_ms)
    if row["outcome"] == "crashed":
        return out
    name = {1: "in the frontier", 2: "was in the frontier"}.get(row["frontier"], "frontier")
    if row["frontier"]:
        state = DONE
    else:
        state = TODO if row["verdict"] == "unverified" else SKIPPED
    return (*out, Stand(name=name, state=state, sentence=row["frontier_why"]))


def _experiment(db: Db, row: sqlite3.Row, received_ms: int | None) -> Experiment:
    cid = row["cid"]
    found = db.all("attestations_target", cid=cid, limit=ATTESTATIONS_MAX)
    evidence = tuple(attested(a, row["fingerprint"]) for a in found)
    lineage = [filled(Relative, r) for r in db.all("lineage", cid=cid, limit=ANCESTORS_MAX)]
    children = [filled(Relative, r) for r in db.all("children", cid=cid, limit=CHILDREN_MAX + 1)]
    queued = db.one("queue_claim", claim=cid)
    best = db.one("frontier_last", **{"task": row["task"], "class": row["class"]})
    failed = db.one("failure_of", cid=cid) if row["outcome"] == "crashed" else None
    return filled(
        Experiment,
        row,
        task=next((task for task in task_briefs(db) if task.cid == row["task"]), None),
        stands=stands(row, evidence, received_ms),
        best=None if best is None else best["cid"],
        changed=_changes(row["changed"]),
        failure=None if failed is None else filled(Failed, failed),
        lineage=tuple(lineage),
        lineage_cut=len(lineage) > ANCESTORS_MAX,
        children=tuple(children[:CHILDREN_MAX]),
        children_cut=len(children) > CHILDREN_MAX,
        attestations=evidence,
        waiting_for=waiting_for(queued),
        reading=reading(db.home, row["weights"], loads_dict(row["recipe"])),
    )


def _commands(row: RecordRow, experiment: Experiment | None) -> tuple[str, ...]:
    out = [f"borg show {row.cid}"]
    if experiment is not None:
        if experiment.base:
            out.append(f"borg diff {experiment.base} {row.cid}")
        if experiment.frontier == 1:
            out += ["borg frontier --fetch DIR", "borg verify DIR"]
    return tuple(out)


def record(db: Db, cid: str) -> RecordPage:
    """Build the page of one record.

    Raises:
        NotFound: this node does not hold it.
    """
    found = db.one("record", cid=cid)
    if found is None:
        hint = "This node does not hold it: its id may be mistyped, or it has not arrived yet."
        raise NotFound(what="record", name=cid, hint=hint)
    row = record_row(found)
    raw = signed(db, cid)
    detail = db.one("experiment", cid=cid) if row.kind == "experiment" else None
    experiment = None if detail is None else _experiment(db, detail, raw.received_ms if raw else None)
    absorbed = absorption(db, cid, raw.received_ms if raw else None) if row.kind in ABSORBED else None
    claim = experiment or absorbed
    evidence = () if claim is None else claim.attestations
    causes = [cid, *(a.reveal for a in evidence if a.reveal)]
    return RecordPage(
        frame=frame(db),
        record=row,
        experiment=experiment,
        absorption=absorbed,
        ledger=tuple(entry(r) for r in db.all("ledger_causes", causes=json.dumps(causes), limit=LEDGER_MAX)),
        targeting=tuple(record_row(r) for r in db.all("rows_targeting", cid=cid, limit=TARGETING_MAX)),
        signed=raw,
        check=_commands(row, experiment),
    )
