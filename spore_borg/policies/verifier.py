"""What this node owes the mesh now: probes, openings, reveals, jury service, announcements.

Pure: reads a view, returns duties in the order of their urgency.
Source: PROTOCOL §4; spec/40-verification.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from spore_borg.limits import REANNOUNCEMENTS_MAX
from spore_borg.records.bodies import Absorption
from spore_borg.records.cid import Cid
from spore_borg.views import budget, verdicts
from spore_borg.views import evidence as ev
from spore_borg.views.draw import Probe
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import Claim

NOTHING = Probe((), ())


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to do on one claim.

    Attributes:
        what: open, trace, states, reveal, jury, probe, shadow or announce.
        claim: the record that asked for verification; experiment: what is verified.
        probe: for probe, shadow and jury: what to recompute.
        named: for trace, states and jury: what the dispute is about.
        steps: for jury and states: the single steps that are recomputed, instead of a probe.
    """

    what: str
    claim: Cid
    experiment: Cid
    probe: Probe = NOTHING
    named: ev.Named | None = None
    steps: tuple[int, ...] = ()


ORDER = ("open", "trace", "states", "reveal", "jury", "probe", "announce", "shadow")


def duties(view: View, me: bytes) -> list[Duty]:
    """All that this node may or must do, most urgent first, then oldest first."""
    trusted = view.ledger.trust
    found = [
        duty for claim in view.pending for duty in _on_claim(claim, me, budget.judges(view, claim, trusted))
    ]
    found += [
        Duty("announce", c.target.cid, c.target.cid) for c in view.claims.values() if _again(view, c, me)
    ]
    return sorted(found, key=lambda duty: (ORDER.index(duty.what), view.ack.get(duty.claim, 0), duty.claim))


def _on_claim(claim: Claim, me: bytes, trusted: dict[bytes, int]) -> list[Duty]:
    if claim.stage == "dispute" and claim.phase != "jury":
        return _show(claim, me)
    if claim.author == me:
        mine = any(at > claim.round_stage for at, _ in claim.openings)  # an earlier one does not count
        return [Duty("open", claim.cid, claim.target.cid)] if claim.stage == "committed" and not mine else []
    if claim.stage == "dispute" and claim.named is not None:
        return _jury(claim, me, trusted)
    if claim.stage == "opened":
        item = claim.evidence.get(me)
        listed = (
            claim.opening is not None and item is not None and item.commit.cid in claim.opening.body.commits
        )
        if listed and item is not None and item.reveal is None:
            return [Duty("reveal", claim.cid, claim.target.cid)]
    if claim.stage == "drawn" and me not in claim.evidence:
        if me in claim.probes:
            return [Duty("probe", claim.cid, claim.target.cid, claim.probes[me])]
        if me in claim.shadows and not trusted.get(me):
            return [Duty("shadow", claim.cid, claim.target.cid, claim.shadows[me])]
    return []


def _show(claim: Claim, me: bytes) -> list[Duty]:
    """Before a one-step jury: author and accusers tell every state, then the author publishes some of them."""
    if claim.phase == "trace" and me in claim.tracers() and me not in claim.traces:
        return [Duty("trace", claim.cid, claim.target.cid, named=claim.named)]
    if claim.phase == "states" and me == claim.author and claim.states is None:
        return [Duty("states", claim.cid, claim.target.cid, named=claim.named, steps=claim.steps)]
    return []


def _jury(claim: Claim, me: bytes, trusted: dict[bytes, int]) -> list[Duty]:
    assert claim.named is not None, "checked by the caller"
    if claim.has_named(me) or not trusted.get(me):
        return []
    if me in claim.jury:
        return [Duty("reveal", claim.cid, claim.target.cid, named=claim.named)]
    if claim.steps:
        return [Duty("jury", claim.cid, claim.target.cid, named=claim.named, steps=claim.steps)]
    tier, number = claim.named
    if tier == ev.REPLAY:
        if me not in claim.twins:
            return []
        probe = Probe((), ((number, 1),))
    else:
        probe = Probe((number,) if tier == ev.OUTCOME else (0,), ())
    return [Duty("jury", claim.cid, claim.target.cid, probe, claim.named)]


def _again(view: View, claim: Claim, me: bytes) -> bool:
    """Whether an own claim without a verdict should be announced again: somebody awake can verify it now."""
    if claim.author != me or claim.announced >= REANNOUNCEMENTS_MAX or claim.target.body.metric is None:
        return False
    if claim.verdict not in (verdicts.VOID, verdicts.SOLO) or claim.round_settled is None:
        return False
    trusted = {who: trust for who, trust in view.ledger.trust.items() if who != me}
    able = budget.able(view, claim, trusted)
    if not any(map(view.is_live, able)) or not budget.enough(trusted, trusted, able):
        return False
    if view.round - claim.round_settled < 1 << min(claim.announced, 6):
        return False
    return claim.verdict == verdicts.VOID or matters(view, claim)


def matters(view: View, claim: Claim) -> bool:
    """Whether a solo result is worth verifying now: a step of the solo frontier, or a member of the solo state."""
    if isinstance(claim.body, Absorption):
        return claim.target.cid in view.bank_solo.members()
    frontier = view.solo.get((claim.target.body.task, claim.body.family))
    return frontier is not None and any(step.cid == claim.target.cid for step in frontier.steps)
