"""Rows that no page shows whole and an export does: every experiment, frontier step, piece of evidence and round.

Each piece goes on by key and is bounded; the SQL is in :mod:`explorer.export_queries`.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from explorer.db import Db
from explorer.pages.attested import Attested, attested
from explorer.pages.common import before_of, filled
from explorer.values import Who

Rows = tuple[tuple[object, ...], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One experiment with all that its record and the others say of it."""

    seq: int
    cid: str
    title: str
    task: str  # a task's id
    hardware_class: str
    author: Who
    epoch: int
    base: str | None
    base2: str | None
    depth: int
    operator: str
    why: str
    recipe: dict[str, object]
    recipe_digest: str
    changed: tuple[object, ...]  # [field, before, after] against the base
    seed: str
    intent: str | None  # that declared the run
    witnesses: int | None  # seals that the seed is mixed of; None while that is not checked
    metric: int | None  # nano-units of the task's unit
    gain: int | None
    steps: int
    flops: int
    cpu_ms: int
    params_count: int
    weights: str | None
    fingerprint: str
    curve: tuple[int, ...]  # train loss, micro-nats, evenly spaced over the steps
    outcome: str  # the author's word
    verdict: str  # the others' word
    stage: str
    reason: str
    round_ack: int | None
    round_settled: int | None
    settled: bool
    frontier: int  # 1: the best now, 2: once was
    frontier_why: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierStep:
    """One step of one frontier."""

    task: str
    hardware_class: str
    step: int
    cid: str
    seq: int
    recipe_digest: str
    metric: int
    runs: int  # the mean is over so many
    gain: int | None
    threshold: int
    round: int
    author: Who
    verdicts: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """One round. Trust in 2^-20."""

    round: int
    epoch: int
    seals: int
    trust: int
    trust_total: int
    acknowledged: int
    digest: str


def _older(rows: list[sqlite3.Row], column: str, limit: int) -> str | None:
    return str(rows[-1][column]) if len(rows) == limit else None


def runs(db: Db, key: str | None, limit: int) -> tuple[tuple[Run, ...], str | None]:
    """Experiments, newest first, and the key of the next piece."""
    rows = db.all("export_runs", before=before_of(key), limit=limit)
    return tuple(filled(Run, row) for row in rows), _older(rows, "seq", limit)


def steps(db: Db, key: str | None, limit: int) -> Rows:
    """Frontier steps by task, class and step. The key is ``STEP TASK CLASS``: a class may hold spaces."""
    step, task, class_ = (key or "-1  ").split(" ", 2)
    rows = db.all("export_steps", **{"task": task, "class": class_}, step=int(step), limit=limit)
    last = rows[-1] if len(rows) == limit else None
    older = None if last is None else f"{last['step']} {last['task']} {last['class']}"
    return tuple(filled(FrontierStep, row) for row in rows), older


def evidence(db: Db, key: str | None, limit: int) -> tuple[tuple[Attested, ...], str | None]:
    """Pieces of evidence, newest first."""
    rows = db.all("export_evidence", before=before_of(key), limit=limit)
    return tuple(attested(row, None) for row in rows), _older(rows, "id", limit)


def rounds(db: Db, key: str | None, limit: int) -> Rows:
    """Rounds, newest first."""
    rows = db.all("export_rounds", before=before_of(key), limit=limit)
    return tuple(filled(RoundRow, row) for row in rows), _older(rows, "round", limit)
