"""``/record/{cid}``: where one record stands, what it came from, who checked it, and its signed bytes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import ClassVar

from explorer.db import Db
from explorer.pages.body import Signed, signed
from explorer.pages.common import TaskBrief, frame, loads_dict, loads_list, record_row, task_briefs, who
from explorer.values import Page, RecordRow, Who
from spore_borg.errors import NotFound

ANCESTORS_MAX = 260
CHILDREN_MAX = 20
ATTESTATIONS_MAX = 100
LEDGER_MAX = 50
TARGETING_MAX = 20

# States of one step of "where it stands".
DONE, NOW, TODO, BAD, SKIPPED = "done", "now", "todo", "bad", "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """One step from arrival to the frontier."""

    name: str
    state: str  # done, now, todo, bad or skipped
    sentence: str


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
class Attested:
    """One node's evidence on this claim."""

    target: str
    author: Who
    hardware_class: str
    same_fingerprint: bool
    drawn: bool
    jury: bool
    tier: str
    word: str  # pass, fail, waiting, no-show, void
    probe: str
    delta: str | None
    tolerance: str | None
    commit: str | None
    reveal: str | None
    round: int | None
    detail: dict[str, object]  # the opened evidence: blocks [block, recomputed, claimed], segments, …


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
    steps: int
    flops: int
    cpu_ms: int
    params_count: int
    weights: str | None
    fingerprint: str
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
    ledger: tuple[Entry, ...]
    targeting: tuple[RecordRow, ...]  # records that name this one as their target
    signed: Signed | None  # None: the log is not here
    check: tuple[str, ...]  # commands by which anyone can check it


def entry(row: sqlite3.Row) -> Entry:
    """One ledger row as a value."""
    return Entry(
        id=row["id"],
        node=who(row, "node"),
        round=row["round"],
        rule=row["rule"],
        amount=row["amount"],
        total=row["total"],
        cause=row["cause"],
        sentence=row["sentence"],
    )


def attested(row: sqlite3.Row, fingerprint: str | None) -> Attested:
    """One attestation row as a value."""
    return Attested(
        target=row["target"],
        author=who(row),
        hardware_class=row["class"],
        same_fingerprint=fingerprint is not None and row["fingerprint"] == fingerprint,
        drawn=bool(row["drawn"]),
        jury=bool(row["jury"]),
        tier=row["tier"],
        word=row["word"],
        probe=row["probe"],
        delta=row["delta"],
        tolerance=row["tolerance"],
        commit=row["commit_cid"],
        reveal=row["reveal_cid"],
        round=row["round"],
        detail=loads_dict(row["detail"]),
    )


def _relative(row: sqlite3.Row) -> Relative:
    return Relative(
        cid=row["cid"],
        title=row["title"],
        changed=tuple(loads_list(row["changed"])),
        metric=row["metric"],
        gain=row["gain"],
        outcome=row["outcome"],
        verdict=row["verdict"],
        hardware_class=row["class"],
    )


def _changes(text: str) -> tuple[Change, ...]:
    out = []
    for item in loads_list(text):
        if isinstance(item, list) and len(item) == 3:
            out.append(Change(field=str(item[0]), before=item[1], after=item[2]))
    return tuple(out)


def _rerun(row: sqlite3.Row, evidence: tuple[Attested, ...]) -> Stand:
    drawn = [a for a in evidence if a.drawn]
    shown = [a for a in drawn if a.word in {"pass", "fail", "void"}]
    late = [a for a in drawn if a.word == "no-show"]
    stage, verdict = row["stage"], row["verdict"]
    sentence = f"{len(shown)} of {len(drawn)} drawn nodes have shown evidence."
    if late:
        sentence += f" {len(late)} did not show up."
    if stage == "dispute":
        return Stand(name="rerun", state=NOW, sentence=f"{sentence} A jury now recomputes what is disputed.")
    if stage in {"drawn", "committed", "opened", "revealed"}:
        doing = {
            "drawn": "They recompute now.",
            "committed": "They have committed to their evidence; the author is to open its own.",
            "opened": "The author has opened its evidence; theirs is to be revealed.",
            "revealed": "All evidence is in; it settles with the next round.",
        }[stage]
        return Stand(name="rerun", state=NOW, sentence=f"{sentence} {doing}")
    if drawn:
        return Stand(name="rerun", state=DONE, sentence=sentence)
    if stage == "settled":
        word = "Decided without a draw." if verdict != "unverified" else "Nobody was drawn."
        return Stand(name="rerun", state=SKIPPED, sentence=word)
    return Stand(
        name="rerun", state=TODO, sentence="Verifiers are drawn by chance after the acknowledgement."
    )


