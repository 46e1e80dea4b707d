"""Evidence on a claim, and where the claim stands: the same for experiments and for absorbed models."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from explorer.pages.common import filled, loads_list
from explorer.values import Who

# States of one step of "where it stands".
DONE, NOW, TODO, BAD, SKIPPED = "done", "now", "todo", "bad", "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """One step from arrival to the frontier."""

    name: str
    state: str  # done, now, todo, bad or skipped
    sentence: str


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


def attested(row: sqlite3.Row, fingerprint: str | None) -> Attested:
    """One attestation row as a value."""
    return filled(
        Attested,
        row,
        same_fingerprint=fingerprint is not None and row["fingerprint"] == fingerprint,
        commit=row["commit_cid"],
        reveal=row["reveal_cid"],
    )


def waiting_for(queued: sqlite3.Row | None) -> tuple[str, ...]:
    """The nodes whose evidence a claim waits for; ``queued``: its row of the queue, if it has one."""
    return () if queued is None else tuple(str(name) for name in loads_list(queued["waiting_for"]))


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


def claim_stands(
    row: sqlite3.Row, evidence: tuple[Attested, ...], received_ms: int | None
) -> tuple[Stand, ...]:
    """Where a claim stands, from arrival to its verdict, each step with its state."""
    verdict, stage = row["verdict"], row["stage"]
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
    return tuple(out)
