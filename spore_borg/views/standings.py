"""Where a claim stands, in the words of the pages: verdict, stage, reason, rounds."""

from __future__ import annotations

from typing import Any

from spore_borg.records.envelope import Record
from spore_borg.views import verdicts
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import Claim

WORD = {verdicts.ACCEPTED: "confirmed", verdicts.REFUTED: "refuted", verdicts.VOID: "inconclusive"}


def standing(view: View, record: Record, claim: Claim | None) -> dict[str, Any]:
    """Where an experiment or absorption stands, as the columns verdict, stage, reason, rounds and frontier_why."""
    ack = view.ack.get(record.cid)
    note = view.notes.get(record.cid)
    if claim is None:
        stage = "received" if ack is None else "settled"
        reason = note or "Received and valid; not yet acknowledged by more than half of the rooted trust."
        return {
            "verdict": "unverified", "stage": stage, "reason": reason, "round_ack": ack,
            "round_settled": ack if note else None,
            "settled": int(bool(note) and ack is not None and ack <= view.round_settled),
            "frontier_why": note or "It has no verdict yet.",
        }  # fmt: skip
    verdict = WORD.get(claim.verdict or "", "unverified")
    if claim.verdict is None:
        why = "It has no verdict yet: " + claim.reason
    else:
        why = view.frontier_why.get(record.cid) or f"It is not {_where(record)}: " + claim.reason
    old = claim.round_settled is not None and claim.round_settled <= view.round_settled
    return {
        "verdict": verdict, "stage": claim.stage, "reason": claim.reason, "round_ack": ack,
        "round_settled": claim.round_settled, "settled": int(old), "frontier_why": why,
    }  # fmt: skip


def _where(record: Record) -> str:
    return "on the frontier" if record.kind == "experiment" else "in the state"