def stands(row: sqlite3.Row, evidence: tuple[Attested, ...], received_ms: int | None) -> tuple[Stand, ...]:
    """Where an experiment stands, from arrival to the frontier, each step with its state."""
    verdict, stage, frontier = row["verdict"], row["stage"], row["frontier"]
    crashed = row["outcome"] == "crashed"
    out = [
        Stand(name="received", state=DONE, sentence="" if received_ms is None else "Arrived at this node."),
        Stand(name="valid", state=DONE, sentence="Size, canonical form, shape, signature and ancestry hold."),
    ]
    if row["round_ack"] is not None:
        out.append(Stand(name="acknowledged", state=DONE, sentence=f"In round {row['round_ack']}."))
    else:
        sentence = "Waits until the seals of more than half of the trust have it in their past."
        out.append(Stand(name="acknowledged", state=TODO if stage == "settled" else NOW, sentence=sentence))
    if crashed:
        out.append(
            Stand(name="rerun", state=SKIPPED, sentence="A crash claims nothing that could be verified.")
        )
        return tuple(out)
    out.append(_rerun(row, evidence))
    if verdict == "unverified":
        state = NOW if stage in {"revealed", "dispute"} else TODO
        out.append(Stand(name="verdict", state=state, sentence="None yet: only its author vouches for it."))
    else:
        settled = "" if row["settled"] else " Young: it may still change."
        state = {"confirmed": DONE, "refuted": BAD}.get(verdict, SKIPPED)
        at = f"Round {row['round_settled']}." if row["round_settled"] is not None else ""
        out.append(Stand(name=f"verdict: {verdict}", state=state, sentence=f"{at}{settled}".strip()))
    name = {1: "in the frontier", 2: "was in the frontier"}.get(frontier, "frontier")
    if frontier:
        state = DONE
    else:
        state = TODO if verdict == "unverified" else SKIPPED
    out.append(Stand(name=name, state=state, sentence=row["frontier_why"]))
    return tuple(out)


def _failed(row: sqlite3.Row | None) -> Failed | None:
    if row is None:
        return None
    return Failed(signature=row["signature"], runs=row["runs"], fixed_by=row["fixed_by"])


def _experiment(db: Db, row: sqlite3.Row, received_ms: int | None) -> Experiment:
    cid = row["cid"]
    found = db.all("attestations_target", cid=cid, limit=ATTESTATIONS_MAX)
    evidence = tuple(attested(a, row["fingerprint"]) for a in found)
    lineage = [_relative(r) for r in db.all("lineage", cid=cid, limit=ANCESTORS_MAX)]
    children = [_relative(r) for r in db.all("children", cid=cid, limit=CHILDREN_MAX + 1)]
    queued = db.one("queue_claim", claim=cid)
    best = db.one("frontier_last", **{"task": row["task"], "class": row["class"]})
    curve = [value for value in loads_list(row["curve"]) if isinstance(value, int)]
    return Experiment(
        task=next((task for task in task_briefs(db) if task.cid == row["task"]), None),
        stands=stands(row, evidence, received_ms),
        reason=row["reason"],
        frontier=row["frontier"],
        frontier_why=row["frontier_why"],
        base=row["base"],
        base2=row["base2"],
        best=None if best is None else best["cid"],
        depth=row["depth"],
        operator=row["operator"],
        why=row["why"],
        changed=_changes(row["changed"]),
        recipe=loads_dict(row["recipe"]),
        recipe_digest=row["recipe_digest"],
        seed=row["seed"],
        steps=row["steps"],
        flops=row["flops"],
        cpu_ms=row["cpu_ms"],
        params_count=row["params_count"],
        weights=row["weights"],
        fingerprint=row["fingerprint"],
        curve=tuple(curve),
        error=row["error"],
        failure=_failed(db.one("failure_of", cid=cid)) if row["outcome"] == "crashed" else None,
        lineage=tuple(lineage),
        lineage_cut=len(lineage) > ANCESTORS_MAX,
        children=tuple(children[:CHILDREN_MAX]),
        children_cut=len(children) > CHILDREN_MAX,
        attestations=evidence,
        waiting_for=tuple(str(n) for n in loads_list(queued["waiting_for"])) if queued is not None else (),
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
    evidence = () if experiment is None else experiment.attestations
    causes = [cid, *(a.reveal for a in evidence if a.reveal)]
    return RecordPage(
        frame=frame(db),
        record=row,
        experiment=experiment,
        ledger=tuple(entry(r) for r in db.all("ledger_causes", causes=json.dumps(causes), limit=LEDGER_MAX)),
        targeting=tuple(record_row(r) for r in db.all("rows_targeting", cid=cid, limit=TARGETING_MAX)),
        signed=raw,
        check=_commands(row, experiment),
    )
