"""``/verify``: what waits for evidence and why in that order, what runs, what was just judged."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import ClassVar

from explorer import show
from explorer.db import Db
from explorer.pages.common import LAST, filled, frame, live_values, loads_dict
from explorer.values import Page, Who
from spore_borg.errors import UsageError

PAGE_ROWS = 50
JUDGED_ROWS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One claim in the queue."""

    claim: str
    target: str
    title: str
    changed: tuple[object, ...]
    author: Who
    hardware_class: str
    stage: str
    priority: int
    parts: dict[str, int]  # points by part; their sum is the priority
    drawn: tuple[str, ...]
    waiting_for: tuple[str, ...]
    round_deadline: int | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One claim with a verdict. ``metric``: of the task; of an absorbed model its infidelity, nano-(1 − cosine)."""

    seq: int
    kind: str  # experiment, absorption or refinement
    cid: str
    title: str
    changed: tuple[object, ...]
    author: Who
    hardware_class: str
    metric: int | None
    gain: int | None
    outcome: str
    verdict: str
    reason: str
    round_settled: int | None
    settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyPage(Page):
    """The verification queue. ``after`` is the key of the next page; None at the end."""

    name: ClassVar[str] = "verify"
    live: ClassVar[tuple[str, ...]] = ("view", "live")
    waiting: tuple[Waiting, ...]
    after: str | None
    first: bool
    running: dict[str, object]  # what this node verifies just now, as it says
    judged: tuple[Judged, ...]


def _waiting(row: sqlite3.Row) -> Waiting:
    parts = {key: value for key, value in loads_dict(row["parts"]).items() if isinstance(value, int)}
    return filled(Waiting, row, title=row["title"] or "", parts=parts)


def judged(db: Db, limit: int = JUDGED_ROWS) -> tuple[Judged, ...]:
    """The newest experiments and absorbed models that have a verdict, newest first."""
    found = [
        filled(Judged, row, kind="experiment")
        for verdict in show.VERDICTS
        if verdict != "unverified"
        for row in db.all("judged", verdict=verdict, limit=limit)
    ]
    for row in db.all("shards", before=LAST, limit=limit):
        if row["verdict"] not in {"", "unverified"}:
            verb = "Refines" if row["kind"] == "refinement" else "Absorbs"
            found.append(filled(Judged, row, title=f"{verb} {row['name']}", changed=(), gain=None))
    return tuple(sorted(found, key=lambda one: -one.seq)[:limit])


def verify(db: Db, *, after: str | None = None) -> VerifyPage:
    """Build the verification page.

    Args:
        after: ``PRIORITY.CLAIM`` of the last row of the page before.
    Raises:
        UsageError: ``after`` is not such a key.
    """
    if after:
        priority, _, claim = after.partition(".")
        if not (
            priority.lstrip("-").isdigit()
            and priority.isascii()
            and len(priority) < 19
            and show.is_cid(claim)
        ):
            raise UsageError(
                detail="?after= must be PRIORITY.CLAIM, as the link at the end of a page gives it."
            )
        rows = db.all("queue_after", priority=int(priority), claim=claim, limit=PAGE_ROWS + 1)
    else:
        rows = db.all("queue_first", limit=PAGE_ROWS + 1)
    more = len(rows) > PAGE_ROWS
    waiting = tuple(_waiting(row) for row in rows[:PAGE_ROWS])
    run = live_values(db).get("verify")
    busy = run if isinstance(run, dict) and run.get("what", True) else {}
    return VerifyPage(
        frame=frame(db),
        waiting=waiting,
        after=f"{waiting[-1].priority}.{waiting[-1].claim}" if more else None,
        first=not after,
        running={key: value for key, value in busy.items() if key != "waiting"},
        judged=judged(db),
    )
