"""``/node/{name}``: one node's hardware, profile (its own words), records, evidence and ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

from explorer.db import Db
from explorer.pages.attested import Attested, attested
from explorer.pages.common import LAST, before_of, frame, loads_dict, rows_of
from explorer.pages.record import Entry
from explorer.pages.reputation import LEDGER_ROWS, Standing, ledger_of, standing
from explorer.values import Page, RecordRow
from spore_borg.errors import NotFound

RECORD_ROWS = 20
EVIDENCE_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePage(Page):
    """One node."""

    name: ClassVar[str] = "node"
    standing: Standing
    me: bool
    device: str
    fingerprint: str
    last_round: int | None
    lag_epochs: int | None
    digest: str | None
    digest_round: int | None
    digest_same: bool | None  # equal to this node's digest of that round; None: not comparable
    profile: dict[str, str]  # its own words, unchecked
    records: tuple[RecordRow, ...]
    evidence: tuple[Attested, ...]
    ledger: tuple[Entry, ...]
    before: int | None


def node(db: Db, name: str, *, before: str | None = None) -> NodePage:
    """Build the page of one node.

    Raises:
        NotFound: no record of it has arrived here.
    """
    row = db.one("node", name=name)
    if row is None:
        raise NotFound(what="node", name=name, hint="No record of that key has arrived at this node.")
    at = frame(db)
    window = db.all("window_records_author", author=name, before=LAST, window=RECORD_ROWS)
    entries, older = ledger_of(db, name, before_of(before), LEDGER_ROWS)
    seen = db.one("round", round=row["digest_round"]) if row["digest_round"] is not None else None
    ours = seen["digest"] if seen is not None else None
    return NodePage(
        frame=at,
        standing=standing(row),
        me=name == at.me,
        device=row["device"],
        fingerprint=row["fingerprint"],
        last_round=row["last_round"],
        lag_epochs=None if at.epoch is None else max(0, at.epoch - row["last_epoch"]),
        digest=row["digest"],
        digest_round=row["digest_round"],
        digest_same=row["digest"] == ours if row["digest"] and ours else None,
        profile=_profile(row["profile"]),
        records=rows_of(db, [r["seq"] for r in window], RECORD_ROWS),
        evidence=tuple(
            attested(a, None)
            for a in db.all("attestations_author", author=name, before=LAST, limit=EVIDENCE_ROWS)
        ),
        ledger=entries,
        before=older,
    )


def _profile(text: str | None) -> dict[str, str]:
    """The profile as texts: JSON of the profile record, or plain words."""
    if not text:
        return {}
    fields = loads_dict(text)
    if not fields:
        return {"profile": text}
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items() if value
    }
