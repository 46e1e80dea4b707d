"""``/reputation``: who has how much trust, and the ledger that says why, entry by entry."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import ClassVar

from explorer import show
from explorer.db import Db
from explorer.pages.common import LAST, before_of, filled, frame, leaders_rows, who
from explorer.pages.record import Entry, entry
from explorer.values import Page, Who
from spore_borg.errors import UsageError

LEADERS_ROWS = 50
LEDGER_ROWS = 40
DEAD_ROWS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One node on the leaderboard. Trust and score are in 2^-20."""

    node: Who
    hardware_class: str
    role: str
    root: bool
    score: int
    frauds: int
    trust: int
    influence_ppm: int
    banned: bool
    banned_cause: str | None
    records: int
    experiments: int
    attestations: int
    intents: int  # declared runs
    lapsed: int  # those that led to no experiment within their lease
    last_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReputationPage(Page):
    """The leaderboard and the ledger. ``before`` and ``after`` are the keys of their next pages."""

    name: ClassVar[str] = "reputation"
    leaders: tuple[Standing, ...]
    after: str | None
    dead: tuple[Standing, ...]
    node: str | None  # the ledger is this node's only
    ledger: tuple[Entry, ...]
    before: int | None
    first: bool


def standing(row: sqlite3.Row) -> Standing:
    """One node row as a value."""
    return filled(Standing, row, node=who(row, "name"))


def ledger_of(db: Db, node: str | None, before: int, limit: int) -> tuple[tuple[Entry, ...], int | None]:
    """One page of the ledger, newest first, and the key of the next."""
    if node:
        rows = db.all("ledger_node", node=node, before=before, limit=limit + 1)
    else:
        rows = db.all("ledger", before=before, limit=limit + 1)
    entries = tuple(entry(row) for row in rows[:limit])
    return entries, entries[-1].id if len(rows) > limit else None


def reputation(
    db: Db, *, node: str | None = None, before: str | None = None, after: str | None = None
) -> ReputationPage:
    """Build the reputation page.

    Args:
        node: only this node's ledger. before: ledger key. after: leaderboard key ``TRUST.NAME``.
    Raises:
        UsageError: a key that no page gives.
    """
    if node and not show.is_node(node):
        raise UsageError(detail="?node= must be a node's name, as in the address of its page.")
    key = before_of(before)
    rows = leaders_rows(db, after, LEADERS_ROWS + 1)
    leaders = tuple(standing(row) for row in rows[:LEADERS_ROWS])
    entries, older = ledger_of(db, node, key, LEDGER_ROWS)
    last = leaders[-1] if leaders else None
    return ReputationPage(
        frame=frame(db),
        leaders=tuple(s for s in leaders if not s.banned),
        after=f"{last.trust}.{last.node.name}" if last is not None and len(rows) > LEADERS_ROWS else None,
        dead=tuple(standing(row) for row in db.all("banned", limit=DEAD_ROWS)),
        node=node,
        ledger=entries,
        before=older,
        first=key == LAST and not after,
    )
